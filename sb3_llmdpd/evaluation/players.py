"""Who can be evaluated: whatever makes, of the prompts of a block of episodes, something that acts in them."""

import io
from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch as th

from sb3_llmdpd.evaluation.rollouts import Act
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.saving import OPTIMIZERS
from sb3_llmdpd.prompts.prompt import Prompt, Trajectory

_LEAST_VARIATION = 1e-3
_SMALLEST_SCALE = 1e-2
"""In the observations' own units, which for Meta-World's positions are metres."""


class Player(Protocol):
    """Anything that `evaluate_tasks` can play: a model, or a control beside it.

    It travels to other processes by pickle. Memory of an episode belongs into what `make_act` returns, so that a player that
    has played before plays like a fresh one.
    """

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int, deterministic: bool) -> Act:
        """Get ready for episodes that run in lock step.

        :param prompts: what each of them is told; row i of the block is prompt i.
        :param noise_seed: of all that is random in how the block is played.
        :param deterministic: whether to act without noise.
        :return: called at every step until all episodes are done, see `Act`.
        :raises ValueError: when a prompt is none that the player can act on.
        """
        ...


class ModelPlayer:
    """A trained model, which travels as the bytes of its file and then acts on the CPU.

    :param model: which; its own noise is left as it is.
    """

    def __init__(self, model: LLMDPD) -> None:
        self.model = model

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int, deterministic: bool) -> Act:
        """See `Player.make_act`."""
        model = self.model
        model.prompter.encode(prompts)  # so that one that does not fit is answered before anything is played
        noise = th.Generator(model.device)
        noise.manual_seed(noise_seed)

        def act(observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
            shown = [prompts[row] for row in rows]
            own, model.action_generator = model.action_generator, noise
            try:
                return model.predict(observations, deterministic=deterministic, prompt=shown)[0]
            finally:
                model.action_generator = own

        return act

    def __reduce__(self) -> Any:
        file = io.BytesIO()
        self.model.save(file, exclude=OPTIMIZERS)
        return _unpacked, (file.getvalue(),)


class ExpertPlayer:
    """The environments' own experts, which know the task and need no prompt.

    :param envs: of the rows; each has a method ``expert_action(observation)``.
    """

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        self.envs = envs

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int, deterministic: bool) -> Act:
        """See `Player.make_act`; the expert has no noise."""

        def act(observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
            experts = [self.envs[row].get_wrapper_attr("expert_action") for row in rows]
            return np.stack(
                [expert(observation) for expert, observation in zip(experts, observations, strict=True)]
            )

        return act


class CopyPlayer:
    """Repeats the example's actions: at each step that of the example's step whose observation is nearest.

    Distances are in units of what each entry varies by in the example itself; entries that it leaves unchanged do not count.
    The steps never go back. Of replay step by step, of the nearest step of all, and of a look ahead of a few steps, this
    copied best where the example's goal was that of the scene and its object lay elsewhere.
    """

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int, deterministic: bool) -> Act:
        """See `Player.make_act`; copying has no noise."""
        replays = [_Replay(prompt) for prompt in prompts]

        def act(observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
            return np.stack(
                [replays[row](observation) for row, observation in zip(rows, observations, strict=True)]
            )

        return act


class _Replay:
    """One example, and how far its copy has come."""

    def __init__(self, prompt: Prompt) -> None:
        if prompt.trajectory is None:
            raise ValueError(
                "the copy policy repeats an example, and the prompt has none: give it a `trajectory`"
            )
        example = Trajectory.of(prompt.trajectory)
        if isinstance(example.observations, dict):
            raise ValueError("the copy policy compares observations that are arrays, and these are dicts")
        self.observations = example.observations.reshape(len(example), -1)  # (L, obs_dim)
        self.actions = example.actions
        scale = self.observations.std(axis=0)
        self.weights = np.where(scale > _LEAST_VARIATION, 1 / np.maximum(scale, _SMALLEST_SCALE), 0.0)
        self.step = 0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        distances = np.square((self.observations[self.step :] - observation.reshape(-1)) * self.weights).sum(
            axis=1
        )
        self.step += int(distances.argmin())
        action: np.ndarray = self.actions[self.step]
        return action


def _unpacked(file: bytes) -> ModelPlayer:
    return ModelPlayer(LLMDPD.load(io.BytesIO(file), device="cpu"))
