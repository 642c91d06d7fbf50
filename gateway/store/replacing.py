"""Which running dispatch may be ended for a new one of the same recipient.

Rules:

1. A start replaces only what was recorded before it; a scheduled one counts from the time it is due. So of two starts
   the later one wins, whichever is sent first.
2. While a dispatch of the same tenant for the same recipient is being sent or in doubt, in whatever flow, what runs may
   be that one.
3. What was to be cancelled is ended whoever it is of, and ends as cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.model import TERMINAL, Cause, Dispatch
from gateway.store.lane_reads import DISPATCH_COLUMNS, decode_dispatch
from gateway.store.moves import start_id_of
from gateway.store.rows import SCHEDULE
from gateway.store.states import Ending
from gateway.store.words import Kept

if TYPE_CHECKING:
    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

RIVAL_ROUNDS = 8  # in which it may be one of the same tenant: each takes a quarter of the quiet window
FLOWS = 100  # in which such a one is looked for
BUSY_ROUNDS = 3  # in which a running dispatch is ended for a new one; then somebody else keeps starting it


@dataclass(frozen=True, slots=True)
class Replace:
    """A dispatch that is to be sent, and the external id of what runs for its recipient."""

    dispatch_id: str
    external_id: str

    def __call__(self, transaction: Transaction) -> Dispatch | Kept | None:
        """Returns the dispatch with an external id, if it is the same tenant's and may be ended for another one.

        If it runs, it is marked: however it ends now, it is because it was replaced.
        """
        conn = transaction.conn
        row = conn.row(
            f"select o.ending, {DISPATCH_COLUMNS} from dispatches o join starts so on so.id = o.start_id"
            " join dispatches d on d.id = $1 join starts s on s.id = d.start_id"
            " where o.external_id = $2 and o.backend = d.backend and so.tenant = s.tenant and o.id <> d.id",
            self.dispatch_id,
            self.external_id,
        )
        if row is None:
            return Kept.UNKNOWN if _may_be_a_rivals(conn, self.dispatch_id, self.external_id) else None
        ending, *columns = row
        found = decode_dispatch(tuple(columns))
        if (
            found.state not in TERMINAL
            and ending in (Ending.NOT_ENDING, Ending.REPLACING)
            and _is_later(conn, found.id, self.dispatch_id)
        ):
            return Kept.LATER
        if _rounds(conn, self.dispatch_id, Cause.BUSY) >= BUSY_ROUNDS:
            return None
        conn.run(
            "update dispatches set ending = case when ending in (TO_END, ASKED) then ASKED else REPLACING end"
            " where id = $1 and state in (QUEUED, STARTED)",
            found.id,
        )
        return found


@dataclass(frozen=True, slots=True)
class Spare:
    """A dispatch that the backend was not asked to end after all."""

    dispatch_id: str

    def __call__(self, transaction: Transaction) -> None:
        """Takes it back that the backend was asked to end a dispatch: the request never got there."""
        transaction.conn.run(
            "update dispatches set ending = case ending when ASKED then TO_END else NOT_ENDING end"
            " where id = $1 and ending in (ASKED, REPLACING)",
            self.dispatch_id,
        )


def _is_later(conn: Connection, one: str, other: str) -> bool:
    """Whether the start of a dispatch comes after that of another one.

    Starts are numbered as they are recorded, also while the clock is put back: only a schedule is compared by time.
    """
    first, second = (
        conn.one(
            f"select {SCHEDULE} is not null, greatest(coalesce({SCHEDULE}, 0), s.created_at), s.recorded from starts s"
            " where s.id = $1",
            start_id_of(each),
        )
        for each in (one, other)
    )
    by_time = first[0] or second[0]
    return bool(first[1:] > second[1:] if by_time else first[2] > second[2])


def _rounds(conn: Connection, dispatch_id: str, cause: Cause) -> int:
    counted = "select count(*) from attempts where dispatch_id = $1 and cause = $2"
    (rounds,) = conn.one(counted, dispatch_id, cause)
    return int(rounds)


def _may_be_a_rivals(conn: Connection, dispatch_id: str, external_id: str) -> bool:
    """Whether an external id may be that of another dispatch of the tenant, for some rounds."""
    of_backend = "external_id = $1 and backend = (select backend from dispatches where id = $2)"
    if conn.row(f"select 1 from dispatches where {of_backend}", external_id, dispatch_id):
        return False
    return _rounds(conn, dispatch_id, Cause.RIVAL) < RIVAL_ROUNDS and _has_rival(conn, dispatch_id)


def _has_rival(conn: Connection, dispatch_id: str) -> bool:
    """Whether another dispatch of the tenant is being sent to the same recipient, or in doubt, in whatever flow.

    The key of a recipient begins with the flow: it goes by steps from one flow to the next through an index.
    """
    backend, tenant, key = conn.one("select backend, tenant, recipient from dispatches where id = $1", dispatch_id)
    if key is None:
        return False
    _, _, recipient = key.partition(" ")
    for unanswered in ("state = PENDING and claimed_by > HELD", "state = UNCERTAIN and sought_from is not null"):
        after = ""
        for _ in range(FLOWS):
            (first,) = conn.one(
                f"select min(recipient) from dispatches where backend = $1 and recipient > $2 and {unanswered}",
                backend,
                after,
            )
            if first is None:
                break
            flow, _, _ = first.partition(" ")
            if conn.row(
                f"select 1 from dispatches where backend = $1 and recipient = $2 and {unanswered}"
                " and tenant = $3 and id <> $4 limit 1",
                backend,
                f"{flow} {recipient}",
                tenant,
                dispatch_id,
            ):
                return True
            after = f"{flow}!"  # which sorts right behind a flow and a space
    return False
