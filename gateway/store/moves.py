"""How a dispatch moves: the one place where `NEXT` is checked, and what a start is told with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.model import NEXT, TERMINAL, Notice, State
from gateway.store.rows import encode, pack_notice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.store.tally import Tally
    from gateway.store.transaction import Transaction

EXPIRED = Notice(reason=Reason.EXPIRED, message="expire_time passed before the backend had accepted it.")
GAVE_UP = Notice(
    reason=Reason.EXPIRED,
    message="The backend did not accept it within `give_up_after`. ListChanges shows each attempt; start it again when"
    " the backend works.",
)
NEVER_ACCEPTED = Notice(
    reason=Reason.EXPIRED,
    message="The backend did not accept it within `give_up_after` of the first attempt, although it accepted others."
    " ListChanges shows each attempt and its result.",
)
CANCELLED = Notice(reason=Reason.CANCELLED, message="It was cancelled before it was over.")
REPLACED = Notice(
    reason=Reason.REPLACED, message="A later start of the same recipient, with `restart_participants`, took its place."
)
RUNS_ON = Notice(
    reason=Reason.CANNOT_CANCEL,
    message="The backend cannot cancel what it has accepted: that runs on. What was not sent is stopped.",
)
_TELLS = (TERMINAL | {State.UNCERTAIN}) - {State.COMPLETED}


def changed(recorded_for: str) -> Notice:
    """Says that a start is for another account than its backend is now: for `recorded_for`, if that is known."""
    return Notice(
        reason=Reason.BACKEND_CHANGED,
        message="Its backend is no longer configured, or is another account or region now: nothing of it is sent or"
        " followed. Configure the account and region it was recorded for under the same name, or cancel it. If it is"
        " the same account under another name, such as a RapidPro that was upgraded, add that name, which is in the"
        " metadata, to the backend's `formerly`.",
        metadata={"account": recorded_for} if recorded_for else {},
    )


def start_id_of(dispatch_id: str) -> str:
    """Returns the id of the start that a dispatch is a part of."""
    return dispatch_id.rpartition("-")[0]


@dataclass(frozen=True, slots=True)
class Move:
    """Where a dispatch goes, and what its start is told with it.

    `external_id` is what it is called from now on; None leaves it.
    """

    dispatch_id: str
    state: State
    failure: Notice | None
    warnings: tuple[Notice, ...] = ()
    external_id: str | None = None
    counts: Sequence[int | None] = (None, None)


def move(transaction: Transaction, *moves: Move) -> None:
    """Moves dispatches, each once, and the tallies of their starts with them. What stood still does so no more."""
    found = {
        dispatch_id: row
        for dispatch_id, *row in transaction.conn.over(
            "with moved(id text) as ($rows)"
            " select d.id, d.start_id, d.state, d.recipient_count, d.stalled,"
            " not exists (select 1 from dispatches o where o.id = d.start_id || '-2')"
            " and not exists (select 1 from recipients r where r.start_id = d.start_id)"
            " from moved /*first*/ join dispatches d on d.id = moved.id",
            [(each.dispatch_id,) for each in moves],
        )
    }
    transaction.read({row[0] for row in found.values()})
    for each in moves:
        _tell(transaction, each, *found[each.dispatch_id])
    transaction.conn.over(
        "with moved(id text, state bigint, failure text, at bigint) as ($rows)"
        " update dispatches set state = moved.state, failure = moved.failure, claimed_by = null, moved_at = moved.at,"
        " stalled = 0 from moved where dispatches.id = moved.id",
        [
            (
                each.dispatch_id,
                each.state,
                encode(pack_notice(each.failure)) if each.failure and each.state in _TELLS else None,
                transaction.now_micros,
            )
            for each in moves
        ],
    )


def _tell(
    transaction: Transaction, each: Move, start_id: str, state: int, recipient_count: int, stalled: int, alone: int
) -> None:
    """Counts a move in the tally of its start; only that of a start that is `alone` in one dispatch has its name."""
    before = State(state)
    if each.state is not before and each.state not in NEXT[before]:
        msg = f"dispatch {each.dispatch_id} cannot go from {before.name} to {each.state.name}"
        raise AssertionError(msg)

    def change(tally: Tally) -> Tally:
        if each.state is not before or (each.failure and each.state is State.UNCERTAIN):
            tally = tally.moved(before, each.state, recipient_count, each.failure)
        return tally.stuck(-stalled).counted(*each.counts).warned(each.warnings)

    transaction.move(start_id, change, external_id=each.external_id if alone else None)


def warn(transaction: Transaction, start_id: str, *warnings: Notice) -> None:
    """Tells a start something that moves nothing; without warnings, only when it is tried again."""
    transaction.move(start_id, lambda tally: tally.warned(warnings))
