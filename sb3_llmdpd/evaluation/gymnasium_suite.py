"""`GymnasiumSuite`, tasks of any registered Gymnasium environment."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import gymnasium as gym

from sb3_llmdpd.data.checks import check_texts, one_line
from sb3_llmdpd.evaluation.suite import EnvFacts, Suite, facts_of

TASK = "{task}"
"""Stands for the name of the task, in an id or in an argument."""

OPTION = "task"
"""Option of `reset` that names the task, where neither id nor arguments do."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class GymnasiumSuite(Suite):
    """Tasks of a registered Gymnasium environment.

    The environment learns its task in one of three ways: ``{task}`` in the id stands for its name, or
    ``{task}`` in a string among the arguments does, or else each ``reset`` gets ``options={"task": name}``.

    A step is a success when ``info["success"]`` or ``info["is_success"]`` says so. Where no step says
    anything, evaluations report returns.

    :param env_id: id as `gymnasium.make` takes it; ``"my_package:MyEnv-v0"`` imports the package first.
    :param env_kwargs: arguments of the environment by name.
    :param texts: a sentence, or several phrasings of it, by task; the first is told.
    :param new_texts: phrasings by task that the model was not trained on, for the condition "paraphrase".
    :param max_episode_steps: time limit in steps, in place of the registered one.
    :raises TypeError: on a sentence that is no string.
    :raises ValueError: on an empty sentence.
    """

    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    new_texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    max_episode_steps: int | None = None

    where_to_look = (
        "the data of the model were recorded in another environment, or in this one with other arguments."
        " Where they do not record the bounds of actions, train with `action_low` and `action_high`"
    )

    def __post_init__(self) -> None:
        for task, texts in self.texts.items():
            check_texts(texts, f"`texts[{task!r}]`")

    def make_env(self, task: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Make the environment, which does a task from its first reset on.

        :param task: name of the task.
        :param render_mode: None, or ``"rgb_array"`` to draw it.
        :raises ValueError: when there is no such environment, or it refuses its arguments.
        """
        arguments: dict[str, Any] = _filled(dict(self.env_kwargs), task)
        if render_mode is not None:
            arguments["render_mode"] = render_mode
        env = self._asked(
            task,
            lambda: gym.make(
                self.env_id.replace(TASK, task),
                max_episode_steps=self.max_episode_steps,
                disable_env_checker=True,  # it is evaluated as it is
                **arguments,
            ),
        )
        return env if self._is_named else _TaskByOption(env, task)

    def facts(self, task: str) -> EnvFacts:
        """See `Suite.facts`; it also resets the environment, to learn whether it reads the task.

        :raises ValueError: as `make_env`, and when the environment refuses the task.
        """
        env = self.make_env(task)
        with closing(env):
            self._asked(task, lambda: env.reset(seed=0))
            return replace(facts_of(env), reads_task=not isinstance(env, _TaskByOption) or env.was_read)

    def text(self, task: str) -> str:
        """See `Suite.text`."""
        if not self.texts.get(task):
            return super().text(task)
        return check_texts(self.texts[task], task)[0]

    def paraphrases(self, task: str, style: str = "") -> Sequence[str]:
        """See `Suite.paraphrases`; there are no styles."""
        return () if style else self.new_texts.get(task, ())

    @property
    def _is_named(self) -> bool:
        """True where the id or an argument names the task."""
        return TASK in self.env_id or _filled(dict(self.env_kwargs), "") != self.env_kwargs

    def _asked(self, task: str, of_env: Callable[[], Made]) -> Made:
        """Ask something of the user's environment, and say in a sentence that it refused."""
        try:
            return of_env()
        except (gym.error.Error, ImportError, TypeError, ValueError, LookupError) as error:
            raise ValueError(
                f"the environment {self.env_id!r} cannot be played with the task {task!r}"
                f" ({one_line(error)}): give the id of a registered environment, with its module in front"
                " as in 'my_package:MyEnv-v0', arguments that it takes, and a task that it knows"
            ) from error


def _filled(value: Any, task: str) -> Any:
    """Put the name of the task into every string of a JSON value."""
    if isinstance(value, str):
        return value.replace(TASK, task)
    if isinstance(value, Mapping):
        return {name: _filled(one, task) for name, one in value.items()}
    return [_filled(one, task) for one in value] if isinstance(value, list) else value


class _TaskByOption(gym.Wrapper[Any, Any, Any, Any]):
    """Adds the name of the task to the options of every reset."""

    def __init__(self, env: gym.Env[Any, Any], task: str) -> None:
        super().__init__(env)
        self.task = task
        self.was_read = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        watched = _Watched({**(options or {}), OPTION: self.task})
        answer = self.env.reset(seed=seed, options=watched)
        self.was_read = self.was_read or watched.was_read
        return answer


class _Watched(dict[str, Any]):
    """A dict that remembers whether anybody looked into it."""

    was_read = False


def _noted(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def noting(self: _Watched, *arguments: Any) -> Any:
        self.was_read = True
        return method(self, *arguments)

    return noting


_LOOKS = "__getitem__ __contains__ __iter__ __or__ __ror__ get pop setdefault keys values items copy"
for _name in _LOOKS.split():
    setattr(_Watched, _name, _noted(_name))
