"""The benchmark on Meta-World, from simulator to report, at a size that takes seconds."""

import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import make_episode, make_episodes
from typer.testing import CliRunner, Result

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.baselines.prompt_dt import PromptDT
from sb3_llmdpd.benchmarks.common.ownership import owned
from sb3_llmdpd.benchmarks.common.trainings import Training
from sb3_llmdpd.benchmarks.common.variants import NUMBERS, make_variants
from sb3_llmdpd.benchmarks.metaworld import examples as examples_module
from sb3_llmdpd.benchmarks.metaworld.benchmark import MetaworldBenchmark
from sb3_llmdpd.benchmarks.metaworld.results import TrainingCell, read_grid
from sb3_llmdpd.benchmarks.metaworld.settings import DATA, EXAMPLES_PER_GOAL, MetaworldSettings
from sb3_llmdpd.benchmarks.quickstart import QuickstartSettings
from sb3_llmdpd.cli import app
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.metaworld.tasks import SPLITS, TASKS, TOLD_TASKS
from sb3_llmdpd.data.minari import load_minari, local_ids
from sb3_llmdpd.evaluation.conditions import CONTROLS_OF_PROMPTS, Condition, split_number
from sb3_llmdpd.networks.features import MetaWorldRelativeExtractor
from sb3_llmdpd.prompts.alignment import metaworld_scene

Finished = tuple[Path, str]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_drawn() -> Iterator[None]:
    """A learning curve takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sb3_llmdpd.benchmarks.common.run_folder.curves_chart", lambda rows, path: path.touch())
        yield


def run(out: Path, *arguments: object) -> Result:
    given = ["benchmark", "metaworld", "--smoke", "--processes", 1, "--seeds", 1, "--out", out, *arguments]
    return CliRunner().invoke(app, [str(each) for each in given], env={"COLUMNS": "200", "TERM": "dumb"})


def cells_of(out: Path) -> tuple[TrainingCell, ...]:
    return read_grid(out / "results.json").cells


def played(out: Path) -> set[tuple[str, int, str]]:
    return {(cell.variant, cell.seed, cell.condition) for cell in cells_of(out)}


def visible_and_hidden() -> list[MetaworldSettings]:
    return [MetaworldSettings.of_split("ml45", goal=goal) for goal in ("visible", "hidden")]


def trainings_of(out: Path, variants: list[str], seeds: Sequence[int] = (0,)) -> list[Training]:
    settings = MetaworldSettings.of_split("ml45")
    return MetaworldBenchmark(out, settings, make_variants(variants), seeds).trainings()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The folder of three variants, one of which acts with the model of another, and what was printed."""
    out = tmp_path_factory.mktemp("benchmark")
    result = run(out, "--variants", "candidates-10,full,no-prompt")
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.mark.slow
def test_every_variant_is_trained_evaluated_and_reported(finished: Finished) -> None:
    out, printed = finished
    made = [path for path in out.rglob("*") if path.is_file() and "data" not in path.parts]
    files = {str(path.relative_to(out)) for path in made}
    of_a_run = ("run.json", "model.zip", "progress.csv", "curves.png", "results.json")
    of_runs = {f"{name}/seed-0/{file}" for name in ("full", "no-prompt") for file in of_a_run}
    ours = {
        ".lock",
        "benchmark.json",
        "results.json",
        "report.md",
        "report.html",
        "candidates-10/seed-0/results.json",
    }
    assert files == of_runs | ours
    table = printed[printed.index("Success at any step") :]
    places = [table.index(part) for part in ("full ", "no-prompt", "candidates-10")]
    assert places == sorted(places)


