"""`sb3-llmdpd film`: shows what a model does in one episode of Meta-World."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sb3_llmdpd.benchmarks.common.variants import BOTH, EXAMPLE, NOTHING, TEXT
from sb3_llmdpd.benchmarks.metaworld import examples
from sb3_llmdpd.cli.options import TrustEncoder
from sb3_llmdpd.cli.sources import Root
from sb3_llmdpd.data.metaworld.envs import HORIZON, MetaWorldEnv
from sb3_llmdpd.data.metaworld.tasks import task_info
from sb3_llmdpd.evaluation.conditions import make_cells
from sb3_llmdpd.evaluation.tasks import goals_of, prompts_of
from sb3_llmdpd.evaluation.video import check_film, film_episode

_CONDITIONS = (BOTH, TEXT, EXAMPLE, NOTHING)


def film(
    model: Annotated[Path, typer.Option(help="Model file.")],
    task: Annotated[str, typer.Option(help="Task whose scene is played.")],
    condition: Annotated[
        str, typer.Option(help=f"What the model is told: {', '.join(_CONDITIONS)}.")
    ] = _CONDITIONS[0],
    seed: Annotated[int, typer.Option(help="Seed of example and scene, as in results.json.")] = 0,
    hide_goal: Annotated[
        bool, typer.Option("--hide-goal", help="Keep the goal out of observations; it is the example's.")
    ] = False,
    max_steps: Annotated[int, typer.Option(help="Steps after which the episode ends.")] = HORIZON,
    out: Annotated[Path, typer.Option(help="An .mp4, or a .png with eight frames.")] = Path("film.mp4"),
    root: Root = None,
    trust_encoder: TrustEncoder = False,
) -> None:
    """Film a model in one episode of one of Meta-World's tasks."""
    check_film(out)
    name = task_info(task).name
    if condition not in _CONDITIONS:
        raise ValueError(f"--condition takes one of {', '.join(_CONDITIONS)}; got {condition!r}")
    (cell,) = make_cells([name], [condition], same_goal=hide_goal)
    shown = examples.example_episodes(
        [name] if cell.same_goal or cell.condition.trajectory_of is not None else [],
        examples.N_EPISODES if hide_goal else examples.N_EXAMPLES,  # as `evaluate`: one data set serves both
        goal_visible=not hide_goal,
        root=root,
        n_processes=1,
    )
    (prompt,) = prompts_of(cell.condition, shown, {}, 1)
    (goal,) = goals_of(cell, shown, 1)
    rollout = film_episode(
        out,
        model,
        name,
        prompt,
        seed,
        goal=goal,
        make_env=partial(MetaWorldEnv, goal_visible=not hide_goal, render_mode="rgb_array"),
        max_episode_steps=max_steps,
        trust_encoder=trust_encoder,
    )
    first = rollout.first_success
    success = "no success" if first is None else f"success at step {first + 1}"
    typer.echo(f"{out}: {rollout.length} steps, {success}")
