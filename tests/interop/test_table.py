"""What the table of `make interop` counts as a failure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.end_to_end.processes import ROOT
from tests.interop.__main__ import tried
from tests.interop.callers import Caller, fetch, run

if TYPE_CHECKING:
    import pytest

FAILS = (sys.executable, "-c", "raise SystemExit('the network is unreachable')")


async def _nothing(_folder: object) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Failing(Caller):
    """A caller that is never built."""

    is_fetched: bool = True

    async def built(self) -> tuple[str, ...]:
        """Fails at fetching what is not ours, or afterwards."""
        await (run if self.is_fetched else fetch)(*FAILS, folder=ROOT)
        return ()


def _caller(*, is_fetched: bool) -> Failing:
    return Failing("Some", (sys.executable,), (sys.executable, "--version"), "nothing", _nothing, is_fetched=is_fetched)


async def test_what_cannot_be_fetched_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """CI goes on without it, and the row says why."""
    assert None is await tried(_caller(is_fetched=False))

    row = capsys.readouterr().out
    assert "not there: " in row
    assert row.endswith("the network is unreachable\n")


async def test_what_is_there_and_cannot_be_built_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """A proto from which no code can be made is ours to mend."""
    assert False is await tried(_caller(is_fetched=True))

    assert "FAILED: " in capsys.readouterr().out
