"""What goes on in the background is watched: what fails or hangs is not well, and what ends fails what waits for it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING, Any, Never

import pytest

from gateway import loops
from gateway.errors import Reason, Unavailable
from gateway.loops import Loops, came_round
from gateway.model import Filter, State
from gateway.store.unreadable import unreadable
from gateway.telemetry.health import Health
from tests.builders import (
    ACCOUNT,
    BACKEND,
    NOON,
    TENANT,
    accepted,
    again,
    claim_ids,
    create,
    run_to,
    seen,
    settle,
    singly,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock


class Killed(BaseException):
    """What no operation is expected to raise."""


def kill(_transaction: object) -> Never:
    """Ends the thread that writes."""
    raise Killed


async def until(is_so: Callable[[], bool]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 -- it is another task's, which says nothing
            await asyncio.sleep(0.01)


async def test_b8_a_writer_that_ends_fails_what_waits_and_says_so(store: SqliteStore) -> None:
    """Nothing is left hanging, now or later; the store is not well, says why, and cannot go on."""
    waiting = [asyncio.ensure_future(each) for each in (store.engine.writer.submit(kill), create(store))]
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
    with pytest.raises(Unavailable, match="has ended"):
        await create(store)

    assert [Reason.STORE_UNAVAILABLE] * 2 == [getattr(each, "reason", None) for each in outcomes]
    assert (False, True) == (store.is_well, store.broken.is_set())
    assert "the thread that writes has ended (Killed)" == store.trouble


@pytest.mark.parametrize(("name", "backend"), [("watch", ""), ("dispatcher", "studio")])
async def test_b8_a_loop_that_fails_again_and_again_is_not_well(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, name: str, backend: str
) -> None:
    """Health and probes say it of what it concerns, and it is counted; once it has come round, it is well again."""
    monkeypatch.setattr(loops, "RESTART_PAUSE", 0.0)
    failed, is_broken, may_end = [], [True], asyncio.Event()
    kept = Loops(lambda loop: failed.append(str(loop)))
    health = Health(store, {}, "service", loops=kept)

    async def run() -> None:
        if is_broken[0]:
            raise RuntimeError
        came_round()
        await may_end.wait()

    async with AsyncExitStack() as stack:
        kept.keep(stack, name, run, backend=backend)
        await until(lambda: len(failed) >= loops.IN_A_ROW)
        said = [health.trouble, *health.limping]
        is_well = health.is_well
        is_broken[0] = False
        await until(lambda: not any(loop.trouble for loop in kept))

        assert any(f"the loop {name} {backend}".strip() in each for each in said)
        assert is_well is bool(backend)
        assert health.is_well


async def test_b8_a_loop_that_hangs_is_not_well() -> None:
    """It has not come round for longer than a round of it takes."""
    kept = Loops()
    async with AsyncExitStack() as stack:
        kept.keep(stack, "watch", asyncio.Event().wait, within=-1.0)  # type: ignore[arg-type]
        (loop,) = kept

        assert "the loop watch has not come round" in loop.trouble


async def test_b8_a_loop_goes_on_though_what_it_waits_for_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is a failure as any other; only who stops the loop ends it."""
    monkeypatch.setattr(loops, "RESTART_PAUSE", 0.0)
    runs: list[int] = []

    async def run() -> None:
        runs.append(1)
        if len(runs) == 1:
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone
        await asyncio.Event().wait()

    async with AsyncExitStack() as stack:
        Loops().keep(stack, "watch", run)
        await until(lambda: len(runs) == 2)


async def test_b8_a_callback_that_fails_stops_neither_the_writer_nor_other_listeners(store: SqliteStore) -> None:
    """Whoever only counts or listens holds nobody up."""
    heard: list[int] = []

    def broken(*_: Any) -> Never:
        raise RuntimeError

    store.engine.writer._timed = broken
    store.listen(broken)
    store.listen(heard.append)
    for _ in range(2):
        await asyncio.wait_for(create(store), 30)

    assert [1, 2] == heard


