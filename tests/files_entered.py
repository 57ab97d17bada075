"""Count the files that a reader enters to follow one call: `python tests/files_entered.py`."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from factories import tiny_model

import sb3_llmdpd
from sb3_llmdpd import LLMDPD

PACKAGE = Path(sb3_llmdpd.__file__).parent
MOST = {"predict": 12, "train(1)": 15, "save": 8, "load": 20}
"""The most files that each call may enter."""


def files_entered(call: Callable[[], Any]) -> list[str]:
    """Name the files of the package whose functions run in a call, sorted.

    :param call: function without arguments; what only an import runs does not count.
    """
    entered: set[Path] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE) and frame.f_code.co_name != "<module>":
            entered.add(path.relative_to(PACKAGE))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return sorted(map(str, entered))


def calls() -> dict[str, list[str]]:
    """Name the files that a tiny model enters in each of the calls of `MOST`."""
    model = tiny_model().learn(1)
    observation = np.zeros(5, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.zip")
        return {
            "predict": files_entered(lambda: model.predict(observation, task_text="do task number 2")),
            "train(1)": files_entered(lambda: model.train(1, model.batch_size)),
            "save": files_entered(lambda: model.save(path)),
            "load": files_entered(lambda: LLMDPD.load(path, device="cpu")),
        }


if __name__ == "__main__":
    for name, files in calls().items():
        print(f"{name}: {len(files)} files of at most {MOST[name]}", *files, sep="\n    ")  # noqa: T201
