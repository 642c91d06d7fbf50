"""What is sent: attempts, and what is known of a dispatch that was accepted, or may have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.model import Notice, OutcomeKind
from gateway.store.claiming import NONE_OPEN, is_cancelled, release
from gateway.store.looking import WATCHED_FOR
from gateway.store.moves import RUNS_ON, changed, start_id_of, warn
from gateway.store.rows import to_micros

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction
    from gateway.store.words import Claims

STORE_LOST = "the store was lost in that moment, and came back"

_OURS = (  # as `Transaction.may_work` says
    "not exists (select 1 from leases l where l.kind = 'lane' and l.name = dispatches.backend"
    " and l.owner <> begun.incarnation)"
)
_LATE = (
    "the backend carried the request out after its quiet window: lengthen `quiet_window`, or set `on_absent`; or a flow"
    " passes `startflow_id` on to a start of its own."
)
_COPIED = (
    "this gateway sent it once, so no setting of it helps: a flow passes `startflow_id` on to a start of its own, or a"
    " proxy in front of the backend repeats requests."
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
    """Opens attempts, where lane and claim are still ours, and the dispatch has neither expired nor been cancelled.

    One that was recorded for another account is held.
    """
    conn, now, incarnation = transaction.conn, transaction.now_micros, transaction.incarnation
    begun = {
        dispatch_id: (number, backend)
        for dispatch_id, number, backend in conn.over(
            "with begun(id text, account text, incarnation bigint, now bigint) as ($rows)"
            " update dispatches set attempts = attempts + 1, account = begun.account from begun"
            " where dispatches.id = begun.id and state = PENDING and claimed_by = begun.incarnation"
            f" and expire_at > begun.now and {_OURS}"
            f" and coalesce(dispatches.account = begun.account, true) and {NONE_OPEN}"
            " and not exists (select 1 from starts s where s.id = start_id and s.cancel_at is not null)"
            " returning dispatches.id, dispatches.attempts, dispatches.backend",
            [(each.dispatch_id, each.account or None, incarnation, now) for each in beginnings],
        )
    }
    conn.insert(
        "attempts (dispatch_id, number, start_id, incarnation, begun_at, since, backend)",
        [
            (each.dispatch_id, number, start_id_of(each.dispatch_id), incarnation, now, to_micros(each.since), backend)
            for each in beginnings
            if each.dispatch_id in begun
            for number, backend in [begun[each.dispatch_id]]
        ],
    )
    for each in beginnings:
        if each.dispatch_id not in begun and not is_cancelled(conn, each.dispatch_id):
            _hold_if_anothers(transaction, each.dispatch_id, each.account)
    return [begun[each.dispatch_id][0] if each.dispatch_id in begun else None for each in beginnings]


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
