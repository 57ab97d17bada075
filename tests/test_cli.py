"""The command line: each command does its work, and bad input gets one sentence and exit status 2."""

import inspect
import json
import pickle
import re
import subprocess
import sys
from concurrent.futures.process import _ExceptionWithTraceback
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

import sb3_llmdpd
from sb3_llmdpd import LLMDPD
from sb3_llmdpd.cli import app
from sb3_llmdpd.cli.mistakes import is_mistake
from sb3_llmdpd.cli.model_options import parameter_docs, plain_help
from sb3_llmdpd.cli.train import train
from sb3_llmdpd.common.schedules import CosineSchedule
from sb3_llmdpd.data.metaworld.collection import collect
from sb3_llmdpd.data.metaworld.tasks import split
from sb3_llmdpd.data.minari import local_ids
from sb3_llmdpd.evaluation.rollouts import Rollout
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy

TINY = (
    "--steps 2 --log-interval 1 --batch-size 4 --prompts-per-batch 2 --net-arch 8 --text-encoder hashing:8"
    " --device cpu --eta 0"
)


def run(command: str, *more: object) -> Result:
    """Run a command line of words without spaces, and whatever else stands behind them."""
    arguments = [*command.split(), *map(str, more)]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})


def succeed(command: str, *more: object) -> Result:
    result = run(command, *more)
    assert result.exit_code == 0, result.output
    return result


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
    succeed(f"train --dataset metaworld/* {TINY} --root", root, "--out", out)
    return out / "model.zip"


def test_the_version_is_the_packages() -> None:
    assert run("--version").output.strip() == f"sb3-llmdpd {sb3_llmdpd.__version__}"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("collect metaworld", "--unseen --seed --out --noise --episodes"),
        ("train", "--dataset --unseen --seed --out --steps --eta --resume --save-freq --config"),
        ("train", "--no-layer-norm"),
        ("film", "--model --task --condition --seed --hide-goal --max-steps --out --root"),
        ("evaluate", "--model --tasks --unseen --conditions --hide-goal --shared-scenes --phases"),
        ("quickstart", "--seed --out --smoke"),
        ("data inspect", "--root --text-encoder --json --all"),
        ("benchmark metaworld", "--split --unseen --goal --data --seeds --variants --out --root"),
    ],
)
def test_the_help_of_a_command_explains_it_and_its_options(command: str, options: str) -> None:
    output = run(command, "--help").output
    assert [option for option in options.split() if option not in output] == []
    assert "default:" in output


@pytest.mark.parametrize("command", ["train", "data inspect", "data convert"])
def test_each_command_that_reads_data_has_the_options_of_reading(command: str) -> None:
    options = "--task-texts --strict --clip --action-low --action-high --flatten --max-episode-steps"
    output = run(command, "--help").output
    more = "--observation-key --action-key --scaled-actions --unscaled-actions --allow-pickle"
    assert [option for option in f"{options} {more}".split() if option not in output] == []


def test_collect_records_the_tasks_and_names_the_next_command(tmp_path: Path) -> None:
    recipe = "--tasks reach --episodes 1 --noise 0,0.1 --processes 1"
    result = succeed(f"collect metaworld {recipe} --out", tmp_path)
    assert "metaworld/reach-v0  the expert succeeded in 100%" in result.output
    together = "Together 1 episodes of 1 tasks, [0-9]+ transitions; 0% of the episodes failed"
    assert re.search(together, result.output)
    assert "sb3-llmdpd train" in result.output
    assert local_ids(tmp_path) == ["metaworld/reach-v0"]


def test_train_writes_a_model_that_knows_the_sentences_and_its_learning_curve(model: Path) -> None:
    loaded = LLMDPD.load(model)
    assert loaded.num_timesteps == 2
    assert "close the drawer" in loaded.known_task_texts
    names = {path.name for path in model.parent.iterdir()}
    assert names == {".lock", "curves.png", "model.zip", "progress.csv", "run.json"}
    assert len((model.parent / "progress.csv").read_text().splitlines()) == 3


