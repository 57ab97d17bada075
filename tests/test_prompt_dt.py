"""Prompt-DT: its segments, that it sees nothing of the future, its memory, and its file."""

import io
import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import differing, make_episodes, traced, with_dicts
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal
from test_evaluation import WalkEnv
from torch.testing import assert_close

from sb3_llmdpd import LLMDPD, Episode, OfflineDataset, Prompt, presets
from sb3_llmdpd.baselines.prompt_dt import PromptDT
from sb3_llmdpd.baselines.segments import SegmentBuffer, Segments
from sb3_llmdpd.evaluation.conditions import make_cells
from sb3_llmdpd.evaluation.tasks import evaluate_tasks
from sb3_llmdpd.type_aliases import PromptBatch

K, L = 4, 3


def tiny(dataset: Any = None, **changes: Any) -> PromptDT:
    """A Prompt-DT that is built and trained in milliseconds."""
    sizes = dict(context=K, prompt_window=L, token_dim=8, n_layers=2, n_heads=2)
    defaults = dict(batch_size=6, prompts_per_batch=3, text_encoder="hashing:16", seed=0, device="cpu")
    return PromptDT(make_episodes() if dataset is None else dataset, **{**sizes, **defaults, **changes})


@pytest.fixture
def model() -> PromptDT:
    model = tiny()
    model.network.eval()
    return model


EXAMPLES = [episode for episode in make_episodes() if episode.source.endswith("episode 0")]
PROMPTS = [Prompt("do task number 0"), Prompt(None, EXAMPLES[1]), Prompt("never heard of", EXAMPLES[2])]


def random_observations(n_steps: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n_steps, 3, 5)).astype(np.float32)


def play(model: PromptDT, observations: np.ndarray, rows: list[list[int]]) -> list[np.ndarray]:
    """Act in the rows that are there at each step; observations are (n_steps, n_rows, 5)."""
    act = model.make_act(PROMPTS, noise_seed=0, deterministic=True)
    return [
        act(seen[at], at, np.full(len(at), 0.5 * (t > 0)))
        for t, (seen, at) in enumerate(zip(observations, rows, strict=True))
    ]


def traced_segments() -> SegmentBuffer:
    episodes = [traced(task, 4 * task + i, length=5 + i) for task in range(2) for i in range(3)]
    kwargs = dict(prompts_per_batch=2, prompt_window=L, reward_scale="none", seed=0, device="cpu")
    return SegmentBuffer(OfflineDataset.from_episodes(episodes), K, **kwargs)


def test_a_segment_is_the_steps_up_to_a_transition_with_the_returns_that_follow_them():
    segments, prompts = traced_segments().sample_segments(64)
    columns = *segments.observations.unbind(-1), *segments[1:]
    for task, number, step, action, to_go, is_step in zip(*columns, strict=True):
        real = is_step.tolist()
        n_padded, length = real.count(False), 5 + int(number[0]) % 4
        assert real == [False] * n_padded + [True] * (K - n_padded)
        assert len({*task.tolist()}) == len({*number.tolist()}) == 1
        assert n_padded == 0 or step[n_padded] == 0
        assert_close(step[n_padded:], step[n_padded] + th.arange(K - n_padded))
        assert_close(action[n_padded:], th.stack([number, step], dim=1)[n_padded:] / 128)
        rewards = number[0] + th.arange(length) / 256
        assert_close(to_go[n_padded:], th.stack([rewards[int(at) :].sum() for at in step[n_padded:]]))
    shown = prompts.observations.unflatten(0, (2, L))[:, 0, 1].repeat_interleave(32)
    assert (shown != segments.observations[:, -1, 1]).all()  # another episode


def test_the_best_return_is_that_of_the_best_episode_of_each_task():
    returns = {number: sum(number + t / 256 for t in range(5 + number % 4)) for number in range(7)}
    best = [max(returns[number] for number in of_task) for of_task in ((0, 1, 2), (4, 5, 6))]
    assert_allclose(traced_segments().best_returns, best, rtol=1e-6)


def whole_segments(model: PromptDT) -> tuple[Segments, PromptBatch]:
    """A batch all of whose steps count."""
    segments, prompts = model.buffer.sample_segments(6)
    return segments._replace(is_step=th.ones_like(segments.is_step)), prompts


@th.no_grad()
@pytest.mark.parametrize("step", range(K))
def test_an_action_depends_on_nothing_that_comes_later(model, step):
    segments, prompts = whole_segments(model)
    changed = Segments(*(values.clone() for values in segments))
    changed.observations[:, step + 1 :] += 1.0
    changed.returns_to_go[:, step + 1 :] += 1.0
    changed.actions[:, step:] += 1.0  # its own is what is to be predicted
    before, after = model.network(segments, prompts), model.network(changed, prompts)
    assert_close(after[:, : step + 1], before[:, : step + 1])
    assert step == K - 1 or not th.allclose(after[:, -1], before[:, -1])


