"""`train --validation` and `validate`: a number without an environment, from the command line."""

import json

import pytest
from factories import make_episodes, write_episodes
from test_cli import run, succeed

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.callbacks import read_curve

TINY = (
    "--batch-size 6 --prompts-per-batch 3 --net-arch 8 --text-encoder hashing:8 --device cpu"
    " --log-interval 1 --prompt-window 4"
)
STEPS = "--steps 4 --validation-freq 2"


def write(path, **kwargs):
    return write_episodes(path, make_episodes(n_tasks=4, **kwargs))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "logs.npz")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    command = f"train --dataset {data} {TINY} {STEPS} --validation 0.25 --validate-unseen 1 --out {out}"
    return out, succeed(command).output


def test_train_holds_out_measures_and_keeps_the_best_model(trained):
    out, printed = trained
    assert "Held out: 7 episodes of 4 tasks; not trained on: task-" in printed
    rows = [row for row in read_curve(out / "progress.csv") if "validation/both_error" in row]
    assert [row["step"] for row in rows] == [2.0, 4.0]
    label = json.loads((out / "best_model.json").read_text())
    assert (
        f"The model of step {label['step']}, with the lowest held-out error ({label['error']:.3f}" in printed
    )
    assert LLMDPD.load(out / "best_model.zip", device="cpu").num_timesteps == label["step"]


def test_train_warns_of_a_critic_that_still_moves(data, tmp_path):
    printed = succeed(f"train --dataset {data} {TINY} --steps 10 --set tau=0.5 --out {tmp_path}").output
    assert "The critic has not converged: over the last quarter of the training" in printed


@pytest.mark.parametrize("settings", ["--steps 4", "--steps 10 --eta 0"])
def test_train_says_nothing_of_a_critic_without_a_curve_or_without_one(settings, data, tmp_path):
    assert "critic has" not in succeed(f"train --dataset {data} {TINY} {settings} --out {tmp_path}").output


def test_a_task_that_is_held_out_whole_is_no_part_of_what_the_model_knows(trained):
    out, printed = trained
    unseen = printed.partition("not trained on: task-")[2][0]
    known = LLMDPD.load(out / "model.zip", device="cpu").known_task_texts
    assert len(known) == 6
    assert f"do task number {unseen}" not in known


def test_a_run_that_goes_on_holds_out_the_same_and_measures_the_same(trained, data, tmp_path):
    whole, _ = trained
    options = f"--dataset {data} {TINY} --validation-freq 2 --validation 0.25 --validate-unseen 1"
    succeed(f"train {options} --steps 2 --out {tmp_path}")
    succeed(f"train --resume {tmp_path} --steps 4")
    for name in ("progress.csv", "best_model.json"):
        rows = [(folder / name).read_text() for folder in (whole, tmp_path)]
        if name.endswith("csv"):
            rows = [
                [{key: row[key] for key in row if key.startswith("validation")} for row in read_curve(path)]
                for path in (whole / name, tmp_path / name)
            ]
        assert rows[0] == rows[1]


def test_validate_measures_what_the_training_held_out(trained, tmp_path):
    out, _ = trained
    printed = succeed(f"validate --model {out / 'model.zip'} --out {tmp_path}").output
    assert "unseen (1)" in printed
    written = json.loads((tmp_path / "validation.json").read_text())
    last = read_curve(out / "progress.csv")[-1]
    assert written["error"] == pytest.approx(last["validation_unseen/both_error"])


def test_validate_measures_other_episodes_and_knows_unseen_tasks_by_their_sentences(trained, tmp_path):
    out, printed = trained
    unseen = f"task-{printed.partition('not trained on: task-')[2][0]}"
    other = write(tmp_path / "other.npz", seed=1)
    succeed(f"validate --model {out / 'model.zip'} --dataset {other} --out {tmp_path}")
    written = json.loads((tmp_path / "validation.json").read_text())
    assert written["settings"]["unseen"] == [unseen]
    assert {e["task"] for e in written["episodes"] if e["seen"] is False} == {unseen}


def test_a_source_of_validation_is_measured_and_not_trained_on(data, tmp_path):
    other = write(tmp_path / "other.npz", seed=1)
    printed = succeed(f"train --dataset {data} {TINY} {STEPS} --validation {other} --out {tmp_path}").output
    assert "Held out: 16 episodes of 4 tasks" in printed
    assert json.loads((tmp_path / "run.json").read_text())["validation"] == [f"npz:{other}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--validation 1.5", "--validation takes a share in (0, 1) or a source, got 1.5"),
        ("--validate-unseen 4", "hold out from 0 to 3 whole ones, got 4"),
    ],
)
def test_a_split_that_cannot_be_is_refused_before_anything_is_written(options, message, data, tmp_path):
    result = run(f"train --dataset {data} {TINY} {options} --out {tmp_path / 'run'}")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_validate_on_the_training_data_is_refused(trained, data, tmp_path):
    out, _ = trained
    result = run(f"validate --model {out / 'model.zip'} --dataset {data} --out {tmp_path}")
    assert result.exit_code == 2
    assert "trained on these very data" in result.output


def test_validate_without_data_needs_a_run_that_held_something_out(data, tmp_path):
    succeed(f"train --dataset {data} {TINY} --steps 1 --out {tmp_path}")
    result = run(f"validate --model {tmp_path / 'model.zip'} --out {tmp_path / 'v'}")
    assert result.exit_code == 2
    assert "held nothing out" in result.output
