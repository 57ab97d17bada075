"""A model that could be trained and not loaded again is refused when it is made."""

import random
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import tiny_model
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import nn

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.actor import PromptedActor


class Extractor(BaseFeaturesExtractor):
    """Belongs to the user; what it keeps is up to its subclasses."""

    def __init__(self, space: Any, **kwargs: Any) -> None:
        super().__init__(space, 4)
        self.layer = nn.Linear(space.shape[0], 4)
        self.keep(space.shape[0], **kwargs)

    def keep(self, n_in: int) -> None:
        pass

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations)


class ConstantsOutside(Extractor):
    def keep(self, n_in: int) -> None:
        self.projection = th.randn(n_in, n_in)  # no buffer: a file never sees it

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations @ self.projection)


class InfiniteMask(Extractor):
    def keep(self, n_in: int) -> None:
        self.register_buffer("mask", th.full((n_in,), -np.inf))


class ExtraState(Extractor):
    def get_extra_state(self) -> Any:
        return {"an": "object"}

    def set_extra_state(self, state: Any) -> None:
        pass


class Option(Extractor):
    def keep(self, n_in: int, n: Any = None) -> None:
        pass


class NotOfZeros(Extractor):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations) / 0 * 0


class Forgetful(th.optim.SGD):
    """It does not take a state."""

    def load_state_dict(self, state_dict: Any) -> None:
        pass


class HistoryInSteps(th.optim.SGD):
    """Its state is a list of tensors."""

    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].setdefault("history", []).append(parameter.detach().clone())


def with_extractor(extractor: type[Extractor], **kwargs: Any) -> dict[str, Any]:
    return dict(policy_kwargs=dict(features_extractor_class=extractor, features_extractor_kwargs=kwargs))


def with_optimizer(optimizer: type[th.optim.Optimizer], **kwargs: Any) -> dict[str, Any]:
    return dict(policy_kwargs=dict(optimizer_class=optimizer, optimizer_kwargs=kwargs))


def circle() -> list[Any]:
    entries: list[Any] = []
    entries.append(entries)
    return entries


NAME = "`features_extractor_class`"
REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "constants that are no buffers": (
        lambda: with_extractor(ConstantsOutside),
        rf"{NAME}: the model would act otherwise when it is loaded.*register_buffer",
    ),
    "an infinite buffer": (
        lambda: with_extractor(InfiniteMask),
        rf"{NAME}: '.*features_extractor.mask' is not finite before the training.*persistent=False",
    ),
    "a state of objects": (
        lambda: with_extractor(ExtraState),
        rf"{NAME}: a model file cannot hold '.*_extra_state', which is no plain tensor",
    ),
    "actions that are not finite": (
        lambda: with_extractor(NotOfZeros),
        rf"{NAME}: the networks .*ValueError: its actions for an observation of zeros are not finite",
    ),
    "an optimiser that wants a closure": (
        lambda: with_optimizer(th.optim.LBFGS),
        "`optimizer_class` LBFGS cannot take a step, .*closure.*take another one",
    ),
    "an optimiser of sparse gradients": (
        lambda: with_optimizer(th.optim.SparseAdam),
        "`optimizer_class` SparseAdam cannot take a step",
    ),
    "an optimiser with lists of tensors": (
        lambda: with_optimizer(HistoryInSteps),
        "`optimizer_class` HistoryInSteps .*'0.history' of its state is neither a tensor nor a plain value",
    ),
    "an optimiser that takes no state": (
        lambda: with_optimizer(Forgetful, momentum=0.9),
        "`optimizer_class` Forgetful .*its state would be another one",
    ),
    "a list that holds itself": (
        lambda: dict(policy_kwargs=dict(net_arch=circle())),
        "`policy_kwargs` is nested too deep for a model file, or holds itself",
    ),
    "a number of many digits": (
        lambda: with_extractor(Option, n=10**5000),
        "`policy_kwargs` could not be read again from a model file",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_not_be_loaded_again_is_refused_before_the_training(what):
    arguments, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        tiny_model(**arguments())


def test_a_model_that_is_loaded_with_a_class_that_acts_otherwise_is_refused(tmp_path):
    tiny_model(**with_extractor(Extractor)).save(tmp_path / "model")
    with pytest.raises(ValueError, match="the model would act otherwise when it is loaded"):
        LLMDPD.load(tmp_path / "model", device="cpu", **with_overrides(ConstantsOutside))


def with_overrides(extractor: type[Extractor]) -> dict[str, Any]:
    model = tiny_model(**with_extractor(Extractor))
    return dict(policy_kwargs={**model.policy_kwargs, "features_extractor_class": extractor})


class Draws(Extractor):
    """Draws from the generators of the whole process when it is made and when it is read."""

    def keep(self, n_in: int) -> None:
        self.register_buffer("drawn", th.rand(1) + float(np.random.rand()) + random.random())  # noqa: NPY002

    def forward(self, observations: th.Tensor) -> th.Tensor:
        drawn = float(th.rand(1)) + float(np.random.rand()) + random.random()  # noqa: NPY002
        return self.layer(observations) * drawn


def test_the_generators_of_the_process_are_where_they_were(monkeypatch):
    def draws_after() -> tuple[float, float, float]:
        tiny_model(**with_extractor(Draws))
        return float(th.rand(1)), float(np.random.rand()), random.random()  # noqa: NPY002

    rehearsed = draws_after()
    monkeypatch.setattr("sb3_llmdpd.llmdpd.llmdpd.rehearse", lambda model, names: None)
    assert draws_after() == rehearsed


@pytest.mark.parametrize(("extractor", "n_made"), [(FlattenExtractor, 2), (Extractor, 4)])
def test_only_networks_with_something_of_the_users_own_are_made_again(extractor, n_made, monkeypatch):
    made: list[PromptedActor] = []
    init = PromptedActor.__init__

    @wraps(init)
    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(PromptedActor, "__init__", counted)
    tiny_model(policy_kwargs=dict(features_extractor_class=extractor))
    assert len(made) == n_made
