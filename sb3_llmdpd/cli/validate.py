"""`sb3-llmdpd validate`: measures a model on held-out episodes, without an environment."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from sb3_llmdpd.benchmarks.common.report import show_tables
from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.cli import held_out, sources
from sb3_llmdpd.cli.options import TrustEncoder, names
from sb3_llmdpd.cli.settings import FINGERPRINT
from sb3_llmdpd.cli.train import read_sources
from sb3_llmdpd.data.checks import listed
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.fingerprint import fingerprint
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.validation.critic import critic_sentence
from sb3_llmdpd.validation.errors import action_spread, measure
from sb3_llmdpd.validation.held_out import HeldOut
from sb3_llmdpd.validation.probes import N_EPISODES, make_probes
from sb3_llmdpd.validation.report import JSON, MARKDOWN, READING, tables, write_report

_OUT = Path("runs/validate")


@sources.with_reading_options
def validate(
    model: Annotated[Path, Option(help="Model file.")],
    dataset: Annotated[
        list[str] | None,
        Option(help=f"{sources.SOURCES_HELP} By default what the training of the model held out."),
    ] = None,
    unseen: Annotated[
        str | None,
        Option(
            help="Tasks between commas that the model was not trained on; by default those whose sentences it"
            " does not know."
        ),
    ] = None,
    episodes: Annotated[int, Option(help="Episodes of each task that are measured.", min=1)] = N_EPISODES,
    out: Annotated[Path, Option(help="Folder of validation.json and validation.md.")] = _OUT,
    root: sources.Root = None,
    trust_encoder: TrustEncoder = False,
    **reading: Any,
) -> None:
    """Measure how far a model's actions are from logged ones, for each prompt; no environment is needed."""
    out.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not be computed first
    loaded = LLMDPD.load(model, device="cpu", trust_encoder=trust_encoder)
    run = RunFolder(model.parent)
    if dataset:
        named = sources.source_names(dataset, root)
        data = load_dataset(named, root=root, **sources.how_to_read(reading))
        _refuse_training_data(run, data)
        parts = HeldOut(data, data, _unseen(loaded, data, unseen))
    else:
        named, parts = _held_out_by(run)
    texts, same_goal = loaded.text_encoder is not None, loaded.same_goal
    probes = make_probes(parts, episodes, reads_texts=texts, same_goal=same_goal)
    errors = measure(loaded, probes, action_spread(parts.training))
    notes = [critic_sentence(run.rows())] if loaded.eta > 0 else []
    settings = {"model": str(model), "dataset": named, "unseen": sorted(parts.unseen or ())}
    write_report(out, errors, {**settings, "episodes": episodes}, notes)
    show_tables(tables(errors))
    typer.echo("\n" + "\n".join([*notes, *READING]))
    typer.echo(f"\nThe results are {out / JSON} and {out / MARKDOWN}")


def _held_out_by(run: RunFolder) -> tuple[list[str], HeldOut]:
    """Part the data of a model's training once more."""
    if not run.is_begun:
        raise ValueError(
            f"there is no run.json beside the model in {run.path}, which says what was held out:"
            " with --dataset name episodes that the model was not trained on"
        )
    options = run.arguments()
    parts = held_out.parts(options, read_sources(options)) if options["command"] == "train" else None
    if parts is None:
        raise ValueError(
            f"the training in {run.path} held nothing out: with --dataset name episodes that the model was"
            " not trained on, or hold some out: sb3-llmdpd train --validation 0.1"
        )
    return options["dataset"], parts


def _refuse_training_data(run: RunFolder, data: OfflineDataset) -> None:
    if run.is_begun and run.arguments().get(FINGERPRINT) == fingerprint(data):
        raise ValueError(
            "the model was trained on these very data, where its error says nothing: leave out --dataset to"
            " measure what the training held out, or name other episodes"
        )


def _unseen(model: LLMDPD, data: OfflineDataset, given: str | None) -> frozenset[str] | None:
    """Name the tasks that the model did not learn from; None where nobody knows."""
    if given is not None:
        unseen = names(given, "--unseen")
        if unknown := [task for task in unseen if task not in data.tasks]:
            tasks = listed(data.tasks)
            raise ValueError(f"--unseen names {listed(unknown)}, and the tasks of the data are {tasks}")
        return frozenset(unseen)
    known = set(model.known_task_texts)
    if not known:
        return None
    seen = {episode.task for episode in data.episodes if known & set(episode.task_texts)}
    return frozenset(data.tasks) - seen
