"""The settings of the benchmark on Meta-World: tasks, data, and the budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from sb3_llmdpd.benchmarks.common.variants import NUMBERS, merged
from sb3_llmdpd.benchmarks.metaworld.splits import TOLD_SPLITS, tasks_of_split
from sb3_llmdpd.benchmarks.quickstart import QuickstartSettings
from sb3_llmdpd.data.metaworld.envs import HORIZON
from sb3_llmdpd.data.metaworld.tasks import task_info
from sb3_llmdpd.evaluation.conditions import CONTROLS_OF_PROMPTS, Condition, split_number

GOALS = ("visible", "hidden", "told")
"""Ways to know the goal: observations show it, only an example of the same goal does, or the sentence."""
DATA = {"expert": (0.1,), "mixed": (0.0, 0.25, 0.5, 1.0, 100.0)}
"""Standard deviations of the action noise by the name of the data. The last one drowns the expert: its
actions are random, each entry at either end of its range."""

EPISODES_PER_GOAL = 2
"""Episodes that share a goal where it is hidden: an example must be another episode of the same goal."""

EXAMPLES_PER_GOAL = 5
"""Examples of each goal where it is hidden, to show several of them at once."""

SEEN_EPISODES = {"visible": 10, "hidden": 50, "told": 10}
"""Episodes of a seen task by the goal: 45 tasks have a visible one, hardly ten one that an example must tell,
and 66 one that words tell."""

_N_EXAMPLES = {"visible": max(NUMBERS), "hidden": max(NUMBERS), "told": EXAMPLES_PER_GOAL}
"""Examples of a task by the goal; where words tell it there are twice as many tasks."""

_DECIDING = (("hidden", "wrong-trajectory"), ("told", "paraphrase"), ("told", "antonym"))
"""Controls that say as much of seen tasks, by the goal: the example of another goal, and the words of one."""

_POSITIONS = {"features_extractor_kwargs": {"positions": True}}
HIDDEN_GOAL_MODEL = {"policy_kwargs": {"features_extractor_class": "metaworld_relative", **_POSITIONS}}
"""Arguments of `LLMDPD` where observations hide the goal: only positions say where the example's goal is."""
TOLD_GOAL_MODEL = {"text_encoder": "minilm?pooling=first-last"}
"""Arguments of `LLMDPD` where words say the goal: the last layer alone keeps too little of which they are."""


