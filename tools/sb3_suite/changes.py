"""Changes test files in named places, and knows which tests an algorithm takes part in."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

ALGORITHMS = ("TD3", "SAC", "DDPG", "A2C", "PPO", "DQN")
"""SB3's algorithms, from the one that LLMDPD is most like to the least."""

Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Change:
    """A substitution in a test, with its reason.

    :param where: file and function or class, as in ``"test_run.py::test_dqn"``; a file alone for all of it;
        ``"*"`` for every file.
    :param old: regular expression.
    :param new: text in its place; None leaves out each statement in which it is found.
    :param reason: difference of LLMDPD, to be read after the name of the test.
    """

    where: str
    old: str
    new: str | None
    reason: str

    def concerns(self, file: str) -> bool:
        """Tell whether there is something to change in a file."""
        return self.where == "*" or self.where.partition("::")[0] == file


def changed(source: str, file: str, changes: Sequence[Change]) -> str:
    """Change a test file.

    :param source: content of the file
    :param file: name of the file
    :param changes: changes of this and other files, made one after the other
    :return: the changed content
    :raises ValueError: when a change of this file finds nothing: then the test is no longer the one it is for
    """
    for change in changes:
        if not change.concerns(file):
            continue
        name = change.where.partition("::")[2]
        first, last = _lines_of(source, name) if name else (0, len(source.splitlines()))
        lines = source.splitlines(keepends=True)
        part = "".join(lines[first:last])
        made = (
            _without(part, change.old)
            if change.new is None
            else re.sub(change.old, change.new, part, flags=re.M)
        )
        if made == part and change.where != "*":
            raise ValueError(f"{change.where} has no {change.old!r}: see what became of the test")
        source = "".join(lines[:first]) + made + "".join(lines[last:])
    return source


def _lines_of(source: str, name: str) -> tuple[int, int]:
    """Find the lines of a function or class, with its decorators: from one up to another, counted from 0."""
    for node in ast.parse(source).body:
        if isinstance(node, Definition) and node.name == name:
            assert node.end_lineno is not None
            return min(each.lineno for each in [node, *node.decorator_list]) - 1, node.end_lineno
    raise ValueError(f"there is no {name}: see what became of it")


def _without(part: str, old: str) -> str:
    """Leave out the innermost statements in which something is found; a ``with`` left empty goes along."""
    lines = part.splitlines(keepends=True)
    (outermost,) = ast.parse(part).body
    for node in reversed(list(_found(outermost, part, old))):  # so that the numbers of earlier lines stay
        indent = "".join(takewhile(str.isspace, lines[node.lineno - 1]))
        lines[node.lineno - 1 : node.end_lineno] = [f"{indent}pass\n"]
    return "".join(lines)


def _found(node: ast.stmt, part: str, old: str) -> Iterator[ast.stmt]:
    for child in (each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)):
        if not re.search(old, ast.get_source_segment(part, child) or ""):
            continue
        inner = list(_found(child, part, old))
        yield from [child] if isinstance(child, ast.With) and inner == child.body else inner or [child]


def algorithm_tests(source: str) -> list[str]:
    """Name the test functions in which one of `ALGORITHMS` takes part, itself or through what they use."""
    used: dict[str, set[str]] = {}
    tests = []
    for node in ast.parse(source).body:
        names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        names |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
        names |= {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
        if isinstance(node, Definition):
            used[node.name] = names
            tests += [node.name] if node.name.startswith("test_") else []
        elif isinstance(node, ast.Assign):
            used |= {target.id: names for target in node.targets if isinstance(target, ast.Name)}
    return [name for name in tests if _reached(name, used) & {*ALGORITHMS}]


def _reached(name: str, used: dict[str, set[str]]) -> set[str]:
    reached, new = set(), {name}
    while new:
        reached |= new
        new = {other for each in new for other in used.get(each, ())} - reached
    return reached