@pytest.mark.slow
def test_the_results_have_every_task_with_its_number_of_episodes(finished: Finished) -> None:
    small = QuickstartSettings.smoke()
    cells = cells_of(finished[0])
    of_row = {(cell.task, cell.seen): len(cell.successes) for cell in cells if cell.variant == "no-prompt"}
    seen, other = MetaworldSettings.of_split("ml45").smoke().train_tasks
    assert of_row == {
        ("bin-picking", False): small.n_unseen_episodes,
        (seen, True): small.n_seen_episodes,
        (other, True): small.n_seen_episodes,
    }


@pytest.mark.slow
def test_variants_that_are_told_sentences_play_scenes_that_two_tasks_share(finished: Finished) -> None:
    told = {(cell.variant, cell.task, cell.told) for cell in cells_of(finished[0]) if cell.told}
    assert told == {
        ("full", "pick-place", "pick-place"),
        ("full", "pick-place", "reach"),
        ("full", "reach", "reach"),
    }
    assert "does the other" in finished[1]


@pytest.mark.slow
def test_the_unseen_task_is_in_no_data_that_train(finished: Finished) -> None:
    root = finished[0] / "data"
    trained = [name for name in local_ids(root) if "-examples-" not in name]
    assert {name.partition("/")[0] for name in trained} == {"metaworld-visible-expert-2-seed-0"}
    assert "bin-picking" not in load_minari(trained, root=root).tasks
    known = LLMDPD.load(finished[0] / "full" / "seed-0" / "model.zip").known_task_texts
    assert set(known).isdisjoint(TASKS["bin-picking"].texts)


@pytest.mark.slow
def test_a_finished_benchmark_is_not_run_again_and_can_be_reported_anew(finished, monkeypatch, tmp_path):
    out = tmp_path / "grid"
    shutil.copytree(finished[0], out)
    for name in ("train", "predict"):
        monkeypatch.setattr(LLMDPD, name, None)
    assert run(out, "--split", "custom", "--unseen", "door-close").exit_code == 2  # other tasks
    before = (out / "report.md").read_text()
    shutil.rmtree(out / "data")
    again = run(out, "--variants", "no-prompt")
    assert again.exit_code == 0, again.output
    assert played(out) == played(finished[0])
    for name in ("report.md", "report.html"):
        (out / name).unlink()
    assert CliRunner().invoke(app, ["benchmark", "report", str(out)]).exit_code == 0
    assert (out / "report.md").read_text() == before


@pytest.mark.slow
def test_a_stopped_benchmark_goes_on_to_the_same_results(finished: Finished, tmp_path: Path) -> None:
    """The first row is finished; the second is stopped in its second gradient step."""
    out = tmp_path / "grid"
    for name in ("data", "full"):
        shutil.copytree(finished[0] / name, out / name)
    take_step = LLMDPD.train

    def step(self: LLMDPD, *args: Any, **kwargs: Any) -> None:
        take_step(self, *args, **kwargs)
        if self.num_timesteps == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LLMDPD, "train", step)
        stopped = run(out, "--variants", "full,no-prompt")
    assert stopped.exit_code == 130
    assert "Stopped by SIGINT at step 2 of 4." in stopped.output
    assert "To go on: the command of before: sb3-llmdpd benchmark" in stopped.output
    ran: list[int] = []

    def count(self: LLMDPD, *args: Any, **kwargs: Any) -> None:
        take_step(self, *args, **kwargs)
        ran.append(self.num_timesteps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LLMDPD, "train", count)
        assert run(out, "--variants", "full,no-prompt").exit_code == 0
    assert ran == [2, 3]
    undisturbed = tuple(cell for cell in cells_of(finished[0]) if cell.variant != "candidates-10")
    assert cells_of(out) == undisturbed


@pytest.mark.slow
def test_a_trained_prompt_dt_whose_results_are_missing_is_only_evaluated(finished, monkeypatch, tmp_path):
    shutil.copytree(finished[0] / "data", tmp_path / "data")
    assert run(tmp_path, "--variants", "prompt-dt").exit_code == 0
    before = read_grid(tmp_path / "results.json")
    for path in (tmp_path / "results.json", tmp_path / "prompt-dt" / "seed-0" / "results.json"):
        path.unlink()
    monkeypatch.setattr(PromptDT, "learn", None)
    again = run(tmp_path, "--variants", "prompt-dt")
    assert again.exit_code == 0, again.output
    assert read_grid(tmp_path / "results.json") == before


