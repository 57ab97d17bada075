"""Episodes of Meta-World's scripted experts to prompt with, in data sets of their own."""

from collections.abc import Sequence
from typing import Any

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.metaworld.collection import collect
from sb3_llmdpd.data.minari import load_minari

_IDS = {True: "metaworld-examples/{task}-v0", False: "metaworld-examples/{task}-hidden-v0"}
"""Minari ids of the examples, which are never trained on, by whether their observations show the goal."""

N_EXAMPLES = 5
"""Examples of a task where no number is asked for: the same data set then serves all commands."""

N_EPISODES = 50
"""Evaluation episodes of a task by default: with the goal hidden, each has an example of its own."""

_EXAMPLE_SEED = 1_000_003
"""Keeps the scenes of examples apart from those of training, whatever seed both were given."""


def example_episodes(
    tasks: Sequence[str],
    n_episodes: int,
    *,
    seed: int = 0,
    goal_visible: bool = True,
    id_format: str | None = None,
    **arguments: Any,
) -> dict[str, list[Episode]]:
    """Collect the examples that are not there yet, and read all.

    :param tasks: names of tasks.
    :param n_episodes: episodes of each task.
    :param seed: seed of the scenes, which differ from those of training data of the same seed.
    :param goal_visible: whether the observations hold the goal.
    :param id_format: see `collect`; by default the same for all commands.
    :param arguments: further arguments of `collect`, such as the ``noise`` of the training data.
    :return: the episodes by task.
    """
    if not tasks:
        return {}
    arguments |= {"goal_visible": goal_visible, "id_format": id_format or _IDS[goal_visible]}
    ids = collect(tasks, n_episodes=n_episodes, seed=seed + _EXAMPLE_SEED, **arguments)
    examples: dict[str, list[Episode]] = {}
    for episode in load_minari(ids, root=arguments.get("root")).episodes:
        examples.setdefault(episode.task, []).append(episode)
    return examples
