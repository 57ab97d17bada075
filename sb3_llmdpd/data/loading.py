"""Makes an `OfflineDataset` of anything that a user may call a data set."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from gymnasium import spaces
from numpy.typing import ArrayLike

from sb3_llmdpd.data.checks import listed
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
    "robomimic": ("sb3_llmdpd.data.robomimic", "RobomimicSource"),
}
"""Module and class of each format by its name, imported when used: some of their libraries cost a second."""

OPTIONS = {
    "minari": ("root",),
    "d4rl": ("max_episode_steps",),
    "npz": ("max_episode_steps",),
    "sb3": ("allow_pickle", "scaled_actions"),
    "lerobot": ("observation_key", "action_key"),
    "robomimic": ("observation_key",),
}
"""Arguments of a format's class that say how it is read, besides `Reading`."""

_SUFFIXES = {".hdf5": "d4rl", ".h5": "d4rl", ".npz": "npz", ".pkl": "sb3"}


def format_of(name: str) -> tuple[str, str]:
    """Read the format off the name of a source.

    :param name: with its format in front, as in ``"d4rl:data/hopper_medium-v2.hdf5"``, or without. Then the
        suffix of a file tells the format (.hdf5, .h5, .npz, .pkl; an hdf5 file with a group ``data`` is
        robomimic's), a folder with ``meta/info.json`` is a LeRobot data set, and any other name a Minari id.
        ``"lerobot:user/name"`` is an id of the Hugging Face hub where there is no such folder.
    :return: the format, and the rest of the name.
    """
    head, sign, rest = name.partition(":")
    if sign and head in FORMATS:
        return head, rest
    suffix = Path(name).suffix.lower()
    if suffix in _SUFFIXES:
        kind = _SUFFIXES[suffix]
        return ("robomimic" if kind == "d4rl" and _has_demonstrations(name) else kind), name
    return ("lerobot" if Path(name, "meta", "info.json").expanduser().is_file() else "minari"), name


def _has_demonstrations(name: str) -> bool:
    """Tell whether an hdf5 file is of robomimic's layout: a group ``data`` with a group a demonstration."""
    try:
        with import_module("h5py").File(Path(name).expanduser(), "r") as file:
            return isinstance(file.get("data"), Mapping) and "observations" not in file
    except (ImportError, OSError, RuntimeError, KeyError, ValueError):
        return False  # which is answered where it is opened


def open_source(name: str, *, reading: Reading | None = None, **options: Any) -> EpisodeSource:
    """Open one place of logged behaviour.

    :param name: as in `format_of`.
    :param reading: options of reading.
    :param options: options of formats, see `OPTIONS`; those of other formats, and None, change nothing.
    :return: the source; its episodes are not read yet.
    :raises ValueError: when it is not there, or not of its format, or holds a pickle that was not allowed.
    """
    kind, rest = format_of(name)
    module, class_name = FORMATS[kind]
    own = {key: options[key] for key in OPTIONS[kind] if options.get(key) is not None}
    source_class = getattr(import_module(module), class_name)
    source: EpisodeSource = source_class(rest, reading=reading or AS_RECORDED, **own)
    return source


def open_sources(
    names: Sequence[str | EpisodeSource],
    *,
    task_texts: Mapping[str, str | Sequence[str]] | None = None,
    strict: bool = False,
    flatten: bool = False,
    clip: bool = False,
    action_low: ArrayLike | None = None,
    action_high: ArrayLike | None = None,
    unopened: list[str] | None = None,
    **options: Any,
) -> list[EpisodeSource]:
    """Open several sources.

    :param names: names of sources; one that is open already stays as it is.
    :param task_texts: as in `Reading`, as are ``strict``, ``flatten``, ``clip`` and the bounds of actions.
    :param unopened: takes the reasons of the sources that cannot be opened, which are left out then.
    :param options: options of formats, see `OPTIONS`: ``root``, folder of Minari data sets, by default
        Minari's own; ``allow_pickle``, whether files that execute their content may be opened, only your own;
        ``max_episode_steps``, ``scaled_actions``, ``observation_key`` and ``action_key``.
    :return: the sources in their order.
    :raises ValueError: see `open_source`; or when an option is of none of the formats.
    :raises TypeError: on an unknown option.
    """
    known = dict.fromkeys(option for of_format in OPTIONS.values() for option in of_format)
    if unknown := [option for option in options if option not in known]:
        raise TypeError(f"unknown option {unknown[0]!r} of data; known are {listed(known)}")
    reading = Reading(task_texts or {}, strict, flatten, clip, action_low, action_high)
    kinds = {format_of(name)[0] for name in names if isinstance(name, str)}
    taken = {option for kind in kinds for option in OPTIONS[kind]} | set(_HARMLESS)
    for option, value in options.items():
        if value is not None and option not in taken:
            formats = listed(kind for kind, of_format in OPTIONS.items() if option in of_format)
            raise ValueError(f"`{option}` is an option of {formats}, and the data are {listed(kinds)}")
    how: dict[str, Any] = {"reading": reading, **options}
    opened = []
    for name in names:
        try:
            opened.append(name if isinstance(name, EpisodeSource) else open_source(name, **how))
        except (ValueError, TypeError, OSError) as error:
            if unopened is None:
                raise
            unopened.append(str(error))
    return opened


_HARMLESS = ("root", "allow_pickle")
"""Options that may be given where none of the sources has them: they say what is allowed, and where."""


def load_dataset(
    source: DatasetLike, *, action_space: spaces.Box | None = None, **how: Any
) -> OfflineDataset:
    """Read a data set into memory.

    :param source: name of a source or several (see `format_of`), sources, episodes, or a data set.
    :param action_space: space of the actions where the source records no bounds, in place of ``action_low``
        and ``action_high``.
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
            shapes = {episode.actions.shape[1:] for episode in source}  # type: ignore[union-attr]
            if action_space is not None and shapes != {action_space.shape}:
                action_space = None  # whoever knows what it is of says how they differ
            return OfflineDataset.from_episodes(source, action_space=action_space)  # type: ignore[arg-type]
        if all(isinstance(entry, str | EpisodeSource) for entry in source):
            if action_space is not None:
                how |= {"action_low": action_space.low, "action_high": action_space.high}
            return read_sources(open_sources(source, **how))  # type: ignore[arg-type]
    raise TypeError(
        "`dataset` must be a Minari data set id, a list of ids, a list of Episodes, an OfflineDataset or a"
        " PromptReplayBuffer; files have their format in front, as in 'd4rl:hopper.hdf5'"
        f", got {source!r}"[:400]
    )
