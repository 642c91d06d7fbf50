"""What can be written: each operation is a function of a `Transaction`.

An operation never reads a clock; `transaction.now` is the moment of its commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.errors import Reason
from gateway.model import NEXT, TERMINAL, Dispatch, FlowStart, Notice, Recipients, Standing, State
from gateway.store import Claims, Recorded, Settlement
from gateway.store.rows import (
    ASKED_WIDTH,
    START_COLUMNS,
    decode,
    decode_asked,
    decode_start,
    encode,
    encode_asked,
    encode_standing,
    from_micros,
    pack_notice,
    pack_recipients,
    to_micros,
    unpack_recipients,
)
from gateway.store.tally import fresh, stand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from sqlite3 import Connection

    from gateway.model import Asked, Sighting
    from gateway.store.tally import Tally
    from gateway.store.writer import Transaction

BLOCK = 100  # recipients: a start of 10,000 is 100 small rows at first, not 10,000

_EXPIRED = Notice(reason=Reason.EXPIRED, message="expire_time passed before the backend had accepted it.")
_CRASHED = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The gateway stopped while sending: the backend may have it. It is not sent again by itself.",
)


def create(
    transaction: Transaction, asked: Asked, plan: Sequence[Recipients], fingerprint: str, warnings: tuple[Notice, ...]
) -> Recorded:
    """Records a start, its first block of dispatches, and the recipients of the others."""
    tally = fresh(len(plan), asked.recipient_count, warnings)
    due_at = max(asked.schedule_at or transaction.now, transaction.now)
    standing = stand(
        tally,
        Standing(updated_at=transaction.now),
        external_id="",
        next_attempt_at=due_at if due_at > transaction.now else None,
        now=transaction.now,
    )
    revision, text = transaction.next_revision(), encode_standing(standing)
    inserted = transaction.conn.execute(
        "insert into starts (id, tenant, backend, flow, request_id, fingerprint, created_at, expire_at, state,"
        " revision, asked, params, standing, tally) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " on conflict (tenant, request_id) where request_id is not null do nothing",
        (
            asked.id,
            asked.tenant,
            asked.backend,
            asked.flow,
            asked.request_id or None,
            fingerprint,
            to_micros(asked.created_at),
            to_micros(asked.expire_at),
            standing.state,
            revision,
            encode_asked(asked),
            encode(asked.params),
            text,
            tally.encode(),
        ),
    )
    if not inserted.rowcount:  # a twin was first
        transaction.head = revision - 1
        found = find_request(transaction.conn, asked.tenant, asked.request_id)
        assert found is not None
        return found
    transaction.add_change(asked.id, revision, None, text)
    _write_plan(transaction, asked, plan, to_micros(due_at) or 0)
    flow_start = FlowStart(asked=asked, standing=standing, revision=revision)
    return Recorded(flow_start=flow_start, fingerprint=fingerprint, replayed=False)


def _write_plan(transaction: Transaction, asked: Asked, plan: Sequence[Recipients], due_micros: int) -> None:
    expire = to_micros(asked.expire_at)
    for block, (first_number, part) in enumerate(_blocks(plan)):
        packed = [pack_recipients(recipients) for recipients in part]
        if block == 0:
            _write_dispatches(
                transaction.conn, (asked.id, asked.backend, asked.flow, due_micros, expire), first_number, packed
            )
            continue
        transaction.conn.execute(
            "insert into recipients (start_id, block, first_number, body) values (?, ?, ?, ?)",
            (asked.id, block, first_number, encode(packed)),
        )


def _blocks(plan: Sequence[Recipients]) -> Iterator[tuple[int, Sequence[Recipients]]]:
    """Cuts a plan into blocks of about `BLOCK` recipients, each with the number of its first dispatch."""
    first, count = 0, 0
    for number, recipients in enumerate(plan):
        count += recipients.count
        if count >= BLOCK or number == len(plan) - 1:
            yield first + 1, plan[first : number + 1]
            first, count = number + 1, 0


def _write_dispatches(
    conn: Connection, start: tuple[str, str, str, int, int | None], first_number: int, packed: list[list[list[str]]]
) -> None:
    start_id, backend, flow, due_micros, expire = start
    conn.executemany(
        "insert into dispatches (id, start_id, number, backend, flow, state, recipient_count, recipients, due_at,"
        " expire_at) values (?, ?, ?, ?, ?, 1, ?, ?, ?, ?)",
        [
            (
                f"{start_id}-{number}",
                start_id,
                number,
                backend,
                flow,
                sum(len(kind) for kind in recipients),
                encode(recipients),
                due_micros,
                expire,
            )
            for number, recipients in enumerate(packed, first_number)
        ],
    )


def find_request(conn: Connection, tenant: str, request_id: str) -> Recorded | None:
    """Reads the start that has a request id."""
    row = conn.execute(
        f"select {START_COLUMNS}, s.params, s.fingerprint from starts s where s.tenant = ? and s.request_id = ?",
        (tenant, request_id),
    ).fetchone()
    if row is None:
        return None
    *_, params, fingerprint = row
    return Recorded(flow_start=decode_start(row, params), fingerprint=fingerprint, replayed=True)


_NONE_OPEN = "not exists (select 1 from attempts a where a.dispatch_id = dispatches.id and a.outcome is null)"
_CLAIMABLE = "from dispatches d where d.backend = ?1 and d.state = 1 and d.claimed_by is null"


EXPIRED_AT_ONCE = 500  # dispatches ended in one claim, so that a large start which expires holds nobody up


def claim(transaction: Transaction, backend: str, limit: int) -> Claims:
    """Takes due dispatches, the longest due first; ends those that have expired.

    A block of a large start queues up when the one before it has been claimed, so that large starts and small ones
    take turns.
    """
    conn, now = transaction.conn, transaction.now_micros
    _expire(transaction, backend)
    claimed: list[Dispatch] = []
    while len(claimed) < limit:
        rows = conn.execute(
            f"select d.id, d.recipients, s.params, {START_COLUMNS}"
            f" from (select id, start_id, number, recipients, due_at {_CLAIMABLE} and d.due_at <= ?2"
            " and (d.expire_at is null or d.expire_at > ?2) order by d.due_at, d.start_id, d.number limit ?3) d"
            " join starts s on s.id = d.start_id order by d.due_at, d.start_id, d.number",
            (backend, now, limit - len(claimed)),
        ).fetchall()
        if not rows:
            break
        conn.executemany(
            "update dispatches set claimed_by = ? where id = ?", [(transaction.incarnation, row[0]) for row in rows]
        )
        claimed += [_dispatch(row) for row in rows]
        _write_out_next(transaction, {_start_id(row[0]) for row in rows})
    return Claims(dispatches=tuple(claimed), next_due_at=from_micros(_next_due(conn, backend)))


def _next_due(conn: Connection, backend: str) -> int | None:
    """Tells when the next unclaimed dispatch is due or expires; the past means that there is more to do already."""
    row = conn.execute(
        f"select min(at) from (select min(d.due_at) as at {_CLAIMABLE}"
        f" union all select min(d.expire_at) {_CLAIMABLE} and d.expire_at is not null)",
        (backend,),
    ).fetchone()
    return None if row is None else row[0]


def _start_id(dispatch_id: str) -> str:
    return dispatch_id.rpartition("-")[0]


def _dispatch(row: tuple[Any, ...]) -> Dispatch:
    """Reads `id, recipients, params, *START_COLUMNS`."""
    dispatch_id, recipients, params, *start = row
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
    )


def _write_out_next(transaction: Transaction, start_ids: set[str]) -> None:
    """Turns the next block of each start that has one, and nothing that waits, into dispatches at the queue's end."""
    conn = transaction.conn
    for start_id in sorted(start_ids):
        row = conn.execute(
            "select r.block, r.first_number, r.body, s.backend, s.flow, s.expire_at from recipients r"
            " join starts s on s.id = r.start_id where r.start_id = ?1 and not exists"
            " (select 1 from dispatches d where d.start_id = ?1 and d.state = 1 and d.claimed_by is null)"
            " order by r.block limit 1",
            (start_id,),
        ).fetchone()
        if row is not None:
            block, first_number, body, backend, flow, expire_at = row
            conn.execute("delete from recipients where start_id = ? and block = ?", (start_id, block))
            start = (start_id, backend, flow, transaction.now_micros, expire_at)
            _write_dispatches(conn, start, first_number, decode(body))


