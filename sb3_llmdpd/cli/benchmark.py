"""`sb3-llmdpd benchmark`: the tables of experiments, and their reports."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sb3_llmdpd.benchmarks.common.grid import RESULTS, SETTINGS
from sb3_llmdpd.benchmarks.common.variants import ENCODER, KEY_VARIANTS, VARIANTS, make_variants
from sb3_llmdpd.benchmarks.d4rl.benchmark import D4RLBenchmark
from sb3_llmdpd.benchmarks.d4rl.data import OTHER_DATA
from sb3_llmdpd.benchmarks.d4rl.report import CHART, d4rl_tables, write_d4rl_report
from sb3_llmdpd.benchmarks.d4rl.results import D4RLResults, is_d4rl, read_d4rl
from sb3_llmdpd.benchmarks.d4rl.settings import ROBOTS, ROWS, D4RLSettings, make_rows
from sb3_llmdpd.benchmarks.metaworld.benchmark import MetaworldBenchmark
from sb3_llmdpd.benchmarks.metaworld.pooled import pooled
from sb3_llmdpd.benchmarks.metaworld.report import PAGE, REPORT, write_report
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, read_grid, write_grid
from sb3_llmdpd.benchmarks.metaworld.settings import DATA, GOALS, MetaworldSettings
from sb3_llmdpd.benchmarks.metaworld.splits import SPLIT_NAMES
from sb3_llmdpd.benchmarks.metaworld.tables import tables
from sb3_llmdpd.cli.options import check_device, names
from sb3_llmdpd.cli.sources import SOURCES_HELP, Root, source_names

app = typer.Typer(no_args_is_help=True, help="Run an experiment with all its rows, or write its report anew.")

# The reference budget stands in the settings and nowhere else.
_REFERENCE = MetaworldSettings.of_split("ml45")
_PUBLISHED = D4RLSettings()


@app.command()
def metaworld(
    split: Annotated[str, typer.Option(help=f"{SPLIT_NAMES}.")] = "ml45",
    unseen: Annotated[
        str | None, typer.Option(help="With --split custom: tasks between commas to hold out of all others.")
    ] = None,
    goal: Annotated[
        str,
        typer.Option(
            help=f"{' or '.join(GOALS)}; hidden, only an example of the same goal says where it is."
        ),
    ] = _REFERENCE.goal,
    data: Annotated[
        str, typer.Option(help=f"{' or '.join(DATA)}: action noise of 0.1, or from none to random actions.")
    ] = _REFERENCE.data,
    episodes: Annotated[int, typer.Option(help="Training episodes a task.")] = _REFERENCE.n_episodes,
    seeds: Annotated[int, typer.Option(help="How many trainings of each row: seeds 0, 1, ...", min=1)] = 3,
    variants: Annotated[
        str, typer.Option(help=f"Rows between commas: all, or of {', '.join(VARIANTS)}, {ENCODER}<spec>.")
    ] = ",".join(KEY_VARIANTS),
    text_encoders: Annotated[
        str | None, typer.Option(help="Specs of sentence encoders between commas, each for a row of its own.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps of each training.")] = _REFERENCE.n_steps,
    unseen_episodes: Annotated[
        int, typer.Option(help="Evaluation episodes of an unseen task, under each condition.")
    ] = _REFERENCE.n_unseen_episodes,
    seen_episodes: Annotated[
        int | None,
        typer.Option(
            help="Evaluation episodes of a seen task, under each condition: 10, and 50 where the goal is hidden."
        ),
    ] = None,
    max_steps: Annotated[
        int, typer.Option(help="Steps after which an evaluated episode ends.")
    ] = _REFERENCE.max_episode_steps,
    stop_at_success: Annotated[
        bool,
        typer.Option(
            "--stop-at-success", help="End an episode at its first success: faster, and no full returns."
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder of everything that it makes; a stopped benchmark goes on there.")
    ] = Path("runs/benchmark"),
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data sets, which several benchmarks may share; by default in --out."
        ),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Walk the whole way in seconds, and learn nothing.")
    ] = False,
    processes: Annotated[int | None, typer.Option(help="Processes; by default one a CPU core.")] = None,
) -> None:
    """Train the method, its ablations and its baselines on Meta-World, and measure all of them on tasks held out.

    Given again with the same --out it goes on where it was stopped, or adds rows and seeds.
    """
    out.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not be computed first
    encoders = (
        [] if text_encoders is None else [ENCODER + spec for spec in names(text_encoders, "--text-encoders")]
    )
    rows = make_variants([*names(variants, "--variants"), *encoders])
    budget: dict[str, Any] = {"n_episodes": episodes, "n_steps": steps, "max_episode_steps": max_steps}
    budget |= {"stop_at_success": stop_at_success, "n_unseen_episodes": unseen_episodes}
    if seen_episodes is not None:
        budget["n_seen_episodes"] = seen_episodes
    held_out = None if unseen is None else names(unseen, "--unseen")
    settings = MetaworldSettings.of_split(split, held_out, goal=goal, data=data, **budget)
    settings = settings.smoke() if smoke else settings
    _show(MetaworldBenchmark(out, settings, rows, range(seeds), root, processes).run(), out)


@app.command()
def d4rl(
    dataset: Annotated[
        list[str],
        typer.Option(
            help=f"Data set of {', '.join(ROBOTS)}, which its name says. {SOURCES_HELP} Published ones: minari download"
            f" mujoco/hopper/medium-v0. {OTHER_DATA}.",
            show_default=False,
        ),
    ],
    seeds: Annotated[int, typer.Option(help="How many trainings of each row: seeds 0, 1, ...", min=1)] = 3,
    steps: Annotated[int, typer.Option(help="Gradient steps of each training.")] = _PUBLISHED.n_steps,
    eval_freq: Annotated[
        int, typer.Option(help="Gradient steps between two evaluations.")
    ] = _PUBLISHED.eval_freq,
    eval_episodes: Annotated[
        int,
        typer.Option(
            help="Episodes of each; with 50 candidates an action takes some ten times as long as one of one."
        ),
    ] = _PUBLISHED.n_eval_episodes,
    variants: Annotated[
        str, typer.Option(help="Rows between commas: all, or of " + ", ".join(ROWS) + ".")
    ] = ",".join(ROWS),
    text_encoder: Annotated[
        str, typer.Option(help="Spec of the language model that reads the sentence.")
    ] = _PUBLISHED.model["text_encoder"],
    env: Annotated[
        str | None,
        typer.Option(
            help="Environment that evaluates, by default the robot's:"
            f" {', '.join(robot.env_id for robot in ROBOTS.values())}. Walker2d-v4 has the feet of D4RL's own walker."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of everything that it makes; a stopped benchmark goes on there.")
    ] = Path("runs/d4rl"),
    root: Root = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Walk the whole way in seconds, and learn nothing.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Train on D4RL's locomotion as Diffusion-QL was trained, with a prompt and without, and report normalised scores.

    Of each training, the last model and the best by evaluation are reported. Nine data sets with three rows and three seeds
    are 81 trainings of two million steps: begin with fewer. Given again with the same --out it goes on where it was stopped,
    or adds data sets, rows and seeds.
    """
    check_device(device)
    rows = make_rows(names(variants, "--variants"))
    budget = D4RLSettings(n_steps=steps, eval_freq=eval_freq, n_eval_episodes=eval_episodes)
    budget = budget.reading(text_encoder)
    sources = source_names(dataset, root)
    settings = budget.smoke() if smoke else budget
    _show_d4rl(D4RLBenchmark(out, settings, sources, rows, range(seeds), env, root, device).run(), out)


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of a benchmark's results.json; several of one benchmark on Meta-World with other hold-outs are read"
            " as one.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Of several folders: where what they make together is written.", show_default=False
        ),
    ] = None,
) -> None:
    """Write the reports of an earlier benchmark anew, from its results.json alone."""
    folder, *others = folders
    if others or out is not None:
        _report_together(folders, out)
    elif is_d4rl(folder / RESULTS):
        of_d4rl = read_d4rl(folder / RESULTS)
        write_d4rl_report(folder, of_d4rl)
        _show_d4rl(of_d4rl, folder)
    else:
        results = read_grid(folder / RESULTS)
        write_report(folder, results)
        _show(results, folder)


