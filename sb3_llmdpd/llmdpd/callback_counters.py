"""Counters of SB3's callbacks, so that a resumed run knows when to evaluate next and what was best so far."""

import inspect
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import takewhile
from numbers import Real
from pathlib import PurePath
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_llmdpd.checkpoint.values import from_json, no_custom_objects

COUNTERS: dict[type, tuple[str, ...]] = {
    BaseCallback: ("n_calls", "num_timesteps"),
    EvalCallback: (
        "best_mean_reward",
        "last_mean_reward",
        "evaluations_timesteps",
        "evaluations_results",
        "evaluations_length",
        "evaluations_successes",
    ),
    EveryNTimesteps: ("last_time_trigger",),
    StopTrainingOnMaxEpisodes: ("n_episodes",),
    StopTrainingOnNoModelImprovement: ("last_best_mean_reward", "no_improvement_evals"),
}
"""Counters of callbacks by their classes. All else is a setting, and as its constructor was told."""

_CHILDREN = ("callback", "callback_on_new_best")
"""Attributes in which SB3's callbacks keep a callback that they call at times."""

_PLACES = ("log_path", "best_model_save_path", "save_path", "path")
"""Attributes that tell callbacks of one class apart: where they write."""

_NO_SETTINGS = ("render_mode", "seed")
"""Arguments of environments that change nothing in their task."""


class Counters(NamedTuple):
    """The counts of one callback, and its marks by which it is known again."""

    callback: str
    """Name of the callback's class."""
    numbers: dict[str, Any]
    """Counters by the names of `COUNTERS`."""
    env: str | None = None
    """Its environment and task, or that of the callback that calls it, in words; empty without one. None in
    a file of version 1, which does not say."""
    name: str = ""
    """End of the path that it writes to, which tells it from others of its class and task; empty where there
    are no others, or it has no path."""


class Watched(NamedTuple):
    """A callback of a training, and how it is known again."""

    callback: BaseCallback
    env: str
    """As in `Counters`."""
    place: tuple[str, ...]
    """Parts of the path that it writes to, or that the callback that calls it does."""
    is_always_called: bool
    """True where it is called at each step, and not by another callback at times."""

    @property
    def kind(self) -> tuple[str, str]:
        """Name of its class, and its environment."""
        return type(self.callback).__name__, self.env


def watched(callback: BaseCallback) -> list[Watched]:
    """Look at the callbacks of a training that begins; their environments must be open.

    :param callback: the outermost callback.
    :return: this one and all that it calls, from the outside in; lists are no callbacks of their own.
    """
    return list(_tree(callback, "", (), True))


def counters_of(callbacks: Sequence[Watched]) -> list[Counters]:
    """Collect what callbacks have counted.

    :param callbacks: callbacks of `watched`.
    :return: counters of each, in the same order.
    """
    places = defaultdict(list)
    for each in callbacks:
        places[each.kind].append(each.place)
    return [
        Counters(each.kind[0], _numbers(each.callback), each.env, _name(each.place, places[each.kind]))
        for each in callbacks
    ]


def _name(place: tuple[str, ...], places: list[tuple[str, ...]]) -> str:
    """Take from a path what tells it from the others, and no more: files are the same wherever they are."""
    if len(places) == 1:
        return ""
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*filter(None, places), strict=False))
    n_shared = min(sum(1 for _ in shared), len(place) - 1)
    return "/".join(place[n_shared:])


def give_back(
    callbacks: Sequence[Watched], counted: Sequence[Counters], step: int
) -> tuple[list[BaseCallback], str]:
    """Let callbacks count on from where those of an earlier run were.

    A callback gets the counters of the one of its class whose environment had the same task. Several of these
    are told apart by where they write, and then by their order. Where their number is another one, the order
    says nothing, and they begin anew.

    :param callbacks: callbacks of `watched`.
    :param counted: counters of `counters_of`.
    :param step: step at which the model was saved.
    :return: callbacks that have yet to see this step, since they came after the one that saved; and a
        sentence on what was given back, empty when nothing was.
    """
    late, told = [], []
    for each, found in _pairs(callbacks, counted):
        callback, known = each.callback, _numbers(each.callback)
        for name, value in found.numbers.items():
            if name in known and isinstance(value, list) == isinstance(known[name], list):
                setattr(callback, name, value)
        if each.is_always_called and callback.num_timesteps < step:
            late.append(callback)
        told.append(f"{_described(each)} ({', '.join(name for name in found.numbers if name in known)})")
    return late, f"Callbacks count on from step {step}: {'; '.join(told)}" if told else ""


def counters_from_json(value: Any) -> Counters:
    """Decode the counters of one callback.

    :param value: JSON of the fields of `Counters`.
    :return: the counters.
    :raises ValueError: when they are not all numbers.
    """
    counters = Counters(**from_json(value, "callbacks", no_custom_objects))
    words = [counters.callback, counters.name, *([] if counters.env is None else [counters.env])]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("the name or the environment of a callback is no string")
    if not all(_is_numeric(number) for number in counters.numbers.values()):
        raise ValueError("the counters of a callback are not all numbers")
    return counters


