"""`advise`, which says from the data alone what can be learned of them, and how near a new task is."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.loading import DatasetLike, load_dataset
from sb3_llmdpd.evaluation.statistics import Estimate, mean_over_tasks
from sb3_llmdpd.inspection.texts import AlikeTexts, TextComparer
from sb3_llmdpd.validation.errors import action_spread
from sb3_llmdpd.validation.folds import EpisodeScore, Fold, LeaveOut, Plan
from sb3_llmdpd.validation.judgement import (
    LIKELY,
    ODD_TIMES,
    ODD_Z,
    OPEN,
    WORKS,
    Judgement,
    LeftOut,
    advised_prompt,
    gain,
    judge_distance,
    judge_error,
    odd_scores,
)
from sb3_llmdpd.validation.nearness import Nearness, Neighbourhood
from sb3_llmdpd.validation.probes import PROMPTS, by_outcome

NewLike = str | Sequence[Episode] | OfflineDataset
"""A sentence, or episodes of a new task."""

_FEW = 5
"""Episodes of a task below which it has few: a training prompt shows up to so many others."""
_HARDLY_VARY = 0.2
"""Deviation of a task's actions, over that in all data, below which they hardly vary."""
_MANY_FAILED = 0.5
_REMOVED = 5
"""Episodes that disagree most, without which one more training is done."""
_ASKED = 3
"""Models without some tasks that are asked about a new one."""
_NEAREST = 3
_NEW = "the new task"


@dataclass(frozen=True)
class TaskAdvice:
    """Findings on one task when it was left out.

    :param task: its name.
    :param errors: relative error by prompt, see `EpisodeError`.
    :param prompt: prompt to use for it.
    :param learned: help by that prompt, see `gain`.
    :param nearness: its distances to the tasks that were not left out.
    :param lacks: deficits of its data, a sentence each.
    """

    task: str
    errors: Mapping[str, float]
    prompt: str
    learned: float
    nearness: Nearness
    lacks: tuple[str, ...]

    @property
    def works(self) -> bool:
        """True if the prompt helps enough for the task to be expected to work."""
        return self.learned >= WORKS


@dataclass(frozen=True)
class OddEpisode:
    """An episode that disagrees with its task.

    :param source: its name.
    :param task: its task.
    :param error: its relative error.
    :param times: the same over the median of its task.
    :param z: robust z of its logarithm, see `odd_scores`.
    :param digest: tells it from all others.
    """

    source: str
    task: str
    error: float
    times: float
    z: float
    digest: str


@dataclass(frozen=True)
class Removal:
    """Change by a training without episodes that disagree, one training each.

    :param sources: names of the episodes.
    :param before: relative error on other held-out episodes of their tasks, learned from with them.
    :param after: the same without.
    """

    sources: tuple[str, ...]
    before: float
    after: float


@dataclass(frozen=True)
class NewAdvice:
    """Expectation of a new task.

    :param name: name of its task, or its sentence.
    :param text: its sentence; None for none.
    :param n_episodes: episodes that were given.
    :param nearest: the nearest known tasks with their distances, by ``"example"`` and ``"sentence"``.
    :param errors: relative errors on its own episodes by prompt; empty for a sentence.
    :param judgements: verdicts by ``"example"`` and ``"sentence"``, of those that were given.
    :param verdict: a sentence.
    """

    name: str
    text: str | None
    n_episodes: int
    nearest: Mapping[str, tuple[tuple[str, float], ...]]
    errors: Mapping[str, float]
    judgements: Mapping[str, Judgement]
    verdict: str


