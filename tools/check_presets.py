"""Measures candidates for presets beside the defaults, on few, on bad and on single-task data, and on images.

A preset is made of settings that succeed more often than the defaults, over all that is played, by more than
twice the standard error of the difference. `python -m tools.check_presets` trains small networks with three
seeds (two on images) in about a quarter of an hour, and writes what it measured into
docs/results/presets.json, from which `make tables` fills the docs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_llmdpd import LLMDPD, Episode, presets
from sb3_llmdpd.benchmarks.places import HORIZON, PLACES, UNSEEN, PlacesEnv, record, texts_of
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.conditions import Cell, Condition
from sb3_llmdpd.evaluation.tasks import evaluate_tasks
from tools.result_files import RESULTS

PATH = RESULTS / "presets.json"
SEEN = tuple(place for place in PLACES if place not in UNSEEN)
N_EXAMPLES, N_PLAYED = 3, 3
"""Episodes of a place to show, which are not learned from; episodes to play under each condition."""
SMALL = {"text_encoder": "hashing", "device": "cpu", "batch_size": 152}
"""Arguments that all trainings share, beside the widths."""
WIDTHS = [128, 128]
THE_DEFAULTS = "the defaults"


@dataclass(frozen=True)
class Case:
    """Data of one kind, and the settings that are compared on them.

    :param episodes: episodes to learn from.
    :param candidates: arguments that differ from the defaults, by the name of the setting.
    :param n_steps: gradient steps.
    :param n_seeds: trainings of each setting.
    :param seen: places that are played of those that are learned.
    :param unseen: places that are played and not learned.
    :param in_pictures: True where places are seen as pictures.
    :param prompts_per_batch: prompts in a batch.
    """

    episodes: Sequence[Episode]
    candidates: Mapping[str, Mapping[str, Any]]
    n_steps: int
    n_seeds: int = 3
    seen: Sequence[str] = SEEN[::3]
    unseen: Sequence[str] = UNSEEN
    in_pictures: bool = False
    prompts_per_batch: int = 19


class PicturedPlaces(gym.ObservationWrapper[np.ndarray, np.ndarray, np.ndarray]):
    """The places, seen as a picture with one bright spot.

    :param task: key of `PLACES`.
    """

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def __init__(self, task: str) -> None:
        super().__init__(PlacesEnv(task))

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Draw the point.

        :param observation: (2,), in [-1, 1].
        :return: (1, 36, 36), uint8.
        """
        return pictures(observation)


def pictures(positions: np.ndarray) -> np.ndarray:
    """Draw points as spots that are three pixels wide, so that a part of a pixel is seen.

    :param positions: (..., 2), in [-1, 1].
    :return: (..., 1, 36, 36), uint8.
    """
    x, y = (np.arange(36) - (17.5 + 15 * positions[..., axis, None]) for axis in (0, 1))  # (..., 36), pixels
    squared = x[..., None, :] ** 2 + y[..., :, None] ** 2
    return (255 * np.exp(-squared / 9))[..., None, :, :].astype(np.uint8)


def pictured(episodes: Sequence[Episode]) -> list[Episode]:
    """Show the episodes' observations as pictures."""
    return [replace(episode, observations=pictures(np.asarray(episode.observations))) for episode in episodes]


def with_failures(n_each: int) -> list[Episode]:
    """Record as many episodes that go to the place as ones that go to another."""
    strays = {place: SEEN[(number + 7) % len(SEEN)] for number, place in enumerate(SEEN)}
    failed = [
        replace(
            episode,
            task=place,
            task_texts=texts_of(place),
            rewards=-np.linalg.norm(np.asarray(episode.observations)[1:] - PLACES[place], axis=1),
            success=False,
            first_success=None,
            source=f"places/{place}, on a wrong way",
        )
        for place, other in strays.items()
        for episode in record([other], n_each, seed=2)
    ]
    return record(SEEN, n_each) + failed


