from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.adapters.base import Blocked, Missing, NotSent, Sweep, Throttled, Unsure
from gateway.model import Notice, Sighting, State
from gateway.pacing import HealthState, Limiter
from gateway.tracker import LOOKS, SLOWEST, UNSEEN_FOR, Tracker
from tests.builders import ACCOUNT, NOON, accepted, again, create, run_to, seen, singly
from tests.fakes import Script, ScriptedTransport, Ticks, Watched, backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.adapters.base import Request
    from gateway.model import FlowStart, Window
    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock

SUSPENDED = Notice(reason="BACKEND_SUSPENDED", message="suspended")
INTERVAL = 10.0


def at(seconds: float) -> Any:
    """Tells a moment after noon."""
    return NOON + timedelta(seconds=seconds)


class Follower:
    """A tracker over a real store, and the backend it scans: what it shows is as a test says."""

    def __init__(self, store: SqliteStore, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.watched = Watched(store)
        self.ticks = Ticks()
        self.script = Script()
        self.transport = ScriptedTransport(self._answer, ticks=self.ticks, limiter=Limiter(1000, 60.0))
        self.tracker = Tracker(
            self.watched, backend(self.transport, self.script), clock, self.ticks, sleep=self.ticks.sleep
        )

    async def _answer(self, request: Request) -> None:
        """Answers nothing that the script would read."""

    async def start(self, recipient_count: int = 1) -> FlowStart:
        """Makes a start that runs; its external ids are a1, a2 and so on."""
        start = await create(self.store, singly(recipient_count))
        await run_to(self.store, start, *[accepted(f"a{n}") for n in range(1, recipient_count + 1)])
        return await again(self.store, start)

    async def windows(self) -> tuple[Window, ...]:
        """Reads what runs."""
        return await self.store.windows("rapidpro", ACCOUNT)

    async def sweep(self, *sweeps: Sweep) -> int:
        """Sweeps once; the backend shows this."""
        if sweeps:
            self.script.sweeps = list(sweeps)
        return await self.tracker.sweep(await self.windows())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Follower]:
        """Runs the loop."""
        task = asyncio.create_task(self.tracker.run())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def intervals(self, count: int) -> list[int]:
        """Lets the loop go round so often; returns how many sweeps it had made each time."""
        counts = []
        for _ in range(count):
            await self.ticks.sleeping()
            counts.append(len(self.script.asked_since))
            self.ticks.tick(INTERVAL)
        return counts


@pytest.fixture
def follower(store: SqliteStore, clock: Clock) -> Follower:
    """A tracker that does not run yet."""
    return Follower(store, clock)


def shown(*sightings: Sighting, newest: float | None = None, trouble: Any = None) -> Sweep:
    """Builds what a scan shows; `newest` is in seconds after noon."""
    return Sweep(sightings=sightings, newest=None if newest is None else at(newest), trouble=trouble)


async def test_what_a_scan_shows_is_recorded(follower: Follower) -> None:
    """The states of what runs; of what is not ours, nothing."""
    start = await follower.start()
    moved = [
        await follower.sweep(shown(seen("a1", State.STARTED), seen("other", State.COMPLETED))),
        await follower.sweep(shown(seen("a1", State.STARTED))),
        await follower.sweep(shown(seen("a1", State.COMPLETED))),
    ]

    assert [1, 0, 1] == moved
    assert State.COMPLETED is (await again(follower.store, start)).standing.state


async def test_a_scan_of_many_rows_is_written_in_batches(follower: Follower) -> None:
    """One write holds up nobody for long, and every row counts."""
    start = await follower.start(450)
    moved = await follower.sweep(shown(*[seen(f"a{n}", State.COMPLETED) for n in range(1, 451)]))

    assert 450 == moved
    assert 3 == follower.watched.calls.count("sight")
    assert State.COMPLETED is (await again(follower.store, start)).standing.state


async def test_each_scan_begins_where_the_last_one_ended(follower: Follower) -> None:
    """And where the backend shows no such moment, it looks at everything again."""
    await follower.start()
    for newest in (5.0, 9.0, 9.0):
        await follower.sweep(shown(newest=newest))
    await follower.sweep(shown())
    await follower.sweep(shown())

    assert [None, at(5), at(9), at(9), at(9)] == follower.script.asked_since


async def test_everything_is_read_again_every_hour(follower: Follower) -> None:
    """Interrupts and progress do not bump a row's time: whoever reads only what moved would never see them."""
    await follower.start()
    for _ in range(3):
        await follower.sweep(shown(newest=5.0))
        follower.ticks.tick(1800)

    assert [None, at(5), None] == follower.script.asked_since


