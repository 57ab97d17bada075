"""LLMDPD in place of the algorithms that SB3's tests import, with random data of their environment."""

from typing import Any, Self

import gymnasium as gym
from factories import TINY_POLICY, recorded
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import IdentityEnvBox
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.data.episodes import OfflineDataset

__all__ = [
    "A2C",
    "DDPG",
    "DQN",
    "PPO",
    "SAC",
    "TD3",
    "HerReplayBuffer",
    "IdentityEnvBox",
    "prompted",
    "spaces",
]

COLLECTING = {
    "action_noise",
    "buffer_size",
    "gradient_steps",
    "learning_starts",
    "n_epochs",
    "n_steps",
    "optimize_memory_usage",
    "policy_delay",
    "replay_buffer_class",
    "replay_buffer_kwargs",
    "train_freq",
}
"""Arguments about collecting and keeping data, which LLMDPD does not have."""

SMALL: dict[str, Any] = dict(batch_size=8, prompts_per_batch=1, text_encoder="hashing:8")
SMALL_POLICY: dict[str, Any] = {**TINY_POLICY, "net_arch": None, "n_diffusion_steps": 2}
N_EPISODES, LENGTH = 4, 100
"""Episodes of random actions that a model learns from, and their largest number of steps."""


class StandIn(LLMDPD):
    """`LLMDPD` that records its data itself, as algorithms do that collect them.

    :param policy: as `LLMDPD` takes it.
    :param env: environment of the test.
    :param kwargs: arguments of SB3's algorithms, of which those of `COLLECTING` are left out, or of `LLMDPD`.
    """

    def __init__(self, policy: Any, env: Any = None, **kwargs: Any) -> None:
        given = {**SMALL, **_known(kwargs)}
        if given.get("_init_setup_model", True):  # otherwise a file is read, and data come afterwards
            given["dataset"] = _random_data(env)
            given["policy_kwargs"] = {**SMALL_POLICY, **(given.get("policy_kwargs") or {})}
        super().__init__(policy, env, **given)

    @classmethod
    def load(cls, path: Any, env: Any = None, *args: Any, **kwargs: Any) -> Self:
        """Load a model; beside an environment, with random data of it."""
        given = _known(kwargs)
        if "policy_kwargs" in given:
            given["policy_kwargs"] = {**SMALL_POLICY, **given["policy_kwargs"]}
        model = super().load(path, env, *args, **given)
        if env is not None:
            model.set_dataset(_random_data(env))
        return model


def _known(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in COLLECTING}


def _random_data(env: Any) -> OfflineDataset | None:
    """Record random actions; None in an environment that LLMDPD has yet to refuse."""
    made = gym.make(env) if isinstance(env, str) else env
    is_normalised = isinstance(made, VecEnv) and unwrap_vec_normalize(made) is not None
    if is_normalised or not isinstance(made.action_space, spaces.Box):
        return None
    return recorded(made, N_EPISODES, LENGTH)


def prompted(model: LLMDPD, network: Any) -> Any:
    """Give a policy or an actor that was loaded alone the prompt of the model that it was part of."""
    network.set_prompts(model.prompter.batch(model.prompter.current()))
    return network


A2C, DDPG, DQN, PPO, SAC, TD3 = (
    type(name, (StandIn,), {}) for name in ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")
)
