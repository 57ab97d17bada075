"""Data are measured one episode at a time, and what is wrong with them is said with what to do."""

import re
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_llmdpd.data.episode_source import EpisodeSource, Record, Refused
from sb3_llmdpd.data.episode_source import Reading as HowToRead
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.minari import MinariSource
from sb3_llmdpd.data.minari_writer import write_minari
from sb3_llmdpd.inspection.findings import findings
from sb3_llmdpd.inspection.numbers import Inspection
from sb3_llmdpd.inspection.page import page
from sb3_llmdpd.inspection.reading import inspect_sources

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
TEXTS = {"open": "open the drawer", "close": "shut the window"}


class Recorded(EpisodeSource):
    """Episodes that a test has made."""

    kind = "recorded"

    def __init__(self, records, name="lab/b-v0", observation_space=BOX, action_space=ACTIONS):
        super().__init__(name, observation_space, action_space, HowToRead())
        self._records = records

    def files(self) -> Sequence[Path]:
        return ()

    def records(self) -> Iterator[Record]:
        for number, record in enumerate(self._records):
            yield {"source": f"{self.name}, episode {number}", **record}


class BrokenOff(Recorded):
    """A source whose second half cannot be read."""

    def records(self) -> Iterator[Record]:
        yield from super().records()
        raise ValueError("lab/b-v0, episode 4: the files are damaged")


class Vectors:
    """A text encoder that knows a few sentences, by vectors of length 2."""

    name = "vectors"
    dim = 2

    def __init__(self, vectors: dict[str, tuple[float, float]]) -> None:
        self._vectors = vectors

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self._vectors[text] for text in texts], np.float32)


