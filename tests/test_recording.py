"""Recording in an environment: the episodes, their names, and SB3 around it."""

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from factories import model_of
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.data.memory_mapping import memory_mapped
from sb3_llmdpd.data.metadata import SUCCESS_KEYS
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.envs.recording import RecordEpisodes, record_policy
from sb3_llmdpd.envs.task_text_wrapper import TaskTextWrapper

HALF = np.array([0.5], np.float32)


class Counter(gym.Env[Any, Any]):
    """Counts its steps, in one array that it hands out again and again; the action is the reward.

    :param ends_at: step that ends the task itself, 0 for none.
    :param infos: info of each step from the first on; empty ones follow.
    :param reset_info: info of each reset.
    :param attributes: further attributes.
    """

    observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, ends_at: int = 0, infos: Any = (), reset_info: Any = None, **attributes: Any) -> None:
        self.ends_at, self.infos, self.reset_info = ends_at, infos, reset_info or {}
        vars(self).update(attributes)
        self.seen = np.zeros(2, np.float32)
        self.got: list[Any] = []
        self.n_resets = self.n_steps = 0

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_resets, self.n_steps = self.n_resets + 1, 0
        return self._observation(), self.reset_info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        info = self.infos[self.n_steps] if self.n_steps < len(self.infos) else {}
        self.n_steps += 1
        self.got.append(action)
        return self._observation(), float(action[0]), self.n_steps == self.ends_at, False, info

    def _observation(self) -> Any:
        self.seen[:] = self.n_resets, self.n_steps
        return self.seen


class Pair(Counter):
    """The same with a Dict observation."""

    observation_space = spaces.Dict({"steps": Counter.observation_space, "level": spaces.Discrete(3)})

    def _observation(self) -> Any:
        return {"steps": super()._observation(), "level": self.n_steps % 3}


class Counting(Counter):
    """The same with observations of another type than the space's.

    :param dtype: their type.
    """

    def __init__(self, dtype: Any, **others: Any) -> None:
        super().__init__(**others)
        self.dtype = dtype

    def _observation(self) -> Any:
        return np.array([1, self.n_steps], self.dtype)


class Mixed(Counter):
    """The same with entries of a Dict of which none is of its space's type.

    :param strange: entries in place of the right ones, from the first step on.
    """

    observation_space = spaces.Dict(
        {
            "level": spaces.Discrete(3),
            "place": Counter.action_space,
            "count": spaces.Box(0, 9, (1,), np.int32),
        }
    )

    def __init__(self, strange: Any = None, **others: Any) -> None:
        super().__init__(**others)
        self.strange = strange or {}

    def _observation(self) -> Any:
        n = self.n_steps
        seen = {"level": np.float64(n % 3), "place": np.array([n % 2]), "count": np.array([2.0 * n])}
        return seen if n == 0 else {**seen, **self.strange}


class Draws(Counter):
    """The same with a random first entry."""

    def _observation(self) -> Any:
        return np.array([self.np_random.normal(), self.n_steps], np.float32)


class Untiring:
    """A policy with a memory: the action counts how often it was asked in this episode."""

    def __init__(self) -> None:
        self.starts: list[bool] = []
        self.deterministic: list[bool] = []

    def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool) -> Any:
        self.starts.append(bool(episode_start[0]))
        self.deterministic.append(deterministic)
        n_asked = 0 if state is None else int(state[0][0])
        return np.array([n_asked / 8], np.float32), (np.array([n_asked + 1]),)


def play(env: RecordEpisodes, n_steps: int, action: Any = HALF) -> None:
    env.reset()
    for _ in range(n_steps):
        env.step(action)


def played(inner: gym.Env[Any, Any], n_steps: int, **names: Any) -> RecordEpisodes:
    env = RecordEpisodes(inner, **names)
    play(env, n_steps)
    return env


