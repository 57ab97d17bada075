"""Finds SB3's tests: in a folder, in a source distribution, or on the package index."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION_FILE = Path("stable_baselines3", "version.txt")


def pinned_version() -> str:
    """Read the version of SB3 that the package is tested with."""
    found = re.search(r"^stable_baselines3==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def find_tests(place: Path | None, scratch: Path) -> Path:
    """Find the folder of SB3's tests.

    :param place: unpacked source distribution or checkout, or the archive; None to download it
    :param scratch: empty folder for what is downloaded and unpacked
    :return: folder of the test files
    :raises ValueError: when there are no tests, or those of another version
    """
    version = pinned_version()
    if place is None:
        place = _download(version, scratch)
    if place.is_file():
        with tarfile.open(place) as archive:
            archive.extractall(scratch, filter="data")
        place = next(path.parents[1] for path in scratch.glob(f"*/{VERSION_FILE}"))
    version_file = place / VERSION_FILE
    if not version_file.is_file() or not (place / "tests").is_dir():
        raise ValueError(f"{place} is no source of Stable-Baselines3: it has no {VERSION_FILE} or no tests/")
    found = version_file.read_text().strip()
    if found != version:
        raise ValueError(
            f"{place} is version {found} of Stable-Baselines3, and constraints.txt pins {version}"
        )
    return place / "tests"


def _download(version: str, folder: Path) -> Path:
    wanted = f"stable-baselines3=={version}"
    how = ["--no-deps", "--no-binary", ":all:", "--quiet", "--dest", str(folder), wanted]
    subprocess.run([sys.executable, "-m", "pip", "download", *how], check=True)
    (archive,) = folder.glob("*.tar.gz")
    return archive
