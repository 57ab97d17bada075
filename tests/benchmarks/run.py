"""Measures what the page on performance says, and writes it there: `make bench`."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import acting
import many_examples
import mapped_data
import reading
import sampling
import start_up
import training
from common import PAGE, write_section
from timing import ROUNDS

SECTIONS: dict[str, Callable[[int], str]] = {
    "training": training.section,
    "where a step goes": training.profile,
    "growth": training.growth,
    "acting": acting.section,
    "examples": many_examples.section,
    "sampling": sampling.section,
    "reading": reading.section,
    "start-up": start_up.section,
    "mapped data": mapped_data.section,
}


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections; by default all")
    add("--rounds", type=int, default=ROUNDS, help=f"turns of each variant; {ROUNDS} by default")
    add("--page", type=Path, default=PAGE, help="page whose results are replaced")
    given = parser.parse_args()
    for name in given.only:
        start = time.perf_counter()
        text = SECTIONS[name](given.rounds)
        write_section(name, text, given.page)
        sys.stdout.write(f"\n## {name} ({time.perf_counter() - start:.0f} s)\n\n{text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
