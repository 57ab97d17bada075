"""The report of any benchmark: what was measured and how, its tables in Markdown, and charts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.results import RESULTS

REPORT = "report.md"


@dataclass(frozen=True)
class Report:
    """The parts of a report.

    :param tables: tables of the results.
    :param charts: name of the file with the charts.
    :param write_charts: writes that file, or says why it is left out.
    :param title: title of the report; without one it consists of its tables.
    :param facts: sentences that one has to know to read the tables.
    :param notes: lists of sentences that come last, by their headings.
    :param name: name of the file in Markdown.
    """

    tables: Sequence[Table]
    charts: str
    write_charts: Callable[[Path], None]
    title: str = ""
    facts: Sequence[str] = ()
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    name: str = REPORT

    def markdown(self) -> str:
        """Put the parts together in Markdown."""
        blocks = [f"# {self.title}\n", _bullets(self.facts)] if self.title else []
        blocks += [table.markdown() for table in self.tables]
        for heading, sentences in self.notes.items():
            blocks += [f"{heading}:\n", _bullets(sentences)]
        return "\n".join(blocks)

    def write(self, folder: Path) -> None:
        """Write the files of the report into a folder."""
        with whole_file(folder / self.name) as temporary:
            temporary.write_text(self.markdown())
        self.write_charts(folder / self.charts)

    def show(self, folder: Path) -> None:
        """Print the tables, and the places of the files in their folder."""
        show_tables(self.tables)
        charts = folder / self.charts
        with_charts = f", its charts are {charts}" if charts.is_file() else ""
        typer.echo(f"\nThe results are {folder / RESULTS}; the report is {folder / self.name}{with_charts}")


def show_tables(tables: Sequence[Table]) -> None:
    """Print tables."""
    for table in tables:
        typer.echo(f"\n{table.text()}", nl=False)


def _bullets(sentences: Sequence[str]) -> str:
    return "".join(f"- {sentence}\n" for sentence in sentences)
