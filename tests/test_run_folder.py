"""`sb3-llmdpd train --resume`: a run in a folder goes on from whatever is there."""

import errno
import inspect
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killed import curve, differences, without_progress_bar, write_dataset
from typer.testing import CliRunner, Result

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.benchmarks.common.ownership import owned
from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.cli import app
from sb3_llmdpd.cli.model_options import OPTION_OF
from sb3_llmdpd.cli.settings import defaults
from sb3_llmdpd.cli.train import train

OPTIONS: list[Any] = ["--steps", 6, "--save-freq", 2, "--log-interval", 3, "--batch-size", 4]
OPTIONS += ["--prompts-per-batch", 2, "--net-arch", 8, "--text-encoder", "hashing:8", "--device", "cpu"]
Begin, DoAfter = Callable[..., Result], Callable[..., None]
FILES = [".lock", "curves.png", "model.zip", "progress.csv", "run.json"]


def run(*arguments: object) -> Result:
    given = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, given, env={"COLUMNS": "200", "TERM": "dumb"})


def assert_the_same(out: Path, undisturbed: Path) -> None:
    """The run came to the same model on the same learning curve."""
    assert differences(out, undisturbed) == set()
    assert curve(out) == curve(undisturbed)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_shown() -> Iterator[None]:
    """A chart takes a second, and the progress bar of a training that raises is never closed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sb3_llmdpd.benchmarks.common.run_folder.curves_chart", lambda rows, path: path.touch())
        patch.setattr(LLMDPD, "learn", without_progress_bar(LLMDPD.learn))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minari")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def begin(root: Path) -> Begin:
    given = ("train", "--dataset", "lab/*", "--root", root)
    return lambda out, *options: run(*given, "--out", out, *OPTIONS, *options)


@pytest.fixture(scope="module")
def undisturbed(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    result = begin(out)
    assert result.exit_code == 0, result.output
    return out


class Killed(BaseException):
    """Nothing in the package expects it, so that what it leaves is what a kill leaves."""


@pytest.fixture
def do_after(monkeypatch: pytest.MonkeyPatch) -> DoAfter:
    """Do something to a model in the middle of its training, right after the gradient step of this number."""
    take_step = LLMDPD.train

    def install(n: int, what: Callable[[LLMDPD], Any]) -> None:
        def step(self: LLMDPD, *args: Any, **kwargs: Any) -> None:
            take_step(self, *args, **kwargs)
            if self.num_timesteps + 1 == n:
                monkeypatch.setattr(LLMDPD, "train", take_step)
                what(self)

        monkeypatch.setattr(LLMDPD, "train", step)

    return install


def die(model: LLMDPD) -> None:
    raise Killed


@pytest.fixture
def killed(begin: Begin, do_after: DoAfter, tmp_path: Path) -> Path:
    """The folder of a run that was killed after step 5, and so has the model of step 4."""
    do_after(5, die)
    with pytest.raises(Killed):
        begin(tmp_path / "killed")
    return tmp_path / "killed"


def test_a_run_keeps_all_options_and_means_the_same_data_from_anywhere(undisturbed: Path, root: Path) -> None:
    arguments = json.loads((undisturbed / "run.json").read_text())
    not_kept = {"ctx", "out", "resume", "overwrite", "config", "set_", *OPTION_OF.values()}
    options = set(inspect.signature(train).parameters) - not_kept
    assert set(arguments) == options | set(defaults()) | {"command", "fingerprint"}
    assert set(arguments["policy_kwargs"]) == set(defaults()["policy_kwargs"])
    assert (arguments["dataset"], arguments["root"], arguments["steps"]) == (["lab/walk-v0"], str(root), 6)


@pytest.mark.parametrize("step", [4, 0])
def test_a_killed_run_goes_on_from_its_latest_model(step: int, killed: Path, undisturbed: Path) -> None:
    assert LLMDPD.load(killed / "model.zip").num_timesteps == 4
    if step == 0:  # killed before there was one
        (killed / "model.zip").unlink()
    result = run("train", "--resume", killed)
    assert result.exit_code == 0, result.output
    assert f"Going on from step {step}" in result.output
    assert_the_same(killed, undisturbed)
    assert sorted(path.name for path in killed.iterdir()) == FILES


def test_the_steps_of_a_run_are_counted_without_its_model(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(LLMDPD, "load")
    monkeypatch.setattr("sb3_llmdpd.checkpoint.container.unpacked", None)  # nor are tensors read
    assert RunFolder(killed).steps_done() == 4
    assert RunFolder(killed / "nothing").steps_done() == 0


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(killed: Path) -> None:
    left = {f".17-5-0123456789abcdef-{name}" for name in FILES if name != ".lock"}
    for name in left | {".notes", "1-model.zip"}:
        (killed / name).touch()
    run("train", "--resume", killed)
    assert {path.name for path in killed.iterdir()} - set(FILES) == {".notes", "1-model.zip"}


def test_data_may_have_moved_and_the_device_be_another(killed, undisturbed, root, tmp_path):
    shutil.copytree(root, tmp_path / "moved")
    result = run("train", "--resume", killed, "--root", tmp_path / "moved", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert json.loads((killed / "run.json").read_text())["root"] == str(tmp_path / "moved")
    assert differences(killed, undisturbed) == set()


def everything_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Contents of files, and when they and the folder were changed."""
    files = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    return {**files, ".": (folder.stat().st_mtime_ns, b"")}


