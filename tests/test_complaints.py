"""What outsiders can bring about at will is logged, and does not flood the log."""

from __future__ import annotations

from structlog.testing import capture_logs

from gateway.telemetry.complaints import EVERY, KINDS, Complaints
from tests.fakes import Ticks


def test_d13_a_flood_of_kinds_is_bounded_and_forgotten() -> None:
    """Whoever comes from ever new addresses gets so many lines a minute, and no more memory than they take."""
    ticks = Ticks()
    complaints = Complaints(ticks)
    with capture_logs() as logged:
        for host in range(10 * KINDS):
            complaints.warn("call_refused", (str(host),), host=str(host))
        flooded = len(logged)
        ticks.tick(EVERY)
        complaints.warn("call_refused", ("0",), host="0")

    assert KINDS == flooded
    assert {"event": "call_refused", "log_level": "warning", "host": "0", "unlogged": 0} == logged[-1]
    assert 1 == len(complaints._kinds)
