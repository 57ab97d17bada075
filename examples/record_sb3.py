"""Go from a Stable-Baselines3 policy to data and back: record SAC while it learns, and learn from the record.

It trains for about a minute on a CPU:

    python examples/record_sb3.py
"""

import tempfile

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from small import SMALL
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.data.minari_writer import write_minari
from sb3_llmdpd.envs.recording import record_policy

TEXT = "park the boat at the buoy"
DATASET = "harbour/boat-sac-v0"


class Boat(gym.Env):
    """A boat that drifts on; two motors push it. The nearer to the buoy it lies, the better."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)  # place and speed
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        angle = self.np_random.uniform(-np.pi, np.pi)
        self.place, self.speed = np.array([np.cos(angle), np.sin(angle)]), np.zeros(2)
        return self.observation(), {}

    def step(self, action):
        self.speed = 0.7 * self.speed + 0.06 * np.asarray(action, float)
        self.place = np.clip(self.place + self.speed, -2.0, 2.0)
        distance = float(np.linalg.norm(self.place))
        return self.observation(), -distance, False, False, {"is_success": distance < 0.1}

    def observation(self):
        return np.concatenate([self.place, 5.0 * self.speed]).astype(np.float32)


def make_boat() -> gym.Env:
    """Make a boat that has 30 steps to park."""
    return Monitor(TimeLimit(Boat(), 30))


def main(n_steps: int = 1_000, sac_steps: int = 1_000, seed: int = 0) -> dict[str, float]:
    """Train both; return the mean return of the data at each of SAC's skills, of all data, and of LLMDPD."""
    env = make_boat()
    fast = {"learning_rate": 3e-3, "learning_starts": 100, "policy_kwargs": {"net_arch": [32, 32]}}
    sac = SAC("MlpPolicy", env, gamma=0.95, seed=seed, **fast)
    levels = {}
    what = {"task": "park", "task_text": TEXT, "deterministic": False, "seed": seed}
    for skill, steps in {"untrained": 0, "half trained": sac_steps // 2, "trained": sac_steps // 2}.items():
        sac.learn(steps, reset_num_timesteps=False)
        levels[skill] = record_policy(sac, make_boat(), 20, **what)
    episodes = [episode for level in levels.values() for episode in level]
    returns = {f"data, {skill}": mean_return(level) for skill, level in levels.items()}
    returns["data"] = mean_return(episodes)

    # Without `root`, here and in `load_minari`, the data set lies where Minari keeps its own.
    with tempfile.TemporaryDirectory() as root:
        where = {"root": root, "algorithm_name": "SAC"}
        write_minari(DATASET, episodes, env.observation_space, env.action_space, **where)
        dataset = load_minari(DATASET, root=root)
    print(dataset.summary())

    # Two thirds of the data are those of beginners: better episodes are drawn more often.
    shape = {"q_batch_size": 64, "prompts_per_batch": 4, "policy_kwargs": {"net_arch": [64, 64]}}
    model = LLMDPD("MlpPolicy", dataset=dataset, gamma=0.95, seed=seed, **SMALL, **shape)
    model.learn(n_steps, progress_bar=True)
    played, _ = evaluate_policy(model.prompted(task_text=TEXT), make_boat(), n_eval_episodes=20)
    returns["LLMDPD"] = float(played)
    for name, value in returns.items():
        print(f"{name:20s} mean return {value:7.2f}")
    return returns


def mean_return(episodes) -> float:
    """Average the sums of rewards of episodes."""
    return float(np.mean([episode.rewards.sum() for episode in episodes]))


if __name__ == "__main__":
    main()
