"""Turns what a user says about tasks into tensors and encodings, and remembers the current task."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor

from sb3_llmdpd.data.checks import check_fits
from sb3_llmdpd.data.images import channels_first
from sb3_llmdpd.data.spaces import scale_actions
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.prompts.prompt import Prompt, Trajectory, TrajectoryLike, take, window_steps
from sb3_llmdpd.prompts.text_table import TextTable
from sb3_llmdpd.type_aliases import PromptBatch, PromptEncoding, TensorObs

TaskText = str | Sequence[str | None] | None
"""A sentence for all observations, or a list with one (or None) for each."""
Examples = TrajectoryLike | list[TrajectoryLike | None] | None
"""An example for all observations, or a **list** of one (or None) for each; a pair of arrays is a tuple."""
PromptLike = Prompt | Sequence[Prompt] | None
"""A prompt for all observations, or one for each; takes the place of sentence and example."""


class ReadsPrompts(Protocol):
    """A model that prompts are made for: its spaces, and L, the steps of an example that it sees."""

    observation_space: Any
    action_space: Any
    prompt_window: int

    @property
    def text_dim(self) -> int:
        """Size of a sentence's vector; 0 for a model without text."""

    @property
    def device(self) -> th.device:
        """Device of the networks."""


class Prompter:
    """Encodes prompts with the policy's EMA actor and the table of known sentences.

    :param policy: policy that acts on the prompts.
    :param text_table: known sentences; it loads its encoder for an unknown one. None for a model without
        text.
    """

    def __init__(self, policy: LLMDPDPolicy, text_table: TextTable | None) -> None:
        self.policy = policy
        self.text_table = text_table
        self.only_task: list[Prompt] | None = None
        """The prompt of a model that was trained on one task, which needs none to act."""
        self.task: list[Prompt] | None = None
        """The task of `set_task`."""
        self._encoded: tuple[Sequence[Prompt], tuple[int, int], PromptEncoding] | None = None

    def batch(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """Turn prompts into tensors, see `prompt_batch`."""
        return prompt_batch(prompts, self.policy, self.text_table)

    def encode(self, prompts: Sequence[Prompt], n_updates: int) -> PromptEncoding:
        """Encode prompts for acting, unless they are those of the last call and the encoders are the same.

        :param prompts: M prompts; an empty one becomes the learned nulls.
        :param n_updates: gradient steps so far; the encoders change with each.
        :return: encoding by the EMA actor.
        :raises ValueError: when a trajectory does not fit the model's spaces, or the model has no text
            encoder.
        """
        # PyTorch counts the changes of a tensor in place, such as those that loading makes, but not those of
        # a CUDA graph.
        version = (self.policy.actor_target.prompt_encoder.null_text._version, n_updates)
        if self._encoded is not None:
            known, known_version, encoding = self._encoded
            same = len(known) == len(prompts) and all(map(Prompt.is_same, known, prompts))
            if same and known_version == version:
                return encoding
        with th.no_grad():
            encoding = self.policy.actor_target.encode_prompts(self.batch(prompts))
        self._encoded = (prompts, version, encoding)
        return encoding

    def forget(self) -> None:
        """Forget the last encoding, since the encoders have changed."""
        self._encoded = None

    def set_task(self, task: list[Prompt] | None) -> None:
        """Set the task for calls that name none; the policy by itself acts on it, too.

        :param task: one prompt for all observations, or one for each; None for no task.
        :raises ValueError: when a prompt does not fit the model; the earlier task then remains.
        """
        prompts = self.only_task if task is None else task
        self.policy.set_prompts(None if prompts is None else self.batch(prompts))
        self.task = task

    def current(self, sentences: np.ndarray | None = None) -> list[Prompt]:
        """Return the task of the observations where they carry sentences, or else the one that is set.

        :param sentences: (dim,) or (n, dim), vectors of the sentences that the observations carry.
        :return: one prompt, or one for each observation.
        :raises ValueError: when there is no task.
        """
        task = self.task if self.task is not None else self.only_task
        if sentences is not None:
            examples = [Prompt(trajectory=prompt.trajectory) for prompt in task or [Prompt()]]
            return with_sentences(examples, sentences)
        if task is None:
            raise ValueError(
                "LLMDPD does not know which task to do: pass predict(..., task_text=... and/or"
                " trajectory=...), or,"
                " for tools that cannot, call model.set_task(...) or wrap the environment in"
                " TaskTextWrapper. To act"
                " without a prompt on purpose: prompt=Prompt()."
            )
        return task


def prompt_batch(prompts: Sequence[Prompt], model: ReadsPrompts, text_table: TextTable | None) -> PromptBatch:
    """Turn prompts into the tensors that networks read.

    :param prompts: M prompts.
    :param model: model that reads them.
    :param text_table: known sentences; None for a model without text.
    :return: the batch, on the model's device; zeros stand where a prompt has no sentence or no example.
    :raises ValueError: when an example does not fit the spaces, or a sentence the model.
    """
    device = model.device
    windows = [_window(prompt.trajectory, model) for prompt in prompts]
    actions = np.stack([window_actions for _, window_actions in windows])
    scaled = scale_actions(actions, model.action_space.low, model.action_space.high)
    return PromptBatch(
        text_vectors=th.as_tensor(_text_vectors(prompts, model.text_dim, text_table), device=device),
        has_text=th.tensor([prompt.has_text for prompt in prompts], device=device),
        observations=_joined([window_observations for window_observations, _ in windows], device),
        actions=th.as_tensor(scaled.reshape(*actions.shape[:2], -1), dtype=th.float32, device=device),
        has_trajectory=th.tensor([prompt.trajectory is not None for prompt in prompts], device=device),
    )


def _text_vectors(prompts: Sequence[Prompt], text_dim: int, text_table: TextTable | None) -> np.ndarray:
    vectors = np.zeros((len(prompts), text_dim), np.float32)
    texts = {i: prompt.text for i, prompt in enumerate(prompts) if prompt.text is not None}
    given = {i: prompt.text_vector for i, prompt in enumerate(prompts) if prompt.text_vector is not None}
    if not texts and not given:
        return vectors
    if text_table is None:
        raise ValueError(
            "this model was trained without task texts and cannot read `task_text`, nor the sentence in an"
            " observation"
            " of TaskTextWrapper; prompt it with a trajectory, or train it on data that has texts"
        )
    for i, vector in given.items():
        if len(vector) != text_dim:
            raise ValueError(
                f"the vector of the sentence has {len(vector)} entries, and this model reads {text_dim}:"
                f" make it with"
                f" the model's own text encoder, TaskTextWrapper(env, task_text, {text_table.encoder_name!r})"
            )
        vectors[i] = vector
    if texts:
        vectors[list(texts)] = text_table.lookup(list(texts.values()))
    return vectors


def _window(example: TrajectoryLike | None, model: ReadsPrompts) -> tuple[Any, np.ndarray]:
    """Observations and actions of L steps spread over the example; zeros where there is none."""
    space, action_space = model.observation_space, model.action_space
    if example is None:
        return _zeros(space, model.prompt_window), _zeros(action_space, model.prompt_window)
    trajectory = Trajectory.of(example)
    observations = channels_first(trajectory.observations, space)
    check_fits(observations, trajectory.actions, space, action_space, "`trajectory`")
    steps = window_steps(np.array([len(trajectory)]), model.prompt_window)[0]
    return take(observations, steps), trajectory.actions[steps]


def _zeros(space: spaces.Space[Any], n: int) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _zeros(subspace, n) for key, subspace in space.spaces.items()}
    return np.zeros((n, *space.shape), space.dtype)  # type: ignore[misc]


