"""What can be written: each operation is a function of a `Transaction`.

An operation never reads a clock; `transaction.now` is the moment of its commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gateway.errors import Exhausted, Reason
from gateway.model import Dispatch, FlowStart, Notice, Recipients, Standing, State
from gateway.store import Claims, Recorded, Settlement
from gateway.store.moves import CANCELLED, CHANGED, EXPIRED, GAVE_UP, RUNS_ON, move, start_id_of, warn
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
    pack_recipients,
    to_micros,
    unpack_recipients,
)
from gateway.store.tally import fresh, stand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from sqlite3 import Connection

    from gateway.model import Asked
    from gateway.store import Terms
    from gateway.store.writer import Transaction

HELD = 0  # the incarnation that has claimed what must not be sent to the account that the backend now is
BLOCK = 100  # recipients: a start of 10,000 is 100 small rows at first, not 10,000
AT_ONCE = 500  # dispatches ended in one claim, so that a large start which expires or is cancelled holds nobody up

BACKLOG_PAUSE = timedelta(seconds=30)
WATCHED_FOR = 3_600_000_000  # microseconds for which what was sent again is looked for: two of it is worth knowing
STOPPED = "the gateway stopped while sending"

_CRASHED = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The gateway stopped while sending: the backend may have carried it out. It is being looked for while"
    " next_attempt_time is set; after that only the backend showing it, or ResolveFlowStart, settles it.",
    metadata={"detail": STOPPED},
)


def create(
    transaction: Transaction,
    asked: Asked,
    plan: Sequence[Recipients],
    fingerprint: str,
    warnings: tuple[Notice, ...],
    terms: Terms,
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
        "insert into starts (id, tenant, backend, flow, request_id, fingerprint, created_at, expire_at, give_up_at,"
        " scheduled, state, revision, asked, params, standing, tally)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
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
            to_micros(due_at + terms.give_up_after),
            due_at > transaction.now,
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
    _add_to_backlog(transaction, asked, len(plan), scheduled=due_at > transaction.now, limit=terms.backlog)
    row = _Start(
        id=asked.id,
        backend=asked.backend,
        flow=asked.flow,
        due_at=to_micros(due_at) or 0,
        expire_at=to_micros(asked.expire_at or due_at + terms.give_up_after) or 0,
        account=terms.account or None,
        exclusive=f"{asked.flow} {asked.sender} " if terms.one_at_a_time else None,
    )
    _write_plan(transaction, row, plan)
    flow_start = FlowStart(asked=asked, standing=standing, revision=revision)
    return Recorded(flow_start=flow_start, fingerprint=fingerprint, replayed=False)


def _add_to_backlog(transaction: Transaction, asked: Asked, count: int, *, scheduled: bool, limit: int) -> None:
    """Counts what is to be sent; raises `Exhausted` if that is more than the tenant may have waiting there."""
    waiting = transaction.backlog(asked.tenant, asked.backend, scheduled=scheduled)
    if waiting and waiting + count > limit:
        kind = "scheduled" if scheduled else "unsent"
        raise Exhausted(
            reason=Reason.BACKLOG_FULL,
            message=f"The backlog is full: {waiting:,} {kind} requests wait for this backend, this start needs"
            f" {count:,} more, and {limit:,} is the limit. Wait until some have been sent, or raise `backlog`.",
            metadata={"quota_subject": f"backend:{asked.backend}", "unsent": str(waiting), "limit": str(limit)},
            retry_after=BACKLOG_PAUSE,
        )
    transaction.add_to_backlog(asked.tenant, asked.backend, scheduled=scheduled, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What the dispatches of a start have of it. `exclusive` begins the key of whom only one dispatch may run for."""

    id: str
    backend: str
    flow: str
    due_at: int
    expire_at: int
    account: str | None
    exclusive: str | None


def _write_plan(transaction: Transaction, start: _Start, plan: Sequence[Recipients]) -> None:
    for block, (first_number, part) in enumerate(_blocks(plan)):
        packed = [pack_recipients(recipients) for recipients in part]
        if block == 0:
            _write_dispatches(transaction.conn, start, first_number, packed)
            continue
        transaction.conn.execute(
            "insert into recipients (start_id, block, first_number, body) values (?, ?, ?, ?)",
            (start.id, block, first_number, encode(packed)),
        )


