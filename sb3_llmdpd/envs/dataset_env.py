"""`DatasetEnv`, which stands where Stable-Baselines3 wants an environment, and checks of spaces."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_llmdpd.data.checks import check_varied, listed, misfits, n_categories, parts_of
from sb3_llmdpd.data.spaces import float32_space
from sb3_llmdpd.envs.task_text_wrapper import plain_observation_space


class DatasetEnv(gym.Env[Any, np.ndarray]):
    """Spaces without a simulator: reset gives zeros, step says what to do instead.

    :param observation_space: space of the data's observations.
    :param action_space: space of the data's actions.
    """

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode that has no steps: give an observation of zeros and an empty info."""
        super().reset(seed=seed)
        return _zeros(self.observation_space), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Refuse every action with a RuntimeError."""
        raise RuntimeError(
            "LLMDPD learns offline from logged data, and this environment only states the data's spaces. To"
            " act or evaluate, use an environment of your own: evaluate_policy(model, env), or"
            " model.set_env(env)."
        )


def refuse_vec_normalize(env: VecEnv | None) -> None:
    """Raise a ValueError on VecNormalize: its statistics move only with steps, and nothing steps offline."""
    if env is not None and unwrap_vec_normalize(env) is not None:
        raise ValueError(
            "`env` is wrapped in VecNormalize, whose statistics only move when it is stepped, which nothing"
            " does offline. Drop it: the policy standardises observations with statistics of the data set"
        )


def check_readable(observation_space: Space[Any], action_space: spaces.Box) -> None:
    """Refuse spaces of a model that its networks cannot read or scale.

    :raises ValueError: when categories are not counted from 0, or an entry of an action has no range.
    """
    for part in parts_of(observation_space).values():
        n_categories(part)
    check_varied(action_space)


class HasSpaces(Protocol):
    """Anything that has the spaces of an environment."""

    @property
    def observation_space(self) -> Space[Any]: ...  # noqa: D102 - see the class

    @property
    def action_space(self) -> Space[Any]: ...  # noqa: D102 - see the class


def same_actions(one: Space[Any], other: Space[Any]) -> bool:
    """Tell whether the actions of two spaces are the same; numbers may be of any precision."""
    if not (isinstance(one, spaces.Box) and isinstance(other, spaces.Box)):
        return one == other
    first, second = float32_space(one), float32_space(other)
    same = np.array_equal(first.low, second.low) and np.array_equal(first.high, second.high)
    return same and one.shape == other.shape and first.dtype.kind == second.dtype.kind


def check_spaces(
    what: str,
    found: HasSpaces,
    model: BaseAlgorithm,
    remedy: str,
    actions_fit: Callable[[Space[Any], Space[Any]], bool] = same_actions,
) -> None:
    """Refuse an environment or a buffer whose spaces are not the model's.

    :param what: name of what is checked, for the message, as is ``remedy``.
    :param found: environment or buffer; the vector of a `TaskTextWrapper` makes no difference.
    :param model: model whose spaces count.
    :param actions_fit: tells whether its space of actions serves the model's.
    :raises ValueError: when the observation or action spaces differ.
    """
    observation_space = found.observation_space
    if isinstance(found, VecEnv):
        observation_space = observed_space(observation_space, model.observation_space)
    kind, of_found, of_model = "observation", observation_space, model.observation_space
    differing = misfits(of_found, of_model)
    if not differing:
        kind, of_found, of_model = "action", found.action_space, model.action_space
        if actions_fit(of_found, of_model):
            return
    elif "" not in differing:  # two Dicts
        of_found, of_model = (_only(space, differing) for space in (of_found, of_model))
        kind = f"observation (in {listed(map(repr, differing))})"
    raise ValueError(
        f"the {kind} space of {what} is {of_found}, and that of the model is {of_model}: {remedy}"
    )


def _only(space: Space[Any], keys: Sequence[str]) -> Space[Any]:
    return spaces.Dict({key: part for key, part in parts_of(space).items() if key in keys})


def observed_space(of_env: Space[Any], known: Space[Any] | None) -> Space[Any]:
    """Find the space of the observations that a model sees of an environment.

    :param of_env: observation space of the environment, perhaps with the vector of a `TaskTextWrapper`.
    :param known: space of the data or of the model; None when there is none.
    :return: the space without the vector, unless the data have it, too.
    """
    return plain_observation_space(of_env) if known is None or misfits(of_env, known) else of_env


def _zeros(space: Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _zeros(part) for key, part in space.items()}
    if isinstance(space, spaces.Discrete):
        return space.start
    return np.zeros(space.shape or (), space.dtype)
