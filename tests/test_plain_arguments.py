"""Arguments in the kinds that users have: paths, truth values, NumPy's numbers, any default dtype."""

from collections.abc import Iterator
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from expect import refused
from factories import make_episodes, tiny_model
from numpy.testing import assert_array_equal

from sb3_llmdpd import LLMDPD, Prompt

OBSERVATIONS = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)


class Objective(StrEnum):
    EXPECTILE = "expectile"


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("verbose", True, 1),
        ("verbose", np.bool_(False), 0),
        ("seed", np.int64(3), 3),
        ("learning_rate", np.float32(0.5), 0.5),
        ("critic_learning_rate", np.float64(0.25), 0.25),
        ("batch_size", np.int32(24), 24),
        ("gamma", np.float16(0.5), 0.5),
        ("eta", Fraction(1, 4), 0.25),
        ("critic_objective", Objective.EXPECTILE, "expectile"),
        ("sampler", np.str_("ddim"), "ddim"),
        ("same_goal", np.bool_(False), False),
        ("examples_per_prompt", [np.int64(1), np.int64(2)], (1, 2)),
        ("policy_kwargs", dict(net_arch=(np.int64(4), np.int64(4))), [4, 4]),
        ("policy_kwargs", dict(net_arch=dict(pi=(4,), qf=[np.int64(4)])), dict(pi=[4], qf=[4])),
    ],
)
def test_an_argument_of_another_kind_is_the_plain_one_that_is_meant(name, value, plain):
    model = tiny_model(**{name: value})
    found = model.policy_kwargs["net_arch"] if name == "policy_kwargs" else getattr(model, name)
    assert (type(found), found) == (type(plain), plain)
    if isinstance(plain, list | tuple):
        assert {type(entry) for entry in found} == {int}


def test_the_folder_of_the_log_may_be_a_path(tmp_path):
    model = tiny_model(tensorboard_log=tmp_path / "runs", verbose=False).learn(1, log_interval=1)
    assert model.tensorboard_log == str(tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["LLMDPD_1"]
    model.save(tmp_path / "model")
    assert LLMDPD.load(tmp_path / "model").tensorboard_log == str(tmp_path / "runs")
    assert LLMDPD.load(tmp_path / "model", tensorboard_log=Path("elsewhere")).tensorboard_log == "elsewhere"


@pytest.mark.parametrize("n_steps", [np.int64(2), np.float32(2.0), 2.0])
def test_the_number_of_steps_may_be_one_of_numpys(n_steps, tmp_path):
    model = tiny_model().learn(n_steps, log_interval=np.int64(1))
    model.save(tmp_path / "model")
    assert LLMDPD.load(tmp_path / "model", device="cpu").num_timesteps == model.num_timesteps == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(batch_size=True), "`batch_size` must be a whole number, got True"),
        (dict(tensorboard_log=3), "`tensorboard_log` must be a string or None, got 3"),
        (dict(policy_kwargs=[1]), r"`policy_kwargs` must be a dict or None, got \[1\]"),
        (dict(policy_kwargs=dict(net_arch=4)), r"`net_arch` must be a list of widths, or dict.*got 4"),
        (dict(policy_kwargs=dict(net_arch=dict(vf=[4]))), r"`net_arch` must be .*got {'vf': \[4\]}"),
        (dict(learning_rate=th.tensor(1e-3)), "`learning_rate` must be a number, got tensor"),
    ],
)
def test_what_is_of_no_kind_that_is_meant_is_refused_by_name(arguments, message):
    with refused(message, TypeError):
        LLMDPD("MlpPolicy", **{"dataset": make_episodes(), "text_encoder": "hashing", **arguments})


@pytest.fixture
def doubles() -> Iterator[None]:
    """The default of PyTorch, as a script may set it."""
    yield
    th.set_default_dtype(th.float32)


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "expectile": dict(critic_objective="expectile"),
    "candidates": dict(n_candidates=2, sampler="ddim"),
    "flow": dict(policy_kwargs=dict(actor="one_step_flow")),
    "retrieval": dict(policy_kwargs=dict(conditioning="retrieval", step_distribution="signal")),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.usefixtures("doubles")
def test_the_default_dtype_of_pytorch_changes_nothing(variant, tmp_path):
    """It is set before a model is made, or between any of its uses."""

    def actions(*defaults: th.dtype) -> list[np.ndarray]:
        made, trained, used = defaults
        th.set_default_dtype(made)
        model = tiny_model(**VARIANTS[variant])
        th.set_default_dtype(trained)
        model.learn(2).save(tmp_path / "model")
        th.set_default_dtype(used)
        model.set_task(task_text="do task number 1")
        loaded = LLMDPD.load(tmp_path / "model", device="cpu")
        prompt = Prompt("do task number 1", make_episodes()[0])
        acted = [each.predict(OBSERVATIONS, deterministic=True, prompt=prompt)[0] for each in (model, loaded)]
        return [
            *acted,
            model.policy.predict(OBSERVATIONS, deterministic=True)[0],
            loaded.predict(OBSERVATIONS, prompt=Prompt())[0],
        ]

    expected = actions(th.float32, th.float32, th.float32)
    for defaults in (
        (th.float64,) * 3,
        (th.float32, th.float64, th.float64),
        (th.float64, th.float32, th.float64),
    ):
        assert_array_equal(actions(*defaults), expected)
        assert th.get_default_dtype() is defaults[-1]


@pytest.mark.skipif(th.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_the_cpu_with_a_warning():
    with pytest.warns(UserWarning, match="`device` is 'cuda', and PyTorch finds none here: the CPU is used"):
        assert tiny_model(device="cuda").device.type == "cpu"
    with pytest.raises(ValueError, match="`device`: Expected one of cpu"):
        tiny_model(device="tpu")


def test_a_convolutional_policy_refuses_vectors():
    with pytest.raises(ValueError, match=r"reads images, .*; got Box\(.* For vectors use 'MlpPolicy'"):
        tiny_model(policy="CnnPolicy")
