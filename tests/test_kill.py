"""A run that is killed goes on as if it had not been: at any moment, and as a command."""

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed import curve, differences, processes, train, train_until_the_disk_is_full, write_dataset
from typer.testing import CliRunner

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.cli import app

pytestmark = pytest.mark.slow


def is_saving(folder: Path) -> bool:
    """Look for a model file that is half-written, now or since its process was killed."""
    return any(folder.glob(".*-model.zip"))


def test_a_training_killed_at_20_random_moments_ends_as_the_undisturbed_one(tmp_path):
    n_steps, n_kills, n_saves_cut_off = 100, 20, 0
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    context = processes()

    def start(folder: Path, *shared: Any) -> Any:
        process = context.Process(target=train, args=(folder, n_steps, *shared))
        process.start()
        return process

    start(undisturbed).join()
    rng = np.random.default_rng(0)
    # The first comes while the process is still preparing, and the others are spread over all steps; every
    # other one waits for a save.
    for number, step in enumerate([0, *np.sort(rng.integers(n_steps - 10, size=n_kills - 1))]):
        steps_seen = context.Value("i", 0, lock=False)
        process = start(killed, steps_seen)
        while process.is_alive() and (steps_seen.value < step or (number % 2 and not is_saving(killed))):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, 0.003 if number % 2 else 0.015))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        n_saves_cut_off += is_saving(killed)
        if (killed / "model.zip").is_file():
            assert LLMDPD.load(killed / "model.zip", device="cpu").num_timesteps <= steps_seen.value
    assert n_saves_cut_off > 0
    start(killed).join()
    assert differences(killed, undisturbed) == set()
    assert curve(killed) == curve(undisturbed)
    files = {".lock", "curves.png", "model.zip", "progress.csv", "run.json"}
    assert {path.name for path in killed.iterdir()} == files


def test_a_full_disk_leaves_the_file_of_before_whole(tmp_path):
    context = processes()
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=train_until_the_disk_is_full, args=(tmp_path / "model.zip", sending))
    process.start()
    assert receiving.recv() == errno.EFBIG
    process.join()
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
    assert LLMDPD.load(tmp_path / "model.zip", device="cpu").num_timesteps == 1


COMMAND = str(Path(sys.executable).with_name("sb3-llmdpd"))
SIZES = {"--steps": 80, "--save-freq": 5, "--log-interval": 4, "--batch-size": 4, "--prompts-per-batch": 2}
OPTIONS = [str(word) for option in SIZES.items() for word in option]
OPTIONS += ["--net-arch", "8", "--text-encoder", "hashing:8", "--device", "cpu"]


@pytest.fixture
def _with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads may sum in another order."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def arguments(out: Path, root: Path) -> list[str]:
    return ["train", "--dataset", "lab/walk-v0", "--root", str(root), "--out", str(out), *OPTIONS]


def signalled(command: list[str], out: Path, number: signal.Signals) -> tuple[int, str]:
    """Send a signal to a command when it has saved its first model, and see how it ends."""
    model = out / "model.zip"
    before = model.stat().st_mtime_ns if model.is_file() else None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None and (not model.is_file() or model.stat().st_mtime_ns == before):
            time.sleep(0.005)
        process.send_signal(number)
        output, _ = process.communicate()
    return process.returncode, output


@pytest.mark.usefixtures("_with_one_thread")
def test_a_second_resume_of_a_running_folder_is_refused_and_the_first_ends_as_the_undisturbed_one(tmp_path):
    write_dataset(tmp_path / "data")
    out, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    assert CliRunner().invoke(app, arguments(undisturbed, tmp_path / "data")).exit_code == 0
    with subprocess.Popen([COMMAND, *arguments(out, tmp_path / "data")], stdout=subprocess.DEVNULL) as first:
        while first.poll() is None and not (out / "model.zip").is_file():
            time.sleep(0.005)
        first.send_signal(signal.SIGSTOP)  # it must not end before the second has come
        half_written = out / ".1-2-0123456789abcdef-model.zip"
        half_written.touch()
        second = CliRunner().invoke(app, ["train", "--resume", str(out)])
        assert half_written.is_file()
        first.send_signal(signal.SIGCONT)
    assert second.exit_code == 2
    remedies = f"wait until it has ended, or stop it with kill {first.pid}"
    assert second.output == f"Error: process {first.pid} works in {out}: {remedies}\n"
    assert first.returncode == 0
    assert differences(out, undisturbed) == set()
    assert curve(out) == curve(undisturbed)


@pytest.mark.usefixtures("_with_one_thread")
def test_a_command_that_is_killed_and_stopped_twice_ends_as_the_undisturbed_one(tmp_path):
    write_dataset(tmp_path / "data")
    out, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    assert CliRunner().invoke(app, arguments(undisturbed, tmp_path / "data")).exit_code == 0
    status, _ = signalled([COMMAND, *arguments(out, tmp_path / "data")], out, signal.SIGKILL)
    assert status == -signal.SIGKILL
    resume = [COMMAND, "train", "--resume", str(out)]
    for number, exit_status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        status, output = signalled(resume, out, number)
        assert status == exit_status, output
        said = output.splitlines()[-1]
        steps = LLMDPD.load(out / "model.zip", device="cpu").num_timesteps
        assert said == (
            f"Stopped by {number.name} at step {steps} of 80. The model is {out}/model.zip."
            f" To go on: sb3-llmdpd train --resume {out}"
        )
    subprocess.run(resume, check=True, capture_output=True)
    assert differences(out, undisturbed) == set()
    assert curve(out) == curve(undisturbed)
