"""Which dispatches may be sent now, and which may not be sent any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.model import Dispatch, State
from gateway.store import Claims
from gateway.store.creating import Part, contact_key, write_dispatches
from gateway.store.moves import CANCELLED, EXPIRED, GAVE_UP, Move, move, start_id_of
from gateway.store.rows import (
    ASKED_WIDTH,
    START_COLUMNS,
    decode,
    decode_asked,
    from_micros,
    over,
    to_micros,
    unpack_recipients,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from sqlite3 import Connection

    from gateway.store.writer import Transaction

AT_ONCE = 500  # dispatches ended in one claim, so that a large start which expires or is cancelled holds nobody up

_BY_WAITING = "indexed by dispatches_waiting"  # not through all of a start that were sent before
_STRANDED = (
    "with moved(id) as (values $rows) select moved.id from moved"
    " where exists (select 1 from recipients r where r.start_id = moved.id)"
    f" and not exists (select 1 from dispatches d {_BY_WAITING}"
    " where d.start_id = moved.id and d.state = 1 and d.claimed_by is null)"
    " and not exists (select 1 from dispatches d indexed by dispatches_held"
    " where d.start_id = moved.id and d.claimed_by = 0)"
)

NONE_OPEN = "not exists (select 1 from attempts a where a.dispatch_id = dispatches.id and a.outcome is null)"
_CLAIMABLE = "from dispatches d where d.backend = ?1 and d.state = 1 and d.claimed_by is null"
_ALONE = (  # one that is being sent or looked for may turn out to run, and its recipient may have no other
    "(d.recipient is null or not exists (select 1 from dispatches o where o.recipient = d.recipient"
    " and o.recipient is not null and o.state in (1, 7) and o.backend = d.backend and o.id <> d.id"
    " and (o.claimed_by > 0 or (o.state = 7 and o.sought_from is not null))))"
)


def claim(transaction: Transaction, backend: str, limit: int) -> Claims:
    """Takes due dispatches, of each tenant the longest due first; ends those that have expired or were cancelled.

    Tenants take turns, whoever has waited longest for one first. A block of a large start queues up when the one before
    it has been claimed, so that large starts and small ones take turns as well.
    """
    _expire(transaction, backend)
    _end_cancelled(transaction, backend)
    tenants = waiting = transaction.tenants(backend)
    claimed: list[Dispatch] = []
    while waiting and len(claimed) < limit:
        share = max(1, (limit - len(claimed)) // len(waiting))
        served = []
        for tenant in waiting[: limit - len(claimed)]:
            if taken := _take(transaction, backend, tenant, min(share, limit - len(claimed))):
                claimed += taken
                served.append(tenant)
        if len(tenants) > 1:
            transaction.serve(backend, served)
        waiting = served
    next_due = min((due for tenant in tenants if (due := _next_due(transaction.conn, backend, tenant))), default=None)
    return Claims(dispatches=tuple(claimed), next_due_at=from_micros(next_due))


def _take(transaction: Transaction, backend: str, tenant: str, limit: int) -> list[Dispatch]:
    """Takes due dispatches of one tenant; of two for one recipient that may have one, the first."""
    conn = transaction.conn
    rows = conn.execute(
        "select d.id, d.recipients, d.attempts, d.recipient,"
        f" exists (select 1 from recipients r where r.start_id = d.start_id), s.params, {START_COLUMNS}"
        f" from (select id, start_id, number, recipients, attempts, recipient, due_at {_CLAIMABLE} and d.tenant = ?2"
        f" and d.due_at <= ?3 and d.expire_at > ?3 and {_ALONE}"
        " order by d.due_at, d.start_id, d.number limit ?4) d"
        " join starts s on s.id = d.start_id order by d.due_at, d.start_id, d.number",
        (backend, tenant, transaction.now_micros, limit),
    ).fetchall()
    first_of: dict[str, tuple[Any, ...]] = {}
    for row in rows:
        first_of.setdefault(row[3] or row[0], row)
    firsts = list(first_of.values())
    over(
        conn,
        "with taken(id, incarnation) as (values $rows) update dispatches set claimed_by = taken.incarnation"
        " from taken where dispatches.id = taken.id",
        [(row[0], transaction.incarnation) for row in firsts],
    )
    _write_out_next(transaction, {start_id_of(row[0]) for row in firsts if row[4]})
    return [_dispatch(row) for row in firsts]


def _next_due(conn: Connection, backend: str, tenant: str) -> int | None:
    """Tells when a tenant's next dispatch can be claimed, or any expires; the past means that there is more to do."""
    (due,) = conn.execute(
        f"select min(at) from (select * from (select d.due_at as at {_CLAIMABLE} and d.tenant = ?2 and {_ALONE}"
        f" order by d.due_at limit 1) union all select min(d.expire_at) {_CLAIMABLE} and d.expire_at is not null)",
        (backend, tenant),
    ).fetchone()
    return None if due is None else int(due)


def _dispatch(row: tuple[Any, ...]) -> Dispatch:
    """Reads `id, recipients, attempts, recipient, whether more follow, params, *START_COLUMNS`."""
    dispatch_id, recipients, attempts, _, _, params, *start = row
    asked = decode_asked(tuple(start[:ASKED_WIDTH]), params)
    return Dispatch(
        id=dispatch_id,
        flow=asked.flow,
        recipients=unpack_recipients(decode(recipients)),
        params=asked.params,
        sender=asked.sender,
        restart_participants=asked.restart_participants,
        exclude_active=asked.exclude_active,
        expire_at=asked.expire_at,
        attempts=attempts,
    )


