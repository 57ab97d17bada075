"""Leaves out a few tasks at a time: short trainings on the others, and what they do on those left out."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.fingerprint import episode_digest, fingerprint
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.prompts.prompt import Prompt, window_steps
from sb3_llmdpd.validation.errors import SMALLEST_SPREAD, EpisodeError, HeldOutErrors, action_spread, measure
from sb3_llmdpd.validation.held_out import SEED, HeldOut, hold_out
from sb3_llmdpd.validation.nearness import Nearness, Neighbourhood
from sb3_llmdpd.validation.probes import N_EPISODES, N_STEPS, PROMPTS, Probe, by_outcome, make_probes

SETTINGS: Mapping[str, Any] = {"policy": "MlpPolicy", "seed": 0, "eta": 0.0}
"""Arguments of the trainings that differ from the defaults of `LLMDPD`: no critic, which costs most."""

PLAN = "plan.json"

_KNOWN_SHARE = 0.1
"""Share of a known task's episodes that is held out, so that there is something to compare with."""
_MOST_FOLDS, _FEWEST_FOLDS = 10, 3
_MOST_STEPS, _ENOUGH_STEPS, _FEWEST_STEPS = 3_000, 1_000, 50
"""Gradient steps of a training: there are as many folds as leave enough of them."""
_OF_FOLDS = 0.7
"""Share of the time that the folds may take; the rest is for a training without episodes that disagree."""
_SCORED, _SHOWN = 20, 4
"""Episodes of a task that are compared with its others, and how many of these are shown as examples."""
_WARM_UP, _TIMED = 5, 20
"""Gradient steps that are taken to know how long one takes."""


@dataclass(frozen=True)
class Plan:
    """Trainings that fit a budget.

    :param folds: tasks that each training leaves out; every task is in one of them.
    :param steps: gradient steps of each training.
    :param minutes: the budget.
    """

    folds: tuple[tuple[str, ...], ...]
    steps: int
    minutes: float


@dataclass(frozen=True)
class EpisodeScore:
    """Error of one episode of a task that was left out, when others of the task are shown.

    :param digest: tells the episode from all others, see `episode_digest`.
    :param source: its name.
    :param task: its task.
    :param error: relative error of the actions, see `EpisodeError`.
    """

    digest: str
    source: str
    task: str
    error: float


@dataclass(frozen=True)
class Fold:
    """Findings of one training without some of the tasks.

    :param left_out: the tasks.
    :param errors: errors on them, and on held-out episodes of the others.
    :param nearness: distances of each task that was left out to those that were not.
    :param scores: the episodes of the tasks that were left out.
    :param seconds: time that it took.
    """

    left_out: tuple[str, ...]
    errors: HeldOutErrors
    nearness: Mapping[str, Nearness]
    scores: tuple[EpisodeScore, ...]
    seconds: float


def plan_folds(tasks: Sequence[str], minutes: float, step_s: float, other_s: float, seed: int = SEED) -> Plan:
    """Choose how many trainings there are, and how long each is.

    Many folds leave out few tasks each, as a training on all of them leaves out none; too short trainings
    tell nothing. A budget that is too small is exceeded.

    :param tasks: names of at least two tasks.
    :param minutes: budget.
    :param step_s: seconds that a gradient step takes.
    :param other_s: seconds of a training that are not gradient steps.
    :param seed: seed of the order of the tasks.
    """
    fewest = min(len(tasks), _FEWEST_FOLDS)
    for n_folds in range(min(len(tasks), _MOST_FOLDS), fewest - 1, -1):
        steps = int((_OF_FOLDS * 60.0 * minutes / n_folds - other_s) / step_s)
        if steps >= _ENOUGH_STEPS:
            break
    order = np.random.default_rng(seed).permutation(sorted(tasks)).tolist()
    folds = tuple(tuple(part) for part in (order[number::n_folds] for number in range(n_folds)))
    return Plan(folds, min(max(steps, _FEWEST_STEPS), _MOST_STEPS), minutes)


