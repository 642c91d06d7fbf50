"""Sweeps one backend: finds what is unsure, and follows what runs there until it ends.

Rules:

1. The rows a backend shows are believed, its filters and its silence are not.
2. A sweep that could not be read to its end proves nothing about what it did not show.
3. A dispatch is absent when two sweeps did not show it that were clean: `proof.py` says when one is.
4. Sweeping adapts: fast while things move, slower the longer they do not. Where reading spends the rate, it keeps to
   its share of it, and reading everything again to a part of that.
5. Most of what a sweep shows is known. It is compared in the store's readers, a bounded part at a time, and only what
   may move something is written.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import structlog

from gateway.adapters import reading
from gateway.adapters.base import Barred, Blocked, KeyReader, NotSent, Throttled
from gateway.errors import Unavailable
from gateway.lanes.by_id import ById
from gateway.lanes.following import LISTS_AT_ONCE, as_one, in_turns, steps
from gateway.lanes.identifying import Accounts
from gateway.lanes.keys import Keys
from gateway.lanes.proof import LAG, UNANCHORED, Hiding, Proof, Scan, clocks_apart, span
from gateway.lanes.sighting import note, readable, record
from gateway.lasting import Lasting
from gateway.loops import came_round, is_alive
from gateway.model import CORRELATION_KEY, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from gateway.adapters.base import Sweep
    from gateway.lanes.backend import Backend
    from gateway.sightings import Sighting, Sought, Window
    from gateway.store import Finding


class Swept(Protocol):
    """Is told of a sweep, and whether it was read to its end."""

    def __call__(self, *, is_complete: bool) -> None:
        """Is told."""


def untold(*, is_complete: bool) -> None:
    """Does nothing with it."""


log = structlog.get_logger()

PULSE = 1.0  # seconds at the most between looks at what is to be ended
SLOWEST = 6  # times the configured interval: between sweeps when nothing moves
REREAD = 3_600.0  # seconds at the least; RapidPro shows interrupts and progress only to whoever reads old rows again
REREAD_SHARE = 0.25  # of the share of reading; the rest is for what moves
REREAD_AGAIN = 300.0  # seconds, after reading everything again has failed
UNTOLD_AGAIN = 1.0  # seconds, after a row did not tell where its start stands; twice as long each time
AGED = 60.0  # seconds between looks for what stands still
PAGE_AGAIN = 5  # times in a row that a page is asked for again before a sweep breaks off
PART = 1_000  # sightings that are compared at a time


class Tracker:
    """Follows what runs on one backend, and looks for what may."""

    def __init__(
        self,
        store: Finding,
        backend: Backend,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        swept: Swept = untold,
    ) -> None:
        self._store = store
        self._backend = backend
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._swept = swept
        self._since: datetime | None = None  # what was modified before it has been read
        self._reread_at = 0.0
        self._reread_pause = 0.0  # seconds at the least between readings of everything, by what the last one cost
        self._untold_pause = UNTOLD_AGAIN
        self._rest = 0.0  # seconds at the least from the last sweep to the next, by what the last one cost
        self._age_at = 0.0
        self._accounts = Accounts(store, backend, sleep)
        self._keys = Keys(store, backend)
        self._by_id = ById(store, backend, monotonic)
        slowest = backend.sweep_interval.total_seconds() * SLOWEST
        self._proof = Proof(backend.quiet_window.total_seconds(), backend.find_for.total_seconds(), slowest)

    async def run(self) -> None:
        """Sweeps until cancelled."""
        await self._accounts.identify()
        interval = self._backend.sweep_interval.total_seconds()
        turn = min(interval, PULSE)
        pause = waited = interval
        before: object = None
        failing = Lasting("sweep_failed", backend=self._backend.name)
        while True:
            try:
                windows, sought = await self._to_follow()
                due_in = self._proof.due_in(sought, self._monotonic(), interval)
                is_new = (windows, sought) != before
                wanted_in = max(self._rest, min(pause, due_in, interval if is_new else pause))
                if (windows or sought) and waited >= wanted_in:
                    before, waited = (windows, sought), 0.0
                    slower, pause = min(pause * 2, interval * SLOWEST), interval  # also if the store cannot take it
                    if not await self.sweep(windows, sought):
                        pause = slower
                await self._by_id.end_cancelled()
                await self._age()
                came_round()
                failing.is_over()
            except Unavailable as error:
                failing.again(reason=error.reason, why=error.message)
            held = self._backend.transport.circuit.wait_seconds()
            await self._sleep(max(turn, held))
            waited += max(turn, held)

    async def _to_follow(self) -> tuple[tuple[Window, ...], tuple[Sought, ...]]:
        name, account = self._backend.name, self._backend.account
        return await self._store.windows(name, account), await self._store.sought(name, account)

    async def sweep(self, windows: tuple[Window, ...], sought: tuple[Sought, ...] = ()) -> int:
        """Scans once; returns how many dispatches had moved."""
        backend, began = self._backend, self._monotonic()
        rereads = self._since is None or began >= self._reread_at
        now = self._clock()
        theirs = backend.transport.their_now(now)
        controls = await self._store.controls(backend.name, backend.account, theirs - LAG * backend.quiet_window)
        # What is followed moves by the clock as it is now; the latest by the rows may be from before it was put back.
        apart = clocks_apart((*controls, *await self._store.running_controls(backend.name, backend.account)))
        unanchored = UNANCHORED if clocks_apart(controls) is None else timedelta()
        sought = _by_rows(sought, max(apart or timedelta(), unanchored))
        uncertain = _uncertain(sought)
        scope = span(windows, sought, controls, max(theirs, now))
        since = None
        if self._since is not None and not rereads:
            since = self._since - backend.quiet_window - (apart or timedelta())  # committed late, by the clock of rows
        if since is not None and uncertain and (reach := self._proof.reach_back(scope, began)) is not None:
            since = min(since, reach)
        seen = _Seen(began=began, reread_before=self._proof.settled_at(sought, began), rereads=rereads)
        swept = await self._list(since, scope.windows, sought, windows, seen)
        moved = seen.moved
        if await self._accounts.has_changed(swept.account):
            self._since = None
            return moved
        if uncertain:
            scan = Scan(
                began=began,
                ended=seen.ended,
                began_at=swept.began,
                since=swept.since,
                readable=swept.trouble is None and seen.complete and swept.is_gapless,
                possible=not isinstance(swept.trouble, NotSent | Throttled | Blocked | Barred),
                account=await self._accounts.shown_by(swept),
                unread=swept.unread,
                shown=frozenset(seen.external_ids),
                keys=frozenset(seen.keys),
                hiding=tuple(seen.hiding),
                lists_keys=not isinstance(backend.adapter, KeyReader),
                needs_closing=swept.needs_closing,
                expected=scope.expected,
            )
            moved += await self._conclude(scan, uncertain)
        if swept.trouble is not None:
            return moved
        self._come_back(swept, seen)
        if swept.newest is not None:
            self._since = swept.newest
            if backend.transport.earliest.is_known:  # whatever the clock of one answer
                self._since = min(self._since, backend.transport.earliest.at(began))
            return moved
        return moved + await self._by_id.look(seen.external_ids)

    async def _list(
        self,
        since: datetime | None,
        scope: Sequence[Window],
        sought: tuple[Sought, ...],
        followed: Sequence[Window],
        seen: _Seen,
    ) -> Sweep:
        """Lists what a scan covers, and records what that shows; returns it without the sightings, which are `seen`.

        Where flows have lists of their own, several are read at once, and tenants take turns. The first flow of each is
        looked at now and then while the others are read: nobody's are seen late because somebody has many.
        """
        backend, keys = self._backend, frozenset(each.id for each in sought)
        by_flow = backend.adapter.capabilities.lists_by_flow
        ordered, first = in_turns(scope, {each.flow: each.tenants for each in followed}) if by_flow else (scope, 0)
        parts = steps(ordered, backend.in_flight) if by_flow else [[tuple(scope)]]
        glanced = {each.flow: (seen.began, each) for each in ordered[:first]}
        whole: Sweep | None = None
        for number, part in enumerate(parts, start=1):
            swept = as_one(*await self._read(since, part, keys, seen))
            seen.ended = self._monotonic()
            whole = replace(swept if whole is None else as_one(whole, swept), sightings=())
            if is_last := number == len(parts) or whole.trouble is not None:
                await self._conclude_lists(whole, seen)
            await self._take(swept.sightings, sought, seen)
            if is_last:
                break
            await self._glance(glanced)
        assert whole is not None, "there is one step at the least"
        return whole

    async def _read(
        self, since: datetime | None, part: Sequence[tuple[Window, ...]], keys: frozenset[str], seen: _Seen
    ) -> list[Sweep]:
        """Lists some windows, in as many exchanges at the same time as they are cut into."""

        def answered(_answer: object) -> None:
            seen.requests += 1
            is_alive()

        backend = self._backend
        exchanges = [backend.adapter.sweep(since, windows, keys) for windows in part]
        return await asyncio.gather(
            *(backend.transport.run(each, answered=answered, again=PAGE_AGAIN) for each in exchanges)
        )

    async def _glance(self, glanced: dict[str, tuple[float, Window]]) -> None:
        """Lists some flows once more in the middle of a long sweep, only to see what has moved: it proves nothing."""
        now, interval = self._monotonic(), self._backend.sweep_interval.total_seconds()
        late = sorted((at, flow) for flow, (at, _) in glanced.items() if now - at >= interval)
        late = late[: min(LISTS_AT_ONCE, self._backend.in_flight)]
        if not late or self._backend.transport.circuit.wait_seconds():
            return
        windows = [(replace(glanced[flow][1], proves_from=None),) for _, flow in late]
        glanced.update({flow: (now, glanced[flow][1]) for _, flow in late})
        for swept in await self._read(None, windows, frozenset(), _Seen(began=now)):
            await record(self._store, self._backend, await self._store.news(self._backend.name, swept.sightings))

    async def _conclude_lists(self, swept: Sweep, seen: _Seen) -> None:
        """Notes what reading the lists cost, and whether they could be read."""
        backend = self._backend
        self._pace(seen.began, seen.requests, rereads=seen.rereads, is_whole=swept.trouble is None)
        self._swept(is_complete=swept.trouble is None)
        circuit = backend.transport.circuit
        if swept.trouble is None:
            readable(backend)
            circuit.unread = ""
            return
        note(self._backend, swept.trouble)
        if isinstance(swept.trouble, Barred):
            circuit.unread = swept.trouble.notice.message
            await backend.examine()

    def _come_back(self, swept: Sweep, seen: _Seen) -> None:
        """Has everything read again soon where a row of ours did not say how it stands: the next sweep begins later.

        Where reading everything takes long, that is put off like every reading of everything.
        """
        if not swept.is_gapless or seen.untold:
            self._reread_at = min(self._reread_at, seen.began + max(self._untold_pause, self._reread_pause))
            self._untold_pause = min(2 * self._untold_pause, REREAD_AGAIN)
        elif seen.rereads:
            self._untold_pause = UNTOLD_AGAIN

    def _pace(self, began: float, requests: int, *, rereads: bool, is_whole: bool) -> None:
        """Tells when to sweep again, and when to read everything again, by what this sweep cost."""
        cost = self._backend.transport.pace_seconds(requests)
        self._rest = 0.0 if rereads else cost / (1 - REREAD_SHARE)
        if rereads:
            self._reread_pause = cost / REREAD_SHARE
            self._reread_at = began + (max(REREAD, self._reread_pause) if is_whole else REREAD_AGAIN)

    async def _take(self, sightings: Sequence[Sighting], sought: tuple[Sought, ...], seen: _Seen) -> None:
        """Records what a scan shows, a part at a time, and notes what is to be concluded from."""
        for first in range(0, len(sightings), PART):
            some = sightings[first : first + PART]
            seen.untold |= any(each.state is None and each.correlation_key for each in some)
            part, complete, read = await self._keys.read(some, sought, seen.reread_before)
            seen.complete &= complete
            news = await self._store.news(self._backend.name, part)
            seen.moved += await record(self._store, self._backend, await self._with_warnings(news))
            self._keys.remember(read, seen.began)
            seen.external_ids.update(each.external_id for each in part)
            seen.keys.update(each.correlation_key for each in part if each.correlation_key)
            seen.hiding += [
                Hiding(each.flow, each.created_at, each.number)
                for each in part
                if each.hides_key or self._keys.hides(each)
            ]

    async def _with_warnings(self, sightings: Sequence[Sighting]) -> Sequence[Sighting]:
        """Compares the params that are shown with those that were sent, and warns where they differ."""
        shown = {each.correlation_key: each.params for each in sightings if each.correlation_key and each.params}
        if not shown:
            return sightings
        sent = await self._store.params(frozenset(shown))
        altered = {
            key: reading.params_altered({CORRELATION_KEY: key, **sent[key]}, params)
            for key, params in shown.items()
            if key in sent
        }
        return [
            replace(each, warnings=each.warnings + altered.get(each.correlation_key or "", ())) for each in sightings
        ]

    async def _conclude(self, scan: Scan, uncertain: list[Sought]) -> int:
        """Settles what this scan proves absent, and what cannot be found out about."""
        backend = self._backend
        absent, given_up = self._proof.weigh(scan, uncertain)
        for each in absent:
            log.warning("proved_absent", backend=backend.name, dispatch=each.id, attempt=each.attempts)
            settling = self._store.absent(each, on_absent=backend.on_absent, pause=backend.quiet_window)
            await self._set_aside(each, settling)
        for each in given_up:
            log.error("not_found_out", backend=backend.name, dispatch=each.id, attempt=each.attempts)
            await self._set_aside(each, self._store.rest(each))
        return len(absent) + len(given_up)

    async def _set_aside(self, sought: Sought, settled: Awaitable[None]) -> None:
        """Settles what was looked for; one that cannot be recorded is named, and keeps no other one from it."""
        try:
            await settled
        except Unavailable:
            raise
        except Exception as error:
            log.error("dispatch_set_aside", backend=self._backend.name, dispatch=sought.id, exc_info=error)

    async def _age(self) -> None:
        if self._monotonic() < self._age_at:
            return
        self._age_at = self._monotonic() + min(AGED, self._backend.stalled_after.total_seconds() / 2)
        stalled = await self._store.mark_stalled(self._backend.name, self._clock() - self._backend.stalled_after)
        if stalled:
            log.warning("stalled", backend=self._backend.name, dispatches=stalled)
        if await self._accounts.has_changed_back():
            self._since = None


@dataclass(slots=True)
class _Seen:
    """What a scan showed: how many dispatches had moved, whether every key could be read, and what was there.

    `hiding` are the rows that hide the params they began with. `ended` is when its lists had been read; `untold` is
    whether a row of ours did not say how it stands.
    """

    began: float
    ended: float = 0.0
    requests: int = 0
    rereads: bool = True
    reread_before: float = 0.0
    untold: bool = False
    moved: int = 0
    complete: bool = True
    external_ids: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    hiding: list[Hiding] = field(default_factory=list)


def _uncertain(sought: Iterable[Sought]) -> list[Sought]:
    return [each for each in sought if each.state is State.UNCERTAIN]


def _by_rows(sought: Iterable[Sought], clocks_apart: timedelta) -> tuple[Sought, ...]:
    """Returns what is sought with moments by the clock that the backend's rows have, or earlier ones."""
    return tuple(replace(each, since=each.since - clocks_apart) for each in sought)
