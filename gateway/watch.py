"""Recorded changes, then new ones: what a watcher reads.

Rules:

1. There is one read path: the changes after a revision. A cache of recent ones, each encoded once, stands in front of
   it; whoever is further behind reads the store.
2. A watcher is a cursor. Nothing is queued for it, so a slow one costs nobody anything and loses nothing.
3. A commit only wakes; what happened is re-read. A wake-up that is lost costs one heartbeat's time.
4. Only those are woken whom a change may concern: by id, or by tenant. Whoever was not woken has missed nothing, so its
   cursor may go up to the newest revision without a read.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import structlog

from gateway.errors import GatewayError, InvalidRequest, NotFound, Reason, RevisionNotAvailable, Unavailable
from gateway.model import Change, Filter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from gateway.model import FlowStart, State
    from gateway.store import Store

log = structlog.get_logger()

HEARTBEAT = timedelta(seconds=20)  # shorter than the minute after which proxies drop a silent stream
CACHED = 10_000  # changes; about 10 MB of encoded starts at the most
READ = 500  # changes or starts at a time: what one watcher that is behind holds in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What one watcher selects, and where it goes on from (None: begin with a snapshot)."""

    tenant: str
    ids: frozenset[str] = frozenset()
    selected: Filter = field(default_factory=Filter)
    after: int | None = None
    epoch: str = ""
    until_done: bool = False


class Messages(Protocol):
    """Encodes what a watcher is sent."""

    def write_watch_changed(self, change: Change, epoch: str) -> bytes:
        """Encodes a change."""

    def write_snapshot_end(self, revision: int, epoch: str) -> bytes:
        """Encodes the end of a snapshot."""

    def write_heartbeat(self, revision: int, epoch: str) -> bytes:
        """Encodes a heartbeat."""


class _Recorded:
    """A change that is encoded at most once, when the first watcher wants it."""

    __slots__ = ("_message", "change")

    def __init__(self, change: Change) -> None:
        self.change = change
        self._message = b""

    def message(self, messages: Messages, epoch: str) -> bytes:
        """Encodes it, or returns what was encoded before."""
        if not self._message:
            self._message = messages.write_watch_changed(self.change, epoch)
        return self._message


class _Waiter:
    """A watcher in its live part: whether something may have come for it, and the sleep that this ends."""

    __slots__ = ("is_due", "sleep")

    def __init__(self) -> None:
        self.is_due = True  # at first it has everything to read
        self.sleep: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Says that there may be something to read."""
        self.is_due = True
        if self.sleep is not None and not self.sleep.done():
            self.sleep.set_result(None)

    async def until_due(self, moment: float) -> None:
        """Sleeps until there may be something to read, or until that moment by the loop's clock."""
        if self.is_due:
            return
        self.sleep = asyncio.get_running_loop().create_future()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(moment):
                    await self.sleep
        finally:
            self.sleep = None


