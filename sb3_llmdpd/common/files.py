"""Writes a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path to write to, whose file takes its real place when the block ends well, and disappears when it does not.

    :param path: the real place; its folder is made when it is not there.
    :return: a context that yields a path beside it, with the same suffix.
    :raises OSError: when the place cannot be written to, or the disk is full; what was there before is untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        yield temporary
        _to_disk(
            temporary
        )  # before the name changes: a power cut must not leave the new name with half the bytes
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
