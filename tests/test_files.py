"""`whole_file`: links are written through, permissions stay, and nobody gets in anybody's way."""

import os
import stat
import threading
from pathlib import Path

import pytest

from sb3_llmdpd.common.files import whole_file


def write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


def everything_in(folder: Path) -> set[str]:
    return {os.fspath(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_a_symbolic_link_stays_and_the_file_that_it_points_to_is_written(tmp_path):
    real, link = tmp_path / "big disk" / "model.zip", tmp_path / "latest.zip"
    write(real, "before")
    link.symlink_to(Path("big disk") / "model.zip")  # relative, as `ln -s` is often called
    write(link, "after")
    assert link.is_symlink()
    assert real.read_text() == "after"
    assert everything_in(tmp_path) == {"latest.zip", "big disk/model.zip"}


def test_a_link_to_a_file_that_is_yet_to_be_made_stays_too(tmp_path):
    link = tmp_path / "latest.zip"
    link.symlink_to(tmp_path / "not yet" / "model.zip")
    write(link, "made")
    assert link.is_symlink()
    assert (tmp_path / "not yet" / "model.zip").read_text() == "made"


def test_a_link_to_a_link_is_followed_to_its_end(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("three")
    write(tmp_path / "one", "text")
    assert (tmp_path / "three").read_text() == "text"
    assert (tmp_path / "one").is_symlink()
    assert (tmp_path / "two").is_symlink()


def test_an_interrupted_write_through_a_link_leaves_the_file_of_before(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    write(real, "before")
    link.symlink_to(real)
    with pytest.raises(UnicodeEncodeError):
        write(link, "half \udcff")
    assert real.read_text() == "before"
    assert everything_in(tmp_path) == {"real", "link"}


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o444])
def test_a_file_that_is_replaced_keeps_who_may_read_it(tmp_path, mode):
    path = tmp_path / "secret.zip"
    write(path, "before")
    path.chmod(mode)
    write(path, "after")
    assert (stat.S_IMODE(path.stat().st_mode), path.read_text()) == (mode, "after")


def test_what_is_no_file_is_left_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "circle", "pipe"):
        with pytest.raises(OSError, match=rf"{name} is there and is no file: pass the path of a file"):
            write(tmp_path / name, "text")
    assert everything_in(tmp_path) == {"circle", "pipe"}


def test_two_threads_that_write_one_path_both_succeed(tmp_path):
    path, both_write = tmp_path / "model.zip", threading.Barrier(2)
    errors: list[BaseException] = []

    def write_much(letter: str) -> None:
        try:
            with whole_file(path) as temporary:
                temporary.write_text(letter * 1_000)
                both_write.wait(10)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write_much, args=letter) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert path.read_text() in ("a" * 1_000, "b" * 1_000)
    assert everything_in(tmp_path) == {"model.zip"}
