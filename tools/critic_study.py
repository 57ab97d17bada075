"""Measures when a critic knows what it is asked: curves of Q against logged returns, for ways to train it.

`python -m tools.critic_study --out runs/critic --root data` trains critics on Meta-World's mixed data, of
which whole tasks and a share of the episodes of the others are held out, and asks each every few hundred
steps: does it rank logged steps as their returns do, does it give the returns as values, and does it prefer
the logged action to one of another episode? The actor learns beside it on small batches, since the critic of
Diffusion-QL asks for its actions; what it would gain is not looked at. What is done is kept: the same
command goes on. `--summary` writes what there is into docs/results/tuning.json.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.benchmarks.common.variants import merged
from sb3_llmdpd.benchmarks.metaworld.settings import DATA, MetaworldSettings
from sb3_llmdpd.benchmarks.metaworld.splits import tasks_of_split
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.common.schedules import CosineSchedule
from sb3_llmdpd.data.metaworld.collection import collect
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.validation.critic import drift
from sb3_llmdpd.validation.errors import HeldOutErrors, action_spread, measure
from sb3_llmdpd.validation.held_out import HeldOut, hold_out
from sb3_llmdpd.validation.probes import make_probes
from tools.result_files import RESULTS

N_STEPS, EVERY, N_EPISODES, N_UNSEEN, N_PROBES = 3_000, 300, 20, 5, 2
"""Gradient steps, steps between two measurements, episodes a task, tasks that are held out, and episodes of a
task that a critic is asked about; as many failed ones beside them."""
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "tau=0.02": {"tau": 0.02},
    "tau=0.1": {"tau": 0.1},
    "gamma=0.95": {"gamma": 0.95},
    "gamma=0.95, tau=0.02": {"gamma": 0.95, "tau": 0.02},
    "gamma=0.9": {"gamma": 0.9},
    "expectile": {"critic_objective": "expectile"},
}
"""Arguments that differ, by the name of the setting."""


def split(root: Path) -> HeldOut:
    """Record mixed data of ML45's training tasks, and hold parts out."""
    ids = collect(
        tasks_of_split("ml45")[0],
        n_episodes=N_EPISODES,
        noise=DATA["mixed"],
        root=root,
        id_format=f"critic-mixed-{N_EPISODES}/{{task}}-v0",
    )
    return hold_out(load_minari(ids, root=root), 0.25, N_UNSEEN)


def numbers_of(errors: HeldOutErrors, seen: bool) -> dict[str, float]:
    """Take the means over tasks under the task's own sentence and example."""
    of = [each for each in errors.values if each.seen is seen and each.prompt == "both"]
    ranks = [each.correlation for each in of if each.correlation is not None]
    prefers = [each.prefers for each in of if each.prefers is not None]
    return {
        "rank": float(np.mean(ranks)),
        "value": float(np.mean([each.value for each in of])),
        "earned": float(np.mean([each.earned for each in of])),
        "preferred": float(np.mean(prefers)),
    }


def curve(parts: HeldOut, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Train one critic, and measure it on the way."""
    settings = MetaworldSettings("ml45", *tasks_of_split("ml45"), data="mixed")
    base = {**settings.model, "batch_size": 180, "q_batch_size": 180}
    base["learning_rate"] = CosineSchedule(settings.learning_rate)
    model = LLMDPD("MlpPolicy", dataset=parts.training, seed=0, device="cpu", **merged(base, arguments))
    probes = [
        replace(probe, prompts={"both": probe.prompts["both"]}) for probe in make_probes(parts, N_PROBES)
    ]
    spread = action_spread(parts.training)
    points = []

    def look(local: Mapping[str, Any], _: Mapping[str, Any]) -> bool:
        step = local["self"].num_timesteps
        if step % EVERY == 0:
            errors = measure(local["self"], probes, spread)
            unseen, seen = numbers_of(errors, False), numbers_of(errors, True)
            points.append({"step": step, "unseen": unseen, "seen": seen})
        return True

    model.learn(N_STEPS, callback=look, progress_bar=True)
    return points


def summary(name: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Say where a curve ends, and whether its value still moves."""
    last = points[-1]
    moved = drift([point["step"] for point in points], [point["seen"]["value"] for point in points])
    groups = {
        quantity: {
            group: {"all": {"text+trajectory": round(last[group][quantity], 3)}}
            for group in ("seen", "unseen")
        }
        for quantity in last["seen"]
    }
    return {"setting": name, "seed": 0, "drift": moved, **groups}


def main() -> None:
    """Train what is not trained yet, or sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/critic"))
    parser.add_argument("--root", type=Path, default=Path("runs/critic/data"))
    parser.add_argument("--summary", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    paths = {name: given.out / f"{name}.json" for name in SETTINGS}
    if given.summary:
        done = [summary(name, json.loads(path.read_text())) for name, path in paths.items() if path.is_file()]
        path = RESULTS / "tuning.json"
        tuning = {**json.loads(path.read_text(encoding="utf-8")), "critic": done}
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(tuning), encoding="utf-8")
        return
    parts = split(given.root)
    for name, arguments in SETTINGS.items():
        if not paths[name].is_file():
            points = curve(parts, arguments)
            with whole_file(paths[name]) as temporary:
                temporary.write_text(json.dumps(points, indent=1), encoding="utf-8")
            print(name, points[-1])  # noqa: T201


if __name__ == "__main__":
    main()
