"""The commands that commands name as next: each works when it is pasted."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from factories import make_episodes, tiny_model, with_dicts
from gymnasium import spaces
from typer.testing import CliRunner

from sb3_llmdpd.cli import app
from sb3_llmdpd.cli.next_command import command, free_folder, measuring_command
from sb3_llmdpd.cli.sources import reading_words
from sb3_llmdpd.data.metaworld.tasks import SPLITS
from sb3_llmdpd.data.npz import write_npz

TINY = (
    "--steps 2 --log-interval 1 --batch-size 6 --prompts-per-batch 3 --net-arch 8 --text-encoder hashing:8"
    " --device cpu"
)
OPTIONS = {"dataset": ["npz:/data/my logs.npz"], "unseen": None, "root": None}


def succeed(words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def paste(line, *more):
    """Run a command line as it was printed."""
    program, *words = shlex.split(line)
    assert program == "sb3-llmdpd"
    return succeed([*words, *more])


def next_of(output):
    return re.search(r"Next: (.*)", output)[1].strip()


def trained_on(tasks, observation_dim=39, action_dim=4, hidden=False, n_episodes=2):
    episodes = make_episodes(len(tasks), n_episodes, 4, observation_dim, action_dim)
    for number, episode in enumerate(episodes):
        object.__setattr__(episode, "task", tasks[number // n_episodes])
        if hidden:
            observations = episode.observations.copy()
            observations[:, -3:] = 0.0
            object.__setattr__(episode, "observations", observations)
    return tiny_model(dataset=episodes, prompts_per_batch=1)


def test_a_model_of_meta_worlds_tasks_plays_those_that_it_has_not_seen():
    line = measuring_command(trained_on(["reach", "push"]), Path("runs/a b/model.zip"), OPTIONS)
    held_out = ",".join(SPLITS["ml45"][1])
    assert line == f"sb3-llmdpd evaluate --model 'runs/a b/model.zip' --unseen {held_out}"


def test_a_model_plays_the_tasks_that_its_training_left_out():
    options = {**OPTIONS, "unseen": "push,drawer-open", "root": "/data"}
    line = measuring_command(trained_on(["reach"]), Path("model.zip"), options)
    assert line == "sb3-llmdpd evaluate --model model.zip --unseen push,drawer-open --root /data"


def test_a_model_that_was_trained_on_the_tasks_usually_held_out_plays_what_it_knows():
    line = measuring_command(trained_on(list(SPLITS["ml45"][1])), Path("model.zip"), OPTIONS)
    tasks = ",".join(sorted(SPLITS["ml45"][1]))
    assert line == f"sb3-llmdpd evaluate --model model.zip --tasks {tasks} --unseen none"


def test_a_model_that_never_saw_a_goal_plays_with_the_goal_hidden():
    line = measuring_command(trained_on(["reach"], hidden=True), Path("model.zip"), OPTIONS)
    assert line == "sb3-llmdpd evaluate --model model.zip --unseen box-close --hide-goal"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"validation": ["0.1"]}, "sb3-llmdpd validate --model runs/a/model.zip"),
        ({"validate_unseen": 1}, "sb3-llmdpd validate --model runs/a/model.zip"),
        (
            {"unseen": "c", "root": "/data", "clip": True, "scaled_actions": False, "action_low": "-1"},
            "sb3-llmdpd validate --model runs/a/model.zip --dataset 'npz:/data/my logs.npz' --root /data"
            " --clip --action-low -1 --unscaled-actions --unseen c",
        ),
        ({}, "sb3-llmdpd train --config runs/a/run.json --validation 0.1 --out runs/a-held-out"),
    ],
)
def test_any_other_model_is_measured_on_logged_data(options, expected):
    model = trained_on(["a", "b"], observation_dim=5, action_dim=2)
    assert measuring_command(model, Path("runs/a/model.zip"), {**OPTIONS, **options}) == expected


@pytest.mark.filterwarnings("ignore:.* have no other episode of their task")
@pytest.mark.parametrize(("tasks", "ends"), [(["a", "b"], "--validate-unseen 1 --out"), (["a"], None)])
def test_of_tasks_with_one_episode_each_whole_tasks_are_held_out_if_there_are_several(tasks, ends):
    model = trained_on(tasks, observation_dim=5, action_dim=2, n_episodes=1)
    line = measuring_command(model, Path("runs/a/model.zip"), OPTIONS)
    assert line is None if ends is None else ends in line


def test_a_folder_that_is_there_gets_a_number(tmp_path):
    assert free_folder(tmp_path / "a") == tmp_path / "a"
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
    assert free_folder(tmp_path / "a") == tmp_path / "a-3"


def test_options_of_reading_that_were_not_given_are_left_out():
    assert reading_words({"strict": False, "scaled_actions": None, "steps": 3}) == []


def test_words_are_quoted_for_a_shell():
    assert command(["train", "--dataset", "lab/*", Path("a b")]) == "sb3-llmdpd train --dataset 'lab/*' 'a b'"


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """A file of three tasks in a folder with a space in its name."""
    folder = tmp_path / "my logs"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    box = spaces.Box(-np.inf, np.inf, (10,), np.float32)
    write_npz(folder / "a.npz", make_episodes(3, 3, 5, 10, 2), box, spaces.Box(-1.0, 1.0, (2,), np.float32))
    return folder / "a.npz"


@pytest.mark.slow
def test_what_train_names_as_next_works(logs):
    output = succeed(["train", "--dataset", logs, *shlex.split(TINY), "--out", "runs/a"])
    second = paste(next_of(output))
    paste(next_of(second))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "dicts", "unrewarded"])
def test_what_convert_names_as_next_works(kind, logs, tmp_path):
    Path("runs/train").mkdir(parents=True)
    (tmp_path / "minari").mkdir()
    source = logs
    if kind == "dicts":
        source = tmp_path / "dicts.npz"
        parts = {"a": spaces.Box(-9, 9, (2,), np.float32), "b": spaces.Box(-9, 9, (8,), np.float32)}
        actions = spaces.Box(-1.0, 1.0, (2,), np.float32)
        write_npz(source, with_dicts(make_episodes(3, 3, 5, 10, 2)), spaces.Dict(parts), actions)
    if kind == "unrewarded":
        source = tmp_path / "plain.npz"
        with np.load(logs) as arrays:
            np.savez(source, **{name: arrays[name] for name in arrays.files if name != "rewards"})
    convert = [
        "data",
        "convert",
        source,
        "--to",
        "minari",
        "--out",
        "lab/all-v0",
        "--root",
        tmp_path / "minari",
    ]
    inspect, train = next_of(succeed(convert)).split(", then ")
    paste(inspect)
    assert "The model is runs/train-2/model.zip" in paste(train, *shlex.split(TINY))


@pytest.mark.slow
def test_what_collect_and_train_on_meta_world_name_as_next_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    collect = "collect metaworld --tasks reach,box-close --episodes 2 --processes 1 --out"
    train = next_of(succeed([*collect.split(), tmp_path / "my data"]))
    output = paste(train, *shlex.split(TINY), "--prompts-per-batch", "2")
    assert json.loads(Path("runs/mine/run.json").read_text())["root"] == str(tmp_path / "my data")
    few = "--episodes 1 --max-steps 2 --processes 1 --conditions text,none"
    paste(next_of(output), *few.split())
