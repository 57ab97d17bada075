"""`sb3-llmdpd data`: the page that is read before training, and data in another format."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl
from typer.testing import CliRunner, Result

from sb3_llmdpd.cli import app
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.data.minari import load_minari, local_ids
from sb3_llmdpd.data.minari_writer import write_minari
from sb3_llmdpd.data.npz import write_npz
from sb3_llmdpd.prompts import language_models

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def succeeded(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def episode(seed: int, task: str, n_steps: int = 5, **changes: Any) -> Episode:
    rng = np.random.default_rng(seed)
    observations, actions = rng.normal(size=(n_steps + 1, 3)), rng.uniform(-0.9, 0.9, (n_steps, 2))
    values = dict(observations=observations, actions=actions, rewards=np.ones(n_steps))
    told = dict(task=task, task_texts=(f"{task} the drawer",), success=True)
    return Episode(**{**values, **told, **changes})


def episodes_of(task: str) -> list[Episode]:
    return [episode(seed + 10 * len(task), task) for seed in range(2)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with Minari data sets of two tasks."""
    folder = tmp_path / "minari"
    for task in ("open", "close"):
        write_minari(f"lab/{task}-v0", episodes_of(task), BOX, ACTIONS, root=folder)
    return folder


def cut_short(root: Path, dataset_id: str, name: str = "metadata.json") -> None:
    file = root / dataset_id / "data" / name
    file.write_bytes(file.read_bytes()[:40])


def assert_refused(result: Result, sentence: str) -> None:
    assert (result.exit_code, sentence in result.stderr) == (2, True), result.output


def test_inspect_prints_a_page_about_all_data_that_fit_the_pattern(root: Path) -> None:
    result = succeeded(run("inspect", "lab/*", "--root", root, "--text-encoder", "hashing"))
    heading = ["lab/close-v0, lab/open-v0 (minari)", "4 episodes of 2 tasks, 20 steps"]
    assert result.output.splitlines()[:2] == heading
    assert "\nNothing to mend.\n" in result.output


def test_inspect_writes_the_numbers_of_the_page_as_json(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "new/numbers.json"
    result = run("inspect", "lab/*", "--root", root, "--text-encoder", "none", "--json", path)
    assert result.output.splitlines()[-1] == f"The numbers are in {path}"
    numbers = json.loads(path.read_text())
    tasks = [(task["name"], task["n_steps"], task["mean_return"]) for task in numbers["tasks"]]
    assert tasks == [("close", 10, 5.0), ("open", 10, 5.0)]
    assert numbers["findings"] == []
    assert numbers["action_space"] == str(ACTIONS)


def test_inspect_writes_findings_as_json_too(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    write_npz(tmp_path / "b.npz", [episode(0, "open")], BOX, ACTIONS)
    run("inspect", tmp_path / "b.npz", "--json", path)
    (finding,) = json.loads(path.read_text())["findings"]
    assert (finding["kind"], finding["details"]) == ("single episodes", [])
    assert finding["sentence"].startswith("1 task has a single episode (open)")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("metadata.json", "be opened, and nothing here is about what would be in there"),
        ("main_data.hdf5", "be read to the end, and nothing here is about what comes after"),
    ],
)
def test_inspect_goes_on_without_what_is_damaged(root: Path, name: str, sentence: str) -> None:
    cut_short(root, "lab/close-v0", name)
    result = succeeded(run("inspect", "lab/*", "--root", root))
    assert f"- 1 source cannot {sentence}" in result.output
    assert "\n2 episodes of 1 task, 10 steps\n" in result.output


def test_inspect_fails_where_nothing_can_be_opened(root: Path) -> None:
    cut_short(root, "lab/close-v0")
    result = run("inspect", "lab/close-v0", "lab/shut-v0", "--root", root)
    first = "there is no source to inspect; none can be opened: lab/close-v0: the files are"
    assert result.stderr.startswith(f"Error: {first}")
    assert_refused(result, "; no Minari data set 'lab/shut-v0'")


def test_inspect_fails_where_nothing_can_be_read(root: Path) -> None:
    cut_short(root, "lab/close-v0", "main_data.hdf5")
    sentence = "Error: not one episode can be read: lab/close-v0, episode 0: the files are damaged"
    assert_refused(run("inspect", "lab/close-v0", "--root", root), sentence)


def test_inspect_compares_sentences_by_the_encoder_that_was_named(root: Path) -> None:
    unknown = run("inspect", "lab/*", "--root", root, "--text-encoder", "minilem")
    assert_refused(unknown, "unknown text encoder 'minilem'")
    left_out = run("inspect", "lab/*", "--root", root, "--text-encoder", "none")
    note = "(Left out was the search for nearly identical sentences: no text encoder was named.)"
    assert note in left_out.output


