"""When what was not accepted is given up.

Rules:

1. What has an `expire_time` ends with it, whatever else happened.
2. What has none counts from when it was due, and anew from whatever its lane (the backend's account) accepts: a backlog
   that takes longer than `give_up_after` is sent all the same. It is compared when the time has come, so an acceptance
   writes nothing to what waits.
3. What was tried `TRIES` times since its lane accepted something else ends `give_up_after` after its first attempt,
   whatever the lane accepts. Fewer say nothing of it: a 429 or an outage puts it behind the whole backlog.
4. Time that nobody had for sending does not count (`stepping.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model import State
from gateway.store.moves import EXPIRED, GAVE_UP, NEVER_ACCEPTED, Move, move
from gateway.store.rows import LATEST, SCHEDULE
from gateway.store.stepping import gaps, later

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.model import Notice
    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

TRIES = 10  # as many as there are rounds of no answer

_EXPIRED = (
    "with named(id text) as ($rows) select d.id, d.backend, d.account, s.expire_at is not null,"
    f" s.give_up_at, coalesce({SCHEDULE}, s.created_at),"
    " (select a.begun_at from attempts a where a.dispatch_id = d.id order by a.number limit 1),"
    " (select a.begun_at from attempts a where a.dispatch_id = d.id order by a.number desc limit 1"
    f" offset {TRIES - 1})"
    " from named /*first*/ join dispatches d on d.id = named.id join starts s on s.id = d.start_id"
)
_LAST = (
    "select accepted_at, (select max(a.ended_at) from attempts a where a.dispatch_id = d.id)"
    " from dispatches d /*by dispatches_accepted*/ where backend = $1 and account = $2 and accepted_at is not null"
    " order by accepted_at desc limit 1"
)
_NEXT_ACCOUNT = (
    "select account from dispatches /*by dispatches_accepted*/ where backend = $1 and account > $2"
    " and accepted_at is not null order by account limit 1"
)
_ANY_BETWEEN = (
    "select 1 from dispatches /*by dispatches_accepted*/ where backend = $1 and account = $2"
    " and accepted_at between $3 and $4 limit 1"
)


def end_or_put_off(transaction: Transaction, dispatch_ids: Sequence[str]) -> set[str]:
    """Ends those that are given up, of dispatches whose time is over; puts the others off. Returns what ended."""
    ends = give_up(transaction, dispatch_ids)
    move(transaction, *(Move(each, State.FAILED, failure) for each, failure in ends.items()))
    return set(ends)


def give_up(transaction: Transaction, dispatch_ids: Sequence[str]) -> dict[str, Notice]:
    """Returns why each of those ends that is given up, and puts the others off. The time of all of them is over."""
    conn, now = transaction.conn, transaction.now_micros
    ends: dict[str, Notice] = {}
    put_off: list[tuple[str, int]] = []
    last: dict[tuple[str, str | None], int] = {}
    without = gaps(conn)
    for dispatch_id, backend, account, expires, give_up_at, due, first, nth_last in conn.over(
        _EXPIRED, [(each,) for each in dispatch_ids]
    ):
        if expires:
            ends[dispatch_id] = EXPIRED
            continue
        lane = backend, account
        if lane not in last:
            last[lane] = min(now, _last_acceptance(conn, *lane))
        span = give_up_at - due
        until, why = later(max(last[lane], due), span, without), GAVE_UP
        if nth_last is not None and conn.row(_ANY_BETWEEN, *lane, first, nth_last):
            tried = later(first, span, without), NEVER_ACCEPTED
            until, why = min((until, why), tried, key=lambda each: each[0])
        if until <= now:
            ends[dispatch_id] = why
        else:
            put_off.append((dispatch_id, min(until, LATEST)))  # whatever the row holds
    conn.over(
        "with later(id text, until bigint) as ($rows) update dispatches set expire_at = later.until from later"
        " where dispatches.id = later.id",
        put_off,
    )
    return ends


def _last_acceptance(conn: Connection, backend: str, account: str | None) -> int:
    """Tells when an account last accepted something, by our clock or by its own; 0 if that is not known.

    What was recorded before its account was known waits for whichever the backend has.
    """
    accounts = [account] if account is not None else _accounts(conn, backend)
    moments = [moment for each in accounts for row in conn.rows(_LAST, backend, each) for moment in row]
    return max((moment for moment in moments if moment is not None), default=0)


def _accounts(conn: Connection, backend: str) -> list[str]:
    """Lists the accounts that accepted something from a backend; one look-up each."""
    found: list[str] = []
    while row := conn.row(_NEXT_ACCOUNT, backend, found[-1] if found else ""):
        found.append(row[0])
    return found
