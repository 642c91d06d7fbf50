"""What a restored store doubts: all that may have been sent after the copy, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.model import Resolution, State, Verdict
from gateway.store.copies import backup, restore
from gateway.store.restoring import MARGIN
from tests.builders import (
    ACCOUNT,
    BACKEND,
    FLOW,
    NOON,
    TERMS,
    accepted,
    again,
    begin,
    claim_ids,
    create,
    put_off,
    run_to,
    seen,
    singly,
    unsure,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock

LOOKED_BACK = timedelta(microseconds=MARGIN)
HOUR = timedelta(hours=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "startflow.db"


@pytest.fixture
def put_back(tmp_path: Path, path: Path, clock: Clock, reopen: Callable[..., SqliteStore]) -> Callable[..., Any]:
    """Copies a store, closes it, restores it `later` and serves from it."""

    async def go(store: SqliteStore, later: float = 60.0) -> SqliteStore:
        copy = tmp_path / "copy.db"
        await asyncio.to_thread(backup, path, copy, clock())
        await store.close()
        clock.tick(later)
        restore(copy, path)
        return reopen()

    return go


def rows(path: Path, query: str) -> list[Any]:
    """Reads a file."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        return conn.execute(query).fetchall()


async def sought(store: SqliteStore, account: str = ACCOUNT) -> dict[str, Any]:
    """Reads what is looked for, and since when."""
    return {each.id: each.since for each in await store.sought(BACKEND, account)}


