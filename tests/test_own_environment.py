"""Evaluation and films in any Gymnasium environment: its tasks, its spaces, its successes or returns."""

import json
import pickle
import re
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from factories import make_episode, make_episodes, model_of, tiny_model, with_dicts
from gymnasium import spaces
from toys import SpacesEnv
from typer.testing import CliRunner

from sb3_llmdpd.benchmarks.common.evaluation_folder import evaluate_into
from sb3_llmdpd.cli import app
from sb3_llmdpd.data.npz import write_npz
from sb3_llmdpd.evaluation.conditions import default_conditions, make_cells
from sb3_llmdpd.evaluation.gymnasium_suite import GymnasiumSuite
from sb3_llmdpd.evaluation.players import ModelPlayer
from sb3_llmdpd.evaluation.report import summarise, tables
from sb3_llmdpd.evaluation.results import read_results
from sb3_llmdpd.evaluation.suite import check_playable
from sb3_llmdpd.evaluation.tasks import evaluate_tasks
from sb3_llmdpd.evaluation.video import film_episodes
from sb3_llmdpd.prompts.prompt import Prompt

PULLS = {"up": 1.0, "down": -1.0, "stay": 0.0}
TEXTS = {task: f"go {task}" for task in PULLS}


class Ten(gym.Env):
    """A point in ten dimensions, of which an action moves the first; the task says which way is good."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012 - gymnasium's own declaration
    observation_space = spaces.Box(-np.inf, np.inf, (10,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, task=None, says_success=True, render_mode=None):
        self.given, self.says_success, self.render_mode = task, says_success, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = self.given or (options or {})["task"]
        self.pull = PULLS[self.task]
        self.point = self.np_random.normal(size=10)
        return self.point.copy(), {}

    def step(self, action):
        self.point[0] += 0.1 * action[0]
        told = {"is_success": bool(self.pull > 0)} if self.says_success else {}
        return self.point.copy(), self.pull, False, False, told

    def render(self):
        return np.full((16, 16, 3), 128, np.uint8)

    def expert_action(self, observation):
        return np.array([self.pull], np.float32)


class Deaf(Ten):
    """Never looks at the options of its reset."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options={"task": "up"})


class Blind(Ten):
    """Cannot draw itself, and has no expert."""

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own declaration
    expert_action = property()