def test_a_finished_run_says_so_and_how_to_go_on_and_nothing_is_written(undisturbed: Path) -> None:
    before = everything_in(undisturbed)
    result = run("train", "--resume", undisturbed)
    assert result.exit_code == 0
    said = f"finished: 6 gradient steps. To train further: sb3-llmdpd train --resume {undisturbed} --steps 12"
    assert said in result.output
    assert everything_in(undisturbed) == before


@pytest.mark.parametrize("is_there", [False, True])
def test_a_run_killed_before_its_curve_was_drawn_draws_it(is_there, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    chart = tmp_path / "run" / "curves.png"
    chart.unlink()
    if is_there:  # as the run left it that this one went on with, to a later end
        chart.touch()
        os.utime(chart, (0, 0))
    run("train", "--resume", tmp_path / "run")
    assert chart.stat().st_mtime > 0


def test_a_finished_run_goes_on_to_a_later_end(begin: Begin, undisturbed: Path, tmp_path: Path) -> None:
    begin(tmp_path / "short", "--steps", 4)
    result = run("train", "--resume", tmp_path / "short", "--steps", 6)
    assert result.exit_code == 0, result.output
    assert_the_same(tmp_path / "short", undisturbed)
    assert json.loads((tmp_path / "short" / "run.json").read_text())["steps"] == 6


@pytest.mark.parametrize(("number", "exit_status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_model_and_the_command_says_where_it_is(
    number: signal.Signals,
    exit_status: int,
    begin: Begin,
    undisturbed: Path,
    do_after: DoAfter,
    tmp_path: Path,
) -> None:
    out = tmp_path / "a run"
    do_after(3, lambda model: os.kill(os.getpid(), number))
    result = begin(out)
    assert result.exit_code == exit_status
    stopped = f"Stopped by {number.name} at step 3 of 6. The model is {out}/model.zip."
    assert f"{stopped} To go on: sb3-llmdpd train --resume '{out}'" in result.output
    assert LLMDPD.load(out / "model.zip").num_timesteps == 3
    run("train", "--resume", out)
    assert_the_same(out, undisturbed)


def test_a_second_ctrl_c_ends_the_command_at_once(begin: Begin, do_after: DoAfter, tmp_path: Path) -> None:
    do_after(5, lambda model: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    result = begin(tmp_path / "run")
    assert (result.exit_code, LLMDPD.load(tmp_path / "run" / "model.zip").num_timesteps) == (130, 4)


def test_a_full_disk_ends_the_command_with_its_sentence_and_the_model_of_before(
    begin: Begin, undisturbed: Path, do_after: DoAfter, tmp_path: Path
) -> None:
    def fill(model: LLMDPD) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    do_after(5, fill)
    result = begin(tmp_path / "run")
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == "Error: [Errno 28] No space left on device"
    run("train", "--resume", tmp_path / "run")
    assert differences(tmp_path / "run", undisturbed) == set()


@pytest.mark.parametrize(("name", "writer"), [("model.zip", "container._write_zip"), ("progress.csv", "csv")])
def test_a_file_of_the_run_that_cannot_be_written_is_answered_with_how_to_go_on(
    name: str, writer: str, begin: Begin, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "a run"
    with monkeypatch.context() as patch:
        if writer == "csv":
            patch.setattr("sb3_llmdpd.llmdpd.callbacks.csv.DictWriter.writerow", fill)
        else:
            patch.setattr(f"sb3_llmdpd.checkpoint.{writer}", fill)
        result = begin(out)
    assert result.exit_code == 2
    said = f"Error: {re.escape(str(out))}/{name} cannot be written: No space left on device, [0-9,.]+ MB free"
    said += f" there; make room there. To go on: sb3-llmdpd train --resume '{re.escape(str(out))}'"
    assert re.fullmatch(said, result.output.splitlines()[-1]), result.output
    assert run("train", "--resume", out).exit_code == 0
    assert_the_same(out, undisturbed)


def test_a_diverged_training_leaves_the_last_good_model(begin, do_after, tmp_path):
    do_after(5, lambda model: next(model.actor.parameters()).data.fill_(float("nan")))
    result = begin(tmp_path / "run")
    assert result.exit_code == 1
    assert re.search(
        r"(?m)^Error: the training has diverged: .*The last good model is .*run/model.zip", result.output
    )
    assert LLMDPD.load(tmp_path / "run" / "model.zip").num_timesteps == 4


def assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert re.search(message, result.output), result.output


@pytest.mark.parametrize("which", ["killed", "undisturbed"])
def test_a_run_with_a_model_is_not_replaced_and_the_ways_on_are_named(which, begin, request):
    folder = request.getfixturevalue(which)
    before = everything_in(folder)
    ways = (
        f"Go on with sb3-llmdpd train --resume {folder}; or replace it, with --overwrite; or .*, with another"
    )
    assert_refused(begin(folder), rf"{folder} holds the model of a run\. {ways} --out$")
    assert everything_in(folder) == before


def test_a_model_that_no_run_is_known_of_is_not_replaced(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_text("of a script")
    message = f"{tmp_path}/model.zip is of no run that is known here.*: move it away, or choose another --out"
    assert_refused(begin(tmp_path, "--overwrite"), message)
    assert (tmp_path / "model.zip").read_text() == "of a script"


def test_a_run_of_another_command_is_not_replaced(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"command": "benchmark", "steps": 6}')
    message = f"{tmp_path} holds a run of sb3-llmdpd benchmark: choose another --out"
    assert_refused(begin(tmp_path, "--overwrite"), message)


@pytest.fixture
def replaced(begin: Begin, undisturbed: Path, do_after: DoAfter, tmp_path: Path) -> tuple[Path, bytes]:
    """The folder of a run that replaces another and was killed after step 1, and the other's model."""
    begin(tmp_path / "run", "--eta", 0)
    before = (tmp_path / "run" / "model.zip").read_bytes()
    do_after(1, die)
    with pytest.raises(Killed):
        begin(tmp_path / "run", "--overwrite")
    return tmp_path / "run", before


def test_a_model_that_is_replaced_stays_until_the_new_run_saves_its_first(replaced) -> None:
    folder, before = replaced
    assert (folder / "model.zip").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "model.zip",
        "progress.csv",
        "run.json",
    ]
    assert curve(folder) == []


def test_a_run_that_replaces_another_goes_on_from_its_own_beginning(replaced, undisturbed) -> None:
    result = run("train", "--resume", replaced[0])
    assert "Going on from step 0" in result.output
    assert_the_same(replaced[0], undisturbed)


def test_a_run_that_was_replaced_by_one_just_like_it_is_finished(begin: Begin, tmp_path: Path) -> None:
    begin(tmp_path)
    assert begin(tmp_path, "--overwrite").exit_code == 0
    assert "is finished" in run("train", "--resume", tmp_path).output


def test_a_run_that_diverged_at_its_beginning_is_begun_again_with_other_settings(begin, do_after, tmp_path):
    do_after(1, lambda model: next(model.actor.parameters()).data.fill_(float("nan")))
    assert "after gradient step 1 the weight" in begin(tmp_path).output
    assert begin(tmp_path, "--eta", 0).exit_code == 0
    assert LLMDPD.load(tmp_path / "model.zip").eta == 0


@pytest.mark.parametrize("command", ["begin", "resume"])
def test_a_folder_that_a_process_works_in_is_left_alone(command, begin, killed, monkeypatch) -> None:
    monkeypatch.setattr("sb3_llmdpd.benchmarks.common.ownership._PATIENCE_S", 0.0)
    with owned(killed):
        before = everything_in(killed)
        result = begin(killed, "--overwrite") if command == "begin" else run("train", "--resume", killed)
        assert everything_in(killed) == before
    assert_refused(result, f"process {os.getpid()} works in {killed}: wait until it has ended")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--batch-size", 8], "--batch-size"),
        (["--out", "elsewhere", "--eta", 0.5], "--out, --eta"),
        (["--dataset", "lab/*"], "--dataset"),
        (["--cosine"], "--cosine"),
    ],
)
def test_other_options_cannot_change_later(undisturbed: Path, options: list[Any], named: str) -> None:
    message = rf"of which only --steps, --device, --root and --cache may change: leave out {named}$"
    assert_refused(run("train", "--resume", undisturbed, *options), f"(?m){message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no run to go on with in .*: it has no run.json"),
        ("", "run.json does not describe a run of sb3_llmdpd: begin anew in another folder"),
        ('{"command": "train"}', "run.json does not describe a run"),
        ('["train"]', "run.json does not describe a run"),
        ('{"command": "train", "steps": "many"}', "run.json does not describe a run"),
        ('{"command": "train", "steps": 6, "warp": 9}', "'warp', which is no setting: .*; go on"),
        (
            '{"command": "quickstart", "steps": 6}',
            "another command. Go on with .* sb3-llmdpd quickstart --out",
        ),
    ],
    ids=["none", "empty", "no steps", "no object", "no number", "a newer version's", "the quickstart's"],
)
def test_a_folder_without_such_a_run_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert_refused(run("train", "--resume", tmp_path), message)


def test_other_data_than_a_run_was_begun_with_are_refused(killed: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", seed=1)
    result = run("train", "--resume", killed, "--root", tmp_path / "other")
    assert_refused(result, rf"the data are not those that the run in {killed} was begun with: put these back")


def test_a_run_of_an_older_version_gets_defaults_of_new_options(killed: Path, undisturbed: Path) -> None:
    arguments = json.loads((killed / "run.json").read_text())
    del arguments["prompt_noise"]
    (killed / "run.json").write_text(json.dumps(arguments))
    assert run("train", "--resume", killed).exit_code == 0
    assert differences(killed, undisturbed) == set()
