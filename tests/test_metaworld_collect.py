"""Collecting scripted experts: the record, its names, and the remains of an interruption."""

import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_llmdpd.data.episodes import STEPS_AFTER_SUCCESS, Episode
from sb3_llmdpd.data.metaworld import TASKS, MetaWorldEnv, collect, collected_success, writer
from sb3_llmdpd.data.metaworld.record import Recipe, record_episode
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.networks.metaworld_layout import GOAL, OBJECT

REACH = "metaworld/reach-v0"


def collect_here(root: Path, tasks: str | list[str] = "reach", **options: Any) -> list[str]:
    options = {"n_episodes": 2, "n_processes": 1, "progress_bar": False, **options}
    return collect(tasks, root=root, **options)


def collected(root: Path, tasks: str | list[str] = "reach", **options: Any) -> tuple[Episode, ...]:
    return load_minari(collect_here(root, tasks, **options), root=root).episodes


def episode_metadata(root: Path, dataset_id: str) -> list[dict[str, Any]]:
    import minari

    storage = minari.MinariDataset(root / dataset_id / "data").storage
    return list(storage.get_episode_metadata(range(storage.total_episodes)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of reach with no noise, some, and much."""
    folder = tmp_path_factory.mktemp("minari")
    assert collect_here(folder, n_episodes=3, noise=(0.0, 0.3, 1.0)) == [REACH]
    return folder


@pytest.fixture(scope="module")
def episodes(root: Path) -> tuple[Episode, ...]:
    return load_minari(REACH, root=root).episodes


def test_replayed_actions_give_the_recorded_observations(root: Path, episodes: tuple[Episode, ...]) -> None:
    env = MetaWorldEnv("reach")
    for episode, metadata in zip(episodes, episode_metadata(root, REACH), strict=True):
        observations = [env.reset(seed=metadata["seed"])[0]]
        rewards = []
        for action in episode.actions:
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            rewards.append(reward)
        np.testing.assert_array_equal(episode.observations, np.stack(observations))
        np.testing.assert_allclose(episode.rewards, rewards, rtol=1e-6)


def test_the_action_recorded_is_the_clipped_sum_of_the_experts_and_the_noise() -> None:
    env = MetaWorldEnv("reach")
    calm, noisy = (record_episode(env, Recipe("reach", 1, (std,), 1, True, 0), 0) for std in (0.0, 0.2))
    assert isinstance(noisy.observations, np.ndarray)
    experts = []
    env.reset(seed=noisy.seed)
    for observation, action in zip(noisy.observations, noisy.actions, strict=False):
        experts.append(env.expert_action(observation))
        env.step(action)
    inside = np.abs(noisy.actions) < 1
    noise = (noisy.actions - np.stack(experts))[inside]
    assert np.abs(noisy.actions).max() == 1.0  # something was clipped
    assert 0.15 < noise.std() < 0.25
    np.testing.assert_array_equal(calm.observations[0], noisy.observations[0])


def test_an_episode_ends_shortly_after_its_first_success(episodes: tuple[Episode, ...]) -> None:
    for episode in episodes:
        assert episode.success
        assert episode.first_success is not None
        assert len(episode) == episode.first_success + 1 + STEPS_AFTER_SUCCESS == episode.prompt_length
        assert not episode.terminated


@pytest.mark.parametrize("steps", [0, 3])
def test_as_many_steps_as_asked_follow_the_first_success(steps: int) -> None:
    recipe = Recipe("reach", 1, (0.0,), 1, True, 0, steps_after_success=steps)
    episode = record_episode(MetaWorldEnv("reach"), recipe, 0)
    assert len(episode.actions) == episode.first_success + 1 + steps


def test_an_episode_recorded_to_its_end_is_shown_until_shortly_after_its_success(tmp_path: Path) -> None:
    (episode,) = collected(tmp_path, n_episodes=1, steps_after_success=500)
    assert episode.first_success is not None
    assert len(episode) == 500
    assert episode.prompt_length == episode.first_success + 1 + STEPS_AFTER_SUCCESS


def test_a_failed_episode_is_kept_whole_and_marked(tmp_path: Path) -> None:
    (episode,) = collected(tmp_path, "pick-place", n_episodes=1, noise=[5.0])
    assert (len(episode), episode.success, episode.first_success) == (500, False, None)
    assert collected_success(["metaworld/pick-place-v0"], tmp_path) == {"pick-place": 0.0}


def test_episodes_and_data_set_say_what_they_are(root: Path, episodes: tuple[Episode, ...]) -> None:
    metadata = json.loads((root / REACH / "data" / "metadata.json").read_text())
    said_by_each = episode_metadata(root, REACH)
    episode = said_by_each[0]
    assert [entry["noise"] for entry in said_by_each] == [0.0, 0.3, 1.0]  # in turns
    said = {"task_id": "reach", "task_text": TASKS["reach"].texts[0], "goal_separate": True}
    said |= {f"{package}_version": version(package) for package in ("mujoco", "metaworld")}
    for entry in (metadata, episode):
        assert {key: entry[key] for key in said} == said
    assert metadata["task_texts"] == json.loads(episode["task_texts"]) == list(TASKS["reach"].texts)
    assert metadata["dataset_id"] == REACH
    assert metadata["success_rate"] == 1.0
    assert bool(episode["success"]) is True
    assert episode["first_success"] == episodes[0].first_success


def test_minari_itself_reads_what_was_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    assert list(minari.list_local_datasets()) == [REACH]
    dataset = minari.load_dataset(REACH)
    episode = dataset[0]
    assert dataset.total_episodes == 3
    assert (episode.observations.shape, episode.observations.dtype) == ((len(episode) + 1, 39), np.float32)
    assert episode.truncations[-1]
    assert not episode.terminations.any()
    assert episode.infos["success"].shape == (len(episode) + 1,)


def test_episodes_share_a_goal_that_can_be_played_again_and_place_the_object_anew(tmp_path: Path) -> None:
    pushes = collected(tmp_path, "push", n_episodes=4, episodes_per_goal=2)
    starts = np.stack([episode.observations[0] for episode in pushes])
    np.testing.assert_allclose(starts[0, GOAL], starts[1, GOAL], atol=1e-6)
    np.testing.assert_allclose(starts[2, GOAL], starts[3, GOAL], atol=1e-6)
    assert np.abs(starts[0, GOAL] - starts[2, GOAL]).max() > 0.01
    assert np.abs(starts[0, OBJECT] - starts[1, OBJECT]).max() > 0.01
    goals = [episode.goal for episode in pushes]
    assert goals[0] == goals[1] != goals[2] == goals[3]
    env = MetaWorldEnv("push")
    for episode in pushes:  # the goal can be played again, with the object elsewhere
        observation, _ = env.reset(seed=5, options={"goal_of": episode.goal})
        np.testing.assert_allclose(observation[GOAL], episode.observations[0][GOAL], atol=1e-6)
        assert np.abs(observation[OBJECT] - episode.observations[0][OBJECT]).max() > 0.01


def test_a_goal_that_is_a_part_of_the_object_is_shared_by_all_and_no_scene_is(tmp_path: Path) -> None:
    one, other = collected(tmp_path, "drawer-close", n_episodes=2, episodes_per_goal=2)
    assert one.goal == other.goal == "drawer-close"
    assert np.abs(one.observations[0][OBJECT] - other.observations[0][OBJECT]).max() > 0.01


def test_a_hidden_goal_is_not_in_the_data(tmp_path: Path) -> None:
    (episode,) = collected(tmp_path, n_episodes=1, goal_visible=False)
    assert episode.success
    assert not episode.observations[:, GOAL].any()


def test_an_episode_depends_on_the_seed_and_not_on_what_is_collected_beside_it(tmp_path: Path) -> None:
    (alone,) = collected(tmp_path / "alone", n_episodes=1)
    _, _, beside, _ = collected(tmp_path / "beside", ["window-open", "reach"], n_episodes=2)
    (other,) = collected(tmp_path / "other", n_episodes=1, seed=1)
    np.testing.assert_array_equal(alone.actions, beside.actions)
    assert not np.array_equal(alone.actions, other.actions)


@pytest.mark.slow  # two processes import the simulator
def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    one, two = (collected(tmp_path / str(n), ["reach", "push"], n_episodes=12, n_processes=n) for n in (1, 2))
    for mine, theirs in zip(one, two, strict=True):
        assert mine.task == theirs.task
        np.testing.assert_array_equal(mine.observations, theirs.observations)


def test_a_data_set_is_kept_for_the_same_recipe_and_in_the_way_of_another(root: Path) -> None:
    file = root / REACH / "data" / "main_data.hdf5"
    before = file.stat().st_mtime_ns
    assert collect_here(root, n_episodes=3, noise=(0.0, 0.3, 1.0)) == [REACH]
    message = r"'metaworld/reach-v0' is already in .*n_episodes 3 there, 2 asked.*Delete .*id_format"
    with pytest.raises(ValueError, match=message):
        collect_here(root)
    assert file.stat().st_mtime_ns == before


def test_what_collect_did_not_write_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / REACH).mkdir(parents=True)
    (tmp_path / REACH / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="`collect` did not write it"):
        collect_here(tmp_path)
    assert (tmp_path / REACH / "notes.txt").read_text() == "mine"


def test_interrupted_collection_keeps_whole_data_sets_and_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    tasks, describe = ["reach", "window-open"], writer._describe

    def interrupted(storage: Any, recipe: Recipe, episodes: Any) -> None:
        if recipe.task == "window-open":
            raise KeyboardInterrupt
        describe(storage, recipe, episodes)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_describe", interrupted)  # after the first bytes are on disk
        with pytest.raises(KeyboardInterrupt):
            collect_here(tmp_path, tasks, n_episodes=1)
    assert sorted(path.name for path in (tmp_path / "metaworld").iterdir() if path.is_dir()) == ["reach-v0"]
    assert not list(tmp_path.glob(".*"))
    assert [episode.task for episode in collected(tmp_path, tasks, n_episodes=1)] == tasks


def test_what_a_killed_collection_left_is_removed_and_a_running_ones_is_not(tmp_path: Path) -> None:
    old, young = tmp_path / ".collecting-old", tmp_path / ".collecting-young"
    for folder, age in ((old, 86_400), (young, 0)):
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    collect_here(tmp_path, n_episodes=1)
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "raech"}, "unknown Meta-World task 'raech': did you mean 'reach'"),
        ({"n_episodes": 0}, "must be at least 1, got 0 and 1"),
        ({"n_episodes": 3, "episodes_per_goal": 2}, "a multiple of `episodes_per_goal`.* got 3 and 2"),
        ({"noise": ()}, "`noise` must be one or several standard deviations"),
        ({"noise": (-0.1,)}, "`noise` must be one or several standard deviations"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"steps_after_success": -1}, "`steps_after_success` must be at least 0, got -1"),
        ({"n_processes": 0}, "`n_processes` must be at least 1, or None for one a CPU core, got 0"),
        ({"id_format": "reach-v0"}, "`id_format` must hold '{task}'"),
        ({"id_format": "a b/{task}-v0"}, "`id_format` gives .a b/reach-v0., which is no Minari id"),
        ({"id_format": "{task}"}, "which is no Minari id"),
    ],
)
def test_impossible_requests_are_refused_at_once(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect_here(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_the_success_of_a_data_set_that_is_not_there_is_an_error(root: Path) -> None:
    with pytest.raises(ValueError, match="'metaworld/push-v0' is no data set that `collect` wrote"):
        collected_success(["metaworld/push-v0"], root)


def test_a_relative_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(collected(Path("data"), n_episodes=1)) == 1