@pytest.mark.slow
def test_another_budget_in_the_same_folder_is_refused(finished: Finished) -> None:
    result = run(finished[0], "--data", "mixed")
    assert result.exit_code == 2
    assert 'benchmark.json was made with other settings (data "expert" there, "mixed" asked)' in result.output


@pytest.mark.slow
def test_with_a_hidden_goal_examples_share_it_and_controls_train_nothing(tmp_path: Path) -> None:
    told = {"no-text": ["trajectory"], "copy": ["copy"], "random": ["none"], "expert": ["expert"]}
    told |= {name: ["trajectory", "trajectory:5"] for name in ("retrieve", "retrieve-aligned", "align")}
    result = run(tmp_path, "--goal", "hidden", "--data", "mixed", "--variants", ",".join(told))
    assert result.exit_code == 0, result.output
    assert played(tmp_path) == {(name, 0, each) for name, conditions in told.items() for each in conditions}
    assert [path.parent.parent.name for path in tmp_path.glob("*/*/model.zip")] == ["no-text"]
    model = LLMDPD.load(tmp_path / "no-text" / "seed-0" / "model.zip")
    assert (model.same_goal, model.text_dropout) == (True, 1.0)
    results = json.loads((tmp_path / "copy" / "seed-0" / "results.json").read_text())
    assert all(cell["condition"]["trajectory_of"] == cell["task"] for cell in results["cells"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is far from all sentences of training")  # of two tasks
def test_a_goal_told_in_words_goes_from_the_simulator_to_the_report(tmp_path):
    result = run(tmp_path, "--goal", "told", "--variants", "language+text_encoder=hashing,expert")
    assert result.exit_code == 0, result.output
    said = " ".join((tmp_path / "report.md").read_text().split())
    assert "The goal is told in words, and hidden in the observations" in said
    (unseen,) = {cell.task for cell in cells_of(tmp_path) if not cell.seen}
    known = LLMDPD.load(tmp_path / "language+text_encoder=hashing" / "seed-0" / "model.zip").known_task_texts
    assert set(known).isdisjoint(TOLD_TASKS[unseen].texts)
    told = {condition for variant, _, condition in played(tmp_path) if variant != "expert"}
    assert told == {"text", "none", "antonym", "paraphrase", "paraphrase:rearranged"}


def test_the_reference_budget_is_the_default() -> None:
    settings = MetaworldSettings.of_split("ml45")
    assert (settings.train_tasks, settings.unseen_tasks) == SPLITS["ml45"]
    assert (settings.n_episodes, settings.n_steps) == (20, 10_000)
    assert (settings.n_unseen_episodes, settings.n_seen_episodes) == (50, 10)
    assert settings.model == QuickstartSettings().model


def test_a_hidden_goal_is_measured_on_50_episodes_of_a_seen_task_unless_another_number_is_given() -> None:
    assert MetaworldSettings.of_split("ml45", goal="hidden").n_seen_episodes == 50
    assert MetaworldSettings.of_split("ml45", goal="hidden", n_seen_episodes=20).n_seen_episodes == 20


def test_where_the_goal_is_hidden_the_model_sees_positions() -> None:
    visible, hidden = visible_and_hidden()
    for settings in (hidden, hidden.smoke()):
        assert settings.model["policy_kwargs"]["features_extractor_kwargs"] == {"positions": True}
    assert "features_extractor_kwargs" not in visible.model["policy_kwargs"]
    kept = "features_extractor_class"
    assert hidden.model["policy_kwargs"][kept] == visible.model["policy_kwargs"][kept]


def test_a_told_goal_is_in_no_observation_and_the_model_sees_positions():
    settings = MetaworldSettings.of_split("combinations", goal="told")
    assert (settings.goal_visible, settings.goals_differ) == (False, False)
    hidden = MetaworldSettings.of_split("ml45", goal="hidden").model
    assert settings.model == {**hidden, "text_encoder": "minilm?pooling=first-last"}


def test_of_told_goals_all_tasks_count_and_words_are_tried_as_often_on_seen_ones():
    settings = MetaworldSettings.of_split("combinations", goal="told")
    assert (settings.goal_known_tasks, settings.seen_tasks) == ((), settings.train_tasks)
    tried = {name: settings.n_seen_episodes_under(Condition(name)) for name in CONTROLS_OF_PROMPTS}
    assert tried == {"wrong-text": 2, "wrong-trajectory": 2, "antonym": 10, "paraphrase": 10}


def test_the_method_is_the_same_whatever_the_data() -> None:
    expert, mixed = (MetaworldSettings.of_split("ml45", data=data) for data in ("expert", "mixed"))
    assert mixed == replace(expert, data="mixed")


def test_seen_tasks_are_played_less_under_the_controls_but_under_the_one_that_decides() -> None:
    full, wrong_text, other_goal = map(Condition, ("text+trajectory", "wrong-text", "wrong-trajectory"))
    visible, hidden = visible_and_hidden()
    assert [visible.n_seen_episodes_under(told) for told in (full, wrong_text, other_goal)] == [10, 2, 2]
    assert [hidden.n_seen_episodes_under(told) for told in (full, wrong_text, other_goal)] == [50, 10, 50]
    assert replace(visible, n_seen_episodes=1).n_seen_episodes_under(wrong_text) == 1


def test_with_a_hidden_goal_only_tasks_count_whose_goal_has_to_be_told() -> None:
    visible, hidden = visible_and_hidden()
    assert hidden.goal_known_tasks == ("bin-picking", "hand-insert", "door-lock", "door-unlock")
    assert hidden.seen_tasks == tuple(task for task in SPLITS["ml45"][0] if TASKS[task].goal_needs_telling)
    assert (visible.goal_known_tasks, visible.seen_tasks) == ((), SPLITS["ml45"][0])


def test_with_a_hidden_goal_each_episode_has_examples_of_its_own() -> None:
    visible, hidden = visible_and_hidden()
    assert [settings.n_examples_of(50) for settings in (hidden, visible)] == [50 * EXAMPLES_PER_GOAL, 25]


def test_a_visible_goal_has_as_many_examples_as_are_shown_at_most():
    assert MetaworldSettings.of_split("ml45").n_examples == max(NUMBERS)


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, ["text", "trajectory", "text+trajectory:5", "trajectory:25", "told:reach", "expert"]),
        ({"n_examples": 24}, ["text", "trajectory", "text+trajectory:5", "told:reach", "expert"]),
        ({"n_examples": 1}, ["text", "trajectory", "told:reach", "expert"]),
        ({"goal": "hidden"}, ["text", "trajectory", "text+trajectory:5", "told:reach", "expert"]),
    ],
    ids=str,
)
def test_no_condition_shows_more_examples_than_there_are(settings, shown):
    conditions = ("text", "trajectory", "text+trajectory:5", "trajectory:25", "told:reach", "expert")
    can_show = MetaworldSettings.of_split("ml45", **settings).can_show
    assert list(filter(can_show, conditions)) == shown


