"""Meta-World's tasks in words: complete, told apart, and true to what the simulator asks."""

import numpy as np
import pytest

from sb3_llmdpd.data.metaworld import SPLITS, TASKS, MetaWorldEnv, split, task_info
from sb3_llmdpd.data.metaworld.record import Recipe
from sb3_llmdpd.data.metaworld.sentences import STYLES
from sb3_llmdpd.networks.metaworld_layout import OBJECT

RIGHT, AWAY, UP = 0, 1, 2
"""Axes of the simulator as the robot sees them."""

TASKS_BEFORE_AFTER = [
    # task, axis and sign of the object's way, words of which each sentence holds one
    ("lever-pull", UP, +1, ("up", "upright", "upwards")),
    ("handle-pull", UP, +1, ("up", "lift", "raise")),
    ("handle-pull-side", UP, +1, ("up", "lift", "raise")),
    ("handle-press", UP, -1, ("down", "bottom", "lower")),
    ("drawer-close", AWAY, +1, ("close", "shut", "shove", "back")),
    ("drawer-open", AWAY, -1, ("open", "out", "towards")),
    ("push", AWAY, +1, ("away", "forward", "ahead", "far")),
    ("push-back", AWAY, -1, ("back", "towards", "backwards")),
    ("plate-slide", AWAY, +1, ("forward", "away", "ahead", "far")),
    ("plate-slide-back", AWAY, -1, ("back", "towards", "near")),
    ("plate-slide-side", RIGHT, -1, ("left",)),
    ("plate-slide-back-side", RIGHT, +1, ("out", "right", "back")),
    ("faucet-open", RIGHT, +1, ("open", "on", "right")),
    ("faucet-close", RIGHT, -1, ("close", "off", "left")),
    ("window-open", RIGHT, +1, ("open", "right", "aside")),
    ("peg-unplug-side", RIGHT, +1, ("unplug", "right", "out", "free")),
]


def moved_by_the_expert(task: str) -> np.ndarray:
    """Displacement of the object's position from the reset to the first success."""
    env = MetaWorldEnv(task)
    for seed in range(4):  # a few scenes defeat some experts
        observation, _ = env.reset(seed=seed)
        observation, *_ = env.step(np.zeros(4))  # poses at the reset are not always up to date
        start = observation[OBJECT]
        for _ in range(200):
            observation, _, _, _, info = env.step(env.expert_action(observation))
            if info["is_success"]:
                return observation[OBJECT] - start
    raise AssertionError(f"the expert of {task} failed in every scene")


@pytest.mark.parametrize(("task", "axis", "sign", "words"), TASKS_BEFORE_AFTER)
def test_objects_go_where_the_sentences_say(task: str, axis: int, sign: int, words: tuple[str, ...]) -> None:
    assert moved_by_the_expert(task)[axis] * sign > 0.02
    for text in TASKS[task].texts:
        assert set(words) & set(text.replace(",", " ").replace(":", " ").split()), text


def test_the_lever_is_never_told_to_go_down() -> None:
    assert not any("down" in text for text in TASKS["lever-pull"].texts)


def test_door_lock_and_door_unlock_turn_the_lock_in_opposite_senses() -> None:
    for task, sense in (("door-lock", 1), ("door-unlock", -1)):
        env = MetaWorldEnv(task)
        observation, _ = env.reset(seed=0)
        start = env.simulator.data.qpos[9]
        while not env.step(env.expert_action(observation))[4]["is_success"]:
            observation = env.step(env.expert_action(observation))[0]
        assert (env.simulator.data.qpos[9] - start) * sense > 0.5
    assert any("clockwise" in text and "counter" not in text for text in TASKS["door-lock"].texts)
    assert any("counter-clockwise" in text for text in TASKS["door-unlock"].texts)


def test_every_task_of_the_simulator_is_there_under_its_name() -> None:
    from metaworld.env_dict import ENV_CLS_MAP

    assert {info.env_id for info in TASKS.values()} == set(ENV_CLS_MAP)
    assert all(name == info.name for name, info in TASKS.items())