def _blocks(plan: Sequence[Recipients]) -> Iterator[tuple[int, Sequence[Recipients]]]:
    """Cuts a plan into blocks of about `BLOCK` recipients, each with the number of its first dispatch."""
    first, count = 0, 0
    for number, recipients in enumerate(plan):
        count += recipients.count
        if count >= BLOCK or number == len(plan) - 1:
            yield first + 1, plan[first : number + 1]
            first, count = number + 1, 0


def _write_dispatches(conn: Connection, start: _Start, first_number: int, packed: list[list[list[str]]]) -> None:
    conn.executemany(
        "insert into dispatches (id, start_id, number, backend, flow, state, recipient_count, recipients, due_at,"
        " expire_at, account, recipient) values (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?)",
        [
            (
                f"{start.id}-{number}",
                start.id,
                number,
                start.backend,
                start.flow,
                sum(len(kind) for kind in recipients),
                encode(recipients),
                start.due_at,
                start.expire_at,
                start.account,
                None if start.exclusive is None else start.exclusive + recipients[0][0],
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
_ALONE = (  # one that is being sent or looked for may turn out to run, and its recipient may have no other
    "(d.recipient is null or not exists (select 1 from dispatches o where o.recipient = d.recipient"
    " and o.recipient is not null and o.state in (1, 7) and o.backend = d.backend and o.id <> d.id"
    " and (o.claimed_by is not null or (o.state = 7 and o.sought_from is not null))))"
)


def claim(transaction: Transaction, backend: str, limit: int) -> Claims:
    """Takes due dispatches, the longest due first; ends those that have expired or were cancelled.

    A block of a large start queues up when the one before it has been claimed, so that large starts and small ones
    take turns.
    """
    conn, now = transaction.conn, transaction.now_micros
    _expire(transaction, backend)
    _end_cancelled(transaction, backend)
    claimed: list[Dispatch] = []
    while len(claimed) < limit:
        rows = conn.execute(
            f"select d.id, d.recipients, d.attempts, d.recipient, s.params, {START_COLUMNS}"
            f" from (select id, start_id, number, recipients, attempts, recipient, due_at {_CLAIMABLE}"
            f" and d.due_at <= ?2 and d.expire_at > ?2 and {_ALONE}"
            " order by d.due_at, d.start_id, d.number limit ?3) d"
            " join starts s on s.id = d.start_id order by d.due_at, d.start_id, d.number",
            (backend, now, limit - len(claimed)),
        ).fetchall()
        if not rows:
            break
        first_of: dict[str, tuple[Any, ...]] = {}
        for row in rows:
            first_of.setdefault(row[3] or row[0], row)
        firsts = list(first_of.values())
        conn.executemany(
            "update dispatches set claimed_by = ? where id = ?", [(transaction.incarnation, row[0]) for row in firsts]
        )
        claimed += [_dispatch(row) for row in firsts]
        _write_out_next(transaction, {start_id_of(row[0]) for row in firsts})
    return Claims(dispatches=tuple(claimed), next_due_at=from_micros(_next_due(conn, backend)))


def _next_due(conn: Connection, backend: str) -> int | None:
    """Tells when the next dispatch can be claimed or expires; the past means that there is more to do already."""
    row = conn.execute(
        f"select min(at) from (select * from (select d.due_at as at {_CLAIMABLE} and {_ALONE}"
        f" order by d.due_at limit 1) union all select min(d.expire_at) {_CLAIMABLE} and d.expire_at is not null)",
        (backend,),
    ).fetchone()
    return None if row is None else row[0]


def _dispatch(row: tuple[Any, ...]) -> Dispatch:
    """Reads `id, recipients, attempts, recipient, params, *START_COLUMNS`."""
    dispatch_id, recipients, attempts, _, params, *start = row
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
    conn = transaction.conn
    for start_id in sorted(start_ids):
        row = conn.execute(
            "select r.block, r.first_number, r.body, s.backend, s.flow, coalesce(s.expire_at, s.give_up_at),"
            " d.account, d.recipient is not null, s.asked from recipients r"
            " join starts s on s.id = r.start_id join dispatches d on d.id = r.start_id || '-1'"
            " where r.start_id = ?1 and not exists"
            " (select 1 from dispatches d where d.start_id = ?1 and d.state = 1 and d.claimed_by is null)"
            " order by r.block limit 1",
            (start_id,),
        ).fetchone()
        if row is not None:
            block, first_number, body, backend, flow, expire_at, account, exclusive, asked = row
            conn.execute("delete from recipients where start_id = ? and block = ?", (start_id, block))
            start = _Start(
                id=start_id,
                backend=backend,
                flow=flow,
                due_at=transaction.now_micros,
                expire_at=expire_at,
                account=account,
                exclusive=f"{flow} {decode(asked).get('sender', '')} " if exclusive else None,
            )
            _write_dispatches(conn, start, first_number, decode(body))


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
        for dispatch_id, gave_up in expired:
            move(transaction, dispatch_id, State.FAILED, GAVE_UP if gave_up else EXPIRED)
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
            "select id from dispatches where start_id = ? and state = 1 and claimed_by is null limit ?",
            (start_id, limit - ended),
        ).fetchall()
        if not rows:
            conn.execute("update starts set cancelling = 0 where id = ?", (start_id,))
            break
        for (dispatch_id,) in rows:
            move(transaction, dispatch_id, State.INTERRUPTED, CANCELLED)
        _write_out_next(transaction, {start_id})
        ended += len(rows)
    return ended


def release(transaction: Transaction, dispatch_id: str, due_at: datetime) -> None:
    """Gives a claimed dispatch back; one whose start was cancelled meanwhile ends."""
    released = transaction.conn.execute(
        f"update dispatches set claimed_by = null, due_at = ? where id = ? and claimed_by = ? and {_NONE_OPEN}",
        (to_micros(due_at), dispatch_id, transaction.incarnation),
    )
    if released.rowcount and is_cancelled(transaction.conn, dispatch_id):
        move(transaction, dispatch_id, State.INTERRUPTED, CANCELLED)


def is_cancelled(conn: Connection, dispatch_id: str) -> bool:
    """Whether the start of a dispatch is to be stopped."""
    stopped = "select 1 from starts where id = ? and cancel_at is not null"
    return conn.execute(stopped, (start_id_of(dispatch_id),)).fetchone() is not None


def begin_attempt(transaction: Transaction, dispatch_id: str, account: str, since: datetime) -> int | None:
    """Opens an attempt, if the claim still holds and the dispatch has neither expired nor been cancelled.

    One that was recorded for another account is held.
    """
    if is_cancelled(transaction.conn, dispatch_id):
        return None
    row = transaction.conn.execute(
        "update dispatches set attempts = attempts + 1, account = ?1"
        " where id = ?2 and state = 1 and claimed_by = ?3 and expire_at > ?4 and coalesce(account = ?1, 1)"
        f" and {_NONE_OPEN} returning attempts",
        (account or None, dispatch_id, transaction.incarnation, transaction.now_micros),
    ).fetchone()
    if row is None:
        _hold_if_anothers(transaction, dispatch_id, account)
        return None
    (number,) = row
    transaction.conn.execute(
        "insert into attempts (dispatch_id, number, start_id, incarnation, begun_at, since) values (?, ?, ?, ?, ?, ?)",
        (
            dispatch_id,
            number,
            start_id_of(dispatch_id),
            transaction.incarnation,
            transaction.now_micros,
            to_micros(since),
        ),
    )
    return int(number)


def _hold_if_anothers(transaction: Transaction, dispatch_id: str, account: str) -> None:
    """Keeps back a claimed dispatch that waits again though its account is another one now."""
    held = transaction.conn.execute(
        f"update dispatches set claimed_by = {HELD} where id = ? and state = 1 and claimed_by = ? and account <> ?"
        f" and {_NONE_OPEN}",
        (dispatch_id, transaction.incarnation, account),
    )
    if held.rowcount:
        warn(transaction, start_id_of(dispatch_id), CHANGED)


def record(transaction: Transaction, dispatch_id: str, attempt: int, settlement: Settlement) -> None:
    """Closes an attempt and moves its dispatch."""
    conn = transaction.conn
    closed = conn.execute(
        "update attempts set ended_at = ?, outcome = ?, detail = ? where dispatch_id = ? and number = ?"
        " and outcome is null returning since",
        (transaction.now_micros, settlement.outcome, settlement.detail, dispatch_id, attempt),
    ).fetchone()
    if closed is None:
        return  # recorded before: an answer counts once
    state, external_id = conn.execute(
        "select state, external_id from dispatches where id = ?", (dispatch_id,)
    ).fetchone()
    if state != State.PENDING:  # a list showed it while this answer was on its way
        if settlement.external_id and settlement.external_id != external_id:
            warn(transaction, start_id_of(dispatch_id), duplicate(dispatch_id, external_id, settlement.external_id))
        return
    if settlement.state is State.PENDING:
        transaction.move(start_id_of(dispatch_id), lambda tally: tally.warned(settlement.warnings))
        release(transaction, dispatch_id, settlement.due_at or transaction.now)
        return
    if settlement.state is State.UNCERTAIN:
        seek(transaction, dispatch_id, closed[0], to_micros(settlement.due_at) or transaction.now_micros)
    elif settlement.external_id:
        accept(
            transaction, dispatch_id, settlement.external_id, settlement.accepted_at, account=settlement.account or None
        )
    move(
        transaction,
        dispatch_id,
        settlement.state,
        settlement.failure,
        warnings=settlement.warnings,
        external_id=settlement.external_id,
    )


def duplicate(dispatch_id: str, first: str | None, second: str) -> Notice:
    """Says that a dispatch was carried out twice."""
    return Notice(
        reason=Reason.DUPLICATE_SENT,
        message="The backend carried a request out after its quiet window, so people may have been reached twice. The"
        " metadata has both external ids of each dispatch. Lengthen `quiet_window`, or set `on_absent`.",
        metadata={dispatch_id: f"{first or 'unknown'}, {second}"},
    )


def seek(transaction: Transaction, dispatch_id: str, since: int, due_at: int) -> None:
    """Marks a dispatch as one to look for. What an earlier attempt may have left is older, and counts as well."""
    transaction.conn.execute(
        "update dispatches set sought_from = min(coalesce(sought_from, ?1), ?1), sought_until = null, due_at = ?2"
        " where id = ?3",
        (since, due_at, dispatch_id),
    )


def accept(
    transaction: Transaction, dispatch_id: str, external_id: str, accepted_at: datetime | None, *, account: str | None
) -> None:
    """Notes what the backend calls a dispatch. If its start was cancelled it is ended next, or runs on and says so.

    One that was sent more than once is looked for a while longer: an earlier attempt may show up after all.
    """
    (runs_on,) = transaction.conn.execute(
        "update dispatches set external_id = ?1, account = coalesce(account, ?2), accepted_at = ?3,"
        " sought_from = case when attempts > 1 then sought_from end,"
        " sought_until = case when attempts > 1 and sought_from is not null then ?4 end,"
        " ending = case when exists (select 1 from starts s where s.id = start_id and s.cancel_at is not null"
        " and s.ends = 1) then 1 else 0 end where id = ?5"
        " returning exists (select 1 from starts s where s.id = start_id and s.cancel_at is not null and s.ends = 0)",
        (
            external_id,
            account,
            to_micros(accepted_at or transaction.now),
            transaction.now_micros + WATCHED_FOR,
            dispatch_id,
        ),
    ).fetchone()
    if runs_on:
        warn(transaction, start_id_of(dispatch_id), RUNS_ON)


def touch(transaction: Transaction) -> None:
    """Writes something, to see whether that can be done."""
    transaction.conn.execute(
        "insert into meta values ('checked_at', ?1) on conflict do update set value = ?1",
        (str(transaction.now_micros),),
    )


def recover(transaction: Transaction) -> None:
    """Settles what earlier incarnations left: open attempts may have happened, claims may be taken again."""
    conn = transaction.conn
    crashed = conn.execute(
        "update attempts set ended_at = ?, outcome = 'UNSURE', detail = ?"
        " where incarnation < ? and outcome is null returning dispatch_id, since",
        (transaction.now_micros, STOPPED, transaction.incarnation),
    ).fetchall()
    for dispatch_id, since in crashed:
        (state,) = conn.execute("select state from dispatches where id = ?", (dispatch_id,)).fetchone()
        if state == State.PENDING:  # else a list had shown it before the end
            if since is not None:  # else it was sent before accounts were remembered: it cannot be proved absent
                seek(transaction, dispatch_id, since, transaction.now_micros)
            move(transaction, dispatch_id, State.UNCERTAIN, _CRASHED)
    conn.execute(
        "update dispatches set claimed_by = null where claimed_by is not null and claimed_by < ?",
        (transaction.incarnation,),
    )
    for (start_id,) in conn.execute("select id from starts where behind = 1").fetchall():
        transaction.move(start_id, lambda tally: tally)
