"""The blocks of large starts, which become dispatches as those before them are sent, and what of them cannot be read.

A start that has blocks has a dispatch that waits, or one that is held: then its blocks stay where they are.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.errors import Reason
from gateway.model import Notice
from gateway.store.creating import Part, contact_key, write_dispatches
from gateway.store.moves import start_id_of, warn
from gateway.store.rows import UNREADABLE, decode, unpack_recipients
from gateway.store.tally import Tally
from gateway.store.unreadable import unreadable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

_SET_ASIDE = Notice(
    reason=Reason.SET_ASIDE,
    message="A part of this start cannot be read from the store, so it is not sent: the file was damaged, or changed by"
    " something else. It ends with its `expire_time`, or CancelFlowStart ends it; the log of the gateway names it.",
)
_BY_WAITING = "/*by dispatches_waiting*/"  # not through all of a start that were sent before
_STRANDED = (
    "with moved(id text) as ($rows) select moved.id from moved"
    " where exists (select 1 from recipients r where r.start_id = moved.id)"
    f" and not exists (select 1 from dispatches d {_BY_WAITING}"
    " where d.start_id = moved.id and d.state = PENDING and d.claimed_by is null)"
    " and not exists (select 1 from dispatches d /*by dispatches_held*/"
    " where d.start_id = moved.id and d.claimed_by = HELD)"
)


def write_out_each(transaction: Transaction, start_ids: set[str]) -> None:
    """Turns the next block of each start that has one, and nothing that waits, into dispatches at the queue's end."""
    for start_id in sorted(start_ids):
        write_out_next(transaction, start_id)


def write_out_next(transaction: Transaction, start_id: str, *, though_some_wait: bool = False) -> bool:
    """Turns the next block of a start into dispatches, unless some wait; returns whether it did."""
    conn = transaction.conn
    row = conn.row(
        "select r.block, r.first_number, r.body, s.tenant, s.backend, s.flow, coalesce(s.expire_at, s.give_up_at),"
        " d.account, d.recipient is not null, s.asked, s.tally from recipients r"
        " join starts s on s.id = r.start_id join dispatches d on d.id = r.start_id || '-1'"
        " where r.start_id = $1 and ($2 = 1 or not exists"
        f" (select 1 from dispatches d {_BY_WAITING} where d.start_id = $1 and d.state = PENDING and d.claimed_by"
        f" is null))"
        " order by r.block limit 1",
        start_id,
        though_some_wait,
    )
    if row is None:
        return False
    block, first_number, body, tenant, backend, flow, expire_at, account, exclusive, asked, tally = row
    conn.run("delete from recipients where start_id = $1 and block = $2", start_id, block)
    start = Part(
        id=start_id,
        tenant=tenant,
        backend=backend,
        flow=flow,
        due_at=transaction.now_micros,
        expire_at=expire_at,
        account=account,
        exclusive=None,
    )
    try:
        if exclusive:
            start = replace(start, exclusive=contact_key(flow, decode(asked).get("sender", "")))
        packed = decode(body)
        _check_block(conn, start_id, range(first_number, first_number + len(packed)), packed, tally)
        write_dispatches(conn, start, first_number, packed)
    except UNREADABLE as error:
        unreadable.note("block", (start_id, block), error)
        lost = _lost(conn, start_id, tally)
        for number in lost:
            write_dispatches(conn, replace(start, exclusive=None), number, [[[], [], []]])
        set_aside(transaction, [f"{start_id}-{number}" for number in lost])
        write_out_next(transaction, start_id, though_some_wait=though_some_wait)
    return True


def _check_block(conn: Connection, start_id: str, numbers: range, packed: list[Any], tally: str) -> None:
    """Raises `ValueError` if a block is not the one that continues where the dispatches of its start end."""
    (before, first, following) = conn.one(
        "select exists (select 1 from dispatches where id = $2), exists (select 1 from dispatches where id = $3),"
        " (select first_number from recipients where start_id = $1 order by block limit 1)",
        start_id,
        f"{start_id}-{numbers.start - 1}",
        f"{start_id}-{numbers.start}",
    )
    if following is None:
        following = _total(tally) + 1 or numbers.stop
    if (before, first, following) != (1, 0, numbers.stop) or not all(unpack_recipients(each).count for each in packed):
        msg = "it does not continue the dispatches of its start"
        raise ValueError(msg)


def _lost(conn: Connection, start_id: str, tally: str) -> list[int]:
    """Returns the numbers of the dispatches that are neither written out nor in another block."""
    there = {number for (number,) in conn.rows("select number from dispatches where start_id = $1", start_id)}
    for first, body in conn.rows("select first_number, body from recipients where start_id = $1", start_id):
        with suppress(*UNREADABLE):
            there.update(range(first, first + len(decode(body))))
    total = _total(tally)
    if total < 0:
        total = 1 + max(there, default=0)
    return [number for number in range(1, total + 1) if number not in there]


def _total(tally: str) -> int:
    """Returns how many dispatches a start has; -1 if its tally cannot be read."""
    try:
        return sum(Tally.decode(tally).dispatches.values())
    except UNREADABLE:
        return -1


def write_out_stranded(transaction: Transaction, start_ids: Collection[str]) -> list[str]:
    """Writes out the next block of each start that has one and of which nothing waits or is held; returns which.

    Every transaction ends with it for the starts that it moves, so that no way in which the last dispatch stops waiting
    leaves the blocks behind: not its adoption, nor one that is added later.
    """
    stranded = [start_id for (start_id,) in transaction.conn.over(_STRANDED, [(each,) for each in start_ids])]
    for start_id in stranded:
        write_out_next(transaction, start_id)
        transaction.conn.run("update starts set cancelling = 1 where id = $1 and cancel_at is not null", start_id)
    return stranded


def set_aside(transaction: Transaction, dispatch_ids: Sequence[str]) -> None:
    """Holds dispatches that cannot be read, and warns of it. They expire, are cancelled, and a later life looks again.

    So one bad row stops nothing but itself, and its start says so.
    """
    transaction.conn.over(
        "with aside(id text) as ($rows) update dispatches set claimed_by = HELD from aside"
        " where dispatches.id = aside.id",
        [(each,) for each in dispatch_ids],
    )
    for start_id in sorted({start_id_of(each) for each in dispatch_ids}):
        warn(transaction, start_id, _SET_ASIDE)