def _expire(transaction: Transaction, backend: str) -> None:
    """Ends what is unsent and may not be sent any more, a bounded number at a time."""
    left = EXPIRED_AT_ONCE
    while left > 0:
        expired = transaction.conn.execute(
            f"select d.id {_CLAIMABLE} and d.expire_at is not null and d.expire_at <= ?2 limit ?3",
            (backend, transaction.now_micros, left),
        ).fetchall()
        if not expired:
            return
        for (dispatch_id,) in expired:
            _move(transaction, dispatch_id, State.FAILED, _EXPIRED)
        _write_out_next(transaction, {_start_id(dispatch_id) for (dispatch_id,) in expired})
        left -= len(expired)


def release(transaction: Transaction, dispatch_id: str, due_at: datetime) -> None:
    """Gives a claimed dispatch back."""
    transaction.conn.execute(
        f"update dispatches set claimed_by = null, due_at = ? where id = ? and claimed_by = ? and {_NONE_OPEN}",
        (to_micros(due_at), dispatch_id, transaction.incarnation),
    )


def begin_attempt(transaction: Transaction, dispatch_id: str) -> int | None:
    """Opens an attempt, if the claim still holds and the dispatch has not expired."""
    row = transaction.conn.execute(
        "update dispatches set attempts = attempts + 1"
        " where id = ? and state = 1 and claimed_by = ? and (expire_at is null or expire_at > ?)"
        f" and {_NONE_OPEN} returning attempts",
        (dispatch_id, transaction.incarnation, transaction.now_micros),
    ).fetchone()
    if row is None:
        return None
    (number,) = row
    transaction.conn.execute(
        "insert into attempts (dispatch_id, number, start_id, incarnation, begun_at) values (?, ?, ?, ?, ?)",
        (dispatch_id, number, _start_id(dispatch_id), transaction.incarnation, transaction.now_micros),
    )
    return int(number)


