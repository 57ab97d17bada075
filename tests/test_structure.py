"""The shape of the code: imports go down, one class is one class, and a call enters few files."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path

import pytest
from files_entered import MOST, PACKAGE, calls
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_llmdpd import LLMDPD

ROOT = Path(__file__).parents[1]
ARCHITECTURE = ROOT / "docs" / "background" / "architecture.md"
FLAT = {
    "version",
    "presets",
    "type_aliases",
    "zoo",
    "__main__",
    "buffers",
    "callbacks",
    "recording",
    "trackers",
    "wrappers",
}
"""Modules at the root of the package; the last five are aliases of public paths."""

AT_THE_BOTTOM = {"torch", "numpy", "gymnasium", PACKAGE.name} | sys.stdlib_module_names
SIMULATORS = ["metaworld", "mujoco", "minari"]
HEAVY = ["transformers", "sentence_transformers", *SIMULATORS, "matplotlib", "imageio", "pyarrow"]


def layers_of(page: str) -> dict[str, int]:
    """Read the layer of each module by its full name: the longest name that fits a module decides."""
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", page, flags=re.MULTILINE)
    names = [(name, int(number)) for number, cell in rows for name in re.findall(r"`([\w.]+)`", cell)]
    return {f"{PACKAGE.name}.{name}": number for name, number in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


LAYERS = layers_of(ARCHITECTURE.read_text())
FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer(module: str) -> int:
    if module == PACKAGE.name:
        return max(LAYERS.values())
    fitting = [prefix for prefix in LAYERS if f"{module}.".startswith(f"{prefix}.")]
    assert fitting, f"{module} has no layer: name it in the table of {ARCHITECTURE.relative_to(ROOT)}"
    return LAYERS[max(fitting, key=len)]


def imports(module: str, source: str, is_package: bool = False) -> Iterator[str]:
    """Name everything that a source imports, at its top or inside a function, absolutely."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            anchor = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*anchor, *([node.module] if node.module else [])])
            submodules = [f"{origin}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else origin for name in submodules)


def imports_of(module: str) -> set[str]:
    path = FILES[module]
    return set(imports(module, path.read_text(), is_package=path.name == "__init__.py"))


@pytest.mark.parametrize("module", FILES)
def test_no_module_imports_from_a_layer_above_its_own(module):
    inside = {name for name in imports_of(module) if name.split(".")[0] == PACKAGE.name}
    assert {name for name in inside if layer(name) > layer(module)} == set()


@pytest.mark.parametrize("module", [module for module in FILES if layer(module) == 0])
def test_the_bottom_layer_needs_torch_numpy_and_gymnasium_alone(module):
    assert {name.split(".")[0] for name in imports_of(module)} - AT_THE_BOTTOM == set()


def test_the_reader_of_imports_sees_every_way_of_writing_one():
    expected = {
        "import sb3_llmdpd.envs.dataset_env as e": "sb3_llmdpd.envs.dataset_env",
        "from sb3_llmdpd.data import episodes": "sb3_llmdpd.data.episodes",
        "from sb3_llmdpd.common.optional import require": "sb3_llmdpd.common.optional",
        "from .episodes import Episode": "sb3_llmdpd.data.episodes",
        "from .. import envs": "sb3_llmdpd.envs",
        "def f():\n    from sb3_llmdpd import LLMDPD": "sb3_llmdpd",
    }
    assert list(imports("sb3_llmdpd.data.reader", "\n".join(expected))) == list(expected.values())


def test_importing_the_package_or_the_tasks_of_metaworld_loads_no_heavy_module():
    code = (
        "import sys, sb3_llmdpd, sb3_llmdpd.data.metaworld;"
        f"print(sb3_llmdpd.LLMDPD.__name__, [name for name in {HEAVY} if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert finished.stdout.strip() == "LLMDPD []", finished.stderr


def classes() -> list[type]:
    """List the classes of the package."""
    modules = [importlib.import_module(name) for name in FILES if not name.endswith("__main__")]
    values = [value for module in modules for value in vars(module).values() if inspect.isclass(value)]
    return list(dict.fromkeys(cls for cls in values if cls.__module__.startswith(f"{PACKAGE.name}.")))


@cache
def tree_of(cls: type) -> ast.ClassDef:
    node = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls))).body[0]
    assert isinstance(node, ast.ClassDef)
    return node


def names_in(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def parts_of(cls: type, known: list[type]) -> set[type]:
    """Find the classes of the package whose instances a class keeps: annotated, or made and assigned."""
    by_name, tree, kept = {each.__name__: each for each in known}, tree_of(cls), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            on_self = any("self" in names_in(target) for target in targets)
            if on_self or (isinstance(node, ast.AnnAssign) and node in tree.body):
                kept |= names_in(node)
    inits = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    annotated = [each for init in inits for each in init.args.args if each.annotation is not None]
    kept |= {name for each in annotated if each.arg in kept for name in names_in(each.annotation)}
    return {by_name[name] for name in kept if name in by_name} - {cls}


def test_between_llmdpd_and_sb3s_base_stands_no_class():
    assert LLMDPD.__bases__ == (OffPolicyAlgorithm,)


def test_no_class_declares_a_method_of_another_parent_of_its_subclass():
    known = [cls for cls in classes() if not is_dataclass(cls) and not issubclass(cls, tuple)]
    methods = {(cls, name) for cls in known for name, value in vars(cls).items() if inspect.isfunction(value)}
    declared = [
        f"{cls.__qualname__}.{node.target.id}"
        for cls in known
        for node in tree_of(cls).body
        if isinstance(node, ast.AnnAssign) and node.value is None and isinstance(node.target, ast.Name)
        for other, name in methods
        if name == node.target.id and other is not cls
        if any({cls, other} <= set(both.__mro__) for both in known)
    ]
    assert declared == []


def test_no_two_classes_keep_each_other():
    """Circles of attributes are as bad as those of imports, and no import shows them."""
    known = classes()
    parts = {cls: parts_of(cls, known) for cls in known}

    def reach(cls: type, seen: set[type]) -> set[type]:
        for part in parts[cls] - seen:
            seen.add(part)
            reach(part, seen)
        return seen

    assert {cls.__name__ for cls in known if cls in reach(cls, set())} == set()


def test_the_root_of_the_package_holds_few_modules():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == FLAT


@pytest.fixture(scope="module")
def entered() -> dict[str, list[str]]:
    return calls()


@pytest.mark.parametrize("call", MOST)
def test_a_reader_enters_few_files_to_follow_a_call(call, entered):
    assert len(entered[call]) <= MOST[call], entered[call]
