"""The commands read any source: names, patterns, sentences from a file, and training on what stays in one."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import refused, warned
from factories import make_episode, make_episodes
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl
from step_files import arrays, flags, write_steps
from typer.testing import CliRunner, Result

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.cli import app
from sb3_llmdpd.cli.sources import read_task_texts, source_names
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.data.minari_writer import write_minari
from sb3_llmdpd.data.npz import write_npz

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
OPTIONS = {"text-encoder": "hashing:16", "net-arch": 16, "batch-size": 6, "prompts-per-batch": 3, "steps": 2}
TINY = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert re.search(message, result.output), result.output


def succeed(*arguments: Any) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def data() -> OfflineDataset:
    return OfflineDataset.from_episodes(make_episodes())


@pytest.fixture
def logs(tmp_path: Path, data: OfflineDataset) -> Path:
    path = tmp_path / "logs.npz"
    write_npz(path, data.episodes, data.observation_space, data.action_space)
    return path


def test_a_path_means_the_same_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = source_names(["logs.npz", "d4rl:a/b", "logs.npz"], None)
    assert names == [f"npz:{tmp_path}/logs.npz", f"d4rl:{tmp_path}/a/b"]


# Patterns ---------------------------------------------------------------------


def test_a_pattern_stands_for_the_local_ids_that_fit_it(tmp_path: Path, data: OfflineDataset) -> None:
    for name in ("lab/a-v0", "lab/b-v0", "other/c-v0"):
        write_minari(name, data.episodes[:2], data.observation_space, data.action_space, root=tmp_path)
    assert source_names(["lab/*", "other/c-v0"], tmp_path) == ["lab/a-v0", "lab/b-v0", "other/c-v0"]
    assert source_names(["minari:lab/[ac]-v0"], tmp_path) == ["lab/a-v0"]
    with refused(r"'b/\*' fits no file, and none of the local data sets: lab/a-v0, lab/b-v0, other/c-v0$"):
        source_names(["b/*"], tmp_path)
    with refused(r"'minari:b/\*' fits nothing"):
        source_names(["minari:b/*"], tmp_path)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the test is in, with empty files."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.npz", "b.npz", "c.hdf5", "d", "e[1].npz"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "fitting"),
    [
        ("[ab].npz", ["npz:a.npz", "npz:b.npz"]),
        ("?.npz", ["npz:a.npz", "npz:b.npz"]),
        ("./[a-c].*", ["npz:a.npz", "npz:b.npz", "d4rl:c.hdf5"]),
        ("d4rl:[cd]*", ["d4rl:c.hdf5", "d4rl:d"]),
        ("{here}/b*", ["npz:b.npz"]),
        ("~/a*", ["npz:a.npz"]),
    ],
)
def test_a_pattern_stands_for_the_files_that_fit_it(files, monkeypatch, pattern, fitting):
    monkeypatch.setenv("HOME", str(files))
    expected = [name.replace(":", f":{files}/") for name in fitting]
    assert source_names([pattern.format(here=files)], files / "minari") == expected


def test_a_pattern_stands_for_the_folders_that_fit_it(tmp_path):
    for name in ("push", "pull", "other"):
        (tmp_path / "robots" / name / "meta").mkdir(parents=True)
        (tmp_path / "robots" / name / "meta" / "info.json").write_text("{}")
    expected = [f"lerobot:{tmp_path}/robots/{name}" for name in ("pull", "push")]
    for pattern in (f"lerobot:{tmp_path}/robots/pu*", f"{tmp_path}/robots/pu*"):
        assert source_names([pattern], tmp_path) == expected


def test_a_pattern_that_fits_nothing_is_refused(files):
    with refused(r"'x\*.npz' fits no file, and none of the local data sets: none$"):
        source_names(["x*.npz"], files / "minari")
    with refused(r"'d4rl:x\*' fits nothing"):
        source_names(["d4rl:x*"], files / "minari")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(files):
    assert source_names(["e[1].npz"], files / "minari") == [f"npz:{files}/e[1].npz"]


def test_what_fits_several_patterns_is_read_once(files):
    names = source_names(["a.npz", "*.npz", f"npz:{files}/b.npz"], files / "minari")
    assert names == [f"npz:{files}/{name}" for name in ("a.npz", "b.npz", "e[1].npz")]


def test_training_reads_all_files_that_fit_a_pattern(tmp_path, data):
    for number in range(2):
        episodes = [replace(one, task=f"{one.task}-{number}", task_texts=()) for one in data.episodes]
        write_npz(tmp_path / f"logs-{number}.npz", episodes, data.observation_space, data.action_space)
    result = succeed("train", "--dataset", tmp_path / "logs-*.npz", "--out", tmp_path / "run", *TINY)
    assert result.output.startswith("24 episodes of 6 tasks, 480 transitions")


# Sentences --------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}', "open it", ""])
def test_a_file_without_sentences_is_refused_with_what_it_should_hold(text: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    path.write_text(text)
    with refused(r'--task-texts takes a JSON file as \{"source or task": "a sentence"'):
        read_task_texts(path)


def test_training_takes_sentences_from_a_file(logs: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"task-0": "walk to the left", "task-1": ["walk right", "go right"]}))
    succeed("train", "--dataset", logs, "--task-texts", texts, "--out", tmp_path / "run", *TINY)
    known = LLMDPD.load(tmp_path / "run" / "model.zip").known_task_texts
    assert {"walk to the left", "walk right", "go right", "do task number 2"} <= set(known)


def test_mapped_and_resident_data_train_the_same_model(logs: Path, tmp_path: Path) -> None:
    mapped = ["--memory-mapped", "--cache", tmp_path / "cache"]
    of_all, folders = ["--dataset", logs, "--unseen", "task-2", *TINY], [tmp_path / "a", tmp_path / "b"]
    for folder, options in zip(folders, (mapped, []), strict=True):
        succeed("train", *of_all, "--out", folder, *options)
    one, other = (LLMDPD.load(folder / "model.zip").policy.state_dict() for folder in folders)
    assert all(value.equal(other[name]) for name, value in one.items())
    assert len({RunFolder(folder).arguments()["fingerprint"] for folder in folders}) == 1


def test_a_run_on_mapped_data_goes_on(logs: Path, tmp_path: Path) -> None:
    options = ["--memory-mapped", "--cache", tmp_path / "cache"]
    succeed("train", "--dataset", logs, "--out", tmp_path / "run", *options, *TINY)
    result = succeed("train", "--resume", tmp_path / "run", "--steps", 4, "--cache", tmp_path / "elsewhere")
    assert "Going on from step 2" in result.output
    assert LLMDPD.load(tmp_path / "run" / "model.zip").num_timesteps == 4


def test_strict_training_refuses_actions_outside(tmp_path: Path) -> None:
    loud = write_steps(tmp_path / "loud.npz", **arrays(ends=(5,), actions=np.full((6, 1), 9.0)))
    unit = ("--action-low", -1, "--action-high", 1, "--strict")
    result = run("train", "--dataset", loud, *unit, "--out", tmp_path / "run", *TINY)
    assert_refused(result, "loud.npz, episode 0: 6 of 6 actions lie outside the action space")
    assert not (tmp_path / "run").exists()


def test_a_pickle_is_opened_only_when_it_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "buffer.pkl").write_bytes(b"whatever it is")
    result = run("train", "--dataset", tmp_path / "buffer.pkl", "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 2
    assert "--allow-pickle" in result.output


def told(command: str, source: object, tmp_path: Path, *options: object) -> Result:
    """Run one of the commands that read data."""
    if command == "train":
        return run("train", "--dataset", source, "--out", tmp_path / "run", *TINY, *options)
    if command == "inspect":
        where = ("--json", tmp_path / "numbers.json", "--text-encoder", "none")
        return run("data", "inspect", source, *where, *options)
    return run("data", "convert", source, "--to", "npz", "--out", tmp_path / "out.npz", *options)


def texts_read(command: str, tmp_path: Path) -> set[str]:
    """Find the sentences that a command has read."""
    if command == "train":
        return set(LLMDPD.load(tmp_path / "run" / "model.zip").known_task_texts)
    if command == "inspect":
        tasks = json.loads((tmp_path / "numbers.json").read_text())["tasks"]
        return {text for task in tasks for text in task["texts"]}
    return {text for one in load_dataset(str(tmp_path / "out.npz")).episodes for text in one.task_texts}


COMMANDS = ["train", "inspect", "convert"]


@pytest.fixture
def in_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of another tool in a folder beside the one that the test is in; it cuts two episodes off."""
    for folder in ("data", "here"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return write_steps(tmp_path / "data" / "logs.npz", **arrays(timeouts=flags(2)))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("key", ["logs", "logs.npz", "../data/logs.npz", "{path}", "npz:{path}"])
def test_each_command_takes_sentences_by_all_names_of_a_file(command, key, in_data, tmp_path):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({key.format(path=in_data): "jump along"}))
    result = told(command, "../data/logs.npz", tmp_path, "--task-texts", texts)
    assert result.exit_code == 0, result.output
    assert texts_read(command, tmp_path) == {"jump along"}


