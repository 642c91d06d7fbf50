"""Several gateways on one PostgreSQL, within one process: what each hears of the others, and who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from gateway.model import State
from gateway.store import LANE
from gateway.store.claiming import Claim
from gateway.store.engine import Room
from gateway.store.invariants import INVARIANTS, Violation, violations
from gateway.store.postgres import engine as of_postgres
from gateway.store.postgres.commits import PostgresCommits
from gateway.store.postgres.engine import open_postgres
from gateway.store.postgres.neighbours import Neighbours
from gateway.store.sending import Beginning
from tests.builders import ACCOUNT, BACKEND, NOON, accepted, again, begin, claim_ids, create, seen, singly
from tests.places import FIRST, Schemas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.store.connection import Connection
    from gateway.store.postgres.connecting import PostgresConnection
    from gateway.store.postgres.engine import PostgresStore
    from gateway.store.transaction import Transaction
    from tests.builders import Clock
    from tests.places import EngineStore

NO_TIME = timedelta()
OVER = "update leases set until = 0 where kind = 'lane'"


@pytest.fixture
def engine() -> str:
    """Names the engine of the stores of this test."""
    return "postgres"


@pytest.fixture
async def pair(place: Schemas, clock: Clock) -> AsyncIterator[Callable[..., PostgresStore]]:
    """Opens one gateway's store after the other, of which each follows the rest."""
    opened: list[PostgresStore] = []
    following: list[asyncio.Task[None]] = []

    def open_one(hears: str | None = None) -> PostgresStore:
        store = open_postgres(place.url(FIRST), clock, hears=hears)
        opened.append(store)
        following.append(asyncio.create_task(store.follow()))
        return store

    yield open_one
    for task in following:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for store in opened:
        await store.close()


