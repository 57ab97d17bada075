"""Writes a model to a file without pickle, and makes a model of the file again."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.utils import get_device, get_system_info

from sb3_llmdpd import checkpoint
from sb3_llmdpd.checkpoint import Checkpoint, FileLike
from sb3_llmdpd.checkpoint.networks import check_weights, optimizer_to_parts, restore_optimizer, uncompiled
from sb3_llmdpd.checkpoint.values import (
    SPACES,
    CustomObjects,
    arguments_to_json,
    asks_for_objects,
    custom_objects,
    from_json,
    space_from_json,
    space_to_json,
    to_json,
)
from sb3_llmdpd.envs.dataset_env import DatasetEnv
from sb3_llmdpd.llmdpd.callback_counters import counters_from_json, counters_of
from sb3_llmdpd.networks.layers import floats_by_default
from sb3_llmdpd.prompts.prompt import Prompt
from sb3_llmdpd.prompts.text_cache import cached_encoder
from sb3_llmdpd.prompts.text_table import TextTable

if TYPE_CHECKING:
    from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

Model = TypeVar("Model", bound="LLMDPD")

COUNTERS = ("num_timesteps", "_total_timesteps", "_n_updates", "_current_progress_remaining")
GENERATORS = ("generator", "action_generator")
OPTIMIZERS = ("actor.optimizer", "critic.optimizer")
_LONGEST_SHOWN = 200
"""Characters of a file's value that a message quotes."""
_SHAPING = ("policy_kwargs", "critic_objective")
"""Arguments that say which networks there are."""


def to_file(
    model: "LLMDPD",
    path: FileLike,
    names: Sequence[str],
    exclude: Iterable[str] | None,
    include: Iterable[str] | None,
) -> Path | None:
    """Write a model, see `LLMDPD.save`.

    :param model: model to write.
    :param path: path, or binary file.
    :param names: arguments of the constructor to keep.
    :param exclude: parts to leave out.
    :param include: parts to keep all the same.
    :return: the file; None for a binary file.
    """
    left_out = set(exclude or ()) - set(include or ())
    unknown = (set(exclude or ()) | set(include or ())) - {*names, *OPTIMIZERS}
    if unknown:
        raise ValueError(
            f"a model file has no part {min(unknown)!r} that `exclude` or `include` could name;"
            f" known: {', '.join((*OPTIMIZERS, *names))}"
        )
    model.check_health()
    aliases, policy_class, table = model.policy_aliases, model.policy_class, model.text_table
    only_task, metrics = model.prompter.only_task, model._metrics
    # The callbacks that are at work, those of a loaded model, or those of the last `learn`.
    at_work = counters_of(model._watched) if model._watched else []
    counted = at_work or model._to_count_on or model._counted
    kept = {name: getattr(model, name) for name in names if name not in left_out}
    saved = Checkpoint(
        data={
            "arguments": arguments_to_json(kept).written,
            "policy": next((name for name, known in aliases.items() if known is policy_class), None),
            "policy_class": f"{policy_class.__module__}.{policy_class.__qualname__}",
            **{name: space_to_json(getattr(model, name)) for name in SPACES},
            "counters": {
                **{name.lstrip("_"): to_json(getattr(model, name)) for name in COUNTERS},
                "metric_steps": metrics.n_steps,
            },
            "callbacks": [to_json(counters._asdict()) for counters in counted],
            "only_task": None if only_task is None else [prompt.text for prompt in only_task],
            "text_table": None if table is None else table.to_dict(),
            "buffer_generator": _buffer_state(model),
            "optimizers": {},
        },
        tensors={
            "policy": uncompiled(model.policy).state_dict(),
            "generators": {name: getattr(model, name).get_state() for name in GENERATORS},
            "metrics": {name: th.as_tensor(total) for name, total in metrics.sums.items()},
        },
    )
    if table is not None:
        saved.tensors["text_table"] = {name: th.tensor(array) for name, array in table.tensors().items()}
    for name in OPTIMIZERS:
        if name not in left_out:
            parts = optimizer_to_parts(optimizer_of(model, name))
            saved.data["optimizers"][name], saved.tensors[name] = parts
    return checkpoint.write(saved, path)


