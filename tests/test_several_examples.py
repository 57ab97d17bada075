"""Acting with several examples of a task: what may be given, that rows stay apart, and what a model reads."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import make_episodes, tiny_model, with_dicts
from numpy.testing import assert_allclose, assert_array_equal

from sb3_llmdpd import LLMDPD, Episode, Prompt
from sb3_llmdpd.llmdpd.prompter import as_prompts
from sb3_llmdpd.networks.attention import CONDITIONINGS
from sb3_llmdpd.prompts.prompt import Trajectory, window_steps
from sb3_llmdpd.prompts.text_encoders import make_text_encoder

TEXTS = [f"do task number {i}" for i in range(3)]
OBSERVATIONS = np.random.default_rng(11).standard_normal((4, 5)).astype(np.float32)
LENGTHS = (20, 3, 45, 1, 7)


def example(length: int, observation_dim: int = 5, action_dim: int = 2, seed: int = 0) -> Episode:
    sizes = dict(observation_dim=observation_dim, action_dim=action_dim)
    return make_episodes(1, 1, length, seed=100 * seed + length, **sizes)[0]


EXAMPLES = [example(length) for length in LENGTHS]


def as_pair(episode: Episode) -> tuple[Any, np.ndarray]:
    return episode.observations, episode.actions


@pytest.fixture(scope="module", params=CONDITIONINGS)
def model(request: pytest.FixtureRequest) -> LLMDPD:
    """A model of each conditioning, which saw one to three examples of each task."""
    policy_kwargs = dict(conditioning=request.param)
    model = tiny_model(policy_kwargs=policy_kwargs, examples_per_prompt=(1, 3))
    return model.learn(5, log_interval=None)


@pytest.fixture(scope="module")
def cross_attention() -> LLMDPD:
    policy_kwargs = dict(conditioning="cross_attention")
    return tiny_model(policy_kwargs=policy_kwargs).learn(5, log_interval=None)


def act(model: Any, observations: Any = OBSERVATIONS, **prompt: Any) -> np.ndarray:
    return model.predict(observations, deterministic=True, **prompt)[0]


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    """Compare actions up to the rounding of products of other sizes."""
    assert_allclose(a, b, rtol=0, atol=2e-5)


def test_one_example_acts_the_same_alone_and_in_a_list(model):
    expected = act(model, trajectory=EXAMPLES[0])
    assert_array_equal(act(model, trajectories=[EXAMPLES[0]]), expected)
    assert_array_equal(act(model, prompt=Prompt(trajectories=[EXAMPLES[0]])), expected)


def test_the_order_of_the_examples_changes_no_action(model):
    assert_same(act(model, trajectories=EXAMPLES), act(model, trajectories=EXAMPLES[::-1]))


BY_ROW = [[EXAMPLES[0]], EXAMPLES[1:], None, [EXAMPLES[3], EXAMPLES[3]]]


def test_an_action_does_not_depend_on_number_and_lengths_of_the_other_rows_examples(model):
    alone = [
        act(model, row, prompt=Prompt(trajectories=shown or ()))
        for row, shown in zip(OBSERVATIONS, BY_ROW, strict=True)
    ]
    assert_same(act(model, trajectories=BY_ROW), np.stack(alone))


def test_one_list_of_examples_counts_for_all_rows(model):
    assert_same(act(model, trajectories=EXAMPLES), act(model, trajectories=[EXAMPLES] * len(OBSERVATIONS)))


def test_a_sentence_for_each_row_joins_examples_for_all(model):
    alone = [
        act(model, row, task_text=text, trajectories=EXAMPLES[:3])
        for row, text in zip(OBSERVATIONS[:3], TEXTS, strict=True)
    ]
    assert_same(act(model, OBSERVATIONS[:3], task_text=TEXTS, trajectories=EXAMPLES[:3]), np.stack(alone))


def test_every_form_of_an_example_may_stand_in_the_list(cross_attention):
    forms = [as_pair(EXAMPLES[0]), Trajectory(*as_pair(EXAMPLES[1])), EXAMPLES[2]]
    assert_same(act(cross_attention, trajectories=forms), act(cross_attention, trajectories=EXAMPLES[:3]))


@pytest.mark.parametrize("how", ["set_task", "using_task", "prompted"])
def test_the_examples_that_are_set_count(cross_attention, how):
    expected = act(cross_attention, trajectories=EXAMPLES[:3])
    if how == "prompted":
        assert_array_equal(act(cross_attention.prompted(trajectories=EXAMPLES[:3])), expected)
        return
    if how == "using_task":
        with cross_attention.using_task(trajectories=EXAMPLES[:3]):
            actions = act(cross_attention)
    else:
        cross_attention.set_task(trajectories=EXAMPLES[:3])
        actions = act(cross_attention)
        cross_attention.set_task()
    assert_array_equal(actions, expected)


def test_the_examples_that_are_set_join_the_sentence_in_an_observation(cross_attention):
    vectors = make_text_encoder("hashing").encode([TEXTS[1]] * len(OBSERVATIONS))
    with cross_attention.using_task(trajectories=EXAMPLES[:3]):
        actions = act(cross_attention, {"observation": OBSERVATIONS, "task_embedding": vectors})
    expected = act(cross_attention, task_text=TEXTS[1], trajectories=EXAMPLES[:3])
    assert_same(actions, expected)


def test_examples_are_encoded_once_and_not_at_every_step(model):
    model.prompter._encoded = None
    calls: list[int] = []
    encoder = model.policy.actor_target.prompt_encoder
    handle = encoder.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0].has_text)))
    for _ in range(3):
        model.predict(OBSERVATIONS, trajectories=EXAMPLES)
    handle.remove()
    assert calls == [1]


# What cannot be given


ONE, OTHER = EXAMPLES[0], EXAMPLES[1]
NEITHER = "`trajectories` must be a list of at least one example, or a list of such lists"
FORMS = "must be an Episode, a Trajectory, or a pair"


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        (dict(trajectories=[]), TypeError, f"{NEITHER}.*got none"),
        (dict(trajectories=ONE), TypeError, f"{NEITHER}.*got Episode"),
        (dict(trajectories="go"), TypeError, f"{NEITHER}.*got str"),
        (dict(trajectories=as_pair(ONE)), TypeError, f"{FORMS}.*got ndarray"),
        (dict(trajectories=[*as_pair(ONE)]), TypeError, f"{FORMS}.*got ndarray"),
        (dict(trajectories=[ONE, "go"]), TypeError, f"{FORMS}.*got str"),
        (dict(trajectories=[ONE, [OTHER]]), TypeError, "`trajectories` holds lists beside examples"),
        (dict(trajectories=[ONE, None]), TypeError, "`trajectories` holds lists beside examples"),
        (dict(trajectory=ONE, trajectories=[ONE]), ValueError, "either one example as `trajectory`, or sev"),
        (dict(prompt=Prompt(), trajectories=[ONE]), ValueError, "either `prompt`, or `task_text`"),
        (dict(trajectories=[[ONE], [OTHER]]), ValueError, "^Got 2 prompts for 4 observations"),
        (dict(task_text=TEXTS, trajectories=[[ONE]] * 2), ValueError, "3 task texts and 2 trajectories"),
        (dict(trajectories=[ONE, example(4, observation_dim=6)]), ValueError, r"`observations`.*\(6,\)"),
        (dict(trajectories=[ONE, example(4, action_dim=3)]), ValueError, r"`actions`.*\(3,\)"),
    ],
    ids=lambda value: None if isinstance(value, type | dict) else value,
)
def test_examples_that_cannot_be_are_refused(cross_attention, prompt, error, message):
    with pytest.raises(error, match=message):
        cross_attention.predict(OBSERVATIONS, **prompt)


def test_lists_of_examples_become_one_prompt_for_each_row():
    prompts = as_prompts(["go", None], None, None, [[ONE, OTHER], None])
    assert prompts is not None
    assert [(prompt.text, prompt.trajectories) for prompt in prompts] == [("go", (ONE, OTHER)), (None, ())]


# What is read of an example


def spoiled(episode: Episode, step: int) -> Episode:
    """Change one step of an example: its state and its action."""
    observations, actions = np.array(episode.observations), np.array(episode.actions)
    observations[step] += 1.0
    actions[step] *= -1.0
    return Episode(observations, actions, episode.rewards)


def condition(model: LLMDPD, states: np.ndarray, examples: list[Episode]) -> th.Tensor:
    """Tell the denoiser of states beside examples, before any action is clipped."""
    actor, prompt = model.policy.actor_target, Prompt(trajectories=examples)
    with th.no_grad():
        features = actor.encode_observations(th.as_tensor(states, dtype=th.float32))[None]
        return actor.condition(features, model.prompter.encode([prompt]))


def test_a_second_example_changes_what_is_read(model):
    one, both = (condition(model, OBSERVATIONS, EXAMPLES[:n]) for n in (1, 2))
    assert (one - both).abs().max() > 1e-4


@pytest.mark.parametrize("place", [0, 1])
def test_all_steps_are_read_under_retrieval_and_those_of_a_window_under_the_others(model, place):
    """The first state is the changed step's own, so that it is the nearest."""
    windows, one, other = window_steps(np.array([20]), 4)[0].tolist(), EXAMPLES[0], EXAMPLES[2]
    for step in range(20):
        changed = spoiled(one, step)
        states = np.stack([rows.observations[step] for rows in (changed, one)])
        shown = [[first, other] if place == 0 else [other, first] for first in (one, changed)]
        is_read = model.policy.reads_all_steps or step in windows
        assert th.equal(*(condition(model, states, examples) for examples in shown)) != is_read