def record(transaction: Transaction, dispatch_id: str, attempt: int, settlement: Settlement) -> None:
    """Closes an attempt and moves its dispatch."""
    closed = transaction.conn.execute(
        "update attempts set ended_at = ?, outcome = ?, detail = ? where dispatch_id = ? and number = ?"
        " and outcome is null",
        (transaction.now_micros, settlement.outcome, settlement.detail, dispatch_id, attempt),
    )
    if not closed.rowcount:
        return  # recorded before: an answer counts once
    if settlement.state is State.PENDING:
        release(transaction, dispatch_id, settlement.due_at or transaction.now)
        transaction.move(_start_id(dispatch_id), lambda tally: tally.warned(settlement.warnings))
        return
    transaction.conn.execute(
        "update dispatches set external_id = ?, account = ?, accepted_at = ? where id = ?",
        (
            settlement.external_id or None,
            settlement.account or None,
            to_micros(settlement.accepted_at or transaction.now) if settlement.external_id else None,
            dispatch_id,
        ),
    )
    _move(
        transaction,
        dispatch_id,
        settlement.state,
        settlement.failure,
        warnings=settlement.warnings,
        external_id=settlement.external_id,
    )


def sight(transaction: Transaction, backend: str, sightings: Sequence[Sighting]) -> int:
    """Moves the running dispatches that a backend shows in another state than recorded; returns how many moved."""
    moved = 0
    for sighting in sightings:
        row = transaction.conn.execute(
            "select id, state, contact_count, contact_started_count from dispatches"
            " where backend = ? and external_id = ? and external_id is not null and state in (2, 3)",
            (backend, sighting.external_id),
        ).fetchone()
        if row is not None and _sight_one(transaction, row, sighting):
            moved += 1
    return moved


