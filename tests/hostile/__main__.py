"""Attacks a gateway, and measures what a quiet tenant notices: `python -m tests.hostile`. 1 if it is too much."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.processes import CannotMeasure, cores
from tests.hostile.judge import Verdict, table
from tests.hostile.plan import ATTACKS
from tests.hostile.rig import Options, measure, prepared

if TYPE_CHECKING:
    from collections.abc import Callable


async def run(names: list[str], options: Options, folder: Path, say: Callable[[str], None]) -> list[Verdict]:
    """Measures these attacks, one after the other."""
    verdicts = []
    async with prepared(options, folder, say) as ground:
        for name in names:
            verdict = await measure(ATTACKS[name], ground)
            met = ", ".join(f"{what} {count:,}" for what, count in verdict.counts.most_common(4))
            say(f"{name}: {'; '.join(verdict.wrong()) or 'within bounds'} (gateway {verdict.share:.0%}; {met})")
            verdicts.append(verdict)
    return verdicts


def main() -> int:
    """Makes a run and prints its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the attacks")
    parser.add_argument(
        "--only", choices=ATTACKS, action="append", metavar="NAME", help="only this one; may be repeated"
    )
    parser.add_argument("--seconds", type=float, default=Options.seconds, metavar="N", help="of a slice")
    parser.add_argument("--pairs", type=int, default=Options.pairs, metavar="N", help="of slices")
    given = parser.parse_args()
    if given.list:
        width = max(map(len, ATTACKS))
        print(*(f"{each.name:{width}}  {each.row:11}  {each.about}" for each in ATTACKS.values()), sep="\n")
        return 0
    try:
        chosen = cores()
    except CannotMeasure as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    folder, began = Path(tempfile.mkdtemp(prefix="hostile-")), time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.1f}] {text}", flush=True)

    options = Options(seconds=given.seconds, pairs=given.pairs, cores=chosen)
    verdicts = asyncio.run(run(given.only or list(ATTACKS), options, folder, say))
    print(*table(verdicts), sep="\n")
    failed = [each.attack.name for each in verdicts if each.wrong()]
    if failed:
        say(f"FAILED: {', '.join(failed)}. What the gateways left behind is in {folder}")
        return 1
    shutil.rmtree(folder)
    say("PASSED")
    return 0


if __name__ == "__main__":
    sys.exit(main())
