"""How starts are recorded: the records, their dispatches, and the recipients of those that come later.

All starts that wait for one commit are recorded together, by as few statements as that takes. An operation never reads
a clock; `transaction.now` is the moment of its commit.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gateway.errors import Exhausted, Reason
from gateway.model import Standing, State, merged
from gateway.store.rows import (
    MICROSECOND,
    START_COLUMNS,
    decode_start,
    encode,
    encode_asked,
    encode_standing,
    pack_recipients,
    to_micros,
)
from gateway.store.tally import encode_fresh, fresh
from gateway.store.transaction import NewStart
from gateway.store.words import Recorded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from gateway.model import Asked, Notice, Recipients
    from gateway.store.connection import Connection
    from gateway.store.transaction import Later, Transaction
    from gateway.store.words import Terms

BLOCK = 100  # recipients: a start of 10,000 is 100 small rows at first, not 10,000
LINE = 1_000  # starts that may wait for one recipient, where they go one at a time; `lines_full` has the same number
BACKLOG_PAUSE = timedelta(seconds=30)

_PUNCTUATION = re.compile(r"[\s().-]")
_DISPATCHES = (
    "dispatches (id, start_id, number, tenant, backend, flow, state, recipient_count, recipients, due_at, expire_at,"
    " account, recipient)"
)


class Known(Exception):
    """A start has this request id already."""


@dataclass(frozen=True, slots=True)
class Creation:
    """A start that is to be recorded; `plan` is the recipients of each of its dispatches."""

    asked: Asked
    plan: Sequence[Recipients]
    fingerprint: str
    warnings: tuple[Notice, ...]
    terms: Terms

    def __call__(self, transaction: Transaction) -> Recorded | Later[Recorded]:
        """Records it, or returns the one of the tenant that has its request id."""
        try:
            (recorded,) = create(transaction, [self])
        except Known:
            key = self.asked.tenant, self.asked.request_id
            found = transaction.recorded(key) if transaction.is_new(key) else find_request(transaction.conn, *key)
            assert found is not None
            return found
        return recorded


def create(transaction: Transaction, creations: Sequence[Creation]) -> Sequence[Later[Recorded]]:
    """Records starts, each with its first block of dispatches, and the recipients of the others.

    Raises `Known` if one of them has a request id that was used before, and `Exhausted` if a backlog is too small for
    all of them. Then nothing of it may stay.
    """
    now_micros = transaction.now_micros
    due = [_due_at(creation, now_micros) for creation in creations]
    recorded = transaction.record(
        [
            _new(creation, transaction.now, due_at, is_later=due_at > now_micros)
            for creation, due_at in zip(creations, due, strict=True)
        ]
    )
    if recorded is None:
        raise Known
    _add_to_backlogs(transaction, creations, due)
    _write_plans(transaction, creations, due)
    _check_lines(transaction.conn, creations)
    return recorded


def _new(creation: Creation, now: datetime, due_at: int, *, is_later: bool) -> NewStart:
    """Lays out a start, as it is recorded."""
    asked, counts = creation.asked, (len(creation.plan), creation.asked.recipient_count)
    standing = Standing(
        updated_at=now,
        next_attempt_at=asked.schedule_at if is_later else None,
        warnings=merged(creation.warnings) if creation.warnings else (),
    )
    text = encode_standing(standing)
    row = (
        asked.id,
        asked.tenant,
        asked.backend,
        asked.flow,
        asked.request_id or None,
        creation.fingerprint,
        to_micros(asked.created_at),
        to_micros(asked.expire_at),
        due_at + creation.terms.give_up_after // MICROSECOND,
        int(is_later),
        due_at if is_later else None,
        encode_asked(asked),
        encode(asked.params),
        text,
        fresh(*counts, creation.warnings).encode() if creation.warnings else encode_fresh(*counts),
    )
    return NewStart(asked=asked, standing=standing, text=text, fingerprint=creation.fingerprint, row=row)


def _due_at(creation: Creation, now: int) -> int:
    """Tells when it may be sent, in microseconds."""
    scheduled_at = creation.asked.schedule_at
    return now if scheduled_at is None else max(to_micros(scheduled_at) or 0, now)


def _add_to_backlogs(transaction: Transaction, creations: Sequence[Creation], due: Sequence[int]) -> None:
    """Counts what is to be sent; raises `Exhausted` if that is more than a tenant may have waiting on a backend."""
    counts: Counter[tuple[str, str, bool]] = Counter()
    for creation, due_at in zip(creations, due, strict=True):
        asked = creation.asked
        counts[asked.tenant, asked.backend, due_at > transaction.now_micros] += len(creation.plan)
    limits = {creation.asked.backend: creation.terms.backlog for creation in creations}
    for (tenant, backend, scheduled), count in counts.items():
        waiting, limit = transaction.backlog(tenant, backend, scheduled=scheduled), limits[backend]
        if (waiting or len(creations) > 1) and waiting + count > limit:  # one alone is taken, however large it is
            raise _full(backend, waiting, count, limit, scheduled=scheduled)
        transaction.add_to_backlog(tenant, backend, scheduled=scheduled, count=count)


def _full(backend: str, waiting: int, count: int, limit: int, *, scheduled: bool) -> Exhausted:
    kind = "scheduled" if scheduled else "unsent"
    return Exhausted(
        reason=Reason.BACKLOG_FULL,
        message=f"The backlog is full: {waiting:,} {kind} requests wait for this backend, this start needs"
        f" {count:,} more, and {limit:,} is the limit. Wait until some have been sent, or raise `backlog`.",
        metadata={"quota_subject": f"backend:{backend}", "unsent": str(waiting), "limit": str(limit)},
        retry_after=BACKLOG_PAUSE,
    )


def _check_lines(conn: Connection, creations: Sequence[Creation]) -> None:
    """Raises `Exhausted` if, with these starts, too many wait for one recipient where they go one at a time.

    Those count whose dispatches are written out. It is one look-up a backend as long as no line is full.
    """
    alone = [creation for creation in creations if creation.terms.one_at_a_time]
    for backend in {creation.asked.backend for creation in alone}:
        if conn.row("select 1 from lines /*by lines_full*/ where backend = $1 and waiting >= 1000 limit 1", backend):
            for creation in alone:
                if creation.asked.backend == backend:
                    _check_line(conn, creation)


def _check_line(conn: Connection, creation: Creation) -> None:
    asked = creation.asked
    written = len(next(_blocks(creation.plan))[1])  # that stand in line already; the others come later
    key = contact_key(asked.flow, asked.sender)
    named = [
        (place, asked.backend, key + alike(recipients.urns[0]), LINE + (place < written))
        for place, recipients in enumerate(creation.plan)
        if recipients.urns
    ]
    full = conn.over(
        "with named(place bigint, backend text, recipient text, most bigint) as ($rows) select named.place from named"
        " /*first*/ join lines l on l.backend = named.backend and l.recipient = named.recipient"
        " where l.waiting >= named.most",
        named,
    )
    if full:
        place = min(place for (place,) in full)
        raise Exhausted(
            reason=Reason.BACKLOG_FULL,
            message=f"urns[{place}]: {LINE:,} starts wait for this recipient, who can have one at a time; that is the"
            " limit. Wait until some have ended, or cancel some.",
            metadata={
                "quota_subject": f"backend:{asked.backend}",
                "field": f"urns[{place}]",
                "limit": str(LINE),
            },
            retry_after=BACKLOG_PAUSE,
        )


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

    def lay_out(self, first_number: int, packed: list[list[list[str]]]) -> Iterator[tuple[Any, ...]]:
        """Lays out dispatches that wait to be sent, numbered on from `first_number`."""
        for number, recipients in enumerate(packed, first_number):
            yield (
                f"{self.id}-{number}",
                self.id,
                number,
                self.tenant,
                self.backend,
                self.flow,
                State.PENDING,
                sum(map(len, recipients)),
                encode(recipients),
                self.due_at,
                self.expire_at,
                self.account,
                None if self.exclusive is None else self.exclusive + alike(recipients[0][0]),
            )


def contact_key(flow: str, sender: str) -> str:
    """Begins the key of whom only one dispatch may run for. A sender is the same one whatever its channel."""
    return f"{alike(flow)} {alike(sender.rpartition(':')[2])} "


def alike(text: str) -> str:
    """Leaves out what can differ between spellings of one address: of two that are alike, one waits for the other."""
    return _PUNCTUATION.sub("", text).casefold()


def _write_plans(transaction: Transaction, creations: Sequence[Creation], due: Sequence[int]) -> None:
    dispatches: list[tuple[Any, ...]] = []
    later: list[tuple[Any, ...]] = []
    for creation, due_at in zip(creations, due, strict=True):
        asked, terms = creation.asked, creation.terms
        part = Part(
            id=asked.id,
            tenant=asked.tenant,
            backend=asked.backend,
            flow=asked.flow,
            due_at=due_at,
            expire_at=to_micros(asked.expire_at) or due_at + terms.give_up_after // MICROSECOND,
            account=terms.account or None,
            exclusive=contact_key(asked.flow, asked.sender) if terms.one_at_a_time else None,
        )
        for block, (first_number, recipients) in enumerate(_blocks(creation.plan)):
            packed = [pack_recipients(each) for each in recipients]
            if block == 0:
                dispatches += part.lay_out(first_number, packed)
            else:
                later.append((asked.id, block, first_number, encode(packed)))
    transaction.conn.insert(_DISPATCHES, dispatches)
    transaction.conn.insert("recipients (start_id, block, first_number, body)", later)


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
    conn.insert(_DISPATCHES, list(start.lay_out(first_number, packed)))


def find_request(conn: Connection, tenant: str, request_id: str) -> Recorded | None:
    """Reads the start that has a request id."""
    row = conn.row(
        f"select {START_COLUMNS}, s.params, s.fingerprint from starts s where s.tenant = $1 and s.request_id = $2",
        tenant,
        request_id,
    )
    if row is None:
        return None
    *_, params, fingerprint = row
    return Recorded(flow_start=decode_start(row, params), fingerprint=fingerprint, replayed=True)
