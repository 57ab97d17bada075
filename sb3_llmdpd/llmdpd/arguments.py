"""The ranges of all arguments of `LLMDPD` and of its policy, in one table, and what must fit together."""

import math
import os
import re
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from typing import Any, NamedTuple, ParamSpec

import numpy as np
import torch as th
from stable_baselines3.common.utils import get_device

from sb3_llmdpd.common.schedules import LineToZero
from sb3_llmdpd.data.checks import check_examples_per_prompt, check_return_weight
from sb3_llmdpd.diffusion.process import ACTORS
from sb3_llmdpd.llmdpd.acceleration import Acceleration
from sb3_llmdpd.llmdpd.augmentation import augmentation_named
from sb3_llmdpd.networks.attention import CONDITIONINGS
from sb3_llmdpd.networks.layers import floats_by_default
from sb3_llmdpd.prompts.alignment import alignment_named

P = ParamSpec("P")

_LINE = re.compile(r"lin_(\d*\.?\d+(?:e[+-]?\d+)?)", re.IGNORECASE)
"""A schedule in the words of the zoo."""

MOST = 2**24
"""Largest count: more than any machine holds, and little enough to be refused before memory is asked for."""


MOST_LAYERS = 32
"""Largest number of layers: time runs out before memory, and a model has to be made before it is refused."""


