"""How readers take turns, and leave gaps in which the log begins anew."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import Exhausted, Reason, Unavailable
from gateway.model import Filter
from gateway.store.engine import Room
from gateway.store.sqlite import SqliteStore, open_sqlite
from gateway.tenants import sharing
from tests.builders import BACKEND, TENANT, create, singly
from tests.fakes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.builders import Clock

LOUD, QUIET = "loud", "quiet"
LOG = 256 * 1024  # bytes, above which readers leave a gap


class Held:
    """A scan that goes on until it is released."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()
        self.ended: list[str] = []

    def read(self, name: str) -> Callable[[Any], None]:
        """Makes a read with a name."""

        def run(_conn: Any) -> None:
            self.begun.set()
            assert self.release.wait(30)
            self.ended.append(name)

        return run


async def test_short_reads_of_one_caller_take_one_turn_and_each_gets_its_own_answer(store: SqliteStore) -> None:
    """One that fails fails alone; they are answered in order."""
    start = await create(store)
    held = Held()
    first = asyncio.create_task(store._point(TENANT, held.read("first")))
    await asyncio.to_thread(held.begun.wait, 30)
    on: list[str] = []

    def fails(_conn: Any) -> None:
        on.append("fails")
        raise ValueError

    def counts(_conn: Any) -> int:
        on.append("counts")
        return len(store.engine.rooms[Room.POINT]._running)

    reads = [asyncio.create_task(store._point(TENANT, read)) for read in (fails, counts)]
    got = asyncio.create_task(store.get(TENANT, start.asked.id))
    await asyncio.sleep(0)
    held.release.set()
    await first

    failed, counted = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(failed, ValueError)
    assert 3 == counted
    assert start == await got
    assert ["fails", "counts"] == on


async def test_b5_many_scans_of_one_tenant_hold_up_nobody_else(store: SqliteStore) -> None:
    """Short reads and the gateway's own go on beside them; another's scan has the very next turn."""
    start = await create(store)
    held = Held()
    scans = [asyncio.create_task(store._scan(LOUD, held.read(LOUD))) for _ in range(32)]
    await asyncio.to_thread(held.begun.wait, 30)
    other = asyncio.create_task(store._scan(QUIET, held.read(QUIET)))
    await asyncio.sleep(0)

    assert start == await asyncio.wait_for(store.get(TENANT, start.asked.id), 30)
    assert 1 == len((await asyncio.wait_for(store.changes(0, 10), 30)).changes)
    assert () == await asyncio.wait_for(store.windows(BACKEND, "account"), 30)
    assert 1 == await asyncio.wait_for(store.head(), 30)
    snapshot = await asyncio.wait_for(store.snapshot(TENANT, Filter(), frozenset(), after=0, limit=1), 30)
    assert 1 == len(snapshot.flow_starts)

    held.release.set()
    await asyncio.gather(*scans, other)
    assert [LOUD, QUIET, *[LOUD] * 31] == held.ended


