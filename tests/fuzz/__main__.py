"""Throws bad input at a gateway: `python -m tests.fuzz`. 1 if anything was answered that must not be."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.run import Options, run


def main() -> int:
    """Makes a run and prints its counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="make the requests of another run")
    parser.add_argument("--requests", type=int, default=100_000, metavar="N", help="of gRPC")
    parser.add_argument("--json", type=int, default=100, metavar="N", help="requests through grpcurl")
    options = Options(**vars(parser.parse_args()))
    folder, began = Path(tempfile.mkdtemp(prefix="fuzz-")), time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.1f}] {text}", flush=True)

    say(f"seed {options.seed}: {options.requests:,} requests")
    answers = asyncio.run(run(options, folder, say))
    print(*answers.report(), sep="\n")
    if answers.violations:
        print(f"FAILED: what the gateway left behind is in {folder}")
        return 1
    shutil.rmtree(folder)
    say("PASSED")
    return 0


if __name__ == "__main__":
    sys.exit(main())
