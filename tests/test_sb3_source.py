"""Replay buffers of Stable-Baselines3 as data: episodes, rings, time limits, and actions."""

import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expect import refused, warned
from factories import make_buffer, traced
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_llmdpd.data.checks import entries_of
from sb3_llmdpd.data.episode_source import Reading
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.loading import load_dataset, open_source
from sb3_llmdpd.data.sb3 import ReplayBufferSource

FORCE = spaces.Box(-2.0, 4.0, (2,), np.float32)
PLACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Counter(gym.Env[Any, Any]):
    """Observes (number of the episode, step), terminates after some steps, and keeps its actions."""

    observation_space: spaces.Space[Any]
    action_space = FORCE

    def __init__(self, ends: int = 3, space: spaces.Space[Any] = PLACE) -> None:
        self.observation_space, self.ends, self.number, self.step_number = space, ends, -1, 0
        self.actions: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.number, self.step_number = self.number + 1, 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        self.actions.append(np.array(action))
        return self._seen(), float(self.step_number), self.step_number == self.ends, False, {}

    def _seen(self) -> Any:
        place = np.array([self.number, self.step_number], np.float32)
        if isinstance(self.observation_space, spaces.Dict):
            return {"place": place, "door": self.step_number % 3}
        return place


def filled(
    n_steps: int, size: int = 100, n_envs: int = 1, space: spaces.Space[Any] = PLACE, **options: Any
) -> ReplayBuffer:
    """Fill a buffer from `Counter`s as SB3 does; episodes end after three steps, or at an earlier limit."""
    limit = options.pop("limit", 10)
    kind = options.pop("kind", DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer)
    env = DummyVecEnv([lambda: TimeLimit(Counter(space=space), limit) for _ in range(n_envs)])
    buffer: ReplayBuffer = kind(size, space, FORCE, "cpu", n_envs=n_envs, **options)
    rng = np.random.default_rng(0)
    seen: Any = env.reset()
    for _ in range(n_steps):
        scaled = rng.uniform(-1, 1, (n_envs, 2)).astype(np.float32)
        following, rewards, dones, infos = env.step(FORCE.low + (scaled + 1) / 2 * (FORCE.high - FORCE.low))
        led_to: Any = deepcopy(following)
        for number in np.flatnonzero(dones):
            last = entries_of(infos[number]["terminal_observation"])
            for key, rows in entries_of(led_to).items():
                rows[number] = last[key]
        buffer.add(seen, led_to, scaled, rewards, dones, infos)
        seen = following
    return buffer


def read(buffer: ReplayBuffer, **options: Any) -> list[Episode]:
    return list(ReplayBufferSource(buffer, **options).episodes())


def read_saving_memory(n_steps: int, **options: Any) -> list[Episode]:
    buffer = filled(n_steps, optimize_memory_usage=True, handle_timeout_termination=False, **options)
    with warned("handle_timeout_termination=False"):
        return read(buffer)


def made_by_sac(env: gym.Env[Any, Any], n_steps: int, **options: Any) -> SAC:
    """Let SAC gather steps without learning from them."""
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    options = dict(learning_starts=100, buffer_size=50, seed=0, policy_kwargs={"net_arch": [4]}) | options
    return SAC(policy, env, device="cpu", **options).learn(n_steps)


def seen_in(episode: Episode) -> list[list[float]]:
    assert isinstance(episode.observations, np.ndarray)
    return episode.observations.tolist()


def test_episodes_end_at_terminations_with_the_observation_before_the_reset():
    first, second, third = read(filled(8))
    assert seen_in(first) == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert seen_in(second) == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert seen_in(third) == [[2, 0], [2, 1], [2, 2]]
    assert [episode.terminated for episode in (first, second, third)] == [True, True, False]
    np.testing.assert_array_equal(first.rewards, [1, 2, 3])


def test_a_time_limit_is_not_a_termination():
    episodes = read(filled(4, limit=2))
    assert [(len(episode), episode.terminated) for episode in episodes] == [(2, False), (2, False)]
    assert seen_in(episodes[0]) == [[0, 0], [0, 1], [0, 2]]


def test_a_buffer_that_does_not_tell_time_limits_apart_is_warned_about():
    with warned("replay buffer: .*handle_timeout_termination=False.* every end is read as a term"):
        episodes = read(filled(4, limit=2, handle_timeout_termination=False))
    assert [episode.terminated for episode in episodes] == [True, True]


