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
from gateway.adapters.base import Barred, Blocked, Canceller, Key, KeyReader, Missing, NotSent, Throttled, Unsure
from gateway.adapters.room import Room
from gateway.errors import Reason, Unavailable
from gateway.lanes.following import LISTS_AT_ONCE, as_one, in_turns, steps
from gateway.lanes.proof import LAG, UNANCHORED, Hiding, Proof, Scan, clocks_apart, span
from gateway.loops import came_round, is_alive
from gateway.model import CORRELATION_KEY, Identity, Notice, Sighting, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from gateway.adapters.base import Sweep, Trouble
    from gateway.lanes.transport import Backend
    from gateway.model import Dispatch, Sought, Window
    from gateway.store import Finding


async def sight(store: Finding, backend: Backend, sightings: Sequence[Sighting]) -> int:
    """Records what a backend shows. What of it cannot be recorded is named and set aside; returns what had moved."""
    try:
        return await store.sight(backend.name, sightings, account=backend.account)
    except Unavailable:
        raise
    except Exception as error:
        if len(sightings) == 1:
            log.error("sighting_set_aside", backend=backend.name, id=sightings[0].external_id, exc_info=error)
            return 0
    return sum([await sight(store, backend, [each]) for each in sightings])


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
BATCH = 200  # sightings in one write
UNSEEN_FOR = 60.0  # seconds a running execution may be missing from lists before it is asked for by id
LOOKS = 20  # by id in one sweep, at the most
REASK = 10.0  # seconds before the backend is asked again to end what it has not; meanwhile others have their turn
ENDINGS = 100  # asked for in one turn, at the most
AT_ONCE = 8  # keys that are read, or ends that are asked for, at the same time
MISSING = 10_000  # external ids remembered because a read did not show them
EXAMINED = 100_000  # external ids remembered because their keys were read and are not ours
SLOWEST_RETRY = 60.0  # seconds between questions whose account it is

