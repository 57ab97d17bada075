"""`sb3-llmdpd export`: writes the acting network as a program that runs without this package."""

from pathlib import Path
from typing import Annotated

import typer

from sb3_llmdpd.cli.options import TrustEncoder
from sb3_llmdpd.cli.sources import SOURCES_HELP, Root, source_names
from sb3_llmdpd.data.examples import examples_of
from sb3_llmdpd.llmdpd.export import write_vectors
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

_FORMATS = ("pt2", "onnx")


def export(
    model: Annotated[Path, typer.Option(help="Model file.")],
    out: Annotated[Path, typer.Option(help="The program, an .onnx or a .pt2.")] = Path("policy"),
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format", help="pt2, for torch.export.load, or onnx; by default what --out ends in, else pt2."
        ),
    ] = None,
    task_text: Annotated[
        str | None,
        typer.Option(
            help="Sentence of the one task that the program does; without a sentence and an example, the"
            " prompt is an input."
        ),
    ] = None,
    example: Annotated[
        list[str] | None, typer.Option(help=f"Examples of that task, or one. {SOURCES_HELP}")
    ] = None,
    example_task: Annotated[
        str | None, typer.Option(help="Their task, where the source has several.")
    ] = None,
    n_examples: Annotated[
        int | None, typer.Option(help="Examples, the first of the source; by default all.", min=1)
    ] = None,
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help="Let the program take noise, and act with it.")
    ] = False,
    vectors: Annotated[
        Path | None,
        typer.Option(help="An .npz for the vectors of the known sentences, to tell the program what to do."),
    ] = None,
    sentence: Annotated[
        list[str] | None,
        typer.Option(help="Another sentence whose vector goes there. May be given several times."),
    ] = None,
    device: Annotated[str, typer.Option(help="Device that a pt2 is for; torch's names.")] = "cpu",
    root: Root = None,
    trust_encoder: TrustEncoder = False,
) -> None:
    """Write what a model does as a program for PyTorch or an ONNX runtime alone."""
    place = _with_suffix(out, format_name)
    if sentence and vectors is None:
        raise ValueError("--sentence needs --vectors, the file that its vector goes to")
    shown = None
    if example:
        shown = examples_of(source_names(example, root), n_examples, task=example_task, root=root)
    elif n_examples is not None or example_task is not None:
        raise ValueError("--n-examples and --example-task need --example, where the examples are")
    loaded = LLMDPD.load(model, device=device, trust_encoder=trust_encoder)
    if vectors is not None:
        if loaded.text_table is None:
            raise ValueError(f"{model} was trained without sentences, so --vectors has nothing to write")
        typer.echo(f"The vectors are {write_vectors(loaded, vectors, sentence or [])}")
    is_told = task_text is not None or shown is not None
    path = loaded.export(
        place, task_text, trajectories=shown, deterministic=not stochastic, prompt_as_input=not is_told
    )
    takes = "observations" if is_told else "observations and a prompt"
    typer.echo(f"The program is {path}. It takes {takes}")


def _with_suffix(out: Path, format_name: str | None) -> Path:
    """Add the format to a path without a suffix, and refuse a format that the suffix is none of."""
    if format_name is None:
        if out.suffix and out.suffix[1:] not in _FORMATS:
            raise ValueError(f"--out ends in .pt2 or .onnx, or --format says which; got {str(out)!r}")
        return out
    if format_name not in _FORMATS:
        raise ValueError(f"--format must be one of {', '.join(_FORMATS)}, got {format_name!r}")
    if out.suffix and out.suffix != f".{format_name}":
        raise ValueError(f"--out is {str(out)!r}, and --format {format_name}: leave one of them out")
    return out.with_suffix(f".{format_name}")
