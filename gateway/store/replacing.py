"""Which running dispatch may be ended for a new one of the same recipient.

Rules:

1. A start replaces only what was recorded before it; a scheduled one counts from the time it is due. So of two starts
   the later one wins, whichever is sent first.
2. What was to be cancelled is ended whoever it is of, and ends as cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model import TERMINAL, Cause, Dispatch
from gateway.store import Kept
from gateway.store.finding import ASKED, REPLACING
from gateway.store.moves import start_id_of
from gateway.store.reads import DISPATCH_COLUMNS, decode_dispatch
from gateway.store.rows import SCHEDULE

if TYPE_CHECKING:
    from sqlite3 import Connection

    from gateway.store.writer import Transaction

BUSY_ROUNDS = 3  # in which a running dispatch is ended for a new one; then somebody else keeps starting it


def replaceable(transaction: Transaction, dispatch_id: str, external_id: str) -> Dispatch | Kept | None:
    """Returns the dispatch with an external id, if it is the same tenant's and may be ended for another one.

    If it runs, it is marked: however it ends now, it is because it was replaced.
    """
    conn = transaction.conn
    row = conn.execute(
        f"select o.ending, {DISPATCH_COLUMNS} from dispatches o join starts so on so.id = o.start_id"
        " join dispatches d on d.id = ? join starts s on s.id = d.start_id"
        " where o.external_id = ? and o.backend = d.backend and so.tenant = s.tenant and o.id <> d.id",
        (dispatch_id, external_id),
    ).fetchone()
    if row is None:
        return None
    ending, *columns = row
    found = decode_dispatch(columns)
    if found.state not in TERMINAL and ending in (0, REPLACING) and _is_later(conn, found.id, dispatch_id):
        return Kept.LATER
    (rounds,) = conn.execute(
        "select count(*) from attempts where dispatch_id = ? and cause = ?", (dispatch_id, Cause.BUSY)
    ).fetchone()
    if rounds >= BUSY_ROUNDS:
        return None
    conn.execute(
        "update dispatches set ending = iif(ending in (1, 2), ?, ?) where id = ? and state in (2, 3)",
        (ASKED, REPLACING, found.id),
    )
    return found


def spare(transaction: Transaction, dispatch_id: str) -> None:
    """Takes it back that the backend was asked to end a dispatch: the request never got there."""
    transaction.conn.execute(
        "update dispatches set ending = case ending when ? then 1 else 0 end where id = ? and ending in (?, ?)",
        (ASKED, dispatch_id, ASKED, REPLACING),
    )


def _is_later(conn: Connection, one: str, other: str) -> bool:
    """Whether the start of a dispatch comes after that of another one.

    Rows are numbered as they are recorded, also while the clock is put back: only a schedule is compared by time.
    """
    first, second = (
        conn.execute(
            f"select {SCHEDULE} is not null, max(coalesce({SCHEDULE}, 0), s.created_at), s.rowid from starts s"
            " where s.id = ?",
            (start_id_of(each),),
        ).fetchone()
        for each in (one, other)
    )
    by_time = first[0] or second[0]
    return bool(first[1:] > second[1:] if by_time else first[2] > second[2])
