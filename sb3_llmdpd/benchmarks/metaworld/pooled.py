"""Reads several benchmarks with other hold-outs as one, in which each training is a seed of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sb3_llmdpd.benchmarks.metaworld.results import GridResults

HOLD_OUT = ("split", "train_tasks", "unseen_tasks", "goal_known_tasks")
"""Settings that the benchmarks may differ in."""


def pooled(grids: Sequence[GridResults]) -> GridResults:
    """Put together the variants and seeds that all of the results have.

    A variant trained with two seeds on each of three hold-outs has six trainings, numbered as its seeds: the
    mean over them is one over seeds and hold-outs, and its interval says how both differ. Rows of one
    training have played the same scenes; in two variants, the same number is the same seed and hold-out.

    :param grids: results of at least one benchmark, of the same settings but for `HOLD_OUT`.
    :return: of one benchmark, its own results. Otherwise ``settings["pooled"]`` has the settings that are
        each one's own, and ``unseen_tasks`` and ``train_tasks`` are those of any.
    :raises ValueError: when other settings or the definition of a variant differ, two hold out the same
        tasks, or no variant with a seed is in all of them.
    """
    first = grids[0]
    if len(grids) == 1:
        return first
    names = [name for name in first.variants if all(name in grid.variants for grid in grids)]
    for grid in grids[1:]:
        _check_same("setting", _shared(first), _shared(grid))
        of_both = ({name: of.variants[name] for name in names} for of in (first, grid))
        _check_same("variant", *of_both)
    own = [{name: grid.settings[name] for name in HOLD_OUT} for grid in grids]
    if len({frozenset(hold_out["unseen_tasks"]) for hold_out in own}) < len(own):
        splits = [hold_out["split"] for hold_out in own]
        raise ValueError(f"two of the benchmarks hold out the same tasks; their splits are {splits}")
    common = _common_trainings(grids, names)
    cells = [
        replace(cell, seed=cell.seed * len(grids) + number)
        for number, grid in enumerate(grids)
        for cell in grid.cells
        if cell.training in common
    ]
    tasks = {
        name: list(dict.fromkeys(task for hold_out in own for task in hold_out[name]))
        for name in HOLD_OUT[1:]
    }
    split = ", ".join(str(hold_out["split"]) for hold_out in own)
    played = {variant for variant, _ in common}
    return replace(
        first,
        settings={**first.settings, **tasks, "split": split, "pooled": own},
        variants={name: first.variants[name] for name in names if name in played},
        cells=tuple(cells),
    )


def _common_trainings(grids: Sequence[GridResults], names: Sequence[str]) -> set[tuple[str, int]]:
    """Find variant and seed of the trainings that are in all of the results."""
    trainings = [{cell.training for cell in grid.cells} for grid in grids]
    common = {training for training in set.intersection(*trainings) if training[0] in names}
    if not common:
        found = "; ".join(sorted({f"{name} with seed {seed}" for name, seed in set.union(*trainings)}))
        raise ValueError(
            "the benchmarks have no variant of the same seed in common, which is what can be read together:"
            f" {found}"
        )
    return common


def _shared(grid: GridResults) -> dict[str, Any]:
    if "pooled" in grid.settings:
        raise ValueError(
            "a report of several benchmarks is read together with no other: give the folders of all of them"
        )
    return {name: value for name, value in grid.settings.items() if name not in HOLD_OUT}


def _check_same(what: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            raise ValueError(
                "benchmarks are read together where they differ in their hold-outs alone, and the"
                f" {what} {name!r} of one is {one.get(name)!r} and of another {other.get(name)!r}"
            )