def test_an_episode_holds_what_passed_through() -> None:
    env = played(Counter(ends_at=3), 0)
    for action in (0.25, -0.5, 1.0):
        env.step(np.array([action], np.float32))
    (episode,) = env.episodes
    np.testing.assert_array_equal(episode.observations, [[1, 0], [1, 1], [1, 2], [1, 3]])
    np.testing.assert_array_equal(episode.actions, [[0.25], [-0.5], [1.0]])
    np.testing.assert_array_equal(episode.rewards, [0.25, -0.5, 1.0])
    assert episode.source == "Counter, recorded episode 0"


def test_the_environment_looks_the_same_from_outside() -> None:
    bare, recorded = Counter(ends_at=1, reset_info={"goal_id": "a"}), RecordEpisodes(Counter(ends_at=1))
    assert recorded.reset()[0].tolist() == bare.reset()[0].tolist()
    assert recorded.step(HALF)[1:] == bare.step(HALF)[1:]


@pytest.mark.parametrize(
    ("inner", "terminated"),
    [(Counter(ends_at=2), True), (TimeLimit(Counter(), 2), False)],
    ids=["end of the task", "time limit"],
)
def test_an_episode_is_terminated_by_its_task_and_not_by_a_time_limit(inner: Any, terminated: bool) -> None:
    (episode,) = played(inner, 2).episodes
    assert (len(episode), episode.terminated) == (2, terminated)


@pytest.mark.parametrize("leave", [lambda env: env.reset(), lambda env: env.close()], ids=["reset", "close"])
def test_an_episode_that_is_left_is_cut_off_and_kept(leave: Any) -> None:
    env = played(Counter(), 2)
    leave(env)
    leave(env)  # the second time there is nothing to keep
    assert [(len(episode), episode.terminated) for episode in env.episodes] == [(2, False)]


def test_dict_observations_are_recorded_by_their_keys() -> None:
    observations = played(Pair(ends_at=2), 2).episodes[0].observations
    assert isinstance(observations, dict)
    np.testing.assert_array_equal(observations["steps"], [[1, 0], [1, 1], [1, 2]])
    np.testing.assert_array_equal(observations["level"], [0, 1, 2])


def test_actions_are_recorded_as_the_environment_got_them() -> None:
    counter = Counter(ends_at=2)
    env = played(counter, 0)
    env.step([3.0])
    env.step(np.array([-0.25]))
    np.testing.assert_array_equal(env.episodes[0].actions, [[1.0], [-0.25]])
    np.testing.assert_array_equal(counter.got, [[1.0], [-0.25]])
    assert counter.got[1].dtype == np.float32


@pytest.mark.parametrize("key", SUCCESS_KEYS)
@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ([0.0, 1.0, 0.0], (True, 1)),
        ([False, False, False], (False, None)),
        ([], (None, None)),
        ([None, None, True], (True, 2)),
        ([np.nan, np.nan, np.nan], (None, None)),
        ([-1, -1, -1], (None, None)),
        ([np.nan, 1.0, 0.0], (True, 1)),
        ([-1, False, -1], (False, None)),
        ([np.array([0.0]), np.array([1.0]), np.bool_(False)], (True, 1)),
        (["False", "False", "True"], (True, 2)),
    ],
)
def test_success_is_what_the_infos_say_at_each_step(key: str, said: list[Any], outcome: Any) -> None:
    infos = [{} if value is None else {key: value} for value in said]
    (episode,) = played(Counter(ends_at=3, infos=infos), 3).episodes
    assert (episode.success, episode.first_success) == outcome


def test_where_one_name_says_nothing_the_next_does() -> None:
    infos = [{"success": np.nan, "is_success": False}, {"success": None, "is_success": True}]
    (episode,) = played(Counter(ends_at=2, infos=infos), 2).episodes
    assert (episode.success, episode.first_success) == (True, 1)


