"""Collects episodes of Meta-World's scripted experts into Minari data sets that say their task."""

from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.common.processes import n_cores, worker_pool
from sb3_llmdpd.data.episodes import STEPS_AFTER_SUCCESS
from sb3_llmdpd.data.metaworld.envs import MetaWorldEnv
from sb3_llmdpd.data.metaworld.record import Recipe, RecordedEpisode, record_episode
from sb3_llmdpd.data.metaworld.tasks import task_info
from sb3_llmdpd.data.metaworld.writer import read_metadata, write_dataset
from sb3_llmdpd.data.minari import datasets_root

_EPISODES_PER_JOB = 10
"""Episodes that a process collects before it reports back."""


def collect(
    tasks: Sequence[str] | str,
    *,
    n_episodes: int,
    noise: Sequence[float] = (0.1,),
    episodes_per_goal: int = 1,
    goal_visible: bool = True,
    steps_after_success: int = STEPS_AFTER_SUCCESS,
    seed: int = 0,
    n_processes: int | None = None,
    root: str | Path | None = None,
    id_format: str = "metaworld/{task}-v0",
    progress_bar: bool = True,
) -> list[str]:
    """Record the scripted experts, one Minari data set (hdf5) a task.

    An episode ends some steps after its first success, or at 500 steps; failed ones are kept and marked. A
    data set appears only when it is complete. After an interruption, the same call goes on: it keeps the data
    sets that are there from the same recipe.

    :param tasks: names of tasks, see `TASKS`.
    :param n_episodes: episodes a task, failed ones included.
    :param noise: standard deviations of the Gaussian noise on the expert's actions; the episodes take turns.
    :param episodes_per_goal: consecutive episodes that share a goal while the object is placed anew; see
        `Recipe.episodes_per_goal` for the tasks whose goal is a part of the object.
    :param goal_visible: show the goal's position in the observations; the expert knows it anyway.
    :param steps_after_success: steps of an episode after its first success. Few show how a task is done, and
        not what to do then, which is part of the return of a whole episode.
    :param seed: seed of all random numbers; the result does not depend on the number of processes.
    :param n_processes: number of processes, by default one a CPU core; 1 collects in this process.
    :param root: folder of the data sets; by default Minari's own, $MINARI_DATASETS_PATH or
        ~/.minari/datasets.
    :param id_format: Minari id of a task's data set, with ``{task}`` in it.
    :param progress_bar: show a progress bar.
    :return: ids of the data sets, in the order of ``tasks``.
    :raises ValueError: on unknown tasks or impossible numbers, and where a data set of another recipe is in
        the way.
    """
    if n_processes is not None and n_processes < 1:
        raise ValueError(f"`n_processes` must be at least 1, or None for one a CPU core, got {n_processes}")
    names = [task_info(task).name for task in ([tasks] if isinstance(tasks, str) else tasks)]
    if "{task}" not in id_format:
        raise ValueError(f"`id_format` must hold '{{task}}', which names each data set, got {id_format!r}")
    stds = tuple(float(std) for std in noise)
    recipes = {}
    for name in names:
        recipe = Recipe(name, n_episodes, stds, episodes_per_goal, goal_visible, seed, steps_after_success)
        recipes[id_format.format(task=name)] = recipe
    _check_ids(recipes)
    folder = datasets_root(root)
    missing = {name: recipe for name, recipe in recipes.items() if not _is_there(folder, name, recipe)}
    n_missing, hidden = n_episodes * len(missing), not progress_bar or not missing
    parts: dict[str, dict[int, list[RecordedEpisode]]] = {dataset_id: {} for dataset_id in missing}
    with (
        tqdm(total=n_missing, desc="collecting", unit="episode", disable=hidden) as bar,
        closing(_collected(missing, n_processes)) as stream,
    ):
        for dataset_id, first, episodes in stream:
            bar.update(len(episodes))
            parts[dataset_id][first] = episodes
            if sum(map(len, parts[dataset_id].values())) == n_episodes:
                in_order = [episode for _, part in sorted(parts.pop(dataset_id).items()) for episode in part]
                write_dataset(folder, dataset_id, missing[dataset_id], in_order)
    return list(recipes)


def collected_success(ids: Sequence[str], root: str | Path | None = None) -> dict[str, float]:
    """Read how often the expert succeeded, under the noise that it was recorded with.

    :param ids: ids that `collect` returned.
    :param root: folder of the data sets, as in `collect`.
    :return: share of successful episodes by task name, in [0, 1].
    :raises ValueError: when `collect` did not write one of the data sets.
    """
    rates = {}
    for dataset_id in ids:
        metadata = read_metadata(datasets_root(root), dataset_id)
        if metadata is None or "success_rate" not in metadata:
            raise ValueError(f"{dataset_id!r} is no data set that `collect` wrote into {datasets_root(root)}")
        rates[str(metadata["task_id"])] = float(metadata["success_rate"])
    return rates


def _check_ids(ids: Iterable[str]) -> None:
    parse = require("minari.dataset.minari_dataset", "all").parse_dataset_id
    for dataset_id in ids:
        try:
            parse(dataset_id)
        except (ValueError, TypeError) as error:  # a TypeError where the version is missing
            raise ValueError(
                f"`id_format` gives {dataset_id!r}, which is no Minari id: write it as"
                f" 'namespace/{{task}}-v0', of letters, digits, '-' and '_'"
            ) from error


def _is_there(folder: Path, dataset_id: str, recipe: Recipe) -> bool:
    """Tell if this data set is there already, and refuse another one in its place."""
    metadata = read_metadata(folder, dataset_id)
    if metadata is None:
        return False
    there, asked = metadata.get("recipe"), recipe.as_json()
    if there == asked:
        return True
    reasons = ["`collect` did not write it"]
    if isinstance(there, dict):
        differing = [(key, there.get(key), value) for key, value in asked.items() if there.get(key) != value]
        reasons = [f"{key} {old!r} there, {new!r} asked" for key, old, new in differing]
    raise ValueError(
        f"another data set {dataset_id!r} is already in {folder} ({', '.join(reasons)}). Delete"
        f" {folder / dataset_id}, choose another `root` or `id_format`, or collect with the recipe that is"
        " there"
    )


def _collected(
    recipes: dict[str, Recipe], n_processes: int | None
) -> Generator[tuple[str, int, list[RecordedEpisode]]]:
    """Yield parts of the data sets as they are ready: id, index of the first episode, episodes."""
    jobs = [
        (dataset_id, first, min(first + _EPISODES_PER_JOB, recipe.n_episodes))
        for dataset_id, recipe in recipes.items()
        for first in range(0, recipe.n_episodes, _EPISODES_PER_JOB)
    ]
    n_processes = min(len(jobs), n_cores() if n_processes is None else n_processes)
    if n_processes <= 1:
        for dataset_id, first, end in jobs:
            yield dataset_id, first, _record(recipes[dataset_id], first, end)
        return
    with worker_pool(n_processes) as pool:
        futures = {pool.submit(_record, recipes[job[0]], *job[1:]): job for job in jobs}
        for future in as_completed(futures):
            dataset_id, first, _ = futures.pop(future)
            yield dataset_id, first, future.result()


def _record(recipe: Recipe, first: int, end: int) -> list[RecordedEpisode]:
    env = _environment(recipe.task, recipe.goal_visible)
    return [record_episode(env, recipe, episode) for episode in range(first, end)]


@lru_cache(maxsize=1)  # the jobs of one task come one after the other
def _environment(task: str, goal_visible: bool) -> MetaWorldEnv:
    return MetaWorldEnv(task, goal_visible=goal_visible)
