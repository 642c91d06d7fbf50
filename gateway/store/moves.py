"""How a dispatch moves: the one place where `NEXT` is checked, and what a start is told with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.model import NEXT, TERMINAL, Notice, State
from gateway.store.rows import encode, pack_notice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.store.tally import Tally
    from gateway.store.writer import Transaction

EXPIRED = Notice(reason=Reason.EXPIRED, message="expire_time passed before the backend had accepted it.")
GAVE_UP = Notice(
    reason=Reason.EXPIRED,
    message="The backend accepted nothing for as long as `give_up_after` says. Start it again when it is well.",
)
CANCELLED = Notice(reason=Reason.CANCELLED, message="It was cancelled before it was over.")
REPLACED = Notice(
    reason=Reason.REPLACED, message="A later start of the same recipient, with `restart_participants`, took its place."
)
RUNS_ON = Notice(
    reason=Reason.CANNOT_CANCEL,
    message="The backend cannot cancel what it has accepted: that runs on. What was not sent is stopped.",
)
CHANGED = Notice(
    reason=Reason.BACKEND_CHANGED,
    message="Its backend was taken out of the configuration, or is another account now: nothing of it is sent or"
    " followed. Configure the account it was recorded for under the same name, or cancel it.",
)

_TELLS = (TERMINAL | {State.UNCERTAIN}) - {State.COMPLETED}


def start_id_of(dispatch_id: str) -> str:
    """Returns the id of the start that a dispatch is a part of."""
    return dispatch_id.rpartition("-")[0]


def move(
    transaction: Transaction,
    dispatch_id: str,
    state: State,
    failure: Notice | None,
    *,
    warnings: tuple[Notice, ...] = (),
    external_id: str | None = None,
    counts: Sequence[int | None] = (None, None),
) -> None:
    """Moves a dispatch, and the tally of its start with it. What stood still does so no more.

    `external_id` is what it is called from now on; None leaves it.
    """
    conn = transaction.conn
    start_id, before, recipient_count, stalled, alone = conn.execute(
        "select d.start_id, d.state, d.recipient_count, d.stalled, not exists (select 1 from dispatches o where"
        " o.id = d.start_id || '-2') and not exists (select 1 from recipients r where r.start_id = d.start_id)"
        " from dispatches d where d.id = ?",
        (dispatch_id,),
    ).fetchone()
    before = State(before)
    if state is not before and state not in NEXT[before]:
        msg = f"dispatch {dispatch_id} cannot go from {before.name} to {state.name}"
        raise AssertionError(msg)
    conn.execute(
        "update dispatches set state = ?, failure = ?, claimed_by = null, moved_at = ?, stalled = 0 where id = ?",
        (
            state,
            encode(pack_notice(failure)) if failure and state in _TELLS else None,
            transaction.now_micros,
            dispatch_id,
        ),
    )

    def change(tally: Tally) -> Tally:
        if state is not before:
            tally = tally.moved(before, state, recipient_count, failure)
        return tally.stuck(-stalled).counted(*counts).warned(warnings)

    transaction.move(start_id, change, external_id=external_id if alone else None)


def warn(transaction: Transaction, start_id: str, warning: Notice) -> None:
    """Tells a start something that moves nothing."""
    transaction.move(start_id, lambda tally: tally.warned((warning,)))
