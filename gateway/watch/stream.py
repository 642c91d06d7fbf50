"""Recorded changes, then new ones: what a watcher reads.

Rules:

1. There is one read path: the changes after a revision. A cache of recent ones, each encoded once, stands in front of
   it; whoever is further behind reads the store.
2. A watcher is a cursor. Nothing is queued for it, so a slow one costs nobody anything and loses nothing.
3. A commit only wakes; what happened is re-read. A wake-up that is lost costs one heartbeat's time.
4. Only those are woken whom a change may concern: by id, by label or by tenant. Whoever was not woken has missed
   nothing, so its cursor may go up to what it is woken for, or to the newest revision, without a read.
5. While nobody watches, nothing is read. Whoever comes first has the cache read what is new.
6. Ids of one tenant are looked up for one stream at a time, and its snapshots read and encoded one page at a time. A
   rest follows while others of it wait: the loop, the readers and the writer then have time for everybody else.
7. However many streams a change concerns, few are woken in one pass of the loop, and tenants take turns in it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from gateway.errors import (
    Exhausted,
    GatewayError,
    InvalidRequest,
    NotFound,
    Reason,
    RevisionNotAvailable,
    Unavailable,
)
from gateway.lasting import Lasting
from gateway.loops import came_round, is_alive
from gateway.model import Change, Filter
from gateway.tenants.loop_time import in_parts
from gateway.tenants.sharing import Sharing
from gateway.watch.recent import Recent, Recorded
from gateway.watch.waking import IDS_OF_ONE, Waiter, Waiters, Watched

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence

    from gateway.model import FlowStart, State
    from gateway.store import Reading
    from gateway.watch.recent import Messages

log = structlog.get_logger()

HEARTBEAT = timedelta(seconds=20)  # shorter than the minute after which proxies drop a silent stream
CACHED = 10_000  # changes at the most; when there are more, half is kept
CACHED_BYTES = 48_000_000  # of memory that these take at the most, which only those with many labels reach
READ = 200  # changes or starts at a time: what one watcher that is behind holds in memory, as messages
STREAMS = 20_000  # of one tenant at a time
LONGEST = timedelta(hours=1)  # of a stream: whoever returns may find another server behind a balancer


class Watch:
    """Serves watchers from one store. `run` must be running while there are any."""

    def __init__(
        self,
        store: Reading,
        messages: Messages,
        *,
        heartbeat: timedelta = HEARTBEAT,
        cached: int = CACHED,
        cached_bytes: int = CACHED_BYTES,
        read: int = READ,
        most: int = STREAMS,
        longest: timedelta = LONGEST,
    ) -> None:
        self._store = store
        self._messages = messages
        self._heartbeat = heartbeat.total_seconds()
        self._read = read
        self._most = most
        self._longest = longest.total_seconds()
        self._recent = Recent(store, messages, most=cached, most_bytes=cached_bytes, read=read)
        self._snapshots = Sharing(at_once=1, waiting=None)  # streams have a limit of their own
        self._announced = asyncio.Event()
        self._waiters = Waiters(self._heartbeat)
        self._streams: Counter[str] = Counter()  # by tenant
        self._costs: Counter[str] = Counter()  # of these streams: one each, and what their ids add
        self._closed = False
        self._newest = 0  # revision, as far as it was announced
        store.listen(self._hear)

    async def open(self) -> None:
        """Fills the cache. Before anybody watches, so that those who return after a restart find what they missed."""
        self._newest = max(self._newest, await self._store.head())
        async for _ in self._recent.refresh(self._newest):
            pass

    def _hear(self, revision: int) -> None:
        self._newest = revision
        if self._streams:
            self._announced.set()

    async def run(self) -> None:
        """Keeps the cache at the newest revision, wakes the watchers and has them beat."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._waiters.beat())
            tasks.create_task(self._keep_up())

    async def _keep_up(self) -> None:
        self._announced.set()
        failing = Lasting("watch_read_failed")
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat):
                    await self._announced.wait()
            self._announced.clear()  # before reading, so that a commit during the read is not missed
            is_alive()
            if not self._streams:
                continue
            try:
                async for changes in self._recent.refresh(self._newest):
                    self._waiters.wake(changes)
                came_round()
                failing.is_over()
            except GatewayError as error:
                failing.again(reason=error.reason, why=error.message)
                await asyncio.sleep(1)
                self._announced.set()

    def lag(self, head: int) -> int:
        """How many revisions up to this one those who watch cannot be told of yet."""
        return max(0, head - self._recent.head) if self._streams else 0

    @property
    def stream_count(self) -> int:
        """How many streams are open."""
        return self._streams.total()

    @property
    def behind_count(self) -> int:
        """How many streams have more to send, or may have."""
        return self.stream_count - self._waiters.idle_count

    def look_around(self) -> None:
        """Has every watcher see whether it may go on."""
        self._waiters.wake_all()

    def close(self) -> None:
        """Ends every stream with UNAVAILABLE and a time to come back."""
        self._closed = True
        self._waiters.wake_all()

    async def stream(self, watched: Watched) -> AsyncGenerator[bytes]:
        """Streams encoded messages; keeps the promises written at `WatchFlowStarts` in the proto.

        Close it when done with it. Raises `Exhausted` if the tenant has too many streams.
        """
        with self._counted(watched.tenant, watched.cost, watched.most or self._most):
            age = self._longest * random.uniform(0.9, 1)  # noqa: S311 -- so that those of one moment do not return at one
            ends_at = asyncio.get_running_loop().time() + age
            cursor, undone = await self._begin(watched)
            yield self._messages.write_heartbeat(cursor, self._store.epoch)
            if watched.after is None:
                async for revision, message in self._snapshot(watched, undone, cursor, ends_at):
                    cursor = revision
                    yield message
                if watched.until_done and not undone:
                    return
            with self._waiters.waiting(watched) as waiter:
                async for message in self._live(watched, undone, cursor, ends_at, waiter):
                    yield message

    async def _begin(self, watched: Watched) -> tuple[int, set[str]]:
        """Checks the request; returns where to begin, and for `until_done` the ids that are not done as of there."""
        epoch = self._store.epoch
        if watched.epoch and watched.epoch != epoch:
            raise RevisionNotAvailable(
                message="This store has another epoch: it was restored from a backup since, or the epoch is of another"
                " gateway or mistyped. Watch again without after_revision and epoch to begin with a snapshot.",
                metadata={"epoch": epoch},
            )
        if watched.until_done and not watched.ids:
            raise InvalidRequest(message="until_done needs ids: name the starts to wait for.")
        if watched.after is None:
            cursor = await self._store.oldest()  # every start has moved since
        else:
            cursor = watched.after
            await self._store.changes(cursor, 1, asker=watched.tenant)  # refuses a revision that is not there
        if not watched.ids:
            return cursor, set()
        async with self._snapshots.turn(watched.tenant):  # rule 6
            found = await self._store.undone(watched.reaches, watched.ids, since=cursor)
        if found.missing:
            raise not_found(min(found.missing))
        return cursor, set(found.undone) if watched.until_done else set()

    async def _snapshot(
        self, watched: Watched, undone: set[str], cursor: int, ends_at: float
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Streams the selected starts by ascending revision, then what has changed of them meanwhile.

        What has changed comes as changes, which a filter lets pass by the state before as well: a start that was shown
        and does not match any more is shown again.
        """
        selected = Filter() if watched.until_done else watched.selected  # what is done counts, shown or not
        as_of = None
        while cursor != as_of:
            self._refuse_if_over(watched, ends_at)
            async with self._snapshots.turn(watched.tenant):  # rule 6
                page = await self._store.snapshot(
                    watched.reaches, selected, watched.ids, after=cursor, limit=self._read
                )
                as_of = page.head if as_of is None else as_of
                head, following = page.head, page.next_position
                messages = await self._write_starts(watched, undone, page.flow_starts, as_of)
            del page  # whoever stops reading holds a few messages
            for message in messages:
                yield message
            cursor = as_of if following is None else min(following, as_of)
            if cursor != as_of:
                yield cursor, self._messages.write_heartbeat(cursor, self._store.epoch)
        if undone:  # what was erased meanwhile had ended, and nobody may miss how
            undone -= (await self._store.undone(watched.reaches, frozenset(undone), since=cursor)).missing
            await self._store.changes(cursor, 1, asker=watched.tenant)
        async for message in self._catch_up(watched, undone, cursor, head, ends_at):
            yield message

    async def _catch_up(
        self, watched: Watched, undone: set[str], cursor: int, head: int, ends_at: float
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Streams the changes up to a revision at least, then the end of the snapshot, unless all is done before."""
        waits = watched.until_done and bool(undone)
        while cursor < head and (waits or not watched.until_done):
            self._refuse_if_over(watched, ends_at)
            batch, cursor = await self._recent.recorded_after(cursor, watched.tenant)
            messages = await self._write(watched, undone, batch)
            del batch
            for message in messages:
                yield cursor, message
            if waits and not undone:
                return
        yield cursor, self._messages.write_snapshot_end(cursor, self._store.epoch)

    async def _write_starts(
        self, watched: Watched, undone: set[str], starts: Iterable[FlowStart], as_of: int
    ) -> list[tuple[int, bytes]]:
        """Encodes what is selected of the starts that have not changed since a revision."""
        messages: list[tuple[int, bytes]] = []
        async for start in in_parts(starts):
            if start.revision > as_of:
                break
            _strike_off(watched, undone, start)
            if await self._selects(watched, start, None):
                change = Change(flow_start=start, state_before=None)
                recorded = Recorded(change, self._messages, self._store.epoch)
                messages += [(start.revision, message) for message in _encoded(recorded)]
        return messages

    async def _live(
        self, watched: Watched, undone: set[str], cursor: int, ends_at: float, waiter: Waiter
    ) -> AsyncIterator[bytes]:
        """Streams what changes after a cursor, and heartbeats."""
        loop = asyncio.get_running_loop()
        while not (watched.until_done and not undone):
            self._refuse_if_over(watched, ends_at)
            if waiter.is_due:
                waiter.is_due = False  # before reading, so that what comes during the read is not missed
                cursor = max(cursor, waiter.passed)  # rule 4
                batch, cursor = self._recent.after(cursor) or await self._recent.recorded_after(cursor, watched.tenant)
                waiter.is_due |= len(batch) == self._read  # then there may be more
                messages = await self._write(watched, undone, batch)
                del batch  # whoever stops reading holds a few messages, and keeps nothing in memory that left the cache
                for message in messages:
                    yield message
                if messages:
                    self._waiters.spoke(waiter, loop.time())
            elif waiter.silent_since <= loop.time() - self._heartbeat:  # put as `Waiters.beat` puts it
                cursor = max(cursor, self._recent.head)  # rule 4
                yield self._messages.write_heartbeat(cursor, self._store.epoch)
                self._waiters.spoke(waiter, loop.time())
            else:
                waiter.sleep = loop.create_future()
                await waiter.sleep
                waiter.sleep = None

    async def _write(self, watched: Watched, undone: set[str], batch: Sequence[Recorded]) -> list[bytes]:
        """Encodes what is selected of a batch, through the very change with which all that is waited for is done."""
        messages: list[bytes] = []
        for recorded in batch:
            change = recorded.change
            start = change.flow_start
            if watched.ids and start.asked.id not in watched.ids:
                continue
            if start.asked.tenant != watched.tenant and not watched.spans_tenants:
                continue
            _strike_off(watched, undone, start)
            if await self._selects(watched, start, change.state_before):
                messages += _encoded(recorded)
            if watched.until_done and not undone:
                break
        return messages

    @contextmanager
    def _counted(self, tenant: str, cost: int, most: int) -> Iterator[None]:
        """Counts a stream while it lasts; raises `Exhausted` if the tenant has too many. It may always have one."""
        if self._costs[tenant] and self._costs[tenant] + cost > most:
            raise Exhausted(
                reason=Reason.STREAM_LIMIT,
                message=f"Too many streams are open: {most:,} is the limit of a caller, and {IDS_OF_ONE} ids"
                " count as one more. End some, watch by a filter in place of ids, or raise `streams`.",
                metadata={"quota_subject": "streams", "limit": str(most)},
                retry_after=_pause(),
            )
        if not self._streams:
            self._announced.set()
        self._streams[tenant] += 1
        self._costs[tenant] += cost
        try:
            yield
        finally:
            self._streams[tenant] -= 1
            self._costs[tenant] -= cost
            if not self._streams[tenant]:
                del self._streams[tenant], self._costs[tenant]

    async def _selects(self, watched: Watched, start: FlowStart, state_before: State | None) -> bool:
        if not watched.selected.selects(start, state_before):
            return False
        wanted = watched.selected.external_id
        if not wanted or start.standing.external_id == wanted:
            return True
        return await self._store.carries(start.asked.id, wanted, asker=watched.tenant)

    def _refuse_if_over(self, watched: Watched, ends_at: float) -> None:
        if watched.ended is not None and (error := watched.ended()) is not None:
            raise replace(error, retry_after=_pause())
        if self._closed:
            raise Unavailable(
                reason=Reason.DRAINING,
                message="The gateway is shutting down. Watch again with the last revision and epoch received.",
                retry_after=_pause(),
            )
        if asyncio.get_running_loop().time() >= ends_at:
            raise Unavailable(
                reason=Reason.STREAM_AGED,
                message="The stream has reached its greatest age. Watch again with the last revision and epoch"
                " received.",
                retry_after=_pause(),
            )


def _pause() -> timedelta:
    """Returns when to come back: spread, so that not all do at once."""
    return timedelta(seconds=random.uniform(0.5, 3))  # noqa: S311


def not_found(start_id: str) -> NotFound:
    """Builds the one answer for an id that never was and one that is another tenant's."""
    return NotFound(
        reason=Reason.FLOW_START_NOT_FOUND,
        message="There is no start with this id. Ids are returned by StartFlow and ListFlowStarts.",
        metadata={"id": start_id},
    )


def _encoded(recorded: Recorded) -> list[bytes]:
    """Returns the message of a change; none if it cannot be encoded: it would end every stream that comes to it."""
    try:
        return [recorded.message()]
    except Exception as error:  # noqa: BLE001 -- whatever is wrong with one, the others are sent
        start = recorded.change.flow_start
        log.error("change_set_aside", revision=start.revision, start=start.asked.id, error=type(error).__name__)
        return []


def _strike_off(watched: Watched, undone: set[str], start: FlowStart) -> None:
    """Keeps `undone` true as of this start's revision: one that was uncertain at rest may move again."""
    if start.standing.is_done:
        undone.discard(start.asked.id)
    elif watched.until_done:
        undone.add(start.asked.id)
