"""`sb3-llmdpd evaluate`: measures a model on Meta-World, or in an environment of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from sb3_llmdpd.benchmarks.common.evaluation_folder import UNFINISHED, evaluate_into
from sb3_llmdpd.benchmarks.common.report import show_tables
from sb3_llmdpd.benchmarks.metaworld.examples import N_EPISODES, N_EXAMPLES, example_episodes
from sb3_llmdpd.cli import ground as of
from sb3_llmdpd.cli.options import Processes, TrustEncoder, names
from sb3_llmdpd.cli.sources import Root, with_reading_options
from sb3_llmdpd.common.files import digest_of
from sb3_llmdpd.data.metaworld.tasks import SPLITS, TASKS, by_need_of_goal, task_info
from sb3_llmdpd.diffusion.flow import FLOW_SAMPLER
from sb3_llmdpd.diffusion.process import SAMPLERS
from sb3_llmdpd.evaluation.conditions import (
    CONDITIONS,
    CONTROLS,
    Cell,
    default_conditions,
    make_cells,
    shared_scene_cells,
    wrong_as_far_as_known,
)
from sb3_llmdpd.evaluation.metaworld_suite import MetaWorldSuite
from sb3_llmdpd.evaluation.report import tables
from sb3_llmdpd.evaluation.suite import time_limit
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

_UNSEEN, _NONE = SPLITS["ml45"][1], "none"


@with_reading_options
def evaluate(
    model: Annotated[Path, Option(help="Model file.")],
    env: of.Env = None,
    env_kwargs: of.EnvKwargs = None,
    tasks: Annotated[
        str | None,
        Option(
            help="Tasks between commas; by default those of --unseen, and with --env those of --examples, or"
            " else of --task-texts."
        ),
    ] = None,
    unseen: Annotated[
        str | None,
        Option(
            help=f"Tasks between commas that training held out, or {_NONE}; for Meta-World by default"
            f" {','.join(_UNSEEN)}."
        ),
    ] = None,
    conditions: Annotated[
        str | None,
        Option(
            help=f"Of {', '.join((*CONDITIONS, *CONTROLS))}, and told:<task>, its sentence everywhere;"
            f" between commas. By default those of the first {len(CONDITIONS)} that can be."
        ),
    ] = None,
    shared_scenes: Annotated[
        bool,
        Option(
            "--shared-scenes", help="Also play scenes in which only the sentence says which task is meant."
        ),
    ] = False,
    episodes: Annotated[int, Option(help="Episodes of each task under each condition.")] = N_EPISODES,
    examples: of.ExamplesOption = None,
    max_steps: of.MaxSteps = None,
    stop_at_success: Annotated[
        bool, Option("--stop-at-success", help="End an episode at its first success.")
    ] = False,
    stochastic: Annotated[bool, Option("--stochastic", help="Let the policy act with noise.")] = False,
    sampler: Annotated[
        str | None,
        Option(
            help=f"Way from noise to actions: {', '.join((*SAMPLERS, FLOW_SAMPLER))}; by default the"
            " model's own."
        ),
    ] = None,
    sampling_steps: Annotated[
        int | None, Option(help="Steps of that way; by default the model's own number.")
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
        Path,
        Option(
            help="Folder of results.json, results.md and success.png, or returns.png without successes.",
            file_okay=False,
        ),
    ] = Path("runs/evaluate"),
    resume: Annotated[
        bool, Option("--resume", help="Go on with the same evaluation where it was stopped in --out.")
    ] = False,
    root: Root = None,
    trust_encoder: TrustEncoder = False,
    processes: Processes = None,
    n_envs: Annotated[int, Option(help="Episodes that a process runs at a time.")] = 10,
    **reading: Any,
) -> None:
    """Measure a model beside its controls: no prompt, the wrong one, and the expert.

    It plays Meta-World's tasks, or those of any Gymnasium environment that has the model's spaces.
    """
    out.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not be computed first
    of.refuse_beside_env(env, env_kwargs, hide_goal=hide_goal, shared_scenes=shared_scenes, phases=phases)
    chain: dict[str, Any] = {"sampler": sampler} if sampler else {}
    if sampler or sampling_steps is not None:  # with another sampler, the number in the file is not its own
        chain["n_sampling_steps"] = sampling_steps
    loaded = LLMDPD.load(model, device="cpu", trust_encoder=trust_encoder, **chain)
    shown = of.read_shown(examples, root, reading)
    named = None if tasks is None else names(tasks, "--tasks")
    held_out = _held_out(unseen)
    if env is None:
        ground, held_out = _metaworld(named, held_out, shown, hide_goal)
    else:
        ground = of.own_environment(env, env_kwargs, max_steps, named, shown, loaded)
        of.check_known(held_out or [], list(dict.fromkeys([*ground.tasks, *shown.texts])), "--unseen")
    ground.checked(loaded)
    told = None if conditions is None else names(conditions, "--conditions")
    cells = _cells(ground, told, loaded, unseen=held_out, same_goal=hide_goal, seed=seed)
    if shared_scenes:
        cells += shared_scene_cells(goal_visible=not hide_goal, unseen=held_out)
    arguments = {"n_episodes": episodes, "stop_at_success": stop_at_success}
    arguments |= {"max_episode_steps": max_steps or time_limit(ground.facts, ground.suite.max_episode_steps)}
    arguments |= {"deterministic": not stochastic, "phases": phases, "seed": seed, "n_envs": n_envs}
    n_examples = shown.number
    if n_examples is None:
        n_examples = episodes if hide_goal else N_EXAMPLES
    how: dict[str, Any] = {
        "goal_visible": not hide_goal,
        "seed": seed,
        "n_processes": processes,
        "root": root,
    }
    to_show = ground.examples
    if to_show is None:
        to_show = example_episodes(_shown_tasks(cells), n_examples, **how)
    if (out / UNFINISHED).is_file() and not resume:
        typer.echo(f"{out} holds a stopped evaluation, which is begun anew; with --resume it goes on")
    results = evaluate_into(
        out,
        loaded,
        cells,
        {
            "model": str(model),
            "model_digest": digest_of(loaded.last_saved or model),
            "texts": ground.told(),
            "env": env,
            "env_kwargs": env_kwargs,
            "tasks": list(ground.tasks),
            "unseen": held_out,
            "examples": n_examples if ground.examples is None else examples,
            "hide_goal": hide_goal,
            **chain,
            **arguments,
        },
        suite=ground.suite,
        texts=ground.texts,
        examples=to_show,
        n_processes=processes,
        resume=resume,
        **arguments,
    )
    show_tables(tables(results))
    typer.echo(f"\nThe results are in {out}")


def _held_out(unseen: str | None) -> list[str] | None:
    if unseen is None:
        return None
    return [] if unseen.strip() == _NONE else names(unseen, "--unseen")


def _metaworld(
    tasks: Sequence[str] | None, unseen: Sequence[str] | None, shown: of.Shown, hide_goal: bool
) -> tuple[of.Ground, list[str]]:
    """Prepare Meta-World, and name the tasks that training held out."""
    held_out = [task_info(task).name for task in (_UNSEEN if unseen is None else unseen)]
    chosen = held_out if tasks is None else [task_info(task).name for task in tasks]
    if hide_goal:
        chosen = _with_goal_to_tell(chosen)
    texts = {task: said[0] for task, said in shown.texts.items()}
    return of.Ground(MetaWorldSuite(not hide_goal), chosen, shown.examples, texts), held_out


def _cells(
    ground: of.Ground, conditions: Sequence[str] | None, model: LLMDPD, **arguments: Any
) -> list[Cell]:
    """Make the cells of the conditions that were asked for, or by default of those that can be."""
    suite, possible = ground.suite, ground.possible(model)
    told = default_conditions(len(ground.tasks), **possible) if conditions is None else list(conditions)
    if "antonym" in told and (without := [task for task in ground.tasks if suite.opposite(task) is None]):
        typer.echo(f"No task is the opposite of {', '.join(without)}: left out under the condition antonym")
    if "expert" in told and not possible["expert"]:
        raise ValueError(
            "the condition 'expert' needs an environment with a method `expert_action(observation)`: leave it"
            " out, or write one"
        )
    cells = make_cells(ground.tasks, told, suite=suite, **arguments)
    return wrong_as_far_as_known(cells, texts=possible["texts"], examples=possible["examples"])


def _shown_tasks(cells: Sequence[Cell]) -> list[str]:
    """Name the tasks whose examples are needed."""
    shown = {cell.condition.trajectory_of for cell in cells} | {cell.task for cell in cells if cell.same_goal}
    return sorted(task for task in shown if task is not None)


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
