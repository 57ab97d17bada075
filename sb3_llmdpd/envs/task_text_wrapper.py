"""`TaskTextWrapper`, an environment that says its task in every observation."""

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.data.checks import check_texts, entries_of, parts_of
from sb3_llmdpd.prompts.text_cache import cached_encoder
from sb3_llmdpd.prompts.text_encoders import TextEncoder, check_vectors

OBSERVATION, TASK_EMBEDDING = "observation", "task_embedding"
"""Keys of a wrapped observation."""


class TaskTextWrapper(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Puts the vector of a task's sentence into the observation: tools that know no tasks carry it to
    `predict`.

    The observation becomes ``Dict(observation=<the environment's>, task_embedding=Box(dim))``. SB3 knows no
    nested dicts: where the environment's observation is a dict itself, ``task_embedding`` joins its keys. The
    sentence is also in ``info["task_text"]`` and in the attributes ``task_text`` and ``task_description``.

    :param env: environment of one task, or of several that `set_task_text` switches between.
    :param task_text: sentence of the task.
    :param text_encoder: the model's own (``model.text_encoder``): a name (see `make_text_encoder`), or an
        encoder.
    :raises TypeError: when the sentence is no string.
    :raises ValueError: when it is empty, or when the environment's dict has no room because it already holds
        ``task_embedding``, or ``observation`` alone.
    """

    def __init__(
        self, env: gym.Env[Any, Any], task_text: str, text_encoder: str | TextEncoder = "minilm"
    ) -> None:
        arguments = {"task_text": task_text, "text_encoder": text_encoder}
        gym.utils.RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **arguments)
        super().__init__(env)
        parts = parts_of(env.observation_space)
        if TASK_EMBEDDING in parts or set(parts) == {OBSERVATION}:
            raise ValueError(
                f"the environment's observation is a dict with the keys {sorted(parts)}, beside which"
                f" `{TASK_EMBEDDING}` is ambiguous: wrap an environment once, and name an only entry"
                " otherwise or make it an array"
            )
        self.text_encoder = text_encoder
        self.set_task_text(task_text)
        own = {key or OBSERVATION: part for key, part in parts.items()}  # an array has the key ""
        vector_space = spaces.Box(-np.inf, np.inf, self._vector.shape, np.float32)
        self.observation_space = spaces.Dict({**own, TASK_EMBEDDING: vector_space})

    def set_task_text(self, task_text: str) -> None:
        """Change the task from the next observation on: ``vec_env.env_method("set_task_text", text,
        indices=[i])``.

        :param task_text: sentence of the task.
        :raises TypeError: when it is no string.
        :raises ValueError: when it is empty.
        """
        if not isinstance(task_text, str):
            raise TypeError(
                f"`task_text` must be a string, got {type(task_text).__name__}: one environment does one task"
            )
        texts = check_texts(task_text, "`task_text`")
        given = self.text_encoder
        encoder = _encoder_named(given) if isinstance(given, str) else given
        self._vector = check_vectors(encoder.encode(texts), texts, encoder)[0]
        self._task_text = texts[0]

    @property
    def task_text(self) -> str:
        """The sentence."""
        return self._task_text

    task_description = task_text
    """The sentence, under the name that LeRobot looks for."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, with the sentence's vector in the observation and the sentence in the info."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_task(observation), {**info, "task_text": self._task_text}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, with the sentence's vector in the observation and the sentence in the info."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, "task_text": self._task_text}
        return self._with_task(observation), reward, terminated, truncated, info

    def _with_task(self, observation: Any) -> dict[str, Any]:
        own = {key or OBSERVATION: value for key, value in entries_of(observation).items()}
        # a copy: to change an observation must not change the task
        return {**own, TASK_EMBEDDING: self._vector.copy()}


def plain_observation_space(space: Space[Any]) -> Space[Any]:
    """Take the sentence's vector out of the space of a `TaskTextWrapper`; any other space stays as it is."""
    parts = parts_of(space)
    if TASK_EMBEDDING not in parts:
        return space
    rest = {key: part for key, part in parts.items() if key != TASK_EMBEDDING}
    return rest[OBSERVATION] if set(rest) == {OBSERVATION} else spaces.Dict(rest)


def split_observation(observation: Any, space: Space[Any]) -> tuple[Any, np.ndarray | None]:
    """Take the sentence's vector out of the observations of a `TaskTextWrapper`.

    :param observation: one, or a batch.
    :param space: the model's; nothing is taken out where it holds a ``task_embedding`` itself.
    :return: the observation without the vector, and the vector (dim,) or vectors (n, dim); None where there
        are none.
    """
    is_with_vector = isinstance(observation, dict) and TASK_EMBEDDING in observation
    if not is_with_vector or TASK_EMBEDDING in parts_of(space):
        return observation, None
    rest = {key: value for key, value in observation.items() if key != TASK_EMBEDDING}
    plain = rest[OBSERVATION] if set(rest) == {OBSERVATION} else rest
    return plain, np.asarray(observation[TASK_EMBEDDING])


@cache
def _encoder_named(spec: str) -> TextEncoder:
    """Make one encoder for all environments of a process, which is not pickled with them: it may be large."""
    return cached_encoder(spec)
