"""The short forms of `make storm`: watchers come back all at once, and one stops reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos import slow_reader, storm
from tests.lengths import size

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_storm_of_watchers_misses_and_repeats_nothing(tmp_path: Path) -> None:
    """The judge reads the `changes` table."""
    options = storm.Options(
        watchers=size(200, quick=50), processes=1, kills=2, starts=size(150, quick=50), rate=20, calm=1.5, seed=7
    )

    findings = await storm.storm(options, tmp_path, print)

    storm.report(findings, options.watchers, print)
    assert {} == dict(+findings.wrong)
    assert [] == findings.bugs
    assert options.watchers < findings.streams, "no watcher has come back"
    assert options.watchers < findings.received, "hardly anything was watched"


@pytest.mark.longer  # one that reads slowly, without processes, is in tests/test_watch.py
async def test_a_watcher_that_stops_reading_loses_nothing(tmp_path: Path) -> None:
    """Too little passes to say anything about memory; `make storm` does."""
    options = slow_reader.Options(changes=2_400, seconds=5, before=600)

    findings = await slow_reader.stop_reading(options, tmp_path, print)

    slow_reader.report(findings, print)
    passed = findings.healthy["paused"]["changes"] - findings.healthy["before"]["changes"]
    assert findings.slow["read on"]["changes"] - findings.slow["stops"]["changes"] <= 1, "it has not stopped"
    assert 0.9 * options.changes <= passed, "the other one was held up"  # the last ones may be on their way
    assert findings.is_complete, findings.wrong
