"""The promises of a watch, each by its number in the design, on a real store with caches and reads made small."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import tempfile
import tracemalloc
from collections import Counter
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Exhausted, InvalidRequest, NotFound, Reason, RevisionNotAvailable, Unavailable
from gateway.model import Filter, Resolution, State, Verdict
from gateway.store.sqlite import open_sqlite
from gateway.watch.recent import ORDINARY, Recent
from gateway.watch.stream import Watch
from gateway.watch.waking import IDS_OF_ONE, WOKEN, Watched
from gateway.wire import records
from tests.builders import (
    ACCOUNT,
    BACKEND,
    TENANT,
    Clock,
    accepted,
    claim_ids,
    create,
    refused,
    run_to,
    seen,
    settle,
    singly,
    unsure,
)
from tests.lengths import size

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable

    from gateway.model import Change, FlowStart
    from gateway.store import Page
    from gateway.store.sqlite import SqliteStore

SILENCE = timedelta(milliseconds=5)  # between heartbeats, where a test waits for them
LONG = timedelta(hours=1)  # between heartbeats, where a test must do without
ROOMY = 1_000_000  # bytes of memory for a cache that only the number of changes bounds
CACHED_BYTES = st.sampled_from([1, 3 * ORDINARY, 10 * ORDINARY, ROOMY])
RED = Filter(labels={"team": "red"})


@dataclass(frozen=True)
class Message:
    """One message of a stream, read back."""

    kind: str
    revision: int
    epoch: str
    start_id: str = ""
    state: str = ""


@dataclass
class Plainly:
    """Encodes messages plainly, and counts how many changes it was given to encode."""

    encoded: list[int] = field(default_factory=list)

    def write_watch_changed(self, change: Change, epoch: str) -> bytes:
        """Encodes a change."""
        self.encoded.append(change.revision)
        start = change.flow_start
        return json.dumps(["changed", change.revision, epoch, start.asked.id, start.standing.state.name]).encode()

    def write_snapshot_end(self, revision: int, epoch: str) -> bytes:
        """Encodes the end of a snapshot."""
        return json.dumps(["snapshot_end", revision, epoch]).encode()

    def write_heartbeat(self, revision: int, epoch: str) -> bytes:
        """Encodes a heartbeat."""
        return json.dumps(["heartbeat", revision, epoch]).encode()


class Watcher:
    """Reads one stream, a message when asked for one."""

    def __init__(self, watch: Watch, **watched: Any) -> None:
        watched.setdefault("tenant", TENANT)
        self._stream: AsyncGenerator[bytes] = watch.stream(Watched(**watched))  # type: ignore[assignment]
        self.seen: list[Message] = []
        self.ended = False

    async def next(self) -> Message | None:
        """Reads the next message; None at the end."""
        try:
            async with asyncio.timeout(10):  # not wait_for, which may lose a cancellation before Python 3.12
                data = await anext(self._stream)
        except StopAsyncIteration:
            self.ended = True
            return None
        self.seen.append(Message(*json.loads(data)))
        return self.seen[-1]

    async def through(self, revision: int) -> list[Message]:
        """Reads until everything up to a revision was sent or the stream has ended; returns all that was seen."""
        async with asyncio.timeout(20):
            while not self.ended and (not self.seen or self.seen[-1].revision < revision):
                await self.next()
        return self.seen

    async def to_end(self) -> list[Message]:
        """Reads to the end."""
        async with asyncio.timeout(20):
            while not self.ended:
                await self.next()
        return self.seen

    async def to_snapshot_end(self) -> list[Message]:
        """Reads a snapshot."""
        while (await self.next()).kind != "snapshot_end":  # type: ignore[union-attr]
            pass
        return self.seen

    @property
    def changes(self) -> list[Message]:
        """The changes among what was seen."""
        return [message for message in self.seen if message.kind == "changed"]

    @property
    def revisions(self) -> list[int]:
        """The revisions of the changes among what was seen."""
        return [message.revision for message in self.changes]

    async def close(self) -> None:
        """Hangs up."""
        await self._stream.aclose()


@asynccontextmanager
async def running(watch: Watch) -> AsyncIterator[Watch]:
    """Runs a watch."""
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def watch(store: SqliteStore) -> AsyncIterator[Watch]:
    """Runs a watch that reads two at a time, keeps ten and beats often."""
    async with running(Watch(store, Plainly(), heartbeat=SILENCE, cached=10, read=2)) as watching:
        yield watching


async def until(is_so: Callable[[], bool]) -> None:
    """Waits for what nothing announces."""
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def ended(store: SqliteStore, count: int = 1, **different: Any) -> list[FlowStart]:
    """Records starts that are refused at once: two changes each."""
    starts = [await create(store, **different) for _ in range(count)]
    for dispatch_id in await claim_ids(store, 10_000, different.get("backend", BACKEND)):
        await settle(store, dispatch_id, refused())
    return starts


# --- 1


@pytest.mark.parametrize("cached", [1, 3, 1_000])
@pytest.mark.parametrize("read", [1, 7, 500])
async def test_promise_1_changes_arrive_in_order_none_missed_none_twice(
    store: SqliteStore, cached: int, read: int
) -> None:
    """While others write, from the beginning, from the middle and from a snapshot, whatever cache and page sizes."""
    async with running(Watch(store, Plainly(), heartbeat=SILENCE, cached=cached, read=read)) as watch:
        await ended(store, 5)
        watchers = [Watcher(watch, after=0), Watcher(watch, after=6), Watcher(watch)]

        async def write() -> None:
            for _ in range(6):
                await ended(store, 4)

        await asyncio.gather(write(), *(watcher.through(50) for watcher in watchers))
        head = await store.head()
        await asyncio.gather(*(watcher.through(head) for watcher in watchers))

    assert 58 == head
    assert list(range(1, 59)) == watchers[0].revisions
    assert list(range(7, 59)) == watchers[1].revisions
    from_snapshot = watchers[2].revisions
    assert sorted(set(from_snapshot)) == from_snapshot
    end = next(m.revision for m in watchers[2].seen if m.kind == "snapshot_end")
    assert list(range(end + 1, 59)) == [revision for revision in from_snapshot if revision > end]


async def test_promise_1_nothing_is_passed_over_while_the_cache_begins_anew(store: SqliteStore) -> None:
    """It was left behind, by much or by a purge; who reads meanwhile finds what is held, or is sent to the store."""
    recent = Recent(store, Plainly(), most=4, most_bytes=ROOMY, read=10)
    await create(store)
    async for _ in recent.refresh(1):
        pass
    await asyncio.gather(*(create(store) for _ in range(10)))
    oldest, found = store.oldest, []

    async def read_meanwhile() -> int:
        found.append(recent.after(0))
        return await oldest()

    store.oldest = read_meanwhile  # type: ignore[method-assign]
    found += [recent.after(0) async for _ in recent.refresh(11)]

    assert found[0] is not None
    assert [1] == [recorded.change.revision for recorded in found[0][0]]
    assert {None} == set(found[1:])


# --- 2


async def test_promise_2_snapshot_then_live(store: SqliteStore, watch: Watch) -> None:
    """The selected starts in ascending order of their current revision, the end, then what comes."""
    first = await create(store)
    second, third = await ended(store, 2)  # the first is refused with them
    watcher = Watcher(watch)
    await watcher.to_snapshot_end()
    fourth = await create(store)
    await watcher.through(fourth.revision)

    assert [first, second, third, fourth] == [
        {start.asked.id: start for start in (first, second, third, fourth)}[message.start_id]
        for message in watcher.changes
    ]
    assert [4, 5, 6, 7] == watcher.revisions
    assert [6] == [message.revision for message in watcher.seen if message.kind == "snapshot_end"]
    assert ["FAILED", "FAILED", "FAILED", "PENDING"] == [message.state for message in watcher.changes]


async def test_promise_2_a_start_that_changes_meanwhile_moves_to_the_end(store: SqliteStore, watch: Watch) -> None:
    """One that was to come comes once, as it stands now; one that had come comes again."""
    starts = [await create(store) for _ in range(6)]
    names = {start.asked.id: n for n, start in enumerate(starts)}
    claimed = await claim_ids(store)
    watcher = Watcher(watch)
    while len(watcher.changes) < 2:
        await watcher.next()
    await settle(store, claimed[0], refused())
    await settle(store, claimed[4], refused())
    await watcher.to_snapshot_end()

    assert [0, 1, 2, 3, 5, 0, 4] == [names[message.start_id] for message in watcher.changes]
    assert [1, 2, 3, 4, 6, 7, 8] == watcher.revisions


async def test_promise_2_every_message_is_a_valid_place_to_resume_from(store: SqliteStore, watch: Watch) -> None:
    """Whoever hangs up after any message and resumes with its revision and epoch knows how every start stands."""
    starts = [await create(store) for _ in range(5)]
    claimed = await claim_ids(store)
    watcher = Watcher(watch)
    while len(watcher.changes) < 3:
        await watcher.next()
    for dispatch_id in claimed[1:4]:
        await settle(store, dispatch_id, refused())
    await watcher.to_snapshot_end()
    new = await create(store)
    head = await store.head()
    await watcher.through(head)

    for n in range(1, len(watcher.seen) + 1):
        known = {message.start_id: message.state for message in watcher.seen[:n]}
        last = watcher.seen[n - 1]
        resumed = Watcher(watch, after=last.revision, epoch=last.epoch)
        await resumed.through(head)
        known |= {message.start_id: message.state for message in resumed.seen}
        known.pop("", None)

        assert ["PENDING", "FAILED", "FAILED", "FAILED", "PENDING", "PENDING"] == [
            known[start.asked.id] for start in (*starts, new)
        ]


async def test_promise_2_an_empty_snapshot_ends(store: SqliteStore, watch: Watch) -> None:
    """With the newest revision, even if nothing is selected or there is nothing at all."""
    nothing = await Watcher(watch).to_snapshot_end()
    await create(store)
    not_mine = await Watcher(watch, tenant="other").to_snapshot_end()
    not_such = await Watcher(watch, selected=Filter(flow="other")).to_snapshot_end()

    assert [("heartbeat", 0), ("snapshot_end", 0)] == [(message.kind, message.revision) for message in nothing]
    assert [[1], [1]] == [[m.revision for m in s if m.kind == "snapshot_end"] for s in (not_mine, not_such)]


# --- 3


async def test_promise_3_every_later_change_after_a_revision_from_any_rpc(store: SqliteStore, watch: Watch) -> None:
    """What StartFlow, GetFlowStart and ListFlowStarts return can be passed on; zero is the very beginning."""
    created = await create(store)
    await run_to(store, created, accepted("x1"))
    got = await store.get(TENANT, created.asked.id)
    listed = await store.list(TENANT, Filter(), before=None, limit=1)
    await store.sight(BACKEND, [seen("x1", State.STARTED)], account=ACCOUNT)
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    assert got is not None

    for after, expected in (
        (0, ["PENDING", "QUEUED", "STARTED", "COMPLETED"]),
        (created.revision, ["QUEUED", "STARTED", "COMPLETED"]),
        (got.revision, ["STARTED", "COMPLETED"]),
        (listed.head, ["STARTED", "COMPLETED"]),
        (await store.head(), []),
    ):
        watcher = Watcher(watch, after=after)
        await watcher.through(await store.head())

        assert expected == [message.state for message in watcher.changes]
        assert "snapshot_end" not in {message.kind for message in watcher.seen}


# --- 4


async def test_promise_4_the_first_message_goes_out_at_once(store: SqliteStore) -> None:
    """A heartbeat, with the revision it was resumed from, though nothing happens and no watch runs yet."""
    await create(store)
    watch = Watch(store, Plainly(), heartbeat=LONG)

    for after, expected in ((None, 0), (1, 1), (0, 0)):
        watcher = Watcher(watch, after=after, selected=Filter(flow="other"))

        assert Message("heartbeat", expected, store.epoch) == await watcher.next()
        await watcher.close()


async def test_promise_4_heartbeats_advance_though_only_others_change(store: SqliteStore, watch: Watch) -> None:
    """Their revision goes on with the changes of other tenants, and with those the filter leaves out."""
    watchers = [Watcher(watch, after=0), Watcher(watch, after=0, selected=Filter(flow="nobody's"))]
    for n in range(1, 4):
        await create(store, tenant="other")
        for watcher in watchers:
            await watcher.through(n)

    for watcher in watchers:
        assert {"heartbeat"} == {message.kind for message in watcher.seen}
        revisions = [message.revision for message in watcher.seen]
        assert sorted(revisions) == revisions
        assert 3 == revisions[-1]


async def test_promise_4_heartbeats_come_in_silence(watch: Watch) -> None:
    """Again and again, with nothing happening at all."""
    watcher = Watcher(watch, after=0)

    assert ["heartbeat"] * 5 == [(await watcher.next()).kind for _ in range(5)]  # type: ignore[union-attr]


async def test_promise_4_a_busy_stream_has_no_need_of_heartbeats(store: SqliteStore) -> None:
    """The first message, then changes and nothing else."""
    async with running(Watch(store, Plainly(), heartbeat=LONG, read=2)) as watch:
        watcher = Watcher(watch, after=0)
        await ended(store, 10)
        await watcher.through(20)

    assert ["heartbeat"] + ["changed"] * 20 == [message.kind for message in watcher.seen]


# --- 5


async def test_promise_5_a_slow_watcher_loses_nothing_and_costs_nobody_anything(store: SqliteStore) -> None:
    """One stops reading while 3,000 changes pass through a cache of 40; another follows them meanwhile."""
    messages = Plainly()
    async with running(Watch(store, messages, heartbeat=SILENCE, cached=40, read=10)) as watch:
        slow, fast = Watcher(watch, after=0), Watcher(watch, after=0)
        await create(store)
        await slow.through(1)
        cached = []
        for _ in range(6):
            await asyncio.gather(*(create(store) for _ in range(500)))
            await fast.through(await store.head())
            cached.append(len(watch._recent))
        at_rest = list(slow.revisions)
        await slow.through(3_001)

    assert [1] == at_rest
    assert list(range(1, 3_002)) == fast.revisions == slow.revisions
    assert max(cached) <= 40 + 10
    assert len(watch._recent._changes) == len(watch._recent._revisions) == len(watch._recent._weights)


async def test_promise_5_the_cache_is_bounded_however_much_comes_at_once(store: SqliteStore) -> None:
    """A watch that has been kept from reading for 2,000 changes does not load all of them first."""
    recent = Recent(store, Plainly(), most=40, most_bytes=ROOMY, read=10)
    held = [len(recent) async for _ in recent.refresh(0)]
    await asyncio.gather(*(create(store) for _ in range(2_000)))
    held += [len(recent) async for _ in recent.refresh(0)]  # though it was told nothing
    await asyncio.gather(*(create(store) for _ in range(2_000)))
    held += [len(recent) async for _ in recent.refresh(4_000)]

    assert 4_000 == recent.head
    assert max(held) <= 40 + 10


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {f"k{n:02}".ljust(60, "x"): "a" * 255 for n in range(32)},
        {f"k{n:02}".ljust(60, "x"): "é" * 255 for n in range(27)},
        {f"k{n:02}".ljust(60, "x"): "語" * 255 for n in range(18)},
        {f"k{n:02}".ljust(60, "x"): "😀" + "a" * 254 for n in range(32)},
    ],
    ids=["none", "ascii", "latin", "cjk", "emoji"],
)
async def test_t2_the_cache_is_bounded_by_the_memory_that_its_changes_take(
    store: SqliteStore, labels: dict[str, str]
) -> None:
    """With the largest labels of each kind of text, all of them encoded; and little of its room is left unused."""
    await asyncio.gather(*(create(store, labels=labels) for _ in range(600)))
    recent = Recent(store, records, most=10_000, most_bytes=1_000_000, read=10)
    held = []
    gc.collect()
    gc.freeze()  # what is there already is not looked through each time
    tracemalloc.start()
    try:
        async for _ in recent.refresh(0):
            for recorded in (recent.after(recent.head - 10) or ((),))[0]:
                recorded.message()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        gc.unfreeze()

    assert max(held) <= 1_000_000 + 10 * 65_000  # and those of one read
    assert max(held) >= 450_000


async def test_t2_what_is_not_held_because_of_its_size_is_read_from_the_store(store: SqliteStore) -> None:
    """One change is larger than all that may be held."""
    async with running(Watch(store, Plainly(), heartbeat=SILENCE, cached_bytes=10_000, read=2)) as watch:
        watcher, late = Watcher(watch, after=0), Watcher(watch, after=0)
        for labels in ({"k": "v" * 255}, {f"k{n}": "😀" * 255 for n in range(16)}, {}, {}):
            await create(store, labels=labels)
            await watcher.through(await store.head())
        await late.through(4)
        held = len(watch._recent)

    assert [1, 2, 3, 4] == watcher.revisions == late.revisions
    assert held == 2


async def test_promise_5_a_change_is_encoded_once_for_all_who_keep_up(store: SqliteStore) -> None:
    """Twenty watchers share the bytes."""
    messages = Plainly()
    watch = Watch(store, messages, heartbeat=SILENCE)
    await watch.open()
    async with running(watch):
        watchers = [Watcher(watch, after=0) for _ in range(20)]
        for watcher in watchers:
            await watcher.next()
        await ended(store, 3)
        await asyncio.gather(*(watcher.through(6) for watcher in watchers))

    assert [1, 2, 3, 4, 5, 6] == messages.encoded


async def test_promise_5_what_passed_an_idle_watcher_by_is_not_read_for_it(store: SqliteStore, tmp_path: Path) -> None:
    """Not when it wakes either: 300 changes of others pass between two heartbeats, 250 of them are forgotten."""
    mine = await create(store)
    async with running(Watch(store, Plainly(), heartbeat=LONG, cached=20, read=10)) as watch:
        watchers = [Watcher(watch, ids=frozenset({mine.asked.id}), after=0), Watcher(watch, selected=RED, after=0)]
        for watcher in watchers:
            await watcher.next()
        await watchers[0].next()
        reading = [asyncio.create_task(watcher.next()) for watcher in watchers]
        await until(lambda: sum(waiter.is_idle for waiter in watch._waiters._live) == len(watchers))
        for _ in range(30):
            await asyncio.gather(*(create(store) for _ in range(10)))
            head = await store.head()
            await until(lambda: watch._recent.head == head)  # noqa: B023
        purge(tmp_path, 250)
        read_for_one = watch._recent.recorded_after = AsyncMock(wraps=watch._recent.recorded_after)  # type: ignore[method-assign]
        await store.cancel(TENANT, mine.asked.id, can_end=False)
        red = await create(store, labels={"team": "red"})
        await asyncio.gather(*reading)

    assert 0 == read_for_one.await_count
    assert [1, 302] == watchers[0].revisions
    assert [red.asked.id] == [message.start_id for message in watchers[1].changes]


async def test_a_wake_up_that_is_lost_costs_a_heartbeats_time(store: SqliteStore) -> None:
    """The announcement is only a nudge: the store is read again anyway."""
    store.listen = lambda _listener: None  # type: ignore[method-assign,assignment,misc]
    async with running(Watch(store, Plainly(), heartbeat=SILENCE)) as watch:
        watcher = Watcher(watch, after=0)
        while not watch._recent.is_ready:  # its first read is nobody's wake-up
            await watcher.next()
        await create(store)
        await watcher.through(1)

    assert [1] == watcher.revisions


# --- 6


def purge(tmp_path: Path, through: int) -> None:
    """Forgets changes, as retention will."""
    with closing(sqlite3.connect(tmp_path / "startflow.db", isolation_level=None)) as conn:
        conn.execute("delete from changes where revision <= ?", (through,))
        conn.execute("update meta set value = ? where key = 'purged_through'", (str(through),))


@pytest.mark.parametrize(
    ("after", "epoch", "told"),
    [
        (2, "", {"oldest_revision": "3", "newest_revision": "6"}),
        (0, "", {"oldest_revision": "3", "newest_revision": "6"}),
        (7, "", {"oldest_revision": "3", "newest_revision": "6"}),
        (4, "another", None),
        (None, "another", None),
    ],
)
async def test_promise_6_a_revision_that_is_not_there_is_refused_before_anything_is_sent(
    store: SqliteStore, watch: Watch, tmp_path: Path, after: int | None, epoch: str, told: dict[str, str] | None
) -> None:
    """Older than what is kept, newer than the newest, or of another epoch."""
    await ended(store, 3)
    purge(tmp_path, 3)
    watcher = Watcher(watch, after=after, epoch=epoch)

    with pytest.raises(RevisionNotAvailable) as refusal:
        await watcher.next()

    assert [] == watcher.seen
    assert ("OUT_OF_RANGE", Reason.REVISION_NOT_AVAILABLE) == (refusal.value.code, refusal.value.reason)
    assert (told or {"epoch": store.epoch}) == refusal.value.metadata
    assert "The store was restored since" not in refusal.value.message  # newcomer 10: an epoch may be mistyped


async def test_promise_6_what_is_kept_may_be_resumed_from_to_the_last(
    store: SqliteStore, watch: Watch, tmp_path: Path
) -> None:
    """The last revision that was forgotten is the first to go on from; a snapshot needs none of them."""
    await ended(store, 3)
    purge(tmp_path, 3)
    resumed = Watcher(watch, after=3, epoch=store.epoch)
    await resumed.through(6)
    snapshot = await Watcher(watch).to_snapshot_end()

    assert [4, 5, 6] == resumed.revisions
    assert [4, 5, 6] == [message.revision for message in snapshot if message.kind == "changed"]


async def test_promise_6_one_that_falls_behind_what_is_kept_is_told(
    store: SqliteStore, watch: Watch, tmp_path: Path
) -> None:
    """A slow watcher whose place was purged gets OUT_OF_RANGE, never a gap."""
    slow = Watcher(watch, after=0)
    await create(store)
    await slow.through(1)
    await ended(store, 30)
    purge(tmp_path, 40)

    with pytest.raises(RevisionNotAvailable):
        await slow.to_end()

    assert slow.revisions == list(range(1, 1 + len(slow.revisions)))


# --- 7


async def test_promise_7_until_done_ends_when_all_are(store: SqliteStore, watch: Watch) -> None:
    """With OK, right after the change that ends the last one; others do not hold it up."""
    first, second, other = [await create(store) for _ in range(3)]
    ids = frozenset({first.asked.id, second.asked.id})
    watchers = [Watcher(watch, ids=ids, until_done=True), Watcher(watch, ids=ids, until_done=True, after=0)]
    for watcher in watchers:
        await watcher.through(3)
    claimed = await claim_ids(store)
    await settle(store, claimed[0], refused())
    for watcher in watchers:
        await watcher.through(4)
    still_open = [watcher.ended for watcher in watchers]
    await settle(store, claimed[1], accepted("x1", State.COMPLETED))
    for watcher in watchers:
        await watcher.to_end()

    assert [False, False] == still_open
    assert [[1, 2, 4, 5], [1, 2, 4, 5]] == [watcher.revisions for watcher in watchers]
    assert other.asked.id not in {message.start_id for watcher in watchers for message in watcher.seen}


async def test_promise_7_what_is_done_already_ends_after_its_snapshot(store: SqliteStore, watch: Watch) -> None:
    """It is shown first; resumed from after its end there is nothing to show."""
    (start,) = await ended(store)
    ids = frozenset({start.asked.id})

    fresh = await Watcher(watch, ids=ids, until_done=True).to_end()
    resumed = await Watcher(watch, ids=ids, until_done=True, after=2).to_end()
    before_the_end = await Watcher(watch, ids=ids, until_done=True, after=1).to_end()

    assert ["heartbeat", "changed", "snapshot_end"] == [message.kind for message in fresh]
    assert ["heartbeat"] == [message.kind for message in resumed]
    assert ["heartbeat", "changed"] == [message.kind for message in before_the_end]


async def test_promise_7_what_the_filter_hides_counts_all_the_same(store: SqliteStore, watch: Watch) -> None:
    """A filter narrows what is shown, not what is waited for."""
    (start,) = await ended(store)
    ids = frozenset({start.asked.id})

    hidden = Watcher(watch, ids=ids, until_done=True, selected=Filter(states=frozenset({State.QUEUED})))
    await hidden.to_end()

    assert [] == hidden.changes


async def test_promise_7_uncertain_at_rest_is_done_and_uncertain_with_more_to_send_is_not(
    store: SqliteStore, watch: Watch
) -> None:
    """A start of two: one may have happened, the other is still being sent."""
    start = await create(store, singly(2))
    watcher = Watcher(watch, ids=frozenset({start.asked.id}), until_done=True, after=0)
    first, second = await claim_ids(store)
    await settle(store, first, unsure())
    await watcher.through(2)
    await watcher.next()
    open_then = not watcher.ended
    await settle(store, second, unsure())
    for sought in await store.sought(BACKEND, ACCOUNT):
        await store.rest(sought)
    await watcher.to_end()

    assert open_then
    assert ["PENDING", *["UNCERTAIN"] * 3] == [message.state for message in watcher.changes]  # the first rests, too


async def test_promise_7_what_was_uncertain_at_rest_is_waited_for_again_when_it_moves(
    store: SqliteStore, watch: Watch
) -> None:
    """All must be done at one moment, not each of them at some moment."""
    first, second = [await create(store) for _ in range(2)]
    dispatch_ids = await claim_ids(store)
    await settle(store, dispatch_ids[0], unsure())
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.rest(sought)
    watcher = Watcher(watch, ids=frozenset({first.asked.id, second.asked.id}), until_done=True)
    await watcher.to_snapshot_end()
    await store.resolve(TENANT, first.asked.id, Resolution(verdict=Verdict.WAS_NOT_SENT))
    await settle(store, dispatch_ids[1], refused())
    await watcher.through(await store.head())
    await watcher.next()
    open_then = not watcher.ended
    (again,) = await claim_ids(store)
    await settle(store, again, refused())
    await watcher.to_end()

    assert open_then
    assert {"FAILED"} == {message.state for message in watcher.changes[-2:]}


async def test_promise_7_what_is_erased_before_it_is_shown_is_done(
    store: SqliteStore, watch: Watch, clock: Clock
) -> None:
    """It had ended, or it would not have been erased."""
    (start,) = await ended(store)
    watcher = Watcher(watch, ids=frozenset({start.asked.id}), until_done=True)
    await watcher.next()
    clock.tick(60)
    while await store.purge(clock()):
        pass
    await watcher.to_end()

    assert [] == watcher.changes
    assert await store.get(TENANT, start.asked.id) is None


async def test_promise_7_what_ended_and_was_erased_after_it_was_shown_is_not_left_out(
    store: SqliteStore, watch: Watch, clock: Clock
) -> None:
    """Its reader saw it wait and would never hear how it ended: it is told to start over."""
    start = await create(store)
    watcher = Watcher(watch, ids=frozenset({start.asked.id}), until_done=True)
    await watcher.next()
    shown = await watcher.next()
    await run_to(store, start, refused())
    clock.tick(60)
    while await store.purge(clock()):
        pass

    with pytest.raises(RevisionNotAvailable):
        await watcher.to_end()

    assert shown is not None
    assert (start.asked.id, "PENDING") == (shown.start_id, shown.state)


async def test_promise_7_needs_ids(watch: Watch) -> None:
    """There is no end to wait for otherwise."""
    with pytest.raises(InvalidRequest, match="until_done needs ids"):
        await Watcher(watch, until_done=True).next()


# --- 8, as far as the watch goes


async def test_promise_8_closing_ends_every_stream_with_a_time_to_come_back(store: SqliteStore) -> None:
    """Those that wait, those in a snapshot and those that come too late; the times are spread."""
    async with running(Watch(store, Plainly(), heartbeat=LONG, read=1)) as watch:
        await ended(store, 3)
        live, in_snapshot, late = Watcher(watch, after=6), Watcher(watch), Watcher(watch, after=0)
        await live.next()
        waiting = asyncio.ensure_future(live.next())
        await in_snapshot.next()
        await in_snapshot.next()
        while not watch._waiters._by_key:  # noqa: ASYNC110 -- nothing announces a waiter
            await asyncio.sleep(0)
        watch.close()

        refusals = []
        for reading in (waiting, in_snapshot.to_end(), late.to_end()):
            with pytest.raises(Unavailable) as refusal:
                await asyncio.wait_for(reading, 5)
            refusals.append(refusal.value)

    assert {Reason.DRAINING} == {refusal.reason for refusal in refusals}
    pauses = [refusal.retry_after for refusal in refusals]
    assert all(pause is not None and timedelta(seconds=0.5) <= pause <= timedelta(seconds=3) for pause in pauses)
    assert 3 == len(set(pauses))


async def test_promise_8_a_stream_ends_at_its_greatest_age_with_a_time_to_come_back(store: SqliteStore) -> None:
    """In its live part and in a snapshot; what was sent by then is a place to resume from."""
    async with running(Watch(store, Plainly(), heartbeat=SILENCE, read=1, longest=timedelta(milliseconds=50))) as watch:
        await ended(store, 3)
        live, in_snapshot = Watcher(watch, after=0), Watcher(watch)
        await in_snapshot.next()
        for watcher in (live, in_snapshot):
            with pytest.raises(Unavailable) as refusal:
                while True:
                    await watcher.next()
                    if watcher is in_snapshot:
                        await asyncio.sleep(0.06)

            assert Reason.STREAM_AGED == refusal.value.reason
            pause = refusal.value.retry_after
            assert pause is not None
            assert timedelta(seconds=0.5) <= pause <= timedelta(seconds=3)
    resumed = Watcher(watch, after=live.seen[-1].revision)
    await resumed.through(6)

    assert list(range(1, 7)) == live.revisions + resumed.revisions
    assert {} == watch._waiters._by_key == watch._waiters._silent  # type: ignore[comparison-overlap]


# --- 9


async def test_promise_9_a_caller_sees_only_its_own_tenants_starts(store: SqliteStore, watch: Watch) -> None:
    """In a snapshot and live."""
    await create(store, tenant="a")
    mine, theirs = Watcher(watch, tenant="a"), Watcher(watch, tenant="b", after=0)
    await mine.to_snapshot_end()
    await ended(store, 2, tenant="b")
    await ended(store, 1, tenant="a", backend="twilio")
    head = await store.head()
    await mine.through(head)
    await theirs.through(head)
    tenants = {c.revision: c.flow_start.asked.tenant for c in (await store.changes(0, 100)).changes}

    assert {"a"} == {tenants[revision] for revision in mine.revisions}
    assert {"b"} == {tenants[revision] for revision in theirs.revisions}
    assert len(tenants) == len(mine.revisions) + len(theirs.revisions)


async def test_promise_9_an_id_of_another_tenant_is_not_found(store: SqliteStore, watch: Watch) -> None:
    """As one that never was; and the first bad one is named."""
    mine, theirs = await create(store), await create(store, tenant="other")

    for bad in (theirs.asked.id, "never"):
        with pytest.raises(NotFound) as refusal:
            await Watcher(watch, ids=frozenset({mine.asked.id, bad})).next()
        assert (Reason.FLOW_START_NOT_FOUND, {"id": bad}) == (refusal.value.reason, refusal.value.metadata)


async def test_promise_9_a_state_filter_passes_what_leaves_and_what_arrives(store: SqliteStore, watch: Watch) -> None:
    """So that a watcher of QUEUED hears that one is not QUEUED any more."""
    start = await create(store)
    await run_to(store, start, accepted("x1"))
    for state in (State.STARTED, State.COMPLETED):
        await store.sight(BACKEND, [seen("x1", state)], account=ACCOUNT)

    for state, expected in (
        (State.PENDING, ["PENDING", "QUEUED"]),
        (State.QUEUED, ["QUEUED", "STARTED"]),
        (State.COMPLETED, ["COMPLETED"]),
        (State.FAILED, []),
    ):
        watcher = Watcher(watch, after=0, selected=Filter(states=frozenset({state})))
        await watcher.through(4)

        assert expected == [message.state for message in watcher.changes]


async def test_ids_and_filters_narrow_together(store: SqliteStore, watch: Watch) -> None:
    """Only the named, and of them only those that match."""
    red, blue = await create(store, labels={"team": "red"}), await create(store, labels={"team": "blue"})
    await create(store, labels={"team": "red"})
    named = frozenset({red.asked.id, blue.asked.id})
    watchers = [Watcher(watch, ids=named, selected=Filter(labels={"team": "red"}), after=after) for after in (None, 0)]

    for watcher in watchers:
        await watcher.through(3)

        assert [red.asked.id] == [message.start_id for message in watcher.changes]


async def test_an_external_id_selects_its_start_also_when_it_has_many(store: SqliteStore, watch: Watch) -> None:
    """Of a start of one dispatch and of one of several, in a snapshot and after a revision."""
    single, double, other = await create(store), await create(store, singly(2)), await create(store)
    for n, dispatch_id in enumerate(await claim_ids(store)):
        await settle(store, dispatch_id, accepted(f"x{n}"))
    head = await store.head()

    for external_id, start in (("x0", single), ("x1", double), ("x2", double), ("x3", other)):
        for after in (None, 0):
            watcher = Watcher(watch, selected=Filter(external_id=external_id), after=after)
            await watcher.through(head)

            assert {start.asked.id} == {message.start_id for message in watcher.changes}
    nobody = Watcher(watch, selected=Filter(external_id="nobody's"), after=0)
    await nobody.through(head)

    assert [] == nobody.changes


# --- waking


async def test_only_those_are_woken_whom_a_change_may_concern(store: SqliteStore) -> None:
    """By id, label or tenant; the others go up to the newest revision without reading it, at their next heartbeat."""
    mine, other = [await create(store, labels={"team": team, "of": "all"}) for team in ("blue", "red")]
    theirs = await create(store, tenant="other", labels={"team": "red", "of": "all"})
    async with running(Watch(store, Plainly(), heartbeat=timedelta(seconds=0.2))) as watch:
        watchers = {
            "by_id": Watcher(watch, ids=frozenset({mine.asked.id}), after=0),
            "by_its_label": Watcher(watch, selected=RED, after=0),
            "by_its_labels": Watcher(watch, selected=Filter(labels={"team": "red", "of": "all"}), after=0),
            "by_another_label": Watcher(watch, selected=Filter(labels={"team": "blue"}), after=0),
            "by_tenant": Watcher(watch, after=0),
            "abroad": Watcher(watch, tenant="other", after=0),
            "abroad_by_label": Watcher(watch, tenant="other", selected=RED, after=0),
            "of_all": Watcher(watch, tenant="other", spans_tenants=True, after=0),
            "of_all_by_label": Watcher(watch, spans_tenants=True, selected=RED, after=0),
            "of_all_by_another": Watcher(watch, spans_tenants=True, selected=Filter(labels={"team": "blue"}), after=0),
        }
        waiters = {}
        for name, watcher in watchers.items():
            before = set(watch._waiters._live)
            await watcher.through(3)
            (waiters[name],) = watch._waiters._live - before
        before_head = watch._recent.head
        await run_to(store, other, accepted("x"))
        await until(lambda: watch._recent.head != before_head)
        woken = {name for name, waiter in waiters.items() if waiter.is_due}
        head = watch._recent.head
        for watcher in watchers.values():
            await watcher.through(head)

    assert {"by_id", "by_another_label", "abroad", "abroad_by_label", "of_all_by_another"} == set(waiters) - woken
    assert [len(watchers[name].changes) for name in ("by_id", "by_its_label", "by_its_labels")] == [1, 2, 2]
    assert {theirs.asked.id} == {message.start_id for message in watchers["abroad"].changes}


# --- limits


async def test_a_tenant_has_a_limited_number_of_streams(watch: Watch) -> None:
    """Its own; one that has ended makes room for another."""
    watch._most = 2
    mine = [Watcher(watch, after=0) for _ in range(3)]
    theirs = Watcher(watch, after=0, tenant="other")
    for watcher in (*mine[:2], theirs):
        await watcher.next()
    with pytest.raises(Exhausted) as refusal:
        await mine[2].next()
    await mine[0].close()
    again = Watcher(watch, after=0)
    await again.next()
    for watcher in (mine[1], again, theirs):
        await watcher.close()

    assert Reason.STREAM_LIMIT == refusal.value.reason
    assert refusal.value.retry_after is not None
    assert {"quota_subject": "streams", "limit": "2"} == refusal.value.metadata
    assert {} == watch._streams


async def test_b7_what_a_stream_costs_counts_in_the_limit(watch: Watch, store: SqliteStore) -> None:
    """75 ids cost as much as a stream without any; one stream alone is always allowed."""
    watch._most = 10
    ids = frozenset([(await create(store)).asked.id for _ in range(10 * IDS_OF_ONE)])
    large = Watcher(watch, after=0, ids=ids)
    await large.next()
    refused = Watcher(watch, after=0)
    with pytest.raises(Exhausted) as refusal:
        await refused.next()
    await large.close()
    fits = Watcher(watch, after=0, ids=frozenset(sorted(ids)[: 8 * IDS_OF_ONE]))
    await fits.next()
    small = Watcher(watch, after=0)
    await small.next()
    for watcher in (fits, small):
        await watcher.close()

    assert Reason.STREAM_LIMIT == refusal.value.reason
    assert ({}, {}) == (watch._streams, watch._costs)


# --- leaving


async def test_watchers_that_go_leave_nothing_behind(store: SqliteStore) -> None:
    """Cancelled while they wait, or hung up between messages."""
    async with running(Watch(store, Plainly(), heartbeat=LONG)) as watch:
        watchers = [Watcher(watch, after=0) for _ in range(10)]
        for watcher in watchers:
            await watcher.next()
        waiting = [asyncio.create_task(watcher.next()) for watcher in watchers[:5]]
        await until(lambda: len(watch._waiters._live) == 5)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for watcher in watchers[5:]:
            await watcher.close()
        await create(store)

    assert {} == watch._waiters._by_key
    assert all(task.cancelled() for task in waiting)


# --- all of it together


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from(["a", "b"]), st.integers(1, 3)),
        st.tuples(st.just("settle"), st.sampled_from(["accepted", "refused", "unsure"]), st.integers(1, 4)),
        st.tuples(st.just("end"), st.integers(1, 4), st.integers(0, 3)),
        st.tuples(st.just("watch"), st.sampled_from(["a", "b"]), st.sampled_from(["snapshot", "beginning", "resume"])),
        st.tuples(st.just("wait_for"), st.sampled_from(["a", "b"]), st.sampled_from(["snapshot", "beginning"])),
        st.tuples(st.just("read"), st.integers(0, 9), st.integers(1, 6)),
    ),
    min_size=4,
    max_size=30,
)


class World:
    """Writers and watchers of one store, driven by a list of actions."""

    def __init__(self, store: SqliteStore, watch: Watch, clock: Clock) -> None:
        self.store, self.watch, self.clock = store, watch, clock
        self.watchers: list[tuple[Watcher, str, int | None, frozenset[str]]] = []
        self.starts: dict[str, list[str]] = {"a": [], "b": []}
        self.running: list[str] = []
        self.count = 0

    async def act(self, kind: str, first: Any, second: Any) -> None:
        """Takes one action."""
        await getattr(self, kind)(first, second)

    async def create(self, tenant: str, recipients: int) -> None:
        """Records a start."""
        start = await create(self.store, singly(recipients), tenant=tenant)
        self.starts[tenant].append(start.asked.id)

    async def settle(self, how: str, count: int) -> None:
        """Sends what is due."""
        for dispatch_id in await claim_ids(self.store, count):
            self.count += 1
            settlement = {"accepted": accepted(f"x{self.count}"), "refused": refused(), "unsure": unsure()}[how]
            if how == "accepted":
                self.running.append(f"x{self.count}")
            await settle(self.store, dispatch_id, settlement)

    async def end(self, count: int, seconds: int) -> None:
        """Ends what runs, in one write."""
        self.clock.tick(seconds / 2)
        ending, self.running = self.running[:count], self.running[count:]
        await self.store.sight(BACKEND, [seen(external_id, State.COMPLETED) for external_id in ending], account=ACCOUNT)

    async def watch_from(self, tenant: str, place: str, **watched: Any) -> None:
        """Begins to watch."""
        seen_before = [m.revision for w, of, _, ids in self.watchers if of == tenant and not ids for m in w.seen]
        after = {"snapshot": None, "beginning": 0, "resume": max(seen_before, default=0)}[place]
        watcher = Watcher(self.watch, tenant=tenant, after=after, **watched)
        self.watchers.append((watcher, tenant, after, watched.get("ids", frozenset())))

    async def watch_all(self, tenant: str, place: str) -> None:
        """Watches a tenant."""
        await self.watch_from(tenant, place)

    async def wait_for(self, tenant: str, place: str) -> None:
        """Watches what there is of a tenant until it is done."""
        if self.starts[tenant]:
            await self.watch_from(tenant, place, ids=frozenset(self.starts[tenant][-3:]), until_done=True)

    async def read(self, number: int, count: int) -> None:
        """Reads some messages of one watcher."""
        if self.watchers:
            watcher = self.watchers[number % len(self.watchers)][0]
            for _ in range(count):
                if not watcher.ended:
                    await watcher.next()


def check(watcher: Watcher, tenant: str, after: int | None, ids: frozenset[str], history: Iterable[Change]) -> None:
    """Compares what a watcher has seen with the recorded changes."""
    mine = [
        change
        for change in history
        if change.flow_start.asked.tenant == tenant and (not ids or change.flow_start.asked.id in ids)
    ]
    states = {change.revision: (change.flow_start.asked.id, change.flow_start.standing.state.name) for change in mine}
    all_revisions = [message.revision for message in watcher.seen]
    assert sorted(all_revisions) == all_revisions
    assert len(set(watcher.revisions)) == len(watcher.revisions)
    assert all(states[message.revision] == (message.start_id, message.state) for message in watcher.changes)
    begin = after
    if after is None:  # what a snapshot has shown stands for everything up to its end
        begin = next(message.revision for message in watcher.seen if message.kind == "snapshot_end")
        stand = {change.flow_start.asked.id: change.revision for change in mine if change.revision <= begin}
        shown = {message.start_id: message.revision for message in watcher.changes if message.revision <= begin}
        assert stand == shown
    assert begin is not None
    expected = [change.revision for change in mine if change.revision > begin]
    if ids:
        done = {c.flow_start.asked.id: c.flow_start.standing.is_done for c in mine if c.revision <= begin}
        last = begin
        for change in mine:
            if change.revision > begin and not (set(done) == ids and all(done.values())):
                done[change.flow_start.asked.id] = change.flow_start.standing.is_done
                last = change.revision
        expected = [revision for revision in expected if revision <= last]
        assert (set(done) == ids and all(done.values())) is watcher.ended
    assert expected == [revision for revision in watcher.revisions if revision > begin]


@settings(max_examples=size(60, quick=30), deadline=None, derandomize=True)
@given(actions=ACTIONS, cached=st.integers(1, 12), cached_bytes=CACHED_BYTES, read=st.integers(1, 4))
def test_watchers_see_what_was_recorded_whatever_is_interleaved(
    actions: list[tuple[Any, ...]], cached: int, cached_bytes: int, read: int
) -> None:
    """Commits, snapshots, resumed watchers and slow readers in any order: all see the table of changes, in order."""

    async def live() -> None:
        clock = Clock()
        with tempfile.TemporaryDirectory() as directory:
            store = open_sqlite(Path(directory) / "startflow.db", clock)
            try:
                sizes = {"cached": cached, "cached_bytes": cached_bytes, "read": read}
                async with running(Watch(store, Plainly(), heartbeat=SILENCE / 5, **sizes)) as watch:  # type: ignore[arg-type]
                    world = World(store, watch, clock)
                    for kind, first, second in actions:
                        await world.act("watch_all" if kind == "watch" else kind, first, second)
                    clock.tick(2)
                    await store.sight(BACKEND, [], account=ACCOUNT)  # tells the progress that was held back
                    head = await store.head()
                    history = (await store.changes(0, 10_000)).changes
                    assert list(range(1, head + 1)) == [change.revision for change in history]
                    for watcher, tenant, after, ids in world.watchers:
                        if after is None and "snapshot_end" not in {message.kind for message in watcher.seen}:
                            await watcher.to_snapshot_end()
                        await watcher.through(head)
                        for _ in range(3 if ids else 0):  # whether it ends is seen only by reading on
                            if not watcher.ended:
                                await watcher.next()
                        check(watcher, tenant, after, ids, history)
                        await watcher.close()
                    assert len(watch._recent) <= cached + read
            finally:
                await store.close()

    asyncio.run(live())


async def test_b5_ids_are_checked_without_reading_their_starts(store: SqliteStore, watch: Watch) -> None:
    """A watch that resumes reads no start as a whole, however many ids it names; nor does one that waits for them."""
    starts = [await create(store) for _ in range(9)]
    ids, head = frozenset(start.asked.id for start in starts), await store.head()
    store.snapshot = AsyncMock(side_effect=AssertionError("it reads starts"))  # type: ignore[method-assign]
    watchers = [Watcher(watch, ids=ids, after=head, until_done=until_done) for until_done in (False, True)]

    assert ["heartbeat"] * 2 == [getattr(await watcher.next(), "kind", None) for watcher in watchers]


async def test_b5_snapshots_of_one_tenant_take_turns(
    store: SqliteStore, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are read one at a time for one tenant; another tenant's is read meanwhile."""
    goes_on, reads, read = asyncio.Event(), list[str | None](), store.snapshot

    async def snapshot(tenant: str | None, *args: Any, **more: Any) -> Page:
        reads.append(tenant)
        if tenant == TENANT:
            await goes_on.wait()
        return await read(tenant, *args, **more)

    for tenant in (TENANT, "quiet"):
        await create(store, tenant=tenant)
    monkeypatch.setattr(store, "snapshot", snapshot)
    loud = [Watcher(watch) for _ in range(3)]
    for watcher in loud:
        await watcher.next()  # the heartbeat that comes first
    going = [asyncio.create_task(watcher.to_snapshot_end()) for watcher in loud]
    await Watcher(watch, tenant="quiet").to_snapshot_end()
    meanwhile = [*reads]
    goes_on.set()
    await asyncio.gather(*going)

    assert [1, 1] == [meanwhile.count(tenant) for tenant in (TENANT, "quiet")]
    assert [["changed"]] * 3 == [
        [each.kind for each in watcher.seen[1:-1] if each.kind == "changed"] for watcher in loud
    ]