def test_train_leaves_out_unseen_tasks(root: Path, tmp_path: Path) -> None:
    result = run(f"train --dataset metaworld/* --unseen drawer-close {TINY} --root", root, "--out", tmp_path)
    assert "2 episodes of 1 tasks" in result.output
    assert "close the drawer" not in LLMDPD.load(tmp_path / "model.zip").known_task_texts


def test_train_takes_ways_to_be_faster(root: Path, tmp_path: Path) -> None:
    fast = f"train --dataset metaworld/* {TINY} --acceleration"
    succeed(f"{fast} medium,bfloat16 --root", root, "--out", tmp_path)
    acceleration = LLMDPD.load(tmp_path / "model.zip").acceleration
    assert acceleration == {"matmul_precision": "medium", "bfloat16": True}
    unknown = "`acceleration` knows matmul_precision, compile, bfloat16, cuda_graph; got 'turbo'"
    assert_refused(run(f"{fast} turbo --root", root, "--out", tmp_path / "no"), unknown)


def test_evaluate_plays_a_model_in_fewer_steps(model: Path, tmp_path: Path) -> None:
    small = "--tasks reach --conditions none --episodes 1 --max-steps 1 --processes 1"
    succeed(f"evaluate --sampler ddim --sampling-steps 2 {small} --model", model, "--out", tmp_path)
    settings = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert (settings["sampler"], settings["n_sampling_steps"]) == ("ddim", 2)


def test_evaluate_refuses_fewer_steps_without_a_sampler_that_takes_them(model: Path, tmp_path: Path) -> None:
    result = run("evaluate --sampling-steps 2 --model", model, "--out", tmp_path)
    message = "`sampler='ddpm'` takes all 5 steps, got n_sampling_steps=2: take 'ddim' or 'dpm_solver\\+\\+'"
    assert_refused(result, message)


def test_evaluate_writes_results_and_prints_the_tables(model: Path, tmp_path: Path) -> None:
    conditions = "--tasks reach,drawer-close --unseen drawer-close --conditions text,wrong,expert,told:reach"
    small = "--episodes 1 --examples 1 --max-steps 2 --processes 1"
    places = ("--model", model, "--root", tmp_path / "data", "--out", tmp_path)
    result = succeed(f"evaluate {conditions} {small}", *places)
    document = json.loads((tmp_path / "results.json").read_text())
    cells = [(cell["task"], cell["seen"], cell["condition"]["name"]) for cell in document["cells"]]
    assert cells[:3] == [("reach", True, "text"), ("reach", True, "wrong"), ("reach", True, "expert")]
    assert document["settings"]["n_episodes"] == 1
    assert "unseen (1)" in result.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"data", "results.json", "results.md", "success.png"}


def test_hidden_goals_go_from_the_data_through_the_training_into_an_evaluation_on_the_examples_goals(
    tmp_path,
):
    data, out, tasks = tmp_path / "data", tmp_path / "run", "--tasks reach,drawer-close"
    recipe = f"{tasks} --episodes 2 --hide-goal --episodes-per-goal 2 --processes 1"
    succeed(f"collect metaworld {recipe} --out", data)
    succeed(f"train --dataset metaworld/* --same-goal {TINY} --root", data, "--out", out)
    small = "--episodes 2 --max-steps 2 --processes 1 --phases"
    conditions = "trajectory,wrong-trajectory,antonym,copy"
    places = ("--model", out / "model.zip", "--root", data, "--out", tmp_path / "results")
    result = succeed(f"evaluate --hide-goal {tasks} --conditions {conditions} {small}", *places)
    assert "In drawer-close the goal is a part of the object, or hardly moves" in result.output
    assert "No task is the opposite of reach" in result.output
    document = json.loads((tmp_path / "results" / "results.json").read_text())
    names = [(cell["task"], cell["condition"]["name"]) for cell in document["cells"]]
    assert names == [("reach", "trajectory"), ("reach", "wrong-trajectory"), ("reach", "copy")]
    assert [len(cell["phases"]) for cell in document["cells"]] == [2, 2, 2]
    assert local_ids(data)[0] == "metaworld-examples/reach-hidden-v0"


