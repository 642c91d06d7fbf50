"""How old changes and finished starts are forgotten, in small steps beside everything else.

Rules:

1. Every change after the revision up to which was purged is kept, and every start that callers see has changed since.
   So whoever goes on from a revision gets everything after it, or is told that it is not kept.
2. Changes go in the order of their revisions. With its newest one a start that is over goes as well; one that is not
   is recorded anew, as it stands.
3. A start is there as a whole or not at all. In one statement it is marked as erased, and loses its tenant, its
   request id and what it says; whatever else belongs to it is erased a few rows at a time, after a crash too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.model import TERMINAL
from gateway.store.reads import oldest

if TYPE_CHECKING:
    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

ROWS = 200  # gone through in one step: a few milliseconds, in which nothing else is written

_HIDE = (
    "with hidden(id text) as ($rows) update starts set erased = 1, tenant = '', request_id = null, fingerprint ="
    " '', flow = '',"
    " asked = '', params = '', standing = '', tally = '', behind = 0, cancelling = 0 from hidden"
    " where starts.id = hidden.id"
)
_PARTS = (  # a start that is hidden has no changes left: the last of them went when it was hidden
    (
        "delete from attempts where (dispatch_id, number) in"
        " (select dispatch_id, number from attempts where start_id = $1 limit $2)"
    ),
    "delete from dispatches where id in (select id from dispatches where start_id = $1 limit $2)",
    (
        "delete from recipients where (start_id, block) in"
        " (select start_id, block from recipients where start_id = $1 limit $2)"
    ),
)
_UPDATED = (  # of what cannot be read it is long ago
    "coalesce(cast(field_of(c.standing, 'updated') as bigint), 0)"
)


@dataclass(frozen=True, slots=True)
class Purge:
    """One step of forgetting what is older than a moment, in microseconds."""

    before: int

    def __call__(self, transaction: Transaction) -> int:
        """Erases some of what is hidden, then forgets changes that are older than a moment; returns how many rows."""
        erased = _erase(transaction.conn, ROWS)
        return erased + _forget(transaction, self.before, ROWS - erased)


def _erase(conn: Connection, limit: int) -> int:
    """Erases rows of hidden starts, and the starts that nothing belongs to any more."""
    left = limit
    while left > 0:
        row = conn.row("select id from starts where erased = 1 limit 1")
        if row is None:
            break
        for statement in _PARTS:
            left -= conn.run(statement, *row, left)
            if left == 0:
                return limit  # there may be more of these
        conn.run("delete from starts where id = $1", *row)
        left -= 1
    return limit - left


def _forget(transaction: Transaction, before: int, limit: int) -> int:
    """Forgets changes in the order of their revisions, up to the first that is not old."""
    conn = transaction.conn
    purged = oldest(conn)
    rows = conn.rows(
        f"select c.revision, c.start_id, s.revision, s.state, {_UPDATED} from changes c"
        " join starts s on s.id = c.start_id where c.revision > $1 order by c.revision limit $2",
        purged,
        limit,
    )
    through, over = purged, []
    for revision, start_id, newest, state, updated in rows:
        if updated >= before:
            break
        through = revision
        if revision < newest:
            continue
        if state in TERMINAL and not transaction.moves(start_id):
            over.append((start_id,))
        else:
            transaction.record_anew(start_id)
    if through == purged:
        return 0
    forgotten = conn.run("delete from changes where revision > $1 and revision <= $2", purged, through)
    conn.over(_HIDE, over)
    conn.run("update meta set value = $1 where key = 'purged_through'", str(through))
    return forgotten
