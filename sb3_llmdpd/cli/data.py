"""`sb3-llmdpd data`: inspects data before anything is trained on them, and writes them in another format."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from gymnasium import Space, spaces

from sb3_llmdpd.cli import sources
from sb3_llmdpd.cli.next_command import command, free_folder
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.data.episode_source import EpisodeSource, joint_spaces, refuse_unknown_texts
from sb3_llmdpd.data.episodes import Episode, Tally
from sb3_llmdpd.data.loading import open_sources
from sb3_llmdpd.inspection.findings import findings
from sb3_llmdpd.inspection.page import ROWS, page
from sb3_llmdpd.inspection.reading import inspect_sources

app = typer.Typer(no_args_is_help=True, help="Look at data, or write them in another format.")

TARGETS = ("minari", "npz", "lerobot")

Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE", help=sources.SOURCES_HELP, show_default=False)
]


@app.command("inspect")
@sources.with_reading_options
def inspect(
    given: Sources,
    root: sources.Root = None,
    text_encoder: Annotated[
        str,
        typer.Option(help="Language model that looks for nearly identical sentences; none for no search."),
    ] = "minilm",
    everything: Annotated[bool, typer.Option("--all", help="Show all tasks and all entries.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="File to write the numbers to.")] = None,
    **reading: Any,
) -> None:
    """Print what data hold and what to mend before training; a bad episode is counted and stops nothing."""
    unopened, how = list[str](), sources.how_to_read(reading)
    opened = open_sources(sources.source_names(given, root), root=root, unopened=unopened, **how)
    found = inspect_sources(opened, None if text_encoder == "none" else text_encoder, unopened=unopened)
    if not unopened:
        refuse_unknown_texts(opened, [task.name for task in found.tasks])
    typer.echo(page(found, None if everything else ROWS))
    if json_path is not None:
        document = found.as_json() | {"findings": [vars(finding) for finding in findings(found)]}
        with whole_file(json_path) as temporary:
            temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        typer.echo(f"\nThe numbers are in {json_path}")


@app.command("convert")
@sources.with_reading_options
def convert(
    given: Sources,
    to: Annotated[str, typer.Option(help=f"Format: {' or '.join(TARGETS)}.")],
    out: Annotated[str, typer.Option(help="Minari id, path of the .npz file, or the folder of LeRobot.")],
    root: sources.Root = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing .npz file.")] = False,
    **reading: Any,
) -> None:
    """Write data of any format as one Minari data set, LeRobot data set or .npz file, whole or not at all.

    The first two are written one episode at a time; an .npz file has to fit into memory.
    """
    _check_target(to, out, overwrite)
    names = sources.source_names(given, root)
    opened = open_sources(names, root=root, **sources.how_to_read(reading))
    observation_space, action_space = joint_spaces(opened)
    tally = Tally()
    episodes = _tallied(opened, tally)
    if to == "minari":
        from sb3_llmdpd.data.minari_writer import write_minari

        place = write_minari(out, episodes, observation_space, action_space, root=root)
    elif to == "lerobot":
        from sb3_llmdpd.data.lerobot_writer import write_lerobot

        place = write_lerobot(out, episodes, observation_space, action_space)
    else:
        from sb3_llmdpd.data.npz import write_npz

        write_npz(out, episodes, observation_space, action_space)
        place = Path(out)
    typer.echo(f"In {place}: {tally.summary()}")
    named = [out, "--root", root] if root is not None and to == "minari" else [out]
    train = ["train", "--dataset", *named, *_needed_by(tally, observation_space)]
    typer.echo(f"Next: {command(['data', 'inspect', *named])}, then {command(train)}")


def _needed_by(tally: Tally, observation_space: Space[Any]) -> list[object]:
    """Name the options without which ``train`` would refuse the data, or a run that is there already."""
    policy = ["--policy", "MultiInputPolicy"] if isinstance(observation_space, spaces.Dict) else []
    cloned = [] if tally.rewarded else ["--eta", "0"]
    default = Path("runs/train")
    return [*policy, *cloned, *(["--out", free_folder(default)] if default.exists() else [])]


def _check_target(to: str, out: str, overwrite: bool) -> None:
    """Refuse early what writing would refuse after long reading, or would not notice."""
    if to not in TARGETS:
        raise ValueError(f"--to must be {' or '.join(TARGETS)}, got {to!r}")
    if to == "minari" and overwrite:
        never = "a Minari data set is never overwritten, delete its folder"
        raise ValueError(f"--overwrite replaces .npz files alone: {never}")
    if to == "lerobot" and overwrite:
        raise ValueError(f"--overwrite replaces .npz files alone: delete the folder {out}, or give another")
    if to == "npz" and Path(out).expanduser().exists() and not overwrite:
        raise ValueError(f"{out} is there already: give --overwrite to replace it, or another --out")


def _tallied(opened: Sequence[EpisodeSource], tally: Tally) -> Iterator[Episode]:
    """Yield the episodes of all sources, and count them.

    Sentences for tasks that are not there are refused at the end, before a file is in place.
    """
    for source in opened:
        for episode in source.episodes():
            tally.add(episode)
            yield episode
    refuse_unknown_texts(opened, list(tally.tasks))
