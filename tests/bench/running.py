"""How a part of the benchmark runs by itself: its options, how far it is while it runs, and what it prints."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from tests.bench.processes import CannotMeasure

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.figures import Part

_BEGUN = time.monotonic()


def tell(text: str) -> None:
    """Tells how far a measurement is, on stderr."""
    print(f"[{time.monotonic() - _BEGUN:5.1f}] {text}", file=sys.stderr, flush=True)


def options(command: str, document: str) -> argparse.ArgumentParser:
    """Makes the options that every part has; `document` is that of its module."""
    parser = argparse.ArgumentParser(prog=command, description=document.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    return parser


def run(measure: Callable[[], Part]) -> int:
    """Measures a part and prints it; returns the exit code, 1 if it cannot be measured."""
    try:
        print("\n".join(measure().lines()))
    except CannotMeasure as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0
