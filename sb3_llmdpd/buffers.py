"""The public path of the replay buffer, `sb3_llmdpd.replay`."""

from sb3_llmdpd.replay.buffer import PromptReplayBuffer

__all__ = ["PromptReplayBuffer"]
