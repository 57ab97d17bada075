"""The data sets of D4RL's benchmark, read from any source and checked against the environment."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_llmdpd.benchmarks.d4rl.scores import D4RL_REFERENCES, PUBLISHED, References, minari_references
from sb3_llmdpd.benchmarks.d4rl.settings import (
    MAX_GRAD_NORMS,
    ROBOTS,
    is_of_d4rl,
    label_of,
    published_model,
    robot_and_quality,
    robots_in,
)
from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Reading, read_sources
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.fingerprint import fingerprint
from sb3_llmdpd.data.loading import format_of, open_source
from sb3_llmdpd.data.minari import MinariSource, datasets_root

OTHER_DATA = (
    "A file of D4RL does as well, as d4rl:hopper_medium-v2.hdf5, and so do data of your own"
    " (RecordEpisodes), under any id or file name that names the robot"
)
"""Sentence about what else may be given where a published data set is not there."""


@dataclass(frozen=True)
class DatasetInfo:
    """A description of a data set, for its report and its trainings.

    :param robot: one of `ROBOTS`.
    :param quality: one of `QUALITIES`; None where the name says none.
    :param env_id: environment that evaluates.
    :param sentence: sentence that the variants with a prompt are told.
    :param fingerprint: fingerprint of the episodes.
    :param n_episodes: number of episodes.
    :param n_steps: number of transitions.
    :param best_return: return of the episode that is shown as the example in evaluation.
    :param model: arguments of `LLMDPD` that were published for it.
    :param d4rl: D4RL's references of its robot.
    :param minari: references that a Minari data set itself has; None without.
    :param published: score of Diffusion-QL on this very data set; None for any other.
    :param notes: sentences that the reader has to know.
    """

    robot: str
    quality: str | None
    env_id: str
    sentence: str
    fingerprint: str
    n_episodes: int
    n_steps: int
    best_return: float
    model: Mapping[str, Any]
    d4rl: References
    minari: References | None
    published: str | None
    notes: tuple[str, ...]

    @property
    def deciding(self) -> dict[str, Any]:
        """Everything that decides the numbers, as JSON values; the words of notes may become better ones."""
        return {name: to_json(getattr(self, name)) for name in ("env_id", "sentence", "fingerprint", "model")}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "DatasetInfo":
        """Make what `dataclasses.asdict` took apart."""
        minari = document["minari"]
        made = {
            "d4rl": References(**document["d4rl"]),
            "minari": None if minari is None else References(**minari),
            "notes": tuple(document["notes"]),
        }
        return cls(**{**document, **made})


def read_data(name: str, root: str | Path | None = None) -> OfflineDataset:
    """Read the episodes of one robot, each with a sentence: its own, or that of `ROBOTS`.

    :param name: name of a source, see `format_of`.
    :param root: folder of Minari data sets, by default Minari's own.
    :return: the episodes, of one task.
    :raises ValueError: when the source is not there or damaged, names no robot, or holds several tasks.
    """
    robot, _ = robot_and_quality(label_of(name))
    source = _open(name, root, AS_RECORDED)
    if not _has_sentence(source):
        source = _open(name, root, Reading({source.name: ROBOTS[robot].sentence}))
    data = read_sources([source])
    if len(data.tasks) > 1:
        raise ValueError(
            f"{source.name}: this benchmark trains on one task at a time, and these are {len(data.tasks)}:"
            f" {', '.join(data.tasks)[:200]}; write the episodes of one robot into a data set of their own"
        )
    return data


def describe(
    name: str, data: OfflineDataset, env_id: str | None = None, root: str | Path | None = None
) -> DatasetInfo:
    """Describe a data set, and make sure that it can be evaluated.

    :param name: name of its source.
    :param data: episodes of `read_data`.
    :param env_id: environment that evaluates; by default that of the robot.
    :param root: see `read_data`.
    :raises ValueError: when the environment cannot be made, or has another robot or spaces than the data.
    """
    label = label_of(name)
    robot, quality = robot_and_quality(label)
    env_id = env_id or ROBOTS[robot].env_id
    env = make_env(env_id)
    _check_spaces(label, data, env_id, env)
    env.close()
    others = robots_in(env_id)
    if others and others != [robot]:  # sizes do not tell: those of halfcheetah and walker2d are the same
        raise ValueError(
            f"{label} has data of {robot}, and {env_id}, which would evaluate, is an environment of"
            f" {' and '.join(others)}: leave --env out, or give the data sets of each robot a command of"
            " their own"
        )
    example = best_episode(data)
    return DatasetInfo(
        robot=robot,
        quality=quality,
        env_id=env_id,
        sentence=data.episodes[0].task_texts[0],
        fingerprint=fingerprint(data),
        n_episodes=len(data.episodes),
        n_steps=data.n_steps,
        best_return=total_reward(example),
        model=published_model(robot, quality),
        d4rl=D4RL_REFERENCES[robot],
        minari=minari_references(name, root),
        published=PUBLISHED[robot][quality] if quality is not None and is_of_d4rl(name) else None,
        notes=tuple(_notes(name, robot, quality, env_id)),
    )


def best_episode(data: OfflineDataset) -> Episode:
    """Choose the example of evaluation: the episode of the largest return, the first of several."""
    return max(data.episodes, key=total_reward)


def total_reward(episode: Episode) -> float:
    """Sum up the raw rewards of an episode, not discounted."""
    return float(episode.rewards.sum(dtype=np.float64))


def make_env(env_id: str) -> gym.Env[Any, Any]:
    """Make an environment to evaluate in.

    :raises ValueError: when Gymnasium cannot make it; says why.
    """
    try:
        return gym.make(env_id)
    except gym.error.Error as error:
        raise ValueError(
            f"the environment {env_id!r}, which would evaluate, cannot be made: {error}"
        ) from error


def _open(name: str, root: str | Path | None, reading: Reading) -> EpisodeSource:
    try:
        return open_source(name, root=root, reading=reading)
    except ValueError as error:
        kind, rest = format_of(name)
        if kind == "minari" and not (datasets_root(root) / rest / "data").is_dir():
            raise ValueError(f"{error}. {OTHER_DATA}") from error
        raise


def _has_sentence(source: EpisodeSource) -> bool:
    """Tell whether its episodes say what the task is: a description of the data set does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a description is taken for the sentence: it is not, here
        record = next(source.records(), None)
    guessed = isinstance(source, MinariSource) and source.text_is_guessed
    return record is not None and bool(record.get("task_texts")) and not guessed


