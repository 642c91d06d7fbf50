"""Why a start waits, and until when: one rule, applied wherever a start is read.

It follows from how the backend is now, so nothing of it is recorded, and it is gone when it no longer holds:

1. What the start itself waits for (its schedule, its next attempt, an account that is another one) is recorded already.
2. Otherwise its backend takes nothing now: it blocks, asked to wait, cannot be reached, was not asked yet whose account
   it is, or its rate is spent, by all tenants or as far as this one may. The warning is what the backend's health
   says, too.
3. Otherwise others are before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.lanes.pacing import HealthState
from gateway.model import Notice, State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gateway.lanes.backend import Backend
    from gateway.model import FlowStart, Standing

SOON = timedelta(seconds=2)  # in which a start that nothing hinders is sent
OF_THE_START = frozenset({Reason.BACKEND_CHANGED, Reason.SET_ASIDE})  # what keeps it back whatever its backend does
WORDS = {
    HealthState.BLOCKED: "The backend accepts nothing until somebody acts: {detail}",
    HealthState.THROTTLED: "The backend asked to wait.",
    HealthState.UNREACHABLE: "The backend does not answer properly ({detail}).",
}
ACCOUNT = "The backend has not answered yet whose account it is, and nothing is sent before that."
RATE = "The backend's rate is spent; `backends.NAME.rate` is what it may have."
SHARE = "This tenant has spent most of the backend's rate; what is left of it is kept for other tenants."
OTHERS = "Others are sent first: what was due before it on this backend, or what is sent to the same recipient."


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Why a start waits, and when it is tried next, if that is known."""

    warning: Notice
    next_attempt_at: datetime | None


def wait_of(start: FlowStart, backends: Mapping[str, Backend], now: datetime) -> Wait | None:
    """Tells for what a start waits, if it waits for its backend."""
    backend, standing = backends.get(start.asked.backend), start.standing
    if backend is None or not _has_unsent(start):
        return None
    if standing.warnings and OF_THE_START & {each.reason for each in standing.warnings}:
        return None
    why, seconds = _why(backend, start.asked.tenant)
    if not why:
        is_early = now - start.asked.created_at < SOON
        why, seconds = ("", 0.0) if is_early or _waits_by_itself(standing, now) else (OTHERS, 0.0)
    if not why:
        return None
    until = now + timedelta(seconds=seconds)
    next_attempt_at = until if seconds else standing.next_attempt_at
    if seconds and standing.next_attempt_at is not None:
        next_attempt_at = max(until, standing.next_attempt_at)
    return Wait(warning=_notice(why, backend), next_attempt_at=next_attempt_at)


def _has_unsent(start: FlowStart) -> bool:
    """Whether some of it was not taken by its backend, and is to be sent."""
    standing = start.standing
    if standing.cancel_requested_at is not None or standing.state not in (State.PENDING, State.QUEUED, State.STARTED):
        return False
    n = standing.progress
    taken = n.queued + n.started + n.completed + n.failed + n.interrupted + n.skipped + n.uncertain
    return taken < start.asked.recipient_count


def _waits_by_itself(standing: Standing, now: datetime) -> bool:
    return standing.next_attempt_at is not None and standing.next_attempt_at > now


def _why(backend: Backend, tenant: str) -> tuple[str, float]:
    """Returns why nothing of a tenant is sent now, and for how many seconds; empty if nothing hinders it."""
    transport = backend.transport
    circuit = transport.circuit
    seconds = circuit.wait_seconds(tenant)
    words = WORDS.get(circuit.state, "")
    if words and (seconds or transport.identity is None or circuit.state is not HealthState.THROTTLED):
        return words.format(detail=circuit.detail), seconds
    if transport.identity is None:
        return ACCOUNT, seconds
    if rate := transport.limiter.wait_seconds(sends=True):
        return RATE, rate
    share = transport.limiter.wait_seconds(sends=True, tenant=tenant)
    return (SHARE, share) if share else ("", 0.0)


def _notice(why: str, backend: Backend) -> Notice:
    blocked = backend.transport.circuit.notice
    return Notice(
        reason=Reason.WAITING,
        message=why,
        metadata={"backend": backend.name, **({"reason": str(blocked.reason)} if blocked else {})},
    )