def test_inspect_says_what_to_install_for_the_comparison(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def package_folder(package: str, extra: str) -> Path:
        raise ImportError(f"Install it: pip install 'sb3-llmdpd[{extra}]'")

    monkeypatch.setattr(language_models, "package_folder", package_folder)
    result = succeeded(run("inspect", "lab/*", "--root", root))
    assert "sentences: Install it: pip install 'sb3-llmdpd[offline]'.)" in result.output


def test_inspect_cuts_long_lists_unless_all_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "b.npz"
    write_npz(path, [episode(number, f"task-{number}") for number in range(62)], BOX, ACTIONS)
    options = ("inspect", path, "--text-encoder", "none")
    assert "\nand 2 more (--all shows them)\n" in run(*options).output
    everything = run(*options, "--all").output
    assert "\ntask-61  " in everything
    assert "Observations, by entry" in everything


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """A file of two episodes with Dict observations."""
    observations = {"hand": np.eye(6)[:, :3], "goal": np.eye(6)[:, 3:]}
    episodes = [episode(seed, "open", observations=observations) for seed in range(2)]
    write_npz(tmp_path / "nested.npz", episodes, spaces.Dict({"hand": BOX, "goal": BOX}), ACTIONS)
    return tmp_path / "nested.npz"


def test_inspect_can_flatten_observations(nested: Path) -> None:
    assert "Observations: {goal: 3 float32, hand: 3 float32}." in run("inspect", nested).output
    assert "Observations: 6 float32." in run("inspect", nested, "--flatten").output


def convert(*arguments: object, to: str, out: object) -> Result:
    return run("convert", *arguments, "--to", to, "--out", out)


def test_convert_keeps_every_episode_there_and_back(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "both.npz"
    succeeded(convert("lab/*", "--root", root, to="npz", out=file))
    succeeded(convert(file, "--root", root, to="minari", out="lab/both-v0"))
    expected = [episode_digest(one) for task in ("close", "open") for one in episodes_of(task)]
    assert list(map(episode_digest, load_dataset(str(file)).episodes)) == expected
    assert list(map(episode_digest, load_minari("lab/both-v0", root=root).episodes)) == expected


def test_convert_says_what_it_wrote_and_what_comes_next(root: Path) -> None:
    result = convert("lab/*", "--root", root, to="minari", out="lab/both-v0")
    options = f"lab/both-v0 --root {shlex.quote(str(root))}"
    assert result.output.splitlines() == [
        f"In {root / 'lab/both-v0'}: 4 episodes of 2 tasks, 20 transitions; 0% of the episodes failed, with"
        " 0% of the transitions",
        f"Next: sb3-llmdpd data inspect {options}, then sb3-llmdpd train --dataset {options}",
    ]


def test_convert_names_a_file_as_a_shell_takes_it(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "with a space.npz"
    result = convert("lab/*", "--root", root, to="npz", out=file)
    last = f"Next: sb3-llmdpd data inspect '{file}', then sb3-llmdpd train --dataset '{file}'"
    assert result.output.splitlines()[-1] == last


def test_convert_writes_the_sentences_that_were_given(root: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"open": ["pull it open", "open it"], "lab/close-v0": "push it shut"}))
    succeeded(convert("lab/*", "--root", root, "--task-texts", texts, to="minari", out="lab/both-v0"))
    found = {one.task: one.task_texts for one in load_minari("lab/both-v0", root=root).episodes}
    assert found == {"open": ("pull it open", "open it"), "close": ("push it shut",)}


@pytest.mark.parametrize(("to", "out"), [("minari", "lab/both-v0"), ("npz", "both.npz")])
def test_convert_writes_nothing_where_a_sentence_is_for_no_task(root, tmp_path, to, out):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"push": "push it"}))
    target = out if to == "minari" else tmp_path / out
    result = convert("lab/*", "--root", root, "--task-texts", texts, to=to, out=target)
    assert_refused(result, "`task_texts` speaks of 'push', but the data sets are lab/close-v0, lab/open-v0")
    assert local_ids(root) == ["lab/close-v0", "lab/open-v0"]
    assert not (tmp_path / "both.npz").exists()


