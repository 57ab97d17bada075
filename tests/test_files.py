"""`whole_file`: links are written through, permissions stay, nobody is in the way, errors say what to do."""

import errno
import os
import pickle
import re
import shutil
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from sb3_llmdpd.common.files import CannotWrite, leftovers, says_what_cannot_be_written, whole_file


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


def test_a_temporary_name_tells_process_and_thread_and_ends_as_the_file_does(tmp_path):
    with whole_file(tmp_path / "model.zip") as temporary:
        temporary.touch()
        named = rf"\.{os.getpid()}-{threading.get_native_id()}-[0-9a-f]{{16}}-model\.zip"
        assert re.fullmatch(named, temporary.name)


def test_what_a_killed_process_left_of_a_file_is_found_and_nothing_else(tmp_path):
    left = {".17-4-0123456789abcdef-model.zip", ".5125-model.zip"}  # the second by an earlier version
    others = {"model.zip", ".model.zip", ".17-my-model.zip", ".17-4-0123456789abcdef-a.zip", "17-model.zip"}
    for name in left | others:
        (tmp_path / name).touch()
    assert {path.name for path in leftovers(tmp_path / "model.zip")} == left


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


def system_error(number: int, path: Path | None = None) -> OSError:
    """Make the error that the system gives; of a full disk it names no file."""
    return OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left on device, 0.3 MB free there; make room there"),
        (errno.EDQUOT, "Disk quota exceeded, 0.3 MB free there; make room there, or ask for a larger quota"),
        (errno.EFBIG, "File too large, 0.3 MB free there; raise the limit of a file's size, see `ulimit -f`"),
        (errno.EROFS, "Read-only file system, 0.3 MB free there; choose a folder that can be written"),
        (errno.EACCES, "Permission denied, 0.3 MB free there; choose a folder that can be written"),
    ],
)
def test_what_the_disk_refuses_is_said_with_the_file_the_free_space_and_what_to_do(
    number, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=300_000))
    path = tmp_path / "model.zip"
    write(path, "before")
    with pytest.raises(CannotWrite) as caught, whole_file(path):
        raise system_error(number)
    assert str(caught.value) == f"{path} cannot be written: {message}"
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert path.read_text() == "before"
    assert everything_in(tmp_path) == {"model.zip"}


def test_a_folder_that_cannot_be_made_is_said_too(tmp_path, monkeypatch):
    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise system_error(errno.EACCES, self)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CannotWrite, match=r"run/model.zip cannot be written: Permission denied, [0-9,.]+ MB"):
        write(tmp_path / "a new" / "run" / "model.zip", "text")


def test_an_error_of_another_file_stays_as_it_is(tmp_path):
    other = tmp_path / "of somebody else" / "model.zip"
    with pytest.raises(PermissionError) as caught, whole_file(tmp_path / "film.mp4"):
        raise system_error(errno.EACCES, other)
    assert caught.value.filename == str(other)


def test_other_errors_stay_as_they_are(tmp_path):
    with pytest.raises(OSError, match="Input/output error") as caught, whole_file(tmp_path / "film.mp4"):
        raise system_error(errno.EIO)
    assert not isinstance(caught.value, CannotWrite)


def test_the_sentence_comes_back_from_another_process(tmp_path):
    with pytest.raises(CannotWrite) as caught, says_what_cannot_be_written(tmp_path / "film.mp4"):
        raise system_error(errno.ENOSPC)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.errno, again.filename) == (
        str(caught.value),
        errno.ENOSPC,
        str(tmp_path / "film.mp4"),
    )
