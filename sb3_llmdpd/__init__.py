"""LLM-Driven Policy Diffusion: offline RL that takes a sentence and an example for a task."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sb3_llmdpd.version import __version__

if TYPE_CHECKING:
    from sb3_llmdpd.common.schedules import CosineSchedule
    from sb3_llmdpd.data.episodes import Episode, OfflineDataset
    from sb3_llmdpd.data.examples import examples_of
    from sb3_llmdpd.data.loading import load_dataset
    from sb3_llmdpd.data.memory_mapping import memory_mapped
    from sb3_llmdpd.envs.recording import RecordEpisodes
    from sb3_llmdpd.envs.task_text_wrapper import TaskTextWrapper
    from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
    from sb3_llmdpd.llmdpd.policies import CnnPolicy, LLMDPDPolicy, MlpPolicy, MultiInputPolicy
    from sb3_llmdpd.prompts.prompt import Prompt
    from sb3_llmdpd.replay.buffer import PromptReplayBuffer

__all__ = [
    "LLMDPD",
    "CnnPolicy",
    "CosineSchedule",
    "Episode",
    "LLMDPDPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
    "OfflineDataset",
    "Prompt",
    "PromptReplayBuffer",
    "RecordEpisodes",
    "TaskTextWrapper",
    "__version__",
    "examples_of",
    "load_dataset",
    "memory_mapped",
]

_MODULES = {
    "common.schedules": ("CosineSchedule",),
    "data.episodes": ("Episode", "OfflineDataset"),
    "data.examples": ("examples_of",),
    "data.loading": ("load_dataset",),
    "data.memory_mapping": ("memory_mapped",),
    "envs.recording": ("RecordEpisodes",),
    "envs.task_text_wrapper": ("TaskTextWrapper",),
    "llmdpd.llmdpd": ("LLMDPD",),
    "llmdpd.policies": ("CnnPolicy", "LLMDPDPolicy", "MlpPolicy", "MultiInputPolicy"),
    "prompts.prompt": ("Prompt",),
    "replay.buffer": ("PromptReplayBuffer",),
}
"""Modules of the public names, which are imported when one of their names is first asked for."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name: torch alone takes a second, which ``sb3-llmdpd --version`` does not need."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
