"""Stable-Baselines3's test of exchanging a model's environment, asked of LLMDPD; each part says what it answers."""

from pathlib import Path

import pytest
from factories import model_of, recorded
from stable_baselines3.common.envs import IdentityEnvBox
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import SpacesEnv

from sb3_llmdpd import LLMDPD


def identity_envs(n_envs: int = 1) -> DummyVecEnv:
    return DummyVecEnv([lambda: IdentityEnvBox(-10, 10)] * n_envs)


def counting_env() -> SpacesEnv:
    env = IdentityEnvBox(-10, 10)
    return SpacesEnv(env.observation_space, env.action_space)


def test_an_environment_can_be_exchanged_for_another_of_its_kind() -> None:
    """Answers `test_save_load.py::test_set_env`, the model's half."""
    model = model_of(identity_envs()).learn(3)
    model.set_env(identity_envs(), force_reset=True)
    assert model._last_obs is None
    assert model.learn(3, reset_num_timesteps=True).num_timesteps == 3
    model.set_env(counting_env())
    model.learn(3)
    model.set_env(
        identity_envs(2)
    )  # which SB3 refuses: its rollouts depend on their number, gradient steps do not
    assert model.n_envs == 2
    model.learn(3)
    model.set_env(model.get_env(), force_reset=False)
    assert model._last_obs is not None
    assert model.learn(3, reset_num_timesteps=False).num_timesteps == 6


@pytest.mark.parametrize("force_reset", [True, False])
def test_a_loaded_model_goes_on_counting_beside_the_environment_of_before_or_another(
    tmp_path: Path, force_reset: bool
) -> None:
    """Answers `test_save_load.py::test_set_env`, the file's half; no last observation is kept of steps that nobody took."""
    env = counting_env()
    model = model_of(env).learn(3)
    model.save(tmp_path / "model.zip")
    for environment in (model.get_env(), counting_env()):
        loaded = LLMDPD.load(
            tmp_path / "model.zip",
            env=environment,
            force_reset=force_reset,
            dataset=model.replay_buffer,
            device="cpu",
        )
        assert loaded._last_obs is None
        assert loaded.learn(3, reset_num_timesteps=False).num_timesteps == 6
    assert env.n_steps == 0


def test_a_model_can_be_loaded_with_another_number_of_environments(tmp_path: Path) -> None:
    """Answers `test_save_load.py::test_set_env`, the end."""
    model_of(identity_envs()).save(tmp_path / "model.zip")
    loaded = LLMDPD.load(tmp_path / "model.zip", env=identity_envs(2), dataset=recorded(identity_envs()))
    assert loaded.n_envs == 2
    assert loaded.learn(2).num_timesteps == 2
