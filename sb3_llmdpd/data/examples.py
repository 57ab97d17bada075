"""`examples_of`, episodes of any source to prompt with."""

from typing import Any

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.loading import DatasetLike, load_dataset


def examples_of(
    source: DatasetLike, n: int | None = None, *, task: str | None = None, **how: Any
) -> list[Episode]:
    """Read episodes of one task to prompt with, as in ``trajectories=examples_of("my-demos-v0", n=5)``.

    Failed episodes are left out; those that nobody has judged count as good.

    :param source: name of a source (a Minari id, a file, ... see `format_of`), episodes, or a data set.
    :param n: number of examples, the first of the source; None for all.
    :param task: name of their task, where the source has several.
    :param how: further arguments of `open_sources`, such as ``root``.
    :return: the episodes, in the order of the source.
    :raises ValueError: when the source has several tasks and none is named, lacks the named one, or has fewer
        than ``n`` episodes of it that did not fail.
    :raises TypeError: when the source is none of these.
    """
    if n is not None and n < 1:
        raise ValueError(f"`n` must be at least 1, or None for all, got {n}")
    episodes = load_dataset(source, **how).episodes
    tasks = sorted({episode.task for episode in episodes})
    if task is None and len(tasks) > 1:
        raise ValueError(
            f"the source has {len(tasks)} tasks, and examples are of one: pass `task`, {_some(tasks)}"
        )
    if task is not None and task not in tasks:
        raise ValueError(f"the source has no task {task!r}; it has {_some(tasks)}")
    good = [episode for episode in episodes if task in (None, episode.task) and episode.success is not False]
    if len(good) < (n or 1):
        raise ValueError(
            f"the source has {len(good)} episodes to show that did not fail, {n or 1} are asked for"
        )
    return good[:n]


def _some(tasks: list[str]) -> str:
    return ", ".join(map(repr, tasks[:10])) + (", ..." if len(tasks) > 10 else "")
