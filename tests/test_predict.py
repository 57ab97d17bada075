"""Acting: shapes, units, what counts as a prompt, and the tools of SB3 that know of none."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import make_episodes, tiny_model
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from test_llmdpd import global_generators
from test_losses import record_calls
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, Episode, OfflineDataset, Prompt
from sb3_llmdpd.llmdpd.critic import choose
from sb3_llmdpd.networks.attention import CONDITIONINGS
from sb3_llmdpd.prompts.prompt import Trajectory
from sb3_llmdpd.prompts.text_encoders import make_text_encoder

TEXTS = tuple(f"do task number {i}" for i in range(3))
EPISODES = make_episodes()
EXAMPLE = EPISODES[0]
OBSERVATIONS = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
ROWS = OBSERVATIONS[:3]
TWO_FOR_SIX = "Got 2 prompts for 6 observations"
SENTENCE_OF_ANOTHER_SIZE = (
    r"has 8 entries, and this model reads 256: make it.*TaskTextWrapper\(env, task_text, 'hashing:256'\)"
)


@pytest.fixture(scope="module")
def trained() -> LLMDPD:
    return tiny_model(dataset=EPISODES, learning_rate=3e-3, eta=0.1).learn(40, log_interval=None)


@pytest.fixture
def model(trained: LLMDPD) -> Iterator[LLMDPD]:
    yield trained
    trained.set_task()


def act(model: Any, observations: Any = OBSERVATIONS, **prompt: Any) -> np.ndarray:
    return model.predict(observations, deterministic=True, **prompt)[0]


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    """Compare actions up to the rounding of products of other sizes."""
    assert_allclose(a, b, rtol=0, atol=2e-5)


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() > 1e-3)


@pytest.mark.parametrize("leading", [(), (1,), (2,), (5,), (7,)])
def test_actions_come_in_the_shape_of_the_observations(model, leading):
    actions, state = model.predict(np.zeros((*leading, 5)), task_text=TEXTS[0])
    assert (actions.shape, actions.dtype, state) == ((*leading, 2), np.float32, None)


def test_the_state_is_handed_back(model):
    state = (np.ones(1),)
    assert model.predict(OBSERVATIONS, state, np.ones(7), task_text=TEXTS[0])[1] is state


@pytest.mark.parametrize("n_candidates", [1, 4])
def test_a_deterministic_action_does_not_depend_on_the_batch(model, monkeypatch, n_candidates):
    monkeypatch.setattr(model, "n_candidates", n_candidates)
    alone = [act(model, observation, task_text=TEXTS[0]) for observation in OBSERVATIONS]
    assert_same(act(model, task_text=TEXTS[0]), np.stack(alone))


@pytest.mark.parametrize("n_candidates", [1, 4])
def test_a_deterministic_action_repeats(model, monkeypatch, n_candidates):
    monkeypatch.setattr(model, "n_candidates", n_candidates)
    monkeypatch.setattr(model, "candidate_temperature", 1.0)
    assert_array_equal(act(model, task_text=TEXTS[0]), act(model, task_text=TEXTS[0]))


def test_an_action_with_noise_does_not_repeat(model):
    first, second = (model.predict(OBSERVATIONS, task_text=TEXTS[0])[0] for _ in range(2))
    assert differ(first, second)


def test_acting_draws_from_no_global_generator(model):
    before = global_generators()
    model.predict(OBSERVATIONS, task_text=TEXTS[0])
    assert before == global_generators()


@pytest.mark.parametrize(
    "prompt",
    [
        dict(task_text=TEXTS[1]),
        dict(task_text=(TEXTS[1],)),
        dict(trajectory=EPISODES[0]),
        dict(trajectory=[EPISODES[0]]),
        dict(prompt=Prompt(TEXTS[1], EPISODES[0])),
    ],
    ids=["text", "one text in a list", "trajectory", "one trajectory in a list", "prompt"],
)
def test_one_prompt_counts_for_all_rows(model, prompt):
    ((key, value),) = prompt.items()
    entry = value[0] if isinstance(value, tuple | list) else value
    assert_same(act(model, **prompt), act(model, **{key: [entry] * len(OBSERVATIONS)}))


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (dict(task_text=[TEXTS[0], None, TEXTS[2]]), [Prompt(TEXTS[0]), Prompt(), Prompt(TEXTS[2])]),
        (
            dict(trajectory=[EPISODES[0], None, EPISODES[9]]),
            [Prompt(trajectory=EPISODES[0]), Prompt(), Prompt(trajectory=EPISODES[9])],
        ),
        (
            dict(task_text=TEXTS[0], trajectory=[EPISODES[0], EPISODES[5]]),
            [Prompt(TEXTS[0], EPISODES[0]), Prompt(TEXTS[0], EPISODES[5])],
        ),
    ],
    ids=["text or none", "example or none", "one text and an example for each"],
)
def test_each_row_can_have_a_prompt_of_its_own(model, prompt, prompts):
    alone = [act(model, row, prompt=each) for row, each in zip(OBSERVATIONS, prompts, strict=False)]
    assert_same(act(model, OBSERVATIONS[: len(prompts)], **prompt), np.stack(alone))


@pytest.mark.parametrize(
    "same",
    [
        Trajectory(EXAMPLE.observations, EXAMPLE.actions),
        (EXAMPLE.observations, EXAMPLE.actions),
        (EXAMPLE.observations[:-1], EXAMPLE.actions),
        (EXAMPLE.observations.tolist(), EXAMPLE.actions.tolist()),
    ],
    ids=["Trajectory", "pair with the last observation", "pair without it", "pair of lists"],
)
def test_an_example_may_come_in_many_forms(model, same):
    assert_same(act(model, trajectory=same), act(model, trajectory=EXAMPLE))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Prompt(TEXTS[0]), Prompt(TEXTS[1])),
        (Prompt(trajectory=EXAMPLE), Prompt(trajectory=EPISODES[8])),
        (Prompt(TEXTS[0], EXAMPLE), Prompt(TEXTS[1], EXAMPLE)),
        (Prompt(TEXTS[0], EXAMPLE), Prompt(TEXTS[0], EPISODES[8])),
        (Prompt(TEXTS[0]), Prompt()),
    ],
    ids=["text", "trajectory", "text beside a trajectory", "trajectory beside a text", "none"],
)
def test_another_prompt_means_another_action(model, one, other):
    assert differ(act(model, prompt=one), act(model, prompt=other))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_example_is_seen_under_either_conditioning(conditioning):
    model = tiny_model(dataset=EPISODES, policy_kwargs=dict(conditioning=conditioning), text_encoder=None)
    assert not np.array_equal(act(model, trajectory=EPISODES[0]), act(model, trajectory=EPISODES[8]))


def test_the_null_prompt_is_the_learned_nulls():
    model = tiny_model(dataset=EPISODES, policy_kwargs=dict(conditioning="concat"))
    encoder = model.policy.actor_target.prompt_encoder
    vectors = model.prompter.encode([Prompt()]).vectors
    assert th.equal(vectors[0], th.cat([encoder.null_text, encoder.null_trajectory]))


def test_the_scaled_example_is_what_training_saw():
    """Units: an example is given in environment units, as the data are."""
    dataset = units_dataset()
    model = tiny_model(dataset=dataset)
    prompts = model.prompter.batch([Prompt(trajectory=dataset.episodes[0])])
    assert_allclose(prompts.actions[0], np.tile([0.5, -0.5], (10, 1)), atol=1e-6)


def pair(observations: Any, actions: Any = ((0.0, 0.0),) * 3) -> dict[str, Any]:
    return dict(trajectory=(observations, np.array(actions)))


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ({}, ValueError, r"which task to do: pass predict\(.*task_text=.*set_task.*prompt=Prompt\(\)"),
        (dict(task_text=TEXTS[:2]), ValueError, f"^{TWO_FOR_SIX}: pass one prompt, or one per observation"),
        (dict(trajectory=[EXAMPLE] * 2), ValueError, f"^{TWO_FOR_SIX}"),
        (dict(task_text=TEXTS[:2], trajectory=[None] * 3), ValueError, "2 task texts and 3 trajectories"),
        (dict(task_text=[]), ValueError, "0 task texts"),
        (dict(task_text=TEXTS[0], prompt=Prompt()), ValueError, "either `prompt`, or `task_text`"),
        (dict(prompt=[]), TypeError, "must be a Prompt or a non-empty list"),
        (dict(prompt=3), TypeError, "must be a Prompt.*got 3"),
        (dict(prompt="go"), TypeError, "must be a Prompt.*'go'"),
        (dict(task_text="  "), ValueError, "`task_text`: a task text is empty"),
        (dict(task_text=3), TypeError, "`task_text` must be a string, got int"),
        (dict(task_text=[TEXTS[0], 3]), TypeError, "`task_text` must be a string, got int"),
        (dict(trajectory="go"), TypeError, "must be an Episode, a Trajectory, or a pair.*got str"),
        (pair(np.full((3, 5), np.nan)), ValueError, "`trajectory`.*NaN"),
        (pair(np.zeros((3, 4))), ValueError, r"row of `observations`.*\(5,\), got \(4,\)"),
        (pair(np.zeros((3, 5)), np.zeros((3, 1))), ValueError, r"row of `actions`.*\(2,\), got \(1,\)"),
        (pair({"x": np.zeros((3, 5))}), ValueError, "observations are a dict"),
    ],
    ids=lambda value: None if isinstance(value, type | dict) else value,
)
def test_a_prompt_that_cannot_be_is_refused(model, prompt, error, message):
    with pytest.raises(error, match=message):
        model.predict(np.zeros((6, 5)), **prompt)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(4), r"\(4,\).*\(5,\)"),
        ((np.zeros(5), {}), "tuple.*pass the observation alone"),
        ({"x": np.zeros(5)}, r"must be an array, got a dict with the keys \['x'\]"),
        (np.array([0, 1, np.nan, 3, 4]), "the observation holds NaN, of which no network can make an action"),
    ],
    ids=["shape", "gymnasium's reset", "dict", "NaN"],
)
def test_an_observation_of_another_kind_is_refused(model, observation, message):
    with pytest.raises(ValueError, match=message):
        model.predict(observation, task_text=TEXTS[0])


def test_a_model_without_texts_refuses_a_sentence():
    with pytest.raises(ValueError, match=r"trained without task texts.*prompt it with a trajectory"):
        tiny_model(text_encoder=None).predict(OBSERVATIONS, task_text=TEXTS[0])


def test_a_task_that_does_not_fit_leaves_the_task_of_before(model):
    model.set_task(task_text=TEXTS[0])
    with pytest.raises(ValueError, match="row of `observations`"):
        model.set_task(**pair(np.zeros((3, 4))))
    assert_same(act(model), act(model, task_text=TEXTS[0]))


@pytest.mark.parametrize("prompt", [Prompt(TEXTS[0]), Prompt()], ids=["with a text", "without texts"])
def test_a_model_of_one_task_needs_no_prompt(prompt):
    dataset = make_episodes(n_tasks=1, texts=prompt.text is not None)
    model = tiny_model(dataset=dataset, prompts_per_batch=1)
    assert_array_equal(act(model), act(model, prompt=prompt))
    assert_same(act(model.policy), act(model))


def test_the_task_that_is_set_counts_until_it_is_forgotten(model):
    model.set_task(task_text=TEXTS[1], trajectory=EPISODES[4])
    assert_array_equal(act(model), act(model, task_text=TEXTS[1], trajectory=EPISODES[4]))
    model.set_task()
    with pytest.raises(ValueError, match="which task"):
        act(model)


def test_a_prompt_goes_before_the_task_that_is_set(model):
    expected = act(model, task_text=TEXTS[1])
    model.set_task(task_text=TEXTS[0])
    assert_array_equal(act(model, task_text=TEXTS[1]), expected)


def test_using_a_task_restores_the_one_of_before(model):
    model.set_task(task_text=TEXTS[0])
    with model.using_task(task_text=TEXTS[1]) as same:
        assert_array_equal(act(same), act(model, task_text=TEXTS[1]))
    assert_array_equal(act(model), act(model, task_text=TEXTS[0]))
    assert_same(act(model.policy), act(model, task_text=TEXTS[0]))


def test_using_a_task_restores_the_one_of_before_after_an_error(model):
    model.set_task(task_text=TEXTS[0])
    with pytest.raises(ValueError, match=r"\(4,\)"), model.using_task(task_text=TEXTS[1]):
        model.predict(np.zeros(4))
    assert_array_equal(act(model), act(model, task_text=TEXTS[0]))


def test_a_prompted_view_keeps_its_task_whatever_the_model_is_told(model):
    view = model.prompted(trajectory=EPISODES[8])
    model.set_task(task_text=TEXTS[0])
    assert_array_equal(act(view), act(model, trajectory=EPISODES[8]))


def test_a_prompted_view_needs_a_prompt(model):
    message = "`prompted` needs a task: pass `task_text`, `trajectory`, `trajectories` or `prompt`"
    with pytest.raises(ValueError, match=message):
        model.prompted()


@pytest.mark.parametrize("n_envs", [1, 2, 5, 7])
@pytest.mark.parametrize("who", ["model", "policy", "view"])
def test_sb3_evaluates_a_model_that_was_told_its_task(model, n_envs, who):
    model.set_task(task_text=TEXTS[1])
    acting: Any = {"model": model, "policy": model.policy, "view": model.prompted(task_text=TEXTS[1])}[who]
    mean_reward, _ = evaluate_policy(acting, make_vec_env(ActionEnv, n_envs), n_eval_episodes=n_envs)
    assert mean_reward == pytest.approx(3 * act(model, np.full(5, 0.5), task_text=TEXTS[1])[0], abs=1e-4)


def test_each_sub_environment_can_have_a_task_of_its_own(model):
    model.set_task(task_text=TEXTS)
    envs = make_vec_env(ActionEnv, 3)
    rewards, _ = evaluate_policy(model, envs, n_eval_episodes=3, return_episode_rewards=True)
    expected = [3 * act(model, np.full(5, 0.5), task_text=text)[0] for text in TEXTS]
    assert_allclose(rewards, expected, atol=1e-4)


def test_the_policy_alone_without_a_task_says_what_to_do(model):
    message = r"no prompt: use model.predict\(..., task_text=...\), or model.set_task"
    with pytest.raises(ValueError, match=message):
        model.policy.predict(OBSERVATIONS)


def test_the_policy_alone_refuses_two_prompts_for_six_observations(model):
    model.set_task(task_text=TEXTS[:2])
    with pytest.raises(ValueError, match=TWO_FOR_SIX):
        model.policy.predict(np.zeros((6, 5)))


def carrying(observations: np.ndarray, *texts: str) -> dict[str, np.ndarray]:
    """Make observations of `TaskTextWrapper`: one text for a single observation, else one for each row."""
    vectors = make_text_encoder("hashing").encode(texts)
    return carrying_vectors(observations, vectors if observations.ndim > 1 else vectors[0])


def carrying_vectors(observations: np.ndarray, vectors: np.ndarray) -> dict[str, np.ndarray]:
    return {"observation": observations, "task_embedding": vectors}


@pytest.mark.parametrize(
    ("observations", "carried", "text"),
    [(OBSERVATIONS[0], TEXTS[1:2], TEXTS[1]), (OBSERVATIONS, TEXTS[1:2] * 7, TEXTS[1]), (ROWS, TEXTS, TEXTS)],
    ids=["one observation", "the same for all rows", "one for each row"],
)
def test_the_sentence_in_an_observation_is_the_task(model, observations, carried, text):
    expected = act(model, observations, task_text=text)
    assert_array_equal(act(model, carrying(observations, *carried)), expected)


def test_the_sentence_stands_beside_the_keys_of_a_dict():
    model, rows = dict_model()[0], {"a": np.zeros((2, 3)), "b": np.zeros((2, 3))}
    sentences = {"task_embedding": make_text_encoder("hashing").encode(TEXTS[:2])}
    assert_array_equal(act(model, rows | sentences), act(model, rows, task_text=TEXTS[:2]))


def test_the_sentence_in_an_observation_goes_before_the_one_that_is_set(model):
    model.set_task(task_text=TEXTS[0])
    expected = act(model, OBSERVATIONS[0], task_text=TEXTS[1])
    assert_array_equal(act(model, carrying(OBSERVATIONS[0], TEXTS[1])), expected)


@pytest.mark.parametrize("examples", [EPISODES[8], [EPISODES[8], EPISODES[4]]], ids=["one", "one for each"])
def test_the_example_that_is_set_joins_the_sentence_in_an_observation(model, examples):
    expected = act(model, OBSERVATIONS[:2], task_text=TEXTS[:2], trajectory=examples)
    model.set_task(task_text=TEXTS[2], trajectory=examples)
    assert_array_equal(act(model, carrying(OBSERVATIONS[:2], *TEXTS[:2])), expected)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (dict(task_text=TEXTS[0]), dict(task_text=TEXTS[0])),
        (dict(task_text=[TEXTS[0], None]), dict(task_text=[TEXTS[0], TEXTS[2]])),
        (dict(trajectory=EPISODES[8]), dict(task_text=TEXTS[1:], trajectory=EPISODES[8])),
        *[(dict(prompt=p), dict(prompt=p)) for p in (Prompt(TEXTS[0]), Prompt(None, EPISODES[8]), Prompt())],
    ],
    ids=["text", "text for one of two", "example", "prompt", "prompt without text", "no prompt"],
)
def test_what_predict_is_told_goes_before_the_sentence_in_the_observation(model, given, meant):
    model.set_task(task_text=TEXTS[2])
    observations = carrying(OBSERVATIONS[:2], *TEXTS[1:])
    expected = act(model, OBSERVATIONS[:2], **meant)
    assert_array_equal(act(model, observations, **given), expected)
    assert_array_equal(act(model.prompted(**given), observations), expected)


@pytest.mark.parametrize(
    ("observations", "prompt", "message"),
    [
        (carrying_vectors(OBSERVATIONS[:2], np.ones((2, 8))), {}, SENTENCE_OF_ANOTHER_SIZE),
        (carrying_vectors(OBSERVATIONS[:2], np.full((2, 256), np.nan)), {}, "finite numbers, got NaN"),
        (carrying_vectors(OBSERVATIONS[:2], np.ones((2, 1, 256))), {}, r"got shape \(1, 256\)"),
        (carrying(ROWS, *TEXTS[:2]), {}, "^Got 2 prompts for 3 observations"),
        (carrying(ROWS, *TEXTS), dict(trajectory=EPISODES[:2]), "^Got 2 prompts for 3 observations"),
        ({"x": ROWS, "task_embedding": np.ones((3, 256))}, {}, r"an array, got a dict with the keys \['x'\]"),
    ],
    ids=["size", "NaN", "shape", "too few sentences", "too few examples", "another key"],
)
def test_a_sentence_in_an_observation_that_cannot_be_is_refused(model, observations, prompt, message):
    with pytest.raises(ValueError, match=message):
        model.predict(observations, **prompt)


def test_a_model_without_texts_refuses_the_sentence_in_an_observation():
    message = "trained without task texts.*nor the sentence in an observation of TaskTextWrapper"
    with pytest.raises(ValueError, match=message):
        tiny_model(text_encoder=None).predict(carrying(OBSERVATIONS[0], TEXTS[0]))


@pytest.fixture
def n_encoded(model: LLMDPD) -> Iterator[Callable[[], int]]:
    """Count the prompts that the acting actor encodes."""
    model.prompter._encoded = None
    calls: list[int] = []
    encoder = model.policy.actor_target.prompt_encoder
    handle = encoder.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0].has_text)))
    yield lambda: sum(calls)
    handle.remove()


@pytest.mark.parametrize(
    "prompt", [dict(task_text=TEXTS[0]), dict(trajectory=EXAMPLE), dict(prompt=Prompt(TEXTS[0], EXAMPLE))]
)
def test_the_same_prompt_is_encoded_once_and_not_at_every_step(model, n_encoded, prompt):
    for _ in range(4):
        model.predict(OBSERVATIONS, **prompt)
    assert n_encoded() == 1


def test_the_task_that_is_set_is_encoded_once(model, n_encoded):
    model.set_task(trajectory=(EXAMPLE.observations, EXAMPLE.actions))
    for _ in range(4):
        model.predict(OBSERVATIONS)
    assert n_encoded() == 1


@pytest.mark.parametrize(
    ("texts", "count"), [(TEXTS[:1] * 3, 1), (TEXTS, 3)], ids=["one sentence", "three sentences"]
)
def test_the_sentences_in_observations_are_encoded_once(model, n_encoded, texts, count):
    for step in range(4):
        model.predict(carrying(OBSERVATIONS[step : step + 3], *texts))
    assert n_encoded() == count


def test_a_new_prompt_is_encoded(model, n_encoded):
    for text in (TEXTS[0], TEXTS[1], TEXTS[0]):
        model.predict(OBSERVATIONS, task_text=text)
    assert n_encoded() == 3


def test_after_more_training_the_prompt_is_encoded_anew():
    model = tiny_model(dataset=EPISODES)
    model.set_task(task_text=TEXTS[0])
    before = act(model)
    model.learn(2)
    assert differ(act(model), before)
    assert_array_equal(act(model), act(model, prompt=Prompt(TEXTS[0])))
    assert_same(act(model.policy), act(model))


def test_after_other_weights_were_set_the_prompt_is_encoded_anew(model):
    other = tiny_model(dataset=EPISODES, seed=5)
    other.set_task(task_text=TEXTS[0])
    act(other)
    other.set_parameters(model.get_parameters())
    assert_array_equal(act(other), act(model, task_text=TEXTS[0]))


def test_of_several_candidates_the_critics_best_is_taken():
    model = tiny_model(n_candidates=6)
    noise = th.randn((5, 1, 7 * 6, 2), generator=th.Generator().set_state(model.action_generator.get_state()))
    actor, prompts = model.actor_target, model.prompter.encode([Prompt(TEXTS[0])])
    with th.no_grad():
        features = actor.encode_observations(th.as_tensor(OBSERVATIONS))[None].repeat_interleave(6, dim=1)
        candidates = actor.sample(actor.condition(features, prompts), noise)  # (1, 7 * 6, 2)
        values = model.critic_target(features, prompts, candidates).min(dim=0).values.view(7, 6)
    expected = candidates.view(7, 6, 2)[th.arange(7), values.argmax(dim=1)]
    assert_same(model.predict(OBSERVATIONS, task_text=TEXTS[0])[0], expected.numpy())


def test_the_first_deterministic_candidate_is_the_action_without_noise(model, monkeypatch):
    expected, worse_and_worse = act(model, task_text=TEXTS[0]), -th.arange(28.0).expand(2, 1, 28)
    monkeypatch.setattr(model, "n_candidates", 4)
    monkeypatch.setattr(model.critic_target, "forward", lambda *_: worse_and_worse)
    assert_same(act(model, task_text=TEXTS[0]), expected)


@pytest.mark.parametrize(("temperature", "share"), [(0.0, 1.0), (1.0, 0.804), (5.0, 0.570)])
def test_a_temperature_draws_candidates_by_their_standardised_value(temperature, share):
    """The better of two is drawn with 1 / (1 + exp(-sqrt(2) / temperature)), whatever the scale of Q."""
    n, generator = 20_000, th.Generator().manual_seed(0)
    actions = th.tensor([0.0, 1.0]).repeat(n)[None, :, None]
    values = th.tensor([-300.0, 100.0]).repeat(n)[None]
    chosen = choose(actions, values, 2, temperature, generator)
    assert chosen.shape == (1, n, 1)
    assert chosen.mean().item() == pytest.approx(share, abs=0.01)


def units_dataset() -> OfflineDataset:
    """Actions in [-2, 4] x [0, 1], always (2.5, 0.25)."""
    rng, actions = np.random.default_rng(0), np.tile([2.5, 0.25], (10, 1))
    space = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([4.0, 1.0], np.float32))
    episodes = [
        Episode(rng.standard_normal((11, 5)), actions, np.zeros(10), task_texts=("hold still",))
        for _ in range(3)
    ]
    return OfflineDataset.from_episodes(episodes, action_space=space)


def test_actions_are_in_environment_units(monkeypatch):
    model = tiny_model(dataset=units_dataset(), prompts_per_batch=1)
    scaled = th.tensor([0.5, -0.5]).expand(1, 7, 2)
    monkeypatch.setattr(model.policy.actor_target, "sample", lambda condition, noise, chain: scaled)
    assert_allclose(act(model), np.tile([2.5, 0.25], (7, 1)), atol=1e-6)


def test_noisy_actions_stay_in_the_space():
    model = tiny_model(dataset=units_dataset(), prompts_per_batch=1)
    actions, _ = model.predict(np.repeat(OBSERVATIONS, 20, axis=0))
    assert all(model.action_space.contains(action) for action in actions)


RNG = np.random.default_rng(0)
SPACES = {
    "one of several": (spaces.Discrete(4), RNG.integers(4, size=6)),
    "several of several": (spaces.MultiDiscrete([3, 4]), RNG.integers(3, size=(6, 2))),
    "switches": (spaces.MultiBinary(3), RNG.integers(2, size=(6, 3)).astype(np.int8)),
    "a matrix": (spaces.Box(-1, 1, (2, 3), np.float64), RNG.uniform(-1, 1, (6, 2, 3))),
}


@pytest.mark.parametrize("action_dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("space", "rows"), SPACES.values(), ids=SPACES)
def test_other_spaces_are_read_in_observation_and_example(space, rows, action_dtype):
    actions = np.random.default_rng(1).uniform(-1, 1, (5, 2))
    episode = Episode(rows, actions, np.zeros(5), task_texts=("go on",))
    dataset = OfflineDataset((episode, episode), space, spaces.Box(-3, 1, (2,), action_dtype))
    model = tiny_model(dataset=dataset, prompts_per_batch=1).learn(1)
    together, *alone = (act(model, x, prompt=Prompt("go on", episode)) for x in (rows, *rows))
    assert together.dtype == action_dtype
    assert_same(together, np.stack(alone))


def image_episodes(wrap: Callable[[np.ndarray], Any] = np.asarray) -> list[Episode]:
    """Make episodes of two tasks; their images are the same, however they are wrapped."""
    rng, episodes = np.random.default_rng(0), []
    for i in range(4):
        images = wrap(rng.integers(0, 256, (6, 3, 36, 36), dtype=np.uint8))
        actions, text = rng.uniform(-1, 1, (5, 2)), TEXTS[i % 2]
        episodes.append(Episode(images, actions, np.zeros(5), task=text, task_texts=(text,)))
    return episodes


def channels_last(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 3, 1)


def means(images: np.ndarray) -> dict[str, np.ndarray]:
    return {key: images.mean(axis=(2, 3)) for key in ("a", "b")}


def image_model(wrap: Callable[[np.ndarray], Any] = np.asarray) -> LLMDPD:
    how = dict(batch_size=4, prompts_per_batch=2, seed=3)  # with a seed whose actions are not clipped
    model = tiny_model(policy="CnnPolicy", dataset=image_episodes(wrap), **how)
    return model.learn(2, log_interval=None)


def dict_model(wrap: Callable[[np.ndarray], Any] = means) -> tuple[LLMDPD, list[Episode]]:
    """Make a model of dict observations, and its data."""
    episodes, how = image_episodes(wrap), dict(batch_size=4, prompts_per_batch=2)
    return tiny_model(policy="MultiInputPolicy", dataset=episodes, **how), episodes


@pytest.mark.parametrize("wrap", [np.asarray, channels_last], ids=["channels first", "channels last"])
def test_images_are_read_in_either_order(wrap):
    model, examples = image_model(wrap), (image_episodes()[0], image_episodes(channels_last)[0])
    actions = [act(model, example.observations[:2].copy(), trajectory=example) for example in examples]
    assert_same(actions[0], actions[1])
    assert np.abs(actions[0]).max() < 1  # where every action is clipped, all would look the same


def test_the_order_of_an_images_channels_changes_nothing_in_training():
    first, last = (image_model(wrap).policy.state_dict() for wrap in (np.asarray, channels_last))
    assert all(th.allclose(first[name], last[name], atol=1e-5) for name in first)


def test_a_prompt_of_dict_observations_changes_the_action():
    model, episodes = dict_model(lambda images: {"image": images, "mean": images.mean(axis=(2, 3)) / 255})
    model.learn(2, log_interval=None)
    rows = {key: value[:3].copy() for key, value in episodes[0].observations.items()}
    one, other = (act(model, rows, trajectory=example) for example in episodes[:2])
    assert one.shape == (3, 2)
    assert not np.array_equal(one, other)


def test_a_dict_observation_without_a_key_is_refused():
    message = r"a dict with the keys \['a', 'b'\], got a dict with the keys \['a'\]"
    with pytest.raises(ValueError, match=message):
        dict_model()[0].predict({"a": np.zeros(3)}, task_text=TEXTS[0])


def test_fewer_steps_ask_the_denoiser_less_often():
    model = tiny_model(sampler="dpm_solver++", n_sampling_steps=3)
    calls = record_calls(model.policy.actor_target.denoiser)
    model.predict(np.zeros((4, 5), np.float32), task_text=TEXTS[1])
    assert len(calls) == 3


def test_ddim_in_all_steps_is_ddpm_without_noise_where_there_is_but_one_step():
    models = (tiny_model(sampler=s, policy_kwargs=dict(n_diffusion_steps=1)) for s in ("ddpm", "ddim"))
    assert_array_equal(*(model.predict(OBSERVATIONS, task_text=TEXTS[1])[0] for model in models))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(sampler="euler"), "`sampler` must be one of"),
        (dict(sampler="ddim", n_sampling_steps=6), r"`n_sampling_steps` must be in \[1, 5\]"),
        (dict(n_sampling_steps=2), "`sampler='ddpm'` takes all 5 steps"),
    ],
)
def test_a_model_with_a_chain_that_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**given)


def test_a_loaded_model_samples_as_the_saved_one_or_as_is_said(tmp_path):
    path = tmp_path / "model.zip"
    tiny_model(sampler="ddim", n_sampling_steps=2).save(path)
    models = (LLMDPD.load(path), LLMDPD.load(path, sampler="ddpm", n_sampling_steps=None))
    assert [(m.sampler, m.n_sampling_steps) for m in models] == [("ddim", 2), ("ddpm", None)]


@pytest.mark.parametrize(
    "texts", [np.array(TEXTS[:2]), np.array(TEXTS[:2], object)], ids=["strings", "objects"]
)
def test_an_array_of_sentences_is_a_list_of_them(model, texts):
    expected = model.predict(OBSERVATIONS[:2], deterministic=True, task_text=list(TEXTS[:2]))[0]
    assert_array_equal(model.predict(OBSERVATIONS[:2], deterministic=True, task_text=texts)[0], expected)


def test_a_list_of_observations_and_actions_is_answered_with_the_pair_that_it_should_be(model):
    observations, actions = np.zeros((4, 5), np.float32), np.zeros((3, 2), np.float32)
    with pytest.raises(TypeError, match=r"pair in parentheses: trajectory=\(observations, actions\)"):
        model.predict(OBSERVATIONS, trajectory=[observations, actions])
