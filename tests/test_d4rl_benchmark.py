"""D4RL's benchmark, from data that the tests record to the report, at a size that takes seconds."""

import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from factories import recorded
from typer.testing import CliRunner, Result

from sb3_llmdpd import LLMDPD, Prompt
from sb3_llmdpd.benchmarks.common.ownership import owned
from sb3_llmdpd.benchmarks.d4rl.benchmark import D4RLBenchmark
from sb3_llmdpd.benchmarks.d4rl.data import best_episode, describe, read_data
from sb3_llmdpd.benchmarks.d4rl.results import Point, read_d4rl
from sb3_llmdpd.benchmarks.d4rl.settings import D4RLSettings, make_d4rl_variants
from sb3_llmdpd.cli import app
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.minari_writer import write_minari
from sb3_llmdpd.data.npz import write_npz
from sb3_llmdpd.evaluation.players import ModelPlayer

HOPPER = "lab/hopper/medium-v0"
SENTENCE = "hop along"
Finished = tuple[Path, str]
ALL = ("full", "no-prompt", "bc")


@pytest.fixture(scope="module", autouse=True)
def nothing_is_drawn() -> Iterator[None]:
    """A chart takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sb3_llmdpd.benchmarks.common.run_folder.curves_chart", lambda rows, path: path.touch())
        patch.setattr("sb3_llmdpd.benchmarks.d4rl.report.learning_chart", lambda made, path: path.touch())
        yield


def write(
    root: Path, name: str, data: OfflineDataset, texts: Sequence[str] = (SENTENCE,), **about: Any
) -> None:
    """A data set of these episodes, each with these sentences."""
    episodes = [Episode.trusted(**{**vars(episode), "task_texts": texts}) for episode in data.episodes]
    write_minari(name, episodes, data.observation_space, data.action_space, root=root, **about)


@pytest.fixture(scope="module")
def hopper() -> OfflineDataset:
    """Random actions."""
    return recorded("Hopper-v5", n_episodes=3, length=12)


@pytest.fixture(scope="module")
def root(hopper: OfflineDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minari")
    write(folder, HOPPER, hopper, metadata={"ref_min_score": 0.0, "ref_max_score": 1000.0})
    return folder


def run(root: Path, out: Path, *arguments: object, dataset: object = HOPPER) -> Result:
    where = ("--dataset", dataset, "--root", root, "--out", out)
    given = ("benchmark", "d4rl", "--smoke", "--seeds", 1, "--device", "cpu", *where, *arguments)
    return CliRunner().invoke(app, [str(each) for each in given], env={"COLUMNS": "200", "TERM": "dumb"})


def assert_refused(result: Result, *messages: str) -> None:
    assert result.exit_code == 2, result.output
    for message in messages:
        assert message in result.output


def points(out: Path) -> tuple[Point, ...]:
    return read_d4rl(out / "results.json").points


def of_hopper(root: Path, out: Path, variants: list[str], seeds: Sequence[int] = (0,)) -> D4RLBenchmark:
    """The benchmark at the size of `--smoke`, its data set described."""
    made, settings = make_d4rl_variants(variants), D4RLSettings().smoke()
    benchmark = D4RLBenchmark(out, settings, [HOPPER], made, seeds, root=root, device="cpu")
    benchmark.datasets = {HOPPER: describe(HOPPER, read_data(HOPPER, root), root=root)}
    return benchmark


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The folder of all three rows, and what was printed."""
    out = tmp_path_factory.mktemp("d4rl")
    result = run(root, out)
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.mark.slow
def test_every_row_is_trained_evaluated_and_reported(finished: Finished) -> None:
    out, printed = finished
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    of_a_run = ("run.json", "model.zip", "best.zip", "progress.csv", "curves.png", "results.json")
    of_runs = {
        f"{HOPPER}/{variant}/seed-0/{file}" for variant in ALL for file in (*of_a_run, "evaluations.json")
    }
    assert files == of_runs | {".lock", "benchmark.json", "results.json", "report.md", "learning.png"}
    lines = [line.split()[:2] for line in printed.splitlines() if line.startswith(ALL)]
    assert lines == [[variant, checkpoint] for variant in ALL for checkpoint in ("last", "best")]
    assert "Minari score [95%]" in printed


@pytest.mark.slow
def test_each_training_is_evaluated_at_every_interval_and_at_its_end(finished: Finished) -> None:
    evaluated = [(point.variant, point.step, len(point.returns)) for point in points(finished[0])]
    assert evaluated == [(variant, step, 2) for variant in ALL for step in (2, 4)]