def test_the_success_of_one_episode_is_not_that_of_the_next() -> None:
    counter = Counter(ends_at=1, infos=[{"success": True}])
    env = played(counter, 1)
    counter.infos = [{"success": False}]
    play(env, 1)
    assert [episode.success for episode in env.episodes] == [True, False]


@pytest.mark.parametrize(
    ("infos", "goal"),
    [
        ({"reset_info": {"goal_id": "left"}}, "left"),
        ({"infos": [{}, {"goal_id": "right"}]}, "right"),
        ({"reset_info": {"goal_id": 7}}, None),
    ],
    ids=["of the reset", "of a step", "no string"],
)
def test_the_goal_is_a_string_that_an_info_names(infos: dict[str, Any], goal: str | None) -> None:
    assert played(Counter(ends_at=2, **infos), 2).episodes[0].goal == goal


def test_a_given_task_and_its_phrasings_are_those_of_all_episodes() -> None:
    counter = Counter(ends_at=1, task_description="not this")
    env = played(counter, 1, task="count", task_text=["count", "count on"])
    play(env, 1)
    assert [episode.task for episode in env.episodes] == ["count"] * 2
    assert [episode.task_texts for episode in env.episodes] == [("count", "count on")] * 2


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"task": "from task"}, "from task"),
        ({"task": "from task", "task_description": " from its description "}, "from its description"),
        ({"task": 3}, None),
    ],
)
def test_without_a_sentence_the_environments_own_is_taken(attributes: Any, said: str | None) -> None:
    (episode,) = played(TimeLimit(Counter(ends_at=1, **attributes), 9), 1).episodes
    assert episode.task_texts == ((said,) if said else ())


def test_the_task_is_called_as_the_environment_is() -> None:
    envs = played(gym.make("Pendulum-v1"), 1), played(TimeLimit(Counter(), 1), 1)
    for env in envs:
        env.close()
    assert [env.episodes[0].task for env in envs] == ["Pendulum-v1", "Counter"]


def test_sentences_that_an_environment_changes_are_tasks_of_their_own() -> None:
    inner = TaskTextWrapper(Counter(ends_at=2), "count up", text_encoder="hashing")
    env = played(inner, 1)
    inner.set_task_text("count down")  # from the next episode on, as the first step of this one was taken
    play(env, 0)
    inner.set_task_text("stand still")  # after a reset, as is done with environments that reset themselves
    env.step(HALF)
    env.step(HALF)
    assert [episode.task_texts for episode in env.episodes] == [("count up",), ("stand still",)]
    assert [episode.task for episode in env.episodes] == ["Counter: count up", "Counter: stand still"]


def test_the_vector_of_a_sentence_is_no_part_of_what_is_recorded() -> None:
    env = played(TaskTextWrapper(Counter(ends_at=1), "count", text_encoder="hashing"), 1)
    np.testing.assert_array_equal(env.episodes[0].observations, [[1, 0], [1, 1]])
    assert env.recorded_space == Counter.observation_space


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float64, np.float32, bool])
def test_observations_are_recorded_in_the_type_of_their_space(dtype: Any) -> None:
    env = played(Counting(dtype, ends_at=1), 1)
    observations = env.episodes[0].observations
    np.testing.assert_array_equal(observations, [[1, 0], [1, 1]])
    assert (observations.dtype, env.recorded_space.dtype) == (np.float32, np.float32)


def test_entries_of_a_dict_are_recorded_each_in_its_type() -> None:
    observations = played(Mixed(ends_at=1), 1).episodes[0].observations
    assert isinstance(observations, dict)
    assert {key: rows.dtype for key, rows in observations.items()} == {
        "level": np.int64,
        "place": np.float32,
        "count": np.int32,
    }
    np.testing.assert_array_equal(observations["level"], [0, 1])
    np.testing.assert_array_equal(observations["place"], [[0.0], [1.0]])
    np.testing.assert_array_equal(observations["count"], [[0], [2]])


