"""How what is held expires: no lane claims it, so no claim ends it. In small steps, like what is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.model import State
from gateway.store.moves import EXPIRED, GAVE_UP, Move, move

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction
    from gateway.store.words import HeldPosition

ROWS = 100  # gone through in one step


def expired(conn: Connection, now: int, after: HeldPosition) -> tuple[list[str], HeldPosition | None]:
    """Reads which of the next held dispatches have expired; returns them, and where to go on (None: at the end)."""
    rows = conn.rows(
        "select start_id, number, id, expire_at <= $1 from dispatches /*by dispatches_held*/ where claimed_by = HELD"
        " and (start_id, number) > ($2, $3) order by start_id, number limit $4",
        now,
        *after,
        ROWS,
    )
    position = (rows[-1][0], rows[-1][1]) if len(rows) == ROWS else None
    return [dispatch_id for _, _, dispatch_id, is_over in rows if is_over], position


@dataclass(frozen=True, slots=True)
class Expire:
    """Held dispatches that have expired."""

    dispatch_ids: Sequence[str]

    def __call__(self, transaction: Transaction) -> None:
        """Ends held dispatches that have expired, unless something has become of them since."""
        rows = transaction.conn.over(
            "with named(id text, now bigint) as ($rows) select d.id, s.expire_at is null from named"
            " /*first*/ join dispatches d on d.id = named.id join starts s on s.id = d.start_id"
            " where d.state = PENDING and d.claimed_by = HELD and d.expire_at <= named.now",
            [(each, transaction.now_micros) for each in self.dispatch_ids],
        )
        move(transaction, *(Move(each, State.FAILED, GAVE_UP if gave_up else EXPIRED) for each, gave_up in rows))
