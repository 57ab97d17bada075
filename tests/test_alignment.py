"""Examples that are moved into the scene of an episode: the move itself, and when a model makes it."""

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from expect import refused
from factories import differing, make_episodes, tiny_model
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from test_evaluation import WalkEnv

from sb3_llmdpd import LLMDPD, Prompt
from sb3_llmdpd.evaluation.players import ModelPlayer
from sb3_llmdpd.networks.metaworld_layout import GOAL, HAND, NOW, OBJECT, OTHER_OBJECT, PREVIOUS
from sb3_llmdpd.prompts.alignment import ALIGNMENTS, MOST_ALIGNED, align, alignment_named, metaworld_scene
from sb3_llmdpd.prompts.prompt import Trajectory
from sb3_llmdpd.prompts.text_encoders import make_text_encoder

X, Y = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


def example(ways: Sequence[float], seed: int = 0, **changes: Any) -> Trajectory:
    """Make an example of Meta-World whose object goes along x.

    :param ways: (L,), metres that the object has gone at each step.
    :param changes: ``other`` and ``goal``, positions in place of those that are drawn.
    """
    rng = np.random.default_rng(seed)
    n, start = len(ways), rng.uniform(-0.3, 0.3, (4, 3))
    rows = rng.uniform(-1.0, 1.0, (n, 39))
    rows[:, OBJECT] = start[0] + np.outer(ways, X)
    rows[:, HAND] = start[1] + np.cumsum(rng.uniform(-0.01, 0.01, (n, 3)), axis=0)
    rows[:, OTHER_OBJECT] = changes.get("other", start[2])
    rows[:, PREVIOUS] = np.concatenate([rows[:1, NOW], rows[:-1, NOW]])
    rows[:, GOAL] = changes.get("goal", start[3])
    return Trajectory(rows.astype(np.float32), rng.uniform(-0.1, 0.1, (n, 4)).astype(np.float32))


def scene_of(shown: Trajectory, **moves: Any) -> np.ndarray:
    """Take the first observation of an example with object, other object or goal elsewhere."""
    scene = np.array(shown.observations[0], np.float64)
    for name, part in (("object", OBJECT), ("other", OTHER_OBJECT), ("goal", GOAL)):
        scene[part] += moves.get(name, np.zeros(3))
    return scene


def shifts(shown: Trajectory, moved: Trajectory, part: slice = HAND) -> np.ndarray:
    """(L, 3), how far an example was moved at each step."""
    return np.asarray(moved.observations[:, part], np.float64) - shown.observations[:, part]


CARRIED, STAYING = example([0.0, 0.0, 0.05, 0.1, 0.2]), example([0.0, 0.005, 0.01])
MOVES = {"object": 0.08 * Y, "goal": 0.2 * Y - 0.1 * X, "other": np.array([0.01, 0.02, 0.03])}


# The move into a scene of Meta-World


@pytest.mark.parametrize("shown", [CARRIED, STAYING], ids=["carried", "staying"])
def test_in_its_own_scene_an_example_stays_as_it_is(shown):
    moved = metaworld_scene(shown, np.asarray(shown.observations[0]))
    assert_array_equal(moved.observations, shown.observations)
    assert_array_equal(moved.actions, shown.actions)


def test_object_and_goal_are_where_the_scene_has_them():
    scene = scene_of(CARRIED, **MOVES)
    moved = metaworld_scene(CARRIED, scene).observations
    assert_allclose(moved[0, OBJECT], scene[OBJECT], atol=1e-6)
    assert_allclose(moved[:, GOAL], np.tile(scene[GOAL], (5, 1)), atol=1e-6)


def test_an_object_that_ends_at_the_goal_ends_at_that_of_the_scene():
    (first, *_, last) = CARRIED.observations
    shown = example([0.0, 0.0, 0.05, 0.1, 0.2], goal=last[OBJECT])
    scene = scene_of(shown, **MOVES)
    assert not np.allclose(scene[GOAL] - last[OBJECT], scene[OBJECT] - first[OBJECT])
    assert_allclose(metaworld_scene(shown, scene).observations[-1, OBJECT], scene[GOAL], atol=1e-6)