async def test_a_step_of_the_clock_waits_for_whoever_moves_what_is_there(
    place: Schemas, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It puts back what waits, though the commit that notices it has nothing but a new start."""
    store = place.open(FIRST, clock, lambda: 0.0)  # no time passes by the clock that nobody sets
    waits: list[bool] = []
    begin_one = PostgresCommits.begin

    def begin_and_note(commits: PostgresCommits, *, moves: bool) -> PostgresConnection:
        waits.append(moves)
        return begin_one(commits, moves=moves)

    monkeypatch.setattr(PostgresCommits, "begin", begin_and_note)
    for step in (0, 3_600, 0, -7_200):
        clock.tick(step)
        await create(store)
    await store.close()

    assert [False, True, False, True] == waits[:4]


async def test_a_start_beside_another_gateway_touches_nothing_of_it(reopen: Callable[..., EngineStore]) -> None:
    """What that has claimed and begun, in lanes and out of them, goes on; it is not ended itself."""
    first = reopen()
    start = await create(first)
    await first.take(LANE, BACKEND, runs_on=NO_TIME)
    (dispatch_id,) = await claim_ids(first)
    await begin(first, dispatch_id)
    second = reopen()
    before = await again(second, start)
    free = await second.take(LANE, BACKEND, runs_on=NO_TIME)

    assert free is None
    assert State.PENDING is before.standing.state
    assert 2 == (await create(first)).revision
    assert 3 == (await create(second)).revision
    assert {first.engine.incarnation, second.engine.incarnation} == {*(await second.standing()).lives}
    assert "" == first.trouble == second.trouble


async def test_what_one_records_the_others_hear(
    pair: Callable[..., PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a notification, long before anybody looks; only those who listen for that backend are woken."""
    monkeypatch.setattr(of_postgres, "POLL", 3_600.0)
    first, second = pair(), pair()
    heard: asyncio.Queue[int] = asyncio.Queue()
    of_another: list[int] = []
    second.listen(heard.put_nowait)
    second.listen(of_another.append, "another")
    async with asyncio.timeout(60):
        while heard.empty():  # until it listens: what was said before is heard by looking alone
            head = (await create(first)).revision
            await asyncio.sleep(0.05)
        while head > await heard.get():
            pass

    assert [] == of_another


async def test_a_gateway_that_is_alone_tells_nobody(
    pair: Callable[..., PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it sees another one; that is before this one would have been heard."""
    told: list[int] = []
    monkeypatch.setattr(Neighbours, "tell", lambda _self, head, _backends: told.append(head))
    monkeypatch.setattr(of_postgres, "POLL", 0.01)
    first = pair()
    async with asyncio.timeout(60):
        while not first.engine._is_alone:  # noqa: ASYNC110 -- it has not looked yet
            await asyncio.sleep(0.01)
    await create(first)
    assert [] == told

    pair()
    async with asyncio.timeout(60):
        while first.engine._is_alone:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)
    head = (await create(first)).revision
    assert [head] == told


async def test_who_does_not_listen_sees_it_by_looking(pair: Callable[..., PostgresStore]) -> None:
    """As behind a pooler that passes no notifications on."""
    first, second = pair(hears=""), pair(hears="")
    heard: asyncio.Queue[int] = asyncio.Queue()
    second.listen(heard.put_nowait)
    head = (await create(first)).revision
    async with asyncio.timeout(60):
        while head > await heard.get():
            pass


@pytest.mark.parametrize("what", ["claim", "begin"])
async def test_whoever_takes_a_lane_waits_for_what_its_owner_is_committing(
    reopen: Callable[..., EngineStore], place: Schemas, what: str
) -> None:
    """And sees it then: an attempt that was begun before is in doubt, and none begins after."""
    first, second = reopen(), reopen()
    starts = [await create(first), await create(first)]
    await first.take(LANE, BACKEND, runs_on=NO_TIME)
    claimed = await claim_ids(first, 1) if what == "begin" else []
    with psycopg.connect(place.url(FIRST), autocommit=True) as conn:
        conn.execute(OVER)  # its owner does not know yet
        going, go = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        operation = Claim(BACKEND, 1) if what == "claim" else Beginning(claimed[0], ACCOUNT, NOON)

        def stand_still(transaction: Transaction) -> Any:
            done = operation(transaction)
            loop.call_soon_threadsafe(going.set)
            go.wait()
            return done

        doing = asyncio.ensure_future(first.engine.write(stand_still))
        await going.wait()
        taking = asyncio.ensure_future(second.take(LANE, BACKEND, runs_on=NO_TIME))
        waits = "select 1 from pg_locks where not granted"
        while conn.execute(waits).fetchone() is None and not taking.done():  # noqa: ASYNC110 -- a server's
            await asyncio.sleep(0.01)
        was_waiting = not taking.done()
        go.set()
    done, fence = await doing, await taking

    assert was_waiting
    assert 2 == fence
    if what == "claim":
        (dispatch,) = done.dispatches
        assert await begin(first, dispatch.id) is None
        assert {each.asked.id for each in starts} == {each.rpartition("-")[0] for each in await claim_ids(second)}
    else:
        assert 1 == done
        assert State.UNCERTAIN is (await again(second, starts[0])).standing.state
        assert [] == await claim_ids(first)


async def test_gateways_that_move_the_same_starts_at_once_leave_what_always_holds(
    reopen: Callable[..., EngineStore],
) -> None:
    """One sends, while others record, cancel, and see what the backend shows: nothing is counted twice, or lost."""
    sender, *callers = reopen(), reopen(), reopen()
    await sender.take(LANE, BACKEND, runs_on=NO_TIME)
    is_over = False

    async def send() -> None:
        number = 0
        while not (is_over and number):
            claimed = await claim_ids(sender, 8)
            for dispatch_id in claimed:
                number += 1
                if (attempt := await begin(sender, dispatch_id)) is None:
                    await sender.release(dispatch_id, None)
                else:
                    await sender.record(dispatch_id, attempt, accepted(f"x-{dispatch_id}"))
            if is_over and not claimed:
                return

    async def call(store: EngineStore, name: str) -> None:
        for n in range(12):
            start = await create(store, singly(3), request_id=f"{name}-{n}", tenant=f"tenant{n % 2}")
            started = [seen(f"x-{start.asked.id}-{part}", State.STARTED) for part in (1, 2, 3)]
            await asyncio.gather(
                callers[n % 2].cancel(None, start.asked.id, can_end=False),
                store.sight(BACKEND, started, account=ACCOUNT),
                callers[1 - n % 2].sight(BACKEND, list(reversed(started)), account=ACCOUNT),
            )

    sending = asyncio.create_task(send())
    await asyncio.gather(*(call(store, str(number)) for number, store in enumerate(callers)))
    is_over = True
    await sending

    assert [] == await sender.engine.read(_broken, Room.OWN, "test")
    assert [""] * 3 == [store.trouble for store in (sender, *callers)]


def _broken(conn: Connection) -> list[Violation]:
    return [each for invariant in INVARIANTS for each in violations(conn, invariant)]
