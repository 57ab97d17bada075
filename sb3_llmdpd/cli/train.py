"""`sb3-llmdpd train`: learns a model from data of any format, or goes on where a run was stopped."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from sb3_llmdpd.benchmarks.common.run_folder import SAVE_FREQ, RunFolder
from sb3_llmdpd.cli.options import check_device, names, whole_numbers
from sb3_llmdpd.cli.sources import (
    SOURCES_HELP,
    AllowPickle,
    Flatten,
    Root,
    Strict,
    TaskTexts,
    read_task_texts,
    source_names,
)
from sb3_llmdpd.common.schedules import CosineSchedule
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.fingerprint import fingerprint
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.data.memory_mapping import memory_mapped as map_dataset
from sb3_llmdpd.data.metaworld.tasks import TASKS
from sb3_llmdpd.llmdpd.acceleration import MATMUL_PRECISIONS
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.losses import CRITIC_OBJECTIVES, POLICY_OBJECTIVES
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.networks.attention import CONDITIONINGS
from sb3_llmdpd.networks.features import FEATURES_EXTRACTORS

# The defaults of the algorithm stand in its signature and nowhere else.
_MODEL: dict[str, Any] = {
    name: parameter.default for name, parameter in inspect.signature(LLMDPD).parameters.items()
}
_POLICY: dict[str, Any] = {
    name: parameter.default for name, parameter in inspect.signature(LLMDPDPolicy).parameters.items()
}


# Options that may change when a run goes on.
_CHANGEABLE = ("steps", "device", "root", "cache")
_PATHS = ("root", "cache", "task_texts")

FINGERPRINT = "fingerprint"
"""Under which a run remembers what its data were."""


def train(
    ctx: typer.Context,
    dataset: Annotated[list[str] | None, typer.Option(help=SOURCES_HELP)] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of run.json, model.zip, progress.csv and curves.png.")
    ] = Path("runs/train"),
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a stopped run to go on with; of the other options only --steps, --device, --root, --cache change."
        ),
    ] = None,
    root: Root = None,
    task_texts: TaskTexts = None,
    strict: Strict = False,
    flatten: Flatten = False,
    allow_pickle: AllowPickle = False,
    memory_mapped: Annotated[
        bool, typer.Option("--memory-mapped", help="Leave the steps in a file: for data larger than memory.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of those files; by default in $SB3_LLMDPD_CACHE or ~/.cache/sb3_llmdpd."),
    ] = None,
    unseen: Annotated[
        str | None, typer.Option(help="Tasks between commas whose episodes are left out.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps of the whole run.", min=1)] = 10_000,
    batch_size: Annotated[int, typer.Option(help="Transitions in a step.")] = _MODEL["batch_size"],
    q_batch_size: Annotated[
        int | None, typer.Option(help="How many of them the critic sees; by default all.")
    ] = _MODEL["q_batch_size"],
    prompts_per_batch: Annotated[int, typer.Option(help="Prompts in a step.")] = _MODEL["prompts_per_batch"],
    learning_rate: Annotated[float, typer.Option(help="Of actor and encoders.")] = _MODEL["learning_rate"],
    cosine: Annotated[
        bool, typer.Option("--cosine", help="Let the learning rate fall along half a cosine.")
    ] = False,
    critic_learning_rate: Annotated[
        float | None, typer.Option(help="Of the critic; by default the actor's.")
    ] = _MODEL["critic_learning_rate"],
    gamma: Annotated[float, typer.Option(help="Discount.")] = _MODEL["gamma"],
    eta: Annotated[float, typer.Option(help="Weight of the Q term; 0 is behaviour cloning.")] = _MODEL["eta"],
    policy_objective: Annotated[str, typer.Option(help=f"{' or '.join(POLICY_OBJECTIVES)}.")] = _MODEL[
        "policy_objective"
    ],
    critic_objective: Annotated[str, typer.Option(help=f"{' or '.join(CRITIC_OBJECTIVES)}.")] = _MODEL[
        "critic_objective"
    ],
    expectile: Annotated[float, typer.Option(help="Of the expectile critic, in (0, 1).")] = _MODEL[
        "expectile"
    ],
    return_weight: Annotated[
        float,
        typer.Option(help="How much more often the steps of better episodes are drawn; 0 for all alike."),
    ] = _MODEL["return_weight"],
    ema_decay: Annotated[float, typer.Option(help="Of the averaged actor.")] = _MODEL["ema_decay"],
    text_dropout: Annotated[float, typer.Option(help="Share of prompts without their sentence.")] = _MODEL[
        "text_dropout"
    ],
    trajectory_dropout: Annotated[
        float, typer.Option(help="Share of prompts without their example.")
    ] = _MODEL["trajectory_dropout"],
    pair_dropout: Annotated[
        float, typer.Option(help="Share of those with both that lose their sentence.")
    ] = _MODEL["pair_dropout"],
    prompt_noise: Annotated[float, typer.Option(help="Noise on the prompt vectors in training.")] = _MODEL[
        "prompt_noise"
    ],
    text_encoder: Annotated[str, typer.Option(help="Spec of the language model; none for no text.")] = _MODEL[
        "text_encoder"
    ],
    same_goal: Annotated[bool, typer.Option("--same-goal", help="Examples share the goal.")] = _MODEL[
        "same_goal"
    ],
    conditioning: Annotated[str, typer.Option(help=f"{' or '.join(CONDITIONINGS)}.")] = _POLICY[
        "conditioning"
    ],
    features_extractor: Annotated[
        str | None, typer.Option(help=f"{', '.join(FEATURES_EXTRACTORS)}; by default the policy's.")
    ] = None,
    net_arch: Annotated[
        str | None, typer.Option(help="Widths of the hidden layers between commas; by default the policy's.")
    ] = None,
    layer_norm: Annotated[bool, typer.Option("--layer-norm", help="Normalise the hidden layers.")] = _POLICY[
        "layer_norm"
    ],
    prompt_window: Annotated[int, typer.Option(help="Steps of an example.")] = _POLICY["prompt_window"],
    policy: Annotated[str, typer.Option(help=f"{', '.join(LLMDPD.policy_aliases)}.")] = "MlpPolicy",
    acceleration: Annotated[
        str | None,
        typer.Option(
            help="Ways to be faster that depend on the machine, between commas: compile, bfloat16, cuda_graph, and high or"
            " medium for the precision of products."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of networks, batches and noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = _MODEL["device"],
    log_interval: Annotated[
        int, typer.Option(help="Gradient steps between two points of the learning curve.", min=1)
    ] = 100,
    save_freq: Annotated[
        int, typer.Option(help="Gradient steps between two saves of model.zip.", min=1)
    ] = SAVE_FREQ,
) -> None:
    """Train one model on all the data sets, and write it with its learning curve; or go on where a run was stopped."""
    if resume is None:
        run = RunFolder(out)
        run.refuse_unfinished()
        options = _options_of_a_new_run(ctx)
    else:
        run = RunFolder(resume)
        options = _options_to_go_on_with(ctx, run)
        if _is_finished(run, options["steps"]):
            return
    check_device(options["device"])
    left_out = [] if options["unseen"] is None else names(options["unseen"], "--unseen")
    data = _without(_read(options), left_out)
    typer.echo(data.summary())
    found = fingerprint(data)
    if options.setdefault(FINGERPRINT, found) != found:
        raise ValueError(
            f"the data are not those that the run in {run.path} was begun with: put these back, or say with --root where they"
            " are; on other data begin a run of its own, with another --out"
        )
    if resume is not None and run.has_model:
        model = LLMDPD.load(run.model_path, dataset=data, device=options["device"])
    else:
        model = _new_model(options, data)
    if resume is None:
        run.begin(options)
    else:
        typer.echo(f"Going on from step {model.num_timesteps:,}")
        run.go_on(options)
    path = run.train(model, options["steps"], options["log_interval"], options["save_freq"])
    typer.echo(f"The model is {path}. Next: sb3-llmdpd evaluate --model {path}")


def _options_of_a_new_run(ctx: typer.Context) -> dict[str, Any]:
    """What was given, as JSON that means the same wherever the run goes on."""
    options = {name: value for name, value in ctx.params.items() if name not in ("out", "resume")}
    if not options["dataset"]:
        raise ValueError(
            "Missing option '--dataset', the data to train on; or --resume, the folder of a run to go on with"
        )
    options |= {name: _absolute(options[name]) for name in _PATHS}
    return {"command": "train", **options, "dataset": source_names(options["dataset"], options["root"])}


def _options_to_go_on_with(ctx: typer.Context, run: RunFolder) -> dict[str, Any]:
    """Those that the run was begun with, but for the few that may change."""
    given = {name: value for name, value in ctx.params.items() if _is_given(ctx, name) and name != "resume"}
    others = [f"--{name.replace('_', '-')}" for name in given if name not in _CHANGEABLE]
    if others:
        raise ValueError(
            "--resume goes on with the options of before, of which only --steps, --device, --root and --cache may change:"
            f" leave out {', '.join(others)}"
        )
    given |= {name: _absolute(given[name]) for name in _PATHS if name in given}
    saved = run.arguments()
    if saved["command"] != "train":
        raise ValueError(f"{run.path} is a run of another command. Go on with {run.how_to_go_on()}")
    unknown = set(saved) - set(ctx.params) - {"command", FINGERPRINT}
    if unknown:
        raise ValueError(
            f"the run in {run.path} has options that this version of sb3_llmdpd does not know: {', '.join(sorted(unknown))};"
            " go on with the version that began it"
        )
    defaults = {name: value for name, value in ctx.params.items() if name not in ("out", "resume")}
    return {**defaults, **saved, **given}


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _is_finished(run: RunFolder, steps: int) -> bool:
    done = run.steps_done()
    if done < steps:
        return False
    run.draw_curves()  # in case that the run was killed between its last step and the drawing
    typer.echo(
        f"The run in {run.path} is finished: {done:,} gradient steps."
        f" To train further: {run.how_to_go_on()} --steps {2 * done}"
    )
    return True


def _new_model(options: dict[str, Any], data: OfflineDataset) -> LLMDPD:
    if options["policy"] not in LLMDPD.policy_aliases:
        raise ValueError(
            f"--policy must be one of {', '.join(LLMDPD.policy_aliases)}, got {options['policy']!r}"
        )
    arguments = {name: value for name, value in options.items() if name in _MODEL}
    if options["cosine"]:
        arguments["learning_rate"] = CosineSchedule(options["learning_rate"])
    if options["text_encoder"] == "none":
        arguments["text_encoder"] = None
    arguments["acceleration"] = _acceleration(options["acceleration"])
    net_arch = options["net_arch"]
    policy_kwargs = {
        "conditioning": options["conditioning"],
        "features_extractor_class": options["features_extractor"],
        "net_arch": None if net_arch is None else whole_numbers(net_arch, "--net-arch"),
        "layer_norm": options["layer_norm"],
        "prompt_window": options["prompt_window"],
    }
    return LLMDPD(**{**arguments, "dataset": data, "policy_kwargs": policy_kwargs})


def _acceleration(given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    ways = names(given, "--acceleration")
    return {
        "matmul_precision" if way in MATMUL_PRECISIONS else way: way if way in MATMUL_PRECISIONS else True
        for way in ways
    }


def _read(options: dict[str, Any]) -> OfflineDataset:
    how: dict[str, Any] = {name: options[name] for name in ("root", "strict", "flatten", "allow_pickle")}
    how["task_texts"] = read_task_texts(options["task_texts"])
    if options["memory_mapped"]:
        return map_dataset(options["dataset"], cache=options["cache"], progress_bar=True, **how)
    return load_dataset(options["dataset"], **how)


def _without(data: OfflineDataset, unseen: list[str]) -> OfflineDataset:
    unknown = [task for task in unseen if task not in data.tasks and task not in TASKS]
    if unknown:
        raise ValueError(
            f"--unseen names {', '.join(unknown)}, and the tasks of the data are {', '.join(data.tasks)}"
        )
    if all(task in unseen for task in data.tasks):
        raise ValueError("--unseen leaves no episode to train on")
    return data.only(lambda episode: episode.task not in unseen) if unseen else data
