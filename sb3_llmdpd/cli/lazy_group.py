"""`LazyGroup`, a group of commands whose modules are imported when one of them is called."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


class LazyGroup(TyperGroup):
    """A group that knows the lines of its own help, and imports a command when it is called.

    Importing all commands takes seconds, since torch is among what they need.
    """

    lines: ClassVar[Mapping[str, str]] = {}
    """Line of help of each command by its name, in the order of the help. A subclass says them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=line) for name, line in self.lines.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names, and import it."""
        name, _, rest = super().resolve_command(ctx, args)
        assert name is not None  # an unknown one was refused
        return name, self.imported(name), rest

    def imported(self, name: str) -> Any:
        """Import a command.

        The module ``sb3_llmdpd.cli.<name>`` has either an ``app``, for a group, or a function of its name.

        :param name: key of ``lines``.
        :return: the command, as typer makes it.
        """
        module = import_module(f"{__package__}.{name}")
        both = typer.Typer()
        if hasattr(module, "app"):
            both.add_typer(module.app, name=name)
        else:
            both.command(name)(getattr(module, name))
            both.callback()(lambda: None)  # a single command would take the group's place
        return typer.main.get_group(both).commands[name]