def test_shared_scenes_are_played_beside_the_tasks(model: Path, tmp_path: Path) -> None:
    small = "--episodes 1 --max-steps 1 --processes 1 --tasks reach --conditions none"
    result = succeed(f"evaluate --shared-scenes {small} --model", model, "--out", tmp_path)
    told = re.findall(r"^(\S+) +(\S+) +\d\.\d\d \[", result.output, flags=re.MULTILINE)
    assert ("pick-place", "reach") in told
    assert ("reach", "pick-place") not in told


def test_with_the_goal_hidden_the_scene_that_is_filmed_has_the_goal_of_the_example(
    model, tmp_path, monkeypatch
):
    filmed: dict[str, Any] = {}

    def film_episodes(*arguments: Any, **options: Any) -> list[Rollout]:
        filmed.update(options, prompts=arguments[3], env=options["suite"].make_env("reach"))
        return [Rollout(0, 0.0, 0.0, 7, None, False)]

    film = import_module("sb3_llmdpd.cli.film")  # the name in the package is the function's
    monkeypatch.setattr(film, "film_episodes", film_episodes)
    monkeypatch.setattr(film.recorded, "N_EPISODES", 2)
    places = ("--root", tmp_path, "--out", tmp_path / "a.mp4")
    succeed("film --task reach --hide-goal --model", model, *places)
    (goal,), (prompt,) = filmed["goals"], filmed["prompts"]
    assert goal == prompt.trajectory.goal is not None
    assert not filmed["env"].goal_visible


def test_the_options_of_train_are_the_arguments_of_the_algorithm_and_its_policy() -> None:
    options = inspect.signature(train).parameters
    for constructor in (LLMDPD, LLMDPDPolicy):
        for name, argument in inspect.signature(constructor).parameters.items():
            is_plain = isinstance(argument.default, bool | int | float | str)
            if is_plain and name not in ("_init_setup_model", "stats_window_size", "text_dim", "state_value"):
                assert options[name].default == argument.default
    others = "policy net_arch acceleration features_extractor q_batch_size critic_learning_rate"
    assert {*others.split(), "tensorboard_log"} <= set(options)


class Documented:
    """A class.

    :param share: share of `it`, in [0, 1); see `There`. 0 is
        none.
    :param way: ``"a"``: the first (https://b.c/d). ``"b"``: the second, see `make`. More of it.
    :raises ValueError: when it fails.
    """


@pytest.mark.parametrize(
    ("name", "expected"), [("share", "Share of it, in [0, 1)."), ("way", "a: the first. b: the second.")]
)
def test_help_is_made_of_the_first_sentence_and_those_that_name_a_value(name: str, expected: str) -> None:
    assert plain_help(parameter_docs(Documented)[name]) == expected


def test_options_become_the_arguments_of_a_model(root: Path, tmp_path: Path) -> None:
    given = "--tau 0.25 --n-critics 3 --layer-norm --text-encoder none --text-dropout 1 --reward-scale none"
    succeed(f"train --dataset metaworld/* {TINY} {given} --cosine --root", root, "--out", tmp_path)
    model = LLMDPD.load(tmp_path / "model.zip")
    assert (model.tau, model.text_encoder, model.reward_scale) == (0.25, None, "none")
    assert (model.policy_kwargs["n_critics"], model.policy_kwargs["layer_norm"]) == (3, True)
    assert model.learning_rate == CosineSchedule(1e-3)


