"""Record what a learning policy does, as D4RL's medium-replay data are made: all episodes of SAC's training.

It needs the ``metaworld`` extra for MuJoCo. The second command learns from what the first recorded:

    python examples/record_locomotion.py
    sb3-llmdpd benchmark d4rl --dataset recorded/hopper/medium-replay-v0
"""

import argparse
from pathlib import Path

import gymnasium as gym
from stable_baselines3 import SAC

from sb3_llmdpd.benchmarks.d4rl.settings import ROBOTS
from sb3_llmdpd.envs.recording import RecordEpisodes


def main(robot: str = "hopper", n_steps: int = 10_000, root: Path | None = None, seed: int = 0) -> Path:
    """Train for ``n_steps``, write every episode on the way, and return the folder of the data set."""
    env = RecordEpisodes(gym.make(ROBOTS[robot].env_id), task=robot, task_text=ROBOTS[robot].sentence)
    sac = SAC("MlpPolicy", env, learning_starts=min(1_000, n_steps // 2), seed=seed)
    sac.learn(n_steps, progress_bar=n_steps > 1_000)
    env.close()  # keeps the episode that has begun, too
    returns = [float(episode.rewards.sum()) for episode in env.episodes]
    total = sum(map(len, env.episodes))
    print(f"{len(returns)} episodes, {total:,} steps, returns {min(returns):.0f} to {max(returns):.0f}")
    folder = env.write(f"recorded/{robot}/medium-replay-v0", root, algorithm_name="SAC, all of its training")
    print(f"{folder} is the data set")
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--robot", choices=sorted(ROBOTS), default="hopper")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--root", type=Path, help="folder of the data sets; by default Minari's own")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.robot, given.steps, given.root, given.seed)
