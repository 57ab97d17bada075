"""Public path of the replay buffer, which is in `sb3_llmdpd.replay`."""

from sb3_llmdpd.replay.buffer import PromptReplayBuffer

__all__ = ["PromptReplayBuffer"]