PICTURED = ("low left", "low right", "high left", "high right", "middle centre", "top centre")
ONE = ("high right",)
NO_DROPOUT = {"text_dropout": 0.0, "trajectory_dropout": 0.0, "pair_dropout": 0.0}
CASES = {
    "few-demonstrations": Case(
        record(SEEN, 2),
        {
            "no critic": {"eta": 0.0},
            "noise on the prompts": {"prompt_noise": 0.3},
            "a linear map of the sentence": {"policy_kwargs": {"n_text_layers": 1}},
        },
        n_steps=500,
    ),
    "mixed-quality": Case(
        with_failures(3),
        {
            "all episodes alike, more Q": {"return_weight": 0.0, "eta": 1.0},
            "an expectile critic, more Q": {"critic_objective": "expectile", "eta": 1.0},
            "better episodes still more often": {"return_weight": 30.0},
        },
        n_steps=500,
    ),
    "one-task": Case(
        record(ONE, 6),
        {
            "no dropout": NO_DROPOUT,
            "no dropout, one vector of the example": {
                **NO_DROPOUT,
                "policy_kwargs": {"conditioning": "concat"},
            },
            "no critic": {"eta": 0.0},
        },
        n_steps=200,
        seen=ONE,
        unseen=(),
    ),
    "images": Case(
        pictured(record(PICTURED, 4)),
        {"the paper's": presets.PAPER},
        n_steps=300,
        n_seeds=2,
        seen=PICTURED,
        unseen=("middle left", "high centre"),
        in_pictures=True,
        prompts_per_batch=8,
    ),
}


def trained(case: Case, changes: Mapping[str, Any], seed: int) -> LLMDPD:
    """Train one model of a case."""
    arguments: dict[str, Any] = {**SMALL, "prompts_per_batch": case.prompts_per_batch, **changes}
    arguments["policy_kwargs"] = {"net_arch": WIDTHS, **changes.get("policy_kwargs", {})}
    policy = "CnnPolicy" if case.in_pictures else "MlpPolicy"
    return LLMDPD(policy, dataset=case.episodes, seed=seed, **arguments).learn(case.n_steps)


def measured(model: LLMDPD, case: Case, places: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute, by place and by what was told, the share of episodes that end there, and the mean distance.

    :return: shares, and distances in halves of the square's side.
    """
    examples = {place: record([place], N_EXAMPLES, seed=1) for place in places}
    if case.in_pictures:
        examples = {place: pictured(episodes) for place, episodes in examples.items()}
    cells = [
        Cell(place, condition)
        for place in places
        for condition in (
            Condition("text", text_of=place),
            Condition("trajectory", trajectory_of=place),
            Condition("text+trajectory", text_of=place, trajectory_of=place),
        )
    ]
    shares: dict[str, Any] = {place: {} for place in places}
    distances: dict[str, Any] = {place: {} for place in places}
    for result in evaluate_tasks(
        model,
        cells,
        examples=examples,
        texts={place: texts_of(place)[0] for place in places},
        make_env=PicturedPlaces if case.in_pictures else PlacesEnv,
        n_episodes=N_PLAYED,
        max_episode_steps=HORIZON,
        n_processes=1,
        progress_bar=False,
    ):
        shares[result.task][result.condition.name] = round(float(np.mean(result.last_successes)), 3)
        distances[result.task][result.condition.name] = round(-float(np.mean(result.returns)) / HORIZON, 3)
    return shares, distances


def training(case: Case, setting: str, seed: int) -> dict[str, Any]:
    """Train a setting of a case, and play it."""
    model = trained(case, case.candidates.get(setting, {}), seed)
    shares, distances = {}, {}
    for group, places in (("seen", case.seen), ("unseen", case.unseen)):
        if places:
            shares[group], distances[group] = measured(model, case, places)
    return {"setting": setting, "seed": seed, **shares, "distance": distances}


def main() -> None:
    """Measure every case, and write after each."""
    measurements: dict[str, Any] = {}
    for name, case in CASES.items():
        settings = (THE_DEFAULTS, *case.candidates)
        measurements[name] = [
            training(case, setting, seed) for setting in settings for seed in range(case.n_seeds)
        ]
        with whole_file(PATH) as temporary:
            temporary.write_text(json.dumps(measurements), encoding="utf-8")


if __name__ == "__main__":
    main()
