"""Use Stable-Baselines3's own tools on a policy that is told its task: evaluate_policy, EvalCallback, VecEnv.

It trains for about ten seconds on a CPU:

    python examples/sb3_tools.py
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_llmdpd import LLMDPD, Episode

TEXTS = {-1.0: "cool the room", 1.0: "turn up the heat"}


class Thermostat(gym.Env):
    """A thermostat to be turned one way, which shows in the reward alone: only the prompt can say."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, direction: float) -> None:
        self.direction = direction

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.angle, self.n_steps = self.np_random.normal(scale=0.1), 0
        return np.array([self.angle], np.float32), {}

    def step(self, action):
        self.angle += 0.1 * float(action[0])
        self.n_steps += 1
        reward = self.direction * float(action[0])
        return np.array([self.angle], np.float32), reward, False, self.n_steps >= 10, {}


def demonstration(direction: float, rng: np.random.Generator) -> Episode:
    """Make ten steps in one direction, with some noise."""
    actions = np.clip(0.8 * direction + rng.normal(scale=0.1, size=(10, 1)), -1.0, 1.0)
    angles = rng.normal(scale=0.1) + 0.1 * np.vstack([np.zeros((1, 1)), np.cumsum(actions, axis=0)])
    text = TEXTS[direction]
    return Episode(angles, actions, direction * actions[:, 0], task=text, task_texts=(text,))


def main(n_steps: int = 400) -> dict[str, float]:
    """Train and evaluate; return the mean return where warmth is wanted, by what the policy is told."""
    rng = np.random.default_rng(0)
    episodes = [demonstration(direction, rng) for direction in TEXTS for _ in range(8)]
    model = LLMDPD("MlpPolicy", dataset=episodes, batch_size=64, prompts_per_batch=8, seed=0)

    env = make_vec_env(lambda: Thermostat(1.0), n_envs=4, seed=0)
    model.set_task(task_text=TEXTS[1.0])  # EvalCallback knows nothing of prompts
    callback = EvalCallback(env, n_eval_episodes=4, eval_freq=n_steps // 2, verbose=0)
    model.learn(n_steps, callback, log_interval=None)

    returns = {}
    for text in TEXTS.values():
        returns[text], _ = evaluate_policy(model.prompted(task_text=text), env, n_eval_episodes=8)
        print(f"told {text!r:22s} mean return {returns[text]:6.2f}")

    # One sentence for each sub-environment: two are told to heat, two to cool.
    observations = env.reset()
    texts = [TEXTS[1.0]] * 2 + [TEXTS[-1.0]] * 2
    actions, _ = model.predict(observations, deterministic=True, task_text=texts)
    print("actions of four environments told heat, heat, cool, cool:", np.round(actions[:, 0], 2))
    return returns


if __name__ == "__main__":
    main()
