"""The zip around a model: the members it may have, and the checks that come before anything in it is used."""

import io
import json
import math
import pathlib
import re
import reprlib
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn

import stable_baselines3
import torch as th
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from stable_baselines3.common.utils import get_system_info

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.version import __version__

FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)
FileLike = str | pathlib.Path | io.BufferedIOBase
Tensors = dict[str, th.Tensor]

DATA, SB3_VERSION, SYSTEM_INFO = "data", "_stable_baselines3_version", "system_info.txt"
_OF_A_MODEL = ("policy", "actor.optimizer", "critic.optimizer", "text_table", "generators", "metrics")
GROUPS = (*_OF_A_MODEL, "network")
"""Groups of tensors that a file may have; the last one is of a network that is saved alone."""
_TENSORS = {f"{group}.safetensors": group for group in GROUPS}
_MEMBERS = {DATA, SB3_VERSION, SYSTEM_INFO, *_TENSORS}

MOST_DATA, MOST_VALUES, MOST_OBJECTS = 2**25, 2**19, 2**16
"""Bytes of the data, and values and objects in them: a value takes up to a hundred times its bytes."""
_MOST_HEADER = 2**20
"""Bytes of the header of a group, for the same reason: some 10,000 tensors."""
_MOST_DIRECTORY = 2**16
"""Bytes of the zip's directory: a thousand times those of a model file."""
_MOST_QUOTED, _MOST_WORDS = 200, 800
"""Characters of something in a file that a message quotes, and of a message of another library."""

_TIED = "tied"
"""Part of the data: for each group, the names of tensors that are other tensors, and of these others."""
_HEADER = {"format_version": FORMAT_VERSION, "sb3_llmdpd_version": __version__}
_NOT_WHOLE = "is not a whole model file of sb3_llmdpd"
_DATE = (1980, 1, 1, 0, 0, 0)
"""Date of every member: the same model gives the same bytes."""


class Parts(dict[str, Any]):
    """Parts by name; a part that is asked for must be there."""

    def __missing__(self, name: str) -> NoReturn:
        raise ValueError(f"this is not a whole model file of sb3_llmdpd: it lacks {name!r}")


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a model file.

    :param data: JSON: arguments of the constructor, counters, spaces, states of the generators.
    :param tensors: named groups of tensors: ``policy``, ``actor.optimizer``, ``text_table``, ...
    :param system_info: SB3's words on the machine that wrote the file.
    """

    data: dict[str, Any]
    tensors: dict[str, Tensors] = field(default_factory=dict)
    system_info: str = ""


def write(checkpoint: Checkpoint, path: FileLike) -> pathlib.Path | None:
    """Write a model file, whole or not at all: a crash or a full disk leaves the file of before.

    :param checkpoint: contents to write.
    :param path: a path (``.zip`` is added where there is no suffix), or a binary file open for writing.
    :return: path of the file; None when ``path`` is an open file.
    :raises OSError: when the place cannot be written to, or the disk is full.
    """
    if isinstance(path, io.BufferedIOBase):
        _write_zip(checkpoint, path)
        return None
    path = _with_suffix(path)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        _write_zip(checkpoint, file)
    return path


def read(path: FileLike) -> Checkpoint:
    """Read a model file. Nothing in it is executed, and nothing of it is unpacked to the disk.

    :param path: a path (with or without ``.zip``), or a binary file open for reading.
    :return: its contents; all numbers in its tensors are finite.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when it is damaged, foreign, pickled, or of an unknown format version.
    """
    with refusing(path, _NOT_WHOLE), _opened(path) as file:
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            names = _checked_names(archive)
            data = _checked_data(archive, names, path)
            members = {name: archive.read(name) for name in names if name != DATA}
        tensors = {
            group: Parts(_checked_tensors(group, members[name]))
            for name, group in _TENSORS.items()
            if name in members
        }
        _tie(tensors, data.get(_TIED, {}))
    return Checkpoint(Parts(data), Parts(tensors), members.get(SYSTEM_INFO, b"").decode(errors="replace"))


def read_data(path: FileLike) -> Parts:
    """Read the data of a model file, and none of its tensors.

    :param path: see `read`.
    :return: JSON values by name; one that is missing is a ValueError when it is asked for.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: as `read`, but for what is wrong with the tensors.
    """
    with refusing(path, _NOT_WHOLE), _opened(path) as file:
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            return Parts(_checked_data(archive, _checked_names(archive), path))


class RefusedFile(ValueError):
    """A refusal that names its file."""


@contextmanager
def refusing(path: FileLike, what: str) -> Iterator[None]:
    """Let every error in a block refuse the file that it reads: damaged values raise errors of a dozen kinds.

    :param path: path or open file, named by the message.
    :param what: words for what is wrong with it, such as ``"cannot be loaded"``.
    :raises ValueError: in place of any error but that of a missing file or package.
    """
    try:
        yield
    except (RefusedFile, FileNotFoundError, ImportError):  # the last of a language model
        raise
    except Exception as error:
        raise RefusedFile(f"{shown_path(path)} {what} ({told(error)})") from error


@contextmanager
def entry(name: str) -> Iterator[None]:
    """Let every error in a block name the entry of a model file that it is about.

    :param name: name of the entry, such as ``"counters"``.
    :raises ValueError: in place of any error but that of a missing package.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"in {quoted(name)}: {told(error)}") from error


