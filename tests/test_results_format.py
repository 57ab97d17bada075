"""``results.json`` of any kind: one envelope, which also opens the files of older versions."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sb3_llmdpd.benchmarks.common.trainings import Training
from sb3_llmdpd.benchmarks.d4rl.results import D4RLResults, Point, read_d4rl, write_d4rl
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, TrainingCell, read_grid, write_grid
from sb3_llmdpd.cli import app
from sb3_llmdpd.evaluation.conditions import Cell, Condition
from sb3_llmdpd.evaluation.results import kind_of, read_results, settings_of, write_results
from sb3_llmdpd.evaluation.rollouts import Rollout
from sb3_llmdpd.evaluation.tasks import CellResult

SETTINGS = {"seed": 3}
ROLLOUT = Rollout(7, total_reward=1.26, early_reward=0.8, length=5, first_success=2, last_success=False)
RESULT = CellResult.of(Cell("reach", Condition("text", text_of="reach")), [ROLLOUT])
CELL = TrainingCell("full", 0, "reach", "text", True, (1, 0), (3.5, 0.1))
GRID = GridResults(SETTINGS, {"full": {"sentence": "all of it"}}, {"cores": 2}, {"torch": "2.8"}, (CELL,))
POINT = Point("hopper", "full", 0, 30, (170.0, 230.0))
OF_D4RL = D4RLResults(SETTINGS, {"full": "all of it"}, {"cores": 2}, {"torch": "2.8"}, {}, (POINT,))

KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any], Any, dict[str, Any]]] = {
    "evaluation": (
        lambda path: write_results(path, [RESULT], SETTINGS),
        read_results,
        ([RESULT], SETTINGS),
        {"format_version": 1},
    ),
    "metaworld": (lambda path: write_grid(path, GRID), read_grid, GRID, {"format_version": 2}),
    "d4rl": (
        lambda path: write_d4rl(path, OF_D4RL),
        read_d4rl,
        OF_D4RL,
        {"format_version": 1, "benchmark": "d4rl"},
    ),
}
"""Kinds of results: writer, reader, content, and the beginning of files before version 3."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_what_it_holds_and_comes_back(kind: str, tmp_path: Path) -> None:
    write, read, written, _ = KINDS[kind]
    write(tmp_path / "results.json")
    document = json.loads((tmp_path / "results.json").read_text())
    assert list(document)[:4] == ["kind", "format_version", "created", "versions"]
    assert (document["kind"], document["format_version"]) == (kind, 3)
    assert read(tmp_path / "results.json") == written
    assert (kind_of(tmp_path / "results.json"), settings_of(tmp_path / "results.json")) == (kind, SETTINGS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_an_older_version_which_does_not_say_its_kind_is_read(kind: str, tmp_path: Path) -> None:
    write, read, written, older = KINDS[kind]
    path = tmp_path / "results.json"
    write(path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(older | {key: document[key] for key in list(document)[3:]}))
    assert (kind_of(path), read(path)) == (kind, written)


def test_results_of_before_there_were_early_returns_and_several_examples_are_read(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, [RESULT], SETTINGS)
    document = json.loads(path.read_text())
    (cell,) = document["cells"]
    assert (cell.pop("early_returns"), cell["condition"].pop("n_examples")) == ([0.8], 1)
    path.write_text(json.dumps(document))
    assert read_results(path)[0] == [replace(RESULT, early_returns=None)]


def test_early_returns_of_a_grid_are_read_as_they_were_written(tmp_path):
    path, cell = tmp_path / "results.json", replace(CELL, early_returns=(1.5, 0.1))
    write_grid(path, replace(GRID, cells=(cell,)))
    assert read_grid(path).cells == (cell,)


def test_a_grid_of_before_there_were_early_returns_is_read(tmp_path):
    path = tmp_path / "results.json"
    write_grid(path, replace(GRID, cells=(replace(CELL, early_returns=(1.5, 0.1)),)))
    document = json.loads(path.read_text())
    del document["cells"][0]["early_returns"]
    path.write_text(json.dumps(document))
    assert read_grid(path).cells == (CELL,)


def test_a_grid_keeps_early_returns_to_one_digit():
    training = Training("full", 0, {}, 1)
    assert TrainingCell.of(training, replace(RESULT, early_returns=(0.849,))).early_returns == (0.8,)
    assert TrainingCell.of(training, replace(RESULT, early_returns=None)).early_returns is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"does not hold results of sb3_llmdpd \(JSONDecodeError"),
        ("[]", "does not hold results"),
        ("{}", "does not hold results"),
        ('{"format_version": [2]}', "does not hold results"),
        ('{"format_version": 3}', "has format version 3 of results of kind None, and this"),
        ('{"format_version": 3, "kind": "KIND"}', r"does not hold results of sb3_llmdpd \(KeyError"),
        ('{"format_version": 3, "kind": "KIND", "cells": [{}], "points": [{"step": 1}]}', "does not hold"),
        (
            '{"format_version": 3, "kind": "other"}',
            "has format version 3 of results of kind 'other', and this",
        ),
        (
            '{"format_version": 99, "kind": "KIND"}',
            "has format version 99 of results of kind 'KIND', .* reads versions up to 3 of",
        ),
        ('{"format_version": 9, "benchmark": "d4rl"}', "has format version 9 of results of kind 'd4rl', and"),
    ],
)
def test_a_file_that_holds_no_such_results_is_refused_by_its_name(kind, content, message, tmp_path):
    (tmp_path / "results.json").write_text(content.replace("KIND", kind))
    with pytest.raises(ValueError, match=rf"results\.json {message.replace('KIND', kind)}"):
        KINDS[kind][1](tmp_path / "results.json")


def test_results_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_grid(tmp_path / "results.json", GRID)
    with pytest.raises(ValueError, match="does not hold results of kind 'd4rl', but of 'metaworld'"):
        read_d4rl(tmp_path / "results.json")


def test_the_report_of_an_evaluation_can_be_written_anew(tmp_path, monkeypatch):
    drawn = "sb3_llmdpd.benchmarks.common.evaluation_folder.success_chart"
    monkeypatch.setattr(drawn, lambda results, path, model: path.touch())
    write_results(tmp_path / "results.json", [RESULT], SETTINGS)
    result = CliRunner().invoke(app, ["benchmark", "report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.md", "success.png"}
    assert "| reach | all | 1.00 |" in (tmp_path / "results.md").read_text()
