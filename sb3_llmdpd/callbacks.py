"""Public path of the callbacks, which are in `sb3_llmdpd.llmdpd.callbacks`."""

from sb3_llmdpd.llmdpd.callbacks import LearningCurve, SaveLatest, StopOnSignal

__all__ = ["LearningCurve", "SaveLatest", "StopOnSignal"]