@dataclass(frozen=True)
class Advice:
    """All that the data tell.

    :param plan: trainings that were done.
    :param known_error: lowest relative error on held-out episodes of known tasks, over the prompts; None
        where no task has two episodes.
    :param tasks: all tasks, the worst learned first.
    :param prompt: prompt to use where nothing is known of a task.
    :param prompts: relative errors on tasks that were left out, by prompt, with 95% bootstrap intervals.
    :param odd: episodes that disagree with their task, the oddest first.
    :param removal: change by a training without these; None where none was done.
    :param alike: tasks with the same sentence, or nearly so.
    :param alike_left_out: reason why sentences were not compared by their vectors; None where they were.
    :param new: new tasks that were asked about.
    """

    plan: Plan
    known_error: float | None
    tasks: tuple[TaskAdvice, ...]
    prompt: str
    prompts: Mapping[str, Estimate]
    odd: tuple[OddEpisode, ...]
    removal: Removal | None
    alike: tuple[AlikeTexts, ...]
    alike_left_out: str | None
    new: tuple[NewAdvice, ...]


def advise(
    dataset: DatasetLike,
    minutes: float = 10.0,
    new: Sequence[NewLike] = (),
    folder: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Advice:
    """Say what can be learned of data: short trainings leave out a few tasks at a time.

    :param dataset: data of at least two tasks, as `LLMDPD` takes them.
    :param minutes: budget of time.
    :param new: sentences of new tasks, or episodes of them, in the same spaces.
    :param folder: folder that keeps what is done, so that a second call goes on; None to keep nothing.
    :param say: told what is being done.
    :param settings: arguments of `LLMDPD` for the trainings; by default ``eta`` is 0, so that no critic costs
        time.
    :return: the advice.
    :raises ValueError: when there are not two tasks, the folder belongs to other data or settings, or a new
        episode does not fit the spaces.
    """
    data = _named_apart(load_dataset(dataset))
    asked = [each for one in new for each in _asked(one, data)]  # before anything is trained
    with tempfile.TemporaryDirectory() as temporary:
        trainings = LeaveOut(data, minutes, Path(temporary if folder is None else folder), settings)
        return _Adviser(data, trainings, say or (lambda _: None)).advice(asked)


def _named_apart(data: OfflineDataset) -> OfflineDataset:
    """Give episodes names of their own where some share one."""
    if len({episode.source for episode in data.episodes}) == len(data.episodes):
        return data
    counts: dict[str, int] = {}
    named = []
    for episode in data.episodes:
        number = counts[episode.task] = counts.get(episode.task, -1) + 1
        named.append(replace(episode, source=f"{episode.task}, episode {number}"))
    return OfflineDataset(tuple(named), data.observation_space, data.action_space, checked=True)


@dataclass(frozen=True)
class _Asked:
    """A new task: its name, its sentence, and its episodes, which may be none."""

    name: str
    text: str | None
    episodes: tuple[Episode, ...] = ()


def _asked(new: NewLike, data: OfflineDataset) -> list[_Asked]:
    if isinstance(new, str):
        return [_Asked(new, new)]
    given = new.episodes if isinstance(new, OfflineDataset) else tuple(new)
    fitting = OfflineDataset(given, data.observation_space, data.action_space)
    found = []
    for task in fitting.tasks:
        episodes = tuple(episode for episode in fitting.episodes if episode.task == task)
        text = next((episode.task_texts[0] for episode in episodes if episode.task_texts), None)
        found.append(_Asked(task, text, episodes))
    return found


class _Adviser:
    """Puts the results of all folds together.

    :param data: all data.
    :param trainings: trainings that leave tasks out.
    :param say: told what is being done.
    """

    def __init__(self, data: OfflineDataset, trainings: LeaveOut, say: Callable[[str], None]) -> None:
        self.data, self.trainings, self.say = data, trainings, say
        encoder = trainings.settings.get("text_encoder", "minilm")
        texts: dict[str, dict[str, None]] = {}
        for episode in data.episodes:
            texts.setdefault(episode.task, {}).update(dict.fromkeys(episode.task_texts))
        self.compared = TextComparer(encoder).compare(texts)
        self.plan = trainings.plan()
        n, steps = len(self.plan.folds), self.plan.steps
        say(f"{n} trainings of {steps:,} steps leave out {_sizes(self.plan)} of {len(data.tasks)} tasks each")
        self.folds = [self._fold(number) for number in range(n)]
        self.known_error = self._known_error()

    def advice(self, asked: Sequence[_Asked]) -> Advice:
        """Give the advice, with that on new tasks."""
        odd = self._odd()
        tasks = self._tasks(odd)
        removal = self._removal(odd)
        prompts = {prompt: self._estimate(prompt) for prompt in self._prompts()}
        return Advice(
            self.plan,
            self.known_error,
            tasks,
            advised_prompt({prompt: one.value for prompt, one in prompts.items()}),
            prompts,
            odd,
            removal,
            (*self.compared.shared, *self.compared.similar),
            self.compared.left_out,
            self._new(asked, tasks),
        )

    def _fold(self, number: int) -> Fold:
        fold = self.trainings.fold(self.plan, number)
        left_out = ", ".join(fold.left_out)
        self.say(f"{number + 1} of {len(self.plan.folds)}, {fold.seconds:.0f} s: without {left_out}")
        return fold

    def _prompts(self) -> list[str]:
        return [prompt for prompt in PROMPTS if any(fold.errors.of(False, prompt) for fold in self.folds)]

    def _estimate(self, prompt: str) -> Estimate:
        of_tasks = [task for fold in self.folds for task in fold.errors.of(False, prompt).values()]
        return mean_over_tasks([[episode.relative for episode in episodes] for episodes in of_tasks])

    def _known_error(self) -> float | None:
        """Compute the lowest error on known tasks, over the prompts."""
        of_prompts = [
            [fold.errors.relative_error(True, prompt) for fold in self.folds]
            for prompt in self._prompts()
            if any(fold.errors.of(True, prompt) for fold in self.folds)
        ]
        return min((float(np.nanmean(errors)) for errors in of_prompts), default=None)

    # Episodes that disagree ---------------------------------------------------------------------------------

    def _odd(self) -> tuple[OddEpisode, ...]:
        scores = [score for fold in self.folds for score in fold.scores]
        if not scores:
            return ()
        zs = odd_scores([score.error for score in scores], [score.task for score in scores])
        median = {
            task: float(np.median([score.error for score in scores if score.task == task]))
            for task in {score.task for score in scores}
        }
        judged = [
            _odd_episode(score, z, median[score.task])
            for score, z in zip(scores, zs, strict=True)
            if z is not None
        ]
        odd = [episode for episode in judged if episode.z >= ODD_Z and episode.times >= ODD_TIMES]
        return tuple(sorted(odd, key=lambda episode: -episode.z))

    def _removal(self, odd: Sequence[OddEpisode]) -> Removal | None:
        """Train once more without the oddest episodes, in the fold that learned from most of them."""
        seconds = sum(fold.seconds for fold in self.folds)
        if not odd or seconds + max(fold.seconds for fold in self.folds) > 60.0 * self.plan.minutes:
            return None
        oddest = odd[:_REMOVED]
        learned = [self.trainings.learned_from(self.plan, number) for number in range(len(self.folds))]
        counts = [sum(episode.digest in digests for episode in oddest) for digests in learned]
        number = int(np.argmax(counts))
        removed = [episode for episode in oddest if episode.digest in learned[number]]
        if not removed:
            return None
        self.say(f"One more training, without what disagrees: {', '.join(one.source for one in removed)}")
        digests = frozenset(episode.digest for episode in removed)
        after = self.trainings.without(self.plan, number, digests)
        tasks = {episode.task for episode in removed}
        prompt = after.chosen_by[1]
        sources = {episode.source for episode in odd}

        def error(errors: Any) -> float:
            rows = [
                episode.relative
                for episode in errors.episodes
                if episode.seen and episode.prompt == prompt
                if episode.task in tasks and episode.source not in sources
            ]
            return float(np.mean(rows)) if rows else float("nan")

        before = error(self.folds[number].errors)
        if np.isnan(before):
            return None
        return Removal(tuple(episode.source for episode in removed), before, error(after))

    # Tasks --------------------------------------------------------------------------------------------------

    def _tasks(self, odd: Sequence[OddEpisode]) -> tuple[TaskAdvice, ...]:
        found = []
        for fold in self.folds:
            for task in fold.left_out:
                errors = _task_errors(fold, task)
                prompt = advised_prompt(errors)
                learned = gain(errors[prompt], errors["none"])
                nearness = fold.nearness[task]
                lacks = tuple(self._lacks(task, errors, learned, nearness, odd))
                found.append(TaskAdvice(task, errors, prompt, learned, nearness, lacks))
        return tuple(sorted(found, key=lambda task: task.learned))

    def _lacks(
        self,
        task: str,
        errors: Mapping[str, float],
        learned: float,
        nearness: Nearness,
        odd: Sequence[OddEpisode],
    ) -> list[str]:
        episodes = [episode for episode in self.data.episodes if episode.task == task]
        found = [*_lacks_of_episodes(episodes, self.data), *self._alike_sentences(task)]
        if n_odd := sum(episode.task == task for episode in odd):
            verb = "disagrees" if n_odd == 1 else "disagree"
            found.append(f"{n_odd} of its {len(episodes)} episodes {verb} with the others, see below")
        if learned < WORKS:
            shown = min((errors[prompt] for prompt in ("both", "example") if prompt in errors), default=None)
            if shown is not None and shown >= errors["none"]:
                found.append("an example of it does not help: others hardly show what to do in it")
            if nearness.example:
                near, distance = min(nearness.example.items(), key=lambda pair: pair[1])
                found.append(f"the nearest other task, {near}, is {distance:.2f} away: record more like it")
        return found

    def _alike_sentences(self, task: str) -> list[str]:
        found = []
        for alike in (*self.compared.shared, *self.compared.similar):
            if task in alike.tasks:
                others = ", ".join(name for name in alike.tasks if name != task)
                how = "the same as" if len(alike.texts) == 1 else f"much like (cosine {alike.cosine:.2f})"
                found.append(f"its sentence is {how} that of {others}: word it otherwise")
        return found

    # New tasks ----------------------------------------------------------------------------------------------

    def _new(self, asked: Sequence[_Asked], tasks: Sequence[TaskAdvice]) -> tuple[NewAdvice, ...]:
        if not asked:
            return ()
        self.say(f"Comparing {len(asked)} new tasks")
        neighbourhood = self.trainings.neighbourhood()
        return tuple(self._new_task(one, neighbourhood, tasks) for one in asked)

    def _new_task(
        self, asked: _Asked, neighbourhood: Neighbourhood, tasks: Sequence[TaskAdvice]
    ) -> NewAdvice:
        episodes, _ = by_outcome(asked.episodes)
        nearness = neighbourhood.of(episodes[0] if episodes else None, asked.text)
        errors = self._errors_on(asked) if episodes else {}
        judgements = {}
        for shown, prompts in (("example", ("both", "example")), ("sentence", ("sentence",))):
            measured = [errors[prompt] for prompt in prompts if prompt in errors]
            distance = nearness.to_nearest(shown)
            left_out = self._left_out(tasks, shown, prompts)
            if measured:
                judgements[shown] = judge_error(min(measured), errors["none"])
            elif distance is not None and left_out:
                judgements[shown] = judge_distance(distance, left_out)
        nearest = {
            shown: tuple(sorted(getattr(nearness, shown).items(), key=lambda pair: pair[1])[:_NEAREST])
            for shown in ("example", "sentence")
        }
        return NewAdvice(
            asked.name,
            asked.text,
            len(asked.episodes),
            {shown: tasks for shown, tasks in nearest.items() if tasks},
            errors,
            judgements,
            verdict_sentence(judgements),
        )

    def _errors_on(self, asked: _Asked) -> dict[str, float]:
        """Average the errors of a few models on a new task's episodes, of which none has learned."""
        # Under a name of its own: a known task may have the same, whose episodes would serve as examples.
        renamed = tuple(replace(episode, task=_NEW) for episode in asked.episodes)
        episodes = OfflineDataset(renamed, self.data.observation_space, self.data.action_space)
        numbers = range(min(len(self.folds), _ASKED))
        measured = [self.trainings.errors_on(episodes, number) for number in numbers]
        return {
            prompt: float(np.mean([errors.relative_error(False, prompt) for errors in measured]))
            for prompt in measured[0].prompts
        }

    def _left_out(self, tasks: Sequence[TaskAdvice], shown: str, prompts: Sequence[str]) -> list[LeftOut]:
        """List what became of the tasks that were left out, with one kind of prompt."""
        found = []
        for task in tasks:
            distance = task.nearness.to_nearest(shown)
            measured = [task.errors[prompt] for prompt in prompts if prompt in task.errors]
            if distance is not None and measured:
                found.append(LeftOut(distance, gain(min(measured), task.errors["none"]) >= WORKS))
        return found


def verdict_sentence(judgements: Mapping[str, Judgement]) -> str:
    """Say in one sentence what to expect of a new task.

    :param judgements: judgements by ``"example"`` and ``"sentence"``, of those that were given.
    """
    example, sentence = (judgements.get(shown) for shown in ("example", "sentence"))
    if example is None and sentence is None:
        return "Nothing can be said: tasks that were left out had nothing of the kind to compare with."
    if example is None:
        assert sentence is not None
        words = {
            LIKELY: "The sentence alone is likely to work",
            OPEN: "The sentence alone may work; record an example and ask again",
        }
        unlikely = "A sentence alone is not enough; record an example and ask again"
        return f"{words.get(sentence.verdict, unlikely)}: {sentence.reason}."
    words = {LIKELY: "Likely to work with an example", OPEN: "May work with an example"}
    said = f"{words.get(example.verdict, 'Expect nothing, not even with an example')}: {example.reason}"
    if sentence is None:
        return f"{said}."
    if sentence.verdict == LIKELY:
        return f"{said}. The sentence alone is likely to do: {sentence.reason}."
    alone = "may not be enough" if sentence.verdict == OPEN else "is not enough"
    return f"{said}. A sentence alone {alone}: {sentence.reason}."


def _odd_episode(score: EpisodeScore, z: float, median: float) -> OddEpisode:
    times = score.error / max(median, 1e-6)
    return OddEpisode(score.source, score.task, score.error, times, z, score.digest)


def _task_errors(fold: Fold, task: str) -> dict[str, float]:
    rows = {prompt: fold.errors.of(False, prompt).get(task, []) for prompt in fold.errors.prompts}
    return {
        prompt: float(np.mean([episode.relative for episode in episodes]))
        for prompt, episodes in rows.items()
        if episodes
    }


def _lacks_of_episodes(episodes: Sequence[Episode], data: OfflineDataset) -> list[str]:
    """Say what the episodes of a task lack by themselves."""
    found = []
    if len(episodes) < _FEW:
        n = f"{len(episodes)} episode{'' if len(episodes) == 1 else 's'}"
        found.append(f"it has only {n}: record at least {_FEW}")
    if not any(episode.task_texts for episode in episodes):
        found.append("it has no sentence: nothing but an example can tell it")
    known = [episode.success for episode in episodes if episode.success is not None]
    if known and 1.0 - np.mean(known) > _MANY_FAILED:
        found.append(f"{1.0 - np.mean(known):.0%} of its episodes failed")
    spread = action_spread(data)
    own = np.concatenate([episode.actions.reshape(len(episode), -1) for episode in episodes]).std(axis=0)
    share = float((own[spread > 0] / spread[spread > 0]).mean()) if (spread > 0).any() else 1.0
    if share < _HARDLY_VARY:
        found.append(f"its actions hardly vary: {share:.0%} of the spread in all data")
    return found


def _sizes(plan: Plan) -> str:
    sizes = sorted({len(fold) for fold in plan.folds})
    return " or ".join(map(str, sizes))