def _tree(
    callback: BaseCallback, env: str, place: tuple[str, ...], is_always_called: bool
) -> Iterator[Watched]:
    members = callback.callbacks if isinstance(callback, CallbackList) else []
    for member in members:
        yield from _tree(member, env, place, is_always_called)
    if type(callback) is CallbackList:
        return
    vec_env = getattr(callback, "eval_env", None)
    env = describe(vec_env) if isinstance(vec_env, VecEnv) else env
    own_places = [getattr(callback, attribute, None) for attribute in _PLACES]
    place = next((PurePath(path).parts for path in own_places if isinstance(path, str | PurePath)), place)
    yield Watched(callback, env, place, is_always_called)
    for attribute in _CHILDREN:
        child = getattr(callback, attribute, None)
        if isinstance(child, BaseCallback):
            yield from _tree(child, env, place, False)


def describe(vec_env: VecEnv) -> str:
    """Say which environment and task it is: by its id or class, its settings, and the sentence of its task.

    :param vec_env: environments, of which alike ones are named once.
    :return: words that are the same for the same task.
    """
    vectorised = vec_env.unwrapped
    if isinstance(vectorised, DummyVecEnv):
        words = [_words(env.unwrapped.spec, _task_text(env), env.unwrapped) for env in vectorised.envs]
    else:  # in other processes
        specs, texts = (_attributes(vec_env, name) for name in ("spec", "task_text"))
        words = [_words(spec, text, vectorised) for spec, text in zip(specs, texts, strict=True)]
    return "; ".join(dict.fromkeys(words))


def _attributes(vec_env: VecEnv, name: str) -> list[Any]:
    """Ask each environment for an attribute; None where they have none."""
    try:
        if vec_env.has_attr(name):
            return vec_env.get_attr(name)
    except (AttributeError, NotImplementedError):  # of a VecEnv whose environments are no objects
        pass
    return [None] * vec_env.num_envs


def _words(spec: Any, task_text: str | None, made: Any) -> str:
    """Describe one environment.

    :param spec: its `gym.envs.registration.EnvSpec`, or None.
    :param task_text: sentence of its task, or None.
    :param made: object whose class names it where no spec does, and whose attributes are its settings.
    """
    arguments = inspect.signature(type(made).__init__).parameters
    kept = {name: value for name, value in vars(made).items() if name in arguments}
    settings = {**(spec.kwargs if spec else {}), **kept}
    shown = ", ".join(
        f"{name}={settings[name]!r}" for name in sorted(settings) if _tells(name, settings[name])
    )
    what = spec.id if spec else type(made).__name__
    return what + (f"({shown})" if shown else "") + (f" {task_text!r}" if task_text else "")


def _tells(name: str, value: Any) -> bool:
    """Tell whether an argument of an environment says which task it is; a place on a machine does not."""
    is_place = isinstance(value, str) and os.path.isabs(value)
    return isinstance(value, bool | int | float | str) and name not in _NO_SETTINGS and not is_place


def _task_text(env: gym.Env[Any, Any]) -> str | None:
    return env.get_wrapper_attr("task_text") if env.has_wrapper_attr("task_text") else None


def _pairs(callbacks: Sequence[Watched], counted: Sequence[Counters]) -> list[tuple[Watched, Counters]]:
    """Pair callbacks with the counters that are theirs, in the order of the callbacks."""
    knows_envs = all(each.env is not None for each in counted)
    n_compared = 2 if knows_envs else 1  # the class must be enough
    now_by_kind, then_by_kind = defaultdict(list), defaultdict(list)
    for each in callbacks:
        now_by_kind[each.kind[:n_compared]].append(each)
    for counters in counted:
        then_by_kind[(counters.callback, counters.env)[:n_compared]].append(counters)
    pairs = [pair for kind, now in now_by_kind.items() for pair in _pairs_alike(now, then_by_kind[kind])]
    return sorted(pairs, key=lambda pair: callbacks.index(pair[0]))


def _pairs_alike(now: list[Watched], then: list[Counters]) -> list[tuple[Watched, Counters]]:
    """Pair callbacks of one class and task, by where they write, and the others by their order."""
    pairs: list[tuple[Watched, Counters]] = []
    for counters in sorted(then, key=lambda each: -len(each.name)):  # "a/log" before "log"
        parts = tuple(counters.name.split("/"))
        found = [each for each in now if each.place[-len(parts) :] == parts]
        if len(found) == 1 and [each.name for each in then].count(counters.name) == 1:
            pairs.append((found[0], counters))
            now = [each for each in now if each is not found[0]]
    then = [each for each in then if all(each is not paired for _, paired in pairs)]
    if len(now) == len(then):
        pairs += zip(now, then, strict=True)
    elif now and then and len(_counter_names(now[0].callback)) > len(COUNTERS[BaseCallback]):
        warnings.warn(
            f"{_described(now[0])}: {len(then)} of them are in the model file and {len(now)} in this"
            " training, and nothing says which is which: they begin anew. Let each write to a folder of its"
            " own, by which it is known again",
            stacklevel=2,
        )
    return pairs


def _described(each: Watched) -> str:
    return type(each.callback).__name__ + (f" of {each.env}" if each.env else "")


def _counter_names(callback: BaseCallback) -> list[str]:
    return [name for cls, names in COUNTERS.items() if isinstance(callback, cls) for name in names]


def _numbers(callback: BaseCallback) -> dict[str, Any]:
    numbers = {name: getattr(callback, name) for name in _counter_names(callback)}
    return {name: value for name, value in numbers.items() if _is_numeric(value)}


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_numeric(entry) for entry in value)
    return isinstance(value, Real | np.bool_)
