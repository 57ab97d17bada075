"""The code in README and docs runs, and the commands there are ones that the command line knows.

A fenced block marked ``python`` runs, in the order of its page and in one namespace with the other blocks
there. Code that a page needs but a reader need not see stands in an HTML comment that opens with
``<!-- python``. The ``sb3-llmdpd`` commands of a ``bash`` block are parsed; those of a block marked
``bash run`` are run as well, and all commands of the blocks marked ``bash in turn`` are run one after the
other. A ``code-block`` with a caption is a file of that name, which is there for the commands of its page.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.cli import app

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
FENCE = re.compile(
    r"^(?:```|<!-- )(python|bash run|bash in turn|bash)\n(.*?)^(?:```|-->)$", flags=re.MULTILINE | re.DOTALL
)
SHOWN_FILE = re.compile(
    r"^```\{code-block\} \w+\n:caption: (\S+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL
)
COMMAND = "sb3-llmdpd "
WITHOUT_METAWORLD = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec


def find_others(name, *where):
    return None if name.partition(".")[0] in ("metaworld", "mujoco") else find(name, *where)


PathFinder.find_spec = find_others
"""
"""A ``sitecustomize.py`` with which Python finds no Meta-World."""


def blocks(page: str, *kinds: str) -> list[tuple[int, str]]:
    """List the blocks of these kinds, each with the number of its first line."""
    text = PAGES[page]
    return [
        (text.count("\n", 0, found.start(2)), found[2]) for found in FENCE.finditer(text) if found[1] in kinds
    ]


def lines(code: str) -> list[str]:
    """Join what a backslash continues."""
    return code.replace("\\\n", " ").splitlines()


def commands(*kinds: str) -> list[tuple[str, str]]:
    """List the commands in blocks of these kinds, each once and with a page that shows it."""
    pages = {
        " ".join(line.split()): page
        for page in PAGES
        for _, code in blocks(page, *kinds)
        for line in lines(code)
        if line.startswith(COMMAND)
    }
    return [(page, line) for line, page in sorted(pages.items())]


def parse(line: str) -> None:
    """Read a command down to the options of its last subcommand, and run nothing.

    :raises typer's usage error: when the command line would refuse it.
    """
    command: Any = typer.main.get_command(app)
    arguments = [*takewhile(lambda word: word != ">", shlex.split(line, comments=True)[1:])]
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
def beside_the_files_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to an empty folder that holds what the page shows as files."""
    monkeypatch.chdir(tmp_path)
    for found in SHOWN_FILE.finditer(PAGES[page]):
        Path(found[1]).write_text(found[2])


@pytest.fixture
def short_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take two steps where a page names the number that a reader needs: they show that the code runs."""
    learn = LLMDPD.learn
    monkeypatch.setattr(LLMDPD, "learn", lambda self, total_timesteps, **kwargs: learn(self, 2, **kwargs))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
@pytest.mark.usefixtures("short_learning", "beside_the_files_of_a_page")
def test_the_python_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(page, "python"):
        # Blank lines in front make a traceback name the line of the page.
        exec(compile("\n" * line + code, ROOT / page, "exec"), namespace)


@pytest.mark.parametrize(("page", "line"), commands("bash", "bash run", "bash in turn"))
@pytest.mark.usefixtures("beside_the_files_of_a_page")
def test_a_command_of_the_pages_is_known_to_the_command_line(page: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize(("page", "line"), commands("bash run"))
@pytest.mark.usefixtures("beside_the_files_of_a_page")
def test_a_command_that_a_page_marks_as_run_succeeds(page: str, line: str) -> None:
    result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash in turn")])
@pytest.mark.usefixtures("beside_the_files_of_a_page")
def test_the_commands_of_a_page_succeed_in_turn_without_metaworld(page: str, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(WITHOUT_METAWORLD)
    path = os.pathsep.join([str(hidden), str(ROOT)])
    programs = {"python": [sys.executable], "sb3-llmdpd": [sys.executable, "-m", "sb3_llmdpd"]}
    printed = ""
    for _, code in blocks(page, "bash in turn"):
        for line in lines(code):
            program, *arguments = shlex.split(line)
            ended = subprocess.run(
                [*programs[program], *arguments],
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            assert ended.returncode == 0, f"{line}\n{ended.stdout}{ended.stderr}"
            printed = ended.stdout
    assert printed.startswith("pressed after")  # the policy that was exported does the task


def test_a_command_with_an_unknown_option_is_noticed() -> None:
    with pytest.raises(Exception, match="--no-such-option"):
        parse("sb3-llmdpd quickstart --no-such-option")
