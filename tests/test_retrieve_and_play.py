"""`RetrieveAndPlay`: the action of the nearest step, against a search by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from expect import refused
from factories import make_episodes, with_dicts
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal
from test_evaluation import TEXTS, WalkEnv, examples_by_task

from sb3_llmdpd import Episode, OfflineDataset, Prompt
from sb3_llmdpd.baselines.retrieve_and_play import RetrieveAndPlay
from sb3_llmdpd.evaluation.conditions import make_cells
from sb3_llmdpd.evaluation.tasks import evaluate_tasks
from sb3_llmdpd.prompts.alignment import metaworld_scene
from sb3_llmdpd.prompts.prompt import Trajectory

SPACE, ACTIONS = spaces.Box(-np.inf, np.inf, (5,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32)
OBSERVATIONS = np.random.default_rng(11).standard_normal((4, 5)).astype(np.float32)
EXAMPLES = [make_episodes(1, 1, length, seed=length)[0] for length in (20, 3, 45, 1)]


@pytest.fixture
def player() -> RetrieveAndPlay:
    return RetrieveAndPlay(SPACE, ACTIONS)


def act(player: RetrieveAndPlay, observations: np.ndarray = OBSERVATIONS, **prompt: Any) -> np.ndarray:
    return player.predict(observations, **prompt)[0]


def by_hand(observations: np.ndarray, examples: list[Episode], scale: np.ndarray | None = None) -> np.ndarray:
    """Search all steps; distances are in deviations of the examples, unless a scale is given."""
    states = np.concatenate([example.observations[:-1] for example in examples]).astype(np.float64)
    actions = np.concatenate([example.actions for example in examples])
    differences = (observations[:, None] - states) / (states.std(axis=0) if scale is None else scale)
    return actions[np.square(differences).sum(axis=-1).argmin(axis=1)]


def stretched(example: Episode) -> Episode:
    """Give the entries of observations other units."""
    observations = example.observations * np.array([0.01, 1.0, 100.0, 1.0, 5.0]) + 3.0
    return replace(example, observations=observations)


def test_the_action_is_that_of_the_nearest_step_of_all_examples(player):
    assert_allclose(act(player, trajectories=EXAMPLES), by_hand(OBSERVATIONS, EXAMPLES), atol=1e-6)


def test_distances_are_in_deviations_of_the_examples(player):
    examples = [stretched(example) for example in EXAMPLES]
    observations = OBSERVATIONS * np.array([0.01, 1.0, 100.0, 1.0, 5.0], np.float32) + np.float32(3.0)
    actions = act(player, observations, trajectories=examples)
    assert_allclose(actions, by_hand(observations, examples), atol=1e-6)
    assert_allclose(actions, by_hand(OBSERVATIONS, EXAMPLES), atol=1e-6)


def test_distances_are_in_deviations_of_a_data_set_where_there_is_one():
    rows = np.random.default_rng(0).standard_normal((50, 5)) * np.array([1.0, 0.5, 1.0, 4.0, 1.0])
    dataset = OfflineDataset.from_episodes([Episode(rows, np.zeros((49, 2)), np.zeros(49))] * 2)
    player, scale = RetrieveAndPlay(SPACE, ACTIONS, dataset), rows.std(axis=0)
    observations = np.random.default_rng(5).standard_normal((40, 5)).astype(np.float32)
    actions = act(player, observations, trajectories=EXAMPLES)
    expected = by_hand(observations, EXAMPLES, scale)
    assert_allclose(actions, expected, atol=1e-6)
    assert not np.allclose(by_hand(observations, EXAMPLES), expected)


def test_an_entry_that_never_varies_in_the_examples_does_not_count(player):
    observations = np.insert(OBSERVATIONS[:, :4], 2, -1000.0, axis=1)
    without = [replace(example, observations=example.observations[:, :4]) for example in EXAMPLES]
    with_sevens = [
        replace(each, observations=np.insert(each.observations, 2, 7.0, axis=1)) for each in without
    ]
    actions = act(player, observations, trajectories=with_sevens)
    assert_allclose(actions, by_hand(OBSERVATIONS[:, :4], without), atol=1e-6)


def test_an_entry_that_hardly_varies_in_the_examples_hides_no_step(player):
    """Far out in that entry, the steps of a short prompt must not lose to the rows behind them."""
    rng = np.random.default_rng(0)
    states = rng.standard_normal((4, 5))
    states[:, 0] = 0.5 + 1e-5 * rng.standard_normal(4)
    short = (states, np.full((4, 2), 0.5))
    observations = np.tile(states[:1], (2, 1))
    observations[:, 0] = 0.4
    actions = act(player, observations.astype(np.float32), trajectories=[[short], EXAMPLES])
    assert_allclose(actions[0], [0.5, 0.5], atol=1e-6)


@pytest.mark.parametrize("step", [0, 17, 44])
def test_in_a_state_of_an_example_its_own_action_is_repeated(player, step):
    example = EXAMPLES[2]
    actions = act(player, example.observations[step], trajectories=EXAMPLES)
    assert_allclose(actions, example.actions[step], atol=1e-6)


def test_the_sentences_are_not_read(player):
    told = Prompt("do task number 0", trajectories=EXAMPLES)
    assert_array_equal(act(player, prompt=told), act(player, trajectories=EXAMPLES))


def test_one_example_acts_the_same_alone_and_in_a_list(player):
    assert_array_equal(act(player, trajectory=EXAMPLES[0]), act(player, trajectories=EXAMPLES[:1]))


def test_each_row_has_examples_of_its_own_whatever_the_others_have(player):
    by_row = [EXAMPLES[:1], EXAMPLES[1:3], EXAMPLES, EXAMPLES[1:2]]
    together = act(player, trajectories=by_row)
    for row, examples, action in zip(OBSERVATIONS, by_row, together, strict=True):
        assert_allclose(action, by_hand(row[None], examples)[0], atol=1e-6)


@pytest.mark.parametrize("leading", [(), (1,), (4,)])
def test_actions_come_in_the_shape_of_the_observations(player, leading):
    actions, state = player.predict(np.zeros((*leading, 5), np.float32), trajectories=EXAMPLES)
    assert (actions.shape, actions.dtype, state) == ((*leading, 2), np.float32, None)


def test_the_state_is_handed_back(player):
    state = (np.ones(1),)
    assert player.predict(OBSERVATIONS, state, trajectories=EXAMPLES)[1] is state


def test_actions_are_in_environment_units():
    space = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([4.0, 10.0], np.float32))
    pair = OBSERVATIONS, np.array([[4.0, 0.0], [2.5, 2.0], [-2.0, 10.0], [0.0, 5.0]])
    actions = act(RetrieveAndPlay(SPACE, space), trajectory=pair)
    assert_allclose(actions, pair[1], atol=1e-6)


def test_dict_observations_are_read_with_their_extractor():
    (example,) = with_dicts([EXAMPLES[2]])
    space = spaces.Dict(
        {key: spaces.Box(-np.inf, np.inf, (n,), np.float32) for key, n in (("a", 2), ("b", 3))}
    )
    player = RetrieveAndPlay(space, ACTIONS, features_extractor_class="combined")
    observations = {"a": OBSERVATIONS[:, :2], "b": OBSERVATIONS[:, 2:]}
    actions = player.predict(observations, trajectory=example)[0]
    assert_allclose(actions, by_hand(OBSERVATIONS, [EXAMPLES[2]]), atol=1e-6)


def test_other_examples_are_searched_after_those_of_the_last_call(player):
    for examples in ([EXAMPLES[0]], [EXAMPLES[2]], [EXAMPLES[0]]):
        assert_allclose(act(player, trajectories=examples), by_hand(OBSERVATIONS, examples), atol=1e-6)


def test_in_an_evaluation_every_episode_is_played_with_its_own_examples(player):
    shown = [EXAMPLES[:1], EXAMPLES[1:], EXAMPLES[2:3]]
    prompts = [Prompt("go", trajectories=examples) for examples in shown]
    play = player.make_act(prompts, noise_seed=3, deterministic=True)
    for rows in ([0, 1, 2], [0, 2], [2]):
        expected = [by_hand(OBSERVATIONS[[row]], shown[row])[0] for row in rows]
        assert_allclose(play(OBSERVATIONS[rows], rows, np.zeros(len(rows))), np.stack(expected), atol=1e-6)


def test_it_is_evaluated_in_the_place_of_a_model(player):
    cells = make_cells(["task-0"], ["trajectory:3", "trajectory:1"])
    how: dict[str, Any] = dict(examples=examples_by_task(), texts=TEXTS, make_env=WalkEnv, n_processes=1)
    results = evaluate_tasks(player, cells, n_episodes=4, n_envs=3, progress_bar=False, **how)
    assert [result.n_episodes for result in results] == [4, 4]
    assert results[0].returns != results[1].returns


# With an alignment


SCENES, LATER = OBSERVATIONS[:3], np.random.default_rng(12).standard_normal((3, 5)).astype(np.float32)
BEGINS = np.ones(3, bool)


def shifted(shown: Trajectory, scene: np.ndarray) -> Trajectory:
    """An alignment of one's own."""
    return Trajectory(np.asarray(shown.observations) + scene, -shown.actions)