@pytest.mark.slow
def test_the_models_are_what_their_rows_say(finished: Finished) -> None:
    models = [LLMDPD.load(finished[0] / HOPPER / variant / "seed-0" / "model.zip") for variant in ALL]
    of_model = [(model.text_encoder, model.eta, model.n_candidates) for model in models]
    assert of_model == [("hashing:16", 1.0, 3), (None, 1.0, 3), ("hashing:16", 0.0, 1)]
    assert {model.max_grad_norm for model in models} == {9.0}
    assert models[0].known_task_texts == (SENTENCE,)


@pytest.mark.slow
def test_the_best_model_is_that_of_the_best_evaluation(finished: Finished) -> None:
    of_row = [point for point in points(finished[0]) if point.variant == "bc"]
    best = LLMDPD.load(finished[0] / HOPPER / "bc" / "seed-0" / "best.zip")
    assert best.num_timesteps == max(of_row, key=lambda point: point.mean).step


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_variants_can_be_added(finished, root, tmp_path, monkeypatch):
    out = tmp_path / "d4rl"
    shutil.copytree(finished[0], out)
    for name in ("train", "predict"):
        monkeypatch.setattr(LLMDPD, name, None)
    again = run(root, out, "--variants", "bc")
    assert again.exit_code == 0, again.output
    assert set(points(out)) == set(points(finished[0]))


@pytest.mark.slow
def test_the_report_can_be_written_anew(finished: Finished, tmp_path: Path) -> None:
    shutil.copy(finished[0] / "results.json", tmp_path)
    assert CliRunner().invoke(app, ["benchmark", "report", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "report.md").read_text() == (finished[0] / "report.md").read_text()


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(finished: Finished, root: Path) -> None:
    result = run(root, finished[0], "--env", "Hopper-v5", "--text-encoder", "hashing:8")
    assert result.exit_code == 0  # of --smoke, which has an encoder of its own
    given = ["benchmark", "d4rl", "--dataset", HOPPER, "--root", str(root), "--out", str(finished[0])]
    result = CliRunner().invoke(app, [*given, "--steps", "8"])
    assert_refused(result, "benchmark.json was made with other settings (n_steps 4 there, 8 asked")


@pytest.mark.slow
def test_other_data_under_the_same_name_are_refused(finished: Finished, tmp_path: Path) -> None:
    write(tmp_path, HOPPER, recorded("Hopper-v5", n_episodes=2, length=6, seed=1))
    result = run(tmp_path, finished[0])
    assert_refused(result, "results.json was made with other settings (fingerprint")


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_results(finished, root, tmp_path):
    """It is stopped in its third gradient step, between its two evaluations."""
    take_step, ran = LLMDPD.train, []

    def step(self: LLMDPD, *args: Any, **kwargs: Any) -> None:
        take_step(self, *args, **kwargs)
        ran.append(self.num_timesteps)
        if ran == [0, 1, 2]:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LLMDPD, "train", step)
        stopped = run(root, tmp_path, "--variants", "full")
        assert stopped.exit_code == 130, stopped.output
        assert "Stopped by SIGINT at step 3 of 4." in stopped.output
        assert run(root, tmp_path, "--variants", "full").exit_code == 0
    assert ran == [0, 1, 2, 3]
    assert points(tmp_path) == tuple(point for point in points(finished[0]) if point.variant == "full")


@pytest.mark.slow
def test_variants_with_a_prompt_are_told_the_sentence_and_shown_the_best_episode(root, tmp_path, monkeypatch):
    shown: list[Prompt] = []
    make_act = ModelPlayer.make_act

    def watched(self: ModelPlayer, prompts: Any, **how: Any) -> Any:
        assert how["deterministic"] is False
        shown.append(prompts[0])
        return make_act(self, prompts, **how)

    monkeypatch.setattr(ModelPlayer, "make_act", watched)
    of_hopper(root, tmp_path, ["full", "no-prompt"]).run()
    assert [prompt.text for prompt in shown] == [SENTENCE, SENTENCE, None, None]
    best = best_episode(read_data(HOPPER, root)).source
    sources = [getattr(prompt.trajectory, "source", None) for prompt in shown]
    assert sources == [best, best, None, None]