def test_each_environment_gives_its_own_episodes():
    buffer = filled(4, n_envs=2)
    episodes = read(buffer)
    assert [len(episode) for episode in episodes] == [3, 1, 3, 1]
    sources = [f"replay buffer, environment {env}, episode {episode}" for env in (0, 1) for episode in (0, 1)]
    assert [episode.source for episode in episodes] == sources
    np.testing.assert_array_equal(episodes[3].actions, _unscaled(buffer.actions[3:4, 1]))


def test_a_buffer_that_went_round_is_read_from_its_oldest_step():
    episodes = read(filled(8, size=5))
    assert list(map(seen_in, episodes)) == [[[1, 0], [1, 1], [1, 2], [1, 3]], [[2, 0], [2, 1], [2, 2]]]
    episodes = read(filled(7, size=5))
    assert [seen_in(episode)[0] for episode in episodes] == [[0, 2], [1, 0], [2, 0]]


def test_a_buffer_that_saves_memory_repeats_the_last_observation_of_an_end():
    episodes = read_saving_memory(5)
    assert list(map(seen_in, episodes)) == [[[0, 0], [0, 1], [0, 2], [0, 2]], [[1, 0], [1, 1], [1, 2]]]


@pytest.mark.parametrize("n_steps", [10, 11])
def test_a_full_buffer_that_saves_memory_leaves_out_the_row_that_holds_no_step(n_steps):
    episodes = read_saving_memory(n_steps, size=5)
    expected = {
        10: [[[2, 0], [2, 1], [2, 2], [2, 2]], [[3, 0], [3, 1]]],
        11: [[[2, 1], [2, 2], [2, 2]], [[3, 0], [3, 1], [3, 2]]],
    }
    assert list(map(seen_in, episodes)) == expected[n_steps]


def test_what_the_newest_step_led_to_is_known_where_memory_is_saved():
    (episode,) = read_saving_memory(3)
    assert seen_in(episode) == [[0, 0], [0, 1], [0, 2], [0, 3]]


def test_dict_observations_have_the_shapes_of_their_space():
    space = spaces.Dict({"place": PLACE, "door": spaces.Discrete(3)})
    source = ReplayBufferSource(filled(4, n_envs=2, space=space))
    assert source.observation_space == space
    first = next(source.episodes())
    assert isinstance(first.observations, dict)
    np.testing.assert_array_equal(first.observations["door"], [0, 1, 2, 0])
    np.testing.assert_array_equal(first.observations["place"], [[0, 0], [0, 1], [0, 2], [0, 3]])


def test_a_discrete_observation_loses_the_axis_that_the_buffer_gave_it():
    buffer = ReplayBuffer(5, spaces.Discrete(4), FORCE, "cpu")
    for step in range(3):
        buffer.add(
            np.array([step]), np.array([step + 1]), np.zeros((1, 2)), np.zeros(1), np.array([step == 2]), [{}]
        )
    (episode,) = read(buffer)
    np.testing.assert_array_equal(episode.observations, [0, 1, 2, 3])


def test_an_environment_that_was_reset_in_between_begins_another_episode():
    buffer = ReplayBuffer(5, PLACE, FORCE, "cpu")
    for before, after in (([0, 0], [0, 1]), ([0, 1], [0, 2]), ([1, 0], [1, 1])):
        buffer.add(np.array([before]), np.array([after]), np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])
    assert [(len(episode), episode.terminated) for episode in read(buffer)] == [(2, False), (1, False)]


def _unscaled(scaled: np.ndarray) -> np.ndarray:
    return FORCE.low + 0.5 * (scaled + 1) * (FORCE.high - FORCE.low)


def test_what_sac_gathers_are_the_actions_that_the_environment_got():
    env = Counter(ends=4)
    model = made_by_sac(env, 12, learning_starts=6, gradient_steps=0)
    assert model.replay_buffer is not None
    source = ReplayBufferSource(model.replay_buffer)
    assert source.action_space == FORCE
    actions = np.concatenate([episode.actions for episode in source.episodes()])
    np.testing.assert_allclose(actions, env.actions, rtol=1e-5)
    assert np.abs(actions).max() > 1


