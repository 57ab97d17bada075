"""Weights that fit their network, and networks that are saved by themselves: SB3's would pickle their arguments."""

from collections.abc import Callable
from typing import Any, Self

import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.utils import get_device
from torch import nn

from sb3_llmdpd.checkpoint.container import Checkpoint, FileLike, Tensors, read, shown_path, write
from sb3_llmdpd.checkpoint.spaces import space_from_json, space_to_json
from sb3_llmdpd.checkpoint.values import custom_objects, from_json, to_json

SPACES = ("observation_space", "action_space")


def check_weights(make: Callable[[], nn.Module], weights: Tensors) -> None:
    """Refuse weights that are not those of a network, before memory is taken for it.

    :param make: makes the network.
    :param weights: by name.
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
    """The module behind ``torch.compile``, whose names of weights are those of the file.

    :param module: any.
    :return: the module itself where it is not compiled.
    """
    return getattr(module, "_orig_mod", module)


def arguments_of(local_variables: dict[str, Any], *left_out: str) -> dict[str, Any]:
    """The arguments of a constructor, from its ``locals()`` in its first line.

    :param local_variables: of the constructor.
    :param left_out: names that another one than the caller gives.
    :return: the arguments by name.
    """
    return {
        key: value for key, value in local_variables.items() if key not in ("self", "__class__", *left_out)
    }


class SavedNetwork(BaseModel):
    """A network that knows the arguments it was made with, and is saved and loaded without pickle."""

    _arguments: dict[str, Any]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return dict(self._arguments)

    def save(self, path: FileLike) -> None:
        """Write the network alone, to be read by `load`.

        :param path: as for `LLMDPD.save`.
        """
        arguments = self._arguments
        data = {
            "network": type(self).__name__,
            "arguments": {name: to_json(value) for name, value in arguments.items() if name not in SPACES},
            **{name: space_to_json(arguments[name]) for name in SPACES},
        }
        write(Checkpoint(data, {"network": self.state_dict()}), path)

    @classmethod
    def load(
        cls, path: FileLike, device: th.device | str = "auto", custom: dict[str, Any] | None = None
    ) -> Self:
        """Read a network. Nothing in the file is executed.

        :param path: of `save`.
        :param device: where to.
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
