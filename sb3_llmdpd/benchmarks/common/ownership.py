"""One owner for a folder: a lock that ends with its process, and a note of who holds it."""

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from filelock import FileLock, Timeout

LOCK, OWNER = ".lock", "owner.json"
"""Names of the lock, which stays, and of the note, which is there while a process works in the folder."""

_PATIENCE_S = 1.0
"""A process that was killed a moment ago may still be giving back its memory, and its locks after that."""


class Owner(NamedTuple):
    """The process that works in a folder.

    :param host: name of its machine.
    :param process: its number there.
    """

    host: str
    process: int

    @classmethod
    def here(cls) -> Self:
        """Name this process."""
        return cls(socket.gethostname(), os.getpid())

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a note; None where there is none, or half of one."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, TypeError, ValueError):
            return None


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a folder in the block: nobody else begins or goes on with anything there.

    The operating system takes the lock back when its process ends, however it ends, so that nothing has to be
    tidied up after a kill. Not every file system keeps locks across machines: the note that a killed process
    of another machine left is therefore taken seriously.

    :param folder: the folder; a missing one is made.
    :raises ValueError: when another process owns it, or did so on another machine and was killed; names it,
        and says what to do.
    :raises OSError: when nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note, lock = folder / OWNER, FileLock(folder / LOCK, timeout=_PATIENCE_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(_whose(folder, Owner.read(note), in_the_way=[folder / LOCK, note])) from error
    try:
        before, here = Owner.read(note), Owner.here()
        if before is not None and before.host != here.host:
            raise ValueError(_whose(folder, before, in_the_way=[note]))
        note.write_text(json.dumps(here._asdict()))
        try:
            yield
        finally:
            note.unlink(missing_ok=True)
    finally:
        lock.release()


def _whose(folder: Path, owner: Owner | None, in_the_way: Sequence[Path]) -> str:
    """Say who works in a folder; on another machine, also what it leaves in the way when it is killed."""
    if owner is None:  # it has the lock, and is about to write its note
        return f"another process has just begun to work in {folder}: wait until it has ended"
    number = owner.process
    if owner.host == socket.gethostname():
        return f"process {number} works in {folder}: wait until it has ended, or stop it with kill {number}"
    return (
        f"process {number} on the machine {owner.host} works in {folder}: wait until it has ended, or stop it"
        f" there. If it runs no more, delete {' and '.join(map(str, in_the_way))}, and give the command again"
    )