@pytest.mark.parametrize(
    ("trouble", "health", "pause"),
    [
        (Throttled(seconds=40.0), HealthState.THROTTLED, 40.0),
        (NotSent(reason="refused"), HealthState.UNREACHABLE, 1.0),
        (Blocked(notice=SUSPENDED), HealthState.BLOCKED, 30.0),
        (Unsure(reason="not json"), HealthState.UNKNOWN, 0.0),
    ],
    ids=["throttled", "not sent", "blocked", "unsure"],
)
async def test_a_scan_that_was_not_read_to_its_end(
    follower: Follower, trouble: Any, health: HealthState, pause: float
) -> None:
    """What was read is recorded; the next scan begins at the same place; the lane hears of it."""
    start = await follower.start(2)
    await follower.sweep(shown(newest=5.0))
    circuit = follower.transport.circuit
    circuit.state = HealthState.UNKNOWN
    moved = await follower.sweep(shown(seen("a1", State.COMPLETED), newest=9.0, trouble=trouble))
    found = (circuit.state, circuit.wait_seconds())
    await follower.sweep(shown(newest=9.0))

    assert 1 == moved
    assert [None, at(5), at(5)] == follower.script.asked_since
    assert (health, pause) == found
    assert 1 == (await again(follower.store, start)).standing.progress.completed


async def unseen(follower: Follower, *seconds: float) -> None:
    """Sweeps at these moments, and nothing is shown."""
    for pause in seconds:
        follower.ticks.tick(pause)
        follower.clock.tick(pause)
        await follower.sweep(shown())


async def test_what_no_list_has_shown_for_a_minute_is_asked_for_by_id(follower: Follower) -> None:
    """A list may lag behind; only the answer that it is not there ends it."""
    start = await follower.start()
    follower.script.looks["a1"] = Missing()
    follower.clock.tick(1)
    await unseen(follower, 0, UNSEEN_FOR - 1)
    before = (list(follower.script.looked_at), (await again(follower.store, start)).standing.state)
    await unseen(follower, 1)
    found = (await again(follower.store, start)).standing

    assert ([], State.QUEUED) == before
    assert ["a1"] == follower.script.looked_at
    assert State.INTERRUPTED is found.state
    assert found.failure is not None
    assert "BACKEND_GONE" == found.failure.reason


@pytest.mark.parametrize(
    ("look", "state"),
    [
        (seen("a1", State.STARTED), State.STARTED),
        (seen("a1", State.COMPLETED), State.COMPLETED),
        (seen("a1"), State.QUEUED),
        (Throttled(seconds=5.0), State.QUEUED),
        (NotSent(reason="refused"), State.QUEUED),
        (Blocked(notice=SUSPENDED), State.QUEUED),
        (Unsure(reason="HTTP 500"), State.QUEUED),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, State) else value.name,
)
async def test_trouble_with_looking_is_no_end(follower: Follower, look: Any, state: State) -> None:
    """What the look shows is believed; trouble says nothing."""
    start = await follower.start()
    follower.script.looks["a1"] = look
    follower.clock.tick(1)
    await unseen(follower, 0, UNSEEN_FOR)

    assert ["a1"] == follower.script.looked_at
    assert state is (await again(follower.store, start)).standing.state


async def test_who_is_seen_again_is_not_asked_for(follower: Follower) -> None:
    """The minute begins anew."""
    await follower.start()
    follower.clock.tick(1)
    await unseen(follower, 0, 40)
    await follower.sweep(shown(seen("a1", State.STARTED)))
    await unseen(follower, 30, 40)

    assert [] == follower.script.looked_at


@pytest.mark.parametrize("trouble", [Unsure(reason="not json"), Throttled(seconds=1.0)], ids=["unsure", "throttled"])
async def test_an_unread_list_does_not_count_as_not_shown(follower: Follower, trouble: Any) -> None:
    """Silence proves nothing."""
    await follower.start()
    follower.clock.tick(1)
    await unseen(follower, 0)
    follower.ticks.tick(UNSEEN_FOR * 2)
    await follower.sweep(shown(trouble=trouble))

    assert [] == follower.script.looked_at


