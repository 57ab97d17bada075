"""Sentences for the Meta-World tasks, read from ``sentences.toml``."""

import tomllib
from importlib.resources import files

_TASKS = tomllib.loads(
    files("sb3_llmdpd.data.metaworld").joinpath("sentences.toml").read_text(encoding="utf-8")
)

SENTENCES: dict[str, tuple[str, ...]] = {task: tuple(texts["phrasings"]) for task, texts in _TASKS.items()}
"""Phrasings of each task for training data."""
PARAPHRASES: dict[str, tuple[str, ...]] = {
    task: tuple(texts["paraphrases"]) for task, texts in _TASKS.items()
}
"""Phrasings of each task for tests alone: no data set holds them, so no policy is trained on them."""
