"""`sb3-llmdpd film`: shows what a model does."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sb3_llmdpd.benchmarks.common.variants import BOTH, EXAMPLE, NOTHING, TEXT
from sb3_llmdpd.benchmarks.metaworld import examples as recorded
from sb3_llmdpd.cli import ground as of
from sb3_llmdpd.cli.options import TrustEncoder
from sb3_llmdpd.cli.sources import Root, with_reading_options
from sb3_llmdpd.data.metaworld.tasks import task_info
from sb3_llmdpd.evaluation.conditions import default_conditions, make_cells
from sb3_llmdpd.evaluation.metaworld_suite import MetaWorldSuite
from sb3_llmdpd.evaluation.rollouts import Rollout
from sb3_llmdpd.evaluation.tasks import goals_of, prompts_of
from sb3_llmdpd.evaluation.video import check_film, film_episodes
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

_CONDITIONS = (BOTH, TEXT, EXAMPLE, NOTHING)


@with_reading_options
def film(
    model: Annotated[Path, typer.Option(help="Model file.")],
    task: Annotated[str, typer.Option(help="Task whose scene is played.")],
    env: of.Env = None,
    env_kwargs: of.EnvKwargs = None,
    condition: Annotated[
        str | None,
        typer.Option(
            help=f"What the model is told: {', '.join(_CONDITIONS)}; by default the first that can be."
        ),
    ] = None,
    examples: of.ExamplesOption = None,
    n_episodes: Annotated[
        int, typer.Option("--episodes", help="Episodes, side by side, of this seed and the next ones.", min=1)
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of example and scene, as in results.json.")] = 0,
    hide_goal: Annotated[
        bool, typer.Option("--hide-goal", help="Keep the goal out of observations; it is the example's.")
    ] = False,
    max_steps: of.MaxSteps = None,
    out: Annotated[Path, typer.Option(help="An .mp4, or a .png with eight frames.")] = Path("film.mp4"),
    root: Root = None,
    trust_encoder: TrustEncoder = False,
    **reading: Any,
) -> None:
    """Film a model in episodes of one of Meta-World's tasks, or of one in an environment of your own."""
    check_film(out)
    if condition not in (None, *_CONDITIONS):
        raise ValueError(f"--condition takes one of {', '.join(_CONDITIONS)}; got {condition!r}")
    of.refuse_beside_env(env, env_kwargs, hide_goal=hide_goal)
    name = task if env is not None else task_info(task).name
    loaded = LLMDPD.load(model, device="cpu", trust_encoder=trust_encoder)
    shown = of.read_shown(examples, root, reading)
    if env is None:
        texts = {name: said[0] for name, said in shown.texts.items()}
        ground = of.Ground(MetaWorldSuite(not hide_goal), [name], shown.examples, texts)
    else:
        ground = of.own_environment(env, env_kwargs, max_steps, [name], shown, loaded)
    ground.checked(loaded)
    told = condition or default_conditions(1, **ground.possible(loaded))[0]
    (cell,) = make_cells([name], [told], same_goal=hide_goal, suite=ground.suite)
    episodes, example_seeds = ground.examples, [0]  # where a scene is always the same, any seed will do
    if episodes is None:
        default = recorded.N_EPISODES if hide_goal else recorded.N_EXAMPLES
        number = default if shown.number is None else shown.number  # as `evaluate`: one data set serves both
        example_seeds = recorded.example_seeds(name, number)
        episodes = recorded.example_episodes(
            [name] if cell.same_goal or cell.condition.trajectory_of is not None else [],
            number,
            goal_visible=not hide_goal,
            root=root,
            n_processes=1,
        )
    rollouts = film_episodes(
        out,
        model,
        name,
        prompts_of(cell.condition, episodes, ground.texts, n_episodes, suite=ground.suite),
        range(seed, seed + n_episodes),
        goals=goals_of(cell, episodes, n_episodes),
        suite=ground.suite,
        max_episode_steps=max_steps,
        trust_encoder=trust_encoder,
        example_seeds=example_seeds,
    )
    for rollout in rollouts:
        typer.echo(f"{out}: {rollout.length} steps, {_outcome(rollout)}")


def _outcome(rollout: Rollout) -> str:
    if not rollout.judged:
        return f"a return of {rollout.total_reward:.4g}"
    first = rollout.first_success
    return "no success" if first is None else f"success at step {first + 1}"
