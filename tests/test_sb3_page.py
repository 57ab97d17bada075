"""The page on SB3 compatibility names tests that exist, and leaves out no test that it should answer."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "reference" / "sb3_compatibility.md").read_text()
NAME = re.compile(r"`(test_\w+)`")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| `test_")
]

OF_SB3 = re.findall(
    r"\w+",
    """
    test_save_load test_set_env test_exclude_include_saved_params test_save_load_env_cnn
    test_save_load_replay_buffer test_warn_buffer test_save_load_policy test_auto_wrap test_predict
    test_subclassed_space_env test_identity_spaces test_action_spaces test_float64_action_space
    test_deterministic_training_common test_custom_offpolicy test_custom_optimizer test_consistency
    test_dict_spaces test_multiprocessing test_dict_vec_framestack test_vec_normalize test_cnn
    test_image_like_input test_deterministic_pg test_offpolicy_normalization test_mixing_gym_vecenv_api
    test_no_resource_warning test_cast_lr_schedule test_save_load_net_arch_none test_n_critics
    test_evaluate_policy test_evaluate_vector_env test_callbacks test_callbacks_can_cancel_runs
    test_ep_buffers_stats_window_size test_load_invalid_object test_save_load_large_model
    test_evaluate_policy_monitors test_tensorboard test_set_logger test_fps_no_div_zero
    test_eval_callback_vec_env test_eval_callback_chaining test_checkpoint_additional_info
    test_policy_hint test_dict_nested test_device_buffer test_buffer_dtypes test_continuous
    test_td3_train_with_batch_norm test_predict_with_dropout_batch_norm
    test_features_extractor_target_net test_train_freq
    """,
)
"""SB3's tests that ask something of an offline algorithm of continuous actions."""


def names_of_tests() -> set[str]:
    trees = [ast.parse(path.read_text()) for path in TESTS.glob("test_*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def answered(row: list[str]) -> set[str]:
    """List the tests of ours that a row of the page names."""
    return {name for cell in row[1:] for name in NAME.findall(cell)}


def test_every_test_that_the_page_names_exists():
    named = {name for row in ROWS for name in answered(row)}
    assert len(named) > 80
    assert sorted(named - names_of_tests()) == []


@pytest.mark.parametrize("name", OF_SB3)
def test_a_test_of_sb3_that_concerns_us_is_answered(name):
    rows = [row for row in ROWS if row[0] == f"`{name}`"]
    assert rows
    assert all(answered(row) for row in rows)


def test_a_test_of_sb3_without_an_answer_has_a_reason():
    assert [row[0] for row in ROWS if not answered(row) and not row[-1]] == []


def test_our_answers_to_sb3_are_all_on_the_page():
    trees = [ast.parse(path.read_text()) for path in TESTS.glob("test_sb3_*.py")]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    answers = [
        node.name for node in functions if (ast.get_docstring(node) or "").startswith("Answers `test_")
    ]
    assert len(answers) > 80
    assert [name for name in answers if f"`{name}`" not in PAGE] == []
