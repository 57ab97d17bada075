"""Prompts as tensors, for networks that are no policy of Stable-Baselines3."""

from collections.abc import Sequence

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_llmdpd.data.checks import check_fits
from sb3_llmdpd.prompts.prompt import Prompt, Trajectory, window_steps
from sb3_llmdpd.prompts.text_table import TextTable
from sb3_llmdpd.type_aliases import PromptBatch


def prompt_batch(
    prompts: Sequence[Prompt],
    observation_space: spaces.Box,
    action_space: spaces.Box,
    window: int,
    text_table: TextTable | None,
    text_dim: int,
    device: th.device,
) -> PromptBatch:
    """Sentences as their vectors, and of examples the steps that `LLMDPD` sees.

    :param prompts: M prompts.
    :param observation_space: of the model.
    :param action_space: of the model.
    :param window: L, steps of an example.
    :param text_table: known sentences; None for a model without text.
    :param text_dim: size of a sentence's vector.
    :param device: where to.
    :return: the batch; zeros stand where a prompt has nothing.
    :raises ValueError: when an example does not fit the spaces, or a sentence the model.
    """
    size = int(np.prod(action_space.shape))
    low, high = action_space.low.ravel(), action_space.high.ravel()
    texts = np.zeros((len(prompts), text_dim), np.float32)
    observations = np.zeros((len(prompts), window, *observation_space.shape), np.float32)
    actions = np.zeros((len(prompts), window, size), np.float32)
    for i, prompt in enumerate(prompts):
        if prompt.trajectory is not None:
            example = Trajectory.of(prompt.trajectory)
            check_fits(example.observations, example.actions, observation_space, action_space, "`trajectory`")
            assert isinstance(example.observations, np.ndarray)  # as the space says
            steps = window_steps(np.array([len(example)]), window)[0]
            observations[i] = example.observations[steps]
            actions[i] = 2.0 * (example.actions[steps].reshape(window, size) - low) / (high - low) - 1.0
        if prompt.has_text:
            texts[i] = _vector(prompt, text_table, text_dim)
    return PromptBatch(
        text_vectors=th.as_tensor(texts, device=device),
        has_text=th.tensor([prompt.has_text for prompt in prompts], device=device),
        observations=th.as_tensor(observations, device=device).flatten(0, 1),
        actions=th.as_tensor(actions, device=device),
        has_trajectory=th.tensor([prompt.trajectory is not None for prompt in prompts], device=device),
    )


def _vector(prompt: Prompt, text_table: TextTable | None, text_dim: int) -> np.ndarray:
    if text_table is None:
        raise ValueError(
            "this model was trained without task texts and cannot read a sentence; prompt it with a trajectory"
        )
    vector = text_table.lookup([prompt.text])[0] if prompt.text is not None else prompt.text_vector
    assert vector is not None  # one of both is there
    if vector.shape != (text_dim,):
        raise ValueError(
            f"the vector of the sentence has shape {vector.shape}, and this model reads {(text_dim,)}"
        )
    found: np.ndarray = vector
    return found
