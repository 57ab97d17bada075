"""Variants of the method by name: what each does differently, and what it is told when it is evaluated."""

import difflib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sb3_llmdpd.data.metaworld.sentences import STYLES
from sb3_llmdpd.data.metaworld.told_goals import REARRANGED
from sb3_llmdpd.evaluation.conditions import CONTROLS_OF_PROMPTS, PARAPHRASE
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy

BOTH, TEXT, EXAMPLE, NOTHING = "text+trajectory", "text", "trajectory", "none"
NUMBERS = (1, 5, 25)
"""Numbers of examples in the tables."""
SEVERAL = tuple(f"{condition}:{n}" for condition in (BOTH, EXAMPLE) for n in NUMBERS[1:])
"""Conditions that show several examples at once."""
LEARNED, PROMPT_DT, CONTROL = "llmdpd", "prompt-dt", "control"
"""Methods: a model of `LLMDPD`, one of `PromptDT`, and a condition that acts by itself, untrained."""

ENCODER = "text-encoder:"
"""First part of the name of a variant whose sentences another encoder reads."""
_POLICY = "policy_kwargs."


@dataclass(frozen=True)
class Variant:
    """A way to train or to act: the rows of a table that differ in nothing but the condition.

    :param name: name in tables, in folders and on the command line.
    :param sentence: description for the reader of a table.
    :param model: arguments of `LLMDPD` that differ from the benchmark's, in JSON; ``policy_kwargs`` by entry.
    :param conditions: conditions of its evaluation, see `make_cells`; with `TEXT` among them it is also told
        the sentences of both tasks in scenes that two tasks share.
    :param trained_as: variant whose model acts, with ``model`` as changes in how it acts; None for its own.
    :param method: `LEARNED`, `PROMPT_DT` or `CONTROL`; ``model`` then has arguments of that one.
    """

    name: str
    sentence: str
    model: Mapping[str, Any] = field(default_factory=dict)
    conditions: tuple[str, ...] = (BOTH,)
    trained_as: str | None = None
    method: str = LEARNED


_FULL = (
    "the method: sentence and example, cloning with a share of the Q term, better episodes drawn more often"
)
_CONCAT = (
    "the example as one vector of a transformer beside the state, as in the paper,"
    " in place of the nearest steps of all"
)
_BEST_OF = "full, best of {} actions by the critic"
_HASHING = "sentences read by a bag of hashed words instead of a language model"
_WORDINGS = "full, told its task in words that it never read: of other kinds, with errors, in other languages"
_LANGUAGE = "trained without examples, and told its task in known words, in others, and wrongly"
_STYLES = (PARAPHRASE, *(f"{PARAPHRASE}:{style}" for style in (*STYLES, REARRANGED)))
_NEAREST_STEPS = "one example in training, read as a window of 16 steps; no scenes turned or aligned"
_WINDOWS = {
    "examples_per_prompt": (1, 1),
    "trajectory_dropout": 0.5,
    "augmentation": None,
    "alignment": None,
    "policy_kwargs": {"conditioning": "nearest_steps", "prompt_window": 16},
}
_RETRIEVE = (
    "retrieve and play, which learns nothing: at each step the action of the nearest step of all examples, by"
    " the features that the method reads"
)
_RETRIEVE_ALIGNED = "the same from examples that are moved into the scene, as the method's are"
_ALIGN = (
    "align and replay, which learns nothing: the example of the nearest scene, its hand's path moved with"
    " object and goal, and tracked"
)
_COPY = (
    "the actions of one example in their order, each at the nearest of its states: weaker than retrieve,"
    " which may go back"
)
_NO_PROMPT = {"text_dropout": 1.0, "trajectory_dropout": 1.0}
_UNWEIGHTED = {"return_weight": 0.0}
_CLONING = {"eta": 0.0, **_UNWEIGHTED}
_ATTENTION = {"policy_kwargs": {"conditioning": "cross_attention"}}
_EXPECTILE = {"critic_objective": "expectile"}
_FLOW = "the actor is a flow that is learned as jumps, and acts in one"
_CUT = "full, whose chain is cut to one step of DDIM: what one step is without learning it"
_RELATIVE = {"features_extractor_class": "metaworld_relative"}
_LISTED = (
    Variant("full", _FULL, {}, (BOTH, TEXT, EXAMPLE, NOTHING, *SEVERAL, "wrong", *CONTROLS_OF_PROMPTS)),
    Variant("no-text", "trained without sentences", {"text_dropout": 1.0}, (EXAMPLE,)),
    Variant("no-trajectory", "trained without examples", {"trajectory_dropout": 1.0}, (TEXT,)),
    Variant("no-prompt", "trained without any prompt: plain Diffusion-QL", _NO_PROMPT, (NOTHING,)),
    *(
        Variant(name, f"{vector} of the task instead of sentences", {"text_encoder": encoder}, (BOTH, TEXT))
        for name, vector, encoder in (
            ("one-hot", "a one-hot vector", "one-hot:metaworld"),
            ("random-text", "a random vector", "random:metaworld"),
        )
    ),
    Variant("no-q", "cloning alone, of better episodes more often", {"eta": 0.0}, (BOTH, EXAMPLE)),
    Variant("no-weights", "the Q term beside cloning of all episodes alike", _UNWEIGHTED, (BOTH, EXAMPLE)),
    Variant("bc", "plain behaviour cloning, of all episodes alike", _CLONING, (BOTH, EXAMPLE)),
    Variant("hashing", _HASHING, {"text_encoder": "hashing"}, (BOTH, TEXT)),
    Variant("diffusion-ql", "the Q term through the whole chain", {"policy_objective": "diffusion_ql"}),
    Variant("nearest-steps", _NEAREST_STEPS, _WINDOWS, (BOTH, EXAMPLE, *SEVERAL)),
    Variant("concat", _CONCAT, {"policy_kwargs": {"conditioning": "concat"}}, (BOTH, TEXT, EXAMPLE, NOTHING)),
    Variant(
        "cross-attention", "the same, and the actor attends to the encoded steps of the example", _ATTENTION
    ),
    Variant("expectile", "the critic learns by expectiles, as in IQL, and asks no policy", _EXPECTILE),
    Variant(
        "one-step-flow", _FLOW, {"policy_kwargs": {"actor": "one_step_flow"}}, (BOTH, TEXT, EXAMPLE, NOTHING)
    ),
    Variant(
        "flow-in-4-jumps",
        "the same flow, which acts in four jumps",
        {"n_sampling_steps": 4},
        (BOTH, TEXT, EXAMPLE, NOTHING),
        trained_as="one-step-flow",
    ),
    Variant("one-step-ddim", _CUT, {"sampler": "ddim", "n_sampling_steps": 1}, trained_as="full"),
    *(
        Variant(f"candidates-{n}", _BEST_OF.format(n), {"n_candidates": n}, trained_as="full")
        for n in (10, 50)
    ),
    Variant("language", _LANGUAGE, {"trajectory_dropout": 1.0}, (TEXT, NOTHING, "antonym", *_STYLES)),
    Variant("wordings", _WORDINGS, conditions=(TEXT, *_STYLES), trained_as="full"),
    Variant(
        "prompt-dt",
        "Prompt-DT with the same prompts, the closest relative without diffusion",
        {**_RELATIVE, "examples_per_prompt": (1, 5)},
        (BOTH, TEXT, *SEVERAL[:2]),
        method=PROMPT_DT,
    ),
    *(
        Variant(name, sentence, {}, conditions, method=CONTROL)
        for name, sentence, conditions in (
            ("retrieve", _RETRIEVE, (EXAMPLE, *SEVERAL[2:])),
            ("retrieve-aligned", _RETRIEVE_ALIGNED, (EXAMPLE, *SEVERAL[2:])),
            ("align", _ALIGN, (EXAMPLE, *SEVERAL[2:])),
            ("copy", _COPY, ("copy",)),
            ("random", "uniformly random actions: the floor of normalised returns", (NOTHING,)),
            ("expert", "the scripted experts, which know goal and task: the ceiling", ("expert",)),
        )
    ),
)

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _LISTED}
"""Every listed variant by its name."""

