"""`sb3-llmdpd collect`: records data sets."""

from pathlib import Path
from typing import Annotated

import typer

from sb3_llmdpd.cli.next_command import training_command
from sb3_llmdpd.cli.options import Processes, names, numbers
from sb3_llmdpd.data.episodes import STEPS_AFTER_SUCCESS
from sb3_llmdpd.data.metaworld.collection import collect, collected_success
from sb3_llmdpd.data.metaworld.tasks import split
from sb3_llmdpd.data.minari import datasets_root, load_minari

app = typer.Typer(no_args_is_help=True, help="Record data sets.")


@app.command("metaworld")
def metaworld(
    tasks: Annotated[str | None, typer.Option(help="Tasks between commas, instead of a split's.")] = None,
    split_name: Annotated[
        str, typer.Option("--split", help="ml45 or ml10: its training tasks are recorded.")
    ] = "ml45",
    unseen: Annotated[
        str | None, typer.Option(help="Tasks to hold out, instead of the split's; all others are recorded.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes a task, failed ones included.")] = 10,
    noise: Annotated[
        str, typer.Option(help="Standard deviations of action noise between commas; episodes take turns.")
    ] = "0.1",
    episodes_per_goal: Annotated[int, typer.Option(help="Consecutive episodes that share their goal.")] = 1,
    steps_after_success: Annotated[
        int, typer.Option(help="Steps recorded after the first success; 500 record episodes to their ends.")
    ] = STEPS_AFTER_SUCCESS,
    hide_goal: Annotated[
        bool, typer.Option("--hide-goal", help="Keep the goal out of observations.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--root",
            help="Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets.",
            file_okay=False,
        ),
    ] = None,
    processes: Processes = None,
) -> None:
    """Record Meta-World's scripted experts as Minari data sets, one a task, with the task's sentences in it.

    An existing data set of the same recipe is kept: run a stopped collection again to go on with it.
    """
    if tasks is not None and unseen is not None:
        raise ValueError("give either --tasks or --unseen, not both")
    held_out = None if unseen is None else names(unseen, "--unseen")
    ids = collect(
        split(split_name, held_out)[0] if tasks is None else names(tasks, "--tasks"),
        n_episodes=episodes,
        noise=numbers(noise, "--noise"),
        episodes_per_goal=episodes_per_goal,
        goal_visible=not hide_goal,
        steps_after_success=steps_after_success,
        seed=seed,
        n_processes=processes,
        root=out,
    )
    for dataset_id, rate in zip(ids, collected_success(ids, out).values(), strict=True):
        typer.echo(f"{dataset_id}  the expert succeeded in {rate:.0%}")
    typer.echo(f"Together {load_minari(ids, root=out).summary()}")
    next_one = training_command("metaworld/*", out, Path("runs/mine"))
    typer.echo(f"{len(ids)} data sets in {datasets_root(out)}. Next: {next_one}")
