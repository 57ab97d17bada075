"""The study of held-out errors: correlations, the choice of a prompt, and tasks that work."""

import pytest

from sb3_llmdpd.validation.nearness import Nearness
from tools.validation_study import LENGTHS, PLAYED, SETTINGS, THIRDS, prompt_choices, summary, verdicts

TASKS = ("a", "b")


def model(number: int, errors: dict[str, float], success: dict[str, float]) -> dict:
    """Make the results of a model whose two tasks are alike but for a small difference."""
    return {
        "setting": f"setting-{number % 3}",
        "third": THIRDS[0],
        "step": LENGTHS[number % 4],
        "errors": errors,
        "known_errors": errors,
        "success": {prompt: dict.fromkeys(TASKS, rate) for prompt, rate in success.items()},
        "episodes": [
            {"task": task, "prompt": prompt, "seen": False, "relative": error}
            for prompt, error in errors.items()
            for task in TASKS
        ],
    }


@pytest.fixture(scope="module")
def figures():
    """Models of which a lower error is always a higher success, and the sentence is the worst prompt."""
    worse = {prompt: 0.02 * number for number, prompt in enumerate(("both", "example", "none", "sentence"))}
    models = [
        model(
            number,
            {prompt: 1.0 - number / 12 + worse[prompt] for prompt in PLAYED},
            {prompt: number / 12 - worse[prompt] for prompt in PLAYED},
        )
        for number in range(12)
    ]
    return summary(models, n_resamples=20)


def test_there_are_at_least_thirty_models_of_three_settings():
    assert len(THIRDS) * len(LENGTHS) * len(SETTINGS) >= 30


def test_errors_that_fall_as_success_rises_correlate_by_one(figures):
    found = figures["spearman"]
    assert found["both"] == dict.fromkeys(found["both"], 1.0)
    assert found["pooled, within prompts and thirds"]["value"] == 1.0


def test_the_prompt_of_each_rule_is_compared_with_chance(figures):
    found = figures["prompt"]["all models"]
    assert found["lowest error"] == found["always both"] == 1.0
    assert found["always sentence"] == 0.0
    assert found["at random"] == 0.25
    assert found["n"] == 24


def test_a_margin_of_the_other_thirds_is_counted_where_there_are_two():
    prompts = {"both": 0.35, "example": 0.5, "sentence": 0.9, "none": 0.9}
    rates = {"both": 1.0, "example": 0.0, "sentence": 0.0, "none": 0.0}
    models = [{**model(number, prompts, rates), "third": THIRDS[number]} for number in range(2)]
    found = prompt_choices(models)["all models"]
    assert found["advised, margin of the other thirds"] == 1.0


@pytest.fixture(scope="module")
def judged():
    """Two tasks that are followed, one of which is near, and two that are not."""
    rates = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}
    errors = {"a": 0.2, "b": 0.4, "c": 0.8, "d": 0.9}
    one = model(0, {"both": 0.5}, dict.fromkeys(PLAYED, 0.0)) | {"setting": "retrieval"}
    one["success"] = dict.fromkeys(PLAYED, rates)
    one["episodes"] = [
        {"task": task, "prompt": prompt, "seen": False, "relative": 1.0 if prompt == "none" else error}
        for task, error in errors.items()
        for prompt in PLAYED
    ]
    far = {"a": 0.1, "b": 0.7, "c": 0.5, "d": 0.9}
    near = {task: Nearness({"x": distance}, {"x": distance}) for task, distance in far.items()}
    return verdicts([one], {THIRDS[0]: near}, n_resamples=20)


def test_a_verdict_by_errors_separates_tasks_that_work(judged):
    assert judged["example"]["gain"] == 1.0
    assert (judged["all"]["n"], judged["all"]["n that work"]) == (8, 4)


def test_a_verdict_by_distances_errs_where_a_far_task_works(judged):
    assert judged["sentence"]["distance"] == 0.75


def test_the_limit_of_a_verdict_is_counted(judged):
    assert judged["all"]["told to work of those that do"] == 1.0
    assert judged["all"]["told not to of those that do not"] == 1.0


def test_success_is_listed_by_setting_and_length(figures):
    assert len(figures["success"]) == 12
    assert figures["success"]["setting-0, 100 steps"]["both"] == 0.0
