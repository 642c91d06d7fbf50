"""What is sent, and what came of it: attempts, their outcomes, and what a crash left of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.model import Cause, Notice, OutcomeKind, State
from gateway.store.claiming import NONE_OPEN, is_cancelled, release
from gateway.store.looking import WATCHED_FOR
from gateway.store.moves import RUNS_ON, Move, changed, move, start_id_of, warn
from gateway.store.rows import to_micros

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction
    from gateway.store.words import Claims, Settlement

STOPPED = "the gateway stopped while sending"
STORE_LOST = "the store was lost in that moment, and came back"

_CRASHED = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The gateway stopped while sending: the backend may have carried it out. It is being looked for while"
    " next_attempt_time is set; after that only the backend showing it, or ResolveFlowStart, settles it.",
    metadata={"detail": STOPPED},
)

_LATE = (
    "the backend carried the request out after its quiet window: lengthen `quiet_window`, or set `on_absent`; or a flow"
    " passes `startflow_id` on to a start of its own."
)
_COPIED = (
    "this gateway sent it once, so no setting of it helps: a flow passes `startflow_id` on to a start of its own, or a"
    " proxy in front of the backend repeats requests."
)

_ANOTHERS = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The backend answered with the id of another dispatch, as a cache in front of it would: it may have carried"
    " this one out. It is being looked for while next_attempt_time is set; after that only the backend showing it, or"
    " ResolveFlowStart, settles it.",
)


@dataclass(frozen=True, slots=True)
class Beginning:
    """A claimed dispatch that is about to be sent to an account; `since` is the moment by the backend's clock."""

    dispatch_id: str
    account: str
    since: datetime

    def __call__(self, transaction: Transaction) -> int | None:
        """Opens its attempt, and returns the number; None if it may not be sent."""
        return begin(transaction, [self])[0]


def begin(transaction: Transaction, beginnings: Sequence[Beginning]) -> list[int | None]:
    """Opens attempts, where the claim still holds and the dispatch has neither expired nor been cancelled.

    One that was recorded for another account is held.
    """
    conn, now, incarnation = transaction.conn, transaction.now_micros, transaction.incarnation
    numbers: dict[str, int] = dict(
        conn.over(
            "with begun(id text, account text, incarnation bigint, now bigint) as ($rows)"
            " update dispatches set attempts = attempts + 1, account = begun.account from begun"
            " where dispatches.id = begun.id and state = PENDING and claimed_by = begun.incarnation"
            " and expire_at > begun.now"
            f" and coalesce(dispatches.account = begun.account, true) and {NONE_OPEN}"
            " and not exists (select 1 from starts s where s.id = start_id and s.cancel_at is not null)"
            " returning dispatches.id, dispatches.attempts",
            [(each.dispatch_id, each.account or None, incarnation, now) for each in beginnings],
        )
    )
    conn.insert(
        "attempts (dispatch_id, number, start_id, incarnation, begun_at, since)",
        [
            (each.dispatch_id, number, start_id_of(each.dispatch_id), incarnation, now, to_micros(each.since))
            for each in beginnings
            if (number := numbers.get(each.dispatch_id)) is not None
        ],
    )
    for each in beginnings:
        if each.dispatch_id not in numbers and not is_cancelled(conn, each.dispatch_id):
            _hold_if_anothers(transaction, each.dispatch_id, each.account)
    return [numbers.get(each.dispatch_id) for each in beginnings]


