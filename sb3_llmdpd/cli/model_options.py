"""Derives options of the command line from the arguments of `LLMDPD` and of its policy."""

import inspect
import re
from collections.abc import Callable, Container, Mapping
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import typer

from sb3_llmdpd.cli.options import names, whole_numbers
from sb3_llmdpd.llmdpd.acceleration import MATMUL_PRECISIONS
from sb3_llmdpd.llmdpd.arguments import MOST, POLICY_RANGES, RANGES
from sb3_llmdpd.llmdpd.augmentation import AUGMENTATIONS
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.networks.features import FEATURES_EXTRACTORS
from sb3_llmdpd.prompts.alignment import ALIGNMENTS

Command = TypeVar("Command", bound=Callable[..., Any])

_NO_OPTIONS = ("env", "dataset", "stats_window_size", "_init_setup_model", "text_dim", "state_value")
"""Arguments that are no option; the last two follow from the text encoder and from the critic's objective."""

_DEFAULTS = {"policy": "MlpPolicy", "seed": 0}
"""Defaults that differ from the constructor's."""


class _Text(NamedTuple):
    """An argument's form on the command line, where it is another one: its reading and its help."""

    read: Callable[[str], Any]
    help: str


def _policy(text: str) -> str:
    if text not in LLMDPD.policy_aliases:
        raise ValueError(f"--policy must be one of {', '.join(LLMDPD.policy_aliases)}, got {text!r}")
    return text


def _acceleration(text: str) -> dict[str, Any]:
    ways = names(text, "--acceleration")
    return dict(("matmul_precision", way) if way in MATMUL_PRECISIONS else (way, True) for way in ways)


_TEXTS = {
    "policy": _Text(_policy, f"{', '.join(LLMDPD.policy_aliases)}."),
    "text_encoder": _Text(
        lambda text: None if text == "none" else text, "Name of the frozen language model; none for no text."
    ),
    "acceleration": _Text(
        _acceleration,
        "Ways to train faster that depend on the machine, between commas: compile, bfloat16, cuda_graph, and"
        " high or medium for the precision of products.",
    ),
    "examples_per_prompt": _Text(
        lambda text: tuple(whole_numbers(text, "--examples-per-prompt")),
        "Fewest and most examples of a prompt in training, between a comma; how many is drawn for each.",
    ),
    "augmentation": _Text(
        str, f"Change of each training batch: {', '.join(AUGMENTATIONS)}; by default none."
    ),
    "alignment": _Text(
        str, f"Move of a few examples into the scene of an episode: {', '.join(ALIGNMENTS)}; by default none."
    ),
    "net_arch": _Text(
        lambda text: whole_numbers(text, "--net-arch"),
        "Widths of the hidden layers between commas; by default the policy's.",
    ),
    "features_extractor_class": _Text(str, f"{', '.join(FEATURES_EXTRACTORS)}; by default the policy's."),
}


def _worded(value: Any) -> Any:
    """Write a pair as an option takes it, such as ``"1,5"``; other values are taken as they are."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def with_model_options(command: Command) -> Command:
    """Give a command an option for each argument of a model, in place of its ``**`` parameter."""
    signature = inspect.signature(command)
    own = [argument for argument in signature.parameters.values() if argument.kind != argument.VAR_KEYWORD]
    parameters = [*own, *_ALGORITHM.values(), *_POLICY.values()]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def model_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Read the arguments of `LLMDPD`, with ``policy_kwargs``, from the options that stand for them.

    :param options: values by the options' names, all of `with_model_options` among them.
    :raises ValueError: on a list of other things, and on an unknown policy.
    """
    return {"policy_kwargs": {}, **given_arguments(options, set(options))}


def read_option(argument: str, given: Any) -> Any:
    """Read an option's value as the argument that it stands for, such as ``"8,8"`` as ``[8, 8]``.

    :param argument: name of the argument.
    :param given: a word or a number, as an option has it; what is nested already stays as it is.
    :raises ValueError: on a list of other things, and on an unknown policy.
    """
    is_word = isinstance(given, str | int | float) and argument in _TEXTS
    return _TEXTS[argument].read(str(given)) if is_word else given


