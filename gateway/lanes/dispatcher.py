"""Takes due dispatches of one backend from the store, sends them, and records the answers.

Rules:

1. The store is the queue. If the process ends, the next gateway that has the lane settles what was claimed.
2. An attempt is on the disk before anything is written to a socket. What may have happened is never repeated here.
3. An answer that was received is recorded, however long the store takes.
4. Nothing is sent before it is known whose account the backend is: `tracker.py` asks.
5. Nothing begins unless the lane stays ours until it must be written: `leasing.py` renews.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import structlog

from gateway.adapters.base import Barred, Busy, Reply
from gateway.adapters.reading import name_of
from gateway.errors import Unavailable
from gateway.lanes.busy import BusyRecipients
from gateway.lanes.leasing import Lease
from gateway.lanes.settling import bug, settle
from gateway.lasting import Lasting
from gateway.loops import came_round
from gateway.model import State
from gateway.tenants.loop_time import LoopTime, Sends

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from datetime import datetime

    from gateway.adapters.base import Failed, Outcome
    from gateway.lanes.backend import Backend
    from gateway.model import Dispatch
    from gateway.store import Lane

T = TypeVar("T")
log = structlog.get_logger()

WRITE_WITHIN = 3.0  # seconds from the attempt's commit to the first byte; a process that was paused does not send then
STORE_PAUSE = 0.5  # seconds between tries while the store cannot be written
IDLE = 60.0  # seconds after which the store is asked again though nothing was announced
ENDING_PAUSE = 0.1  # seconds between steps in which much is ended that is over, so that other work goes first
BUSY = 0.1  # seconds at the least between claims that can take nothing: they only end what has expired, or is cancelled
REQUEST_ID_SIZE = 64  # characters that are kept
PAUSE_STEP = 1.0  # seconds in which a send that waits sees that the gateway stops
SLOW = 1.0  # seconds after which a send is slow: those of slow tenants together may not hold every slot
SLOW_FOR = 300.0  # seconds since its last slow send in which a tenant is slow, however quick those between are
SLOW_TENANTS = 1_000  # that are remembered
OURS_PAUSE = 0.1  # seconds between looks whether the account is known by now, and the lane is ours


class Dispatcher:
    """Sends what is due on one backend, a bounded number at a time."""

    def __init__(
        self,
        store: Lane,
        backend: Backend,
        clock: Callable[[], datetime],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        settled: Callable[[str], None] = lambda _outcome: None,
        sends: Sends | None = None,
        lease: Lease | None = None,
        write_within: float = WRITE_WITHIN,
    ) -> None:
        self._store = store
        self._backend = backend
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._sends = sends or Sends(LoopTime())
        self._lease = lease or Lease(monotonic=monotonic)
        self._write_within = write_within
        self._settled = settled  # is told the outcome of every attempt
        self._news = asyncio.Event()
        self._freed = asyncio.Event()
        self._sending: dict[asyncio.Task[None], tuple[str, float]] = {}  # whose dispatch each sends, and since when
        self._paused: set[asyncio.Task[None]] = set()  # of those, which take no slot now
        self._slow: dict[str, float] = {}  # until when a tenant is slow, the latest at the end
        self._ends_from = 0.0  # what is over is not ended before
        self._examining: asyncio.Task[None] | None = None
        self._unclaimed = Lasting("claim_failed", backend=backend.name)
        self._unrecorded = Lasting("store_unavailable", backend=backend.name)
        self._draining = False
        self._recalls = True  # once: what it sends itself is counted before it is recorded
        self._busy = BusyRecipients(store, backend, clock, insist=self._insist, pause=self._pause)
        store.listen(lambda _revision: self._news.set(), backend.name)

    async def run(self) -> None:
        """Sends until cancelled or drained."""
        await self._recall()
        while not self._draining:
            self._news.clear()  # before claiming, so that what is announced meanwhile is not missed
            self._freed.clear()
            try:
                pause = await self._claim_and_send()
                came_round()
                self._unclaimed.is_over()
            except Unavailable as error:
                self._unclaimed.again(reason=error.reason, why=error.message)
                pause = STORE_PAUSE
            if not self._room():
                await _wait(self._freed, BUSY)  # whatever is announced meanwhile
            await _wait(self._news, min(pause, IDLE))

    async def _recall(self) -> None:
        """Counts what was sent before this, by whichever gateway: the backend counts it as well."""
        if self._recalls:
            limiter = self._backend.transport.limiter
            within = timedelta(seconds=limiter.seconds)
            limiter.recall(await self._insist(lambda: self._store.sends(self._backend.name, within, limiter.count)))
            self._recalls = False

    async def drain(self) -> None:
        """Claims nothing more and waits for the answers to what is being sent."""
        self._draining = True
        self._wake()
        while sending := {*self._sending, *self._paused}:
            await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
        if self._examining is not None:
            self._examining.cancel()

    async def _claim_and_send(self) -> float:
        """Claims what may be sent now; returns after how many seconds there may be more."""
        held, room = self._held_seconds(), self._room()
        transport = self._backend.transport
        resting = self._ends_from - self._monotonic()
        slow = self._slow_tenants()
        claims = await self._store.claim(
            self._backend.name,
            room,
            self._limits(),
            slow=slow,
            slow_limit=self._left_for(slow),
            ends=resting <= 0,
        )
        if claims.ends_more:
            resting = ENDING_PAUSE
            self._ends_from = self._monotonic() + ENDING_PAUSE
        if self._draining:
            return 0.0  # claimed too late to be sent: the next gateway that has the lane sends it
        for dispatch in claims.dispatches:
            task = asyncio.create_task(self._send(dispatch))
            self._sending[task] = dispatch.tenant, self._monotonic()
            self._sends.begin(dispatch.tenant)
            task.add_done_callback(self._sent)
        # What a probe or a tenant's share holds back is not in `next_due_at`.
        limited = min(transport.circuit.until_probe(), transport.limiter.until_tenant(), self._sends.until_more())
        if held:
            pause = held
        elif claims.ends_more or claims.next_due_at is None or len(claims.dispatches) == room:
            pause = limited  # a slot that frees is news, and so is a recipient who is free again
        else:
            pause = min(max(0.0, (claims.next_due_at - self._clock()).total_seconds()), limited)
        return min(pause, resting) if resting > 0 else pause

    def _held_seconds(self) -> float:
        """For how long nothing may be sent, by the backend's word or its rate, or for the lane is not surely ours."""
        transport = self._backend.transport
        is_ours = transport.identity is not None and self._may_begin()
        return transport.held_seconds() if is_ours else OURS_PAUSE

    def _may_begin(self) -> bool:
        """Whether what begins now is written before another gateway may have the lane."""
        return self._lease.left > self._write_within

    def _room(self) -> int:
        """How many dispatches could be sent now."""
        if self._held_seconds():
            return 0
        transport = self._backend.transport
        at_once = 1 if transport.circuit.is_probing else self._backend.in_flight
        return max(0, min(at_once - len(self._sending), transport.limiter.left(sends=True)))

    def _limits(self) -> dict[str, int]:
        """Returns how many sends of a tenant may begin now, for each that may not have all the room there is."""
        sending = {tenant for tenant, _ in self._sending.values()}
        limits = self._backend.transport.circuit.limits(sending)
        for bounds in (self._backend.transport.limiter.limits(), self._sends.limits()):
            for tenant, left in bounds.items():
                limits[tenant] = min(limits.get(tenant, left), left)
        return limits

    def _slow_tenants(self) -> set[str]:
        """Returns the tenants that had a slow send of late, or have one that goes on."""
        now = self._monotonic()
        while self._slow and (first := next(iter(self._slow.items())))[1] <= now:
            del self._slow[first[0]]
        return {*self._slow, *(tenant for tenant, since in self._sending.values() if now - since > SLOW)}

    def _left_for(self, slow: Collection[str]) -> int:
        """Returns how many sends of slow tenants may begin now: a quarter of the slots is left to the others."""
        held = sum(tenant in slow for tenant, _ in self._sending.values())
        return max(0, max(1, self._backend.in_flight * 3 // 4) - held)

    def _took(self, tenant: str, seconds: float) -> None:
        """Notes how long a send of a tenant took."""
        if seconds <= SLOW:
            return
        self._slow.pop(tenant, None)
        self._slow[tenant] = self._monotonic() + SLOW_FOR
        if len(self._slow) > SLOW_TENANTS:
            del self._slow[next(iter(self._slow))]

    def _wake(self) -> None:
        self._news.set()
        self._freed.set()

    def _sent(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("send_failed", backend=self._backend.name, exc_info=error)

    async def _send(self, dispatch: Dispatch) -> None:
        backend = self._backend
        if not (
            self._may_begin() and backend.transport.admits(dispatch.tenant)
        ):  # another send, or a sweep, has changed that since the claim
            await self._insist(lambda: self._store.release(dispatch.id, None))
            return
        since = backend.transport.their_now(self._clock())
        attempt = await self._insist(
            lambda: self._store.begin_attempt(dispatch.id, account=backend.account, since=since)
        )
        if attempt is None:  # it expired or was cancelled meanwhile
            await self._insist(lambda: self._store.release(dispatch.id, None))
            return
        began = self._monotonic()
        outcome, named = await self._post(dispatch)
        self._took(dispatch.tenant, self._monotonic() - began)
        settlement = settle(dispatch, outcome, backend, self._clock())
        if isinstance(outcome, Busy):
            settlement = await self._busy.look_into(dispatch, outcome, settlement)
        if named:
            settlement = replace(settlement, detail=f"{settlement.detail} (request {named})".strip())
        await self._insist(lambda: self._store.record(dispatch.id, attempt, settlement))
        self._settled(settlement.outcome)
        if isinstance(outcome, Barred):
            self._examine()
        if settlement.state in (State.PENDING, State.UNCERTAIN, State.FAILED):
            log.warning("dispatch_not_accepted", backend=backend.name, dispatch=dispatch.id, attempt=attempt,
                        outcome=settlement.outcome, detail=settlement.detail)  # fmt: skip

    def _examine(self) -> None:
        """Asks whose account answers, in a task of its own: a slow firewall then takes no slot from the sends."""
        if self._examining is None or self._examining.done():
            self._examining = asyncio.create_task(self._backend.examine())
            self._examining.add_done_callback(self._examined)

    def _examined(self, task: asyncio.Task[None]) -> None:
        self._wake()  # the lane may wait now
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("examine_failed", backend=self._backend.name, exc_info=error)

    async def _post(self, dispatch: Dispatch) -> tuple[Outcome, str]:
        """Sends a dispatch; returns what came of it, and how the backend names the request, if it does."""
        named = ""

        def answered(answer: Reply | Failed) -> None:
            nonlocal named
            header = self._backend.adapter.capabilities.request_id
            if header and isinstance(answer, Reply):
                named = name_of(answer.headers.get(header))[:REQUEST_ID_SIZE]

        exchange = self._backend.adapter.send(dispatch)
        left = min(self._write_within, self._lease.left)
        if dispatch.expire_at is not None:
            left = min(left, (dispatch.expire_at - self._clock()).total_seconds())
        try:
            before = self._monotonic() + left
            return await self._backend.transport.run(exchange, write_before=before, answered=answered), named
        except Exception as error:
            log.error("send_failed", backend=self._backend.name, dispatch=dispatch.id, exc_info=error)
            return bug(error), named

    async def _pause(self, seconds: float) -> bool:
        """Lets time pass, and returns whether all of it has: not if the gateway stops.

        Meanwhile the send takes no slot, and keeps its claim.
        """
        task = asyncio.current_task()
        if task is None or task not in self._sending:
            return False
        tenant, _ = self._sending.pop(task)
        self._paused.add(task)
        self._wake()
        try:
            while seconds > 0 and not self._draining:
                await self._sleep(min(seconds, PAUSE_STEP))
                seconds -= PAUSE_STEP
        finally:
            self._paused.discard(task)
            self._sending[task] = tenant, self._monotonic()
        return seconds <= 0

    async def _insist(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Repeats a store operation until the store takes it.

        One that was unavailable has recorded nothing; or what it began is taken back, and what it recorded stays.
        """
        while True:
            try:
                result = await operation()
            except Unavailable as error:
                self._unrecorded.again(reason=error.reason, why=error.message)
                await self._sleep(STORE_PAUSE)
            else:
                self._unrecorded.is_over()
                return result


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
