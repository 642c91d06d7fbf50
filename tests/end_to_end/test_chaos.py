"""The short form of `make chaos`: some twenty seconds, with every kind of trouble and a few kills."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.chaos.judge import judge, kills_that_hit
from tests.chaos.plan import Options, draw
from tests.chaos.run import run

if TYPE_CHECKING:
    from pathlib import Path


async def test_nothing_is_lost_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    """The judge reads the sandbox's journal, and what the gateway tells at the end."""
    options = Options(seed=61, starts=24, kills=3, seconds=40, swept=0)

    evidence = await run(draw(options), tmp_path, print)

    assert [] == [str(violation) for violation in judge(evidence)]
    assert options.starts <= len(evidence.told)
    assert kills_that_hit(evidence), "no kill hit an open attempt"
