"""Arguments of constructors and spaces as JSON, which a model file holds instead of pickles."""

import base64
import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
import torch as th
from gymnasium import spaces
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn

from sb3_llmdpd.common.schedules import CosineSchedule, LineToZero
from sb3_llmdpd.networks.features import FEATURES_EXTRACTORS
from sb3_llmdpd.networks.layers import Mish

CustomObjects = Callable[[str, str], Any]
"""(name of an argument, note in its place) -> the object that only the user has."""


def _named_classes(module: Any, base: type, prefix: str) -> dict[str, type]:
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {f"{prefix}.{name}": value for name, value in classes.items() if issubclass(value, base)}


KNOWN_CLASSES: dict[str, type] = {
    **_named_classes(nn.modules.activation, nn.Module, "torch.nn"),
    **_named_classes(th.optim, th.optim.Optimizer, "torch.optim"),
    **{f"features.{name}": extractor for name, extractor in FEATURES_EXTRACTORS.items()},
    "torch.nn.Identity": nn.Identity,
    "stable_baselines3.CombinedExtractor": CombinedExtractor,
    "stable_baselines3.RMSpropTFLike": RMSpropTFLike,
    "sb3_llmdpd.Mish": Mish,
}
"""Classes that a model file may name. A closed list: a file must never decide what gets imported."""

SCHEDULES: dict[str, tuple[type, tuple[str, ...]]] = {
    "constant": (ConstantSchedule, ("val",)),
    "cosine": (CosineSchedule, ("initial", "final", "warmup")),
    "float": (FloatSchedule, ("value_schedule",)),
    "line_to_zero": (LineToZero, ("initial",)),
    "linear": (LinearSchedule, ("start", "end", "end_fraction")),
}
"""Schedules that a model file may name, and the arguments that make them again."""

NUMPY_SCALARS: dict[str, type[np.generic]] = {
    **{name: np.dtype(name).type for name in ("int8", "int16", "int32", "int64", "float16", "float32")},
    **{name: np.dtype(name).type for name in ("uint8", "uint16", "uint32", "uint64", "float64")},
    "bool": np.bool_,
    "str": np.str_,
}
"""NumPy's scalars that a model file holds."""

TORCH_DTYPES = {
    str(value).removeprefix("torch."): value for value in vars(th).values() if type(value) is th.dtype
}

MOST_BYTES = 2**20
"""Size up to which arrays and tensors among the arguments are in the file; larger ones are asked back."""

SPACES = ("observation_space", "action_space")
"""Names of the spaces in a model file, and of the constructors' arguments."""

MAX_ENTRIES = 2**24
"""Entries of a space, one-hot categories counted: a small file must not ask for all of the memory."""

_MARKER = re.compile(r":\w+:")
"""Key of an object that stands for something that JSON does not have."""


def to_json(value: Any) -> Any:
    """Encode settings for a report: sequences become lists, keys strings, NumPy's scalars numbers.

    :param value: JSON values, infinite numbers, known classes, schedules; nested.
    :return: JSON. An unknown class or function becomes a note.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a numpy or torch scalar
    if isinstance(value, int | str):  # an Enum that is a number or a string, too
        return value
    try:
        return _written(value, set())
    except _OwnObject:
        return {":custom:": _described(value)}


class Arguments(NamedTuple):
    """Arguments of a constructor as a model file has them."""

    written: dict[str, Any]
    """JSON from which `from_json` makes them again."""
    own: dict[str, Any]
    """Classes, functions and objects of the user alone, by the names under which loading asks for them."""


def arguments_to_json(arguments: Mapping[str, Any]) -> Arguments:
    """Encode arguments so that they come back as they are, with their types.

    An argument that holds something of the user's own is left out as a whole, and asked back by its name: the
    innermost key of a dict of strings that leads to it, or the whole path where two of one name differ.

    :param arguments: values by name.
    :return: JSON, and what it lacks.
    :raises ValueError: when an argument is nested too deep.
    """
    notes: list[_Note] = []
    written = {}
    for name, value in arguments.items():
        try:
            written[name] = _named(value, (name,), notes)
        except RecursionError as error:
            raise ValueError(f"`{name}` is nested too deep for a model file, or holds itself") from error
    own = {}
    for note in notes:
        of_this_name = [other.own for other in notes if other.path[-1] == note.path[-1]]
        is_taken = len(note.path) > 1 and note.path[-1] in arguments
        if is_taken or any(other is not note.own for other in of_this_name):
            note.written["name"] = ".".join(note.path)
        own[note.written.get("name", note.path[-1])] = note.own
    return Arguments(written, own)


def asks_for_objects(written: Any) -> bool:
    """Tell whether something of the user's own is missing in the JSON of `arguments_to_json`."""
    return '":custom:"' in json.dumps(written)


class _Note(NamedTuple):
    """A place in the JSON that asks for something of the user's own."""

    path: tuple[str, ...]
    written: dict[str, Any]
    own: Any


class _OwnObject(Exception):
    """A value, or something in it, is of a kind that only its user has."""


