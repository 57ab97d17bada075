"""The code in README and docs runs, and the commands there are ones that the command line knows.

A fenced block marked ``python`` runs, in the order of its page and in one namespace with the other blocks there. What a
page needs but a reader need not see stands in an HTML comment that opens with ``<!-- python``. A ``bash`` block's
``sb3-llmdpd`` commands are parsed; those of a block marked ``bash run`` are run as well.
"""

import contextlib
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.cli import app

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
FENCE = re.compile(
    r"^(?:```|<!-- )(python|bash run|bash)\n(.*?)^(?:```|-->)$", flags=re.MULTILINE | re.DOTALL
)
COMMAND = "sb3-llmdpd "


def blocks(page: str, *kinds: str) -> list[tuple[int, str]]:
    """The blocks of these kinds, each with the number of its first line."""
    text = PAGES[page]
    return [
        (text.count("\n", 0, found.start(2)), found[2]) for found in FENCE.finditer(text) if found[1] in kinds
    ]


def commands(*kinds: str) -> list[str]:
    lines = [
        line
        for page in PAGES
        for _, code in blocks(page, *kinds)
        for line in code.replace("\\\n", " ").splitlines()
    ]
    return [" ".join(line.split()) for line in lines if line.startswith(COMMAND)]


def parse(line: str) -> None:
    """Read a command down to the options of its last subcommand, and run nothing.

    :raises typer's usage error: when the command line would refuse it.
    """
    command, arguments = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
    context = None
    with contextlib.suppress(typer.Exit):  # --help ends the reading
        while True:
            context = command.make_context(command.name, arguments, parent=context)
            if not hasattr(command, "resolve_command"):
                return
            _, command, arguments = command.resolve_command(
                context, [*context._protected_args, *context.args]
            )


@pytest.fixture
def short_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages name the number of steps that a reader needs; two show that the code runs."""
    learn = LLMDPD.learn
    monkeypatch.setattr(LLMDPD, "learn", lambda self, total_timesteps, **kwargs: learn(self, 2, **kwargs))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
@pytest.mark.usefixtures("short_learning")
def test_the_python_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(page, "python"):
        # Blank lines in front make a traceback name the line of the page.
        exec(compile("\n" * line + code, ROOT / page, "exec"), namespace)


@pytest.mark.parametrize("line", sorted(set(commands("bash", "bash run"))))
def test_a_command_of_the_pages_is_known_to_the_command_line(line: str) -> None:
    parse(line)


@pytest.mark.parametrize("line", sorted(set(commands("bash run"))))
def test_a_command_that_a_page_marks_as_run_succeeds(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    assert result.exit_code == 0, result.output


def test_a_command_with_an_unknown_option_is_noticed() -> None:
    with pytest.raises(Exception, match="--no-such-option"):
        parse("sb3-llmdpd quickstart --no-such-option")
