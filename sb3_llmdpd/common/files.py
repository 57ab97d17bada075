"""Files that are written whole or not at all, and the directory of the package's caches."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE_VARIABLE = "SB3_LLMDPD_CACHE"
"""Environment variable that moves the caches."""


def default_cache_directory() -> Path:
    """Find the caches: in ``$SB3_LLMDPD_CACHE``, or in ``~/.cache/sb3_llmdpd`` where that is not set."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "sb3_llmdpd").expanduser()


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; the file takes its real place only when the block ends well.

    :param path: the real place; a missing folder is made.
    :return: a context that yields a path beside it, with the same suffix.
    :raises OSError: when the place cannot be written to, or the disk is full; the file of before remains.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        yield temporary
        # Before the name changes: a power cut must not leave the new name with half the bytes.
        _to_disk(temporary)
        os.replace(temporary, target)
        _to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
