"""The command line: each command does its work, and bad input gets one sentence and exit status 2."""

import inspect
import json
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import sb3_llmdpd
from sb3_llmdpd import LLMDPD
from sb3_llmdpd.cli import app
from sb3_llmdpd.data.metaworld.collection import collect
from sb3_llmdpd.data.minari import local_ids
from sb3_llmdpd.evaluation.rollouts import Rollout

TINY = [
    "--steps",
    "2",
    "--log-interval",
    "1",
    "--batch-size",
    "4",
    "--prompts-per-batch",
    "2",
    "--net-arch",
    "8",
]
TINY += ["--text-encoder", "hashing:8", "--device", "cpu", "--eta", "0"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data sets of two tasks."""
    folder = tmp_path_factory.mktemp("minari")
    collect(["reach", "drawer-close"], n_episodes=2, n_processes=1, root=folder, progress_bar=False)
    return folder


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of the command line's own making."""
    out = tmp_path_factory.mktemp("train")
    result = run("train", "--dataset", "metaworld/*", "--root", root, "--out", out, *TINY)
    assert result.exit_code == 0, result.output
    return out / "model.zip"


# What the commands do -------------------------------------------------------------------------------------------------------


def test_the_version_is_the_packages() -> None:
    assert run("--version").output.strip() == f"sb3-llmdpd {sb3_llmdpd.__version__}"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["collect", "metaworld"], ["--unseen", "--seed", "--out", "--noise", "--episodes"]),
        (
            ["train"],
            ["--dataset", "--unseen", "--seed", "--out", "--steps", "--eta", "--resume", "--save-freq"],
        ),
        (
            ["film"],
            ["--model", "--task", "--condition", "--seed", "--hide-goal", "--max-steps", "--out", "--root"],
        ),
        (
            ["evaluate"],
            ["--model", "--tasks", "--unseen", "--conditions", "--hide-goal", "--shared-scenes", "--phases"],
        ),
        (["quickstart"], ["--seed", "--out", "--smoke"]),
        (["data", "inspect"], ["--root", "--text-encoder", "--json", "--all"]),
        (
            ["benchmark", "metaworld"],
            ["--split", "--unseen", "--goal", "--data", "--seeds", "--variants", "--out", "--root"],
        ),
    ],
)
def test_the_help_of_a_command_explains_it_and_its_options(command: list[str], options: list[str]) -> None:
    output = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert [option for option in options if option not in output] == []
    assert "default:" in output


def test_collect_records_the_tasks_and_names_the_next_command(tmp_path: Path) -> None:
    result = run(
        "collect",
        "metaworld",
        "--tasks",
        "reach",
        "--episodes",
        1,
        "--noise",
        "0,0.1",
        "--out",
        tmp_path,
        "--processes",
        1,
    )
    assert result.exit_code == 0, result.output
    assert "metaworld/reach-v0  the expert succeeded in 100%" in result.output
    assert re.search(
        "Together 1 episodes of 1 tasks, [0-9]+ transitions; 0% of the episodes failed", result.output
    )
    assert "sb3-llmdpd train" in result.output
    assert local_ids(tmp_path) == ["metaworld/reach-v0"]


def test_train_writes_a_model_that_knows_the_sentences_and_its_learning_curve(model: Path) -> None:
    loaded = LLMDPD.load(model)
    assert loaded.num_timesteps == 2
    assert "close the drawer" in loaded.known_task_texts
    assert sorted(path.name for path in model.parent.iterdir()) == [
        "curves.png",
        "model.zip",
        "progress.csv",
        "run.json",
    ]
    assert len((model.parent / "progress.csv").read_text().splitlines()) == 3


def test_train_leaves_out_unseen_tasks(root: Path, tmp_path: Path) -> None:
    result = run(
        "train",
        "--dataset",
        "metaworld/*",
        "--unseen",
        "drawer-close",
        "--root",
        root,
        "--out",
        tmp_path,
        *TINY,
    )
    assert "2 episodes of 1 tasks" in result.output
    assert "close the drawer" not in LLMDPD.load(tmp_path / "model.zip").known_task_texts


