"""Arguments of a model as files and ``--set`` write them: nested as in Python, or by the names of options."""

import difflib
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch.optim import Adam

from sb3_llmdpd.benchmarks.common.variants import LEARNED, merged
from sb3_llmdpd.cli.model_options import OPTION_OF, default_arguments, read_option
from sb3_llmdpd.llmdpd.arguments import (
    POLICY_RANGES,
    RANGES,
    check_arguments,
    check_policy_arguments,
    plain_arguments,
)
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.networks.features import features_extractor_named

FINGERPRINT = "fingerprint"
"""Name under which ``run.json`` remembers the data of a run."""
CLASSES = ("activation_fn", "optimizer_class")
"""Arguments of the policy that no file can say."""

_SET_BY_COMMANDS = ("env", "dataset", "_init_setup_model")
_SET_BY_MODELS = (
    *("observation_space", "action_space", "lr_schedule", "critic_lr_schedule"),
    *("text_dim", "state_value"),
)
ALGORITHM, POLICY = (
    {name: argument for name, argument in inspect.signature(of).parameters.items() if name not in left_out}
    for of, left_out in ((LLMDPD, _SET_BY_COMMANDS), (LLMDPDPolicy, _SET_BY_MODELS))
)
"""Arguments of a model, and those in its ``policy_kwargs``, by name."""

_FLAT = {**{name: name for name in POLICY}, **{OPTION_OF[name]: name for name in POLICY if name in OPTION_OF}}
"""Arguments of the policy by the names that they have outside of ``policy_kwargs``, too."""
_RANGES = {**RANGES, **{name: accepted for name, accepted in POLICY_RANGES.items() if name != "net_arch"}}
_WORDS = ("policy", "device", "reward_scale", "noise_schedule", "step_distribution")
"""Arguments that are strings and have no range."""
_ONE_VALUE = ("net_arch",)
"""Arguments that are replaced whole though they may be dicts."""
_OF_A_RUN = ("command", FINGERPRINT, "replaces")
"""Entries of ``run.json`` that are no settings."""


def defaults() -> dict[str, Any]:
    """Collect the defaults of all arguments that a file can say, with ``policy_kwargs`` among them."""
    policy = {name: argument.default for name, argument in POLICY.items() if name not in CLASSES}
    constructors = {name: argument.default for name, argument in ALGORITHM.items()}
    return together({**constructors, "policy_kwargs": policy}, default_arguments())


