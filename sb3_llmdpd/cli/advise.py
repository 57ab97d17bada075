"""`sb3-llmdpd advise`: says from the data alone what can be learned of them, and how near a new task is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from sb3_llmdpd.benchmarks.common.ownership import owned
from sb3_llmdpd.cli import sources
from sb3_llmdpd.cli.model_options import model_arguments, with_model_options
from sb3_llmdpd.cli.options import check_device
from sb3_llmdpd.data.loading import FORMATS, format_of, load_dataset
from sb3_llmdpd.data.minari import local_ids
from sb3_llmdpd.validation.advice import NewLike
from sb3_llmdpd.validation.advice import advise as advise_on
from sb3_llmdpd.validation.advice_page import HTML, JSON, MARKDOWN, text, write_advice
from sb3_llmdpd.validation.folds import SETTINGS


@with_model_options
@sources.with_reading_options
def advise(
    ctx: typer.Context,
    dataset: Annotated[list[str], Option(help=sources.SOURCES_HELP)],
    new: Annotated[
        list[str] | None,
        Option(
            help="A new task: a source of one or more episodes of it, or its sentence, of two words or more."
            " May be given several times."
        ),
    ] = None,
    minutes: Annotated[float, Option(help="Budget of time for all trainings.", min=0.0)] = 10.0,
    out: Annotated[
        Path,
        Option(
            help=f"Folder of {MARKDOWN}, {HTML}, {JSON} and the trainings; a second call goes on there.",
            file_okay=False,
        ),
    ] = Path("runs/advise"),
    root: sources.Root = None,
    **options: Any,
) -> None:
    """Say what can be learned of data: short trainings leave tasks out, and no environment is needed.

    Tells how well each task is learned from the others and what its data lack, the prompt to use, episodes
    that disagree with their task, sentences that are too near, and what to expect of a new task. The
    trainings clone, unless --eta is given.
    """
    check_device(options["device"])
    settings = model_arguments(options)
    source = ctx.get_parameter_source("eta")
    if source is None or source.name == "DEFAULT":
        settings["eta"] = SETTINGS["eta"]
    how = {"root": root, **sources.how_to_read(options)}
    data = load_dataset(sources.source_names(dataset, root), **how)
    typer.echo(data.summary())
    asked = _new_tasks(new or (), how)
    with owned(out):
        advice = advise_on(data, minutes, asked, out, typer.echo, **settings)
        write_advice(out, advice)
    typer.echo(
        f"\n{text(advice)}\n\nThis page is {out / MARKDOWN} and {out / HTML}; its numbers are {out / JSON}"
    )


def _new_tasks(given: Sequence[str], how: dict[str, Any]) -> list[NewLike]:
    """Read sources, and take what has several words and is none for a sentence."""
    found: list[NewLike] = []
    root = how["root"]
    how = {**how, "task_texts": None}  # sentences for other data would be refused as unknown here
    for one in given:
        if _is_source(one, root):
            found.append(load_dataset(sources.source_names([one], root), **how))
        elif len(one.split()) > 1:
            found.append(one)
        else:
            raise ValueError(
                f"--new takes a source of episodes or a sentence of two words or more, and {one!r} is neither"
                " a file, a folder nor a local data set"
            )
    return found


def _is_source(name: str, root: Path | None) -> bool:
    kind, rest = format_of(name)
    if kind != "minari" or name.partition(":")[0] in FORMATS:
        return True
    return "*" in name or Path(rest).expanduser().exists() or name in local_ids(root)