COLLECT, TRAIN = "collect metaworld --tasks", f"train --dataset metaworld/* {TINY}"
NOT_THERE = "no Minari data set 'metaworld/push-v0'"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{COLLECT} draw-open", "unknown Meta-World task 'draw-open': did you mean 'drawer-open'"),
        ("collect metaworld --split ml46", "unknown split 'ml46': use 'ml10' or 'ml45'"),
        ("collect metaworld --unseen reach,", "--unseen takes names between commas, as in .*; got 'reach,'"),
        (f"{COLLECT} reach --unseen push", "give either --tasks or --unseen"),
        (f"{COLLECT} reach --noise low", "--noise takes numbers between commas"),
        (f"{COLLECT} reach --episodes 0", "`n_episodes` and `episodes_per_goal` must be at least 1"),
        ("train", "Missing option '--dataset'"),
        ("train --dataset metaworld/push-v0", f"{NOT_THERE} in .*nearest there: metaworld/"),
        (
            "train --dataset d4rl/*",
            r"'d4rl/\*' fits no file, and none of the local data sets: metaworld/drawer-close-v0",
        ),
        (f"{TRAIN} --unseen rech", "--unseen names rech, and the tasks of the data are drawer"),
        (f"{TRAIN} --unseen reach,drawer-close", "--unseen leaves no episode"),
        ("train --dataset metaworld/* --text-encoder gpt", "unknown text encoder 'gpt'"),
        (f"{TRAIN} --conditioning film", "`conditioning` must be one of .*, got 'film'"),
        (f"{TRAIN} --net-arch 8,x", "--net-arch takes whole numbers between commas"),
        (f"{TRAIN} --policy Mlp", "--policy must be one of MlpPolicy, .*, got 'Mlp'"),
        (f"{TRAIN} --device tpu", "--device: `device`: Expected one of cpu"),
        (f"{TRAIN} --device cuda:9", "`device` is 'cuda:9', and PyTorch finds none here: use 'cpu'"),
        (
            f"{TRAIN} --policy CnnPolicy",
            "`CnnPolicy`, .*, reads images, .*; got .* For vectors use 'MlpPolicy'",
        ),
        (f"{TRAIN} --strict true", "--strict is a switch, given or left out, and takes no value: got 'true'"),
        ("data inspect a.npz --clip yes", "--clip is a switch, .*: got 'yes'"),
        (f"{TRAIN} --strict=true", "Option '--strict' does not take a value"),
        (f"{TRAIN} surplus", r"Got unexpected extra argument.*\(surplus\)"),
        ("train --stepz 2", "No such option: --stepz .Possible options: .*--steps"),
        ("trian", "No such command 'trian'. Did you mean 'train'"),
        ("--verbose", "No such option: --verbose"),
        ("train --dataset /etc/passwd", "a file or folder as npz:PATH"),
        (f"{TRAIN} --steps 0", "Invalid value for '--steps': .* greater than or equal to 1"),
        (f"{TRAIN} --out /dev/null/x", "Not a directory: '/dev/null/x'"),
        ("train --dataset metaworld/* --steps many", "Invalid value for '--steps'"),
        ("evaluate --model nowhere.zip", "there is no model file at nowhere.zip"),
        ("film --model m.zip --task rech", "unknown Meta-World task 'rech': did you mean"),
        ("film --model m.zip --task reach --condition expert", "--condition takes one of text"),
        ("film --model m.zip --task reach --root /dev/null --out a.gif", "a film is an .mp4 or a .png"),
        (f"evaluate --model {__file__}", "is not a whole model file of sb3_llmdpd"),
        ("quickstart --out /dev/null/x", "Not a directory: '/dev/null/x'"),
        ("benchmark report", "Missing argument 'folders'"),
        ("benchmark report .", "holds no results.json: name the folder of a benchmark or an evaluation"),
    ],
)
def test_bad_input_gets_its_sentence_and_exit_status_2(command, message, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    assert_refused(run(command), message)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--conditions txt", r"unknown condition 'txt': use text\+trajectory"),
        ("--tasks reach --conditions wrong", "evaluate at least two, or leave it out"),
        ("--tasks door-lock --conditions none --hide-goal", "--hide-goal leaves none of the tasks"),
        ("--tasks reach --conditions antonym", "`cells` is empty: name at least one task and condition"),
        ("--conditions text+trajectory --examples 0", "must be at least 1, got 0"),
        ("--unseen drawer-shut", "unknown Meta-World task 'drawer-shut'"),
        ("--conditions none --episodes 0", "`n_episodes` must be at least 1, got 0"),
        ("--conditions told:nothing --episodes 1", "unknown Meta-World task 'nothing'"),
    ],
)
def test_an_evaluation_that_cannot_be_gets_its_sentence_and_exit_status_2(options, message, model, tmp_path):
    assert_refused(run(f"evaluate {options} --model", model, "--out", tmp_path), message)


