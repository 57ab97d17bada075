"""Writes recorded episodes as one Minari data set that says its recipe and its task."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.data.metaworld.record import Recipe, RecordedEpisode
from sb3_llmdpd.data.metaworld.tasks import task_info
from sb3_llmdpd.data.minari_writer import episode_buffer, whole_dataset
from sb3_llmdpd.networks.metaworld_layout import SHAPE


def read_metadata(folder: Path, dataset_id: str) -> dict[str, Any] | None:
    """Read the metadata of a data set, empty when they cannot be read; None when there is no such id."""
    if not (folder / dataset_id).exists():
        return None
    try:
        metadata = json.loads((folder / dataset_id / "data" / "metadata.json").read_text())
    except (OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def write_dataset(folder: Path, dataset_id: str, recipe: Recipe, episodes: Sequence[RecordedEpisode]) -> None:
    """Write the episodes of a recipe, in order, as a data set, whole or not at all."""
    info = task_info(recipe.task)
    with whole_dataset(
        dataset_id,
        spaces.Box(-np.inf, np.inf, SHAPE, np.float32),
        spaces.Box(-1.0, 1.0, (4,), np.float32),
        root=folder,
        algorithm_name="Meta-World's scripted expert with action noise",
        description=f"Scripted expert of Meta-World's {info.env_id}: {info.text}.",
    ) as storage:
        storage.update_episodes(map(_buffer, episodes))
        _describe(storage, recipe, episodes)


def _buffer(one: RecordedEpisode) -> Any:
    infos = {"success": one.successes}
    return episode_buffer(one.observations, one.actions, one.rewards, seed=one.seed, infos=infos)


def _describe(storage: Any, recipe: Recipe, episodes: Sequence[RecordedEpisode]) -> None:
    """Write the task and the outcome into the data set and every episode of it."""
    said, info = recipe.as_json(), task_info(recipe.task)
    shared = {key: said[key] for key in ("metaworld_version", "mujoco_version", "goal_visible")}
    shared |= {"task_id": info.name, "task_text": info.text, "goal_separate": info.goal_separate}
    texts = list(info.texts)
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
    storage.update_metadata({**shared, "task_texts": texts, "success_rate": rate, "recipe": said})
