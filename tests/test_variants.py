"""The rows of a benchmark and its splits: what they are called, and what is refused."""

import re
from collections import Counter

import pytest

from sb3_llmdpd.benchmarks.common.variants import (
    CONTROL,
    KEY_VARIANTS,
    NUMBERS,
    VARIANTS,
    Variant,
    make_variant,
    make_variants,
    merged,
)
from sb3_llmdpd.benchmarks.metaworld.splits import folds, tasks_of_split
from sb3_llmdpd.data.metaworld.tasks import SPLITS, TASKS
from sb3_llmdpd.evaluation.conditions import make_cells, split_number


def test_all_means_every_listed_row_once() -> None:
    names = [variant.name for variant in make_variants(["bc", "all"])]
    assert names == ["bc", *(name for name in VARIANTS if name != "bc")]


def test_the_key_rows_are_listed() -> None:
    assert set(KEY_VARIANTS) <= set(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=str)
def test_a_row_is_played_under_conditions_that_there_are(variant: Variant) -> None:
    cells = make_cells(
        ["door-open", "door-close", "push-to-far-left", "push-to-far-right"], variant.conditions
    )
    played = Counter(cell.condition.name for cell in cells)
    assert set(played) == set(variant.conditions)
    assert min(played.values()) >= 2


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=str)
def test_a_row_that_acts_with_the_model_of_another_names_one_that_is_trained(variant: Variant) -> None:
    assert variant.trained_as is None or VARIANTS[variant.trained_as].trained_as is None


def test_the_method_is_shown_every_number_of_examples_with_and_without_its_sentence():
    numbers = {kind: set() for kind in ("text+trajectory", "trajectory")}
    for condition in VARIANTS["full"].conditions:
        kind, n = split_number(condition)
        numbers.get(kind, set()).add(n)
    assert numbers == {"text+trajectory": set(NUMBERS), "trajectory": set(NUMBERS)}


@pytest.mark.parametrize("name", ["retrieve", "retrieve-aligned", "align"])
def test_a_control_that_acts_with_examples_is_shown_as_many_as_the_method_and_no_sentence(name):
    variant = VARIANTS[name]
    assert variant.method == CONTROL
    assert [split_number(condition) for condition in variant.conditions] == [
        ("trajectory", n) for n in NUMBERS
    ]


def test_random_actions_see_no_prompt():
    assert (VARIANTS["random"].conditions, VARIANTS["random"].method) == (("none",), CONTROL)


@pytest.mark.parametrize("end", ["random", "expert"])
def test_the_ends_of_normalised_returns_are_key_rows(end):
    assert end in KEY_VARIANTS


def test_a_row_without_a_kind_of_prompt_is_told_none_of_it() -> None:
    kinds = ("no-text", "no-trajectory", "no-prompt")
    assert {name: (VARIANTS[name].model, VARIANTS[name].conditions) for name in kinds} == {
        "no-text": ({"text_dropout": 1.0}, ("trajectory",)),
        "no-trajectory": ({"trajectory_dropout": 1.0}, ("text",)),
        "no-prompt": ({"text_dropout": 1.0, "trajectory_dropout": 1.0}, ("none",)),
    }


def test_a_text_encoder_of_the_users_makes_a_row() -> None:
    variant = make_variant("text-encoder:sentence-transformers:org/name?revision=1")
    assert variant.model == {"text_encoder": "sentence-transformers:org/name?revision=1"}


def test_changes_behind_a_name_make_a_row_of_ones_own() -> None:
    variant = make_variant("cross-attention+eta=0.5+text_encoder=hashing:16+policy_kwargs.net_arch=[8]")
    assert variant.model == {
        "eta": 0.5,
        "text_encoder": "hashing:16",
        "policy_kwargs": {"conditioning": "cross_attention", "net_arch": [8]},
    }
    assert variant.name == "cross-attention+eta=0.5+text_encoder=hashing:16+policy_kwargs.net_arch=[8]"
    assert variant.sentence.endswith("; eta=0.5, text_encoder=hashing:16, policy_kwargs.net_arch=[8]")