KEY_VARIANTS = (
    "full",
    "no-prompt",
    "no-text",
    "no-trajectory",
    "bc",
    "retrieve",
    "align",
    "random",
    "expert",
)
"""Variants that a table cannot do without."""


def make_variant(name: str) -> Variant:
    """Look a variant up, or make one.

    :param name: key of `VARIANTS`; ``"text-encoder:<spec>"`` for `full` with that encoder, see
        `make_text_encoder`; either with changes after it, as in
        ``"full+eta=1.0+policy_kwargs.conditioning=cross_attention"``.
    :raises ValueError: on an unknown name or argument; the message names the nearest and lists all.
    """
    base, *changes = name.split("+")
    if base.startswith(ENCODER) and base != ENCODER:
        spec = base.removeprefix(ENCODER)
        variant = Variant(base, f"sentences read by {spec}", {"text_encoder": spec}, (BOTH, TEXT))
    elif base in VARIANTS:
        variant = VARIANTS[base]
    else:
        raise ValueError(_unknown("variant", base, list(VARIANTS)) + f", {ENCODER}<spec>")
    if not changes:
        return variant
    if variant.trained_as is not None or variant.method != LEARNED:
        raise ValueError(
            f"{base!r} trains no LLMDPD of its own: change {variant.trained_as or 'full'!r} instead"
        )
    model = variant.model
    for change in changes:
        model = merged(model, _argument(change))
    return replace(variant, name=name, sentence=f"{variant.sentence}; {', '.join(changes)}", model=model)


def make_variants(names: Sequence[str]) -> list[Variant]:
    """Look several variants up.

    :param names: see `make_variant`; ``"all"`` is every listed one.
    :return: the variants in their order, each once.
    :raises ValueError: see `make_variant`.
    """
    each = [listed for name in names for listed in (VARIANTS if name == "all" else [name])]
    return [make_variant(name) for name in dict.fromkeys(each)]


def merged(arguments: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change some arguments of `LLMDPD`, into a new dictionary.

    :param arguments: arguments before the change.
    :param changes: arguments that differ; entries of ``policy_kwargs`` one by one.
    """
    together = {**arguments, **changes}
    if "policy_kwargs" in arguments and "policy_kwargs" in changes:
        together["policy_kwargs"] = {**arguments["policy_kwargs"], **changes["policy_kwargs"]}
    return together


def _argument(change: str) -> dict[str, Any]:
    """Read ``argument=value``; a value that is no JSON is a string."""
    name, sign, text = change.partition("=")
    of_policy, short = name.startswith(_POLICY), name.removeprefix(_POLICY)
    known = list(inspect.signature(LLMDPDPolicy if of_policy else LLMDPD).parameters)
    if not sign or short not in known:
        unknown = _unknown("argument", short, known)
        raise ValueError(f"{unknown}. A change is written argument=value, got {change!r}")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    return {"policy_kwargs": {short: value}} if of_policy else {short: value}


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"unknown {what} {name!r}: {hint}Known are {', '.join(known)}"
