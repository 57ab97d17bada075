"""The exported program: the actions of `predict`, for any number of observations, without this package."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import differing, make_episodes, tiny_model, with_dicts
from numpy.testing import assert_allclose

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.networks.attention import CONDITIONINGS

TEXT = "do task number 1"


def program(path: Path) -> Any:
    return th.export.load(path).module()


@pytest.mark.parametrize("n", [1, 2, 100])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_program_acts_as_predict_does(conditioning, n, tmp_path):
    model = tiny_model(policy_kwargs=dict(conditioning=conditioning)).learn(3)
    task = dict(task_text=TEXT, trajectory=make_episodes()[0])
    path = model.export(tmp_path / "actor", **task)
    assert path == tmp_path / "actor.pt2"
    observations = np.random.default_rng(0).standard_normal((n, 5)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True, **task)
    assert_allclose(program(path)(th.from_numpy(observations)).numpy(), expected, atol=1e-5)


def test_a_program_with_noise_draws_what_the_policy_draws(tmp_path):
    model = tiny_model().learn(3)
    observations = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    noise = th.randn((5, 4, 2), generator=th.Generator().set_state(model.action_generator.get_state()))
    expected, _ = model.predict(observations, task_text=TEXT)
    acts = program(model.export(tmp_path / "actor", TEXT, deterministic=False))
    assert_allclose(acts(th.from_numpy(observations), noise).numpy(), expected, atol=1e-5)


def test_a_program_takes_the_steps_of_the_models_sampler(tmp_path):
    model = tiny_model(sampler="ddim", n_sampling_steps=2).learn(3)
    observations = np.zeros((4, 5), np.float32)
    acts = program(model.export(tmp_path / "actor", TEXT, deterministic=False))
    assert acts(th.from_numpy(observations), th.zeros(2, 4, 2)).shape == (4, 2)


def test_a_program_of_dict_observations_takes_dicts(tmp_path):
    model = tiny_model(policy="MultiInputPolicy", dataset=with_dicts(make_episodes()))
    observations = {"a": np.ones((3, 2), np.float32), "b": np.ones((3, 3), np.float32)}
    expected, _ = model.predict(observations, deterministic=True, task_text=TEXT)
    acts = program(model.export(tmp_path / "actor", TEXT))
    actions = acts({key: th.from_numpy(value) for key, value in observations.items()})
    assert_allclose(actions.numpy(), expected, atol=1e-5)


@pytest.mark.slow
def test_a_program_runs_without_this_package(tmp_path):
    model = tiny_model().learn(3)
    path = model.export(tmp_path / "actor.pt2", TEXT)
    code = (
        "import sys, torch; sys.modules['sb3_llmdpd'] = None;"
        f" acts = torch.export.load({str(path)!r}).module(); print(acts(torch.ones(1, 5)).tolist()[0])"
    )
    how: Any = dict(check=True, capture_output=True, text=True, cwd=tmp_path)
    said = subprocess.run([sys.executable, "-c", code], **how).stdout
    expected, _ = model.predict(np.ones(5, np.float32), deterministic=True, task_text=TEXT)
    assert_allclose(eval(said), expected, atol=1e-5)


def test_the_task_that_is_set_is_exported(tmp_path):
    model = tiny_model()
    model.set_task(TEXT)
    expected, _ = model.predict(np.ones((1, 5), np.float32), deterministic=True)
    assert_allclose(program(model.export(tmp_path / "actor"))(th.ones(1, 5)).numpy(), expected, atol=1e-5)


def test_several_tasks_in_one_program_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a program is for one task, got 2 prompts: export one for each"):
        tiny_model().export(tmp_path / "actor", task_text=[TEXT, TEXT])
    assert list(tmp_path.iterdir()) == []


def test_a_program_without_a_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not know which task to do"):
        tiny_model().export(tmp_path / "actor")


def test_exporting_changes_nothing_in_the_model(tmp_path):
    def learned(export: bool) -> LLMDPD:
        model = tiny_model().learn(3)
        if export:
            model.export(tmp_path / "actor", TEXT)
        return model.learn(6, reset_num_timesteps=False)

    assert differing(learned(True).policy, learned(False).policy) == set()