@pytest.mark.parametrize(
    ("ways", "shares"),
    [
        ([0.0, 0.0, 0.05, 0.1, 0.2], [0.0, 0.0, 0.25, 0.5, 1.0]),
        ([0.0, -0.1, -0.2], [0.0, 0.5, 1.0]),  # the way counts, whatever its direction
        ([0.0, 0.4, 0.1, 0.2], [0.0, 1.0, 0.5, 1.0]),  # beyond the end, no farther than the goal
    ],
)
def test_on_the_way_the_move_goes_over_from_the_objects_to_the_goals(ways, shares):
    shown = example(ways)
    moved = metaworld_scene(shown, scene_of(shown, **MOVES))
    expected = np.outer(1 - np.array(shares), MOVES["object"]) + np.outer(shares, MOVES["goal"])
    assert_allclose(shifts(shown, moved), expected, atol=1e-6)


def test_the_hand_keeps_its_distance_to_the_object():
    moved = metaworld_scene(CARRIED, scene_of(CARRIED, **MOVES))
    assert_allclose(shifts(CARRIED, moved, HAND), shifts(CARRIED, moved, OBJECT), atol=1e-6)


def test_where_the_object_stays_the_whole_way_moves_with_it():
    moved = metaworld_scene(STAYING, scene_of(STAYING, **MOVES))
    assert_allclose(shifts(STAYING, moved), np.tile(MOVES["object"], (3, 1)), atol=1e-6)
    assert_array_equal(moved.actions, STAYING.actions)


def test_the_second_object_moves_by_its_own_distance():
    moved = metaworld_scene(CARRIED, scene_of(CARRIED, **MOVES))
    assert_allclose(shifts(CARRIED, moved, OTHER_OBJECT), np.tile(MOVES["other"], (5, 1)), atol=1e-6)


@pytest.mark.parametrize(("absent", "part"), [("other", OTHER_OBJECT), ("goal", GOAL)])
def test_what_is_not_there_stays_nowhere(absent, part):
    shown = example([0.0, 0.1, 0.2], **{absent: np.zeros(3)})
    moves = {name: move for name, move in MOVES.items() if name != absent}
    moved = metaworld_scene(shown, scene_of(shown, **moves)).observations
    assert (moved[:, part] == 0).all()


def test_with_a_hidden_goal_the_object_ends_where_the_example_left_it():
    shown = example([0.0, 0.1, 0.2], goal=np.zeros(3))
    moved = metaworld_scene(shown, scene_of(shown, object=MOVES["object"]))
    assert_allclose(shifts(shown, moved, OBJECT)[-1], np.zeros(3), atol=1e-6)


def test_the_step_before_is_moved_as_it_was_then():
    moved = metaworld_scene(CARRIED, scene_of(CARRIED, **MOVES)).observations
    assert_array_equal(moved[1:, PREVIOUS], moved[:-1, NOW])
    assert_array_equal(moved[0, PREVIOUS], moved[0, NOW])


def test_gripper_and_orientations_stay():
    moved = metaworld_scene(CARRIED, scene_of(CARRIED, **MOVES)).observations
    kept = [3, *range(7, 11), *range(14, 18)]
    assert_array_equal(moved[:, kept], CARRIED.observations[:, kept])


def test_an_action_gets_what_the_hand_has_to_go_in_addition():
    """The hand moves a centimetre by an action of 1: 4 mm more are an action of 0.4."""
    shown = example([0.0, 0.1, 0.2])
    moved = metaworld_scene(shown, scene_of(shown, goal=0.008 * Y))
    assert_allclose(moved.actions[:2] - shown.actions[:2], [[0.0, 0.4, 0.0, 0.0]] * 2, atol=1e-6)
    assert_array_equal(moved.actions[2], shown.actions[2])


def test_a_longer_way_than_an_action_can_go_is_cut():
    shown = example([0.0, 0.1, 0.2])
    moved = metaworld_scene(shown, scene_of(shown, goal=0.5 * Y))
    assert_array_equal(moved.actions[:2, 1], [1.0, 1.0])