def _named(value: Any, path: tuple[str, ...], notes: list[_Note]) -> Any:
    """Encode what a name leads to."""
    if _has_plain_keys(value):
        return {key: _named(entry, (*path, key), notes) for key, entry in value.items()}
    enums: set[type[Enum]] = set()
    own, written = value, None
    try:
        written = _written(value, enums)
    except _OwnObject:
        note = {":custom:": _described(value)}
    else:
        if not enums:
            return written
        note = {":custom:": " and ".join(sorted(map(_described, enums)))}
        if len(enums) == 1:  # the class is asked back, and makes the members from their values
            (own,) = enums
            note["value"] = written
    notes.append(_Note(path, note, own))
    return note


def _written(value: Any, enums: set[type[Enum]]) -> Any:
    """Encode a value of a kind that a model file holds; collect the classes of the members of Enums."""
    kind = type(value)
    if isinstance(value, Enum):
        enums.add(kind)
        return {":member:": _written(value.value, enums)}
    if kind is float and not math.isfinite(value):
        return {":float:": str(value)}
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, tuple):
        entries = [_written(entry, enums) for entry in value]
        return entries if kind is list else {":tuple:": entries}
    if _has_plain_keys(value):
        return {key: _written(entry, enums) for key, entry in value.items()}
    if kind in _DICTS:
        pairs = [[_written(key, enums), _written(entry, enums)] for key, entry in value.items()]
        return {":dict:": pairs, "ordered": kind is OrderedDict}
    for name, (schedule, arguments) in SCHEDULES.items():
        if kind is schedule:
            own = {argument: _written(getattr(value, argument), enums) for argument in arguments}
            return {":schedule:": name, **own}
    return _written_leaf(value)


def _written_leaf(value: Any) -> dict[str, Any]:
    for marker, known in ((":class:", KNOWN_CLASSES), (":dtype:", TORCH_DTYPES)):
        for name, its_value in known.items():
            if its_value is value:
                return {marker: name}
    for name, scalar in NUMPY_SCALARS.items():
        if isinstance(value, np.generic) and type(value) is scalar:
            return {":numpy:": name, "value": _written(value.item(), set())}
    if type(value) is type(Path()):
        return {":path:": str(value)}
    if type(value) is np.ndarray and _is_storable(value):
        return {":array:": _packed(th.from_numpy(np.array(value, order="C")))}
    if type(value) is th.Tensor and _is_storable_tensor(value):
        return {":tensor:": _packed(value)}
    raise _OwnObject


def _is_storable(array: np.ndarray) -> bool:
    is_plain = array.dtype.kind in "biuf" and array.dtype.isnative and array.itemsize <= 8
    return is_plain and array.nbytes <= MOST_BYTES


def _is_storable_tensor(tensor: th.Tensor) -> bool:
    is_plain = tensor.layout is th.strided and tensor.device.type == "cpu" and not tensor.requires_grad
    return is_plain and not tensor.is_quantized and tensor.nbytes <= MOST_BYTES


_DICTS = (dict, OrderedDict)


def _has_plain_keys(value: Any) -> bool:
    """Tell a dict that JSON can say as it is."""
    return type(value) is dict and all(type(key) is str and not _MARKER.fullmatch(key) for key in value)


def _packed(tensor: th.Tensor) -> str:
    return base64.b64encode(save_safetensors({"": tensor.contiguous()})).decode()


def _unpacked(text: str) -> th.Tensor:
    return load_safetensors(base64.b64decode(text))[""]


