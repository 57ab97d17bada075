"""A text encoder that a model file names: `load` leaves it alone, a stranger's needs the caller's word."""

import io
import json
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from audited import events_of
from expect import refused
from factories import make_episode, make_episodes, tiny_model
from numpy.testing import assert_array_equal
from tiny_language_models import save_bert
from typer.testing import CliRunner

from sb3_llmdpd import LLMDPD, Prompt
from sb3_llmdpd.baselines.prompt_dt import PromptDT
from sb3_llmdpd.cli import app
from sb3_llmdpd.evaluation.players import ModelPlayer
from sb3_llmdpd.evaluation.rollouts import Rollout
from sb3_llmdpd.prompts.text_encoders import is_built_in

KNOWN, OTHER = "open the drawer", "push the puck"
OBSERVATION = np.zeros(3, np.float32)
STRANGERS = "transformers:somebody/model"
EPISODES = [make_episode(task=KNOWN, task_texts=(KNOWN,))] * 2
HEAVY = ["transformers", "sentence_transformers", "huggingface_hub", "requests", "httpx"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is still to be made: what writes to it is seen."""
    monkeypatch.setenv("SB3_LLMDPD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def saved(**kwargs: Any) -> bytes:
    file = io.BytesIO()
    tiny_model(**{"dataset": EPISODES, "prompts_per_batch": 1, **kwargs}).save(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def sound() -> bytes:
    return saved()


@pytest.fixture(scope="module")
def of_metaworld() -> bytes:
    """A file of a model with Meta-World's spaces."""
    return saved(dataset=make_episodes(n_tasks=1, observation_dim=39, action_dim=4))


@pytest.fixture(scope="module")
def of_bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str, np.ndarray]:
    """A file whose encoder is a folder, the encoder's name, and the action that another sentence gave."""
    th.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder)
    model = tiny_model(dataset=EPISODES, prompts_per_batch=1, text_encoder=f"transformers:{folder}")
    file = io.BytesIO()
    model.save(file)
    return file.getvalue(), model.text_encoder, act(model)


def act(model: Any, text: str = OTHER) -> np.ndarray:
    return model.predict(OBSERVATION, task_text=text, deterministic=True)[0]


def forged(content: bytes, change: Callable[[dict[str, Any]], Any], *left_out: str) -> bytes:
    """Write a file with other data, and without some of its members."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        members = {name: old.read(name) for name in old.namelist() if name not in left_out}
        data = json.loads(members["data"])
        change(data)
        for name, member in {**members, "data": json.dumps(data)}.items():
            new.writestr(name, member)
    return file.getvalue()


def named(encoder: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        data["arguments"]["text_encoder"] = data["text_table"]["encoder_name"] = encoder

    return change


def with_another_task(encoder: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        named(encoder)(data)
        data["only_task"] = [OTHER]

    return change


def without_table(data: dict[str, Any]) -> None:
    data["arguments"]["text_encoder"] = STRANGERS
    del data["arguments"]["policy_kwargs"]["text_dim"]
    data |= {"text_table": None, "only_task": [None]}


TABLE = "text_table.safetensors"
FILES: dict[str, Callable[[bytes], bytes]] = {
    "as it was saved": lambda sound: sound,
    "a model of the hub": lambda sound: forged(sound, named(STRANGERS)),
    "the whole disk": lambda sound: forged(sound, named("transformers:/")),
    "an unknown task, a model of the hub": lambda sound: forged(sound, with_another_task(STRANGERS)),
    "an unknown task, the whole disk": lambda sound: forged(sound, with_another_task("transformers:/")),
    "an unknown task, minilm": lambda sound: forged(sound, with_another_task("minilm")),
    "an unknown task, hashing": lambda sound: forged(sound, with_another_task("hashing:256")),
    "no table": lambda sound: forged(sound, without_table, TABLE),
}


@pytest.mark.parametrize("name", FILES)
def test_load_opens_its_own_file_and_nothing_else(name, sound, tmp_path, cache):
    path = tmp_path / "model.zip"
    path.write_bytes(FILES[name](sound))
    events = events_of(lambda: LLMDPD.load(path, device="cpu"))
    # PyTorch and the zip reader import modules of theirs when they need them first.
    own = [
        event for event in events if not (event[0] == "import" and event[1].startswith(("torch", "encod")))
    ]
    assert own == [("open", str(path))]
    assert not cache.exists()


IN_ANOTHER_PROCESS = f"""
import sys
from audited import events_of
from sb3_llmdpd import LLMDPD