def test_an_example_of_one_step_moves_with_its_object():
    shown = example([0.0])
    moved = metaworld_scene(shown, scene_of(shown, **MOVES))
    assert_allclose(shifts(shown, moved, OBJECT), [MOVES["object"]], atol=1e-6)
    assert_array_equal(moved.actions, shown.actions)


def test_the_example_itself_is_left_as_it_was():
    shown, again = example([0.0, 0.1, 0.2]), example([0.0, 0.1, 0.2])
    metaworld_scene(shown, scene_of(shown, **MOVES))
    assert_array_equal(shown.observations, again.observations)
    assert_array_equal(shown.actions, again.actions)


@pytest.mark.parametrize(
    "observations",
    [np.zeros((3, 38)), {"a": np.zeros((3, 39))}, np.zeros((3, 39, 1))],
    ids=["38", "dict", "3d"],
)
def test_other_observations_are_not_moved(observations):
    shown = Trajectory(observations, np.zeros((3, 4)))
    with refused("the alignment 'metaworld_scene' moves examples of Meta-World, observations of 39 numbers"):
        metaworld_scene(shown, np.zeros(39))


def test_an_alignment_is_found_by_its_name():
    assert alignment_named("metaworld_scene") is metaworld_scene
    assert list(ALIGNMENTS) == ["metaworld_scene"]


def test_a_function_stands_for_itself():
    assert alignment_named(shifted) is shifted


# When prompts are aligned: examples of five numbers, and an alignment that adds the scene to them

SPACE = spaces.Box(-np.inf, np.inf, (5,), np.float32)
SCENES = np.random.default_rng(11).standard_normal((3, 5)).astype(np.float32)
LATER = np.random.default_rng(12).standard_normal((3, 5)).astype(np.float32)
EXAMPLES = [make_episodes(1, 1, length, seed=length)[0] for length in (4, 2, 6)]
ONE = Prompt("go", EXAMPLES[0])
BY_ROW = [Prompt(trajectory=shown) for shown in EXAMPLES]


def shifted(shown: Trajectory, scene: np.ndarray) -> Trajectory:
    """An alignment of one's own."""
    return Trajectory(np.asarray(shown.observations) + scene, -shown.actions)


def in_scene(prompt: Prompt, scene: np.ndarray) -> Prompt:
    """Make by hand what `align` makes."""
    moved = [shifted(Trajectory.of(shown), scene) for shown in prompt.trajectories]
    return Prompt(prompt.text, trajectories=[*moved, *prompt.trajectories])


def aligned(
    prompts: Sequence[Prompt], observations: Any = SCENES, state: Any = None, starts: Any = None
) -> Any:
    return align(shifted, prompts, observations, SPACE, state, starts)


def assert_in_scene(found: Prompt, given: Prompt, scene: np.ndarray) -> None:
    expected = in_scene(given, scene).trajectories
    assert len(found.trajectories) == len(expected)
    for one, other in zip(found.trajectories, map(Trajectory.of, expected), strict=True):
        assert_array_equal(one.observations, other.observations)
        assert_array_equal(one.actions, other.actions)


def test_at_its_begin_a_row_has_the_examples_in_its_scene_before_those_that_were_given():
    prompt = Prompt("go", trajectories=EXAMPLES[:2])
    for found, scene in zip(aligned([prompt])[0], SCENES, strict=True):
        assert_in_scene(found, prompt, scene)


def test_each_row_has_a_prompt_of_its_own():
    for found, given, scene in zip(aligned(BY_ROW)[0], BY_ROW, SCENES, strict=True):
        assert_in_scene(found, given, scene)


def test_one_observation_is_one_row():
    (found,), _ = aligned([ONE], SCENES[1])
    assert_in_scene(found, ONE, SCENES[1])


def test_the_sentence_stays():
    assert aligned([ONE], SCENES[0])[0][0].text == "go"
    vector = np.ones(4, np.float32)
    (found,), _ = aligned([Prompt(trajectory=EXAMPLES[0], text_vector=vector)], SCENES[0])
    assert_array_equal(found.text_vector, vector)


