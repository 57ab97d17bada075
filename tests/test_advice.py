"""`advise`: trainings that leave tasks out, what is made of them, and the page."""

import json
from dataclasses import replace

import numpy as np
import pytest
from factories import TINY_POLICY, make_episodes, tiny_model

from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.validation import folds
from sb3_llmdpd.validation.advice import advise, verdict_sentence
from sb3_llmdpd.validation.advice_page import facts, tables, text, write_advice
from sb3_llmdpd.validation.folds import LeaveOut, plan_folds
from sb3_llmdpd.validation.judgement import (
    LIKELY,
    OPEN,
    UNLIKELY,
    Judgement,
    LeftOut,
    advised_prompt,
    gain,
    judge_distance,
    judge_error,
    odd_scores,
)
from sb3_llmdpd.validation.nearness import Neighbourhood

TINY = {
    "batch_size": 6,
    "prompts_per_batch": 3,
    "text_encoder": "hashing:8",
    "device": "cpu",
    "policy_kwargs": TINY_POLICY,
}


def shifted(episode, by):
    return replace(episode, observations=episode.observations + np.float32(by))


@pytest.fixture(scope="module")
def data():
    """Three tasks of random episodes; the observations of each lie ten further than the last."""
    episodes = [shifted(one, 10 * int(one.task[-1])) for one in make_episodes(n_episodes=4)]
    return OfflineDataset.from_episodes(episodes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("advice")


@pytest.fixture(scope="module")
def advice(data, folder):
    new = [replace(shifted(one, 9), task="new", task_texts=()) for one in data.episodes[:2]]
    with pytest.MonkeyPatch.context() as short:
        short.setattr(folds, "_FEWEST_STEPS", 2)
        return advise(data, 1e-3, ["do task number 1", new], folder, **TINY)


# The plan ---------------------------------------------------------------------------------------------------


def test_every_task_is_left_out_once():
    tasks = [f"task-{number}" for number in range(7)]
    planned = plan_folds(tasks, 10.0, step_s=0.01, other_s=1.0).folds
    assert sorted(task for fold in planned for task in fold) == tasks
    assert len(planned) == 7


def test_a_smaller_budget_leaves_out_more_tasks_at_a_time_and_then_trains_shorter():
    tasks = [f"task-{number}" for number in range(12)]
    plans = [plan_folds(tasks, minutes, step_s=0.05, other_s=10.0) for minutes in (20.0, 5.0, 2.0, 0.01)]
    assert [len(plan.folds) for plan in plans] == [10, 3, 3, 3]
    assert [plan.steps for plan in plans] == [1480, 1200, 360, 50]


def test_the_budget_holds_what_is_planned():
    plan = plan_folds(["a", "b", "c", "d", "e"], 10.0, step_s=0.1, other_s=20.0)
    assert len(plan.folds) * (plan.steps * 0.1 + 20.0) <= 0.7 * 600.0


def test_a_single_task_is_refused_with_what_to_do_instead(tmp_path):
    data = OfflineDataset.from_episodes(make_episodes(n_tasks=1))
    with pytest.raises(ValueError, match=r"none can be left out.*train --validation"):
        LeaveOut(data, 1.0, tmp_path, TINY)


def test_actions_that_never_vary_are_refused(data, tmp_path):
    still = OfflineDataset.from_episodes([replace(one, actions=0 * one.actions) for one in data.episodes])
    with pytest.raises(ValueError, match="all actions of the data are the same"):
        LeaveOut(still, 1.0, tmp_path, TINY)


# What is kept -----------------------------------------------------------------------------------------------


def test_a_second_call_trains_nothing_and_says_the_same(data, folder, advice, monkeypatch):
    monkeypatch.setattr(LeaveOut, "_trained", lambda *_: pytest.fail("it trains again"))
    again = advise(data, 1e-3, (), folder, **TINY)
    assert replace(again, new=()) == replace(advice, new=())


@pytest.mark.usefixtures("advice")
def test_other_data_other_settings_and_another_budget_are_refused(data, folder):
    fewer = data.only(lambda episode: episode.task != "task-2")
    for name, others in (
        ("data", (fewer, 1e-3, TINY)),
        ("minutes", (data, 2.0, TINY)),
        ("settings", (data, 1e-3, {**TINY, "gamma": 0.5})),
    ):
        with pytest.raises(ValueError, match=f"holds the advice on other {name}: choose another folder"):
            LeaveOut(*others[:2], folder, others[2])


def test_a_damaged_file_is_named_with_what_to_do(data, tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan.json is damaged: delete it"):
        LeaveOut(data, 1.0, tmp_path, TINY)


def test_a_fold_learns_from_no_episode_that_it_measures(data, tmp_path):
    parts = LeaveOut(data, 1.0, tmp_path, TINY)._parts(["task-1"])
    assert set(parts.training.tasks) == {"task-0", "task-2"}
    assert not {id(one) for one in parts.training.episodes} & {id(one) for one in parts.validation.episodes}
    assert [sum(one.task == task for one in parts.validation.episodes) for task in data.tasks] == [1, 4, 1]


# What is made of it -----------------------------------------------------------------------------------------


def test_all_tasks_stand_in_the_advice_the_worst_learned_first(advice, data):
    assert {task.task for task in advice.tasks} == set(data.tasks)
    assert [task.learned for task in advice.tasks] == sorted(task.learned for task in advice.tasks)
    assert set(advice.prompts) == {"both", "sentence", "example", "none", "wrong"}


def test_tasks_with_few_episodes_are_told_so(advice):
    assert all("it has only 4 episodes: record at least 5" in task.lacks for task in advice.tasks)


def test_the_nearest_known_task_of_a_new_example_is_the_one_that_lies_there(advice):
    new = advice.new[1]
    assert (new.name, new.n_episodes) == ("new", 2)
    assert new.nearest["example"][0][0] == "task-1"
    assert set(new.errors) == {"none", "example", "wrong"}


def test_a_known_sentence_is_at_distance_zero_of_its_task(advice):
    assert advice.new[0].nearest["sentence"][0] == ("task-1", 0.0)
    assert "example" not in advice.new[0].judgements


def test_the_distance_of_an_example_is_a_mean_over_its_steps(data):
    model = tiny_model(dataset=data)
    known = data.only(lambda episode: episode.task == "task-0")
    example = known.episodes[0]
    near = Neighbourhood(model, known)
    assert near.of(example, None).to_nearest("example") == pytest.approx(0.0, abs=1e-3)
    # Standard deviations of the data are about those of 0, 10 and 20.
    scale = float(model.policy.actor_target.feature_normaliser.scale.mean())
    far = near.of(shifted(example, 100 * scale), None).to_nearest("example")
    assert far == pytest.approx(10.0, abs=2.0)  # standardised values are clipped there


def test_episodes_of_one_name_are_named_apart(data, tmp_path, monkeypatch):
    monkeypatch.setattr(folds, "_FEWEST_STEPS", 1)
    alike = [replace(episode, source="episode") for episode in data.episodes[:8]]
    advise(alike, 1e-3, (), tmp_path, **TINY)
    scores = [
        score for path in tmp_path.glob("fold-*.json") for score in json.loads(path.read_text())["scores"]
    ]
    assert len({score["source"] for score in scores}) == 8
    assert {score["source"] for score in scores} >= {"task-0, episode 3", "task-1, episode 0"}


# Judgements -------------------------------------------------------------------------------------------------


def test_an_example_alone_is_advised_unless_another_prompt_is_clearly_better():
    assert advised_prompt({"both": 0.48, "example": 0.50, "sentence": 0.9, "none": 0.8}) == "example"
    assert advised_prompt({"both": 0.40, "example": 0.50, "sentence": 0.9, "none": 0.8}) == "both"
    assert advised_prompt({"sentence": 0.9, "none": 0.5, "wrong": 0.1}) == "none"


def test_a_gain_is_the_share_of_the_error_that_a_prompt_takes_away():
    assert gain(0.2, 0.8) == pytest.approx(0.75)
    assert gain(1.0, 0.8) == pytest.approx(-0.25)


def test_the_one_odd_episode_stands_out():
    errors, tasks = [0.3, 0.31, 0.29, 1.2, 0.6, 0.61, 0.59, 0.5], ["a"] * 4 + ["b"] * 2 + ["c"] * 2
    zs = odd_scores(errors, tasks)
    assert np.argmax([z or 0.0 for z in zs]) == 3
    assert zs[3] > 3.5 > zs[1]
    assert zs[4:] == [None] * 4  # too few to tell which of them is odd


def test_episodes_that_agree_to_a_hair_are_not_odd():
    assert max(odd_scores([0.3, 0.3, 0.3, 0.301], ["a"] * 4)) < 1.0


LEFT_OUT = [LeftOut(0.1 * number, worked=number < 6) for number in range(10)]


@pytest.mark.parametrize(
    ("distance", "verdict", "reason"),
    [
        (0.1, LIKELY, "5 of the 5 left-out tasks"),
        (0.56, UNLIKELY, "none that was farther than 0.50"),
        (2.0, UNLIKELY, "farther than every task that was left out (up to 0.90)"),
    ],
)
def test_a_distance_is_judged_by_left_out_tasks_that_were_as_far(distance, verdict, reason):
    judged = judge_distance(distance, LEFT_OUT)
    assert judged.verdict == verdict
    assert reason in judged.reason


def test_some_of_the_tasks_that_were_as_far_leave_it_open():
    mixed = [LeftOut(0.1 * number, worked=number % 2 == 0) for number in range(10)]
    assert judge_distance(0.34, mixed).verdict == OPEN


def test_no_distance_helps_where_no_left_out_task_worked():
    judged = judge_distance(0.0, [LeftOut(0.5, worked=False)])
    assert judged == Judgement(UNLIKELY, "of the 1 tasks that were left out, none worked")


def test_an_error_is_judged_beside_the_one_without_a_prompt():
    assert [judge_error(error, 1.0).verdict for error in (0.5, 0.7, 0.9)] == [LIKELY, OPEN, UNLIKELY]


def test_a_verdict_says_that_an_example_is_needed_where_the_sentence_is_not_enough():
    judgements = {"example": Judgement(LIKELY, "it is near"), "sentence": Judgement(UNLIKELY, "it is far")}
    said = "Likely to work with an example: it is near. A sentence alone is not enough: it is far."
    assert verdict_sentence(judgements) == said


# The page ---------------------------------------------------------------------------------------------------


def test_the_page_holds_every_table_in_text_markdown_and_html(advice, tmp_path):
    write_advice(tmp_path, advice)
    titles = [table.title for table in tables(advice)]
    html = (tmp_path / "advice.html").read_text()
    for title in titles:
        assert title in text(advice)
        assert title in (tmp_path / "advice.md").read_text()
        assert f"<h2>{title}</h2>" in html


def test_the_numbers_are_json_with_every_task(advice, tmp_path):
    write_advice(tmp_path, advice)
    written = json.loads((tmp_path / "advice.json").read_text())
    assert [task["task"] for task in written["tasks"]] == [task.task for task in advice.tasks]
    assert written["plan"]["steps"] == 2


def test_the_first_facts_name_trainings_and_the_prompt(advice):
    said = facts(advice)
    assert said[0].startswith("3 trainings of 2 gradient steps, a budget of 0.001 minutes; each of 3 tasks")
    assert said[2].startswith("Prompt with ")
    assert said[-1].startswith("new: ")
