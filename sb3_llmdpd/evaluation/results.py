"""The one format of ``results.json``: an envelope for every kind of results, and an evaluation in it."""

import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.conditions import Condition
from sb3_llmdpd.evaluation.metaworld_suite import METAWORLD_SUITE
from sb3_llmdpd.evaluation.phases import Phases
from sb3_llmdpd.evaluation.report import summarise
from sb3_llmdpd.evaluation.statistics import success_rate
from sb3_llmdpd.evaluation.tasks import CellResult

Made = TypeVar("Made")

RESULTS = "results.json"
"""Name of the file in its folder."""
FORMAT_VERSION = 3
EVALUATION, METAWORLD, D4RL, VALIDATION = "evaluation", "metaworld", "d4rl", "validation"
ENTRIES = {EVALUATION: "cells", METAWORLD: "cells", D4RL: "points", VALIDATION: "episodes"}
"""Key of a file's long list by the kind of results; each entry stands on a line of its own."""

_KINDS: dict[tuple[int, str | None], str] = {
    (1, None): EVALUATION,
    (2, None): METAWORLD,
    (1, "d4rl"): D4RL,
    **{(FORMAT_VERSION, kind): kind for kind in ENTRIES},
}
"""Kinds by ``format_version`` and name; before version 3 D4RL's files alone had one, in ``benchmark``."""

PACKAGES = ("sb3-llmdpd", "torch", "stable-baselines3", "gymnasium", "numpy", "metaworld", "mujoco")
"""Packages whose versions are written beside the results."""


def write_envelope(
    path: str | Path, kind: str, head: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]
) -> None:
    """Write results of any kind, whole or not at all.

    The file is one JSON object: ``kind``, ``format_version``, ``created`` (UTC), ``versions`` of Python and
    the packages, the keys of ``head``, and last the entries under the key that `ENTRIES` has for the kind.

    :param path: the file.
    :param kind: key of `ENTRIES`.
    :param head: JSON values, ``settings`` among them; its ``versions``, if any, replace those of now.
    :param entries: JSON values, written one a line.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    known = {"kind": kind, "format_version": FORMAT_VERSION, "created": created, "versions": versions()}
    lines = ",\n  ".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    with whole_file(path) as temporary:
        opened = json.dumps({**known, **head}, indent=1)[:-2]
        temporary.write_text(f'{opened},\n "{ENTRIES[kind]}": [\n  {lines}\n ]\n}}\n')


def read_envelope(path: str | Path, kind: str, build: Callable[[dict[str, Any]], Made]) -> Made:
    """Read results of one kind, in the format of any version.

    :param path: the file.
    :param kind: kind of results that is needed.
    :param build: makes the results from the object without ``kind``, ``format_version`` and ``created``.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when it is damaged, or of another kind or an unknown format version.
    """
    found, document = _opened(path)
    if found != kind:
        raise ValueError(f"{path} does not hold results of kind {kind!r}, but of {found!r}")
    try:
        return build(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def kind_of(path: str | Path) -> str:
    """Tell what kind of results a file holds, by a key of `ENTRIES`; raises as `read_envelope` does."""
    return _opened(path)[0]


def settings_of(path: str | Path) -> dict[str, Any]:
    """Read the settings of results of any kind; raises as `read_envelope` does."""
    return _opened(path)[1].get("settings", {})


def write_results(path: str | Path, results: Sequence[CellResult], settings: Mapping[str, Any]) -> None:
    """Write the results of an evaluation, whole or not at all; see `write_envelope`.

    ``cells`` have the fields of `CellResult`, lists with an entry for each episode, and ``success_rate``;
    ``groups`` have the fields of `GroupSummary`. Estimates have ``value``, ``low`` and ``high`` (95%).

    :param path: the file.
    :param results: results of `evaluate_tasks`.
    :param settings: all that is needed to do it again; classes become their names.
    """
    groups = [asdict(summary) for summary in summarise(results)]
    _write_cells(path, results, {"settings": to_json(settings), "groups": groups})


def write_unfinished(path: str | Path, results: Sequence[CellResult], settings: Mapping[str, Any]) -> None:
    """Write the cells that an evaluation has finished so far, as `write_results` does, without groups."""
    _write_cells(path, results, {"settings": to_json(settings)})


def _write_cells(path: str | Path, results: Sequence[CellResult], head: Mapping[str, Any]) -> None:
    rates = (asdict(success_rate(result.successes)) for result in results)
    cells = ({**asdict(result), "success_rate": rate} for result, rate in zip(results, rates, strict=True))
    write_envelope(path, EVALUATION, head, cells)


def read_results(path: str | Path) -> tuple[list[CellResult], dict[str, Any]]:
    """Read results and settings that `write_results` wrote; see `read_envelope`."""
    return read_envelope(
        path, EVALUATION, lambda read: ([_result_of(cell) for cell in read["cells"]], read["settings"])
    )


def versions() -> dict[str, str | None]:
    """Look up the versions of Python and of `PACKAGES`; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _opened(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Read a file of any version: its kind, and its object without what only the envelope needs."""
    try:
        document: dict[str, Any] = dict(json.loads(Path(path).read_text()))
        found = document.pop("format_version")
        older = document.pop("benchmark", None)
        named = document.pop("kind", older)
        kind = _KINDS.get((found, named))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    if kind is None:
        raise ValueError(
            f"{path} has format version {found!r} of results of kind {named!r}, and this sb3_llmdpd reads"
            f" versions up to {FORMAT_VERSION} of {', '.join(ENTRIES)}"
        )
    document.pop("created", None)
    return kind, document


def _damaged(path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"{path} does not hold results of sb3_llmdpd ({type(error).__name__}: {error})")


def _result_of(cell: Mapping[str, Any]) -> CellResult:
    per_episode = ("seeds", "successes", "last_successes", "returns", "first_successes")
    phases, early, task = cell.get("phases"), cell.get("early_returns"), cell["task"]
    return CellResult(
        task=task,
        condition=Condition(**cell["condition"]),
        seen=cell["seen"],
        **{name: tuple(cell[name]) for name in per_episode},
        phases=None if phases is None else tuple(Phases(**episode) for episode in phases),
        early_returns=None if early is None else tuple(early),
        judged=cell.get("judged", True),
        # Older results are Meta-World's.
        expert_steps=cell["expert_steps"] if "expert_steps" in cell else METAWORLD_SUITE.expert_steps(task),
    )