@pytest.mark.parametrize("starts", [None, np.zeros(3, bool), [False] * 3], ids=["none", "array", "list"])
def test_later_steps_have_the_very_same_prompts(starts):
    first, state = aligned(BY_ROW)
    later, after = aligned(BY_ROW, LATER, state, starts)
    assert [one is other for one, other in zip(first, later, strict=True)] == [True] * 3
    assert [one is other for one, other in zip(state[0], after[0], strict=True)] == [True] * 3


def test_a_row_that_begins_anew_is_aligned_anew_and_no_other():
    first, state = aligned(BY_ROW)
    later, _ = aligned(BY_ROW, LATER, state, np.array([False, True, False]))
    assert [one is other for one, other in zip(first, later, strict=True)] == [True, False, True]
    assert_in_scene(later[1], BY_ROW[1], LATER[1])


def test_a_row_without_a_state_is_aligned_whatever_is_said_of_its_begin():
    _, (rows,) = aligned(BY_ROW)
    rows[2] = None
    later, _ = aligned(BY_ROW, LATER, (rows,), np.zeros(3, bool))
    assert_in_scene(later[2], BY_ROW[2], LATER[2])


def test_without_a_state_all_rows_begin():
    for starts in (None, np.zeros(3, bool)):
        assert_in_scene(aligned(BY_ROW, starts=starts)[0][0], BY_ROW[0], SCENES[0])


def test_another_prompt_than_that_of_the_state_is_aligned_anew():
    _, state = aligned(BY_ROW)
    given = [Prompt(trajectory=EXAMPLES[1]), BY_ROW[1], Prompt("go", EXAMPLES[2])]
    later, after = aligned(given, LATER, state)
    assert [one is other for one, other in zip(state[0], after[0], strict=True)] == [False, True, False]
    for row in (0, 2):
        assert_in_scene(later[row], given[row], LATER[row])


def test_the_same_sentence_and_example_in_another_prompt_are_no_other_prompt():
    first, state = aligned([ONE])
    assert aligned([Prompt("go", EXAMPLES[0])], LATER, state)[0][0] is first[0]


def test_the_state_of_before_is_left_as_it_was():
    _, state = aligned(BY_ROW)
    before = list(state[0])
    aligned(BY_ROW, LATER, state, np.ones(3, bool))
    assert [one is other for one, other in zip(before, state[0], strict=True)] == [True] * 3


@pytest.mark.parametrize(
    "prompt",
    [Prompt("go"), Prompt("go", trajectories=[EXAMPLES[0]] * (MOST_ALIGNED + 1))],
    ids=["none", "many"],
)
def test_a_prompt_without_examples_or_with_many_is_left_as_it_is(prompt):
    assert all(found is prompt for found in aligned([prompt])[0])


def test_as_many_examples_as_are_aligned_at_most_are_aligned():
    prompt = Prompt(trajectories=[EXAMPLES[0]] * MOST_ALIGNED)
    assert_in_scene(aligned([prompt], SCENES[0])[0][0], prompt, SCENES[0])


STATE = aligned(BY_ROW)[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(prompts=BY_ROW[:2]), "^Got 2 prompts for 3 observations: pass one prompt, or one per obs"),
        (
            dict(state=(STATE[0][:2],)),
            "`state` has 2 rows and `episode_start` 3, for 3 observations: pass what",
        ),
        (dict(starts=np.ones(2, bool)), "`state` has 3 rows and `episode_start` 2, for 3 observations"),
        (
            dict(observations=LATER[:1], prompts=[ONE], state=STATE),
            "`state` has 3 rows .* for 1 observations",
        ),
    ],
    ids=["prompts", "state", "episode_start", "observations"],
)
def test_numbers_of_rows_that_do_not_fit_are_refused(given, message):
    with refused(message):
        aligned(**{"prompts": BY_ROW, **given})


def test_observations_that_are_no_array_are_refused():
    space = spaces.Dict({"a": SPACE})
    with refused("`alignment` reads arrays of observations, and the space is Dict.*: leave it out"):
        align(shifted, [ONE], {"a": SCENES}, space, None, np.ones(3, bool))


# In a model


