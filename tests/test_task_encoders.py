"""Encoders of the task that a sentence stands for: vectors, other sentences, models made with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import T, make_episode, tiny_model
from numpy.testing import assert_array_equal

from sb3_llmdpd import LLMDPD, Episode
from sb3_llmdpd.data.metaworld.sentences import SENTENCES
from sb3_llmdpd.data.metaworld.tasks import TASKS, TOLD_TASKS
from sb3_llmdpd.prompts.task_encoders import OneHotTextEncoder
from sb3_llmdpd.prompts.text_encoders import make_text_encoder, probe, revision_of
from sb3_llmdpd.prompts.text_table import TextTable

MonkeyPatch = pytest.MonkeyPatch
SPECS = ONE_HOT, RANDOM = "one-hot:metaworld", "random:metaworld"
OTHER = "water the plant on the shelf"
every_kind = pytest.mark.parametrize("spec", SPECS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("SB3_LLMDPD_CACHE", str(tmp_path / "cache"))


def test_one_hot_is_the_unit_vector_of_the_task_for_every_phrasing():
    encoder = make_text_encoder(ONE_HOT)
    assert (encoder.name, encoder.dim) == ("one-hot:metaworld", 50)
    unit = np.eye(50, dtype=np.float32)
    for i, texts in enumerate(SENTENCES[name] for name in sorted(SENTENCES)):
        assert_array_equal(encoder.encode([f" {text}\n" for text in texts]), unit[[i] * len(texts)])


@pytest.mark.parametrize("kind", ["one-hot", "random"])
def test_tasks_with_a_goal_told_in_words_have_a_registry_of_their_own(kind):
    encoder = make_text_encoder(f"{kind}:metaworld-told")
    of_task = [encoder.encode(info.texts[:2]) for info in list(TOLD_TASKS.values())[:3]]
    assert all((vectors[0] == vectors[1]).all() for vectors in of_task)
    assert len({vectors[0].tobytes() for vectors in of_task}) == 3


def test_one_hot_is_zeros_for_an_unknown_sentence():
    assert_array_equal(make_text_encoder(ONE_HOT).encode([OTHER]), np.zeros((1, 50)))


def test_random_vectors_are_shared_by_the_phrasings_of_a_task_alone():
    encoder = make_text_encoder(RANDOM)
    assert (encoder.name, encoder.dim) == ("random:metaworld", 384)
    by_task = [encoder.encode(texts) for texts in SENTENCES.values()]
    assert all((vectors == vectors[0]).all() for vectors in by_task)
    every = np.stack([vectors[0] for vectors in by_task] + [encoder.encode([OTHER])[0]])
    cosines = every @ every.T / 384
    assert np.abs(cosines - np.diag(cosines.diagonal())).max() < 0.3  # of 384 independent numbers: 0.05 each
    assert abs(every.mean()) < 0.03
    assert abs(every.std() - 1) < 0.03


def test_random_vectors_of_unknown_sentences_depend_on_the_sentence_alone():
    encoder = make_text_encoder(RANDOM)
    both = encoder.encode([OTHER, "another one"])
    assert_array_equal(both[0], encoder.encode([f"{OTHER} "])[0])
    assert not np.allclose(both[0], both[1])


def test_the_name_of_a_task_is_not_a_sentence_that_stands_for_it():
    encoder = make_text_encoder(RANDOM)
    vectors = encoder.encode([SENTENCES["reach"][0], "reach", "task reach", "sentence reach"])
    assert len(np.unique(vectors, axis=0)) == 4


def test_the_vectors_are_the_same_in_every_process():
    vector = make_text_encoder(RANDOM).encode([SENTENCES["reach"][0]])[0]
    np.testing.assert_allclose(vector[:3], [-0.672036, -1.580515, 1.172402], atol=1e-5)


@every_kind
def test_no_sentences_give_no_rows(spec):
    encoder = make_text_encoder(spec)
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_a_sentence_stands_for_one_task():
    assert len(OneHotTextEncoder("metaworld").by_text) == sum(map(len, SENTENCES.values()))


@every_kind
def test_a_changed_sentence_changes_the_revision_and_the_cache(spec, monkeypatch):
    before = revision_of(make_text_encoder(spec))
    monkeypatch.setitem(TASKS, "reach", replace(TASKS["reach"], texts=(*SENTENCES["reach"], OTHER)))
    assert revision_of(make_text_encoder(spec)) not in (before, "", None)


@pytest.mark.parametrize("spec", ["one-hot:atari", "random:atari", "one-hot", "random:"])
def test_tasks_that_are_not_known_are_answered_with_the_known_encoders(spec):
    known = r'unknown text encoder(?s:.*)"one-hot:metaworld"(?s:.*)"random:metaworld"'
    with pytest.raises(ValueError, match=known):
        make_text_encoder(spec)
    with pytest.raises(ValueError, match="are those of metaworld, metaworld-told, got 'atari'"):
        OneHotTextEncoder("atari")


def test_an_option_is_refused():
    with pytest.raises(ValueError, match="unknown option 'dim', known here are none"):
        make_text_encoder("random:metaworld?dim=8")


@every_kind
def test_the_tasks_of_a_table_are_told_apart_without_a_warning(spec):
    table = TextTable.encode(SENTENCES, make_text_encoder(spec))  # warnings are errors in the tests
    assert len(table) == sum(map(len, SENTENCES.values()))


def test_one_hot_warns_of_tasks_that_it_does_not_know():
    texts = {"plant": [OTHER], "kitchen": ["cook"], "reach": SENTENCES["reach"]}
    message = rf"'one-hot:metaworld' hardly tells .*'{OTHER}' and 'cook' \(cosine 1\.000\)"
    with pytest.warns(UserWarning, match=message):
        TextTable.encode(texts, make_text_encoder(ONE_HOT))


def test_one_hot_has_a_probe_of_zeros_by_which_it_is_known_again():
    table = TextTable.encode(SENTENCES["reach"], make_text_encoder(ONE_HOT))
    assert_array_equal(table.probe, np.zeros(50))
    again, texts = TextTable.from_parts(table.to_dict(), table.tensors()), [OTHER, SENTENCES["push"][0]]
    assert_array_equal(again.lookup(texts), make_text_encoder(ONE_HOT).encode(texts))


def test_another_encoder_in_the_place_of_one_hot_is_noticed(monkeypatch):
    encoder = make_text_encoder(ONE_HOT)
    table = TextTable.encode(SENTENCES["reach"], encoder)
    monkeypatch.setattr(encoder, "encode", lambda texts: np.ones((len(texts), 50), np.float32))
    swapped = TextTable.from_parts(table.to_dict(), table.tensors(), encoder)
    with pytest.raises(ValueError, match=r"vectors differ .* relative distance 7\.07"):
        swapped.lookup([OTHER])


@pytest.mark.filterwarnings("ignore:.*is far from all sentences of training")
@every_kind
def test_a_loaded_model_answers_known_and_unknown_sentences_alike(spec, tmp_path):
    rng = np.random.default_rng(0)

    def episode(task: str) -> Episode:
        steps = dict(observations=rng.standard_normal((T + 1, 3)), actions=rng.uniform(-1, 1, (T, 2)))
        return make_episode(task=task, task_texts=SENTENCES[task], **steps)

    episodes = [episode(task) for task in ("reach", "reach", "push", "push")]
    model = tiny_model(dataset=episodes, text_encoder=spec).learn(2)
    model.save(tmp_path / "model.zip")
    loaded = LLMDPD.load(tmp_path / "model.zip", device="cpu")
    for text in (SENTENCES["reach"][1], SENTENCES["pick-place"][0], OTHER):
        how = dict(deterministic=True, task_text=text)
        before, after = (m.predict(np.ones(3, np.float32), **how)[0] for m in (model, loaded))
        assert_array_equal(before, after)
    assert probe(make_text_encoder(spec)).shape == (loaded.policy.text_dim,)
