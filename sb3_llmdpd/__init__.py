"""LLM-Driven Policy Diffusion: offline reinforcement learning that takes a sentence and an example for a task."""

from sb3_llmdpd.buffers import PromptReplayBuffer
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.sources import load_dataset
from sb3_llmdpd.data.store import memory_mapped
from sb3_llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.policies import CnnPolicy, LLMDPDPolicy, MlpPolicy, MultiInputPolicy
from sb3_llmdpd.prompts.prompt import Prompt
from sb3_llmdpd.recording import RecordEpisodes
from sb3_llmdpd.schedules import CosineSchedule
from sb3_llmdpd.version import __version__
from sb3_llmdpd.wrappers import TaskTextWrapper

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
    "load_dataset",
    "memory_mapped",
]
