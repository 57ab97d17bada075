"""One configuration: files, run.json, presets, options and `--set` say the settings of a training."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories import make_episodes
from typer.testing import CliRunner, Result

from sb3_llmdpd import LLMDPD, load_dataset
from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.benchmarks.quickstart import QuickstartSettings, remembered
from sb3_llmdpd.cli import app, settings
from sb3_llmdpd.cli.settings import defaults, settings_of_run
from sb3_llmdpd.common.schedules import CosineSchedule
from sb3_llmdpd.data.npz import write_npz
from sb3_llmdpd.presets import PAPER

TINY = (
    "--steps 2 --log-interval 1 --batch-size 4 --prompts-per-batch 2 --net-arch 8 --text-encoder hashing:8"
    " --device cpu --eta 0"
)
CONFIG = """
unseen: [task-2]
batch_size: 4
prompts_per_batch: 2
learning_rate: 1e-3  # a word in YAML 1.1
net_arch: [8, 8]
text_encoder: hashing:8
eta: 0.5
critic_learning_rate:
steps: 2
policy_kwargs:
  layer_norm: true
  optimizer_kwargs: {weight_decay: 1e-2}
"""
WORDS = "a word, a number, or a list of them"


def run(command: str, *more: object) -> Result:
    """Run a command line of words without spaces, and whatever else stands behind them."""
    arguments = [*command.split(), *map(str, more)]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})


def assert_refused(result: Result, message: str) -> None:
    assert (result.exit_code, "Traceback" in result.output) == (2, False), result.output
    assert re.search(message, result.output), result.output


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three tasks."""
    data = load_dataset(make_episodes())
    path = tmp_path_factory.mktemp("logs") / "logs.npz"
    write_npz(path, data.episodes, data.observation_space, data.action_space)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


def trained(out: Path, command: str, *more: object) -> tuple[dict[str, Any], LLMDPD]:
    """Train, and return what the run keeps, and its model."""
    result = run(f"train {command}", *more, "--out", out)
    assert result.exit_code == 0, result.output
    return json.loads((out / "run.json").read_text()), LLMDPD.load(out / "model.zip")


def test_a_file_says_every_argument_and_the_command_line_goes_before_it(config, logs, tmp_path):
    command = "--eta 0 --no-layer-norm --device cpu --config"
    kept, model = trained(tmp_path / "run", command, config, "--dataset", logs)
    assert (kept["eta"], kept["learning_rate"], kept["unseen"]) == (0.0, 1e-3, "task-2")
    assert "config" not in kept
    assert model.policy_kwargs["net_arch"] == kept["policy_kwargs"]["net_arch"] == [8, 8]
    assert model.policy_kwargs["optimizer_kwargs"] == {"weight_decay": 1e-2}
    assert not model.policy_kwargs["layer_norm"]


def test_a_run_goes_on_with_what_it_was_told_and_its_run_json_is_a_configuration(config, logs, tmp_path):
    kept, _ = trained(tmp_path / "run", "--device cpu --config", config, "--dataset", logs)
    result = run("train --steps 3 --resume", tmp_path / "run")
    assert "Going on from step 2" in result.output
    again, model = trained(tmp_path / "again", "--config", tmp_path / "run" / "run.json")
    assert again == kept | {"steps": 3}
    assert model.policy_kwargs["optimizer_kwargs"] == {"weight_decay": 1e-2}


def test_a_run_that_saved_no_model_goes_on_with_its_nested_arguments(config, logs, tmp_path):
    _, before = trained(tmp_path / "run", "--device cpu --config", config, "--dataset", logs)
    (tmp_path / "run" / "model.zip").unlink()
    assert run("train --resume", tmp_path / "run").exit_code == 0
    after = LLMDPD.load(tmp_path / "run" / "model.zip")
    assert after.policy_kwargs == before.policy_kwargs
    assert after.critic.state_dict().keys() == before.critic.state_dict().keys()


def test_a_run_of_an_earlier_version_is_read_by_its_flat_options():
    flat = {"net_arch": "8,8", "examples_per_prompt": "1,1", "layer_norm": False, "features_extractor": None}
    options, arguments = settings.split({"steps": 5, **flat}, ["steps"], "run.json")
    assert options == {"steps": 5}
    policy = {"net_arch": [8, 8], "layer_norm": False, "features_extractor_class": None}
    assert arguments == {"examples_per_prompt": (1, 1), "policy_kwargs": policy}


def test_a_run_goes_on_without_another_file(config: Path, tmp_path: Path) -> None:
    result = run("train --resume", tmp_path, "--config", config, "--set", "tau=0.1")
    assert_refused(result, "may change: leave out --config, --set, --unseen")


