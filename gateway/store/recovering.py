"""What a gateway that is gone has left of a lane: attempts that may have happened, claims, and progress not told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.model import Cause, Notice, OutcomeKind, State
from gateway.store.moves import Move, move
from gateway.store.sending import seek

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.store.transaction import Transaction

AT_ONCE = 500  # starts in one step, so that many of them hold nobody up
STOPPED = "the gateway stopped while sending"

_CRASHED = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The gateway stopped while sending: the backend may have carried it out. It is being looked for while"
    " next_attempt_time is set; after that only the backend showing it, or ResolveFlowStart, settles it.",
    metadata={"detail": STOPPED},
)
_LEFT = (  # of one lane, or of all that nobody has for a time
    "({0}.backend = $1 or ($1 = '' and not exists (select 1 from leases l where l.kind = 'lane'"
    " and l.name = {0}.backend and l.until is not null)))"
)


def recover(transaction: Transaction, lane: str = "", runs_on: int = 0) -> None:
    """Settles what others have left of a lane; "" stands for all that nobody has for a time.

    Open attempts may have happened, and may go on happening for `runs_on` microseconds. Claims may be taken again.
    """
    conn, ended_at = transaction.conn, transaction.now_micros + runs_on
    found = conn.rows(
        "select dispatch_id, attempts.number from attempts /*first*/ join dispatches on dispatches.id = dispatch_id"
        f" where outcome is null and incarnation <> $2 and {_LEFT.format('dispatches')}",
        lane,
        transaction.incarnation,
    )
    crashed = conn.over(
        "with found(id text, number bigint, at bigint, outcome text, cause text, detail text) as ($rows)"
        " update attempts set ended_at = found.at, outcome = found.outcome, cause = found.cause, detail = found.detail"
        " from found where dispatch_id = found.id and attempts.number = found.number and attempts.outcome is null"
        " returning dispatch_id, since",
        [(*each, ended_at, OutcomeKind.UNSURE, Cause.STOPPED, STOPPED) for each in found],
    )
    for dispatch_id, since in crashed:
        (state,) = conn.one("select state from dispatches where id = $1", dispatch_id)
        if state == State.PENDING:  # else a list had shown it before the end
            if since is not None:  # else it was sent before accounts were remembered: it cannot be proved absent
                seek(transaction, dispatch_id, since, ended_at)
            move(transaction, Move(dispatch_id, State.UNCERTAIN, _CRASHED))
    _give_back(transaction, lane)
    behind = conn.rows(f"select id from starts where behind = 1 and {_LEFT.format('starts')}", lane)
    _tell(transaction, [start_id for (start_id,) in behind])


@dataclass(frozen=True, slots=True)
class TellBehind:
    """That progress which a dead gateway had held back is to be told, whichever lane it is of.

    This tells what a living gateway holds back as well, at most a second before it would itself.
    """

    after: str = ""

    def __call__(self, transaction: Transaction) -> str:
        """Tells it of the next starts by id; returns the last one if there may be more, else ""."""
        behind = "select id from starts where behind = 1 and id > $1 order by id limit $2"
        found = [start_id for (start_id,) in transaction.conn.rows(behind, self.after, AT_ONCE)]
        _tell(transaction, found)
        return found[-1] if len(found) == AT_ONCE else ""


def _tell(transaction: Transaction, start_ids: Sequence[str]) -> None:
    for start_id in start_ids:
        transaction.move(start_id, lambda tally: tally)


def _give_back(transaction: Transaction, lane: str) -> None:
    """Gives back what others have claimed of a lane; what is of a cancelled start ends, for nobody claims it."""
    claimed = transaction.conn.rows(
        "select id, start_id from dispatches where claimed_by > HELD and claimed_by <> $2 and"
        f" {_LEFT.format('dispatches')}",
        lane,
        transaction.incarnation,
    )
    transaction.conn.over(
        "with found(id text) as ($rows) update starts set cancelling = 1 from found"
        " where starts.id = found.id and cancel_at is not null",
        sorted({(start_id,) for _, start_id in claimed}),
    )
    transaction.conn.over(
        "with found(id text) as ($rows) update dispatches set claimed_by = null from found"
        " where dispatches.id = found.id",
        [(dispatch_id,) for dispatch_id, _ in claimed],
    )
