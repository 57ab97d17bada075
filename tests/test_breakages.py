"""Whatever is broken in a file, it is read, or refused in one sentence that names it: never a traceback."""

import os
import signal
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from breakages import HOW, SOUND, break_one, copied
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sb3_llmdpd.cli import app
from sb3_llmdpd.data.loading import load_dataset

ANSWERED = (ValueError, TypeError, OSError, ImportError)
"""Errors that the command line answers with their sentence."""

OF_THE_LIBRARY = {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS}
"""Ends that a library of C may come to in a damaged file, such as libhdf5: no code here could answer them."""

PREFIXES = {"robomimic": "robomimic:", "lerobot v2.1": "lerobot:", "lerobot v3.0": "lerobot:"}
OPTIONS = {"sb3": {"allow_pickle": True}}
OF_HDF5 = ("d4rl", "robomimic", "minari")
DAMAGES_WITHIN = ("flip", "overwrite", "remove")
SECONDS = 20

how_to_break = st.sampled_from(HOW)
seeds = st.integers(0, 2**32 - 1)


class Data(NamedTuple):
    """Data in a folder: how they are named, what a message must contain, and options of reading them."""

    source: str
    shown: str
    options: dict[str, Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Data]:
    """Copy sound data of a format to another folder."""
    places: dict[str, tuple[Path, str]] = {}

    def copy(kind: str, folder: Path) -> Data:
        if kind not in places:
            made = tmp_path_factory.mktemp("sound")
            places[kind] = made, SOUND[kind](made)
        made, name = places[kind]
        root = copied(made, folder)
        if kind == "minari":
            return Data(name, name, {"root": root})
        return Data(PREFIXES.get(kind, "") + str(root / name), str(root), OPTIONS.get(kind, {}))

    return copy


def fault_of(read: Callable[[], object], shown: str) -> str:
    """Tell what is wrong with the way in which reading ended; nothing where it ended well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # those of other kinds are errors
        try:
            read()
        except ANSWERED as error:
            fault = fault_in(str(error), shown)
            return fault and f"{fault}\n{traceback.format_exc()[-1_500:]}"
        except Exception:
            return traceback.format_exc()[-1_500:]
    return ""


def fault_in(message: str, shown: str) -> str:
    """Tell what is wrong with a sentence."""
    if shown not in message:
        return f"{message!r} does not name {shown}"
    return f"{message!r} has several lines" if "\n" in message.strip() else ""


def in_a_child(fault: Callable[[], str]) -> str:
    """Call a function in a process of its own, since a damaged hdf5 file may kill the one that reads it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(SECONDS)
            os.close(reading)
            with os.fdopen(writing, "w") as pipe:
                pipe.write(fault())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) not in OF_THE_LIBRARY:
        return f"reading was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return told


def assert_answered(kind: str, how: str, fault: Callable[[], str], what: str) -> None:
    is_risky = kind in OF_HDF5 and how in DAMAGES_WITHIN
    told = in_a_child(fault) if is_risky else fault()
    assert told == "", f"{what} of {kind}: {told}"


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_broken_below_can_be_read_when_it_is_whole(sound, kind, tmp_path):
    data = sound(kind, tmp_path)
    assert load_dataset(data.source, **data.options).n_steps >= 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=100)
@given(how=how_to_break, seed=seeds)
def test_broken_data_are_read_or_refused_in_one_sentence_that_names_them(sound, kind, how, seed):
    with TemporaryDirectory() as folder:
        data = sound(kind, Path(folder))
        done = break_one(Path(folder), how, seed)
        read = partial(load_dataset, data.source, **data.options)
        assert_answered(kind, how, partial(fault_of, read, data.shown), f"seed {seed}, {done}")


def fault_of_command(arguments: list[str], shown: str) -> str:
    """Tell what is wrong with the way in which a command ended; nothing where it ended well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "".join(traceback.format_exception(result.exception))[-1_500:]
    if result.exit_code == 0:
        return ""
    if result.exit_code != 2 or not result.stderr.startswith("Error: "):
        return f"it ended with {result.exit_code}, and said {result.stderr!r}"
    return fault_in(result.stderr, shown)


TINY = "--steps 1 --batch-size 2 --prompts-per-batch 1 --net-arch 8 --text-encoder none --eta 0 --device cpu"
COMMANDS: dict[str, Callable[[str, Path], list[str]]] = {
    "inspect": lambda source, folder: ["data", "inspect", source, "--text-encoder", "none"],
    "convert": lambda source, folder: ["data", "convert", source, "--to", "npz", "--out", f"{folder}/o.npz"],
    "train": lambda source, folder: ["train", "--dataset", source, "--out", f"{folder}/run", *TINY.split()],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=8)
@given(how=how_to_break, seed=seeds, command=st.sampled_from(sorted(COMMANDS)))
def test_commands_answer_broken_data_with_one_sentence_that_names_them(sound, kind, how, seed, command):
    with TemporaryDirectory() as folder:
        data = sound(kind, Path(folder))
        done = break_one(Path(folder), how, seed)
        options = {"root": ["--root", str(data.options.get("root"))], "allow_pickle": ["--allow-pickle"]}
        words = [word for name in data.options for word in options[name]]
        arguments = COMMANDS[command](data.source, Path(folder)) + words
        fault = partial(fault_of_command, arguments, data.shown)
        assert_answered(kind, how, fault, f"{command}, seed {seed}, {done}")
