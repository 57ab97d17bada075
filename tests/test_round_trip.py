"""Data go through every format that is written, and come back as they were."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from typer.testing import CliRunner

from sb3_llmdpd import Episode, OfflineDataset, load_dataset
from sb3_llmdpd.cli import app
from sb3_llmdpd.data.fingerprint import fingerprint
from sb3_llmdpd.data.minari_writer import write_minari

OPEN = ("öffnen", ("öffne die Schublade", "拉开抽屉"))
CLOSE = ("schließen", ("schließe die Tür", "关上门"))


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OfflineDataset:
    """Write two tasks with two sentences each, a success, a failure and a time limit, as lab/recorded-v0."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    ends = [
        (OPEN, {"success": True, "first_success": 5, "terminated": True, "goal": "g1"}),
        (CLOSE, {"success": False, "goal": "g2"}),
        (OPEN, {"success": False}),
    ]
    episodes = [
        Episode(rng.normal(size=(9, 3)), rng.uniform(-2, 2, (8, 2)), rng.normal(size=8), task, texts, **end)
        for (task, texts), end in ends
    ]
    bounds = spaces.Box(-9, 9, (3,), np.float32), spaces.Box(-2, 2, (2,), np.float32)
    write_minari("lab/recorded-v0", episodes, *bounds, root="data")
    return load_dataset("lab/recorded-v0", root="data")


def convert(source: str, to: str, out: str) -> str:
    result = CliRunner().invoke(app, ["data", "convert", source, "--root", "data", "--to", to, "--out", out])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_way_through_all_formats_loses_nothing(recorded):
    convert("lab/recorded-v0", "lerobot", "by_frame")
    convert("lerobot:by_frame", "npz", "flat.npz")
    convert("npz:flat.npz", "minari", "lab/again-v0")
    again = load_dataset("lab/again-v0", root="data")
    assert fingerprint(again) == fingerprint(recorded)
    assert (again.observation_space, again.action_space) == (
        recorded.observation_space,
        recorded.action_space,
    )


def test_data_are_known_again_in_another_format(recorded):
    convert("lab/recorded-v0", "npz", "flat.npz")
    arguments = ["data", "inspect", "lab/recorded-v0", "flat.npz", "--root", "data", "--text-encoder", "none"]
    assert "3 episodes are there already, number for number" in CliRunner().invoke(app, arguments).output


def test_the_next_command_reads_what_was_written(recorded):
    written = convert("lab/recorded-v0", "lerobot", "by_frame")
    assert "sb3-llmdpd train --dataset by_frame" in written
    assert load_dataset("by_frame").tasks == ("öffnen", "schließen")
