"""Imports of packages that only an extra installs."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import a module at the moment it is needed.

    :param module: dotted name of the module, e.g. ``"metaworld"``.
    :param extra: extra of ``sb3-llmdpd`` that installs it, e.g. ``"metaworld"``.
    :return: the imported module.
    :raises ImportError: when it is not installed; the message holds the pip command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"`{module}` is needed here and cannot be imported ({error})."
            f" Install it: pip install 'sb3-llmdpd[{extra}]'"
        ) from error
