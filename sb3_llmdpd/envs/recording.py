"""Records what a policy does in an environment as episodes to learn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space
from stable_baselines3.common.type_aliases import PolicyPredictor

from sb3_llmdpd.data.checks import check_bounded, check_texts
from sb3_llmdpd.data.episodes import Episode, fitted
from sb3_llmdpd.data.metadata import success_of_step
from sb3_llmdpd.data.minari_writer import write_minari
from sb3_llmdpd.data.spaces import check_flat
from sb3_llmdpd.envs.task_text_wrapper import plain_observation_space, split_observation

_SENTENCE_ATTRIBUTES = ("task_description", "task")
"""Attributes in which environments keep their sentence, best first."""


class RecordEpisodes(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Records what passes through `reset` and `step` as episodes: of a policy, a script or a person.

    An episode that `reset` or `close` leaves before its end is kept as one that was cut off.
    ``info["success"]`` or ``info["is_success"]`` becomes its success (see `SUCCESS_KEYS`); NaN and what is
    below 0 say nothing. A string in ``info["goal_id"]`` becomes its goal. Actions outside the action space
    are clipped before the environment gets them, as Stable-Baselines3 does, so that the record holds what was
    done. Observations are recorded in the type of the observation space, floats as float32. The vector that a
    `TaskTextWrapper` puts into the observation is left out: the sentence is recorded instead.

    Wrap each of several vectorised environments: ``vec_env.get_attr("episodes")`` then holds a list for each.

    :param env: environment whose episodes end by themselves or at a time limit.
    :param task: identifier of the task. By default the environment's id, or its class where it has none.
        Where the environment itself says the sentence, which may change with every episode, it is
        ``"id: sentence"``.
    :param task_text: sentence of the task, or several phrasings. By default the environment's own, read when
        an episode takes its first step: its attribute ``task_description``, else ``task``, when it is a
        string.
    :raises ValueError: when a policy could not learn in these spaces, or a name or a sentence is empty.
    :raises TypeError: when this is no single gymnasium environment, or a sentence is no string.
    """

    def __init__(
        self, env: gym.Env[Any, Any], *, task: str | None = None, task_text: str | Sequence[str] | None = None
    ) -> None:
        if not isinstance(env, gym.Env):
            raise TypeError(
                f"`env` must be one gymnasium environment, got {type(env).__name__}: of vectorised"
                " environments wrap each, as with make_vec_env(..., wrapper_class=RecordEpisodes)"
            )
        gym.utils.RecordConstructorArgs.__init__(self, _disable_deepcopy=True, task=task, task_text=task_text)
        super().__init__(env)
        self._name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        self._bounds = check_bounded(self.action_space, f"{self._name}: the action space")
        self.recorded_space: Space[Any] = plain_observation_space(self.observation_space)
        """Space of the observations in `episodes`."""
        check_flat(self._name, self.recorded_space)
        if task is not None and not task.strip():
            raise ValueError("`task` is empty; give the task's name, or None for the environment's")
        self._task = None if task is None else task.strip()
        self._task_texts = None if task_text is None else check_texts(task_text, "`task_text`")
        self.episodes: list[Episode] = []
        """Finished episodes in order."""
        self._steps: _Steps | None = None
        self._n_finished = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Keep the episode that has begun, and start another.

        :raises ValueError: when the episode that ends here holds NaN, or what its spaces do not.
        """
        self._finish(terminated=False)
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = _Steps(self._plain(observation), info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step.

        :param action: environment units; clipped to the action space.
        :return: the environment's answer.
        :raises ResetNeeded: when no episode was started.
        :raises ValueError: when the episode that ends here holds NaN, or what its spaces do not.
        """
        if self._steps is None:
            raise gym.error.ResetNeeded(f"{self._name}: no episode has begun; call reset() before step()")
        # not at the reset, after which a vectorised environment is told its next task
        if not self._steps.actions:
            self._steps.own_sentence = self._own_sentence()
        action = np.clip(np.asarray(action, self._bounds.dtype), self._bounds.low, self._bounds.high)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps.add(action, self._plain(observation), float(reward), info)
        if terminated or truncated:
            self._finish(terminated=bool(terminated))
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Keep the episode that has begun, and close the environment.

        :raises ValueError: when it holds NaN, or what its spaces do not.
        """
        try:
            self._finish(terminated=False)
        finally:
            super().close()

    def write(self, dataset_id: str, root: str | Path | None = None, **about: Any) -> Path:
        """Write the finished episodes as a Minari data set, and forget them.

        :param dataset_id: id of the data set, ``"namespace/name-v0"``.
        :param root: folder of Minari data sets.
        :param about: further arguments of `write_minari`, such as ``description``.
        :return: folder of the data set.
        :raises ValueError: as `write_minari`; the episodes are kept then.
        :raises TypeError: as `write_minari`.
        """
        path = write_minari(dataset_id, self.episodes, self.recorded_space, self._bounds, root=root, **about)
        self.episodes.clear()
        return path

    def _finish(self, terminated: bool) -> None:
        steps, self._steps = self._steps, None  # also when the episode is refused: the next may be sound
        if steps is None or not steps.actions:
            return
        name, texts = self._name, self._task_texts
        source = f"{name}, recorded episode {self._n_finished}"
        self._n_finished += 1
        if texts is None:
            texts = () if steps.own_sentence is None else (steps.own_sentence,)
            name = ": ".join([name, *texts])
        episode = Episode(
            steps.stacked_observations(),
            np.stack(steps.actions),
            np.array(steps.rewards),
            task=self._task or name,
            task_texts=texts,
            terminated=terminated,
            success=any(steps.successes.values()) if steps.successes else None,
            first_success=next((step for step, success in steps.successes.items() if success), None),
            goal=steps.goal,
            source=source,
        )
        self.episodes.append(fitted(episode, self.recorded_space, self._bounds))

    def _plain(self, observation: Any) -> Any:
        return split_observation(observation, self.recorded_space)[0]

    def _own_sentence(self) -> str | None:
        for name in _SENTENCE_ATTRIBUTES:
            sentence = self.env.get_wrapper_attr(name) if self.env.has_wrapper_attr(name) else None
            if isinstance(sentence, str) and sentence.strip():
                return sentence.strip()
        return None


def record_policy(
    model: PolicyPredictor,
    env: gym.Env[Any, Any],
    n_episodes: int,
    *,
    seed: int = 0,
    deterministic: bool = True,
    task: str | None = None,
    task_text: str | Sequence[str] | None = None,
) -> list[Episode]:
    """Let a policy act, and record it.

    :param model: an SB3 model, ``model.prompted(...)``, or anything else that has their `predict`.
    :param env: environment as for `RecordEpisodes`, in which nobody else is in the middle of an episode.
    :param n_episodes: number of episodes, at least one.
    :param seed: seed of the environment's first reset. A policy that is not deterministic draws from its own
        generator.
    :param deterministic: leave exploration out; episodes then differ less.
    :param task: identifier of the task, as for `RecordEpisodes`.
    :param task_text: sentence of the task, as for `RecordEpisodes`.
    :return: the episodes in order. The environment stays open.
    :raises ValueError: when ``n_episodes`` is below 1, and as `RecordEpisodes`.
    :raises TypeError: as `RecordEpisodes`.
    """
    if n_episodes < 1:
        raise ValueError(f"`n_episodes` must be at least 1, got {n_episodes}")
    recorder = RecordEpisodes(env, task=task, task_text=task_text)
    for number in range(n_episodes):
        observation, _ = recorder.reset(seed=seed if number == 0 else None)
        state, begins, ended = None, True, False
        while not ended:
            action, state = model.predict(
                observation, state=state, episode_start=np.array([begins]), deterministic=deterministic
            )
            observation, _, terminated, truncated, _ = recorder.step(action)
            begins, ended = False, terminated or truncated
    return recorder.episodes


class _Steps:
    """Steps of an episode that has begun."""

    def __init__(self, observation: Any, info: dict[str, Any]) -> None:
        self.observations = [_copied(observation)]
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.successes: dict[int, bool] = {}
        """By the index of the step, where the environment says something about it."""
        self.goal: str | None = None
        self.own_sentence: str | None = None
        """Sentence that the environment says of itself."""
        self._look_for_goal(info)

    def add(self, action: np.ndarray, observation: Any, reward: float, info: dict[str, Any]) -> None:
        """Add an action in environment units, and the observation, raw reward and info that it led to."""
        success = success_of_step(info)
        if success is not None:
            self.successes[len(self.actions)] = success
        self.actions.append(action.copy())
        self.observations.append(_copied(observation))
        self.rewards.append(reward)
        self._look_for_goal(info)

    def stacked_observations(self) -> Any:
        """Stack the observations: (T + 1, *obs_shape), or a dict of such arrays."""
        first = self.observations[0]
        if isinstance(first, dict):
            return {key: np.stack([row[key] for row in self.observations]) for key in first}
        return np.stack(self.observations)

    def _look_for_goal(self, info: dict[str, Any]) -> None:
        goal = info.get("goal_id")
        if self.goal is None and isinstance(goal, str) and goal.strip():
            self.goal = goal.strip()


def _copied(observation: Any) -> Any:
    """Copy an observation, since some environments hand out the same array at every step."""
    if isinstance(observation, dict):
        return {key: np.array(value) for key, value in observation.items()}
    return np.array(observation)
