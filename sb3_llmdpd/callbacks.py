"""The public path of the callbacks, `sb3_llmdpd.llmdpd.callbacks`."""

from sb3_llmdpd.llmdpd.callbacks import LearningCurve, SaveLatest, StopOnSignal

__all__ = ["LearningCurve", "SaveLatest", "StopOnSignal"]