_GONE = Notice(
    reason=Reason.BACKEND_GONE,
    message="The backend no longer has it: somebody deleted it, or its retention is over.",
)


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
        self._asked_about = ""  # the name in a list because of which it was last asked whose account it is
        self._changes = False  # whether it has become another account in this life
        self._reread_at = 0.0
        self._reread_pause = 0.0  # seconds at the least between readings of everything, by what the last one cost
        self._untold_pause = UNTOLD_AGAIN
        self._rest = 0.0  # seconds at the least from the last sweep to the next, by what the last one cost
        self._age_at = 0.0
        self._unseen: dict[str, float] = {}  # external ids, and since when no list has shown them
        self._missing: dict[
            str, float
        ] = {}  # external ids, and since when no read has shown them that is believed in the end
        self._asked_to_end: dict[str, float] = {}  # dispatches, and when the backend was asked to end each
        self._examined: dict[str, _Examined] = {}  # by external ids, in the order in which they were first read
        slowest = backend.sweep_interval.total_seconds() * SLOWEST
        self._proof = Proof(backend.quiet_window.total_seconds(), backend.find_for.total_seconds(), slowest)

    async def run(self) -> None:
        """Sweeps until cancelled."""
        await self._identify()
        interval = self._backend.sweep_interval.total_seconds()
        turn = min(interval, PULSE)
        pause = waited = interval
        before: object = None
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
                await self._end_cancelled()
                await self._age()
                came_round()
            except Unavailable as error:
                log.error("sweep_failed", backend=self._backend.name, reason=error.reason)
            held = self._backend.transport.circuit.wait_seconds()
            await self._sleep(max(turn, held))
            waited += max(turn, held)

    async def _identify(self) -> None:
        """Asks whose account the backend is, and keeps back what was recorded for another one."""
        backend, pause = self._backend, 1.0
        while True:
            identity = await backend.transport.run(backend.adapter.identify())
            is_alive()
            if isinstance(identity, Identity):
                break
            self._note(identity)
            if isinstance(identity, Barred):
                backend.transport.circuit.blocked(identity.notice)
            elif isinstance(identity, Unsure):
                backend.transport.circuit.unreachable(identity.reason)  # nothing is sent, and health says why
            await self._sleep(max(pause, backend.transport.circuit.wait_seconds()))
            pause = min(pause * 2, SLOWEST_RETRY)
        backend.transport.circuit.readable()
        held = 0
        while identity.account:  # what does not say whose it is holds nothing back
            try:
                held = await self._store.hold(backend.name, identity, backend.formerly)
                break
            except Unavailable as error:
                log.error("hold_failed", backend=backend.name, reason=error.reason)
                await self._sleep(PULSE)
        if held:
            log.warning("account_changed", backend=backend.name, starts=held)
        backend.transport.identity = identity  # from here on the dispatcher sends

    async def _has_changed(self, called: str) -> bool:
        """Asks again whose account it is, once, if a list calls it by another name; nothing is sent meanwhile."""
        backend, before = self._backend, self._backend.account
        if not before or backend.named(called) in {"", before} or called == self._asked_about:
            return False
        self._asked_about = called
        backend.transport.identity = None
        await self._identify()
        if backend.account == before:
            return False
        self._since, self._changes = None, True
        return True

    async def _look_back(self) -> None:
        """Asks whose account it is where that has changed before: nothing that is held would show that it is back."""
        backend = self._backend
        identity = await backend.transport.run(backend.adapter.identify())
        if isinstance(identity, Identity) and identity.account != backend.account:
            backend.transport.identity = self._since = None
            await self._identify()

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
        if await self._has_changed(swept.account):
            return moved
        if uncertain:
            scan = Scan(
                began=began,
                ended=seen.ended,
                began_at=swept.began,
                since=swept.since,
                readable=swept.trouble is None and seen.complete and swept.is_gapless,
                possible=not isinstance(swept.trouble, NotSent | Throttled | Blocked | Barred),
                account=await self._account_of(swept),
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
        return moved + await self._look_for_unseen(seen.external_ids)

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
            await self._record(await self._store.news(self._backend.name, swept.sightings))

    async def _conclude_lists(self, swept: Sweep, seen: _Seen) -> None:
        """Notes what reading the lists cost, and whether they could be read."""
        backend = self._backend
        self._pace(seen.began, seen.requests, rereads=seen.rereads, is_whole=swept.trouble is None)
        self._swept(is_complete=swept.trouble is None)
        if swept.trouble is None:
            backend.transport.circuit.readable()
            return
        self._note(swept.trouble)
        if isinstance(swept.trouble, Barred):
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

    async def _account_of(self, swept: Sweep) -> str:
        """Returns whose account a scan shows; where its answers do not say, the account is asked for once more."""
        if swept.account:
            return self._backend.named(swept.account)
        if swept.trouble is not None:
            return ""
        identity = await self._backend.transport.run(self._backend.adapter.identify())
        return identity.account if isinstance(identity, Identity) else ""

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
            part, complete, read = await self._with_keys(some, sought, seen.reread_before)
            seen.complete &= complete
            news = await self._store.news(self._backend.name, part)
            seen.moved += await self._record(await self._with_warnings(news))
            self._remember(read, seen.began)
            seen.external_ids.update(each.external_id for each in part)
            seen.keys.update(each.correlation_key for each in part if each.correlation_key)
            seen.hiding += [
                Hiding(each.flow, each.created_at, each.number) for each in part if each.hides_key or self._hides(each)
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

    def _hides(self, sighting: Sighting) -> bool:
        """Whether the params of one that is nobody's were read, and were empty."""
        examined = self._examined.get(sighting.external_id) if sighting.correlation_key is None else None
        return examined is not None and examined.is_hidden

    async def _with_keys(
        self, sightings: Sequence[Sighting], sought: tuple[Sought, ...], reread_before: float
    ) -> tuple[Sequence[Sighting], bool, dict[str, Key]]:
        """Reads the correlation keys that a list does not show, of what may be sought and is nobody's yet.

        What was read before `reread_before` is read again, unless it had been shown for as long as lists may lag.
        Returns the sightings, whether every key could be read, and those that were.
        """
        adapter = self._backend.adapter
        if not sought or not isinstance(adapter, KeyReader):
            return sightings, True, {}
        flows = {each.flow.lower() for each in sought}
        candidates = {
            each.external_id: each
            for each in sightings
            if each.flow.lower() in flows
            and each.correlation_key is None
            and self._is_to_be_read(each.external_id, reread_before)
        }
        unknown = sorted(await self._store.unknown(self._backend.name, candidates))
        keys: dict[str, Key] = {}
        complete, room = True, Room()
        for first in range(0, len(unknown), AT_ONCE):
            if self._backend.transport.circuit.wait_seconds():
                complete = False
                break  # it asked to wait, or cannot be reached
            some = unknown[first : first + AT_ONCE]
            found = await asyncio.gather(
                *(self._backend.transport.run(adapter.key(candidates[each].flow, each)) for each in some)
            )
            for external_id, key in zip(some, found, strict=True):
                if isinstance(key, Key):
                    keys[external_id] = room.keep(key)
                    continue
                complete = False
                if not isinstance(key, Missing):
                    self._note(key)
        carrying = {external_id: key for external_id, key in keys.items() if key.correlation_key}
        shown = tuple(_with_key(each, carrying.get(each.external_id)) for each in sightings)
        return shown, complete, keys

    def _is_to_be_read(self, external_id: str, reread_before: float) -> bool:
        examined = self._examined.get(external_id)
        if examined is None:
            return True
        lag = LAG * self._backend.quiet_window.total_seconds()
        return examined.read_at < reread_before and examined.read_at < examined.shown_at + lag

    def _remember(self, keys: Mapping[str, Key], read_at: float) -> None:
        """Remembers which keys were read and when, once what they showed is on the disk."""
        for external_id, key in keys.items():
            before = self._examined.get(external_id)
            shown_at = before.shown_at if before is not None else read_at
            self._examined[external_id] = _Examined(shown_at=shown_at, read_at=read_at, is_hidden=key.is_hidden)
        while len(self._examined) > EXAMINED:
            del self._examined[next(iter(self._examined))]

    async def _record(self, sightings: Iterable[Sighting]) -> int:
        batch = list(sightings)
        moved = 0
        for first in range(0, len(batch), BATCH):
            some = batch[first : first + BATCH]
            moved += await sight(self._store, self._backend, some)
        return moved

    async def _look_for_unseen(self, shown: Collection[str]) -> int:
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
        return await self._record(found)

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
        self._note(seen)
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

    async def _end_cancelled(self) -> None:
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
            await self._record(filter(None, shown))
            for dispatch, each in zip(some, seen, strict=True):
                if isinstance(each, NotSent | Throttled | Blocked | Barred):
                    await self._store.spare(dispatch.id)  # however it ends, it is not because of us

    async def _age(self) -> None:
        if self._monotonic() < self._age_at:
            return
        self._age_at = self._monotonic() + min(AGED, self._backend.stalled_after.total_seconds() / 2)
        stalled = await self._store.mark_stalled(self._backend.name, self._clock() - self._backend.stalled_after)
        if stalled:
            log.warning("stalled", backend=self._backend.name, dispatches=stalled)
        if self._changes:
            await self._look_back()

    def _note(self, trouble: Trouble) -> None:
        self._backend.transport.note(trouble)
        why = trouble.notice.message if isinstance(trouble, Blocked | Barred) else getattr(trouble, "reason", "")
        log.warning("sweep_unread", backend=self._backend.name, trouble=type(trouble).__name__, why=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Examined:
    """One whose key was read and is not ours: when a list first showed it, when it was last read (monotonic)."""

    shown_at: float
    read_at: float
    is_hidden: bool


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


def _with_key(sighting: Sighting, key: Key | None) -> Sighting:
    return replace(sighting, correlation_key=key.correlation_key, params=key.params) if key else sighting
