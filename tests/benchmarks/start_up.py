"""Measures a new process until its import, the load of a model, and the first action."""

import subprocess
import sys
from collections.abc import Callable

from common import FOLDER, data_in_memory, machine, model_on, table
from timing import by_turns

ACT = "from sb3_llmdpd import LLMDPD; m = LLMDPD.load({path!r}, device='cpu')"
FIRST = (
    f"{ACT}; import numpy; m.predict(numpy.zeros(m.observation_space.shape), task_text='do task number 3')"
)


def section(rounds: int) -> str:
    """Time whole processes."""
    path = str(FOLDER / "model.zip")
    model_on(data_in_memory()).save(path)
    codes = {
        "import stable_baselines3": "import stable_baselines3",
        "import sb3_llmdpd": "from sb3_llmdpd import LLMDPD",  # the package alone imports nothing
        "and load a model": ACT.format(path=path),
        "and act for the first time on a known sentence": FIRST.format(path=path),
    }
    calls: dict[str, Callable[[], object]] = {
        name: lambda code=code: subprocess.run([sys.executable, "-c", code], check=True)
        for name, code in codes.items()
    }
    times = by_turns(calls, rounds, seconds=0.0)
    rows = [
        [name, f"{times.milliseconds(name) / 1e3:.2f}", times.ratio(name, "import stable_baselines3")]
        for name in codes
    ]
    return f"A new process, {machine()}; {rounds} rounds.\n\n{table(['what', 's', 'ratio'], rows)}"
