"""What sends to the backends and follows them: for each a lane, which can be replaced while everything else goes on.

Rules:

1. A lane is made of settings and never changes. Other credentials are another lane: the one before it finishes what it
   is sending, with the credentials that it began with, and the next one asks whose account it is before it sends.
2. A lane is worked while this gateway has its lease: see `leasing.py`. The backend can be asked all the same.
3. Backends are in `backends` and their flows in `catalogues`. Look them up on each use: they are replaced.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gateway.adapters import ADAPTERS
from gateway.adapters.base import Account, Misconfigured
from gateway.errors import Unavailable
from gateway.lanes.backend import Backend
from gateway.lanes.catalogue import Catalogue
from gateway.lanes.dispatcher import WRITE_WITHIN, Dispatcher
from gateway.lanes.guarding import guarded
from gateway.lanes.identifying import meet
from gateway.lanes.leasing import WITHIN as LEASED_WITHIN
from gateway.lanes.leasing import Leases
from gateway.lanes.pacing import Limiter
from gateway.lanes.tracker import Tracker
from gateway.lanes.transport import Transport, untold
from gateway.model import State
from gateway.store import Life

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import Protocol

    from gateway.config.settings import BackendSettings
    from gateway.lanes.leasing import Lease
    from gateway.lanes.transport import Requested
    from gateway.loops import Loops
    from gateway.store import Working
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


@dataclass(slots=True, kw_only=True, eq=False)
class _Opened:
    """A backend as it is reached with some settings, and all that sends and follows there."""

    backend: Backend
    reaching: AsyncExitStack
    patience: float  # seconds in which what is in flight must have its answer
    works: list[_Work] = field(default_factory=list)

    async def close(self) -> None:
        for work in reversed(self.works):
            await work.close()
        await self.reaching.aclose()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    """What sends and follows on a lane while it is ours."""

    opened: _Opened
    lease: Lease
    dispatcher: Dispatcher
    sending: AsyncExitStack
    following: AsyncExitStack

    async def close(self) -> None:
        await self.following.aclose()
        await self.sending.aclose()


class Lanes:
    """All lanes of one gateway, which listens at `at`."""

    def __init__(
        self,
        store: Working,
        clock: Callable[[], datetime],
        counts: Callable[[str], Counts],
        loops: Loops,
        sends: Sends,
        is_shared: Callable[[str], bool],
        *,
        at: str = "",
        write_within: timedelta = timedelta(seconds=WRITE_WITHIN),
    ) -> None:
        self.backends: dict[str, Backend] = {}
        self.catalogues: dict[str, Catalogue] = {}
        self._store = store
        self._clock = clock
        self._counts = counts  # of a backend, by its name
        self._loops = loops
        self._sends = sends
        self._is_shared = is_shared  # whether several tenants may use a backend, by its name
        self._at = at
        self._write_within = write_within
        self._opened: dict[str, _Opened] = {}
        self._all: list[_Opened] = []  # with those whose settings are others now, and that finish what they are sending
        self._works: dict[str, _Work] = {}  # that send what is new
        self._kept: dict[str, int] = {}  # starts that were held, by backends that no gateway has
        self._leasing = AsyncExitStack()
        self._drained = False

    async def open(self, configured: Mapping[str, BackendSettings]) -> None:
        """Opens every backend, and works those whose lane is to be had; raises `Misconfigured` before any sends."""
        made = [(self._make(name, chosen), chosen) for name, chosen in configured.items()]
        for backend, chosen in made:
            await self._add(backend, chosen)
        self.leases = Leases(
            self._store,
            Life(at=self._at, backends=frozenset(configured)),
            {name: self._write_within + chosen.timeout for name, chosen in configured.items()},
            begin=self._begin,
            end=self._end,
        )
        try:
            await self.leases.look()
        except Unavailable as error:
            log.error("leases_not_taken", reason=error.reason)
        self._loops.keep(self._leasing, "leases", self.leases.run, within=LEASED_WITHIN)
        for opened in self._opened.values():
            if opened.backend.name not in self._works:
                self._meet(opened)

    async def adopt(self) -> Mapping[str, int]:
        """Keeps what waits for backends that no gateway has; returns for how many starts, by those that it keeps."""
        adopted = await self.leases.adopt(await self._store.backends())
        for name in adopted:
            if name not in self._kept:
                self._kept[name] = await self._store.hold(name, None)
                log.warning("backend_not_configured", backend=name, starts=self._kept[name])
        self._kept = {name: self._kept[name] for name in adopted}
        return self._kept

    async def renew(self, name: str, chosen: BackendSettings) -> None:
        """Replaces a lane by one with these settings; whoever asks for the backend from here on finds the new one."""
        backend, before, work = self._make(name, chosen), self._opened[name], self._works.get(name)
        if work is not None:
            await work.following.aclose()
        await self._add(backend, chosen)
        if work is not None:
            await self._begin(name, work.lease)
        else:
            self._meet(self._opened[name])
        await _finish(before.works)
        await before.close()
        self._all.remove(before)
        log.info("lane_renewed", backend=name)

    async def drain(self) -> None:
        """Has every lane finish what it is sending, then leaves it; what has no answer in time is uncertain."""
        if self._drained:  # they are waited for once, however this process ends
            return
        self._drained = True
        await self.leases.drain()
        works = [work for opened in self._all for work in opened.works]
        await _finish(works)
        for work in works:
            await work.following.aclose()
        await self.leases.give_up()

    async def close(self) -> None:
        """Ends all of it."""
        await self._leasing.aclose()
        for opened in reversed(self._all):
            await opened.close()

    def _make(self, name: str, chosen: BackendSettings) -> Backend:
        return make_backend(name, chosen, self._counts(name).requested, lambda: self._is_shared(name))

    async def _add(self, backend: Backend, chosen: BackendSettings) -> None:
        reaching = AsyncExitStack()
        await reaching.enter_async_context(backend.transport)
        self.backends[backend.name] = backend
        self.catalogues[backend.name] = Catalogue(backend)
        opened = self._opened[backend.name] = _Opened(
            backend=backend, reaching=reaching, patience=chosen.timeout.total_seconds() + DRAIN_SECONDS
        )
        self._all.append(opened)

    def _meet(self, opened: _Opened) -> None:
        backend = opened.backend
        self._loops.keep(opened.reaching, "meeting", partial(_meet, backend), backend=backend.name)

    async def _begin(self, name: str, lease: Lease) -> None:
        """Begins to send and to follow."""
        opened, counts = self._opened[name], self._counts(name)
        backend, sending, following = opened.backend, AsyncExitStack(), AsyncExitStack()
        dispatcher = Dispatcher(
            self._store,
            backend,
            self._clock,
            settled=counts.settled,
            sends=self._sends,
            lease=lease,
            write_within=self._write_within.total_seconds(),
        )
        tracker = Tracker(self._store, backend, self._clock, swept=counts.swept)
        self._loops.keep(sending, "dispatcher", dispatcher.run, backend=name, within=SENDS_WITHIN)
        self._loops.keep(following, "tracker", tracker.run, backend=name, within=FOLLOWS_WITHIN)
        work = self._works[name] = _Work(
            opened=opened,
            lease=lease,
            dispatcher=dispatcher,
            sending=sending,
            following=following,
        )
        opened.works.append(work)

    async def _end(self, name: str) -> None:
        """Ends it once the last answer is in."""
        work = self._works.pop(name, None)
        if work is None:
            return
        await work.following.aclose()
        await _finish([work])
        await work.close()
        work.opened.works.remove(work)
        transport = work.opened.backend.transport
        transport.met, transport.identity = transport.identity or transport.met, None


async def _meet(backend: Backend) -> None:
    """Finds out whose account it is, though another gateway sends there."""
    identity = await meet(backend)
    if backend.transport.identity is None:
        backend.transport.met = identity


async def _finish(works: Sequence[_Work]) -> None:
    """Waits for the answers to what is being sent, on all lanes at once; what has none by then is uncertain."""
    if not works:
        return
    waiting = {asyncio.create_task(work.dispatcher.drain()): work for work in works}
    _, late = await asyncio.wait(waiting, timeout=max(work.opened.patience for work in works))
    for task in late:
        log.error("drain_cut_short", backend=waiting[task].opened.backend.name)
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