def test_every_task_has_three_phrasings_and_shares_none_with_another_task() -> None:
    assert all(len(info.texts) >= 3 for info in TASKS.values())
    texts = [text for info in TASKS.values() for text in info.texts]
    assert len(set(texts)) == len(texts)
    assert all(text == text.strip().lower() and not text.endswith(".") for text in texts)


def test_every_task_has_two_paraphrases_that_no_data_set_holds() -> None:
    trained = {text for info in TASKS.values() for text in info.texts}
    held_out = [text for info in TASKS.values() for text in info.paraphrases]
    assert all(len(info.paraphrases) == 2 for info in TASKS.values())
    assert trained.isdisjoint(held_out)
    assert len(set(held_out)) == len(held_out) == 100
    recipe = Recipe("drawer-open", 1, (0.1,), 1, True, seed=0)
    assert set(recipe.as_json()["task_texts"]).isdisjoint(held_out)


def test_ten_more_wordings_a_task_in_six_styles_are_in_no_data_set_and_mean_one_task() -> None:
    known = {text for info in TASKS.values() for text in (*info.texts, *info.paraphrases)}
    said = [text for info in TASKS.values() for of_style in info.wordings.values() for text in of_style]
    assert all(tuple(info.wordings) == STYLES for info in TASKS.values())
    assert STYLES == ("terse", "polite", "typos", "de", "fr", "es")
    assert len(said) == len(set(said)) == 500
    assert known.isdisjoint(said)


def test_opposites_are_each_others_and_no_task_is_its_own() -> None:
    opposites = {name: info.opposite for name, info in TASKS.items() if info.opposite is not None}
    assert all(opposites[other] == name != other for name, other in opposites.items())
    assert len(opposites) == 28
    assert opposites["door-lock"] == "door-unlock"
    assert TASKS["reach"].opposite is None


def test_the_sentences_name_the_wall_exactly_where_the_scene_has_one() -> None:
    for name, info in TASKS.items():
        walled = [("wall" in text or "barrier" in text) for text in (*info.texts, *info.paraphrases)]
        assert all(walled) if name.endswith("-wall") else not any(walled), name


@pytest.mark.parametrize(("name", "n_train", "n_unseen"), [("ml10", 10, 5), ("ml45", 45, 5)])
def test_splits_are_disjoint_and_of_the_published_sizes(name: str, n_train: int, n_unseen: int) -> None:
    train, unseen = split(name)
    assert (len(train), len(unseen)) == (n_train, n_unseen)
    assert not set(train) & set(unseen)
    assert set(train) | set(unseen) <= set(TASKS)
    assert SPLITS[name] == (train, unseen)


def test_the_splits_are_those_of_the_simulator() -> None:
    from metaworld import env_dict

    for name, theirs in (("ml10", env_dict.ML10_V3), ("ml45", env_dict.ML45_V3)):
        for ours, part in zip(split(name), ("train", "test"), strict=True):
            assert {TASKS[task].env_id for task in ours} == set(theirs[part])


def test_a_hold_out_of_ones_own_leaves_all_other_tasks_to_train_on() -> None:
    train, unseen = split(unseen=["drawer-close", "push-v3"])
    assert unseen == ("drawer-close", "push")
    assert len(train) == 48
    assert not set(train) & set(unseen)


def test_an_unknown_task_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(ValueError, match=r"'draw-open': did you mean 'drawer-open'.*The 50 tasks are assemb"):
        task_info("draw-open")
    with pytest.raises(ValueError, match="unknown Meta-World task 'nothing'"):
        split(unseen=["nothing"])


def test_an_unknown_split_and_an_impossible_hold_out_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown split 'ml46': use 'ml10' or 'ml45'"):
        split("ml46")
    with pytest.raises(ValueError, match="names a task twice: push, push"):
        split(unseen=["push", "push"])
    for unseen, n in (([], 0), (list(TASKS), 50)):
        with pytest.raises(ValueError, match=f"at least one task and leave at least one of the 50, got {n}"):
            split(unseen=unseen)