@pytest.fixture(scope="module")
def many_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of 1,200 tasks, and sentences for as many others."""
    folder = tmp_path_factory.mktemp("many")
    episodes = [make_episode(task=f"task-{number}") for number in range(1_200)]
    write_npz(folder / "logs.npz", episodes, BOX, ACTIONS)
    (folder / "texts.json").write_text(json.dumps({f"toss-{number}": "toss it" for number in range(1_200)}))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_refuses_sentences_for_nobody_in_few_words(command, many_tasks, tmp_path):
    result = told(command, many_tasks / "logs.npz", tmp_path, "--task-texts", many_tasks / "texts.json")
    assert result.exit_code == 2, result.output
    assert re.match("Error: `task_texts` speaks of 'toss-0', .* and 1,188 more, but the data", result.stderr)
    assert len(result.stderr) < 1_000
    assert not (tmp_path / "out.npz").exists()


# What is read -----------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_counts_the_steps_that_are_left_out(command, in_data, tmp_path):
    output = told(command, in_data, tmp_path).output
    assert re.search(r"4 (steps|transitions) \(2 more, the last of (2 )?episodes, are left out: ", output)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_that_no_rewards_are_recorded(command, tmp_path):
    path = write_steps(tmp_path / "logs.npz", **arrays(rewards=None, ends=(2, 5)))
    result = told(command, path, tmp_path, *(["--eta", 0] if command == "train" else []))
    assert result.exit_code == 0, result.output
    assert re.search("2 of the episodes record no rewards|No rewards are recorded", result.output)


def test_training_with_the_q_term_refuses_data_without_rewards(tmp_path):
    path = write_steps(tmp_path / "logs.npz", **arrays(rewards=None, ends=(2, 5)))
    result = told("train", path, tmp_path)
    assert_refused(result, r"the data record no rewards, .*eta=0.1: pass eta=0.0 \(--eta 0\)")
    assert not (tmp_path / "run").exists()


def bounds_read(command: str, result: Result, tmp_path: Path) -> list[float]:
    """Find the bounds of actions with which a command has read."""
    if command == "inspect":
        return [
            float(number)
            for number in re.search(r"Actions: .*, from (\S+) to (\S+)\.\n", result.output).groups()
        ]
    if command == "train":
        space = LLMDPD.load(tmp_path / "run" / "model.zip").action_space
    else:
        space = load_dataset(str(tmp_path / "out.npz")).action_space
    return [float(space.low.min()), float(space.high.max())]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("low", "high", "expected"), [("-4", "4", [-4, 4]), ("-4,-1", "2,8.5", [-4, 8.5])])
def test_each_command_takes_the_bounds_of_the_actions(command, low, high, expected, tmp_path):
    path = write_steps(tmp_path / "logs.npz", **arrays(ends=(2, 5), actions=np.full((6, 2), 1.5)))
    result = told(command, path, tmp_path, "--action-low", low, "--action-high", high)
    assert result.exit_code == 0, result.output
    assert bounds_read(command, result, tmp_path) == expected


@pytest.mark.parametrize("command", ["train", "convert"])
def test_actions_outside_are_refused_or_all_clipped(command, tmp_path):
    path = write_steps(tmp_path / "logs.npz", **arrays(ends=(2, 5), actions=np.full((6, 2), 1.5)))
    unit = ("--action-low", -1, "--action-high", 1)
    assert_refused(told(command, path, tmp_path, *unit), "6 of 6 actions lie outside .* probably other units")
    with warned("6 of 6 actions lie outside the action space .* were clipped"):
        result = told(command, path, tmp_path, *unit, "--clip")
    assert result.exit_code == 0, result.output


def test_inspecting_actions_outside_tells_of_them_and_goes_on(tmp_path):
    path = write_steps(tmp_path / "logs.npz", **arrays(ends=(2, 5), actions=np.full((6, 2), 1.5)))
    unit = ("--action-low", -1, "--action-high", 1)
    assert "6 of 6 actions lie outside" in told("inspect", path, tmp_path, *unit).output
    assert "and were clipped" in told("inspect", path, tmp_path, *unit, "--clip").output


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_takes_a_time_limit(command, tmp_path):
    path = write_steps(tmp_path / "logs.npz", **arrays(terminals=None))
    output = told(command, path, tmp_path, "--max-episode-steps", 3).output
    assert re.search("2 episodes of 1 tasks?, 4 (steps|transitions)", output)


def test_a_time_limit_is_for_those_of_several_sources_that_lack_it(logs, tmp_path):
    """As in training, an option of one format does not speak against data of another one."""
    root = tmp_path / "minari"
    write_minari("lab/a-v0", [make_episode()], BOX, ACTIONS, root=root)
    steps = arrays(terminals=None, observations=np.zeros((6, 3)), actions=np.zeros((6, 2)))
    path = write_steps(tmp_path / "steps.npz", **steps)
    output = told("inspect", path, tmp_path, "lab/a-v0", "--root", root, "--max-episode-steps", 3).output
    assert "3 episodes of 2 tasks, 8 steps" in output


@pytest.fixture
def buffer(tmp_path: Path) -> Path:
    """A replay buffer of four steps in [-2, 2], whose actions are 0.5 at most."""
    made = ReplayBuffer(4, BOX, spaces.Box(-2.0, 2.0, (2,), np.float32), device="cpu")
    for step in range(4):
        now, then = np.full((1, 3), step), np.full((1, 3), step + 1)
        made.add(now, then, np.full((1, 2), step / 6), np.ones(1), np.array([step == 3]), [{}])
    save_to_pkl(tmp_path / "buffer.pkl", made)
    return tmp_path / "buffer.pkl"


@pytest.mark.parametrize(
    ("option", "largest"), [((), 1.0), (("--scaled-actions",), 1.0), (("--unscaled-actions",), 0.5)]
)
def test_the_scale_of_a_replay_buffers_actions_is_said_on_the_command_line(option, largest, buffer, tmp_path):
    assert told("convert", buffer, tmp_path, "--allow-pickle", *option).exit_code == 0
    (episode,) = load_dataset(str(tmp_path / "out.npz")).episodes
    assert episode.actions.max() == largest


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--action-low", "x", "--action-high", 1], "--action-low takes numbers between commas, .*; got 'x'"),
        (["--action-low", -1], "`action_low` and `action_high` bound the actions together: give both"),
        (["--action-low", 1, "--action-high", -1], "`action_low` must lie below `action_high`"),
        (["--action-low", "-1,-1,-1", "--action-high", 1], r"an action has the shape \(1,\), and the bounds"),
        (["--strict", "--clip"], "`strict` refuses actions outside the action space, `clip` clips all"),
        (["--scaled-actions"], "`scaled_actions` is an option of sb3, and the data are npz"),
        (["--unscaled-actions"], "`scaled_actions` is an option of sb3, and the data are npz"),
        (
            ["--observation-key", "a"],
            "`observation_key` is an option of lerobot, robomimic, and the data are npz",
        ),
        (["--max-episode-steps", 0], "Invalid value for '--max-episode-steps'"),
    ],
)
def test_each_command_refuses_options_that_cannot_be(command, options, message, in_data, tmp_path):
    assert_refused(told(command, in_data, tmp_path, *options), message)
    assert not (tmp_path / "run").exists()


CONFIG = """
dataset: {path}
text_encoder: hashing:16
net_arch: 16
batch_size: 6
prompts_per_batch: 3
steps: 2
"""


def configured(text: str, path: Path, tmp_path: Path) -> Result:
    config = tmp_path / "options.yaml"
    config.write_text(CONFIG.format(path=path) + text)
    return run("train", "--config", config, "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("action_low: -4\naction_high: 4.5", [-4, 4.5]), ("action_low: [-4, -1]\naction_high: [2, 3]", [-4, 3])],
)
def test_the_bounds_of_the_actions_may_stand_in_a_file_of_options(text, expected, tmp_path):
    path = write_steps(tmp_path / "logs.npz", **arrays(ends=(2, 5), actions=np.full((6, 2), 1.5)))
    result = configured(text, path, tmp_path)
    assert result.exit_code == 0, result.output
    assert bounds_read("train", result, tmp_path) == expected


def test_clipping_and_a_time_limit_may_stand_in_a_file_of_options(tmp_path):
    path = write_steps(tmp_path / "logs.npz", **arrays(terminals=None, actions=np.full((6, 1), 1.5)))
    text = "clip: true\nmax_episode_steps: 3\naction_low: -1\naction_high: 1"
    with warned("4 of 4 actions lie outside .* were clipped"):
        result = configured(text, path, tmp_path)
    assert result.output.startswith("2 episodes of 1 tasks, 4 transitions"), result.output


@pytest.mark.filterwarnings("ignore:1 episodes have no other episode")
@pytest.mark.parametrize("word", ["true", "false"])
def test_the_scale_of_actions_may_stand_in_a_file_of_options(word, buffer, tmp_path):
    result = configured(f"allow_pickle: true\nscaled_actions: {word}", buffer, tmp_path)
    assert result.exit_code == 0, result.output
    assert RunFolder(tmp_path / "run").arguments()["scaled_actions"] is (word == "true")


def test_a_run_goes_on_with_the_way_in_which_its_data_were_read(tmp_path):
    path = write_steps(tmp_path / "logs.npz", **arrays(terminals=None, actions=np.full((6, 1), 1.5)))
    how = ("--action-low", -4, "--action-high", 4, "--max-episode-steps", 3)
    assert told("train", path, tmp_path, *how).exit_code == 0
    result = succeed("train", "--resume", tmp_path / "run", "--steps", 3)
    assert "Going on from step 2" in result.output
    again = run("train", "--config", tmp_path / "run" / "run.json", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
