"""The installed package is the one of setup.cfg, constraints.txt and CHANGELOG.md."""

import ast
import configparser
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sb3_llmdpd

ROOT = Path(__file__).parents[1]
NAME = "sb3-llmdpd"
CHANGELOG, CONSTRAINTS = ((ROOT / name).read_text() for name in ("CHANGELOG.md", "constraints.txt"))
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS, flags=re.MULTILINE)
}


def requirements(name: str) -> list[Requirement]:
    return [Requirement(line) for line in metadata.requires(name) or []]


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Tell whether it is asked for on this platform, with these extras."""
    marker = requirement.marker
    return not marker or any(marker.evaluate({"extra": extra}) for extra in extras or {""})


def everything_pulled_in() -> set[str]:
    seen, left = set(), [(NAME, frozenset({"all"}))]
    while left:
        name, extras = left.pop()
        if (name, extras) in seen or name == "torch":  # what torch brings along differs between its builds
            continue
        seen.add((name, extras))
        needed = [each for each in requirements(name) if applies(each, extras)]
        left += [(canonicalize_name(each.name), frozenset(each.extras)) for each in needed]
    return {name for name, _ in seen} - {NAME}


def test_the_version_is_the_same_everywhere():
    newest = re.search(r"^## \[(.+?)\]", CHANGELOG, flags=re.MULTILINE)
    assert newest is not None
    assert metadata.version(NAME) == sb3_llmdpd.__version__ == newest[1]


def test_every_range_admits_the_version_that_is_tested():
    asked = [(canonicalize_name(each.name), each.specifier) for each in requirements(NAME)]
    assert [(name, range_) for name, range_ in asked if name in PINS and PINS[name] not in range_] == []
    # The tests stand a module of their own in the place of the trackers, which bring much along.
    assert {name for name, _ in asked} - set(PINS) == {NAME, "wandb", "trackio"}


def test_every_package_that_all_pulls_in_is_pinned():
    assert everything_pulled_in() - set(PINS) == set()


def test_nothing_is_pinned_that_is_not_pulled_in():
    of_torch = {canonicalize_name(each.name) for each in requirements("torch")} | {"torch", "mpmath"}
    assert set(PINS) - everything_pulled_in() - of_torch == set()


def test_every_folder_of_code_is_a_package():
    folders = {path.parent for path in (ROOT / "sb3_llmdpd").rglob("*.py")}
    assert [folder.name for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_every_public_name_is_found_and_listed_and_no_other():
    for name in sb3_llmdpd.__all__:
        value = getattr(sb3_llmdpd, name)
        assert name == "__version__" or value.__module__.startswith("sb3_llmdpd.")
    assert set(sb3_llmdpd.__all__) <= set(dir(sb3_llmdpd))
    with pytest.raises(AttributeError, match="has no attribute 'LLMDP'"):
        sb3_llmdpd.LLMDP  # noqa: B018 - that it is looked up is the test
    with pytest.raises(ImportError, match="cannot import name 'LLMDP'"):
        from sb3_llmdpd import LLMDP  # noqa: F401


def test_type_checkers_read_the_same_names_as_python():
    tree = ast.parse(Path(sb3_llmdpd.__file__).read_text())
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
    of_package = {
        (node.module, name.name)
        for node in imported
        if node.module and node.module.startswith("sb3_llmdpd.") and node.module != "sb3_llmdpd.version"
        for name in node.names
    }
    assert of_package == {(f"sb3_llmdpd.{module}", name) for name, module in sb3_llmdpd._MODULE_OF.items()}
    assert {name for _, name in of_package} | {"__version__"} == set(sb3_llmdpd.__all__)


def test_the_type_hints_are_shipped():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert "py.typed" in settings["options.package_data"]["*"]
    assert (Path(sb3_llmdpd.__file__).parent / "py.typed").is_file()


def test_the_command_is_installed():
    (command,) = metadata.entry_points(group="console_scripts", name=NAME)
    assert command.value == "sb3_llmdpd.cli:main"
    assert callable(command.load())
