"""Sentences for the Meta-World tasks, read from ``sentences.toml``."""

import tomllib
from importlib.resources import files

_FILE = files("sb3_llmdpd.data.metaworld").joinpath("sentences.toml")
_TASKS = tomllib.loads(_FILE.read_text(encoding="utf-8"))

SENTENCES: dict[str, tuple[str, ...]] = {task: tuple(said["phrasings"]) for task, said in _TASKS.items()}
"""Phrasings of each task for training data."""
PARAPHRASES: dict[str, tuple[str, ...]] = {task: tuple(said["paraphrases"]) for task, said in _TASKS.items()}
"""Phrasings of each task for tests alone: no data set holds them, so no policy is trained on them."""
