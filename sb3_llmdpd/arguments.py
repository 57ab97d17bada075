"""The ranges of `LLMDPD`'s arguments."""

from collections.abc import Mapping
from typing import Any

from sb3_llmdpd.losses import POLICY_OBJECTIVES


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that cannot be.

    :param arguments: of `LLMDPD`'s constructor, by name.
    :raises ValueError: when one is out of its range, or two do not fit together.
    """
    if arguments["policy_objective"] not in POLICY_OBJECTIVES:
        raise ValueError(f"`policy_objective` must be one of {POLICY_OBJECTIVES}, got {arguments['policy_objective']!r}")
    for name in ("gamma", "tau", "text_dropout", "trajectory_dropout"):
        if not 0 <= arguments[name] <= 1:
            raise ValueError(f"`{name}` must be in [0, 1], got {arguments[name]}")
    for name in ("eta", "prompt_noise", "candidate_temperature"):
        if not arguments[name] >= 0:
            raise ValueError(f"`{name}` must be >= 0, got {arguments[name]}")
    if not 0 <= arguments["ema_decay"] < 1:
        raise ValueError(f"`ema_decay` must be in [0, 1), got {arguments['ema_decay']}")
    if not arguments["max_grad_norm"] > 0:
        raise ValueError(f"`max_grad_norm` must be > 0 (float('inf') never clips), got {arguments['max_grad_norm']}")
    n_candidates = arguments["n_candidates"]
    if n_candidates < 1 or (n_candidates > 1 and arguments["eta"] == 0):
        raise ValueError(
            f"`n_candidates` must be at least 1, and 1 where eta=0 trains no critic to choose, got {n_candidates}"
        )
    _check_batch_sizes(arguments["batch_size"], arguments["q_batch_size"], arguments["prompts_per_batch"])


def _check_batch_sizes(batch_size: int, q_batch_size: int | None, prompts_per_batch: int) -> None:
    if min(batch_size, prompts_per_batch) < 1 or batch_size % min(prompts_per_batch, batch_size):
        raise ValueError(
            "`batch_size` and `prompts_per_batch` must be at least 1, and the first a multiple of the second,"
            f" got {batch_size} and {prompts_per_batch}"
        )
    q_size = batch_size if q_batch_size is None else q_batch_size
    if q_size % min(prompts_per_batch, batch_size) or not 0 < q_size <= batch_size:
        raise ValueError(
            "`q_batch_size` must be None, or a multiple of `prompts_per_batch` of at most `batch_size`,"
            f" got {q_batch_size} with {prompts_per_batch} and {batch_size}"
        )
