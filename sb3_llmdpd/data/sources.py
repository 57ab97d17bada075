"""Former path of `open_source` and `open_sources`, which are in `sb3_llmdpd.data.loading`."""

from sb3_llmdpd.data.loading import open_source, open_sources

__all__ = ["open_source", "open_sources"]
