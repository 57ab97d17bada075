"""The baselines of the method: Prompt-DT, and two policies that learn nothing."""

from sb3_llmdpd.baselines.align_and_replay import AlignAndReplay
from sb3_llmdpd.baselines.prompt_dt import PromptDT
from sb3_llmdpd.baselines.retrieve_and_play import RetrieveAndPlay

__all__ = ["AlignAndReplay", "PromptDT", "RetrieveAndPlay"]