@th.no_grad()
@pytest.mark.parametrize("name", ["observations", "actions", "returns_to_go"])
def test_an_action_depends_on_state_return_and_the_actions_before(model, name):
    segments, prompts = whole_segments(model)
    changed = getattr(segments, name).clone()
    changed[:, -2] += 1.0
    before, after = (model.network(s, prompts) for s in (segments, segments._replace(**{name: changed})))
    assert (after - before)[:, -1].abs().min() > 1e-5


@th.no_grad()
def test_what_stands_before_the_first_step_is_not_looked_at(model):
    segments, prompts = model.buffer.sample_segments(6)
    is_step = th.arange(K).expand(6, K) >= 2
    noisy = [th.where(is_step.unflatten(1, (K, *[1] * (x.dim() - 2))), x, 99.0) for x in segments[:3]]
    before = model.network(segments._replace(is_step=is_step), prompts)
    after = model.network(Segments(*noisy, is_step), prompts)
    assert_close(after[:, 2:], before[:, 2:])


@th.no_grad()
def test_what_a_prompt_lacks_is_not_looked_at(model):
    segments, prompts = model.buffer.sample_segments(6)
    absent = th.ones(3, dtype=th.bool)
    spoiled = prompts._replace(text_vectors=prompts.text_vectors + 1, observations=prompts.observations + 1)
    assert_close(*(model.network(segments, told.dropped(absent, absent)) for told in (prompts, spoiled)))
    assert not th.allclose(*(model.network(segments, told) for told in (prompts, spoiled)))


SEVERAL = [
    Prompt(trajectories=EXAMPLES),
    Prompt("do task number 1", EXAMPLES[1]),
    Prompt("do task number 0"),
    Prompt("do task number 2", trajectories=[EXAMPLES[2], make_episodes(1, 1, length=2, seed=5)[0]]),
]


def first_actions(model: PromptDT, prompts: list[Prompt]) -> np.ndarray:
    observations = np.random.default_rng(3).standard_normal((len(prompts), 5)).astype(np.float32)
    return model.make_act(prompts)(observations, [*range(len(prompts))], np.zeros(len(prompts)))


def test_an_action_does_not_depend_on_the_number_of_other_rows_examples(model):
    together = first_actions(model, SEVERAL)
    observations = np.random.default_rng(3).standard_normal((4, 5)).astype(np.float32)
    for row, prompt in enumerate(SEVERAL):
        alone = model.make_act([prompt])(observations[[row]], [0], np.zeros(1))
        assert_allclose(together[row], alone[0], atol=1e-5)


def test_every_example_is_looked_at(model):
    """One step of the third of three examples, and the action of all that follows."""
    actions = np.array(EXAMPLES[2].actions)
    actions[10] *= -1.0  # in the middle of the window
    changed = Episode(EXAMPLES[2].observations, actions, EXAMPLES[2].rewards)
    shown = [[Prompt(trajectories=[*EXAMPLES[:2], last])] for last in (EXAMPLES[2], changed)]
    one, other = (first_actions(model, prompts) for prompts in shown)
    assert np.abs(one - other).max() > 1e-6


def test_one_example_acts_the_same_alone_and_in_a_list(model):
    one, other = ([Prompt(None, EXAMPLES[0])], [Prompt(trajectories=[EXAMPLES[0]])])
    assert_array_equal(first_actions(model, one), first_actions(model, other))


@th.no_grad()
def test_windows_behind_a_prompts_last_example_are_not_looked_at(model):
    segments, prompts = tiny(examples_per_prompt=(3, 3)).buffer.sample_segments(6)
    assert prompts.lengths.tolist() == [[L] * 3] * 3
    fewer = prompts._replace(lengths=th.tensor([[L, L, L], [L, 0, 0], [L, L, 0]]))
    spoiled = fewer._replace(actions=prompts.actions.clone(), observations=prompts.observations.clone())
    for m, n_steps in enumerate((3 * L, L, 2 * L)):
        spoiled.actions[m, n_steps:] = 99.0
        spoiled.observations[m * 3 * L + n_steps : (m + 1) * 3 * L] = 99.0
    assert_close(*(model.network(segments, told) for told in (fewer, spoiled)))
    assert not th.allclose(*(model.network(segments, told) for told in (prompts, fewer)))


