"""The kinds and ranges of the arguments of `LLMDPD` and of its policy, and which of them a model file keeps."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from sb3_llmdpd.llmdpd.acceleration import Acceleration
from sb3_llmdpd.llmdpd.losses import CRITIC_OBJECTIVES, POLICY_OBJECTIVES
from sb3_llmdpd.replay.return_weights import check_return_weight

SAVED_ARGUMENTS = (
    "learning_rate",
    "critic_learning_rate",
    "batch_size",
    "q_batch_size",
    "prompts_per_batch",
    "gamma",
    "tau",
    "ema_decay",
    "eta",
    "policy_objective",
    "critic_objective",
    "expectile",
    "max_grad_norm",
    "text_dropout",
    "trajectory_dropout",
    "pair_dropout",
    "prompt_noise",
    "text_encoder",
    "same_goal",
    "reward_scale",
    "return_weight",
    "n_candidates",
    "candidate_temperature",
    "sampler",
    "n_sampling_steps",
    "acceleration",
    "policy_kwargs",
    "stats_window_size",
    "tensorboard_log",
    "verbose",
    "seed",
)
"""Arguments of the constructor that a model file keeps: all that are not the data, the environment or the device."""

MOST = 2**24
"""Of what is counted: more than any machine holds, and little enough to be refused before memory is asked for."""
_WHOLE = {
    "batch_size": (1, MOST),
    "q_batch_size": (1, MOST),
    "prompts_per_batch": (1, MOST),
    "n_candidates": (1, MOST),
    "n_sampling_steps": (1, MOST),
    "stats_window_size": (1, MOST),
    "verbose": (0, 2),
    "seed": (0, 2**32 - 1),
}
_NUMBERS = {
    **dict.fromkeys(
        ("gamma", "tau", "expectile", "ema_decay", "text_dropout", "trajectory_dropout", "pair_dropout"),
        (0.0, 1.0),
    ),
    **dict.fromkeys(
        ("eta", "prompt_noise", "candidate_temperature", "max_grad_norm", "return_weight"),
        (0.0, float("inf")),
    ),
    **dict.fromkeys(("learning_rate", "critic_learning_rate"), (0.0, float("inf"))),
}
_SCHEDULES = ("learning_rate", "critic_learning_rate")
_OPTIONAL = (
    "q_batch_size",
    "n_sampling_steps",
    "seed",
    "critic_learning_rate",
    "text_encoder",
    "tensorboard_log",
)

_MOST_OF = {
    "net_arch": 1_000,
    "n_critics": 1_000,
    "n_encoder_layers": 1_000,
    "n_text_layers": 1_000,
    "n_diffusion_steps": 10_000,
}
"""What costs time before it costs memory."""
_SIZES = (
    "n_critics",
    "n_diffusion_steps",
    "prompt_window",
    "text_embedding_dim",
    "trajectory_embedding_dim",
    "token_dim",
    "n_encoder_layers",
    "n_heads",
    "n_text_layers",
)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that cannot be.

    :param arguments: of `LLMDPD`'s constructor, by name.
    :raises TypeError: when one is of the wrong kind.
    :raises ValueError: when one is out of its range, or two do not fit together.
    """
    given = {name: value for name, value in arguments.items() if not (value is None and name in _OPTIONAL)}
    for name in given.keys() & _WHOLE.keys():
        _check_number(name, given[name], Integral, "a whole number", *_WHOLE[name])
    for name in given.keys() & _NUMBERS.keys():
        if not (name in _SCHEDULES and callable(given[name])):
            _check_number(name, given[name], Real, "a number", *_NUMBERS[name])
    for name in given.keys() & {"text_encoder", "tensorboard_log"}:
        if not isinstance(given[name], str):
            raise TypeError(f"`{name}` must be a string or None, got {given[name]!r}")
    for name, known in (("policy_objective", POLICY_OBJECTIVES), ("critic_objective", CRITIC_OBJECTIVES)):
        if arguments[name] not in known:
            raise ValueError(f"`{name}` must be one of {known}, got {arguments[name]!r}")
    Acceleration.of(arguments["acceleration"])
    _check_ends(arguments)
    check_return_weight(arguments["return_weight"], arguments["gamma"])
    if arguments["n_candidates"] > 1 and arguments["eta"] == 0:
        raise ValueError(
            f"`n_candidates` must be 1 where eta=0 trains no critic to choose, got {arguments['n_candidates']}"
        )
    _check_batch_sizes(arguments["batch_size"], arguments["q_batch_size"], arguments["prompts_per_batch"])


def check_sizes(arguments: Mapping[str, Any]) -> None:
    """Refuse networks that cannot be.

    :param arguments: of `LLMDPDPolicy`'s constructor, by name.
    :raises TypeError: when a size is no whole number.
    :raises ValueError: when one is out of its range, or ``n_heads`` does not divide ``token_dim``.
    """
    for name in _SIZES:
        _check_number(name, arguments[name], Integral, "a whole number", 1, _MOST_OF.get(name, MOST))
    if arguments["token_dim"] % arguments["n_heads"]:
        raise ValueError(
            f"`token_dim` must be a multiple of `n_heads`, got {arguments['token_dim']} and {arguments['n_heads']}"
        )
    net_arch = arguments["net_arch"]
    for widths in net_arch.values() if isinstance(net_arch, Mapping) else [net_arch or []]:
        if len(widths) > _MOST_OF["net_arch"]:
            raise ValueError(f"`net_arch` may have {_MOST_OF['net_arch']} layers, got {len(widths)}")
        for width in widths:
            _check_number("net_arch", width, Integral, "a list of whole numbers", 1, MOST)


def _check_number(name: str, value: Any, kind: type, what: str, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, kind):
        optional = " or None" if name in _OPTIONAL else ""
        raise TypeError(f"`{name}` must be {what}{optional}, got {value!r}")
    if not low <= value <= high:  # type: ignore[operator]  # a real number
        raise ValueError(f"`{name}` must be in [{low}, {high}], got {value}")


def _check_ends(arguments: Mapping[str, Any]) -> None:
    """Refuse the ends of ranges that are open."""
    if arguments["ema_decay"] == 1:
        raise ValueError("`ema_decay` must be in [0, 1): at 1 the averaged actor would never learn")
    if arguments["max_grad_norm"] == 0:
        raise ValueError("`max_grad_norm` must be > 0, got 0; float('inf') never clips")
    if arguments["expectile"] in (0, 1):
        raise ValueError(
            f"`expectile` must be in (0, 1), got {arguments['expectile']}: 0.5 is the mean, near 1 the maximum"
        )


def _check_batch_sizes(batch_size: int, q_batch_size: int | None, prompts_per_batch: int) -> None:
    if batch_size % min(prompts_per_batch, batch_size):
        raise ValueError(
            f"`batch_size` must be a multiple of `prompts_per_batch`, got {batch_size} and {prompts_per_batch}"
        )
    q_size = batch_size if q_batch_size is None else q_batch_size
    if q_size % min(prompts_per_batch, batch_size) or q_size > batch_size:
        raise ValueError(
            "`q_batch_size` must be None, or a multiple of `prompts_per_batch` of at most `batch_size`,"
            f" got {q_batch_size} with {prompts_per_batch} and {batch_size}"
        )
