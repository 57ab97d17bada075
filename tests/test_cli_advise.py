"""`advise` from the command line: one page about the data, and verdicts on new tasks."""

import json

import pytest
from factories import make_episodes, write_episodes
from test_cli import run, succeed

from sb3_llmdpd.validation import folds

TINY = (
    "--batch-size 6 --prompts-per-batch 3 --net-arch 8 --text-encoder hashing:8 --device cpu"
    " --prompt-window 4 --minutes 0.001"
)


def write(path, **kwargs):
    return write_episodes(path, make_episodes(n_episodes=2, **kwargs))


@pytest.fixture(scope="module")
def advised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advise")
    data, new = write(folder / "logs.npz"), write(folder / "new.npz", n_tasks=1, seed=1)
    command = f"advise --dataset {data} {TINY} --out {folder / 'out'} --new {new} --new"
    with pytest.MonkeyPatch.context() as short:
        short.setattr(folds, "_FEWEST_STEPS", 2)
        return folder, succeed(command, "water the plants").output


def test_the_page_is_printed_and_lies_in_the_folder(advised):
    folder, printed = advised
    assert "3 trainings of 2 steps leave out 1 of 3 tasks each" in printed
    page = (folder / "out" / "advice.md").read_text()
    for title in (
        "Tasks when they are left out",
        "What their data lack",
        "New tasks: the nearest known ones",
    ):
        assert title in printed
        assert title in page
    assert (folder / "out" / "advice.html").is_file()


def test_a_new_source_is_measured_and_a_new_sentence_compared(advised):
    folder, _ = advised
    source, sentence = json.loads((folder / "out" / "advice.json").read_text())["new"]
    assert (source["name"], source["n_episodes"]) == ("task-0", 2)
    assert set(source["errors"]) == {"both", "sentence", "example", "none", "wrong"}
    assert (sentence["name"], sentence["n_episodes"], sentence["errors"]) == ("water the plants", 0, {})


def test_the_trainings_have_no_critic_unless_asked_for(advised):
    folder, _ = advised
    assert json.loads((folder / "out" / "plan.json").read_text())["settings"]["eta"] == 0.0


def test_a_folder_of_other_data_is_refused(advised, tmp_path):
    folder, _ = advised
    other = write(tmp_path / "other.npz", seed=2)
    result = run(f"advise --dataset {other} {TINY} --out {folder / 'out'}")
    assert result.exit_code == 2
    assert "holds the advice on other data: choose another folder" in " ".join(result.output.split())


def test_what_is_neither_a_source_nor_a_sentence_is_refused_before_anything_is_trained(advised, tmp_path):
    folder, _ = advised
    result = run(f"advise --dataset {folder / 'logs.npz'} {TINY} --new plants --out {tmp_path / 'out'}")
    assert result.exit_code == 2
    assert "takes a source of episodes or a sentence of two words or more" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
