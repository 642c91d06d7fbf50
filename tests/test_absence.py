"""Absence is never proved of a start that the backend has: real lists, adapter, tracker and store, and rows that move.

`replicas.py` pages as RapidPro does. Between any two pages rows move, and each page may come from another replica.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.adapters import room
from gateway.adapters.base import Account, Failed, Reply
from gateway.adapters.rapidpro.adapter import RapidPro
from gateway.lanes.pacing import Limiter
from gateway.lanes.proof import LAG
from gateway.lanes.tracker import PAGE_AGAIN, Tracker
from gateway.model import Cause, Identity, State
from gateway.store.sqlite import open_sqlite
from tests.builders import BACKEND, FLOW, NOON, TERMS, Clock, accepted, claim_ids, create, put_off, unsure
from tests.fakes import ScriptedTransport, Ticks, backend
from tests.lengths import size
from tests.replicas import WORKSPACE, Lists

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.adapters.base import Request
    from gateway.model import FlowStart
    from gateway.store.sqlite import SqliteStore
    from tests.replicas import Row

PAGE = 5
QUIET = RapidPro.capabilities.quiet_window.total_seconds()
LAGS = QUIET * LAG
OURS = replace(TERMS, account=WORKSPACE)


class World:
    """A tracker over a real store, that sweeps a workspace with `Lists`."""

    def __init__(self, store: SqliteStore, clock: Clock, *, skew: float = 0.0) -> None:
        self.store, self.clock, self.skew = store, clock, skew
        self.ticks = Ticks()
        self.lists = Lists(self.seconds, page=PAGE, skew=skew)
        self.transport = transport = ScriptedTransport(
            self._answer, ticks=self.ticks, limiter=Limiter(10_000, 60.0), sleep=self._sleep
        )
        self.failure: Callable[[], Reply | Failed | None] = lambda: None  # of the next request
        lane = backend(
            transport, RapidPro(Account(credentials={"token": "0123"})), quiet_window=timedelta(seconds=QUIET)
        )
        transport.identity = Identity(account=WORKSPACE)
        self.tracker = Tracker(store, lane, clock, self.ticks, sleep=self.ticks.sleep)

    async def _answer(self, request: Request) -> Reply | Failed:
        return self.failure() or await self.lists.answer(request)

    async def _sleep(self, seconds: float) -> None:
        self.pass_by(seconds)

    def seconds(self) -> float:
        """Returns the seconds since noon by the database's clock."""
        return (self.clock.now - NOON).total_seconds()

    def pass_by(self, seconds: float) -> None:
        """Lets time pass by every clock."""
        self.ticks.tick(seconds)
        self.clock.tick(seconds)

    async def send(self, *settlements: Any, flow: str = FLOW) -> FlowStart:
        """Sends a start until there is no settlement left, by the clock of the backend's answers."""
        start = await create(self.store, terms=OURS, flow=flow)
        for settlement in settlements:
            await claim_ids(self.store, 100)
            self.transport.tell(self.clock.now + timedelta(seconds=self.skew))
            since = self.transport.their_now(self.clock.now)
            attempt = await self.store.begin_attempt(f"{start.asked.id}-1", account=WORKSPACE, since=since)
            assert attempt is not None
            await self.store.record(f"{start.asked.id}-1", attempt, settlement)
        sought = await self.store.sought(BACKEND, WORKSPACE)
        self.tracker._proof.due_in(
            sought, self.ticks(), 10.0
        )  # as the loop does: the quiet window begins when it is seen
        return start

    async def sweep(self) -> None:
        """Sweeps once. The backend has said what time it is by the clock of its answers."""
        self.transport.tell(self.clock.now + timedelta(seconds=self.skew))
        windows, sought = await self.store.windows(BACKEND, WORKSPACE), await self.store.sought(BACKEND, WORKSPACE)
        await self.tracker.sweep(windows, sought)

    async def state(self, start: FlowStart) -> State:
        """Returns where a start stands."""
        found = await self.store.get(None, start.asked.id)
        assert found is not None
        return found.standing.state


async def _sought_among_many(world: World) -> State:
    """Looks for what was not carried out, among pages of others; returns how that stands in the end."""
    for _ in range(3 * PAGE):
        world.lists.create()
        world.pass_by(1)
    start = await world.send(unsure())
    for _ in range(3 * PAGE):
        world.lists.create()
        world.pass_by(1)
    for _ in range(12):
        world.pass_by(QUIET / 2)
        await world.sweep()
    return await world.state(start)


async def test_a_start_that_is_not_there_is_proved_absent(store: SqliteStore, clock: Clock) -> None:
    """Also where lists take several pages, closed by other scans; so that what follows can fail."""
    assert await _sought_among_many(World(store, clock)) is State.PENDING


