"""Makes an `OfflineDataset` of anything that a user may call a data set."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Reading, read_sources
from sb3_llmdpd.data.episodes import Episode, OfflineDataset

DatasetLike = (
    str | Sequence[str] | Sequence[Episode] | Sequence[EpisodeSource] | EpisodeSource | OfflineDataset
)
"""Names of sources (see `open_source`), sources, episodes, or a data set."""

FORMATS: dict[str, tuple[str, str]] = {
    "minari": ("sb3_llmdpd.data.minari", "MinariSource"),
    "d4rl": ("sb3_llmdpd.data.d4rl", "D4RLSource"),
    "npz": ("sb3_llmdpd.data.npz", "NpzSource"),
    "sb3": ("sb3_llmdpd.data.sb3", "ReplayBufferSource"),
    "lerobot": ("sb3_llmdpd.data.lerobot", "LeRobotSource"),
}
"""Module and class of each format by its name, imported when used: some of their libraries cost a second."""

_SUFFIXES = {".hdf5": "d4rl", ".h5": "d4rl", ".npz": "npz", ".pkl": "sb3"}


def format_of(name: str) -> tuple[str, str]:
    """Read the format off the name of a source.

    :param name: with its format in front, as in ``"d4rl:data/hopper_medium-v2.hdf5"``, or without. Then the
        suffix of a file tells the format (.hdf5, .h5, .npz, .pkl), a folder with ``meta/info.json`` is a
        LeRobot data set, and any other name a Minari id.
    :return: the format, and the rest of the name.
    """
    head, sign, rest = name.partition(":")
    if sign and head in FORMATS:
        return head, rest
    suffix = Path(name).suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix], name
    return ("lerobot" if Path(name, "meta", "info.json").expanduser().is_file() else "minari"), name


def open_source(
    name: str, *, root: str | Path | None = None, reading: Reading | None = None, allow_pickle: bool = False
) -> EpisodeSource:
    """Open a source by its name.

    :param name: as in `format_of`.
    :param root: folder of Minari data sets, by default Minari's own.
    :param reading: options of reading.
    :param allow_pickle: whether files that execute their content may be opened: only your own.
    :return: the source; its episodes are not read yet.
    :raises ValueError: when it is not there, or not of its format, or holds a pickle that was not allowed.
    """
    kind, rest = format_of(name)
    module, class_name = FORMATS[kind]
    own: dict[str, dict[str, Any]] = {"minari": {"root": root}, "sb3": {"allow_pickle": allow_pickle}}
    source_class = getattr(import_module(module), class_name)
    source: EpisodeSource = source_class(rest, reading=reading or AS_RECORDED, **own.get(kind, {}))
    return source


def open_sources(
    names: Sequence[str | EpisodeSource],
    *,
    root: str | Path | None = None,
    task_texts: Mapping[str, str | Sequence[str]] | None = None,
    strict: bool = False,
    flatten: bool = False,
    allow_pickle: bool = False,
) -> list[EpisodeSource]:
    """Open several sources, see `open_source` and `Reading`.

    :param names: names of sources; one that is open already stays as it is.
    :param root: as in `open_source`.
    :param task_texts: as in `Reading`, as are ``strict`` and ``flatten``.
    :param allow_pickle: as in `open_source`.
    :return: the sources in their order.
    :raises ValueError: see `open_source`.
    """
    how: dict[str, Any] = {"root": root, "allow_pickle": allow_pickle}
    how["reading"] = Reading(task_texts or {}, strict, flatten)
    return [name if isinstance(name, EpisodeSource) else open_source(name, **how) for name in names]


def load_dataset(source: DatasetLike, **how: Any) -> OfflineDataset:
    """Read a data set into memory.

    :param source: name of a source or several (see `format_of`), sources, episodes, or a data set.
    :param how: further arguments of `open_sources`.
    :return: checked episodes with their spaces.
    :raises ValueError: when the source is empty, unknown or damaged.
    :raises TypeError: when the source is none of these.
    """
    if isinstance(source, OfflineDataset):
        return source
    if isinstance(source, str | EpisodeSource):
        source = [source]  # type: ignore[assignment]
    if isinstance(source, Sequence):
        if all(isinstance(entry, Episode) for entry in source):  # an empty sequence is answered here, too
            return OfflineDataset.from_episodes(source)  # type: ignore[arg-type]
        if all(isinstance(entry, str | EpisodeSource) for entry in source):
            return read_sources(open_sources(source, **how))  # type: ignore[arg-type]
    raise TypeError(
        "`dataset` must be a Minari data set id, a list of ids, a list of Episodes, an OfflineDataset or a"
        " PromptReplayBuffer; files have their format in front, as in 'd4rl:hopper.hdf5'"
        f", got {source!r}"[:400]
    )
