"""The zip around a model: the members it may have, and the checks that come before anything in it is used."""

import io
import json
import pathlib
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NoReturn

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
_TENSORS = re.compile(r"([a-z_.]+)\.safetensors")
_TEXTS = (DATA, SB3_VERSION, SYSTEM_INFO)
_TIED = "tied"
"""Part of the data: for each group, the names of tensors that are other tensors, and of these others."""
_HEADER = {"format_version": FORMAT_VERSION, "sb3_llmdpd_version": __version__}
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
    :return: its contents.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when it is damaged, foreign, pickled, or of an unknown format version.
    """
    shown = shown_path(path)
    try:
        members, foreign = _members(existing(path) or path)
        data = json.loads(members[DATA], parse_constant=_refuse_constant)
        pairs = data.items()
        _refuse_pickled(data, shown)
        if foreign:
            raise ValueError(f"it holds {foreign[0]!r}, which is no part of a model file")
        _check_version(data, shown)
        groups = {found[1]: members[name] for name in members if (found := _TENSORS.fullmatch(name))}
        tensors = {name: Parts(unpacked(content)) for name, content in groups.items()}
        for name, tied in data.get(_TIED, {}).items():
            tensors[name] |= {alias: tensors[name][stored] for alias, stored in tied.items()}
    except (_Refused, FileNotFoundError):
        raise
    except Exception as error:  # damaged bytes make zipfile raise errors of a dozen kinds
        raise ValueError(
            f"{shown} is not a whole model file of sb3_llmdpd ({type(error).__name__}: {error})"
        ) from error
    return Checkpoint(Parts(pairs), Parts(tensors), members.get(SYSTEM_INFO, b"").decode(errors="replace"))


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


class _Refused(ValueError):
    """A refusal that needs no more words."""


def _members(file: FileLike) -> tuple[dict[str, bytes], list[str]]:
    """Read the members that a model file has, and list the names of others.

    Nothing is compressed in a model file. So no member can be larger than the file, nor all of them together
    unless they overlap, and a small file cannot unfold into a large one.
    """
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        known = [info for info in infos if info.filename in _TEXTS or _TENSORS.fullmatch(info.filename)]
        packed = [info.filename for info in known if info.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"{packed[0]!r} is compressed, and the members of a model file never are")
        assert archive.fp is not None
        if sum(info.file_size for info in known) > archive.fp.seek(0, io.SEEK_END):
            raise ValueError("its members are larger than the file")
        if len({info.filename for info in infos}) < len(infos):
            raise ValueError("two of its members have the same name")
        members = {info.filename: archive.read(info) for info in known}
    return members, [info.filename for info in infos if info not in known]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _refuse_pickled(data: dict[str, Any], shown: pathlib.Path | str) -> None:
    pickled = [key for key, value in data.items() if '":serialized:":' in json.dumps(value)]
    if pickled:
        raise _Refused(
            f"{shown} holds pickled objects ({', '.join(pickled)}), which could execute anything when loaded,"
            " and is refused; it is a model of another Stable-Baselines3 algorithm: load it with that"
            " algorithm, if you trust its source"
        )


def _check_version(data: dict[str, Any], shown: pathlib.Path | str) -> None:
    if data.get("format_version") not in READ_VERSIONS:
        writer = data.get("sb3_llmdpd_version", "which it does not name")
        raise _Refused(
            f"{shown} has format version {data.get('format_version')!r}, and sb3_llmdpd {__version__}"
            f" reads versions {' and '.join(map(str, READ_VERSIONS))}; install the version that wrote it,"
            f" {writer}"
        )


def _write_zip(checkpoint: Checkpoint, file: Any) -> None:
    def add(name: str, content: bytes | str) -> None:
        archive.writestr(zipfile.ZipInfo(name, _DATE), content)

    tied = {group: names for group, tensors in checkpoint.tensors.items() if (names := tied_names(tensors))}
    data = {**_HEADER, **checkpoint.data, **({_TIED: tied} if tied else {})}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # NaN and Infinity are no JSON: `values.to_json` has words for them.
        add(DATA, json.dumps(data, indent=1, allow_nan=False))
        for group, tensors in checkpoint.tensors.items():
            stored = {name: tensor for name, tensor in tensors.items() if name not in tied.get(group, ())}
            add(f"{group}.safetensors", packed(stored))
        add(SB3_VERSION, stable_baselines3.__version__)
        add(SYSTEM_INFO, get_system_info(print_info=False)[1])


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