async def test_b5_a_tenant_with_too_much_waiting_is_refused(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told when to come back; others are not refused."""
    monkeypatch.setattr(store.engine.rooms[Room.SCAN], "_most", 3)
    held = Held()
    scans = [asyncio.create_task(store._scan(LOUD, held.read(LOUD))) for _ in range(5)]
    await asyncio.wait([scans[-1]], return_when=asyncio.FIRST_COMPLETED)
    refused = scans.pop().exception()
    other = asyncio.create_task(store._scan(QUIET, held.read(QUIET)))
    held.release.set()
    await asyncio.gather(*scans, other)

    assert isinstance(refused, Exhausted)
    assert (Reason.READ_LIMIT, sharing.COME_BACK) == (refused.reason, refused.retry_after)


async def test_b5_a_read_whose_caller_is_gone_stops(store: SqliteStore) -> None:
    """One that waits is not begun, and one that runs is interrupted: the next one has its thread."""
    begun, never = threading.Event(), threading.Event()

    def endless(conn: Any) -> None:
        begun.set()
        conn.execute("with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n").fetchone()

    gone = [
        asyncio.create_task(store._scan(LOUD, endless)),
        asyncio.create_task(store._scan(LOUD, lambda _: never.set())),
    ]
    await asyncio.to_thread(begun.wait, 30)
    for task in gone:
        task.cancel()
    page = await asyncio.wait_for(store.list(QUIET, Filter(), before=None, limit=1), 30)

    assert (0, False) == (page.head, never.is_set())
    assert store.is_well


async def test_b5_a_read_that_is_cancelled_never_interrupts_the_next_one(store: SqliteStore) -> None:
    """It is over for its thread, which is in the middle of the next one of the same turn."""
    holding, free, began, go_on = (threading.Event() for _ in range(4))

    def hold(_conn: Any) -> None:
        holding.set()
        free.wait(PATIENCE)

    def count(conn: Any) -> int:
        rows = conn.execute(
            "with recursive n(i) as (select 1 union all select i + 1 from n limit 1000) select i from n"
        )
        rows.fetchone()
        began.set()
        go_on.wait(PATIENCE)
        return 1 + len(rows.fetchall())

    first = asyncio.create_task(store.engine.rooms[Room.POINT].read(LOUD, hold))
    await asyncio.to_thread(holding.wait, PATIENCE)
    gone = asyncio.create_task(store.engine.rooms[Room.POINT].read(LOUD, lambda _: None))  # these two share a turn
    stays = asyncio.create_task(store.engine.rooms[Room.POINT].read(LOUD, count))
    await asyncio.sleep(0)
    free.set()
    await asyncio.to_thread(began.wait, PATIENCE)
    gone.cancel()
    await asyncio.wait([gone, first])
    go_on.set()

    assert 1_000 == await stays


async def overlapping(store: SqliteStore, done: asyncio.Event) -> None:
    """Reads on every thread, so that at each moment somebody reads."""

    def slowly(conn: Any) -> None:
        conn.execute("select count(*) from starts").fetchone()
        time.sleep(0.01)  # in the middle of its transaction
        conn.execute("select count(*) from starts").fetchone()

    async def read(readers: Any, asker: str) -> None:
        while not done.is_set():
            await readers.read(asker, slowly)

    async with asyncio.TaskGroup() as tasks:
        for readers in store.engine.rooms.values():
            for n in range(readers.threads + 1):
                tasks.create_task(read(readers, f"asker {n}"))


async def test_b6_the_log_stays_short_while_reads_overlap_all_the_time(tmp_path: Path, clock: Clock) -> None:
    """Readers leave gaps, in which it begins anew. Nobody fails meanwhile, and every start is recorded."""
    path = tmp_path / "startflow.db"
    store = open_sqlite(path, clock, log_bound=LOG)
    done = asyncio.Event()
    reading_on = asyncio.create_task(overlapping(store, done))
    longest = 0
    for _ in range(400):
        await create(store, singly(2), params={"filler": "x" * 4_000})
        longest = max(longest, path.with_name("startflow.db-wal").stat().st_size)
    done.set()
    await reading_on
    count = len((await store.list(TENANT, Filter(), before=None, limit=500)).flow_starts)
    await store.close()

    assert 400 == count
    assert longest < 8 * LOG


async def test_b6_a_read_that_does_not_end_is_interrupted_where_others_wait(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller is told to ask for less, the log begins anew, and the store is well."""
    monkeypatch.setattr("gateway.store.gate.PATIENCE", 0.0)
    store = open_sqlite(tmp_path / "startflow.db", clock, log_bound=LOG)
    begun = threading.Event()

    def endless(conn: Any) -> None:
        begun.set()
        conn.execute("with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n").fetchone()

    scan = asyncio.create_task(store._scan(LOUD, endless))
    await asyncio.to_thread(begun.wait, 30)
    while not scan.done():
        await create(store, params={"filler": "x" * 40_000})
    with pytest.raises(Unavailable, match="took too long"):
        await scan
    assert store.is_well
    await store.close()
