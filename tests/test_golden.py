"""Model files of earlier versions go on acting as they did: see `make_golden.py`, which wrote them."""

import json
from pathlib import Path

import numpy as np
import pytest
from make_golden import GOLDEN, golden_actions, golden_episodes
from numpy.testing import assert_allclose
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, CosineSchedule
from sb3_llmdpd.checkpoint import FORMAT_VERSION
from sb3_llmdpd.common.schedules import LineToZero

FILES = sorted(GOLDEN.glob("*.zip"))


def kind_of(path: Path) -> str:
    return path.stem.split("_")[1]


def test_each_format_version_has_its_golden_files():
    wanted = {f"v{version}_{kind}" for version in range(1, FORMAT_VERSION + 1) for kind in ("mlp", "dict")}
    assert {path.stem for path in FILES} == wanted


@pytest.mark.filterwarnings("ignore:.*is far from all sentences of training")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_model_acts_as_it_always_did(path):
    actions = golden_actions(LLMDPD.load(path, device="cpu"), kind_of(path))
    expected = np.array(json.loads(path.with_suffix(".json").read_text()))
    assert expected.std() > 0.05  # it is not that all of them are the same anyway
    assert_allclose(np.array(actions), expected, atol=2e-5)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_model_goes_on_learning(path):
    model = LLMDPD.load(path, device="cpu", dataset=golden_episodes(kind_of(path)))
    assert model.num_timesteps == 300
    assert model.learn(2, reset_num_timesteps=False).num_timesteps == 302


@pytest.mark.parametrize("version", [1, 2])
def test_what_a_golden_model_was_told_comes_back(version):
    model = LLMDPD.load(GOLDEN / f"v{version}_mlp.zip", device="cpu", dataset=golden_episodes("mlp"))
    assert (model.learning_rate, model.n_candidates) == (CosineSchedule(1e-2, warmup=0.1), 2)
    assert model.known_task_texts[:2] == ("do task number 0", "please carry out task 0")


def test_a_golden_model_of_version_2_has_arguments_of_their_kinds():
    mlp, of_dicts = (LLMDPD.load(GOLDEN / f"v2_{kind}.zip", device="cpu") for kind in ("mlp", "dict"))
    assert (mlp.critic_learning_rate, type(mlp.actor.optimizer)) == (LineToZero(0.01), RMSpropTFLike)
    assert of_dicts.policy_kwargs["optimizer_kwargs"] == {"betas": (0.9, 0.999)}


@pytest.mark.parametrize("version", [1, 2])
def test_a_golden_callback_counts_on(version):
    model = LLMDPD.load(GOLDEN / f"v{version}_mlp.zip", device="cpu", dataset=golden_episodes("mlp"))
    model.set_task(task_text="do task number 1")
    callback = EvalCallback(Monitor(ActionEnv()), eval_freq=200, n_eval_episodes=1, verbose=0)
    model.learn(1, callback=callback, reset_num_timesteps=False)
    assert callback.n_calls == 301
    assert np.isfinite(callback.best_mean_reward)  # of the evaluation at step 200
