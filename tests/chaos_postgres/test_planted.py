"""Every mistake that is planted has its place in today's gateway; that the judge finds it is for `planted-postgres`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.chaos_postgres.planted import PLANTS
from tests.end_to_end.processes import ROOT


@pytest.mark.parametrize("name", PLANTS)
def test_the_place_of_what_is_planted_is_there(name: str) -> None:
    """In a process of its own: what is planted stays."""
    planting = f"from tests.chaos_postgres.planted import PLANTS; PLANTS[{name!r}].patch()"

    done = subprocess.run([sys.executable, "-c", planting], cwd=ROOT, capture_output=True, text=True, check=False)

    assert not done.returncode, done.stderr
