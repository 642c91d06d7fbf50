"""Every mistake that is planted has its place in today's gateway; that the judge finds it is for `make planted`."""

from __future__ import annotations

import subprocess
import sys

from tests.end_to_end.processes import ROOT

PLANTING = """
import os
from tests.chaos.planted import PLANTS
for name, plant in PLANTS.items():
    child = os.fork()
    if not child:
        plant.patch()
        print(name, flush=True)
        os._exit(0)
    assert (child, 0) == os.waitpid(child, 0), name
assert PLANTS
"""


def test_the_place_of_what_is_planted_is_there() -> None:
    """Each in a process of its own: what is planted stays."""
    done = subprocess.run([sys.executable, "-c", PLANTING], cwd=ROOT, capture_output=True, text=True, check=False)

    assert not done.returncode, done.stderr
