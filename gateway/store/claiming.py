"""Which dispatches may be sent now, and which may not be sent any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.model import Cause, Dispatch, State
from gateway.store import turns
from gateway.store.blocks import set_aside, write_out_each, write_out_next
from gateway.store.giving_up import end_or_put_off, give_up
from gateway.store.moves import CANCELLED, Move, move, start_id_of
from gateway.store.rows import (
    ASKED_COLUMNS,
    UNREADABLE,
    decode,
    decode_asked,
    from_micros,
    to_micros,
    unpack_recipients,
)
from gateway.store.unreadable import unreadable
from gateway.store.words import Claims

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

AT_ONCE = 500  # dispatches of a start ended in one step of its cancelling, so that a large one holds nobody up
ENDED = 250  # dispatches that one claim ends because they are over, so that many of them hold nobody up
IN_FRONT = 50  # dispatches that it ends beside these, because others of their tenants stand behind them
_BY_WAITING = "/*by dispatches_waiting*/"  # not through all of a start that were sent before
NONE_OPEN = "not exists (select 1 from attempts a where a.dispatch_id = dispatches.id and a.outcome is null)"
_DOUBTS = (  # of earlier attempts: whether any may have been carried out, and whether one found the recipient busy
    "d.attempts > 0 and exists (select 1 from attempts a where a.dispatch_id = d.id"
    " and a.outcome in ('UNSURE', 'ACCEPTED')),"
    " d.attempts > 0 and exists (select 1 from attempts a where a.dispatch_id = d.id and a.outcome = 'UNSURE'"
    f" and a.cause = '{Cause.BUSY}')"
)
_WAITING = "from dispatches d where d.backend = $1 and d.state = PENDING and d.claimed_by is null"
_CLAIMABLE = f"{_WAITING} and d.in_line = 0"  # what stands in line comes to the front when its recipient is free


class _Due(NamedTuple):
    """A row of what a claim reads; `asked` are the `ASKED_COLUMNS` of its start."""

    id: str
    number: int
    recipients: str
    attempts: int
    was_unsure: int
    was_busy: int
    is_in_time: int
    params: str
    has_blocks: int
    asked: tuple[Any, ...]


_DUE = len(_Due._fields) - 1  # columns before those of what was asked


@dataclass(slots=True)
class _Allowed:
    """How many dispatches a claim may still take of each tenant in `each`, and of all in `slow` together."""

    each: dict[str, int]
    slow: Collection[str]
    slow_left: int

    def left(self, tenant: str, room: int) -> int:
        """Returns how many it may take of a tenant where there is room for so many."""
        room = min(room, self.each.get(tenant, room))
        return min(room, self.slow_left) if tenant in self.slow else room

    def took(self, tenant: str, count: int) -> None:
        """Counts what was taken of a tenant."""
        if tenant in self.each:
            self.each[tenant] -= count
        if tenant in self.slow:
            self.slow_left -= count

    def resting(self) -> set[str]:
        """Returns the tenants of which nothing may be taken."""
        return {tenant for tenant, most in self.each.items() if not most} | (set() if self.slow_left else {*self.slow})


@dataclass(frozen=True, slots=True)
class Claim:
    """How many due dispatches a lane wants, and of whom how many at the most."""

    backend: str
    limit: int
    limits: Mapping[str, int] = field(default_factory=dict)
    slow: Collection[str] = ()
    slow_limit: int = 0
    ends: bool = True

    def __call__(self, transaction: Transaction) -> Claims:
        """Takes due dispatches, of each tenant the longest due first; ends those that have expired or were cancelled.

        Tenants take turns, the one served the longest ago first. A block of a large start queues up when the one before
        it has been claimed, so that large starts and small ones take turns as well. What one claim costs is bounded:
        what it leaves undone is due at once. A tenant in `limits` gets no more than that, those in `slow` together no
        more than `slow_limit`, and what they have left is not due. Where what is over may not be ended now, its tenant
        has to wait behind it. Nothing is done in a lane that another gateway has.
        """
        if not transaction.may_work(self.backend):
            return Claims(dispatches=(), next_due_at=None)
        conn, allowed = transaction.conn, _Allowed(dict(self.limits), self.slow, self.slow_limit)
        left, may_end = (ENDED, IN_FRONT) if self.ends else (0, 0)
        if self.ends:
            left = _end_cancelled(transaction, self.backend, _expire(transaction, self.backend, left))
        turns.call(transaction, self.backend)
        claimed: list[Dispatch] = []
        blocked: set[str] = set()  # tenants whose next dispatch is over and may not be ended now
        looks = turns.AT_ONCE
        while len(claimed) < self.limit and looks > 0:
            room = self.limit - len(claimed)
            tenants = turns.ready(
                conn, self.backend, min(room, looks) + 1, allowed.resting()
            )  # one more tells whether there are others
            if not tenants:
                break
            share = max(1, room // len(tenants))
            for tenant in tenants[:room]:
                most = allowed.left(tenant, min(share, self.limit - len(claimed)))
                if not most:
                    continue  # other slow ones have just been given what they may have together
                taken, ended, is_behind = _take(transaction, self.backend, tenant, most, may_end)
                claimed += taken
                may_end -= ended
                allowed.took(tenant, len(taken))
                if is_behind:
                    blocked.add(tenant)
                    allowed.each[tenant] = 0
                if taken:
                    turns.serve(conn, self.backend, tenant)
                if len(taken) < share:
                    turns.look_again(transaction, self.backend, tenant)
            looks -= len(tenants)
        ends_more = self.ends and (left <= 0 or bool(blocked))
        moments = [turns.next_due(transaction, self.backend, allowed.resting())]
        moments += [transaction.now_micros] if ends_more else []
        moments += [_first_expiry(conn, self.backend)] if self.ends else []
        next_due = min((at for at in moments if at is not None), default=None)
        return Claims(dispatches=tuple(claimed), next_due_at=from_micros(next_due), ends_more=ends_more)


def _first_expiry(conn: Connection, backend: str) -> int | None:
    """Returns when the first of what waits may not be sent any more; None if nothing waits."""
    (first,) = conn.one(f"select min(d.expire_at) {_WAITING} and d.expire_at is not null", backend)
    return None if first is None else int(first)


def _take(
    transaction: Transaction, backend: str, tenant: str, limit: int, may_end: int
) -> tuple[list[Dispatch], int, bool]:
    """Takes due dispatches of one tenant. Ends those that have expired; sets aside those that cannot be read.

    Returns what it took, how many it ended, and whether there are some before the next one that it might not end.
    """
    conn, now = transaction.conn, transaction.now_micros
    found = conn.rows(
        f"select d.id, d.number, d.recipients, d.attempts, {_DOUBTS}, d.expire_at > $3, s.params,"
        f" exists (select 1 from recipients r where r.start_id = d.start_id), {ASKED_COLUMNS}"
        f" from (select id, start_id, number, recipients, attempts, expire_at, due_at {_CLAIMABLE} and d.tenant = $2"
        " and d.due_at <= $3 order by d.due_at, d.start_id, d.number limit $4) d"
        " join starts s on s.id = d.start_id order by d.due_at, d.start_id, d.number",
        backend,
        tenant,
        now,
        limit,
    )
    rows = [_Due._make((*row[:_DUE], row[_DUE:])) for row in found]
    over_now = give_up(transaction, [row.id for row in rows if not row.is_in_time])
    taken: list[Dispatch] = []
    expired: list[Move] = []
    aside: list[str] = []
    is_behind = False
    for row in rows:
        if row.id in over_now:
            if len(expired) < may_end:
                expired.append(Move(row.id, State.FAILED, over_now[row.id]))
            else:
                is_behind = True
            continue
        try:
            taken.append(_dispatch(row, tenant))
        except UNREADABLE as error:
            unreadable.note("dispatch", row.id, error)
            aside.append(row.id)
    conn.over(
        "with taken(id text, incarnation bigint) as ($rows) update dispatches set claimed_by = taken.incarnation"
        " from taken where dispatches.id = taken.id",
        [(dispatch.id, transaction.incarnation) for dispatch in taken],
    )
    move(transaction, *expired)
    set_aside(transaction, aside)
    write_out_each(transaction, {start_id_of(row.id) for row in rows if row.has_blocks})
    return taken, len(expired), is_behind


def _dispatch(row: _Due, tenant: str) -> Dispatch:
    """Reads a dispatch of a tenant."""
    asked, named = decode_asked(row.asked, row.params), unpack_recipients(decode(row.recipients))
    if not named.count:
        msg = "nobody is named in it"
        raise ValueError(msg)
    return Dispatch(
        id=row.id,
        tenant=tenant,
        number=row.number,
        was_unsure=bool(row.was_unsure),
        was_busy=bool(row.was_busy),
        flow=asked.flow,
        recipients=named,
        params=asked.params,
        sender=asked.sender,
        restart_participants=asked.restart_participants,
        exclude_active=asked.exclude_active,
        expire_at=asked.expire_at,
        attempts=row.attempts,
    )


def _expire(transaction: Transaction, backend: str, left: int) -> int:
    """Ends what is unsent and may not be sent any more, a bounded number at a time; returns how many more may end."""
    while left > 0:
        expired = transaction.conn.rows(
            f"select d.id {_WAITING} and d.expire_at is not null and d.expire_at <= $2 limit $3",
            backend,
            transaction.now_micros,
            left,
        )
        if not expired:
            break
        left -= len(expired)
        ended = end_or_put_off(transaction, [dispatch_id for (dispatch_id,) in expired])
        write_out_each(transaction, {start_id_of(dispatch_id) for dispatch_id in ended})
    return left


def _end_cancelled(transaction: Transaction, backend: str, left: int) -> int:
    """Ends what is unsent of cancelled starts, a bounded number at a time; returns how many more may end."""
    while left > 0:
        row = transaction.conn.row("select id from starts where backend = $1 and cancelling = 1 limit 1", backend)
        if row is None:
            break
        left -= 1 + end_unsent(transaction, row[0], left)
    return left


def end_unsent(transaction: Transaction, start_id: str, limit: int) -> int:
    """Ends some of what is unsent of a cancelled start, the rest with later claims; returns how many it looked at.

    Before that it marks what runs as to be ended, if it is to be.
    """
    conn, looked = transaction.conn, _mark_running(transaction, start_id, limit)
    while looked < limit:
        rows = conn.rows(
            f"select id from dispatches {_BY_WAITING}"
            f" where start_id = $1 and state = PENDING and claimed_by is null limit $2",
            start_id,
            limit - looked,
        )
        if not rows:
            if write_out_next(transaction, start_id):
                continue
            conn.run("update starts set cancelling = 0 where id = $1", start_id)
            break
        move(transaction, *(Move(dispatch_id, State.INTERRUPTED, CANCELLED) for (dispatch_id,) in rows))
        looked += len(rows)
    return looked


def _mark_running(transaction: Transaction, start_id: str, limit: int) -> int:
    """Marks what runs of a start as to be ended, from where an earlier step stopped; returns how many it looked at."""
    conn = transaction.conn
    (marked,) = conn.one("select marked from starts where id = $1", start_id)
    if marked is None:
        return 0
    numbers = range(marked + 1, min(marked + limit, transaction.dispatches(start_id)) + 1)
    conn.over(
        "with running(id text) as ($rows) update dispatches set ending = TO_END from running"
        " where dispatches.id = running.id and state in (QUEUED, STARTED) and ending in (NOT_ENDING, REPLACING)",
        [(f"{start_id}-{number}",) for number in numbers],
    )
    is_last = len(numbers) < limit
    conn.run("update starts set marked = $1 where id = $2", None if is_last else numbers[-1], start_id)
    return len(numbers)


@dataclass(frozen=True, slots=True)
class Release:
    """A claimed dispatch that was not sent; None as `due_at` leaves it the place that it had."""

    dispatch_id: str
    due_at: datetime | None

    def __call__(self, transaction: Transaction) -> None:
        """Gives it back."""
        release(transaction, self.dispatch_id, self.due_at)


def release(transaction: Transaction, dispatch_id: str, due_at: datetime | None) -> None:
    """Gives a claimed dispatch back, due then or in the place that it had; one that was cancelled meanwhile ends."""
    released = transaction.conn.run(
        f"update dispatches set claimed_by = null, due_at = coalesce($1, due_at)"
        f" where id = $2 and claimed_by = $3 and {NONE_OPEN}",
        to_micros(due_at),
        dispatch_id,
        transaction.incarnation,
    )
    if released and is_cancelled(transaction.conn, dispatch_id):
        move(transaction, Move(dispatch_id, State.INTERRUPTED, CANCELLED))


def is_cancelled(conn: Connection, dispatch_id: str) -> bool:
    """Whether the start of a dispatch is to be stopped."""
    stopped = "select 1 from starts where id = $1 and cancel_at is not null"
    return conn.row(stopped, start_id_of(dispatch_id)) is not None
