"""The Meta-World environments: seeds, goals, dtypes, time limits, the expert, and frames."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from sb3_llmdpd.data.metaworld import TASKS, MetaWorldEnv, make_metaworld_env
from sb3_llmdpd.data.metaworld.envs import goal_id
from sb3_llmdpd.networks.metaworld_layout import GOAL, OBJECT

NOTHING = np.zeros(4, np.float32)


@pytest.fixture(scope="module")
def push() -> MetaWorldEnv:
    return make_metaworld_env("push")


def assert_only_the_object_moved(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(one[GOAL], other[GOAL], atol=1e-6)
    assert np.abs(one[OBJECT] - other[OBJECT]).max() > 0.01


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_decides_goal_and_placement_whatever_happened_before(task: str) -> None:
    env = MetaWorldEnv(task)
    first, info = env.reset(seed=1)
    layout = env.layout.copy()
    for _ in range(3):
        env.step(env.action_space.sample())
    other, _ = env.reset(seed=2)
    again, _ = env.reset(seed=1)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(env.layout, layout)
    assert not np.array_equal(other, first)
    assert first.dtype == np.float32
    assert info["task_text"] == TASKS[task].texts[0]


@pytest.mark.parametrize("task", [name for name, info in TASKS.items() if info.goal_separate])
def test_a_separate_goal_stays_while_the_object_moves(task: str) -> None:
    env = MetaWorldEnv(task)
    first, _ = env.reset(seed=0)
    assert_only_the_object_moved(env.reset(seed=1, options={"goal_of": env.layout.copy()})[0], first)


def test_a_goal_is_found_again_by_its_name_and_the_object_is_placed_by_the_seed(push: MetaWorldEnv) -> None:
    goal = push.reset(seed=11)[0]
    first, _ = push.reset(seed=1, options={"goal_of": goal_id("push", 11)})
    other, _ = push.reset(seed=2, options={"goal_of": "push/11"})
    again, _ = push.reset(seed=1, options={"goal_of": "push/11"})
    assert_only_the_object_moved(first, other)
    assert_only_the_object_moved(first, goal)
    np.testing.assert_array_equal(again, first)


def test_a_goal_that_is_a_part_of_the_object_is_that_of_every_scene_and_its_layout_a_scene() -> None:
    assert goal_id("drawer-open", 11) == "drawer-open"
    env = MetaWorldEnv("drawer-open")
    with_goal, _ = env.reset(seed=1, options={"goal_of": "drawer-open"})
    np.testing.assert_array_equal(with_goal, env.reset(seed=1)[0])
    np.testing.assert_array_equal(with_goal, env.reset(seed=2, options={"goal_of": env.layout})[0])


@pytest.mark.parametrize("goal", ["reach/11", "push", "push/x"])
def test_a_goal_of_another_task_is_refused(push: MetaWorldEnv, goal: str) -> None:
    with pytest.raises(ValueError, match=f"'{goal}' is no goal of 'push', whose goals are like 'push/7'"):
        push.reset(options={"goal_of": goal})


def test_a_seed_of_the_constructor_seeds_the_first_episodes_and_they_go_on_differing() -> None:
    one, other = (MetaWorldEnv("reach", seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.reset()[0], other.reset()[0])
    second = one.reset()[0]
    np.testing.assert_array_equal(second, other.reset()[0])
    assert not np.array_equal(second, MetaWorldEnv("reach").reset(seed=3)[0])


def test_the_observation_at_reset_is_the_one_of_the_benchmarks_own_task(push: MetaWorldEnv) -> None:
    from metaworld.env_dict import ENV_CLS_MAP

    observation, _ = push.reset(seed=0)
    theirs = ENV_CLS_MAP["push-v3"]()
    theirs._set_task_called, theirs._partially_observable = True, False
    theirs._freeze_rand_vec, theirs._last_rand_vec = True, push.layout
    np.testing.assert_array_equal(observation, theirs.reset()[0].astype(np.float32))


def test_a_layout_can_be_repeated(push: MetaWorldEnv) -> None:
    first, _ = push.reset(seed=5)
    layout = push.layout.copy()
    push.reset(seed=6)
    np.testing.assert_array_equal(push.reset(options={"layout": layout})[0], first)


def test_a_layout_that_the_simulator_refuses_is_an_error_and_not_an_endless_loop(push: MetaWorldEnv) -> None:
    push.reset(seed=0)
    object_on_goal = np.concatenate([push.layout[3:], push.layout[3:]])
    with pytest.raises(ValueError, match="'push' refuses this layout: its object is too near to its goal"):
        push.reset(options={"layout": object_on_goal})
    push.reset(seed=0)  # it goes on working


def test_options_that_mean_nothing_are_refused(push: MetaWorldEnv) -> None:
    with pytest.raises(ValueError, match=r"unknown reset options \['goal'\]: use 'layout' or 'goal_of'"):
        push.reset(options={"goal": np.zeros(3)})
    with pytest.raises(ValueError, match=r"a layout of 'push' has shape \(6,\), got \(3,\)"):
        push.reset(options={"layout": np.zeros(3)})


def test_a_hidden_goal_is_zeros_for_the_policy_and_known_to_the_expert() -> None:
    hidden, visible = MetaWorldEnv("reach", goal_visible=False), MetaWorldEnv("reach")
    observation, full = hidden.reset(seed=1)[0], visible.reset(seed=1)[0]
    assert full[GOAL].any()
    for _ in range(60):
        np.testing.assert_array_equal(observation[GOAL], np.zeros(3))
        np.testing.assert_array_equal(observation[:36], full[:36])
        action = hidden.expert_action(observation)
        np.testing.assert_array_equal(action, visible.expert_action(full))
        observation, _, _, _, info = hidden.step(action)
        full = visible.step(action)[0]
    assert info["is_success"]


def test_is_success_stays_true_after_the_first_success() -> None:
    env = MetaWorldEnv("coffee-button")
    observation, info = env.reset(seed=0)
    assert info["is_success"] is False
    history = []
    for _ in range(120):
        observation, _, _, _, info = env.step(env.expert_action(observation))
        history.append((info["success"], info["is_success"]))
    now, sticky = (np.array(column, bool) for column in zip(*history, strict=True))
    assert now.any()
    assert not now[-1]  # the expert lets go of the button again
    np.testing.assert_array_equal(sticky, np.maximum.accumulate(now))
    assert env.reset(seed=0)[1]["is_success"] is False


@pytest.mark.parametrize(("options", "limit"), [({}, 500), ({"max_episode_steps": 7}, 7)])
def test_an_episode_is_truncated_at_its_limit_and_never_terminated(options: Any, limit: int) -> None:
    env = MetaWorldEnv("push", **options)
    env.reset(seed=0)
    ends = [env.step(NOTHING)[2:4] for _ in range(limit)]
    assert ends == [(False, False)] * (limit - 1) + [(False, True)]
    with pytest.raises(ValueError, match="reset"):
        env.step(NOTHING)


def test_an_action_beyond_its_range_does_what_the_clipped_one_does(push: MetaWorldEnv) -> None:
    push.reset(seed=0)
    beyond = push.step(np.array([9.0, -3.0, 1.0, 5.0]))[0]
    push.reset(seed=0)
    np.testing.assert_array_equal(beyond, push.step(np.array([1.0, -1.0, 1.0, 1.0]))[0])


@pytest.mark.parametrize("action", [np.zeros(3), np.array([0.0, np.nan, 0.0, 0.0])])
def test_an_impossible_action_is_refused(push: MetaWorldEnv, action: np.ndarray) -> None:
    push.reset(seed=0)
    with pytest.raises(ValueError, match="an action must be 4 finite numbers"):
        push.step(action)


def test_the_experts_actions_are_float32_within_the_action_space() -> None:
    env = MetaWorldEnv("door-close")  # its expert asks for up to twenty times the range
    observation, _ = env.reset(seed=0)
    for _ in range(10):
        action = env.expert_action(observation)
        assert action in env.action_space
        observation = env.step(action)[0]


def test_stable_baselines3_accepts_the_environment() -> None:
    check_env(MetaWorldEnv("window-open", max_episode_steps=20), warn=False)


def test_a_sentence_of_ones_own_reaches_info_and_task_description() -> None:
    env = MetaWorldEnv("reach", task_text="go there")
    infos = env.reset(seed=0)[1], env.step(NOTHING)[4]
    assert {info["task_text"] for info in infos} == {env.task_description} == {"go there"}
    assert env.task_name == "reach"
    with pytest.raises(ValueError, match="`task_text`: a task text is empty"):
        MetaWorldEnv("reach", task_text=" ")


def drawn(task: str) -> MetaWorldEnv:
    return MetaWorldEnv(task, render_mode="rgb_array", image_size=64)


@pytest.mark.slow  # starting the GL library takes two seconds
def test_frames_of_two_environments_do_not_mix() -> None:
    alone, other = drawn("reach"), drawn("drawer-open")
    alone.reset(seed=0)
    try:
        before = alone.render()
    except RuntimeError as error:
        pytest.skip(f"{error}")
    other.reset(seed=0)
    elsewhere = other.render()
    np.testing.assert_array_equal(alone.render(), before)
    assert (before.shape, before.dtype) == ((64, 64, 3), np.uint8)
    assert np.abs(before.astype(int) - elsewhere).max() > 50
    alone.close()
    other.close()


# gymnasium frees a renderer that it never got
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_a_gl_library_render_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    env = drawn("reach")
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"no working GL library was found.*libegl1"):
        env.render()


def test_a_render_mode_has_to_be_asked_for(push: MetaWorldEnv) -> None:
    with pytest.raises(ValueError, match='with `render_mode="rgb_array"`'):
        push.render()
    with pytest.raises(ValueError, match="must be None or 'rgb_array', got 'human'"):
        MetaWorldEnv("push", render_mode="human")
