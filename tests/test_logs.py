"""The thread that writes the log: what does not fit is counted, and the count is never lost itself."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import structlog

from gateway.telemetry import logs
from tests.fakes import PATIENCE

if TYPE_CHECKING:
    import pytest

LOST = 7


def test_b3_lines_that_are_lost_are_counted_though_the_queue_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line with the count is not among those that find no room."""
    out = logs._StandardError()
    is_full, goes_on, counted = threading.Event(), threading.Event(), threading.Event()
    written: list[str] = []

    def put(text: str) -> None:
        if "log_lines_lost" in text:
            counted.set()
        elif not written:
            is_full.set()
            goes_on.wait(PATIENCE)
        written.append(text)

    monkeypatch.setattr(logs, "QUEUED", 3)
    monkeypatch.setattr(logs, "_put", put)
    monkeypatch.setattr(logs, "log", structlog.wrap_logger(
        structlog.WriteLogger(out),  # type: ignore[arg-type] # it writes and flushes
        processors=[structlog.processors.JSONRenderer()],
    ))  # fmt: skip
    out.detach()
    out.write("first")
    assert is_full.wait(PATIENCE)
    for n in range(3 + LOST):
        out.write(f"line {n}")
    goes_on.set()
    assert counted.wait(PATIENCE)
    out.drain(PATIENCE)

    assert [LOST] == [json.loads(line)["count"] for line in written if "log_lines_lost" in line]
    assert ["line 0", "line 1", "line 2"] == [line for line in written if line.startswith("line")]