def _options(of: type, title: str) -> dict[str, inspect.Parameter]:
    """Derive options by argument: types and defaults from the signature, help from the docstring."""
    docs = parameter_docs(of)
    options = {}
    for name, argument in inspect.signature(of).parameters.items():
        kind = str if name in _TEXTS else _kind(argument.annotation)
        if kind is None or name in _NO_OPTIONS:
            continue
        default = _worded(_DEFAULTS.get(name, argument.default))
        # `python -OO` leaves no docstrings
        text = _TEXTS[name].help if name in _TEXTS else plain_help(docs.get(name, ""))
        annotation: Any = kind if default is not None else kind | None
        annotation = Annotated[annotation, typer.Option(help=text, rich_help_panel=title)]
        option = argument.replace(name=name.removesuffix("_class"), kind=argument.KEYWORD_ONLY)
        options[name] = option.replace(default=default, annotation=annotation)
    return options


def _kind(annotation: Any) -> type | None:
    """Name the type of the single number, word or switch that an argument may be."""
    accepted = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((kind for kind in (bool, int, float, str) if kind in accepted), None)


def parameter_docs(of: type) -> dict[str, str]:
    """Read what a class's docstring says after each ``:param name:``, on one line each."""
    found = re.findall(r"^:param (\w+): (.*?)(?=^:|\Z)", inspect.getdoc(of) or "", re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


def accepted(name: str, argument: inspect.Parameter) -> str:
    """Describe the values of an argument of `LLMDPD` or of its policy, for tables; ``""`` for any.

    :param name: name of the argument.
    :param argument: in the signature.
    """
    if isinstance(argument.default, bool):
        return "`True` or `False`"
    # The largest count says no more than that there is an end.
    values = str({**RANGES, **POLICY_RANGES}.get(name, "")).replace(f", {MOST}]", ", inf)")
    return values.replace("a whole number in", "whole,")


def plain_help(text: str) -> str:
    """Make help of a parameter's text: its first sentence, and the others up to the last that names a value.

    :param text: reStructuredText, such as ``'``"a"``: the first. ``"b"``: the second, see `B`. More.'``
    :return: the sentences without markup, links and references, such as ``'a: the first. b: the second.'``
    """
    text = re.sub(r" \(https?://\S+\)|[,;]? \(?see `[^`]+`\)?", "", text)
    sentences = re.split(r"(?<=[^.]{2}\.)\s+(?=[A-Z0-9`])", text)
    last = max((number for number, sentence in enumerate(sentences) if '``"' in sentence), default=0)
    plain = re.sub(r'`+"?|"?`+', "", " ".join(sentences[: last + 1])).rstrip("., ")
    return f"{plain if text.startswith('`') else plain[:1].upper() + plain[1:]}."


_ALGORITHM = _options(LLMDPD, "The algorithm")
_POLICY = _options(LLMDPDPolicy, "Its networks")
OPTION_OF = {argument: option.name for argument, option in {**_ALGORITHM, **_POLICY}.items()}
"""Name of the option of each argument, as ``features_extractor`` of ``features_extractor_class``."""


def default_arguments() -> dict[str, Any]:
    """Make the arguments of a model that no option was given for."""
    options = {option.name: option.default for option in (*_ALGORITHM.values(), *_POLICY.values())}
    return model_arguments(options)


def given_arguments(options: Mapping[str, Any], given: Container[str]) -> dict[str, Any]:
    """Read the arguments of those options that were given.

    :param options: values by the options' names.
    :param given: names of the options that were given.
    :return: arguments of `LLMDPD`, with ``policy_kwargs`` among them where one of these was given.
    """
    algorithm, policy = (
        {
            name: read_option(name, options[option.name])
            for name, option in derived.items()
            if option.name in given
        }
        for derived in (_ALGORITHM, _POLICY)
    )
    return {**algorithm, **({"policy_kwargs": policy} if policy else {})}
