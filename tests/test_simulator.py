"""The faster methods of the simulator give the same as its own."""

from typing import Any

import numpy as np

from sb3_llmdpd.data.metaworld import MetaWorldEnv, simulator


def episode(env: MetaWorldEnv) -> list[Any]:
    """Observations, rewards and infos of an expert with some noise."""
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    seen = []
    for _ in range(80):
        action = np.clip(env.expert_action(observation) + 0.3 * rng.standard_normal(4), -1.0, 1.0)
        observation, reward, *_, info = env.step(action)
        seen.append((observation.tobytes(), reward, info))
    return seen


def test_whether_an_object_is_touched_is_what_the_simulator_says():
    env = MetaWorldEnv("pick-place")
    own = type(env.simulator).__mro__[1].touching_object
    observation, _ = env.reset(seed=0)
    answers = []
    for _ in range(80):
        observation, *_ = env.step(env.expert_action(observation))
        object_id = env.simulator._get_id_main_object()
        answers.append(simulator.touching_object(env.simulator, object_id))
        assert answers[-1] == own(env.simulator, object_id)
    assert set(answers) == {False, True}


def test_an_episode_is_the_one_that_the_simulators_own_class_plays(monkeypatch):
    fast = episode(MetaWorldEnv("pick-place"))
    of_a_copied_model = episode(MetaWorldEnv("pick-place"))
    monkeypatch.setattr(simulator, "_made_fast", lambda simulator_class: simulator_class)
    assert fast == of_a_copied_model == episode(MetaWorldEnv("pick-place"))


def test_a_model_is_compiled_once_for_environments_of_one_task(monkeypatch):
    MetaWorldEnv("pick-place")
    own = type(MetaWorldEnv("pick-place").simulator).__mro__[1]

    def compile_again(self: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(own, "_initialize_simulation", compile_again)
    MetaWorldEnv("pick-place")


def test_what_is_moved_in_one_environment_stays_where_it_was_in_the_next():
    one = MetaWorldEnv("pick-place")
    before = one.simulator.model.body_pos.copy()
    one.simulator.model.body_pos[:] += 1.0
    np.testing.assert_array_equal(MetaWorldEnv("pick-place").simulator.model.body_pos, before)


def test_a_simulator_keeps_the_name_of_its_class_and_takes_its_time_limit():
    made = simulator.make_simulator("pick-place-v3", 7, None, 64)
    assert type(made).__name__ == "SawyerPickPlaceEnvV3"
    assert made.max_path_length == 7
