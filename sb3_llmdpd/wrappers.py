"""Former path of `TaskTextWrapper`, which is in `sb3_llmdpd.envs`."""

from sb3_llmdpd.envs.task_text_wrapper import TaskTextWrapper

__all__ = ["TaskTextWrapper"]
