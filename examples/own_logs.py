"""Turn arrays of your own into a policy that is told what to do: a point walks to the place that is named.

It trains for about half a minute on a CPU:

    python examples/own_logs.py
"""

import numpy as np
from small import SMALL

from sb3_llmdpd import LLMDPD, Episode

PLACES = {"north": (0.0, 1.0), "east": (1.0, 0.0), "south": (0.0, -1.0), "west": (-1.0, 0.0)}
PHRASINGS = ("go {}", "walk to the {}", "move towards the {} side")
STEP = 0.1


def walk(place: np.ndarray, choose_action, n_steps: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Walk from a place, and return positions (n_steps + 1, 2) and actions (n_steps, 2)."""
    positions, actions = [place], []
    for _ in range(n_steps):
        actions.append(np.clip(choose_action(positions[-1]), -1.0, 1.0))
        positions.append(positions[-1] + STEP * actions[-1])
    return np.array(positions), np.array(actions)


def demonstration(task: str, rng: np.random.Generator) -> Episode:
    """Make one noisy walk of somebody who knows the way."""
    goal = np.array(PLACES[task])
    start = rng.normal(scale=0.2, size=2)
    positions, actions = walk(start, lambda position: 5.0 * (goal - position) + rng.normal(scale=0.2, size=2))
    rewards = -np.linalg.norm(positions[1:] - goal, axis=1)
    texts = tuple(text.format(task) for text in PHRASINGS)
    return Episode(positions, actions, rewards, task=task, task_texts=texts)


def main(n_steps: int = 1_500) -> dict[str, float]:
    """Train, and return how far from its goal the policy ends up under each sentence."""
    rng = np.random.default_rng(0)
    episodes = [demonstration(task, rng) for task in PLACES for _ in range(10)]
    shape = {"prompts_per_batch": 8, "policy_kwargs": {"net_arch": [128, 128]}}
    model = LLMDPD("MlpPolicy", dataset=episodes, seed=0, **SMALL, **shape)
    model.learn(n_steps, progress_bar=True)

    distances = {}
    for task, goal in PLACES.items():
        told = model.prompted(task_text=f"walk to the {task}")
        shown = model.prompted(trajectory=demonstration(task, rng))
        for name, policy in {
            f"told 'walk to the {task}'": told,
            f"shown an example of {task}": shown,
        }.items():
            positions, _ = walk(
                np.zeros(2), lambda position, act=policy: act.predict(position, deterministic=True)[0]
            )
            distances[name] = float(np.linalg.norm(positions[-1] - goal))
            print(f"{name:32s} ends {distances[name]:.2f} from its goal")
    return distances


if __name__ == "__main__":
    main()
