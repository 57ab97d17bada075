"""Writes a model to a file without pickle, and makes a model of the file again."""

import math
from collections.abc import Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.utils import FloatSchedule, get_system_info

from sb3_llmdpd import checkpoint
from sb3_llmdpd.checkpoint import Checkpoint, FileLike
from sb3_llmdpd.checkpoint.container import (
    Tensors,
    check_entries,
    check_groups,
    check_names,
    entry,
    printable,
    quoted,
    refusing,
)
from sb3_llmdpd.checkpoint.networks import (
    check_room,
    check_weights,
    optimizer_to_parts,
    restore_optimizer,
    room_for,
    stand_ins,
    uncompiled,
)
from sb3_llmdpd.checkpoint.values import (
    SPACES,
    CustomObjects,
    arguments_to_json,
    custom_objects,
    from_json,
    space_to_json,
    spaces_from_json,
    to_json,
)
from sb3_llmdpd.envs.dataset_env import DatasetEnv
from sb3_llmdpd.llmdpd.arguments import device_named
from sb3_llmdpd.llmdpd.callback_counters import counters_from_json, counters_of
from sb3_llmdpd.llmdpd.loss_watch import TrainingDiverged, first_bad_weight
from sb3_llmdpd.networks.layers import floats_by_default
from sb3_llmdpd.presets import PAPER
from sb3_llmdpd.prompts.prompt import Prompt
from sb3_llmdpd.prompts.text_cache import cached_encoder
from sb3_llmdpd.prompts.text_table import TextTable

if TYPE_CHECKING:
    from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

Model = TypeVar("Model", bound="LLMDPD")