def test_a_preset_stands_below_the_file_and_the_command_line(config, logs, tmp_path):
    command = "--gamma 0.5 --device cpu --preset paper --config"
    kept, model = trained(tmp_path / "run", command, config, "--dataset", logs)
    of_paper = dict(return_weight=0.0, examples_per_prompt=[1, 1], preset="paper")
    assert (of_paper | dict(eta=0.5, gamma=0.5)).items() <= kept.items()
    assert (kept["policy_kwargs"]["conditioning"], kept["policy_kwargs"]["layer_norm"]) == ("concat", True)
    assert (model.policy_objective, model.examples_per_prompt) == ("diffusion_ql", (1, 1))


def test_set_says_what_has_no_option_and_adds_to_what_others_say(config, logs, tmp_path):
    sets = ("--set", "policy_kwargs.optimizer_kwargs.eps=1e-5", "--set", "net_arch={pi: [4], qf: [8]}")
    _, model = trained(tmp_path / "run", "--device cpu --config", config, "--dataset", logs, *sets)
    assert model.policy_kwargs["optimizer_kwargs"] == {"weight_decay": 1e-2, "eps": 1e-5}
    assert model.policy_kwargs["net_arch"] == {"pi": [4], "qf": [8]}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--set net_arch", r"--set takes NAME=VALUE, .*; got 'net_arch'"),
        ("--set net_arch=[8", "--set net_arch takes a value in YAML, and '\\[8' is none: while parsing"),
        ("--set policy_kwargs.net_arhc=[8]", "'policy_kwargs.net_arhc', .*: the nearest is 'net_arch'"),
        ("--set policy_kwarg.net_arch=[8]", "--set has 'policy_kwarg', .*: the nearest is 'policy_kwargs'"),
        (
            "--set policy_kwargs.optimizer_kwargs.weight_decy=1",
            "`optimizer_kwargs` has 'weight_decy', .*: the nearest is 'weight_decay'",
        ),
        (
            "--set policy_kwargs.features_extractor_kwargs.dim=1 --features-extractor nature_cnn",
            "`features_extractor_kwargs` has 'dim', .*: the nearest is 'features_dim'",
        ),
        ("--set net_arch={pi:[8],vf:[8]}", "`net_arch` has .*: the nearest is '(qf|pi)'"),
        ("--set steps=5", "--set takes arguments of the model: for 'steps' give its own option"),
        ("--set gamma=2", r"--set: `gamma` must be in \[0, 1\], got 2"),
        ("--set layer_norm=3", "--set: `layer_norm` must be true or false, got 3"),
        ("--set policy_kwargs=3", "--set: `policy_kwargs` must have names with values, got 3"),
        ("--set policy_kwargs.activation_fn=ReLU", "`activation_fn` is a class, .*: pass it to LLMDPD in"),
        ("--set gamma=0.5 --gamma 0.6", "`gamma` is said twice, as 0.6 and by --set as 0.5: leave one"),
        ("--set gamma=0.5 --set gamma=0.6", "`gamma` is said twice, as 0.5 and by --set as 0.6"),
        ("--prompts-per-batch 3 --batch-size 4", "`batch_size` must be a multiple of `prompts_per_batch`"),
        (
            "--set learning_rate=lin_0.01 --cosine",
            "--cosine begins at a number, and the learning rate is 'lin_0.01'",
        ),
        ("--preset best", "--preset must be one of paper.*, got 'best'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_data_are_read(more: str, message: str) -> None:
    assert_refused(run(f"train --dataset nowhere.npz {more}"), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch-size: 8", "run.yaml has 'batch-size', which is no setting: the nearest is 'batch_size'"),
        ("resume: runs", "run.yaml has 'resume', which is no setting"),
        ("7: 8", "run.yaml has 7, which is no setting"),
        ("policy_kwargs: {net_arhc: [8]}", "run.yaml has 'policy_kwargs.net_arhc', .* nearest is 'net_arch'"),
        ("steps: 2.5", "run.yaml: 'steps' cannot be 2.5: "),
        ("steps: 0", "run.yaml: 'steps' cannot be 0: .*greater than or equal to 1"),
        ("eta: true", "run.yaml: `eta` must be a number, got True"),
        ("eta: -1", r"run.yaml: `eta` must be in \[0, inf\], got -1"),
        ("dataset: {a: b}", f"run.yaml: 'dataset' takes {WORDS}, got {{'a': 'b'}}"),
        ("cosine: 1", "run.yaml: 'cosine' takes true or false, got 1"),
        ("batch_size:", "run.yaml: `batch_size` must be a whole number, got None"),
        ("policy:", "run.yaml: `policy` must be a string, got None"),
        ("sampler: [ddim]", r"run.yaml: `sampler` must be a string or None, got \['ddim'\]"),
        ("policy: 5", "run.yaml: --policy must be one of MlpPolicy, .*, got '5'"),
        ("- steps", r"a YAML file with settings, as in .*, and .*run.yaml holds \['steps'\]"),
        ("steps: [", "--config takes a YAML file, and .*run.yaml is not one: while parsing"),
        ("command: collect", "run.yaml does not hold the arguments of an LLMDPD"),
    ],
)
def test_a_file_of_settings_that_cannot_be_is_refused_by_its_name(text, message, config):
    config.write_text(text)
    assert_refused(run("train --config", config), message)


