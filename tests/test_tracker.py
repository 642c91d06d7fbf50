from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gateway.adapters.base import Barred, Blocked, Key, Missing, NotSent, Request, Sweep, Throttled, Unsure
from gateway.adapters.twilio import reading as twilio_reading
from gateway.errors import Unavailable
from gateway.lanes.by_id import LOOKS, REASK, UNSEEN_FOR
from gateway.lanes.identifying import SLOWEST_RETRY
from gateway.lanes.keys import AT_ONCE
from gateway.lanes.pacing import HealthState, Limiter
from gateway.lanes.proof import LAG, UNANCHORED
from gateway.lanes.tracker import AGED, PULSE, REREAD, REREAD_AGAIN, SLOWEST, Tracker
from gateway.model import Cause, Notice, State
from gateway.service.waiting import wait_of
from gateway.sightings import Sighting
from tests.builders import (
    ACCOUNT,
    BACKEND,
    FLOW,
    NOON,
    TENANT,
    TERMS,
    accepted,
    again,
    claim_ids,
    create,
    run_to,
    seen,
    singly,
    unsure,
)
from tests.fakes import Script, ScriptedTransport, Studio, Ticks, Watched, backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from datetime import datetime

    from gateway.adapters.base import Exchange
    from gateway.model import FlowStart
    from gateway.sightings import Window
    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock

SUSPENDED = Notice(reason="BACKEND_SUSPENDED", message="suspended")
REJECTED = Notice(reason="BACKEND_CREDENTIALS_REJECTED", message="rejected")
INTERVAL = 10.0
QUIET = 150.0  # the quiet window, and a quarter of it


def at(seconds: float) -> Any:
    """Tells a moment after noon."""
    return NOON + timedelta(seconds=seconds)


class Follower:
    """A tracker over a real store, and the backend it scans: what it shows is as a test says."""

    def __init__(self, store: SqliteStore, clock: Clock, script: Script | None = None, **different: Any) -> None:
        self.store = store
        self.clock = clock
        self.watched = Watched(store)
        self.ticks = Ticks()
        self.script = script or Script()
        self.transport = ScriptedTransport(self._answer, ticks=self.ticks, limiter=Limiter(1000, 60.0))
        self.backend = backend(self.transport, self.script, **different)
        self.tracker = Tracker(self.watched, self.backend, clock, self.ticks, sleep=self.ticks.sleep)

    async def _answer(self, request: Request) -> None:
        """Answers nothing that the script would read."""

    async def start(self, recipient_count: int = 1, prefix: str = "a") -> FlowStart:
        """Makes a start that runs; its external ids are a1, a2 and so on."""
        start = await create(self.store, singly(recipient_count))
        names = [f"{prefix}{n}" for n in range(1, recipient_count + 1)]
        await run_to(self.store, start, *[accepted(name, accepted_at=self.clock()) for name in names])
        return await again(self.store, start)

    async def unsure(self, recipient_count: int = 1, **different: Any) -> FlowStart:
        """Makes a start whose answers never came."""
        start = await create(self.store, singly(recipient_count), **different)
        await run_to(self.store, start, *[unsure()] * recipient_count)
        return await again(self.store, start)

    async def sweep(self, *sweeps: Sweep) -> int:
        """Sweeps once; the backend shows this."""
        if sweeps:
            self.script.sweeps = list(sweeps)
        windows, sought = await self.store.windows(BACKEND, ACCOUNT), await self.store.sought(BACKEND, ACCOUNT)
        return await self.tracker.sweep(windows, sought)

    async def scan(self, start: FlowStart, *seconds: float, swept: Sweep | None = None) -> list[State]:
        """Scans after each of these pauses; returns in which state a start is then."""
        states = []
        for pause in seconds:
            self.pass_by(pause)
            await self.sweep(swept or shown())
            states.append((await again(self.store, start)).standing.state)
        return states

    def pass_by(self, seconds: float) -> None:
        """Lets time pass by every clock."""
        self.ticks.tick(seconds)
        self.clock.tick(seconds)

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
        """Lets so many intervals pass; returns how many sweeps it had made before each."""
        counts = []
        for _ in range(count):
            await self.ticks.sleeping()
            counts.append(len(self.script.asked_since))
            await self.turns(int(INTERVAL / PULSE))
        return counts

    async def turns(self, count: int) -> None:
        """Lets the loop go round so often."""
        for _ in range(count):
            await self.ticks.sleeping()
            self.ticks.tick(PULSE)
        await self.ticks.sleeping()


@pytest.fixture
def follower(store: SqliteStore, clock: Clock) -> Follower:
    """A tracker that does not run yet, of a backend like RapidPro."""
    return Follower(store, clock)


@pytest.fixture
def studio(store: SqliteStore, clock: Clock) -> Follower:
    """A tracker that does not run yet, of a backend like Twilio Studio."""
    return Follower(store, clock, Studio())


def script_of(follower: Follower) -> Studio:
    """Returns what the backend like Twilio Studio is told to do."""
    assert isinstance(follower.script, Studio)
    return follower.script


