"""What is sent, and what came of it: attempts, their outcomes, and what a crash left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.model import Notice, State
from gateway.store.claiming import NONE_OPEN, is_cancelled, release
from gateway.store.moves import CHANGED, RUNS_ON, move, start_id_of, warn
from gateway.store.rows import to_micros

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.store import Settlement
    from gateway.store.writer import Transaction

HELD = 0  # the incarnation that has claimed what must not be sent to the account that the backend now is
WATCHED_FOR = 3_600_000_000  # microseconds for which what was sent again is looked for: two of it is worth knowing
STOPPED = "the gateway stopped while sending"

_CRASHED = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The gateway stopped while sending: the backend may have carried it out. It is being looked for while"
    " next_attempt_time is set; after that only the backend showing it, or ResolveFlowStart, settles it.",
    metadata={"detail": STOPPED},
)


def begin_attempt(transaction: Transaction, dispatch_id: str, account: str, since: datetime) -> int | None:
    """Opens an attempt, if the claim still holds and the dispatch has neither expired nor been cancelled.

    One that was recorded for another account is held.
    """
    row = transaction.conn.execute(
        "update dispatches set attempts = attempts + 1, account = ?1"
        " where id = ?2 and state = 1 and claimed_by = ?3 and expire_at > ?4 and coalesce(account = ?1, 1)"
        f" and {NONE_OPEN} and not exists (select 1 from starts s where s.id = start_id and s.cancel_at is not null)"
        " returning attempts",
        (account or None, dispatch_id, transaction.incarnation, transaction.now_micros),
    ).fetchone()
    if row is None:
        if not is_cancelled(transaction.conn, dispatch_id):
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
        f" and {NONE_OPEN}",
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
