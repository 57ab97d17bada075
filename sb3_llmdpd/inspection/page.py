"""Writes the numbers of data as a page of text that survives a log file."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.inspection.findings import findings
from sb3_llmdpd.inspection.numbers import EntryNumbers, Inspection, TaskNumbers, extreme_deviations

Entry = TypeVar("Entry")

ROWS = 60
"""Rows of a long list, unless all are asked for."""

_NAMES = 5  # sources in the heading, unless all are asked for
_LONGEST = 60  # letters of a sentence in the table of tasks
_N_BINS, _BAR = 10, 40  # bars of a histogram, and letters of the longest


def page(inspection: Inspection, n_rows: int | None = ROWS) -> str:
    """Write the page: a heading, the findings, then the tables.

    :param inspection: result of `inspect_sources`.
    :param n_rows: rows of each list, whose rest is counted; None for all.
    :return: lines of text.
    """
    show_observations = _observation_table if n_rows is None else _observation_summary
    sections = (
        _heading(inspection, n_rows),
        _findings(inspection),
        _task_table(inspection.tasks, n_rows),
        _outcomes(inspection),
        _histogram("Returns", *_return_bins([episode.total_reward for episode in inspection.episodes])),
        _histogram("Lengths", *_length_bins([episode.n_steps for episode in inspection.episodes])),
        _action_table(inspection.actions, n_rows),
        show_observations(inspection.observations),
    )
    lines = "\n\n".join(section.strip("\n") for section in sections).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _heading(inspection: Inspection, n_rows: int | None) -> str:
    kinds = ", ".join(dict.fromkeys(source.kind for source in inspection.sources))
    names, more = _cut([source.name for source in inspection.sources], None if n_rows is None else _NAMES)
    sources = ", ".join([*names, more] if more else names)
    n_episodes, n_tasks = _count(len(inspection.episodes), "episode"), _count(len(inspection.tasks), "task")
    observations, actions = inspection.observation_space, inspection.action_space
    low, high = _number(float(actions.low.min())), _number(float(actions.high.max()))
    cut = ""
    if inspection.n_left_out:
        cut = f" ({inspection.n_left_out:,} more, the last of episodes, are left out: their results are not"
        cut += " recorded)"
    return (
        f"{sources} ({kinds})\n{n_episodes} of {n_tasks}, {_count(inspection.n_steps, 'step')}{cut}\n"
        f"Observations: {_space(observations)}. Actions: {_space(actions)}, from {low} to {high}."
    )


def _findings(inspection: Inspection) -> str:
    found = findings(inspection)
    lines = ["To mend, or to know" if found else "Nothing to mend."]
    for finding in found:
        lines += [f"- {finding.sentence}", *(f"    {detail}" for detail in finding.details)]
    if inspection.texts.left_out is not None:
        reason = inspection.texts.left_out.removesuffix(".")
        lines.append(f"(Left out was the search for nearly identical sentences: {reason}.)")
    return "\n".join(lines)


_TASK_COLUMNS: dict[str, Callable[[TaskNumbers], str]] = {
    "task": lambda task: task.name,
    "episodes": lambda task: f"{task.n_episodes:,}",
    "steps": lambda task: f"{task.n_steps:,}",
    "success": lambda task: "" if task.success_rate is None else f"{task.success_rate:.0%}",
    "return: min": lambda task: _number(task.lowest_return),
    "mean": lambda task: _number(task.mean_return),
    "max": lambda task: _number(task.highest_return),
    "mean length": lambda task: _number(task.n_steps / task.n_episodes),
    "phrasings": lambda task: str(len(task.texts)),
    "the first": lambda task: _shortened(task.texts[0]) if task.texts else "(no sentence)",
}


def _task_table(tasks: Sequence[TaskNumbers], n_rows: int | None) -> str:
    shown, more = _cut(tasks, n_rows)
    rows = [tuple(_TASK_COLUMNS), *(tuple(show(task) for show in _TASK_COLUMNS.values()) for task in shown)]
    width = max(len(row[-1]) for row in rows)
    # The table aligns all columns but the first to the right, and sentences read better from the left.
    header, *aligned = ((*row[:-1], row[-1].ljust(width)) for row in rows)
    return Table("Tasks", header, tuple(aligned)).text() + more


def _outcomes(inspection: Inspection) -> str:
    """Tell how episodes end, how many failed, and the range of rewards."""
    episodes = inspection.episodes
    terminated = sum(episode.terminated for episode in episodes)
    n = _count(len(episodes), "episode")
    if inspection.failed is not None:
        of_episodes, of_steps = inspection.failed
        outcome = f"{of_episodes:.0%} of the episodes failed, with {of_steps:.0%} of the transitions"
    else:
        silent = sum(episode.success is None for episode in episodes)
        outcome = f"{silent:,} of {n} do not say whether they succeeded"
    low = min(episode.lowest_reward for episode in episodes)
    high = max(episode.highest_reward for episode in episodes)
    rewards = f"Rewards of a step from {_number(low)} to {_number(high)}"
    if low == high == 0:
        rewards = "Every reward is 0"
    if not any(episode.rewarded for episode in episodes):
        rewards = "No rewards are recorded"
    ends = f"{terminated:,} of {n} ended by a termination, {len(episodes) - terminated:,} cut off"
    return f"Outcomes\n{ends} by a time limit or by the end of recording\n{outcome}\n{rewards}"


def _action_table(actions: Sequence[EntryNumbers], n_rows: int | None) -> str:
    shown, more = _cut(actions, n_rows)
    rows = tuple((*_row(entry), "" if entry.at_bound is None else f"{entry.at_bound:.0%}") for entry in shown)
    return Table("Actions, by entry", (*_ENTRY_COLUMNS, "steps at a bound"), rows).text() + more


def _observation_table(observations: Sequence[EntryNumbers]) -> str:
    return Table("Observations, by entry", _ENTRY_COLUMNS, tuple(map(_row, observations))).text()


def _observation_summary(observations: Sequence[EntryNumbers]) -> str:
    low, high = min(entry.low for entry in observations), max(entry.high for entry in observations)
    n_fixed = sum(entry.never_changes for entry in observations)
    summary = (
        f"Observations\n{len(observations):,} entries, {n_fixed:,} of which never change;"
        f" values from {_number(low)} to {_number(high)}"
    )
    if (extremes := extreme_deviations(observations)) is None:
        return summary
    smallest, largest = (f"{_number(entry.deviation)} (entry {entry.name})" for entry in extremes)
    return f"{summary}\nStandard deviations of those that change: from {smallest} to {largest}"


_ENTRY_COLUMNS = ("entry", "min", "mean", "max", "deviation")


def _row(entry: EntryNumbers) -> tuple[str, ...]:
    return entry.name, *map(_number, (entry.low, entry.mean, entry.high, entry.deviation))


def _histogram(title: str, labels: Sequence[str], counts: Sequence[int]) -> str:
    """Draw a bar for each bin; even a short one can be seen unless the bin is empty."""
    width, most = max(map(len, labels)), max(counts)
    digits = len(f"{most:,}")
    lines = [f"{title} of episodes"]
    for label, count in zip(labels, counts, strict=True):
        bar = "█" * (_BAR * count // most) or "▏" * (count > 0)
        lines.append(f"{label:>{width}}  {count:>{digits},}  {bar}")
    return "\n".join(lines)


def _return_bins(returns: Sequence[float]) -> tuple[list[str], list[int]]:
    """Name the bins of returns, and count."""
    if min(returns) == max(returns):
        return [_number(returns[0])], [len(returns)]
    counts, edges = np.histogram(returns, _N_BINS)
    return [f"{_number(low)} to {_number(high)}" for low, high in pairwise(edges)], counts.tolist()


def _length_bins(lengths: Sequence[int]) -> tuple[list[str], list[int]]:
    """Name bins of whole steps, and count lengths in them."""
    low, high = min(lengths), max(lengths)
    width = math.ceil((high - low + 1) / _N_BINS)
    starts = range(low, high + 1, width)
    counts = np.bincount([(length - low) // width for length in lengths], minlength=len(starts))
    labels = [f"{start:,}" if width == 1 else f"{start:,} to {start + width - 1:,}" for start in starts]
    return labels, counts.tolist()


def _space(space: spaces.Space[object]) -> str:
    """Write a space in short, without its bounds."""
    if isinstance(space, spaces.Dict):
        return "{" + ", ".join(f"{key}: {_space(part)}" for key, part in space.items()) + "}"
    if isinstance(space, spaces.Box):
        return f"{' x '.join(map(str, space.shape))} {space.dtype}"
    return str(space)


def _number(value: float) -> str:
    """Write three digits, or all before the point."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e9 else f"{value:z.3g}"


def _count(n: int, name: str) -> str:
    return f"{n:,} {name}{'' if n == 1 else 's'}"


def _shortened(sentence: str) -> str:
    return sentence if len(sentence) <= _LONGEST else sentence[: _LONGEST - 1].rstrip() + "…"


def _cut(entries: Sequence[Entry], n: int | None) -> tuple[Sequence[Entry], str]:
    """Keep the first n, and count the rest in words."""
    if n is None or len(entries) <= n:
        return entries, ""
    return entries[:n], f"and {len(entries) - n:,} more (--all shows them)"
