"""LLM-Driven Policy Diffusion: offline RL that takes a sentence and an example for a task."""

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
from sb3_llmdpd.version import __version__

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
