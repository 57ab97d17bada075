"""A run that is killed goes on as if it had not been: at any moment, and as a command."""

import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed import curve, differences, train

from sb3_llmdpd import LLMDPD

pytestmark = pytest.mark.slow

SERVER_IMPORTS = ["sb3_llmdpd.benchmarks.run_folder", "minari.serialization", "torch._dynamo"]
"""What a training needs: the server of processes imports it once, and what it forks then starts in milliseconds."""


def test_a_training_killed_at_20_random_moments_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    n_steps, n_kills, saves_cut_off = 150, 20, 0
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(SERVER_IMPORTS)

    def start(folder: Path, *shared: Any) -> Any:
        process = processes.Process(target=train, args=(folder, n_steps, *shared))
        process.start()
        return process

    start(undisturbed).join()
    rng = np.random.default_rng(0)
    # The first comes while the process is still preparing, and the others are spread over all steps.
    for step in [0, *np.sort(rng.integers(n_steps - 10, size=n_kills - 1))]:
        steps_seen = processes.Value("i", 0, lock=False)
        process = start(killed, steps_seen)
        while steps_seen.value < step and process.is_alive():
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, 0.015))  # a step with its save takes about as long
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        saves_cut_off += any(killed.glob(".*-model.zip"))
        if (killed / "model.zip").is_file():
            assert LLMDPD.load(killed / "model.zip", device="cpu").num_timesteps <= steps_seen.value
    assert saves_cut_off > 0
    start(killed).join()
    assert differences(killed, undisturbed) == set()
    assert curve(killed) == curve(undisturbed)
    assert {path.name for path in killed.iterdir()} == {"curves.png", "model.zip", "progress.csv", "run.json"}
