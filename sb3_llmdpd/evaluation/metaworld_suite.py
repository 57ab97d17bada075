"""`MetaWorldSuite`, the 50 tasks of Meta-World as tasks to evaluate on."""

from collections.abc import Sequence
from dataclasses import dataclass

from sb3_llmdpd.data.metaworld.envs import ACTION_SPACE, HORIZON, OBSERVATION_SPACE, MetaWorldEnv
from sb3_llmdpd.data.metaworld.scenes import EXPERT_STEPS
from sb3_llmdpd.data.metaworld.sentences import STYLES
from sb3_llmdpd.data.metaworld.tasks import TASKS, task_info
from sb3_llmdpd.data.metaworld.told_goals import REARRANGED
from sb3_llmdpd.evaluation.suite import EnvFacts, Suite


@dataclass(frozen=True)
class MetaWorldSuite(Suite):
    """The tasks of Meta-World, with their canonical sentences.

    :param goal_visible: show the goal's position in the observations.
    """

    goal_visible: bool = True

    max_episode_steps = HORIZON
    draws_with_mujoco = True
    styles = (*STYLES, REARRANGED)
    where_to_look = (
        "it was trained on data of another robot or simulator, so say which environment to play: --env, or"
        " `suite=GymnasiumSuite(...)` in Python"
    )

    def make_env(self, task: str, render_mode: str | None = None) -> MetaWorldEnv:
        """See `Suite.make_env`."""
        return MetaWorldEnv(task, goal_visible=self.goal_visible, render_mode=render_mode)

    def facts(self, task: str) -> EnvFacts:
        """See `Suite.facts`; they are the same for all tasks, and need no simulator."""
        return EnvFacts(OBSERVATION_SPACE, ACTION_SPACE, HORIZON, True, ("rgb_array",))

    def text(self, task: str) -> str:
        """Look up the canonical sentence of a task; a ValueError names the tasks near an unknown one."""
        return task_info(task).text

    def paraphrases(self, task: str, style: str = "") -> Sequence[str]:
        """See `Suite.paraphrases`: phrasings that no data set holds."""
        info = task_info(task)
        return info.wordings.get(style, ()) if style else info.paraphrases

    def opposite(self, task: str) -> str | None:
        """See `Suite.opposite`."""
        return task_info(task).opposite

    def goal_needs_telling(self, task: str) -> bool:
        """See `Suite.goal_needs_telling`; a goal that is a part of its object needs no telling."""
        return task not in TASKS or TASKS[task].goal_needs_telling

    def expert_steps(self, task: str) -> int | None:
        """See `Suite.expert_steps`."""
        return EXPERT_STEPS.get(task)


METAWORLD_SUITE = MetaWorldSuite()
"""Meta-World with its goals in the observations."""