async def test_what_was_unsent_is_looked_for_and_then_sent(
    put_back: Callable[..., Any], reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """It is not sent before; found, it is adopted; proved absent, it is sent."""
    store = reopen()
    found, missing = await create(store), await create(store)
    clock.tick(7200)
    store = await put_back(store)
    looked_for = await store.sought(BACKEND, ACCOUNT)

    assert [] == await claim_ids(store)
    assert [f"{found.asked.id}-1", f"{missing.asked.id}-1"] == [each.id for each in looked_for]
    assert {NOON + 2 * HOUR - LOOKED_BACK} == {each.since for each in looked_for}
    standing = (await again(store, found)).standing
    assert State.UNCERTAIN == standing.state
    assert standing.failure is not None
    assert "restored from a copy" in standing.failure.message
    shown = seen("theirs", State.STARTED, correlation_key=f"{found.asked.id}-1", flow=FLOW)
    assert 1 == await store.sight(BACKEND, [shown], account=ACCOUNT)
    assert State.STARTED == (await again(store, found)).standing.state
    await store.absent(looked_for[1], on_absent=State.PENDING, pause=timedelta())
    assert [f"{missing.asked.id}-1"] == await claim_ids(store)


async def test_what_was_claimed_is_looked_for_too(
    put_back: Callable[..., Any], reopen: Callable[..., SqliteStore]
) -> None:
    """Before its attempt and during it; what was accepted, or was looked for already, stays as it was."""
    store = reopen()
    starts = [await create(store, singly(1, first=n)) for n in range(5)]
    claimed = await claim_ids(store, 4)
    await begin(store, claimed[1])
    for each, settlement in ((claimed[2], accepted("a")), (claimed[3], unsure())):
        attempt = await begin(store, each)
        assert attempt is not None
        await store.record(each, attempt, settlement)
    store = await put_back(store)
    states = [(await again(store, start)).standing.state for start in starts]

    assert [State.UNCERTAIN, State.UNCERTAIN, State.QUEUED, State.UNCERTAIN, State.UNCERTAIN] == states
    assert {claimed[0], claimed[1], claimed[3], f"{starts[4].asked.id}-1"} == set(await sought(store))
    assert [] == await claim_ids(store)


async def test_blocks_that_were_not_written_out_are_looked_for_by_the_same_ids(
    path: Path,
    reopen: Callable[..., SqliteStore],
    clock: Clock,
    tmp_path: Path,
) -> None:
    """The ids that their dispatches have in the store that went on."""
    store = reopen()
    start = await create(store, singly(350))
    await asyncio.to_thread(backup, path, tmp_path / "copy.db", clock())
    while claimed := await claim_ids(store, 1_000):
        assert claimed
    ids = {each for (each,) in rows(path, "select id from dispatches")}
    await store.close()
    restore(tmp_path / "copy.db", path)
    store = reopen()

    assert 350 == len(ids)
    assert ids == set(await sought(store))
    assert 350 == (await again(store, start)).standing.progress.uncertain
    assert [] == rows(path, "select * from recipients")
    assert [(0,)] == rows(path, "select sum(unsent) from backlogs")


async def test_what_is_scheduled_for_much_later_waits_as_it_did(
    put_back: Callable[..., Any], reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """Its blocks included. What is scheduled sooner may have been sent by a clock that was ahead."""
    store = reopen()
    later = await create(store, singly(250), schedule_at=NOON + 30 * HOUR)
    soon = await create(store, schedule_at=NOON + HOUR)
    store = await put_back(store, later=60)

    assert {f"{soon.asked.id}-1"} == set(await sought(store))
    clock.tick(30 * 3600)
    assert 250 == len(await claim_ids(store, 100)) + len(await claim_ids(store, 100)) + len(await claim_ids(store, 100))
    assert State.PENDING == (await again(store, later)).standing.state


@pytest.mark.parametrize("later", [60, -45, -3600 * 50])
async def test_what_was_only_put_off_is_looked_for_whatever_our_clock_says(
    put_back: Callable[..., Any], reopen: Callable[..., SqliteStore], later: float
) -> None:
    """It was due soon after the copy, and this host's clock may be behind."""
    store = reopen()
    throttled = await create(store)
    await run_to(store, throttled, put_off(NOON + timedelta(hours=5)))
    store = await put_back(store, later=later)

    assert {f"{throttled.asked.id}-1"} == set(await sought(store))


async def test_a_clock_behind_the_copy_says_of_nothing_that_it_was_not_sent(
    put_back: Callable[..., Any], reopen: Callable[..., SqliteStore]
) -> None:
    """Nothing knows then what time it is."""
    store = reopen()
    scheduled = await create(store, singly(150), schedule_at=NOON + 60 * HOUR)
    store = await put_back(store, later=-3600)

    assert 150 == len(await sought(store))
    assert State.UNCERTAIN == (await again(store, scheduled)).standing.state


async def test_what_is_proved_absent_before_its_schedule_waits_for_it(
    put_back: Callable[..., Any], reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """The doubt of a restore sends nothing early."""
    store = reopen()
    scheduled = await create(store, schedule_at=NOON + HOUR)
    store = await put_back(store, later=60)
    (doubted,) = await store.sought(BACKEND, ACCOUNT)
    await store.absent(doubted, on_absent=State.PENDING, pause=timedelta(seconds=1))

    assert State.PENDING is (await again(store, scheduled)).standing.state
    assert [] == await claim_ids(store)
    clock.tick(3600)
    assert [doubted.id] == await claim_ids(store)


@pytest.mark.parametrize("later", [0.0, -45.0, -86_400.0], ids=["as it was", "45 s behind", "a day behind"])
async def test_what_was_sent_by_another_clock_is_looked_for(
    put_back: Callable[..., Any], reopen: Callable[..., SqliteStore], clock: Clock, later: float
) -> None:
    """The clock here may be behind the one by which it was sent. Proved absent, it waits for its time all the same."""
    store = reopen()
    clock.tick(86_400)
    throttled, scheduled = await create(store), await create(store, schedule_at=clock() + timedelta(minutes=10))
    await run_to(store, throttled, put_off(clock() + timedelta(seconds=2)))
    due_at = clock() + timedelta(minutes=10)
    store = await put_back(store, later)
    looked_for = await store.sought(BACKEND, ACCOUNT)
    for each in looked_for:
        await store.absent(each, on_absent=State.PENDING, pause=timedelta())
    told = await store.claim(BACKEND, 10)

    assert [f"{throttled.asked.id}-1", f"{scheduled.asked.id}-1"] == [each.id for each in looked_for]
    assert [f"{throttled.asked.id}-1"] == [each.id for each in told.dispatches]
    assert due_at == told.next_due_at


async def test_what_an_operator_says_was_not_sent_waits_for_its_schedule(
    put_back: Callable[..., Any], reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """It was doubted before that."""
    store = reopen()
    start = await create(store, schedule_at=NOON + HOUR / 2)
    store = await put_back(store, later=60)
    await store.resolve(start.asked.tenant, start.asked.id, Resolution(verdict=Verdict.WAS_NOT_SENT))

    assert State.PENDING is (await again(store, start)).standing.state
    assert [] == await claim_ids(store)
    clock.tick(1800)
    assert [f"{start.asked.id}-1"] == await claim_ids(store)


async def test_what_was_cancelled_ends(put_back: Callable[..., Any], reopen: Callable[..., SqliteStore]) -> None:
    """Nobody has sent it after that."""
    store = reopen()
    start = await create(store, singly(1_200))
    await claim_ids(store, 3)
    await store.cancel(start.asked.tenant, start.asked.id, can_end=True)
    store = await put_back(store)
    while (await again(store, start)).standing.state is not State.INTERRUPTED:
        for each in await claim_ids(store):
            assert await begin(store, each) is None
            await store.release(each, NOON)

    assert {} == await sought(store)
    assert [] == await claim_ids(store)


async def test_it_is_looked_for_from_before_by_the_backends_clock(
    put_back: Callable[..., Any], reopen: Callable[..., SqliteStore]
) -> None:
    """As that was when the backend was last sent something. One that is ahead costs nothing to look back for."""
    store = reopen()
    sent = await create(store)
    (claimed,) = await claim_ids(store)
    await begin(store, claimed, since=NOON - 3 * HOUR)
    waiting = await create(store)
    store = await put_back(store)

    assert sent.asked.id in claimed
    assert NOON - 3 * HOUR - LOOKED_BACK == (await sought(store))[f"{waiting.asked.id}-1"]


async def test_it_is_looked_for_in_the_account_that_its_backend_is(
    put_back: Callable[..., Any], reopen: Callable[..., SqliteStore]
) -> None:
    """What was recorded before that was known: in the one known last. If none ever was, it rests for a word."""
    store = reopen()
    unknown = TERMS.__class__()
    await create(store, terms=unknown)
    nowhere = await create(store, backend="other", terms=unknown)
    other = await create(store)
    store = await put_back(store)

    assert 2 == len(await sought(store))
    assert other.asked.id in "".join(await sought(store))
    standing = (await again(store, nowhere)).standing
    assert (State.UNCERTAIN, None) == (standing.state, standing.next_attempt_at)


async def test_a_copy_that_is_put_in_its_place_by_hand_doubts_as_well(
    path: Path, tmp_path: Path, reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """Once: the next process to serve from it has no more doubts than the first."""
    store = reopen()
    await create(store)
    backup(path, tmp_path / "copy.db", clock())
    shutil.copyfile(tmp_path / "copy.db", tmp_path / "other.db")
    first = reopen("other.db")
    epoch, attempts = first.epoch, rows(tmp_path / "other.db", "select count(*) from attempts")
    await first.close()
    second = reopen("other.db")

    assert store.epoch != epoch == second.epoch
    assert [(1,)] == attempts == rows(tmp_path / "other.db", "select count(*) from attempts")
    assert 1 == len(await sought(second))


async def test_a_copy_made_by_other_means_is_of_its_newest_moment(
    path: Path, tmp_path: Path, reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """Nothing that it does not have can be older."""
    store = reopen()
    await create(store)
    clock.tick(7200)
    await create(store)
    await store.close()
    shutil.copyfile(path, tmp_path / "copy.db")
    clock.tick(7200)
    restore(tmp_path / "copy.db", path)
    store = reopen()

    assert {NOON + HOUR} == set((await sought(store)).values())
    assert 2 == len(await sought(store))


async def test_a_copy_of_a_copy_is_of_the_first_ones_moment(
    path: Path, tmp_path: Path, reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """What was sent between the two is in neither."""
    store = reopen()
    await create(store)
    await store.close()
    backup(path, tmp_path / "first.db", clock())
    clock.tick(7200)
    backup(tmp_path / "first.db", tmp_path / "second.db", clock())
    restore(tmp_path / "second.db", path)
    store = reopen()

    assert {NOON - LOOKED_BACK} == set((await sought(store)).values())
