"""Alignment of examples: moves an example into the scene that an episode begins with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.common.named import function_named
from sb3_llmdpd.networks import metaworld_layout as layout
from sb3_llmdpd.prompts.prompt import Prompt, Trajectory

Alignment = Callable[[Trajectory, np.ndarray], Trajectory]
"""Maps an example and the first observation of an episode to the example as it would go there."""

MOST_ALIGNED = 5
"""Examples of a prompt up to which they are aligned: among more, some lie near to every scene."""

_LEAST_MOTION = 0.02
"""Metres that something must move to count as moved."""
_STEP = 0.01
"""Metres that the hand moves in a step by an action of 1."""


def metaworld_scene(example: Trajectory, scene: np.ndarray) -> Trajectory:
    """Move an example of Meta-World to the objects and the goal of a scene.

    With w_t the share of its way that the object has gone, hand and object move by
    ``(1 - w_t) d_object + w_t d_goal``, d how far object and goal of the scene lie from those of the example;
    goal and second object move by their own distances. Actions get what the hand has to go in addition. Where
    the object stays, the hand moves with what it ends at: with an object, such as a button; or by
    ``v_t d_goal``, v_t the share of the hand's own way, with a goal in the air.

    :param example: example, observations (L, 39).
    :param scene: (39,), first observation of the episode.
    :return: the example in the scene.
    :raises ValueError: on other observations.
    """
    if not isinstance(example.observations, np.ndarray) or example.observations.shape[1:] != layout.SHAPE:
        raise ValueError(
            "the alignment 'metaworld_scene' moves examples of Meta-World, observations of 39 numbers"
        )
    observations = example.observations.astype(np.float64)
    first = observations[0]
    of_object, of_other, of_goal = (
        scene[part] - first[part] for part in (layout.OBJECT, layout.OTHER_OBJECT, layout.GOAL)
    )
    of_hand, with_object = _shifts(observations, of_object, of_goal)  # (L, 3) each
    shifts = ((layout.HAND, of_hand), (layout.OBJECT, with_object))
    for part, shift in shifts:
        observations[:, layout.NOW][:, part] += shift
        observations[:, layout.PREVIOUS][:, part] += np.concatenate([shift[:1], shift[:-1]])
    if first[layout.OTHER_OBJECT].any():
        for moment in (layout.NOW, layout.PREVIOUS):
            observations[:, moment][:, layout.OTHER_OBJECT] += of_other
    observations[:, layout.GOAL] += of_goal
    actions = example.actions.astype(np.float64)
    actions[:-1, :3] = (actions[:-1, :3] + np.diff(of_hand, axis=0) / _STEP).clip(-1.0, 1.0)
    dtypes = example.observations.dtype, example.actions.dtype
    return Trajectory(observations.astype(dtypes[0]), actions.astype(dtypes[1]))


def _shifts(
    observations: np.ndarray, of_object: np.ndarray, of_goal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measure by how much hand and object move at each step of an example, (L, 3) each."""
    hand, thing, goal = (observations[:, part] for part in (layout.HAND, layout.OBJECT, layout.GOAL))
    share = _share_of_way(thing)
    if share is not None:
        both = np.outer(1.0 - share, of_object) + np.outer(share, of_goal)
        return both, both
    with_object = np.tile(of_object, (len(hand), 1))
    share = _share_of_way(hand)
    to_goal, to_object = (np.linalg.norm(hand[-1] - end[-1]) for end in (goal, thing))
    if share is not None and goal[0].any() and to_goal < to_object:
        return np.outer(share, of_goal), with_object
    return with_object, with_object


def _share_of_way(positions: np.ndarray) -> np.ndarray | None:
    """(L,), share of the way to the last position that lies behind; None where there is none."""
    way = np.linalg.norm(positions - positions[0], axis=1)
    return (way / way[-1]).clip(0.0, 1.0) if way[-1] > _LEAST_MOTION else None


ALIGNMENTS: dict[str, Alignment] = {"metaworld_scene": metaworld_scene}
"""Alignments by name."""


def alignment_named(alignment: str | Alignment) -> Alignment:
    """Look up an alignment by its name; a function stands for itself.

    :param alignment: key of ``ALIGNMENTS``, or a function.
    :return: the function.
    :raises ValueError: on an unknown name.
    """
    return function_named("alignment", alignment, ALIGNMENTS)


@dataclass(frozen=True, eq=False)
class AlignedPrompt:
    """A prompt in the scene of one row.

    :param given: the prompt as it was given.
    :param aligned: the same with its examples as they would go in the scene, before the examples as they are.
    """

    given: Prompt
    aligned: Prompt


def align(
    alignment: Alignment,
    prompts: Sequence[Prompt],
    observations: Any,
    space: Space[Any],
    state: tuple[np.ndarray, ...] | None,
    episode_start: np.ndarray | None,
) -> tuple[list[Prompt], tuple[np.ndarray, ...]]:
    """Align the prompts of rows whose episode begins, and find the others in the state.

    :param alignment: the alignment.
    :param prompts: one for all rows, or one for each.
    :param observations: (n, *obs_shape) or one of (*obs_shape), environment units.
    :param space: space of the observations.
    :param state: state of the last call; None at the first one.
    :param episode_start: (n,), true where an episode begins; by default where there is no state.
    :return: one prompt for each row, and the state for the next call.
    :raises ValueError: when the numbers of rows do not fit.
    """
    if not isinstance(space, spaces.Box):
        raise ValueError(f"`alignment` reads arrays of observations, and the space is {space}: leave it out")
    observations = np.asarray(observations).reshape(-1, *space.shape)
    n = len(observations)
    if len(prompts) not in (1, n):
        raise ValueError(
            f"Got {len(prompts)} prompts for {n} observations: pass one prompt, or one per observation."
        )
    known = [None] * n if state is None else list(state[0])
    told = [state is None] * n if episode_start is None else episode_start
    begins = np.asarray(told, bool).ravel()
    if len(known) != n or len(begins) != n:
        raise ValueError(
            f"`state` has {len(known)} rows and `episode_start` {len(begins)}, for {n} observations: pass"
            " what the last call returned for the same rows"
        )
    rows = np.empty(n, object)
    for row, before in enumerate(known):
        prompt = prompts[row % len(prompts)]
        if begins[row] or before is None or not before.given.is_same(prompt):
            rows[row] = AlignedPrompt(prompt, _aligned(alignment, prompt, observations[row]))
        else:
            rows[row] = before
    return [entry.aligned for entry in rows], (rows,)


def _aligned(alignment: Alignment, prompt: Prompt, scene: np.ndarray) -> Prompt:
    if not 0 < len(prompt.trajectories) <= MOST_ALIGNED:
        return prompt
    examples = [Trajectory.of(example) for example in prompt.trajectories]
    in_scene = [alignment(example, scene) for example in examples]
    return Prompt(prompt.text, None, prompt.text_vector, (*in_scene, *examples))
