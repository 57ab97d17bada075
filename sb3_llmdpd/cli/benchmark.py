"""`sb3-llmdpd benchmark`: the tables of experiments, and their reports."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option, Typer

from sb3_llmdpd.benchmarks.common.evaluation_folder import evaluation_report
from sb3_llmdpd.benchmarks.common.report import Report
from sb3_llmdpd.benchmarks.common.trainings import SETTINGS
from sb3_llmdpd.benchmarks.common.variants import ENCODER, KEY_VARIANTS, VARIANTS, make_variants
from sb3_llmdpd.benchmarks.d4rl.benchmark import D4RLBenchmark
from sb3_llmdpd.benchmarks.d4rl.data import OTHER_DATA
from sb3_llmdpd.benchmarks.d4rl.report import d4rl_report
from sb3_llmdpd.benchmarks.d4rl.results import read_d4rl
from sb3_llmdpd.benchmarks.d4rl.settings import D4RL_VARIANTS, ROBOTS, D4RLSettings, make_d4rl_variants
from sb3_llmdpd.benchmarks.metaworld.benchmark import MetaworldBenchmark
from sb3_llmdpd.benchmarks.metaworld.pooled import pooled
from sb3_llmdpd.benchmarks.metaworld.report import metaworld_report
from sb3_llmdpd.benchmarks.metaworld.results import read_grid, write_grid
from sb3_llmdpd.benchmarks.metaworld.settings import DATA, GOALS, MetaworldSettings
from sb3_llmdpd.benchmarks.metaworld.splits import COMBINATIONS, SPLIT_NAMES
from sb3_llmdpd.cli.options import Processes, check_device, names
from sb3_llmdpd.cli.sources import SOURCES_HELP, Root, source_names
from sb3_llmdpd.evaluation.results import D4RL, EVALUATION, METAWORLD, RESULTS, kind_of, read_results

app = Typer(no_args_is_help=True, help="Run an experiment with all its variants, or write its report anew.")


def _evaluation(path: Path) -> Report:
    results, settings = read_results(path)
    model = settings.get("model")  # its file; of the quickstart, which makes it, its settings
    return evaluation_report(results, model if isinstance(model, str) else "")


_REPORTS: dict[str, Callable[[Path], Report]] = {
    EVALUATION: _evaluation,
    METAWORLD: lambda path: metaworld_report(read_grid(path)),
    D4RL: lambda path: d4rl_report(read_d4rl(path)),
}
"""Makes the report of a results file, by the kind of its results."""


# The reference budgets stand in the settings and nowhere else.
_REFERENCE = MetaworldSettings.of_split("ml45")
_PUBLISHED = D4RLSettings()

Seeds = Annotated[int, Option(help="Trainings of each variant: seeds 0, 1, ...", min=1)]
Steps = Annotated[int, Option(help="Gradient steps of each training.")]
Out = Annotated[
    Path,
    Option(help="Folder of everything that it makes; a stopped benchmark goes on there.", file_okay=False),
]
Smoke = Annotated[bool, Option("--smoke", help="Walk the whole way in seconds, and learn nothing.")]


@app.command()
def metaworld(
    split: Annotated[
        str | None, Option(help=f"{SPLIT_NAMES}. Default ml45, or of goals told in words {COMBINATIONS}.")
    ] = None,
    unseen: Annotated[
        str | None, Option(help="With --split custom: tasks between commas to hold out of all others.")
    ] = None,
    goal: Annotated[
        str,
        Option(
            help=f"{' or '.join(GOALS)}; hidden, only an example of the same goal says where it is, and told,"
            " the sentence does, too."
        ),
    ] = _REFERENCE.goal,
    data: Annotated[
        str, Option(help=f"{' or '.join(DATA)}: action noise of 0.1, or from none to random actions.")
    ] = _REFERENCE.data,
    episodes: Annotated[int, Option(help="Training episodes a task.")] = _REFERENCE.n_episodes,
    seeds: Seeds = 3,
    variants: Annotated[
        str, Option(help=f"Variants between commas: all, or of {', '.join(VARIANTS)}, {ENCODER}<spec>.")
    ] = ",".join(KEY_VARIANTS),
    text_encoders: Annotated[
        str | None, Option(help="Specs of sentence encoders between commas, each for a variant of its own.")
    ] = None,
    steps: Steps = _REFERENCE.n_steps,
    unseen_episodes: Annotated[
        int, Option(help="Evaluation episodes of an unseen task, under each condition.")
    ] = _REFERENCE.n_unseen_episodes,
    seen_episodes: Annotated[
        int | None,
        Option(
            help="Evaluation episodes of a seen task, under each condition: 10, and 50 with a hidden goal."
        ),
    ] = None,
    max_steps: Annotated[
        int, Option(help="Steps after which an evaluated episode ends.")
    ] = _REFERENCE.max_episode_steps,
    stop_at_success: Annotated[
        bool,
        Option("--stop-at-success", help="End an episode at its first success: faster, and no full returns."),
    ] = False,
    out: Out = Path("runs/benchmark"),
    root: Annotated[
        Path | None,
        Option(help="Folder of the data sets, which several benchmarks may share; by default in --out."),
    ] = None,
    smoke: Smoke = False,
    processes: Processes = None,
) -> None:
    """Train the method, its ablations and its baselines on Meta-World, and measure all on tasks held out.

    Given again with the same --out it goes on where it was stopped, or adds variants and seeds.
    """
    out.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not be computed first
    asked = names(variants, "--variants")
    if text_encoders is not None:
        asked += [ENCODER + spec for spec in names(text_encoders, "--text-encoders")]
    made = make_variants(asked)
    budget: dict[str, Any] = {"n_episodes": episodes, "n_steps": steps, "max_episode_steps": max_steps}
    budget |= {"stop_at_success": stop_at_success, "n_unseen_episodes": unseen_episodes}
    if seen_episodes is not None:
        budget["n_seen_episodes"] = seen_episodes
    held_out = None if unseen is None else names(unseen, "--unseen")
    split = split or (COMBINATIONS if goal == "told" else "ml45")
    settings = MetaworldSettings.of_split(split, held_out, goal=goal, data=data, **budget)
    settings = settings.smoke() if smoke else settings
    metaworld_report(MetaworldBenchmark(out, settings, made, range(seeds), root, processes).run()).show(out)


@app.command()
def d4rl(
    dataset: Annotated[
        list[str],
        Option(
            help=f"Data set of {', '.join(ROBOTS)}, which its name says. {SOURCES_HELP} Published ones:"
            f" minari download mujoco/hopper/medium-v0. {OTHER_DATA}.",
            show_default=False,
        ),
    ],
    seeds: Seeds = 3,
    steps: Steps = _PUBLISHED.n_steps,
    eval_freq: Annotated[int, Option(help="Gradient steps between two evaluations.")] = _PUBLISHED.eval_freq,
    eval_episodes: Annotated[
        int,
        Option(help="Episodes of each; an action of 50 candidates takes some ten times as long as one of 1."),
    ] = _PUBLISHED.n_eval_episodes,
    variants: Annotated[
        str, Option(help=f"Variants between commas: all, or of {', '.join(D4RL_VARIANTS)}.")
    ] = ",".join(D4RL_VARIANTS),
    text_encoder: Annotated[
        str, Option(help="Spec of the language model that reads the sentence.")
    ] = _PUBLISHED.model["text_encoder"],
    env: Annotated[
        str | None,
        Option(
            help=f"Environment that evaluates, default {', '.join(each.env_id for each in ROBOTS.values())}."
            " Walker2d-v4 has the feet of D4RL's own walker."
        ),
    ] = None,
    out: Out = Path("runs/d4rl"),
    root: Root = None,
    smoke: Smoke = False,
    device: Annotated[str, Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Train on D4RL's locomotion as Diffusion-QL was trained, with and without a prompt, and report scores.

    Of each training, the last model and the best by evaluation are reported. Nine data sets with three
    variants and three seeds are 81 trainings of two million steps: begin with fewer. Given again with the
    same --out it goes on where it was stopped, or adds data sets, variants and seeds.
    """
    check_device(device)
    made = make_d4rl_variants(names(variants, "--variants"))
    budget = D4RLSettings(n_steps=steps, eval_freq=eval_freq, n_eval_episodes=eval_episodes)
    budget = budget.reading(text_encoder)
    sources = source_names(dataset, root)
    settings = budget.smoke() if smoke else budget
    d4rl_report(D4RLBenchmark(out, settings, sources, made, range(seeds), env, root, device).run()).show(out)


