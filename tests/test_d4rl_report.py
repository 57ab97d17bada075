"""Facts and words of D4RL's benchmark: reference values, published settings, tables, the report."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
from factories import recorded
from toys import ActionEnv

from sb3_llmdpd.benchmarks.d4rl.data import DatasetInfo
from sb3_llmdpd.benchmarks.d4rl.report import BEST, LAST, checkpoint, d4rl_report, d4rl_tables, learning_chart
from sb3_llmdpd.benchmarks.d4rl.results import D4RLResults, Point, read_d4rl, write_d4rl
from sb3_llmdpd.benchmarks.d4rl.scores import D4RL_REFERENCES, PUBLISHED, References, minari_references
from sb3_llmdpd.benchmarks.d4rl.settings import (
    D4RL_VARIANTS,
    MAX_GRAD_NORMS,
    ROBOTS,
    D4RLSettings,
    is_of_d4rl,
    label_of,
    make_d4rl_variants,
    published_model,
    robot_and_quality,
)
from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.data.minari import MinariSource
from sb3_llmdpd.data.minari_writer import write_minari
from sb3_llmdpd.evaluation.statistics import Estimate


@pytest.mark.parametrize(
    ("robot", "lowest", "highest"),
    [("halfcheetah", -280.178953, 12135.0), ("hopper", -20.272305, 3234.3), ("walker2d", 1.629008, 4592.3)],
)
def test_the_score_is_0_for_a_random_policy_and_100_for_an_expert(robot, lowest, highest):
    references = D4RL_REFERENCES[robot]
    assert references.score(lowest) == 0.0
    assert references.score(highest) == pytest.approx(100.0)
    assert references.score((lowest + highest) / 2) == pytest.approx(50.0)


def test_an_interval_is_scored_as_its_estimate_is() -> None:
    scored = References(100.0, 300.0, "mine").scored(Estimate(200.0, 150.0, 350.0))
    assert scored == Estimate(50.0, 25.0, 125.0)


def test_references_that_make_no_scale_are_refused() -> None:
    said = r"lab/hopper-v0: the reference return of an expert must be above .* got 1.0 and 1.0"
    with pytest.raises(ValueError, match=said):
        References(1.0, 1.0, "lab/hopper-v0")


def test_a_minari_data_set_is_scored_as_minari_scores_it(tmp_path: Path) -> None:
    data, about = recorded(ActionEnv()), {"ref_min_score": -3.5, "ref_max_score": 40.25}
    for name, metadata in (("lab/hopper-v0", about), ("lab/hopper-v1", {})):
        spaces = data.observation_space, data.action_space
        write_minari(name, data.episodes, *spaces, root=tmp_path, metadata=metadata)
    references = minari_references("lab/hopper-v0", tmp_path)
    assert references is not None
    returns = np.array([-3.5, 10.0, 50.0])
    theirs = minari.get_normalized_score(minari.MinariDataset(tmp_path / "lab/hopper-v0/data"), returns)
    np.testing.assert_allclose([references.score(total) for total in returns], 100 * theirs)
    assert minari_references("lab/hopper-v1", tmp_path) is None
    assert MinariSource("lab/hopper-v1", root=tmp_path).name == "lab/hopper-v1"


def test_files_have_no_references_of_minari() -> None:
    assert minari_references("d4rl:hopper_medium-v2.hdf5") is None


@pytest.mark.parametrize(
    ("name", "label", "robot", "quality"),
    [
        ("mujoco/hopper/medium-v0", "mujoco/hopper/medium-v0", "hopper", "medium"),
        ("mujoco/walker2d/simple-v0", "mujoco/walker2d/simple-v0", "walker2d", "simple"),
        ("mujoco/halfcheetah/expert-v0", "mujoco/halfcheetah/expert-v0", "halfcheetah", "expert"),
        ("d4rl:walker2d/hopper_medium_replay-v2.hdf5", "hopper_medium_replay-v2", "hopper", "medium-replay"),
        ("halfcheetah-medium-expert-v2.hdf5", "halfcheetah-medium-expert-v2", "halfcheetah", "medium-expert"),
        ("npz:/data/HalfCheetah_full_replay.npz", "HalfCheetah_full_replay", "halfcheetah", "full-replay"),
        ("d4rl:walker2d_random-v2.hdf5", "walker2d_random-v2", "walker2d", "random"),
        ("lerobot:/data/my-hopper", "my-hopper", "hopper", None),
    ],
)
def test_a_name_tells_robot_and_quality(name: str, label: str, robot: str, quality: str | None) -> None:
    assert label_of(name) == label
    assert robot_and_quality(label) == (robot, quality)


@pytest.mark.parametrize(
    ("label", "found"), [("mujoco/ant/medium-v0", "none"), ("hopper-walker2d", "hopper and walker2d")]
)
def test_a_name_of_no_robot_or_of_two_is_refused(label: str, found: str) -> None:
    said = f"{label}: .* one of halfcheetah, hopper, walker2d, and this names {found}:"
    with pytest.raises(ValueError, match=said):
        robot_and_quality(label)


@pytest.mark.parametrize(
    ("robot", "quality", "norm"),
    [
        ("halfcheetah", "medium", 9.0),
        ("hopper", "medium-replay", 4.0),
        ("walker2d", "medium", 1.0),
        ("walker2d", "medium-expert", 5.0),
        ("hopper", "simple", 9.0),
        ("walker2d", None, 1.0),
    ],
)
def test_gradients_are_bounded_as_published_else_as_for_medium(robot, quality, norm):
    assert published_model(robot, quality) == {"max_grad_norm": norm}


def test_the_default_budget_is_the_published_one() -> None:
    settings = D4RLSettings()
    assert (settings.n_steps, settings.eval_freq, settings.n_eval_episodes) == (2_000_000, 50_000, 10)
    named = ("learning_rate", "batch_size", "gamma", "tau", "eta", "n_candidates", "reward_scale")
    assert tuple(settings.model[name] for name in named) == (3e-4, 256, 0.99, 0.005, 1.0, 50, "none")
    assert settings.model["policy_kwargs"]["n_diffusion_steps"] == 5


def test_the_average_of_five_steps_keeps_what_the_published_one_keeps_in_its_one_of_five() -> None:
    assert D4RLSettings().model["ema_decay"] ** 5 == pytest.approx(0.995)


@pytest.mark.parametrize(
    ("name", "of_d4rl"),
    [
        ("d4rl:data/hopper_medium_replay-v2.hdf5", True),
        ("hopper-medium-replay-v2.hdf5", True),
        ("d4rl:hopper_medium-v0.hdf5", False),
        ("d4rl:hopper_random-v2.hdf5", False),
        ("npz:hopper_medium-v2.npz", False),
        ("mujoco/hopper/medium-v0", False),
    ],
)
def test_the_published_data_sets_are_known_by_name_and_format(name: str, of_d4rl: bool) -> None:
    assert is_of_d4rl(name) is of_d4rl


def test_every_published_score_has_published_settings() -> None:
    scores, norms = ({robot: set(of) for robot, of in known.items()} for known in (PUBLISHED, MAX_GRAD_NORMS))
    assert scores == norms
    of_replays = [PUBLISHED[robot]["medium-replay"] for robot in ROBOTS]
    assert of_replays == ["47.8 ± 0.3", "101.3 ± 0.6", "95.5 ± 1.5"]


@pytest.mark.parametrize(
    ("robot", "size", "n_joints"), [("halfcheetah", 17, 6), ("hopper", 11, 3), ("walker2d", 17, 6)]
)
def test_the_environments_have_the_sizes_of_d4rls_data(robot: str, size: int, n_joints: int) -> None:
    env = gym.make(ROBOTS[robot].env_id)
    assert (env.observation_space.shape, env.action_space.shape) == ((size,), (n_joints,))


def test_variants_differ_in_what_their_names_say() -> None:
    full, no_prompt, bc = make_d4rl_variants(["all"])
    assert full.model == {}
    assert (no_prompt.model["text_encoder"], no_prompt.model["trajectory_dropout"]) == (None, 1.0)
    assert bc.model == {"eta": 0.0, "n_candidates": 1}
    assert make_d4rl_variants(["bc", "bc"]) == [D4RL_VARIANTS["bc"]]


@pytest.mark.parametrize("name", ["n_steps", "eval_freq", "n_eval_episodes"])
def test_a_budget_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        D4RLSettings(**{name: 0})


def points(seed: int = 0, dataset: str = "hopper_medium-v2") -> list[Point]:
    """Three evaluations, the second the best and the last of half of it."""
    means = {10: 100.0 - seed, 20: 400.0 - seed, 30: 200.0 - seed}
    return [Point(dataset, "full", seed, step, (mean - 30.0, mean + 30.0)) for step, mean in means.items()]


def info(**changes: object) -> DatasetInfo:
    sound = DatasetInfo(
        robot="hopper",
        quality="medium",
        env_id="Hopper-v5",
        sentence="hop",
        fingerprint="0" * 32,
        n_episodes=2,
        n_steps=20,
        best_return=500.0,
        model={"max_grad_norm": 9.0},
        d4rl=References(0.0, 1000.0, "D4RL's hopper"),
        minari=None,
        published=PUBLISHED["hopper"]["medium"],
        notes=("A note.",),
    )
    return replace(sound, **changes)


def results(*made: Point, **changes: object) -> D4RLResults:
    settings = to_json({"n_steps": 30, "eval_freq": 10, "n_eval_episodes": 2, "model": D4RLSettings().model})
    hardware = {"machine": "any", "cores": 2, "device": "cpu"}
    variants = {"full": "all of it"}
    datasets = {"hopper_medium-v2": info(**changes)}
    return D4RLResults(settings, variants, hardware, {"python": "3"}, datasets, made or tuple(points()))


def test_results_come_back_from_their_file_which_has_a_line_for_each_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    written = results(minari=References(0.0, 500.0, "lab/hopper-v0"))
    write_d4rl(path, written)
    assert read_d4rl(path) == written
    lines = [line.strip().rstrip(",") for line in path.read_text().splitlines() if '"step":' in line]
    of_training = {"dataset": "hopper_medium-v2", "row": "full", "seed": 0}
    assert json.loads(lines[1]) == {**of_training, "step": 20, "returns": [370.0, 430.0]}


def test_trainings_of_an_earlier_call_are_kept(tmp_path: Path) -> None:
    earlier, now = results(*points(seed=0), *points(seed=1)), results(*points(seed=1)[:1])
    merged = now.merged(earlier, tmp_path)
    assert [(point.seed, point.step) for point in merged.points] == [(0, 10), (0, 20), (0, 30), (1, 10)]


def test_the_same_label_of_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"was made with other settings .*env_id.*Hopper-v4"):
        results(env_id="Hopper-v4").merged(results(), tmp_path / "results.json")


def test_last_is_the_largest_step_and_best_the_largest_mean_the_first_of_several() -> None:
    of_seed = points()
    tie = replace(of_seed[1], step=25)
    assert checkpoint([*of_seed, tie], LAST).step == 30
    assert checkpoint([*of_seed, tie], BEST).step == 20


def test_the_table_has_last_and_best_and_beside_them_what_was_published() -> None:
    (table,) = d4rl_tables(results(minari=References(0.0, 500.0, "lab/hopper-v0")))
    seeds = "1 (interval over its episodes)"
    of_last, of_best = "200.0 [170.0, 230.0]", "400.0 [370.0, 430.0]"
    assert table.rows == (
        ("full", "last", "30", seeds, of_last, "20.0 [17.0, 23.0]", "40.0 [34.0, 46.0]"),
        ("full", "best", "20", seeds, of_best, "40.0 [37.0, 43.0]", "80.0 [74.0, 86.0]"),
        ("Diffusion-QL as published", "best", "2,000,000 trained", "", "", "90.5 ± 4.6 (published)", ""),
    )


def test_other_data_have_no_published_score_beside_them() -> None:
    (table,) = d4rl_tables(results(published=None))
    assert [row[0] for row in table.rows] == ["full", "full"]
    assert len(table.header) == 6


def test_a_data_set_of_which_nothing_is_finished_has_no_table() -> None:
    assert d4rl_tables(replace(results(), points=())) == []


def test_with_one_seed_the_interval_is_over_its_episodes() -> None:
    of_one = Point("hopper_medium-v2", "full", 0, 30, tuple(map(float, range(10))))
    (table,) = d4rl_tables(results(of_one))
    low, high = (float(part) for part in table.rows[0][4].split("[")[1].rstrip("]").split(","))
    width = 1.96 * np.std(of_one.returns) / np.sqrt(10)
    assert (low, high) == pytest.approx((4.5 - width, 4.5 + width), abs=0.15)


def test_the_report_says_what_the_numbers_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_llmdpd.benchmarks.d4rl.report.learning_chart", lambda made, path: path.touch())
    d4rl_report(results(*points(0), *points(1))).write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    for part in (
        "hopper_medium-v2: 2 episodes, 20 transitions, the best return 500.0; evaluated in Hopper-v5; told"
        " 'hop'; max_grad_norm 9. A note.",
        "Seeds: 0, 1. last: the model after all steps. best: of each seed",
        "where a row has a single seed, over its episodes only",
        "| full | last | 30 | 2 | 199.5",
        "90.5 ± 4.6 (published)",
        "standardised over the candidates",
    ):
        assert part in text


@pytest.mark.slow
def test_the_learning_curves_are_drawn(tmp_path: Path) -> None:
    learning_chart(results(*points(0), *points(1)), tmp_path / "learning.png")
    assert (tmp_path / "learning.png").read_bytes()[1:4] == b"PNG"


def test_the_page_shows_the_published_small_run() -> None:
    docs = Path(__file__).parents[1] / "docs"
    (table,) = d4rl_tables(read_d4rl(docs / "results" / "d4rl-small" / "results.json"))
    assert table.markdown().strip() in (docs / "howto" / "d4rl.md").read_text()