class NotInstalled(Vectors):
    """A text encoder that finds out at its first use that it is not there."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        raise ImportError("Install it: pip install 'sb3-llmdpd[text]'")


def record(seed: int, task: str = "open", n_steps: int = 10, **changes: Any) -> Record:
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.normal(size=(n_steps + 1, 3)),
        "actions": rng.uniform(-0.9, 0.9, (n_steps, 2)),
        "rewards": np.full(n_steps, 1.0 + seed),
        "task": task,
        "task_texts": (TEXTS[task],) if task in TEXTS else (),
        **changes,
    }


def two_tasks(**changes: Any) -> list[Record]:
    """Two sound episodes of each of two tasks; the changes are those of the first episode."""
    return [record(0, **changes), record(1), record(2, "close"), record(3, "close")]


def inspected(records: Sequence[Record], encoder: Any = None, **kwargs: Any) -> Inspection:
    return inspect_sources([Recorded(records, **kwargs)], encoder)


def found(inspection: Inspection) -> dict[str, str]:
    """The sentences by what they are about."""
    return {finding.kind: finding.sentence for finding in findings(inspection)}


def details(inspection: Inspection, kind: str) -> tuple[str, ...]:
    return next(finding.details for finding in findings(inspection) if finding.kind == kind)


def assert_found(inspection: Inspection, kind: str, beginning: str) -> None:
    assert found(inspection)[kind].startswith(beginning)


def test_sound_data_have_nothing_to_mend() -> None:
    inspection = inspected(two_tasks())
    assert findings(inspection) == ()
    assert "\nNothing to mend.\n" in page(inspection)


def test_a_task_has_the_numbers_of_its_episodes() -> None:
    records = [record(0, n_steps=4, success=True), record(1, n_steps=6, success=False), record(2, "close")]
    first, second = inspected(records).tasks
    assert (first.name, first.n_episodes, first.n_steps, first.success_rate) == ("open", 2, 10, 0.5)
    assert (first.lowest_return, first.mean_return, first.highest_return) == (4.0, 8.0, 12.0)
    assert (second.name, second.success_rate, second.texts) == ("close", None, ("shut the window",))


def test_entries_have_the_numbers_of_all_steps_together() -> None:
    records = two_tasks()
    inspection = inspected(records)
    for entries, name in ((inspection.observations, "observations"), (inspection.actions, "actions")):
        rows = np.concatenate([np.asarray(record[name], np.float32) for record in records]).astype(np.float64)
        measured = np.array([(entry.low, entry.mean, entry.high, entry.deviation) for entry in entries])
        expected = np.stack([rows.min(0), rows.mean(0), rows.max(0), rows.std(0)], axis=1)
        np.testing.assert_allclose(measured, expected, rtol=1e-12)


def test_a_mean_far_from_zero_does_not_cost_the_deviation_its_digits() -> None:
    steps = np.tile([[30_000.0], [30_001.0]], (6, 3))[:11]
    entry = inspected([record(number, observations=steps) for number in range(4)]).observations[0]
    assert entry.deviation == pytest.approx(np.std(steps[:, 0]), rel=1e-9)


def test_entries_are_named_by_their_place_and_images_by_their_brightness() -> None:
    camera = spaces.Box(0, 255, (2, 2, 3), np.uint8)
    space = spaces.Dict({"state": BOX, "camera": camera, "mode": spaces.Discrete(3)})
    observations = {
        "state": np.zeros((3, 3)),
        "camera": np.stack([np.full((2, 2, 3), value, np.uint8) for value in (0, 51, 255)]),
        "mode": np.array([0, 1, 2]),
    }
    inspection = inspected([record(0, n_steps=2, observations=observations)], observation_space=space)
    ranges = {entry.name: (entry.low, entry.high) for entry in inspection.observations}
    still = {f"state[{index}]": (0, 0) for index in range(3)}
    assert ranges == {"camera: brightness": (0, 1), "mode": (0, 2), **still}


def test_one_episode_is_in_memory_at_a_time() -> None:
    class Watched(Recorded):
        """Counts its episodes that are still somewhere."""

        most = 0

        def episodes(self, refused: Refused | None = None) -> Iterator[Episode]:
            alive: weakref.WeakSet[Episode] = weakref.WeakSet()
            for entry in self.records():
                episode = Episode(**entry)
                alive.add(episode)
                yield episode
                del episode
                self.most = max(self.most, len(alive))

    source = Watched([record(number) for number in range(5)])
    assert len(inspect_sources([source]).episodes) == 5
    assert source.most <= 1


def test_reading_does_not_warn() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inspected(two_tasks(actions=np.full((10, 2), 3.0)))
    assert caught == []


def test_a_bad_episode_is_counted_and_stops_nothing() -> None:
    observations = np.zeros((11, 3))
    observations[4, 1] = np.nan
    inspection = inspected([*two_tasks(observations=observations), record(9, rewards=np.zeros(3))])
    assert len(inspection.episodes) == 3
    stops = "2 of 5 episodes cannot be read, and training stops at the first of them"
    assert_found(inspection, "refused", stops)
    first, second = details(inspection, "refused")
    nan = "`observations` holds 1 NaN or infinite values, the first at step 4"
    assert first.startswith(f"lab/b-v0, episode 0: {nan}")
    assert second.startswith("lab/b-v0, episode 4: `rewards` must be (T,)")


def test_of_many_bad_episodes_the_first_are_shown_and_the_others_counted() -> None:
    bad = [record(number, rewards=np.zeros(3)) for number in range(4, 11)]
    *shown, last = details(inspected([*two_tasks(), *bad]), "refused")
    assert (len(shown), last) == (5, "and 2 more")


def test_a_source_that_breaks_off_keeps_what_came_before() -> None:
    inspection = inspect_sources([BrokenOff(two_tasks()), Recorded(two_tasks()[:2], "lab/c-v0")])
    assert [source.n_episodes for source in inspection.sources] == [4, 2]
    assert "1 source cannot be read to the end" in found(inspection)["broken off"]
    assert details(inspection, "broken off") == ("lab/b-v0, episode 4: the files are damaged",)


def test_sources_that_cannot_be_opened_come_first() -> None:
    inspection = inspect_sources([Recorded(two_tasks())], unopened=["lab/x-v0: the files are damaged"])
    assert findings(inspection)[0].kind == "unopened"
    assert details(inspection, "unopened") == ("lab/x-v0: the files are damaged",)


@pytest.mark.parametrize(
    ("n_bad", "message"),
    [
        (1, r"^not one episode can be read: lab/b-v0, episode 0: `rewards` .* shape \(3,\)$"),
        (3, r"\(and 2 more such sentences\)$"),
        (0, "lab/b-v0: the data hold no episode"),
    ],
)
def test_data_of_which_nothing_can_be_read_are_refused_with_a_reason(n_bad: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspected([record(0, rewards=np.zeros(3))] * n_bad)


@pytest.mark.parametrize(
    ("unopened", "reason"),
    [(["not there", "damaged"], "none can be opened: not there; damaged"), ([], "give at least one")],
)
def test_no_source_is_refused_with_the_reasons(unopened: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=f"no source to inspect; {reason}"):
        inspect_sources([], unopened=unopened)


def test_sources_of_other_spaces_are_refused_by_both_names() -> None:
    other = Recorded(two_tasks(), "lab/c-v0", action_space=spaces.Box(-2.0, 2.0, (2,), np.float32))
    with pytest.raises(ValueError, match=r"share their action space: lab/b-v0 has .*, lab/c-v0 has"):
        inspect_sources([Recorded(two_tasks()), other])


def outside(n_outside: int) -> list[Record]:
    """Two tasks of 100 steps, some of whose actions leave the action space."""
    actions = np.random.default_rng(0).uniform(-0.9, 0.9, (70, 2))
    actions[:n_outside] = 3.0
    return two_tasks(n_steps=70, actions=actions)


def test_clipped_actions_are_a_finding_in_the_words_of_the_source() -> None:
    words = "lab/b-v0: 2 of 100 actions lie outside the action space [-1, 1], by up to 2, and were clipped"
    assert_found(inspected(outside(2)), "warning", words)


def test_actions_of_which_training_refuses_so_many_are_a_finding_too() -> None:
    words = "lab/b-v0: 3 of 100 actions lie outside the action space [-1, 1], by up to 2: these are probably"
    assert_found(inspected(outside(3)), "warning", words)


def test_many_warnings_are_one_finding() -> None:
    sources = [Recorded(outside(2), f"lab/{letter}-v0") for letter in "bcdefgh"]
    inspection = inspect_sources(sources)
    assert found(inspection)["warning"] == "Reading gave 7 warnings, each of which says what to do."
    assert details(inspection, "warning")[-1] == "and 2 more"
    assert details(inspection, "warning")[0].startswith("lab/b-v0: 2 of 100 actions lie outside")


def test_steps_that_are_left_out_are_counted():
    records = [*two_tasks(n_left_out=1), record(4, n_left_out=1)]
    assert inspected(records).n_left_out == 2
    said = (
        "5 episodes of 2 tasks, 50 steps (2 more, the last of episodes, are left out: their results are not"
    )
    assert said in page(inspected(records))
    assert "left out: their" not in page(inspected(two_tasks()))


@pytest.mark.parametrize("n_unrecorded", [1, 4])
def test_episodes_that_record_no_rewards_are_found(n_unrecorded):
    missing = dict(rewards=np.zeros(10), rewarded=False)
    records = [record(number, ("open", "close")[number // 2]) for number in range(4)]
    inspection = inspected(
        [{**one, **(missing if n < n_unrecorded else {})} for n, one in enumerate(records)]
    )
    words = (
        f"{n_unrecorded} of 4 episodes record no rewards, and the Q term, which learns from them, is refused"
    )
    assert_found(inspection, "rewards", words)
    assert ("No rewards are recorded" in page(inspection)) is (n_unrecorded == 4)


@pytest.mark.parametrize(("scale", "is_found"), [(0.02, True), (0.2, False)])
def test_actions_that_use_little_of_the_range_between_their_bounds_are_found(scale, is_found):
    records = two_tasks()
    for one in records:
        one["actions"] = one["actions"] * [1.0, scale]
    inspection = inspected(records)
    assert ("narrow actions" in found(inspection)) is is_found
    if is_found:
        words = "1 of 2 entries of the actions (1) uses less than 5% of the range between their bounds: check"
        assert_found(inspection, "narrow actions", words)


@pytest.mark.parametrize(("high", "is_found"), [(np.inf, True), (-1.0, True), (1.0, False)])
def test_bounds_without_end_or_without_room_are_found(high: float, is_found: bool) -> None:
    space = spaces.Box(-1.0, np.array([1.0, high], np.float32), dtype=np.float32)
    records = [record(number, actions=np.tile([[0.5, -1.0], [-0.5, -1.0]], (5, 1))) for number in range(2)]
    assert ("bounds" in found(inspected(records, action_space=space))) is is_found


def test_rewards_that_are_all_zero_are_said_with_the_consequence() -> None:
    inspection = inspected([{**entry, "rewards": np.zeros(10)} for entry in two_tasks()])
    assert_found(inspection, "rewards", "Every reward is 0, so that the Q term has nothing to tell")
    assert "\nEvery reward is 0\n" in page(inspection)


def test_tasks_without_rewards_are_named_beside_others() -> None:
    records = [{**entry, "rewards": entry["rewards"] * (entry["task"] == "open")} for entry in two_tasks()]
    assert_found(inspected(records), "rewards", "1 task has no reward but 0, of 2 (close), and the Q term")


def test_one_reward_is_enough() -> None:
    rewards = np.eye(10)[-1]
    assert "rewards" not in found(inspected([{**entry, "rewards": rewards} for entry in two_tasks()]))


@pytest.mark.parametrize(("n_steps", "is_found"), [(10, False), (11, True)])
def test_failures_are_found_where_they_are_most_of_the_transitions(n_steps: int, is_found: bool) -> None:
    successes = [record(1, success=True, n_steps=4), record(2, success=True, n_steps=6)]
    inspection = inspected([record(0, success=False, n_steps=n_steps), *successes])
    assert ("failures" in found(inspection)) is is_found
    if is_found:
        shares = "33% of the episodes failed, and 52% of the transitions are theirs"
        assert_found(inspection, "failures", shares)


def test_failures_are_not_counted_where_some_episodes_do_not_say() -> None:
    inspection = inspected([record(0, success=False), record(1)])
    assert inspection.failed is None
    assert "failures" not in found(inspection)
    assert "\n1 of 2 episodes do not say whether they succeeded\n" in page(inspection)


def test_actions_that_never_move_are_found() -> None:
    records = two_tasks()
    for entry in records:
        entry["actions"][:, 1] = 0.25
    beginning = "1 of 2 entries of the actions (1) never changes: leave out"
    assert_found(inspected(records), "fixed actions", beginning)


@pytest.mark.parametrize(("n_inside", "is_found"), [(4, False), (3, True)])
def test_actions_at_a_bound_in_nearly_all_steps_are_found(n_inside: int, is_found: bool) -> None:
    records = two_tasks()  # of 40 steps
    for entry in records:
        entry["actions"][:, 0] = [1.0, -1.0] * 5
    records[0]["actions"][:n_inside, 0] = 0.0
    inspection = inspected(records)
    assert [entry.at_bound for entry in inspection.actions] == [(40 - n_inside) / 40, 0.0]
    assert ("saturated actions" in found(inspection)) is is_found


@pytest.mark.parametrize(("action", "share"), [(0.9981, 1.0), (-0.9981, 1.0), (0.9979, 0.0)])
def test_a_thousandth_of_the_range_is_still_at_the_bound(action: float, share: float) -> None:
    assert inspected([record(0, actions=np.full((10, 2), action))]).actions[0].at_bound == share


def test_without_a_bound_nothing_lies_at_it() -> None:
    space = spaces.Box(np.array([-1.0, -np.inf], np.float32), np.array([1.0, np.inf], np.float32))
    assert [entry.at_bound for entry in inspected(two_tasks(), action_space=space).actions] == [0.0, None]


def seen(factors: Sequence[float], n_episodes: int = 2) -> Inspection:
    """Episodes of ten steps, in which observations run from 0 to 10, each entry with a factor."""
    observations, box = np.arange(11.0)[:, None] * factors, spaces.Box(-np.inf, np.inf, (len(factors),))
    records = [record(number, observations=observations) for number in range(n_episodes)]
    return inspected(records, observation_space=box)


def test_observations_that_never_change_are_named_in_spans() -> None:
    inspection = seen([0, 1, 0, 0, 0, 1])
    beginning = "4 of 6 entries of the observations (0, 2 to 4) never change: "
    assert_found(inspection, "fixed observations", beginning)
    assert "\n6 entries, 4 of which never change; values from 0 to 10\n" in page(inspection)


@pytest.mark.parametrize(("step", "never_changes"), [(3e-7, True), (4e-7, False)])
def test_an_entry_that_only_rounds_differently_never_changes(step: float, never_changes: bool) -> None:
    entries = seen([1.0, step, 1.0]).observations  # of standard deviation 3.16 step
    assert [entry.never_changes for entry in entries] == [False, never_changes, False]


@pytest.mark.parametrize(("scale", "is_found"), [(5e3, False), (2e4, True)])
def test_scales_that_units_alone_do_not_explain_are_found(scale: float, is_found: bool) -> None:
    sentence = found(seen([1.0, scale, 1.0], 4)).get("scales", "")
    assert bool(sentence) is is_found
    ratio = "by a factor of 20,000 (standard deviations: 6.32e+04 of entry 1, 3.16 of entry 0)"
    assert (ratio in sentence) is is_found


def test_tasks_without_a_sentence_are_named() -> None:
    inspection = inspected([*two_tasks(), record(4, "push"), record(5, "push")])
    assert_found(inspection, "missing texts", "1 task has no sentence, of 3 (push): give them one each")
    assert "(no sentence)" in page(inspection)


def test_a_single_task_needs_no_sentence() -> None:
    assert "missing texts" not in found(inspected([record(0, task_texts=()), record(1, task_texts=())]))


def test_tasks_with_the_same_sentence_are_found_without_an_encoder() -> None:
    texts = {"open": ("Do  it",), "close": ("do it",)}
    inspection = inspected([{**entry, "task_texts": texts[entry["task"]]} for entry in two_tasks()])
    beginning = "1 sentence stands for several tasks, which a policy told by text alone"
    assert_found(inspection, "shared texts", beginning)
    assert details(inspection, "shared texts") == ("'Do  it': open, close",)


@pytest.mark.parametrize(("cosine", "is_found"), [(0.949, False), (0.951, True)])
def test_nearly_the_same_sentences_of_different_tasks_are_found(cosine: float, is_found: bool) -> None:
    encoder = Vectors({TEXTS["open"]: (2.0, 0.0), TEXTS["close"]: (cosine, (1 - cosine**2) ** 0.5)})
    inspection = inspected(two_tasks(), encoder)
    assert ("similar texts" in found(inspection)) is is_found
    if is_found:
        line = "cosine 0.951: 'open the drawer' (open) and 'shut the window' (close)"
        assert details(inspection, "similar texts") == (line,)


def test_phrasings_of_one_task_may_be_alike() -> None:
    texts = {task: (text, f"please {text}") for task, text in TEXTS.items()}
    sides = {"open": (1.0, 0.0), "close": (0.0, 1.0)}
    encoder = Vectors({text: sides[task] for task in texts for text in texts[task]})
    inspection = inspected([{**entry, "task_texts": texts[entry["task"]]} for entry in two_tasks()], encoder)
    assert (inspection.texts.similar, inspection.texts.encoder_name) == ((), "vectors")


def test_a_comparison_that_was_left_out_is_said_with_the_reason() -> None:
    note = "(Left out was the search for nearly identical sentences: {}.)"
    not_installed = page(inspected(two_tasks(), NotInstalled({})))
    assert note.format("Install it: pip install 'sb3-llmdpd[text]'") in not_installed
    assert note.format("no text encoder was named") in page(inspected(two_tasks()))
    assert "Left out" not in page(inspected(two_tasks(), "hashing"))


def test_an_unknown_encoder_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="unknown text encoder 'minilem'"):
        inspect_sources([BrokenOff([])], "minilem")


def test_tasks_with_a_single_episode_are_named() -> None:
    beginning = "1 task has a single episode (close), which is prompted with another part of itself"
    assert_found(inspected(two_tasks()[:3]), "single episodes", beginning)


def test_episodes_that_are_there_twice_are_found() -> None:
    again = Recorded([record(2, "close"), record(7)], "lab/c-v0")
    inspection = inspect_sources([Recorded(two_tasks()), again])
    assert_found(inspection, "duplicates", "1 episode is there already, number for number")
    assert details(inspection, "duplicates") == ("lab/c-v0, episode 0 is lab/b-v0, episode 2 again",)


def lines_under(text: str, title: str) -> list[str]:
    """The lines of a section of a page."""
    section = next(section for section in text.split("\n\n") if section.splitlines()[0] == title)
    return section.splitlines()[1:]


def test_the_page_begins_with_what_the_data_are() -> None:
    sources = [Recorded(two_tasks()), Recorded([record(7), record(8)], "lab/c-v0")]
    assert page(inspect_sources(sources)).splitlines()[:3] == [
        "lab/b-v0, lab/c-v0 (recorded)",
        "6 episodes of 2 tasks, 60 steps",
        "Observations: 3 float32. Actions: 2 float32, from -1 to 1.",
    ]


def test_of_many_sources_the_heading_names_the_first() -> None:
    inspection = inspect_sources([Recorded(two_tasks(), f"lab/{letter}-v0") for letter in "bcdefgh"])
    names = ", ".join(f"lab/{letter}-v0" for letter in "bcdef")
    heading = page(inspection).splitlines()[0]
    assert heading == f"{names}, and 2 more (--all shows them) (recorded)"
    assert "lab/h-v0 (recorded)" in page(inspection, None).splitlines()[0]


def test_findings_come_before_the_tables_each_on_a_line_of_its_own() -> None:
    inspection = inspected([*two_tasks(), record(9, rewards=np.zeros(3))])
    (finding,) = findings(inspection)
    lines = lines_under(page(inspection), "To mend, or to know")
    assert lines[:2] == [f"- {finding.sentence}", f"    {finding.details[0]}"]
    assert page(inspection).index(finding.sentence) < page(inspection).index("\nTasks\n")


def test_the_table_of_tasks_has_a_row_a_task() -> None:
    opened = [record(0, n_steps=4, success=True), record(1, n_steps=6, success=False)]
    text = page(inspected([*opened, record(2, "close"), record(3, "close")]))
    *_, first, second = (re.split(r"\s{2,}", line) for line in lines_under(text, "Tasks"))
    assert first == ["open", "2", "10", "50%", "4", "8", "12", "5", "1", "open the drawer"]
    assert second == ["close", "2", "20", "30", "35", "40", "10", "1", "shut the window"]


def test_a_long_sentence_is_cut_in_the_table() -> None:
    sentence = "push it " * 20
    (row,) = lines_under(page(inspected([record(0, task_texts=(sentence,))])), "Tasks")[2:]
    assert row.endswith(f"  {sentence[:59].strip()}…")


def test_a_long_list_is_cut_unless_all_is_asked_for() -> None:
    inspection = inspected([record(number, f"task-{number}") for number in range(5)])
    assert lines_under(page(inspection, 3), "Tasks")[-1] == "and 2 more (--all shows them)"
    assert lines_under(page(inspection, 5), "Tasks")[-1].startswith("task-4 ")
    assert lines_under(page(inspection, None), "Tasks")[-1].startswith("task-4 ")


def test_all_entries_of_the_observations_are_a_table_where_they_are_asked_for() -> None:
    inspection = seen([1.0, 2.0, 3.0])
    assert lines_under(page(inspection, None), "Observations, by entry")[2:] == [
        "0        0     5   10       3.16",
        "1        0    10   20       6.32",
        "2        0    15   30       9.49",
    ]
    assert lines_under(page(inspection), "Observations") == [
        "3 entries, 0 of which never change; values from 0 to 30",
        "Standard deviations of those that change: from 3.16 (entry 0) to 9.49 (entry 2)",
    ]


def test_the_table_of_actions_has_the_share_of_steps_at_a_bound() -> None:
    records = two_tasks()
    for entry in records:
        entry["actions"] = np.tile([[1.0, 0.5], [-0.5, -0.5]], (5, 1))
    *_, first, second = lines_under(page(inspected(records)), "Actions, by entry")
    assert first.split() == ["0", "-0.5", "0.25", "1", "0.75", "50%"]
    assert second.split() == ["1", "-0.5", "0", "0.5", "0.5", "0%"]


def test_the_ends_of_episodes_are_counted() -> None:
    (line, *_) = lines_under(page(inspected(two_tasks(terminated=True))), "Outcomes")
    ends = "1 of 4 episodes ended by a termination, 3 cut off by a time limit or by the end of recording"
    assert line == ends


def test_bars_are_as_long_as_there_are_episodes() -> None:
    lengths = [3] * 8 + [4] * 4 + [6]
    records = [record(number, n_steps=n, rewards=np.ones(n)) for number, n in enumerate(lengths)]
    text = page(inspected(records))
    bars = [f"3  8  {'█' * 40}", f"4  4  {'█' * 20}", "5  0", f"6  1  {'█' * 5}"]
    assert lines_under(text, "Lengths of episodes") == bars
    assert lines_under(text, "Returns of episodes")[0] == f"  3 to 3.3  8  {'█' * 40}"


def test_lengths_are_binned_in_whole_steps() -> None:
    records = [record(number, n_steps=length) for number, length in enumerate((1, 20, 21, 200))]
    bars = lines_under(page(inspected(records)), "Lengths of episodes")
    assert len(bars) == 10
    ends = [bar.split()[:-1] for bar in (bars[0], bars[1], bars[-1])]
    assert ends == [["1", "to", "20", "2"], ["21", "to", "40", "1"], ["181", "to", "200", "1"]]


def test_a_single_return_is_a_single_bar() -> None:
    text = page(inspected([record(0), record(0, "close")]))
    assert lines_under(text, "Returns of episodes") == [f"10  2  {'█' * 40}"]


def test_a_minari_data_set_is_inspected_like_any_other(tmp_path: Path) -> None:
    episodes = [Episode(**record(number)) for number in range(2)]
    write_minari("lab/b-v0", episodes, BOX, ACTIONS, root=tmp_path)
    inspection = inspect_sources([MinariSource("lab/b-v0", root=tmp_path)])
    assert [source.kind for source in inspection.sources] == ["minari"]
    assert [episode.total_reward for episode in inspection.episodes] == [10.0, 20.0]
