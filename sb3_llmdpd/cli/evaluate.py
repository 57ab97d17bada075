"""`sb3-llmdpd evaluate`: measures a model on Meta-World."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from sb3_llmdpd.benchmarks.common.evaluation_folder import evaluate_into
from sb3_llmdpd.benchmarks.common.report import show_tables
from sb3_llmdpd.benchmarks.metaworld.examples import N_EPISODES, N_EXAMPLES, example_episodes
from sb3_llmdpd.cli.options import Processes, TrustEncoder, names
from sb3_llmdpd.cli.sources import Root
from sb3_llmdpd.data.metaworld.envs import HORIZON, MetaWorldEnv
from sb3_llmdpd.data.metaworld.tasks import SPLITS, TASKS, by_need_of_goal, task_info
from sb3_llmdpd.diffusion.process import SAMPLERS
from sb3_llmdpd.evaluation.conditions import CONDITIONS, CONTROLS, make_cells, shared_scene_cells
from sb3_llmdpd.evaluation.report import tables
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

_UNSEEN, _OUT = ",".join(SPLITS["ml45"][1]), Path("runs/evaluate")


def evaluate(
    model: Annotated[Path, Option(help="Model file.")],
    tasks: Annotated[str | None, Option(help="Tasks between commas; by default those of --unseen.")] = None,
    unseen: Annotated[str, Option(help="Tasks between commas that training held out.")] = _UNSEEN,
    conditions: Annotated[
        str,
        Option(
            help=f"Of these, {', '.join(CONTROLS)}, and told:<task>, its sentence everywhere; between commas."
        ),
    ] = ",".join(CONDITIONS),
    shared_scenes: Annotated[
        bool,
        Option(
            "--shared-scenes", help="Also play scenes in which only the sentence says which task is meant."
        ),
    ] = False,
    episodes: Annotated[int, Option(help="Episodes of each task under each condition.")] = N_EPISODES,
    examples: Annotated[
        int | None,
        Option(
            help="Examples a task, recorded if need be; by default 5, and with --hide-goal one an episode."
        ),
    ] = None,
    max_steps: Annotated[int, Option(help="Steps after which an episode ends.")] = HORIZON,
    stop_at_success: Annotated[
        bool, Option("--stop-at-success", help="End an episode at its first success.")
    ] = False,
    stochastic: Annotated[bool, Option("--stochastic", help="Let the policy act with noise.")] = False,
    sampler: Annotated[
        str | None,
        Option(help=f"Way from noise to actions: {', '.join(SAMPLERS)}; by default the model's own."),
    ] = None,
    sampling_steps: Annotated[
        int | None, Option(help="Steps of that way, with --sampler; by default all that the model learned.")
    ] = None,
    hide_goal: Annotated[
        bool,
        Option(
            "--hide-goal",
            help="Leave the goal out of the observations; the example then has the scene's goal, placed anew."
            " Tasks whose goal is a part of their object, or hardly moves, are left out.",
        ),
    ] = False,
    phases: Annotated[
        bool, Option("--phases", help="Report how far the episodes came: reach, grasp, lift, move, place.")
    ] = False,
    seed: Annotated[int, Option(help="Of the episodes and the examples.")] = 0,
    out: Annotated[
        Path, Option(help="Folder of results.json, results.md and success.png.", file_okay=False)
    ] = _OUT,
    root: Root = None,
    trust_encoder: TrustEncoder = False,
    processes: Processes = None,
    n_envs: Annotated[int, Option(help="Episodes that a process runs at a time.")] = 10,
) -> None:
    """Measure a model on Meta-World's tasks beside its controls: no prompt, the wrong one, and the expert."""
    out.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not be computed first
    if sampler is None and sampling_steps is not None:
        raise ValueError("--sampling-steps needs --sampler: fewer steps are taken by ddim or dpm_solver++")
    chain: dict[str, Any] = {"sampler": sampler, "n_sampling_steps": sampling_steps} if sampler else {}
    loaded = LLMDPD.load(model, device="cpu", trust_encoder=trust_encoder, **chain)
    held_out = [task_info(task).name for task in names(unseen, "--unseen")]
    chosen = held_out if tasks is None else [task_info(task).name for task in names(tasks, "--tasks")]
    if hide_goal:
        chosen = _with_goal_to_tell(chosen)
    told = names(conditions, "--conditions")
    if "antonym" in told and (without := [task for task in chosen if task_info(task).opposite is None]):
        typer.echo(f"No task is the opposite of {', '.join(without)}: left out under the condition antonym")
    cells = make_cells(chosen, told, unseen=held_out, same_goal=hide_goal, seed=seed)
    if shared_scenes:
        cells += shared_scene_cells(goal_visible=not hide_goal, unseen=held_out)
    n_examples = (episodes if hide_goal else N_EXAMPLES) if examples is None else examples
    shown = {cell.condition.trajectory_of for cell in cells} | {cell.task for cell in cells if cell.same_goal}
    prompts = example_episodes(
        sorted(task for task in shown if task is not None),
        n_examples,
        goal_visible=not hide_goal,
        seed=seed,
        n_processes=processes,
        root=root,
    )
    arguments = {"n_episodes": episodes, "max_episode_steps": max_steps, "stop_at_success": stop_at_success}
    arguments |= {"deterministic": not stochastic, "phases": phases, "seed": seed, "n_envs": n_envs}
    decided = {"model": str(model), "tasks": chosen, "unseen": held_out, "examples": n_examples}
    results = evaluate_into(
        out,
        loaded,
        cells,
        {**decided, "hide_goal": hide_goal, **chain, **arguments},
        examples=prompts,
        make_env=partial(MetaWorldEnv, goal_visible=not hide_goal),
        n_processes=processes,
        **arguments,
    )
    show_tables(tables(results))
    typer.echo(f"\nThe results are in {out}")


def _with_goal_to_tell(tasks: list[str]) -> list[str]:
    kept, left_out = by_need_of_goal(tasks)
    if left_out:
        typer.echo(
            f"In {', '.join(left_out)} the goal is a part of the object, or hardly moves: hidden, it would"
            " still be known. Left out"
        )
    if not kept:
        raise ValueError(
            "--hide-goal leaves none of the tasks: name some whose goal is not known without it, such as"
            f" {', '.join(by_need_of_goal(list(TASKS))[0][:3])}"
        )
    return kept
