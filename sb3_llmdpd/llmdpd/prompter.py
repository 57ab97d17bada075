"""Turns what a user says about tasks into tensors and encodings, and remembers the current task."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor

from sb3_llmdpd.data.checks import check_fits
from sb3_llmdpd.data.images import channels_first
from sb3_llmdpd.data.spaces import scale_actions
from sb3_llmdpd.envs.task_text_wrapper import split_observation
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.prompts.explanation import PromptExplanation, explanation
from sb3_llmdpd.prompts.prompt import Prompt, Trajectory, TrajectoryLike, are_same, take, window_steps
from sb3_llmdpd.prompts.text_table import TextTable
from sb3_llmdpd.type_aliases import PromptBatch, PromptEncoding, TensorObs

TaskText = str | Sequence[str | None] | None
"""A sentence for all observations, or a list with one (or None) for each."""
Example = TrajectoryLike | list[TrajectoryLike | None] | None
"""An example for all observations, or a **list** of one (or None) for each; a pair of arrays is a tuple."""
Examples = list[TrajectoryLike] | list[list[TrajectoryLike] | None] | None
"""Examples for all observations, or a list of such lists (or None), one for each."""
PromptLike = Prompt | Sequence[Prompt] | None
"""A prompt for all observations, or one for each; takes the place of sentence and example."""


_N_LOOKED_AT = 128
"""Numbers of a large tensor that are compared."""


class ReadsPrompts(Protocol):
    """A model that prompts are made for: its spaces, and the steps of an example that it reads."""

    observation_space: Any
    action_space: Any
    prompt_window: int
    """L, steps that are spread over an example."""
    reads_all_steps: bool
    """True where it reads all steps of an example, and not L of them."""

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
        self._encoded: tuple[Sequence[Prompt], float, _Weights, PromptEncoding] | None = None
        self._has_warned = False

    def batch(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """Turn prompts into tensors, see `prompt_batch`; without the sentences that are not to be read."""
        return prompt_batch([self._as_read(prompt) for prompt in prompts], self.policy, self.text_table)

    def explain(self, prompt: Prompt) -> PromptExplanation:
        """Say whether the sentence of a prompt is known, and whether it is read.

        :param prompt: any prompt.
        :raises ValueError: when the model has no text encoder, or cannot read the sentence.
        """
        n_examples, table = len(prompt.trajectories), self.text_table
        vector = _text_vectors([prompt], self.policy.text_dim, table)[0]
        if not prompt.has_text or table is None:
            return PromptExplanation(None, n_examples)
        return explanation(prompt.text, vector, n_examples, table, self.policy.acting.text_beside_example)

    def counts_beside_examples(self, texts: Sequence[str]) -> list[bool]:
        """Tell of sentences whether they are read beside an example.

        :param texts: n sentences, of a model that reads any.
        """
        table, limit = self.text_table, self.policy.acting.text_beside_example
        assert table is not None
        new = [text for text in texts if table.index(text) is None]
        vectors = dict(zip(new, table.lookup(new), strict=True))
        return [
            text not in vectors or explanation(text, vectors[text], 1, table, limit).is_read for text in texts
        ]

    def _as_read(self, prompt: Prompt) -> Prompt:
        """Leave the sentence out where an example says more, and warn once of one that is far from all."""
        table = self.text_table
        if not prompt.has_text or table is None:
            return prompt
        if prompt.text is not None and table.index(prompt.text) is not None:
            return prompt
        if not prompt.trajectories and self._has_warned:
            return prompt
        explained = self.explain(prompt)
        if not explained.is_read:
            return Prompt(trajectories=prompt.trajectories)
        if explained.is_far and not prompt.trajectories:
            self._has_warned = True
            nearest, likeness = explained.nearest[0]
            warnings.warn(
                f"{prompt.text or 'a sentence'!r} is far from all sentences of training: the nearest is"
                f" {nearest!r} (likeness {likeness:.2f}). Told alone, it may move the policy anywhere: show"
                " an example, or look for other words with model.explain_prompt(...)",
                stacklevel=4,
            )
        return prompt

    def encode(self, prompts: Sequence[Prompt]) -> PromptEncoding:
        """Encode prompts for acting, unless they are those of the last call and so are the encoders' weights.

        :param prompts: M prompts; an empty one becomes the learned nulls.
        :return: encoding by the EMA actor.
        :raises ValueError: when a trajectory does not fit the model's spaces, or the model has no text
            encoder.
        """
        if self._encoded is not None:
            known, limit, weights, encoding = self._encoded
            is_read_alike = limit == self.policy.acting.text_beside_example
            if is_read_alike and weights.are_unchanged() and are_same(known, prompts):
                return encoding
        actor = self.policy.actor_target
        with th.no_grad():
            encoding = actor.encode_prompts(self.batch(prompts))
        limit = self.policy.acting.text_beside_example
        self._encoded = (prompts, limit, _Weights(actor.encodes_prompts()), encoding)
        return encoding

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
            examples = [Prompt(trajectories=prompt.trajectories) for prompt in task or [Prompt()]]
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


class _Weights:
    """Notices that tensors have changed: by an operation, by other memory, or by other numbers in it.

    PyTorch counts the operations that change a tensor, though not those on its ``data`` or of a CUDA graph.
    These are noticed by some of its numbers, which an average with other weights or a gradient step changes:
    looking at all of them would take longer.

    :param tensors: the tensors, on one device.
    """

    def __init__(self, tensors: Sequence[th.Tensor]) -> None:
        self._tensors = tensors
        numbers = [tensor.detach().reshape(-1) for tensor in tensors]
        # Of a step that is odd, so that it meets all rows and columns of a matrix.
        some = [part[:: len(part) // _N_LOOKED_AT | 1] for part in numbers]
        # NumPy has no bfloat16, whose bits tell as much.
        some = [part.view(th.int16) if part.dtype == th.bfloat16 else part for part in some]
        self._on_cpu = tensors[0].device.type == "cpu"
        self._some: list[Any] = [part.numpy() for part in some] if self._on_cpu else some
        self._seen = self._look()

    def are_unchanged(self) -> bool:
        """Tell whether the tensors are as they were."""
        return self._look() == self._seen

    def _look(self) -> tuple[list[int], list[int], bytes]:
        versions = [tensor._version for tensor in self._tensors]
        places = [tensor.data_ptr() for tensor in self._tensors]
        if self._on_cpu:
            return versions, places, b"".join([part.tobytes() for part in self._some])
        return versions, places, th.cat([part.float() for part in self._some]).cpu().numpy().tobytes()


def prompt_batch(prompts: Sequence[Prompt], model: ReadsPrompts, text_table: TextTable | None) -> PromptBatch:
    """Turn prompts into the tensors that networks read.

    :param prompts: M prompts.
    :param model: model that reads them.
    :param text_table: known sentences; None for a model without text.
    :return: the batch, on the model's device; zeros stand where a prompt has no sentence or no example.
    :raises ValueError: when an example does not fit the spaces, or a sentence the model.
    """
    device, examples = model.device, _ShownExamples(model)
    shown = [[examples(example) for example in prompt.trajectories] for prompt in prompts]
    lengths = np.zeros((len(prompts), max(map(len, shown))), np.int64)
    for row, of_prompt in zip(lengths, shown, strict=True):
        row[: len(of_prompt)] = [len(actions) for _, actions in of_prompt]
    n_steps = lengths.sum(axis=1)
    # Behind a prompt's last step stand rows that nobody reads, up to the most steps of a prompt.
    parts = [
        [*of_prompt, examples.blank(n_steps.max() - n)] for of_prompt, n in zip(shown, n_steps, strict=True)
    ]
    actions = np.stack([np.concatenate([actions for _, actions in of_prompt]) for of_prompt in parts])
    scaled = scale_actions(actions, model.action_space.low, model.action_space.high)
    observations = [observations for of_prompt in parts for observations, _ in of_prompt]
    return PromptBatch(
        text_vectors=th.as_tensor(_text_vectors(prompts, model.text_dim, text_table), device=device),
        has_text=th.tensor([prompt.has_text for prompt in prompts], device=device),
        observations=_joined(observations, device),
        actions=th.as_tensor(
            scaled.reshape(*actions.shape[:2], math.prod(actions.shape[2:])), dtype=th.float32, device=device
        ),
        lengths=th.as_tensor(lengths, device=device),
        has_trajectory=th.as_tensor(n_steps > 0, device=device),
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


class _ShownExamples:
    """The steps of examples that a model reads; an example that several prompts share is read once.

    :param model: model that reads them.
    """

    def __init__(self, model: ReadsPrompts) -> None:
        self._model = model
        self._known: dict[int, tuple[Any, np.ndarray]] = {}

    def __call__(self, example: TrajectoryLike) -> tuple[Any, np.ndarray]:
        """Return the observations and actions of an example's steps: all, or L spread over it."""
        if id(example) not in self._known:
            self._known[id(example)] = self._read(example)
        return self._known[id(example)]

    def blank(self, n: int) -> tuple[Any, np.ndarray]:
        """Return ``n`` steps of zeros."""
        return _zeros(self._model.observation_space, n), _zeros(self._model.action_space, n)

    def _read(self, example: TrajectoryLike) -> tuple[Any, np.ndarray]:
        space, action_space = self._model.observation_space, self._model.action_space
        trajectory = Trajectory.of(example)
        # An example from a `TaskTextWrapper` holds its sentence in each observation.
        plain, _ = split_observation(trajectory.observations, space)
        observations = channels_first(plain, space)
        check_fits(observations, trajectory.actions, space, action_space, "`trajectory`")
        if self._model.reads_all_steps:
            return observations, trajectory.actions
        steps = window_steps(np.array([len(trajectory)]), self._model.prompt_window)[0]
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


