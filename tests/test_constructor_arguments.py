"""Every argument that a constructor accepts comes back from a file: random models act the same."""

import io
import re
from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from factories import make_episodes, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn

from sb3_llmdpd import LLMDPD, CosineSchedule, Prompt

OBSERVATIONS = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
EPISODES = make_episodes(n_tasks=1, n_episodes=2, length=6, texts=False)


class Pool(StrEnum):
    MEAN = "mean"
    MAX = "max"


class Level(IntEnum):
    LOW = 0
    HIGH = 3


class Conditioning(StrEnum):
    NEAREST = "nearest_steps"


class Own:
    """An object that no file knows."""


def own_function(progress: float) -> float:
    return 1e-3 * progress


OWN = Own()


def told(value: Any) -> str:
    """Write a value with the kinds of everything in it."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"{kind}({', '.join(f'{told(key)}: {told(entry)}' for key, entry in value.items())})"
    if type(value) in (list, tuple):
        return f"{kind}({', '.join(map(told, value))})"
    if isinstance(value, set | frozenset):
        return f"{kind}({', '.join(sorted(map(told, value)))})"
    if isinstance(value, np.ndarray | th.Tensor):
        return f"{kind}({value.dtype}, {tuple(value.shape)}, {value.tolist()!r})"
    return f"{kind}({value!r})"


class Extractor(BaseFeaturesExtractor):
    """Reads all of its options: another value, or another kind of one, gives other features."""

    def __init__(self, space: Any, **options: Any) -> None:
        super().__init__(space, 3)
        self.layer = nn.Linear(space.shape[0], 3)
        self.scale = 1.0 + sum(map(ord, told(options))) % 997 / 997 + len(told(options)) / 1e4

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations) * self.scale


FLOATS = st.floats(allow_nan=False) | st.sampled_from([float("inf"), float("nan"), -0.0])
NUMPY = st.sampled_from(
    [np.float32(0.1), np.float64(0.1), np.float16(2), np.int64(3), np.uint8(7), np.bool_(True), np.str_("a")]
)
ARRAYS = st.sampled_from(
    [np.eye(2), np.arange(3, dtype=np.uint8), np.array("a"), np.zeros((0, 2), np.float32)]
)
TENSORS = st.sampled_from([th.ones(2), th.arange(3), th.zeros(2, dtype=th.bfloat16), th.tensor(0.5)])
MEMBERS = st.sampled_from([*Pool, *Level])
OTHERS = st.sampled_from([OWN, own_function, Own, len, {1, 2}, frozenset("a"), b"bytes", 1j, range(3), ...])
KNOWN = st.sampled_from([nn.ReLU, nn.Identity, Path("a/b"), th.float64, CosineSchedule(1e-3), Fraction(1, 3)])
PLAIN = st.none() | st.booleans() | st.integers() | st.just(10**30) | FLOATS | st.text(max_size=3)
LEAVES = PLAIN | NUMPY | ARRAYS | TENSORS | MEMBERS | KNOWN | OTHERS
KEYS = st.text(max_size=2) | st.sampled_from(
    [":tuple:", ":custom:", "a.b", 0, 1.5, (1, 2), None, Pool.MAX, np.int64(4)]
)


def nests(entries: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    dicts = st.dictionaries(KEYS, entries, max_size=3)
    lists = st.lists(entries, max_size=3)
    return lists | lists.map(tuple) | dicts | dicts.map(OrderedDict)


OPTIONS = st.dictionaries(
    st.sampled_from(["gains", "pool", "gamma", "learning_rate"]),
    st.recursive(LEAVES, nests, max_leaves=6),
    max_size=3,
)
RATES = st.sampled_from(
    [
        *(
            1e-3,
            np.float32(1e-3),
            np.float64(1e-3),
            np.int64(0),
            Fraction(1, 1000),
            "lin_0.001",
            "lin_1e-3",
            "lin_x",
        ),
        *(CosineSchedule(np.float32(1e-3)), LinearSchedule(1e-3, 0.0, 0.5), ConstantSchedule(1e-3)),
        *(
            FloatSchedule(1e-3),
            FloatSchedule(ConstantSchedule(np.float32(1e-3))),
            FloatSchedule(own_function),
            own_function,
            Pool.MAX,
        ),
    ]
)
OPTIMIZERS = st.sampled_from(
    [
        *((th.optim.Adam, None), (th.optim.Adam, {"betas": (th.tensor(0.9), th.tensor(0.99))})),
        *(
            (th.optim.AdamW, {"weight_decay": np.float64(0.1)}),
            (th.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ),
        *(
            (RMSpropTFLike, {"alpha": 0.9}),
            (th.optim.LBFGS, None),
            (th.optim.Adagrad, {"lr_decay": Fraction(1, 9)}),
        ),
    ]
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "critic_learning_rate": st.none() | RATES,
        "eta": st.sampled_from([0, np.float32(0.3), Fraction(1, 2), True]),
        "n_candidates": st.sampled_from([1, np.int64(2), Level.HIGH]),
        "examples_per_prompt": st.sampled_from([(1, 2), [np.int64(1), np.int64(1)]]),
        "same_goal": st.sampled_from([np.bool_(False), False]),
        "sampler": st.sampled_from([np.str_("ddim"), "ddpm"]),
        "tensorboard_log": st.sampled_from([Path("runs"), "runs"]),
        "verbose": st.sampled_from([False, np.int64(0), np.bool_(False)]),
        "seed": st.sampled_from([np.uint8(3), np.int64(2**31), None]),
    },
)
POLICY = st.fixed_dictionaries(
    {},
    optional={
        "net_arch": st.sampled_from([[np.int64(4)], (4, 4), {"pi": [4], "qf": (np.int32(4),)}, []]),
        "activation_fn": st.sampled_from([nn.ReLU, nn.Tanh, nn.Identity]),
        "layer_norm": st.sampled_from([np.bool_(True), False]),
        "n_critics": st.sampled_from([np.int64(1), Level.HIGH]),
        "conditioning": st.sampled_from([Conditioning.NEAREST, np.str_("nearest_steps")]),
        "n_diffusion_steps": st.sampled_from([np.uint8(2), 3]),
    },
)
TINY = dict(
    dataset=EPISODES,
    text_encoder=None,
    prompts_per_batch=1,
    batch_size=6,
    seed=0,
    eta=0.1,
    learning_rate=1e-3,
)


def named(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """List what the keys in a nest of dicts lead to, by the key and by the whole path."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from [(str(key), entry), (f"{path}{key}", entry), *named(entry, f"{path}{key}.")]