def shown(
    *sightings: Sighting, newest: float | None = None, trouble: Any = None, account: str = ACCOUNT, **different: Any
) -> Sweep:
    """Builds what a scan shows; `newest` is in seconds after noon."""
    moment = None if newest is None else at(newest)
    return Sweep(sightings=sightings, newest=moment, trouble=trouble, account=account, **different)


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
    assert 15 == follower.watched.calls.count("sight")
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


async def test_reading_everything_again_is_put_off_when_it_fails(follower: Follower) -> None:
    """Meanwhile what moves is followed on from where it was."""
    await follower.start()
    await follower.sweep(shown(newest=5.0))
    follower.ticks.tick(REREAD)
    await follower.sweep(shown(newest=9.0, trouble=Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)))
    for pause in (0, REREAD_AGAIN - 1, 1):
        follower.ticks.tick(pause)
        await follower.sweep(shown(newest=7.0))

    assert [None, None, at(5), at(7), None] == follower.script.asked_since


async def test_what_a_row_did_not_tell_is_read_again_soon(follower: Follower) -> None:
    """The next scan begins behind it. If it never tells, everything is read again ever more rarely."""
    await follower.start()
    for _ in range(4):
        await follower.sweep(shown(seen("x1", None, correlation_key="ours"), newest=5.0))
        follower.ticks.tick(1)

    assert [None, None, at(5), None] == follower.script.asked_since


class Paged(Script):
    """A backend whose every scan takes some pages."""

    pages = 1

    def sweep(self, since: datetime | None, windows: Sequence[Window], sought: Collection[str] = ()) -> Exchange[Sweep]:
        """Scans page by page."""
        for _ in range(self.pages - 1):
            yield Request(method="GET", path="/list", headers={})
        return (yield from super().sweep(since, windows, sought))


def metered(store: SqliteStore, clock: Clock, count: int, seconds: float) -> tuple[Follower, Paged]:
    """Builds a tracker of a backend where reading spends the rate."""
    script = Paged()
    follower = Follower(store, clock, script)
    follower.transport._rate_counts_reads = True
    follower.transport.limiter = Limiter(count, seconds, clock=follower.ticks, sleep=follower.ticks.sleep)
    return follower, script


async def test_reading_everything_again_keeps_to_its_part_of_the_share(store: SqliteStore, clock: Clock) -> None:
    """100 pages are a quarter of a fifth of what may be asked in two hours."""
    follower, script = metered(store, clock, 1_000, 3_600.0)
    await follower.start()
    script.pages = 100
    await follower.sweep(shown(newest=5.0))
    script.pages = 1
    for _ in range(2):
        follower.ticks.tick(REREAD)
        await follower.sweep(shown(newest=5.0))

    assert [None, at(5), None] == follower.script.asked_since


@pytest.mark.parametrize(("pages", "apart"), [(1, 10), (2, 17), (4, 34)])
async def test_sweeps_keep_to_their_share_of_the_rate(store: SqliteStore, clock: Clock, pages: int, apart: int) -> None:
    """However much moves, and however many pages that is."""
    follower, script = metered(store, clock, 80, 100.0)
    await follower.start(9)
    script.pages = pages
    script.sweeps = [shown(seen(f"a{n}", State.STARTED), newest=5.0) for n in range(1, 10)]
    began: list[int] = []
    async with follower.running():
        for second in range(100):
            await follower.turns(1)
            began += [second] * (len(script.asked_since) - len(began))

    gaps = [later - earlier for earlier, later in pairwise(began)]
    assert {apart} == set(gaps[1:4])  # the first scan reads everything, which is counted apart


@pytest.mark.parametrize(
    ("trouble", "health", "pause"),
    [
        (Throttled(seconds=40.0), HealthState.THROTTLED, 40.0),
        (NotSent(reason="refused"), HealthState.UNREACHABLE, 1.0),
        (Blocked(notice=SUSPENDED), HealthState.BLOCKED, 30.0),
        (Unsure(reason="not json", cause=Cause.UNREADABLE), HealthState.UNKNOWN, 0.0),
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
        (Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR), State.QUEUED),
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


@pytest.mark.parametrize(
    "trouble", [Unsure(reason="not json", cause=Cause.UNREADABLE), Throttled(seconds=1.0)], ids=["unsure", "throttled"]
)
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
    follower.script.looks = {external_id: Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR) for external_id in every}
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
        await run_to(follower.store, other, accepted("b1", accepted_at=follower.clock()))
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
        await run_to(follower.store, other, accepted("b1", accepted_at=follower.clock()))
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


# Whose account it is


@pytest.mark.parametrize(
    ("trouble", "pauses"),
    [
        (Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR), [1, 2, 4, 8, 16, 32, 60, 60]),
        (NotSent(reason="refused"), [1, 2, 4, 8, 16, 32, 60, 60]),
        (Blocked(notice=REJECTED), [30, 30, 30, 30, 30, 32, 60, 60]),
        (Throttled(seconds=45.0), [45, 45, 45, 45, 45, 45, 60, 60]),
    ],
    ids=["unsure", "not sent", "blocked", "throttled"],
)
async def test_the_account_is_asked_for_until_it_is_known(follower: Follower, trouble: Any, pauses: list[int]) -> None:
    """After pauses that grow, and not while the lane waits; meanwhile nothing is swept, and nothing may be sent."""
    await follower.start()
    follower.transport.identity = None
    follower.script.accounts = [trouble] * len(pauses) + ["workspace"]
    waited = []
    async with follower.running():
        for _ in pauses:
            waited.append(await follower.ticks.sleeping())
            assert follower.transport.identity is None
            assert [] == follower.script.asked_since
            follower.ticks.tick(waited[-1])
        await follower.ticks.sleeping()
        health = follower.transport.circuit.state

    assert pauses == waited
    assert max(pauses) <= SLOWEST_RETRY
    assert ("workspace", 1) == (follower.backend.account, len(follower.script.asked_since))
    assert HealthState.OK is health


