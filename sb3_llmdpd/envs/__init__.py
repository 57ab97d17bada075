"""Environments: one that states the data's spaces, one that says its task, one that records episodes."""

from sb3_llmdpd.envs.dataset_env import DatasetEnv
from sb3_llmdpd.envs.recording import RecordEpisodes
from sb3_llmdpd.envs.task_text_wrapper import TaskTextWrapper

__all__ = ["DatasetEnv", "RecordEpisodes", "TaskTextWrapper"]
