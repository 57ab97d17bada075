"""Sets out the numbers of data as a page of text that survives a log file."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.inspection.findings import findings
from sb3_llmdpd.inspection.numbers import EntryNumbers, Inspection, TaskNumbers

Entry = TypeVar("Entry")

ROWS = 60
"""Of a long list, unless all are asked for."""

NAMES = 5
"""Of the sources in the heading, unless all are asked for."""

LONGEST_SENTENCE = 60
"""Letters of a sentence in a table."""

N_BINS = 10
BAR = 40
"""Letters of the longest bar."""


def page(inspection: Inspection, n_rows: int | None = ROWS) -> str:
    """Write the page: what the data are, what to mend, then the tables.

    :param inspection: of `inspect_sources`.
    :param n_rows: of each list, the rest being counted; None for all.
    :return: lines of text.
    """
    sections = (
        _heading(inspection, n_rows),
        _findings(inspection),
        _task_table(inspection.tasks, n_rows),
        _outcomes(inspection),
        _histogram("Returns", _return_bins([episode.total_reward for episode in inspection.episodes])),
        _histogram("Lengths", _length_bins([episode.n_steps for episode in inspection.episodes])),
        _action_table(inspection.actions, n_rows),
        _observation_summary(inspection.observations)
        if n_rows is not None
        else _observation_table(inspection.observations),
    )
    lines = "\n\n".join(section.strip("\n") for section in sections).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _heading(inspection: Inspection, n_rows: int | None) -> str:
    kinds = dict.fromkeys(source.kind for source in inspection.sources)
    names, more = _cut([source.name for source in inspection.sources], None if n_rows is None else NAMES)
    observations, actions = inspection.observation_space, inspection.action_space
    return "\n".join(
        [
            f"{', '.join([*names, *more])} ({', '.join(kinds)})",
            f"{_count(len(inspection.episodes), 'episode')} of {_count(len(inspection.tasks), 'task')},"
            f" {_count(inspection.n_steps, 'step')}",
            f"Observations: {_space(observations)}. Actions: {_space(actions)}, from {_number(float(actions.low.min()))} to"
            f" {_number(float(actions.high.max()))}.",
        ]
    )


def _findings(inspection: Inspection) -> str:
    found = findings(inspection)
    lines = [
        line
        for finding in found
        for line in (f"- {finding.sentence}", *(f"    {detail}" for detail in finding.details))
    ]
    if inspection.texts.left_out is not None:
        note = f"(Left out was the search for nearly identical sentences: {inspection.texts.left_out}.)"
        lines.append(note.replace("..)", ".)"))
    return "\n".join(["To mend, or to know", *lines] if found else ["Nothing to mend.", *lines])


def _task_table(tasks: Sequence[TaskNumbers], n_rows: int | None) -> str:
    shown, more = _cut(tasks, n_rows)
    rows = [
        (
            task.name,
            f"{task.n_episodes:,}",
            f"{task.n_steps:,}",
            "" if task.success_rate is None else f"{task.success_rate:.0%}",
            _number(task.lowest_return),
            _number(task.mean_return),
            _number(task.highest_return),
            _number(task.n_steps / task.n_episodes),
            str(len(task.texts)),
            _shortened(task.texts[0]) if task.texts else "(no sentence)",
        )
        for task in shown
    ]
    header = (
        "task",
        "episodes",
        "steps",
        "success",
        "return: min",
        "mean",
        "max",
        "mean length",
        "phrasings",
        "the first",
    )
    width = max(len(row[-1]) for row in (header, *rows))
    # The table sets all columns but the first to the right, and sentences read better from the left.
    table = Table("Tasks", _left_last(header, width), tuple(_left_last(row, width) for row in rows))
    return "\n".join([table.text().rstrip("\n"), *more])


def _outcomes(inspection: Inspection) -> str:
    """How episodes end, what failed, and what is rewarded."""
    episodes = inspection.episodes
    terminated = sum(episode.terminated for episode in episodes)
    n = _count(len(episodes), "episode")
    lines = [
        "Outcomes",
        f"{terminated:,} of {n} ended by a termination, {len(episodes) - terminated:,} cut off by a time limit or by the end"
        " of recording",
    ]
    if inspection.failed is not None:
        of_episodes, of_steps = inspection.failed
        lines.append(f"{of_episodes:.0%} of the episodes failed, with {of_steps:.0%} of the transitions")
    else:
        silent = sum(episode.success is None for episode in episodes)
        lines.append(f"{silent:,} of {n} do not say whether they succeeded")
    low = min(episode.lowest_reward for episode in episodes)
    high = max(episode.highest_reward for episode in episodes)
    lines.append(
        "Every reward is 0"
        if low == high == 0
        else f"Rewards of a step from {_number(low)} to {_number(high)}"
    )
    return "\n".join(lines)


def _action_table(actions: Sequence[EntryNumbers], n_rows: int | None) -> str:
    shown, more = _cut(actions, n_rows)
    rows = tuple((*_row(entry), "" if entry.at_bound is None else f"{entry.at_bound:.0%}") for entry in shown)
    table = Table("Actions, by entry", ("entry", "min", "mean", "max", "deviation", "steps at a bound"), rows)
    return "\n".join([table.text().rstrip("\n"), *more])


def _observation_table(observations: Sequence[EntryNumbers]) -> str:
    rows = tuple(_row(entry) for entry in observations)
    return Table("Observations, by entry", ("entry", "min", "mean", "max", "deviation"), rows).text()


def _observation_summary(observations: Sequence[EntryNumbers]) -> str:
    low, high = min(entry.low for entry in observations), max(entry.high for entry in observations)
    moving = [entry for entry in observations if not entry.never_changes]
    lines = [
        "Observations",
        f"{len(observations):,} entries, {len(observations) - len(moving):,} of which never change; values from {_number(low)}"
        f" to {_number(high)}",
    ]
    if moving:
        smallest = min(moving, key=lambda entry: entry.deviation)
        largest = max(moving, key=lambda entry: entry.deviation)
        lines.append(
            f"Standard deviations of those that change: from {_number(smallest.deviation)} (entry {smallest.name}) to"
            f" {_number(largest.deviation)} (entry {largest.name})"
        )
    return "\n".join(lines)


def _row(entry: EntryNumbers) -> tuple[str, ...]:
    return entry.name, *map(_number, (entry.low, entry.mean, entry.high, entry.deviation))


def _histogram(title: str, bins: Sequence[tuple[str, int]]) -> str:
    """A bar for each bin; one with anything in it can be seen."""
    width, most = max(len(label) for label, _ in bins), max(count for _, count in bins)
    digits = len(f"{most:,}")
    return "\n".join(
        [
            f"{title} of episodes",
            *(
                f"{label.rjust(width)}  {f'{count:,}'.rjust(digits)}  {'█' * (BAR * count // most) or '▏' * (count > 0)}"
                for label, count in bins
            ),
        ]
    )


def _return_bins(returns: Sequence[float]) -> list[tuple[str, int]]:
    if min(returns) == max(returns):
        return [(_number(returns[0]), len(returns))]
    counts, edges = np.histogram(returns, N_BINS)
    return [
        (f"{_number(low)} to {_number(high)}", int(count))
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def _length_bins(lengths: Sequence[int]) -> list[tuple[str, int]]:
    """Bins of whole steps."""
    low, high = min(lengths), max(lengths)
    width = math.ceil((high - low + 1) / N_BINS)
    starts = range(low, high + 1, width)
    counts = np.bincount([(length - low) // width for length in lengths], minlength=len(starts))
    return [
        (f"{start:,}" if width == 1 else f"{start:,} to {start + width - 1:,}", int(count))
        for start, count in zip(starts, counts, strict=True)
    ]


def _space(space: spaces.Space[object]) -> str:
    """A space in short, without its bounds."""
    if isinstance(space, spaces.Dict):
        return "{" + ", ".join(f"{key}: {_space(part)}" for key, part in space.items()) + "}"
    return (
        f"{' x '.join(map(str, space.shape))} {space.dtype}" if isinstance(space, spaces.Box) else str(space)
    )


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e9 else f"{value:.3g}"


def _count(n: int, name: str) -> str:
    return f"{n:,} {name}{'' if n == 1 else 's'}"


def _shortened(sentence: str) -> str:
    return sentence if len(sentence) <= LONGEST_SENTENCE else sentence[: LONGEST_SENTENCE - 1].rstrip() + "…"


def _left_last(row: Iterable[str], width: int) -> tuple[str, ...]:
    *others, last = row
    return (*others, last.ljust(width))


def _cut(entries: Sequence[Entry], n: int | None) -> tuple[Sequence[Entry], list[str]]:
    """The first n, and a line that counts the rest."""
    if n is None or len(entries) <= n:
        return entries, []
    return entries[:n], [f"and {len(entries) - n:,} more (--all shows them)"]
