"""Former path of recording, which is in `sb3_llmdpd.envs.recording`."""

from sb3_llmdpd.envs.recording import RecordEpisodes, record_policy

__all__ = ["RecordEpisodes", "record_policy"]
