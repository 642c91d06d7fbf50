"""How much is in a store, for a person who is about to replace or to doubt it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.model import State
from gateway.store.tally import Tally

if TYPE_CHECKING:
    from gateway.store.connection import Connection


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is in a store.

    `unsent` counts dispatches that no backend had accepted by then: those waiting for their time, and those that were
    being sent or looked for.
    """

    starts: int
    not_over: int  # starts
    unsent: int
    uncertain: int


def count(conn: Connection) -> Counts:
    """Counts what is in a store, within a transaction."""
    starts, not_over = conn.one(
        "select count(*), count(*) filter (where state not in (COMPLETED, FAILED, INTERRUPTED)) from starts"
        " where tenant <> ''"
    )
    unsent = uncertain = 0
    for (tally,) in conn.each(
        "select tally from starts where state not in (COMPLETED, FAILED, INTERRUPTED) and tenant <> ''"
    ):
        dispatches = Tally.decode(tally).dispatches
        unsent += dispatches.get(State.PENDING, 0)
        uncertain += dispatches.get(State.UNCERTAIN, 0)
    return Counts(starts, not_over, unsent, uncertain)
