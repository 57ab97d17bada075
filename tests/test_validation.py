"""Validation without an environment: what is held out, what is measured, and which model is kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from factories import differing, make_episode, make_episodes, tiny_model

from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.llmdpd.callbacks import LearningCurve
from sb3_llmdpd.prompts.prompt import Prompt
from sb3_llmdpd.validation import PROMPTS, HeldOutError, beside, hold_out, make_probes, measure
from sb3_llmdpd.validation.callback import BEST_LABEL, BEST_MODEL, best_label, logged
from sb3_llmdpd.validation.critic import critic_sentence, drift, is_moving
from sb3_llmdpd.validation.errors import action_spread, returns_to_go
from sb3_llmdpd.validation.held_out import HeldOut
from sb3_llmdpd.validation.report import tables, write_report


def data_of(episodes=None) -> OfflineDataset:
    return OfflineDataset.from_episodes(make_episodes(n_tasks=4) if episodes is None else episodes)


def names(data: OfflineDataset) -> list[str]:
    return [episode.source for episode in data.episodes]


# What is held out


def test_a_share_of_each_task_is_held_out_and_the_rest_is_trained_on():
    data = data_of()
    parts = hold_out(data, 0.5)
    assert sorted(names(parts.training) + names(parts.validation)) == sorted(names(data))
    counts = [sum(name.startswith(task) for name in names(parts.validation)) for task in data.tasks]
    assert counts == [2, 2, 2, 2]


def test_a_small_share_still_holds_out_one_episode_and_a_large_one_keeps_one():
    data = data_of()
    assert len(hold_out(data, 0.01).validation.episodes) == 4
    assert len(hold_out(data, 0.99).training.episodes) == 4


def test_a_task_with_one_episode_keeps_it():
    single = make_episode(observations=np.zeros((5, 5)), task="single")
    parts = hold_out(data_of([*make_episodes(), single]), 0.5)
    assert "single" not in parts.validation.tasks


def test_whole_tasks_are_held_out_with_all_their_episodes():
    parts = hold_out(data_of(), 0.25, n_unseen=2)
    assert len(parts.unseen) == 2
    assert not parts.unseen & set(parts.training.tasks)
    assert [sum(e.task == task for e in parts.validation.episodes) for task in parts.unseen] == [4, 4]
    assert {task: parts.is_seen(task) for task in parts.unseen} == dict.fromkeys(parts.unseen, False)


def test_the_choice_in_a_task_does_not_depend_on_the_other_tasks():
    few = hold_out(data_of(make_episodes(n_tasks=2)), 0.25)
    many = hold_out(data_of(), 0.25)
    assert set(names(few.validation)) <= set(names(many.validation))


def test_episodes_of_one_goal_stay_together_where_the_example_needs_their_goal():
    pairs = [replace(e, goal=f"goal-{number // 2}") for number, e in enumerate(make_episodes(n_tasks=1))]
    parts = hold_out(data_of(pairs), 0.5, same_goal=True)
    assert len({e.goal for e in parts.validation.episodes}) == 1
    assert len(parts.validation.episodes) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1.0}, r"must be in \[0, 1\), got 1"),
        ({"n_unseen": 4}, "from 0 to 3 whole ones, got 4"),
        ({"share": 0.0}, "no episode is held out"),
    ],
)
def test_what_holds_out_nothing_or_all_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        hold_out(data_of(), **arguments)


def test_other_episodes_are_measured_beside_whole_tasks():
    other = data_of([replace(episode, task="other") for episode in make_episodes(n_tasks=1, seed=1)])
    parts = beside(hold_out(data_of(), 0.0, n_unseen=1), other)
    assert len(parts.validation.episodes) == 8
    assert "other" in parts.unseen


# What is asked


def test_the_example_is_another_episode_of_the_same_task_that_is_trained_on():
    parts = hold_out(data_of(), 0.25)
    for probe in make_probes(parts):
        (shown,) = probe.prompts["example"].trajectories
        assert shown.task == probe.episode.task
        assert shown.source in names(parts.training)


def test_the_example_of_an_unseen_task_is_another_held_out_episode():
    parts = hold_out(data_of(), 0.0, n_unseen=1)
    for probe in make_probes(parts):
        (shown,) = probe.prompts["both"].trajectories
        assert shown.task == probe.episode.task
        assert shown is not probe.episode


def test_the_wrong_prompt_is_of_another_task():
    for probe in make_probes(hold_out(data_of(), 0.25)):
        wrong = probe.prompts["wrong"]
        assert wrong.text != probe.prompts["sentence"].text
        assert wrong.trajectories[0].task != probe.episode.task


def test_prompts_that_there_is_nothing_for_are_left_out():
    data = data_of(make_episodes(n_tasks=1, texts=False))
    (probe,) = make_probes(hold_out(data, 0.25))
    assert list(probe.prompts) == ["example", "none"]


def test_states_lie_before_the_idle_tail_after_a_success():
    episodes = [replace(e, success=True, first_success=3) for e in make_episodes()]
    assert all(probe.steps.max() < 14 for probe in make_probes(hold_out(data_of(episodes), 0.25)))


def test_actions_of_failed_episodes_are_no_errors_but_their_values_are_ranked():
    episodes = [replace(e, success=number % 2 == 0) for number, e in enumerate(make_episodes(n_episodes=8))]
    parts = hold_out(data_of(episodes), 0.5)
    probes = [probe for probe in make_probes(parts) if not probe.is_good]
    assert probes
    assert all(probe.episode.success is False for probe in probes)
    errors = measure(tiny_model(dataset=parts.training), probes, action_spread(parts.training))
    assert errors.episodes == ()
    assert {value.task for value in errors.values} == {probe.episode.task for probe in probes}


def test_where_all_episodes_failed_their_actions_are_what_there_is():
    parts = hold_out(data_of([replace(e, success=False) for e in make_episodes(n_tasks=2)]), 0.25)
    assert [probe.is_good for probe in make_probes(parts)] == [True, True]


# What is measured


@pytest.fixture(scope="module")
def parts() -> HeldOut:
    return hold_out(data_of(), 0.25, n_unseen=1)


@pytest.fixture(scope="module")
def model(parts):
    return tiny_model(dataset=parts.training).learn(4)


def test_the_error_is_the_distance_of_what_predict_gives_to_the_logged_actions(model, parts):
    spread = action_spread(parts.training)
    probe = make_probes(parts)[0]
    error = measure(model, [probe], spread).episodes[0]
    prompt: Prompt = probe.prompts["both"]
    acted, _ = model.predict(probe.episode.observations[probe.steps], deterministic=True, prompt=prompt)
    rmse = np.sqrt(np.square(acted - probe.episode.actions[probe.steps]).mean(axis=0))
    assert error.prompt == "both"
    assert error.entries == pytest.approx(rmse)
    assert error.relative == pytest.approx((rmse / spread).mean())


def test_entries_that_never_change_do_not_count_in_the_relative_error(model, parts):
    spread = np.array([0.5, 0.0])
    error = measure(model, make_probes(parts)[:1], spread).episodes[0]
    assert error.relative == pytest.approx(error.entries[0] / 0.5)


def test_two_measurements_of_one_model_are_equal(model, parts):
    probes, spread = make_probes(parts), action_spread(parts.training)
    assert measure(model, probes, spread) == measure(model, probes, spread)


def test_the_error_that_compares_models_is_that_of_unseen_tasks_under_both(model, parts):
    errors = measure(model, make_probes(parts), action_spread(parts.training))
    assert errors.chosen_by == (False, "both")
    relative = [e.relative for e in errors.episodes if e.seen is False and e.prompt == "both"]
    assert errors.error == pytest.approx(np.mean(relative))


def test_what_was_earned_is_in_the_rewards_that_the_critic_learns(model, parts):
    probe = make_probes(parts)[0]
    rewards, returns = probe.episode.rewards, returns_to_go(probe.episode, model.gamma)
    errors = measure(model, [probe], action_spread(parts.training))
    expected = returns[probe.steps].mean() / np.sqrt(np.square(rewards).mean())
    assert [value.earned for value in errors.values] == pytest.approx([expected] * len(errors.values))


@pytest.mark.parametrize(("sign", "prefers"), [(-1.0, 1.0), (1.0, 0.0)])
def test_a_critic_prefers_the_logged_action_where_its_value_is_the_higher(
    sign, prefers, model, parts, monkeypatch
):
    probe, other = make_probes(parts)[:2]
    logged = th.as_tensor(probe.episode.actions[probe.steps])

    def by_distance(features, prompts, actions):
        return sign * (actions - scaled).square().sum(dim=-1)[None]

    low, high = (th.as_tensor(bound) for bound in (model.action_space.low, model.action_space.high))
    scaled = 2 * (logged - low) / (high - low) - 1
    monkeypatch.setattr(model.policy.critic_target, "forward", by_distance)
    errors = measure(model, [probe, other], action_spread(parts.training))
    found = {value.prefers for value in errors.values if value.task == probe.episode.task}
    assert prefers in found


def test_one_episode_alone_leaves_the_critic_nothing_to_prefer(model, parts):
    errors = measure(model, make_probes(parts)[:1], action_spread(parts.training))
    assert {value.prefers for value in errors.values} == {None}


def test_a_model_of_cloning_alone_has_no_values(parts):
    cloned = tiny_model(dataset=parts.training, eta=0.0).learn(1)
    assert measure(cloned, make_probes(parts), action_spread(parts.training)).values == ()


def test_the_spread_is_the_standard_deviation_of_all_actions():
    data = data_of()
    actions = np.concatenate([episode.actions for episode in data.episodes])
    assert action_spread(data) == pytest.approx(actions.std(axis=0))


@pytest.mark.parametrize(("terminated", "expected"), [(True, [1.75, 1.5, 1.0]), (False, [2.0, 2.0, 2.0])])
def test_returns_to_go_of_an_episode_that_was_cut_off_go_on_with_its_last_reward(terminated, expected):
    episode = make_episode(
        observations=np.zeros((4, 3)), actions=np.zeros((3, 2)), rewards=np.ones(3), terminated=terminated
    )
    assert returns_to_go(episode, 0.5).tolist() == expected


# What a training does with it


def test_a_training_that_is_measured_is_the_same_to_the_bit(model, parts):
    measured = tiny_model(dataset=parts.training).learn(4, callback=HeldOutError(parts, freq=2))
    assert differing(model.policy, measured.policy) == set()


def test_what_is_measured_is_logged_at_its_step_and_at_the_end(parts):
    curve, measured = LearningCurve(), HeldOutError(parts, freq=2)
    tiny_model(dataset=parts.training).learn(5, callback=[measured, curve], log_interval=1)
    rows = [row for row in curve.rows if "validation_unseen/both_error" in row]
    assert [row["step"] for row in rows] == [2.0, 4.0, 5.0]
    assert rows[-1] == {"step": 5.0, **rows[-1], **logged(measured.last)}


def test_the_model_with_the_lowest_error_is_kept_and_labelled(parts, tmp_path):
    curve, measured = LearningCurve(), HeldOutError(parts, freq=2, folder=tmp_path)
    model = tiny_model(dataset=parts.training).learn(6, callback=[measured, curve])
    found = {row["step"]: row["validation_unseen/both_error"] for row in curve.rows}
    best = min(found, key=found.__getitem__)
    label = best_label(tmp_path)
    assert (label["step"], label["prompt"], label["tasks"]) == (best, "both", "unseen")
    assert label["error"] == pytest.approx(found[best])
    kept = type(model).load(tmp_path / BEST_MODEL, device="cpu")
    assert kept.num_timesteps == best


def test_a_run_that_goes_on_keeps_the_best_of_before(parts, tmp_path):
    (tmp_path / BEST_LABEL).write_text('{"step": 1, "error": 0.0, "prompt": "both", "tasks": "unseen"}')
    model = tiny_model(dataset=parts.training).learn(1)
    model.learn(2, callback=HeldOutError(parts, 1, tmp_path), reset_num_timesteps=False)
    assert best_label(tmp_path)["step"] == 1
    assert not (tmp_path / BEST_MODEL).exists()


def test_a_new_run_forgets_the_best_of_before(parts, tmp_path):
    (tmp_path / BEST_LABEL).write_text('{"step": 1, "error": 0.0, "prompt": "both", "tasks": "unseen"}')
    tiny_model(dataset=parts.training).learn(2, callback=HeldOutError(parts, 2, tmp_path))
    assert best_label(tmp_path)["step"] == 2


def test_a_damaged_label_is_refused(tmp_path):
    (tmp_path / BEST_LABEL).write_text("{}")
    with pytest.raises(ValueError, match="does not say which model is the best"):
        best_label(tmp_path)


# Whether the critic has converged


def test_a_value_that_stands_still_at_the_end_has_converged():
    rows = [{"step": step, "train/q_value": min(step, 50)} for step in range(100)]
    assert critic_sentence(rows).startswith("The critic has converged: over the last quarter")
    assert not is_moving(rows)


def test_a_value_that_rises_to_the_end_has_not_converged():
    rows = [{"step": step, "train/q_value": step} for step in range(100)]
    assert is_moving(rows)
    assert "moved by 24% of its range, up" in critic_sentence(rows)


def test_the_drift_of_a_constant_is_zero_and_of_few_points_is_unknown():
    assert drift(range(8), [3.0] * 8) == 0.0
    assert drift(range(7), range(7)) is None


# The report


def test_the_tables_have_a_row_for_each_group_and_prompt_and_each_task(model, parts):
    errors = measure(model, make_probes(parts), action_spread(parts.training))
    prompts, entries, tasks, critic = tables(errors)
    assert [row[:2] for row in prompts.rows] == [
        (group, prompt) for group in ("unseen (1)", "seen (3)") for prompt in PROMPTS
    ]
    assert len(entries.rows[0]) == 2 + 2
    assert [row[1] for row in tasks.rows] == ["unseen", "seen", "seen", "seen"]
    assert [row[:2] for row in critic.rows] == [row[:2] for row in prompts.rows]


def test_the_report_is_json_that_holds_each_episode(model, parts, tmp_path):
    errors = measure(model, make_probes(parts), action_spread(parts.training))
    write_report(tmp_path, errors, {"model": "model.zip"}, ["The critic has converged."])
    written = json.loads((tmp_path / "validation.json").read_text())
    assert written["error"] == pytest.approx(errors.error)
    assert len(written["episodes"]) == len(errors.episodes)
    assert "The critic has converged." in (tmp_path / "validation.md").read_text()