def quoted(value: Any) -> str:
    """Quote something of a file for a message: in one line, escaped, and cut at 200 characters."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = _MOST_QUOTED
    return _shortened(short.repr(value))


def printable(text: str) -> str:
    """Escape what a terminal would obey, such as control characters and line ends."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def told(error: Exception) -> str:
    """Tell an error in one line: escaped, and without long values of a file."""
    text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    text = _QUOTE.sub(lambda found: _shortened(found[0]), text)
    if len(text) > _MOST_WORDS:
        text = f"{text[: _MOST_WORDS - _MOST_QUOTED]} ... {text[-_MOST_QUOTED:]}"
    return printable(text)


_QUOTE = re.compile(r"(?<!\w)(['\"]).*?\1(?!\w)|[\[{][^\]}'\"]*[\]}]?", re.DOTALL)
"""A quoted string, whose quotes are no apostrophes, or a list or dict of numbers."""


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_QUOTED else f"{text[: _MOST_QUOTED - 4]}...{text[-1]}"


def check_names(found: Collection[str], known: Collection[str], what: str) -> None:
    """Refuse names that are missing in a file, and those that nobody knows.

    :param found: names in the file.
    :param known: names that have to be there.
    :param what: words for one of them, for the message.
    :raises ValueError: when they differ.
    """
    unknown, missing = sorted(set(found) - set(known)), sorted(set(known) - set(found))
    if unknown:
        raise ValueError(f"it holds the {what} {quoted(unknown[0])}, which this version does not know")
    if missing:
        raise ValueError(f"this is not a whole model file of sb3_llmdpd: it lacks {missing[0]!r}")


def check_entries(saved: Checkpoint, keys: Collection[str]) -> None:
    """Refuse a file whose data have other entries than its kind.

    :param saved: contents of the file.
    :param keys: entries of the data, but those that every file has.
    :raises ValueError: when one is missing or unknown.
    """
    check_names(saved.data.keys() - {*_HEADER, _TIED}, keys, "entry")


def check_groups(saved: Checkpoint, groups: Collection[str]) -> None:
    """Refuse a file that has other groups of tensors than its kind.

    :param saved: contents of the file.
    :param groups: names of the groups.
    :raises ValueError: when one is missing or unknown.
    """
    check_names(saved.tensors.keys(), groups, "group of tensors")


def existing(path: FileLike) -> pathlib.Path | None:
    """Find a model file.

    :param path: path, with or without its suffix.
    :return: the path that is there; None for an open file.
    :raises FileNotFoundError: when there is none.
    """
    if isinstance(path, io.BufferedIOBase):
        return None
    found = pathlib.Path(path) if pathlib.Path(path).is_file() else _with_suffix(path)
    if not found.is_file():
        raise FileNotFoundError(f"there is no model file at {found}")
    return found