@pytest.mark.parametrize(
    ("trouble", "health", "detail"),
    [
        (Unsure(reason="HTTP 503", cause=Cause.SERVER_ERROR), HealthState.UNREACHABLE, "HTTP 503"),
        (Unsure(reason="HTTP 404", cause=Cause.SERVER_ERROR), HealthState.UNREACHABLE, "HTTP 404"),
        (Barred(notice=REJECTED), HealthState.BLOCKED, REJECTED.message),
        (Blocked(notice=REJECTED), HealthState.BLOCKED, REJECTED.message),
        (Throttled(seconds=2099.0), HealthState.THROTTLED, "it asked to wait"),
    ],
    ids=["503", "404", "301", "401", "429"],
)
async def test_c6_a_backend_says_from_its_first_answer_on_what_is_wrong(
    follower: Follower, trouble: Any, health: HealthState, detail: str
) -> None:
    """Nothing was sent or swept yet: its health, and a start that waits for it, say why and until when."""
    start = await create(follower.store)
    follower.transport.identity = None
    follower.script.accounts = [trouble]
    async with follower.running():
        await follower.ticks.sleeping()
        circuit = follower.transport.circuit
        wait = wait_of(start, {BACKEND: follower.backend}, NOON)

    assert (health, detail) == (circuit.state, circuit.detail)
    assert wait is not None
    assert wait.warning.reason == "WAITING"
    assert NOON + timedelta(seconds=circuit.wait_seconds()) == wait.next_attempt_at


async def test_c5_a_backend_whose_lists_may_not_be_read_says_so_until_they_are(follower: Follower) -> None:
    """It takes what is sent, so it is well; but what became of that is not seen before somebody acts."""
    await follower.start()
    told = []
    for swept in (shown(), Sweep(sightings=(), trouble=Barred(notice=REJECTED)), shown()):
        await follower.sweep(swept)
        circuit = follower.transport.circuit
        told.append((circuit.state, circuit.detail or circuit.unread))

    said = f"{REJECTED.message} It answered HTTP 200 to GET /list."

    assert [(HealthState.OK, ""), (HealthState.OK, said), (HealthState.OK, "")] == told


async def test_a_backend_that_tells_its_account_is_well(follower: Follower) -> None:
    """Also if nothing is to be followed there."""
    follower.transport.identity = None
    follower.script.accounts = [NotSent(reason="refused"), "workspace"]
    health = []
    async with follower.running():
        for _ in range(2):
            pause = await follower.ticks.sleeping()
            health.append(follower.transport.circuit.state)
            follower.ticks.tick(pause)

    assert [HealthState.UNREACHABLE, HealthState.OK] == health
    assert [] == follower.script.asked_since


async def test_what_is_another_accounts_is_kept_back(follower: Follower) -> None:
    """It is not sent, and says why; what is this account's is, and what was recorded before the account was known."""
    own = await create(follower.store)
    other = await create(follower.store, terms=replace(TERMS, account="elsewhere"))
    early = await create(follower.store, terms=replace(TERMS, account=""))
    follower.transport.identity = None
    async with follower.running():
        await follower.ticks.sleeping()
    claimed = await claim_ids(follower.store)
    warnings = [
        [each.reason for each in (await again(follower.store, start)).standing.warnings] for start in (own, other)
    ]

    assert {f"{own.asked.id}-1", f"{early.asked.id}-1"} == set(claimed)
    assert [[], ["BACKEND_CHANGED"]] == warnings
    assert ["hold", "windows"] == follower.watched.calls[:2]
    assert 1 == follower.watched.calls.count("hold")


async def test_nothing_is_sent_before_that_is_on_the_disk(follower: Follower) -> None:
    """A store that is unavailable is asked again; the account is known afterwards."""
    follower.transport.identity = None
    follower.watched.down["hold"] = 2
    known = []
    async with follower.running():
        for _ in range(3):
            assert PULSE == await follower.ticks.sleeping()
            known.append(follower.backend.account)
            follower.ticks.tick(PULSE)

    assert ["", "", "workspace"] == known
    assert 3 == follower.watched.calls.count("hold")


async def test_a_backend_that_does_not_tell_its_account_holds_nothing_back(follower: Follower) -> None:
    """There is nothing to compare with."""
    other = await create(follower.store, terms=replace(TERMS, account="elsewhere"))
    follower.transport.identity = None
    follower.script.accounts = [""]
    async with follower.running():
        await follower.ticks.sleeping()

    assert "" == follower.backend.account
    assert [f"{other.asked.id}-1"] == await claim_ids(follower.store)


