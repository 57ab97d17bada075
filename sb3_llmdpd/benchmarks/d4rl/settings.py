"""The settings of D4RL's benchmark: Diffusion-QL's published ones by robot and quality, and the variants."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from sb3_llmdpd.benchmarks.common.variants import BOTH, NOTHING, Variant, merged
from sb3_llmdpd.data.d4rl import LOCOMOTION_TEXTS
from sb3_llmdpd.data.loading import format_of
from sb3_llmdpd.presets import PAPER

EPOCH = 1_000
"""Gradient steps of an epoch of Diffusion-QL's code."""

TARGETS_EVERY = 5
"""Gradient steps between two updates of the averaged actor in that code; here it moves at each step."""


@dataclass(frozen=True)
class Robot:
    """One of D4RL's robots.

    :param env_id: environment that evaluates it, unless another is asked for.
    :param sentence: sentence that it is told where its data have none.
    """

    env_id: str
    sentence: str


_ENV_IDS = {"halfcheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "walker2d": "Walker2d-v5"}

ROBOTS: dict[str, Robot] = {name: Robot(env_id, LOCOMOTION_TEXTS[name]) for name, env_id in _ENV_IDS.items()}
"""Robots by their names in data sets; their observations have 17, 11 and 17 numbers, as D4RL's have."""

QUALITIES = ("medium-replay", "medium-expert", "full-replay", "medium", "expert", "simple", "random")
"""Qualities of the policies that recorded data sets; a name that holds another one comes before it."""

MAX_GRAD_NORMS: dict[str, dict[str, float]] = {
    "halfcheetah": {"medium": 9.0, "medium-replay": 2.0, "medium-expert": 7.0},
    "hopper": {"medium": 9.0, "medium-replay": 4.0, "medium-expert": 5.0},
    "walker2d": {"medium": 1.0, "medium-replay": 4.0, "medium-expert": 5.0},
}
"""Diffusion-QL's bound of the gradient norm by robot and quality; its other settings do not differ."""

D4RL_VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            "full", "the robot's sentence and one trajectory of the data as prompt; cloning beside the Q term"
        ),
        Variant(
            "no-prompt",
            "plain Diffusion-QL: no prompt in training or evaluation",
            {"text_encoder": None, "text_dropout": 1.0, "trajectory_dropout": 1.0, "prompts_per_batch": 1},
            (NOTHING,),
        ),
        # Without the Q term no critic is trained that could choose among candidates.
        Variant("bc", "the prompts of full, and cloning alone: eta 0", {"eta": 0.0, "n_candidates": 1}),
    )
}
"""Variants by name."""


@dataclass(frozen=True)
class D4RLSettings:
    """Settings that all trainings of the benchmark share; the defaults are Diffusion-QL's.

    Where its code and `LLMDPD` count differently, the settings mean the same: the averaged actor there keeps
    0.995 of itself every five steps, here the fifth root of that at each. Its softmax is over the raw values
    of 50 candidates, which are in the hundreds, so that nearly always one of the best is taken; values are
    standardised here, and a low temperature says so. Its learning rate decays by a schedule that hardly moves
    within a run, and is constant here.

    :param n_steps: gradient steps of each training.
    :param eval_freq: gradient steps between two evaluations; there is one at the last step in any case.
    :param n_eval_episodes: episodes of each evaluation, always with the same seeds.
    :param max_episode_steps: steps after which an evaluated episode ends; None for the environment's limit.
    :param model: arguments of `LLMDPD`, which variants change.
    :param log_interval: gradient steps between two points of a training's curve.
    :raises ValueError: on numbers below one.
    """

    n_steps: int = 2_000 * EPOCH
    eval_freq: int = 50 * EPOCH
    n_eval_episodes: int = 10
    max_episode_steps: int | None = None
    model: Mapping[str, Any] = field(
        default_factory=lambda: merged(
            PAPER,
            {
                "text_encoder": "minilm",
                # Told both at any time, it need not cope without one of them.
                "text_dropout": 0.0,
                "trajectory_dropout": 0.0,
                "prompts_per_batch": 32,
                "batch_size": 256,
                "gamma": 0.99,
                "tau": 0.005,
                "ema_decay": 0.995 ** (1 / TARGETS_EVERY),
                "reward_scale": "none",
                "n_candidates": 50,
                "candidate_temperature": 0.1,
                "policy_kwargs": {
                    "net_arch": [256, 256, 256],
                    "n_diffusion_steps": 5,
                    "noise_schedule": "vp",
                },
            },
        )
    )
    log_interval: int = EPOCH

    def __post_init__(self) -> None:
        for name in ("n_steps", "eval_freq", "n_eval_episodes", "max_episode_steps", "log_interval"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}")

    def reading(self, text_encoder: str) -> Self:
        """Return the same settings with another language model, by its spec (see `make_text_encoder`)."""
        return replace(self, model=merged(self.model, {"text_encoder": text_encoder}))

    def smoke(self) -> Self:
        """Return the same settings at a size that takes seconds and learns nothing."""
        tiny = {"net_arch": [16], "token_dim": 8, "n_encoder_layers": 1, "n_heads": 2, "prompt_window": 4}
        small = {"text_encoder": "hashing:16", "batch_size": 8, "prompts_per_batch": 2, "n_candidates": 3}
        return replace(
            self,
            n_steps=4,
            eval_freq=2,
            n_eval_episodes=2,
            max_episode_steps=10,
            model=merged(self.model, {**small, "policy_kwargs": tiny}),
            log_interval=2,
        )


