"""Measures everything, against bare ceilings in the same run: `python -m tests.bench`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import calls, cost, dispatch, growth, postgres, soak, starting, watch
from tests.bench.page import plot, write
from tests.bench.processes import CannotMeasure

if TYPE_CHECKING:
    from tests.bench.figures import Part

PARTS = {
    "calls": calls.measure,
    "growth": growth.measure,
    "starting": starting.measure,
    "dispatch": dispatch.measure,
    "cost": cost.measure,
    "watch": watch.measure,
    "postgres": postgres.measure,
    "soak": soak.measure,
}
DOCS = Path(__file__).parents[2] / "docs"


def main() -> int:
    """Measures, prints and reports; 1 if something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, in three minutes")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; may be repeated")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and docs/benchmarks.svg")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    began, found, missing = time.monotonic(), [], []
    cores = os.sched_getaffinity(0)
    for name in given.only or PARTS:
        os.sched_setaffinity(0, cores)  # a part chooses its own
        sys.stderr.write(f"--- {name}, after {time.monotonic() - began:.0f} s\n")
        try:
            part = PARTS[name](given.quick)
        except CannotMeasure as error:
            missing.append(f"{name}: {error}")
            print(f"{name}: NOT MEASURED: {error}", flush=True)
            continue
        found.append(part)
        print("\n".join(["", part.title, *part.lines()]), flush=True)
    lasted = time.monotonic() - began
    print("\n".join(["", *verdicts(found, lasted), *(f"NOT MEASURED: {each}" for each in missing)]))
    if given.write:
        write(DOCS / "benchmarks.md", found, missing, seconds=lasted, quick=given.quick)
        plot(DOCS / "benchmarks.svg", found)
    return 1 if missing else 0


def verdicts(parts: list[Part], seconds: float) -> list[str]:
    """Tells all targets again, in one place."""
    targets = [figure for part in parts for figure in part.figures if figure.target]
    reached = sum(figure.verdict == "reached" for figure in targets)
    lines = [figure.line() for figure in targets]
    return [f"{reached} of {len(targets)} targets reached, in {seconds:.0f} s", *lines]


if __name__ == "__main__":
    sys.exit(main())
