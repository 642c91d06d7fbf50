"""Proves that gateways on one PostgreSQL lose no start and send none twice: `python -m tests.chaos_postgres`."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.plan import MIXES, Options, draw
from tests.chaos_postgres.run import reported, run

GATEWAYS = 3
EVERY = 7.0  # seconds between two things that break at PostgreSQL
LONG = {
    "starts": 2_000, "kills": 100, "seconds": 700.0, "mix": "many", "swept": 0, "pauses": 0.45, "pause": (2.0, 2.8),
    "drains": 0.25, "patience": 4.0, "long_each": 2,
}  # fmt: skip
SHORT = {**LONG, "starts": 120, "kills": 8, "seconds": 45.0, "floors": False}


def main() -> int:
    """Makes a run; 1 if it has failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos_postgres", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="repeat the plan of another run")
    parser.add_argument("--short", action="store_true", help="a minute of it")
    parser.add_argument("--gateways", type=int, default=GATEWAYS, metavar="N")
    parser.add_argument(
        "--every", type=float, default=EVERY, metavar="SECONDS", help="between two faults of PostgreSQL"
    )
    parser.add_argument("--starts", type=int, metavar="N")
    parser.add_argument("--kills", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, metavar="N", help="begin no further life of a gateway after that")
    parser.add_argument("--mix", choices=MIXES, help="which kinds of starts are drawn")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    count, every, short = given.pop("gateways"), given.pop("every"), given.pop("short")
    plan = draw(Options(**{**(SHORT if short else LONG), **given}))
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:5.1f}] {text}", flush=True)

    folder = Path(tempfile.mkdtemp(prefix="chaos-postgres-"))
    say(f"seed {plan.options.seed}, {count} gateways, {plan.options.starts} starts, {plan.options.kills} lives")
    outcome = asyncio.run(run(plan, count, every, folder, say))
    passed = reported(plan, count, outcome, say)
    if passed:
        shutil.rmtree(folder)
    else:
        say(f"what the processes left behind is in {folder}")
    print("PASSED" if passed else "FAILED", flush=True)
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