def split(
    given: Mapping[Any, Any], own: Collection[str], where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the options of a command from the arguments of a model.

    :param given: values by name; arguments of the policy in ``policy_kwargs``, or beside it.
    :param own: names of the command's options.
    :param where: place that says them, for messages.
    :return: values of options, and arguments in their kinds of Python, with ``policy_kwargs`` among them.
    :raises ValueError: on an unknown name, beside which the nearest is named, or a value out of its range.
    :raises TypeError: on a value of another kind.
    """
    options: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    for name, value in given.items():
        if name in own:
            options[name] = value
        elif name == "policy_kwargs":
            policy |= _of_policy(value, where)
        elif name in ALGORITHM:
            arguments[name] = _plain(name, value, where)
        elif name in _FLAT:
            policy[_FLAT[name]] = _plain(_FLAT[name], value, where)
        else:
            nearest = _nearest(name, [*own, *ALGORITHM, *_FLAT])
            raise ValueError(f"{where} has {name!r}, which is no setting: {nearest}")
    return options, {**arguments, **({"policy_kwargs": policy} if policy else {})}


def _of_policy(given: Any, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{where}: `policy_kwargs` must have names with values, got {given!r:.80}")
    for name in given:
        if name not in POLICY:
            raise ValueError(
                f"{where} has 'policy_kwargs.{name}', which is no setting: {_nearest(name, POLICY)}"
            )
    return {name: _plain(name, value, where) for name, value in given.items()}


def _nearest(name: Any, known: Iterable[str]) -> str:
    (nearest,) = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0)
    return f"the nearest is {nearest!r}"


def _plain(name: str, value: Any, where: str) -> Any:
    """Give a value the kind that it has in Python, and refuse it where its range does."""
    default = {**ALGORITHM, **POLICY}[name].default
    try:
        if name in CLASSES:
            raise ValueError(f"`{name}` is a class, which no file can name: pass it to LLMDPD in Python")
        value = read_option(name, value)
        if isinstance(default, bool) and not isinstance(value, bool):
            raise TypeError(f"`{name}` must be true or false, got {value!r}")
        if name in _WORDS and not isinstance(value, str):
            raise TypeError(f"`{name}` must be a string, got {value!r}")
        if name in _RANGES:
            _RANGES[name].check(name, _RANGES[name].plain(value))
    except (ValueError, TypeError) as error:
        raise type(error)(f"{where}: {error}") from error
    return tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value


def together(arguments: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change some arguments, entry by entry where both values are nested.

    :param arguments: arguments before the change.
    :param changes: arguments that differ.
    :return: a new dictionary.
    """
    changed = dict(arguments)
    for name, value in changes.items():
        before = arguments.get(name)
        if name not in _ONE_VALUE and isinstance(before, Mapping) and isinstance(value, Mapping):
            changed[name] = together(before, value)
        else:
            changed[name] = value
    return changed


def leaves(arguments: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through nested arguments.

    :param arguments: arguments by name.
    :param above: prefix of each name, such as ``"policy_kwargs."``.
    :return: names as ``"policy_kwargs.net_arch"``, each with its value.
    """
    for name, value in arguments.items():
        if isinstance(value, Mapping) and name not in _ONE_VALUE:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def check(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that do not fit together, before any data are read for them.

    :param arguments: all arguments of a model, as in `defaults`.
    :raises ValueError: when a name in a nested argument is unknown, or a value is out of its range.
    :raises TypeError: when a value is of another kind.
    """
    policy = arguments["policy_kwargs"]
    for name, known in _names_below(arguments).items():
        value = {**arguments, **policy}.get(name)
        for key in value if isinstance(value, Mapping) else ():
            if key not in known:
                raise ValueError(f"`{name}` has {key!r}, which is no setting: {_nearest(key, known)}")
    check_arguments(plain_arguments(arguments))
    check_policy_arguments(policy)


def _names_below(arguments: Mapping[str, Any]) -> dict[str, list[str]]:
    """Name what each argument that is nested may hold."""
    policy: Any = LLMDPD.policy_aliases[arguments["policy"]]
    extractor = (
        arguments["policy_kwargs"].get("features_extractor_class") or policy.default_features_extractor
    )
    of_extractor = inspect.signature(features_extractor_named(extractor)).parameters
    of_optimizer = inspect.signature(Adam).parameters
    return {
        "net_arch": ["pi", "qf"],
        "optimizer_kwargs": [name for name in of_optimizer if name not in ("params", "lr")],
        "features_extractor_kwargs": [name for name in of_extractor if name != "observation_space"],
    }


def settings_of_run(run: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Translate what a run remembers into settings of ``sb3-llmdpd train``.

    :param run: contents of ``run.json``, of a run of any command.
    :param where: the file, for the message.
    :return: settings by name; what says nothing of the training of one model is left out.
    :raises ValueError: when the run trained no `LLMDPD`, or does not remember all its arguments.
    """
    if run["command"] == "train":
        return {name: value for name, value in run.items() if name not in _OF_A_RUN}
    changes = run.get("variant", {"model": {}})
    if "learning_rate" not in run or "model" not in run or changes.get("method", LEARNED) != LEARNED:
        raise ValueError(
            f"{where} does not hold the arguments of an LLMDPD: give the run.json of train, of quickstart, or"
            " of a training of benchmark metaworld"
        )
    hidden = {"same_goal": True} if run.get("goal") == "hidden" else {}
    arguments = merged({"learning_rate": run["learning_rate"], **hidden, **run["model"]}, changes["model"])
    of_training = {name: run[name] for name in ("steps", "log_interval", "seed")}
    return {**of_training, "cosine": True, "device": "cpu", **arguments}  # as these commands train