def shown_path(path: FileLike) -> pathlib.Path | str:
    """Name a model file for a message: by its path, or by words for an open file."""
    return existing(path) or "the model file"


@contextmanager
def _opened(path: FileLike) -> Iterator[BinaryIO]:
    """Open a path; an open file stays open."""
    found = existing(path)
    if found is None:
        yield path  # type: ignore[misc]  # the open file
    else:
        with open(found, "rb") as file:
            yield file


def _check_directory(file: BinaryIO) -> None:
    """Refuse a long directory, before `zipfile` makes an object of each of its entries."""
    length = file.seek(0, io.SEEK_END)
    file.seek(max(length - 98, 0))
    tail = file.read()
    # The last record, without a comment; before it may stand those for large files.
    end, locator, end_64 = tail[-22:], tail[-42:-22], tail[-98:-42]
    if not (end.startswith(b"PK\5\6") and end.endswith(b"\0\0")):
        raise ValueError("it wasn't a zip-file")  # the words of SB3
    sizes = [int.from_bytes(end[12:16], "little")]
    if locator.startswith(b"PK\6\7") and end_64.startswith(b"PK\6\6"):
        sizes.append(int.from_bytes(end_64[40:48], "little"))
    if max(sizes) > _MOST_DIRECTORY:
        raise ValueError(f"its directory has {max(sizes):,} bytes, and at most {_MOST_DIRECTORY:,} are read")


def _checked_names(archive: zipfile.ZipFile) -> list[str]:
    """Name the members, once their sizes are known to be sound.

    Nothing is compressed in a model file. So no member can be larger than the file, nor all of them together
    unless they overlap, and a small file cannot unfold into a large one.
    """
    infos = archive.infolist()
    known = [info for info in infos if info.filename in _MEMBERS]
    packed = [info.filename for info in known if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"{packed[0]!r} is compressed, and the members of a model file never are")
    assert archive.fp is not None
    if sum(info.file_size for info in known) > archive.fp.seek(0, io.SEEK_END):
        raise ValueError("its members are larger than the file")
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise ValueError("two of its members have the same name")
    if DATA not in names:
        raise ValueError(f"it lacks {DATA!r}")
    return names


def _checked_data(archive: zipfile.ZipFile, names: Collection[str], path: FileLike) -> dict[str, Any]:
    """Read the data of a file whose members are known, and refuse a file that is foreign by them."""
    data = _data_from_json(archive.read(DATA))
    _refuse_pickled(data, path)
    foreign = [name for name in names if name not in _MEMBERS]
    if foreign:
        raise ValueError(f"it holds {quoted(foreign[0])}, which is no part of a model file")
    _check_version(data, path)
    return data


def _data_from_json(content: bytes) -> dict[str, Any]:
    text = content.decode("ascii")
    _check_length(text)
    data = json.loads(
        text,
        object_pairs_hook=_without_duplicates,
        parse_constant=_refuse_constant,
        parse_float=_finite_float,
    )
    if not isinstance(data, dict):
        raise ValueError("its data are no JSON object")
    return data


def _check_length(text: str) -> None:
    """Refuse a long text by what is counted fast, before it is read; a file that is written keeps to it."""
    n_objects = text.count("{")
    n_values = text.count(",") + text.count("[") + n_objects
    if len(text) > MOST_DATA or n_values > MOST_VALUES or n_objects > MOST_OBJECTS:
        raise ValueError(
            f"the data of a model file have at most {MOST_DATA:,} bytes, {MOST_VALUES:,} values and"
            f" {MOST_OBJECTS:,} objects, got {len(text):,}, {n_values:,} and {n_objects:,}"
        )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {quoted(counts.most_common(1)[0][0])} stands twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:_MOST_QUOTED]} is larger than any float")
    return number


def _refuse_pickled(data: dict[str, Any], path: FileLike) -> None:
    pickled = [key for key, value in data.items() if _has_key(value, ":serialized:")]
    if pickled:
        raise RefusedFile(
            f"{shown_path(path)} holds pickled objects"
            f" ({', '.join(quoted(key)[1:-1] for key in pickled[:20])}), which could execute anything when"
            " loaded, and is refused; it is a model of another Stable-Baselines3 algorithm: load it with"
            " that algorithm, if you trust its source"
        )


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(part, key) for part in value.values())
    return isinstance(value, list) and any(_has_key(part, key) for part in value)


