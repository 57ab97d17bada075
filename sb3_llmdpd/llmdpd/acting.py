"""How a prompted model acts: `predict` with a task, and the ways to fix the task for tools that know none."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_llmdpd.envs.task_text_wrapper import split_observation
from sb3_llmdpd.llmdpd.export import ActingNetwork, export_network
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.llmdpd.prompter import Prompter
from sb3_llmdpd.prompts.prompt import Prompt, TrajectoryLike
from sb3_llmdpd.prompts.text_table import TextTable
from sb3_llmdpd.type_aliases import PromptEncoding

TaskText = str | Sequence[str | None] | None
"""A sentence for all observations, or a list with one (or None) for each."""
Examples = TrajectoryLike | list[TrajectoryLike | None] | None
"""An example for all observations, or a **list** with one (or None) for each; a pair (observations, actions) is a tuple."""
PromptLike = Prompt | Sequence[Prompt] | None
"""A prompt for all observations, or one for each; takes the place of sentence and example."""
Predictions = tuple[np.ndarray, tuple[np.ndarray, ...] | None]


class PromptedActing(OffPolicyAlgorithm):
    """The acting half of `LLMDPD`."""

    policy: LLMDPDPolicy
    prompter: Prompter
    text_table: TextTable | None
    action_generator: th.Generator
    n_candidates: int
    candidate_temperature: float
    sampler: str
    n_sampling_steps: int | None
    _only_task: list[Prompt] | None = None
    _task: list[Prompt] | None = None
    _encoded: tuple[list[Prompt], tuple[int, int], PromptEncoding] | None = None

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        *,
        task_text: TaskText = None,
        trajectory: Examples = None,
        prompt: PromptLike = None,
    ) -> Predictions:
        """Act.

        An observation of a `TaskTextWrapper` brings its sentence along. It goes before the task of `set_task`, whose example
        it joins, as it joins ``trajectory``; ``task_text`` and ``prompt`` go before it.

        :param observation: (*obs_shape) or (n, *obs_shape), environment units; or that of a `TaskTextWrapper`.
        :param state: handed back as it came; the policy has no memory.
        :param episode_start: ignored, for the same reason.
        :param deterministic: True for the chain without noise (with ``n_candidates`` above 1, for the best of always the
            same candidates). The action of a row then depends on that row alone.
        :param task_text: a sentence for all rows, or a list with one (or None) for each row.
        :param trajectory: an example for all rows (see `Trajectory.of`), or a list with one (or None) for each row.
        :param prompt: instead of the two: a `Prompt` or a list of them. ``Prompt()`` asks for the policy without a prompt.
            With none of the three, the observation's sentence or the task of `set_task` counts.
        :return: (action_shape) or (n, *action_shape), environment units, and ``state``.
        :raises ValueError: when there is no prompt at all, as many prompts as fit neither one nor each row, or an observation
            that does not fit the space.
        """
        prompts = as_prompts(task_text, trajectory, prompt)
        return self._act(observation, state, deterministic, prompts, is_whole=prompt is not None)

    def set_task(
        self, task_text: TaskText = None, trajectory: Examples = None, prompt: PromptLike = None
    ) -> None:
        """Say once what the task is, so that plain SB3 tools can call `predict`.

        The arguments are those of `predict`; with none of them the task is forgotten. Lists hold one entry for each
        sub-environment. The policy itself (``model.policy.predict``) acts on this task, too.

        :raises ValueError: when a prompt does not fit the model; the task of before then remains.
        """
        task = as_prompts(task_text, trajectory, prompt)
        prompts = self._only_task if task is None else task
        self.policy.set_prompts(None if prompts is None else self.prompter.batch(prompts))
        self._task = task

    @contextmanager
    def using_task(
        self, task_text: TaskText = None, trajectory: Examples = None, prompt: PromptLike = None
    ) -> Iterator[Self]:
        """`set_task` for the length of a ``with`` block.

        The arguments are those of `predict`.

        :return: a context that yields the model.
        """
        before = self._task
        self.set_task(task_text, trajectory, prompt)
        try:
            yield self
        finally:
            self.set_task(prompt=before)

    def prompted(
        self, task_text: TaskText = None, trajectory: Examples = None, prompt: PromptLike = None
    ) -> "PromptedPredictor":
        """A view that has only SB3's ``predict``, bound to a task; enough for SB3's `evaluate_policy`.

        The arguments are those of `predict`.

        :return: the view.
        :raises ValueError: when all three are None.
        """
        prompts = as_prompts(task_text, trajectory, prompt)
        if prompts is None:
            raise ValueError("`prompted` needs a task: pass `task_text`, `trajectory` or `prompt`")
        return PromptedPredictor(self, prompts, is_whole=prompt is not None)

    def export(
        self,
        path: str | Path,
        task_text: TaskText = None,
        trajectory: Examples = None,
        prompt: PromptLike = None,
        deterministic: bool = True,
    ) -> Path:
        """Write the acting network for one task as a program of PyTorch's own, which runs without this package.

        ``torch.export.load(path).module()(observations)`` gives the actions of `predict`, with one candidate and the model's
        sampler: (n, *obs_shape) of the model's observation space, or a dict of such tensors, to (n, *action_shape), in
        environment units. It runs where the model is now: load a model with ``device="cpu"`` to export it for a CPU.

        The arguments that say the task are those of `predict`.

        :param path: of the file; ``.pt2`` is added where there is no suffix.
        :param deterministic: False for a program that takes standard normal noise (S, n, action_dim) beside the observations,
            S the number of sampling steps.
        :return: the file, which is there whole or not at all.
        :raises ValueError: when there is no prompt or more than one.
        """
        prompts = as_prompts(task_text, trajectory, prompt) or self._current_task(None)
        if len(prompts) > 1:
            raise ValueError(f"a program is for one task, got {len(prompts)} prompts: export one for each")
        actor = self.policy.actor_target
        chain = actor.diffusion.chain(self.sampler, self.n_sampling_steps)
        return export_network(ActingNetwork(actor, self._encode(prompts), chain), path, deterministic)

    @property
    def known_task_texts(self) -> tuple[str, ...]:
        """The sentences of training; understanding these needs no language model."""
        return self.text_table.texts if self.text_table is not None else ()

    def _act(
        self, observation: Any, state: Any, deterministic: bool, prompts: list[Prompt] | None, is_whole: bool
    ) -> Predictions:
        observation, sentences = split_observation(observation, self.observation_space)
        check_kind(observation, self.observation_space)
        if prompts is None:
            prompts = self._current_task(sentences)
        elif sentences is not None and not is_whole:
            prompts = with_sentences(prompts, sentences)
        noise = None if deterministic else self.action_generator
        actions = self.policy.predict_prompted(
            observation,
            self._encode(prompts),
            noise,
            *(self.n_candidates, self.candidate_temperature, self.sampler, self.n_sampling_steps),
        )
        return actions, state

    def _current_task(self, sentences: np.ndarray | None) -> list[Prompt]:
        """The task of the observations, where they carry a sentence, or else the one that is set."""
        task = self._task if self._task is not None else self._only_task
        if sentences is not None:
            return with_sentences(
                [Prompt(trajectory=prompt.trajectory) for prompt in task or [Prompt()]], sentences
            )
        if task is None:
            raise ValueError(
                "LLMDPD does not know which task to do: pass predict(..., task_text=... and/or trajectory=...), or, for tools"
                " that cannot, call model.set_task(...) or wrap the environment in TaskTextWrapper. To act without a prompt"
                " on purpose: prompt=Prompt()."
            )
        return task

    def _encode(self, prompts: list[Prompt]) -> PromptEncoding:
        """Encode prompts, unless they are the last ones and the encoders are still the same."""
        # PyTorch counts the changes of a tensor in place, as loading makes them; training may go by a CUDA graph, which does
        # not count.
        weights_version = (self.policy.actor_target.prompt_encoder.null_text._version, self._n_updates)
        if self._encoded is not None:
            known, known_version, encoding = self._encoded
            same = len(known) == len(prompts) and all(
                a.is_same(b) for a, b in zip(known, prompts, strict=True)
            )
            if same and known_version == weights_version:
                return encoding
        encoding = self.prompter.encode(prompts)
        self._encoded = (prompts, weights_version, encoding)
        return encoding


class PromptedPredictor:
    """A model bound to a task: SB3's ``predict`` and nothing else.

    :param model: which acts.
    :param prompts: one, or one for each observation.
    :param is_whole: False when a prompt without a sentence takes that of its observation.
    """

    def __init__(self, model: PromptedActing, prompts: list[Prompt], is_whole: bool = True) -> None:
        self._model = model
        self._prompts = prompts
        self._is_whole = is_whole

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> Predictions:
        """Act on the bound task; see `PromptedActing.predict`."""
        return self._model._act(observation, state, deterministic, self._prompts, self._is_whole)


def as_prompts(task_text: TaskText, trajectory: Examples, prompt: PromptLike) -> list[Prompt] | None:
    """One list of prompts from the three ways to give them.

    :param task_text: a sentence, or a list.
    :param trajectory: an example, or a list.
    :param prompt: a prompt, or a list.
    :return: one prompt for all observations, or one for each; None when nothing is given.
    :raises ValueError: when ``prompt`` comes with one of the others, a list is empty, or two lists differ in length.
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
    texts = (
        list(task_text) if isinstance(task_text, Sequence) and not isinstance(task_text, str) else [task_text]
    )
    examples: list[TrajectoryLike | None] = list(trajectory) if isinstance(trajectory, list) else [trajectory]
    sizes = {len(texts), len(examples)} - {1}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(
            f"got {len(texts)} task texts and {len(examples)} trajectories: pass one, or lists of one for each observation"
        )
    n = max(len(texts), len(examples))
    texts = texts * n if len(texts) == 1 else texts
    examples = examples * n if len(examples) == 1 else examples
    return [Prompt(text, example) for text, example in zip(texts, examples, strict=True)]


