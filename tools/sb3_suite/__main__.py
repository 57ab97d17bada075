"""Runs SB3's tests on LLMDPD, and writes and prints the results.

PLACE is an unpacked source distribution or a checkout of the pinned version of SB3, or its archive. Without
it the source distribution is downloaded. With --only the results of other tests stay as they are.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from sb3_llmdpd.common.files import whole_file
from tools.sb3_suite.outcomes import DIFFERS, FAILED, KEPT
from tools.sb3_suite.page import RESULTS, read
from tools.sb3_suite.run import Result, is_chosen, run
from tools.sb3_suite.source import find_tests, pinned_version


def main() -> int:
    """Run the tests; the exit code is 1 where one failed without being known as different."""
    parser = argparse.ArgumentParser(prog="python -m tools.sb3_suite", description=__doc__)
    parser.add_argument("place", nargs="?", type=Path)
    parser.add_argument("--only", nargs="+", default=[], metavar="FILE[::TEST]")
    options = parser.parse_args()
    with TemporaryDirectory() as unpacked, TemporaryDirectory() as adapted:
        results = run(find_tests(options.place, Path(unpacked)), Path(adapted), options.only)
    _print(results)
    before = read()["results"] if options.only else []
    others = [each for each in before if not is_chosen(each["file"], each["test"], options.only)]
    written = {
        "stable_baselines3": pinned_version(),
        "results": sorted(
            [*others, *results], key=lambda each: (each["file"], each["test"], each["instance"])
        ),
    }
    with whole_file(RESULTS) as temporary:
        temporary.write_text(json.dumps(written, indent=1) + "\n")
    return int(any(each["outcome"] == FAILED for each in results))


def _print(results: list[Result]) -> None:
    for outcome in (DIFFERS, FAILED):
        for each in (each for each in results if each["outcome"] == outcome):
            sys.stdout.write(
                f"{outcome}: {each['file']}::{each['test']}[{each['instance']}]: {each['reason']}\n"
            )
    counts = Counter(each["outcome"] for each in results)
    sys.stdout.write(f"{', '.join(f'{counts[name]} {name}' for name in (KEPT, DIFFERS, FAILED))}\n")
    rest = {name: count for name, count in counts.items() if name not in (KEPT, DIFFERS, FAILED)}
    sys.stdout.write(f"{', '.join(f'{count} {name}' for name, count in rest.items())}\n")


if __name__ == "__main__":
    sys.exit(main())