def test_arguments_are_merged_into_new_ones() -> None:
    base = {"eta": 1.0, "policy_kwargs": {"layer_norm": True}}
    together = merged(base, {"policy_kwargs": {"net_arch": [8]}})
    assert together == {"eta": 1.0, "policy_kwargs": {"layer_norm": True, "net_arch": [8]}}
    assert base == {"eta": 1.0, "policy_kwargs": {"layer_norm": True}}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-txt", "unknown variant 'no-txt': did you mean 'no-text'.*Known are full, .*text-encoder:<spec>"),
        ("text-encoder:", "unknown variant 'text-encoder:'"),
        ("full+leaning_rate=1", r"unknown argument 'leaning_rate': did you mean 'learning_rate'"),
        ("full+policy_kwargs.layer_norms=true", r"unknown argument 'layer_norms': did you mean 'layer_norm'"),
        ("full+eta", "A change is written argument=value, got 'eta'"),
        ("candidates-10+eta=1", "'candidates-10' trains no LLMDPD of its own: change 'full' instead"),
        ("expert+eta=1", "'expert' trains no LLMDPD of its own: change 'full' instead"),
    ],
)
def test_a_row_that_nobody_knows_gets_the_nearest_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_variant(name)


ML45_UNSEEN = set(SPLITS["ml45"][1])


def test_folds_share_the_45_training_tasks_out_and_touch_no_unseen_one() -> None:
    drawn = folds()
    assert sorted(task for fold in drawn for task in fold) == sorted(SPLITS["ml45"][0])
    assert [len(fold) for fold in drawn] == [5] * 9


def test_folds_of_another_seed_are_others_and_those_of_the_same_the_same() -> None:
    assert folds() == folds(seed=0) != folds(seed=1)


def test_folds_differ_in_size_by_one_task_at_most() -> None:
    assert [len(fold) for fold in folds(["a", "b", "c", "d", "e"], n=2)] == [3, 2]


@pytest.mark.parametrize("name", ["ml45", "ml10", *(f"fold-{number}" for number in range(9)), "third-2"])
def test_no_named_split_trains_on_the_unseen_tasks_of_ml45(name: str) -> None:
    train, unseen = tasks_of_split(name)
    assert ML45_UNSEEN & set(train) == set()
    assert set(train) & set(unseen) == set()
    assert ML45_UNSEEN & set(unseen) == (ML45_UNSEEN if name == "ml45" else set())


def test_a_fold_is_held_out_of_the_45() -> None:
    train, unseen = tasks_of_split("fold-3")
    assert unseen == folds()[3]
    assert set(train) | set(unseen) == set(SPLITS["ml45"][0])


def test_the_thirds_hold_out_fifteen_tasks_each_and_together_all() -> None:
    held_out = [tasks_of_split(f"third-{number}")[1] for number in range(3)]
    assert [len(tasks) for tasks in held_out] == [15] * 3
    assert {task for tasks in held_out for task in tasks} == set(SPLITS["ml45"][0])


def test_the_split_of_osvi_holds_four_tasks_out_of_all_fifty() -> None:
    train, unseen = tasks_of_split("osvi")
    assert unseen == ("window-open", "button-press", "door-unlock", "pick-place-wall")
    assert set(train) == set(TASKS) - set(unseen)


def test_a_hold_out_of_ones_own_trains_on_all_others() -> None:
    train, unseen = tasks_of_split("custom", ["reach", "bin-picking"])
    assert unseen == ("reach", "bin-picking")
    assert set(train) == set(TASKS) - {"reach", "bin-picking"}


@pytest.mark.parametrize(
    ("name", "unseen", "message"),
    [
        (
            "custom",
            None,
            "the split 'custom' goes with a list of unseen tasks, and no other does; got 'custom'",
        ),
        ("ml45", ["reach"], "no other does; got 'ml45' and ['reach']"),
        ("fold-9", None, "unknown split 'fold-9': use ml45, ml10, osvi, fold-0 to fold-8, third-0 to third"),
        ("custom", ["rech"], "unknown Meta-World task 'rech'"),
    ],
)
def test_a_split_that_cannot_be_is_refused(name: str, unseen: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tasks_of_split(name, unseen)


@pytest.mark.parametrize("n", [0, 46])
def test_impossible_numbers_of_folds_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"`n` must be from 1 to the number of tasks, 45, got {n}"):
        folds(n=n)
