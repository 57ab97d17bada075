"""`MetaWorldAgent`, by which Meta-World's own evaluation asks a prompted model for actions."""

import gymnasium as gym
import numpy as np

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.metaworld.tasks import task_info
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.prompter import Example, Examples, PromptLike, TaskText

VectorEnv = gym.vector.SyncVectorEnv | gym.vector.AsyncVectorEnv


class MetaWorldAgent:
    """Agent for ``metaworld.evaluation.evaluation(agent, envs)``.

    :param model: the model that acts.
    :param task_text: a sentence for all sub-environments, or one for each: see `task_texts_of`.
    :param trajectory: an example for all sub-environments, or a list with one for each.
    :param prompt: a `Prompt` or a list of them, instead of the others. Without any of them the model's task
        counts.
    :param deterministic: let the policy act without noise.
    :param trajectories: several examples, as of `LLMDPD.predict`.
    """

    def __init__(
        self,
        model: LLMDPD,
        task_text: TaskText = None,
        trajectory: Example = None,
        prompt: PromptLike = None,
        deterministic: bool = True,
        trajectories: Examples = None,
    ) -> None:
        task = (task_text, trajectory, prompt, trajectories)
        says_nothing = all(part is None for part in task)
        self._acting = model if says_nothing else model.prompted(*task)
        self._deterministic = deterministic
        self._state: tuple[np.ndarray, ...] | None = None
        self._begins: np.ndarray | None = None
        self._shape = model.observation_space.shape

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        """Act.

        :param observations: (n, 39), one row for each sub-environment.
        :return: actions, (n, 4), float64.
        :raises ValueError: when a row is longer, or the prompts are neither one nor one per row.
        """
        if observations.shape[1:] != self._shape:
            raise ValueError(
                f"the environments show observations of shape {observations.shape[1:]}, and the model acts on"
                f" {self._shape}: make them without `use_one_hot` and `recurrent_info_in_obs`; a sentence or"
                " an example says what the task is"
            )
        begins = np.full(len(observations), self._state is None) if self._begins is None else self._begins
        actions, self._state = self._acting.predict(
            observations, self._state, begins, deterministic=self._deterministic
        )
        self._begins = None
        return actions.astype(np.float64)

    def reset(self, env_mask: np.ndarray) -> None:
        """Note that an episode begins where the mask (n,) is True, for examples that are moved into it."""
        self._begins = np.array(env_mask, bool)
        if self._begins.all():  # another evaluation may have other sub-environments
            self._state = None


def task_texts_of(envs: VectorEnv) -> list[str]:
    """Look up the canonical sentence of each sub-environment's task.

    :param envs: Meta-World's own, such as ``gymnasium.make_vec("Meta-World/MT10", vector_strategy="sync")``.
    :return: n sentences, in the order of the sub-environments.
    """
    known = require("metaworld.env_dict", "metaworld").ALL_V3_ENVIRONMENTS
    names = {simulator.__name__: name for name, simulator in known.items()}
    return [task_info(names[class_name]).text for class_name in envs.get_attr("task_name")]
