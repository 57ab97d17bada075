"""Fills README.md and docs/ with numbers from docs/results, and draws the charts: `make tables`.

Marks say where a number comes from. What stands after a mark is written anew, and the rest of a page stays:

    <!--n:FILE/ROW/COLUMN-->0.75<!--/n-->                               a number in a sentence
    <!-- table: FILE | COLUMN; COLUMN | ROW; ROW --> ... <!-- end -->   a table; without rows, all of them
    <!-- report: FILE --> ... <!-- end -->                              the whole report of a grid
    <!-- sb3: PART --> ... <!-- end -->                                 how SB3's tests end, see `sb3_page`

FILE is a folder of docs/results, or `tuning.PART` or `presets.PART` for a part of that json. `result_files`
says what the rows and columns of each kind are, as in `ml45-visible/full both/unseen` or
`tuning.visible/steps/seen both`.

`FILE/ROW/COLUMN - ROW` is a difference. In a grid it is taken scene by scene and has its interval; in a part
of tuning.json it is taken task by task and has its standard error in parentheses. Its second half may name
another column or file as well: `- ROW/COLUMN`, `- FILE/ROW/COLUMN`.

In a table, `NAME = WORDS` shows a row or column under other words, `FILE/COLUMN` takes a column from another
file, and a column `third` gives each row once for each third that it was trained on.
"""

import re
from pathlib import Path

from sb3_llmdpd.common.files import whole_file
from tools.result_chart import draw, draw_dots
from tools.result_files import FORMATS, Grid, MissingError, Tuning, paired, quantity_of, source
from tools.sb3_suite import page as sb3_page

ROOT = Path(__file__).parents[1]
CHARTS = {
    ROOT / "docs" / "background" / "results.md": draw,
    ROOT / "docs" / "background" / "language.md": draw_dots,
}
"""Pages whose first table is drawn beside them, and the kind of chart."""

_NUMBER = re.compile(r"<!--n:(?P<key>.*?)-->.*?<!--/n-->", re.DOTALL)
_BLOCK = re.compile(
    r"(?P<mark><!-- (?P<kind>table|report|sb3): (?P<what>.*?) -->\n)(?P<made>.*?)<!-- end -->", re.DOTALL
)
_AT_LINE_START = re.compile(r"^[ >]*(?:[-*] +|\d+\. +)?<!--n:.*", re.MULTILINE)


def number(key: str) -> str:
    """The number that a mark names.

    :raises MissingError: when the results have no such row or column.
    """
    first, _, second = " ".join(key.split()).partition(" - ")
    file, row, column = first.split("/")
    results = source(file)
    if not second:
        return results.number(row, column)
    names = second.split("/")
    other_file, other, other_column = [[file, *names, column], [file, *names], names][len(names) - 1]
    if isinstance(results, Grid):
        return results.above(row, column, other)
    ours, theirs = results.values(row, column), source(other_file).values(other, other_column or column)
    return paired(ours, theirs, FORMATS[quantity_of(column)])


def table(what: str) -> str:
    """The table that a mark names, in Markdown. What was not measured is an empty cell.

    :raises MissingError: when no row at all has a column.
    """
    file, columns, *rows = (part.strip() for part in " ".join(what.split()).split("|"))
    results, shown = source(file), _with_words(columns)
    if "third" in shown:
        lines = [(row, row, third) for row, third in results.trainings]
    else:
        named = _with_words(rows[0]) if rows else {row: row for row in results.rows}
        lines = [(row, words, "") for row, words in named.items()]
    cells = [[words, *(_cell(file, row, column, third) for column in shown)] for row, words, third in lines]
    empty = [column for place, column in enumerate(shown, 1) if not any(line[place] for line in cells)]
    if empty:
        raise MissingError(f"no row of {file} has {empty}")
    head = ["setting" if isinstance(results, Tuning) else "", *shown.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells))


def _cell(file: str, row: str, column: str, third: str) -> str:
    if column == "third":
        return third.removeprefix("third-")
    *elsewhere, name = column.split("/")
    first, minus, second = row.partition(" - ")
    try:
        return number(f"{[file, *elsewhere][-1]}/{first}/{name} {third}{minus}{second}")
    except MissingError:
        return ""


def _with_words(entries: str) -> dict[str, str]:
    """Rows or columns of a mark, and the words that show them."""
    pairs = [entry.strip().partition(" = ") for entry in entries.split(";")]
    return {name: words or name for name, _, words in pairs}


def filled(page: str) -> str:
    """A page with everything that its marks name.

    :raises ValueError: when a mark names nothing, or begins a line, which Markdown would take for HTML.
    """
    if found := _AT_LINE_START.search(page):
        raise ValueError(f"a number must not begin a line, move a word in front of it: {found[0]}")

    def block(found: re.Match[str]) -> str:
        made = _BLOCKS[found["kind"]](found["what"])
        return f"{found['mark']}{made.strip()}\n<!-- end -->"

    page = _NUMBER.sub(lambda found: f"<!--n:{found['key']}-->{number(found['key'])}<!--/n-->", page)
    return _BLOCK.sub(block, page)


_BLOCKS = {"table": table, "report": lambda file: source(file).report(), "sb3": sb3_page.block}


def pages() -> list[Path]:
    """README and every page of the docs that is written by hand."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if not {"_build", "generated"} & set(path.parts)]


def drawn_rows(page: Path) -> list[list[str]]:
    """Head and rows of the table of a page that is drawn."""
    first = next(_BLOCK.finditer(page.read_text(encoding="utf-8")))["made"].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in first)
    return [head, *rows]


def main() -> None:
    """Write the pages and the charts."""
    for path in pages():
        page = path.read_text(encoding="utf-8")
        if filled(page) != page:
            with whole_file(path) as temporary:
                temporary.write_text(filled(page), encoding="utf-8")
    for page, chart in CHARTS.items():
        chart(drawn_rows(page), page.with_suffix(".svg"))


if __name__ == "__main__":
    main()
