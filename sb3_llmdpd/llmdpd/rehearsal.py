"""Saves a model and reads it again before it trains, so that no training ends in a file that fails."""

import copy
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from torch import nn

from sb3_llmdpd.checkpoint.container import data_to_json, packed, unpacked
from sb3_llmdpd.checkpoint.networks import optimizer_to_parts, restore_optimizer, uncompiled
from sb3_llmdpd.checkpoint.values import (
    SPACES,
    Arguments,
    arguments_to_json,
    asks_for_objects,
    custom_objects,
    from_json,
    space_to_json,
    spaces_from_json,
)
from sb3_llmdpd.networks.layers import floats_by_default
from sb3_llmdpd.prompts.prompt import Prompt

if TYPE_CHECKING:
    from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
    from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy

_N_ROWS = 2
"""Observations that a model and the one that is made again act on."""


@floats_by_default()
def rehearse(model: "LLMDPD", names: Sequence[str]) -> None:
    """Refuse a model that could be trained and not loaded again.

    The bytes of the weights are not written. Networks are made a second time only where something of the
    user's own is in them: that the others come back, the tests of the package know.

    :param model: model to look at, whose weights and random numbers stay as they are.
    :param names: arguments of its constructor that a model file keeps.
    :raises ValueError: when an argument, a space, the optimiser or a network would not come back as it is.
    """
    arguments = arguments_to_json({name: getattr(model, name) for name in names})
    read = {name: _read_again(arguments, name) for name in names}
    changed = [
        name for name, text in arguments_to_json(read).written.items() if text != arguments.written[name]
    ]
    if changed:
        raise ValueError(f"`{changed[0]}` would be another value when it is read again from a model file")
    of_model = {name: getattr(model, name) for name in SPACES}
    written = {name: space_to_json(space) for name, space in of_model.items()}
    data_to_json({"arguments": arguments.written, **written})  # which refuses too much of it
    for name, space in spaces_from_json(written).items():
        if space != of_model[name]:
            raise ValueError(
                f"the {name} {of_model[name]} would be another one when it is read again from a model file"
            )
    _rehearse_optimizer(model.policy, model.lr_schedule(1.0))
    is_known = model.policy_class in model.policy_aliases.values()
    if not is_known or asks_for_objects(arguments.written["policy_kwargs"]):
        own = [name for name in arguments.own if name not in names]  # in the policy
        what = ", ".join(f"`{name}`" for name in own) or "the policy's class"
        with _randomness_put_back(model.device):
            _rehearse_networks(model, read["policy_kwargs"], what)


def _read_again(arguments: Arguments, name: str) -> Any:
    """Send an argument through a file; what only its user has is as if it were passed again."""
    try:
        text = json.dumps(arguments.written[name], allow_nan=False)
        return from_json(json.loads(text), name, custom_objects(arguments.own))
    except Exception as error:  # a number or a nest may be too large, and an Enum may raise what it likes
        kind = type(error).__name__
        raise ValueError(f"`{name}` could not be read again from a model file ({kind}: {error})") from error


def _rehearse_optimizer(policy: "LLMDPDPolicy", learning_rate: float) -> None:
    """Train two parameters for two steps, and bring other two to the same state by way of a file."""
    kwargs: dict[str, Any] = {"lr": learning_rate, **policy.optimizer_kwargs}

    def make() -> tuple[list[nn.Parameter], th.optim.Optimizer]:
        parameters = [nn.Parameter(th.zeros(*shape, device=policy.device)) for shape in ((3, 2), (2,))]
        return parameters, policy.optimizer_class(parameters, **kwargs)

    try:
        (parameters, trained), (_, other) = make(), make()
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = th.ones_like(parameter)
            trained.step()
        parts, tensors = optimizer_to_parts(trained)
        restore_optimizer(other, json.loads(json.dumps(parts, allow_nan=False)), unpacked(packed(tensors)))
        parts_again, tensors_again = optimizer_to_parts(other)
        is_same = parts_again == parts and tensors_again.keys() == tensors.keys()
        if not is_same or any(not th.equal(tensors[name], tensors_again[name]) for name in tensors):
            raise ValueError("its state would be another one")
    except Exception as error:  # of whatever kind the optimiser raises
        raise ValueError(
            f"`optimizer_class` {policy.optimizer_class.__name__} cannot take a step, be saved and be read"
            f" again ({type(error).__name__}: {error}): take another one or other `optimizer_kwargs`"
        ) from error