async def test_f9_few_watchers_are_woken_in_one_pass_of_the_loop_and_tenants_take_turns(
    store: SqliteStore,
) -> None:
    """A change that concerns hundreds of streams leaves the loop to others, and one tenant's few come first."""
    async with running(Watch(store, Plainly(), heartbeat=LONG)) as watch:
        crowd = [Watcher(watch, after=0) for _ in range(4 * WOKEN)]
        few = [Watcher(watch, tenant="few", spans_tenants=True, after=0) for _ in range(3)]
        for each in (*crowd, *few):
            await each.next()  # a heartbeat, as every stream begins
        loop, passes, is_over = asyncio.get_running_loop(), 0, False
        woken: list[tuple[int, str]] = []

        def count() -> None:
            nonlocal passes
            passes += 1
            if not is_over:
                loop.call_soon(count)

        async def read(each: Watcher, whose: str) -> None:
            await each.next()
            woken.append((passes, whose))

        reading = [asyncio.create_task(read(each, "crowd")) for each in crowd]
        reading += [asyncio.create_task(read(each, "few")) for each in few]
        await until(lambda: watch.behind_count == 0)
        count()
        await create(store)
        await asyncio.gather(*reading)
        is_over = True

        assert max(Counter(at for at, _ in woken).values()) <= WOKEN
        first = min(at for at, _ in woken)
        assert {first} == {at for at, whose in woken if whose == "few"}
