"""Networks and their optimisers in a model file, without the pickles of SB3's own saving."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import get_device
from torch import nn
from torch.nn.modules import module as modules

from sb3_llmdpd.checkpoint.container import (
    Checkpoint,
    FileLike,
    Tensors,
    check_entries,
    check_groups,
    check_names,
    entry,
    quoted,
    read,
    refusing,
    write,
)
from sb3_llmdpd.checkpoint.values import (
    KNOWN_CLASSES,
    SPACES,
    CustomObjects,
    arguments_to_json,
    custom_objects,
    from_json,
    no_custom_objects,
    space_to_json,
    spaces_from_json,
    to_json,
)
from sb3_llmdpd.networks.layers import Normaliser, floats_by_default

_MOST_ENTRIES = 32
"""Entries of a parameter in the state of an optimiser."""
_SPARE_BYTES = 2**24
"""Memory beyond that of the weights in a file that networks may take: what is in no file."""


def check_weights(expected: Tensors, weights: Tensors) -> None:
    """Refuse weights that are not those of a network.

    :param expected: weights of the network by name.
    :param weights: weights of a file by name.
    :raises ValueError: when names, shapes or kinds differ.
    """
    if expected.keys() != weights.keys():
        name = min(expected.keys() ^ weights.keys())
        where = "the network" if name in expected else "the file"
        raise ValueError(f"{quoted(name)} is a weight of {where} alone")
    for name, weight in weights.items():
        if (weight.shape, weight.dtype) != (expected[name].shape, expected[name].dtype):
            wanted, got = (f"{tuple(tensor.shape)} of {tensor.dtype}" for tensor in (expected[name], weight))
            raise ValueError(f"the weight {name!r} of the network is {wanted}, that of the file {got}")


def check_room(make: Callable[[], nn.Module], weights: Tensors, is_exact: bool = True) -> None:
    """Refuse a description of networks that the weights do not fit, before memory is taken for them.

    :param make: maker of the networks, where of their features extractor `stand_ins` has left the size.
    :param weights: weights of the file by name.
    :param is_exact: False where the networks are of a class of the user's own, and these only as large.
    :raises ValueError: when a few bytes in the file ask for much memory.
    """
    with th.device("meta"):  # shapes alone
        expected = make().state_dict()
    if is_exact:
        check_weights(expected, {name: weights[name] for name in expected if name in weights})
    described = sum(tensor.nbytes for tensor in expected.values())
    if described > _room(weights):
        raise ValueError(
            f"its arguments describe networks of {described:,} bytes, and it holds {_n_bytes(weights):,}"
        )


class _Features(BaseFeaturesExtractor):
    """Stands for any features extractor, by the number of its features."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        raise NotImplementedError


def stand_ins(arguments: Mapping[str, Any], weights: Tensors, part: str = "") -> dict[str, Any]:
    """Put plain layers in the place of classes that may run code of their own when networks are measured.

    :param arguments: arguments of a policy or an actor, by name.
    :param weights: weights of the file, which tell how many features there are.
    :param part: prefix of the actor's weights, such as ``"actor."``.
    :return: the arguments to measure with.
    :raises ValueError: when the weights do not tell.
    """
    name = f"{part}feature_normaliser.mean"
    if name not in weights:
        raise ValueError(f"{name!r} is a weight of the network alone")
    features = {"features_dim": weights[name].numel()}
    plain = {"features_extractor_class": _Features, "features_extractor_kwargs": features}
    if "optimizer_class" in arguments:
        plain |= {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {}}
    return {**arguments, **plain, "activation_fn": nn.Identity}


@contextmanager
def room_for(weights: Tensors, own: object) -> Iterator[None]:
    """Let the networks that are made in a block take no more memory than their weights in a file.

    A layer is stopped when it registers its parameters, before it fills them and so takes their memory.

    :param weights: weights of the file by name.
    :param own: a class, or the name of a known one; nothing is counted where it is of the user's own, who
        may have more than weights in it.
    :raises ValueError: in the block, when they take more.
    """
    if not (own is None or isinstance(own, str) or own in KNOWN_CLASSES.values()):
        yield
        return
    left, thread = _room(weights), threading.get_ident()

    def count(module: nn.Module, name: str, parameter: th.Tensor | None) -> None:
        nonlocal left
        if parameter is None or threading.get_ident() != thread:
            return
        left -= parameter.nbytes
        if left < 0:
            raise ValueError(
                f"its arguments describe networks that are larger than the {_n_bytes(weights):,} bytes of its"
                " weights"
            )

    handle = modules.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _n_bytes(weights: Tensors) -> int:
    """Count the bytes of tensors; those with several names have them once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in weights.values()}.values())


def _room(weights: Tensors) -> int:
    return _n_bytes(weights) + _SPARE_BYTES


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
        with refusing(path, f"holds no {cls.__name__} that can be made"):
            kind = saved.data.get("network", "model, which LLMDPD.load reads")
            if kind != cls.__name__:
                raise ValueError(f"it holds a {quoted(kind)[1:-1]}")
            check_entries(saved, ("network", "arguments", *SPACES))
            check_groups(saved, ("network",))
            network = cls._of_file(saved, custom_objects(custom or {}))
        return network.to(get_device(device))

    @classmethod
    def _of_file(cls, saved: Checkpoint, custom: CustomObjects) -> Self:
        weights, arguments = saved.tensors["network"], {}
        with entry("arguments"):
            for name, value in saved.data["arguments"].items():
                arguments[name] = from_json(value, name, custom)
        check_names(arguments.keys() & set(SPACES), (), "argument")
        arguments |= spaces_from_json(saved.data)
        check_room(lambda: cls._measured(arguments, weights), weights)
        with room_for(weights, arguments.get("features_extractor_class")):
            network = cls._remade(arguments)
        check_weights(network.state_dict(), weights)
        network.load_state_dict(weights)
        network.check_sanity()
        return network

    @classmethod
    def _measured(cls, arguments: dict[str, Any], weights: Tensors) -> nn.Module:
        """Make the network of shapes alone, as large as the arguments describe it."""
        return cls._remade(arguments)

    def check_sanity(self) -> None:
        """Compute once on zeros: what gives no finite numbers there is no network that was trained.

        :raises ValueError: when they are not finite, or a scale of a normaliser is not above 0.
        """
        for name, module in self.named_modules():
            if isinstance(module, Normaliser) and not (module.scale > 0).all():
                raise ValueError(f"'{name}.scale' has entries that are not above 0")
        with th.no_grad():
            for what, numbers in self.outputs_on_zeros().items():
                if not numbers.isfinite().all():
                    raise ValueError(f"{what} for an observation of zeros are not finite")

    def outputs_on_zeros(self) -> dict[str, th.Tensor]:
        """Compute what the network is for, on an observation of zeros without a prompt.

        :return: numbers by what they are, in the plural.
        """
        raise NotImplementedError

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
    n_parameters = sum(len(group["params"]) for group in fresh)
    if len(tensors) + len(parts["state"]) > _MOST_ENTRIES * n_parameters:
        raise ValueError(f"the file's state has more than {_MOST_ENTRIES} entries for each parameter")
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