def _described(value: Any) -> str:
    """Name a class or a function; of another object, name the class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    what = f"{named.__module__}.{named.__qualname__}"
    return what if named is value else f"{what} object"


def from_json(value: Any, name: str, custom: CustomObjects) -> Any:
    """Decode the JSON of `to_json` or of `arguments_to_json`.

    :param value: JSON.
    :param name: name of the argument, for error messages and custom objects.
    :param custom: answers for objects that only the user has.
    :return: the value.
    :raises ValueError: on a class, schedule or kind that is not known.
    """
    return _Reader(custom).read(value, name)


class _Reader:
    """Decodes values.

    :param custom: answers for objects that only the user has.
    :param enum: class of the members in the value.
    """

    def __init__(self, custom: CustomObjects, enum: Callable[[Any], Any] | None = None) -> None:
        self.custom = custom
        self.enum = enum

    def read(self, value: Any, name: str) -> Any:
        if isinstance(value, list):
            return [self.read(entry, name) for entry in value]
        if not isinstance(value, dict):
            return value
        marker = next((key for key in value if _MARKER.fullmatch(key)), None)
        if marker is None:
            return {key: self.read(entry, key) for key, entry in value.items()}
        read = _known(self._READERS, "kind of value", marker, name)
        return read(self, value, value[marker], name)

    def _custom(self, value: dict[str, Any], what: Any, name: str) -> Any:
        answer = self.custom(value.get("name", name), str(what))
        if "value" in value and isinstance(answer, type) and issubclass(answer, Enum):
            return _Reader(self.custom, answer).read(value["value"], name)
        return answer

    def _member(self, value: dict[str, Any], content: Any, name: str) -> Any:
        if self.enum is None:
            raise ValueError(f"the model file has a member of no Enum for `{name}`")
        return self.enum(self.read(content, name))

    def _dict(self, value: dict[str, Any], pairs: Any, name: str) -> Any:
        kind = OrderedDict if value["ordered"] else dict
        return kind((self.read(key, name), self.read(entry, name)) for key, entry in pairs)

    def _schedule(self, value: dict[str, Any], which: Any, name: str) -> Any:
        schedule, arguments = _known(SCHEDULES, "schedule", which, name)
        return schedule(**{argument: self.read(value[argument], name) for argument in arguments})

    def _numpy(self, value: dict[str, Any], which: Any, name: str) -> Any:
        return _known(NUMPY_SCALARS, "scalar", which, name)(self.read(value["value"], name))

    _READERS: ClassVar[dict[str, Callable[..., Any]]] = {
        ":array:": lambda self, value, text, name: _unpacked(text).numpy(),
        ":class:": lambda self, value, which, name: _known(KNOWN_CLASSES, "class", which, name),
        ":custom:": _custom,
        ":dict:": _dict,
        ":dtype:": lambda self, value, which, name: _known(TORCH_DTYPES, "dtype", which, name),
        ":float:": lambda self, value, text, name: float(text),
        ":member:": _member,
        ":numpy:": _numpy,
        ":path:": lambda self, value, text, name: Path(text),
        ":schedule:": _schedule,
        ":tensor:": lambda self, value, text, name: _unpacked(text),
        ":tuple:": lambda self, value, entries, name: tuple(self.read(entries, name)),
    }


def _known(known: Mapping[str, Any], kind: str, what: Any, name: str) -> Any:
    if what not in known:
        raise ValueError(
            f"the model file names a {kind} {what!r} for `{name}` that this version does not know"
        )
    return known[what]


def no_custom_objects(name: str, what: str) -> NoReturn:
    """Raise a ValueError: for this argument, there can be no custom objects."""
    raise ValueError(f"the model file has {what} for `{name}`, where only plain values can stand")


def custom_objects(known: Mapping[str, Any]) -> CustomObjects:
    """Answer from the objects that the user passed.

    :param known: objects by the name of the argument.
    :return: the answers; a ValueError that says what to pass where one is missing.
    """

    def find(name: str, what: str) -> Any:
        if name not in known:
            raise ValueError(
                f"the model was built with {what} of its user for `{name}`, which a model file does not hold:"
                f" pass custom_objects={{{name!r}: ...}} when loading"
            )
        return known[name]

    return find


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Encode a space.

    :param space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these.
    :return: JSON, from which `space_from_json` makes an equal space.
    :raises ValueError: on another kind, which Stable-Baselines3 cannot read either.
    """
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {name: space_to_json(part) for name, part in space.spaces.items()}}
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        parts = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": "MultiDiscrete", "dtype": str(space.dtype), **parts}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": to_json(space.n)}
    raise ValueError(
        f"a model file cannot hold the space {space}: use Box, Discrete, MultiDiscrete, MultiBinary or Dict"
    )


def space_from_json(value: Any) -> spaces.Space[Any]:
    """Decode a space.

    :param value: JSON of `space_to_json`.
    :return: the space.
    :raises ValueError: when it is none, or has more than ``MAX_ENTRIES`` entries.
    """
    kind = value["type"]
    if kind == "Dict":
        return spaces.Dict({name: space_from_json(part) for name, part in value["spaces"].items()})
    if kind == "Box":
        dtype, shape = np.dtype(value["dtype"]), _shape(value["shape"])
        low, high = (_bound_from_json(value[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(_counted(value["n"]), start=int(value["start"]))
    if kind == "MultiDiscrete":
        nvec = np.array(value["nvec"])
        _counted(int(nvec.sum(dtype=object)))
        return spaces.MultiDiscrete(nvec, np.dtype(value["dtype"]).type, start=np.array(value["start"]))
    if kind == "MultiBinary":
        n = value["n"]
        return spaces.MultiBinary(_shape(n) if isinstance(n, list) else _counted(n))
    raise ValueError(f"the model file has a space of type {kind!r}, which this version does not know")


def _bound(array: np.ndarray) -> Any:
    """Write one number where all entries are the same, as in an image."""
    return to_json(array.flat[0] if array.size and (array == array.flat[0]).all() else array.tolist())


def _bound_from_json(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    bound = np.array(from_json(value, "bound", no_custom_objects), dtype)
    return bound.reshape(shape) if isinstance(value, list) else np.full(shape, bound)


def _shape(sizes: Any) -> tuple[int, ...]:
    _counted(math.prod(sizes))
    return tuple(sizes)


def _counted(n: Any) -> int:
    if not isinstance(n, int) or not 0 <= n <= MAX_ENTRIES:
        raise ValueError(f"the model file has a space of {n} entries, and at most {MAX_ENTRIES} are read")
    return n