@pytest.mark.parametrize(("goal", "numbers"), [("visible", {1, 5, 25}), ("hidden", {1, 5})])
def test_a_training_is_evaluated_in_the_conditions_that_there_are_examples_for(goal, numbers, tmp_path):
    settings = MetaworldSettings.of_split("ml45", goal=goal)
    benchmark = MetaworldBenchmark(tmp_path, settings, make_variants(["full", "align"]), seeds=[0])
    for variant in benchmark.variants.values():
        shown = [cell.condition for cell in benchmark._cells(variant, seed=0) if cell.condition.trajectory_of]
        assert {condition.n_examples for condition in shown} == numbers
        assert {split_number(condition.name)[1] for condition in shown} == numbers


@pytest.fixture
def recorded(monkeypatch):
    """Let episodes be what was recorded, and say how many were asked for."""

    def record(episodes):
        asked = []
        data = OfflineDataset.from_episodes(episodes)
        monkeypatch.setattr(examples_module, "collect", lambda tasks, **arguments: asked.append(arguments))
        monkeypatch.setattr(examples_module, "load_minari", lambda ids, root: data)
        return asked

    return record


def test_examples_are_the_first_episodes_that_did_not_fail(recorded):
    episodes = [make_episode(source=f"{n}", success=n not in (0, 2)) for n in range(6)]
    asked = recorded(episodes)
    shown = examples_module.example_episodes(["task"], 3)["task"]
    assert [episode.source for episode in shown] == ["1", "3", "4"]
    assert (asked[0]["n_episodes"], asked[0]["episodes_per_goal"]) == (6, 1)  # three to spare


