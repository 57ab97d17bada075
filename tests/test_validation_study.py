"""The study of held-out errors: correlations, the choice of a prompt, and tasks that work."""

import pytest

from tools.validation_study import LENGTHS, PLAYED, SETTINGS, THIRDS, summary

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


def test_the_prompt_with_the_lowest_error_is_compared_with_chance(figures):
    assert figures["prompt"]["lowest error"] == 1.0
    assert figures["prompt"]["at random"] == 0.25
    assert figures["prompt"]["n"] == 24


def test_tasks_that_work_are_separated_by_their_error(figures):
    assert figures["tasks"]["both"]["all"] == 1.0


def test_success_is_listed_by_setting_and_length(figures):
    assert len(figures["success"]) == 12
    assert figures["success"]["setting-0, 100 steps"]["both"] == 0.0