async def test_looks_are_bounded_and_everyone_gets_a_turn(follower: Follower) -> None:
    """What lists never show, though it runs, does not keep others from being looked at."""
    await follower.start(2 * LOOKS + 1)
    every = [f"a{n}" for n in range(1, 2 * LOOKS + 2)]
    follower.script.looks = {external_id: Unsure(reason="HTTP 500") for external_id in every}
    follower.clock.tick(1)
    await unseen(follower, 0, UNSEEN_FOR)
    first = len(follower.script.looked_at)
    await unseen(follower, 1, 1)

    assert LOOKS == first
    assert set(every) == set(follower.script.looked_at)
    assert len(every) == len(follower.script.looked_at)


async def test_looking_stops_when_the_backend_asks_to_wait(follower: Follower) -> None:
    """One refusal is enough."""
    await follower.start(3)
    follower.script.looks = {f"a{n}": Throttled(seconds=5.0) for n in range(1, 4)}
    follower.clock.tick(1)
    await unseen(follower, 0, UNSEEN_FOR)

    assert ["a1"] == follower.script.looked_at


async def test_nothing_running_means_no_requests(follower: Follower) -> None:
    """And what is accepted later is followed from then on."""
    async with follower.running():
        idle = await follower.intervals(5)
        await follower.start()
        busy = await follower.intervals(2)

    assert [0, 0, 0, 0, 0] == idle
    assert [0, 1] == busy


async def test_quiet_slows_it_down_to_a_bound(follower: Follower) -> None:
    """Twice as long each time, up to six intervals; what moves makes it fast again."""
    await follower.start(2)
    async with follower.running():
        counts = await follower.intervals(22)
        follower.script.sweeps = [shown(seen("a1", State.STARTED)), shown(seen("a2", State.STARTED)), shown()]
        fast = await follower.intervals(8)

    sweeps = [turn for turn in range(1, len(counts)) if counts[turn] > counts[turn - 1]]
    assert 1 == counts[0]
    assert [2, 6, 12, 18] == sweeps  # after 2, 4, 6 and 6 intervals
    assert SLOWEST == 6
    first = next(turn for turn in range(8) if fast[turn] > counts[-1])
    assert [0, 1, 2] == [count - fast[first] for count in fast[first : first + 3]]


async def test_a_new_start_is_looked_for_at_once(follower: Follower) -> None:
    """However slow it has become."""
    await follower.start()
    async with follower.running():
        before = await follower.intervals(8)
        follower.clock.tick(80)
        other = await create(follower.store)
        await run_to(follower.store, other, accepted("b1"))
        after = await follower.intervals(2)

    assert before[-1] == after[0]
    assert before[-1] + 1 == after[1]


@pytest.mark.parametrize("operation", ["windows", "sight", "running"])
async def test_a_store_that_is_unavailable_stops_nothing(follower: Follower, operation: str) -> None:
    """It is asked again one interval later, and the scan is made again."""
    start = await follower.start(2)
    follower.script.sweeps = [shown(seen("a1", State.COMPLETED), seen("a2", State.COMPLETED))]
    follower.watched.down[operation] = 1
    async with follower.running():
        await follower.intervals(3)

    assert operation not in follower.watched.down or follower.watched.down[operation] == 0 or operation == "running"
    assert State.COMPLETED is (await again(follower.store, start)).standing.state


async def test_a_scan_that_could_not_be_written_is_made_again_soon(follower: Follower) -> None:
    """Also if it was made early, because a new start had come."""
    await follower.start()
    async with follower.running():
        slow = await follower.intervals(8)
        follower.clock.tick(80)
        other = await create(follower.store)
        await run_to(follower.store, other, accepted("b1"))
        follower.script.sweeps = [shown(seen("b1", State.COMPLETED))]
        follower.watched.down["sight"] = 1
        counts = await follower.intervals(3)

    assert [0, 1, 2] == [count - slow[-1] for count in counts]
    assert State.COMPLETED is (await again(follower.store, other)).standing.state


async def test_it_waits_while_the_lane_does(follower: Follower) -> None:
    """A backend that asked to wait is not scanned meanwhile."""
    await follower.start()
    follower.script.sweeps = [shown(trouble=Throttled(seconds=300.0)), shown()]
    async with follower.running():
        pause = await follower.ticks.sleeping()

    assert 300.0 == pause


async def test_reading_that_works_says_so(follower: Follower) -> None:
    """A backend that is only read is healthy."""
    await follower.start()
    before = follower.transport.circuit.state
    await follower.sweep(shown(newest=1.0))

    assert (HealthState.UNKNOWN, HealthState.OK) == (before, follower.transport.circuit.state)