def _sight_one(transaction: Transaction, row: tuple[Any, ...], sighting: Sighting) -> bool:
    dispatch_id, state, *counts_before = row
    counts = [
        before if after is None else max(after, before or 0)
        for before, after in zip(counts_before, (sighting.contact_count, sighting.contact_started_count), strict=True)
    ]
    after = State(state) if sighting.state is None else sighting.state
    if after is not state and after not in NEXT[State(state)]:
        after = State(state)  # an older row, from a replica that lags: nothing goes back
    if after is State(state) and counts == counts_before and not sighting.warnings:
        return False
    differences = [
        None if now is None else now - (before or 0) for before, now in zip(counts_before, counts, strict=True)
    ]
    transaction.conn.execute(
        "update dispatches set contact_count = ?, contact_started_count = ? where id = ?", (*counts, dispatch_id)
    )
    _move(transaction, dispatch_id, after, sighting.failure, warnings=sighting.warnings, counts=differences)
    return after is not State(state) or counts != counts_before  # a warning alone is nothing new


def _move(
    transaction: Transaction,
    dispatch_id: str,
    state: State,
    failure: Notice | None,
    *,
    warnings: tuple[Notice, ...] = (),
    external_id: str = "",
    counts: Sequence[int | None] = (None, None),
) -> None:
    """Moves a dispatch, and the tally of its start with it. The one place where `NEXT` is checked."""
    conn = transaction.conn
    start_id, before, recipient_count, alone = conn.execute(
        "select d.start_id, d.state, d.recipient_count, not exists (select 1 from dispatches o where"
        " o.id = d.start_id || '-2') and not exists (select 1 from recipients r where r.start_id = d.start_id)"
        " from dispatches d where d.id = ?",
        (dispatch_id,),
    ).fetchone()
    before = State(before)
    if state is not before and state not in NEXT[before]:
        msg = f"dispatch {dispatch_id} cannot go from {before.name} to {state.name}"
        raise AssertionError(msg)
    conn.execute(
        "update dispatches set state = ?, failure = ?, claimed_by = null where id = ?",
        (state, encode(pack_notice(failure)) if failure and state in _TELLS else None, dispatch_id),
    )

    def change(tally: Tally) -> Tally:
        if state is not before:
            tally = tally.moved(before, state, recipient_count, failure)
        return tally.counted(*counts).warned(warnings)

    transaction.move(start_id, change, external_id=external_id if alone else "")


_TELLS = (TERMINAL | {State.UNCERTAIN}) - {State.COMPLETED}


def recover(transaction: Transaction) -> None:
    """Settles what earlier incarnations left: open attempts may have happened, claims may be taken again."""
    conn = transaction.conn
    crashed = conn.execute(
        "update attempts set ended_at = ?, outcome = 'UNSURE', detail = 'the gateway stopped while sending'"
        " where incarnation < ? and outcome is null returning dispatch_id",
        (transaction.now_micros, transaction.incarnation),
    ).fetchall()
    for (dispatch_id,) in crashed:
        _move(transaction, dispatch_id, State.UNCERTAIN, _CRASHED)
    conn.execute(
        "update dispatches set claimed_by = null where claimed_by is not null and claimed_by < ?",
        (transaction.incarnation,),
    )
    for (start_id,) in conn.execute("select id from starts where behind = 1").fetchall():
        transaction.move(start_id, lambda tally: tally)
