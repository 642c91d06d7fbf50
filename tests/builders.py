"""Small builders of what stores are given, and the few steps that most tests begin with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

from gateway.model import Asked, Cause, CompletionMeaning, Notice, OutcomeKind, Recipients, State
from gateway.sightings import Sighting
from gateway.store import Settlement, Terms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.model import FlowStart
    from gateway.store import Recorded, Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
BACKEND = "rapidpro"
TENANT = "default"
ACCOUNT = "workspace"
REFUSED = Notice(reason="BACKEND_REJECTED", message="no", metadata={"field": "urns"})

TERMS = Terms(account=ACCOUNT)

_numbers = count(1)


@dataclass
class Clock:
    """A clock that moves when it is told to."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        """Tells the time."""
        return self.now

    def tick(self, seconds: float) -> None:
        """Moves on."""
        self.now += timedelta(seconds=seconds)


def asked(**different: Any) -> Asked:
    """Builds what a caller asked for; ids sort in the order they are made."""
    fields: dict[str, Any] = {
        "id": f"start{next(_numbers):07}",
        "tenant": TENANT,
        "backend": BACKEND,
        "flow": FLOW,
        "recipient_count": 1,
        "params": {"a": [1, "é", None], "b": {"c": True}},
        "created_at": NOON,
        "completion_meaning": CompletionMeaning.EXECUTIONS_ENDED,
    }
    return Asked(**{**fields, **different})


def singly(recipient_count: int, first: int = 1) -> list[Recipients]:
    """Plans one dispatch for each recipient, as Twilio's adapter does."""
    return [Recipients(urns=(f"tel:+1206{number:07}",)) for number in range(first, first + recipient_count)]


async def create(store: Store, plan: Sequence[Recipients] | None = None, **different: Any) -> FlowStart:
    """Records a start of one recipient, or of a plan."""
    return (await create_or_find(store, plan, **different)).flow_start


async def create_or_find(
    store: Store,
    plan: Sequence[Recipients] | None = None,
    *,
    fingerprint: str = "1:f",
    warnings: tuple[Notice, ...] = (),
    terms: Terms = TERMS,
    **different: Any,
) -> Recorded:
    """Records a start, or finds the one with its request id."""
    plan = singly(1) if plan is None else plan
    different.setdefault("recipient_count", sum(recipients.count for recipients in plan))
    return await store.create(asked(**different), plan, fingerprint=fingerprint, warnings=warnings, terms=terms)


def accepted(external_id: str, state: State = State.QUEUED, **different: Any) -> Settlement:
    """Settles an attempt that the backend has accepted."""
    return Settlement(
        outcome=OutcomeKind.ACCEPTED, detail="", state=state, external_id=external_id, account=ACCOUNT, **different
    )


def put_off(due_at: datetime, *warnings: Notice) -> Settlement:
    """Settles an attempt that is to be made again."""
    return Settlement(outcome=OutcomeKind.THROTTLED, detail="", state=State.PENDING, due_at=due_at, warnings=warnings)


def refused(failure: Notice = REFUSED) -> Settlement:
    """Settles an attempt that the backend has refused."""
    return Settlement(outcome=OutcomeKind.REFUSED, detail="", state=State.FAILED, failure=failure)


def unsure() -> Settlement:
    """Settles an attempt that may have been carried out."""
    failure = Notice(reason="OUTCOME_UNKNOWN", message="perhaps")
    return Settlement(
        outcome=OutcomeKind.UNSURE, cause=Cause.TIMEOUT, detail="timeout", state=State.UNCERTAIN, failure=failure
    )


def seen(external_id: str, state: State | None = None, **different: Any) -> Sighting:
    """Builds how a backend shows a dispatch."""
    return Sighting(external_id=external_id, state=state, **different)


async def claim_ids(store: Store, limit: int = 100, backend: str = BACKEND) -> list[str]:
    """Claims, and returns the ids of what was claimed."""
    return [dispatch.id for dispatch in (await store.claim(backend, limit)).dispatches]


async def begin(store: Store, dispatch_id: str, since: datetime = NOON) -> int | None:
    """Begins to send a claimed dispatch."""
    return await store.begin_attempt(dispatch_id, account=ACCOUNT, since=since)


async def settle(store: Store, dispatch_id: str, settlement: Settlement) -> None:
    """Sends a claimed dispatch and records what came of it."""
    attempt = await begin(store, dispatch_id)
    assert attempt is not None
    await store.record(dispatch_id, attempt, settlement)


async def run_to(store: Store, start: FlowStart, *settlements: Settlement) -> None:
    """Claims everything that is due and settles the dispatches of one start, the first ones first."""
    for dispatch_id in await claim_ids(store, 10_000, start.asked.backend):
        start_id, _, number = dispatch_id.rpartition("-")
        if start_id == start.asked.id and int(number) <= len(settlements):
            await settle(store, dispatch_id, settlements[int(number) - 1])


async def again(store: Store, start: FlowStart) -> FlowStart:
    """Reads a start as it stands now."""
    found = await store.get(start.asked.tenant, start.asked.id)
    assert found is not None
    return found


def warned(start: FlowStart) -> dict[str, dict[str, str]]:
    """Returns the warnings of a start: the metadata by reason."""
    return {warning.reason: dict(warning.metadata) for warning in start.standing.warnings}