async def test_n1_a_list_of_another_account_keeps_back_what_is_not_its(follower: Follower) -> None:
    """The same token leads elsewhere now: whose it is is asked again, and nothing that the list lacks is gone."""
    runs, waits = await follower.start(), await create(follower.store)
    follower.script.accounts = ["elsewhere"]
    moved = await follower.sweep(Sweep(sightings=(), account="elsewhere"))
    told = [[each.reason for each in (await again(follower.store, start)).standing.warnings] for start in (runs, waits)]

    assert (0, "elsewhere") == (moved, follower.backend.account)
    assert [["BACKEND_CHANGED"]] * 2 == told
    assert [] == await claim_ids(follower.store)


async def test_n1_what_was_kept_back_goes_on_when_the_account_is_back(follower: Follower) -> None:
    """Nothing of it is followed meanwhile that would show it, so it is asked every minute."""
    await follower.start()
    waits = await create(follower.store)
    follower.script.accounts = ["elsewhere", "workspace"]
    await follower.sweep(Sweep(sightings=(), account="elsewhere"))
    await follower.tracker._age()

    assert "workspace" == follower.backend.account
    assert [f"{waits.asked.id}-1"] == await claim_ids(follower.store)


async def test_n1_another_name_of_the_same_account_is_no_other_account(follower: Follower) -> None:
    """It is asked for once, and holds nothing back."""
    await follower.start()
    waits = await create(follower.store)
    for _ in range(2):
        await follower.sweep(Sweep(sightings=(), account="elsewhere"))

    assert ("workspace", 1) == (follower.backend.account, follower.watched.calls.count("hold"))
    assert f"{waits.asked.id}-1" in await claim_ids(follower.store)


# What is unsure


async def test_what_is_unsure_is_found_by_its_key(follower: Follower) -> None:
    """As if the answer had come: it runs, has its external id, and is not looked for any more."""
    start = await follower.unsure()
    row = seen("x1", State.STARTED, correlation_key=f"{start.asked.id}-1", flow=FLOW, created_at=at(1))
    states = await follower.scan(start, 0, swept=shown(row, newest=1.0))
    found = (await again(follower.store, start)).standing

    assert [State.STARTED] == states
    assert "x1" == found.external_id
    assert () == await follower.store.sought(BACKEND, ACCOUNT)
    assert "sight" in follower.watched.calls
    assert "absent" not in follower.watched.calls


async def test_two_clean_scans_after_the_quiet_window_mean_that_it_was_not_sent(follower: Follower) -> None:
    """It is sent again at once, and a scan before that proves nothing."""
    start = await follower.unsure()
    states = await follower.scan(start, 0, QUIET - 1, 1, 10)

    assert [State.UNCERTAIN] * 3 + [State.PENDING] == states
    assert [f"{start.asked.id}-1"] == await claim_ids(follower.store)


@pytest.mark.parametrize(
    "swept",
    [
        shown(trouble=Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)),
        shown(trouble=Throttled(seconds=1.0)),
        shown(account="elsewhere"),
        shown(unread=frozenset({FLOW})),
        shown(seen("x1", State.STARTED, correlation_key="{id}-1", flow="another")),
    ],
    ids=["not read", "throttled", "another account", "its flow is gone", "shown by another flow"],
)
async def test_scans_that_are_not_clean_mean_nothing(follower: Follower, swept: Sweep) -> None:
    """However many: it stays unsure."""
    start = await follower.unsure()
    named = [
        replace(each, correlation_key=each.correlation_key and each.correlation_key.format(id=start.asked.id))
        for each in swept.sightings
    ]
    states = await follower.scan(start, 0, QUIET, 10, 10, 10, swept=replace(swept, sightings=tuple(named)))

    assert [State.UNCERTAIN] * 5 == states
    assert (await again(follower.store, start)).standing.next_attempt_at is not None


async def test_a_scan_must_show_what_else_was_accepted(follower: Follower) -> None:
    """An empty list, or one of a replica that hangs, is not believed, even if what it lacks has ended since."""
    start = await follower.unsure()
    other = await follower.start()
    await follower.store.sight(BACKEND, [seen("a1", State.COMPLETED)], account=ACCOUNT)
    follower.transport.tell(follower.clock.now)
    lacking = await follower.scan(start, 0, QUIET, 10, 10)
    keyless = await follower.scan(start, 10, 10, swept=shown(seen("a1", State.COMPLETED)))
    known = replace(seen("a1", State.COMPLETED), correlation_key=f"{other.asked.id}-1")
    whole = await follower.scan(start, 10, 10, swept=shown(known))

    assert State.COMPLETED is (await again(follower.store, other)).standing.state
    assert [State.UNCERTAIN] * 4 == lacking
    assert [State.UNCERTAIN] * 2 == keyless
    assert [State.UNCERTAIN, State.PENDING] == whole


async def test_a_scan_need_not_show_what_is_too_new(follower: Follower) -> None:
    """A list may lag by a quarter of the quiet window."""
    start = await follower.unsure()
    await follower.scan(start, 0, QUIET - 10)
    new = await create(follower.store)
    await run_to(follower.store, new, accepted("b1", accepted_at=follower.clock.now))
    follower.transport.tell(follower.clock.now)

    assert [State.UNCERTAIN, State.PENDING] == await follower.scan(start, 10, 15)