def with_sentences(prompts: list[Prompt], vectors: np.ndarray) -> list[Prompt]:
    """Prompts in which those without a sentence have that of their observation.

    :param prompts: one for all observations, or one for each.
    :param vectors: (n, text_dim), the sentences of n observations; or (text_dim,), of one.
    :return: one prompt where all are the same, so that it is encoded once; otherwise one for each observation.
    :raises ValueError: when there are neither one prompt nor one per observation, or a vector is not a sentence's.
    """
    if all(prompt.has_text for prompt in prompts):
        return prompts
    vectors = np.atleast_2d(vectors)
    rows = vectors[:1] if (vectors == vectors[:1]).all() else vectors
    n = max(len(prompts), len(rows))
    if not {len(prompts), len(rows)} <= {1, n}:
        raise ValueError(
            f"Got {len(prompts)} prompts for {len(rows)} observations: pass one prompt, or one per observation."
        )
    pairs = zip(prompts * (n // len(prompts)), np.broadcast_to(rows, (n, *rows.shape[1:])), strict=True)
    return [
        prompt if prompt.has_text else Prompt(None, prompt.trajectory, vector) for prompt, vector in pairs
    ]


def check_kind(observation: Any, space: spaces.Space[Any]) -> None:
    """Refuse what is not even the kind of thing that the space holds, and NaN; shapes are checked behind.

    :param observation: what `predict` was given.
    :param space: the model's.
    :raises ValueError: on a tuple, on an array for a dict or a dict for an array, on other keys, on NaN.
    """
    if isinstance(observation, tuple):
        raise ValueError(
            "the observation is a tuple: Gymnasium's env.reset() gives (observation, info); pass the observation alone"
        )
    keys = sorted(space.spaces) if isinstance(space, spaces.Dict) else None
    given = sorted(observation) if isinstance(observation, dict) else None
    if given != keys:
        wanted, got = (
            "an array" if names is None else f"a dict with the keys {names}" for names in (keys, given)
        )
        raise ValueError(f"the observation must be {wanted}, got {got}")
    for name, value in (
        observation.items() if isinstance(observation, dict) else [("the observation", observation)]
    ):
        if (np.asarray(value) != np.asarray(value)).any():  # as NaN alone does, of any dtype
            raise ValueError(f"{name} holds NaN, of which no network can make an action")