async def test_b8_a_row_that_cannot_be_read_is_set_aside(store: SqliteStore, tmp_path: Path) -> None:
    """Pages, snapshots and changes have everything else, and are complete."""
    starts = [await create(store) for _ in range(5)]
    known = len(unreadable)
    with closing(sqlite3.connect(tmp_path / "startflow.db", isolation_level=None)) as conn:
        conn.execute("update starts set standing = '{' where id = ?", (starts[1].asked.id,))
        conn.execute("update changes set standing = '{' where start_id = ?", (starts[1].asked.id,))
    rest = [start.asked.id for start in starts if start is not starts[1]]

    listed = await store.list(TENANT, Filter(), before=None, limit=3)
    more = await store.list(TENANT, Filter(), before=listed.next_position, limit=3)
    snapshot = await store.snapshot(TENANT, Filter(), frozenset(), after=0, limit=10)
    first = await store.changes(0, 3)
    second = await store.changes(first.through, 3)

    assert rest[::-1] == [each.asked.id for page in (listed, more) for each in page.flow_starts]
    assert rest == [each.asked.id for each in snapshot.flow_starts]
    assert rest == [each.flow_start.asked.id for page in (first, second) for each in page.changes]
    assert (3, 4, 5) == (len(first.changes), first.through, second.through)
    assert known < len(unreadable)


async def test_b8_a_start_whose_labels_cannot_be_read_hides_no_other_one(store: SqliteStore, tmp_path: Path) -> None:
    """A filter by label passes it by, and the store is well."""
    bad, good = await create(store, labels={"a": "b"}), await create(store, labels={"a": "b"})
    with closing(sqlite3.connect(tmp_path / "startflow.db", isolation_level=None)) as conn:
        conn.execute("update starts set asked = '{' where id = ?", (bad.asked.id,))
    labelled = Filter(labels={"a": "b"})

    listed = await store.list(TENANT, labelled, before=None, limit=10)
    snapshot = await store.snapshot(TENANT, labelled, frozenset(), after=0, limit=10)

    assert [good.asked.id] == [each.asked.id for each in listed.flow_starts]
    assert [good.asked.id] == [each.asked.id for each in snapshot.flow_starts]
    assert store.is_well


async def test_b8_a_row_that_cannot_be_read_stops_neither_following_nor_finding(
    store: SqliteStore, tmp_path: Path
) -> None:
    """What a sweep reads of the store is there for all the others."""
    bad, good = await create(store), await create(store)
    for number, dispatch_id in enumerate(await claim_ids(store)):
        await settle(store, dispatch_id, accepted(f"x{number}", State.STARTED, accepted_at=NOON))
    with closing(sqlite3.connect(tmp_path / "startflow.db", isolation_level=None)) as conn:
        conn.execute("update starts set params = '{' where id = ?", (bad.asked.id,))
        conn.execute("update dispatches set accepted_at = null where start_id = ?", (bad.asked.id,))

    (window,) = await store.windows(BACKEND, ACCOUNT)
    (control,) = await store.running_controls(BACKEND, ACCOUNT)
    params = await store.params([f"{each.asked.id}-1" for each in (bad, good)])

    assert NOON == window.oldest
    assert {control.dispatch_id} == set(params) == {f"{good.asked.id}-1"}


async def test_b8_a_start_that_cannot_be_read_keeps_no_other_one_from_moving(
    store: SqliteStore, tmp_path: Path
) -> None:
    """What one commit writes of others is written."""
    bad, good = await create(store), await create(store)
    for number, dispatch_id in enumerate(await claim_ids(store)):
        await settle(store, dispatch_id, accepted(f"x{number}"))
    with closing(sqlite3.connect(tmp_path / "startflow.db", isolation_level=None)) as conn:
        conn.execute("update starts set tally = '{' where id = ?", (bad.asked.id,))
    done = [seen(f"x{number}", State.COMPLETED) for number in range(2)]

    await store.sight(BACKEND, done, account=ACCOUNT)

    assert (await again(store, good)).standing.state.name == "COMPLETED"


@pytest.mark.parametrize("years", [50, -20])
async def test_b8_a_clock_that_jumps_stops_nothing(store: SqliteStore, clock: Clock, years: int) -> None:
    """What is written then is written, and progress that was held back is told."""
    start = await create(store, singly(2))
    await run_to(store, start, accepted("x1"), accepted("x2"))
    clock.tick(years * 365 * 86_400)
    await asyncio.wait_for(store.check(), 30)
    await asyncio.wait_for(store.check(), 30)

    assert 2 == (await again(store, start)).standing.progress.queued
    assert store.is_well