class Range(NamedTuple):
    """The values that an argument may have."""

    low: float = 0.0
    """Smallest number."""
    high: float = float("inf")
    """Largest number."""
    kind: type = Real
    """``Real``, ``Integral`` or ``str``."""
    choices: tuple[str, ...] = ()
    """All values of a string; empty for any."""
    optional: bool = False
    """True where None is a value, too."""
    schedule: bool = False
    """True where a function of the progress remaining, or the zoo's ``"lin_0.001"``, is a value, too."""
    path: bool = False
    """True where a path is a value of a string, too."""
    truth: bool = False
    """True where True and False are numbers, too."""
    without: tuple[float, ...] = ()
    """The ends of the range that are not part of it."""
    reason: str = ""
    """Reason why these ends are no part of it."""

    def interval(self) -> str:
        """Write the range of a number, such as ``[0, 1)``."""
        left = "(" if self.low in self.without else "["
        right = ")" if self.high in self.without else "]"
        low, high = (number if math.isinf(number) else int(number) for number in (self.low, self.high))
        return f"{left}{low}, {high}{right}"

    def __str__(self) -> str:
        """Describe the range in words, for tables."""
        if self.kind is str:
            values = " or ".join(f"`{choice}`" for choice in self.choices) or "a string"
        else:
            values = f"{'a whole number in ' if self.kind is Integral else ''}{self.interval()}"
        others = {"a path": self.path, "a schedule": self.schedule, "None": self.optional}
        return values + "".join(f", or {other}" for other, is_one in others.items() if is_one)

    def plain(self, value: Any) -> Any:
        """Convert a value to the plain kind that is meant: one of NumPy's, a path, a schedule of the zoo.

        :param value: given for the argument.
        :return: a plain number, string or schedule; what is of no such kind stays as it is.
        """
        if self.schedule:
            value = _plain_schedule(value)
        if self.path and isinstance(value, os.PathLike):
            value = os.fspath(value)
        value = _plain(value)
        return int(value) if self.truth and isinstance(value, bool) else value

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is not in the range.

        :param name: of the argument, for the message.
        :param value: given for it, as `plain` makes it.
        :raises TypeError: when it is of another kind.
        :raises ValueError: when it is outside the range.
        """
        if (value is None and self.optional) or (self.schedule and callable(value)):
            return
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"`{name}` must be one of {self.choices}, got {value!r}")
        elif isinstance(value, bool) or not isinstance(value, self.kind):
            kinds = {"Real": "a number", "Integral": "a whole number", "str": "a string"}
            or_none = " or None" if self.optional else ""
            raise TypeError(f"`{name}` must be {kinds[self.kind.__name__]}{or_none}, got {value!r}")
        elif self.kind is not str and not self._holds(value):
            reason = f": {self.reason}" if value in self.without else ""
            raise ValueError(f"`{name}` must be in {self.interval()}, got {value}{reason}")

    def _holds(self, value: Any) -> bool:
        return self.low <= value <= self.high and value not in self.without


_SHARE = Range(high=1.0)
_COUNT = Range(1, MOST, Integral)

RANGES: dict[str, Range] = {
    "learning_rate": Range(schedule=True),
    "critic_learning_rate": Range(schedule=True, optional=True),
    "batch_size": _COUNT,
    "q_batch_size": _COUNT._replace(optional=True),
    "prompts_per_batch": _COUNT,
    "gamma": _SHARE,
    "tau": _SHARE,
    "ema_decay": _SHARE._replace(without=(1.0,), reason="at 1 the averaged actor would never learn"),
    "eta": Range(),
    "policy_objective": Range(kind=str, choices=("diffusion_ql", "action_approximation")),
    "critic_objective": Range(kind=str, choices=("td", "expectile")),
    "expectile": _SHARE._replace(without=(0.0, 1.0), reason="0.5 is the mean, near 1 the maximum"),
    "max_grad_norm": Range(without=(0.0,), reason="float('inf') never clips"),
    "text_dropout": _SHARE,
    "trajectory_dropout": _SHARE,
    "pair_dropout": _SHARE,
    "prompt_noise": Range(),
    "text_encoder": Range(kind=str, optional=True, path=True),
    "return_weight": Range(),
    "n_candidates": Range(1, 10_000, Integral),
    "candidate_temperature": Range(),
    "sampler": Range(kind=str, optional=True),
    "n_sampling_steps": _COUNT._replace(optional=True),
    "text_beside_example": Range(-1.0, 1.0),
    "stats_window_size": _COUNT,
    "tensorboard_log": Range(kind=str, optional=True, path=True),
    "verbose": Range(0, 2, Integral, truth=True),
    "seed": Range(0, 2**32 - 1, Integral, optional=True),
}
"""Range of each argument of `LLMDPD` that is a number or a string; others are checked where they are used."""

POLICY_RANGES: dict[str, Range] = {
    "net_arch": Range(1, MOST, Integral),
    "n_critics": Range(1, 1_000, Integral),
    "conditioning": Range(kind=str, choices=CONDITIONINGS),
    "actor": Range(kind=str, choices=ACTORS),
    "n_diffusion_steps": Range(1, 1_000, Integral),
    "text_dim": Range(0, MOST, Integral),
    "prompt_window": _COUNT,
    "text_embedding_dim": _COUNT,
    "trajectory_embedding_dim": _COUNT,
    "token_dim": _COUNT,
    "n_encoder_layers": Range(1, MOST_LAYERS, Integral),
    "n_heads": _COUNT,
    "n_text_layers": Range(1, MOST_LAYERS, Integral),
}
"""The same for `LLMDPDPolicy`; where the most is small, as of layers, time runs out before memory."""


def checked(init: Callable[P, None]) -> Callable[P, None]:
    """Let a constructor have its arguments checked and in plain kinds, as `plain_arguments` makes them.

    :param init: constructor of `LLMDPD`.
    :return: the same one for all kinds of arguments.
    """
    parameters = signature(init)

    @wraps(init)
    def init_with_plain_arguments(*args: P.args, **kwargs: P.kwargs) -> None:
        given = parameters.bind(*args, **kwargs)
        given.apply_defaults()
        given.arguments.update(plain_arguments(given.arguments))
        check_arguments(given.arguments)
        given.arguments["device"] = device_named(given.arguments["device"], strict=False)
        with floats_by_default():
            init(*given.args, **given.kwargs)

    return init_with_plain_arguments


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert arguments to plain kinds, so that a model file holds no others than the user gave.

    :param arguments: arguments of `LLMDPD`'s constructor, by name.
    :return: the same, with plain numbers, strings and schedules. ``policy_kwargs`` may hold what the user's
        own classes want, and is a copy.
    :raises ValueError: when a list holds itself.
    """
    plain = {name: its_range.plain(arguments[name]) for name, its_range in RANGES.items()}
    for name in ("examples_per_prompt", "same_goal", "reward_scale", "acceleration"):
        plain[name] = _converted(arguments[name], _plain)
    policy_kwargs = arguments["policy_kwargs"]
    if policy_kwargs is not None and not isinstance(policy_kwargs, Mapping):
        raise TypeError(f"`policy_kwargs` must be a dict or None, got {policy_kwargs!r}")
    try:
        plain["policy_kwargs"] = {
            name: _converted(value, _plain if name in POLICY_RANGES else None, as_lists=name == "net_arch")
            for name, value in (policy_kwargs or {}).items()
        }
    except RecursionError as error:
        raise ValueError("`policy_kwargs` is nested too deep for a model file, or holds itself") from error
    return {**arguments, **plain}


