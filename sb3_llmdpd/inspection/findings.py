"""Finds what should be mended before training, and says so in one sentence each with what to do."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from sb3_llmdpd.inspection.numbers import EntryNumbers, Inspection, extreme_deviations
from sb3_llmdpd.inspection.texts import AlikeTexts

_MANY_FAILED = 0.5  # share of the transitions above which cloning mostly clones failures
_SATURATED = 0.9  # share of the steps at a bound above which an action needs a look: a gripper is often shut
_NARROW = 0.05  # share of the range between the bounds below which actions are probably of other units
_SCALE_RATIO = 1e4  # ratio of the largest to the smallest deviation that units alone rarely explain
_SHOWN = 5  # names and sentences that a finding shows


@dataclass(frozen=True)
class Finding:
    """Something to mend, or to know.

    :param kind: subject, e.g. ``"rewards"``.
    :param sentence: the finding and the remedy.
    :param details: a line for each of the first cases.
    """

    kind: str
    sentence: str
    details: tuple[str, ...] = ()


def findings(inspection: Inspection) -> tuple[Finding, ...]:
    """Judge the numbers of `inspect_sources`; the findings that stop training come first."""
    return tuple(finding for check in _CHECKS for finding in check(inspection))


def _unreadable(inspection: Inspection) -> Iterator[Finding]:
    subjects, reasons = ("source cannot", "sources cannot"), inspection.unopened
    there = "nothing here is about what would be in there: mend what is damaged, or train without"
    yield from _counted("unopened", reasons, subjects, f"be opened, and {there}", reasons)
    reasons = tuple(source.broken_off for source in inspection.sources if source.broken_off is not None)
    after = "nothing here is about what comes after: write the data again, or fetch them again"
    yield from _counted("broken off", reasons, subjects, f"be read to the end, and {after}", reasons)
    if refused := inspection.refused:
        n_all = len(refused) + len(inspection.episodes)
        remedy = "mend what is wrong there, or write the data without"
        stops = f"cannot be read, and training stops at the first of them: {remedy}"
        yield Finding("refused", f"{len(refused):,} of {n_all:,} episodes {stops}.", _first(refused))


def _bounds(inspection: Inspection) -> Iterator[Finding]:
    space = inspection.action_space
    if not space.is_bounded() or not (space.low < space.high).all():
        remedy = "write the data with the bounds that the actuators have"
        needed = f"training needs finite bounds with room between them: {remedy}"
        yield Finding("bounds", f"The action space is {space}, and {needed}.")


def _warned(inspection: Inspection) -> Iterator[Finding]:
    sentences = [f"{sentence.rstrip('.')}." for source in inspection.sources for sentence in source.warnings]
    if len(sentences) > _SHOWN:  # many sources, which mostly give the same warning
        together = f"Reading gave {len(sentences):,} warnings, each of which says what to do."
        yield Finding("warning", together, _first(sentences))
    else:
        yield from (Finding("warning", sentence) for sentence in sentences)


def _outcomes(inspection: Inspection) -> Iterator[Finding]:
    n_tasks, unrewarded = (
        len(inspection.tasks),
        [task.name for task in inspection.tasks if not task.is_rewarded],
    )
    unrecorded = [episode for episode in inspection.episodes if not episode.rewarded]
    if unrecorded:
        which = f"{len(unrecorded):,} of {len(inspection.episodes):,} episodes record no rewards"
        remedy = "the Q term, which learns from them, is refused: clone with --eta 0, or record rewards"
        yield Finding("rewards", f"{which}, and {remedy}.")
    elif len(unrewarded) == n_tasks:
        no_use = "the Q term has nothing to tell good actions from bad ones by"
        remedy = "clone with --eta 0, or record rewards"
        yield Finding("rewards", f"Every reward is 0, so that {no_use}: {remedy}.")
    else:
        no_use = "the Q term has nothing there to tell good actions from bad ones by"
        rest = f"no reward but 0, of {n_tasks:,} ({_some(unrewarded)}), and {no_use}"
        remedy = "record rewards, or clone with --eta 0"
        yield from _counted("rewards", unrewarded, _TASKS_HAVE, f"{rest}: {remedy}")
    if inspection.failed is not None and inspection.failed[1] > _MANY_FAILED:
        of_episodes, of_steps = inspection.failed
        yield Finding(
            "failures",
            f"{of_episodes:.0%} of the episodes failed, and {of_steps:.0%} of the transitions are theirs, so"
            " that cloning mostly clones failures: leave failed episodes out, or draw better ones more often"
            " with --return-weight.",
        )


def _actions(inspection: Inspection) -> Iterator[Finding]:
    entries = inspection.actions
    fixed = [entry.never_changes for entry in entries]
    remedy = "leave out what moves nothing, or check the recording"
    yield from _entries("fixed", "actions", entries, fixed, "never change", f": {remedy}")
    saturated = [(entry.at_bound or 0.0) > _SATURATED and not entry.never_changes for entry in entries]
    rest = f" at a bound in more than {_SATURATED:.0%} of the steps"
    remedy = "check that actions and bounds are in the same units"
    yield from _entries("saturated", "actions", entries, saturated, "lie", f"{rest}: {remedy}")
    space = inspection.action_space
    ranges = (space.high.astype(float) - space.low).ravel().tolist()
    narrow = [
        math.isfinite(width) and entry.high - entry.low < _NARROW * width and not entry.never_changes
        for entry, width in zip(entries, ranges, strict=True)
    ]
    rest = f" less than {_NARROW:.0%} of the range between their bounds"
    remedy = "check the units, or say the actuators' bounds with --action-low and --action-high"
    yield from _entries("narrow", "actions", entries, narrow, "use", f"{rest}: {remedy}")


def _observations(inspection: Inspection) -> Iterator[Finding]:
    entries = inspection.observations
    fixed = [entry.never_changes for entry in entries]
    remedy = "padding does no harm, but a sensor that was not recorded does"
    yield from _entries("fixed", "observations", entries, fixed, "never change", f": {remedy}")
    if (extremes := extreme_deviations(entries)) is None:
        return
    smallest, largest = extremes
    if (ratio := largest.deviation / smallest.deviation) > _SCALE_RATIO:
        low, high = (f"{entry.deviation:.3g} of entry {entry.name}" for entry in extremes)
        yield Finding(
            "scales",
            f"Observations differ in scale by a factor of {ratio:,.0f} (standard deviations: {high}, {low}):"
            " check units and outliers, since vectors are divided by these deviations.",
        )


def _texts(inspection: Inspection) -> Iterator[Finding]:
    if len(inspection.tasks) == 1:
        return  # a model of one task needs no sentence
    missing = [task.name for task in inspection.tasks if not task.texts]
    rest = f"no sentence, of {len(inspection.tasks):,} ({_some(missing)})"
    remedy = "give them one each with --task-texts, or prompt with example trajectories alone"
    yield from _counted("missing texts", missing, _TASKS_HAVE, f"{rest}: {remedy}")
    shared, similar = inspection.texts.shared, inspection.texts.similar
    rest = "for several tasks, which a policy told by text alone mixes up"
    remedy = "write others with --task-texts, or give what is one task one task id"
    lines = [f"{alike.texts[0]!r}: {_some(alike.tasks)}" for alike in shared]
    subjects = ("sentence stands", "sentences stand")
    yield from _counted("shared texts", shared, subjects, f"{rest}: {remedy}", lines)
    rest = f"nearly the same sentence for the encoder {inspection.texts.encoder_name!r}"
    remedy = "word them further apart with --task-texts, or prompt with examples, too"
    subjects = ("pair of tasks has", "pairs of tasks have")
    yield from _counted("similar texts", similar, subjects, f"{rest}: {remedy}", [*map(_pair, similar)])


def _pair(alike: AlikeTexts) -> str:
    one, other = (f"{text!r} ({task})" for text, task in zip(alike.texts, alike.tasks, strict=True))
    return f"cosine {alike.cosine:.3f}: {one} and {other}"


def _prompts(inspection: Inspection) -> Iterator[Finding]:
    single = [task.name for task in inspection.tasks if task.n_episodes == 1]
    why = "which is prompted with another part of itself, since there is no other to show"
    rest = f"a single episode ({_some(single)}), {why}: record a second one"
    yield from _counted("single episodes", single, _TASKS_HAVE, rest)
    first: dict[str, str] = {}
    again: list[str] = []
    for episode in inspection.episodes:
        if episode.digest in first:
            again.append(f"{episode.source} is {first[episode.digest]} again")
        first.setdefault(episode.digest, episode.source)
    remedy = "keep one of each, or a prompt may be a copy of what it explains"
    rest = f"there already, number for number: {remedy}"
    yield from _counted("duplicates", again, ("episode is", "episodes are"), rest, again)


_CHECKS = (_unreadable, _bounds, _warned, _outcomes, _actions, _observations, _texts, _prompts)

_TASKS_HAVE = ("task has", "tasks have")


def _counted(
    kind: str, things: Sequence[object], subjects: tuple[str, str], rest: str, details: Sequence[str] = ()
) -> Iterator[Finding]:
    """Yield a finding about things, if there are any; the subjects are for one and for several."""
    if things:
        subject = subjects[0] if len(things) == 1 else subjects[1]
        yield Finding(kind, f"{len(things):,} {subject} {rest}.", _first(details))


def _entries(
    kind: str, of: str, entries: Sequence[EntryNumbers], chosen: Sequence[bool], verb: str, rest: str
) -> Iterator[Finding]:
    """Yield a finding about the chosen entries, if there are any; neighbours are named as one span."""
    runs = groupby(zip(entries, chosen, strict=True), lambda pair: pair[1])
    spans = [[entry.name for entry, _ in run] for is_chosen, run in runs if is_chosen]
    names = [span[0] + (f" to {span[-1]}" if len(span) > 1 else "") for span in spans]
    if n := sum(chosen):
        subject = f"{n:,} of {len(entries):,} entries of the {of} ({_some(names)})"
        yield Finding(f"{kind} {of}", f"{subject} {verb}{'s' if n == 1 else ''}{rest}.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _first(sentences: Sequence[str]) -> tuple[str, ...]:
    more = (f"and {len(sentences) - _SHOWN:,} more",) if len(sentences) > _SHOWN else ()
    return (*sentences[:_SHOWN], *more)