def _hold_if_anothers(transaction: Transaction, dispatch_id: str, account: str) -> None:
    """Keeps back a claimed dispatch that waits again though its account is another one now."""
    held = transaction.conn.row(
        "update dispatches set claimed_by = HELD where id = $1 and state = PENDING and claimed_by = $2"
        " and account <> $3"
        f" and {NONE_OPEN} returning account",
        dispatch_id,
        transaction.incarnation,
        account,
    )
    if held:
        warn(transaction, start_id_of(dispatch_id), changed(held[0]))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt."""

    dispatch_id: str
    attempt: int
    settlement: Settlement

    def __call__(self, transaction: Transaction) -> None:
        """Closes the attempt and moves its dispatch."""
        record(transaction, [self])


def record(transaction: Transaction, answers: Sequence[Answer]) -> list[None]:
    """Closes attempts and moves their dispatches. An answer counts once."""
    first: dict[tuple[str, int], Settlement] = {}
    for each in answers:
        first.setdefault((each.dispatch_id, each.attempt), each.settlement)
    first = _without_others_names(transaction, first)
    closed = _close(transaction, first)
    before = {
        dispatch_id: (state, external_id)
        for dispatch_id, state, external_id in transaction.conn.over(
            "with ended(id text) as ($rows) select d.id, d.state, d.external_id"
            " from ended /*first*/ join dispatches d on d.id = ended.id",
            [(dispatch_id,) for dispatch_id, _ in closed],
        )
    }
    accepted: list[Acceptance] = []
    moves: list[Move] = []
    for attempt, settled in first.items():
        if attempt not in closed:
            continue
        dispatch_id, _ = attempt
        state, external_id = before[dispatch_id]
        if state != State.PENDING:  # a list showed it while this answer was on its way
            if settled.external_id and settled.external_id != external_id:
                told = duplicate(transaction.conn, dispatch_id, external_id, settled.external_id)
                warn(transaction, start_id_of(dispatch_id), told)
            continue
        if settled.state is State.PENDING:
            warn(transaction, start_id_of(dispatch_id), *settled.warnings)
            release(transaction, dispatch_id, settled.due_at)
            continue
        if settled.state is State.UNCERTAIN:
            seek(transaction, dispatch_id, closed[attempt], to_micros(settled.due_at) or transaction.now_micros)
        elif settled.external_id:
            accepted.append(Acceptance(dispatch_id, settled.external_id, settled.accepted_at, settled.account or None))
        moves.append(
            Move(dispatch_id, settled.state, settled.failure, settled.warnings, external_id=settled.external_id)
        )
    accept(transaction, *accepted)
    move(transaction, *moves)
    return [None] * len(answers)


def _close(transaction: Transaction, answers: Mapping[tuple[str, int], Settlement]) -> dict[tuple[str, int], int]:
    """Closes those attempts that are open; returns from when on (their clock) each may be seen on the backend."""
    rows = transaction.conn.over(
        "with ended(id text, number bigint, at bigint, outcome text, cause text, detail text) as ($rows)"
        " update attempts set ended_at = ended.at, outcome = ended.outcome, cause = ended.cause, detail = ended.detail"
        " from ended where dispatch_id = ended.id and attempts.number = ended.number and attempts.outcome is null"
        " returning dispatch_id, attempts.number, since",
        [
            (*attempt, transaction.now_micros, settled.outcome, settled.cause, settled.detail)
            for attempt, settled in answers.items()
        ],
    )
    return {(dispatch_id, number): since for dispatch_id, number, since in rows}


def _without_others_names(
    transaction: Transaction, answers: Mapping[tuple[str, int], Settlement]
) -> dict[tuple[str, int], Settlement]:
    """Doubts an acceptance under an external id that another dispatch of the backend has: it is that one's answer."""
    named = [(dispatch_id, it.external_id) for (dispatch_id, _), it in answers.items() if it.external_id]
    taken = set(
        transaction.conn.over(
            "with named(id text, external_id text) as ($rows) select named.id, named.external_id from named"
            " /*first*/ join dispatches d on d.id = named.id"
            " /*first*/ join dispatches o on o.external_id = named.external_id"
            " and o.backend = d.backend where o.id <> d.id",
            named,
        )
    )
    of: dict[str, str] = {}
    taken |= {each for each in named if of.setdefault(each[1], each[0]) != each[0]}
    return {
        attempt: _doubted(settled, transaction.now) if (attempt[0], settled.external_id) in taken else settled
        for attempt, settled in answers.items()
    }


def _doubted(settled: Settlement, now: datetime) -> Settlement:
    return replace(
        settled,
        outcome=OutcomeKind.UNSURE,
        cause=Cause.NAMED,
        detail="the answer names what another dispatch is",
        state=State.UNCERTAIN,
        due_at=now,
        external_id="",
        failure=_ANOTHERS,
    )


def duplicate(conn: Connection, dispatch_id: str, first: str | None, second: str) -> Notice:
    """Says that a dispatch was carried out twice, and what can have done it: only what was sent twice can be late."""
    (sent,) = conn.one(
        "select count(*) from attempts where dispatch_id = $1 and outcome in ($2, $3)",
        dispatch_id,
        OutcomeKind.ACCEPTED,
        OutcomeKind.UNSURE,
    )
    return Notice(
        reason=Reason.DUPLICATE_SENT,
        message="The backend has a request twice, so people may have been reached twice. The metadata has both external"
        f" ids of each dispatch. If another gateway serves from a copy of this store, stop it. If not,"
        f" {_LATE if sent > 1 else _COPIED}",
        metadata={dispatch_id: f"{first or 'unknown'}, {second}"},
    )