def test_the_first_examples_of_all_goals_come_before_the_second_ones(recorded):
    goals = "aaabbbccc"
    episodes = [
        make_episode(goal=goal, source=f"{n}", success=n not in (1, 6, 7)) for n, goal in enumerate(goals)
    ]
    asked = recorded(episodes)
    shown = examples_module.example_episodes(["task"], 6, n_per_goal=2)["task"]
    assert [episode.source for episode in shown] == ["0", "3", "2", "4"]  # of c only one did not fail
    assert (asked[0]["n_episodes"], asked[0]["episodes_per_goal"]) == (9, 3)  # one to spare for each goal


@pytest.mark.parametrize(
    ("goal", "n_examples", "per_goal"), [("visible", 25, 1), ("hidden", 250, EXAMPLES_PER_GOAL)]
)
def test_with_a_hidden_goal_several_examples_share_each_goal(
    goal, n_examples, per_goal, monkeypatch, tmp_path
):
    asked = []

    def example_episodes(tasks: Sequence[str], n: int, *, n_per_goal: int, **arguments: Any) -> Any:
        asked.append((n, n_per_goal))
        return {}

    module = "sb3_llmdpd.benchmarks.metaworld.benchmark"
    monkeypatch.setattr(f"{module}.example_episodes", example_episodes)
    monkeypatch.setattr(f"{module}.collect", lambda *args, **arguments: [])
    settings = MetaworldSettings.of_split("ml45", goal=goal)
    MetaworldBenchmark(tmp_path, settings, make_variants(["align"]), seeds=[0])._collect()
    assert asked == [(n_examples, per_goal)] * 2  # of unseen tasks, and of seen ones


def controls(out: Path, *names: str, **settings: Any) -> list[Any]:
    """Make the players of controls, beside a model that reads features and aligns as it is said."""
    shared = MetaworldSettings.of_split("ml45", **settings)
    benchmark = MetaworldBenchmark(out, shared, make_variants(names), seeds=[0])
    episodes = make_episodes(observation_dim=39, action_dim=4)
    benchmark.data = OfflineDataset.from_episodes(episodes)  # in the place of what would be collected
    return [benchmark._control(name) for name in names]


def test_every_control_is_a_player_of_its_own(tmp_path):
    names = ("retrieve", "retrieve-aligned", "align", "random", "copy")
    kinds = [type(player).__name__ for player in controls(tmp_path, *names)]
    assert kinds == ["RetrieveAndPlay", "RetrieveAndPlay", "AlignAndReplay", "RandomPlayer", "CopyPlayer"]


