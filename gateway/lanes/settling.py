"""Where a dispatch goes after an attempt, by what its backend answered."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, assert_never

from gateway.adapters.base import Accepted, Barred, Blocked, Busy, NotSent, Refused, Throttled, Unsure
from gateway.errors import Reason
from gateway.model import Cause, Notice, OutcomeKind, State
from gateway.store import Settlement

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.adapters.base import Outcome
    from gateway.lanes.backend import Backend
    from gateway.model import Dispatch

FIRST_BARRED = timedelta(seconds=2)  # until a request that was refused on its way goes again; twice as long each time
LONGEST_BARRED = timedelta(hours=1)


def settle(  # noqa: PLR0911 -- one for each outcome
    dispatch: Dispatch, outcome: Outcome, backend: Backend, now: datetime
) -> Settlement:
    """Returns where a dispatch goes after an attempt, and notes with the circuit how the backend is."""
    circuit = backend.transport.circuit
    match outcome:
        case Accepted():
            circuit.answered(dispatch.tenant)
            return Settlement(
                outcome=OutcomeKind.ACCEPTED,
                detail="",
                state=outcome.state,
                external_id=outcome.external_id,
                account=backend.named(outcome.account),
                accepted_at=outcome.accepted_at or backend.transport.their_now(now),
                warnings=outcome.warnings,
            )
        case Refused(failure=failure):
            circuit.answered(dispatch.tenant)
            return _refused(failure, State.FAILED, None)
        case Busy(failure=failure):
            circuit.answered(dispatch.tenant)
            return _refused(failure, State.SKIPPED if dispatch.exclude_active else State.FAILED, Cause.BUSY)
        case Throttled(seconds=seconds):
            circuit.throttled(seconds)
            return _again(OutcomeKind.THROTTLED, None, "", now + _lane_waits(backend))
        case NotSent(reason=reason, cause=Cause.TOO_LATE):
            return _again(OutcomeKind.NOT_SENT, Cause.TOO_LATE, reason, now)  # says nothing of the backend
        case NotSent(reason=reason, cause=cause):
            circuit.unreachable(reason)
            return _again(OutcomeKind.NOT_SENT, cause, reason, now + _lane_waits(backend))
        case Blocked(notice=notice):
            circuit.blocked(notice)
            return _again(OutcomeKind.BLOCKED, None, str(notice.reason), now + _lane_waits(backend), notice)
        case Barred(notice=notice):
            own_pause = min(LONGEST_BARRED, FIRST_BARRED * 2 ** min(dispatch.attempts, 16))
            return _again(OutcomeKind.BLOCKED, Cause.BARRED, str(notice.reason), now + own_pause, notice)
        case Unsure(reason=reason, cause=cause):
            circuit.stumbled(reason, dispatch.id, dispatch.tenant)
            return Settlement(
                outcome=OutcomeKind.UNSURE,
                cause=cause,
                detail=reason,
                state=State.UNCERTAIN,
                due_at=now + backend.quiet_window,
                failure=_unknown(reason),
            )
        case _:
            assert_never(outcome)


def _refused(failure: Notice, state: State, cause: Cause | None) -> Settlement:
    return Settlement(
        outcome=OutcomeKind.REFUSED, cause=cause, detail=str(failure.reason), state=state, failure=failure
    )


def _lane_waits(backend: Backend) -> timedelta:
    return timedelta(seconds=backend.transport.circuit.wait_seconds())


def _again(
    outcome: OutcomeKind, cause: Cause | None, detail: str, due_at: datetime, warning: Notice | None = None
) -> Settlement:
    return Settlement(
        outcome=outcome,
        cause=cause,
        detail=detail,
        state=State.PENDING,
        due_at=due_at,
        warnings=(warning,) if warning else (),
    )


def bug(error: Exception) -> Unsure:
    """Returns what came of a request in which an exception escaped: it may have been sent."""
    return Unsure(reason=f"a bug of the gateway: {type(error).__name__}", cause=Cause.BUG)


def _unknown(detail: str) -> Notice:
    return Notice(
        reason=Reason.OUTCOME_UNKNOWN,
        message=f"The backend may have carried it out ({detail}). It is being looked for while next_attempt_time is"
        " set; after that only the backend showing it, or ResolveFlowStart, settles it.",
        metadata={"detail": detail},
    )
