"""Environments of a model that never steps one: `DatasetEnv`, which only states the spaces of the data, and what may stand
in its place.
"""

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_llmdpd.data.checks import n_categories
from sb3_llmdpd.envs.task_text_wrapper import plain_observation_space


class HasSpaces(Protocol):
    """An environment, a buffer, or a model."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]


class DatasetEnv(gym.Env[Any, np.ndarray]):
    """Spaces without a simulator: reset gives zeros, step says what to do instead.

    :param observation_space: the data's.
    :param action_space: the data's.
    """

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode that has no steps.

        :param seed: ignored, there is nothing random.
        :param options: ignored.
        :return: an observation of zeros, and an empty info.
        """
        super().reset(seed=seed)
        return _zeros(self.observation_space), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Refuse.

        :param action: any.
        :raises RuntimeError: always.
        """
        raise RuntimeError(
            "LLMDPD learns offline from logged data, and this environment only states the data's spaces. To act or to"
            " evaluate, use an environment of your own: evaluate_policy(model, env), or model.set_env(env)."
        )


def refuse_vec_normalize(env: VecEnv | None) -> None:
    """Refuse VecNormalize: the observations would be normalised with statistics that nobody ever moves.

    :param env: of the model.
    :raises ValueError: when it is one, or wraps one.
    """
    if env is not None and unwrap_vec_normalize(env) is not None:
        raise ValueError(
            "`env` is wrapped in VecNormalize, whose statistics only move when it is stepped, which nothing does offline."
            " Drop it: the policy standardises observations with statistics of the data set"
        )


def check_readable(observation_space: spaces.Space[Any], action_space: spaces.Box) -> None:
    """Refuse spaces that the networks cannot read or scale.

    :param observation_space: of the model.
    :param action_space: of the model.
    :raises ValueError: when categories are not counted from 0, or an entry of an action has no range.
    """
    for space in (
        observation_space.spaces.values()
        if isinstance(observation_space, spaces.Dict)
        else [observation_space]
    ):
        n_categories(space)
    if not (action_space.low < action_space.high).all():
        raise ValueError(
            f"each entry of an action must have a range, low < high, got {action_space}: leave constant entries out"
        )


def check_spaces(what: str, found: HasSpaces, model: HasSpaces, remedy: str) -> None:
    """Refuse what is not of the model's spaces.

    :param what: is checked, for the message.
    :param found: environment or buffer; that an environment says its task in the observation makes no difference.
    :param model: whose spaces count.
    :param remedy: what to do, for the message.
    :raises ValueError: when the observation or action spaces differ.
    """
    observation_space = found.observation_space
    if isinstance(found, VecEnv) and observation_space != model.observation_space:
        observation_space = plain_observation_space(observation_space)
    for kind, of_found, of_model in (
        ("observation", observation_space, model.observation_space),
        ("action", found.action_space, model.action_space),
    ):
        if of_found != of_model:
            raise ValueError(
                f"the {kind} space of {what} is {of_found}, and that of the model is {of_model}: {remedy}"
            )


def _zeros(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _zeros(subspace) for key, subspace in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return space.start
    return np.zeros(space.shape or (), space.dtype)