class Copying(Ten):
    """Reads its task from a copy of the options."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options={} | options)


class OfDicts(Ten):
    """Has observations of another kind."""

    observation_space = spaces.Dict(point=Ten.observation_space)


class OfLabels(Ten):
    """Has actions of another kind."""

    action_space = spaces.Discrete(3)


class Narrow(Ten):
    """Has a smaller range of actions."""

    action_space = spaces.Box(-0.5, 0.5, (1,), np.float32)


class Wide(Ten):
    """Has a larger range of actions."""

    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)


for env_class in (Ten, Deaf, Blind, Copying, OfDicts, OfLabels, Narrow, Wide):
    gym.register(f"own/{env_class.__name__}-v0", env_class, max_episode_steps=4)
gym.register("own/Endless-v0", Ten)
for name in PULLS:
    gym.register(f"own/Ten-{name}-v0", Ten, max_episode_steps=4, kwargs={"task": name})


def episodes(success=None):
    rng = np.random.default_rng(0)
    return [
        make_episode(
            observations=rng.normal(size=(5, 10)),
            actions=rng.uniform(-1, 1, (4, 1)),
            rewards=np.full(4, pull),
            task=task,
            task_texts=(TEXTS[task],),
            success=success,
        )
        for task, pull in PULLS.items()
        for _ in range(2)
    ]


@pytest.fixture(scope="module")
def model():
    return tiny_model(dataset=episodes()).learn(1)


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """A folder with a model, examples, and sentences."""
    folder = tmp_path_factory.mktemp("files")
    model.save(folder / "model.zip")
    write_npz(folder / "logs.npz", episodes(), model.observation_space, model.action_space)
    texts = {task: [text, f"please {text} now"] for task, text in TEXTS.items()}
    (folder / "texts.json").write_text(json.dumps(texts))
    return folder


def played(model, suite, conditions=("text", "none"), **arguments):
    cells = make_cells(list(PULLS), conditions, suite=suite)
    few = dict(n_episodes=2, n_processes=1, progress_bar=False)
    return evaluate_tasks(model, cells, suite=suite, **few | arguments)


def evaluate(files, env, *more):
    places = ("--model", files / "model.zip", "--task-texts", files / "texts.json", "--out", files / "out")
    small = ("--env", env, "--episodes", "2", "--processes", "1", *more)
    words = map(str, ("evaluate", *places, *small))
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.mark.parametrize(
    ("env_id", "env_kwargs"),
    [
        ("own/Ten-v0", {}),
        ("own/Ten-v0", {"task": "{task}"}),
        ("own/Ten-{task}-v0", {}),
        ("own/Copying-v0", {}),
    ],
)
def test_the_environment_learns_its_task_by_option_by_argument_and_by_id(model, env_id, env_kwargs):
    results = played(model, GymnasiumSuite(env_id, env_kwargs, TEXTS), ["none"])
    assert [result.returns for result in results] == [(4.0, 4.0), (-4.0, -4.0), (0.0, 0.0)]


def test_an_argument_within_an_argument_names_the_task_too():
    suite = GymnasiumSuite("own/Ten-v0", {"task": "{task}", "says_success": False})
    with_name = pickle.loads(pickle.dumps(suite)).make_env("down").unwrapped
    assert (with_name.given, with_name.says_success) == ("down", False)


def test_success_comes_from_the_info_and_the_expert_from_the_environment(model):
    text, expert = played(model, GymnasiumSuite("own/Ten-v0", {}, TEXTS), ["text", "expert"])[:2]
    assert text.successes == expert.successes == (True, True)
    assert text.judged


def test_where_nobody_says_success_tables_and_groups_are_of_returns(model):
    results = played(model, GymnasiumSuite("own/Ten-v0", {"says_success": False}, TEXTS))
    groups, tasks = tables(results)
    assert groups.header == ("tasks", "prompt", "return")
    assert groups.rows[0] == ("all (3)", "text", "0.00 [0.00, 0.00]")
    assert (tasks.title, tasks.rows[0]) == ("Return, by task", ("up", "all", "4.00", "4.00"))
    assert [summary.success for summary in summarise(results)] == [None, None]


def test_a_told_sentence_is_measured_by_returns_where_nobody_says_success(model):
    suite = GymnasiumSuite("own/Ten-v0", {"says_success": False}, TEXTS)
    (told,) = tables(played(model, suite, ["told:up"]))
    assert told.header == ("scenes of", "told the sentence of", "return")
    assert told.rows[0] == ("up", "up", "4.00 [4.00, 4.00]")
    assert told.rows[-1] == ("mean", "does the other", "-2.00 [-2.00, -2.00]")


def test_the_time_limit_is_the_environments_unless_another_is_given(model):
    suite = GymnasiumSuite("own/Ten-v0", {}, TEXTS, max_episode_steps=7)
    assert played(model, suite, ["none"])[0].returns == (7.0, 7.0)
    assert (
        played(model, GymnasiumSuite("own/Endless-v0"), ["none"], max_episode_steps=3)[0].returns
        == (3.0,) * 2
    )


def test_an_environment_without_an_end_is_refused(model):
    with pytest.raises(ValueError, match=r"'up' has no time limit: .*`max_episode_steps` \(--max-steps\)"):
        played(model, GymnasiumSuite("own/Endless-v0", {}, TEXTS))


def test_an_environment_that_ignores_which_of_several_tasks_is_meant_is_refused(model):
    suite = GymnasiumSuite("own/Deaf-v0", {}, TEXTS)
    with pytest.raises(ValueError, match="ignores `options` of its reset, and 3 tasks are to be played"):
        played(model, suite)
    check_playable({"up": suite.facts("up")}, model, suite.where_to_look)  # one task needs no name


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            "OfDicts",
            r"observation space of the environment of 'up' is Dict\(.*that of the model is Box\(-inf",
        ),
        ("OfLabels", r"the action space of the environment of 'up' is Discrete\(3\), and that of the model"),
        ("Narrow", r"the action space .* is Box\(-0.5, 0.5, .* is Box\(-1.0, 1.0, .*train with `action_low`"),
    ],
)
def test_other_spaces_are_refused_before_anything_is_played(env, message, model):
    with pytest.raises(ValueError, match=message):
        played(model, GymnasiumSuite(f"own/{env}-v0", {}, TEXTS))


def test_actions_of_a_narrower_range_than_the_environments_are_played(model):
    assert played(model, GymnasiumSuite("own/Wide-v0", {}, TEXTS), ["none"])[0].returns == (4.0, 4.0)


def test_a_model_of_another_robot_is_told_of_its_own_environment(model):
    with pytest.raises(ValueError, match=r"is Box\(-inf, inf, \(39,\).*say which environment to play: --env"):
        evaluate_tasks(model, make_cells(["reach"], ["text"]), n_processes=1)


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (
            GymnasiumSuite("own/Eleven-v0"),
            "'own/Eleven-v0' cannot be played with the task 'up' .*NameNotFound",
        ),
        (GymnasiumSuite("no_such_package:Ten-v0"), "No module named 'no_such_package'.*give the id"),
        (GymnasiumSuite("own/Ten-v0", {"size": 3}), "TypeError: .*unexpected keyword argument 'size'"),
    ],
)
def test_an_environment_that_cannot_be_made_is_refused_with_what_it_said(suite, message):
    with pytest.raises(ValueError, match=message):
        suite.facts("up")


def test_a_task_that_the_environment_does_not_know_is_refused():
    with pytest.raises(
        ValueError, match=r"cannot be played with the task 'sideways' \(KeyError: 'sideways'\)"
    ):
        GymnasiumSuite("own/Ten-v0").facts("sideways")


def test_paraphrases_are_phrasings_that_the_model_does_not_know(model):
    told = GymnasiumSuite("own/Ten-v0", {}, TEXTS, new_texts={task: [f"please {task}"] for task in PULLS})
    assert len(played(model, told, ["paraphrase"])) == 3
    with pytest.raises(
        ValueError, match="'paraphrase' tells a phrasing of 'up' that the model does not know"
    ):
        played(model, GymnasiumSuite("own/Ten-v0", {}, TEXTS), ["paraphrase"])


def test_a_task_without_a_sentence_is_refused_where_one_is_told(model):
    with pytest.raises(ValueError, match="no sentence for the task 'stay'"):
        played(model, GymnasiumSuite("own/Ten-v0", {}, {"up": "go up", "down": "go down"}))


@pytest.mark.parametrize(
    ("n_tasks", "there", "expected"),
    [
        (2, (True, True, True), "text+trajectory text trajectory none wrong expert"),
        (1, (True, True, False), "text+trajectory text trajectory none"),
        (2, (True, False, False), "text none wrong"),
        (2, (False, False, False), "none"),
    ],
)
def test_the_conditions_by_default_are_those_that_can_be(n_tasks, there, expected):
    texts, examples, expert = there
    assert default_conditions(n_tasks, texts=texts, examples=examples, expert=expert) == expected.split()


def test_the_command_plays_ones_own_environment_with_sentences_and_examples(files):
    result = evaluate(files, "own/Ten-v0", "--examples", files / "logs.npz", "--unseen", "stay")
    assert result.exit_code == 0, result.output
    cells, settings = read_results(files / "out" / "results.json")
    names = [cell.condition.name for cell in cells if cell.task == "up"]
    assert names == ["text+trajectory", "text", "trajectory", "none", "wrong", "expert"]
    assert {cell.task: cell.seen for cell in cells} == {"up": True, "down": True, "stay": False}
    assert (settings["env"], settings["max_episode_steps"]) == ("own/Ten-v0", 4)
    assert "unseen (1)" in result.output
    assert (files / "out" / "success.png").is_file()


def test_without_examples_and_successes_the_command_compares_returns_by_sentence(files):
    result = evaluate(files, "own/Blind-v0", "--env-kwargs", '{"says_success": false}', "--tasks", "up,down")
    assert result.exit_code == 0, result.output
    cells, _ = read_results(files / "out" / "results.json")
    assert [cell.condition.name for cell in cells] == 2 * ["text", "none", "wrong"]
    assert cells[2].condition.trajectory_of is None
    assert re.search(r"^up +all +4\.00 +4\.00 +4\.00$", result.output, flags=re.MULTILINE)
    assert (files / "out" / "returns.png").is_file()


def test_sentences_are_those_of_the_examples_where_no_file_has_them(files):
    options = ("--env", "own/Ten-v0", "--conditions", "text,told:down", "--episodes", "1", "--processes", "1")
    places = ("--model", files / "model.zip", "--examples", files / "logs.npz", "--out", files / "out")
    result = CliRunner().invoke(app, ["evaluate", *map(str, (*options, *places))])
    assert result.exit_code == 0, result.output


def test_a_module_of_the_current_folder_is_imported(files, monkeypatch):
    (files / "my_own_env.py").write_text(
        "import gymnasium as gym\ngym.register('Mine-v0', 'test_own_environment:Ten', max_episode_steps=2)\n"
    )
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(files))])
    result = evaluate(files, "my_own_env:Mine-v0", "--conditions", "none")
    assert result.exit_code == 0, result.output
    assert read_results(files / "out" / "results.json")[0][0].returns == (2.0, 2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--env own/Ten-v0 --env-kwargs {size", "--env-kwargs takes a JSON object, as in .*; got '{size'"),
        ("--env own/Ten-v0 --env-kwargs 3", "--env-kwargs takes a JSON object"),
        ("--env-kwargs {}", "--env-kwargs needs --env"),
        ("--env own/Ten-v0 --examples 0", "--examples 0: only Meta-World's examples can be recorded"),
        ("--env own/Ten-v0 --hide-goal --phases", "--hide-goal, --phases: of Meta-World's scenes alone"),
        ("--env own/Ten-v0 --unseen sty --task-texts TEXTS", "--unseen names 'sty': did you mean 'stay'"),
        ("--env own/Ten-v0", "--env needs names of tasks: give --tasks, --task-texts, or --examples"),
        ("--env own/Blind-v0 --tasks up --conditions expert", "'expert' needs an environment with a method"),
        ("--env own/Endless-v0 --tasks up --conditions none", "has no time limit"),
        ("--env own/Ten-v0 --tasks up --max-steps 0", "Invalid value for '--max-steps'"),
        ("--env own/Ten-v0 --tasks up --conditions trajectory", "`examples` has no successful one"),
        ("", "that of the model is .*: it was trained on data of another robot or simulator.* --env"),
    ],
)
def test_a_mistake_about_the_environment_gets_its_sentence_and_exit_status_2(
    options, message, files, tmp_path
):
    words = options.replace("TEXTS", str(files / "texts.json")).split()
    places = ("--model", str(files / "model.zip"), "--out", str(tmp_path))
    result = CliRunner().invoke(app, ["evaluate", *places, *words], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2, result.output
    assert re.search(message, " ".join(result.output.split())), result.output
    assert list(tmp_path.iterdir()) == []


def test_examples_that_all_failed_are_none(files, model, tmp_path):
    write_npz(tmp_path / "failed.npz", episodes(success=False), model.observation_space, model.action_space)
    result = evaluate(files, "own/Ten-v0", "--examples", tmp_path / "failed.npz")
    assert result.exit_code == 2
    assert "hold no episode that did not fail" in result.output


def film(files, tmp_path, *more):
    places = (
        "--model",
        files / "model.zip",
        "--task-texts",
        files / "texts.json",
        "--out",
        tmp_path / "a.png",
    )
    return CliRunner().invoke(app, list(map(str, ("film", *places, "--task", "up", *more))))


@pytest.mark.slow
def test_ones_own_environment_is_filmed(files, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[1]}")
    result = film(files, tmp_path, "--env", "test_own_environment:own/Ten-v0", "--condition", "text")
    assert result.exit_code == 0, result.output
    assert "4 steps, success at step 1" in result.output
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_an_environment_that_does_not_draw_itself_is_not_filmed(files, tmp_path):
    result = film(files, tmp_path, "--env", "own/Blind-v0")
    assert result.exit_code == 2
    assert "a film needs the render mode 'rgb_array', and its `metadata` names none" in result.output
    suite = GymnasiumSuite("own/Blind-v0")
    with pytest.raises(ValueError, match="cannot be filmed"):
        film_episodes(tmp_path / "a.png", files / "model.zip", "up", [Prompt()], [0], suite=suite)


class Stopping:
    """A player that is interrupted at its third block."""

    def __init__(self, player):
        self.player, self.n_blocks = player, 0

    def make_act(self, prompts, **how):
        self.n_blocks += 1
        if self.n_blocks == 4:  # the first call is the check before playing
            raise KeyboardInterrupt
        return self.player.make_act(prompts, **how)


class Counting(Stopping):
    """A player that counts its blocks."""

    def make_act(self, prompts, **how):
        self.n_blocks += 1
        return self.player.make_act(prompts, **how)


def into(folder, player, settings, **more):
    suite = GymnasiumSuite("own/Ten-v0", {}, TEXTS)
    cells = make_cells(list(PULLS), ["text"], suite=suite)
    few = dict(n_episodes=2, n_processes=1, progress_bar=False)
    return evaluate_into(folder, player, cells, settings, suite=suite, **few, **more)


def test_a_stopped_evaluation_goes_on_with_the_cells_that_are_left(model, tmp_path):
    whole = into(tmp_path / "whole", ModelPlayer(model), {"seed": 0})
    with pytest.raises(KeyboardInterrupt):
        into(tmp_path, Stopping(ModelPlayer(model)), {"seed": 0})
    assert not (tmp_path / "results.json").exists()
    assert [cell.task for cell in read_results(tmp_path / "unfinished.json")[0]] == ["up", "down"]
    rest = Counting(ModelPlayer(model))
    assert into(tmp_path, rest, {"seed": 0}, resume=True) == whole
    assert rest.n_blocks == 2  # one for the check, one for the cell that was left
    assert read_results(tmp_path / "results.json")[0] == whole
    assert not (tmp_path / "unfinished.json").exists()


def test_an_evaluation_of_other_settings_does_not_go_on(model, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        into(tmp_path, Stopping(ModelPlayer(model)), {"seed": 0})
    with pytest.raises(ValueError, match=r"the stopped evaluation in .* has other settings \(seed\): repeat"):
        into(tmp_path, ModelPlayer(model), {"seed": 1}, resume=True)


def test_without_a_stopped_evaluation_none_goes_on(files, tmp_path):
    result = evaluate(files, "own/Ten-v0", "--resume", "--out", tmp_path)
    assert result.exit_code == 2
    assert "holds no stopped evaluation: begin one, without --resume" in result.output


def test_a_model_of_one_task_needs_no_name_of_it(tmp_path):
    model_of("Pendulum-v1").save(tmp_path / "model.zip")
    options = "--env Pendulum-v1 --max-steps 3 --episodes 2 --processes 1"
    places = ("--model", str(tmp_path / "model.zip"), "--out", str(tmp_path / "out"))
    result = CliRunner().invoke(app, ["evaluate", *options.split(), *places])
    assert result.exit_code == 0, result.output
    cells, settings = read_results(tmp_path / "out" / "results.json")
    assert [(cell.task, cell.condition.name) for cell in cells] == [
        ("Pendulum-v1", "text"),
        ("Pendulum-v1", "none"),
    ]
    assert settings["texts"] == {"Pendulum-v1": "do what the environment rewards"}


def test_observations_that_are_dicts_are_played(tmp_path):
    episodes = with_dicts(make_episodes(2, 2, 4))
    model = tiny_model(dataset=episodes, policy="MultiInputPolicy", prompts_per_batch=2).learn(1)
    space, actions = model.observation_space, model.action_space
    gym.register("own/Dict-v0", lambda: SpacesEnv(space, actions), max_episode_steps=3)
    suite = GymnasiumSuite("own/Dict-v0", {}, {"task-0": "do task number 0"})
    (result,) = evaluate_tasks(
        model, make_cells(["task-0"], ["text"], suite=suite), suite=suite, n_episodes=2, n_processes=1
    )
    assert result.returns == (3.0, 3.0)
