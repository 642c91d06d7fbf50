"""Asks a backend about single starts: those that its lists do not show, and those that are to end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.adapters.base import Barred, Blocked, Canceller, Missing, NotSent, Throttled
from gateway.errors import Reason
from gateway.lanes.proof import LAG
from gateway.lanes.sighting import note, record
from gateway.model import Notice, State
from gateway.sightings import Sighting

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from gateway.adapters.base import Trouble
    from gateway.lanes.backend import Backend
    from gateway.model import Dispatch
    from gateway.store import Finding

UNSEEN_FOR = 60.0  # seconds a running execution may be missing from lists before it is asked for by id
LOOKS = 20  # by id in one sweep, at the most
REASK = 10.0  # seconds before the backend is asked again to end what it has not; meanwhile others have their turn
ENDINGS = 100  # asked for in one turn, at the most
AT_ONCE = 8  # ends that are asked for at the same time
MISSING = 10_000  # external ids remembered because a read did not show them

_GONE = Notice(
    reason=Reason.BACKEND_GONE,
    message="The backend no longer has it: somebody deleted it, or its retention is over.",
)


class ById:
    """What was asked of one backend by id."""

    def __init__(self, store: Finding, backend: Backend, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._backend = backend
        self._monotonic = monotonic
        self._unseen: dict[str, float] = {}  # external ids, and since when no list has shown them
        self._missing: dict[str, float] = {}  # likewise, and no read that is believed in the end
        self._asked_to_end: dict[str, float] = {}  # dispatches, and when the backend was asked to end each

    async def look(self, shown: Collection[str]) -> int:
        """Asks by id for what a complete list has not shown for a while."""
        name = self._backend.name
        unseen = await self._store.unseen(name, self._backend.account, shown)
        now = self._monotonic()
        self._unseen = {external_id: self._unseen.get(external_id, now) for external_id in unseen}
        overdue = [external_id for external_id, since in self._unseen.items() if now - since >= UNSEEN_FOR]
        overdue.sort(key=self._unseen.__getitem__)
        found: list[Sighting] = []
        for dispatch in await self._store.running(name, overdue[:LOOKS]) if overdue else ():
            if self._backend.transport.circuit.wait_seconds():
                break  # it asked to wait, or cannot be reached
            self._missing.setdefault(dispatch.external_id, self._unseen[dispatch.external_id])
            self._unseen[dispatch.external_id] = now  # it has had its turn; next time the others come first
            if sighting := await self._look(dispatch):
                found.append(sighting)
        return await record(self._store, self._backend, found)

    async def _look(self, dispatch: Dispatch) -> Sighting | None:
        """Asks for one by id; an answer that it is not there is an end, trouble is not."""
        seen = await self._backend.transport.run(self._backend.adapter.look(dispatch))
        return self._sighting(dispatch, seen)

    def _sighting(self, dispatch: Dispatch, seen: Sighting | Missing | Trouble) -> Sighting | None:
        if isinstance(seen, Sighting):
            self._missing.pop(dispatch.external_id, None)
            return seen
        if isinstance(seen, Missing):
            return self._gone(dispatch)
        note(self._backend, seen)
        return None

    def _gone(self, dispatch: Dispatch) -> Sighting | None:
        """Says that one is gone, if it has been missing for long enough: a read that lags does not show what is new."""
        now = self._monotonic()
        since = self._missing.setdefault(dispatch.external_id, now)
        if now - since < LAG * self._backend.quiet_window.total_seconds():
            if len(self._missing) > MISSING:
                del self._missing[next(iter(self._missing))]
            return None
        del self._missing[dispatch.external_id]
        return Sighting(external_id=dispatch.external_id, state=State.INTERRUPTED, failure=_GONE)

    async def end_cancelled(self) -> None:
        """Ends what runs of cancelled starts, a few at a time."""
        backend = self._backend
        if not isinstance(backend.adapter, Canceller) or backend.transport.circuit.wait_seconds():
            return
        now = self._monotonic()
        self._asked_to_end = {each: at for each, at in self._asked_to_end.items() if now - at < REASK}
        listed = await self._store.endings(backend.name, backend.account, ENDINGS + len(self._asked_to_end))
        waiting = [dispatch for dispatch in listed if dispatch.id not in self._asked_to_end]
        for first in range(0, len(waiting), AT_ONCE):
            if backend.transport.circuit.wait_seconds():
                return  # it asked to wait, or cannot be reached
            some = [each for each in waiting[first : first + AT_ONCE] if await self._store.ending(each.id)]
            self._asked_to_end |= {each.id: now for each in some}
            seen = await asyncio.gather(*(backend.transport.run(backend.adapter.cancel(each)) for each in some))
            shown = [self._sighting(dispatch, each) for dispatch, each in zip(some, seen, strict=True)]
            await record(self._store, self._backend, filter(None, shown))
            for dispatch, each in zip(some, seen, strict=True):
                if isinstance(each, NotSent | Throttled | Blocked | Barred):
                    await self._store.spare(dispatch.id)  # however it ends, it is not because of us