async def test_a_scan_reaches_back_to_before_it_was_sent(follower: Follower) -> None:
    """By the backend's clock as it was then, whatever moved last; and its windows go on beyond now.

    Some minutes before, because nothing says how far the clock of its rows is from that of its answers.
    """
    await follower.start(prefix="b")
    await follower.sweep(shown(newest=500.0))
    start = await follower.unsure()  # sent at noon, by the backend's clock
    await follower.scan(start, 600)
    ((window,),) = follower.script.asked_windows[1:]

    assert [None, NOON - UNANCHORED] == follower.script.asked_since
    assert (FLOW, NOON - UNANCHORED) == (window.flow, window.oldest)
    assert window.newest > follower.clock.now


async def test_a_backend_whose_clock_jumps_back_is_scanned_to_the_end(follower: Follower) -> None:
    """Otherwise a scan would end before what it is to show."""
    start = await follower.unsure()
    follower.transport.tell(at(-400 * 86_400))
    await follower.scan(start, 0)
    ((window,),) = follower.script.asked_windows

    assert window.newest > follower.clock.now


async def test_what_is_absent_may_be_left_to_an_operator(store: SqliteStore, clock: Clock) -> None:
    """With `on_absent`, it is never sent again by itself."""
    follower = Follower(store, clock, on_absent=State.UNCERTAIN)
    start = await follower.unsure()
    states = await follower.scan(start, 0, QUIET, 10)
    found = (await again(store, start)).standing

    assert [State.UNCERTAIN] * 3 == states
    assert found.is_done
    assert () == await store.sought(BACKEND, ACCOUNT)
    assert [] == await claim_ids(store)


async def test_what_cannot_be_found_out_about_rests(store: SqliteStore, clock: Clock) -> None:
    """After `find_for`; a backend that could not be reached all the while was not asked, and is on."""
    follower = Follower(store, clock, find_for=timedelta(seconds=300))
    start = await follower.unsure()
    await follower.scan(start, 0)
    for _ in range(20):
        await follower.scan(start, 50, swept=shown(trouble=NotSent(reason="refused")))
    unreachable = (await again(store, start)).standing
    for _ in range(5):
        await follower.scan(start, 50, swept=shown(trouble=Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)))
    before = (await again(store, start)).standing
    await follower.scan(start, 50, swept=shown(trouble=Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)))
    found = (await again(store, start)).standing

    assert [False, False, True] == [each.is_done for each in (unreachable, before, found)]
    assert State.UNCERTAIN is found.state
    assert [] == await claim_ids(store)


async def test_it_is_settled_soon_after_its_quiet_window(follower: Follower) -> None:
    """However slow sweeping had become: a scan is made when it is over, and one more an interval later."""
    start = await follower.unsure()
    async with follower.running():
        before = await follower.intervals(int(QUIET / INTERVAL))
        waiting = (await again(follower.store, start)).standing.state
        after = await follower.intervals(2)
        found = (await again(follower.store, start)).standing.state

    assert 4 == before[-1]  # at once, and after pauses that grow
    assert [5, 6] == after
    assert (State.UNCERTAIN, State.PENDING) == (waiting, found)


# Keys that are read one by one


async def test_keys_are_read_once_and_what_is_ours_is_found(studio: Follower) -> None:
    """Of what is nobody's yet and of a flow that is sought, in whatever case; what shows its key needs no reading."""
    script = script_of(studio)
    await studio.start()
    start = await studio.unsure()
    rows = [
        seen("a1", State.STARTED, flow=FLOW),
        seen("theirs", State.STARTED, flow=FLOW),
        seen("THEIRS", State.COMPLETED, flow=FLOW.upper()),
        seen("keyed", State.STARTED, flow=FLOW, correlation_key="another"),
        seen("elsewhere", State.STARTED, flow="another"),
    ]
    for _ in range(3):
        await studio.sweep(shown(*rows))
    before = list(script.keys_read)
    script.keys["x1"] = f"{start.asked.id}-1"
    await studio.sweep(shown(*rows, seen("x1", State.STARTED, flow=FLOW)))
    found = (await again(studio.store, start)).standing

    assert ["THEIRS", "theirs"] == before
    assert ["THEIRS", "theirs", "x1"] == script.keys_read
    assert (State.STARTED, "x1") == (found.state, found.external_id)


async def test_twice_4_a_key_that_was_read_early_is_read_once_more_before_absence_is_proved(studio: Follower) -> None:
    """What shows it may lag as a list does: at first its params are not there yet."""
    script = script_of(studio)
    start = await studio.unsure()
    row = shown(seen("x1", State.STARTED, flow=FLOW))
    early = await studio.scan(start, 0, swept=row)
    script.keys["x1"] = f"{start.asked.id}-1"
    states = await studio.scan(start, QUIET, 10, swept=row)

    assert [State.UNCERTAIN, State.STARTED, State.STARTED] == early + states
    assert ["x1", "x1"] == script.keys_read


