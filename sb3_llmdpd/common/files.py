"""Files that are written whole or not at all, and the directory of the package's caches."""

import atexit
import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from glob import escape
from pathlib import Path

CACHE_VARIABLE = "SB3_LLMDPD_CACHE"
"""Environment variable that moves the caches."""

_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or ask for a larger quota",
    errno.EFBIG: "raise the limit of a file's size, see `ulimit -f`",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
}
"""Errors of the disk and of permissions, and what to do about each."""

_LONGEST_PAUSE_S = 3_600
"""A folder in which nothing changed for so long is abandoned: no episode takes an hour to write."""

_TEMPORARY = re.compile(r"\.\d+-(\d+-[0-9a-f]{16}-)?")
"""Process, thread and a random part before the name of a file; of earlier versions, a random part alone."""


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
    with says_what_cannot_be_written(path), _put_in_place(path) as temporary:
        yield temporary


@contextmanager
def _put_in_place(path: str | Path) -> Iterator[Path]:
    """Do what `whole_file` says, with the errors as the system gives them."""
    target = Path(os.path.realpath(path))
    if os.path.lexists(target) and not target.is_file():  # a folder, a device, a circle of links
        raise FileExistsError(f"{path} is there and is no file: pass the path of a file, or of a new one")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(_temporary_name(target.name))
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


class CannotWrite(OSError):
    """A file, ``filename``, could not be written; ``strerror`` is a sentence with reason and remedy."""

    def __str__(self) -> str:
        """Give the sentence alone."""
        return str(self.strerror)


@contextmanager
def says_what_cannot_be_written(path: str | Path) -> Iterator[None]:
    """Name the file, and the space that is free, in errors of a full disk or a place without permission.

    :param path: file that the block writes.
    :return: a context for the block.
    :raises CannotWrite: in place of such an error of the system.
    """
    try:
        yield
    except OSError as error:
        folder = Path(os.path.realpath(path)).parent
        # The block may open other files, whose errors name them; the folder above may be missing.
        named = folder if error.filename is None else Path(os.path.realpath(error.filename)).parent
        if isinstance(error, CannotWrite) or error.errno not in _REMEDIES or not folder.is_relative_to(named):
            raise
        reason, remedy = os.strerror(error.errno), _REMEDIES[error.errno]
        sentence = f"{path} cannot be written: {reason}, {_free_space(folder)} free there; {remedy}"
        raise CannotWrite(error.errno, sentence, os.fspath(path)) from error


def _free_space(folder: Path) -> str:
    """Measure the space for files that are yet to be made in a folder, which itself may be one."""
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    return f"{shutil.disk_usage(there).free / 1e6:,.1f} MB"


def leftovers(path: Path) -> list[Path]:
    """Find the temporary files of a file; where nobody writes it now, killed processes have left them."""
    found = path.parent.glob(f".*-{escape(path.name)}")
    return [each for each in found if _TEMPORARY.fullmatch(each.name.removesuffix(path.name))]


def _temporary_name(name: str) -> str:
    """Make a name that no other process, thread or write has; it begins as `_TEMPORARY` says."""
    return f".{os.getpid()}-{threading.get_native_id()}-{secrets.token_hex(8)}-{name}"


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


def digest_of(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