@pytest.mark.slow
def test_files_of_other_formats_are_data_sets_by_their_names(hopper: OfflineDataset, tmp_path: Path) -> None:
    file = tmp_path / "my_hopper.npz"
    write_npz(file, hopper.episodes, hopper.observation_space, hopper.action_space)
    result = run(tmp_path, tmp_path / "out", "--variants", "bc", dataset=f"npz:{file}")
    assert result.exit_code == 0, result.output
    (known,) = read_d4rl(tmp_path / "out" / "results.json").datasets.values()
    assert (known.quality, known.sentence) == (None, "do what the environment rewards")
    note = "No settings were published for data whose name says no quality: those of medium are used."
    assert known.notes == (note,)
    assert (tmp_path / "out" / "my_hopper" / "bc" / "seed-0" / "model.zip").is_file()


def test_each_seed_has_all_data_sets_and_variants_before_the_next(root: Path, tmp_path: Path) -> None:
    benchmark = of_hopper(root, tmp_path, ["full", "bc"], seeds=(0, 1))
    benchmark.datasets = dict.fromkeys("ab", benchmark.datasets[HOPPER])
    found = [(training.seed, training.dataset, training.variant) for training in benchmark.trainings()]
    assert found == list(product((0, 1), "ab", ("full", "bc")))


def test_a_training_is_finished_when_its_last_model_is_evaluated_and_saved(root, tmp_path):
    (training,) = of_hopper(root, tmp_path, ["bc"]).trainings()
    made = [Point(HOPPER, "bc", 0, step, (1.0, 2.0)) for step in (2, 4)]
    assert not training.is_finished(tmp_path)
    training.write_points(tmp_path, made[:1])
    assert not training.is_finished(tmp_path)
    training.write_points(tmp_path, made)
    assert not training.is_finished(tmp_path)  # as a kill between the two leaves it
    training.finish(tmp_path)
    assert training.is_finished(tmp_path)


def test_evaluations_of_an_older_version_are_read(root: Path, tmp_path: Path) -> None:
    (training,) = of_hopper(root, tmp_path, ["bc"]).trainings()
    older = {"format_version": 1, "benchmark": "d4rl", "settings": training.settings}
    point = {"dataset": HOPPER, "row": "bc", "seed": 0, "step": 2, "returns": [1.0, 2.0]}
    training.folder(tmp_path).mkdir(parents=True)
    (training.folder(tmp_path) / "evaluations.json").write_text(json.dumps({**older, "points": [point]}))
    assert training.points(tmp_path) == [Point(HOPPER, "bc", 0, 2, (1.0, 2.0))]


def test_two_files_of_the_same_name_are_refused(tmp_path: Path) -> None:
    files, variants = ["npz:a/hopper.npz", "npz:b/hopper.npz"], make_d4rl_variants(["bc"])
    said = r"told apart by the names of their files.*a/hopper\.npz.*b/hopper\.npz"
    with pytest.raises(ValueError, match=said):
        D4RLBenchmark(tmp_path, D4RLSettings(), files, variants, [0])


def test_a_description_is_no_sentence(hopper: OfflineDataset, tmp_path: Path) -> None:
    write(tmp_path, HOPPER, hopper, texts=(), description="Recorded with random actions.")
    known = describe(HOPPER, read_data(HOPPER, tmp_path), root=tmp_path)
    assert known.sentence == "make the one-legged hopper hop forward as fast as it can"


def test_a_data_set_is_described_by_its_name_and_episodes(root: Path, hopper: OfflineDataset) -> None:
    known = describe(HOPPER, read_data(HOPPER, root), root=root)
    named = (known.robot, known.quality, known.env_id, known.sentence)
    assert named == ("hopper", "medium", "Hopper-v5", SENTENCE)
    best = max(float(episode.rewards.sum()) for episode in hopper.episodes)
    assert known.best_return == pytest.approx(best)
    assert (known.n_episodes, known.n_steps, known.published) == (3, hopper.n_steps, None)
    assert known.minari is not None
    assert known.minari.expert == 1000.0
    note = "The settings were published for D4RL's hopper, medium, version 2; these are other data."
    assert known.notes == (note,)


def test_several_tasks_at_a_time_are_refused(hopper: OfflineDataset, tmp_path: Path) -> None:
    each = enumerate(hopper.episodes)
    episodes = [Episode.trusted(**{**vars(episode), "task": f"task-{number}"}) for number, episode in each]
    write_minari(HOPPER, episodes, hopper.observation_space, hopper.action_space, root=tmp_path)
    said = f"{HOPPER}: this benchmark trains on one task at a time, and these are 3: task-0"
    with pytest.raises(ValueError, match=said):
        read_data(HOPPER, tmp_path)