async def test_a_key_that_was_read_late_enough_is_not_read_again(studio: Follower) -> None:
    """So one that is nobody's of ours costs two reads at the most, however much is sought."""
    script = script_of(studio)
    row = shown(seen("theirs", State.STARTED, flow=FLOW))
    states = []
    for _ in range(3):
        start = await studio.unsure()
        states += await studio.scan(start, 0, QUIET, 10, swept=row)

    assert [State.UNCERTAIN, State.UNCERTAIN, State.PENDING] * 3 == states
    assert ["theirs"] * 2 == script.keys_read


@pytest.mark.parametrize(
    ("created", "last"), [(0.0, State.UNCERTAIN), (None, State.UNCERTAIN), (-700.0, State.PENDING)], ids=str
)
async def test_twice_4_emptied_params_are_no_evidence_of_a_stranger(
    studio: Follower, created: float | None, last: State
) -> None:
    """Unless it was created before: then it cannot be what is sought."""
    script = script_of(studio)
    script.keys["x1"] = Key(correlation_key="", is_hidden=True)
    start = await studio.unsure()
    row = shown(seen("x1", State.STARTED, flow=FLOW, created_at=None if created is None else at(created)))
    states = await studio.scan(start, 0, QUIET, 10, 10, swept=row)

    assert [State.UNCERTAIN, State.UNCERTAIN, last, last] == states


@pytest.mark.parametrize(
    ("shows", "last"),
    [
        ("URN", State.UNCERTAIN),
        ("(206) 555-0999", State.PENDING),
        ("whatsapp:+12065550999", State.PENDING),
        ("x@y", State.UNCERTAIN),
        (None, State.UNCERTAIN),
    ],
    ids=str,
)
async def test_what_somebody_began_without_params_for_another_number_hides_nothing(
    studio: Follower, shows: str | None, last: State
) -> None:
    """Other systems start the same flow without params: only one for the same number can be what is sought."""
    script_of(studio).keys["FN" + "1" * 32] = Key(correlation_key="", is_hidden=True)
    start = await studio.unsure(terms=replace(TERMS, one_at_a_time=True))
    urn = singly(1)[0].urns[0]
    address = urn.removeprefix("tel:") if shows == "URN" else shows
    row = twilio_reading.sighting({"sid": "FN" + "1" * 32, "contact_channel_address": address}, FLOW)
    assert row is not None
    states = await studio.scan(start, 0, QUIET, 10, 10, swept=shown(row))

    assert [State.UNCERTAIN, State.UNCERTAIN, last, last] == states


async def test_no_key_is_read_while_nothing_is_sought(studio: Follower) -> None:
    """Following needs none."""
    await studio.start()
    await studio.sweep(shown(seen("theirs", State.STARTED, flow=FLOW)))

    assert [] == script_of(studio).keys_read


async def test_a_key_is_remembered_only_when_what_it_told_is_on_the_disk(studio: Follower) -> None:
    """Otherwise what was found would be lost with it."""
    script = script_of(studio)
    start = await studio.unsure()
    script.keys["x1"] = f"{start.asked.id}-1"
    studio.watched.down["sight"] = 1
    with pytest.raises(Unavailable):
        await studio.sweep(shown(seen("x1", State.STARTED, flow=FLOW)))
    lost = (await again(studio.store, start)).standing.state
    await studio.sweep()

    assert ["x1", "x1"] == script.keys_read
    assert (State.UNCERTAIN, State.STARTED) == (lost, (await again(studio.store, start)).standing.state)


