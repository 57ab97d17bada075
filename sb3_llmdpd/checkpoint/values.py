"""Arguments of constructors and spaces as JSON, which a model file holds instead of pickles."""

import base64
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

from sb3_llmdpd.checkpoint.container import entry, quoted
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

MOST_OBSERVED, MOST_RECORDED, MOST_PARTS = 2**22, 2**24, 256
"""Bytes of a model's observation and action together, and of either in data that are only read; parts of
them. A small file must not ask for all of the memory. A category counts as a number of four bytes, as which
the networks see it."""

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
    if isinstance(written, dict):
        return ":custom:" in written or any(map(asks_for_objects, written.values()))
    return isinstance(written, list) and any(map(asks_for_objects, written))


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
            return [self.read(part, name) for part in value]
        if not isinstance(value, dict):
            return value
        marker = next((key for key in value if _MARKER.fullmatch(key)), None)
        if marker is None:
            return {key: self.read(part, key) for key, part in value.items()}
        read = _known(self._READERS, "kind of value", marker, name)
        if marker in self._OTHER_KEYS:
            _check_keys(value, marker, *self._OTHER_KEYS[marker])
        return read(self, value, value[marker], name)

    def _float(self, value: dict[str, Any], text: Any, name: str) -> float:
        if text not in ("inf", "-inf", "nan"):
            raise ValueError(f"{quoted(text)} for `{_cut(name)}` is no float that JSON lacks")
        return float(text)

    def _tuple(self, value: dict[str, Any], parts: Any, name: str) -> tuple[Any, ...]:
        if not isinstance(parts, list):
            raise ValueError(f"{quoted(parts)} for `{_cut(name)}` is no list, of which a tuple could be made")
        return tuple(self.read(parts, name))

    def _custom(self, value: dict[str, Any], what: Any, name: str) -> Any:
        _check_keys(value, ":custom:", optional=("name", "value"))
        path = value.get("name", name)
        if not (isinstance(what, str) and isinstance(path, str)):
            raise ValueError(f"{quoted(what)} for `{_cut(name)}` names no class")
        answer = self.custom(path, what)
        if "value" in value and isinstance(answer, type) and issubclass(answer, Enum):
            return _Reader(self.custom, answer).read(value["value"], name)
        return answer

    def _member(self, value: dict[str, Any], content: Any, name: str) -> Any:
        if self.enum is None:
            raise ValueError(f"the model file has a member of no Enum for `{_cut(name)}`")
        return self.enum(self.read(content, name))

    def _dict(self, value: dict[str, Any], pairs: Any, name: str) -> Any:
        if type(value["ordered"]) is not bool:
            raise ValueError(f"`ordered` of the dict for `{_cut(name)}` is neither true nor false")
        kind = OrderedDict if value["ordered"] else dict
        return kind((self.read(key, name), self.read(part, name)) for key, part in pairs)

    def _schedule(self, value: dict[str, Any], which: Any, name: str) -> Any:
        schedule, arguments = _known(SCHEDULES, "schedule", which, name)
        _check_keys(value, ":schedule:", *arguments)
        return schedule(**{argument: self.read(value[argument], name) for argument in arguments})

    def _numpy(self, value: dict[str, Any], which: Any, name: str) -> Any:
        scalar = _known(NUMPY_SCALARS, "scalar", which, name)
        plain = self.read(value["value"], name)
        made = scalar(plain)
        if type(made.item()) is not type(plain):
            raise ValueError(f"{quoted(plain)} for `{_cut(name)}` is no value of {which}")
        return made

    _READERS: ClassVar[dict[str, Callable[..., Any]]] = {
        ":array:": lambda self, value, text, name: _unpacked(text).numpy(),
        ":class:": lambda self, value, which, name: _known(KNOWN_CLASSES, "class", which, name),
        ":custom:": _custom,
        ":dict:": _dict,
        ":dtype:": lambda self, value, which, name: _known(TORCH_DTYPES, "dtype", which, name),
        ":float:": _float,
        ":member:": _member,
        ":numpy:": _numpy,
        ":path:": lambda self, value, text, name: Path(text),
        ":schedule:": _schedule,
        ":tensor:": lambda self, value, text, name: _unpacked(text),
        ":tuple:": _tuple,
    }
    _OTHER_KEYS: ClassVar[dict[str, tuple[str, ...]]] = {
        **{marker: () for marker in _READERS if marker not in (":custom:", ":schedule:")},
        ":dict:": ("ordered",),
        ":numpy:": ("value",),
    }
    """Keys that stand beside a marker, where they are always the same."""


def _check_keys(value: dict[str, Any], *keys: str, optional: tuple[str, ...] = ()) -> None:
    """Refuse an object with a telling key that holds more or less than such a one does."""
    wrong = sorted((value.keys() - set(optional)) ^ set(keys))
    if wrong:
        found = "has" if wrong[0] in value else "lacks"
        raise ValueError(f"an object of the kind {keys[0]!r} {found} the key {quoted(wrong[0])}")


def _cut(name: str) -> str:
    """Write the name of an argument, as `quoted` does, for messages with other quotes."""
    return quoted(name)[1:-1]