def _report_together(folders: list[Path], out: Path | None) -> None:
    if out is None or len(folders) == 1:
        given = (
            f"{len(folders)} folder{'s' if len(folders) > 1 else ''}{' and no --out' if out is None else ''}"
        )
        raise ValueError(
            f"several folders are read as one benchmark, whose report goes to --out; got {given}"
        )
    if (out / SETTINGS).exists():
        raise ValueError(
            f"{out} is the folder of a benchmark, whose results stay as they are: give another --out"
        )
    of_d4rl = [folder for folder in folders if is_d4rl(folder / RESULTS)]
    if of_d4rl:
        raise ValueError(f"{of_d4rl[0]} is a benchmark on D4RL, whose reports are made one at a time")
    results = pooled([read_grid(folder / RESULTS) for folder in folders])
    out.mkdir(parents=True, exist_ok=True)
    write_grid(out / RESULTS, results)
    write_report(out, results)
    _show(results, out)


def _show(results: GridResults, folder: Path) -> None:
    for table in tables(results):
        typer.echo(f"\n{table.text()}", nl=False)
    typer.echo(
        f"\nThe results are {folder / RESULTS}; the report is {folder / REPORT} and, with charts, {folder / PAGE}"
    )


def _show_d4rl(results: D4RLResults, folder: Path) -> None:
    for table in d4rl_tables(results):
        typer.echo(f"\n{table.text()}", nl=False)
    curves = f"; the learning curves are {folder / CHART}" if (folder / CHART).is_file() else ""
    typer.echo(f"\nThe results are {folder / RESULTS}; the report is {folder / REPORT}{curves}")
