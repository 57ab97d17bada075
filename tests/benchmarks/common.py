"""Shared by the benchmarks: data of Meta-World's shape, models on them, and the page that is written."""

import platform
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.benchmarks.common.variants import merged
from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Record, read_sources
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.presets import PAPER

OBSERVATION, ACTION, LENGTH, TASKS = 39, 4, 1_000, 50
"""Sizes of Meta-World's observations and actions; steps of an episode; tasks."""
FOLDER, PAGE = Path("runs/bench"), Path("docs/background/performance.md")
FLOW = {"policy_kwargs": {"actor": "one_step_flow"}}
"""Arguments of a model that acts in one step."""
UNPROMPTED = {"text_dropout": 1.0, "trajectory_dropout": 1.0}
"""Arguments of a model that is never shown a prompt."""


class Synthetic(EpisodeSource):
    """Random episodes, the same ones each time, which are made as they are read.

    :param n_transitions: number of transitions, in episodes of `LENGTH` steps or, for two a task, of fewer.
    :param n_tasks: number of tasks, each with a sentence.
    """

    kind = "synthetic"

    def __init__(self, n_transitions: int, n_tasks: int = TASKS) -> None:
        box = spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
        actions = spaces.Box(-1.0, 1.0, (ACTION,), np.float32)
        super().__init__(f"synthetic-{n_transitions}", box, actions, AS_RECORDED)
        self.length = min(LENGTH, n_transitions // (2 * n_tasks))  # two episodes a task, at least
        self.n_episodes, self.n_tasks = n_transitions // self.length, n_tasks
        self.file = FOLDER / "synthetic"  # a source has to have a file
        if not self.file.exists():  # its time of change is a part of what tells data apart
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.touch()

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`."""
        return [self.file]

    def options(self) -> dict[str, Any]:
        """See `EpisodeSource.options`."""
        return {"n_tasks": self.n_tasks}

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        for number in range(self.n_episodes):
            rng, task = np.random.default_rng(number), number % self.n_tasks
            yield {
                "observations": rng.standard_normal((self.length + 1, OBSERVATION), np.float32),
                "actions": rng.uniform(-1, 1, (self.length, ACTION)).astype(np.float32),
                "rewards": rng.standard_normal(self.length, np.float32),
                "task": f"task-{task}",
                "task_texts": (f"do task number {task}",),
                "source": f"{self.name}, episode {number}",
            }


def data_in_memory(n_transitions: int = 10**5, n_tasks: int = TASKS) -> OfflineDataset:
    """Synthetic episodes as a data set."""
    return read_sources([Synthetic(n_transitions, n_tasks)])


def model_on(data: OfflineDataset, **kwargs: Any) -> LLMDPD:
    """A model with the paper's settings, but for hashed sentences and what is given, after two steps."""
    return default_model_on(data, **merged(PAPER, kwargs))


def default_model_on(data: OfflineDataset, **kwargs: Any) -> LLMDPD:
    """A model with default settings, but for hashed sentences and what is given, after two steps."""
    model = LLMDPD("MlpPolicy", dataset=data, text_encoder="hashing", seed=0, device="cpu", **kwargs)
    return model.learn(2)


def machine() -> str:
    """The processor and the version of torch, for the page."""
    return f"{platform.machine()}, {th.backends.cpu.get_cpu_capability()}, torch {th.__version__}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def write_section(name: str, text: str, page: Path) -> None:
    """Put results into a page, in the place of the last ones.

    :param name: name in the comments around them.
    :param text: Markdown, whose sentences are wrapped.
    :param page: file of the page.
    :raises ValueError: when the page has no such place.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    head, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no place for {name!r}: {start.strip()} and {end}")
    lines = [line if line.startswith("|") else wrapped(line) for line in text.strip().splitlines()]
    page.write_text("\n".join([head + start.strip(), *lines, end + tail]), encoding="utf-8")


def wrapped(line: str) -> str:
    """A line of Markdown as several of at most 100 columns."""
    return textwrap.fill(line, 100, break_long_words=False, break_on_hyphens=False)
