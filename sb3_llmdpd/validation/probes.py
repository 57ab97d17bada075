"""Chooses once what a model is asked about held-out episodes: states, and prompts for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_llmdpd.data.episodes import Episode, by_task
from sb3_llmdpd.prompts.prompt import Prompt, window_steps
from sb3_llmdpd.validation.held_out import SEED, HeldOut

PROMPTS = ("both", "sentence", "example", "none", "wrong")
"""Prompts that are compared: the task's own sentence and example, one of them, nothing, those of another."""

N_EPISODES, N_STEPS = 5, 24
"""Held-out episodes of a task that are measured, and states of each; a number of three equal parts."""


@dataclass(frozen=True, eq=False)
class Probe:
    """States of one held-out episode, and the prompts under which a model is asked to act in them.

    :param episode: the episode.
    :param seen: True if its task is learned from; None if unknown.
    :param is_good: False for a failed episode beside others of its task. Nobody should repeat its actions:
        it tells only whether the critic knows its value.
    :param steps: (`N_STEPS`,), indices spread over the episode up to shortly after its first success.
    :param prompts: prompts by the names of `PROMPTS`; those that there is nothing for are left out.
    """

    episode: Episode
    seen: bool | None
    is_good: bool
    steps: np.ndarray
    prompts: Mapping[str, Prompt]


def make_probes(
    held_out: HeldOut,
    n_episodes: int = N_EPISODES,
    *,
    reads_texts: bool = True,
    same_goal: bool = False,
    seed: int = SEED,
) -> list[Probe]:
    """Choose states and prompts, the same for every model that is asked.

    The example is another episode of the task, one that did not fail if there is one: of the training part,
    or else a held-out one. The wrong prompt is that of the next task in a circle.

    :param held_out: parts of the data.
    :param n_episodes: good episodes of a task at most; and at most as many failed ones.
    :param reads_texts: False for models without text, which no sentence is shown.
    :param same_goal: True if the example has the goal of the episode.
    :param seed: seed of the choice of examples and wrong tasks.
    :return: the probes, task after task.
    :raises ValueError: when ``n_episodes`` is less than 1.
    """
    if n_episodes < 1:
        raise ValueError(f"at least one episode of a task is needed to measure on, got {n_episodes}")
    shelf = _Shelf(held_out, reads_texts, same_goal, seed)
    probes = []
    for task in held_out.validation.tasks:
        good, failed = by_outcome(shelf.held_out[task])
        for episode in (*good[:n_episodes], *failed[:n_episodes]):
            steps = window_steps(np.array([episode.prompt_length]), N_STEPS)[0]
            prompts = shelf.prompts(episode)
            probes.append(Probe(episode, held_out.is_seen(task), episode in good, steps, prompts))
    return probes


def by_outcome(episodes: Sequence[Episode]) -> tuple[list[Episode], list[Episode]]:
    """Separate failed episodes from others; where all have failed, they are what there is to repeat."""
    good = [episode for episode in episodes if episode.success is not False]
    failed = [episode for episode in episodes if episode.success is False]
    return (good, failed) if good else (failed, [])


class _Shelf:
    """Sentences and examples by task.

    :param held_out: parts of the data.
    :param reads_texts: see `make_probes`, as the other two.
    """

    def __init__(self, held_out: HeldOut, reads_texts: bool, same_goal: bool, seed: int) -> None:
        self.reads_texts, self.same_goal = reads_texts, same_goal
        self.training = by_task(held_out.training.episodes)
        self.held_out = by_task(held_out.validation.episodes)
        tasks = sorted(self.held_out)
        if len(tasks) == 1:  # then the wrong task is one that is learned from
            tasks = sorted({*tasks, *self.training})
        self.rng = np.random.default_rng(seed)
        circle = [tasks[number] for number in self.rng.permutation(len(tasks))]
        self.next_task = dict(zip(circle, [*circle[1:], circle[0]], strict=True))

    def prompts(self, episode: Episode) -> dict[str, Prompt]:
        """Make the prompts of an episode by their names."""
        text, example = self._sentence(episode.task), self._example(episode.task, episode)
        made: dict[str, Prompt] = {"none": Prompt()}
        if text is not None:
            made["sentence"] = Prompt(text)
        if example is not None:
            made["example"] = Prompt(trajectories=(example,))
        if text is not None and example is not None:
            made["both"] = Prompt(text, trajectories=(example,))
        other = self.next_task[episode.task]
        if other != episode.task:
            wrong_text, wrong_example = self._sentence(other), self._example(other, None)
            shown = () if wrong_example is None else (wrong_example,)
            if wrong_text is not None or shown:
                made["wrong"] = Prompt(wrong_text, trajectories=shown)
        return {name: made[name] for name in PROMPTS if name in made}

    def _sentence(self, task: str) -> str | None:
        if not self.reads_texts:
            return None
        episodes = [*self.training.get(task, ()), *self.held_out.get(task, ())]
        return next((episode.task_texts[0] for episode in episodes if episode.task_texts), None)

    def _example(self, task: str, of: Episode | None) -> Episode | None:
        """Draw an example of a task, which is not the episode itself."""
        for episodes in (self.training.get(task, ()), self.held_out.get(task, ())):
            others = [each for each in episodes if each is not of]
            if self.same_goal and of is not None:
                others = [each for each in others if each.goal == of.goal]
            others, _ = by_outcome(others)
            if others:
                return others[int(self.rng.integers(len(others)))]
        return None