@pytest.mark.parametrize(
    "command",
    [
        *("collect metaworld --tasks reach", TRAIN, "evaluate --model m.zip", "quickstart --smoke"),
        *("benchmark metaworld", "benchmark d4rl --dataset hopper", "benchmark report ."),
    ],
)
def test_a_file_in_the_place_of_the_output_folder_is_refused(command, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    (tmp_path / "a.txt").write_text("kept")
    assert_refused(run(f"{command} --out a.txt"), "Invalid value for '--out'.*'a.txt' is a file")
    assert (tmp_path / "a.txt").read_text() == "kept"


@pytest.mark.parametrize("arguments", [["data"], []])
def test_a_command_alone_shows_its_help(arguments: list[str]) -> None:
    result = run(*(arguments or [""]))
    assert (result.exit_code, "Commands" in result.output, "Error" in result.output) == (2, True, False)


def test_version_and_help_import_no_torch() -> None:
    code = (
        "import contextlib, sys; from sb3_llmdpd.cli import main\n"
        "for word in ('--version', '--help'):\n"
        "    sys.argv = ['sb3-llmdpd', word]\n"
        "    with contextlib.suppress(SystemExit): main()\n"
        "print(*(name for name in ('torch', 'numpy', 'gymnasium') if name in sys.modules), 'are imported')"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"sb3-llmdpd {sb3_llmdpd.__version__}" in finished.stdout, finished.stderr
    assert finished.stdout.splitlines()[-1] == "are imported"


def test_the_help_of_all_commands_says_of_each_what_its_own_help_says() -> None:
    group: Any = typer.main.get_command(app)
    own = {name: group.imported(name).help.partition("\n\n")[0] for name in group.commands}
    assert {name: command.help for name, command in group.commands.items()} == own


def test_a_bug_keeps_its_traceback_and_gets_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def collect(*arguments: Any, **options: Any) -> None:
        int("no number")  # of Python's, which nobody foresaw

    monkeypatch.setattr(import_module("sb3_llmdpd.cli.collect"), "collect", collect)
    result = run("collect metaworld --tasks reach")
    assert (result.exit_code, type(result.exception)) == (1, ValueError)


def test_a_mistake_is_what_the_package_raises_and_what_the_system_refuses() -> None:
    def error_of(call: Any) -> Exception:
        with pytest.raises((ValueError, TypeError, OSError)) as caught:
            call()
        return caught.value

    assert is_mistake(error_of(lambda: split("ml46", None)))
    assert is_mistake(error_of(lambda: Path("/nowhere").read_text()))
    assert not is_mistake(error_of(lambda: split(None, 7)))
    assert not is_mistake(error_of(lambda: np.zeros(3).reshape(2, 2)))


def test_a_mistake_that_a_worker_noticed_is_one_here() -> None:
    def of_a_worker(call: Any) -> Exception:
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        sent = pickle.dumps(_ExceptionWithTraceback(caught.value, caught.tb))
        return pickle.loads(sent)

    assert is_mistake(of_a_worker(lambda: split("ml46", None)))
    assert not is_mistake(of_a_worker(lambda: split(None, 7)))


def test_debug_shows_where_an_error_was_noticed() -> None:
    assert isinstance(run("--debug collect metaworld --tasks draw-open").exception, ValueError)


def assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert re.search(message, result.output), result.output