@pytest.mark.parametrize(
    ("strange", "message"),
    [
        ({"count": np.array([0.5])}, r"`observations\['count'\]` holds 0.5 at step 1"),
        (
            {"level": 7},
            r"`observations\['level'\]` holds 1 values that Discrete\(3\) lacks, the first at step 1",
        ),
    ],
    ids=["fraction", "category"],
)
def test_what_the_space_cannot_hold_is_refused_by_step_and_entry(strange: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"Mixed, recorded episode 0: {message}"):
        played(Mixed(strange, ends_at=1), 1)


def test_an_observation_of_another_shape_than_the_spaces_is_refused() -> None:
    space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    with pytest.raises(
        ValueError, match=r"Counter, recorded episode 0: a row of `observations` .* \(3,\), got"
    ):
        played(Counter(ends_at=1, observation_space=space), 1)


@pytest.mark.parametrize("make", [Counter, partial(Counting, np.int64), Mixed], ids=["", "whole", "dict"])
def test_what_was_written_is_the_same_in_memory_and_in_mapped_files(tmp_path: Path, make: Any) -> None:
    env = played(make(ends_at=3), 3)
    play(env, 3)
    recorded = list(env.episodes)
    env.write("lab/count-v0", tmp_path)
    read = load_dataset("lab/count-v0", root=tmp_path)
    mapped = memory_mapped("lab/count-v0", root=tmp_path, cache=tmp_path / "cache")
    digests = [[episode_digest(each) for each in some] for some in (recorded, read.episodes, mapped.episodes)]
    assert digests[0] == digests[1] == digests[2]
    assert read.observation_space == mapped.observation_space == env.recorded_space


def test_what_is_written_is_read_and_forgotten(tmp_path: Path) -> None:
    env = played(Counter(ends_at=2), 2, task="count", task_text="count")
    play(env, 1)  # has not ended
    path = env.write("lab/count-v0", tmp_path, description="counting")
    assert path == tmp_path / "lab/count-v0"
    (read,) = load_minari("lab/count-v0", root=tmp_path).episodes
    np.testing.assert_array_equal(read.observations, [[1, 0], [1, 1], [1, 2]])
    assert (read.task, read.task_texts, read.terminated) == ("count", ("count",), True)
    env.step(HALF)
    assert [len(episode) for episode in env.episodes] == [2]
    env.write("lab/count-v1", tmp_path)
    assert len(load_minari("lab/count-v1", root=tmp_path).episodes) == 1


def test_what_could_not_be_written_is_not_forgotten(tmp_path: Path) -> None:
    env = played(Counter(ends_at=1), 1)
    with pytest.raises(ValueError, match="'count' is no Minari id"):
        env.write("count", tmp_path)
    assert len(env.episodes) == 1


def test_environments_that_reset_themselves_are_recorded_each_on_its_own() -> None:
    vec_env = DummyVecEnv(
        [lambda: Monitor(RecordEpisodes(Counter(ends_at=2))), lambda: RecordEpisodes(Counter(ends_at=3))]
    )
    vec_env.reset()
    for _ in range(6):
        vec_env.step(np.full((2, 1), 0.5, np.float32))
    one, other = vec_env.get_attr("episodes")
    assert [len(episode) for episode in one] == [2, 2, 2]
    assert [len(episode) for episode in other] == [3, 3]
    np.testing.assert_array_equal(one[1].observations, [[2, 0], [2, 1], [2, 2]])


def test_a_policy_in_training_is_recorded() -> None:
    vec_env = make_vec_env(lambda: TimeLimit(Draws(), 5), wrapper_class=RecordEpisodes, seed=0)
    tiny = {"net_arch": [4]}
    model = SAC("MlpPolicy", vec_env, learning_starts=100, seed=0, policy_kwargs=tiny, device="cpu").learn(12)
    (episodes,) = vec_env.get_attr("episodes")
    assert [len(episode) for episode in episodes] == [5, 5]
    assert model.replay_buffer is not None
    actions = np.concatenate([episode.actions for episode in episodes])
    np.testing.assert_array_equal(actions, model.replay_buffer.actions[:10, 0])