KEYS = (
    *("arguments", "policy", "policy_class", *SPACES, "counters", "callbacks"),
    *("only_task", "text_table", "buffer_generator", "optimizers"),
)
"""Entries of the data."""
COUNTERS = ("num_timesteps", "_total_timesteps", "_n_updates", "_current_progress_remaining")
GENERATORS = ("generator", "action_generator")
OPTIMIZERS = ("actor.optimizer", "critic.optimizer")
_STATE_OF_A_GPU = 16
"""Bytes of the state of a generator of PyTorch's on a GPU."""
_MOST_STEPS, _MOST_CALLBACKS = 2**63 - 1, 1_000
_ALWAYS_NAMED = PAPER["policy_kwargs"]
"""Arguments of the policy that each file names: a file that does not is of a time when their defaults were
these."""
_BEFORE = {"text_beside_example": -1.0}
"""Arguments that files of before lack, with the values as which these models acted."""
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
    only_task = model.prompter.only_task
    sums = {name: th.as_tensor(total) for name, total in model._metrics.sums.items()}
    # The callbacks that are at work, those of a loaded model, or those of the last `learn`.
    at_work = counters_of(model._watched) if model._watched else []
    counted = at_work or model._to_count_on or model._counted
    kept = {name: getattr(model, name) for name in names if name not in left_out}
    if "policy_kwargs" in kept and policy_class in aliases.values():
        built = {name: model.policy._arguments[name] for name in _ALWAYS_NAMED}
        kept["policy_kwargs"] = {**built, **kept["policy_kwargs"]}
    saved = Checkpoint(
        data={
            "arguments": arguments_to_json(kept).written,
            "policy": next((name for name, known in aliases.items() if known is policy_class), None),
            "policy_class": f"{policy_class.__module__}.{policy_class.__qualname__}",
            **{name: space_to_json(getattr(model, name)) for name in SPACES},
            "counters": {
                **{name.lstrip("_"): to_json(getattr(model, name)) for name in COUNTERS},
                "metric_steps": model._metrics.n_steps,
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
            # One that is not finite would be no number in the log, and no reason to lose the model.
            "metrics": {name: total for name, total in sums.items() if total.isfinite()},
        },
    )
    if table is not None:
        saved.tensors["text_table"] = {name: th.tensor(array) for name, array in table.tensors().items()}
    for name in OPTIMIZERS:
        if name not in left_out:
            parts = optimizer_to_parts(optimizer_of(model, name))
            saved.data["optimizers"][name], saved.tensors[name] = parts
            bad = first_bad_weight(parts[1])
            if bad is not None:
                raise TrainingDiverged(f"the training has diverged: {bad!r} of {name} is not finite")
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
    :param trusted: True where the text encoder that the file names may be used, see `cached_encoder`.
    :return: the model, without data.
    """
    saved = checkpoint.read(path)
    if print_system_info:
        print("== CURRENT SYSTEM INFO ==")  # noqa: T201 - asked for, in SB3's words
        get_system_info()
        told = map(printable, saved.system_info.splitlines())
        print("== SAVED MODEL SYSTEM INFO ==", *told, sep="\n")  # noqa: T201
    place = device_named(device, strict=False)
    with refusing(path, "cannot be loaded"):
        _check_data(saved)
        model = _build(model_class, saved, names, place, given, custom_objects(custom), trusted)
        _restore(model, saved)
        model.policy.check_sanity()
    model.last_saved = checkpoint.existing(path)
    return model


def parameters_from_file(model: "LLMDPD", path: FileLike, exact_match: bool) -> None:
    """Take weights and states of optimisers from a file, see `LLMDPD.set_parameters`.

    :param model: model that takes them.
    :param path: path, or binary file.
    :param exact_match: whether the file must have the states of all optimisers.
    """
    saved = checkpoint.read(path)
    with refusing(path, "cannot be loaded"):
        _check_data(saved)
        missing = set(OPTIMIZERS) - set(saved.data["optimizers"])
        if missing and exact_match:
            raise ValueError(f"the model file lacks {min(missing)!r}, which exact_match=True asks for")
        check_weights(uncompiled(model.policy).state_dict(), saved.tensors["policy"])
        _restore_networks(model, saved)
        model.policy.check_sanity()


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
    aliases = model_class.policy_aliases
    policy = data["policy"]
    if policy is None:
        policy = custom("policy", data["policy_class"])
    elif policy not in aliases:
        raise ValueError(f"the policy {quoted(policy)} is none of {', '.join(aliases)}")
    arguments = data["arguments"]
    newer = set(arguments) - set(names)
    if newer:
        raise ValueError(
            "the model file holds arguments that this version of sb3_llmdpd does not know:"
            f" {', '.join(quoted(name)[1:-1] for name in sorted(newer)[:5])}; install the version that wrote"
            " it"
        )
    kept = {}
    for name, value in arguments.items():
        if name not in given:
            with entry(f"arguments.{name}"):
                kept[name] = from_json(value, name, custom)
    if "policy_kwargs" in kept and data["policy"] is not None:
        kept["policy_kwargs"] = {**_ALWAYS_NAMED, **kept["policy_kwargs"]}
    model = model_class(
        policy,
        DatasetEnv(**spaces_from_json(data)),
        device=device,
        _init_setup_model=False,
        **{**_BEFORE, **kept, **given},
    )
    _restore_sentences(model, saved, given.get("text_encoder"), trusted)
    weights = saved.tensors["policy"]
    try:
        check_room(lambda: _measured(model, weights), weights, is_exact=data["policy"] is not None)
        own = model.policy_kwargs.get("features_extractor_class")
        with room_for(weights, own if data["policy"] is not None else policy):
            model._setup_model()
        check_weights(uncompiled(model.policy).state_dict(), weights)
    except ValueError as error:
        stored = {name: arguments.get(name, "its default") for name in _SHAPING if name in given}
        if not stored:
            raise
        made = " and ".join(f"{name}={value}" for name, value in stored.items())
        raise ValueError(f"{error}: the model was made with {made}, leave that as it was") from error
    return model


def _restore_sentences(model: "LLMDPD", saved: Checkpoint, moved_to: str | None, trusted: bool) -> None:
    """Bring the table of sentences back; no encoder is asked but one that the caller named."""
    model.trusts_encoder = trusted
    if saved.data["text_table"] is not None:
        arrays = {name: tensor.numpy() for name, tensor in saved.tensors["text_table"].items()}
        model.text_table = TextTable.from_parts(saved.data["text_table"], arrays, trusted=trusted)
        # Compared with the table's own name: that of the arguments could be another one in a forged file.
        if moved_to not in (None, model.text_table.encoder_name):
            model.text_table = model.text_table.read_by(cached_encoder(moved_to))
    elif model.text_encoder is not None and "text_dim" not in model.policy_kwargs:
        # The weights know it, too, and no encoder has to be asked.
        model.policy_kwargs["text_dim"] = len(saved.tensors["policy"]["actor_target.text_normaliser.mean"])


def _measured(model: "LLMDPD", weights: Tensors) -> th.nn.Module:
    """Make a policy of shapes alone, as large as the arguments of a model describe it."""
    kwargs = stand_ins(model.policy_kwargs, weights, "actor.")
    kwargs.setdefault("text_dim", len(weights.get("actor.text_normaliser.mean", ())))
    policy = model.policy_aliases["MlpPolicy"]
    known = signature(policy).parameters  # more are those of a user's own class
    return policy(
        model.observation_space,
        model.action_space,
        FloatSchedule(0.0),
        **{name: value for name, value in kwargs.items() if name in known},
    )


_KINDS: dict[str, Any] = {"arguments": dict, "counters": dict, "callbacks": list, "optimizers": dict}
_SENTENCES: dict[str, Any] = {"texts": str, "encoder_name": str, "encoder_revision": str | None}
"""Kinds of the parts of a table of sentences; the first is a list of them."""


def _check_data(saved: Checkpoint) -> None:
    """Refuse a file whose parts are not those of a model, or of other kinds; others check their contents."""
    check_entries(saved, KEYS)
    data, table = saved.data, saved.data["text_table"]
    for name, kind in _KINDS.items():
        _check_kind(name, data[name], kind)
    _check_kind("policy_class", data["policy_class"], str)
    check_names(data["optimizers"].keys() - set(OPTIMIZERS), (), "optimiser")
    groups = ["policy", "generators", "metrics", *data["optimizers"]]
    check_groups(saved, groups if table is None else [*groups, "text_table"])
    if len(data["callbacks"]) > _MOST_CALLBACKS:
        raise ValueError(f"it has more than {_MOST_CALLBACKS:,} 'callbacks'")
    check_names(
        data["counters"].keys(), (*(name.lstrip("_") for name in COUNTERS), "metric_steps"), "counter"
    )
    if table is not None:
        _check_kind("text_table", table, dict)
        check_names(table.keys(), _SENTENCES, "entry")
        for name, kind in _SENTENCES.items():
            words = table[name] if name == "texts" else [table[name]]
            _check_sentences(f"text_table.{name}", words, kind)
        for name, tensor in saved.tensors["text_table"].items():
            if tensor.dtype != th.float32:
                raise ValueError(f"{quoted(name)} of 'text_table' is of {tensor.dtype}, and not of float32")
    if data["only_task"] is not None:
        _check_sentences("only_task", data["only_task"], str | None)
        if len(data["only_task"]) != 1:
            raise ValueError(f"'only_task' is {quoted(data['only_task'])}, and no list of one sentence")


def _check_kind(name: str, value: Any, kind: Any) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name!r} is {quoted(value)}, and no {kind.__name__}")


def _check_sentences(name: str, words: Any, kind: Any) -> None:
    _check_kind(name, words, list)
    wrong = [word for word in words if not isinstance(word, kind)]
    if wrong:
        raise ValueError(f"{name!r} has {quoted(wrong[0])} where a sentence or a name stands")


def _restore(model: "LLMDPD", saved: Checkpoint) -> None:
    """Bring networks, optimisers, counters and generators to their saved state."""
    data = saved.data
    _restore_networks(model, saved)
    for name in COUNTERS:
        setattr(model, name, _count(data["counters"], name.lstrip("_")))
    with entry("callbacks"):
        model._to_count_on = [counters_from_json(each) for each in data["callbacks"]]
    with entry("metrics"):
        sums = saved.tensors["metrics"].items()
        model._metrics.sums = {name: total.reshape(()).to(model.device) for name, total in sums}
    model._metrics.n_steps = _count(data["counters"], "metric_steps")
    table = model.text_table
    if table is not None and table.dim != model.policy.text_dim:
        raise ValueError(
            f"the model file has sentence vectors of size {table.dim} for a model of {model.policy.text_dim}"
        )
    if data["only_task"] is not None:
        model.prompter.only_task = [Prompt(text=_only_text(data["only_task"][0], table))]
        model.set_task()
    with entry("buffer_generator"):
        _check_buffer_generator(data["buffer_generator"])
    model._saved_buffer_state = data["buffer_generator"]
    check_names(saved.tensors["generators"].keys(), GENERATORS, "generator")
    for name in GENERATORS:
        with entry(f"generators.{name}"):
            _restore_generator(getattr(model, name), saved.tensors["generators"][name])


def _only_text(text: str | None, table: TextTable | None) -> str | None:
    """Pass the sentence of the only task; one that the table lacks would make loading ask an encoder."""
    if text is not None and (table is None or table.index(text) is None):
        raise ValueError(f"its 'only_task' is {quoted(text)}, and not one of its own sentences")
    return text


def _restore_networks(model: "LLMDPD", saved: Checkpoint) -> None:
    for name, parts in saved.data["optimizers"].items():
        with entry(f"optimizers.{name}"):
            restore_optimizer(optimizer_of(model, name), parts, saved.tensors[name])
    uncompiled(model.policy).load_state_dict(saved.tensors["policy"])


def _check_buffer_generator(state: Any) -> None:
    if state is None:
        return
    bits = np.random.default_rng(0).bit_generator
    bits.state = state  # which refuses another dict
    if bits.state != state or not state["state"]["inc"] % 2:  # an even step draws few numbers over and over
        raise ValueError("it is no state of NumPy's PCG64")


def _restore_generator(generator: th.Generator, state: th.Tensor) -> None:
    known = {len(th.Generator().get_state()), _STATE_OF_A_GPU, len(generator.get_state())}
    if state.dtype != th.uint8 or state.ndim != 1 or len(state) not in known:
        raise ValueError(f"{tuple(state.shape)} of {state.dtype} is no state of a generator of PyTorch")
    if len(state) != len(generator.get_state()):  # a GPU's state means nothing to a CPU
        return
    if generator.device.type == "cpu":  # whose state has the next normal number in it
        tried = th.Generator()
        tried.set_state(state)
        if not th.randn(2, generator=tried).isfinite().all():
            raise ValueError("it draws numbers that are not finite")
    generator.set_state(state)


def _buffer_state(model: "LLMDPD") -> dict[str, Any] | None:
    """State of the buffer's generator, or of the buffer that a loaded model had."""
    buffer = model.replay_buffer
    return model._saved_buffer_state if buffer is None else dict(buffer.generator.bit_generator.state)


def _count(counters: dict[str, Any], name: str) -> Any:
    """Read a counter: a whole number, which SB3 may keep as a float, or the share of the progress."""
    count = counters[name]
    is_number = type(count) in (int, float) and math.isfinite(count)
    is_share = name == "current_progress_remaining"
    if not is_number or not 0 <= count <= (1 if is_share else _MOST_STEPS) or (count % 1 and not is_share):
        raise ValueError(f"the model file counts {quoted(count)} for {name!r}, which is no count")
    return count
