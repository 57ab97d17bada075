"""`PromptReplayBuffer`: rewards, sentences, kinds of observations, its generator, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch as th
from factories import EPISODE, make_buffer, make_episodes, recorded, traced
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from torch.testing import assert_close
from toys import SpacesEnv

from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.replay.buffer import PromptReplayBuffer
from sb3_llmdpd.type_aliases import PromptReplayBufferSamples


def flat(batch: PromptReplayBufferSamples) -> list[th.Tensor]:
    """Every tensor of a batch."""
    return [*batch[:5], *batch.prompts]


def same(one: PromptReplayBufferSamples, other: PromptReplayBufferSamples) -> bool:
    return all(th.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


def rewarded(task: str, rewards: list[float], n_episodes: int = 2) -> list[Episode]:
    """Episodes whose observations are their raw rewards."""
    steps = np.array([*rewards, 0.0])[:, None]
    return [Episode(steps, np.zeros_like(steps[1:]), np.array(rewards), task=task)] * n_episodes


def test_rewards_of_a_task_have_a_root_mean_square_of_one():
    episodes = rewarded("large", [300.0, -400.0], n_episodes=3) + rewarded("small", [0.01, 0.0, 0.0, 0.0])
    batch = make_buffer(episodes, prompts_per_batch=2, reward_scale="per_task").sample(200)
    scales = {300.0: 125_000**0.5, -400.0: 125_000**0.5, 0.01: 0.005, 0.0: 0.005}
    assert isinstance(batch.observations, th.Tensor)
    expected = [round(raw, 4) / scales[round(raw, 4)] for raw in batch.observations.flatten().tolist()]
    assert_close(batch.rewards.flatten(), th.tensor(expected))


def test_every_reward_keeps_its_sign_and_order():
    """Scaled, never shifted: a shift would pay for, or punish, the length of an episode."""
    batch = make_buffer(rewarded("task", [-1.0, 0.0, 3.0]), reward_scale="per_task").sample(80)
    ratio = batch.rewards.flatten() * (10 / 3) ** 0.5
    assert_close(ratio, batch.observations.flatten())


def test_a_task_without_any_reward_keeps_its_zeros():
    batch = make_buffer(rewarded("task", [0.0, 0.0]), reward_scale="per_task").sample(8)
    assert th.equal(batch.rewards, th.zeros(8, 1))


def test_rewards_can_be_left_alone():
    batch = make_buffer(rewarded("task", [300.0, -400.0]), reward_scale="none").sample(80)
    assert_close(batch.rewards, batch.observations)


def test_long_episodes_count_by_their_steps_in_the_scale_of_a_task():
    episodes = rewarded("task", [2.0] * 9, n_episodes=1) + rewarded("task", [12.0], n_episodes=1)
    assert make_buffer(episodes, reward_scale="per_task").reward_scales.tolist() == pytest.approx([18.0**0.5])


def told(task: int, number: int, *texts: str) -> Episode:
    return traced(task, number, 4, task_texts=texts)


SENTENCES = [
    told(0, 0, "open the door", "pull the door"),
    told(0, 1, "pull the door", "get the door open"),
    told(1, 2),
    told(1, 3),
    told(2, 4, "press the button"),
    told(2, 5, "press the button"),
]


def with_vectors(buffer: PromptReplayBuffer) -> PromptReplayBuffer:
    """Give the buffer vectors that are the numbers of its sentences."""
    buffer.set_text_vectors(1.0 + np.arange(len(buffer.texts))[:, None])
    return buffer


def test_each_phrasing_of_a_task_is_kept_once():
    buffer = make_buffer(SENTENCES)
    assert buffer.texts == ("open the door", "pull the door", "get the door open", "press the button")
    assert buffer.texts_by_task == {"task-0": buffer.texts[:3], "task-1": (), "task-2": buffer.texts[3:]}


def test_a_sentence_that_two_tasks_share_stands_for_each():
    buffer = make_buffer([told(0, 0, "go"), told(0, 1, "go"), told(1, 2, "go"), told(1, 3, "go", "move")])
    assert buffer.texts_by_task == {"task-0": ("go",), "task-1": ("go", "move")}


def test_a_prompt_is_told_any_phrasing_of_its_own_task_alike():
    buffer = with_vectors(make_buffer(SENTENCES, prompts_per_batch=3))
    heard = th.zeros(3, 5)  # by task and number of the sentence; 0 for none
    for _ in range(600):
        prompts = buffer.sample(3).prompts
        tasks, numbers = prompts.observations[::3, 0], prompts.text_vectors[:, 0] * prompts.has_text
        heard[tasks.long(), numbers.long()] += 1
    assert heard[1].tolist() == [600, 0, 0, 0, 0]  # this task has no sentence
    assert heard[2].tolist() == [0, 0, 0, 0, 600]
    assert_close(heard[0] / 600, th.tensor([0.0, 1 / 3, 1 / 3, 1 / 3, 0.0]), rtol=0, atol=0.08)


def test_a_last_task_without_sentences_reads_no_vector_beyond_the_table():
    episodes = [told(0, 0, "go"), told(0, 1, "go"), told(1, 2), told(1, 3)]
    buffer = with_vectors(make_buffer(episodes, prompts_per_batch=2))
    assert {tuple(sorted(buffer.sample(2).prompts.has_text.tolist())) for _ in range(20)} == {(False, True)}


def test_before_the_sentences_have_vectors_no_prompt_has_a_text():
    assert not make_buffer(SENTENCES).sample(40).prompts.has_text.any()


def test_each_sentence_needs_a_vector():
    with pytest.raises(ValueError, match="the buffer holds 4 sentences, got 3 vectors"):
        make_buffer(SENTENCES).set_text_vectors(np.zeros((3, 8)))


def observed(observations: Any, n_steps: int = 6) -> Episode:
    """An episode whose actions are its steps / 8."""
    return Episode(observations, np.arange(n_steps)[:, None] / 8.0, np.zeros(n_steps))


def steps_of(batch: PromptReplayBufferSamples) -> th.Tensor:
    return (batch.actions[:, 0] * 8).long()


def test_every_array_of_a_dict_observation_is_of_the_same_step():
    steps = np.arange(7)
    episode = observed({"a": steps[:, None] * 1.0, "b": np.full((7, 2, 2), steps[:, None, None] * 10.0)})
    batch = make_buffer([episode, episode]).sample(40)
    step, example_step = steps_of(batch), batch.prompts.actions.flatten(0, 1) * 8  # (B,), (M * L, 1)
    parts = batch.observations, batch.next_observations, batch.prompts.observations
    for observations, expected in zip(parts, (step, step + 1, example_step[:, 0]), strict=True):
        assert th.equal(observations["a"][:, 0], expected.float())
        assert th.equal(observations["b"], (10.0 * expected)[:, None, None].expand(-1, 2, 2))


def test_images_stay_bytes_until_a_network_reads_them():
    images = np.broadcast_to(np.arange(7, dtype=np.uint8)[:, None, None, None] * 40, (7, 3, 36, 36))
    batch = make_buffer([observed(images)] * 2).sample(8)
    expected = (steps_of(batch) * 40).byte()[:, None, None, None].expand(8, 3, 36, 36)
    assert isinstance(batch.observations, th.Tensor)
    assert batch.observations.dtype == th.uint8
    assert th.equal(batch.observations, expected)


def test_channels_of_images_come_first_whatever_the_data_say():
    image = np.random.default_rng(0).integers(0, 256, (36, 40, 3), dtype=np.uint8)
    images = np.broadcast_to(image, (7, 36, 40, 3))
    buffer = make_buffer([observed({"image": images, "state": np.zeros((7, 2))})] * 2)
    observations = buffer.sample(4).observations
    assert isinstance(observations, dict)
    assert th.equal(observations["image"], th.from_numpy(image).permute(2, 0, 1).expand(4, 3, 36, 40))
    assert buffer.observation_space["image"] == spaces.Box(0, 255, (3, 36, 40), np.uint8)


def test_discrete_observations_stay_numbers():
    dataset = OfflineDataset.from_episodes([observed(np.arange(7))] * 2, observation_space=spaces.Discrete(7))
    batch = PromptReplayBuffer(dataset, "cpu", 2, 3, seed=0).sample(20)
    assert isinstance(batch.next_observations, th.Tensor)
    assert th.equal(batch.next_observations, steps_of(batch) + 1)


def test_some_observations_are_spread_over_all_the_data():
    buffer = make_buffer([traced(0, 0, 9), traced(0, 1, 9), traced(0, 2, 9)])
    assert buffer.some_observations(3)[:, EPISODE].tolist() == [0.0, 1.0, 2.0]
    assert len(buffer.some_observations(10_000)) == 30  # an observation follows each episode's last action
    assert len(buffer.some_observations(10_000).unique(dim=0)) == 30


def test_the_same_seed_draws_the_same_batches_and_another_seed_others():
    one, other, another = (make_buffer(make_episodes(), seed=seed) for seed in (3, 3, 4))
    first = one.sample(8)
    assert not same(first, another.sample(8))
    assert same(first, other.sample(8))
    assert all(same(one.sample(8), other.sample(8)) for _ in range(2))


def test_seeding_anew_starts_over():
    buffer = make_buffer(make_episodes(), seed=3)
    first = buffer.sample(8)
    buffer.seed(3)
    assert same(buffer.sample(8), first)


def test_what_others_draw_changes_no_batch():
    quiet, disturbed = (make_buffer(make_episodes(), seed=3) for _ in range(2))
    for _ in range(3):
        np.random.random(7)  # noqa: NPY002 - what an evaluation may do
        th.rand(7)
        assert same(quiet.sample(8), disturbed.sample(8))


def test_a_batch_draws_from_no_global_generator():
    buffer = make_buffer(make_episodes(), seed=3)
    numpy_before, torch_before = np.random.get_state()[1].copy(), th.get_rng_state()  # noqa: NPY002
    buffer.sample(8)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert th.equal(th.get_rng_state(), torch_before)


def test_the_order_of_the_episodes_in_the_data_decides_nothing_about_tasks():
    """Tasks are numbered by name: two data sets with the same tasks draw them in the same order."""
    episodes = make_episodes(n_tasks=4, n_episodes=2)
    one, other = make_buffer(episodes, seed=3), make_buffer(episodes[::-1], seed=3)
    assert one.tasks == other.tasks == ("task-0", "task-1", "task-2", "task-3")
    assert one.texts == other.texts


@pytest.mark.parametrize("as_dict", [False, True])
def test_the_leading_transitions_of_each_prompt_are_a_batch_of_their_own(as_dict):
    batch = make_buffer(SENTENCES, prompts_per_batch=2).sample(10)  # five transitions each
    if as_dict:
        dicts = {name: {"a": getattr(batch, name)} for name in ("observations", "next_observations")}
        batch = batch._replace(**dicts)
    part = batch.leading(3)
    for whole, of_part in zip(batch[:5], part[:5], strict=True):
        assert isinstance(whole, dict) == isinstance(of_part, dict)
        whole, of_part = (each["a"] if isinstance(each, dict) else each for each in (whole, of_part))
        assert th.equal(of_part, whole[[0, 1, 2, 5, 6, 7]])
    assert part.prompts is batch.prompts


def test_a_buffer_goes_through_sb3s_pickles_and_draws_on_as_before(tmp_path):
    buffer = with_vectors(make_buffer(SENTENCES))
    buffer.sample(8)
    save_to_pkl(tmp_path / "buffer.pkl", buffer)
    loaded = load_from_pkl(tmp_path / "buffer.pkl")
    assert same(loaded.sample(8), buffer.sample(8))


def test_the_size_of_a_buffer_is_its_transitions():
    buffer = make_buffer([traced(0, 0, 9), traced(0, 1, 4)])
    assert buffer.size() == 13
    assert buffer.n_episodes == 2


SB3S_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def test_sb3s_names_show_each_transition_in_a_row():
    episodes = [traced(0, 0, length=2, terminated=True), traced(0, 1, length=3)]
    buffer = make_buffer(episodes, prompts_per_batch=1)
    assert buffer.observations[:, 0, EPISODE:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    assert buffer.next_observations[:, 0, EPISODE:].tolist() == [[0, 1], [0, 2], [1, 1], [1, 2], [1, 3]]
    assert (128 * buffer.actions[:, 0]).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    assert (256 * buffer.rewards[:, 0]).tolist() == [0, 1, 256, 257, 258]


def test_an_end_is_done_to_sb3_and_a_timeout_unless_the_episode_ended_by_itself():
    episodes = [traced(0, 0, length=2, terminated=True), traced(0, 1, length=3)]
    buffer = make_buffer(episodes, prompts_per_batch=1)
    assert buffer.dones[:, 0].tolist() == [0, 1, 0, 0, 1]
    assert buffer.timeouts[:, 0].tolist() == [0, 0, 0, 0, 1]


PLANE, NUMBER = spaces.Box(0, 9, (3, 2)), spaces.Discrete(5)


@pytest.mark.parametrize("space", [PLANE, NUMBER, spaces.Dict(a=PLANE, b=NUMBER)], ids=str)
def test_sb3s_names_have_sb3s_shapes(space):
    dataset = recorded(SpacesEnv(space, spaces.Box(-1, 1, (2, 2))), n_episodes=2, length=3)
    ours = PromptReplayBuffer(dataset, "cpu", prompts_per_batch=1)
    buffer_class = DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer
    sb3s = buffer_class(6, space, dataset.action_space, "cpu")
    for name in SB3S_ARRAYS:
        assert shapes(getattr(ours, name)) == shapes(getattr(sb3s, name)), name


def shapes(arrays: Any) -> Any:
    return {key: part.shape for key, part in arrays.items()} if isinstance(arrays, dict) else arrays.shape


@pytest.mark.parametrize("name", SB3S_ARRAYS)
def test_what_sb3s_names_show_cannot_be_written_to(name):
    array = getattr(make_buffer(make_episodes()), name)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0


def test_sb3s_names_show_rewards_and_actions_as_the_networks_get_them():
    episodes = rewarded("task", [3.0, 4.0])
    dataset = OfflineDataset.from_episodes(episodes, action_space=spaces.Box(-2.0, 0.0, (1,), np.float32))
    buffer = PromptReplayBuffer(dataset, "cpu", prompts_per_batch=1, reward_scale="per_task")
    assert buffer.rewards[:2, 0] == pytest.approx(np.array([3.0, 4.0]) / 12.5**0.5)
    assert set(buffer.actions.ravel().tolist()) == {1.0}


def test_single_transitions_cannot_be_added():
    with pytest.raises(RuntimeError, match="build an Episode from them"):
        make_buffer(make_episodes()).add(None, None, None, None, None, None)


def test_a_reset_throws_no_data_away():
    buffer = make_buffer(make_episodes(n_tasks=1, n_episodes=2, length=5))
    buffer.reset()
    assert buffer.size() == 10
    assert buffer.sample(4).rewards.abs().min() > 0


def test_an_unknown_reward_scale_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"one of \('per_task', 'none'\), got 'max'"):
        make_buffer(make_episodes(), reward_scale="max")


@pytest.mark.parametrize("size", ["prompts_per_batch", "prompt_window"])
def test_sizes_below_one_are_refused(size):
    with pytest.raises(ValueError, match="`prompts_per_batch` and `prompt_window` must be at least 1"):
        make_buffer(make_episodes(), **{size: 0})