def _rehearse_networks(model: "LLMDPD", policy_kwargs: dict[str, Any], what: str) -> None:
    """Make the policy again of the arguments that a file would give, load the weights, and compare actions.

    :param what: names of what only the user has, for messages.
    """
    weights = uncompiled(model.policy).state_dict()
    for name, weight in weights.items():
        if not isinstance(weight, th.Tensor) or weight.layout is not th.strided:
            raise ValueError(f"{what}: a model file cannot hold {name!r}, which is no plain tensor")
        if not weight.isfinite().all():
            raise ValueError(
                f"{what}: {name!r} is not finite before the training, by which a model file would take it for"
                " diverged: make it no part of the weights, with register_buffer(..., persistent=False)"
            )
    try:
        packed({name: weight.new_empty(0) for name, weight in weights.items()})
        again: Any = model.policy_class(
            model.observation_space,
            model.action_space,
            model.lr_schedule,
            critic_lr_schedule=model.critic_lr_schedule,
            **policy_kwargs,
        ).to(model.device)
        again.load_state_dict(weights)
        again.check_sanity()
        acted, acted_twice, acted_again = (
            _actions(model, policy) for policy in (model.policy, model.policy, again)
        )
    except Exception as error:  # of whatever kind the user's classes raise
        raise ValueError(
            f"{what}: the networks could not be made again when the model is loaded"
            f" ({type(error).__name__}: {error})"
        ) from error
    how_near = {"rtol": 0.0, "atol": 0.0} if model.device.type == "cpu" else {"rtol": 1e-3, "atol": 1e-3}
    is_steady = th.allclose(acted, acted_twice, equal_nan=True, **how_near)
    if is_steady and not th.allclose(acted, acted_again, equal_nan=True, **how_near):
        raise ValueError(
            f"{what}: the model would act otherwise when it is loaded, since something outside of the weights"
            " decides: make constants with register_buffer, and change no argument"
        )


def _actions(model: "LLMDPD", policy: Any) -> th.Tensor:
    """Act on a few random observations without a prompt."""
    space = copy.deepcopy(model.observation_space)  # whose own random numbers stay where they are
    space.seed(0)
    rows = [space.sample() for _ in range(_N_ROWS)]
    if isinstance(rows[0], dict):
        observations, _ = policy.obs_to_tensor({key: np.stack([row[key] for row in rows]) for key in rows[0]})
    else:
        observations, _ = policy.obs_to_tensor(np.stack(rows))
    actor = policy.actor_target
    noise = th.zeros(actor.process.n_steps, 1, _N_ROWS, actor.denoiser.action_dim, device=model.device)
    _seed(0, model.device)
    with th.no_grad():
        return actor(observations, actor.encode_prompts(model.prompter.batch([Prompt()])), noise)


def _seed(seed: int, device: th.device) -> None:
    th.default_generator.manual_seed(seed)
    if device.type == "cuda":  # this one alone, as the others are not put back
        with th.cuda.device(device):
            th.cuda.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the user's classes may draw from it
    random.seed(seed)


@contextmanager
def _randomness_put_back(device: th.device) -> Iterator[None]:
    """Put the generators of the whole process back to where they are."""
    numpys, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002 - see `_seed`
    with th.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(numpys)  # noqa: NPY002 - see `_seed`
            random.setstate(pythons)