def _write_out_next(transaction: Transaction, start_ids: set[str]) -> None:
    """Turns the next block of each start that has one, and nothing that waits, into dispatches at the queue's end."""
    for start_id in sorted(start_ids):
        write_out_next(transaction, start_id)


def write_out_next(transaction: Transaction, start_id: str, *, though_some_wait: bool = False) -> bool:
    """Turns the next block of a start into dispatches, unless some wait; returns whether it did."""
    conn = transaction.conn
    row = conn.execute(
        "select r.block, r.first_number, r.body, s.tenant, s.backend, s.flow, coalesce(s.expire_at, s.give_up_at),"
        " d.account, d.recipient is not null, s.asked from recipients r"
        " join starts s on s.id = r.start_id join dispatches d on d.id = r.start_id || '-1'"
        " where r.start_id = ?1 and (?2 or not exists"
        f" (select 1 from dispatches d {_BY_WAITING} where d.start_id = ?1 and d.state = 1 and d.claimed_by is null))"
        " order by r.block limit 1",
        (start_id, though_some_wait),
    ).fetchone()
    if row is None:
        return False
    block, first_number, body, tenant, backend, flow, expire_at, account, exclusive, asked = row
    conn.execute("delete from recipients where start_id = ? and block = ?", (start_id, block))
    start = Part(
        id=start_id,
        tenant=tenant,
        backend=backend,
        flow=flow,
        due_at=transaction.now_micros,
        expire_at=expire_at,
        account=account,
        exclusive=contact_key(flow, decode(asked).get("sender", "")) if exclusive else None,
    )
    write_dispatches(conn, start, first_number, decode(body))
    return True


def write_out_stranded(transaction: Transaction, start_ids: Collection[str]) -> list[str]:
    """Writes out the next block of each start that has one and of which nothing waits or is held; returns which.

    Every transaction ends with it for the starts that it moves, so that no way in which the last dispatch stops waiting
    leaves the blocks behind: not its adoption, nor one that is added later.
    """
    stranded = [start_id for (start_id,) in over(transaction.conn, _STRANDED, [(each,) for each in start_ids])]
    for start_id in stranded:
        write_out_next(transaction, start_id)
        transaction.conn.execute("update starts set cancelling = 1 where id = ? and cancel_at is not null", (start_id,))
    return stranded


def _expire(transaction: Transaction, backend: str) -> None:
    """Ends what is unsent and may not be sent any more, a bounded number at a time."""
    left = AT_ONCE
    while left > 0:
        expired = transaction.conn.execute(
            "select d.id, s.expire_at is null from (select d.id, d.start_id"
            f" {_CLAIMABLE} and d.expire_at is not null and d.expire_at <= ?2 limit ?3) d"
            " join starts s on s.id = d.start_id",
            (backend, transaction.now_micros, left),
        ).fetchall()
        if not expired:
            return
        move(transaction, *(Move(each, State.FAILED, GAVE_UP if gave_up else EXPIRED) for each, gave_up in expired))
        _write_out_next(transaction, {start_id_of(dispatch_id) for dispatch_id, _ in expired})
        left -= len(expired)


def _end_cancelled(transaction: Transaction, backend: str) -> None:
    """Ends what is unsent of cancelled starts, a bounded number at a time."""
    starts = transaction.conn.execute("select id from starts where backend = ? and cancelling = 1", (backend,))
    left = AT_ONCE
    for (start_id,) in starts.fetchall():
        left -= end_unsent(transaction, start_id, left)
        if left <= 0:
            return


def end_unsent(transaction: Transaction, start_id: str, limit: int) -> int:
    """Ends what is unsent of a cancelled start, some of it now and the rest with later claims; returns how many."""
    conn, ended = transaction.conn, 0
    while ended < limit:
        rows = conn.execute(
            f"select id from dispatches {_BY_WAITING} where start_id = ? and state = 1 and claimed_by is null limit ?",
            (start_id, limit - ended),
        ).fetchall()
        if not rows:
            if write_out_next(transaction, start_id):
                continue
            conn.execute("update starts set cancelling = 0 where id = ?", (start_id,))
            break
        move(transaction, *(Move(dispatch_id, State.INTERRUPTED, CANCELLED) for (dispatch_id,) in rows))
        ended += len(rows)
    return ended


def release(transaction: Transaction, dispatch_id: str, due_at: datetime) -> None:
    """Gives a claimed dispatch back; one whose start was cancelled meanwhile ends."""
    released = transaction.conn.execute(
        f"update dispatches set claimed_by = null, due_at = ? where id = ? and claimed_by = ? and {NONE_OPEN}",
        (to_micros(due_at), dispatch_id, transaction.incarnation),
    )
    if released.rowcount and is_cancelled(transaction.conn, dispatch_id):
        move(transaction, Move(dispatch_id, State.INTERRUPTED, CANCELLED))


def is_cancelled(conn: Connection, dispatch_id: str) -> bool:
    """Whether the start of a dispatch is to be stopped."""
    stopped = "select 1 from starts where id = ? and cancel_at is not null"
    return conn.execute(stopped, (start_id_of(dispatch_id),)).fetchone() is not None
