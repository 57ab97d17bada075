"""Reads Minari data sets, one or many, into episodes that carry their task's sentence."""

import difflib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.checks import LABELS, listed, one_line, truth_of
from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Reading, Record, read_sources
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.metadata import TEXT_KEYS, Said, decoded, said_by, success_of

REWARDED = "rewarded"
"""Entry of the metadata in which `write_minari` says that no rewards were recorded."""

NESTED = ("options", "infos")
"""Groups of an episode's metadata in which it may say its task, too."""

_ID = re.compile(r"([\w-]+/)*[\w-]+-v\d+")
_SPACES = {"observation_space", "action_space"}
_FORMATS = ("hdf5", "arrow", "parquet")

_MISREAD = (OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError)
_BROKEN = (*_MISREAD, RuntimeError, StopIteration)
"""Errors of Minari, h5py and arrow where files are damaged or laid out in another way."""


def load_minari(
    ids: str | Sequence[str],
    *,
    task_texts: Mapping[str, str | Sequence[str]] | None = None,
    root: str | Path | None = None,
    strict: bool = False,
    flatten: bool = False,
) -> OfflineDataset:
    """Read local Minari data sets into memory, as `MinariSource` says.

    :param ids: one Minari id or several, e.g. ``"metaworld/drawer-open-v0"``. All must share their spaces.
    :param task_texts: sentence, or several phrasings, by Minari id or by task.
    :param root: folder of the data sets, see `datasets_root`.
    :param strict: as in `Reading`, as is ``flatten``.
    :return: all episodes.
    :raises ValueError: when an id is missing, a file damaged or of another Minari, a number NaN, a text
        empty, actions discrete, or spaces differ.
    """
    if not ids:
        raise ValueError("`ids` names no data set; give at least one, e.g. 'metaworld/drawer-open-v0'")
    reading = Reading(task_texts or {}, strict, flatten)
    names = [ids] if isinstance(ids, str) else ids
    return read_sources([MinariSource(name, root=root, reading=reading) for name in names])


