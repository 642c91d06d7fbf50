"""Runs the sandbox as a process: `python -m gateway.sandbox`."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from pathlib import Path

from gateway.sandbox.server import CannotStart, run
from gateway.sandbox.settings import USUAL, SandboxSettings


def main() -> int:
    """Reads the arguments and runs until it is told to stop."""
    settings, as_json = read_arguments()
    try:
        run(settings, as_json=as_json)
    except (ValueError, CannotStart) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def read_arguments() -> tuple[SandboxSettings, bool]:
    """Turns the command line into settings."""
    parser = argparse.ArgumentParser(prog="python -m gateway.sandbox", description=__doc__)
    for name in ("rapidpro", "twilio", "control"):
        parser.add_argument(f"--{name}-listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--journal", type=Path, metavar="PATH", help="keep everything in this file")
    parser.add_argument("--duration", type=float, default=3.0, metavar="SECONDS", help="how long a start takes")
    parser.add_argument("--seed", type=int, help="repeat the ids and chances of another run")
    parser.add_argument("--rapidpro-generation", choices=("new", "old"), default="new", help="old: community v9.0")
    parser.add_argument("--rapidpro-rate", type=int, default=USUAL, metavar="N", help="requests an hour; 0: any")
    parser.add_argument("--twilio-rate", type=float, default=20, metavar="N", help="creates a second; 0: any")
    parser.add_argument("--twilio-events-url", metavar="URL", help="post signed Event Streams events here")
    parser.add_argument("--json", action="store_true", help="print the addresses as one line of JSON")
    given = parser.parse_args()
    settings = SandboxSettings(
        rapidpro_listen=given.rapidpro_listen,
        twilio_listen=given.twilio_listen,
        control_listen=given.control_listen,
        journal=given.journal,
        duration=timedelta(seconds=given.duration),
        seed=given.seed,
        rapidpro_generation=given.rapidpro_generation,
        rapidpro_requests_per_hour=given.rapidpro_rate,
        twilio_creates_per_second=given.twilio_rate,
        twilio_events_url=given.twilio_events_url,
    )
    return settings, given.json


if __name__ == "__main__":
    sys.exit(main())