def test_a_policy_is_recorded_with_its_memory_from_each_episodes_beginning() -> None:
    policy = Untiring()
    episodes = record_policy(policy, Counter(ends_at=3), 2, task="count", task_text="count")
    assert policy.starts == [True, False, False] * 2
    assert [episode.actions[:, 0].tolist() for episode in episodes] == [[0.0, 0.125, 0.25]] * 2
    assert [(episode.task, episode.task_texts) for episode in episodes] == [("count", ("count",))] * 2


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_policy_is_asked_with_or_without_exploration(deterministic: bool) -> None:
    policy = Untiring()
    record_policy(policy, Counter(ends_at=1), 1, deterministic=deterministic)
    assert policy.deterministic == [deterministic]


def test_the_seed_decides_all_episodes_and_no_two_are_the_same() -> None:
    first, again, other = (record_policy(Untiring(), Draws(ends_at=2), 2, seed=seed) for seed in (1, 1, 2))
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.observations, same.observations)
    assert len({episode.observations[0, 0] for episode in [*first, *other]}) == 4


def test_a_prompted_model_is_recorded() -> None:
    model, task = model_of(Monitor(TimeLimit(Counter(), 3))), "do what the environment rewards"
    (episode,) = record_policy(model.prompted(task_text=task), TimeLimit(Counter(), 3), 1)
    expected, _ = model.predict(episode.observations[0], deterministic=True, task_text=task)
    np.testing.assert_array_equal(episode.actions[0], expected)


def test_a_step_before_a_reset_is_refused() -> None:
    for env in (RecordEpisodes(Counter()), played(Counter(ends_at=1), 1)):
        with pytest.raises(gym.error.ResetNeeded, match="Counter: no episode has begun"):
            env.step(HALF)


def test_an_episode_with_nan_is_refused_by_its_number_and_the_next_is_recorded() -> None:
    env = RecordEpisodes(Counter())
    play(env, 1, np.array([np.nan], np.float32))
    with pytest.raises(ValueError, match="Counter, recorded episode 0: `actions` holds 1 NaN"):
        env.reset()
    play(env, 1)
    env.close()
    assert [episode.source for episode in env.episodes] == ["Counter, recorded episode 1"]


@pytest.mark.parametrize("space", [spaces.Discrete(2), spaces.Box(-np.inf, np.inf, (1,))])
def test_actions_that_no_policy_here_takes_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(ValueError, match="Counter: the action space must be a Box with finite bounds, got"):
        RecordEpisodes(Counter(action_space=space))


def test_nested_observations_are_refused() -> None:
    env = Counter(observation_space=spaces.Dict({"inner": Pair.observation_space}))
    with pytest.raises(ValueError, match="Counter: observations must be one array or a flat Dict of arrays"):
        RecordEpisodes(env)


def test_vectorised_environments_are_refused_with_the_way_to_wrap_each() -> None:
    message = "one gymnasium environment, got DummyVecEnv: .*wrapper_class=RecordEpisodes"
    with pytest.raises(TypeError, match=message):
        RecordEpisodes(DummyVecEnv([Counter]))


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({"task": " "}, ValueError, "`task` is empty"),
        ({"task_text": ""}, ValueError, "a task text is empty"),
        ({"task_text": [3]}, TypeError, "`task_text`: a task text must be a string, got int"),
    ],
)
def test_names_that_say_nothing_are_refused(names: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RecordEpisodes(Counter(), **names)


def test_no_episode_is_refused() -> None:
    with pytest.raises(ValueError, match="`n_episodes` must be at least 1, got 0"):
        record_policy(Untiring(), Counter(), 0)