def _joined(windows: Sequence[np.ndarray | dict[str, np.ndarray]], device: th.device) -> TensorObs:
    """Join windows to (M * L, *obs_shape)."""
    first = windows[0]
    if isinstance(first, dict):
        joined = {key: np.concatenate([window[key] for window in windows]) for key in first}
        return obs_as_tensor(joined, device)
    return obs_as_tensor(np.concatenate(windows), device)  # type: ignore[arg-type]


def as_prompts(task_text: TaskText, trajectory: Examples, prompt: PromptLike) -> list[Prompt] | None:
    """Make one list of prompts from the three ways to give them.

    :param task_text: a sentence, or a list.
    :param trajectory: an example, or a list.
    :param prompt: a prompt, or a list.
    :return: one prompt for all observations, or one for each; None when nothing is given.
    :raises ValueError: when ``prompt`` comes with one of the others, a list is empty, or two lists differ in
        length.
    :raises TypeError: when ``prompt`` holds something else.
    """
    if prompt is not None:
        if task_text is not None or trajectory is not None:
            raise ValueError("pass either `prompt`, or `task_text` and/or `trajectory`, not both")
        prompts = list(prompt) if isinstance(prompt, Sequence) else [prompt]
        if not prompts or not all(isinstance(entry, Prompt) for entry in prompts):
            raise TypeError(f"`prompt` must be a Prompt or a non-empty list of them, got {prompt!r}")
        return prompts
    if task_text is None and trajectory is None:
        return None
    is_list = isinstance(task_text, Sequence) and not isinstance(task_text, str)
    texts: list[str | None] = list(task_text) if is_list else [task_text]  # type: ignore[arg-type, list-item]
    examples: list[TrajectoryLike | None] = trajectory if isinstance(trajectory, list) else [trajectory]
    sizes = {len(texts), len(examples)} - {1}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(
            f"got {len(texts)} task texts and {len(examples)} trajectories: pass one, or lists of one for"
            f" each"
            " observation"
        )
    n = max(len(texts), len(examples))
    texts, examples = texts * (n // len(texts)), examples * (n // len(examples))
    return [Prompt(text, example) for text, example in zip(texts, examples, strict=True)]


def with_sentences(prompts: list[Prompt], vectors: np.ndarray) -> list[Prompt]:
    """Give prompts that lack a sentence the one that their observation carries.

    :param prompts: one for all observations, or one for each.
    :param vectors: (n, text_dim), the sentences of n observations; or (text_dim,), of one.
    :return: one prompt where all are the same, so that it is encoded once; otherwise one for each
        observation.
    :raises ValueError: when there are neither one prompt nor one per observation, or a vector is not a
        sentence's.
    """
    if all(prompt.has_text for prompt in prompts):
        return prompts
    vectors = np.atleast_2d(vectors)
    rows = vectors[:1] if (vectors == vectors[:1]).all() else vectors
    n = max(len(prompts), len(rows))
    if not {len(prompts), len(rows)} <= {1, n}:
        raise ValueError(
            f"Got {len(prompts)} prompts for {len(rows)} observations: pass one prompt, or one per"
            f" observation."
        )
    pairs = zip(prompts * (n // len(prompts)), np.broadcast_to(rows, (n, *rows.shape[1:])), strict=True)
    return [prompt if prompt.has_text else Prompt(None, prompt.trajectory, row) for prompt, row in pairs]


def check_kind(observation: Any, space: spaces.Space[Any]) -> None:
    """Refuse an observation of another kind than the space's, and NaN; shapes are checked later.

    :param observation: argument of `predict`.
    :param space: the model's.
    :raises ValueError: on a tuple, on an array for a dict or a dict for an array, on other keys, on NaN.
    """
    if isinstance(observation, tuple):
        raise ValueError(
            "the observation is a tuple: Gymnasium's env.reset() gives (observation, info); pass the"
            " observation alone"
        )
    keys = sorted(space.spaces) if isinstance(space, spaces.Dict) else None
    given = sorted(observation) if isinstance(observation, dict) else None
    if given != keys:
        wanted, got = (
            "an array" if names is None else f"a dict with the keys {names}" for names in (keys, given)
        )
        raise ValueError(f"the observation must be {wanted}, got {got}")
    entries = observation if isinstance(observation, dict) else {"the observation": observation}
    for name, value in entries.items():
        if (np.asarray(value) != np.asarray(value)).any():  # as NaN alone does, of any dtype
            raise ValueError(f"{name} holds NaN, of which no network can make an action")
