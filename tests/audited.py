"""The files, folders, modules, sockets and processes that a call touches, by Python's audit hook.

Counted is every event, except for those of objects in memory, those within an import, of which the name alone
counts, and the reading of source for the lines of a traceback, which PyTorch keeps where it seeds a GPU.
"""

import linecache
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_IN_MEMORY = ("array.__new__", "builtins.id", "code.__new__", "object.__delattr__", "object.__getattr__")
_IN_MEMORY += ("object.__setattr__", "sys._getframe", "sys._getframemodulename")

_ASIDE = ("<frozen importlib._bootstrap>", linecache.__file__)
"""Code within which no event counts."""

_events: list[tuple[str, str]] | None = None


def events_of(call: Callable[[], Any]) -> list[tuple[str, str]]:
    """List the events of a call that ends well or with a ValueError: name and first argument of each."""
    global _events  # a hook stays for as long as the process lives, so that it must know when to listen
    _events = []
    try:
        call()
    except ValueError:
        pass
    finally:
        events, _events = _events, None
    return events


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is not None and event not in _IN_MEMORY and not _is_aside(sys._getframe(1)):
        _events.append((event, str(arguments[0]) if arguments else ""))


def _is_aside(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in _ASIDE:
            return True
        frame = frame.f_back
    return False


sys.addaudithook(_note)
