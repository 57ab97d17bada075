"""A folder has one owner: who works there is named, and what a killed process left is in nobody's way."""

import json
import os
import socket
from pathlib import Path

import pytest
from expect import refused
from filelock import FileLock

from sb3_llmdpd.benchmarks.common.ownership import owned

HERE, THERE = socket.gethostname(), "a-machine-that-is-far-away"


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_llmdpd.benchmarks.common.ownership._PATIENCE_S", 0.0)


def note(folder: Path, host: str, process: int = 17) -> Path:
    path = folder / "owner.json"
    path.write_text(json.dumps({"host": host, "process": process}))
    return path


def test_the_owner_is_noted_while_it_works_there(tmp_path):
    with owned(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "owner.json").read_text()) == {
            "host": HERE,
            "process": os.getpid(),
        }
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_an_owned_folder_is_refused_with_the_number_of_the_process_and_how_to_stop_it(tmp_path):
    number = os.getpid()
    message = f"process {number} works in {tmp_path}: wait until it has ended, or stop it with kill {number}"
    with owned(tmp_path), refused(f"^{message}$"), owned(tmp_path):
        pass


def test_a_folder_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError), owned(tmp_path):
        raise KeyError
    with owned(tmp_path):
        pass


def test_what_a_killed_process_of_this_machine_noted_is_replaced(tmp_path):
    path = note(tmp_path, HERE)
    with owned(tmp_path):
        assert json.loads(path.read_text())["process"] == os.getpid()


@pytest.mark.parametrize(
    ("held", "in_the_way"), [(False, "{0}/owner.json"), (True, "{0}/.lock and {0}/owner.json")]
)
def test_a_process_of_another_machine_is_named_with_what_to_do(held, in_the_way, tmp_path):
    path = note(tmp_path, THERE)
    before = path.read_text()
    remedy = f"If it runs no more, delete {in_the_way.format(tmp_path)}, and give the command again"
    lock = FileLock(tmp_path / (".lock" if held else "another.lock"))
    with lock, refused(f"process 17 on the machine {THERE} works in .* {remedy}"), owned(tmp_path):
        pass
    assert path.read_text() == before


def test_after_the_note_of_another_machine_is_deleted_the_folder_is_free(tmp_path):
    path = note(tmp_path, THERE)
    with refused(f"delete {path}, and"), owned(tmp_path):
        pass
    path.unlink()
    with owned(tmp_path):
        pass


@pytest.mark.parametrize("content", [None, "", '{"host": "', "{}", "[]"])
def test_a_note_that_is_not_there_yet_is_not_waited_for(content, tmp_path):
    if content is not None:
        (tmp_path / "owner.json").write_text(content)
    with FileLock(tmp_path / ".lock"), refused("another process has just begun to work in"), owned(tmp_path):
        pass
