"""Messages to a user name options that exist, and after a command those of the command."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import sb3_llmdpd
from sb3_llmdpd.cli import app

PACKAGE = Path(sb3_llmdpd.__file__).parent
OF_OTHER_PROGRAMS = {"--upgrade": "pip", "--repo-type": "hf", "--local-dir": "hf"}
"""Options in commands that messages quote."""


def options_of(command: Any) -> set[str]:
    """Collect the options of a command and of all below it."""
    below = getattr(command, "commands", {}).values()
    own = {"--help", *(name for option in command.params for name in option.opts + option.secondary_opts)}
    return own.union(*map(options_of, below))


APP: Any = typer.main.get_command(app)
OPTIONS = {name: options_of(APP.imported(name)) for name in APP.commands}
OPTIONS[""] = options_of(APP).union(*OPTIONS.values())
"""Options by command; of all commands by the empty name."""


def texts(source: str) -> Iterator[str]:
    """Read the strings of a module, without docstrings."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def named(source: str) -> set[tuple[str, str]]:
    """Collect the options that the strings of a module name, each with the command before it, if any."""
    found = set()
    for text in texts(source):
        command = ""
        for word in re.finditer(r"sb3-llmdpd ([a-z]+)|(?<![\w-])(--[a-z][a-z-]*)", text):
            command = word[1] or command
            if word[2] is not None and word[2] not in OF_OTHER_PROGRAMS:
                found.add((command, word[2]))
    return found


NAMED = {
    str(path.relative_to(PACKAGE)): found
    for path in sorted(PACKAGE.rglob("*.py"))
    if (found := named(path.read_text()))
}


@pytest.mark.parametrize("module", NAMED)
def test_the_options_that_a_module_names_exist(module: str) -> None:
    # What stands in the module of a command, and after no command, is said by that command.
    folder, _, name = module.removesuffix(".py").rpartition("/")
    own = name if folder == "cli" and name in OPTIONS else ""
    assert [
        (command, option) for command, option in NAMED[module] if option not in OPTIONS[command or own]
    ] == []


def test_an_option_that_a_message_names_is_noticed() -> None:
    docstrings = '"""Say --no."""\nx = 1\n"""Nor --this."""\n'
    message = 'raise ValueError(f"give --force-it to {x}-- or: sb3-llmdpd train --sooner --upgrade")\n'
    assert named(docstrings + message) == {("", "--force-it"), ("train", "--sooner")}
