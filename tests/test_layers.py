"""Imports inside the package go down its layers, and importing the package stays light."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sb3_llmdpd"

ARCHITECTURE = ROOT / "docs" / "background" / "architecture.md"


def layers_of(page: str) -> dict[str, int]:
    """The layer of each module by its full name: the longest name that fits a module decides."""
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", page, flags=re.MULTILINE)
    return {
        f"sb3_llmdpd.{name}": int(number)
        for number, names in rows
        for name in re.findall(r"`([\w.]+)`", names)
    }


LAYERS = layers_of(ARCHITECTURE.read_text())
TOP = max(LAYERS.values())
MAY_BE_IMPORTED_AT_THE_BOTTOM = {"torch", "numpy", "gymnasium"} | sys.stdlib_module_names
HEAVY = (
    "transformers",
    "sentence_transformers",
    "metaworld",
    "mujoco",
    "minari",
    "matplotlib",
    "imageio",
    "pyarrow",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer(module: str) -> int:
    if module == PACKAGE.name:
        return TOP
    fitting = [prefix for prefix in LAYERS if f"{module}.".startswith(f"{prefix}.")]
    assert fitting, f"{module} has no layer: name it in the table of docs/background/architecture.md"
    return LAYERS[max(fitting, key=len)]


def imports(module: str, source: str, is_package: bool = False) -> Iterator[str]:
    """Everything that a source imports, at its top or inside a function, by absolute name."""
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
    upward = {
        name
        for name in imports_of(module)
        if name.split(".")[0] == PACKAGE.name and layer(name) > layer(module)
    }
    assert upward == set()


@pytest.mark.parametrize("module", [module for module in FILES if layer(module) == 0])
def test_the_bottom_layer_needs_torch_numpy_and_gymnasium_alone(module):
    others = (
        {name.split(".")[0] for name in imports_of(module)} - MAY_BE_IMPORTED_AT_THE_BOTTOM - {PACKAGE.name}
    )
    assert others == set()


def test_the_reader_of_imports_sees_every_way_of_writing_one():
    source = "\n".join(
        [
            "import sb3_llmdpd.envs.dataset_env as e",
            "from sb3_llmdpd.data import episodes",
            "from sb3_llmdpd.common.optional_imports import require",
            "from .episodes import Episode",
            "from .. import envs",
            "def f():",
            "    from sb3_llmdpd import LLMDPD",
        ]
    )
    assert list(imports("sb3_llmdpd.data.reader", source)) == [
        "sb3_llmdpd.envs.dataset_env",
        "sb3_llmdpd.data.episodes",
        "sb3_llmdpd.common.optional_imports",
        "sb3_llmdpd.data.episodes",
        "sb3_llmdpd.envs",
        "sb3_llmdpd",
    ]


def test_importing_the_package_or_the_tasks_of_metaworld_loads_no_heavy_module():
    code = (
        "import sys, sb3_llmdpd, sb3_llmdpd.data.metaworld;"
        f"print(sb3_llmdpd.LLMDPD.__name__, [name for name in {HEAVY} if name in sys.modules])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.stdout.strip() == "LLMDPD []", finished.stderr