def test_data_of_another_size_than_the_environments_are_refused(root: Path, tmp_path: Path) -> None:
    said = (
        f"{HOPPER} has observations of shape (11,) and actions of shape (3,), and Walker2d-v5, which would"
        " evaluate, has (17,) and (6,): name the environment of the data with --env"
    )
    assert_refused(run(root, tmp_path, "--env", "Walker2d-v5"), said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "recorded_in", "env_id", "said"),
    [
        (
            "lab/walker2d-v0",
            "Walker2d-v5",  # whose sizes are the same
            "HalfCheetah-v5",
            r"lab/walker2d-v0 has data of walker2d, and HalfCheetah-v5.* of halfcheetah: leave",
        ),
        (
            HOPPER,
            "Hopper-v5",
            "CartPole-v1",
            "CartPole-v1 has .* this benchmark needs Boxes of observations and actions",
        ),
        (
            HOPPER,
            "Hopper-v5",
            "Hoper-v5",
            r"the environment 'Hoper-v5', which would evaluate, cannot be made: .*Hopper",
        ),
    ],
    ids=["another robot", "discrete actions", "unknown"],
)
def test_an_environment_that_does_not_fit_is_refused(name, recorded_in, env_id, said):
    with pytest.raises(ValueError, match=said):
        describe(name, recorded(recorded_in, n_episodes=1, length=2), env_id)


def test_actions_of_another_range_are_refused(hopper: OfflineDataset, root: Path) -> None:
    wider = gym.spaces.Box(-2.0, 2.0, (3,), np.float32)
    said = r"lab/hopper/medium-v0 has actions in Box\(-2\.0, 2\.0.*, and Hopper-v5"
    with pytest.raises(ValueError, match=said):
        describe(HOPPER, OfflineDataset(hopper.episodes, hopper.observation_space, wider), root=root)


def test_d4rls_walker_is_noted_to_have_other_feet(tmp_path: Path) -> None:
    data = recorded("Walker2d-v5", n_episodes=1, length=3)
    (note,) = describe("d4rl:walker2d_medium-v2.hdf5", data).notes
    assert "--env Walker2d-v4 has D4RL's" in note


def test_d4rls_own_data_set_has_its_published_score(hopper: OfflineDataset) -> None:
    known = describe("d4rl:hopper_medium_replay-v2.hdf5", hopper)
    assert (known.published, known.model, known.notes) == ("101.3 ± 0.6", {"max_grad_norm": 4.0}, ())


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (
            ["--dataset", "mujoco/hopper/expert-v0"],
            [
                "Error: no Minari data set 'mujoco/hopper/expert-v0' in",
                "minari download mujoco/hopper/expert-v0. A file of D4RL does as well, as"
                " d4rl:hopper_medium-v2",
                "data of your own (RecordEpisodes)",
            ],
        ),
        (["--variants", "ful"], ["unknown variant 'ful': known are full, no-prompt, bc"]),
        (["--device", "gpu0"], ["--device: "]),
        (["--steps", 0], ["`n_steps` must be at least 1, got 0"]),
        (["--seeds", 0], ["Invalid value for '--seeds'"]),
        (
            ["--dataset", "lab/ant-v0"],
            ["lab/ant-v0: in this benchmark the name of a data set says which robot it is of"],
        ),
        (["--env", "Hoper-v5"], ["the environment 'Hoper-v5', which would evaluate, cannot be made"]),
    ],
)
def test_bad_input_gets_its_sentence_and_exit_status_2(arguments, messages, root, tmp_path):
    assert_refused(run(root, tmp_path, *arguments), *messages)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_process_works_in_is_left_to_it(root: Path, tmp_path: Path) -> None:
    with owned(tmp_path):
        assert_refused(run(root, tmp_path), f"process {os.getpid()} works in {tmp_path}")
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "owner.json"}


def test_the_help_names_every_way_to_get_data() -> None:
    result = CliRunner().invoke(app, ["benchmark", "d4rl", "--help"], env={"COLUMNS": "400", "TERM": "dumb"})
    assert result.exit_code == 0
    ways = ("minari download", "d4rl:hopper_medium-v2.hdf5", "RecordEpisodes", "Hopper-v5", "Walker2d-v4")
    assert [way for way in ways if way not in result.output] == []