@pytest.mark.parametrize("goal", ["visible", "hidden"])
def test_retrieval_reads_the_features_of_the_method(goal, tmp_path):
    (player,) = controls(tmp_path, "retrieve", goal=goal)
    expected = MetaWorldRelativeExtractor(player.observation_space, positions=goal == "hidden")
    assert isinstance(player.features_extractor, MetaWorldRelativeExtractor)
    assert player.features_extractor.features_dim == expected.features_dim


def test_one_of_the_two_retrievals_aligns_as_the_method_does(tmp_path):
    plain, aligned = controls(tmp_path, "retrieve", "retrieve-aligned")
    assert (plain.alignment, aligned.alignment) == (None, metaworld_scene)


def test_mixed_data_have_noise_from_none_to_random_actions() -> None:
    assert DATA["mixed"][0] == 0.0
    assert DATA["mixed"][-1] > 50
    assert DATA["expert"] == (0.1,)


def test_variants_with_models_of_their_own_come_first_and_each_seed_has_all_variants(tmp_path: Path) -> None:
    trainings = trainings_of(tmp_path, ["candidates-10", "full", "bc"], seeds=(0, 1))
    order = [(training.variant, training.seed) for training in trainings]
    assert order == [(name, seed) for seed in (0, 1) for name in ("full", "bc", "candidates-10")]


def test_the_model_of_another_variant_is_work_only_where_that_one_is_not_asked_for(tmp_path: Path) -> None:
    asked = (["candidates-10"], ["full", "candidates-10"])
    alone, beside_it = (trainings_of(tmp_path, names)[-1].work for names in asked)
    assert alone - beside_it == MetaworldSettings.of_split("ml45").n_steps


def test_the_settings_have_what_a_variant_does_and_not_its_sentence(tmp_path: Path) -> None:
    (training,) = trainings_of(tmp_path, ["bc"], seeds=[3])
    assert training.settings["variant"] == {
        "name": "bc",
        "model": {"eta": 0.0, "return_weight": 0.0},
        "conditions": ["text+trajectory", "trajectory"],
        "trained_as": None,
        "method": "llmdpd",
    }
    assert (training.settings["seed"], training.settings["goal"]) == (3, "visible")
    assert json.loads(json.dumps(training.settings)) == training.settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--goal", "shown"], "`goal` must be 'visible' or 'hidden' or 'told', got 'shown'"),
        (["--goal", "told", "--split", "ml45"], "a goal that is told goes with the split 'combinations'"),
        (["--split", "combinations"], "got the goal 'visible' and the split 'combinations'"),
        (["--data", "bad"], "`data` must be 'expert' or 'mixed', got 'bad'"),
        (["--episodes", 0], "`n_episodes` must be at least 1, got 0"),
        (
            ["--goal", "hidden", "--episodes", 5],
            "`n_episodes` must be a multiple of 2 where the goal is hidden",
        ),
        (["--split", "ml46"], "unknown split 'ml46': use ml45, ml10, osvi, fold-0 to fold-8"),
        (["--unseen", "reach"], "the split 'custom' goes with a list of unseen tasks"),
        (["--variants", "ful"], "unknown variant 'ful': did you mean 'full'"),
        (["--text-encoders", "hashing,"], "--text-encoders takes names between commas"),
        (["--seeds", 0], "Invalid value for '--seeds'"),
    ],
)
def test_bad_input_gets_its_sentence_and_exit_status_2(arguments, message, tmp_path):
    result = run(tmp_path, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_process_works_in_is_left_to_it(tmp_path: Path) -> None:
    with owned(tmp_path):
        result = run(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "owner.json"}
    assert result.exit_code == 2
    assert f"process {os.getpid()} works in {tmp_path}" in result.output


def test_ctrl_c_while_data_are_collected_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_llmdpd.benchmarks.metaworld.benchmark.collect", interrupted)
    result = run(tmp_path)
    assert result.exit_code == 130
    said = "Stopped by SIGINT in the collection of data. To go on: the command of before with --out"
    assert said in result.output


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["benchmark", "report", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no results.json: name the folder of a benchmark" in result.output