def _plain(value: Any) -> Any:
    """Convert one of NumPy's scalars, a fraction, or a member of an Enum that is a number or a string."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _converted(value: Any, leaf: Callable[[Any], Any] | None, as_lists: bool = False) -> Any:
    """Copy a nest of dicts, lists and tuples; convert what is in it."""
    kind = type(value)
    if kind is dict:
        return {key: _converted(entry, leaf, as_lists) for key, entry in value.items()}
    if kind in (list, tuple):
        entries = [_converted(entry, leaf, as_lists) for entry in value]
        return tuple(entries) if kind is tuple and not as_lists else entries
    return value if leaf is None else leaf(value)


def _plain_schedule(value: Any) -> Any:
    """Read the zoo's schedules, a line to zero from a number, in its words or as its object."""
    kind = type(value)
    if (kind.__module__, kind.__qualname__) == ("rl_zoo3.utils", "SimpleLinearSchedule"):
        return LineToZero(value.initial_value)
    if isinstance(value, str) and (number := _LINE.fullmatch(value)):
        return LineToZero(float(number[1]))
    return value


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that are out of their range, or do not fit together.

    :param arguments: arguments of `LLMDPD`'s constructor, by name.
    :raises TypeError: when one is of the wrong kind.
    :raises ValueError: when one is out of its range, or two do not fit together.
    """
    for name, its_range in RANGES.items():
        its_range.check(name, arguments[name])
    check_examples_per_prompt(arguments["examples_per_prompt"])
    if arguments["augmentation"] is not None:
        augmentation_named(arguments["augmentation"])
    if arguments["alignment"] is not None:
        alignment_named(arguments["alignment"])
    if arguments["acceleration"] is not None:
        Acceleration.of(arguments["acceleration"])
    if arguments["return_weight"] > 0:
        check_return_weight(arguments["return_weight"], arguments["gamma"])
    n_candidates = arguments["n_candidates"]
    if n_candidates > 1 and arguments["eta"] == 0:
        raise ValueError(
            f"`n_candidates` must be 1 where eta=0 trains no critic to choose, got {n_candidates}"
        )
    _check_batch_sizes(arguments["batch_size"], arguments["q_batch_size"], arguments["prompts_per_batch"])


def device_named(device: th.device | str, strict: bool = True) -> th.device:
    """Look a device up.

    :param device: ``"auto"``, ``"cpu"``, ``"cuda"`` or another torch device.
    :param strict: False to take the CPU in place of a GPU that is not there, as SB3 does, with a warning.
    :return: the device.
    :raises ValueError: when torch does not know it, or has no such GPU.
    """
    try:
        asked = th.device("cpu" if device == "auto" else device)
    except RuntimeError as error:  # torch's answer to a name that it does not know
        raise ValueError(f"`device`: {error}") from error
    n_gpus = th.cuda.device_count() if asked.type == "cuda" and th.cuda.is_available() else 0
    if asked.type == "cuda" and (asked.index or 0) >= n_gpus:
        there = f"only {n_gpus} there" if n_gpus else "none here"
        found = f"`device` is {str(device)!r}, and PyTorch finds {there}"
        if strict or n_gpus:
            raise ValueError(f"{found}: use 'cpu', or 'auto'")
        warnings.warn(f"{found}: the CPU is used", stacklevel=3)
    return get_device(device)


def check_policy_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse networks that cannot be.

    :param arguments: arguments of `LLMDPDPolicy`'s constructor, by name, or those of its actor or critic.
    :raises TypeError: when a size is no whole number.
    :raises ValueError: when one is out of its range, or ``n_heads`` does not divide ``token_dim``.
    """
    for name, its_range in POLICY_RANGES.items():
        if name != "net_arch" and name in arguments:
            its_range.check(name, arguments[name])
    if arguments["token_dim"] % arguments["n_heads"]:
        raise ValueError(
            "`token_dim` must be a multiple of `n_heads`,"
            f" got {arguments['token_dim']} and {arguments['n_heads']}"
        )
    net_arch = arguments["net_arch"]
    archs = net_arch if isinstance(net_arch, Mapping) else {"pi": net_arch or [], "qf": net_arch or []}
    if archs.keys() != {"pi", "qf"} or not all(isinstance(widths, list) for widths in archs.values()):
        raise TypeError(f"`net_arch` must be a list of widths, or dict(pi=[...], qf=[...]), got {net_arch!r}")
    for widths in archs.values():
        if len(widths) > MOST_LAYERS:
            raise ValueError(f"`net_arch` may have {MOST_LAYERS} layers, got {len(widths)}")
        for width in widths:
            POLICY_RANGES["net_arch"].check("net_arch", width)


def _check_batch_sizes(batch_size: int, q_batch_size: int | None, prompts_per_batch: int) -> None:
    if batch_size % min(prompts_per_batch, batch_size):
        raise ValueError(
            "`batch_size` must be a multiple of `prompts_per_batch`,"
            f" got {batch_size} and {prompts_per_batch}"
        )
    q_size = batch_size if q_batch_size is None else q_batch_size
    if q_size % min(prompts_per_batch, batch_size) or q_size > batch_size:
        raise ValueError(
            "`q_batch_size` must be None, or a multiple of `prompts_per_batch` of at most `batch_size`,"
            f" got {q_batch_size} with {prompts_per_batch} and {batch_size}"
        )