class LeaveOut:
    """Trains without a few tasks at a time and keeps what is done in a folder.

    :param data: episodes of at least two tasks.
    :param minutes: budget of time for all trainings.
    :param folder: folder of the plan, the finished folds and their models; those that are there are kept.
    :param settings: arguments of `LLMDPD` that differ from `SETTINGS`.
    :raises ValueError: when there are not two tasks, all actions are the same, or the folder belongs to other
        data or settings.
    """

    def __init__(
        self, data: OfflineDataset, minutes: float, folder: Path, settings: Mapping[str, Any]
    ) -> None:
        if len(data.tasks) < 2:
            raise ValueError(
                "the data hold one task, and none can be left out: measure held-out episodes instead, with"
                " train --validation 0.1"
            )
        if not minutes > 0:
            raise ValueError(f"the budget must be more than 0 minutes, got {minutes:g}")
        self.data, self.folder = data, folder
        self.settings = {**SETTINGS, **settings}
        self.same_goal = bool(self.settings.get("same_goal", False))
        self._digests = {id(episode): episode_digest(episode) for episode in data.episodes}
        of_settings = json.loads(json.dumps(to_json({**self.settings, "device": None})))
        self._about = {"data": fingerprint(data), "minutes": minutes, "settings": of_settings}
        self._refuse_others()
        self._spread = action_spread(data)
        if self._spread.max() <= SMALLEST_SPREAD:
            raise ValueError("all actions of the data are the same, so that there is nothing to learn")

    def plan(self) -> Plan:
        """Read the plan, or take a few gradient steps to make one."""
        if (made := self._read(PLAN)) is None:
            tasks = self.data.tasks
            step_s, other_s = self._timed(self._parts(tasks[:1]))
            made = {**self._about, **asdict(plan_folds(tasks, self._about["minutes"], step_s, other_s))}
            self._write(PLAN, made)
        return Plan(tuple(map(tuple, made["folds"])), made["steps"], made["minutes"])

    def fold(self, plan: Plan, number: int) -> Fold:
        """Read a fold, or train and measure it.

        :param plan: the plan.
        :param number: number of the fold in the plan.
        """
        name = f"fold-{number}.json"
        if (made := self._read(name)) is None:
            begin = time.monotonic()
            parts = self._parts(plan.folds[number])
            model = self._trained(parts.training, plan.steps)
            model.save(self._model_path(number))
            made = {
                "errors": [asdict(error) for error in self._measured(model, parts).episodes],
                "nearness": {task: asdict(near) for task, near in nearness_of_left_out(model, parts).items()},
                "scores": [asdict(score) for score in self._scores(model, plan.folds[number])],
                "seconds": round(time.monotonic() - begin, 3),
            }
            self._write(name, made)
        errors = tuple(_error_of(row) for row in made["errors"])
        return Fold(
            plan.folds[number],
            HeldOutErrors(plan.steps, errors, ()),
            {task: Nearness(**near) for task, near in made["nearness"].items()},
            tuple(EpisodeScore(**score) for score in made["scores"]),
            made["seconds"],
        )

    def model(self, number: int) -> LLMDPD:
        """Load the model of a finished fold."""
        device = self.settings.get("device", "auto")
        return LLMDPD.load(self._model_path(number), device=device, trust_encoder=True)

    def neighbourhood(self) -> Neighbourhood:
        """Make the neighbourhood of all tasks, by a model that is not trained."""
        return Neighbourhood(LLMDPD(dataset=self.data, **self.settings), self.data)

    def errors_on(self, episodes: OfflineDataset, number: int) -> HeldOutErrors:
        """Measure the model of a fold on episodes of tasks that are not in the data.

        :param episodes: the episodes.
        :param number: number of a finished fold.
        """
        parts = HeldOut(self.data, episodes, frozenset(episodes.tasks))
        return self._measured(self.model(number), parts)

    def without(self, plan: Plan, number: int, digests: frozenset[str]) -> HeldOutErrors:
        """Train a fold once more without some episodes, or read what came out.

        :param plan: the plan.
        :param number: number of the fold.
        :param digests: the episodes that are neither learned from nor measured.
        """
        name = f"without-{number}.json"
        made = self._read(name)
        if made is None or set(made["digests"]) != digests:
            parts = self._parts(plan.folds[number])
            training = parts.training.only(lambda episode: self._digests[id(episode)] not in digests)
            model = self._trained(training, plan.steps)
            measured = self._measured(model, HeldOut(training, parts.validation, parts.unseen))
            made = {"digests": sorted(digests), "errors": [asdict(error) for error in measured.episodes]}
            self._write(name, made)
        return HeldOutErrors(plan.steps, tuple(_error_of(row) for row in made["errors"]), ())

    def learned_from(self, plan: Plan, number: int) -> frozenset[str]:
        """Name the episodes that a fold's training learns from, by their digests."""
        training = self._parts(plan.folds[number]).training
        return frozenset(self._digests[id(episode)] for episode in training.episodes)

    def _refuse_others(self) -> None:
        """Refuse a folder that belongs to other data, another budget or other settings."""
        made = self._read(PLAN)
        if made is None:
            return
        differing = [name for name, value in self._about.items() if made.get(name) != value]
        if differing:
            raise ValueError(
                f"{self.folder} holds the advice on other {' and '.join(differing)}: choose another folder,"
                " or delete this one"
            )

    def _parts(self, left_out: Sequence[str]) -> HeldOut:
        """Leave out whole tasks, and a share of the episodes of others, of which two are left."""
        # Episodes of one goal stay together where an example has to be of the same goal.
        goals = {
            (episode.task, episode.goal if self.same_goal else number)
            for number, episode in enumerate(self.data.episodes)
        }
        counts = Counter(task for task, _ in goals)
        several = [task for task, n in counts.items() if n > 2 and task not in left_out]
        measured: set[int] = set()
        if several:
            of_several = self.data.only(lambda episode: episode.task in several)
            held_out = hold_out(of_several, _KNOWN_SHARE, same_goal=self.same_goal)
            measured = {id(episode) for episode in held_out.validation.episodes}
        return HeldOut(
            self.data.only(lambda episode: id(episode) not in measured and episode.task not in left_out),
            self.data.only(lambda episode: id(episode) in measured or episode.task in left_out),
            frozenset(left_out),
        )

    def _trained(self, training: OfflineDataset, steps: int) -> LLMDPD:
        return LLMDPD(dataset=training, **self.settings).learn(steps)

    def _timed(self, parts: HeldOut) -> tuple[float, float]:
        """Measure the seconds of a gradient step, and those of a training beside its steps."""
        begin = time.monotonic()
        model = self._trained(parts.training, _WARM_UP)
        build_s = time.monotonic() - begin
        begin = time.monotonic()
        model.learn(_TIMED, reset_num_timesteps=False)
        step_s = (time.monotonic() - begin) / _TIMED
        probes = self._probes(model, parts)[:N_EPISODES]
        begin = time.monotonic()
        measure(model, probes, self._spread)
        n_tasks = len(self.data.tasks)
        asked = n_tasks * (1 + N_EPISODES / _FEWEST_FOLDS) + n_tasks * _SCORED / _FEWEST_FOLDS / len(PROMPTS)
        return step_s, build_s + (time.monotonic() - begin) / len(probes) * asked

    def _measured(self, model: LLMDPD, parts: HeldOut) -> HeldOutErrors:
        return measure(model, self._probes(model, parts), self._spread)

    def _probes(self, model: LLMDPD, parts: HeldOut) -> list[Probe]:
        return make_probes(parts, reads_texts=model.text_encoder is not None, same_goal=self.same_goal)

    def _scores(self, model: LLMDPD, tasks: Sequence[str]) -> list[EpisodeScore]:
        """Measure each episode of the tasks, of which the next ones in a circle are shown."""
        found = []
        for task in tasks:
            episodes, _ = by_outcome([one for one in self.data.episodes if one.task == task])
            probes = [self._shown_others(episodes, number) for number in range(min(len(episodes), _SCORED))]
            measured = measure(model, probes, self._spread).episodes if len(episodes) > 1 else ()
            found += [
                EpisodeScore(self._digests[id(probe.episode)], one.source, task, one.relative)
                for probe, one in zip(probes, measured, strict=False)
            ]
        return found

    def _shown_others(self, episodes: Sequence[Episode], number: int) -> Probe:
        episode = episodes[number]
        others = [*episodes[number + 1 :], *episodes[:number]]
        if self.same_goal:
            others = [other for other in others if other.goal == episode.goal]
        text = episode.task_texts[0] if episode.task_texts and self._reads_texts else None
        steps = window_steps(np.array([episode.prompt_length]), N_STEPS)[0]
        return Probe(episode, False, True, steps, {"both": Prompt(text, trajectories=tuple(others[:_SHOWN]))})

    @property
    def _reads_texts(self) -> bool:
        return self.settings.get("text_encoder", "minilm") is not None

    def _model_path(self, number: int) -> Path:
        return self.folder / f"fold-{number}.zip"

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            made: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged: delete it, and what it held is done again") from error
        return made

    def _write(self, name: str, made: Mapping[str, Any]) -> None:
        with whole_file(self.folder / name) as temporary:
            temporary.write_text(json.dumps(made, indent=1))


def nearness_of_left_out(model: LLMDPD, parts: HeldOut) -> dict[str, Nearness]:
    """Compare the tasks that were left out with the others, by a first episode and a first sentence.

    :param model: model of the others.
    :param parts: parts of the data.
    """
    neighbourhood, found = Neighbourhood(model, parts.training), {}
    for task in sorted(parts.unseen or ()):
        episodes, _ = by_outcome([one for one in parts.validation.episodes if one.task == task])
        texts = episodes[0].task_texts
        found[task] = neighbourhood.of(episodes[0], texts[0] if texts else None)
    return found


def _error_of(row: Mapping[str, Any]) -> EpisodeError:
    return EpisodeError(**{**row, "entries": tuple(row["entries"]), "phases": tuple(row["phases"])})