@pytest.fixture(scope="module")
def models() -> tuple[LLMDPD, LLMDPD]:
    """Two models of the same weights; the first aligns."""
    policy_kwargs = dict(conditioning="retrieval")
    one, other = (tiny_model(policy_kwargs=policy_kwargs, alignment=each) for each in (shifted, None))
    assert differing(one.learn(5).policy, other.learn(5).policy) == set()
    return one, other


def act(model: Any, observations: Any = SCENES, *told: Any, **prompt: Any) -> np.ndarray:
    return model.predict(observations, *told, deterministic=True, **prompt)[0]


def test_without_state_and_begin_examples_are_read_as_they_are(models):
    model, plain = models
    assert_array_equal(act(model, prompt=BY_ROW), act(plain, prompt=BY_ROW))
    assert model.predict(SCENES, prompt=BY_ROW)[1] is None


def test_at_the_begin_it_acts_as_with_the_examples_in_the_scene_and_those_given(models):
    model, plain = models
    actions = act(model, SCENES, None, np.ones(3, bool), prompt=BY_ROW)
    expected = act(plain, prompt=[in_scene(*each) for each in zip(BY_ROW, SCENES, strict=True)])
    assert_array_equal(actions, expected)
    assert not np.allclose(actions, act(plain, prompt=BY_ROW), atol=1e-3)


def test_later_it_acts_with_the_examples_in_the_scene_of_the_begin(models):
    model, plain = models
    _, state = model.predict(SCENES, None, np.ones(3, bool), prompt=ONE)
    actions = act(model, LATER, state, np.array([False, False, True]), prompt=ONE)
    scenes = [SCENES[0], SCENES[1], LATER[2]]
    assert_array_equal(actions, act(plain, LATER, prompt=[in_scene(ONE, scene) for scene in scenes]))


def test_the_begin_changes_nothing_without_an_alignment(models):
    _, plain = models
    assert_array_equal(act(plain, SCENES, None, np.ones(3, bool), prompt=ONE), act(plain, prompt=ONE))
    state = (np.ones(3),)
    assert plain.predict(SCENES, state, np.ones(3, bool), prompt=ONE)[1] is state


def test_an_example_that_is_a_pair_stays_in_the_scene_of_the_begin(models):
    pair = EXAMPLES[0].observations, EXAMPLES[0].actions
    _, state = models[0].predict(SCENES, None, np.ones(3, bool), trajectory=pair)
    _, after = models[0].predict(LATER, state, np.zeros(3, bool), trajectory=pair)
    assert [one is other for one, other in zip(state[0], after[0], strict=True)] == [True] * 3


def test_observations_that_hold_a_sentence_are_scenes_without_it(models):
    """As of a `TaskTextWrapper`: the sentence joins the examples, and stays the same from step to step."""
    model, plain = models
    vectors = make_text_encoder("hashing").encode(["do task number 1"] * 3)
    first, later = ({"observation": rows, "task_embedding": vectors} for rows in (SCENES, LATER))
    _, state = model.predict(first, None, np.ones(3, bool), trajectory=EXAMPLES[0])
    actions = act(model, later, state, np.zeros(3, bool), trajectory=EXAMPLES[0])
    given = Prompt("do task number 1", EXAMPLES[0])
    expected = act(plain, LATER, prompt=[in_scene(given, scene) for scene in SCENES])
    assert_allclose(actions, expected, atol=2e-5)


class Begins:
    """An alignment that notes the scenes that it is given."""

    def __init__(self) -> None:
        self.scenes: list[np.ndarray] = []

    def __call__(self, shown: Trajectory, scene: np.ndarray) -> Trajectory:
        self.scenes.append(scene.copy())
        return shown


class NotedWalk(WalkEnv):
    """A walk that notes the first observation of each episode, of all environments."""

    starts: list[np.ndarray]

    def reset(self, **how: Any) -> Any:
        observation, info = super().reset(**how)
        self.starts.append(observation)
        return observation, info


