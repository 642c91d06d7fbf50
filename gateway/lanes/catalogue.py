"""Which flows a backend has: asked for when somebody lists them or starts one, and remembered for a short while.

Rules:

1. It fails open. Only a backend's own word that a flow is not there, or cannot be started, stops a start.
2. Nobody waits long: a look-up takes two seconds at the most, and half of the time its caller has left.
3. It is a small part of what an account may be asked: a backend's rate is there for sending.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from gateway.adapters.base import Barred, Blocked, Flows, Lister, Throttled, Unsure
from gateway.errors import InvalidRequest, NotFound, Reason, Unavailable, Violation
from gateway.lanes.pacing import Limiter
from gateway.model import Cause

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.adapters.base import Trouble
    from gateway.lanes.backend import Backend
    from gateway.model import Flow

FOUND_FOR = 300.0  # seconds; RapidPro counts every request, and 2,500 an hour is all there is
REFUSED_FOR = 5.0  # seconds; somebody may be making or restoring the flow at this moment
UNTOLD_FOR = 5.0  # seconds; a backend that does not answer is not waited for at every start
LISTED_FOR = 60.0  # seconds
LOOK_WITHIN = 2.0  # seconds
LIST_WITHIN = 30.0  # seconds
SHARE = 0.1  # of the account's rate
REMEMBERED = 10_000  # flows; far more than an account has, so that nobody's guesses fill the memory

_THERE_IS_NONE = "flow: the backend has no such flow. Check the id, and which account `backend` is."
_NOT_STARTABLE = "flow: it is archived, and would fail as soon as it was started: restore it, or name another flow."


@dataclass(frozen=True, slots=True)
class _Finding:
    """What speaks against starting a flow, if anything, and until when that is believed."""

    objection: str
    until: float


class Catalogue:
    """The flows of one backend."""

    def __init__(self, backend: Backend, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self._monotonic = monotonic
        rate = backend.transport.limiter
        self._share = Limiter(max(1, int(rate.count * SHARE)), rate.seconds, clock=monotonic)
        self._findings: dict[str, _Finding] = {}
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._listed: tuple[tuple[Flow, ...], float] = ((), 0.0)
        self._listing: asyncio.Task[Flows] | None = None

    def knows(self, flow: str) -> bool:
        """Whether `require` answers at once."""
        return self._objection(flow) is not None or not isinstance(self._backend.adapter, Lister)

    async def require(self, flow: str, seconds_left: float | None) -> None:
        """Passes if the flow can be started, or if that cannot be told; raises `NotFound` if it cannot be started."""
        adapter, objection = self._backend.adapter, self._objection(flow)
        if objection is None and isinstance(adapter, Lister):
            within = LOOK_WITHIN if seconds_left is None else min(LOOK_WITHIN, seconds_left / 2)
            await asyncio.wait([self._lookup(adapter, flow)], timeout=within)
            objection = self._objection(flow)
        if objection:
            metadata = {"flow": flow, "backend": self._backend.name}
            raise NotFound(reason=Reason.FLOW_NOT_FOUND, message=objection, metadata=metadata)

    async def flows(self) -> tuple[Flow, ...]:
        """Lists the flows in the backend's order.

        Raises `Unavailable` if the backend cannot be read, `InvalidRequest` if it is of a kind that does not tell.
        """
        adapter, now = self._backend.adapter, self._monotonic()
        if not isinstance(adapter, Lister):
            refusal = "backend is of a kind that does not list its flows: look there."
            violation = Violation(field="backend", description=refusal, reason=Reason.UNSUPPORTED_BY_BACKEND)
            raise InvalidRequest(reason=violation.reason, message=refusal, violations=(violation,))
        flows, until = self._listed
        if until > now:
            return flows
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._read(adapter, "", LIST_WITHIN))
        found = await asyncio.shield(self._listing)  # others may wait for it too
        if found.trouble is not None:
            raise _unavailable(self._backend, found.trouble)
        self._listed = found.flows, self._monotonic() + LISTED_FOR
        for flow in found.flows:
            self._remember(flow.id, _objection(flow))
        return found.flows

    async def look(self, adapter: Lister) -> Flows:
        """Reads the backend's flows once; returns them, or what kept it from that."""
        return await self._read(adapter, "", LIST_WITHIN)

    def _objection(self, flow: str) -> str | None:
        """Returns what is known to speak against starting a flow; empty if nothing does, None if that is not known."""
        finding = self._findings.get(flow)
        return finding.objection if finding is not None and finding.until > self._monotonic() else None

    def _lookup(self, adapter: Lister, flow: str) -> asyncio.Task[None]:
        """Starts looking for a flow, or joins those who are."""
        task = self._lookups.get(flow)
        if task is None:
            task = self._lookups[flow] = asyncio.create_task(self._look(adapter, flow))
            task.add_done_callback(lambda _: self._lookups.pop(flow, None))
        return task

    async def _look(self, adapter: Lister, flow: str) -> None:
        transport = self._backend.transport
        if transport.circuit.wait_seconds() or not self._share.take(sends=False):
            return
        found = await self._read(adapter, flow, LOOK_WITHIN)
        if found.flows:
            self._remember(flow, _objection(found.flows[0]))
        elif found.trouble is None:
            self._remember(flow, _THERE_IS_NONE)
        else:
            self._remember(flow, "", UNTOLD_FOR)

    async def _read(self, adapter: Lister, flow: str, within: float) -> Flows:
        try:
            async with asyncio.timeout(within):
                found = await self._backend.transport.run(adapter.flows(flow))
        except TimeoutError:
            return Flows(flows=(), trouble=Unsure(reason=f"no answer within {within:g} s", cause=Cause.TIMEOUT))
        if found.trouble is None:
            self._backend.transport.circuit.readable()
        elif not isinstance(found.trouble, Blocked):  # a start that is blocked shall meet it itself, and warn of it
            self._backend.transport.note(found.trouble)
        return found

    def _remember(self, flow: str, objection: str, seconds: float | None = None) -> None:
        if len(self._findings) >= REMEMBERED and flow not in self._findings:
            del self._findings[next(iter(self._findings))]  # the oldest
        seconds = seconds or (REFUSED_FOR if objection else FOUND_FOR)
        self._findings[flow] = _Finding(objection, self._monotonic() + seconds)


def _objection(flow: Flow) -> str:
    return _NOT_STARTABLE if flow.startable is False else ""


def _unavailable(backend: Backend, trouble: Trouble) -> Unavailable:
    wait = timedelta(seconds=backend.transport.circuit.wait_seconds() or 1.0)
    if isinstance(trouble, Blocked | Barred):
        return Unavailable(reason=Reason(trouble.notice.reason), message=trouble.notice.message, retry_after=wait)
    why = "it asked to wait" if isinstance(trouble, Throttled) else trouble.reason
    return Unavailable(
        reason=Reason.BACKEND_UNAVAILABLE,
        message=f"The flows of this backend could not be read ({why}): try again after the delay.",
        metadata={"backend": backend.name},
        retry_after=wait,
    )