class MinariSource(EpisodeSource):
    """A local Minari data set, in any of Minari's file formats.

    The sentence of an episode is looked up in this order: `Reading.task_texts`; the episode's metadata under
    the names of `TEXT_KEYS`, also within ``options`` and ``infos``; the infos of its steps under the same
    names, of which the first is taken; an entry of text in a Dict observation, which is then taken out of it;
    the data set's metadata; with a warning its description, or the ``env_name`` of its environment. Without
    any there is no text prompt. A sentence is a string, several phrasings are a list or an array of strings,
    under ``task_texts`` also as JSON.

    Its task is ``task_id`` of the metadata, else ``task_index``, a string or a whole number; else the data
    set, or, where sentences differ within it, data set and sentence. Its goal is ``goal_id``. Metadata of
    these names and of another type are named in a warning.

    Success is read under the names of `SUCCESS_KEYS`, off the episode's metadata, else off the infos of its
    steps. ``rewarded`` of the metadata, where it is false beside rewards of zero, says that none were
    recorded. A time limit is no termination.

    :param name: Minari id.
    :param root: folder of the data sets, see `datasets_root`.
    :param reading: options of reading, see `Reading`. Actions that are whole numbers from 0 on are refused as
        labels, unless their bounds are given.
    :raises ValueError: when the id is not there, the files are damaged or of another Minari, an environment
        that must tell the spaces is not installed, or no policy reads the spaces.
    """

    kind = "minari"
    text_is_guessed = False
    """True where `records` took the description or the environment's name for the sentence."""

    def __init__(self, name: str, *, root: str | Path | None = None, reading: Reading = AS_RECORDED) -> None:
        folder = datasets_root(root)
        self._dataset = _open(name, folder)
        self._folder = folder / name / "data"
        space = self._dataset.observation_space
        self._sentences: list[str] = []
        if isinstance(space, spaces.Dict):
            self._sentences = [key for key, part in space.items() if isinstance(part, spaces.Text)]
            space = spaces.Dict({key: part for key, part in space.items() if key not in self._sentences})
        action_space = _continuous(name, self._dataset.action_space, reading)
        super().__init__(name, space, action_space, reading)

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`."""
        return sorted(path for path in self._folder.rglob("*") if path.is_file())

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        name, is_given = self.name, bool(self.names & set(self.reading.task_texts))
        texts, unread = self._first_pass()
        several = len(set(texts)) > 1
        common: tuple[str, ...] = ()
        self.text_is_guessed = False
        if not is_given and not all(texts):
            with _sound(name):
                said = said_by({"metadata.json/": self._dataset.storage.metadata})
            common, unread = said.texts, unread | said.unread
            if not common:
                common = _guessed_texts(name, self._dataset)
                self.text_is_guessed = bool(common)
        self._warn_of(unread, is_given)
        for said, record in self._rows(whole=True):
            unnamed = f"{name}: {said.texts[0]}" if several and said.texts else name
            yield {**record, "task": said.task or unnamed, "task_texts": said.texts or common}

    def _first_pass(self) -> tuple[list[tuple[str, ...]], dict[str, str]]:
        """Read all episodes and keep none.

        :return: sentences of each, and the types of metadata that are not read, by name.
        """
        indices = self._dataset.episode_indices[:1]
        with _sound(f"{self.name}, episode {indices[0]}"):
            infos = next(iter(self._dataset.storage.get_episodes(indices)))["infos"] or {}
        texts: list[tuple[str, ...]] = []
        unread: dict[str, str] = {}
        for said, _ in self._rows(whole=bool(self._sentences) or bool(set(TEXT_KEYS) & set(infos))):
            texts.append(said.texts)
            unread |= said.unread
        return texts, unread

    def _warn_of(self, unread: Mapping[str, str], is_given: bool) -> None:
        """Warn of metadata that are not read; of sentences only where none were given in their place."""
        others = [key for key in self._sentences if key not in TEXT_KEYS]
        unread = {**unread, **{f"observation/{key}": "text under another name" for key in others}}
        of_texts = {name for name in unread if name.rpartition("/")[2] in {*TEXT_KEYS, *others}}
        names = [f"`{name}` ({kind})" for name, kind in unread.items() if not (is_given and name in of_texts)]
        if names:
            warnings.warn(
                f"{self.name}: not read, though named like a task or its sentence: {listed(names)}. A task or"
                " a goal is a string or a whole number, and a sentence a string or a list of strings under a"
                f" known name. Write them so, or say the sentence with `task_texts={{{self.name!r}: ...}}`",
                stacklevel=3,
            )

    def _rows(self, whole: bool) -> Iterator[tuple[Said, Record]]:
        """Read the episodes one after the other; unless ``whole``, only what their metadata say."""
        indices, storage = self._dataset.episode_indices, self._dataset.storage
        with _sound(self.name):
            rows = iter(storage.get_episodes(indices)) if whole else None
            metadata = iter(storage.get_episode_metadata(indices))
        for index in indices:
            source = f"{self.name}, episode {index}"
            with _sound(source):
                entry = next(metadata)
                row = self._read(source, entry, None if rows is None else next(rows))
            yield row

    def _read(
        self, source: str, entry: Mapping[str, Any], row: Mapping[str, Any] | None
    ) -> tuple[Said, Record]:
        """Read one episode as Minari has it, of which the row holds the steps.

        :return: task and sentences, and the other arguments of `Episode`.
        """
        places = {"": entry}
        places |= {f"{key}/": entry[key] for key in NESTED if isinstance(entry.get(key), Mapping)}
        if row is None:
            return said_by(places), {}
        observations, actions, infos = row["observations"], row["actions"], row["infos"] or {}
        places["step infos/"] = {key: _first_said(infos[key]) for key in TEXT_KEYS if key in infos}
        if isinstance(observations, dict):
            places["observation/"] = {key: observations[key][0] for key in self._sentences}
            observations = {key: value for key, value in observations.items() if key not in self._sentences}
        if not len(row["terminations"]):
            raise ValueError("`terminations` is empty")
        said = said_by(places)
        success, first_success = success_of(entry, infos, len(actions))
        return said, {
            "observations": observations,
            "actions": actions,
            "rewards": row["rewards"],
            "terminated": bool(row["terminations"][-1]),
            "success": success,
            "first_success": first_success,
            "goal": said.goal,
            "source": source,
            "rewarded": truth_of(entry.get(REWARDED)) is not False or bool(np.any(row["rewards"])),
        }


def datasets_root(root: str | Path | None = None) -> Path:
    """Find the folder of Minari data sets.

    :param root: a folder of one's own, or None.
    :return: that folder, else $MINARI_DATASETS_PATH, else ~/.minari/datasets; absolute, as Minari wants it.
    """
    return Path(root or os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser().resolve()


def local_ids(root: str | Path | None = None) -> list[str]:
    """List the local Minari data sets.

    :param root: as in `datasets_root`.
    :return: their ids, sorted; half-written data sets are left out.
    """
    folder = datasets_root(root)
    found = folder.glob("**/data/metadata.json")
    ids = sorted(path.parents[1].relative_to(folder).as_posix() for path in found)
    return [name for name in ids if not name.startswith(".")]


def _open(name: str, folder: Path) -> Any:
    path = folder / name / "data"
    if not path.is_dir():
        local = local_ids(folder)
        near = difflib.get_close_matches(name, local, n=3) or local[:3]
        nearest = f"nearest there: {', '.join(near)}" if near else "there is none at all"
        way_on = (
            f"Fetch a published one with: minari download {name}"
            if _ID.fullmatch(name)
            else "An id is written as lab/drawer-open-v0, and a file or folder as npz:PATH, with its format"
        )
        raise ValueError(
            f"no Minari data set {name!r} in {folder} (`root` or $MINARI_DATASETS_PATH name another folder);"
            f" {nearest}. {way_on}"
        )
    minari = require("minari", "all")
    try:
        dataset = minari.MinariDataset(path)
        n_episodes = len(dataset)
    except Exception as error:  # an environment that is made for its spaces may raise anything
        about = _about(path)
        if isinstance(error, ImportError) and set(about) >= _SPACES:  # a library that reads the format
            raise
        raise ValueError(f"{name}: {_why_not_opened(minari, about, error)}") from error
    if not n_episodes:
        raise ValueError(f"{name}: the data set holds no episode")
    return dataset


def _about(path: Path) -> dict[str, Any]:
    """Read the metadata of a data set that Minari did not open; empty where they are damaged."""
    with suppress(OSError, ValueError, RecursionError):
        about = json.loads((path / "metadata.json").read_text())
        if isinstance(about, dict):
            return about
    return {}


def _why_not_opened(minari: Any, about: Mapping[str, Any], error: Exception) -> str:
    """Say what is wrong with a data set, and what to do."""
    version, stored_as = about.get("minari_version"), about.get("data_format")
    if isinstance(version, str) and version not in minari.supported_dataset_versions:
        return _of_other_version(minari, version)
    if about and not set(about) >= _SPACES:
        return _of_spaces(about, error)
    if stored_as and stored_as not in _FORMATS and isinstance(error, KeyError):
        return f"is stored as {stored_as!r}, and Minari {minari.__version__} reads {listed(_FORMATS)}"
    return f"{_damage(error)}; download or collect the data set again"


def _of_other_version(minari: Any, version: str) -> str:
    """Say of which version a data set is, and how to come by one that is read."""
    supported = sorted(minari.supported_dataset_versions, key=_in_parts)
    both = (
        f"was written by Minari {version}, and the installed Minari {minari.__version__} reads {supported[0]}"
        f" to {supported[-1]}"
    )
    if _in_parts(version) > _in_parts(supported[-1]):
        return (
            f"{both}. Install that one, pip install 'minari=={version}', or the newest, pip install --upgrade"
            " minari"
        )
    return (
        f"{both}. Download it again, or convert it in another virtual environment, where pip install"
        f" 'minari=={version}' opens it"
    )


def _in_parts(version: str) -> list[int]:
    return list(map(int, re.findall(r"\d+", version)))


def _of_spaces(about: Mapping[str, Any], error: Exception) -> str:
    """Say why the spaces of a data set, which it does not record, are not known."""
    missing = " and ".join(f"`{name}`" for name in sorted(_SPACES - set(about)))
    if not about.get("env_spec"):
        return (
            f"records no {missing}, and no environment (`env_spec`) that would tell: write it again with"
            " minari.create_dataset_from_buffers(..., observation_space=..., action_space=...)"
        )
    spec: dict[str, Any] = {}
    with suppress(ValueError, TypeError):
        spec = dict(json.loads(about["env_spec"]))
    needed = [str(each) for each in about.get("requirements") or ()]
    module = str(spec.get("entry_point") or "").partition(".")[0].partition(":")[0]
    install = f"pip install {' '.join(map(repr, needed))}" if needed else f"the package that holds `{module}`"
    return (
        f"records no {missing}, which its environment {spec.get('id')!r} would tell, and that cannot be made"
        f" here ({_name_of(error)}). Install {install}, or write the data set again with"
        " minari.create_dataset_from_buffers(..., observation_space=..., action_space=...)"
    )


def _name_of(error: BaseException) -> str:
    return one_line(error).rstrip(": ")


def _damage(error: BaseException) -> str:
    """Say what is wrong with files that cannot be read."""
    told = str(error.args[0]) if error.args else ""
    missing = re.search(r"['\"](\w+)['\"] (?:doesn't|does not) exist", told)
    reason = f"`{missing[1]}` is missing" if missing else _name_of(error)
    return f"the files are damaged or half-written ({reason})"


@contextmanager
def _sound(source: str) -> Iterator[None]:
    """Answer errors of reading the files with a sentence that names the source."""
    try:
        yield
    except _BROKEN as error:
        raise ValueError(f"{source}: {_damage(error)}; download or collect the data set again") from error


def _continuous(name: str, space: Space[Any], reading: Reading) -> Space[Any]:
    """Refuse labels: whole numbers from 0 on, unless their bounds were given, which quantities have."""
    told = f"{name}: the action space must be a Box of continuous actions, got {space}: such {LABELS}"
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise ValueError(told)
    if not isinstance(space, spaces.Box) or space.dtype.kind == "f" or (space.low < 0).all():
        return space
    if reading.action_low is None:
        raise ValueError(
            f"{told}. Where they are quantities, say their bounds with `action_low` and `action_high`"
        )
    return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def _first_said(values: Any) -> Any:
    """Return the first of the values of all steps that says something; no array as it is."""
    if isinstance(values, Mapping) or not np.ndim(values):
        return values
    return next((value for value in np.ravel(values) if value), None)


def _guessed_texts(name: str, dataset: Any) -> tuple[str, ...]:
    """Take the description, or the name of the environment, for the sentence of the data set, and warn."""
    env_spec = dataset.env_spec
    env_name = None if env_spec is None else (env_spec.kwargs or {}).get("env_name")
    described = dataset.storage.metadata.get("description")
    for origin, said in {"description": described, "`env_name`": env_name}.items():
        if text := decoded(said):
            warnings.warn(
                f"{name} has no task text; its {origin} {text!r} is taken for one. Say what the task is with"
                f" `task_texts={{{name!r}: ...}}`",
                stacklevel=3,
            )
            return (text,)
    return ()
