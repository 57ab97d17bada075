"""States of optimisers as JSON and tensors."""

from typing import Any

import torch as th

from sb3_llmdpd.checkpoint.container import Tensors
from sb3_llmdpd.checkpoint.values import from_json, no_custom_objects, to_json


def optimizer_to_parts(optimizer: th.optim.Optimizer) -> tuple[Any, Tensors]:
    """Split an optimiser's state.

    :param optimizer: any of ``torch.optim``.
    :return: the parameter groups as JSON, and the tensors by ``"<parameter>.<entry>"``.
    """
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{key}": value
        for index, entries in state["state"].items()
        for key, value in entries.items()
        if isinstance(value, th.Tensor)
    }
    return to_json([_uncaptured(group) for group in state["param_groups"]]), tensors


def restore_optimizer(optimizer: th.optim.Optimizer, groups: Any, tensors: Tensors) -> None:
    """Bring an optimiser to where another one was.

    :param optimizer: of the same parameters, whose values may change: restore them afterwards.
    :param groups: from `optimizer_to_parts`.
    :param tensors: from `optimizer_to_parts`.
    :raises ValueError: when the state does not fit the parameters; torch itself would notice at the first step, if at all.
    """
    groups = from_json(groups, "param_groups", no_custom_objects)
    fresh = optimizer.state_dict()["param_groups"]
    if [_kinds(group) for group in groups] != [_kinds(group) for group in fresh]:
        raise ValueError("the file's groups of parameters are not those of the optimiser")
    expected = _state_of_a_step(optimizer)
    state: dict[int, Tensors] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    for number, entries in state.items():
        found, wanted = _shapes(entries), _shapes(expected[number])
        if found != wanted:
            raise ValueError(
                f"the state of parameter {number} is {found} in the file, and {wanted} in the optimiser"
            )
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _uncaptured(group: dict[str, Any]) -> dict[str, Any]:
    """The settings as they are outside of a CUDA graph, for which rates are tensors."""
    return (
        group | {"lr": float(group["lr"]), "capturable": False}
        if isinstance(group["lr"], th.Tensor)
        else group
    )


def _kinds(group: dict[str, Any]) -> dict[str, Any]:
    """What of a group may not differ: which parameters it has, and the kinds of its settings."""
    return {key: value if key == "params" else _kind(value) for key, value in group.items()}


def _kind(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_kind(entry) for entry in value]
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )


def _shapes(entries: Tensors) -> dict[str, tuple[Any, ...]]:
    return {key: (*value.shape, value.dtype) for key, value in sorted(entries.items())}


def _state_of_a_step(optimizer: th.optim.Optimizer) -> dict[int, Tensors]:
    """What a state of this optimiser looks like: that after a step without gradients."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = th.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer.state_dict()["state"]
