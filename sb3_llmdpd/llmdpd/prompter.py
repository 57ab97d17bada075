"""`Prompter`, which turns what a user says about tasks into encodings for the policy."""

from collections.abc import Sequence

import numpy as np
import torch as th

from sb3_llmdpd.data.checks import check_fits
from sb3_llmdpd.data.images import channels_first
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.prompts.prompt import Prompt, Trajectory, TrajectoryLike, take, window_steps
from sb3_llmdpd.prompts.text_table import TextTable
from sb3_llmdpd.type_aliases import PromptBatch, PromptEncoding, TensorObs, to_device


class Prompter:
    """Encodes prompts with the policy's EMA actor and the table of known sentences.

    :param policy: whose spaces, statistics and encoders are used.
    :param text_table: known sentences; meets an unknown one by loading the encoder. None for a model without text.
    """

    def __init__(self, policy: LLMDPDPolicy, text_table: TextTable | None) -> None:
        self.policy = policy
        self.text_table = text_table

    @th.no_grad()
    def encode(self, prompts: Sequence[Prompt]) -> PromptEncoding:
        """Encode prompts for acting.

        :param prompts: M prompts; an empty one becomes the learned nulls.
        :return: what the EMA actor makes of them.
        :raises ValueError: when a trajectory does not fit the model's spaces, or the model has no text encoder.
        """
        return self.policy.actor_target.encode_prompts(self.batch(prompts))

    def batch(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """Prompts as tensors, before any network.

        :param prompts: M prompts.
        :return: the batch, on the policy's device.
        """
        device, policy = self.policy.device, self.policy
        windows = [self._window(prompt.trajectory) for prompt in prompts]
        actions = np.stack([window.actions for window in windows])
        scaled = policy.scale_action(actions.reshape(-1, *policy.action_space.shape)).reshape(
            *actions.shape[:2], -1
        )
        return PromptBatch(
            text_vectors=th.as_tensor(self._text_vectors(prompts), device=device),
            has_text=th.tensor([prompt.has_text for prompt in prompts], device=device),
            observations=_joined([window.observations for window in windows], device),
            actions=th.as_tensor(scaled, dtype=th.float32, device=device),
            has_trajectory=th.tensor([prompt.trajectory is not None for prompt in prompts], device=device),
        )

    def _text_vectors(self, prompts: Sequence[Prompt]) -> np.ndarray:
        vectors = np.zeros((len(prompts), self.policy.text_dim), np.float32)
        texts = {i: prompt.text for i, prompt in enumerate(prompts) if prompt.text is not None}
        given = {i: prompt.text_vector for i, prompt in enumerate(prompts) if prompt.text_vector is not None}
        if not texts and not given:
            return vectors
        if self.text_table is None:
            raise ValueError(
                "this model was trained without task texts and cannot read `task_text`, nor the sentence in an observation of"
                " TaskTextWrapper; prompt it with a trajectory, or train it on data that has texts"
            )
        for i, vector in given.items():
            if len(vector) != self.policy.text_dim:
                raise ValueError(
                    f"the vector of the sentence has {len(vector)} entries, and this model reads {self.policy.text_dim}: make"
                    f" it with the model's own text encoder, TaskTextWrapper(env, task_text, {self.text_table.encoder_name!r})"
                )
            vectors[i] = vector
        if texts:
            vectors[list(texts)] = self.text_table.lookup(list(texts.values()))
        return vectors

    def _window(self, example: TrajectoryLike | None) -> Trajectory:
        """L steps spread over the example; zeros where there is none."""
        window = self.policy.prompt_window
        if example is None:
            return self._empty_window(window)
        trajectory = Trajectory.of(example)
        observations = channels_first(trajectory.observations, self.policy.observation_space)
        trajectory = Trajectory(observations, trajectory.actions)
        spaces_of_model = self.policy.observation_space, self.policy.action_space
        check_fits(trajectory.observations, trajectory.actions, *spaces_of_model, "`trajectory`")
        steps = window_steps(np.array([len(trajectory)]), window)[0]
        return Trajectory(take(trajectory.observations, steps), trajectory.actions[steps])

    def _empty_window(self, window: int) -> Trajectory:
        space, action_space = self.policy.observation_space, self.policy.action_space
        shapes = getattr(space, "spaces", None)
        zeros = (
            {key: np.zeros((window, *subspace.shape), subspace.dtype) for key, subspace in shapes.items()}
            if shapes is not None
            else np.zeros((window, *space.shape), space.dtype)  # type: ignore[misc]
        )
        return Trajectory(zeros, np.zeros((window, *action_space.shape), np.float32))


def _joined(windows: Sequence[np.ndarray | dict[str, np.ndarray]], device: th.device) -> TensorObs:
    """Windows one after the other: (M * L, *obs_shape)."""
    first = windows[0]
    if isinstance(first, dict):
        return to_device({key: np.concatenate([window[key] for window in windows]) for key in first}, device)
    return to_device(np.concatenate(windows), device)  # type: ignore[arg-type]
