"""What a step of our own clock does to what waits.

Rules:

1. What waits for less than its schedule waits no longer because the clock was ahead: when the clock goes back, its due
   times go back by as much.
2. Where the clock is put forward, that is no time in which anything could be sent: `give_up_after` does not count it.
   Each such gap is kept, and `giving_up.py` counts without it.
3. A life sees a step of its clock by one that nobody sets. Between two lives only a step back can be told, by the
   newest change: one forward looks like time in which no gateway ran. That counts, so that nobody is reached a month
   late.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import structlog

from gateway.store import looking
from gateway.store.rows import SCHEDULE, UNREADABLE, decode_standing, to_micros

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

STEP = 60_000_000  # microseconds; less than that is no step, and nothing waits for long because of it
KEPT = 100  # gaps, the latest ones
GAPS = "gaps"  # in `meta`: spans in microseconds, the earliest first
log = structlog.get_logger()

_PUT_BACK = (
    "update dispatches set due_at ="
    f" greatest(due_at - $1, coalesce((select {SCHEDULE} from starts s where s.id = start_id), 0))"
    " where id in (select dispatches.id from dispatches /*by dispatches_waiting*/ /*first*/ join starts s"
    " on s.id = dispatches.start_id where dispatches.state = PENDING and dispatches.claimed_by is null"
    f" and dispatches.due_at > greatest($2, coalesce({SCHEDULE}, 0)))"
    " returning start_id, attempts"
)


class Steps:
    """Sees how our clock moves against one that nobody sets; without such a one it sees nothing."""

    def __init__(self, monotonic: Callable[[], float] | None) -> None:
        self._monotonic = monotonic
        self._before: tuple[int, int] | None = None  # both clocks, when something was last committed

    def has_stepped(self, now: datetime) -> bool:
        """Whether there was a step since the last commit: what it asks for moves what is there."""
        expected = self._expected()
        return expected is not None and abs((to_micros(now) or 0) - expected) > STEP

    def notice(self, transaction: Transaction, *, moves: bool) -> Callable[[], None]:
        """Does what a step since the last commit asks for; returns what is to be called after this one.

        If the transaction may not move what is there, that is left to the next one that may.
        """
        if self._monotonic is None:
            return lambda: None
        expected, now = self._expected(), (transaction.now_micros, round(self._monotonic() * 1e6))
        if expected is not None and abs(now[0] - expected) > STEP:
            if not moves:
                return lambda: None
            moved(transaction, expected)

        def committed() -> None:
            self._before = now

        return committed

    def _expected(self) -> int | None:
        """Tells what our clock would say by the other one; None if that is not known."""
        if self._before is None or self._monotonic is None:
            return None
        return self._before[0] + round(self._monotonic() * 1e6) - self._before[1]


def newest(conn: Connection) -> int | None:
    """Returns when the newest change was recorded; None if there is none, or it cannot be read."""
    row = conn.row("select standing from changes where revision = (select max(revision) from changes)")
    try:
        return None if row is None else to_micros(decode_standing(row[0]).updated_at)
    except UNREADABLE:
        return None


def resumed(transaction: Transaction, seen: int | None) -> None:
    """Does what follows from the newest change at the beginning of a life, most if it is of a moment still to come."""
    if seen is not None and seen > transaction.now_micros:
        moved(transaction, seen)
    looking.resume(transaction, transaction.now_micros if seen is None else seen)


def moved(transaction: Transaction, expected: int) -> None:
    """Does what follows if it is not about the moment that was expected."""
    now = transaction.now_micros
    if abs(now - expected) <= STEP:
        return
    looking.resume(transaction, expected)
    spans = [(start, min(end, now)) for start, end in gaps(transaction.conn) if start < now]
    if now > expected:
        spans.append((expected, now))
    else:
        _put_back(transaction, expected - now)
    transaction.conn.run(
        "insert into meta values ($1, $2) on conflict (key) do update set value = $2", GAPS, json.dumps(spans[-KEPT:])
    )


def _put_back(transaction: Transaction, by: int) -> None:
    rows = transaction.conn.rows(_PUT_BACK, by, transaction.now_micros)
    log.warning("clock_put_back", seconds=by // 1_000_000, dispatches=len(rows))
    for start_id in {start_id for start_id, attempts in rows if attempts}:
        transaction.record_anew(start_id)  # it says when it is tried again


def gaps(conn: Connection) -> list[tuple[int, int]]:
    """Reads the spans that do not count."""
    row = conn.row("select value from meta where key = $1", GAPS)
    return [] if row is None else [(start, end) for start, end in json.loads(row[0])]


def later(since: int, span: int, without: Sequence[tuple[int, int]]) -> int:
    """Returns when a span of time since a moment is over, if the gaps in it do not count."""
    until = since + span
    for start, end in without:
        if end > since and start < until:
            until += end - max(start, since)
    return until
