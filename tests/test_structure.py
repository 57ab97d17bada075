"""The shape of the code: one class is one class, none leans on another's parts, calls enter few files."""

import ast
import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass
from functools import cache

import pytest
from files_entered import MOST, calls
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

import sb3_llmdpd
from sb3_llmdpd import LLMDPD

FLAT = {"version", "type_aliases", "zoo", "__main__", "buffers", "callbacks", "recording", "wrappers"}
"""Modules at the root of the package; the last four are aliases of public paths."""


def modules() -> list[str]:
    found = pkgutil.walk_packages(sb3_llmdpd.__path__, "sb3_llmdpd.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def classes() -> dict[str, type]:
    """Every class of the package by its qualified name."""
    found = {}
    for name in modules():
        for value in vars(importlib.import_module(name)).values():
            if inspect.isclass(value) and value.__module__.startswith("sb3_llmdpd."):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


@cache
def tree_of(cls: type) -> ast.ClassDef:
    node = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls))).body[0]
    assert isinstance(node, ast.ClassDef)
    return node


def parts_of(cls: type, known: dict[str, type]) -> set[type]:
    """Classes of the package whose instances a class keeps: annotated, or made and assigned."""
    by_name = {each.__name__: each for each in known.values()}
    tree, kept = tree_of(cls), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            on_self = any(
                isinstance(part, ast.Attribute)
                and isinstance(part.value, ast.Name)
                and part.value.id == "self"
                for target in targets
                for part in ast.walk(target)
            )
            if on_self or (isinstance(node, ast.AnnAssign) and node in tree.body):
                kept |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    init = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    for argument in init.args.args if init is not None else []:
        if argument.annotation is not None and argument.arg in kept:
            kept |= {part.id for part in ast.walk(argument.annotation) if isinstance(part, ast.Name)}
    return {by_name[name] for name in kept if name in by_name} - {cls}


def test_between_llmdpd_and_sb3s_base_stands_no_class():
    assert LLMDPD.__bases__ == (OffPolicyAlgorithm,)


def test_no_class_declares_a_method_of_another_parent_of_its_subclass():
    known = [cls for cls in classes().values() if not is_dataclass(cls) and not issubclass(cls, tuple)]
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
    parts = {cls: parts_of(cls, known) for cls in known.values()}

    def reached(start: type) -> set[type]:
        seen: set[type] = set()
        left = list(parts[start])
        while left:
            cls = left.pop()
            if cls not in seen:
                seen.add(cls)
                left += parts[cls]
        return seen

    assert {cls.__name__ for cls in parts if cls in reached(cls)} == set()


def test_the_root_of_the_package_holds_few_modules():
    flat = {module.name for module in pkgutil.iter_modules(sb3_llmdpd.__path__) if not module.ispkg}
    assert flat == FLAT


@pytest.fixture(scope="module")
def entered() -> dict[str, list[str]]:
    return calls()


@pytest.mark.parametrize("call", MOST)
def test_a_reader_enters_few_files_to_follow_a_call(call, entered):
    assert len(entered[call]) <= MOST[call], entered[call]
