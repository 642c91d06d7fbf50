"""How a start is recorded: the record, its dispatches, and the recipients of those that come later.

An operation never reads a clock; `transaction.now` is the moment of its commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from gateway.errors import Exhausted, Reason
from gateway.model import FlowStart, Standing
from gateway.store import Recorded
from gateway.store.rows import (
    START_COLUMNS,
    decode_start,
    encode,
    encode_asked,
    encode_standing,
    pack_recipients,
    to_micros,
)
from gateway.store.tally import fresh, stand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from sqlite3 import Connection

    from gateway.model import Asked, Notice, Recipients
    from gateway.store import Terms
    from gateway.store.writer import Transaction

BLOCK = 100  # recipients: a start of 10,000 is 100 small rows at first, not 10,000
BACKLOG_PAUSE = timedelta(seconds=30)


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
    row = Part(
        id=asked.id,
        tenant=asked.tenant,
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
class Part:
    """What the dispatches of a start have of it. `exclusive` begins the key of whom only one dispatch may run for."""

    id: str
    tenant: str
    backend: str
    flow: str
    due_at: int
    expire_at: int
    account: str | None
    exclusive: str | None


def _write_plan(transaction: Transaction, start: Part, plan: Sequence[Recipients]) -> None:
    for block, (first_number, part) in enumerate(_blocks(plan)):
        packed = [pack_recipients(recipients) for recipients in part]
        if block == 0:
            write_dispatches(transaction.conn, start, first_number, packed)
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


def write_dispatches(conn: Connection, start: Part, first_number: int, packed: list[list[list[str]]]) -> None:
    """Writes dispatches that wait to be sent, numbered on from `first_number`."""
    conn.executemany(
        "insert into dispatches (id, start_id, number, tenant, backend, flow, state, recipient_count, recipients,"
        " due_at, expire_at, account, recipient) values (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?)",
        [
            (
                f"{start.id}-{number}",
                start.id,
                number,
                start.tenant,
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