def loaded(content: bytes, arguments: dict[str, Any]) -> LLMDPD:
    """Load a model, and pass again what `load` asks for, and no more."""
    custom: dict[str, Any] = {}
    while True:
        try:
            return LLMDPD.load(io.BytesIO(content), device="cpu", custom_objects=custom)
        except ValueError as error:
            asked = re.findall(r"pass custom_objects=\{'(.*)': \.\.\.\}", str(error))
            if not asked or asked[0] in custom:
                raise
        custom[asked[0]] = next(entry for name, entry in named(arguments) if name == asked[0])


@settings(max_examples=100)
@given(OPTIONS, RATES, OPTIMIZERS, SETTINGS, POLICY)
def test_a_model_is_refused_at_once_or_acts_the_same_when_it_is_loaded(
    options, rate, optimizer, others, policy
):
    optimizer_class, optimizer_kwargs = optimizer
    policy = {
        "conditioning": "nearest_steps",
        **policy,
        "features_extractor_class": Extractor,
        "features_extractor_kwargs": options,
        "optimizer_class": optimizer_class,
        "optimizer_kwargs": optimizer_kwargs,
    }
    arguments = {**TINY, "learning_rate": rate, **others, "policy_kwargs": policy}
    try:
        model = tiny_model(**arguments)
    except (TypeError, ValueError) as error:
        if not re.search("`.*`", str(error)):  # it names the argument
            raise
        return
    file = io.BytesIO()
    model.save(file)
    again = loaded(file.getvalue(), arguments)
    assert_array_equal(act(again), act(model))
    assert again.lr_schedule(0.3) == model.lr_schedule(0.3)
    assert told(again.policy_kwargs["features_extractor_kwargs"]) == told(options)


def act(model: LLMDPD) -> np.ndarray:
    return model.predict(OBSERVATIONS, deterministic=True, prompt=Prompt())[0]
