"""What the gateway puts right of its store when it starts, before it does anything else with it.

Rules:

1. Only what an index finds is healed here, so that a start takes no longer for it: everything that is over is passed
   by. `startflow store check` finds the rest.
2. What is healed is said: the log names the invariant and the ids, and a start whose fate changes has a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.model import Notice
from gateway.store.blocks import write_out_stranded
from gateway.store.invariants import BLOCKED, BLOCKS, LOOKING, UNSENT, backlog_id, violations
from gateway.store.looking import WATCHED_FOR
from gateway.store.moves import warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.store.transaction import Transaction

_HEALED = Notice(
    reason=Reason.HEALED,
    message="Some of its recipients would never have been sent, because of an error in the store. The gateway repaired"
    " it: they are sent now, or end with the start.",
)
_PENDING = (  # by starts: their tallies count what is not written out as well
    f"with recursive {BLOCKED}, pending(id) as (select start_id from dispatches /*by dispatches_waiting*/"
    " where state = PENDING and claimed_by is null"
    " union select start_id from dispatches where claimed_by is not null"
    " union select id from blocked where id is not null)"
    " select s.tenant, s.backend, s.scheduled, sum(coalesce(field_of(s.tally, 'd.\"1\"'), 0))"
    " from pending /*first*/ join starts s on s.id = pending.id where s.erased = 0"
    " group by s.tenant, s.backend, s.scheduled"
)


def heal(transaction: Transaction) -> Mapping[str, Sequence[str]]:
    """Puts right what an earlier process left wrong; returns the ids of what was healed, by the invariant's name.

    It runs before claims are given back: what was claimed is pending too.
    """
    healed = {
        UNSENT.name: _count_backlogs_anew(transaction),
        BLOCKS.name: _write_out(transaction),
        LOOKING.name: _end_looking(transaction),
    }
    return {name: ids for name, ids in healed.items() if ids}


def _write_out(transaction: Transaction) -> list[str]:
    stranded = [violation.id for violation in violations(transaction.conn, BLOCKS, most=-1)]
    for start_id in write_out_stranded(transaction, stranded):
        warn(transaction, start_id, _HEALED)
    return stranded


def _count_backlogs_anew(transaction: Transaction) -> list[str]:
    """Sets the backlogs to what is pending: one that is too small is never served, one too large refuses starts."""
    conn = transaction.conn
    pending = {(*key,): int(count) for *key, count in conn.rows(_PENDING)}
    rows = conn.rows("select tenant, backend, scheduled, unsent from backlogs")
    counted = {(*key,): count for *key, count in rows}
    wrong = [key for key in pending.keys() | counted.keys() if pending.get(key, 0) != counted.get(key, 0)]
    conn.insert(
        "backlogs (tenant, backend, scheduled, unsent)",
        [(*key, pending.get(key, 0)) for key in wrong],
        "on conflict (tenant, backend, scheduled) do update set unsent = excluded.unsent",
    )
    return sorted(backlog_id(*key) for key in wrong)


def _end_looking(transaction: Transaction) -> list[str]:
    rows = transaction.conn.rows(
        "update dispatches set sought_until = $1 where sought_from is not null and state <> UNCERTAIN and"
        " sought_until is null"
        " returning id",
        transaction.now_micros + WATCHED_FOR,
    )
    return [dispatch_id for (dispatch_id,) in rows]