@pytest.fixture
def wild(tmp_path: Path) -> Path:
    """A file of two actions that leave the bounds of [-1, 1]."""
    actions = np.array([[0.5, 3.0], [0.5, -3.0]], np.float32)
    ends = dict(rewards=np.ones(2), terminals=np.array([False, True]))
    np.savez(tmp_path / "wild.npz", observations=np.zeros((2, 3), np.float32), actions=actions, **ends)
    return tmp_path / "wild.npz"


UNIT = ("--action-low", -1, "--action-high", 1)


def test_convert_refuses_actions_outside(root, wild):
    strict = convert(wild, "--root", root, *UNIT, "--strict", to="minari", out="lab/strict-v0")
    assert_refused(strict, "wild.npz, episode 0: 2 of 2 actions lie outside the action space")
    many = convert(wild, "--root", root, *UNIT, to="minari", out="lab/many-v0")
    assert_refused(
        many, "2 of 2 actions lie outside the action space [-1, 1], by up to 2: these are probably"
    )
    assert local_ids(root) == ["lab/close-v0", "lab/open-v0"]


def test_convert_clips_actions_outside_where_it_is_told_to(root, wild):
    with pytest.warns(UserWarning, match="2 of 2 actions lie outside the action space .* and were clipped"):
        succeeded(convert(wild, "--root", root, *UNIT, "--clip", to="minari", out="lab/clipped-v0"))
    (clipped,) = load_minari("lab/clipped-v0", root=root).episodes
    np.testing.assert_array_equal(clipped.actions, [[0.5, 1.0], [0.5, -1.0]])


def test_convert_writes_bounds_that_were_measured(root, wild):
    with pytest.warns(UserWarning, match="no bounds of the actions are recorded"):
        succeeded(convert(wild, "--root", root, to="minari", out="lab/measured-v0"))
    low, high = np.array([-0.5, -3.0], np.float32), np.array([1.5, 3.0], np.float32)
    assert load_minari("lab/measured-v0", root=root).action_space == spaces.Box(low, high, dtype=np.float32)


def test_convert_can_flatten_observations(nested: Path, tmp_path: Path) -> None:
    succeeded(convert(nested, "--flatten", to="npz", out=tmp_path / "flat.npz"))
    for flat in load_dataset(str(tmp_path / "flat.npz")).episodes:
        np.testing.assert_array_equal(flat.observations, np.roll(np.eye(6), 3, axis=1))


def test_convert_replaces_a_file_only_where_it_is_told_to(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.npz"
    file.write_text("mine")
    kept = convert("lab/open-v0", "--root", root, to="npz", out=file)
    assert_refused(kept, f"{file} is there already: give --overwrite")
    assert file.read_text() == "mine"
    succeeded(convert("lab/open-v0", "--root", root, "--overwrite", to="npz", out=file))
    assert len(load_dataset(str(file)).episodes) == 2


def test_convert_never_replaces_a_minari_data_set(root: Path) -> None:
    taken = convert("lab/open-v0", "--root", root, to="minari", out="lab/close-v0")
    assert_refused(taken, "'lab/close-v0' is already in")
    told = convert("lab/open-v0", "--root", root, "--overwrite", to="minari", out="lab/close-v0")
    assert_refused(told, "a Minari data set is never overwritten")
    assert load_minari("lab/close-v0", root=root).tasks == ("close",)


@pytest.mark.parametrize(
    ("to", "out", "sentence"),
    [
        ("hdf5", "b.hdf5", "--to must be minari or npz or lerobot, got 'hdf5'"),
        ("npz", "b.zip", "must end in .npz"),
        ("minari", "b", "'b' is no Minari id"),
    ],
)
def test_convert_refuses_targets_that_are_none(root, tmp_path, to, out, sentence):
    target = tmp_path / out if to == "npz" else out
    assert_refused(convert("lab/open-v0", "--root", root, to=to, out=target), sentence)
    assert not Path(target).exists()


def test_pickles_are_opened_only_where_that_is_allowed(tmp_path: Path) -> None:
    buffer = ReplayBuffer(4, BOX, ACTIONS, device="cpu")
    for step in range(4):
        now, then = np.full((1, 3), step), np.full((1, 3), step + 1)
        buffer.add(now, then, np.full((1, 2), step / 8), np.ones(1), np.array([step == 3]), [{}])
    path, out = tmp_path / "buffer.pkl", tmp_path / "b.npz"
    save_to_pkl(path, buffer)
    assert run("inspect", path).exit_code == convert(path, to="npz", out=out).exit_code == 2
    assert " of 1 task, 4 steps\n" in run("inspect", path, "--allow-pickle").output
    assert (
        ": 1 episodes of 1 tasks, 4 transitions" in convert(path, "--allow-pickle", to="npz", out=out).output
    )
