"""The model file: a zip of JSON and safetensors that SB3's tools can read and that executes nothing."""

import io
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import stable_baselines3
import torch as th
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from stable_baselines3.common.utils import get_system_info
from torch import nn

from sb3_llmdpd.files import whole_file
from sb3_llmdpd.networks.activations import Mish
from sb3_llmdpd.networks.features import FEATURES_EXTRACTORS
from sb3_llmdpd.schedules import CosineSchedule

FORMAT_VERSION = 1
FileLike = str | pathlib.Path | io.BufferedIOBase
Tensors = dict[str, th.Tensor]


class Parts(dict[str, Any]):
    """Parts by name, of which none that is asked for may be missing."""

    def __missing__(self, name: str) -> NoReturn:
        raise ValueError(f"this is not a whole model file of sb3_llmdpd: it lacks {name!r}")


@dataclass(frozen=True)
class Checkpoint:
    """What a model file holds.

    :param data: JSON: arguments of the constructor, counters, spaces, states of the generators.
    :param tensors: named groups of tensors: ``policy``, ``actor.optimizer``, ``critic.optimizer``, ``text_table``, ...
    """

    data: dict[str, Any]
    tensors: dict[str, Tensors] = field(default_factory=dict)


def write(checkpoint: Checkpoint, path: FileLike) -> None:
    """Write a model file, whole or not at all.

    It is written under a temporary name beside its place and then renamed, so that a crash or a full disk leaves the
    file of before.

    :param checkpoint: what to write.
    :param path: a path (``.zip`` is added where there is no suffix), or a binary file open for writing.
    """
    if isinstance(path, io.BufferedIOBase):
        _write_zip(checkpoint, path)
        return
    with whole_file(_with_suffix(path)) as temporary, open(temporary, "wb") as file:
        _write_zip(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def read(path: FileLike) -> Checkpoint:
    """Read a model file. Nothing in it is executed.

    :param path: a path (with or without ``.zip``), or a binary file open for reading.
    :return: its contents.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when it is damaged, not a model of this package, pickled, or of an unknown format version.
    """
    if not isinstance(path, io.BufferedIOBase):
        path = pathlib.Path(path)
        path = path if path.is_file() else _with_suffix(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no model file at {path}")
    shown = path if isinstance(path, pathlib.Path) else "the model file"
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [name for name in archive.namelist() if name == "data" or name.endswith(".safetensors")]
            members = {name: archive.read(name) for name in wanted}
        data = json.loads(members.pop("data"))
        pairs = data.items()
    except Exception as error:  # damaged bytes make zipfile raise errors of a dozen kinds
        raise ValueError(f"{shown} is not a whole model file of sb3_llmdpd ({type(error).__name__}: {error})") from error
    _check_header(data, shown)
    try:
        tensors = {name.removesuffix(".safetensors"): load_safetensors(content) for name, content in members.items()}
    except SafetensorError as error:
        raise ValueError(f"{shown} holds damaged tensors ({error})") from error
    return Checkpoint(Parts(pairs), Parts(tensors))


def _check_header(data: dict[str, Any], path: pathlib.Path | str) -> None:
    pickled = [key for key, value in data.items() if '":serialized:":' in json.dumps(value)]
    if pickled:
        raise ValueError(
            f"{path} holds pickled objects ({', '.join(pickled)}), which could execute anything when loaded, and is refused;"
            " it is a model of another Stable-Baselines3 algorithm: load it with that algorithm, if you trust its source"
        )
    if data.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {data.get('format_version')!r}, and this sb3_llmdpd reads version {FORMAT_VERSION};"
            " install the version of sb3_llmdpd that wrote it"
        )


def _write_zip(checkpoint: Checkpoint, file: Any) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", json.dumps({"format_version": FORMAT_VERSION, **checkpoint.data}, indent=1))
        for name, tensors in checkpoint.tensors.items():
            # Weights do not compress: stored as they are, they can be read in place.
            archive.writestr(f"{name}.safetensors", save_safetensors({key: t.contiguous() for key, t in tensors.items()}))
        archive.writestr("_stable_baselines3_version", stable_baselines3.__version__)
        archive.writestr("system_info.txt", get_system_info(print_info=False)[1])


def _with_suffix(path: str | pathlib.Path) -> pathlib.Path:
    path = pathlib.Path(path)
    return path if path.suffix else path.with_suffix(".zip")


# Values that JSON does not know --------------------------------------------------------------------------------------------


def _named_classes(module: Any, base: type, prefix: str) -> dict[str, type]:
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    return {f"{prefix}.{name}": value for name, value in classes.items()}


KNOWN_CLASSES: dict[str, type] = {
    **_named_classes(nn.modules.activation, nn.Module, "torch.nn"),
    **_named_classes(th.optim, th.optim.Optimizer, "torch.optim"),
    **{f"features.{name}": extractor for name, extractor in FEATURES_EXTRACTORS.items()},
    "sb3_llmdpd.Mish": Mish,
}
"""Classes that a model file may name. A closed list: a name from a file must never decide what gets imported."""


def to_json(value: Any) -> Any:
    """Encode an argument of the constructor.

    :param value: JSON values, known classes, schedules; nested.
    :return: JSON. A class or function that is not known becomes a note that `from_json` can only answer with a custom object.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    if isinstance(value, CosineSchedule):
        return {":schedule:": "cosine", **asdict(value)}
    if isinstance(value, type):
        known = next((name for name, known_class in KNOWN_CLASSES.items() if known_class is value), None)
        return {":class:": known} if known else {":custom:": f"{value.__module__}.{value.__qualname__}"}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()  # a numpy or torch scalar
    return {":custom:": f"{type(value).__module__}.{type(value).__qualname__} object"}


def from_json(value: Any, name: str, custom: Callable[[str, str], Any]) -> Any:
    """Decode what `to_json` encoded.

    :param value: JSON.
    :param name: of the argument, for error messages and custom objects.
    :param custom: called with the argument's name and what stood there, for objects that only the user has.
    :return: the value.
    :raises ValueError: on a class that is not known.
    """
    if isinstance(value, list):
        return [from_json(entry, name, custom) for entry in value]
    if not isinstance(value, dict):
        return value
    if ":custom:" in value:
        return custom(name, str(value[":custom:"]))
    if ":schedule:" in value:
        return CosineSchedule(**{key: entry for key, entry in value.items() if key != ":schedule:"})
    if ":class:" in value:
        if value[":class:"] not in KNOWN_CLASSES:
            raise ValueError(f"the model file names a class {value[':class:']!r} for `{name}` that this version does not know")
        return KNOWN_CLASSES[value[":class:"]]
    return {key: from_json(entry, key, custom) for key, entry in value.items()}


def space_to_json(space: Any) -> Any:
    """Encode a gymnasium space.

    :param space: Box, Dict, Discrete, MultiDiscrete, MultiBinary, Tuple or Text.
    :return: JSON, from which `space_from_json` makes an equal space.
    """
    # Imported here: minari costs time that `import sb3_llmdpd` need not.
    from minari.serialization import serialize_space

    return serialize_space(space, to_string=False)


def space_from_json(value: Any) -> Any:
    """Decode a gymnasium space.

    :param value: from `space_to_json`.
    :return: the space.
    """
    from minari.serialization import deserialize_space

    return deserialize_space(value)


def optimizer_to_parts(state: dict[str, Any]) -> tuple[Any, Tensors]:
    """Split an optimiser's state dict into JSON and tensors.

    :param state: of `torch.optim.Optimizer.state_dict`.
    :return: the parameter groups as JSON, and the tensors by ``"<parameter>.<entry>"``.
    """
    tensors = {
        f"{index}.{key}": value
        for index, entries in state["state"].items()
        for key, value in entries.items()
        if isinstance(value, th.Tensor)
    }
    return to_json(state["param_groups"]), tensors


def optimizer_from_parts(groups: Any, tensors: Tensors) -> dict[str, Any]:
    """Put an optimiser's state dict together again.

    :param groups: from `optimizer_to_parts`.
    :param tensors: from `optimizer_to_parts`.
    :return: for `torch.optim.Optimizer.load_state_dict`.
    """
    state: dict[int, Tensors] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": groups}