@floats_by_default()
def from_file(
    model_class: type[Model],
    path: FileLike,
    names: Sequence[str],
    device: th.device | str,
    given: dict[str, Any],
    custom: dict[str, Any],
    print_system_info: bool,
    trusted: bool,
) -> Model:
    """Make the model that a file describes, see `LLMDPD.load`.

    :param model_class: class of the model.
    :param path: path, or binary file.
    :param names: arguments of the constructor that a file may hold.
    :param device: target device.
    :param given: arguments that are to be others than the file says.
    :param custom: objects that only the user has, by argument name.
    :param print_system_info: whether to print the system that wrote the file, and this one.
    :param trusted: whether the text encoder that the file names may be used, see `cached_encoder`.
    :return: the model, without data.
    """
    saved = checkpoint.read(path)
    if print_system_info:
        print("== CURRENT SYSTEM INFO ==")  # noqa: T201 - asked for, in SB3's words
        get_system_info()
        print("== SAVED MODEL SYSTEM INFO ==", saved.system_info, sep="\n")  # noqa: T201
    try:
        model = _build(model_class, saved, names, get_device(device), given, custom_objects(custom), trusted)
        _restore(model, saved)
    except (ValueError, ImportError):  # the latter of a language model whose package is missing
        raise
    except Exception as error:  # values of the wrong kind make networks raise errors of a dozen kinds
        shown, kind = checkpoint.shown_path(path), type(error).__name__
        raise ValueError(f"{shown} describes no model that can be built ({kind}: {error})") from error
    model.last_saved = checkpoint.existing(path)
    return model


def parameters_from_file(model: "LLMDPD", path: FileLike, exact_match: bool) -> None:
    """Take weights and states of optimisers from a file, see `LLMDPD.set_parameters`.

    :param model: model that takes them.
    :param path: path, or binary file.
    :param exact_match: whether the file must have the states of all optimisers.
    """
    saved = checkpoint.read(path)
    missing = set(OPTIMIZERS) - set(saved.data["optimizers"])
    if missing and exact_match:
        raise ValueError(f"the model file lacks {min(missing)!r}, which exact_match=True asks for")
    _restore_networks(model, saved)