@pytest.mark.parametrize(
    ("trouble", "health"),
    [
        (Unsure(reason="unreadable context", cause=Cause.UNREADABLE), HealthState.OK),
        (Missing(), HealthState.OK),
        (Throttled(seconds=5.0), HealthState.THROTTLED),
        (NotSent(reason="refused"), HealthState.UNREACHABLE),
        (Blocked(notice=SUSPENDED), HealthState.BLOCKED),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_trouble_with_a_key_makes_a_scan_unclean(studio: Follower, trouble: Any, health: HealthState) -> None:
    """What was not read may be it; it is read again, and the lane hears of it."""
    script = script_of(studio)
    start = await studio.unsure()
    row = shown(seen("odd", State.STARTED, flow=FLOW))
    script.keys["odd"] = trouble
    unread = await studio.scan(start, 0, QUIET, 100, 100, swept=row)
    found = studio.transport.circuit.state
    script.keys["odd"] = ""
    studio.pass_by(200)
    read = await studio.scan(start, 10, 10, swept=row)

    assert [State.UNCERTAIN] * 4 == unread
    assert health is found
    assert ["odd"] * 5 == script.keys_read
    assert [State.UNCERTAIN, State.PENDING] == read


async def test_reading_keys_stops_when_the_backend_asks_to_wait(studio: Follower) -> None:
    """Those that were asked for at the same time are the last; the others come with the next scan."""
    script = script_of(studio)
    start = await studio.unsure()
    names = [f"x{n:02}" for n in range(3 * AT_ONCE)]
    rows = shown(*[seen(each, State.STARTED, flow=FLOW) for each in names])
    await studio.scan(start, 0)
    script.keys[names[AT_ONCE]] = Throttled(seconds=5.0)
    stopped = await studio.scan(start, QUIET, swept=rows)
    first = list(script.keys_read)
    script.keys.clear()
    states = await studio.scan(start, 10, 10, swept=rows)

    assert names[: 2 * AT_ONCE] == first
    assert [names[AT_ONCE], *names[2 * AT_ONCE :]] == script.keys_read[len(first) :]
    assert [State.UNCERTAIN, State.UNCERTAIN, State.PENDING] == stopped + states


async def test_keys_that_are_not_read_while_the_lane_waits_make_a_scan_unclean(studio: Follower) -> None:
    """It was the dispatcher that heard it should wait; the list was read, and what it shows may be it."""
    start = await studio.unsure()
    rows = shown(seen("x1", State.STARTED, flow=FLOW))
    await studio.scan(start, 0)
    studio.pass_by(QUIET)
    studio.transport.circuit.throttled(50.0)
    states = await studio.scan(start, 0, 10, 10, swept=rows)

    assert [State.UNCERTAIN] * 3 == states
    assert [] == script_of(studio).keys_read


async def test_no_key_is_read_of_a_list_that_asked_to_wait(studio: Follower) -> None:
    """It meant that, too."""
    start = await studio.unsure()
    row = seen("x1", State.STARTED, flow=FLOW)
    await studio.scan(start, 0, swept=shown(row, trouble=Throttled(seconds=5.0)))
    waiting = list(script_of(studio).keys_read)
    await studio.scan(start, 10, swept=shown(row, trouble=Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)))

    assert [] == waiting
    assert ["x1"] == script_of(studio).keys_read


# What is to be ended


async def test_what_runs_of_a_cancelled_start_is_ended(studio: Follower) -> None:
    """Within a second or so, and it says that it was cancelled; what runs of others is left alone.

    That one is not there is no end at first: what is new is not shown yet where reads lag. It is asked for again.
    """
    other, start = await studio.start(1, "b"), await studio.start(2)
    script_of(studio).ends["a2"] = Missing()
    async with studio.running():
        await studio.turns(2)
        before = list(script_of(studio).asked_to_end)
        await studio.store.cancel(TENANT, start.asked.id, can_end=True)
        await studio.turns(2)
        once = list(script_of(studio).asked_to_end)
        lagging = (await again(studio.store, start)).standing.state
        studio.ticks.tick(LAG * studio.backend.quiet_window.total_seconds())
        await studio.turns(2)
    found = (await again(studio.store, start)).standing

    assert [] == before
    assert ["a1", "a2"] == sorted(once)
    assert State.QUEUED is lagging
    assert ["a1", "a2", "a2"] == sorted(script_of(studio).asked_to_end)
    assert State.INTERRUPTED is found.state
    assert found.failure is not None
    assert "CANCELLED" == found.failure.reason
    assert State.QUEUED is (await again(studio.store, other)).standing.state


async def test_what_is_missing_when_it_is_ended_and_then_shown_is_not_over(studio: Follower) -> None:
    """It is asked for again until it has ended."""
    start = await studio.start()
    script_of(studio).ends["a1"] = Missing()
    async with studio.running():
        await studio.store.cancel(TENANT, start.asked.id, can_end=True)
        await studio.turns(2)
        script_of(studio).ends["a1"] = Sighting(external_id="a1", state=State.STARTED)
        studio.ticks.tick(LAG * studio.backend.quiet_window.total_seconds())
        await studio.turns(2)
        shown_again = (await again(studio.store, start)).standing.state
        script_of(studio).ends["a1"] = Missing()
        studio.ticks.tick(REASK)
        await studio.turns(2)
        missing_anew = (await again(studio.store, start)).standing.state
        del script_of(studio).ends["a1"]
        studio.ticks.tick(REASK)
        await studio.turns(2)

    assert [State.STARTED, State.STARTED] == [shown_again, missing_anew]
    assert State.INTERRUPTED is (await again(studio.store, start)).standing.state


async def test_what_is_ended_was_said_to_be_before_it_was_asked_for(studio: Follower) -> None:
    """On the disk: a sweep may show the end before the answer does. What has ended meanwhile is not asked for."""
    start = await studio.start(2)
    await studio.store.cancel(TENANT, start.asked.id, can_end=True)

    async def end() -> None:
        studio.watched.before.clear()
        await studio.store.sight(BACKEND, [seen("a1", State.COMPLETED)], account=ACCOUNT)

    studio.watched.before["ending"] = end
    async with studio.running():
        await studio.turns(2)
    calls = [each for each in studio.watched.calls if each in {"ending", "sight"}]

    assert ["a2"] == script_of(studio).asked_to_end
    assert ["ending", "ending", "sight"] == calls


async def test_what_a_backend_cannot_end_runs_on(follower: Follower) -> None:
    """It is not asked to."""
    start = await follower.start()
    await follower.store.cancel(TENANT, start.asked.id, can_end=False)
    async with follower.running():
        await follower.turns(3)

    assert "endings" not in follower.watched.calls
    assert State.QUEUED is (await again(follower.store, start)).standing.state


@pytest.mark.parametrize(
    "seen_as",
    [Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR), seen("", State.STARTED)],
    ids=["unsure", "it runs on"],
)
async def test_what_does_not_end_is_asked_again_and_holds_nobody_up(studio: Follower, seen_as: Any) -> None:
    """Not every second, and those behind it have their turn."""
    script = script_of(studio)
    start = await studio.start(LOOKS + 1)
    every = [f"a{n}" for n in range(1, LOOKS + 2)]
    script.sweeps = [shown(*[seen(each, State.STARTED) for each in every])]
    script.ends = {
        each: replace(seen_as, external_id=each) if isinstance(seen_as, Sighting) else seen_as for each in every
    }
    await studio.store.cancel(TENANT, start.asked.id, can_end=True)
    async with studio.running():
        await studio.turns(1)
        first = list(script.asked_to_end)
        await studio.turns(int(REASK) - 3)
        second = list(script.asked_to_end)
        await studio.turns(3)
        third = list(script.asked_to_end)

    assert LOOKS + 1 == len(first)
    assert set(every) == set(first)
    assert first == second
    assert 2 * first == third