events = events_of(lambda: LLMDPD.load(sys.argv[1], device="cpu"))
print([event for event in events if event[0] not in ("import", "compile")])  # of names of PyTorch's types
print([name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.slow
def test_the_first_load_of_a_process_opens_its_own_file_and_nothing_else(sound, tmp_path):
    path = tmp_path / "model.zip"
    path.write_bytes(forged(sound, with_another_task(STRANGERS)))
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(path)]
    finished = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert finished.stdout.splitlines() == [str([("open", str(path))]), "[]"], finished.stderr


def test_an_open_file_is_read_without_opening_any(sound):
    file = io.BytesIO(sound)
    assert [name for name, _ in events_of(lambda: LLMDPD.load(file, device="cpu")) if name != "import"] == []


@pytest.mark.parametrize(
    ("only_task", "reason"),
    [
        ([OTHER], "and not one of its own sentences"),
        ([3], "has 3 where a sentence or a name stands"),
        ([None, None], "and no list of one sentence"),
        ([], "and no list of one sentence"),
        (OTHER, "and no list"),
        ({}, "and no list"),
    ],
)
def test_an_only_task_that_the_file_has_no_sentence_of_is_refused(only_task, reason, sound):
    content = forged(sound, lambda data: data.update(only_task=only_task))
    with refused(rf"the model file cannot be loaded \(.*'only_task'.* {reason}\)"):
        LLMDPD.load(io.BytesIO(content), device="cpu")


def test_a_file_without_table_has_the_text_size_of_its_weights(sound):
    model = LLMDPD.load(io.BytesIO(forged(sound, without_table, TABLE)), device="cpu")
    whole = LLMDPD.load(io.BytesIO(sound), device="cpu")
    assert model.policy.text_dim == 256
    actions = [each.predict(OBSERVATION, prompt=Prompt(), deterministic=True)[0] for each in (model, whole)]
    assert_array_equal(*actions)


def test_predict_on_a_known_sentence_touches_nothing(of_bert):
    model = LLMDPD.load(io.BytesIO(of_bert[0]), device="cpu")
    assert events_of(lambda: act(model, KNOWN)) == []


@pytest.mark.parametrize("encoder", [STRANGERS, "sentence-transformers:somebody/model", "transformers:/"])
def test_a_strangers_encoder_is_refused_by_name_and_nothing_is_touched(encoder, sound):
    model = LLMDPD.load(io.BytesIO(forged(sound, named(encoder))), device="cpu")
    with refused(f"the model file names the text encoder '{encoder}'.*trust_encoder=True.*text_encoder=NAME"):
        act(model)
    assert events_of(lambda: act(model)) == []


def test_a_long_name_of_an_encoder_is_cut(sound):
    model = LLMDPD.load(io.BytesIO(forged(sound, named("transformers:" + "\n" * 10_000))), device="cpu")
    with pytest.raises(ValueError, match="not built in") as error:
        act(model)
    assert len(str(error.value)) < 1_000


def test_a_built_in_encoder_needs_no_word_of_the_caller(sound, cache):
    model = LLMDPD.load(io.BytesIO(sound), device="cpu")
    assert_array_equal(act(model), act(tiny_model(dataset=EPISODES, prompts_per_batch=1)))
    assert cache.is_dir()  # the vector is remembered


def test_a_built_in_encoder_cannot_be_asked_for_all_of_the_memory(sound):
    model = LLMDPD.load(io.BytesIO(forged(sound, named("hashing:1000000000000"))), device="cpu")
    with refused("`dim` must be from 1 to 65,536, got 1000000000000"):
        act(model)


@pytest.mark.parametrize(
    ("spec", "built_in"),
    [
        *((spec, True) for spec in ("minilm", "minilm?unknown=warn", "hashing", "hashing:8")),
        *((spec, True) for spec in ("one-hot:metaworld", "random:metaworld")),
        *((f"{kind}:a/b", False) for kind in ("transformers", "sentence-transformers", "another")),
        *((spec, False) for spec in ("", "/", "hash", "transformers:minilm", "transformers:hashing:8")),
    ],
)
def test_built_in_is_what_reads_no_place_that_its_name_decides(spec, built_in):
    assert is_built_in(spec) == built_in


@pytest.mark.parametrize("word", ["trust_encoder", "text_encoder"])
def test_a_strangers_encoder_is_used_when_the_caller_says_so(word, of_bert):
    content, encoder, action = of_bert
    said = {"trust_encoder": True, "text_encoder": encoder}[word]
    model = LLMDPD.load(io.BytesIO(content), device="cpu", **{word: said})
    assert_array_equal(act(model), action)


def test_the_callers_encoder_is_the_one_that_is_used(sound):
    """A file can name one encoder among its arguments, and another beside its sentences."""
    content = forged(sound, lambda data: data["text_table"].update(encoder_name=STRANGERS))
    model = LLMDPD.load(io.BytesIO(content), device="cpu", text_encoder="hashing")
    assert model.text_table.encoder_name == "hashing:256"
    assert_array_equal(act(model), act(LLMDPD.load(io.BytesIO(sound), device="cpu")))


def test_text_encoder_none_is_no_word_for_the_encoder_of_the_file(of_bert):
    model = LLMDPD.load(io.BytesIO(of_bert[0]), device="cpu", text_encoder=None)
    with refused("the model file names the text encoder"):
        act(model)


def test_new_sentences_of_data_need_the_callers_word_too(of_bert):
    content, _, _ = of_bert
    new = [make_episode(task=OTHER, task_texts=(OTHER,))] * 2
    with refused("the model file names the text encoder"):
        LLMDPD.load(io.BytesIO(content), device="cpu", dataset=new)
    trusting = LLMDPD.load(io.BytesIO(content), device="cpu", dataset=new, trust_encoder=True)
    assert trusting.known_task_texts == (KNOWN, OTHER)


def test_data_for_a_model_without_sentences_need_the_callers_word_too(sound):
    model = LLMDPD.load(io.BytesIO(forged(sound, without_table, TABLE)), device="cpu")
    with refused(f"the model file names the text encoder '{STRANGERS}'"):
        model.set_dataset(EPISODES)


@pytest.mark.parametrize("trusts", [True, False])
def test_a_model_in_another_process_trusts_what_it_trusted_before(trusts, of_bert):
    content, _, action = of_bert
    model = LLMDPD.load(io.BytesIO(content), device="cpu", trust_encoder=trusts)
    travelled = pickle.loads(pickle.dumps(ModelPlayer(model))).model
    assert travelled.trusts_encoder == trusts
    if trusts:
        assert_array_equal(act(travelled), action)


def test_a_model_that_was_trained_here_has_the_callers_encoder(of_bert):
    model = tiny_model(dataset=EPISODES, prompts_per_batch=1, text_encoder=of_bert[1])
    assert pickle.loads(pickle.dumps(ModelPlayer(model))).model.trusts_encoder


def test_a_model_of_one_task_that_went_on_without_text_can_be_loaded_again(sound):
    new = [make_episode(task=OTHER, task_texts=(OTHER,))] * 2
    model = LLMDPD.load(io.BytesIO(sound), device="cpu", text_encoder=None, dataset=new)
    file = io.BytesIO()
    model.save(file)
    again = LLMDPD.load(io.BytesIO(file.getvalue()), device="cpu")
    actions = [each.predict(OBSERVATION, deterministic=True)[0] for each in (model, again)]
    assert_array_equal(*actions)


@pytest.fixture(scope="module")
def prompt_dt() -> bytes:
    sizes = {"token_dim": 8, "context": 3, "batch_size": 4, "prompts_per_batch": 2}
    file = io.BytesIO()
    PromptDT(make_episodes(n_tasks=2), **sizes, n_layers=1, text_encoder="hashing:8", device="cpu").save(file)
    return file.getvalue()


def test_prompt_dt_opens_its_own_file_and_nothing_else(prompt_dt, tmp_path, cache):
    def change(data: dict[str, Any]) -> None:
        data["arguments"]["text_encoder"] = STRANGERS
        data["text_table"] = None

    path = tmp_path / "model.zip"
    path.write_bytes(forged(prompt_dt, change, TABLE))
    events = events_of(lambda: PromptDT.load(path, "cpu"))
    assert [event for event in events if event[0] != "import"] == [("open", str(path))]
    assert PromptDT.load(path, "cpu").text_dim == 8


def test_prompt_dt_uses_no_strangers_encoder(prompt_dt):
    content = forged(prompt_dt, named(STRANGERS))
    model = PromptDT.load(io.BytesIO(content), "cpu")
    again = pickle.loads(pickle.dumps(model))
    for each in (model, again):
        with refused("the model file names the text encoder"):
            each.text_table.lookup([OTHER])


def test_evaluate_uses_a_strangers_encoder_only_when_told(of_metaworld, tmp_path):
    path, nowhere = tmp_path / "model.zip", "transformers:/nowhere?local_files_only=1"
    path.write_bytes(forged(of_metaworld, named(nowhere)))
    play = ["evaluate", "--tasks", "reach", "--conditions", "text", "--model", path, "--out", tmp_path]
    for more, message in (([], "not built in.*--trust-encoder"), (["--trust-encoder"], "not be loaded")):
        result = CliRunner().invoke(app, [*map(str, play), *more])
        assert result.exit_code == 2
        assert re.search(message, result.output, re.DOTALL), result.output


@pytest.mark.parametrize("told", [[], ["--trust-encoder"]])
def test_film_hands_the_callers_word_on(told, of_metaworld, tmp_path, monkeypatch):
    given: dict[str, Any] = {}

    def film_episodes(*arguments: Any, **options: Any) -> list[Rollout]:
        given.update(options)
        return [Rollout(0, 0.0, 0.0, 7, None, False)]

    monkeypatch.setattr(import_module("sb3_llmdpd.cli.film"), "film_episodes", film_episodes)
    (tmp_path / "m.zip").write_bytes(of_metaworld)
    shown = ["film", "--model", str(tmp_path / "m.zip"), "--task", "reach", "--condition", "text", *told]
    assert CliRunner().invoke(app, [*shown, "--out", str(tmp_path / "a.mp4")]).exit_code == 0
    assert given["trust_encoder"] == bool(told)
