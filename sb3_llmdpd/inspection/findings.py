"""Finds what should be mended before training, and says so in one sentence each with what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from sb3_llmdpd.inspection.numbers import EntryNumbers, Inspection, extreme_deviations
from sb3_llmdpd.inspection.texts import AlikeTexts

MANY_FAILED = 0.5
"""Share of the transitions above which cloning mostly clones failures."""

SATURATED = 0.9
"""Share of the steps at a bound above which an action needs a look; a gripper is often open or shut."""

SCALE_RATIO = 1e4
"""Ratio of the largest to the smallest standard deviation of entries that units alone rarely explain."""

SHOWN = 5
"""Names and sentences that a finding shows."""


@dataclass(frozen=True)
class Finding:
    """Something to mend, or to know.

    :param kind: subject, e.g. ``"rewards"``.
    :param sentence: the finding and the remedy.
    :param details: a line for each of the first cases.
    """

    kind: str
    sentence: str
    details: tuple[str, ...] = ()


def findings(inspection: Inspection) -> tuple[Finding, ...]:
    """Judge the numbers.

    :param inspection: result of `inspect_sources`.
    :return: the findings; those that stop training come first.
    """
    return tuple(finding for check in _CHECKS for finding in check(inspection))


def _unreadable(inspection: Inspection) -> Iterator[Finding]:
    if unopened := inspection.unopened:
        yield Finding(
            "unopened",
            f"{_do(unopened, 'source', 'cannot', 'cannot')} be opened, and nothing here is about what would"
            " be in there: mend what is damaged, or train without.",
            _first(unopened),
        )
    if broken_off := [source.broken_off for source in inspection.sources if source.broken_off is not None]:
        yield Finding(
            "broken off",
            f"{_do(broken_off, 'source', 'cannot', 'cannot')} be read to the end, and nothing here is about"
            " what comes after: write the data again, or fetch them again.",
            _first(broken_off),
        )
    if refused := inspection.refused:
        n_all = len(refused) + len(inspection.episodes)
        yield Finding(
            "refused",
            f"{len(refused):,} of {n_all:,} episodes cannot be read, and training stops at the first of"
            " them: mend what is wrong there, or write the data without.",
            _first(refused),
        )


def _bounds(inspection: Inspection) -> Iterator[Finding]:
    space = inspection.action_space
    if not space.is_bounded() or not (space.low < space.high).all():
        yield Finding(
            "bounds",
            f"The action space is {space}, and training needs finite bounds with room between them: write"
            " the data with the bounds that the actuators have.",
        )


def _warned(inspection: Inspection) -> Iterator[Finding]:
    sentences = [f"{sentence.rstrip('.')}." for source in inspection.sources for sentence in source.warnings]
    if len(sentences) > SHOWN:  # many sources, which mostly give the same warning
        together = f"Reading gave {len(sentences):,} warnings, each of which says what to do."
        yield Finding("warning", together, _first(sentences))
    else:
        yield from (Finding("warning", sentence) for sentence in sentences)


def _outcomes(inspection: Inspection) -> Iterator[Finding]:
    unrewarded = [task.name for task in inspection.tasks if not task.is_rewarded]
    if len(unrewarded) == len(inspection.tasks):
        yield Finding(
            "rewards",
            "Every reward is 0, so that the Q term has nothing to tell good actions from bad ones by:"
            " clone with --eta 0, or record rewards.",
        )
    elif unrewarded:
        yield Finding(
            "rewards",
            f"{_do(unrewarded, 'task', 'has', 'have')} no reward but 0, of {len(inspection.tasks):,}"
            f" ({_some(unrewarded)}), and the Q term has nothing there to tell good actions from bad ones"
            " by: record rewards, or clone with --eta 0.",
        )
    if inspection.failed is not None and inspection.failed[1] > MANY_FAILED:
        of_episodes, of_steps = inspection.failed
        yield Finding(
            "failures",
            f"{of_episodes:.0%} of the episodes failed, and {of_steps:.0%} of the transitions are theirs,"
            " so that cloning mostly clones failures: leave failed episodes out, or draw better ones more"
            " often with --return-weight.",
        )


def _fixed(entries: Sequence[EntryNumbers], of: str, remedy: str) -> Iterator[Finding]:
    fixed = [entry.never_changes for entry in entries]
    if any(fixed):
        verb = "changes" if sum(fixed) == 1 else "change"
        yield Finding(f"fixed {of}", f"{_entries(entries, fixed, of)} never {verb}: {remedy}.")


def _actions(inspection: Inspection) -> Iterator[Finding]:
    entries = inspection.actions
    yield from _fixed(entries, "actions", "leave out what moves nothing, or check the recording")
    saturated = [(entry.at_bound or 0.0) > SATURATED and not entry.never_changes for entry in entries]
    if any(saturated):
        verb = "lies" if sum(saturated) == 1 else "lie"
        yield Finding(
            "saturated actions",
            f"{_entries(entries, saturated, 'actions')} {verb} at a bound in more than {SATURATED:.0%} of the"
            " steps: check that actions and bounds are in the same units.",
        )


def _observations(inspection: Inspection) -> Iterator[Finding]:
    entries = inspection.observations
    remedy = "padding does no harm, but a sensor that was not recorded does"
    yield from _fixed(entries, "observations", remedy)
    if (extremes := extreme_deviations(entries)) is not None:
        smallest, largest = extremes
        ratio = largest.deviation / smallest.deviation
        if ratio > SCALE_RATIO:
            yield Finding(
                "scales",
                f"Observations differ in scale by a factor of {ratio:,.0f} (standard deviations:"
                f" {largest.deviation:.3g} of entry {largest.name}, {smallest.deviation:.3g} of entry"
                f" {smallest.name}): check units and outliers, since vectors are divided by these"
                " deviations.",
            )


def _texts(inspection: Inspection) -> Iterator[Finding]:
    if len(inspection.tasks) == 1:
        return  # a model of one task needs no sentence
    if missing := [task.name for task in inspection.tasks if not task.texts]:
        yield Finding(
            "missing texts",
            f"{_do(missing, 'task', 'has', 'have')} no sentence, of {len(inspection.tasks):,}"
            f" ({_some(missing)}): give them one each with --task-texts, or prompt with example"
            " trajectories alone.",
        )
    if shared := inspection.texts.shared:
        yield Finding(
            "shared texts",
            f"{_do(shared, 'sentence', 'stands', 'stand')} for several tasks, which a policy told by text"
            " alone mixes up: write others with --task-texts, or give what is one task one task id.",
            _first([f"{alike.texts[0]!r}: {_some(alike.tasks)}" for alike in shared]),
        )
    if similar := inspection.texts.similar:
        yield Finding(
            "similar texts",
            f"{_do(similar, 'pair of tasks', 'has', 'have')} nearly the same sentence for the encoder"
            f" {inspection.texts.encoder_name!r}: word them further apart with --task-texts, or prompt with"
            " examples, too.",
            _first([_pair(alike) for alike in similar]),
        )


def _pair(alike: AlikeTexts) -> str:
    one, other = (f"{text!r} ({task})" for text, task in zip(alike.texts, alike.tasks, strict=True))
    return f"cosine {alike.cosine:.3f}: {one} and {other}"


def _prompts(inspection: Inspection) -> Iterator[Finding]:
    if single := [task.name for task in inspection.tasks if task.n_episodes == 1]:
        yield Finding(
            "single episodes",
            f"{_do(single, 'task', 'has', 'have')} a single episode ({_some(single)}), which is prompted"
            " with another part of itself, since there is no other to show: record a second one.",
        )
    first: dict[str, str] = {}
    again: list[str] = []
    for episode in inspection.episodes:
        if episode.digest in first:
            again.append(f"{episode.source} is {first[episode.digest]} again")
        first.setdefault(episode.digest, episode.source)
    if again:
        yield Finding(
            "duplicates",
            f"{_do(again, 'episode', 'is', 'are')} there already, number for number: keep one of each, or a"
            " prompt may be a copy of what it explains.",
            _first(again),
        )


_CHECKS = (_unreadable, _bounds, _warned, _outcomes, _actions, _observations, _texts, _prompts)


def _do(things: Sequence[object], name: str, one: str, several: str) -> str:
    """Count things before a verb, as in "2 tasks have"; a name of several words gets its s at the first."""
    if len(things) == 1:
        return f"1 {name} {one}"
    noun, *rest = name.split(" ")
    return " ".join([f"{len(things):,}", f"{noun}s", *rest, several])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _first(sentences: Sequence[str]) -> tuple[str, ...]:
    more = (f"and {len(sentences) - SHOWN:,} more",) if len(sentences) > SHOWN else ()
    return (*sentences[:SHOWN], *more)


def _entries(entries: Sequence[EntryNumbers], chosen: Sequence[bool], of: str) -> str:
    """Count and name the chosen entries, neighbours as one span."""
    runs = groupby(zip(entries, chosen, strict=True), lambda pair: pair[1])
    spans = [[entry.name for entry, _ in run] for is_chosen, run in runs if is_chosen]
    names = [span[0] + (f" to {span[-1]}" if len(span) > 1 else "") for span in spans]
    return f"{sum(chosen):,} of {len(entries):,} entries of the {of} ({_some(names)})"