def in_scene(examples: list[Episode], scene: np.ndarray) -> list[Any]:
    """List by hand the examples that are searched: those in the scene, and those that were given."""
    return [*(shifted(Trajectory.of(shown), scene) for shown in examples), *examples]


@pytest.fixture
def aligning() -> RetrieveAndPlay:
    return RetrieveAndPlay(SPACE, ACTIONS, alignment=shifted)


def test_at_the_begin_the_examples_are_searched_in_the_scene_and_as_they_are(player, aligning):
    shown = EXAMPLES[:2]
    actions = aligning.predict(SCENES, None, BEGINS, trajectories=shown)[0]
    expected = act(player, SCENES, trajectories=[in_scene(shown, scene) for scene in SCENES])
    assert_array_equal(actions, expected)
    assert not np.allclose(actions, act(player, SCENES, trajectories=shown))


def test_later_the_scene_is_that_of_the_begin(player, aligning):
    shown = EXAMPLES[:2]
    _, state = aligning.predict(SCENES, None, BEGINS, trajectories=shown)
    actions = aligning.predict(LATER, state, np.array([False, True, False]), trajectories=shown)[0]
    scenes = [SCENES[0], LATER[1], SCENES[2]]
    assert_array_equal(actions, act(player, LATER, trajectories=[in_scene(shown, each) for each in scenes]))


