"""Proves that a start is never lost and never sent twice: `python -m tests.chaos`.

Without `--starts` and `--kills` it makes the runs of `make chaos`; with them, one run.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.faults import OUTAGES
from tests.chaos.plan import MIXES, Options, draw
from tests.chaos.report import report
from tests.chaos.run import run

SMALLER = {"starts": 90, "kills": 8, "seconds": 90.0, "swept": 1}
LATER = {  # lives and pages so long that a proof is over before what is late is committed
    "starts": 80, "kills": 5, "lives": 9.0, "seconds": 90.0, "late": 2.5, "swept": 0, "outages": 0.0,
    "page_size": 200, "every": 2.0,
}  # fmt: skip
RUNS = {  # `seconds` bounds a run on a busy machine; a quiet one needs half of them
    "1: the backends keep their part": {"seconds": 600.0, "outages": 0.4},
    "2a: commits later than the quiet window, sent again": {**LATER},
    "2b: commits later than the quiet window, never sent again": {**LATER, "on_absent": "uncertain"},
    "3a: the clock is 5 minutes ahead, and RapidPro is upgraded": {**SMALLER, "skew": 300.0, "upgrade": True},
    "3b: the clock is 5 minutes behind, the database's 2": {**SMALLER, "skew": -300.0, "ahead": -120.0},
}


def main() -> int:
    """Makes the runs; 1 if one has failed."""
    given = _read_arguments()
    seed, chosen = given.pop("seed"), given.pop("run")
    runs = {"1": given} if given.keys() & {"starts", "kills"} else {
        name: {**defaults, **given} for name, defaults in RUNS.items()
    }  # fmt: skip
    failed = []
    for number, (name, values) in enumerate(runs.items()):
        if not name.startswith(chosen):
            continue
        say = _printer()
        options = Options(seed=seed + number, **values)
        say(f"run {name}: seed {options.seed}, {options.starts} starts, {options.kills} kills")
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        evidence = asyncio.run(run(draw(options), folder, say))
        if report(options, evidence, say):
            shutil.rmtree(folder)
        else:
            failed.append(name)
            say(f"what the processes left behind is in {folder}")
    print(f"FAILED: {'; '.join(failed)}" if failed else "PASSED: all runs", flush=True)
    return int(bool(failed))


def _printer() -> object:
    begun = time.monotonic()
    return lambda text: print(f"[{time.monotonic() - begun:5.1f}] {text}", flush=True)


def _read_arguments() -> dict[str, object]:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="repeat the plan of another run")
    parser.add_argument("--run", default="", metavar="NAME", help="only this one, such as 2a")
    parser.add_argument("--starts", type=int, metavar="N")
    parser.add_argument("--kills", type=int, metavar="N")
    parser.add_argument("--late", type=float, metavar="SHARE", help="commits come late up to this share of the window")
    parser.add_argument("--on-absent", choices=("resend", "uncertain"))
    parser.add_argument("--skew", type=float, metavar="SECONDS", help="how wrong the gateway's clock is")
    parser.add_argument("--mix", choices=MIXES, help="which kinds of starts are drawn")
    parser.add_argument("--swept", type=int, metavar="N", help="how many lives lose their store while they run")
    parser.add_argument("--outages", type=float, metavar="SHARE", help="of the time in which one endpoint is out")
    parser.add_argument("--only", choices=OUTAGES, help="the one kind of outage that there is")
    parser.add_argument("--ahead", type=float, metavar="SECONDS", help="how wrong the clock of RapidPro's database is")
    parser.add_argument("--upgrade", action="store_true", default=None, help="RapidPro is upgraded halfway")
    parser.add_argument("--seconds", type=float, metavar="N", help="begin no further life of the gateway after that")
    return {name: value for name, value in vars(parser.parse_args()).items() if value is not None}


if __name__ == "__main__":
    sys.exit(main())