def test_a_file_of_settings_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert_refused(run("train --config", tmp_path / "a.yaml"), "No such file or directory: .*a.yaml")


def test_the_defaults_that_are_shown_change_nothing(logs, tmp_path):
    shown = run("config show")
    (tmp_path / "shown.yaml").write_text(shown.output)
    told = (TINY, "--dataset", logs)
    without, _ = trained(tmp_path / "without", *told)
    given, _ = trained(tmp_path / "given", *told, "--config", tmp_path / "shown.yaml")
    assert given == without


def test_each_setting_is_shown_with_its_meaning_and_its_range():
    text = run("config show").output
    shown = yaml.safe_load(text)
    assert shown["policy_kwargs"].keys() == defaults()["policy_kwargs"].keys()
    assert {"steps", *defaults()} <= shown.keys()
    assert "# Discount. Range: [0, 1].\ngamma: 0.99\n" in text
    assert "\n  # Size of the Q ensemble. Range: whole, [1, 1000].\n  n_critics: 2\n" in text
    assert re.search("pass them to LLMDPD in\n?#? ?Python.*activation_fn\n?#? ?\\(Mish\\)", text)
    assert json.loads(run("config show --format json").output) == shown


def test_a_preset_is_shown_with_the_defaults_around_it():
    shown = yaml.safe_load(run("config show --preset paper").output)
    assert (shown["eta"], shown["policy_kwargs"]["conditioning"]) == (
        1.0,
        PAPER["policy_kwargs"]["conditioning"],
    )
    assert shown["gamma"] == 0.99


def test_the_demos_settings_are_shown_as_train_takes_them():
    shown = yaml.safe_load(run("config show --preset quickstart").output)
    demo = QuickstartSettings()
    assert (shown["steps"], shown["cosine"], shown["learning_rate"]) == (
        demo.n_steps,
        True,
        demo.learning_rate,
    )
    assert demo.model["policy_kwargs"].items() <= shown["policy_kwargs"].items()


def test_a_run_is_shown_as_it_was_trained(config, logs, tmp_path):
    kept, _ = trained(tmp_path / "run", "--device cpu --config", config, "--dataset", logs)
    shown = yaml.safe_load(run("config show --run", tmp_path / "run").output)
    assert shown.items() <= kept.items()
    assert (shown["unseen"], shown["dataset"]) == ("task-2", [f"npz:{logs}"])
    assert shown["policy_kwargs"]["optimizer_kwargs"] == {"weight_decay": 0.01}
    assert_refused(run("config show --preset paper --run", tmp_path), "either --preset or --run, not both")
    assert_refused(run("config show --preset best"), "--preset must be one of .*quickstart, got 'best'")


def test_the_run_of_the_demo_is_a_configuration(tmp_path):
    RunFolder(tmp_path).begin(remembered(QuickstartSettings.smoke(seed=3)))
    shown = yaml.safe_load(run("config show --run", tmp_path).output)
    assert (shown["seed"], shown["steps"], shown["policy_kwargs"]["net_arch"]) == (3, 4, [16])
    assert shown["text_encoder"] == "hashing:16"


def test_a_training_of_the_benchmark_is_a_configuration_with_the_changes_of_its_variant():
    variant = {"method": "llmdpd", "model": {"policy_kwargs": {"conditioning": "concat"}}}
    shared = {"command": "benchmark", "steps": 7, "log_interval": 2, "seed": 1, "learning_rate": 2e-3}
    model = {"batch_size": 90, "policy_kwargs": {"net_arch": [8]}}
    read = settings_of_run({**shared, "goal": "hidden", "model": model, "variant": variant}, "run.json")
    assert read["policy_kwargs"] == {"net_arch": [8], "conditioning": "concat"}
    assert (read["same_goal"], read["cosine"], read["steps"], read["batch_size"]) == (True, True, 7, 90)
    with pytest.raises(ValueError, match=r"run\.json does not hold the arguments of an LLMDPD"):
        settings_of_run({**shared, "model": model, "variant": {**variant, "method": "prompt-dt"}}, "run.json")


def test_a_rate_that_falls_begins_at_the_rate_of_the_file(config, logs, tmp_path):
    config.write_text(f"{CONFIG}cosine: true\n")
    _, model = trained(tmp_path / "run", "--device cpu --config", config, "--dataset", logs)
    assert model.learning_rate == CosineSchedule(1e-3)