def _check_version(data: dict[str, Any], path: FileLike) -> None:
    version = data.get("format_version")
    if type(version) is not int or version not in READ_VERSIONS:
        writer = data.get("sb3_llmdpd_version")
        which = printable(writer[:_MOST_QUOTED]) if isinstance(writer, str) else "which it does not name"
        raise RefusedFile(
            f"{shown_path(path)} has format version {quoted(version)}, and sb3_llmdpd {__version__}"
            f" reads versions {' and '.join(map(str, READ_VERSIONS))}; install the version that wrote it,"
            f" {which}"
        )


def _checked_tensors(group: str, content: bytes) -> Tensors:
    """Read tensors, whose bytes are those that the header names, and whose numbers are all finite."""
    if int.from_bytes(content[:8], "little") > _MOST_HEADER:
        raise ValueError(f"the header of {group!r} has more than {_MOST_HEADER:,} bytes")
    with entry(group):
        tensors = unpacked(content)
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"the tensor {quoted(name)} is not finite")
    return tensors


def _tie(tensors: Mapping[str, Tensors], tied: Any) -> None:
    """Give tensors their further names, which are those of the same tensor."""
    with entry(_TIED):
        for group, names in tied.items():
            for alias, stored in names.items():
                if alias in tensors[group]:
                    raise ValueError(f"{quoted(alias)} is stored, and no other name of a tensor")
                tensors[group][alias] = tensors[group][stored]


def _write_zip(checkpoint: Checkpoint, file: Any) -> None:
    def add(name: str, content: bytes | str) -> None:
        archive.writestr(zipfile.ZipInfo(name, _DATE), content)

    tied = {group: names for group, tensors in checkpoint.tensors.items() if (names := tied_names(tensors))}
    data = {**_HEADER, **checkpoint.data, **({_TIED: tied} if tied else {})}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        add(DATA, data_to_json(data))
        for group, tensors in checkpoint.tensors.items():
            stored = {name: tensor for name, tensor in tensors.items() if name not in tied.get(group, ())}
            add(f"{group}.safetensors", packed(stored))
        add(SB3_VERSION, stable_baselines3.__version__)
        add(SYSTEM_INFO, get_system_info(print_info=False)[1])


def data_to_json(data: dict[str, Any]) -> str:
    """Write the data of a file.

    :param data: JSON; NaN and infinite numbers are none, and `values.to_json` has words for them.
    :return: the text.
    :raises ValueError: when it is longer than what is read.
    """
    text = json.dumps(data, indent=1, allow_nan=False)
    _check_length(text)
    return text


def tied_names(tensors: Tensors) -> dict[str, str]:
    """Find tensors that are one and the same under several names, such as the weights of a shared layer.

    :param tensors: tensors by name.
    :return: for each name but the first of a tensor, the first one.
    """
    first: dict[Any, str] = {}
    tied = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
        known = first.setdefault(place, name) if tensor.numel() else name
        if known != name:
            tied[name] = known
    return tied


def packed(tensors: Tensors) -> bytes:
    """Write tensors as safetensors; those that share their memory in part, as views do, are copied.

    :param tensors: tensors by name.
    :return: the bytes.
    """
    memory = {name: tensor.untyped_storage().data_ptr() for name, tensor in tensors.items()}
    n_users = Counter(memory.values())
    apart = {
        name: tensor.clone(memory_format=th.contiguous_format)
        if n_users[memory[name]] > 1
        else tensor.contiguous()
        for name, tensor in tensors.items()
    }
    return save_safetensors(apart)


def unpacked(content: bytes) -> Tensors:
    """Read what `packed` has written.

    :param content: the bytes.
    :return: tensors by name.
    """
    return load_safetensors(content)


def _with_suffix(path: str | pathlib.Path) -> pathlib.Path:
    path = pathlib.Path(path)
    return path if path.suffix else path.with_suffix(".zip")
