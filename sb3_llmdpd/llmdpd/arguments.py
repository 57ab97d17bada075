"""The ranges of all arguments of `LLMDPD` and of its policy, in one table, and what must fit together."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from sb3_llmdpd.data.checks import check_examples_per_prompt
from sb3_llmdpd.llmdpd.acceleration import Acceleration
from sb3_llmdpd.llmdpd.augmentation import augmentation_named
from sb3_llmdpd.networks.attention import CONDITIONINGS
from sb3_llmdpd.prompts.alignment import alignment_named
from sb3_llmdpd.replay.return_weights import check_return_weight

MOST = 2**24
"""Largest count: more than any machine holds, and little enough to be refused before memory is asked for."""


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
    """True where a function of the progress remaining is a value, too."""
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
        return values + ", or a schedule" * self.schedule + ", or None" * self.optional

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is not in the range.

        :param name: of the argument, for the message.
        :param value: given for it.
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
    "text_encoder": Range(kind=str, optional=True),
    "return_weight": Range(),
    "n_candidates": _COUNT,
    "candidate_temperature": Range(),
    "n_sampling_steps": _COUNT._replace(optional=True),
    "stats_window_size": _COUNT,
    "tensorboard_log": Range(kind=str, optional=True),
    "verbose": Range(0, 2, Integral),
    "seed": Range(0, 2**32 - 1, Integral, optional=True),
}
"""Range of each argument of `LLMDPD` that is a number or a string; others are checked where they are used."""

POLICY_RANGES: dict[str, Range] = {
    "net_arch": Range(1, MOST, Integral),
    "n_critics": Range(1, 1_000, Integral),
    "conditioning": Range(kind=str, choices=CONDITIONINGS),
    "n_diffusion_steps": Range(1, 10_000, Integral),
    "prompt_window": _COUNT,
    "text_embedding_dim": _COUNT,
    "trajectory_embedding_dim": _COUNT,
    "token_dim": _COUNT,
    "n_encoder_layers": Range(1, 1_000, Integral),
    "n_heads": _COUNT,
    "n_text_layers": Range(1, 1_000, Integral),
}
"""The same for `LLMDPDPolicy`; where the most is small, as of layers, time runs out before memory."""

_MOST_LAYERS = 1_000


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


def check_policy_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse networks that cannot be.

    :param arguments: arguments of `LLMDPDPolicy`'s constructor, by name.
    :raises TypeError: when a size is no whole number.
    :raises ValueError: when one is out of its range, or ``n_heads`` does not divide ``token_dim``.
    """
    for name, its_range in POLICY_RANGES.items():
        if name != "net_arch":
            its_range.check(name, arguments[name])
    if arguments["token_dim"] % arguments["n_heads"]:
        raise ValueError(
            "`token_dim` must be a multiple of `n_heads`,"
            f" got {arguments['token_dim']} and {arguments['n_heads']}"
        )
    net_arch = arguments["net_arch"]
    for widths in net_arch.values() if isinstance(net_arch, Mapping) else [net_arch or []]:
        if len(widths) > _MOST_LAYERS:
            raise ValueError(f"`net_arch` may have {_MOST_LAYERS} layers, got {len(widths)}")
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
