"""Reads the names of data sets and the file of sentences; the options that say how data are read."""

import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path
from typing import Annotated, Any, TypeVar

from typer import Option

from sb3_llmdpd.cli.options import names, numbers
from sb3_llmdpd.data.checks import listed
from sb3_llmdpd.data.episode_source import MOST_CLIPPED
from sb3_llmdpd.data.loading import FORMATS, format_of
from sb3_llmdpd.data.minari import local_ids

Command = TypeVar("Command", bound=Callable[..., Any])

SOURCES_HELP = (
    "Minari id, or a pattern of local ids such as 'metaworld/*'; or a file, a folder or a pattern of them,"
    " after its format where its name does not tell:"
    f" {', '.join(f'{kind}:PATH' for kind in FORMATS if kind != 'minari')}."
    " May be given several times."
)

Root = Annotated[
    Path | None,
    Option(help="Folder of the Minari data sets; default $MINARI_DATASETS_PATH or ~/.minari/datasets."),
]
TASK_TEXTS = "task_texts"

_READING: dict[str, tuple[Any, Any, Any]] = {
    TASK_TEXTS: (
        Path | None,
        None,
        Option(help="JSON file of sentences by data set or task, instead of those in the data."),
    ),
    "strict": (
        bool,
        False,
        Option("--strict", help="Refuse actions outside the action space instead of clipping them."),
    ),
    "clip": (
        bool,
        False,
        Option(
            "--clip",
            help="Clip actions outside the action space however many;"
            f" more than {MOST_CLIPPED:.0%} are refused otherwise.",
        ),
    ),
    "action_low": (
        str | None,
        None,
        Option(help="Lower bounds of the actions, where the data record none: one number, or one each."),
    ),
    "action_high": (str | None, None, Option(help="Upper bounds of the actions, likewise.")),
    "flatten": (bool, False, Option("--flatten", help="Put Dict observations into one vector.")),
    "max_episode_steps": (
        int | None,
        None,
        Option(help="Time limit of the environment, for d4rl and npz files that lack it.", min=1),
    ),
    "observation_key": (
        str | None,
        None,
        Option(help="Names of the observations between commas, put side by side; lerobot and robomimic."),
    ),
    "action_key": (
        str | None,
        None,
        Option(help="Names of the actions between commas, put side by side; lerobot."),
    ),
    "scaled_actions": (
        bool | None,
        None,
        Option(
            "--scaled-actions/--unscaled-actions",
            help="Whether a replay buffer's actions are scaled to [-1, 1], or in environment units; sb3.",
        ),
    ),
    "allow_pickle": (
        bool,
        False,
        Option("--allow-pickle", help="Open pickled replay buffers; they execute code: only your own."),
    ),
}
"""Options that say how data are read, of several commands: type, default and description by name."""


def with_reading_options(command: Command) -> Command:
    """Give a command the options that say how data are read, in place of its ``**`` parameter."""
    signature = inspect.signature(command)
    *own, rest = signature.parameters.values()
    options = [
        inspect.Parameter(name, rest.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        for name, (kind, default, option) in _READING.items()
    ]
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return command


def how_to_read(options: Mapping[str, Any]) -> dict[str, Any]:
    """Make the arguments of `open_sources` of the options of `with_reading_options`.

    :param options: values by the options' names; others are left out.
    :raises ValueError: on bounds that are no numbers, and as `read_task_texts`.
    :raises OSError: when the file of sentences cannot be read.
    """
    how = {name: options[name] for name in _READING}
    how[TASK_TEXTS] = read_task_texts(how[TASK_TEXTS])
    for name in ("action_low", "action_high"):
        if how[name] is not None:
            bounds = numbers(how[name], f"--{name.replace('_', '-')}")
            how[name] = bounds[0] if len(bounds) == 1 else bounds
    for name in ("observation_key", "action_key"):
        if how[name] is not None:
            how[name] = names(how[name], f"--{name.replace('_', '-')}")
    return how


def reading_words(options: Mapping[str, Any]) -> list[str]:
    """Write the options of `with_reading_options` that differ from their defaults as a command line has them.

    :param options: values by the options' names; others are left out.
    """
    words: list[str] = []
    for name, (_, default, option) in _READING.items():
        value = options.get(name, default)
        # where an annotation declares them
        declared = option.default if isinstance(option.default, str) else f"--{name.replace('_', '-')}"
        switches = declared.split("/")
        if isinstance(value, bool) and value != default:
            words.append(switches[not value])
        elif value != default:
            words += [switches[0], str(value)]
    return words


def source_names(given: Sequence[str], root: str | Path | None) -> list[str]:
    """Write names so that `open_source` takes them and that they mean the same in every folder.

    :param given: names, and patterns of local Minari ids, files or folders.
    :param root: folder of the Minari data sets; None for Minari's own.
    :return: each once; Minari ids as they are, paths absolute and after their format.
    :raises ValueError: when a pattern fits nothing.
    """
    whole: list[str] = []
    for name in given:
        for one in _fitting(name, root) if _SIGNS & set(name) else [name]:
            kind, rest = format_of(one)
            is_place = kind not in ("minari", "lerobot") or Path(rest).expanduser().exists()
            of_file = f"{kind}:{os.path.abspath(Path(rest).expanduser())}"
            whole.append(rest if kind == "minari" else of_file if is_place else one)
    return list(dict.fromkeys(whole))


_SIGNS = set("*?[")


def _fitting(pattern: str, root: str | Path | None) -> list[str]:
    """Find what a pattern fits: local Minari ids, else files and folders."""
    head, sign, rest = pattern.partition(":")
    kind, path = (head, rest) if sign and head in FORMATS else (None, pattern)
    if Path(path).expanduser().exists():
        return [pattern]
    local = local_ids(root) if kind in (None, "minari") else []
    if fitting := [one for one in local if fnmatchcase(one, path)]:
        return fitting
    paths = [] if kind == "minari" else sorted(glob(str(Path(path).expanduser())))
    if not paths:
        raise ValueError(
            f"{pattern!r} fits no file, and none of the local data sets: {listed(local)}"
            if kind is None
            else f"{pattern!r} fits nothing"
        )
    return [f"{kind}:{path}" if kind else path for path in paths]


def read_task_texts(path: str | Path | None) -> Mapping[str, Any] | None:
    """Read sentences from a file.

    :param path: file of a JSON object from a source or task to a sentence or a list of phrasings; or None.
    :return: the object; None without a path.
    :raises ValueError: when the file holds something else.
    :raises OSError: when it cannot be read.
    """
    if path is None:
        return None
    accepted = 'a JSON file as {"source or task": "a sentence", "another": ["one phrasing", "another"]}'
    try:
        texts = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"--task-texts takes {accepted}, and {path} is not one ({error})") from error
    if not isinstance(texts, dict) or not all(isinstance(value, str | list) for value in texts.values()):
        raise ValueError(f"--task-texts takes {accepted}, and {path} holds {json.dumps(texts)[:80]}")
    return texts