@dataclass(frozen=True)
class MetaworldSettings:
    """Settings that all trainings share; the defaults are the reference budget.

    :param split: name of the split, for the reader.
    :param train_tasks: tasks that the models learn from.
    :param unseen_tasks: tasks that they never see but are evaluated on.
    :param goal: ``"visible"``, ``"hidden"`` or ``"told"``, see `GOALS`; the last with one of `TOLD_SPLITS`.
    :param data: ``"expert"`` or ``"mixed"``, see `DATA`.
    :param n_episodes: training episodes of each task.
    :param n_steps: gradient steps.
    :param n_unseen_episodes: evaluation episodes of an unseen task.
    :param n_seen_episodes: evaluation episodes of a seen task.
    :param n_examples: episodes of each task to prompt with, apart from training; see `n_examples_of`.
    :param max_episode_steps: steps of an evaluated episode.
    :param stop_at_success: whether it also ends at its first success.
    :param data_seed: seed of training data and examples, which all seeds of the trainings share.
    :param learning_rate: learning rate at the beginning; it falls to zero along half a cosine.
    :param model: further arguments of `LLMDPD`, which variants change.
    :param log_interval: gradient steps between two points of a learning curve.
    :raises ValueError: on unknown names, and numbers that make no benchmark.
    """

    split: str
    train_tasks: tuple[str, ...]
    unseen_tasks: tuple[str, ...]
    goal: str = "visible"
    data: str = "expert"
    n_episodes: int = 20
    n_steps: int = 10_000
    n_unseen_episodes: int = 50
    n_seen_episodes: int = SEEN_EPISODES["visible"]
    n_examples: int = max(NUMBERS)
    max_episode_steps: int = HORIZON
    stop_at_success: bool = False
    data_seed: int = 0
    learning_rate: float = QuickstartSettings.learning_rate
    model: Mapping[str, Any] = field(default_factory=lambda: QuickstartSettings().model)
    log_interval: int = QuickstartSettings.log_interval

    def __post_init__(self) -> None:
        for name, value, known in (("goal", self.goal, GOALS), ("data", self.data, tuple(DATA))):
            if value not in known:
                raise ValueError(f"`{name}` must be {' or '.join(map(repr, known))}, got {value!r}")
        played = ("n_unseen_episodes", "n_seen_episodes", "n_examples", "max_episode_steps")
        for name in ("n_episodes", "n_steps", *played):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if (self.goal == "told") != (self.split in TOLD_SPLITS):
            raise ValueError(
                f"a goal that is told goes with the split {' or '.join(map(repr, TOLD_SPLITS))}, and no other"
                f" does; got the goal {self.goal!r} and the split {self.split!r}"
            )
        if self.goals_differ and self.n_episodes % EPISODES_PER_GOAL:
            raise ValueError(
                f"`n_episodes` must be a multiple of {EPISODES_PER_GOAL} where the goal is hidden, since that"
                f" many episodes share a goal, got {self.n_episodes}"
            )

    @classmethod
    def of_split(cls, split: str, unseen: Sequence[str] | None = None, **settings: Any) -> Self:
        """Make settings with the tasks of a split; those that are not given suit the goal.

        :param split: see `tasks_of_split`.
        :param unseen: see `tasks_of_split`.
        :param settings: settings that differ from the defaults.
        :raises ValueError: see `tasks_of_split` and the class.
        """
        train, held_out = tasks_of_split(split, unseen)
        made = cls(split, train, held_out, **settings)
        suited: dict[str, Any] = {"model": _suited(made.model, made.goal)}
        suited |= {"n_seen_episodes": SEEN_EPISODES[made.goal], "n_examples": _N_EXAMPLES[made.goal]}
        return replace(made, **{name: value for name, value in suited.items() if name not in settings})

    def smoke(self) -> Self:
        """Return the same settings at a size that takes seconds and learns nothing."""
        small = QuickstartSettings.smoke()
        first = [task for task in small.train_tasks if task in self.train_tasks]
        return replace(
            self,
            train_tasks=tuple(dict.fromkeys([*first, *self.train_tasks]))[:2],
            unseen_tasks=self.unseen_tasks[:1],
            n_episodes=small.n_episodes,
            n_steps=small.n_steps,
            n_unseen_episodes=small.n_unseen_episodes,
            n_seen_episodes=small.n_seen_episodes,
            n_examples=5,  # as many as a condition shows, and of several goals, so that one can be wrong
            max_episode_steps=small.max_episode_steps,
            model=_suited(small.model, self.goal),
            log_interval=small.log_interval,
        )

    def n_examples_of(self, n_episodes: int) -> int:
        """Count the examples of a task: where they decide the goals, several for each evaluation episode."""
        return EXAMPLES_PER_GOAL * n_episodes if self.goals_differ else self.n_examples

    def can_show(self, condition: str) -> bool:
        """Tell whether there are enough examples for a condition: with a hidden goal, of one goal.

        :param condition: name of the condition.
        """
        most = EXAMPLES_PER_GOAL if self.goals_differ else self.n_examples
        return split_number(condition)[1] <= most

    def n_seen_episodes_under(self, condition: Condition) -> int:
        """Count the evaluation episodes of a seen task: a fifth under controls, which are for unseen tasks.

        Some are for both, see `_DECIDING`.

        :param condition: the condition.
        :return: at least 1.
        """
        name, _ = split_number(condition.name)
        decides = (self.goal, name) in _DECIDING
        is_control = name in ("wrong", *CONTROLS_OF_PROMPTS)
        return max(1, self.n_seen_episodes // 5) if is_control and not decides else self.n_seen_episodes

    @property
    def seen_tasks(self) -> tuple[str, ...]:
        """Training tasks that are evaluated: all, or with a hidden goal, those in which it has to be told.

        In the others it is known, hidden or not (`TaskInfo.goal_needs_telling`).
        """
        return tuple(task for task in self.train_tasks if not self._knows_goal(task))

    @property
    def goal_known_tasks(self) -> tuple[str, ...]:
        """Unseen tasks whose goal is known though it is hidden: they are evaluated, and left out of means."""
        return tuple(task for task in self.unseen_tasks if self._knows_goal(task))

    @property
    def goal_visible(self) -> bool:
        """Tell whether the observations hold the goal."""
        return self.goal == "visible"

    @property
    def goals_differ(self) -> bool:
        """Tell whether the scenes of a task have goals that nothing but an example of the same goal tells."""
        return self.goal == "hidden"

    def _knows_goal(self, task: str) -> bool:
        return not (self.goal_visible or task_info(task).goal_needs_telling)


def _suited(model: Mapping[str, Any], goal: str) -> Mapping[str, Any]:
    """Change arguments of `LLMDPD` to suit the goal."""
    suited = merged(model, HIDDEN_GOAL_MODEL) if goal in ("hidden", "told") else model
    return merged(suited, TOLD_GOAL_MODEL) if goal == "told" else suited
