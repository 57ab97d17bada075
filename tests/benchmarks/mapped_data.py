"""Measures training on 1e7 transitions that stay in a file: memory, and time beside data in memory.

Memory is measured in a process of its own, which never holds the data.
"""

import json
import re
import resource
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from common import FOLDER, TASKS, Synthetic, data_in_memory, machine, model_on, table
from timing import by_turns

from sb3_llmdpd.data.memory_mapping import memory_mapped

TRANSITIONS, STEPS = 10**7, 300
CACHE = FOLDER / "laid-out"
IN_MEMORY = "100,000 transitions in memory"


def peak_bytes() -> int:
    """Highest resident memory of this program; getrusage would include the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def print_memory() -> None:
    """Train on data that were laid out before, and print the peak of memory before and after."""
    before = peak_bytes()
    model = model_on(memory_mapped(Synthetic(TRANSITIONS), cache=CACHE))
    model.learn(STEPS)
    sys.stdout.write(json.dumps({"before": before, "peak": peak_bytes()}))


def section(rounds: int) -> str:
    """Measure memory, and the time of a step."""
    shutil.rmtree(CACHE, ignore_errors=True)
    start = time.perf_counter()
    size = memory_mapped(Synthetic(TRANSITIONS), cache=CACHE).file.path.stat().st_size
    laid_out = time.perf_counter() - start
    start = time.perf_counter()
    data = memory_mapped(Synthetic(TRANSITIONS), cache=CACHE)
    opened = time.perf_counter() - start
    alone = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True)
    mib = {name: value / 2**20 for name, value in json.loads(alone.stdout).items()}
    models = {"mapped": model_on(data), IN_MEMORY: model_on(data_in_memory())}
    steps = {name: partial(model.train, 1, model.batch_size) for name, model in models.items()}
    times = by_turns(steps, rounds)
    rows = [[name, f"{times.milliseconds(name):.1f}", times.ratio(name, IN_MEMORY)] for name in models]
    return (
        f"{TRANSITIONS:,} transitions of {TASKS} tasks in a file of {size / 2**30:.2f} GiB, the paper's"
        f" settings of `LLMDPD` with hashed sentences, one thread, {machine()}; {rounds} rounds.\n\n"
        f"Largest resident memory: {mib['peak']:,.0f} MiB after {STEPS} steps, of which"
        f" {mib['before']:,.0f} MiB are Python and its libraries. Laying the data out took {laid_out:.0f} s"
        f" (making them included), opening them with all checksums {opened:.1f} s.\n\n"
        f"{table(['a step on data', 'ms', 'ratio'], rows)}"
    )


if __name__ == "__main__":
    print_memory()