def batch_of(model: LLMDPD, prompts: Sequence[Prompt]) -> Any:
    return model.prompter.batch(prompts)


def test_the_steps_of_a_prompts_examples_lie_one_after_the_other(model):
    batch = batch_of(model, [Prompt(trajectories=EXAMPLES[:3]), Prompt(), Prompt(trajectories=[EXAMPLES[4]])])
    of_example = [length if model.policy.reads_all_steps else 4 for length in LENGTHS]
    assert batch.lengths.tolist() == [of_example[:3], [0, 0, 0], [of_example[4], 0, 0]]
    n_steps = sum(of_example[:3])
    assert batch.actions.shape == (3, n_steps, 2)
    assert batch.observations.shape == (3 * n_steps, 5)
    assert batch.has_trajectory.tolist() == [True, False, True]
    alone = [batch_of(model, [Prompt(trajectory=each)]) for each in (*EXAMPLES[:3], EXAMPLES[4])]
    rows = batch.observations.unflatten(0, (3, n_steps))
    assert th.equal(rows[0], th.cat([each.observations for each in alone[:3]]))
    assert th.equal(batch.actions[0], th.cat([each.actions[0] for each in alone[:3]]))
    assert th.equal(rows[2, : of_example[4]], alone[3].observations)


def test_without_any_example_no_step_is_encoded(model):
    batch = batch_of(model, [Prompt(TEXTS[0]), Prompt()])
    assert batch.actions.shape == (2, 0, 2)
    assert batch.lengths.sum() == 0


