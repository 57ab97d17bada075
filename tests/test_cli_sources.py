"""The commands read any source: names, patterns, sentences from a file, and training on what stays in one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import refused
from factories import make_episodes
from step_files import arrays, write_steps
from typer.testing import CliRunner, Result

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.cli import app
from sb3_llmdpd.cli.sources import read_task_texts, source_names
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.minari_writer import write_minari
from sb3_llmdpd.data.npz import write_npz

OPTIONS = {"text-encoder": "hashing:16", "net-arch": 16, "batch-size": 6, "prompts-per-batch": 3, "steps": 2}
TINY = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


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


def test_a_pattern_stands_for_the_local_ids_that_fit_it(tmp_path: Path, data: OfflineDataset) -> None:
    for name in ("lab/a-v0", "lab/b-v0", "other/c-v0"):
        write_minari(name, data.episodes[:2], data.observation_space, data.action_space, root=tmp_path)
    assert source_names(["lab/*", "other/c-v0"], tmp_path) == ["lab/a-v0", "lab/b-v0", "other/c-v0"]
    with refused(r"'b/\*' fits none of the local data sets: lab/a-v0, lab/b-v0, other/c-v0"):
        source_names(["b/*"], tmp_path)


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
    result = run("train", "--dataset", loud, "--strict", "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 2
    assert "actions lie outside the action space" in result.output
    assert not (tmp_path / "run").exists()


def test_a_pickle_is_opened_only_when_it_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "buffer.pkl").write_bytes(b"whatever it is")
    result = run("train", "--dataset", tmp_path / "buffer.pkl", "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 2
    assert "--allow-pickle" in result.output
