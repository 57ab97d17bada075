"""Meta-World as a source of data: its tasks in words, its environments, its scripted experts."""

from sb3_llmdpd.data.metaworld.collection import collect, collected_success
from sb3_llmdpd.data.metaworld.envs import MetaWorldEnv, make_metaworld_env
from sb3_llmdpd.data.metaworld.tasks import SPLITS, TASKS, TaskInfo, split, task_info

__all__ = [
    "SPLITS",
    "TASKS",
    "MetaWorldEnv",
    "TaskInfo",
    "collect",
    "collected_success",
    "make_metaworld_env",
    "split",
    "task_info",
]
