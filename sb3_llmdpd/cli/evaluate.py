"""`sb3-llmdpd evaluate`: measures a model on Meta-World."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sb3_llmdpd.benchmarks.runs import evaluate_into, example_episodes, show_tables
from sb3_llmdpd.cli.options import names
from sb3_llmdpd.data.metaworld.envs import HORIZON, MetaWorldEnv
from sb3_llmdpd.data.metaworld.tasks import SPLITS, task_info
from sb3_llmdpd.evaluation.conditions import CONDITIONS, make_cells
from sb3_llmdpd.llmdpd import LLMDPD


def evaluate(
    model: Annotated[Path, typer.Option(help="Model file.")],
    tasks: Annotated[str | None, typer.Option(help="Tasks between commas; by default those of --unseen.")] = None,
    unseen: Annotated[str, typer.Option(help="Tasks between commas that training held out.")] = ",".join(SPLITS["ml45"][1]),
    conditions: Annotated[
        str, typer.Option(help="Between commas, of these and told:<task>, which tells that task's sentence in all scenes.")
    ] = ",".join(CONDITIONS),
    episodes: Annotated[int, typer.Option(help="Episodes of each task under each condition.")] = 50,
    examples: Annotated[int, typer.Option(help="Example trajectories a task, recorded where they are not there yet.")] = 5,
    max_steps: Annotated[int, typer.Option(help="Steps after which an episode ends.")] = HORIZON,
    stop_at_success: Annotated[bool, typer.Option("--stop-at-success", help="End an episode at its first success.")] = False,
    stochastic: Annotated[bool, typer.Option("--stochastic", help="Let the policy act with noise.")] = False,
    hide_goal: Annotated[bool, typer.Option("--hide-goal", help="Leave the goal out of the observations.")] = False,
    seed: Annotated[int, typer.Option(help="Of the episodes and the examples.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of results.json, results.md and success.png.")] = Path("runs/evaluate"),
    root: Annotated[
        Path | None, typer.Option(help="Folder of the examples; by default $MINARI_DATASETS_PATH or ~/.minari/datasets.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="Processes; by default one a CPU core.")] = None,
    n_envs: Annotated[int, typer.Option(help="Episodes that a process runs at a time.")] = 10,
) -> None:
    """Measure a model on Meta-World's tasks beside its controls: no prompt, the wrong prompt, and the scripted expert."""
    out.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not be computed first
    loaded = LLMDPD.load(model, device="cpu")
    held_out = [task_info(task).name for task in names(unseen, "--unseen")]
    chosen = held_out if tasks is None else [task_info(task).name for task in names(tasks, "--tasks")]
    cells = make_cells(chosen, names(conditions, "--conditions"), unseen=held_out, seed=seed)
    shown = sorted({cell.condition.trajectory_of for cell in cells if cell.condition.trajectory_of is not None})
    prompts = example_episodes(shown, examples, goal_visible=not hide_goal, seed=seed, n_processes=processes, root=root)
    arguments = {
        "n_episodes": episodes,
        "max_episode_steps": max_steps,
        "stop_at_success": stop_at_success,
        "deterministic": not stochastic,
        "seed": seed,
        "n_envs": n_envs,
    }
    results = evaluate_into(
        out,
        loaded,
        cells,
        {"model": str(model), "tasks": chosen, "unseen": held_out, "examples": examples, "hide_goal": hide_goal, **arguments},
        examples=prompts,
        make_env=partial(MetaWorldEnv, goal_visible=not hide_goal),
        n_processes=processes,
        **arguments,
    )
    show_tables(results)
    typer.echo(f"\nThe results are in {out}")