def test_train_takes_ways_to_be_faster(root: Path, tmp_path: Path) -> None:
    fast = ["--acceleration", "medium,bfloat16"]
    result = run("train", "--dataset", "metaworld/*", "--root", root, "--out", tmp_path, *TINY, *fast)
    assert result.exit_code == 0, result.output
    assert LLMDPD.load(tmp_path / "model.zip").acceleration == {
        "matmul_precision": "medium",
        "bfloat16": True,
    }


def test_train_refuses_a_way_that_there_is_not(root: Path, tmp_path: Path) -> None:
    result = run(
        "train",
        "--dataset",
        "metaworld/*",
        "--root",
        root,
        "--out",
        tmp_path,
        *TINY,
        "--acceleration",
        "turbo",
    )
    assert result.exit_code != 0
    assert (
        "`acceleration` knows matmul_precision, compile, bfloat16, cuda_graph; got 'turbo'" in result.output
    )


def test_evaluate_plays_a_model_in_fewer_steps(model: Path, tmp_path: Path) -> None:
    small = [
        "--tasks",
        "reach",
        "--conditions",
        "none",
        "--episodes",
        1,
        "--max-steps",
        1,
        "--processes",
        1,
        "--out",
        tmp_path,
    ]
    result = run("evaluate", "--model", model, "--sampler", "ddim", "--sampling-steps", 2, *small)
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert (settings["sampler"], settings["n_sampling_steps"]) == ("ddim", 2)


def test_evaluate_refuses_fewer_steps_without_a_sampler_that_takes_them(model: Path, tmp_path: Path) -> None:
    result = run("evaluate", "--model", model, "--sampling-steps", 2, "--out", tmp_path)
    assert result.exit_code != 0
    assert "--sampling-steps needs --sampler: fewer steps are taken by ddim or dpm_solver++" in result.output


def test_evaluate_writes_results_and_prints_the_tables(model: Path, tmp_path: Path) -> None:
    arguments = [
        "--tasks",
        "reach,drawer-close",
        "--unseen",
        "drawer-close",
        "--conditions",
        "text,wrong,expert,told:reach",
    ]
    small = ["--episodes", 1, "--examples", 1, "--max-steps", 2, "--processes", 1]
    result = run(
        "evaluate", "--model", model, "--root", tmp_path / "data", "--out", tmp_path, *arguments, *small
    )
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "results.json").read_text())
    assert [(cell["task"], cell["seen"], cell["condition"]["name"]) for cell in document["cells"]][:3] == [
        ("reach", True, "text"),
        ("reach", True, "wrong"),
        ("reach", True, "expert"),
    ]
    assert document["settings"]["n_episodes"] == 1
    assert "unseen (1)" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data",
        "results.json",
        "results.md",
        "success.png",
    ]


def test_hidden_goals_go_from_the_data_through_the_training_into_an_evaluation_on_the_examples_goals(
    tmp_path: Path,
) -> None:
    data = [
        "--tasks",
        "reach,drawer-close",
        "--episodes",
        2,
        "--hide-goal",
        "--episodes-per-goal",
        2,
        "--processes",
        1,
    ]
    assert run("collect", "metaworld", *data, "--out", tmp_path / "data").exit_code == 0
    out = tmp_path / "run"
    trained = run(
        "train", "--dataset", "metaworld/*", "--same-goal", "--root", tmp_path / "data", "--out", out, *TINY
    )
    assert trained.exit_code == 0, trained.output
    small = ["--episodes", 2, "--max-steps", 2, "--processes", 1, "--phases"]
    conditions = ["--tasks", "reach,drawer-close", "--conditions", "trajectory,wrong-trajectory,antonym,copy"]
    where = ["--root", tmp_path / "data", "--out", tmp_path / "results"]
    result = run("evaluate", "--model", out / "model.zip", "--hide-goal", *conditions, *small, *where)
    assert result.exit_code == 0, result.output
    assert "In drawer-close the goal is a part of the object, or hardly moves" in result.output
    assert "No task is the opposite of reach" in result.output
    document = json.loads((tmp_path / "results" / "results.json").read_text())
    names = [(cell["task"], cell["condition"]["name"]) for cell in document["cells"]]
    assert names == [("reach", "trajectory"), ("reach", "wrong-trajectory"), ("reach", "copy")]
    assert [len(cell["phases"]) for cell in document["cells"]] == [2, 2, 2]
    assert local_ids(tmp_path / "data")[0] == "metaworld-examples/reach-hidden-v0"


