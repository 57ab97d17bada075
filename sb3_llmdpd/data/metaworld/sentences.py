"""Sentences for the Meta-World tasks, read from ``sentences.toml`` and ``wordings.toml``."""

import tomllib
from importlib.resources import files


def _read(name: str) -> dict[str, dict[str, list[str]]]:
    file = files("sb3_llmdpd.data.metaworld").joinpath(name)
    return tomllib.loads(file.read_text(encoding="utf-8"))


_TASKS = _read("sentences.toml")

SENTENCES: dict[str, tuple[str, ...]] = {task: tuple(said["phrasings"]) for task, said in _TASKS.items()}
"""Phrasings of each task for training data."""
PARAPHRASES: dict[str, tuple[str, ...]] = {task: tuple(said["paraphrases"]) for task, said in _TASKS.items()}
"""Phrasings of each task for tests alone: no data set holds them, so no policy is trained on them."""

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    task: {style: tuple(said) for style, said in of_task.items()}
    for task, of_task in _read("wordings.toml").items()
}
"""More phrasings for tests alone, by task and style: terse, polite, with typing errors, or foreign."""
STYLES: tuple[str, ...] = tuple(next(iter(WORDINGS.values())))
"""Styles of these wordings, which each task has."""