def test_actions_that_nobody_scaled_are_taken_as_they_are_to_the_bit():
    given = np.array([[4.0, -2.0], [0.1, 3.9], [0.3, 0.7]], np.float32)
    buffer = filled(3)
    buffer.actions[:3, 0] = given
    (episode,) = read(buffer, scaled_actions=False)
    np.testing.assert_array_equal(episode.actions, given)


def test_actions_that_cannot_have_been_scaled_are_refused():
    buffer = filled(3)
    buffer.actions[1, 0] = (4.0, -2.0)
    with refused(r"replay buffer: its actions reach 4, .* with scaled_actions=False"):
        ReplayBufferSource(buffer)


def test_actions_in_one_to_minus_one_keep_every_bit():
    unit = spaces.Box(-1.0, 1.0, (2,), np.float32)
    buffer = filled(3)
    buffer.action_space = unit
    (episode,) = read(buffer)
    np.testing.assert_array_equal(episode.actions, buffer.actions[:3, 0])


def test_the_bounds_of_the_action_space_are_reached_and_not_left():
    odd = spaces.Box(np.array([-0.3, 0.1], np.float32), np.array([0.7, 1.3], np.float32))
    buffer = filled(2)
    buffer.action_space = odd
    buffer.actions[:2, 0] = [[-1, -1], [1, 1]]
    (episode,) = read(buffer, reading=Reading(strict=True))
    np.testing.assert_array_equal(episode.actions, [odd.low, odd.high])


def test_a_saved_buffer_gives_the_same_episodes(tmp_path):
    model = made_by_sac(Counter(), 7)
    assert model.replay_buffer is not None
    model.save_replay_buffer(tmp_path / "logs")
    source = ReplayBufferSource(tmp_path / "logs", allow_pickle=True, task="count")
    assert list(source.files()) == [tmp_path / "logs.pkl"]
    assert source.options() == {"task": "count", "scaled_actions": None}
    assert source.name == str(tmp_path / "logs")
    expected = read(model.replay_buffer, task="count")
    assert list(map(episode_digest, source.episodes())) == list(map(episode_digest, expected))
    loaded = load_dataset(f"{tmp_path / 'logs.pkl'}", allow_pickle=True)
    assert [len(episode) for episode in loaded.episodes] == [3, 3, 1]


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_opened_unless_that_is_allowed(tmp_path):
    path, proof = tmp_path / "logs.pkl", tmp_path / "opened"
    path.write_bytes(pickle.dumps(Trap(proof)))
    with refused(r"logs.pkl: is a pickle, which executes .* allow_pickle=True \(--allow-pickle"):
        open_source(str(path))
    assert not proof.exists()
    with refused(r"logs.pkl: accepted is a ReplayBuffer .*, got NoneType", TypeError):
        open_source(str(path), allow_pickle=True)
    assert proof.exists()


def test_a_pickle_that_is_damaged_or_missing_is_answered_with_its_name(tmp_path):
    path = tmp_path / "logs.pkl"
    path.write_bytes(pickle.dumps(filled(3))[:200])
    with refused(r"logs.pkl: is not a pickled replay buffer, or damaged or half-written"):
        ReplayBufferSource(path, allow_pickle=True)
    with refused(r"there is no file .*log.pkl; nearest there: logs.pkl"):
        ReplayBufferSource(tmp_path / "log.pkl", allow_pickle=True)


def test_a_handed_over_buffer_has_no_files_and_a_name():
    source = ReplayBufferSource(filled(3))
    assert (source.name, list(source.files())) == ("replay buffer", [])


def test_a_buffer_that_draws_otherwise_holds_the_same_steps():
    assert [len(episode) for episode in read(filled(4, kind=NStepReplayBuffer))] == [3, 1]


class Reach(gym.Env[Any, Any]):
    """A task with a goal that is never reached, in episodes of two steps."""

    action_space = FORCE
    observation_space = spaces.Dict({"observation": PLACE, "achieved_goal": PLACE, "desired_goal": PLACE})
    n_steps = 0

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, infos: Any) -> np.ndarray:
        return -np.ones(len(achieved))

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.n_steps = 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        return self._seen(), -1.0, False, self.n_steps == 2, {}

    def _seen(self) -> dict[str, np.ndarray]:
        here = np.full(2, self.n_steps, np.float32)
        return {"observation": here, "achieved_goal": here, "desired_goal": np.full(2, 9, np.float32)}


