"""`AlignAndReplay`, which learns nothing: it replays one example's path of the hand, moved to the scene."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_llmdpd.evaluation.rollouts import Act
from sb3_llmdpd.networks.metaworld_layout import GOAL, HAND, OBJECT, SHAPE
from sb3_llmdpd.prompts.alignment import metaworld_scene
from sb3_llmdpd.prompts.prompt import Prompt, Trajectory, TrajectoryLike

_TOLERANCE = 0.02
"""Metres from the path within which the replay goes on."""
_PATIENCE = 5
"""Steps after which it goes on from farther away, too."""


class AlignAndReplay:
    """Replays, in Meta-World, the example whose first object and goal are nearest to the scene's.

    It follows the hand's path in the example as `metaworld_scene` moves it. The action is the example's own
    plus a gain on the distance to the path.

    :param gain: action for each metre between hand and path; the simulator moves the hand by about a
        centimetre for an action of 1.
    """

    def __init__(self, gain: float = 40.0) -> None:
        self.gain = gain

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int = 0, deterministic: bool = True) -> Act:
        """Get ready for a block of episodes, see `sb3_llmdpd.evaluation.players.Player`; there is no noise.

        :raises ValueError: when a prompt has no example, or one that is not Meta-World's.
        """
        examples = [[_checked(example) for example in prompt.trajectories] for prompt in prompts]
        if not all(examples):
            raise ValueError("AlignAndReplay replays an example, and a prompt has none: pass `trajectory`")
        replays: dict[int, _Replay] = {}

        def act(observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
            for row, observation in zip(rows, observations, strict=True):
                if row not in replays:
                    replays[row] = _Replay(examples[row], observation, self.gain)
            actions = [replays[row](each) for row, each in zip(rows, observations, strict=True)]
            return np.stack(actions)

        return act


class _Replay:
    """The replay in one scene, and the step that it has reached."""

    def __init__(self, examples: Sequence[Trajectory], first: np.ndarray, gain: float) -> None:
        nearest = min(examples, key=lambda example: _distance(example, first))
        in_scene = metaworld_scene(nearest, first)
        self.path = np.asarray(in_scene.observations, np.float64)[:, HAND]
        self.actions, self.gain = nearest.actions, gain
        self.step = self.waited = 0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        error = self.path[self.step] - observation[HAND]
        action = np.array(self.actions[self.step])
        action[:3] = (action[:3] + self.gain * error).clip(-1.0, 1.0)
        self.waited += 1
        if np.linalg.norm(error) < _TOLERANCE or self.waited > _PATIENCE:
            self.step, self.waited = min(self.step + 1, len(self.actions) - 1), 0
        return action


def _distance(example: Trajectory, first: np.ndarray) -> float:
    """Measure how far object and goal of a scene lie from those of an example, in metres."""
    start = np.asarray(example.observations)[0]
    return sum(float(np.linalg.norm(first[part] - start[part])) for part in (OBJECT, GOAL))


def _checked(example: TrajectoryLike) -> Trajectory:
    trajectory = Trajectory.of(example)
    if isinstance(trajectory.observations, dict) or trajectory.observations.shape[1:] != SHAPE:
        raise ValueError(
            "AlignAndReplay moves hands and objects of Meta-World's observations, arrays of 39 numbers"
        )
    return trajectory
