"""The public path of `EpisodeSource` and `Reading`, `sb3_llmdpd.data.episode_source`."""

from sb3_llmdpd.data.episode_source import EpisodeSource, Reading

__all__ = ["EpisodeSource", "Reading"]