@app.command()
def report(
    folders: Annotated[
        list[Path],
        Argument(
            help="Folder of a results.json; several on Meta-World with other hold-outs are read as one.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        Option(
            help="Of several folders: where what they make together is written.",
            show_default=False,
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Write the reports of an earlier benchmark or evaluation anew, from its results.json alone."""
    for folder in folders:
        if not (folder / RESULTS).is_file():
            raise ValueError(f"{folder} holds no {RESULTS}: name the folder of a benchmark or an evaluation")
    if len(folders) > 1 or out is not None:
        out = _pool(folders, out)
    folder = folders[0] if out is None else out
    path = folder / RESULTS
    made = _REPORTS[kind_of(path)](path)
    made.write(folder)
    made.show(folder)


def _pool(folders: list[Path], out: Path | None) -> Path:
    """Write the results of several folders into one file, as those of one benchmark."""
    if out is None or len(folders) == 1:
        given = f"{len(folders)} folder{'s' if len(folders) > 1 else ''}"
        raise ValueError(
            "several folders are read as one benchmark, whose report goes to --out; got"
            f" {given}{' and no --out' if out is None else ''}"
        )
    if (out / SETTINGS).exists():
        raise ValueError(
            f"{out} is the folder of a benchmark, whose results stay as they are: give another --out"
        )
    for folder in folders:
        if (kind := kind_of(folder / RESULTS)) != METAWORLD:
            raise ValueError(f"{folder} has results of kind {kind!r}, whose reports are made one at a time")
    results = pooled([read_grid(folder / RESULTS) for folder in folders])
    out.mkdir(parents=True, exist_ok=True)
    write_grid(out / RESULTS, results)
    return out