def test_shared_scenes_are_played_beside_the_tasks(model: Path, tmp_path: Path) -> None:
    small = ["--episodes", 1, "--max-steps", 1, "--processes", 1, "--tasks", "reach", "--conditions", "none"]
    result = run("evaluate", "--model", model, "--shared-scenes", "--out", tmp_path, *small)
    assert result.exit_code == 0, result.output
    told = re.findall(r"^(\S+) +(\S+) +\d\.\d\d \[", result.output, flags=re.MULTILINE)
    assert ("pick-place", "reach") in told
    assert ("reach", "pick-place") not in told


def test_with_the_goal_hidden_the_scene_that_is_filmed_has_the_goal_of_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filmed: dict[str, Any] = {}

    def film_episode(*arguments: Any, **options: Any) -> Rollout:
        filmed.update(options, prompt=arguments[3], env=options["make_env"]("reach"))
        return Rollout(0, 0.0, 7, None, False)

    film = import_module("sb3_llmdpd.cli.film")  # the name in the package is the function's
    monkeypatch.setattr(film, "film_episode", film_episode)
    monkeypatch.setattr(film, "N_EPISODES", 2)
    result = run(
        "film",
        "--model",
        "m.zip",
        "--task",
        "reach",
        "--hide-goal",
        "--root",
        tmp_path,
        "--out",
        tmp_path / "a.mp4",
    )
    assert result.exit_code == 0, result.output
    assert filmed["goal"] == filmed["prompt"].trajectory.goal is not None
    assert not filmed["env"].goal_visible


def test_the_defaults_of_train_are_those_of_the_algorithm() -> None:
    from sb3_llmdpd.cli.train import train

    command, algorithm = inspect.signature(train).parameters, inspect.signature(LLMDPD).parameters
    shared = set(command) & set(algorithm) - {"dataset", "policy", "seed"}
    assert {name: command[name].default for name in shared} == {
        name: algorithm[name].default for name in shared
    }
    assert {"batch_size", "eta", "gamma", "text_dropout", "text_encoder"} <= shared