def as_prompts(
    task_text: TaskText, trajectory: Example, prompt: PromptLike, trajectories: Examples = None
) -> list[Prompt] | None:
    """Make one list of prompts from the ways to give them.

    :param task_text: a sentence, or a list.
    :param trajectory: an example, or a list.
    :param prompt: a prompt, or a list.
    :param trajectories: a list of examples, or a list of such lists.
    :return: one prompt for all observations, or one for each; None when nothing is given.
    :raises ValueError: when ``prompt`` comes with one of the others, one example with several, a list is
        empty, or two lists differ in length.
    :raises TypeError: when ``prompt`` or ``trajectories`` holds something else.
    """
    others = (task_text, trajectory, trajectories)
    if prompt is not None:
        if any(each is not None for each in others):
            raise ValueError(
                "pass either `prompt`, or `task_text` and/or `trajectory` or `trajectories`, not both"
            )
        prompts = list(prompt) if isinstance(prompt, Sequence) else [prompt]
        if not prompts or not all(isinstance(entry, Prompt) for entry in prompts):
            raise TypeError(f"`prompt` must be a Prompt or a non-empty list of them, got {prompt!r}")
        return prompts
    if all(each is None for each in others):
        return None
    if isinstance(task_text, np.ndarray) and task_text.dtype.kind in "UO":
        task_text = task_text.tolist()  # a column of a table; an array without an axis gives its string
    is_list = isinstance(task_text, Sequence) and not isinstance(task_text, str)
    texts: list[str | None] = list(task_text) if is_list else [task_text]  # type: ignore[arg-type, list-item]
    examples = _examples_of_rows(trajectory, trajectories)
    sizes = {len(texts), len(examples)} - {1}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(
            f"got {len(texts)} task texts and {len(examples)} trajectories: pass one, or lists of one for"
            f" each"
            " observation"
        )
    n = max(len(texts), len(examples))
    texts, examples = texts * (n // len(texts)), examples * (n // len(examples))
    return [Prompt(text, trajectories=shown) for text, shown in zip(texts, examples, strict=True)]


def _examples_of_rows(trajectory: Example, trajectories: Examples) -> list[list[TrajectoryLike]]:
    """List the examples of each row, or of all rows."""
    if trajectories is None:
        each = trajectory if isinstance(trajectory, list) else [trajectory]
        if len(each) == 2 and any(isinstance(one, np.ndarray | dict) for one in each):
            raise TypeError(
                "`trajectory` is a list, which holds one example for each observation; those and actions of"
                " one example are a pair in parentheses: trajectory=(observations, actions)"
            )
        return [[] if one is None else [one] for one in each]
    if trajectory is not None:
        raise ValueError("pass either one example as `trajectory`, or several as `trajectories`, not both")
    if not isinstance(trajectories, list | tuple) or not trajectories:
        got = "none" if trajectories in ([], ()) else type(trajectories).__name__
        raise TypeError(
            "`trajectories` must be a list of at least one example, or a list of such lists with one for each"
            f" observation; got {got}"
        )
    by_row = [each is None or isinstance(each, list) for each in trajectories]
    if any(by_row) != all(by_row):
        raise TypeError(
            "`trajectories` holds lists beside examples: pass a list of examples for all observations, or a"
            " list of such lists with one (or None) for each"
        )
    return [each or [] for each in trajectories] if all(by_row) else [list(trajectories)]


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
    return [
        prompt if prompt.has_text else Prompt(text_vector=row, trajectories=prompt.trajectories)
        for prompt, row in pairs
    ]


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
