"""The replay buffer: logged episodes laid out flat, and batches drawn from them together with prompts."""

from sb3_llmdpd.replay.buffer import PromptReplayBuffer

__all__ = ["PromptReplayBuffer"]
