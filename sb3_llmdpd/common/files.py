"""Files that are written whole or not at all, and the directory of the package's caches."""

import atexit
import os
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

CACHE_VARIABLE = "SB3_LLMDPD_CACHE"
"""Environment variable that moves the caches."""

_LONGEST_PAUSE_S = 3_600
"""A folder in which nothing changed for so long is abandoned: no episode takes an hour to write."""


def default_cache_directory() -> Path:
    """Find the caches: in ``$SB3_LLMDPD_CACHE``, or in ``~/.cache/sb3_llmdpd`` where that is not set.

    Without a home directory they are in a temporary folder, which is gone when the process ends.
    """
    try:
        return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "sb3_llmdpd").expanduser()
    except RuntimeError:  # neither $HOME nor an entry in /etc/passwd, as in containers and batch systems
        return _temporary_caches()


@cache
def _temporary_caches() -> Path:
    """Make the folder of a process without a home directory, and say so once."""
    warnings.warn(
        "this user has no home directory, so what is cached is gone when the process ends;"
        f" set ${CACHE_VARIABLE} to a directory that remains",
        stacklevel=3,
    )
    folder = tempfile.mkdtemp(prefix="sb3_llmdpd-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; the file takes its real place only when the block ends well.

    A symbolic link stays, and the file that it points to is written; it may be one that is yet to be made. A
    file that is replaced hands its permissions on. Several threads and processes may write the same path: the
    last one that is done wins.

    :param path: the real place; a missing folder is made.
    :return: a context that yields a path beside it, with the same suffix.
    :raises OSError: when the place cannot be written to or is no file, or the disk is full; the file of
        before remains.
    """
    target = Path(os.path.realpath(path))
    if os.path.lexists(target) and not target.is_file():  # a folder, a device, a circle of links
        raise FileExistsError(f"{path} is there and is no file: pass the path of a file, or of a new one")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.randbits(63)}-{target.name}")
    try:
        yield temporary
        # Before the name changes: a power cut must not leave the new name with half the bytes.
        _to_disk(temporary)
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
        _to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Give a folder that is gone when the block ends; those that killed processes left are removed before.

    :param parent: folder that it lies in; it is there already.
    :param prefix: beginning of its name, which nothing else in ``parent`` has.
    :return: a context that yields the folder.
    """
    for leftover in parent.glob(f"{prefix}*"):
        with suppress(FileNotFoundError):  # finished or removed while we look
            # A file that grows in a subfolder does not change the date of the folder.
            newest = max(path.stat().st_mtime for path in (leftover, *leftover.rglob("*")))
            if time.time() - newest > _LONGEST_PAUSE_S:  # a younger one may still be written to
                shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as temporary:
        yield Path(temporary)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
