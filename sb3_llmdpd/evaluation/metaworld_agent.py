"""`MetaWorldAgent`, by which Meta-World's own evaluation asks a prompted model for actions."""

import gymnasium as gym
import numpy as np

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.metaworld.tasks import task_info
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.prompter import Examples, PromptLike, TaskText

VectorEnv = gym.vector.SyncVectorEnv | gym.vector.AsyncVectorEnv


class MetaWorldAgent:
    """Agent for ``metaworld.evaluation.evaluation(agent, envs)``.

    :param model: the model that acts.
    :param task_text: a sentence for all sub-environments, or one for each: see `task_texts_of`.
    :param trajectory: an example for all sub-environments, or a list with one for each.
    :param prompt: a `Prompt` or a list of them, instead of both. Without any of the three the model's task
        counts.
    :param deterministic: let the policy act without noise.
    """

    def __init__(
        self,
        model: LLMDPD,
        task_text: TaskText = None,
        trajectory: Examples = None,
        prompt: PromptLike = None,
        deterministic: bool = True,
    ) -> None:
        says_nothing = task_text is None and trajectory is None and prompt is None
        self._acting = model if says_nothing else model.prompted(task_text, trajectory, prompt)
        self._deterministic = deterministic
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
        actions, _ = self._acting.predict(observations, deterministic=self._deterministic)
        return actions.astype(np.float64)

    def reset(self, env_mask: np.ndarray) -> None:
        """Do nothing where the mask (n,) is True: the policy has no memory of an episode."""


def task_texts_of(envs: VectorEnv) -> list[str]:
    """Look up the canonical sentence of each sub-environment's task.

    :param envs: Meta-World's own, such as ``gymnasium.make_vec("Meta-World/MT10", vector_strategy="sync")``.
    :return: n sentences, in the order of the sub-environments.
    """
    known = require("metaworld.env_dict", "metaworld").ALL_V3_ENVIRONMENTS
    names = {simulator.__name__: name for name, simulator in known.items()}
    return [task_info(names[class_name]).text for class_name in envs.get_attr("task_name")]