def _known(known: Mapping[str, Any], kind: str, what: Any, name: str) -> Any:
    if not isinstance(what, str) or what not in known:
        raise ValueError(
            f"the model file names a {kind} {quoted(what)} for `{_cut(name)}` that this version does not know"
        )
    return known[what]


def no_custom_objects(name: str, what: str) -> NoReturn:
    """Raise a ValueError: for this argument, there can be no custom objects."""
    raise ValueError(f"the model file has {_cut(what)} for `{_cut(name)}`, where only plain values can stand")


def custom_objects(known: Mapping[str, Any]) -> CustomObjects:
    """Answer from the objects that the user passed.

    :param known: objects by the name of the argument.
    :return: the answers; a ValueError that says what to pass where one is missing.
    """

    def find(name: str, what: str) -> Any:
        if name not in known:
            raise ValueError(
                f"the model was built with {_cut(what)} of its user for `{_cut(name)}`, which a model file"
                f" does not hold: pass custom_objects={{{quoted(name)}: ...}} when loading"
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
    :raises ValueError: when it is none, or too large, see ``MOST_RECORDED``.
    """
    _check_sizes(_part_sizes(value), MOST_RECORDED)
    return _space(value)


def spaces_from_json(data: Mapping[str, Any]) -> dict[str, spaces.Space[Any]]:
    """Decode the spaces of a model.

    :param data: mapping that has the JSON of `space_to_json` by the names of ``SPACES``.
    :return: the spaces by name.
    :raises ValueError: when one is none, or both together are too large, see ``MOST_OBSERVED``.
    """
    sizes, made = [], {}
    for name in SPACES:
        with entry(name):
            sizes += _part_sizes(data[name])
            _check_sizes(sizes, MOST_OBSERVED)
    for name in SPACES:
        with entry(name):
            made[name] = _space(data[name])
    return made


_SPACE_KEYS = {
    "Dict": ("type", "spaces"),
    "Box": ("type", "dtype", "shape", "low", "high"),
    "Discrete": ("type", "n", "start"),
    "MultiDiscrete": ("type", "nvec", "start", "dtype"),
    "MultiBinary": ("type", "n"),
}
_CATEGORY_BYTES = 4
_NUMBERS = {name: scalar for name, scalar in NUMPY_SCALARS.items() if name != "str"}


def _part_sizes(value: Any) -> list[int]:
    """Compute the bytes of each part of a space by arithmetic, before any of it is made."""
    kind = value["type"]
    if kind not in _SPACE_KEYS:
        raise ValueError(
            f"the model file has a space of type {quoted(kind)}, which this version does not know"
        )
    _check_keys(value, *_SPACE_KEYS[kind])
    if kind == "Dict":
        return [size for part in value["spaces"].values() for size in _part_sizes(part)]
    if kind == "Box":
        return [_n_entries(value["shape"]) * _dtype_of(value).itemsize]
    if kind == "MultiDiscrete":
        categories = np.array(value["nvec"])
        if categories.dtype.kind != "i":
            raise ValueError("the categories of a MultiDiscrete are not counted by whole numbers")
        return [_n_entries([int(n) for n in categories.flat], sum) * _CATEGORY_BYTES]
    n = value["n"]
    return [_n_entries(n if isinstance(n, list) else [n]) * _CATEGORY_BYTES]


def _check_sizes(sizes: list[int], most: int) -> None:
    if sum(sizes) > most or len(sizes) > MOST_PARTS:
        raise ValueError(
            f"the model file has spaces of {sum(sizes):,} bytes in {len(sizes):,} parts, and at most"
            f" {most:,} bytes in {MOST_PARTS} parts are read"
        )


def _n_entries(sizes: Any, joined: Callable[[list[int]], int] = math.prod) -> int:
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"{quoted(sizes)} are no sizes of a space")
    return joined(sizes)


def _dtype_of(value: dict[str, Any]) -> np.dtype[Any]:
    return np.dtype(_known(_NUMBERS, "dtype", value["dtype"], "dtype"))


def _space(value: Any) -> spaces.Space[Any]:
    kind = value["type"]
    if kind == "Dict":
        return spaces.Dict({name: _space(part) for name, part in value["spaces"].items()})
    if kind == "Box":
        dtype, shape = _dtype_of(value), tuple(value["shape"])
        low, high = (_bound_from_json(value[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(value["n"], start=value["start"])
    if kind == "MultiDiscrete":
        nvec, start = np.array(value["nvec"]), np.array(value["start"])
        return spaces.MultiDiscrete(nvec, _dtype_of(value).type, start=start)
    n = value["n"]
    return spaces.MultiBinary(tuple(n) if isinstance(n, list) else n)


def _bound(array: np.ndarray) -> Any:
    """Write one number where all entries are the same, as in an image."""
    return to_json(array.flat[0] if array.size and (array == array.flat[0]).all() else array.tolist())


def _bound_from_json(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    read = from_json(value, "bound", no_custom_objects)
    bound = np.array(read, dtype if dtype.kind != "f" else None)
    if bound.dtype.kind not in "biuf" or np.isnan(bound).any():
        raise ValueError(f"{quoted(read)} is no bound of a Box")
    with np.errstate(over="ignore"):  # beyond the largest float32 is no bound at all
        bound = bound.astype(dtype)
    return bound.reshape(shape) if isinstance(value, list) else np.full(shape, bound)
