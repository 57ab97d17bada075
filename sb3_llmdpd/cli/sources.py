"""Reads the names of data sets and the file of sentences; the options that say how data are read."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from sb3_llmdpd.data.loading import FORMATS, format_of
from sb3_llmdpd.data.minari import local_ids

SOURCES_HELP = (
    "Minari id, or a pattern of local ids such as 'metaworld/*'; or a file or folder, after its format where"
    f" its name does not tell: {', '.join(f'{kind}:PATH' for kind in FORMATS if kind != 'minari')}."
    " May be given several times."
)

Root = Annotated[
    Path | None,
    Option(help="Folder of the Minari data sets; default $MINARI_DATASETS_PATH or ~/.minari/datasets."),
]
TaskTexts = Annotated[
    Path | None, Option(help="JSON file of sentences by data set or task, instead of those in the data.")
]
Strict = Annotated[
    bool, Option("--strict", help="Refuse actions outside the action space instead of clipping them.")
]
Flatten = Annotated[bool, Option("--flatten", help="Put Dict observations into one vector.")]
AllowPickle = Annotated[
    bool, Option("--allow-pickle", help="Open pickled replay buffers; they execute code: only your own.")
]


def source_names(given: Sequence[str], root: str | Path | None) -> list[str]:
    """Write names so that `open_source` takes them and that they mean the same in every folder.

    :param given: names, and patterns of local Minari ids.
    :param root: folder of the Minari data sets; None for Minari's own.
    :return: each once; Minari ids as they are, paths absolute and after their format.
    :raises ValueError: when a pattern fits nothing.
    """
    names: list[str] = []
    for name in given:
        kind, rest = format_of(name)
        if kind != "minari":
            names.append(f"{kind}:{Path(rest).expanduser().absolute()}")
        elif any(sign in rest for sign in "*?["):
            local = local_ids(root)
            if not (fitting := [one for one in local if fnmatchcase(one, rest)]):
                raise ValueError(f"{name!r} fits none of the local data sets: {', '.join(local) or 'none'}")
            names += fitting
        else:
            names.append(rest)
    return list(dict.fromkeys(names))


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