def optimizer_of(model: "LLMDPD", name: str) -> th.optim.Optimizer:
    """Look an optimiser of the model up.

    :param model: any.
    :param name: one of `OPTIMIZERS`.
    :return: the optimiser.
    :raises ValueError: on another name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"a model has no optimiser {name!r}")
    network = model.policy.get_submodule(name.removesuffix(".optimizer"))
    assert isinstance(network.optimizer, th.optim.Optimizer)
    return network.optimizer


def _build(
    model_class: type[Model],
    saved: Checkpoint,
    names: Sequence[str],
    device: th.device,
    given: dict[str, Any],
    custom: CustomObjects,
    trusted: bool,
) -> Model:
    """Build the model of a file with new weights; what is given goes before what the file says."""
    data = saved.data
    policy = data["policy"] or custom("policy", str(data["policy_class"]))
    arguments = data["arguments"]
    newer = set(arguments) - set(names)
    if newer:
        raise ValueError(
            "the model file holds arguments that this version of sb3_llmdpd does not know:"
            f" {', '.join(sorted(newer))}; install the version that wrote it"
        )
    kept = {name: from_json(value, name, custom) for name, value in arguments.items() if name not in given}
    model = model_class(
        policy,
        DatasetEnv(*(space_from_json(data[name]) for name in SPACES)),
        device=device,
        _init_setup_model=False,
        **{**kept, **given},
    )
    model.trusts_encoder = trusted
    if data["text_table"] is not None:
        arrays = {name: tensor.numpy() for name, tensor in saved.tensors["text_table"].items()}
        model.text_table = TextTable.from_parts(data["text_table"], arrays, trusted=trusted)
        spec = given.get("text_encoder")
        # Compared with the table's own name: that of the arguments could be another one in a forged file.
        if spec not in (None, model.text_table.encoder_name):  # the language model was moved
            model.text_table = model.text_table.read_by(cached_encoder(spec))
    elif model.text_encoder is not None and "text_dim" not in model.policy_kwargs:
        # The weights know it, too, and no encoder has to be asked.
        model.policy_kwargs["text_dim"] = len(saved.tensors["policy"]["actor_target.text_normaliser.mean"])
    # The user's own networks may need more than shapes to be built.
    if data["policy"] is not None and not asks_for_objects(arguments):
        model._setup_schedules()
        try:
            check_weights(model._make_policy, saved.tensors["policy"])
        except ValueError as error:
            stored = {name: arguments.get(name, "its default") for name in _SHAPING if name in given}
            if not stored:
                raise
            made = " and ".join(f"{name}={value}" for name, value in stored.items())
            raise ValueError(f"{error}: the model was made with {made}, leave that as it was") from error
    model._setup_model()
    return model


def _restore(model: "LLMDPD", saved: Checkpoint) -> None:
    """Bring networks, optimisers, counters and generators to their saved state."""
    data = saved.data
    _restore_networks(model, saved)
    for name in COUNTERS:
        setattr(model, name, _count(data["counters"], name.lstrip("_")))
    model._to_count_on = [counters_from_json(each) for each in data["callbacks"]]
    sums = saved.tensors["metrics"].items()
    model._metrics.sums = {name: total.reshape(()).to(model.device) for name, total in sums}
    model._metrics.n_steps = _count(data["counters"], "metric_steps")
    table = model.text_table
    if table is not None and table.dim != model.policy.text_dim:
        raise ValueError(
            f"the model file has sentence vectors of size {table.dim} for a model of {model.policy.text_dim}"
        )
    if data["only_task"] is not None:
        model.prompter.only_task = [Prompt(text=_only_text(data["only_task"], table))]
        model.set_task()
    if data["buffer_generator"] is not None:
        np.random.default_rng().bit_generator.state = data["buffer_generator"]  # which refuses another dict
    model._saved_buffer_state = data["buffer_generator"]
    for name in GENERATORS:
        generator, state = getattr(model, name), saved.tensors["generators"][name]
        if len(state) == len(generator.get_state()):  # a GPU's state means nothing to a CPU
            generator.set_state(state)


def _only_text(texts: Any, table: TextTable | None) -> str | None:
    """Read the sentence of the only task; one that the table lacks would make loading ask an encoder."""
    if isinstance(texts, list) and len(texts) == 1:
        (text,) = texts
        if text is None or (isinstance(text, str) and table is not None and table.index(text) is not None):
            return text
    shown = repr(texts)[:_LONGEST_SHOWN]
    raise ValueError(f"the model file's `only_task` is {shown}, and not one of its own sentences")


def _restore_networks(model: "LLMDPD", saved: Checkpoint) -> None:
    for name, parts in saved.data["optimizers"].items():
        restore_optimizer(optimizer_of(model, name), parts, saved.tensors[name])
    uncompiled(model.policy).load_state_dict(saved.tensors["policy"])


def _buffer_state(model: "LLMDPD") -> dict[str, Any] | None:
    """State of the buffer's generator, or of the buffer that a loaded model had."""
    buffer = model.replay_buffer
    return model._saved_buffer_state if buffer is None else dict(buffer.generator.bit_generator.state)


def _count(counters: dict[str, Any], name: str) -> Any:
    count = counters[name]
    if not isinstance(count, int | float) or not count >= 0:
        raise ValueError(f"the model file counts {count!r} for {name!r}, which is no count")
    return count