def _check_spaces(label: str, data: OfflineDataset, env_id: str, env: gym.Env[Any, Any]) -> None:
    there, played = data.observation_space, env.observation_space
    acted, acts = data.action_space, env.action_space
    if not isinstance(played, spaces.Box) or not isinstance(acts, spaces.Box):
        raise ValueError(
            f"{env_id} has {played} and {acts}, and this benchmark needs Boxes of observations and actions"
        )
    if there.shape != played.shape or acted.shape != acts.shape:
        raise ValueError(
            f"{label} has observations of shape {there.shape} and actions of shape {acted.shape}, and"
            f" {env_id}, which would evaluate, has {played.shape} and {acts.shape}: name the environment of"
            " the data with --env"
        )
    if not (np.array_equal(acted.low, acts.low) and np.array_equal(acted.high, acts.high)):
        raise ValueError(f"{label} has actions in {acted}, and {env_id}, which would evaluate, has {acts}")


def _notes(name: str, robot: str, quality: str | None, env_id: str) -> list[str]:
    notes = []
    if quality not in MAX_GRAD_NORMS[robot]:
        of_what = "data whose name says no quality" if quality is None else f"{quality} data"
        notes.append(f"No settings were published for {of_what}: those of medium are used.")
    elif not is_of_d4rl(name):
        notes.append(
            f"The settings were published for D4RL's {robot}, {quality}, version 2; these are other data."
        )
    if robot == "walker2d" and format_of(name)[0] == "d4rl" and env_id == ROBOTS[robot].env_id:
        notes.append(
            "D4RL recorded its walker with less friction under the right foot (0.9) than under the left"
            f" (1.9), and {env_id} has 1.9 under both; --env Walker2d-v4 has D4RL's."
        )
    return notes
