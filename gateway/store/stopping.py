"""What callers and operators put an end to: cancelling, resolving; and what stands still by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.errors import InvalidRequest, NotFound, NotPossible, Reason, Violation
from gateway.model import TERMINAL, Notice, State, Verdict
from gateway.store.claiming import AT_ONCE, end_unsent, is_cancelled
from gateway.store.looking import WATCHED_FOR, passed
from gateway.store.moves import CANCELLED, RUNS_ON, Move, move, warn
from gateway.store.rows import REACHED, SCHEDULE
from gateway.store.sending import Acceptance, accept

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.model import Resolution
    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

_GIVEN_UP = Notice(reason=Reason.OUTCOME_UNKNOWN, message="It was given up: its outcome is unknown.")


@dataclass(frozen=True, slots=True)
class Cancel:
    """One step of stopping a start; `can_end` is whether its backend can end what runs."""

    tenant: str | None
    start_id: str
    can_end: bool

    def __call__(self, transaction: Transaction) -> bool:
        """Stops a start, a bounded number of dispatches at a time; returns whether more of it is to be stopped.

        Raises `NotPossible` if it has ended without having been cancelled.
        """
        conn = transaction.conn
        row = conn.row(f"select state, cancel_at from starts s where id = $1 and {REACHED}", self.start_id, self.tenant)
        if row is None:
            return False
        state, cancel_at = row
        if State(state) in TERMINAL:
            if cancel_at is not None:
                return False
            raise NotPossible(
                reason=Reason.ALREADY_TERMINAL, message="The start has ended already: there is nothing to cancel."
            )
        if cancel_at is None:
            runs = transaction.runs(self.start_id)  # what the backend accepts from here on is ended as it comes
            conn.run(
                "update starts set cancel_at = $1, ends = $2, marked = $3 where id = $4",
                transaction.now_micros,
                int(self.can_end),
                0 if self.can_end and runs else None,
                self.start_id,
            )
            transaction.request_cancel(self.start_id)
            if not self.can_end and runs:
                warn(transaction, self.start_id, RUNS_ON)
        conn.run("update starts set cancelling = 1 where id = $1", self.start_id)
        released = conn.run(
            "update dispatches set claimed_by = null where id in (select id from dispatches /*by dispatches_held*/"
            " where start_id = $1 and claimed_by = HELD limit $2) and state = PENDING",
            self.start_id,
            AT_ONCE,
        )
        return released == AT_ONCE or end_unsent(transaction, self.start_id, AT_ONCE) >= AT_ONCE


@dataclass(frozen=True, slots=True)
class AskToEnd:
    """That the backend is about to be asked to end a dispatch."""

    dispatch_id: str

    def __call__(self, transaction: Transaction) -> bool:
        """Notes that the backend is about to be asked to end a dispatch; False if it has ended."""
        asked = transaction.conn.run(
            "update dispatches set ending = ASKED where id = $1 and ending in (TO_END, ASKED)"
            " and state in (QUEUED, STARTED)",
            self.dispatch_id,
        )
        return bool(asked)


def unresolved(
    conn: Connection, tenant: str | None, start_id: str, resolution: Resolution
) -> list[tuple[str, int]] | None:
    """Reads which dispatches of a start a resolution is of, and the attempts of each; None if there is no such start.

    Raises as `Recording.resolve` does.
    """
    if not conn.row(f"select 1 from starts s where id = $1 and {REACHED}", start_id, tenant):
        return None
    rows = conn.rows(
        "select id, attempts, state = UNCERTAIN or stalled = 1 from dispatches where start_id = $1"
        f" and {'id = $2' if resolution.dispatch_id else '(state = UNCERTAIN or stalled = 1)'} order by number",
        *[start_id, *filter(None, [resolution.dispatch_id])],
    )
    if resolution.dispatch_id and not rows:
        raise NotFound(
            reason=Reason.FLOW_START_NOT_FOUND,
            message="The start has no such dispatch, or none yet. ListRecipients shows the ids of its dispatches.",
            metadata={"id": start_id},
        )
    found = [(dispatch_id, attempts) for dispatch_id, attempts, is_open in rows if is_open]
    if not found:
        raise nothing_to_resolve()
    if resolution.verdict is Verdict.WAS_SENT and len(found) > 1:
        raise _invalid("dispatch_id", f"is missing: {len(found)} dispatches are uncertain or stalled; name the one.")
    return found


@dataclass(frozen=True, slots=True)
class Resolve:
    """What an operator says of dispatches; with each, its attempts when that was said."""

    unresolved: Sequence[tuple[str, int]]
    resolution: Resolution

    def __call__(self, transaction: Transaction) -> int:
        """Settles dispatches that are still uncertain or stalled, and were not sent again since; returns how many."""
        rows = transaction.conn.over(
            "with named(id text, attempts bigint) as ($rows) select d.id, d.state, d.backend, d.contact_count,"
            " d.contact_started_count from named /*first*/ join dispatches d on d.id = named.id"
            " where d.attempts = named.attempts and (d.state = UNCERTAIN or d.stalled = 1)",
            self.unresolved,
        )
        if self.resolution.verdict is Verdict.WAS_SENT:
            for row in rows:
                _check_was_sent(transaction, row, self.resolution)
                _was_sent(transaction, row, self.resolution)
        elif rows:
            _undo(transaction, rows, self.resolution.verdict)
        return len(rows)


def nothing_to_resolve() -> NotPossible:
    """Says that a start has nothing that an operator could settle."""
    return NotPossible(
        reason=Reason.NOT_UNCERTAIN, message="Nothing of it is uncertain or stalled: there is nothing to resolve."
    )


def _check_was_sent(transaction: Transaction, row: tuple[Any, ...], resolution: Resolution) -> None:
    dispatch_id, _, backend, *_ = row
    taken = transaction.conn.row(
        "select 1 from dispatches where external_id = $1 and backend = $2 and id <> $3",
        resolution.external_id,
        backend,
        dispatch_id,
    )
    if taken is not None:
        raise _invalid("was_sent.external_id", "is that of another start: look again which one the backend shows.")


def _invalid(field: str, description: str) -> InvalidRequest:
    violation = Violation(field=field, description=description)
    return InvalidRequest(message=f"{field} {description}", violations=(violation,))


def _was_sent(transaction: Transaction, row: tuple[Any, ...], resolution: Resolution) -> None:
    dispatch_id, state, *_ = row
    accept(transaction, Acceptance(dispatch_id, resolution.external_id, None, None))
    after = State.QUEUED if state == State.UNCERTAIN else State(state)
    move(transaction, Move(dispatch_id, after, None, external_id=resolution.external_id))


def _undo(transaction: Transaction, rows: Sequence[tuple[Any, ...]], verdict: Verdict) -> None:
    """Sends dispatches of one start again or ends them, and takes back what was known of their earlier attempts."""
    conn, now = transaction.conn, transaction.now_micros
    conn.over(
        "with undone(id text, until bigint, now bigint) as ($rows)"
        f" update dispatches set sought_until = undone.until, due_at = greatest(undone.now, coalesce((select {SCHEDULE}"
        " from starts s where s.id = start_id), 0)), external_id = null, accepted_at = null, contact_count = null,"
        " contact_started_count = null from undone where dispatches.id = undone.id",
        [(dispatch_id, now + WATCHED_FOR, now) for dispatch_id, *_ in rows],
    )
    if verdict is Verdict.GIVE_UP:
        after, failure = State.FAILED, _GIVEN_UP
    elif is_cancelled(conn, rows[0][0]):
        after, failure = State.INTERRUPTED, CANCELLED
    else:
        after, failure = State.PENDING, None
    moves = []
    for dispatch_id, _, _, *contacts in rows:
        counts = [None if count is None else -count for count in contacts]
        moves.append(Move(dispatch_id, after, failure, external_id="", counts=counts))
    move(transaction, *moves)


@dataclass(frozen=True, slots=True)
class StopWatching:
    """That what was sent again long ago is looked for no longer."""

    backend: str

    def __call__(self, transaction: Transaction) -> bool:
        """Looks no longer for some of what was sent again long ago; returns whether there may be more of it."""
        stopped = transaction.conn.run(
            "update dispatches set sought_from = null where id in (select id from dispatches"
            " where backend = $1 and sought_from is not null and sought_until is not null and sought_until < $2"
            " limit $3)",
            self.backend,
            passed(transaction.conn, transaction.now_micros),
            AT_ONCE,
        )
        return stopped == AT_ONCE


@dataclass(frozen=True, slots=True)
class MarkStalled:
    """That what has not moved since a moment, in microseconds, stands still."""

    backend: str
    before: int

    def __call__(self, transaction: Transaction) -> int:
        """Marks some of what runs and has not moved since a moment; returns how many dispatches."""
        rows = transaction.conn.rows(
            "update dispatches set stalled = 1 where id in (select id from dispatches where backend = $1"
            " and state in (QUEUED, STARTED) and stalled = 0 and moved_at < $2 limit $3) returning start_id",
            self.backend,
            self.before,
            AT_ONCE,
        )
        for (start_id,) in rows:
            transaction.move(start_id, lambda tally: tally.stuck(1))
        return len(rows)
