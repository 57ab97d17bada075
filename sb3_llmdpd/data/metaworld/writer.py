"""Puts recorded episodes on disk as one Minari data set that says how they came about."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.common.optional import require
from sb3_llmdpd.data.metaworld.record import Recipe, RecordedEpisode
from sb3_llmdpd.data.minari_writer import whole_dataset


def read_metadata(folder: Path, dataset_id: str) -> dict[str, Any] | None:
    """What a data set says about itself.

    :param folder: where the data sets are.
    :param dataset_id: its Minari id.
    :return: its metadata, empty when they cannot be read; None when there is nothing under that id.
    """
    if not (folder / dataset_id).exists():
        return None
    try:
        metadata = json.loads((folder / dataset_id / "data" / "metadata.json").read_text())
    except (OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def write_dataset(folder: Path, dataset_id: str, recipe: Recipe, episodes: Sequence[RecordedEpisode]) -> None:
    """Write a data set, whole or not at all.

    :param folder: where the data sets are; made when it is not there.
    :param dataset_id: its Minari id.
    :param recipe: what it was collected with.
    :param episodes: its episodes, in their order.
    """
    info = recipe.info
    with whole_dataset(
        dataset_id,
        spaces.Box(-np.inf, np.inf, (39,), np.float32),
        spaces.Box(-1.0, 1.0, (4,), np.float32),
        root=folder,
        algorithm_name="Meta-World's scripted expert with action noise",
        description=f"Scripted expert of Meta-World's {info.env_id}: {info.text}.",
    ) as storage:
        storage.update_episodes(_buffer(episode) for episode in episodes)
        _describe(storage, recipe, episodes)


def _describe(storage: Any, recipe: Recipe, episodes: Sequence[RecordedEpisode]) -> None:
    """Say in the data set, and in every episode of it, what the task is and how it went."""
    shared = {key: recipe.as_json()[key] for key in ("metaworld_version", "mujoco_version", "goal_visible")}
    shared |= {
        "task_id": recipe.task,
        "task_text": recipe.info.text,
        "goal_separate": recipe.info.goal_separate,
    }
    texts = list(recipe.info.texts)
    storage.update_episode_metadata(
        {
            **shared,
            "task_texts": json.dumps(texts),
            "success": episode.first_success >= 0,
            "first_success": episode.first_success,
            "goal_id": episode.goal_id,
            "noise": episode.noise,
        }
        for episode in episodes
    )
    rate = float(np.mean([episode.first_success >= 0 for episode in episodes]))
    storage.update_metadata({**shared, "task_texts": texts, "success_rate": rate, "recipe": recipe.as_json()})


def _buffer(episode: RecordedEpisode) -> Any:
    n_steps = len(episode.actions)
    ends = np.zeros(n_steps, bool)
    ends[-1] = True  # cut or at the step limit, both of which are truncations
    return require("minari.data_collector", "all").EpisodeBuffer(
        seed=episode.seed,
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=np.zeros(n_steps, bool),
        truncations=ends,
        infos={"success": episode.successes},
    )