def make_d4rl_variants(names: Sequence[str]) -> list[Variant]:
    """Look variants up.

    :param names: keys of `D4RL_VARIANTS`, or ``"all"``.
    :return: the variants in their order, each once.
    :raises ValueError: on an unknown name; lists the known ones.
    """
    each = dict.fromkeys(known for name in names for known in (D4RL_VARIANTS if name == "all" else [name]))
    unknown = [name for name in each if name not in D4RL_VARIANTS]
    if unknown:
        raise ValueError(
            f"unknown variant {unknown[0]!r}: known are {', '.join(D4RL_VARIANTS)}, and all for all of them"
        )
    return [D4RL_VARIANTS[name] for name in each]


def shows_a_prompt(variant: Variant) -> bool:
    """Tell whether a variant is told and shown something."""
    return BOTH in variant.conditions


def label_of(name: str) -> str:
    """Name a source for tables and folders.

    :param name: see `format_of`.
    :return: a Minari id as it is, the name of a file without its suffix, or the name of a folder.
    """
    kind, rest = format_of(name)
    if kind == "minari":
        return rest
    return Path(rest).name if kind == "lerobot" else Path(rest).stem


def robot_and_quality(label: str) -> tuple[str, str | None]:
    """Read the robot and the quality of a data set off its name.

    :param label: label of `label_of`, e.g. ``"mujoco/hopper/medium-v0"`` or ``"hopper_medium_replay-v2"``.
    :return: one of `ROBOTS`, and one of `QUALITIES`, None where the name says none.
    :raises ValueError: when it names no robot, or several.
    """
    flat, robots = _letters(label), robots_in(label)
    if len(robots) != 1:
        raise ValueError(
            f"{label}: in this benchmark the name of a data set says which robot it is of, one of"
            f" {', '.join(ROBOTS)}, and this names {' and '.join(robots) or 'none'}: rename the file, or give"
            " the Minari data set another id"
        )
    return robots[0], next((quality for quality in QUALITIES if _letters(quality) in flat), None)


def robots_in(name: str) -> list[str]:
    """Find the robots that the name of a data set or an environment has in it."""
    flat = _letters(name)
    return [robot for robot in ROBOTS if robot in flat]


def is_of_d4rl(name: str) -> bool:
    """Tell by format and name whether a source is one of the nine files that Diffusion-QL was published with.

    :param name: see `format_of`.
    :return: True for a D4RL file with the name that D4RL gives version 2.
    """
    kind, label = format_of(name)[0], label_of(name)
    known = {f"{_letters(robot + quality)}v2" for robot, norms in MAX_GRAD_NORMS.items() for quality in norms}
    return kind == "d4rl" and _letters(label) in known


def published_model(robot: str, quality: str | None) -> dict[str, Any]:
    """Look up what Diffusion-QL sets for one data set alone.

    :param robot: one of `ROBOTS`.
    :param quality: one of `QUALITIES`, or None; where nothing was published for it, medium's counts.
    :return: arguments of `LLMDPD`.
    """
    norms = MAX_GRAD_NORMS[robot]
    return {"max_grad_norm": norms.get(quality or "medium", norms["medium"])}


def _letters(name: str) -> str:
    """Drop the signs between words, which differ from place to place."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