def test_it_learns_with_as_many_examples_as_are_asked_for():
    model, seen = tiny(examples_per_prompt=(1, 3)), set()
    for _ in range(20):
        seen |= set((model.buffer.sample_segments(6)[1].lengths > 0).sum(dim=1).tolist())
    assert seen == {1, 2, 3}
    losses: list[float] = []
    model.learn(30, on_step=lambda loss: losses.append(loss.item()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_each_row_has_a_memory_of_its_own_whatever_rows_are_left(model):
    observations = random_observations(7)
    left = [[0, 1, 2]] * 3 + [[0, 2]] * 2 + [[2]] * 2
    together = play(model, observations, left)
    alone = [play(model, observations, [[row]] * 7) for row in range(3)]
    for t, (rows, actions) in enumerate(zip(left, together, strict=True)):
        assert_allclose(actions, np.concatenate([alone[row][t] for row in rows]), atol=1e-5)
    assert np.ptp(np.stack([actions[-1] for actions in together]), axis=0).max() > 1e-3  # of the last row


def test_a_block_begins_without_a_memory_of_the_one_before(model):
    first, second = (play(model, random_observations(3), [[0, 1, 2]] * 3) for _ in range(2))
    assert_array_equal(first, second)


def test_acting_sees_what_training_saw(model):
    """The memory after some steps, given to the network by hand."""
    episode = make_episodes()[5]
    prompt = Prompt("do task number 1", EXAMPLES[1])
    act = model.make_act([prompt])
    rewards = np.concatenate([[0.0], episode.rewards])
    taken = [act(episode.observations[t][None], [0], rewards[t : t + 1])[0] for t in range(6)]
    goal, unit = model.targets["do task number 1"]
    actions, to_go = np.stack([*taken[2:5], np.zeros(2)]), goal - unit * np.cumsum(rewards)[2:6]
    rows = [th.tensor(array[None]).float() for array in (episode.observations[2:6], actions, to_go)]
    with th.no_grad():
        expected = model.network(Segments(*rows, th.ones(1, K, dtype=th.bool)), act.prompts)[0, -1]
    assert_allclose(taken[5], expected.numpy(), atol=1e-5)


def test_the_return_to_reach_is_the_tasks_best_or_the_examples_own():
    model = tiny(reward_scale="none")
    returns = {f"task-{task}": [] for task in range(3)}
    for episode in make_episodes():
        returns[episode.task].append(float(episode.rewards.sum()))
    best = [max(of_task) for of_task in returns.values()]
    largest, own = max(map(abs, best)), float(EXAMPLES[1].rewards.sum())
    assert model.return_scale == pytest.approx(largest, rel=1e-5)
    unknown = Prompt("never heard of", EXAMPLES[1])
    known = Prompt("please carry out task 2")
    for prompt, goal in ((known, best[2]), (unknown, own), (Prompt(), np.mean(best))):
        assert model._target(prompt) == pytest.approx((goal / largest, 1 / largest), rel=1e-5)


def test_rewards_are_scaled_in_the_return_as_in_training():
    model = tiny(reward_scale="per_task")
    size = np.sqrt(np.mean([e.rewards**2 for e in make_episodes() if e.task == "task-1"]))
    _, unit = model._target(Prompt("do task number 1"))
    assert unit == pytest.approx(1 / (size * model.return_scale), rel=1e-5)
    rewards = EXAMPLES[1].rewards
    own_unit = 1 / (np.sqrt(np.mean(rewards**2)) * model.return_scale)
    expected = (rewards.sum() * own_unit, own_unit)
    assert model._target(Prompt(None, EXAMPLES[1])) == pytest.approx(expected, rel=1e-5)


def test_it_is_evaluated_in_the_place_of_a_model():
    cells = make_cells(["task-0"], ("text+trajectory", "none"))
    prompts = dict(examples={"task-0": make_episodes()[:2]}, texts={"task-0": "do task number 0"})
    sizes = dict(n_episodes=3, n_envs=2, max_episode_steps=4, n_processes=1)
    results = evaluate_tasks(tiny(), cells, **prompts, make_env=partial(WalkEnv), **sizes, progress_bar=False)
    assert [result.n_episodes for result in results] == [3, 3]
    assert results[0].seeds == results[1].seeds
    assert results[0].returns != results[1].returns


def walk(side: float, seed: int) -> Episode:
    """Walk from the middle to one side; the observation is the place alone."""
    places = side * np.linspace(0, 1, 9)[:, None] + 0.01 * np.random.default_rng(seed).standard_normal((9, 1))
    return Episode(places, np.full((8, 1), 0.5 * side), np.ones(8), task=f"side {side}")


def test_where_to_go_is_learned_where_the_example_alone_says_it():
    losses: list[float] = []
    walks = [walk(side, seed) for seed in range(4) for side in (-1.0, 1.0)]
    sizes = dict(prompts_per_batch=2, token_dim=16, learning_rate=1e-2)
    model = tiny(walks, text_encoder=None, trajectory_dropout=0.0, **sizes)
    model.learn(60, on_step=lambda loss: losses.append(loss.item()))
    assert np.mean(losses[-5:]) < 0.1 * losses[0]
    act = model.make_act([Prompt(None, walk(side, 9)) for side in (-1.0, 1.0)])
    assert_allclose(act(np.zeros((2, 1), np.float32), [0, 1], np.zeros(2)), [[-0.5], [0.5]], atol=0.2)


def test_the_same_seed_learns_the_same():
    assert differing(*(tiny().learn(3).network for _ in range(2))) == set()


def test_a_learning_that_goes_astray_is_noticed():
    with pytest.raises(RuntimeError, match=r"diverged: the weight .* is not finite"):
        tiny(learning_rate=1e30).learn(3)


@pytest.mark.parametrize("changes", [{}, dict(text_encoder=None)], ids=["with text", "without text"])
def test_a_loaded_model_acts_as_the_saved_one(changes, tmp_path):
    model = tiny(**changes).learn(2)
    model.save(tmp_path / "prompt_dt")
    prompts = PROMPTS if changes == {} else [PROMPTS[1]] * 3

    def actions(model: PromptDT) -> list[np.ndarray]:
        act = model.make_act(prompts)
        return [act(seen, [0, 1, 2], np.ones(3)) for seen in random_observations(3)]

    loaded = PromptDT.load(tmp_path / "prompt_dt", device="cpu")
    for copied in (loaded, pickle.loads(pickle.dumps(model))):
        assert_array_equal(actions(copied), actions(model))


def test_a_loaded_model_has_no_data_to_learn_from():
    file = io.BytesIO()
    tiny().save(file)
    with pytest.raises(ValueError, match="without data cannot learn"):
        PromptDT.load(io.BytesIO(file.getvalue())).learn(1)


def test_the_files_of_the_method_and_of_the_baseline_are_not_taken_for_each_other(tmp_path):
    tiny().save(tmp_path / "baseline")
    LLMDPD("MlpPolicy", dataset=make_episodes(), text_encoder=None, device="cpu").save(tmp_path / "method")
    with pytest.raises(ValueError, match=r"holds no PromptDT; LLMDPD\.load reads"):
        PromptDT.load(tmp_path / "method")
    with pytest.raises(ValueError, match="it holds the entry 'network'"):
        LLMDPD.load(tmp_path / "baseline")


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model = tiny()
    model._arguments["token_dim"] = 2**20
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"describes no PromptDT .*the weight"):
        PromptDT.load(tmp_path / "model")


def test_observations_that_are_no_vector_are_refused():
    with pytest.raises(ValueError, match=r"one vector, Box of shape \(n,\), got Dict"):
        tiny(with_dicts(make_episodes()))


def test_sizes_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="`token_dim` must be a multiple of `n_heads`, got 8 and 3"):
        tiny(n_heads=3)
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of `prompts_per_batch`"):
        tiny(batch_size=7).learn(1)


