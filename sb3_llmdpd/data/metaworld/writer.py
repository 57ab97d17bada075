"""Puts recorded episodes on disk as one Minari data set, whole or not at all."""

import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.data.metaworld.record import Recipe, RecordedEpisode
from sb3_llmdpd.optional import require

_TEMPORARY = ".collecting-"
"""Minari does not look into folders whose names begin with a dot."""

_LONGEST_WRITE_S = 600


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
    """Write a data set beside its place and move it there when it is complete.

    :param folder: where the data sets are; made when it is not there.
    :param dataset_id: its Minari id.
    :param recipe: what it was collected with.
    :param episodes: its episodes, in their order.
    """
    minari = require("minari", "all")
    namespaces = require("minari.namespace", "all")
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=folder) as temporary:
        with _minari_root(Path(temporary)), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about fields for a public release: e-mail, permalink
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                [_buffer(episode) for episode in episodes],
                observation_space=spaces.Box(-np.inf, np.inf, (39,), np.float32),
                action_space=spaces.Box(-1.0, 1.0, (4,), np.float32),
                algorithm_name="Meta-World's scripted expert with action noise",
                description=f"Scripted expert of Meta-World's {recipe.info.env_id}: {recipe.info.text}.",
                data_format="hdf5",
            )
        _describe(dataset, recipe, episodes)
        with _minari_root(folder):
            namespace = dataset.spec.namespace
            if namespace is not None and namespace not in namespaces.list_local_namespaces():
                namespaces.create_namespace(namespace)
        (folder / dataset_id).parent.mkdir(parents=True, exist_ok=True)
        os.replace(Path(temporary, dataset_id), folder / dataset_id)


def _describe(dataset: Any, recipe: Recipe, episodes: Sequence[RecordedEpisode]) -> None:
    """Say in the data set, and in every episode of it, what the task is and how it went."""
    shared = {key: recipe.as_json()[key] for key in ("metaworld_version", "mujoco_version", "goal_visible")}
    shared |= {"task_id": recipe.task, "task_text": recipe.info.text, "goal_separate": recipe.info.goal_separate}
    texts = list(recipe.info.texts)
    dataset.storage.update_episode_metadata(
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
    dataset.storage.update_metadata({**shared, "task_texts": texts, "success_rate": rate, "recipe": recipe.as_json()})


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


@contextmanager
def _minari_root(path: Path) -> Iterator[None]:
    """Minari writes where an environment variable says, and takes no argument for it."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed collections left behind; what is younger may be another collection's, still being written."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        if time.time() - leftover.stat().st_mtime > _LONGEST_WRITE_S:
            shutil.rmtree(leftover, ignore_errors=True)
