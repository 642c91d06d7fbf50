"""What a store doubts that is a copy: what was unsent in it may have been sent since.

Rules:

1. A copy knows that it is one, and its moment: `copied_at`. The process that first serves from it, however the file
   came to its place, gives it a new epoch and doubts it, in the transaction in which it takes over.
2. Nothing that could have been sent since is sent before it was looked for: each such dispatch has an attempt that may
   have been carried out, and is then found or proved absent as any other one. Its id is the correlation key of whatever
   was sent: the ids of a start and of all its parts are in the copy.
3. What could not have been sent since waits as it did: what was cancelled before, and what is scheduled for later than
   a day from now. No clock is taken at its word for less: that of the host that served may have been ahead, and this
   one's behind. If it is behind what is in the copy, it says nothing at all. What was only put off may have been sent.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from gateway.errors import Reason
from gateway.model import Cause, Notice, OutcomeKind, State
from gateway.store.blocks import write_out_next
from gateway.store.moves import Move, move, start_id_of
from gateway.store.rows import SCHEDULE, decode_standing, to_micros
from gateway.store.sending import seek

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

COPIED_AT = "copied_at"  # in `meta`: when the copy was made, by our clock, in microseconds
AHEAD = 86_400_000_000  # microseconds by which our clocks, then and now, may differ
LAST = 2**62  # later than any moment
MARGIN = 3_600_000_000  # microseconds by which a backend's clock may have been set since it was last seen
RESTORED = "sent, perhaps, after the copy was made that the store was restored from"

_RESTORED = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The store was restored from a copy in which this was unsent: it may have been sent since. It is being"
    " looked for while next_attempt_time is set; after that only the backend showing it, or ResolveFlowStart, settles"
    " it.",
    metadata={"detail": RESTORED},
)
_SCHEDULED_BY = f"coalesce({SCHEDULE}, 0) <= $1"
_DOUBTFUL = (  # what was cancelled was not sent any more; an open attempt is `recover`'s
    "state = PENDING and exists (select 1 from starts s where s.id = start_id and s.erased = 0 and s.cancel_at is null"
    f" and {_SCHEDULED_BY})"
    " and not exists (select 1 from attempts a where a.dispatch_id = dispatches.id and a.outcome is null)"
)


def mark(conn: Connection, now: datetime) -> None:
    """Has a copy know that it is one, and of which moment; a copy of a copy is of the first one's."""
    conn.run("insert into meta values ($1, $2) on conflict do nothing", COPIED_AT, str(to_micros(now)))


def mark_found(conn: Connection) -> None:
    """Does so for a copy that was made by other means: everything that it does not have came after all that it has."""
    conn.run("insert into meta values ($1, $2) on conflict do nothing", COPIED_AT, str(newest(conn)))


def copied_at(conn: Connection) -> int | None:
    """Tells of which moment a copy is; None if this is no copy, as far as it knows."""
    row = conn.row("select value from meta where key = $1", COPIED_AT)
    return None if row is None else max(int(row[0]), newest(conn))


def doubt(transaction: Transaction) -> bool:
    """Begins a new epoch and doubts what was unsent, if this is a copy; returns whether it is."""
    conn = transaction.conn
    moment = copied_at(conn)
    if moment is None:
        return False
    conn.run("delete from meta where key = $1", COPIED_AT)
    conn.run("update meta set value = $1 where key = 'epoch'", uuid.uuid4().hex)
    until = transaction.now_micros + AHEAD if transaction.now_micros >= moment else LAST
    for start_id in _under_way(transaction, until):
        while write_out_next(transaction, start_id, though_some_wait=True):
            pass  # its blocks may have been written out and sent
    backends = {
        backend: (moment + min(0, _clock_difference(conn, backend)) - MARGIN, _account(conn, backend))
        for (backend,) in conn.rows("select distinct backend from dispatches where state = PENDING")
    }
    rows = conn.rows(f"select id, backend from dispatches where {_DOUBTFUL}", until)
    for dispatch_id, backend in rows:
        _doubt_one(transaction, dispatch_id, *backends[backend])
    return True


def _doubt_one(transaction: Transaction, dispatch_id: str, since: int, known_account: str | None) -> None:
    conn, now = transaction.conn, transaction.now_micros
    number, account = conn.one(
        "update dispatches set attempts = attempts + 1, account = coalesce(account, $1) where id = $2"
        " returning attempts, account",
        known_account,
        dispatch_id,
    )
    conn.run(
        "insert into attempts (dispatch_id, number, start_id, incarnation, begun_at, ended_at, outcome, cause, detail,"
        " since) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        dispatch_id,
        number,
        start_id_of(dispatch_id),
        transaction.incarnation,
        now,
        now,
        OutcomeKind.UNSURE,
        Cause.RESTORED,
        RESTORED,
        since,
    )
    if account is not None:  # else it is not known where it would be, and it rests
        seek(transaction, dispatch_id, since, now)
    move(transaction, Move(dispatch_id, State.UNCERTAIN, _RESTORED))


def _under_way(transaction: Transaction, until: int) -> Iterator[str]:
    """Lists the starts that have blocks, unless they are scheduled for later: then none of them was written out."""
    rows = transaction.conn.rows(
        "select distinct r.start_id from recipients r join starts s on s.id = r.start_id"
        f" where s.erased = 0 and s.cancel_at is null and {_SCHEDULED_BY}",
        until,
    )
    return (start_id for (start_id,) in rows)


def _clock_difference(conn: Connection, backend: str) -> int:
    """Tells how far a backend's clock was ahead of ours when it was last sent something."""
    row = conn.row(
        "select a.since - a.begun_at from attempts a join dispatches d on d.id = a.dispatch_id"
        " where d.backend = $1 and a.since is not null and a.cause is distinct from $2"
        " order by a.begun_at desc limit 1",
        backend,
        Cause.RESTORED,
    )
    return 0 if row is None else int(row[0])


def _account(conn: Connection, backend: str) -> str | None:
    """Returns whose account a backend was last known to be, for what was recorded before that was known."""
    row = conn.row(
        "select account from dispatches where backend = $1 and account is not null order by start_id desc limit 1",
        backend,
    )
    return None if row is None else str(row[0])


def newest(conn: Connection) -> int:
    """Returns the latest moment that anything in the store is of."""
    moments: list[Any] = [0]
    moments += conn.one("select max(created_at) from starts")
    moments += conn.one("select greatest(max(begun_at), coalesce(max(ended_at), 0)) from attempts")
    last = conn.row("select standing from changes order by revision desc limit 1")
    moments += [to_micros(decode_standing(last[0]).updated_at)] if last else []
    return max(filter(None, moments), default=0)
