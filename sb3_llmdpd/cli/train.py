"""`sb3-llmdpd train`: learns a model from data of any format, or goes on where a run was stopped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sb3_llmdpd.benchmarks.common.ownership import owned
from sb3_llmdpd.benchmarks.common.run_folder import SAVE_FREQ, RunFolder
from sb3_llmdpd.cli import held_out, sources, tracking
from sb3_llmdpd.cli.config_file import Config, Preset, Set, is_given, model_settings, own_options
from sb3_llmdpd.cli.model_options import with_model_options
from sb3_llmdpd.cli.next_command import TRAINED, trained
from sb3_llmdpd.cli.options import check_device, names
from sb3_llmdpd.cli.settings import ALGORITHM, FINGERPRINT, defaults, settings_of_run, split, together
from sb3_llmdpd.common.schedules import CosineSchedule
from sb3_llmdpd.data.checks import listed
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.fingerprint import fingerprint
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.data.memory_mapping import memory_mapped as map_dataset
from sb3_llmdpd.data.metaworld.tasks import TASKS
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.validation.callback import HeldOutError
from sb3_llmdpd.validation.held_out import HeldOut

_CHANGEABLE = ("steps", "device", "root", "cache")
"""Options that may change when a run goes on."""
_PATHS = ("root", "cache", "task_texts", "tensorboard_log")


@with_model_options
@sources.with_reading_options
def train(
    ctx: typer.Context,
    dataset: Annotated[list[str] | None, typer.Option(help=sources.SOURCES_HELP)] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder of run.json, model.zip, progress.csv and curves.png.", file_okay=False),
    ] = TRAINED,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a stopped run to go on with; of the other options only --steps, --device, --root"
            " and --cache may change."
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the run in --out; its model stays until the first save."),
    ] = False,
    config: Config = None,
    preset: Preset = None,
    set_: Set = None,
    root: sources.Root = None,
    memory_mapped: Annotated[
        bool, typer.Option(help="Leave steps in a file, for data beyond memory.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of those files; by default in $SB3_LLMDPD_CACHE or ~/.cache/sb3_llmdpd."),
    ] = None,
    unseen: Annotated[str | None, typer.Option(help="Tasks between commas that are left out.")] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps of the whole run.", min=1)] = 10_000,
    cosine: Annotated[bool, typer.Option(help="Let the learning rate fall along half a cosine.")] = False,
    log_interval: Annotated[
        int, typer.Option(help="Gradient steps between two points of the learning curve.", min=1)
    ] = 100,
    save_freq: Annotated[
        int, typer.Option(help="Gradient steps between two saves of model.zip.", min=1)
    ] = SAVE_FREQ,
    validation: held_out.Validation = None,
    validate_unseen: held_out.ValidateUnseen = 0,
    validation_freq: held_out.ValidationFreq = held_out.FREQ,
    track: tracking.Track = None,
    **model_options: Any,
) -> None:
    """Train one model on all data sets and write it with its learning curve, or go on with a stopped run."""
    if resume is None:
        _begin(ctx, RunFolder(out), overwrite)
    else:
        _go_on(ctx, RunFolder(resume))


def _begin(ctx: typer.Context, run: RunFolder, overwrite: bool) -> None:
    run.refuse_to_replace("train", overwrite)  # before the data are read, which may take long
    options = _options_of_a_new_run(ctx)
    data = _read(options, run)
    parts = held_out.parts(options, data)
    model = _new_model(options, data if parts is None else parts.training)
    with owned(run.path):  # nothing was written until now
        run.begin(options, overwrite)
        _train(run, model, options, parts)


def _go_on(ctx: typer.Context, run: RunFolder) -> None:
    if _is_finished(run, _options_to_go_on_with(ctx, run)["steps"]):
        return
    with owned(run.path):
        options = _options_to_go_on_with(ctx, run)  # once more: the owner before may have changed them
        data = _read(options, run)
        parts = held_out.parts(options, data)
        if parts is not None:
            data = parts.training
        if run.has_model:
            model = LLMDPD.load(run.model_path, dataset=data, device=options["device"], trust_encoder=True)
        else:
            model = _new_model(options, data)
        typer.echo(f"Going on from step {model.num_timesteps:,}")
        run.go_on(options)
        _train(run, model, options, parts)


def _train(run: RunFolder, model: LLMDPD, options: Mapping[str, Any], parts: HeldOut | None) -> None:
    measured = [] if parts is None else [HeldOutError(parts, options["validation_freq"], run.path)]
    lengths = options["steps"], options["log_interval"], options["save_freq"]
    with tracking.tracked(run.path, model, options):
        path = run.train(model, *lengths, callbacks=measured)
    held_out.say_what_was_learned(run, parts is not None)
    typer.echo(trained(model, path, options))


def _options_of_a_new_run(ctx: typer.Context) -> dict[str, Any]:
    """Collect what was given, as JSON values that mean the same wherever the run goes on."""
    options = {**_own(ctx), **model_settings(ctx, ctx.params["preset"], ctx.params["set_"] or ())}
    if not options["dataset"]:
        other = "or --resume, the folder of a run to go on with"
        raise ValueError(f"Missing option '--dataset', the data to train on; {other}")
    tracking.check(options)
    if options["cosine"] and isinstance(options["learning_rate"], str):
        raise ValueError(
            f"--cosine begins at a number, and the learning rate is {options['learning_rate']!r}"
        )
    for name in ("dataset", "validation"):
        if options[name] and not held_out.is_share(options[name]):
            options[name] = sources.source_names(options[name], options["root"])
    return {"command": "train", **options, **_absolute_paths(options)}


def _options_to_go_on_with(ctx: typer.Context, run: RunFolder) -> dict[str, Any]:
    """Collect the options that the run was begun with, and the few that may change."""
    given = {name: value for name, value in ctx.params.items() if is_given(ctx, name) and name != "resume"}
    if others := [_as_option(name) for name in given if name not in _CHANGEABLE]:
        raise ValueError(
            "--resume goes on with the options of before, of which only --steps, --device, --root and --cache"
            f" may change: leave out {', '.join(others)}"
        )
    saved = run.arguments()
    if saved["command"] != "train":
        raise ValueError(f"{run.path} is a run of another command. Go on with {run.how_to_go_on()}")
    own = _own(ctx)
    try:
        options, arguments = split(settings_of_run(saved, str(run.path)), own, str(run.path))
    except ValueError as error:
        raise ValueError(f"{error}; go on with the version of sb3_llmdpd that began the run") from error
    arguments = together(defaults(), arguments)  # the defaults of what an older run lacks
    kept = {name: saved[name] for name in ("command", FINGERPRINT) if name in saved}
    return {**own, **options, **arguments, **kept, **given, **_absolute_paths(given)}


def _own(ctx: typer.Context) -> dict[str, Any]:
    """Name the options that are no arguments of a model, and that a run keeps."""
    return {name: ctx.params[name] for name in own_options(ctx) if name in ctx.params and name != "out"}


def _as_option(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"


def _absolute_paths(options: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(Path(options[name]).absolute()) for name in _PATHS if options.get(name) is not None}


def _is_finished(run: RunFolder, steps: int) -> bool:
    done = run.steps_done()
    if done < steps:
        return False
    typer.echo(
        f"The run in {run.path} is finished: {done:,} gradient steps."
        f" To train further: {run.how_to_go_on()} --steps {2 * done}"
    )
    if not run.is_drawn:  # the run may have been killed between its last step and the drawing
        run.draw_curves()
    return True


def _new_model(options: Mapping[str, Any], data: OfflineDataset) -> LLMDPD:
    arguments = {name: options[name] for name in ALGORITHM if name in options}
    if options["cosine"]:
        arguments["learning_rate"] = CosineSchedule(options["learning_rate"])
    return LLMDPD(dataset=data, **arguments)


def _read(options: dict[str, Any], run: RunFolder) -> OfflineDataset:
    """Read the data of a run, and remember which they are, or make sure that they are those of before."""
    check_device(options["device"])
    data = read_sources(options)
    typer.echo(data.summary())
    found = fingerprint(data)
    if options.setdefault(FINGERPRINT, found) != found:
        raise ValueError(
            f"the data are not those that the run in {run.path} was begun with: put these back, or say with"
            " --root where they are; on other data begin a run of its own, with another --out"
        )
    return data


def read_sources(options: Mapping[str, Any]) -> OfflineDataset:
    """Read the data, without the tasks that are left out."""
    how = {"root": options["root"], **sources.how_to_read(options)}
    data: OfflineDataset
    if options["memory_mapped"]:
        data = map_dataset(options["dataset"], cache=options["cache"], progress_bar=True, **how)
    else:
        data = load_dataset(options["dataset"], **how)
    if options["unseen"] is None:
        return data
    unseen = names(options["unseen"], "--unseen")
    if unknown := [task for task in unseen if task not in data.tasks and task not in TASKS]:
        known = listed(data.tasks)
        raise ValueError(f"--unseen names {listed(unknown)}, and the tasks of the data are {known}")
    if all(task in unseen for task in data.tasks):
        raise ValueError("--unseen leaves no episode to train on")
    return data.only(lambda episode: episode.task not in unseen)
