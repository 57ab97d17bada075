"""Players that can be evaluated: each turns a block's prompts into a function that acts in its episodes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_llmdpd.evaluation.rollouts import Act
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.saving import OPTIMIZERS
from sb3_llmdpd.prompts.prompt import Prompt, Trajectory

_LEAST_VARIATION = 1e-3
_SMALLEST_SCALE = 1e-2
"""In the observations' own units: metres for Meta-World's positions."""


class Player(Protocol):
    """Anything that `evaluate_tasks` can play: a model, or a control beside it.

    A player travels to other processes by pickle. Memory of an episode belongs to what `make_act` returns: a
    player that has played before plays like a fresh one.
    """

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int, deterministic: bool) -> Act:
        """Get ready for episodes that run in lock step.

        :param prompts: one for each episode; row i of the block has prompt i.
        :param noise_seed: seed of all that is random in the player's actions.
        :param deterministic: act without noise.
        :return: function that is called at every step until all episodes are done, see `Act`.
        :raises ValueError: when the player cannot act on a prompt.
        """
        ...


class ModelPlayer:
    """A trained model, which travels as the bytes of its file and then acts on the CPU.

    :param model: the model; its own noise is left as it is.
    """

    def __init__(self, model: LLMDPD) -> None:
        self.model = model

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int, deterministic: bool) -> Act:
        """See `Player.make_act`."""
        model = self.model
        model.prompter.encode(prompts)  # refuses one that does not fit before playing
        noise = th.Generator(model.device)
        noise.manual_seed(noise_seed)

        states: dict[int, Any] = {}

        def act(observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
            shown, state, starts = rows_of_block(prompts, states, rows)
            own, model.action_generator = model.action_generator, noise
            try:
                actions, after = model.predict(
                    observations, state, starts, deterministic=deterministic, prompt=shown
                )
            finally:
                model.action_generator = own
            assert after is not None  # since a state was given
            states.update(zip(rows, after[0], strict=True))
            return actions

        return act

    def __reduce__(self) -> Any:
        file = io.BytesIO()
        self.model.save(file, exclude=OPTIMIZERS)
        own = {name: getattr(self.model, name) for name in ("alignment", "augmentation")}
        functions = {name: way for name, way in own.items() if callable(way)}
        return _unpacked, (file.getvalue(), functions, self.model.trusts_encoder)


class ExpertPlayer:
    """The environments' own experts, which know the task and need no prompt.

    :param envs: environments of the rows; each has a method ``expert_action(observation)``.
    """

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        self.envs = envs

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int, deterministic: bool) -> Act:
        """See `Player.make_act`; the expert has no noise."""

        def act(observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
            experts = [self.envs[row].get_wrapper_attr("expert_action") for row in rows]
            return np.stack([expert(one) for expert, one in zip(experts, observations, strict=True)])

        return act


class RandomPlayer:
    """Draws each action uniformly from the space.

    :param action_space: bounded space of the actions.
    """

    def __init__(self, action_space: spaces.Box) -> None:
        self.action_space = action_space

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int, deterministic: bool) -> Act:
        """See `Player.make_act`; random actions are random under ``deterministic``, too."""
        space, generator = self.action_space, np.random.default_rng(noise_seed)

        def act(observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
            return generator.uniform(space.low, space.high, (len(rows), *space.shape)).astype(space.dtype)

        return act


class CopyPlayer:
    """Repeats the example's actions: at each step that of the example's step with the nearest observation.

    Distances are in units of each entry's standard deviation in the example; entries that it leaves unchanged
    do not count. The steps never go back. This copied better than replay step by step, the nearest step of
    all, and a look ahead of a few steps, where the example had the scene's goal and its object lay elsewhere.
    """

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int, deterministic: bool) -> Act:
        """See `Player.make_act`; copying has no noise."""
        replays = [_Replay(prompt) for prompt in prompts]

        def act(observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
            return np.stack([replays[row](one) for row, one in zip(rows, observations, strict=True)])

        return act


class _Replay:
    """One example, and the step that its copy has reached."""

    def __init__(self, prompt: Prompt) -> None:
        if prompt.trajectory is None:
            raise ValueError("the copy repeats an example, and the prompt has none: give it a `trajectory`")
        example = Trajectory.of(prompt.trajectory)
        if isinstance(example.observations, dict):
            raise ValueError("the copy policy compares observations that are arrays, and these are dicts")
        self.observations = example.observations.reshape(len(example), -1)  # (L, obs_dim)
        self.actions = example.actions
        scale = self.observations.std(axis=0)
        self.weights = np.where(scale > _LEAST_VARIATION, 1 / np.maximum(scale, _SMALLEST_SCALE), 0.0)
        self.step = 0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        differences = self.observations[self.step :] - observation.reshape(-1)
        self.step += int(np.square(differences * self.weights).sum(axis=1).argmin())
        action: np.ndarray = self.actions[self.step]
        return action


def rows_of_block(
    prompts: Sequence[Prompt], states: Mapping[int, Any], rows: Sequence[int]
) -> tuple[list[Prompt], tuple[np.ndarray], np.ndarray]:
    """Get the arguments of a `predict` with a memory for the rows of a block that are not done.

    :param prompts: one for each row of the block.
    :param states: entries of the state that was returned last, by row; none of rows that have not begun.
    :param rows: the rows.
    :return: prompts, state, and ``episode_start`` of the rows.
    """
    state = np.empty(len(rows), object)
    for entry, row in enumerate(rows):
        state[entry] = states.get(row)
    starts = np.array([row not in states for row in rows])
    return [prompts[row] for row in rows], (state,), starts


def _unpacked(file: bytes, own: dict[str, Any], trust_encoder: bool) -> ModelPlayer:
    how: dict[str, Any] = {"device": "cpu", "custom_objects": own, "trust_encoder": trust_encoder}
    return ModelPlayer(LLMDPD.load(io.BytesIO(file), **how))
