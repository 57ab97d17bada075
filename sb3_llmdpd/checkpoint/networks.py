"""Networks and their optimisers in a model file, without the pickles of SB3's own saving."""

from collections.abc import Callable
from typing import Any, Self

import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.utils import get_device
from torch import nn

from sb3_llmdpd.checkpoint.container import Checkpoint, FileLike, Tensors, read, shown_path, write
from sb3_llmdpd.checkpoint.values import (
    KNOWN_CLASSES,
    SPACES,
    arguments_to_json,
    custom_objects,
    from_json,
    no_custom_objects,
    space_from_json,
    space_to_json,
    to_json,
)
from sb3_llmdpd.networks.layers import floats_by_default


def check_weights(make: Callable[[], nn.Module], weights: Tensors) -> None:
    """Refuse weights that are not those of a network, before memory is taken for it.

    :param make: maker of the network.
    :param weights: weights by name.
    :raises ValueError: when names, shapes or kinds differ, or a weight is not finite.
    """
    with th.device("meta"):  # shapes alone: a few bytes in a file must not ask for all of the memory
        expected = make().state_dict()
    if expected.keys() != weights.keys():
        name = min(expected.keys() ^ weights.keys())
        raise ValueError(f"{name!r} is a weight of {'the network' if name in expected else 'the file'} alone")
    for name, weight in weights.items():
        if (weight.shape, weight.dtype) != (expected[name].shape, expected[name].dtype):
            wanted, got = (f"{tuple(tensor.shape)} of {tensor.dtype}" for tensor in (expected[name], weight))
            raise ValueError(f"the weight {name!r} of the network is {wanted}, that of the file {got}")
        if not weight.isfinite().all():
            raise ValueError(f"the weight {name!r} is not finite")


def uncompiled(module: nn.Module) -> nn.Module:
    """Unwrap ``torch.compile``, if it is there, so that the names of weights are those of the file."""
    return getattr(module, "_orig_mod", module)


def arguments_of(local_variables: dict[str, Any], *left_out: str) -> dict[str, Any]:
    """Collect a constructor's arguments, but those left out, from its ``locals()`` in its first line."""
    others = {"self", "__class__", *left_out}
    return {key: value for key, value in local_variables.items() if key not in others}


class SavedNetwork(BaseModel):
    """A network that knows the arguments it was made with, and is saved and loaded without pickle."""

    _arguments: dict[str, Any]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return dict(self._arguments)

    def save(self, path: FileLike) -> None:
        """Write the network alone, to be read by `load`.

        :param path: as for `LLMDPD.save`.
        """
        arguments = {name: value for name, value in self._arguments.items() if name not in SPACES}
        own_spaces = {name: space_to_json(self._arguments[name]) for name in SPACES}
        data = {
            "network": type(self).__name__,
            "arguments": arguments_to_json(arguments).written,
            **own_spaces,
        }
        write(Checkpoint(data, {"network": self.state_dict()}), path)

    @classmethod
    @floats_by_default()
    def load(
        cls, path: FileLike, device: th.device | str = "auto", custom: dict[str, Any] | None = None
    ) -> Self:
        """Read a network. Nothing in the file is executed.

        :param path: file of `save`.
        :param device: target device.
        :param custom: classes of your own that the network was built with, by the name of the argument.
        :return: the network.
        :raises ValueError: when the file is damaged, foreign, or of another network.
        """
        saved = read(path)
        if saved.data.get("network") != cls.__name__:
            kind = saved.data.get("network", "model, which LLMDPD.load reads")
            raise ValueError(f"{shown_path(path)} holds a {kind}, and no {cls.__name__}")
        weights = saved.tensors["network"]
        arguments = from_json(saved.data["arguments"], "arguments", custom_objects(custom or {}))
        arguments |= {name: space_from_json(saved.data[name]) for name in SPACES}
        try:
            check_weights(lambda: cls._remade(arguments), weights)
            network = cls._remade(arguments)
            network.load_state_dict(weights)
        except Exception as error:
            raise ValueError(
                f"{shown_path(path)} describes no {cls.__name__} ({type(error).__name__}: {error})"
            ) from error
        return network.to(get_device(device))

    @classmethod
    def _remade(cls, arguments: dict[str, Any]) -> Self:
        return cls(**arguments)


