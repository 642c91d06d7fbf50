"""For how long what was sent again is looked for: two of it is worth knowing.

Rules:

1. It is an hour in which a gateway runs. Time in which none ran, or by which our clock was put forward, shows nobody
   anything, so it does not count.
2. Between two lives our clock alone tells how long none ran, by the newest change. Whatever it says, a life looks for
   an hour at the most for what an earlier one left.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

WATCHED_FOR = 3_600_000_000  # microseconds
_LOOKING = "looking"  # in `meta`: since when this life, or its clock, goes on without a gap, and how long the gap was


def resume(transaction: Transaction, expected: int) -> None:
    """Has the time not count that is between what our clock should show and what it does; none if that is later."""
    now = transaction.now_micros
    gap = max(now - expected, 0)
    if gap:
        gap += expected - passed(transaction.conn, expected)
    transaction.conn.run(
        "insert into meta values ($1, $2) on conflict (key) do update set value = $2", _LOOKING, json.dumps([now, gap])
    )


def passed(conn: Connection, now: int) -> int:
    """Returns up to which moment what ends then has been looked for long enough.

    An hour after a gap, what is older than it is over, and what is newer ends later.
    """
    row = conn.row("select value from meta where key = $1", _LOOKING)
    since, gap = (now, 0) if row is None else json.loads(row[0])
    return now - gap if since <= now < since + WATCHED_FOR else now
