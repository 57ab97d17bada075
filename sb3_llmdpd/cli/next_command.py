"""The commands that a command names as next: each works when it is pasted."""

import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sb3_llmdpd.cli.sources import reading_words
from sb3_llmdpd.data.metaworld.tasks import SPLITS, TASKS, by_need_of_goal
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.networks.metaworld_layout import GOAL, SHAPE
from sb3_llmdpd.prompts.text_encoders import is_built_in
from sb3_llmdpd.replay.buffer import PromptReplayBuffer

_MOST_TASKS = 5
"""Most tasks to evaluate on where training held none out."""


def measuring_command(model: LLMDPD, path: Path, options: Mapping[str, Any]) -> str | None:
    """Name the command that measures a trained model.

    A model of Meta-World's tasks plays them. Any other is measured on logged data: on what its training held
    out, or by a training of the same settings that holds something out.

    :param model: the model with the data of its training.
    :param path: its file, in the folder of its run.
    :param options: options of ``train`` by name.
    :return: the command, quoted for a shell; None where a single episode leaves nothing to measure on.
    """
    words = _on_metaworld(model, path, options) or _on_logged_data(model, path, options)
    return None if words is None else command(words)


def command(words: Sequence[object]) -> str:
    """Write the words behind ``sb3-llmdpd`` as a line to paste."""
    return shlex.join(["sb3-llmdpd", *map(str, words)])


def free_folder(path: Path) -> Path:
    """Return a path that does not exist: this one, or the first free of those with a number behind it."""
    free, number = path, 2
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def _on_metaworld(model: LLMDPD, path: Path, options: Mapping[str, Any]) -> list[object] | None:
    buffer = _buffer_of(model)
    trained = list(buffer.texts_by_task)
    shapes = model.observation_space.shape, model.action_space.shape
    if shapes != (SHAPE, (4,)) or not set(trained) <= set(TASKS) or find_spec("metaworld") is None:
        return None
    asked = options["unseen"].split(",") if options["unseen"] else SPLITS["ml45"][1]
    named = [task for task in map(str.strip, asked) if task in TASKS]
    unseen = [task for task in named if task not in trained]
    observations = buffer.some_observations(len(trained))
    hidden = not isinstance(observations, dict) and not np.any(observations.cpu().numpy()[:, GOAL])
    if hidden:
        unseen, trained = by_need_of_goal(unseen)[0], by_need_of_goal(trained)[0]
    if not unseen and not trained:
        return None
    of_tasks = ["--unseen", ",".join(unseen)]
    if not unseen:
        of_tasks = ["--tasks", ",".join(trained[:_MOST_TASKS]), "--unseen", "none"]
    trust = isinstance(model.text_encoder, str) and not is_built_in(model.text_encoder)
    return [
        *("evaluate", "--model", path, *of_tasks, *_place(options)),
        *(["--hide-goal"] if hidden else []),
        *(["--trust-encoder"] if trust else []),
    ]


def _on_logged_data(model: LLMDPD, path: Path, options: Mapping[str, Any]) -> list[object] | None:
    measure: list[object] = ["validate", "--model", path]
    if options.get("validation") or options.get("validate_unseen"):
        return measure
    if options["unseen"]:
        sources = [word for name in options["dataset"] for word in ("--dataset", name)]
        how = [*sources, *_place(options), *reading_words(options)]
        return [*measure, *how, "--unseen", options["unseen"]]
    buffer, run = _buffer_of(model), path.parent
    n_tasks = len(buffer.texts_by_task)
    if buffer.n_episodes == 1:
        return None
    held_out = ["--validation", "0.1"] if buffer.n_episodes > n_tasks else ["--validate-unseen", "1"]
    out = free_folder(run.with_name(f"{run.name}-held-out"))
    return ["train", "--config", run / "run.json", *held_out, "--out", out]


def _buffer_of(model: LLMDPD) -> PromptReplayBuffer:
    assert isinstance(model.replay_buffer, PromptReplayBuffer)  # since it was trained
    return model.replay_buffer


def _place(options: Mapping[str, Any]) -> list[str]:
    return [] if options["root"] is None else ["--root", str(options["root"])]
