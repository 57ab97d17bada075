"""Sentences that a language model cannot read, or reads in part: said at every use, and never in silence."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch as th
from expect import refused, warned
from factories import make_episode, make_episodes, tiny_model
from numpy.testing import assert_array_equal
from test_text_encoders import needs_minilm
from tiny_language_models import save_bert, save_roberta, save_xlnet

from sb3_llmdpd import LLMDPD, Prompt
from sb3_llmdpd.prompts.readings import MULTILINGUAL
from sb3_llmdpd.prompts.text_cache import CachedTextEncoder
from sb3_llmdpd.prompts.text_encoders import HashingTextEncoder, make_text_encoder
from sb3_llmdpd.prompts.text_table import TextTable

FOREIGN = "打开 抽屉"
HALF = "open the \ud83d drawer"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of an encoder that knows ten words."""
    th.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder)
    return f"transformers:{folder}"


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory, bert: str) -> str:
    """Name of an encoder of static word vectors, whose tokenizer is a bare one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("static")
    words = StaticEmbedding(AutoTokenizer.from_pretrained(bert.split(":", 1)[1]), embedding_dim=8)
    SentenceTransformer(modules=[words], device="cpu").save(str(folder))
    return f"sentence-transformers:{folder}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SB3_LLMDPD_CACHE", str(tmp_path / "cache"))


def test_a_sentence_of_unknown_tokens_is_refused_with_its_share(bert):
    with refused(f"does not know 100% of the tokens of '{FOREIGN}'"):
        make_text_encoder(bert).encode([FOREIGN])


def test_the_refusal_names_a_multilingual_encoder(bert):
    with refused(re.escape(f"text_encoder={MULTILINGUAL!r}")):
        make_text_encoder(bert).encode([FOREIGN])
    assert make_text_encoder(MULTILINGUAL).name == MULTILINGUAL


@pytest.mark.parametrize("options", ["", "?max_length=9"])
def test_the_encoder_that_the_refusal_names_reads_the_sentence_with_a_warning(options, bert):
    with refused("does not know") as raised:
        make_text_encoder(bert + options).encode([FOREIGN])
    (spec,) = re.findall(r"text_encoder='([^']*unknown=warn)'", str(raised.value))
    with warned("does not know 100% of the tokens"):
        assert make_text_encoder(spec).encode([FOREIGN]).shape == (1, 16)


def test_one_unknown_token_of_three_is_read_with_a_warning(bert):
    with warned("does not know 33% of the tokens of 'open the box'"):
        make_text_encoder(bert).encode(["open the box"])


def test_two_unknown_tokens_of_five_are_refused(bert):
    with refused("does not know 40% of the tokens"):
        make_text_encoder(bert).encode(["open the box then wait"])


def test_the_worst_of_several_sentences_is_named_with_their_number(bert):
    with refused(rf"'{FOREIGN}' \(and there are 2 more such sentences\)"):
        make_text_encoder(bert).encode(["open the box", FOREIGN, "open the drawer", "close the box"])


def test_static_word_vectors_refuse_unknown_words_too(static):
    with refused("does not know 50% of the tokens of 'open sesame'"):
        make_text_encoder(static).encode(["open sesame"])


@needs_minilm
@pytest.mark.parametrize("text", ["抽屉打开", "เปิดลิ้นชัก", "გახსენი უჯრა", "🔓🗄️"])
def test_minilm_refuses_scripts_that_it_does_not_know(text):
    with refused(f"'minilm' does not know 100% of the tokens of '{text}'"):
        make_text_encoder("minilm").encode([text])


@needs_minilm
def test_minilm_warns_of_an_emoji_in_an_english_sentence():
    with warned("does not know 25% of the tokens of 'pick up the 🍎'"):
        make_text_encoder("minilm").encode(["pick up the 🍎"])


def model_of(*texts: str, text_encoder: str) -> LLMDPD:
    """Make a model of a task for each sentence."""
    episodes = [make_episode(task=text, task_texts=(text,), rewards=np.ones(4)) for text in texts * 2]
    return tiny_model(dataset=episodes, text_encoder=text_encoder)


def test_training_on_a_sentence_that_cannot_be_read_is_refused(bert):
    with refused(f"the tokens of '{FOREIGN}'"):
        model_of("open the drawer", FOREIGN, text_encoder=bert)


def test_training_goes_on_with_a_warning_where_that_is_asked(bert):
    with warned(f"the tokens of '{FOREIGN}'"):
        model = model_of("open the drawer", FOREIGN, text_encoder=f"{bert}?unknown=warn")
    assert FOREIGN in model.known_task_texts


def test_predict_refuses_a_sentence_that_cannot_be_read_each_time(bert):
    model = model_of("open the drawer", "push the puck", text_encoder=bert)
    for _ in range(2):
        with refused(f"the tokens of '{FOREIGN}'"):
            model.predict(np.zeros(3, np.float32), task_text=FOREIGN)


def test_predict_warns_where_that_is_asked(bert):
    model = model_of("open the drawer", "push the puck", text_encoder=f"{bert}?unknown=warn")
    with warned(f"the tokens of '{FOREIGN}'"):
        model.predict(np.zeros(3, np.float32), task_text=FOREIGN)


def test_the_probe_sentence_need_not_be_in_the_models_language(bert):
    TextTable.encode(["open the drawer"], make_text_encoder(bert))  # warnings are errors in the tests


@pytest.mark.parametrize("options", ["?max_length=4", "?unknown=warn"])
def test_what_an_encoder_says_it_says_from_the_cache_again(options, bert):
    text, said = ("open the drawer", "reads 4 tokens") if "4" in options else (FOREIGN, "does not know 100%")
    with warned(said):
        first = CachedTextEncoder(make_text_encoder(bert + options)).encode([text])
    cached = CachedTextEncoder(make_text_encoder(bert + options))
    cached.encoder.read = None  # type: ignore[method-assign, assignment]  # which it would be called by
    with warned(said):
        assert_array_equal(cached.encode([text]), first)


def test_a_sentence_is_refused_from_the_cache_again(bert):
    for _ in range(2):
        with refused("does not know 100%"):
            CachedTextEncoder(make_text_encoder(bert)).encode([FOREIGN])


def test_a_cache_of_vectors_alone_is_encoded_again_and_says_what_is_due(bert, tmp_path):
    encoder = make_text_encoder(f"{bert}?unknown=warn")
    with warned("does not know"):
        vectors = CachedTextEncoder(encoder, tmp_path).encode([FOREIGN])
    (entry,) = tmp_path.rglob("*.npy")
    np.save(entry, vectors[0])  # as the versions up to 1.0 wrote it
    with warned("does not know"):
        assert_array_equal(CachedTextEncoder(encoder, tmp_path).encode([FOREIGN]), vectors)


@pytest.mark.parametrize("kind", ["transformers", "sentence-transformers"])
def test_roberta_reads_fewer_tokens_than_it_has_positions(kind, tmp_path):
    from sentence_transformers import SentenceTransformer

    save_roberta(tmp_path / "roberta")
    SentenceTransformer(str(tmp_path / "roberta"), device="cpu").save(str(tmp_path / "sentence-roberta"))
    folder = tmp_path / ("roberta" if kind == "transformers" else "sentence-roberta")
    with warned("reads 31 tokens, .* has 32"):
        cut = make_text_encoder(f"{kind}:{folder}").encode(["open " * 32])
    np.testing.assert_allclose(cut, make_text_encoder(f"{kind}:{folder}").encode(["open " * 31]), atol=1e-6)


def test_a_model_without_a_limit_cuts_nothing(tmp_path):
    save_xlnet(tmp_path)
    assert make_text_encoder(f"transformers:{tmp_path}").encode(["open " * 600]).shape == (1, 16)


@pytest.mark.parametrize("encoder", [HashingTextEncoder(8), CachedTextEncoder(HashingTextEncoder(8))])
def test_half_a_character_is_refused_by_an_encoder(encoder):
    with refused(r"'open the \\ud83d drawer' holds '\\ud83d', which is half a character; write the whole"):
        encoder.encode([HALF])


@pytest.mark.parametrize(
    "use",
    [
        lambda: Prompt(text=HALF),
        lambda: make_episode(task_texts=(HALF,)),
        lambda: tiny_model(dataset=make_episodes(n_tasks=1)).predict(np.zeros(5), task_text=HALF),
    ],
    ids=["prompt", "episode", "predict"],
)
def test_half_a_character_is_refused_where_a_sentence_comes_in(use):
    with refused("half a character"):
        use()
