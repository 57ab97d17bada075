"""Holds the default settings against the paper's on data that are not Meta-World's: named places.

The defaults were chosen on tasks of Meta-World that were held out, and the learning rate on these places.
A point is moved to one of 25 places on a square, all in the same scene, and six places are held out
(`sb3_llmdpd.benchmarks.places`). `python -m tools.check_defaults` trains both with three seeds in about ten
minutes, and writes what it measured into docs/results/tuning.json, from which `make tables` fills the docs.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_llmdpd import LLMDPD, Episode, presets
from sb3_llmdpd.benchmarks.places import HORIZON, PLACES, UNSEEN, PlacesEnv, record, texts_of
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.conditions import Cell, Condition
from sb3_llmdpd.evaluation.tasks import evaluate_tasks
from tools.result_files import RESULTS

SETTINGS: dict[str, Mapping[str, Any]] = {"the paper's": presets.PAPER, "the defaults": {}}
N_STEPS, N_SEEDS, N_TRAINED_ON, N_EXAMPLES, N_PLAYED = 600, 3, 6, 5, 5
"""Gradient steps; trainings; episodes of a place to learn from and to show; episodes to play."""
SEEN = tuple(place for place in PLACES if place not in UNSEEN)


def conditions(place: str) -> list[Condition]:
    """Name all that a policy is told of a place."""
    return [
        Condition("text", text_of=place),
        Condition("trajectory", trajectory_of=place),
        Condition("text+trajectory", text_of=place, trajectory_of=place),
        Condition(f"trajectory:{N_EXAMPLES}", trajectory_of=place, n_examples=N_EXAMPLES),
    ]


def measured(model: LLMDPD, places: tuple[str, ...], examples: dict[str, list[Episode]]) -> dict[str, Any]:
    """Compute the share of the episodes that end at the place, by place and by what was told."""
    cells = [Cell(place, condition) for place in places for condition in conditions(place)]
    played = evaluate_tasks(
        model,
        cells,
        examples=examples,
        texts={place: texts_of(place)[0] for place in places},
        make_env=PlacesEnv,
        n_episodes=N_PLAYED,
        max_episode_steps=HORIZON,
        n_processes=1,
        progress_bar=False,
    )
    shares: dict[str, Any] = {place: {} for place in places}
    for result in played:
        shares[result.task][result.condition.name] = round(float(np.mean(result.last_successes)), 2)
    return shares


def main() -> None:
    """Train, play, and write."""
    data = record(SEEN, n_episodes=N_TRAINED_ON)
    examples = {place: record([place], n_episodes=N_EXAMPLES, seed=1) for place in PLACES}
    trainings = []
    for setting, arguments in SETTINGS.items():
        for seed in range(N_SEEDS):
            shared = dict(dataset=data, text_encoder="hashing", seed=seed, device="cpu")
            model = LLMDPD("MlpPolicy", **shared, **arguments).learn(N_STEPS, progress_bar=True)
            seen, unseen = (measured(model, places, examples) for places in (SEEN, UNSEEN))
            trainings.append({"setting": setting, "seed": seed, "seen": seen, "unseen": unseen})
    path = RESULTS / "tuning.json"
    tuning = {**json.loads(path.read_text(encoding="utf-8")), "places": trainings}
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(tuning), encoding="utf-8")


if __name__ == "__main__":
    main()
