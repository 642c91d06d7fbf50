"""Who keeps a recipient busy: an earlier attempt of a dispatch, or one that is to make room for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import structlog

from gateway.adapters.base import (
    Accepted,
    Barred,
    Blocked,
    Canceller,
    Key,
    KeyReader,
    Missing,
    NotSent,
    Throttled,
    Unsure,
)
from gateway.errors import Reason
from gateway.lanes.proof import LAG
from gateway.lanes.settling import bug, settle
from gateway.model import TERMINAL, Cause, Notice, State
from gateway.sightings import Sighting
from gateway.store import Kept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime
    from typing import Protocol

    from gateway.adapters.base import Busy, Outcome, Trouble
    from gateway.lanes.backend import Backend
    from gateway.model import Dispatch
    from gateway.store import Finding, Settlement

    T = TypeVar("T")

    class Insist(Protocol):
        """Repeats a store operation until the store takes it."""

        async def __call__(self, operation: Callable[[], Awaitable[T]]) -> T:
            """Returns what it comes to."""


log = structlog.get_logger()

_RIVALLED = Notice(
    reason=Reason.RECIPIENT_BUSY,
    message="The recipient was busy, perhaps with another start of yours whose answer was not known yet. This one waits"
    " for that, at most eight rounds of a quarter of the quiet window, and then ends it.",
)
_OVERTAKEN = Notice(
    reason=Reason.REPLACED,
    message="A later start of the same recipient was sent first and is running, so it has taken the place of this one.",
)


class BusyRecipients:
    """Finds out who keeps the recipients of one backend busy.

    `pause` lets seconds pass, and returns whether all of them have: not if the gateway stops.
    """

    def __init__(
        self,
        store: Finding,
        backend: Backend,
        clock: Callable[[], datetime],
        *,
        insist: Insist,
        pause: Callable[[float], Awaitable[bool]],
    ) -> None:
        self._store = store
        self._backend = backend
        self._clock = clock
        self._insist = insist
        self._pause = pause

    async def look_into(self, dispatch: Dispatch, busy: Busy, settlement: Settlement) -> Settlement:
        """Finds out who keeps a recipient busy: an earlier attempt of this dispatch, or one that is to make room."""
        external_id, outcome = busy.external_id, None
        try:
            outcome = await self._ask_whose(dispatch, external_id)
        except Exception as error:
            log.error("send_failed", backend=self._backend.name, dispatch=dispatch.id, exc_info=error)
            outcome = bug(error)
        if outcome is not None:
            return settle(dispatch, outcome, self._backend, self._clock())
        if dispatch.restart_participants and external_id:
            return await self._replace(dispatch, external_id, settlement)
        return settlement

    async def _ask_whose(self, dispatch: Dispatch, external_id: str) -> Outcome | None:
        """Returns `Accepted` if this dispatch is what keeps its recipient busy; None if something else is.

        That is an earlier attempt, or this one where a proxy repeated its POST. Reads that lag do not show the key of
        what is new, so a key that is not there is read again after the lag, unless two clean scans without it say
        enough. A contact can be busy in another flow, whose key cannot be read under this one. So where an earlier
        attempt was unsure, what could not be found out is looked for once; and so is what could not be read at all.
        After that the recipient is busy with something else.
        """
        is_doubted, key = dispatch.was_unsure and not dispatch.was_busy, None
        if external_id:
            if not await self._insist(lambda: self._store.unknown(self._backend.name, {external_id})):
                return None  # the store knows it, under another dispatch
            key = await self._read_key(dispatch, external_id, is_doubted=is_doubted)
        if isinstance(key, Key):
            is_own = key.correlation_key == dispatch.id
            return (
                Accepted(external_id=external_id, state=State.QUEUED, account="", accepted_at=None) if is_own else None
            )
        if is_doubted or not (dispatch.was_busy or key is None or isinstance(key, Missing)):
            return Unsure(reason="the recipient is busy, perhaps with an earlier attempt", cause=Cause.BUSY)
        return None

    async def _read_key(self, dispatch: Dispatch, external_id: str, *, is_doubted: bool) -> Key | Missing | Trouble:
        """Reads the key of what keeps a recipient busy; once more after the lag, if that can say more and decides."""
        adapter, transport = self._backend.adapter, self._backend.transport
        if not isinstance(adapter, KeyReader):
            return Missing()
        key = await transport.run(adapter.key(dispatch.flow, external_id))
        is_enough = bool(key.correlation_key) if isinstance(key, Key) else is_doubted
        if is_enough or dispatch.was_busy:
            return key
        if not await self._pause(LAG * self._backend.quiet_window.total_seconds()):
            return Unsure(reason="the gateway stops", cause=Cause.STOPPED)
        return await transport.run(adapter.key(dispatch.flow, external_id))

    async def _replace(self, dispatch: Dispatch, external_id: str, settlement: Settlement) -> Settlement:
        """Ends what keeps a recipient busy, if it is of an earlier start of the same tenant; then it is sent again.

        It keeps its place, so that no later start of the same recipient goes between two rounds.
        """
        adapter = self._backend.adapter
        if not isinstance(adapter, Canceller):
            return settlement
        running = await self._insist(lambda: self._store.replaceable(dispatch.id, external_id))
        if running is None:
            return settlement
        if running is Kept.LATER:
            return replace(settlement, state=State.INTERRUPTED, failure=_OVERTAKEN)
        if running is Kept.UNKNOWN:  # the key was read twice, a lag apart: that is the pause between two rounds
            return replace(
                settlement, cause=Cause.RIVAL, state=State.PENDING, due_at=None, failure=None, warnings=(_RIVALLED,)
            )
        if running.state not in TERMINAL:
            await self._end(adapter, running)
        return replace(settlement, state=State.PENDING, due_at=None, failure=None)

    async def _end(self, adapter: Canceller, running: Dispatch) -> None:
        """Asks for the end of what runs, and records it if that is shown, then or when reads that lag show it.

        Where it is not, the dispatch is no longer called replaced: however it ends, it is not because of this.
        """
        backend = self._backend
        seen = await backend.transport.run(adapter.cancel(running))
        if not _shows_end(seen) and not isinstance(seen, NotSent | Throttled | Blocked | Barred):
            await self._pause(LAG * backend.quiet_window.total_seconds())
            seen = await backend.transport.run(backend.adapter.look(running))
        if isinstance(seen, Sighting):
            shown = seen
            await self._insist(lambda: self._store.sight(backend.name, [shown], account=backend.account))
        elif not isinstance(seen, Missing):
            backend.transport.note(seen)
        if not _shows_end(seen):
            await self._insist(lambda: self._store.spare(running.id))


def _shows_end(seen: object) -> bool:
    return isinstance(seen, Sighting) and seen.state in TERMINAL