class Watch:
    """Serves watchers from one store. `run` must be running while there are any."""

    def __init__(
        self,
        store: Store,
        messages: Messages,
        *,
        heartbeat: timedelta = HEARTBEAT,
        cached: int = CACHED,
        read: int = READ,
    ) -> None:
        self._store = store
        self._messages = messages
        self._heartbeat = heartbeat.total_seconds()
        self._cached = cached
        self._read = read
        self._recent: list[_Recorded] = []
        self._revisions: list[int] = []  # of `_recent`, to find a cursor's place
        self._floor: int | None = None  # the cache holds every change after this revision
        self._head = 0  # and up to this one
        self._announced = asyncio.Event()
        self._waiters: dict[str, set[_Waiter]] = {}  # by the id of a start, or by ":" and a tenant
        self._closed = False
        store.listen(lambda _revision: self._announced.set())

    async def run(self) -> None:
        """Keeps the cache at the newest revision and wakes the watchers."""
        self._announced.set()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat):
                    await self._announced.wait()
            self._announced.clear()  # before reading, so that a commit during the read is not missed
            try:
                await self._refresh()
            except GatewayError as error:
                log.error("watch_read_failed", reason=error.reason)
                await asyncio.sleep(1)
                self._announced.set()

    def close(self) -> None:
        """Ends every stream with UNAVAILABLE and a time to come back."""
        self._closed = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake()

    async def stream(self, watched: Watched) -> AsyncIterator[bytes]:
        """Streams encoded messages; keeps the promises written at `WatchFlowStarts` in the proto."""
        undone = await self._begin(watched)
        cursor = watched.after or 0
        yield self._messages.write_heartbeat(cursor, self._store.epoch)
        if watched.after is None:
            async for revision, message in self._snapshot(watched, undone):
                cursor = revision
                yield message
        async for message in self._live(watched, undone, cursor):
            yield message

    async def _begin(self, watched: Watched) -> set[str]:
        """Checks the request; returns the ids that are not done as of where it begins."""
        epoch = self._store.epoch
        if watched.epoch and watched.epoch != epoch:
            raise RevisionNotAvailable(
                message="The store was restored since: its epoch is another one. Watch again without after_revision and"
                " epoch to begin with a snapshot.",
                metadata={"epoch": epoch},
            )
        if watched.until_done and not watched.ids:
            raise InvalidRequest(message="until_done needs ids: name the starts to wait for.")
        if watched.after is not None:
            await self._store.changes(watched.after, 1)  # refuses a revision that is not there
        if not watched.ids:
            return set()
        page = await self._store.snapshot(watched.tenant, Filter(), watched.ids, after=0, limit=len(watched.ids))
        starts = {start.asked.id: start for start in page.flow_starts}
        if missing := sorted(watched.ids - set(starts)):
            raise not_found(missing[0])
        after = -1 if watched.after is None else watched.after
        return {start_id for start_id, start in starts.items() if start.revision > after or not start.standing.is_done}

    async def _snapshot(self, watched: Watched, undone: set[str]) -> AsyncIterator[tuple[int, bytes]]:
        """Streams the selected starts by ascending revision until a read finds nothing newer."""
        cursor, epoch = 0, self._store.epoch
        selected = Filter() if watched.until_done else watched.selected  # what is done counts, shown or not
        while True:
            self._refuse_if_closed()
            page = await self._store.snapshot(watched.tenant, selected, watched.ids, after=cursor, limit=self._read)
            for start in page.flow_starts:
                _strike_off(watched, undone, start)
                if await self._selects(watched, start, None):
                    change = Change(flow_start=start, state_before=None)
                    yield start.revision, self._messages.write_watch_changed(change, epoch)
            if page.next_position is None:
                yield page.head, self._messages.write_snapshot_end(page.head, epoch)
                return
            cursor = page.next_position
            yield cursor, self._messages.write_heartbeat(cursor, epoch)

    async def _live(self, watched: Watched, undone: set[str], cursor: int) -> AsyncIterator[bytes]:
        with self._waiting(watched) as waiter:
            async for message in self._follow(watched, undone, cursor, waiter):
                yield message

    async def _follow(self, watched: Watched, undone: set[str], cursor: int, waiter: _Waiter) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        while not (watched.until_done and not undone):
            self._refuse_if_closed()
            batch: Sequence[_Recorded] = ()
            if waiter.is_due:
                waiter.is_due = False  # before reading, so that what comes during the read is not missed
                batch, cursor = await self._after(cursor)
            for recorded in batch:
                change = recorded.change
                if not _concerns(watched, change):
                    continue
                _strike_off(watched, undone, change.flow_start)
                if await self._selects(watched, change.flow_start, change.state_before):
                    yield recorded.message(self._messages, self._store.epoch)
                    silent_since = loop.time()
                if watched.until_done and not undone:
                    return  # at this very change, however many were read with it
            if batch:
                waiter.is_due = True  # there may be more than was read at once
            await waiter.until_due(silent_since + self._heartbeat)
            if loop.time() >= silent_since + self._heartbeat:
                if not waiter.is_due:
                    cursor = max(cursor, self._head)  # rule 4
                yield self._messages.write_heartbeat(cursor, self._store.epoch)
                silent_since = loop.time()

    async def _after(self, cursor: int) -> tuple[Sequence[_Recorded], int]:
        """Returns changes after a cursor, and through which revision there are no others."""
        if self._floor is not None and self._floor <= cursor:
            if cursor >= self._head:
                return (), cursor
            start = bisect_right(self._revisions, cursor)
            batch = self._recent[start : start + self._read]
            return batch, batch[-1].change.revision if len(batch) == self._read else self._head
        read = await self._store.changes(cursor, self._read)
        return [_Recorded(change) for change in read.changes], read.through

    @contextmanager
    def _waiting(self, watched: Watched) -> Iterator[_Waiter]:
        """Has a watcher woken from here on by whatever may concern it."""
        waiter, keys = _Waiter(), watched.ids or {f":{watched.tenant}"}
        for key in keys:
            self._waiters.setdefault(key, set()).add(waiter)
        try:
            yield waiter
        finally:
            for key in keys:
                waiters = self._waiters[key]
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[key]

    async def _refresh(self) -> None:
        if self._floor is None:
            self._floor = self._head = await self._store.head()
        while True:
            read = await self._store.changes(self._head, self._read)
            self._recent += [_Recorded(change) for change in read.changes]
            self._revisions += [change.revision for change in read.changes]
            self._head = read.through
            self._wake(read.changes)  # in one step with the head: rule 4
            if len(self._recent) > 2 * self._cached:  # rarely, because it moves the whole list
                self._floor = self._revisions[-self._cached - 1]
                del self._recent[: -self._cached], self._revisions[: -self._cached]
            if len(read.changes) < self._read:
                break

    async def _selects(self, watched: Watched, start: FlowStart, state_before: State | None) -> bool:
        if not watched.selected.selects(start, state_before):
            return False
        wanted = watched.selected.external_id
        return not wanted or start.standing.external_id == wanted or await self._store.carries(start.asked.id, wanted)

    def _wake(self, changes: Iterable[Change]) -> None:
        starts = [change.flow_start.asked for change in changes]
        for key in {start.id for start in starts} | {f":{start.tenant}" for start in starts}:
            for waiter in self._waiters.get(key, ()):
                waiter.wake()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unavailable(
                reason=Reason.DRAINING,
                message="The gateway is shutting down. Watch again with the last revision and epoch received.",
                retry_after=timedelta(seconds=random.uniform(0.5, 3)),  # noqa: S311 -- spreads the return of watchers
            )


def not_found(start_id: str) -> NotFound:
    """Builds the one answer for an id that never was and one that is another tenant's."""
    return NotFound(
        reason=Reason.FLOW_START_NOT_FOUND,
        message="There is no start with this id. Ids are returned by StartFlow and ListFlowStarts.",
        metadata={"id": start_id},
    )


def _concerns(watched: Watched, change: Change) -> bool:
    asked = change.flow_start.asked
    return asked.tenant == watched.tenant and (not watched.ids or asked.id in watched.ids)


def _strike_off(watched: Watched, undone: set[str], start: FlowStart) -> None:
    """Keeps `undone` true as of this start's revision: one that was uncertain at rest may move again."""
    if start.standing.is_done:
        undone.discard(start.asked.id)
    elif watched.until_done:
        undone.add(start.asked.id)