def test_without_state_and_begin_examples_are_searched_as_they_are(player, aligning):
    assert_array_equal(act(aligning, trajectories=EXAMPLES), act(player, trajectories=EXAMPLES))


def test_in_an_evaluation_every_episode_keeps_its_scene(player, aligning):
    shown = [EXAMPLES[:1], EXAMPLES[1:], EXAMPLES[2:3]]
    play = aligning.make_act([Prompt("go", trajectories=examples) for examples in shown])
    play(SCENES, [0, 1, 2], np.zeros(3))
    for rows in ([0, 2], [2]):
        searched = [in_scene(shown[row], SCENES[row]) for row in rows]
        expected = act(player, LATER[rows], trajectories=searched)
        assert_allclose(play(LATER[rows], rows, np.zeros(len(rows))), expected, atol=1e-6)


def test_an_alignment_has_a_name():
    space = spaces.Box(-np.inf, np.inf, (39,), np.float32)
    player = RetrieveAndPlay(space, spaces.Box(-1.0, 1.0, (4,)), alignment="metaworld_scene")
    assert player.alignment is metaworld_scene


def test_an_unknown_alignment_is_refused():
    with refused(r"`alignment` must be a function or one of \['metaworld_scene'\], got 'scene'"):
        RetrieveAndPlay(SPACE, ACTIONS, alignment="scene")


NEEDS_EXAMPLES = "repeats the actions of examples, and has none"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, f"{NEEDS_EXAMPLES}: pass `trajectory` or `trajectories`"),
        (dict(prompt=Prompt("go")), f"{NEEDS_EXAMPLES}: pass"),
        (dict(trajectories=[[EXAMPLES[0]], None, None, None]), f"{NEEDS_EXAMPLES} for row 1: pass"),
        (dict(trajectories=[[EXAMPLES[0]]] * 2), "Got 2 prompts for 4 observations"),
        (dict(trajectory=(np.zeros((3, 4)), np.zeros((3, 2)))), r"row of `observations`.*\(5,\), got \(4,\)"),
        (dict(trajectory=EXAMPLES[0], trajectories=EXAMPLES), "either one example as `trajectory`, or"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_prompt_that_cannot_be_is_refused(player, prompt, message):
    with refused(message):
        player.predict(OBSERVATIONS, **prompt)


def test_a_block_whose_prompts_have_no_example_is_refused_before_it_is_played(player):
    with refused(NEEDS_EXAMPLES):
        player.make_act([Prompt("go")])


def test_an_extractor_that_learns_is_refused():
    with refused("RetrieveAndPlay learns nothing, and 'nature_cnn' has weights to learn: use one without"):
        image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
        RetrieveAndPlay(image, ACTIONS, features_extractor_class="nature_cnn")


def test_an_extractor_of_other_observations_is_refused():
    with refused("'metaworld_relative' reads Meta-World's observations"):
        RetrieveAndPlay(SPACE, ACTIONS, features_extractor_class="metaworld_relative")
