"""`Suite`, which says how the tasks of a domain are played; and the check that a model can act there."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.envs.dataset_env import check_spaces, same_actions
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD


@dataclass(frozen=True)
class EnvFacts:
    """Facts about the environment of a task that decide who can act in it, and how long.

    :param observation_space: space of its observations.
    :param action_space: space of its actions.
    :param max_episode_steps: its time limit in steps; None where it has none.
    :param has_expert: it has a method ``expert_action(observation)``.
    :param render_modes: names of the ways in which it draws itself.
    :param reads_task: the name of the task reaches it; False where its reset ignores the option.
    """

    observation_space: Space[Any]
    action_space: Space[Any]
    max_episode_steps: int | None = None
    has_expert: bool = False
    render_modes: tuple[str, ...] = ()
    reads_task: bool = True


class Suite(ABC):
    """Tasks of one domain: their environments, and what is known of them.

    A suite travels to other processes by pickle. A subclass makes environments, and says what else it knows.
    """

    max_episode_steps: int | None = None
    """Steps after which an episode ends where its environment has no time limit; None for no such number."""

    draws_with_mujoco: bool = False
    """True where a film cannot be drawn without one of MuJoCo's libraries."""

    styles: tuple[str, ...] = ()
    """Styles of phrasings that it has of some of its tasks, see `paraphrases`."""

    where_to_look: str = "was the model trained on data of another environment?"
    """End of the sentence that refuses a model of other spaces."""

    @abstractmethod
    def make_env(self, task: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Make an environment of a task.

        :param task: name of the task.
        :param render_mode: None, or ``"rgb_array"`` to draw it.
        :raises ValueError: on an unknown task.
        """

    def facts(self, task: str) -> EnvFacts:
        """Find out about the environment of a task; makes one, and closes it."""
        with closing(self.make_env(task)) as env:
            return facts_of(env)

    def text(self, task: str) -> str:
        """Look up the sentence of a task; a ValueError where there is none."""
        raise ValueError(f"there is no sentence for the task {task!r}: give one in `texts` (--task-texts)")

    def paraphrases(self, task: str, style: str = "") -> Sequence[str]:
        """Look up phrasings of a task's sentence that the model was not trained on; none by default.

        :param task: name of the task.
        :param style: name of a kind of them, as ``"terse"``; empty for those of no kind.
        """
        return ()

    def opposite(self, task: str) -> str | None:
        """Name the task that asks for the opposite; None by default."""
        return None

    def goal_needs_telling(self, task: str) -> bool:
        """Tell whether a goal that observations hide can only be told by an example; by default it can."""
        return True

    def expert_steps(self, task: str) -> int | None:
        """Say how many steps a task takes its expert; None, as by default, where nobody measured."""
        return None


def facts_of(env: gym.Env[Any, Any]) -> EnvFacts:
    """Read the facts off an environment."""
    return EnvFacts(
        env.observation_space,
        env.action_space,
        None if env.spec is None else env.spec.max_episode_steps,
        env.has_wrapper_attr("expert_action"),
        tuple((env.metadata or {}).get("render_modes") or ()),
    )


def check_playable(facts: Mapping[str, EnvFacts], model: LLMDPD | None, where_to_look: str) -> None:
    """Refuse tasks that a model cannot be evaluated on, before anything is recorded or played.

    Bounds of the model's actions may be narrower than the environment's: some data record none, and they are
    measured then.

    :param facts: facts about the environments by task.
    :param model: the model; None where somebody else acts.
    :param where_to_look: end of the sentence about spaces that differ.
    :raises ValueError: when spaces differ, or the environments ignore which of several tasks is meant.
    """
    for task, of_task in facts.items():
        if model is not None:
            what = f"the environment of {task!r}"
            check_spaces(what, of_task, model, where_to_look, actions_fit=_within)
        if len(facts) > 1 and not of_task.reads_task:
            raise ValueError(
                f"the environment ignores `options` of its reset, and {len(facts)} tasks are to be played:"
                ' let it read `options["task"]`, or write {task} into its id or into one of its arguments'
            )


def _within(found: Space[Any], of_model: Space[Any]) -> bool:
    """Tell whether all actions of a model are ones of an environment."""
    if not (isinstance(found, spaces.Box) and isinstance(of_model, spaces.Box)):
        return same_actions(found, of_model)
    if found.shape != of_model.shape or found.dtype.kind != of_model.dtype.kind:
        return False
    low, high = (bound.astype(np.float64) for bound in (found.low, found.high))
    room = 1e-5 * np.where(found.is_bounded(), high - low, 1.0)  # of rounding
    return bool(np.all(of_model.low >= low - room) and np.all(of_model.high <= high + room))


def time_limit(facts: Mapping[str, EnvFacts], otherwise: int | None) -> int:
    """Find the number of steps after which the episodes of all tasks have ended.

    :param facts: facts about the environments by task.
    :param otherwise: limit of environments that have none.
    :raises ValueError: when an environment has none, and there is no other.
    """
    limits = {task: of_task.max_episode_steps or otherwise for task, of_task in facts.items()}
    if endless := [task for task, limit in limits.items() if limit is None]:
        raise ValueError(
            f"the environment of {endless[0]!r} has no time limit: say after how many steps an episode ends,"
            " by `max_episode_steps` (--max-steps), or register it with one"
        )
    return max(limit for limit in limits.values() if limit is not None)
