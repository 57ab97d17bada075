"""Fills the tables of the reference pages from the code: the commands and the settings.

A comment of a page says where: ``<!-- generated: commands -->``, ``<!-- generated: settings -->``.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer
from sphinx.application import Sphinx

from sb3_llmdpd import LLMDPD, LLMDPDPolicy
from sb3_llmdpd.cli import app as command_line
from sb3_llmdpd.cli.model_options import accepted, parameter_docs

NO_SETTINGS = (
    "_init_setup_model",
    "observation_space",
    "action_space",
    "lr_schedule",
    "critic_lr_schedule",
)
ESCAPED = {"<": "&lt;", "*": r"\*", "$": r"\$"}
PLACES = {LLMDPD: "`LLMDPD`", LLMDPDPolicy: "`policy_kwargs`"}


def commands() -> str:
    """Write a section for each command: its purpose and a table of its options."""
    group: Any = typer.main.get_command(command_line)
    imported = (group.imported(name) for name in group.commands)
    return "\n\n".join(
        section for command in imported for section in _sections(command, "sb3-llmdpd")
    )


def _sections(command: Any, above: str) -> Iterator[str]:
    name = f"{above} {command.name}"
    if hasattr(command, "commands"):
        for child in command.commands.values():
            yield from _sections(child, name)
        return
    rows = [_option_row(parameter) for parameter in command.params]
    table = ["| option | default | meaning |", "|---|---|---|", *rows]
    yield "\n".join([f"## {name}", "", inspect.cleandoc(command.help or ""), "", *table])


def _option_row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    name = (parameter.metavar or parameter.name) if is_argument else parameter.opts[0]
    default = "required" if parameter.required else _shown(parameter.default)
    if default in ("`True`", "`False`"):
        default = "on" if parameter.default else "off"
    return f"| `{name}` | {default} | {_in_a_cell(parameter.help or '')} |"


def settings() -> str:
    """Write the table of all constructor arguments: default, range and meaning."""
    rows = [row for made in PLACES for row in _setting_rows(made)]
    head = ["| setting | of | default | range | meaning |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _setting_rows(made: type) -> Iterator[str]:
    meanings = parameter_docs(made)
    for name, parameter in inspect.signature(made).parameters.items():
        if name not in NO_SETTINGS:
            cells = (
                f"`{name}`",
                PLACES[made],
                _shown(parameter.default),
                accepted(name, parameter),
                meanings[name],
            )
            yield f"| {' | '.join(_in_a_cell(cell) for cell in cells)} |"


def _shown(default: Any) -> str:
    """Write a default for a table: nothing where there is none."""
    if default is None or default is inspect.Parameter.empty or default is ...:
        return ""
    return f"`{getattr(default, '__name__', default)}`"


def _in_a_cell(text: str) -> str:
    """Turn the markup of a docstring into Markdown that fits a cell of a table."""
    text = " ".join(text.replace("``", "`").split()).replace("|", r"\|")
    # Outside of code, `<` would begin an HTML tag, `*` emphasis and `$` mathematics.
    text = re.sub(r"(`[^`]*`)|<|\*|\$", lambda found: found[1] or ESCAPED[found[0]], text)
    return re.sub(r"(?<!<)https?://[^\s),;]+", lambda found: f"<{found[0]}>", text)


FILLED = {"commands": commands, "settings": settings}


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the comments of a page by what they name.

    :param app: Sphinx
    :param page: name of the page
    :param source: its text, as a list of one
    """
    for name, write in FILLED.items():
        comment = f"<!-- generated: {name} -->"
        if comment in source[0]:
            source[0] = source[0].replace(comment, write())


def setup(app: Sphinx) -> None:
    """Register the extension."""
    app.connect("source-read", fill)
