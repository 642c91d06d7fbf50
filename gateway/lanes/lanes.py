"""What sends to the backends and follows them: for each a lane, which can be replaced while everything else goes on.

Rules:

1. A lane is made of settings and never changes. Other credentials are another lane: the one before it finishes what it
   is sending, with the credentials that it began with, and the next one asks whose account it is before it sends.
2. Whoever needs a backend finds it in `backends`, its flows in `catalogues`, and asks there every time.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from gateway.adapters import ADAPTERS
from gateway.adapters.base import Account, Misconfigured
from gateway.lanes.catalogue import Catalogue
from gateway.lanes.dispatcher import Dispatcher
from gateway.lanes.guarding import guarded
from gateway.lanes.pacing import Limiter
from gateway.lanes.tracker import Tracker
from gateway.lanes.transport import Backend, Transport, untold
from gateway.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import Protocol

    from gateway.config.settings import BackendSettings
    from gateway.lanes.transport import Requested
    from gateway.loops import Loops
    from gateway.store import Lane
    from gateway.tenants.loop_time import Sends

    class Counts(Protocol):
        """Is told what one backend is asked, and what comes of it."""

        @property
        def requested(self) -> Requested:
            """What is told of each request."""

        def settled(self, outcome: str) -> None:
            """Is told the outcome of an attempt."""

        def swept(self, *, is_complete: bool) -> None:
            """Is told of a sweep."""


log = structlog.get_logger()

SENDS_WITHIN = 180.0  # seconds for a round of the dispatcher, which waits for up to a minute
FOLLOWS_WITHIN = 900.0  # seconds for a round of the tracker, or for one request of it, which waits for the rate
DRAIN_SECONDS = 5.0  # on top of the time that a send in flight may take


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    name: str
    dispatcher: Dispatcher
    sending: AsyncExitStack
    following: AsyncExitStack
    patience: float  # seconds in which what is in flight must have its answer

    async def close(self) -> None:
        await self.following.aclose()
        await self.sending.aclose()


class Lanes:
    """All lanes of one gateway."""

    def __init__(
        self,
        store: Lane,
        clock: Callable[[], datetime],
        counts: Callable[[str], Counts],
        loops: Loops,
        sends: Sends,
        is_shared: Callable[[str], bool],
    ) -> None:
        self.backends: dict[str, Backend] = {}
        self.catalogues: dict[str, Catalogue] = {}
        self._store = store
        self._clock = clock
        self._counts = counts  # of a backend, by its name
        self._loops = loops
        self._sends = sends
        self._is_shared = is_shared  # whether several tenants may use a backend, by its name
        self._lanes: dict[str, _Lane] = {}  # that new dispatches go to
        self._open: list[_Lane] = []  # with those that finish what they are sending
        self._drained = False

    async def open(self, configured: Mapping[str, BackendSettings]) -> None:
        """Opens a lane for each backend; raises `Misconfigured` before any of them sends."""
        made = [(self._make(name, chosen), chosen) for name, chosen in configured.items()]
        for backend, chosen in made:
            await self._add(backend, chosen)

    async def renew(self, name: str, chosen: BackendSettings) -> None:
        """Replaces a lane by one with these settings; whoever asks for the backend from here on finds the new one."""
        backend, before = self._make(name, chosen), self._lanes[name]
        await before.following.aclose()
        await self._add(backend, chosen)
        await _finish([before])
        await before.close()
        self._open.remove(before)
        log.info("lane_renewed", backend=name)

    async def drain(self) -> None:
        """Has every lane finish what it is sending; what has no answer in time is uncertain."""
        if not self._drained:  # they are waited for once, however this process ends
            self._drained = True
            await _finish(self._open)

    async def close(self) -> None:
        """Ends all of it."""
        for lane in reversed(self._open):
            await lane.close()

    def _make(self, name: str, chosen: BackendSettings) -> Backend:
        return make_backend(name, chosen, self._counts(name).requested, lambda: self._is_shared(name))

    async def _add(self, backend: Backend, chosen: BackendSettings) -> None:
        counts, sending, following = self._counts(backend.name), AsyncExitStack(), AsyncExitStack()
        await sending.enter_async_context(backend.transport)
        dispatcher = Dispatcher(self._store, backend, self._clock, settled=counts.settled, sends=self._sends)
        tracker = Tracker(self._store, backend, self._clock, swept=counts.swept)
        self._loops.keep(sending, "dispatcher", dispatcher.run, backend=backend.name, within=SENDS_WITHIN)
        self._loops.keep(following, "tracker", tracker.run, backend=backend.name, within=FOLLOWS_WITHIN)
        self.backends[backend.name] = backend
        self.catalogues[backend.name] = Catalogue(backend)
        lane = self._lanes[backend.name] = _Lane(
            name=backend.name,
            dispatcher=dispatcher,
            sending=sending,
            following=following,
            patience=chosen.timeout.total_seconds() + DRAIN_SECONDS,
        )
        self._open.append(lane)


async def _finish(lanes: Sequence[_Lane]) -> None:
    """Waits for the answers to what is being sent, on all lanes at once; what has none by then is uncertain."""
    if not lanes:
        return
    waiting = {asyncio.create_task(lane.dispatcher.drain()): lane.name for lane in lanes}
    _, late = await asyncio.wait(waiting, timeout=max(lane.patience for lane in lanes))
    for task in late:
        log.error("drain_cut_short", backend=waiting[task])
        task.cancel()


def make_backend(
    name: str,
    chosen: BackendSettings,
    requested: Requested = untold,
    is_shared: Callable[[], bool] = lambda: False,
) -> Backend:
    """Makes a backend of its settings; `requested` is told of its requests. Raises `Misconfigured`."""
    try:
        account = Account(credentials=chosen.credentials(), sender=chosen.sender, url=chosen.url)
        adapter = ADAPTERS[chosen.kind](account)
    except Misconfigured as error:
        msg = f"backends.{name}: {error}"
        raise Misconfigured(msg) from error
    capabilities = adapter.capabilities
    transport = Transport(
        chosen.url,
        timeout=chosen.timeout,
        limiter=Limiter(*(chosen.rate or capabilities.rate), is_shared=is_shared),
        rate_counts_reads=capabilities.rate_counts_reads,
        concurrency=chosen.in_flight + 2,  # neither sweeping nor looking up a flow waits for a send
        requested=requested,
        proxy=chosen.proxy_url(),
    )
    return Backend(
        name=name,
        kind=chosen.kind,
        adapter=guarded(adapter, name),
        transport=transport,
        sender=chosen.sender,
        public_url=chosen.public_url,
        flow_aliases=chosen.flows,
        formerly=frozenset(chosen.formerly),
        sweep_interval=chosen.sweep_interval,
        in_flight=chosen.in_flight,
        quiet_window=chosen.quiet_window or capabilities.quiet_window,
        find_for=chosen.find_for,
        on_absent=State.PENDING if chosen.on_absent == "resend" else State.UNCERTAIN,
        give_up_after=chosen.give_up_after,
        schedule_ahead=chosen.schedule_ahead,
        stalled_after=chosen.stalled_after,
        backlog=chosen.backlog,
    )
