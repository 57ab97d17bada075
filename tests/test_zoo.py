"""Stable-Baselines3's zoo trains LLMDPD, saves it, and acts with the saved model."""

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from factories import make_episodes, tiny_model
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, zoo
from sb3_llmdpd.common.schedules import LineToZero
from sb3_llmdpd.data.minari_writer import write_minari

ROOT = Path(__file__).parents[1]
OBSERVATION = np.full(5, 0.5, np.float32)
TOY = """
import gymnasium, numpy, toys

class Toy(toys.ActionEnv):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def reset(self, **kwargs):
        return super().reset(**kwargs)[0].copy(), {}

    def step(self, action):
        observation, *rest = super().step(action)
        return observation.copy(), *rest

    def render(self):
        return numpy.zeros((32, 32, 3), numpy.uint8)

gymnasium.register("Toy-v0", entry_point=Toy)
"""
RUN_EACH = """
import sys, zoo_toy
from sb3_llmdpd import zoo

for line in sys.argv[1:]:
    sys.argv = ["zoo", *line.split()]
    zoo.main()
"""
"""Importing the zoo changes Gymnasium, and takes seconds: all lines run in one other process."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two Minari data sets, and an environment of their spaces."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(tmp_path)]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo_toy.py").write_text(TOY)
    for task in ("task-0", "task-1"):
        episodes = [episode for episode in make_episodes(n_tasks=2) if episode.task == task]
        write_minari(f"toy/{task}-v0", episodes, ActionEnv.observation_space, ActionEnv.action_space)
    return tmp_path


def write_hyperparameters(**changes: Any) -> None:
    hyperparameters = dict(
        policy="MlpPolicy",
        n_timesteps=4,
        dataset=["toy/task-0-v0", "toy/task-1-v0"],
        text_encoder="hashing",
        batch_size=24,
        prompts_per_batch=2,
        learning_rate=0.001,
        policy_kwargs="dict(net_arch=[16], prompt_window=4)",
    )
    Path("hyperparameters.yml").write_text(yaml.safe_dump({"Toy-v0": {**hyperparameters, **changes}}))


def run_zoo(*lines: str) -> str:
    """Run scripts of the zoo one after the other, and return what they print."""
    command = [sys.executable, "-c", RUN_EACH, *lines]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


TRAIN = "train --conf-file hyperparameters.yml --seed 0 --num-threads 1"
ENJOY = "enjoy --no-render -n 3 --num-threads 1"
TOY_MODEL = " --algo llmdpd --env Toy-v0 -f logs --device cpu"


def mean_rewards(printed: str) -> list[float]:
    """Find the mean rewards that runs of ``enjoy`` printed."""
    return [float(line.split()[2]) for line in printed.splitlines() if line.startswith("Mean reward:")]


def return_of(model: LLMDPD, **prompt: Any) -> float:
    return 3 * float(model.predict(OBSERVATION, deterministic=True, **prompt)[0][0])


@pytest.mark.slow
def test_the_zoo_serves_a_model_that_the_environment_tells_its_task(folder):
    arguments = dict(task_text="do task number 1", text_encoder="hashing")
    write_hyperparameters(env_wrapper=[{"sb3_llmdpd.envs.TaskTextWrapper": arguments}])
    printed = run_zoo(
        f"{TRAIN} --eval-freq 2 --save-freq 2 {TOY_MODEL}",
        f"{ENJOY} {TOY_MODEL}",
        f"{ENJOY} --load-checkpoint 2 {TOY_MODEL}",
        "record_video -n 2 --no-render" + TOY_MODEL.replace("--device cpu", ""),
    )
    run = folder / "logs" / "llmdpd" / "Toy-v0_1"
    files = run / "Toy-v0.zip", run / "rl_model_2_steps.zip"
    returns = [return_of(LLMDPD.load(file), task_text="do task number 1") for file in files]
    assert mean_rewards(printed) == pytest.approx(returns, abs=0.01)
    with np.load(run / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [2, 4]
        np.testing.assert_allclose(evaluations["results"].mean(axis=1), returns[::-1], atol=1e-4)
    assert LLMDPD.load(files[0]).num_timesteps == 4
    assert [path.suffix for path in (run / "videos").glob("*.mp4")] == [".mp4"]


@pytest.mark.slow
def test_the_zoo_needs_no_wrapper_for_a_model_of_one_task_and_goes_on_with_it(folder):
    write_hyperparameters(dataset="toy/task-0-v0", prompts_per_batch=1)
    printed = run_zoo(
        f"{TRAIN} --eval-freq -1 {TOY_MODEL}",
        f"{TRAIN} --eval-freq -1 -i logs/llmdpd/Toy-v0_1/Toy-v0.zip {TOY_MODEL}",
        f"{ENJOY} --exp-id 1 {TOY_MODEL}",
    )
    runs = folder / "logs" / "llmdpd"
    first, second = (LLMDPD.load(runs / f"Toy-v0_{run}" / "Toy-v0.zip") for run in (1, 2))
    assert mean_rewards(printed) == pytest.approx([return_of(first)], abs=0.01)
    assert (first._n_updates, second._n_updates) == (4, 8)


@pytest.mark.slow
def test_the_zoo_saves_and_evaluates_as_often_beside_several_environments(folder):
    changes = dict(n_envs=4, learning_rate="lin_0.001", critic_learning_rate="lin_0.002")
    write_hyperparameters(dataset="toy/task-0-v0", prompts_per_batch=1, **changes)
    run_zoo(f"{TRAIN} --eval-freq 2 --save-freq 4 {TOY_MODEL}")
    run = folder / "logs" / "llmdpd" / "Toy-v0_1"
    assert {path.name for path in run.glob("rl_model_*")} == {"rl_model_4_steps.zip"}
    with np.load(run / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [2, 4]
    model = LLMDPD.load(run / "Toy-v0.zip", device="cpu")
    assert (model.learning_rate, model.critic_learning_rate) == (LineToZero(0.001), LineToZero(0.002))


def test_only_managers_of_our_algorithm_make_one_environment():
    class Manager:
        algo, n_envs = "ppo", 4

    made: list[int] = []
    create = zoo._beside_one_environment(lambda manager: made.append(manager.n_envs))
    create(Manager())
    ours = Manager()
    ours.algo = "llmdpd"
    create(ours)
    assert made == [4, 1]


def test_the_search_suggests_arguments_that_a_model_takes():
    suggested = dict(learning_rate=1e-3, eta=0.1, gamma=0.97)
    suggested |= dict(text_dropout=0.2, trajectory_dropout=0.4, prompt_noise=0.5)
    sampled = zoo.sample_hyperparameters(optuna.trial.FixedTrial(suggested), 2, 1, {})
    assert sampled == suggested
    model = tiny_model(**sampled)
    assert {name: getattr(model, name) for name in suggested} == suggested


def test_the_examples_hyperparameters_are_arguments_of_the_model_or_of_the_zoo():
    ((env_id, hyperparameters),) = yaml.safe_load((ROOT / "examples" / "zoo.yml").read_text()).items()
    assert env_id == zoo.METAWORLD_ENV_ID.format(task="window-close")
    assert set(hyperparameters) - set(inspect.signature(LLMDPD).parameters) == {"n_timesteps", "env_wrapper"}


@pytest.mark.parametrize("arguments", [[], ["plot_train"]], ids=["none", "unknown"])
def test_the_usage_names_the_scripts(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
    with pytest.raises(SystemExit, match=r"usage: python -m sb3_llmdpd.zoo \{train,enjoy,record_video\}"):
        zoo.main()
