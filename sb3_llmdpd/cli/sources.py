"""How the commands read what a user calls data, and the options that say how it is read."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from sb3_llmdpd.data.loading import FORMATS, format_of
from sb3_llmdpd.data.minari import local_ids

SOURCES_HELP = (
    f"Minari id, or a pattern as 'metaworld/*' of local ids; or a file or folder, with its format in front where its name"
    f" does not tell: {', '.join(f'{kind}:PATH' for kind in FORMATS if kind != 'minari')}. May be given several times."
)

Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the Minari data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets."
    ),
]
TaskTexts = Annotated[
    Path | None,
    typer.Option(help="JSON file of sentences by data set or task, which go before those in the data."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse actions outside the action space instead of clipping them.")
]
Flatten = Annotated[
    bool, typer.Option("--flatten", help="Put the entries of Dict observations into one vector.")
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="Open pickled replay buffers, which execute what they hold: your own alone."
    ),
]


def source_names(given: Sequence[str], root: str | Path | None) -> list[str]:
    """Names as `open_source` takes them, that mean the same wherever a command goes on.

    :param given: names, and patterns of local Minari ids.
    :param root: folder of the Minari data sets, or None for Minari's own.
    :return: each once; Minari ids as they are, paths absolute behind their format.
    :raises ValueError: when a pattern fits nothing.
    """
    names: list[str] = []
    for name in given:
        kind, rest = format_of(name)
        if kind != "minari":
            names.append(f"{kind}:{Path(rest).expanduser().absolute()}")
        elif any(sign in rest for sign in "*?["):
            local = local_ids(root)
            fitting = [one for one in local if fnmatchcase(one, rest)]
            if not fitting:
                raise ValueError(f"{name!r} fits none of the local data sets: {', '.join(local) or 'none'}")
            names += fitting
        else:
            names.append(rest)
    return list(dict.fromkeys(names))


def read_task_texts(path: str | Path | None) -> Mapping[str, Any] | None:
    """Sentences from a file.

    :param path: of a JSON object from a source or a task to a sentence or a list of phrasings; None for none.
    :return: the object.
    :raises ValueError: when the file holds something else.
    :raises OSError: when it cannot be read.
    """
    if path is None:
        return None
    accepted = '{"source or task": "a sentence", "another": ["one phrasing", "another"]}'
    try:
        texts = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(
            f"--task-texts takes a JSON file as {accepted}, and {path} is none ({error})"
        ) from error
    if not isinstance(texts, dict) or not all(isinstance(value, str | list) for value in texts.values()):
        raise ValueError(
            f"--task-texts takes a JSON file as {accepted}, and {path} holds {json.dumps(texts)[:80]}"
        )
    return texts