def test_hindsight_goals_are_not_among_the_steps_of_a_her_buffer(tmp_path):
    model = made_by_sac(Reach(), 4, replay_buffer_class=HerReplayBuffer)
    model.save_replay_buffer(tmp_path / "her.pkl")
    first, second = ReplayBufferSource(tmp_path / "her.pkl", allow_pickle=True).episodes()
    for episode in (first, second):
        assert isinstance(episode.observations, dict)
        np.testing.assert_array_equal(episode.observations["desired_goal"], np.full((3, 2), 9))
        np.testing.assert_array_equal(episode.observations["observation"], [[0, 0], [1, 1], [2, 2]])
        assert not episode.terminated


def test_other_buffers_are_refused_with_the_reason():
    with refused(r"a RolloutBuffer does not keep what its actions led to.*record_policy", TypeError):
        ReplayBufferSource(RolloutBuffer(5, PLACE, FORCE, "cpu"))
    with refused("a PromptReplayBuffer was made of a data set; give that", TypeError):
        ReplayBufferSource(make_buffer([traced(0, 1, 5), traced(0, 2, 5)]))
    with refused(r"replay buffer: accepted is a ReplayBuffer .*, got int", TypeError):
        ReplayBufferSource(3)


def test_a_buffer_of_an_old_version_is_refused_with_what_to_do():
    buffer = filled(3)
    del buffer.handle_timeout_termination
    with refused(r"did not keep time limits; load it into a model with load_replay_buffer"):
        ReplayBufferSource(buffer)


def test_an_empty_buffer_and_actions_that_are_no_numbers_in_bounds_are_refused():
    with refused("replay buffer: the buffer holds no step"):
        ReplayBufferSource(filled(0))
    buffer = filled(3)
    buffer.action_space = spaces.Discrete(2)
    with refused("replay buffer: the action space must be a Box of continuous actions"):
        ReplayBufferSource(buffer)
    buffer.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with refused("replay buffer: the action space must be a Box with finite bounds"):
        ReplayBufferSource(buffer)


# The units of the actions -----------------------------------------------------


def filled_in(bound: float, reach: float) -> ReplayBuffer:
    """Fill a buffer of bounds of +-``bound`` with actions of up to ``reach``, in episodes of 10 steps."""
    box = spaces.Box(-bound, bound, (2,), np.float32)
    buffer = ReplayBuffer(100, spaces.Box(-np.inf, np.inf, (1,), np.float32), box)
    rng = np.random.default_rng(0)
    for step in range(100):
        action = np.clip(rng.uniform(-1.2, 1.2, (1, 2)) * reach, -reach, reach)
        ended = np.array([step % 10 == 9])
        buffer.add(np.full((1, 1), step), np.full((1, 1), step + 1), action, np.zeros(1), ended, [{}])
    return buffer


def test_a_buffer_that_fills_its_own_bounds_is_questioned():
    with warned("replay buffer: its actions fill the action space, -0.4 to 0.4, .*--unscaled-actions"):
        read(filled_in(0.4, reach=0.4))


@pytest.mark.parametrize(("said", "largest"), [(True, 0.16), (False, 0.4)])
def test_no_question_is_asked_where_the_units_are_said(said, largest):
    episodes = read(filled_in(0.4, reach=0.4), scaled_actions=said)
    assert max(float(episode.actions.max()) for episode in episodes) == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize("reach", [0.3, 1.0])
def test_actions_that_are_scaled_for_certain_are_not_questioned(reach):
    episodes = read(filled_in(0.4, reach))
    assert max(float(episode.actions.max()) for episode in episodes) == pytest.approx(0.4 * reach, rel=1e-5)


@pytest.mark.parametrize(
    ("attribute", "value", "told"),
    [
        ("pos", 1_000, "its place is 1000"),
        (
            "rewards",
            np.zeros(3),
            r"its `rewards` must be numbers of shape \(100, 1\), and is float64 of shape",
        ),
        ("observations", None, "its `observations` is of type NoneType"),
        ("n_envs", "two", "its `n_envs` is of type str"),
    ],
)
def test_a_buffer_that_is_not_as_it_was_made_is_refused(attribute, value, told):
    buffer = filled_in(1.0, reach=1.0)
    setattr(buffer, attribute, value)
    with refused(f"replay buffer: is damaged, .*{told}"):
        read(buffer)
