"""From whatever a user calls a data set to an `OfflineDataset`."""

from collections.abc import Sequence

from sb3_llmdpd.data.episodes import Episode, OfflineDataset

DatasetLike = str | Sequence[str] | Sequence[Episode] | OfflineDataset
"""A Minari data set id or several, episodes, or a data set."""


def load_dataset(source: DatasetLike) -> OfflineDataset:
    """Read a data set.

    :param source: a Minari data set id or several, episodes, or a data set, which is handed back.
    :return: checked episodes with their spaces.
    :raises ValueError: when the source is empty, or an id is unknown.
    :raises TypeError: when the source is none of these.
    """
    if isinstance(source, OfflineDataset):
        return source
    if isinstance(source, str):
        source = [source]
    if isinstance(source, Sequence):
        if all(isinstance(entry, Episode) for entry in source):  # an empty sequence is answered here, too
            return OfflineDataset.from_episodes(source)  # type: ignore[arg-type]
        if all(isinstance(entry, str) for entry in source):
            from sb3_llmdpd.data.minari import load_minari  # minari costs a second that users of episodes need not pay

            return load_minari(source)  # type: ignore[arg-type]
    raise TypeError(
        "`dataset` must be a Minari data set id, a list of ids, a list of Episodes, an OfflineDataset or a"
        f" PromptReplayBuffer, got {source!r}"[:400]
    )