async def test_ending_stops_when_the_backend_asks_to_wait(studio: Follower) -> None:
    """The refusals of those that were asked for together are enough, and it goes on when it is time."""
    script = script_of(studio)
    start = await studio.start(AT_ONCE + 1)
    script.sweeps = [shown(*[seen(f"a{n}", State.STARTED) for n in range(1, AT_ONCE + 2)])]
    script.ends = {f"a{n}": Throttled(seconds=40.0) for n in range(1, AT_ONCE + 2)}
    await studio.store.cancel(TENANT, start.asked.id, can_end=True)
    async with studio.running():
        pause = await studio.ticks.sleeping()
        first = len(script.asked_to_end)
        script.ends.clear()
        studio.ticks.tick(pause)
        await studio.ticks.sleeping()

    assert (40.0, AT_ONCE) == (pause, first)
    assert State.INTERRUPTED is (await again(studio.store, start)).standing.state


async def test_nothing_is_ended_while_the_lane_waits(studio: Follower) -> None:
    """As when the sweep right before was asked to wait."""
    script = script_of(studio)
    start = await studio.start()
    script.sweeps = [shown(trouble=Throttled(seconds=40.0)), shown()]
    await studio.store.cancel(TENANT, start.asked.id, can_end=True)
    async with studio.running():
        pause = await studio.ticks.sleeping()
        meanwhile = list(script.asked_to_end)
        studio.ticks.tick(pause)
        await studio.ticks.sleeping()

    assert (40.0, []) == (pause, meanwhile)
    assert ["a1"] == script.asked_to_end


# What stands still


async def test_what_stands_still_is_marked(store: SqliteStore, clock: Clock) -> None:
    """After `stalled_after`, within a minute; what moves is not, and what moves again is no longer."""
    follower = Follower(store, clock, stalled_after=timedelta(seconds=1_000))
    still, moving = await follower.start(1, "a"), await follower.start(1, "b")

    async def marks() -> list[bool]:
        await follower.turns(int(AGED) + 1)
        return [(await again(store, each)).standing.stalled for each in (still, moving)]

    follower.script.sweeps = [shown(newest=0.0)]
    async with follower.running():
        clock.tick(990)
        before = await marks()
        await store.sight(BACKEND, [seen("b1", State.STARTED)], account=ACCOUNT)
        clock.tick(20)
        after = await marks()
        await store.sight(BACKEND, [seen("a1", State.STARTED)], account=ACCOUNT)
        again_moving = await marks()

    assert [[False, False], [True, False], [False, False]] == [before, after, again_moving]


# How often


async def test_sweeps_keep_their_interval_whatever_comes(follower: Follower) -> None:
    """Starts that are accepted all the time change what is followed; a sweep is still made once in an interval."""
    follower.script.sweeps = [shown(newest=0.0)]
    await follower.start()
    async with follower.running():
        for number in range(6 * int(INTERVAL)):
            await follower.start(1, f"s{number}-")
            follower.clock.tick(PULSE)
            await follower.turns(1)

    assert 1 + 6 == len(follower.script.asked_since)


async def test_a_store_that_cannot_record_does_not_make_sweeps_frequent(follower: Follower) -> None:
    """The backend counts them; a full disk is no reason to spend its rate."""
    await follower.start()
    follower.script.sweeps = [shown(seen("a1", State.STARTED))]
    follower.watched.down["sight"] = 1_000
    async with follower.running():
        counts = await follower.intervals(6)

    assert [1, 2, 3, 4, 5, 6] == counts


async def test_an_interval_below_a_second_is_kept(store: SqliteStore, clock: Clock) -> None:
    """Tests of whole gateways want one; so may a backend on the same machine."""
    follower = Follower(store, clock, sweep_interval=timedelta(seconds=0.25))
    await follower.start(4)
    follower.script.sweeps = [shown(seen(f"a{n}", State.STARTED), newest=0.0) for n in range(1, 5)]
    pauses = []
    async with follower.running():
        for _ in range(3):
            pauses.append(await follower.ticks.sleeping())
            follower.ticks.tick(pauses[-1])
        await follower.ticks.sleeping()

    assert [0.25] * 3 == pauses
    assert 4 == len(follower.script.asked_since)
