"""Measures training on 1e7 transitions that stay in a file: its memory, and its time beside data in memory.

Run by ``make bench``. The steps of both are taken by turns in one process, in random order, so that what else the machine does
falls on both; memory is measured in a process of its own, which never holds the data.
"""

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.source import AS_RECORDED, EpisodeSource, Record, read_sources
from sb3_llmdpd.data.store import memory_mapped

OBSERVATION, ACTION, LENGTH, TASKS = 39, 4, 1_000, 50
"""Sizes of Meta-World's observations and actions; steps of an episode; tasks."""
START, END = "<!-- mapped data -->", "<!-- end of mapped data -->"
"""Around the results in the page."""


class Synthetic(EpisodeSource):
    """Random episodes, the same ones each time, which are made as they are read.

    :param n_episodes: how many.
    :param file: that stands for them.
    """

    kind = "synthetic"

    def __init__(self, n_episodes: int, file: Path) -> None:
        box = spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
        super().__init__(f"synthetic-{n_episodes}", box, spaces.Box(-1.0, 1.0, (ACTION,), np.float32), AS_RECORDED)
        self.n_episodes, self.file = n_episodes, file
        if not file.exists():  # its time is a part of what tells data apart
            file.touch()

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`."""
        return [self.file]

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        for number in range(self.n_episodes):
            rng = np.random.default_rng(number)
            yield {
                "observations": rng.standard_normal((LENGTH + 1, OBSERVATION), np.float32),
                "actions": rng.uniform(-1, 1, (LENGTH, ACTION)).astype(np.float32),
                "rewards": rng.standard_normal(LENGTH, np.float32),
                "task": f"task-{number % TASKS}",
                "task_texts": (f"do task number {number % TASKS}",),
                "source": f"{self.name}, episode {number}",
            }


def model_of(data: OfflineDataset) -> LLMDPD:
    """A model with the default settings."""
    return LLMDPD("MlpPolicy", dataset=data, text_encoder="hashing", seed=0, device="cpu")


def peak_bytes() -> int:
    """Resident memory of this process at its highest; on Linux in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_memory(folder: Path, n_transitions: int, n_steps: int) -> dict[str, float]:
    """Train on mapped data that lie there already, and tell the peak of memory, before and after the data were opened."""
    before = peak_bytes()
    model = model_of(memory_mapped(_large(folder, n_transitions), cache=folder))
    opened = peak_bytes()
    model.learn(n_steps)
    return {"before": before, "opened": opened, "peak": peak_bytes()}


def measure_time(folder: Path, n_transitions: int, n_small: int, rounds: int, n_steps: int) -> dict[str, list[float]]:
    """Seconds of a training step and of `buffer.sample`, by turns, on mapped data and on few data in memory."""
    th.set_num_threads(1)
    models = {
        "mapped": model_of(memory_mapped(_large(folder, n_transitions), cache=folder)),
        "in memory": model_of(read_sources([Synthetic(n_small // LENGTH, folder / "small")])),
    }
    for model in models.values():
        model.learn(2)
    times: dict[str, list[float]] = {f"{what}, {name}": [] for what in ("step", "sample") for name in models}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(sorted(models), len(models)):
            model = models[name]
            assert model.replay_buffer is not None
            start = time.perf_counter()
            model.train(n_steps, model.batch_size)
            middle = time.perf_counter()
            for _ in range(10 * n_steps):
                model.replay_buffer.sample(model.batch_size)
            times[f"step, {name}"].append((middle - start) / n_steps)
            times[f"sample, {name}"].append((time.perf_counter() - middle) / (10 * n_steps))
    return times


def _large(folder: Path, n_transitions: int) -> Synthetic:
    return Synthetic(n_transitions // LENGTH, folder / "large")


def _row(what: str, times: dict[str, list[float]]) -> str:
    mapped, resident = (np.array(times[f"{what}, {name}"]) for name in ("mapped", "in memory"))
    low, middle, high = np.quantile(mapped / resident, [0.25, 0.5, 0.75])
    return (
        f"| {what} | {1e3 * np.median(mapped):.2f} | {1e3 * np.median(resident):.2f} | {middle:.2f} [{low:.2f}, {high:.2f}] |"
    )


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="of the data: about 2 GB")
    parser.add_argument("--transitions", type=int, default=10**7)
    parser.add_argument("--small", type=int, default=10**5, help="transitions in memory, to compare with")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="gradient steps of a round")
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"), help="whose results are replaced")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.memory_only:
        sys.stdout.write(json.dumps(measure_memory(given.folder, given.transitions, given.rounds * given.steps)))
        return
    start = time.perf_counter()
    size = (
        memory_mapped(_large(given.folder, given.transitions), cache=given.folder, progress_bar=True).file.path.stat().st_size
    )
    laid_out = time.perf_counter() - start
    start = time.perf_counter()
    memory_mapped(_large(given.folder, given.transitions), cache=given.folder)
    opened = time.perf_counter() - start
    alone = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--memory-only"], check=True, capture_output=True, text=True
    )
    memory = json.loads(alone.stdout)
    times = measure_time(given.folder, given.transitions, given.small, given.rounds, given.steps)
    mib = {name: value / 2**20 for name, value in memory.items()}
    lines = [
        START,
        f"{given.transitions:,} transitions of {TASKS} tasks in a file of {size / 2**30:.2f} GiB, default settings of `LLMDPD`"
        f" with hashed sentences, one thread, {platform.machine()}, torch {th.__version__}; {given.rounds} rounds of"
        f" {given.steps} steps, medians and quartiles of the ratios.",
        "",
        f"Largest resident memory: {mib['peak']:,.0f} MiB after {given.rounds * given.steps} steps, of which"
        f" {mib['before']:,.0f} MiB are Python and its libraries. Laying the data out took {laid_out:.0f} s (making them"
        f" included), opening them with all checksums {opened:.1f} s.",
        "",
        f"| | mapped, ms | {given.small:,} transitions in memory, ms | ratio |",
        "|---|---|---|---|",
        _row("step", times),
        _row("sample", times),
        END,
    ]
    text = "\n".join(lines)
    sys.stdout.write(f"{text}\n")
    page = given.page.read_text()
    head, _, rest = page.partition(START)
    given.page.write_text(head + text + rest.partition(END)[2])


if __name__ == "__main__":
    main()
