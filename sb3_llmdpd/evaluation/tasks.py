"""Plays tasks with a prompted model and its controls, in many environments and processes at once."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from zlib import crc32

import numpy as np
from tqdm import tqdm

from sb3_llmdpd.common.processes import n_cores
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.evaluation.conditions import Cell, Condition
from sb3_llmdpd.evaluation.episode_blocks import Block, EnvMaker, PlaySettings, play_blocks
from sb3_llmdpd.evaluation.metaworld_suite import METAWORLD_SUITE
from sb3_llmdpd.evaluation.phases import Phases
from sb3_llmdpd.evaluation.players import ModelPlayer, Player
from sb3_llmdpd.evaluation.rollouts import Rollout
from sb3_llmdpd.evaluation.suite import EnvFacts, Suite, check_playable, facts_of, time_limit
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.prompts.prompt import Prompt

_EVALUATION = crc32(b"evaluation")
"""Keeps the seeds of evaluation apart from those of collected data, even if both are given the same seed."""


@dataclass(frozen=True)
class CellResult:
    """Outcomes of the episodes of one cell; every tuple has an entry for each of them.

    :param task: task whose scenes were played.
    :param condition: the one who acted, and the prompt.
    :param seen: True if the policy was trained on the task; None if unknown.
    :param seeds: seeds of the episodes, the same for all conditions of a task.
    :param successes: success at any step.
    :param last_successes: success at the last step.
    :param returns: sums of raw rewards.
    :param first_successes: index of the first successful step; None without one.
    :param phases: how far each episode came; None where that was not watched.
    :param early_returns: sums of raw rewards over the first ``EARLY_STEPS`` steps; None in older results.
    :param judged: False where the environment never said whether a step was a success; the successes then say
        nothing.
    :param expert_steps: steps that the task takes its expert; None where nobody measured.
    """

    task: str
    condition: Condition
    seen: bool | None
    seeds: tuple[int, ...]
    successes: tuple[bool, ...]
    last_successes: tuple[bool, ...]
    returns: tuple[float, ...]
    first_successes: tuple[int | None, ...]
    phases: tuple[Phases, ...] | None = None
    early_returns: tuple[float, ...] | None = None
    judged: bool = True
    expert_steps: int | None = None

    @property
    def n_episodes(self) -> int:
        """Episodes in the cell."""
        return len(self.seeds)

    @property
    def success_rate(self) -> float:
        """Share of the episodes that succeeded at any step, in [0, 1]."""
        return float(np.mean(self.successes))

    @property
    def soon(self) -> tuple[bool, ...]:
        """True for each success within twice the steps of the expert, or any where these are not known.

        Nothing ends an episode when another task than the scene's is done. A policy that turns a handle as
        told and goes on may turn it back, much later: such a success says nothing about what was understood.
        """
        limit = math.inf if self.expert_steps is None else 2 * self.expert_steps
        return tuple(step is not None and step < limit for step in self.first_successes)

    @classmethod
    def of(cls, cell: Cell, rollouts: Sequence[Rollout], expert_steps: int | None = None) -> "CellResult":
        """Collect the episodes of a cell, in their order.

        :param cell: the cell.
        :param rollouts: its episodes.
        :param expert_steps: see above.
        """
        watched = [rollout.phases for rollout in rollouts if rollout.phases is not None]
        return cls(
            cell.task,
            cell.condition,
            cell.seen,
            seeds=tuple(rollout.seed for rollout in rollouts),
            successes=tuple(rollout.first_success is not None for rollout in rollouts),
            last_successes=tuple(rollout.last_success for rollout in rollouts),
            returns=tuple(rollout.total_reward for rollout in rollouts),
            first_successes=tuple(rollout.first_success for rollout in rollouts),
            phases=tuple(watched) if watched else None,
            early_returns=tuple(rollout.early_reward for rollout in rollouts),
            judged=any(rollout.judged for rollout in rollouts),
            expert_steps=expert_steps,
        )


def evaluate_tasks(
    model: LLMDPD | Player | str | Path,
    cells: Sequence[Cell],
    *,
    examples: Mapping[str, Sequence[Episode]] | None = None,
    suite: Suite = METAWORLD_SUITE,
    texts: Mapping[str, str] | None = None,
    make_env: EnvMaker | None = None,
    n_episodes: int = 50,
    n_envs: int = 10,
    max_episode_steps: int | None = None,
    stop_at_success: bool = False,
    deterministic: bool = True,
    phases: bool = False,
    seed: int = 0,
    n_processes: int | None = None,
    progress_bar: bool = True,
    on_episodes: Callable[[int], object] | None = None,
    on_result: Callable[[CellResult], object] | None = None,
) -> list[CellResult]:
    """Play every cell.

    All conditions of a task get the same episode seeds, so that they can be compared pair by pair. The same
    seed gives the same numbers, with any number of processes.

    :param model: a model, a model file, or another `Player`; in several processes it acts on the CPU.
    :param cells: cells to play, see `make_cells`.
    :param examples: episodes by task, for conditions that show one and for the goals of cells with
        ``same_goal``. The evaluated episodes take turns with them; failed ones are left out.
    :param suite: says how the tasks are played and what is known of them: Meta-World's by default; a
        `GymnasiumSuite` for any registered environment.
    :param texts: sentences by task, in place of the suite's.
    :param make_env: makes a task's environment, in place of the suite's. The condition "expert" calls its
        ``expert_action(observation)``.
    :param n_episodes: episodes of a cell that does not set its own number.
    :param n_envs: episodes that run in lock step.
    :param max_episode_steps: steps after which an episode ends; by default the time limit of the environment,
        or else of the suite.
    :param stop_at_success: end an episode at its first success, which saves time and makes it the last step.
    :param deterministic: let the policy act without noise.
    :param phases: watch how far each episode comes (see `Phases`); for Meta-World's observations.
    :param seed: seed of the episodes and of the policy's noise.
    :param n_processes: number of processes; None for one a CPU core, 1 plays in this process.
    :param progress_bar: show a progress bar.
    :param on_episodes: called with the number of episodes that have just been played.
    :param on_result: called with the result of a cell as soon as all its episodes are played.
    :return: a result for each cell, in their order.
    :raises ValueError: on numbers below 1, without a cell or a time limit, when a sentence or an example that
        a cell needs is missing, or when a prompt or the environment does not fit the model.
    """
    fewest = min([n_episodes, *(cell.n_episodes for cell in cells if cell.n_episodes is not None)])
    numbers = {"n_episodes": fewest, "n_envs": n_envs, "max_episode_steps": max_episode_steps}
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"`{name}` must be at least 1, got {number}")
    if n_processes is not None and n_processes < 1:
        raise ValueError(f"`n_processes` must be at least 1, or None for one a CPU core, got {n_processes}")
    if not cells:
        raise ValueError("`cells` is empty: name at least one task and condition")
    examples, texts = examples or {}, texts or {}
    blocks_of_cells = []
    for cell in cells:
        n = cell.n_episodes or n_episodes
        prompts = prompts_of(cell.condition, examples, texts, n, cell.same_goal, suite)
        blocks_of_cells.append(list(_blocks(cell, prompts, goals_of(cell, examples, n), n_envs, seed)))
    blocks = list(chain.from_iterable(blocks_of_cells))
    player = _player(model)
    if first_prompts := [block.prompts[0] for block in blocks if not block.is_control]:
        # Once here: a prompt that does not fit is refused before any process starts, and the vector of a new
        # sentence is in the cache on disk when they start.
        player.make_act(first_prompts, noise_seed=seed, deterministic=deterministic)
    facts = _facts(cells, suite, make_env)
    check_playable(facts, player.model if isinstance(player, ModelPlayer) else None, suite.where_to_look)
    limit = max_episode_steps or time_limit(facts, suite.max_episode_steps)
    settings = PlaySettings(make_env or suite.make_env, limit, stop_at_success, deterministic, phases)
    played_so_far = _Played(cells, blocks_of_cells, suite)
    n_all = sum(len(block.seeds) for block in blocks)
    with (
        tqdm(total=n_all, desc="evaluating", unit="episode", disable=not progress_bar) as bar,
        # closed, so that an interruption ends the processes
        closing(play_blocks(blocks, player, settings, min(len(blocks), n_processes or n_cores()))) as played,
    ):
        for number, of_block in played:
            bar.update(len(of_block))
            if on_episodes is not None:
                on_episodes(len(of_block))
            result = played_so_far.add(number, of_block)
            if result is not None and on_result is not None:
                on_result(result)
    return played_so_far.results


class _Played:
    """Puts blocks, which come in any order, together to the results of their cells."""

    def __init__(self, cells: Sequence[Cell], blocks: Sequence[Sequence[Block]], suite: Suite) -> None:
        self._cells, self._suite = cells, suite
        places = [(cell, place) for cell, of_cell in enumerate(blocks) for place in range(len(of_cell))]
        self._places = places  # by the number of the block
        self._rollouts: list[dict[int, list[Rollout]]] = [{} for _ in cells]
        self._n_blocks = list(map(len, blocks))
        self._results: dict[int, CellResult] = {}

    def add(self, number: int, rollouts: list[Rollout]) -> CellResult | None:
        """Take the episodes of a block, and return the result of its cell when they were the last."""
        cell, place = self._places[number]
        of_cell = self._rollouts[cell]
        of_cell[place] = rollouts
        if len(of_cell) < self._n_blocks[cell]:
            return None
        in_order = chain.from_iterable(of_cell[place] for place in sorted(of_cell))
        played = self._cells[cell]
        self._results[cell] = CellResult.of(played, list(in_order), self._suite.expert_steps(played.task))
        return self._results[cell]

    @property
    def results(self) -> list[CellResult]:
        """The results of all cells, in their order."""
        return [self._results[cell] for cell in sorted(self._results)]


def _player(model: LLMDPD | Player | str | Path) -> Player:
    if isinstance(model, str | Path):
        model = LLMDPD.load(model, device="cpu")
    return ModelPlayer(model) if isinstance(model, LLMDPD) else model


def _facts(cells: Sequence[Cell], suite: Suite, make_env: EnvMaker | None) -> dict[str, EnvFacts]:
    facts: dict[str, EnvFacts] = {}
    for task in dict.fromkeys(cell.task for cell in cells):
        if make_env is None:
            facts[task] = suite.facts(task)
        else:
            with closing(make_env(task)) as env:
                facts[task] = facts_of(env)
    return facts


def prompts_of(
    condition: Condition,
    examples: Mapping[str, Sequence[Episode]],
    texts: Mapping[str, str],
    n_episodes: int,
    same_goal: bool = False,
    suite: Suite = METAWORLD_SUITE,
) -> list[Prompt]:
    """Prompt the policy by a condition, in each episode of a cell.

    :param condition: the condition.
    :param examples: episodes by task; shown in turns, failed ones left out.
    :param texts: sentences by task, in place of the suite's.
    :param n_episodes: episodes of the cell.
    :param same_goal: whether all examples of a prompt have one goal, see `Cell`.
    :param suite: knows sentences and phrasings; Meta-World by default.
    :return: one prompt for each episode.
    :raises ValueError: when a sentence or an example is missing.
    """
    told: Sequence[str | None] = [None]
    shown: Sequence[Sequence[Episode]] = [()]
    if (task := condition.text_of) is not None:
        own = [texts.get(task) or suite.text(task)] if not condition.paraphrased else []
        told = own or _paraphrases(suite, task, condition.style)
    if condition.trajectory_of is not None:
        why = f"the condition {condition.name!r} shows an example"
        successful = _successful(condition.trajectory_of, examples, why)
        starts = _of_other_goals(successful) if condition.other_goal else successful
        shown = _groups(successful, starts, condition, same_goal)
    return [Prompt(told[i % len(told)], trajectories=shown[i % len(shown)]) for i in range(n_episodes)]


def _paraphrases(suite: Suite, task: str, style: str) -> Sequence[str]:
    if found := suite.paraphrases(task, style):
        return found
    raise ValueError(
        f"the condition 'paraphrase' tells a phrasing of {task!r} that the model does not know, and there is"
        " none: give several in --task-texts (`new_texts` in Python), or leave it out"
    )


def _groups(
    episodes: Sequence[Episode], starts: Sequence[Episode], condition: Condition, same_goal: bool
) -> list[list[Episode]]:
    """List the examples of each prompt: those of the next prompt begin where these end, in a circle.

    Where all have one goal, a prompt begins with each of ``starts`` in turn, and the next of its goal follow.
    """
    n, task = condition.n_examples, condition.trajectory_of
    circles = [list(starts)]
    if same_goal:
        circles = []
        for first in starts:
            i = next(i for i, episode in enumerate(episodes) if episode is first)
            in_turn = [*episodes[i:], *episodes[:i]]
            circles.append([episode for episode in in_turn if episode.goal == first.goal])
    if (fewest := min(map(len, circles))) < n:
        of_goal = " of one goal" if same_goal else ""
        raise ValueError(
            f"the condition {condition.name!r} shows {n} examples of {task!r}{of_goal} at once, and there are"
            f" {fewest} that did not fail"
        )
    if same_goal:
        return [circle[:n] for circle in circles]
    circle = circles[0]
    return [[circle[(i * n + j) % len(circle)] for j in range(n)] for i in range(len(circle))]


def _successful(task: str, examples: Mapping[str, Sequence[Episode]], why: str) -> list[Episode]:
    if found := [episode for episode in examples.get(task, ()) if episode.success is not False]:
        return found
    has = f"`examples` has no successful one; it has tasks {sorted(examples)}"
    raise ValueError(f"{why} of {task!r}, and {has}")


def _of_other_goals(episodes: Sequence[Episode]) -> list[Episode]:
    """Replace each episode by the one of another goal that ends farthest away: a near one is nearly right."""
    ends = [_end(episode) for episode in episodes]
    if len(goals := {episode.goal for episode in episodes}) == 1:
        raise ValueError(
            f"the examples of {episodes[0].task!r} have one goal only, {goals.pop()!r}, so none of another"
            " can be shown: give more examples, or leave the task out where its goal is a part of its object"
        )
    others = []
    for episode, end in zip(episodes, ends, strict=True):
        of_others = [i for i, other in enumerate(episodes) if other.goal != episode.goal]
        distances = [float(np.linalg.norm(ends[i] - end)) for i in of_others]
        others.append(episodes[of_others[int(np.argmax(distances))]])
    return others


def _end(episode: Episode) -> np.ndarray:
    """Put the last observation into one vector."""
    parts = episode.observations if isinstance(episode.observations, dict) else {"": episode.observations}
    return np.concatenate([np.ravel(parts[key][-1]).astype(np.float64) for key in sorted(parts)])


def goals_of(cell: Cell, examples: Mapping[str, Sequence[Episode]], n_episodes: int) -> list[str | None]:
    """Choose the goal of each episode of a cell, in the turns of the examples; None where a seed decides."""
    if not cell.same_goal:
        return [None] * n_episodes
    episodes = _successful(cell.task, examples, "the scenes have the goals of the examples")
    if lacking := next((episode for episode in episodes if episode.goal is None), None):
        needed = "`same_goal` needs the goal of every example"
        raise ValueError(f"{needed}, and {lacking.source} has none: set Episode.goal")
    return [episodes[i % len(episodes)].goal for i in range(n_episodes)]


def _blocks(
    cell: Cell, prompts: Sequence[Prompt], goals: Sequence[str | None], n_envs: int, seed: int
) -> Iterator[Block]:
    """Cut a cell's episodes into blocks, the same for every number of processes."""

    def draw(*entropy: int) -> int:
        sequence = np.random.SeedSequence([_EVALUATION, seed, crc32(cell.task.encode()), *entropy])
        return int(sequence.generate_state(1)[0])

    n_episodes = len(prompts)
    seeds = [draw(episode) for episode in range(n_episodes)]
    for first in range(0, n_episodes, n_envs):
        rows = slice(first, first + n_envs)
        noise_seed = draw(first, crc32(cell.condition.name.encode()))
        columns = tuple(seeds[rows]), tuple(prompts[rows]), tuple(goals[rows])
        yield Block(cell.task, cell.condition, *columns, noise_seed)