async def test_b_a_scan_that_was_cut_proves_nothing(
    store: SqliteStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beyond the rows that one reading takes may be it."""
    monkeypatch.setattr(room, "MAX_ROWS", 2 * PAGE)
    assert await _sought_among_many(World(store, clock)) is State.UNCERTAIN


FAILURES: list[Reply | Failed] = [
    Reply(status=502),
    Reply(status=429, headers={"retry-after": "1"}, body=b'{"detail":"Request was throttled."}'),
    Failed(sent=True, reason="broken", cause=Cause.BROKEN),
    Failed(sent=False, reason="refused", cause=Cause.UNREACHABLE),
]


def _after_the_first(failure: Reply) -> Callable[[], Reply | None]:
    requests = itertools.count()
    return lambda: failure if next(requests) else None


@pytest.mark.parametrize("failure", FAILURES, ids=["502", "429", "broken", "refused"])
async def test_a_long_list_is_read_to_its_end_though_single_requests_fail(
    store: SqliteStore, clock: Clock, failure: Reply | Failed
) -> None:
    """Every seventh does, and there are thirty pages: a sweep that began again each time would never come to the end.

    What is there is found and followed, and what is not is proved absent.
    """
    world = World(store, clock)
    ours = accepted("00000000-0000-4000-8000-000000000151", State.QUEUED, accepted_at=clock.now)
    follows = await world.send(ours)
    there, nowhere = await world.send(unsure()), await world.send(unsure())
    for _ in range(30 * PAGE):
        world.lists.create()
        world.pass_by(1)
    for each in (follows, there):
        world.lists.create(f"{each.asked.id}-1")
    requests = itertools.count(1)
    world.failure = lambda: failure if next(requests) % 7 == 0 else None
    await world.sweep()

    assert [State.STARTED] * 2 == [await world.state(each) for each in (follows, there)]

    for _ in range(12):
        world.pass_by(QUIET / 2)
        await world.sweep()

    assert await world.state(nowhere) is State.PENDING


async def test_a_list_of_which_no_further_page_is_answered_is_left_for_the_next_sweep(
    store: SqliteStore, clock: Clock
) -> None:
    """What was read of it is taken all the same, and it does not prove anything."""
    world = World(store, clock)
    start = await world.send(accepted("00000000-0000-4000-8000-000000000001", State.QUEUED, accepted_at=clock.now))
    world.lists.create(f"{start.asked.id}-1")
    nowhere = await world.send(unsure())
    for _ in range(2 * PAGE):
        world.lists.create()
        world.pass_by(1)
    for _ in range(8):
        world.pass_by(QUIET / 2)
        world.failure = _after_the_first(Reply(status=502))
        world.transport.requests.clear()
        await world.sweep()

    assert await world.state(start) is State.STARTED
    assert await world.state(nowhere) is State.UNCERTAIN
    assert len(world.transport.requests) == 2 + PAGE_AGAIN


@pytest.mark.parametrize("seconds", [61, 3_600])
async def test_a_list_does_not_wait_for_long_in_its_middle(store: SqliteStore, clock: Clock, seconds: int) -> None:
    """What was read is taken at once, and the lane waits as it is asked to."""
    world = World(store, clock)
    start = await world.send(accepted("00000000-0000-4000-8000-000000000001", State.QUEUED, accepted_at=clock.now))
    world.lists.create(f"{start.asked.id}-1")
    for _ in range(2 * PAGE):
        world.lists.create()
    waits = Reply(status=429, headers={"retry-after": str(seconds)}, body=b'{"detail":"Request was throttled."}')
    world.failure = _after_the_first(waits)
    began = world.ticks()
    await world.sweep()

    assert await world.state(start) is State.STARTED
    assert (2, began) == (len(world.transport.requests), world.ticks())
    assert seconds == world.transport.circuit.wait_seconds()


async def test_a10_a_start_that_moves_between_two_pages_of_two_replicas_is_not_absent(
    store: SqliteStore, clock: Clock
) -> None:
    """The first page is from a fresh one, where it has just moved on; the last from one where it is not yet there."""
    world = World(store, clock)
    start = await world.send(unsure())
    row = world.lists.create(f"{start.asked.id}-1")
    for _ in range(PAGE):
        world.pass_by(1)
        world.lists.create()
    world.pass_by(QUIET * (1 + LAG))
    pages: list[str] = []

    def replica() -> float:
        world.pass_by(1)
        pages.append("page")
        if len(pages) % 2:
            world.lists.move(row)
            return 0.0
        return LAGS

    world.lists.before_page = replica
    for _ in range(6):
        await world.sweep()
        assert await world.state(start) is not State.PENDING, "it would be sent again"
        world.pass_by(10)

    assert len(pages) >= 2


async def test_a10_a_long_transaction_that_ends_before_a_scan_is_not_missed(store: SqliteStore, clock: Clock) -> None:
    """Its row moves to a moment well before the scan, and one of two replicas does not have that yet."""
    world = World(store, clock)
    start = await world.send(unsure())
    row = world.lists.create(f"{start.asked.id}-1")
    for _ in range(PAGE):
        world.pass_by(1)
        world.lists.create()
    world.pass_by(QUIET * (1 + LAG))
    pages: list[str] = []

    def replica() -> float:
        pages.append("page")
        return 0.0 if len(pages) % 2 else LAGS

    for _ in range(3):
        now = world.seconds()
        world.lists.move(row, begun=now - LAGS / 2 - QUIET, committed=now - LAGS / 2)
        pages.clear()
        world.lists.before_page = replica
        await world.sweep()
        assert await world.state(start) is not State.PENDING, "it would be sent again"
        world.lists.before_page = lambda: 0.0
        world.pass_by(LAGS + 1)
        await world.sweep()
        assert await world.state(start) is not State.PENDING, "it would be sent again"
        for each in world.lists.rows[1:]:
            world.lists.move(each)
        world.pass_by(QUIET * 3)


async def test_a10_rows_of_one_moment_that_fill_a_page_prove_nothing(store: SqliteStore, clock: Clock) -> None:
    """A bulk update ties them; one that moves makes the cursor's offset skip another, which is ours."""
    world = World(store, clock)
    start = await world.send(unsure())
    others = [world.lists.create() for _ in range(2 * PAGE)]
    world.lists.create(f"{start.asked.id}-1")
    for _ in range(2 * PAGE):
        world.lists.create()
    world.pass_by(60)
    for each in world.lists.rows:
        world.lists.move(each)
    world.pass_by(QUIET * 2)
    pages: list[str] = []

    async def scan(moves_before_page: int) -> None:
        """Scans while one of the others moves, right before the page that ours is the first of; and closes that."""
        pages.clear()

        def move_one() -> float:
            pages.append("page")
            if len(pages) == moves_before_page:
                world.lists.move(others.pop(0))
            return 0.0

        for before_page in (move_one, lambda: 0.0):
            world.lists.before_page = before_page
            await world.sweep()
            assert await world.state(start) is not State.PENDING, "it would be sent again"
            world.pass_by(LAGS + 1)

    await scan(4)
    for _ in range(PAGE - 1):
        world.lists.move(others.pop(0))
    world.pass_by(QUIET * 2)
    await scan(3)


@pytest.mark.parametrize("skew", [120.0, 900.0])
async def test_a10_a_database_whose_clock_is_behind_its_answers_hides_nothing(
    store: SqliteStore, clock: Clock, skew: float
) -> None:
    """What was accepted before says by how much; a row then seems to be older than the request it is of."""
    world = World(store, clock, skew=skew)
    ended = accepted("00000000-0000-4000-8000-000000000009", State.COMPLETED, accepted_at=clock.now)
    await world.send(ended, flow="another")
    world.pass_by(LAGS + 1)
    start = await world.send(unsure())
    world.lists.create(f"{start.asked.id}-1")
    for _ in range(6):
        world.pass_by(QUIET / 2)
        await world.sweep()

    assert await world.state(start) is State.STARTED


@pytest.mark.parametrize("throttled", [0, 2])
@pytest.mark.parametrize("skew", [0.0, 130.0, 900.0])
async def test_a11_what_moves_by_a_clock_that_is_behind_the_answers_is_followed(
    store: SqliteStore, clock: Clock, skew: float, throttled: int
) -> None:
    """A sweep begins where the last one began by the clock of the answers; rows have the other one.

    By how much is known from an accepted attempt, also if others came before it.
    """
    world = World(store, clock, skew=skew)
    ours = accepted("00000000-0000-4000-8000-000000000001", State.QUEUED, accepted_at=clock.now)
    start = await world.send(*[put_off(clock.now)] * throttled, ours)
    world.pass_by(LAGS + 1)
    await world.sweep()
    world.pass_by(60)
    world.lists.create(f"{start.asked.id}-1")
    world.pass_by(60)
    await world.sweep()

    assert await world.state(start) is State.STARTED


async def test_a11_what_moves_by_a_clock_that_was_put_back_is_followed(
    store: SqliteStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of the rows what was accepted since then is older than what was before, of which there is a lot."""
    monkeypatch.setattr("gateway.store.operations.CONTROLS", 3)
    world = World(store, clock, skew=900.0)
    for n in range(3):
        before = clock.now + timedelta(seconds=world.skew)
        await world.send(accepted(f"00000000-0000-4000-8000-{n + 2:012}", State.COMPLETED, accepted_at=before))
    start = await world.send(accepted("00000000-0000-4000-8000-000000000001", State.QUEUED, accepted_at=clock.now))
    world.pass_by(LAGS + 1)
    await world.sweep()
    world.pass_by(60)
    world.lists.create(f"{start.asked.id}-1")
    world.pass_by(60)
    await world.sweep()

    assert await world.state(start) is State.STARTED


async def test_a10_a_clock_that_is_ahead_for_a_while_hides_nothing(store: SqliteStore, clock: Clock) -> None:
    """What is sent then is looked for from the moment that it was by the earliest clock of the last hour."""
    world = World(store, clock)
    await world.send(
        accepted("00000000-0000-4000-8000-000000000009", State.COMPLETED, accepted_at=clock.now), flow="another"
    )
    world.transport.tell(clock.now)
    world.pass_by(LAGS + 1)
    world.lists.skew = world.skew = 3_600.0
    world.transport.tell(clock.now + timedelta(seconds=world.skew))
    start = await world.send(unsure())
    world.lists.create(f"{start.asked.id}-1")
    for _ in range(6):
        world.pass_by(QUIET / 2)
        await world.sweep()

    assert await world.state(start) is State.STARTED


async def test_a11_one_answer_whose_clock_is_ahead_hides_nothing(store: SqliteStore, clock: Clock) -> None:
    """One host behind a balancer may be an hour ahead: the next sweep does not begin where that clock stands."""
    world = World(store, clock)
    start = await world.send(accepted("00000000-0000-4000-8000-000000000001", State.QUEUED, accepted_at=clock.now))
    for ahead in (0.0, 3_600.0):
        world.pass_by(60)
        world.skew = world.lists.skew = ahead
        await world.sweep()
    world.skew = world.lists.skew = 0.0
    world.pass_by(60)
    world.lists.create(f"{start.asked.id}-1")
    await world.sweep()

    assert await world.state(start) is State.STARTED


async def test_a11_a_commit_behind_a_slow_sweep_is_not_missed(store: SqliteStore, clock: Clock) -> None:
    """Our own rate may put minutes between two pages; the next sweep goes back to where this one began."""
    world = World(store, clock)
    starts = []
    for n in range(2 * PAGE):
        starts.append(await world.send(accepted(f"00000000-0000-4000-8000-{n + 1:012}", State.QUEUED)))
        world.lists.create(f"{starts[-1].asked.id}-1")
    world.pass_by(1)
    late = world.lists.rows[0]
    world.lists.move(late, begun=world.seconds() + 1, committed=world.seconds() + 90)

    def slowly() -> float:
        world.pass_by(100)
        world.lists.create()
        return 0.0

    world.lists.before_page = slowly
    await world.sweep()
    world.lists.before_page = lambda: 0.0
    world.pass_by(60)
    await world.sweep()

    assert [State.STARTED] * len(starts) == [await world.state(each) for each in starts]


MOVES = st.lists(
    st.tuples(st.integers(0, 11), st.floats(0, 90), st.floats(0, LAGS), st.floats(0, 20)), min_size=1, max_size=40
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=size(60, quick=20))
@given(schedule=MOVES, late=st.floats(0, QUIET), skew=st.sampled_from([0.0, 0.0, 30.0]))
async def test_a10_no_schedule_of_moves_proves_a_start_absent_that_is_there(
    tmp_path_factory: pytest.TempPathFactory, schedule: list[tuple[int, float, float, float]], late: float, skew: float
) -> None:
    """Whichever rows move before each page, however long their transactions take and however far its replica lags.

    And whichever pages are asked for again.
    """
    clock = Clock()
    store = open_sqlite(tmp_path_factory.mktemp("absence") / "s.db", clock)
    try:
        await _follow_schedule(World(store, clock, skew=skew), schedule, late)
    finally:
        await store.close()


async def _follow_schedule(world: World, schedule: list[tuple[int, float, float, float]], late: float) -> None:
    start = await world.send(unsure())
    sent = world.seconds()
    rows: list[Row] = [world.lists.create() for _ in range(4)]
    rows.append(world.lists.create(f"{start.asked.id}-1", begun=sent, committed=sent + late))
    rows += [world.lists.create() for _ in range(4)]
    steps = iter(schedule)
    failures: Iterator[Reply | Failed | None] = itertools.cycle(
        FAILURES[which % 4] if which < 3 else None for which, _, _, _ in schedule
    )
    world.failure = lambda: next(failures)

    def before() -> float:
        step = next(steps, None)
        if step is None:
            return 0.0
        which, took, lag, pause = step
        world.pass_by(pause)
        row = rows[which % len(rows)]
        if world.seconds() - took > max(committed for _, committed in row.moves):  # one transaction after the other
            world.lists.move(row, begun=world.seconds() - took)
        return lag

    world.lists.before_page = before
    world.pass_by(QUIET)
    for _ in range(20):
        world.pass_by(LAGS / 2)
        await world.sweep()
        assert await world.state(start) is not State.PENDING, "it would be sent again"
