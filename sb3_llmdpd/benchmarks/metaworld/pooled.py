"""Reads several grids with other hold-outs as one, in which each hold-out's training of a seed is a seed of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sb3_llmdpd.benchmarks.metaworld.results import GridResults

HOLD_OUT = ("split", "train_tasks", "unseen_tasks", "goal_known_tasks")
"""What the grids may differ in, of the settings."""


def pooled(grids: Sequence[GridResults]) -> GridResults:
    """One table of the rows and seeds that all of the grids have.

    A row trained with two seeds on each of three hold-outs has six trainings, which are numbered as its seeds, so that the
    mean over them is one over seeds and hold-outs, and its interval says how both differ. Rows of one training have played
    the same scenes, and of two the same numbers are the same seed and hold-out.

    :param grids: at least one, of the same settings but for `HOLD_OUT`.
    :return: of one grid, that grid itself. Otherwise ``settings["pooled"]`` has the settings of each that are its own, and
        ``unseen_tasks`` and ``train_tasks`` are those of any.
    :raises ValueError: when other settings or the definition of a row differ, two hold out the same tasks, or no row with a
        seed is in all of them.
    """
    first = grids[0]
    if len(grids) == 1:
        return first
    names = [name for name in first.variants if all(name in grid.variants for grid in grids)]
    for grid in grids[1:]:
        _check_same("setting", _shared(first), _shared(grid))
        _check_same("row", *({name: of.variants[name] for name in names} for of in (first, grid)))
    own = [{name: grid.settings[name] for name in HOLD_OUT} for grid in grids]
    if len({frozenset(of_grid["unseen_tasks"]) for of_grid in own}) < len(own):
        raise ValueError(
            f"two of the grids hold out the same tasks; their splits are {[of_grid['split'] for of_grid in own]}"
        )
    trainings = [{(cell.variant, cell.seed) for cell in grid.cells} for grid in grids]
    common = {training for training in set.intersection(*trainings) if training[0] in names}
    if not common:
        found = "; ".join(
            sorted({f"{name} with seed {seed}" for of_grid in trainings for name, seed in of_grid})
        )
        raise ValueError(
            f"the grids have no row of the same seed in common, which is what can be read together: {found}"
        )
    cells = [
        replace(cell, seed=cell.seed * len(grids) + number)
        for number, grid in enumerate(grids)
        for cell in grid.cells
        if (cell.variant, cell.seed) in common
    ]
    joint = {
        name: list(dict.fromkeys(task for of_grid in own for task in of_grid[name])) for name in HOLD_OUT[1:]
    }
    settings = {
        **first.settings,
        **joint,
        "split": ", ".join(str(of_grid["split"]) for of_grid in own),
        "pooled": own,
    }
    played = {name for name, _ in common}
    variants = {name: first.variants[name] for name in names if name in played}
    return replace(first, settings=settings, variants=variants, cells=tuple(cells))


def _shared(grid: GridResults) -> dict[str, Any]:
    if "pooled" in grid.settings:
        raise ValueError(
            "a report of several grids is read together with no other: give the folders of all of its grids"
        )
    return {name: value for name, value in grid.settings.items() if name not in HOLD_OUT}


def _check_same(what: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            raise ValueError(
                f"grids are read together where they differ in their hold-outs alone, and the {what} {name!r} of one is"
                f" {one.get(name)!r} and of another {other.get(name)!r}"
            )
