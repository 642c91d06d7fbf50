"""How a gateway begins to use a store, on whichever engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.store import leases, restoring, stepping
from gateway.store.healing import heal
from gateway.store.recovering import recover
from gateway.store.settling import settle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from gateway.store.transaction import Transaction


def begin_life(transaction: Transaction, lasts: timedelta | None) -> Mapping[str, Sequence[str]]:
    """Begins a life; returns what was healed. Only one that is alone repairs, doubts and recovers anything.

    Beside others it touches nothing: whoever takes a lane settles what was left of that.
    """
    healed: Mapping[str, Sequence[str]] = {}
    if leases.is_alone(transaction.conn):
        seen = stepping.newest(transaction.conn)
        healed = heal(transaction)
        restoring.doubt(transaction)
        recover(transaction)
        stepping.resumed(transaction, seen)
    leases.begin(transaction, lasts)
    settle(transaction)
    return healed
