"""Augmentations of training batches: other scenes in which the same examples mean the same."""

from collections.abc import Callable
from typing import Any

import torch as th

from sb3_llmdpd.common.named import function_named
from sb3_llmdpd.networks import metaworld_layout as layout
from sb3_llmdpd.type_aliases import PromptReplayBufferSamples

N_DRAWS = 4
"""Numbers that are drawn for each prompt."""

Augmentation = Callable[[PromptReplayBufferSamples, th.Tensor], PromptReplayBufferSamples]
"""Changes a batch by draws of (N_DRAWS, M), uniform in [0, 1): a prompt's examples as its transitions."""

_NOW = (layout.HAND, layout.OBJECT, layout.OTHER_OBJECT)
_BEFORE = tuple(slice(layout.PREVIOUS.start + part.start, layout.PREVIOUS.start + part.stop) for part in _NOW)
_POSITIONS = (*_NOW, *_BEFORE, layout.GOAL)
_DIRECTIONS = slice(0, 3)
"""Entries of an action that move the hand."""


def metaworld_turns(batch: PromptReplayBufferSamples, draws: th.Tensor) -> PromptReplayBufferSamples:
    """Turn the scenes of each prompt with examples by a quarter about the vertical axis, or mirror them.

    There are eight ways, and actions turn with the scenes: exactly, since a quarter turn keeps each entry in
    [-1, 1]. So a policy that follows an example learns to follow it in all directions, and not in those of
    the known tasks alone. A prompt without an example stays as it is, since a sentence does not turn.
    Orientations of objects stay, in the example as in the scene.

    :param batch: transitions and prompts of Meta-World, observations (n, 39).
    :param draws: (N_DRAWS, M), uniform in [0, 1).
    :return: the batch in other directions.
    :raises ValueError: on other observations.
    """
    prompts = batch.prompts
    if not isinstance(batch.observations, th.Tensor) or batch.observations.shape[1:] != layout.SHAPE:
        raise ValueError(
            "the augmentation 'metaworld_turns' turns Meta-World's observations, arrays of 39 numbers"
        )
    turns = _quarter_turns(draws, prompts.has_trajectory)

    def turned(rows: Any, places: tuple[slice, ...]) -> th.Tensor:
        if not len(rows):  # no example is shown
            return rows
        of_prompts = rows.clone().unflatten(0, (len(turns), -1))  # (M, n, dim)
        for place in places:
            of_prompts[..., place] = of_prompts[..., place] @ turns
        return of_prompts.flatten(0, 1)

    return batch._replace(
        observations=turned(batch.observations, _POSITIONS),
        next_observations=turned(batch.next_observations, _POSITIONS),
        actions=turned(batch.actions, (_DIRECTIONS,)),
        prompts=prompts._replace(
            observations=turned(prompts.observations, _POSITIONS),
            actions=turned(prompts.actions.flatten(0, 1), (_DIRECTIONS,)).view_as(prompts.actions),
        ),
    )


def _quarter_turns(draws: th.Tensor, shown: th.Tensor) -> th.Tensor:
    """(M, 3, 3): each swaps x and y or does not, and each of them keeps its sign or does not."""
    half = draws < 0.5
    swapped = (half[0] & shown).to(draws.dtype)  # (M,)
    signs = th.where(half[1:3] & shown, -1.0, 1.0).to(draws.dtype)  # (2, M)
    nothing = th.zeros_like(swapped)
    kept = 1.0 - swapped
    rows = [
        th.stack([kept * signs[0], swapped * signs[0], nothing], dim=-1),
        th.stack([swapped * signs[1], kept * signs[1], nothing], dim=-1),
        th.stack([nothing, nothing, nothing + 1.0], dim=-1),
    ]
    return th.stack(rows, dim=1)


AUGMENTATIONS: dict[str, Augmentation] = {"metaworld_turns": metaworld_turns}
"""Augmentations by name."""


def augmentation_named(augmentation: str | Augmentation) -> Augmentation:
    """Look up an augmentation by its name; a function stands for itself.

    :param augmentation: key of ``AUGMENTATIONS``, or a function.
    :return: the function.
    :raises ValueError: on an unknown name.
    """
    return function_named("augmentation", augmentation, AUGMENTATIONS)
