"""Episodes of Meta-World's scripted experts to prompt with, in data sets of their own."""

from collections.abc import Sequence
from typing import Any

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.metaworld.collection import collect
from sb3_llmdpd.data.metaworld.record import Recipe
from sb3_llmdpd.data.minari import load_minari

_IDS = {True: "metaworld-examples/{task}-v0", False: "metaworld-examples/{task}-hidden-v0"}
"""Minari ids of the examples, which are never trained on, by whether their observations show the goal."""

N_EXAMPLES = 5
"""Examples of a task where no number is asked for: the same data set then serves all commands."""

N_EPISODES = 50
"""Evaluation episodes of a task by default: with the goal hidden, each has an example of its own."""

_FEWEST_SPARE = 3
"""Episodes beyond those asked for that are collected at least, and half as many as are asked for."""

_EXAMPLE_SEED = 1_000_003
"""Keeps the scenes of examples apart from those of training, whatever seed both were given."""


def example_episodes(
    tasks: Sequence[str],
    n_episodes: int,
    *,
    n_per_goal: int = 1,
    seed: int = 0,
    goal_visible: bool = True,
    id_format: str | None = None,
    **arguments: Any,
) -> dict[str, list[Episode]]:
    """Collect the examples that are not there yet, and read all. Failed episodes are no examples.

    Some more are collected than are asked for, since the expert fails now and then.

    :param tasks: names of tasks.
    :param n_episodes: examples of each task; fewer where the expert fails too often.
    :param n_per_goal: how many of them share a goal, those of the next goal behind them.
    :param seed: seed of the scenes, which differ from those of training data of the same seed.
    :param goal_visible: whether the observations hold the goal.
    :param id_format: see `collect`; by default the same for all commands.
    :param arguments: further arguments of `collect`, such as the ``noise`` of the training data.
    :return: the examples by task.
    :raises ValueError: when no episode is asked for.
    """
    if n_episodes < 1:
        raise ValueError(f"the number of examples must be at least 1, got {n_episodes}")
    if not tasks:
        return {}
    arguments |= {"goal_visible": goal_visible, "id_format": id_format or _IDS[goal_visible]}
    if n_per_goal == 1:
        n_collected, of_goal = n_episodes + max(_FEWEST_SPARE, n_episodes // 2), 1
    else:
        of_goal = n_per_goal + 1
        n_collected = n_episodes // n_per_goal * of_goal
    ids = collect(
        tasks, n_episodes=n_collected, episodes_per_goal=of_goal, seed=seed + _EXAMPLE_SEED, **arguments
    )
    examples: dict[str, list[Episode]] = {task: [] for task in tasks}
    for episode in load_minari(ids, root=arguments.get("root")).episodes:
        if episode.success is not False:
            examples[episode.task].append(episode)
    if n_per_goal > 1:
        examples = {task: _goals_in_turns(episodes, n_per_goal) for task, episodes in examples.items()}
    return {task: episodes[:n_episodes] for task, episodes in examples.items()}


def example_seeds(task: str, n_episodes: int, seed: int = 0) -> list[int]:
    """List the seeds of the scenes that `example_episodes` records, with one example a goal.

    :param task: name of the task.
    :param n_episodes: examples that were asked for.
    :param seed: seed that was given.
    """
    n_collected = n_episodes + max(_FEWEST_SPARE, n_episodes // 2)
    recipe = Recipe(task, n_collected, (0.0,), 1, goal_visible=True, seed=seed + _EXAMPLE_SEED)
    return [recipe.episode_seed(episode) for episode in range(n_collected)]


def _goals_in_turns(episodes: Sequence[Episode], n_per_goal: int) -> list[Episode]:
    """Take the first of each goal, then the second of each, and so on, of goals that have enough."""
    by_goal: dict[str | None, list[Episode]] = {}
    for episode in episodes:
        by_goal.setdefault(episode.goal, []).append(episode)
    whole = [of_goal[:n_per_goal] for of_goal in by_goal.values() if len(of_goal) >= n_per_goal]
    return [episode for in_turn in zip(*whole, strict=True) for episode in in_turn]