def optimizer_to_parts(optimizer: th.optim.Optimizer) -> tuple[dict[str, Any], Tensors]:
    """Split an optimiser's state.

    :param optimizer: any of ``torch.optim``, or one of its kind.
    :return: JSON with the groups of parameters and the entries of the state that are no tensors, and the
        tensors; entries are named ``"<parameter>.<entry>"``.
    :raises ValueError: when an entry is neither a tensor nor a plain value.
    """
    state = optimizer.state_dict()
    entries = {f"{index}.{key}": value for index, of in state["state"].items() for key, value in of.items()}
    tensors = {name: value for name, value in entries.items() if isinstance(value, th.Tensor)}
    plain = {name: value for name, value in entries.items() if name not in tensors}
    for name, value in plain.items():
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise ValueError(f"the entry {name!r} of its state is neither a tensor nor a plain value")
    groups = state["param_groups"]
    for group in groups:
        if isinstance(group["lr"], th.Tensor):  # in a CUDA graph; the file holds the settings outside of it
            group.update(lr=float(group["lr"]), capturable=False)
    written = [arguments_to_json(group).written for group in groups]
    return {"groups": written, "state": to_json(plain)}, tensors


def restore_optimizer(optimizer: th.optim.Optimizer, parts: Any, tensors: Tensors) -> None:
    """Bring an optimiser to the state of another one.

    :param optimizer: optimiser of the same parameters, whose values may change: restore them afterwards.
    :param parts: JSON from `optimizer_to_parts`; in a file of version 1, the groups alone.
    :param tensors: tensors from `optimizer_to_parts`.
    :raises ValueError: when the state does not fit the parameters, which torch would notice late or never.
    """
    if isinstance(parts, list):
        parts = {"groups": parts, "state": {}}
    fresh = optimizer.state_dict()["param_groups"]
    if len(parts["groups"]) != len(fresh):
        raise ValueError("the file's groups of parameters are not those of the optimiser")
    groups = [_group(*pair) for pair in zip(parts["groups"], fresh, strict=True)]
    if [_kinds(group) for group in groups] != [_kinds(group) for group in fresh]:
        raise ValueError("the file's groups of parameters are not those of the optimiser")
    _step_without_gradients(optimizer)
    expected = optimizer.state_dict()["state"]
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **from_json(parts["state"], "state", no_custom_objects)}.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    # An optimiser of the user's own may make entries later than in its first step.
    is_known = type(optimizer) in KNOWN_CLASSES.values()
    for number, entries in state.items():
        found, wanted = _shapes(entries), _shapes(expected[number])
        compared = found.keys() | wanted.keys() if is_known else found.keys() & wanted.keys()
        if any(found.get(key) != wanted.get(key) for key in compared):
            raise ValueError(
                f"the state of parameter {number} is {found} in the file, and {wanted} in the optimiser"
            )
        for key in found.keys() & wanted.keys():
            if isinstance(entries[key], th.Tensor):
                # In the optimiser's own order in memory: fused steps go through it and the parameter's alike.
                entries[key] = expected[number][key].clone().copy_(entries[key])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _group(written: Any, fresh: dict[str, Any]) -> dict[str, Any]:
    """Decode a group; what only the user has is in the fresh one, made with what the user passed."""
    return from_json(written, "param_groups", lambda name, what: fresh[name])


def _kinds(group: dict[str, Any]) -> dict[str, Any]:
    """Take from a group what may not differ: its parameters, and the kinds of its settings."""
    return {key: value if key == "params" else _kind(value) for key, value in group.items()}


def _kind(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_kind(entry) for entry in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "number" if is_number else type(value).__name__


def _shapes(entries: dict[str, Any]) -> dict[str, Any]:
    return {
        key: (*value.shape, value.dtype) if isinstance(value, th.Tensor) else _kind(value)
        for key, value in sorted(entries.items())
    }


def _step_without_gradients(optimizer: th.optim.Optimizer) -> None:
    """Take a step that makes the state of an optimiser; its parameters may change."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = th.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