def seek(transaction: Transaction, dispatch_id: str, since: int, due_at: int) -> None:
    """Marks a dispatch as one to look for. What an earlier attempt may have left is older, and counts as well."""
    transaction.conn.run(
        "update dispatches set sought_from = least(coalesce(sought_from, $1), $1), sought_until = null, due_at = $2"
        " where id = $3",
        since,
        due_at,
        dispatch_id,
    )


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the backend calls a dispatch, and when and for whose account it took it, as far as that is known.

    `at` is by the clock of the backend's rows.
    """

    dispatch_id: str
    external_id: str
    at: datetime | None
    account: str | None


def accept(transaction: Transaction, *accepted: Acceptance) -> None:
    """Notes what was accepted. Where the start was cancelled it is ended next, or runs on and its start says so.

    One that was sent more than once is looked for a while longer: an earlier attempt may show up after all.
    """
    until = transaction.now_micros + WATCHED_FOR
    rows = transaction.conn.over(
        "with taken(id text, external_id text, account text, at bigint, now bigint, until bigint) as ($rows)"
        " update dispatches set external_id = taken.external_id,"
        " account = coalesce(dispatches.account, taken.account),"
        " accepted_at = coalesce(taken.at, (select max(a.since) from attempts a where a.dispatch_id = dispatches.id),"
        " taken.now),"  # ours may be minutes away from the backend's, and would be taken for what its rows are behind
        " sought_from = case when attempts > 1 then sought_from end,"
        " sought_until = case when attempts > 1 and sought_from is not null then taken.until end,"
        " ending = case when exists (select 1 from starts s where s.id = start_id and s.cancel_at is not null"
        " and s.ends = 1) then TO_END else NOT_ENDING end"
        " from taken where dispatches.id = taken.id returning start_id,"
        " exists (select 1 from starts s where s.id = start_id and s.cancel_at is not null and s.ends = 0)",
        [
            (
                each.dispatch_id,
                each.external_id,
                each.account,
                each.at and to_micros(each.at),
                transaction.now_micros,
                until,
            )
            for each in accepted
        ],
    )
    for start_id, runs_on in rows:
        if runs_on:
            warn(transaction, start_id, RUNS_ON)


def take_back(transaction: Transaction, unanswered: Sequence[Claims | tuple[str, int]]) -> None:
    """Releases what was claimed, and closes the attempts that were begun, of which whoever wanted to send never heard.

    Nothing of it was sent: that begins when it is known to be on the disk.
    """
    conn = transaction.conn
    for each in unanswered:
        if isinstance(each, tuple):
            conn.run(
                "update attempts set ended_at = $1, outcome = 'NOT_SENT', detail = $2 where dispatch_id = $3"
                " and number = $4 and outcome is null",
                transaction.now_micros,
                STORE_LOST,
                *each,
            )
            continue
        for dispatch in each.dispatches:
            release(transaction, dispatch.id, None)


def touch(transaction: Transaction) -> None:
    """Writes something, to see whether that can be done."""
    transaction.conn.run(
        "insert into meta values ('checked_at', $1) on conflict (key) do update set value = $1",
        str(transaction.now_micros),
    )


def recover(transaction: Transaction) -> None:
    """Settles what earlier incarnations left: open attempts may have happened, claims may be taken again."""
    conn = transaction.conn
    crashed = conn.rows(
        "update attempts set ended_at = $1, outcome = $2, cause = $3, detail = $4"
        " where incarnation < $5 and outcome is null returning dispatch_id, since",
        transaction.now_micros,
        OutcomeKind.UNSURE,
        Cause.STOPPED,
        STOPPED,
        transaction.incarnation,
    )
    for dispatch_id, since in crashed:
        (state,) = conn.one("select state from dispatches where id = $1", dispatch_id)
        if state == State.PENDING:  # else a list had shown it before the end
            if since is not None:  # else it was sent before accounts were remembered: it cannot be proved absent
                seek(transaction, dispatch_id, since, transaction.now_micros)
            move(transaction, Move(dispatch_id, State.UNCERTAIN, _CRASHED))
    conn.run(  # what is given back of a cancelled start ends: nobody claims it to send it
        "update starts set cancelling = 1 where cancel_at is not null and id in"
        " (select start_id from dispatches where claimed_by is not null and claimed_by < $1)",
        transaction.incarnation,
    )
    conn.run(
        "update dispatches set claimed_by = null where claimed_by > HELD and claimed_by < $1",
        transaction.incarnation,
    )
    for (start_id,) in conn.rows("select id from starts where behind = 1"):
        transaction.move(start_id, lambda tally: tally)