@pytest.mark.parametrize("how", ["prompted", "set_task"])
def test_evaluate_policy_aligns_at_the_begin_of_every_episode(how, monkeypatch):
    model, begins = tiny_model(), Begins()
    model.alignment = begins
    monkeypatch.setattr(NotedWalk, "starts", [], raising=False)
    env = make_vec_env(NotedWalk, 2, seed=3)
    NotedWalk.starts.clear()
    acting = model.prompted(prompt=ONE) if how == "prompted" else model
    model.set_task(prompt=ONE)
    evaluate_policy(acting, env, 4)
    played = NotedWalk.starts[:4]  # those behind the last episodes are not acted in
    assert_array_equal(begins.scenes, played)
    assert len(np.unique(played, axis=0)) == 4


def test_in_an_evaluation_the_rows_that_go_on_keep_their_scenes(models):
    model, plain = models
    play = ModelPlayer(model).make_act(BY_ROW, noise_seed=0, deterministic=True)
    play(SCENES, [0, 1, 2], np.zeros(3))
    for rows in ([0, 2], [2]):
        expected = act(plain, LATER[rows], prompt=[in_scene(BY_ROW[row], SCENES[row]) for row in rows])
        assert_allclose(play(LATER[rows], rows, np.zeros(len(rows))), expected, atol=2e-5)


def test_a_second_block_begins_afresh(models):
    model, plain = models
    player = ModelPlayer(model)
    for scenes in (SCENES, LATER):
        play = player.make_act(BY_ROW, noise_seed=0, deterministic=True)
        expected = act(plain, scenes, prompt=[in_scene(*each) for each in zip(BY_ROW, scenes, strict=True)])
        assert_allclose(play(scenes, [0, 1, 2], np.zeros(3)), expected, atol=2e-5)


def metaworld_model() -> LLMDPD:
    dataset = make_episodes(observation_dim=39, action_dim=4)
    return tiny_model(dataset=dataset, alignment="metaworld_scene").learn(2)


def test_the_alignment_of_meta_world_is_made_by_its_name():
    model = metaworld_model()
    scene = scene_of(CARRIED, **MOVES).astype(np.float32)
    actions = act(model, scene, None, np.ones(1, bool), trajectory=CARRIED)
    assert_array_equal(actions, act(model, scene, trajectories=[metaworld_scene(CARRIED, scene), CARRIED]))


def file_of(model: LLMDPD) -> io.BytesIO:
    file = io.BytesIO()
    model.save(file)
    return io.BytesIO(file.getvalue())


def test_a_loaded_model_aligns_as_the_saved_one():
    model = metaworld_model()
    loaded = LLMDPD.load(file_of(model), device="cpu")
    scene, told = scene_of(CARRIED, **MOVES).astype(np.float32), (None, np.ones(1, bool))
    assert loaded.alignment == "metaworld_scene"
    actions = (act(each, scene, *told, trajectory=CARRIED) for each in (model, loaded))
    assert_array_equal(*actions)


def test_a_function_of_ones_own_is_passed_when_loading(models):
    with refused("for `alignment`, which a model file does not hold: pass custom_objects="):
        LLMDPD.load(file_of(models[0]), device="cpu")
    loaded = LLMDPD.load(file_of(models[0]), device="cpu", custom_objects={"alignment": shifted})
    told = (SCENES, None, np.ones(3, bool))
    assert_array_equal(act(loaded, *told, prompt=ONE), act(models[0], *told, prompt=ONE))


def test_a_model_that_travels_to_another_process_aligns_there():
    arrived = pickle.loads(pickle.dumps(ModelPlayer(metaworld_model())))
    assert arrived.model.alignment == "metaworld_scene"


def test_a_model_with_a_function_of_ones_own_travels_to_another_process(models):
    assert pickle.loads(pickle.dumps(ModelPlayer(models[0]))).model.alignment is shifted


def test_an_unknown_alignment_is_answered_with_the_known_ones():
    with refused(r"`alignment` must be a function or one of \['metaworld_scene'\], got 'scene'"):
        tiny_model(alignment="scene")


def test_what_is_neither_a_name_nor_a_function_is_refused():
    with pytest.raises((TypeError, ValueError), match="`alignment` must be a function or one of"):
        tiny_model(alignment=3)
