"""Public path of the trackers, which are in `sb3_llmdpd.llmdpd.trackers`."""

from sb3_llmdpd.llmdpd.trackers import make_logger

__all__ = ["make_logger"]