def test_images_of_examples_of_several_lengths_stay_bytes():
    rng = np.random.default_rng(0)

    def filmed(length: int) -> Episode:
        images = rng.integers(0, 256, (length + 1, 3, 36, 36), dtype=np.uint8)
        return Episode(images, rng.uniform(-1, 1, (length, 2)), np.zeros(length))

    dataset, sizes = [filmed(5) for _ in range(3)], dict(prompts_per_batch=1, batch_size=4)
    windows = dict(conditioning="nearest_steps", prompt_window=4)
    model = tiny_model(policy="CnnPolicy", dataset=dataset, policy_kwargs=windows, **sizes)
    batch = batch_of(model, [Prompt(trajectories=[filmed(6), filmed(2)]), Prompt(trajectory=filmed(9))])
    assert batch.observations.dtype == th.uint8
    assert batch.observations.shape == (2 * 8, 3, 36, 36)
    assert batch.lengths.tolist() == [[4, 4], [4, 0]]


# Examples that hold the sentence of a `TaskTextWrapper`


def test_an_example_that_was_recorded_with_its_sentence_is_read_without_it(cross_attention):
    rows = EXAMPLES[0].observations
    observations = {"observation": rows, "task_embedding": np.ones((len(rows), 256))}
    recorded = Episode(observations, EXAMPLES[0].actions, EXAMPLES[0].rewards)
    expected = act(cross_attention, trajectories=EXAMPLES[:2])
    assert_array_equal(act(cross_attention, trajectories=[recorded, EXAMPLES[1]]), expected)


def test_the_sentence_beside_the_keys_of_a_dict_example_is_taken_out():
    model = tiny_model(policy="MultiInputPolicy", dataset=with_dicts(make_episodes()))
    (plain,) = with_dicts([EXAMPLES[0]])
    assert isinstance(plain.observations, dict)
    observations = {**plain.observations, "task_embedding": np.ones((21, 256))}
    recorded = Episode(observations, plain.actions, plain.rewards)
    rows = {"a": np.ones((2, 2)), "b": np.ones((2, 3))}
    assert_array_equal(act(model, rows, trajectory=recorded), act(model, rows, trajectory=plain))


# The program and the file


def test_a_program_with_several_examples_acts_as_predict_does(model, tmp_path):
    task = dict(task_text=TEXTS[1], trajectories=EXAMPLES)
    program = th.export.load(model.export(tmp_path / "actor", **task)).module()
    assert_allclose(program(th.from_numpy(OBSERVATIONS)).numpy(), act(model, **task), atol=1e-5)


def test_a_loaded_model_acts_the_same_with_several_examples(model):
    file = io.BytesIO()
    model.save(file)
    loaded = LLMDPD.load(io.BytesIO(file.getvalue()), device="cpu")
    assert_array_equal(act(loaded, trajectories=BY_ROW), act(model, trajectories=BY_ROW))


def test_a_loaded_model_draws_as_many_examples_as_the_saved_one():
    file = io.BytesIO()
    tiny_model(examples_per_prompt=(2, 3)).save(file)
    loaded = LLMDPD.load(io.BytesIO(file.getvalue()), device="cpu", dataset=make_episodes())
    assert loaded.examples_per_prompt == (2, 3)
    assert loaded.replay_buffer.examples_per_prompt == (2, 3)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (3, TypeError, r"must be the fewest and the most, as in \(1, 5\), got 3"),
        ((1, 2, 3), TypeError, r"as in \(1, 5\), got \(1, 2, 3\)"),
        ((1, 2.0), TypeError, r"as in \(1, 5\), got \(1, 2.0\)"),
        ((0, 2), ValueError, r"1 <= fewest <= most <= 1000, got \(0, 2\)"),
        ((3, 2), ValueError, r"1 <= fewest <= most <= 1000, got \(3, 2\)"),
        ((1, 10**6), ValueError, "1 <= fewest <= most <= 1000"),
    ],
)
def test_numbers_of_examples_that_cannot_be_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        tiny_model(examples_per_prompt=given)