def test_a_features_extractor_that_learns_is_refused():
    message = r"must be one of \('flatten', 'metaworld_relative'\), got 'nature_cnn'"
    with pytest.raises(ValueError, match=message):
        tiny(features_extractor_class="nature_cnn")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt(None, (np.zeros((3, 4)), np.zeros((3, 2)))), r"`trajectory`: a row of `observations`"),
        (Prompt("do task number 0"), "trained without task texts"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        tiny(text_encoder=None).make_act([prompt])


def test_a_vector_of_another_encoder_is_refused(model):
    with pytest.raises(ValueError, match="has 3 entries, and this model reads 16"):
        model.make_act([Prompt(text_vector=np.zeros(3))])


def test_it_has_about_as_many_weights_as_the_papers_networks():
    episodes = make_episodes(observation_dim=39, action_dim=4)
    encoder = dict(text_encoder="hashing:384", device="cpu")
    baseline = PromptDT(episodes, prompts_per_batch=8, **encoder)
    method = LLMDPD("MlpPolicy", dataset=episodes, **encoder, **presets.PAPER)
    assert isinstance(baseline.observation_space, spaces.Box)
    n_baseline, n_actor, n_critic = (
        sum(weights.numel() for weights in network.parameters())
        for network in (baseline.network, method.actor, method.critic)
    )
    assert n_baseline == pytest.approx(n_actor + n_critic, rel=0.15)
