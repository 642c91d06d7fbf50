"""Sweeps one backend: follows what runs there until it ends.

Rules:

1. The rows a backend shows are believed, its filters and its silence are not.
2. A sweep that could not be read to its end proves nothing about what it did not show.
3. Sweeping adapts: fast while things move, slower the longer they do not.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from gateway.adapters.base import Missing
from gateway.errors import Reason, Unavailable
from gateway.model import Notice, Sighting, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from datetime import datetime

    from gateway.adapters.base import Sweep, Trouble
    from gateway.model import Window
    from gateway.store import Running, Store
    from gateway.transport import Backend

log = structlog.get_logger()

SLOWEST = 6  # times the configured interval: between sweeps when nothing moves
REREAD = timedelta(hours=1)  # RapidPro shows interrupts and progress only to whoever reads old rows again
BATCH = 200  # sightings in one write
UNSEEN_FOR = 60.0  # seconds a running execution may be missing from lists before it is asked for by id
LOOKS = 20  # by id in one sweep, at the most

_GONE = Notice(
    reason=Reason.BACKEND_GONE,
    message="The backend does not have it any more: somebody deleted it, or it is past its retention.",
)


class Tracker:
    """Follows what runs on one backend."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._backend = backend
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._since: datetime | None = None
        self._reread_at = 0.0
        self._unseen: dict[str, float] = {}  # external ids, and since when no list has shown them

    async def run(self) -> None:
        """Sweeps until cancelled."""
        interval = self._backend.sweep_interval.total_seconds()
        pause, waited = interval, interval
        windows: tuple[Window, ...] = ()
        while True:
            try:
                before, windows = windows, await self._store.windows(self._backend.name)
                if windows and (windows != before or waited >= pause):
                    pause = interval if await self.sweep(windows) else min(pause * 2, interval * SLOWEST)
                    waited = 0.0
            except Unavailable as error:
                log.error("sweep_failed", backend=self._backend.name, reason=error.reason)
                waited = pause  # what it would have told is still to be told
            held = self._backend.transport.circuit.wait_seconds()
            await self._sleep(max(interval, held))
            waited += max(interval, held)

    async def sweep(self, windows: tuple[Window, ...]) -> int:
        """Scans once; returns how many dispatches had moved."""
        if self._monotonic() >= self._reread_at:
            self._since = None
            self._reread_at = self._monotonic() + REREAD.total_seconds()
        swept = await self._backend.transport.run(self._backend.adapter.sweep(self._since, windows))
        moved = await self._record(swept.sightings)
        if swept.trouble is not None:
            self._note(swept.trouble)
            return moved
        self._backend.transport.circuit.readable()
        if swept.newest is not None:
            self._since = swept.newest
            return moved
        return moved + await self._look_for_unseen(swept, windows)

    async def _record(self, sightings: Iterable[Sighting]) -> int:
        batch = list(sightings)
        moved = 0
        for first in range(0, len(batch), BATCH):
            moved += await self._store.sight(self._backend.name, batch[first : first + BATCH])
        return moved

    async def _look_for_unseen(self, swept: Sweep, windows: tuple[Window, ...]) -> int:
        """Asks by id for what a complete list has not shown for a while."""
        seen = {sighting.external_id for sighting in swept.sightings}
        unseen: dict[str, Running] = {}
        for window in windows:
            for running in await self._store.running(self._backend.name, window.flow, self._clock()):
                if running.dispatch.external_id not in seen:
                    unseen[running.dispatch.external_id] = running
        now = self._monotonic()
        self._unseen = {external_id: self._unseen.get(external_id, now) for external_id in unseen}
        overdue = [external_id for external_id, since in self._unseen.items() if now - since >= UNSEEN_FOR]
        found: list[Sighting] = []
        for external_id in overdue[:LOOKS]:
            if self._backend.transport.circuit.wait_seconds():
                break  # it asked to wait, or cannot be reached
            self._unseen[external_id] = now  # it has had its turn; next time the others come first
            if sighting := await self._look(unseen[external_id]):
                found.append(sighting)
        return await self._record(found)

    async def _look(self, running: Running) -> Sighting | None:
        """Asks for one by id; an answer that it is not there is an end, trouble is not."""
        seen = await self._backend.transport.run(self._backend.adapter.look(running.dispatch))
        if isinstance(seen, Sighting):
            return seen
        if isinstance(seen, Missing):
            return Sighting(external_id=running.dispatch.external_id, state=State.INTERRUPTED, failure=_GONE)
        self._note(seen)
        return None

    def _note(self, trouble: Trouble) -> None:
        self._backend.transport.note(trouble)
        log.warning("sweep_unread", backend=self._backend.name, trouble=type(trouble).__name__)
