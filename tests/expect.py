"""The errors and warnings that tests expect, in few words."""

from contextlib import AbstractContextManager
from typing import Any

import pytest


def refused(message: str, error: type[Exception] = ValueError) -> AbstractContextManager[Any]:
    """Expect an error whose message matches a regular expression."""
    return pytest.raises(error, match=message)


def warned(message: str) -> AbstractContextManager[Any]:
    """Expect a warning for the user whose message matches a regular expression."""
    return pytest.warns(UserWarning, match=message)