# Bad input ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["collect", "metaworld", "--tasks", "draw-open"],
            "unknown Meta-World task 'draw-open': did you mean 'drawer-open'",
        ),
        (["collect", "metaworld", "--split", "ml46"], "unknown split 'ml46': use 'ml10' or 'ml45'"),
        (
            ["collect", "metaworld", "--unseen", "reach,"],
            "--unseen takes names between commas, as in .*; got 'reach,'",
        ),
        (["collect", "metaworld", "--tasks", "reach", "--unseen", "push"], "give either --tasks or --unseen"),
        (
            ["collect", "metaworld", "--tasks", "reach", "--noise", "low"],
            "--noise takes numbers between commas",
        ),
        (
            ["collect", "metaworld", "--tasks", "reach", "--episodes", "0"],
            "`n_episodes` and `episodes_per_goal` must be at least 1",
        ),
        (["train"], "Missing option '--dataset'"),
        (
            ["train", "--dataset", "metaworld/push-v0"],
            "no Minari data set 'metaworld/push-v0' in .*nearest there: metaworld/",
        ),
        (
            ["train", "--dataset", "d4rl/*"],
            "'d4rl/\\*' fits none of the local data sets: metaworld/drawer-close-v0",
        ),
        (
            ["train", "--dataset", "metaworld/*", "--unseen", "rech"],
            "--unseen names rech, and the tasks of the data are drawer",
        ),
        (
            ["train", "--dataset", "metaworld/*", "--unseen", "reach,drawer-close"],
            "--unseen leaves no episode",
        ),
        (["train", "--dataset", "metaworld/*", "--text-encoder", "gpt"], "unknown text encoder 'gpt'"),
        (
            ["train", "--dataset", "metaworld/*", *TINY, "--conditioning", "film"],
            "`conditioning` must be one of .*, got 'film'",
        ),
        (
            ["train", "--dataset", "metaworld/*", *TINY, "--net-arch", "8,x"],
            "--net-arch takes whole numbers between commas",
        ),
        (
            ["train", "--dataset", "metaworld/*", *TINY, "--policy", "Mlp"],
            "--policy must be one of MlpPolicy, .*, got 'Mlp'",
        ),
        (
            ["train", "--dataset", "metaworld/*", *TINY, "--device", "tpu"],
            "--device: Expected one of cpu, cuda",
        ),
        (
            ["train", "--dataset", "metaworld/*", *TINY, "--steps", "0"],
            "Invalid value for '--steps': .* greater than or equal to 1",
        ),
        (
            ["train", "--dataset", "metaworld/*", *TINY, "--out", "/dev/null/x"],
            "Not a directory: '/dev/null/x'",
        ),
        (["train", "--dataset", "metaworld/*", "--steps", "many"], "Invalid value for '--steps'"),
        (["evaluate", "--model", "nowhere.zip"], "there is no model file at nowhere.zip"),
        (["film", "--model", "m.zip", "--task", "rech"], "unknown Meta-World task 'rech': did you mean"),
        (
            ["film", "--model", "m.zip", "--task", "reach", "--condition", "expert"],
            "--condition takes one of text",
        ),
        (
            ["film", "--model", "m.zip", "--task", "reach", "--root", "/dev/null", "--out", "a.gif"],
            "a film is an .mp4 or a .png",
        ),
        (["evaluate", "--model", __file__], "is not a whole model file of sb3_llmdpd"),
        (["quickstart", "--out", "/dev/null/x"], "Not a directory: '/dev/null/x'"),
    ],
)
def test_bad_input_gets_its_sentence_and_exit_status_2(
    arguments: list[str], message: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    assert_refused(arguments, message)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conditions", "txt"], "unknown condition 'txt': use text\\+trajectory"),
        (["--tasks", "reach", "--conditions", "wrong"], "evaluate at least two, or leave it out"),
        (
            ["--tasks", "door-lock", "--conditions", "none", "--hide-goal"],
            "--hide-goal leaves none of the tasks",
        ),
        (
            ["--tasks", "reach", "--conditions", "antonym"],
            "`cells` is empty: name at least one task and condition",
        ),
        (["--conditions", "text+trajectory", "--examples", "0"], "must be at least 1, got 0"),
        (["--unseen", "drawer-shut"], "unknown Meta-World task 'drawer-shut'"),
        (["--conditions", "none", "--episodes", "0"], "`n_episodes` must be at least 1, got 0"),
        (["--conditions", "told:nothing", "--episodes", "1"], "unknown Meta-World task 'nothing'"),
    ],
)
def test_an_evaluation_that_cannot_be_gets_its_sentence_and_exit_status_2(
    arguments: list[str], message: str, model: Path, tmp_path: Path
) -> None:
    assert_refused(["evaluate", "--model", str(model), "--out", str(tmp_path), *arguments], message)


def test_debug_shows_where_an_error_was_noticed() -> None:
    result = run("--debug", "collect", "metaworld", "--tasks", "draw-open")
    assert isinstance(result.exception, ValueError)


def assert_refused(arguments: Sequence[str], message: str) -> None:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert re.search(message, result.output), result.output
