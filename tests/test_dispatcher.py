# ruff: noqa: E501  a row is one line
from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from gateway.adapters.base import Accepted, Barred, Blocked, Busy, Missing, NotSent, Refused, Request, Throttled, Unsure
from gateway.errors import Unavailable
from gateway.lanes.dispatcher import ENDING_PAUSE, IDLE, WRITE_WITHIN, Dispatcher
from gateway.lanes.leasing import Lease
from gateway.lanes.pacing import STUMBLES, Circuit, HealthState, Limiter
from gateway.lanes.proof import LAG
from gateway.lanes.settling import settle
from gateway.lanes.transport import UNKNOWN_CLOCK, Transport
from gateway.model import Cause, Dispatch, Identity, Notice, OutcomeKind, Recipients, State
from gateway.store import Settlement
from gateway.store.claiming import ENDED, IN_FRONT
from gateway.store.replacing import BUSY_ROUNDS
from tests.builders import ACCOUNT, BACKEND, NOON, TERMS, accepted, again, create, run_to, seen, singly, unsure
from tests.fakes import PATIENCE, Script, ScriptedTransport, Studio, Ticks, Watched, Wire, backend, http, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.model import FlowStart
    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock

ALONE = replace(TERMS, one_at_a_time=True)
DISPATCH = Dispatch(id="s-1", flow="f", recipients=Recipients(urns=("tel:+1",)), params={})
EXCLUDING = Dispatch(id="s-1", flow="f", recipients=Recipients(urns=("tel:+1",)), params={}, exclude_active=True)
NO = Notice(reason="BACKEND_REJECTED", message="no", metadata={"field": "urns"})
WALL = Notice(reason="BACKEND_MISCONFIGURED", message="a wall")
BUSY = Notice(reason="RECIPIENT_BUSY", message="busy")
BUSY_WITH = Notice(reason="RECIPIENT_BUSY", message="busy", metadata={"external_id": "x-there"})
SUSPENDED = Notice(reason="BACKEND_SUSPENDED", message="suspended")
ODD = Notice(reason="PARAMS_ALTERED", message="odd")
UNKNOWN = Notice(
    reason="OUTCOME_UNKNOWN",
    message="The backend may have carried it out (HTTP 502). It is being looked for while next_attempt_time is set;"
    " after that only the backend showing it, or ResolveFlowStart, settles it.",
    metadata={"detail": "HTTP 502"},
)


async def silence(_request: Request) -> Any:
    """Never answers."""


def later(seconds: float) -> datetime:
    """Tells a moment after noon."""
    return NOON + timedelta(seconds=seconds)


def _settled(outcome: str, state: State, detail: str = "", **different: Any) -> Settlement:
    return Settlement(outcome=OutcomeKind(outcome), detail=detail, state=state, **different)


# fmt: off
ROWS: list[tuple[str, Dispatch, Any, Settlement, HealthState, float]] = [
    ("accepted",            DISPATCH,  Accepted(external_id="x", state=State.STARTED, account="w", accepted_at=NOON, warnings=(ODD,)),
                                       _settled("ACCEPTED", State.STARTED, external_id="x", account="w", accepted_at=NOON, warnings=(ODD,)), HealthState.OK, 0.0),
    ("refused",             DISPATCH,  Refused(failure=NO),            _settled("REFUSED", State.FAILED, "BACKEND_REJECTED", failure=NO),    HealthState.OK, 0.0),
    ("busy",                DISPATCH,  Busy(failure=BUSY),          _settled("REFUSED", State.FAILED, "RECIPIENT_BUSY", failure=BUSY, cause=Cause.BUSY),    HealthState.OK, 0.0),
    ("busy, excluded",      EXCLUDING, Busy(failure=BUSY),          _settled("REFUSED", State.SKIPPED, "RECIPIENT_BUSY", failure=BUSY, cause=Cause.BUSY),   HealthState.OK, 0.0),
    ("refused, excluding",  EXCLUDING, Refused(failure=NO),            _settled("REFUSED", State.FAILED, "BACKEND_REJECTED", failure=NO),    HealthState.OK, 0.0),
    ("throttled",           DISPATCH,  Throttled(seconds=7.5),         _settled("THROTTLED", State.PENDING, due_at=later(7.5)),              HealthState.THROTTLED, 7.5),
    ("throttled, no time",  DISPATCH,  Throttled(seconds=None),        _settled("THROTTLED", State.PENDING, due_at=later(1)),                HealthState.THROTTLED, 1.0),
    ("throttled, no wait",  DISPATCH,  Throttled(seconds=0.0),         _settled("THROTTLED", State.PENDING, due_at=later(1)),                HealthState.THROTTLED, 1.0),
    ("not sent",            DISPATCH,  NotSent(reason="refused"),      _settled("NOT_SENT", State.PENDING, "refused", due_at=later(1), cause=Cause.UNREACHABLE), HealthState.UNREACHABLE, 1.0),
    ("too late to be sent", DISPATCH,  NotSent(reason="late", cause=Cause.TOO_LATE), _settled("NOT_SENT", State.PENDING, "late", due_at=NOON, cause=Cause.TOO_LATE), HealthState.UNKNOWN, 0.0),
    ("barred",              DISPATCH,  Barred(notice=WALL),            _settled("BLOCKED", State.PENDING, "BACKEND_MISCONFIGURED", due_at=later(2), warnings=(WALL,), cause=Cause.BARRED), HealthState.UNKNOWN, 0.0),
    ("barred again",        replace(DISPATCH, attempts=3), Barred(notice=WALL), _settled("BLOCKED", State.PENDING, "BACKEND_MISCONFIGURED", due_at=later(16), warnings=(WALL,), cause=Cause.BARRED), HealthState.UNKNOWN, 0.0),
    ("barred for ever",     replace(DISPATCH, attempts=10**9), Barred(notice=WALL), _settled("BLOCKED", State.PENDING, "BACKEND_MISCONFIGURED", due_at=later(3_600), warnings=(WALL,), cause=Cause.BARRED), HealthState.UNKNOWN, 0.0),
    ("blocked",             DISPATCH,  Blocked(notice=SUSPENDED),      _settled("BLOCKED", State.PENDING, "BACKEND_SUSPENDED", due_at=later(30), warnings=(SUSPENDED,)), HealthState.BLOCKED, 30.0),
    ("unsure",              DISPATCH,  Unsure(reason="HTTP 502", cause=Cause.SERVER_ERROR),      _settled("UNSURE", State.UNCERTAIN, "HTTP 502", failure=UNKNOWN, due_at=later(120), cause=Cause.SERVER_ERROR),     HealthState.UNKNOWN, 0.0),
]
# fmt: on


@pytest.mark.parametrize(
    ("dispatch", "outcome", "expected", "health", "pause"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_an_outcome_settles_a_dispatch(
    dispatch: Dispatch, outcome: Any, expected: Settlement, health: HealthState, pause: float
) -> None:
    """Each outcome tells where the dispatch goes, and how the backend is."""
    ticks = Ticks()
    lane = backend(ScriptedTransport(silence, ticks=ticks, limiter=Limiter(1, 1.0, clock=ticks)))
    circuit = lane.transport.circuit

    assert expected == settle(dispatch, outcome, lane, NOON)
    assert (health, pause) == (circuit.state, circuit.wait_seconds())


class Lane:
    """A dispatcher over a real store, and the backend it sends to: what comes back is as a test says."""

    def __init__(
        self,
        store: SqliteStore,
        clock: Callable[[], datetime],
        *,
        rate: int = 1000,
        script: Script | None = None,
        is_shared: bool = False,
        lasts: float = math.inf,
    ) -> None:
        self.store = store
        self.watched = Watched(store)
        self.ticks = Ticks()
        self.outcomes: dict[str, list[Any]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.sent: list[str] = []
        self.examined: Callable[[Request], Awaitable[Any]] | None = None
        self.limiter = Limiter(rate, 60.0, clock=self.ticks, sleep=self.ticks.sleep, is_shared=lambda: is_shared)
        self.transport = ScriptedTransport(self._answer, ticks=self.ticks, limiter=self.limiter)
        self.script = script or Script()
        self.backend = backend(self.transport, self.script)
        self.lease = Lease(self.ticks() + lasts, self.ticks)
        self.dispatcher = Dispatcher(
            self.watched, self.backend, clock, monotonic=self.ticks, sleep=self.ticks.sleep, lease=self.lease
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Lane]:
        """Runs the dispatcher; at the end what is held is let go, and it drains."""
        task = asyncio.create_task(self.dispatcher.run())
        try:
            yield self
        finally:
            for gate in self.gates.values():
                gate.set()
            async with asyncio.timeout(PATIENCE):
                await self.dispatcher.drain()
                await task

    def hold(self, start: FlowStart, number: int = 1) -> asyncio.Event:
        """Lets the backend not answer to a dispatch until the event is set."""
        return self.gates.setdefault(f"{start.asked.id}-{number}", asyncio.Event())

    async def _answer(self, request: Request) -> Any:
        if not request.creates:
            return await self.examined(request) if self.examined else None
        dispatch_id = request.path[1:]
        self.sent.append(dispatch_id)
        self.watched._changed.set()
        if dispatch_id in self.gates:
            await self.gates[dispatch_id].wait()
        outcomes = self.outcomes.get(dispatch_id, [])
        outcome = outcomes.pop(0) if outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or Accepted(
            external_id=f"x-{dispatch_id}", state=State.QUEUED, account="workspace", accepted_at=None
        )

    def answer(self, start: FlowStart, *outcomes: Any) -> None:
        """Says what comes back for the first dispatch of a start, in turn; then it is accepted."""
        self.outcomes[f"{start.asked.id}-1"] = list(outcomes)

    async def until_state(self, start: FlowStart, state: State) -> FlowStart:
        """Waits until a start stands in a state."""
        found = start

        async def is_so() -> bool:
            nonlocal found
            found = await again(self.store, start)
            return found.standing.state is state

        await self.watched.until(is_so)
        return found

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Waits until it is so."""

        async def ask() -> bool:
            return is_so()

        await self.watched.until(ask)

    async def has_looked(self) -> None:
        """Waits until the dispatcher has asked the store once more, and has done what it then does."""
        before = self.watched.calls.count("claim")
        self.dispatcher._news.set()
        await self.until(lambda: self.watched.calls.count("claim") > before)
        await settled()


@pytest.fixture
def lane(store: SqliteStore, clock: Clock) -> Lane:
    """A dispatcher that does not run yet, of a backend like RapidPro."""
    return Lane(store, clock)


@pytest.fixture
def studio(store: SqliteStore, clock: Clock) -> Lane:
    """A dispatcher that does not run yet, of a backend like Twilio Studio."""
    made = Lane(store, clock, script=Studio())
    made.dispatcher._sleep = _at_once
    return made


async def _at_once(_seconds: float) -> None:
    """Lets time pass."""
    await asyncio.sleep(0)


def script_of(lane: Lane) -> Studio:
    """Returns what the backend like Twilio Studio is told to do."""
    assert isinstance(lane.script, Studio)
    return lane.script


@pytest.mark.parametrize(
    ("outcome", "state", "failure"),
    [
        (None, State.QUEUED, None),
        (Refused(failure=NO), State.FAILED, "BACKEND_REJECTED"),
        (Busy(failure=BUSY), State.FAILED, "RECIPIENT_BUSY"),
        (Unsure(reason="HTTP 502", cause=Cause.SERVER_ERROR), State.UNCERTAIN, "OUTCOME_UNKNOWN"),
        (RuntimeError("a bug after the POST"), State.UNCERTAIN, "OUTCOME_UNKNOWN"),
        (StopAsyncIteration(), State.UNCERTAIN, "OUTCOME_UNKNOWN"),
    ],
    ids=str,
)
async def test_what_came_back_is_recorded_and_nothing_sent_again(
    lane: Lane, outcome: Any, state: State, failure: str | None
) -> None:
    """One POST, whatever came of it, even if reading the answer fails by a bug."""
    start = await create(lane.store)
    lane.answer(start, *([outcome] if outcome else []))
    async with lane.running():
        found = await lane.until_state(start, state)
        await lane.has_looked()
        await lane.has_looked()

    assert failure == (found.standing.failure.reason if found.standing.failure else None)
    assert [f"{start.asked.id}-1"] == lane.sent
    assert found.standing.is_done is (state is State.FAILED)


async def test_exclude_active_skips_who_is_busy(lane: Lane) -> None:
    """A start of which everybody was left out is completed, and says so."""
    start = await create(lane.store, exclude_active=True)
    lane.answer(start, Busy(failure=BUSY))
    async with lane.running():
        found = await lane.until_state(start, State.COMPLETED)

    assert ["NO_ONE_STARTED"] == [warning.reason for warning in found.standing.warnings]
    assert 1 == found.standing.progress.skipped


@pytest.mark.parametrize(
    ("outcome", "seconds", "warned"),
    [
        (Throttled(seconds=7.0), 7.0, []),
        (NotSent(reason="refused"), 1.0, []),
        (Blocked(notice=SUSPENDED), 30.0, ["BACKEND_SUSPENDED"]),
    ],
    ids=["throttled", "not sent", "blocked"],
)
async def test_what_was_not_taken_is_sent_again_in_its_time(
    lane: Lane, clock: Clock, outcome: Any, seconds: float, warned: list[str]
) -> None:
    """It is pending, with the moment of its next attempt; meanwhile the whole lane waits."""
    start = await create(lane.store)
    lane.answer(start, outcome)
    async with lane.running():
        await lane.until(lambda: "record" in lane.watched.calls)
        waiting = await again(lane.store, start)
        other = await create(lane.store)
        await lane.has_looked()
        meanwhile = list(lane.sent)
        clock.tick(seconds)
        lane.ticks.tick(seconds)
        lane.dispatcher._news.set()
        found = await lane.until_state(start, State.QUEUED)
        await lane.until_state(other, State.QUEUED)

    assert (State.PENDING, later(seconds)) == (waiting.standing.state, waiting.standing.next_attempt_at)
    assert warned == [warning.reason for warning in waiting.standing.warnings]
    assert [f"{start.asked.id}-1"] == meanwhile
    assert [f"{start.asked.id}-1"] * 2 == [each for each in lane.sent if each.startswith(start.asked.id)]
    assert found.standing.next_attempt_at is None


async def test_so_many_are_in_flight_and_no_more(lane: Lane) -> None:
    """A slot that frees is taken by the next one that is due."""
    start = await create(lane.store, singly(7))
    gates = [lane.hold(start, number) for number in range(1, 8)]
    async with lane.running():
        await lane.until(lambda: len(lane.sent) == 4)
        await lane.has_looked()
        first = (list(lane.sent), lane.transport.in_flight)
        gates[1].set()
        await lane.until(lambda: len(lane.sent) == 5)
        await lane.has_looked()
        second = (lane.sent[4:], lane.transport.in_flight)
        for gate in gates:
            gate.set()
        await lane.until(lambda: lane.watched.calls.count("record") == 7)

    assert ([f"{start.asked.id}-{number}" for number in range(1, 5)], 4) == first
    assert ([f"{start.asked.id}-5"], 4) == second
    assert 7 == len(lane.sent)


async def test_it_sends_at_the_rate(store: SqliteStore, clock: Clock) -> None:
    """What is beyond the rate stays unclaimed, so that a stop need not wait for it, and goes when there is room."""
    lane = Lane(store, clock, rate=3)  # two for sends, one for reads
    start = await create(store, singly(4))
    async with lane.running():
        await lane.until(lambda: lane.watched.calls.count("record") == 2)
        await lane.has_looked()
        first, unclaimed = len(lane.sent), await store.count_pending("rapidpro")
        lane.ticks.tick(60)
        lane.dispatcher._news.set()
        await lane.until_state(start, State.QUEUED)
        await lane.until(lambda: lane.watched.calls.count("record") == 4)

    assert (2, 2, 4) == (first, unclaimed, len(lane.sent))


async def test_f2_one_tenant_does_not_spend_a_whole_window(store: SqliteStore, clock: Clock) -> None:
    """Of twenty sends a minute a crowd of one tenant gets sixteen; the others' go at once, and it loses none."""
    lane = Lane(store, clock, rate=25, is_shared=True)
    await create(store, singly(18), tenant="loud")
    async with lane.running():
        await lane.until(lambda: lane.watched.calls.count("record") == 16)
        await lane.has_looked()
        first = len(lane.sent)
        for _ in range(3):
            await lane.until_state(await create(store, tenant="quiet"), State.QUEUED)
        released = lane.watched.calls.count("release")
        lane.ticks.tick(60)
        lane.dispatcher._news.set()
        await lane.until(lambda: lane.watched.calls.count("record") == 21)

    assert (16, 0, 21) == (first, released, len(lane.sent))


async def test_f2_a_tenant_that_waits_for_its_share_wakes_up_by_itself(store: SqliteStore, clock: Clock) -> None:
    """Nothing announces that a window has moved on: the lane looks again at that moment, and not a minute later."""
    lane = Lane(store, clock, rate=25, is_shared=True)
    await create(store, singly(17), tenant="loud")
    pauses: list[float] = []
    claim_and_send = lane.dispatcher._claim_and_send

    async def noting() -> float:
        pauses.append(await claim_and_send())
        return pauses[-1]

    lane.dispatcher._claim_and_send = noting  # type: ignore[method-assign]
    async with lane.running():
        await lane.until(lambda: lane.watched.calls.count("record") == 16)
        lane.ticks.tick(10)
        await lane.has_looked()

    assert 50.0 in pauses


async def test_f2_what_was_claimed_beyond_a_share_is_given_back(store: SqliteStore, clock: Clock) -> None:
    """Reads have taken a part of the window meanwhile: what the tenant may not send then waits unclaimed."""
    lane = Lane(store, clock, rate=25, is_shared=True)
    await lane.dispatcher._recall()  # nothing was sent before
    for _ in range(14):
        lane.limiter.take(sends=True, tenant="loud")

    async def read() -> None:
        for _ in range(9):
            lane.limiter.take(sends=False)

    lane.watched.before["claim"] = read
    start = await create(store, tenant="loud")
    async with lane.running():
        await lane.until(lambda: "release" in lane.watched.calls)
        del lane.watched.before["claim"]
        await lane.until_state(await create(store, tenant="quiet"), State.QUEUED)
        sent, waiting = list(lane.sent), await again(store, start)

    assert State.PENDING is waiting.standing.state
    assert 1 == len(sent)


async def test_a_rate_goes_on_over_a_restart(store: SqliteStore, clock: Clock) -> None:
    """What was sent in the window before, by whichever process, leaves that much less; and its places free in time."""
    first = Lane(store, clock, rate=5)  # four for sends, one for reads
    start = await create(store, singly(6))
    async with first.running():
        await first.until(lambda: first.watched.calls.count("record") == 4)
    clock.tick(20)
    second = Lane(store, clock, rate=5)
    async with second.running():
        await second.has_looked()
        before, wait = list(second.sent), second.limiter.wait_seconds(sends=True)
        second.ticks.tick(40)
        second.dispatcher._news.set()
        await second.until(lambda: second.watched.calls.count("record") == 2)

    assert ([], 40.0) == (before, wait)
    assert [f"{start.asked.id}-5", f"{start.asked.id}-6"] == second.sent


async def test_nothing_is_sent_before_it_is_known_what_the_rate_has_left(store: SqliteStore, clock: Clock) -> None:
    """While the store cannot say it, nothing goes; it is asked once, and tenants have what is left of their share."""
    first = Lane(store, clock, rate=25, is_shared=True)
    await create(store, singly(30), tenant="loud")
    async with first.running():
        await first.until(lambda: first.watched.calls.count("record") == 16)
    second = Lane(store, clock, rate=25, is_shared=True)
    second.watched.down["sends"] = 1
    await create(store, singly(1), tenant="quiet")
    async with second.running():
        async with asyncio.timeout(PATIENCE):
            await second.ticks.sleeping()
        before = list(second.watched.calls)
        second.ticks.tick(1)
        await second.until(lambda: second.watched.calls.count("record") == 1)
        await second.has_looked()

    assert ["sends"] == before
    assert 2 == second.watched.calls.count("sends")
    assert ({"loud": 0}, 1) == (second.limiter.limits(), len(second.sent))


async def test_a_claim_that_finds_the_rate_spent_is_given_back(store: SqliteStore, clock: Clock) -> None:
    """A sweep may have taken the last request meanwhile: the dispatch waits unclaimed, and a stop is not held up."""
    lane = Lane(store, clock, rate=2)

    async def spend() -> None:
        while lane.limiter.left(sends=False):
            await lane.limiter.acquire(sends=False)

    lane.watched.before["claim"] = spend
    start = await create(store)
    async with lane.running():
        await lane.until(lambda: "release" in lane.watched.calls)
        del lane.watched.before["claim"]
        unclaimed = await store.count_pending("rapidpro")
        sent = list(lane.sent)
        lane.ticks.tick(60)
        lane.dispatcher._news.set()
        await lane.until_state(start, State.QUEUED)

    assert (1, []) == (unclaimed, sent)
    assert 1 == len(lane.sent)


async def test_a_claim_that_finds_the_lane_closed_is_given_back(lane: Lane) -> None:
    """The backend may have asked to wait while the store was asked: then nothing is sent until it is time."""

    async def throttle() -> None:
        lane.transport.circuit.throttled(50.0)
        del lane.watched.before["claim"]

    lane.watched.before["claim"] = throttle
    start = await create(lane.store)
    async with lane.running():
        await lane.until(lambda: "release" in lane.watched.calls)
        sent = list(lane.sent)
        lane.ticks.tick(50)
        lane.dispatcher._news.set()
        await lane.until_state(start, State.QUEUED)

    assert [] == sent


async def test_a_broken_backend_does_not_burn_every_start(lane: Lane) -> None:
    """After three unanswered sends in a row only one goes at a time, and only after a pause, until one is answered."""
    starts = [await create(lane.store) for _ in range(9)]
    for start in starts[:6]:
        lane.answer(start, Unsure(reason="HTTP 502", cause=Cause.SERVER_ERROR))
    counts = []
    async with lane.running():
        await lane.until(lambda: lane.watched.calls.count("record") == 4)  # as many as were in flight
        for _ in range(3):
            await lane.has_looked()
            lane.ticks.tick(60)
            done = lane.watched.calls.count("record")
            lane.dispatcher._news.set()
            await lane.until(lambda done=done: lane.watched.calls.count("record") > done)  # type: ignore[misc]
            counts.append(len(lane.sent))
        await lane.until_state(starts[-1], State.QUEUED)

    assert STUMBLES <= 4
    assert [5, 6] == counts[:2]
    assert 9 == len(lane.sent)


async def test_b4_poison_of_one_tenant_holds_up_no_other(lane: Lane) -> None:
    """The other one's starts go at once, while those that break the backend go one at a time after pauses."""
    loud = [await create(lane.store, tenant="loud") for _ in range(9)]
    for start in loud:
        lane.answer(start, *[Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)] * 9)
    async with lane.running():
        await lane.until(lambda: lane.watched.calls.count("record") == 4)  # as many as are in flight
        for _ in range(3):
            quiet = await create(lane.store, tenant="quiet")
            await lane.until_state(quiet, State.QUEUED)
            await lane.has_looked()
        sent = len(lane.sent)
        lane.ticks.tick(60)
        await lane.has_looked()
        await lane.until(lambda: lane.watched.calls.count("record") == 8)
        await lane.has_looked()

    assert (7, 8) == (sent, len(lane.sent))


async def test_b4_slow_sends_of_one_tenant_leave_a_slot_to_others(lane: Lane) -> None:
    """They are good, and each takes seconds: of four slots they hold three, but for the first time."""
    loud = [await create(lane.store, tenant="loud") for _ in range(12)]
    gates = [lane.hold(start) for start in loud]
    async with lane.running():
        await lane.until(lambda: len(lane.sent) == 4)
        lane.ticks.tick(2)
        for gate in gates[:4]:
            gate.set()
        await lane.until(lambda: len(lane.sent) == 7)
        await lane.has_looked()
        held = len(lane.sent)
        for _ in range(3):
            await lane.until_state(await create(lane.store, tenant="quiet"), State.QUEUED)

    assert 7 == held


async def test_f1_slow_sends_of_several_tenants_leave_a_slot_to_others(lane: Lane) -> None:
    """Together they hold three of four slots, as one of them would."""
    loud = [await create(lane.store, tenant=tenant) for _ in range(6) for tenant in ("loud", "loud2")]
    gates = {start.asked.id: lane.hold(start) for start in loud}
    async with lane.running():
        await lane.until(lambda: len(lane.sent) == 4)
        lane.ticks.tick(2)
        for sent in lane.sent[:4]:
            gates[sent.rpartition("-")[0]].set()
        await lane.until(lambda: len(lane.sent) == 7)
        await lane.has_looked()
        held = len(lane.sent)
        for _ in range(3):
            await lane.until_state(await create(lane.store, tenant="quiet"), State.QUEUED)

    assert 7 == held


async def test_f1_a_send_that_goes_on_for_long_is_slow_before_it_ends(lane: Lane) -> None:
    """One start after the other that hangs: three hold their slots, the fourth waits, and the others are sent."""
    async with lane.running():
        for number in range(1, 6):
            lane.hold(await create(lane.store, tenant="loud"))
            if number <= 3:
                await lane.until(lambda number=number: len(lane.sent) == number)  # type: ignore[misc]
            lane.ticks.tick(2)
            await lane.has_looked()
        held = len(lane.sent)
        for _ in range(3):
            await lane.until_state(await create(lane.store, tenant="quiet"), State.QUEUED)

    assert 3 == held


async def test_f1_a_quick_send_between_slow_ones_clears_nobody(lane: Lane) -> None:
    """Else a tenant could take every slot again after each quick one."""
    loud = [await create(lane.store, tenant="loud") for _ in range(10)]
    gates = [lane.hold(start) for start in loud]
    async with lane.running():
        await lane.until(lambda: len(lane.sent) == 4)
        lane.ticks.tick(2)
        for gate in gates[:4]:
            gate.set()
        await lane.until(lambda: len(lane.sent) == 7)
        gates[4].set()
        await lane.until(lambda: len(lane.sent) == 8)
        await lane.has_looked()
        held = len(lane.sent)

    assert 8 == held


async def test_b4_who_asks_a_slow_firewall_holds_no_slot(lane: Lane) -> None:
    """One that refuses a request and does not answer when it is asked holds up nobody who could be sent."""
    asked = asyncio.Event()

    async def examine(_request: Request) -> Any:
        asked.set()
        await asyncio.Event().wait()

    lane.examined = examine
    barred = [await create(lane.store) for _ in range(4)]
    for start in barred:
        lane.answer(start, Barred(notice=WALL))
    async with lane.running():
        await asked.wait()
        await lane.until(lambda: lane.watched.calls.count("record") == 4)
        await settled()

        assert 0 == len(lane.dispatcher._sending)


async def test_an_answer_is_recorded_however_long_the_store_takes(lane: Lane) -> None:
    """One POST; the record is insisted on until the store takes it."""
    start = await create(lane.store)
    lane.watched.down["record"] = 5
    async with lane.running():
        for _ in range(5):
            await lane.ticks.sleeping()
            lane.ticks.tick(1)
        found = await lane.until_state(start, State.QUEUED)

    assert f"x-{start.asked.id}-1" == found.standing.external_id
    assert (1, 6) == (len(lane.sent), lane.watched.calls.count("record"))


async def test_nothing_is_sent_before_the_attempt_is_on_the_disk(lane: Lane) -> None:
    """While the store cannot be written, the dispatch waits; it is sent once it can."""
    start = await create(lane.store)
    lane.watched.down["begin_attempt"] = 2
    async with lane.running():
        await lane.ticks.sleeping()
        before = list(lane.sent)
        for _ in range(2):
            await lane.ticks.sleeping()
            lane.ticks.tick(1)
        await lane.until_state(start, State.QUEUED)

    assert [] == before
    assert 1 == len(lane.sent)


async def test_nothing_is_sent_before_the_account_is_known(lane: Lane) -> None:
    """It may be another one than the start was recorded for; then what is due goes by itself."""
    start = await create(lane.store)
    lane.transport.identity = None
    async with lane.running():
        for _ in range(3):
            await lane.has_looked()
        before = (list(lane.sent), await lane.store.count_pending(BACKEND))
        lane.transport.identity = Identity(account=ACCOUNT)
        await lane.until_state(start, State.QUEUED)

    assert ([], 1) == before
    assert 1 == len(lane.sent)


@pytest.mark.parametrize("account", [ACCOUNT, ""])
@pytest.mark.parametrize("off", [None, -3_000.0, 90.0])
async def test_an_attempt_says_to_whom_it_goes_and_when_by_their_clock(
    lane: Lane, account: str, off: float | None
) -> None:
    """That is from when it must be looked for; where their clock was not told, an hour is allowed for the difference."""
    lane.transport.identity = Identity(account=account)
    if off is not None:
        lane.transport.tell(later(off))
    start = await create(lane.store)
    lane.answer(start, Unsure(reason="HTTP 502", cause=Cause.SERVER_ERROR))
    async with lane.running():
        await lane.until_state(start, State.UNCERTAIN)
    (sought,) = await lane.store.sought(BACKEND, account)

    assert (f"{start.asked.id}-1", account, 1) == (sought.id, sought.account, sought.attempts)
    assert (NOON - UNKNOWN_CLOCK if off is None else later(off)) == sought.since


async def test_who_waits_for_another_dispatch_is_not_asked_for_again_and_again(lane: Lane) -> None:
    """Of two for one recipient the second is held back while the first is looked for: nothing to do, so no turn."""
    terms = replace(TERMS, one_at_a_time=True)
    first = await create(lane.store, terms=terms)
    await run_to(lane.store, first, unsure())
    held = await create(lane.store, terms=terms)
    pause = await lane.dispatcher._claim_and_send()
    async with lane.running():
        await lane.has_looked()
        looked = lane.watched.calls.count("claim")
        await settled(500)
        again_looked = lane.watched.calls.count("claim")
        (sought,) = await lane.store.sought(BACKEND, ACCOUNT)
        await lane.store.rest(sought)  # one at rest holds nobody back
        await lane.until_state(held, State.QUEUED)

    assert IDLE <= pause
    assert looked == again_looked
    assert [f"{held.asked.id}-1"] == lane.sent


async def test_a_claim_that_fails_stops_nothing(lane: Lane) -> None:
    """A store that is unavailable is asked again."""
    start = await create(lane.store)
    lane.watched.down["claim"] = 1
    async with lane.running():
        await lane.until(lambda: "claim" in lane.watched.calls)
        lane.dispatcher._news.set()
        await lane.until_state(start, State.QUEUED)

    assert 1 == len(lane.sent)


async def test_newcomer_10_a_store_that_is_down_for_many_tries_is_two_lines_of_the_log(lane: Lane) -> None:
    """Its disk was full for 22 seconds, and the log had 42 lines: one as it begins, one when it is over."""
    tries = iter(range(100))

    async def take() -> int:
        tried = next(tries)
        if tried < 40:
            raise Unavailable(message="Its disk is full.")
        return tried

    lane.dispatcher._sleep = lambda _: asyncio.sleep(0)
    with capture_logs() as logged:
        taken = await lane.dispatcher._insist(take)

    assert 40 == taken
    assert [("store_unavailable", 1), ("store_unavailable_over", 40)] == [(e["event"], e["times"]) for e in logged]
    assert "Its disk is full." == logged[0]["why"]


async def test_draining_waits_for_the_answers(lane: Lane) -> None:
    """What is being sent is recorded; nothing more is claimed."""
    start = await create(lane.store, singly(1))
    gate = lane.hold(start)
    task = asyncio.create_task(lane.dispatcher.run())
    await lane.until(lambda: len(lane.sent) == 1)
    draining = asyncio.create_task(lane.dispatcher.drain())
    late = await create(lane.store)
    await settled()
    waits = not draining.done()
    gate.set()
    async with asyncio.timeout(PATIENCE):
        await draining
        await task

    assert waits
    assert [State.QUEUED, State.PENDING] == [(await again(lane.store, each)).standing.state for each in (start, late)]
    assert 1 == len(lane.sent)


async def test_what_is_claimed_as_it_drains_is_not_sent(lane: Lane) -> None:
    """The next incarnation has it: a stop waits for what was sent before it, not for more."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        reached.set()
        await go_on.wait()

    start = await create(lane.store)
    lane.watched.before["claim"] = pause
    task = asyncio.create_task(lane.dispatcher.run())
    async with asyncio.timeout(PATIENCE):
        await reached.wait()
        await lane.dispatcher.drain()
        go_on.set()
        await task

    assert {} == lane.dispatcher._sending
    assert [] == lane.sent
    assert State.PENDING is (await again(lane.store, start)).standing.state


async def test_the_next_incarnation_settles_what_was_left(
    lane: Lane, clock: Clock, reopen: Callable[..., SqliteStore]
) -> None:
    """A crash while sending: what may have been sent is uncertain and rests, what was only claimed is sent."""
    start = await create(lane.store, singly(5))
    for number in range(1, 5):
        lane.hold(start, number)
    task = asyncio.create_task(lane.dispatcher.run())
    await lane.until(lambda: len(lane.sent) == 4)
    (claimed,) = (await lane.store.claim("rapidpro", 1)).dispatches
    task.cancel()
    for sending in lane.dispatcher._sending:
        sending.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await lane.store.close()
    second = Lane(reopen(), clock)
    async with second.running():
        found = await second.until_state(start, State.QUEUED)

    assert [claimed.id] == second.sent
    assert (4, 1) == (found.standing.progress.uncertain, found.standing.progress.queued)


async def test_a_scheduled_start_goes_when_it_is_time(reopen: Callable[..., SqliteStore]) -> None:
    """The dispatcher wakes for it by itself, and does not poll until then."""

    def now() -> datetime:
        return datetime.now(UTC)

    lane = Lane(reopen("scheduled.db"), now)
    lane.store.engine.writer._clock = now  # this store tells the real time
    due_at = now() + timedelta(seconds=0.25)
    start = await create(lane.store, created_at=now(), schedule_at=due_at)
    async with lane.running():
        await lane.until_state(start, State.QUEUED)
        sent_at = now()

    assert sent_at >= due_at
    assert sent_at < due_at + timedelta(seconds=5)
    assert lane.watched.calls.count("claim") < 10


async def test_what_expires_while_it_waits_is_never_sent(lane: Lane, clock: Clock) -> None:
    """Between its claim and its attempt, too."""

    async def expire() -> None:
        clock.tick(60)
        lane.watched.before.clear()

    waiting = await create(lane.store, schedule_at=later(10), expire_at=later(20))
    claimed = await create(lane.store, expire_at=later(30))
    lane.watched.before["begin_attempt"] = expire
    async with lane.running():
        found = [await lane.until_state(start, State.FAILED) for start in (waiting, claimed)]

    assert ["EXPIRED", "EXPIRED"] == [start.standing.failure.reason for start in found if start.standing.failure]
    assert [] == lane.sent


async def test_b_what_expires_at_once_ends_in_steps_with_rests_between(lane: Lane, clock: Clock) -> None:
    """However often the lane looks meanwhile; what another tenant starts is sent in a rest, too."""
    crowd = await create(lane.store, singly(5 * ENDED), schedule_at=later(50), expire_at=later(60))
    clock.tick(60)
    async with lane.running():
        await lane.until(lambda: "claim" in lane.watched.calls)
        first = await lane.store.count_pending(BACKEND)
        quiet = await create(lane.store, tenant="quiet")
        await lane.until_state(quiet, State.QUEUED)
        await lane.has_looked()
        rested = await lane.store.count_pending(BACKEND)
        for _ in range(10):
            lane.ticks.tick(ENDING_PAUSE)
            await lane.has_looked()
        at_last = await again(lane.store, crowd)

    assert 5 * ENDED > first >= 4 * ENDED - IN_FRONT
    assert first == rested
    assert (State.FAILED, 5 * ENDED) == (at_last.standing.state, at_last.standing.progress.failed)
    assert [f"{quiet.asked.id}-1"] == lane.sent


async def test_nothing_begins_under_a_lease_that_is_nearly_over(store: SqliteStore, clock: Clock) -> None:
    """What was claimed is given back; once the lease is renewed it goes on. What is being sent may have its answer."""
    lane = Lane(store, clock, lasts=2 * WRITE_WITHIN)
    first = await create(store)
    held = lane.hold(first)
    async with lane.running():
        await lane.until(lambda: bool(lane.sent))
        lane.ticks.tick(WRITE_WITHIN)
        second = await create(store)
        await lane.has_looked()
        sent_late = list(lane.sent)
        held.set()
        await lane.until_state(first, State.QUEUED)
        waits = (await again(store, second)).standing.state
        lane.lease.ends_at = lane.ticks() + 2 * WRITE_WITHIN
        await lane.has_looked()
        await lane.until_state(second, State.QUEUED)

    assert [f"{first.asked.id}-1"] == sent_late
    assert State.PENDING is waits


async def test_what_was_claimed_under_a_lease_that_is_over_is_given_back(store: SqliteStore, clock: Clock) -> None:
    """It has no attempt then: whoever has the lane may send it."""
    lane = Lane(store, clock, lasts=2 * WRITE_WITHIN)
    start = await create(store)

    async def stand_still() -> None:
        lane.lease.ends_at = lane.ticks()

    lane.watched.before["claim"] = stand_still
    async with lane.running():
        await lane.until(lambda: "release" in lane.watched.calls)
        await settled()
        (dispatch,) = (await store.claim(BACKEND, 1)).dispatches

    assert [] == lane.sent
    assert (f"{start.asked.id}-1", 0) == (dispatch.id, dispatch.attempts)


async def test_a_paused_process_sends_once(store: SqliteStore, clock: Clock) -> None:
    """Paused between the attempt and the first byte, it sends nothing then, and sends once when it is time again."""
    now = [0.0]
    paused = [WRITE_WITHIN + 1, 0.0]  # what the clock shows at the socket, in turn

    def at_the_socket() -> float:
        return paused.pop(0) if paused else 0.0

    async with Wire(lambda _: http(200)) as server:
        transport = Transport(
            server.url,
            timeout=timedelta(seconds=5),
            limiter=Limiter(100, 1.0),
            rate_counts_reads=False,
            concurrency=2,
            clock=at_the_socket,
        )
        ticks = Ticks()
        transport.circuit = Circuit(clock=ticks, jitter=lambda: 1.0)
        watched = Watched(store)
        async with transport:
            adapter = _Judging()
            dispatcher = Dispatcher(
                watched, backend(transport, adapter), clock, sleep=ticks.sleep, monotonic=lambda: now[0]
            )
            start, resumed = await create(store), asyncio.Event()

            async def wait() -> None:
                await resumed.wait()

            async def claim_no_more_for_now() -> None:
                watched.before["claim"] = wait

            watched.before["record"] = claim_no_more_for_now
            task = asyncio.create_task(dispatcher.run())
            await watched.until(_said(lambda: "record" in watched.calls))
            put_off = (await again(store, start)).standing
            heard = len(server.heard)
            clock.tick(1)
            ticks.tick(1)
            resumed.set()
            dispatcher._news.set()
            await watched.until(_said(lambda: watched.calls.count("record") == 2))
            await dispatcher.drain()
            await task

    assert (State.PENDING, None, 0) == (put_off.state, put_off.next_attempt_at, heard)
    assert State.QUEUED is (await again(store, start)).standing.state
    assert 1 == len(server.heard)


class _Judging(Script):
    """An adapter that reads real answers."""

    def send(self, dispatch: Dispatch) -> Any:
        """Sends one dispatch."""
        answer = yield Request(method="POST", path="/", headers={}, body=b"{}", creates=True)
        if getattr(answer, "status", 0) == 200:
            return Accepted(external_id=f"x-{dispatch.id}", state=State.QUEUED, account="workspace", accepted_at=None)
        return (
            Unsure(reason=answer.reason, cause=answer.cause)
            if answer.sent
            else NotSent(reason=answer.reason, cause=answer.cause)
        )


def _said(is_so: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return is_so()

    return ask


# Who is busy


async def busy(lane: Lane, metadata: Notice = BUSY_WITH, **different: Any) -> FlowStart:
    """Records a start whose first attempt is unsure, and whose second one will find the recipient busy."""
    start = await create(lane.store, **different)
    await run_to(lane.store, start, unsure())
    await prove_absent(lane)
    lane.answer(start, *[Busy(failure=metadata, external_id=metadata.metadata.get("external_id", ""))] * 2)
    return start


async def prove_absent(lane: Lane) -> None:
    """Has what is looked for proved absent, so that it is sent again."""
    (sought,) = await lane.store.sought(BACKEND, ACCOUNT)
    await lane.store.absent(sought, on_absent=State.PENDING, pause=timedelta())


async def test_who_is_busy_with_an_earlier_attempt_was_reached(studio: Lane) -> None:
    """What runs carries this dispatch's own key: it is accepted, as if the first answer had come."""
    start = await busy(studio)
    script_of(studio).keys["x-there"] = f"{start.asked.id}-1"
    async with studio.running():
        found = await studio.until_state(start, State.QUEUED)

    assert "x-there" == found.standing.external_id
    assert 1 == len(studio.sent)
    assert [] == script_of(studio).asked_to_end


@pytest.mark.parametrize("key", ["another-1", ""], ids=["another start", "nobody of ours"])
@pytest.mark.parametrize(
    ("different", "state", "failure"),
    [
        ({}, State.FAILED, "RECIPIENT_BUSY"),
        ({"exclude_active": True}, State.COMPLETED, None),
        ({"restart_participants": True}, State.FAILED, "RECIPIENT_BUSY"),
    ],
    ids=["plain", "exclude_active", "restart_participants"],
)
async def test_who_is_busy_with_something_else_is_busy(
    studio: Lane, different: dict[str, Any], state: State, failure: str | None, key: str
) -> None:
    """Also after an earlier attempt. What is none of this tenant's is not ended."""
    start = await busy(studio, **different)
    script_of(studio).keys["x-there"] = key
    async with studio.running():
        found = (await studio.until_state(start, state)).standing

    assert failure == (found.failure.reason if found.failure else None)
    assert (1 if "exclude_active" in different else 0) == found.progress.skipped
    assert ([], 1) == (script_of(studio).asked_to_end, len(studio.sent))
    assert ["x-there"] * (1 if key else 2) == script_of(studio).keys_read  # a context may show its key later


AS_ASKED = pytest.mark.parametrize(
    ("different", "state"),
    [({}, State.FAILED), ({"exclude_active": True}, State.COMPLETED), ({"restart_participants": True}, State.FAILED)],
    ids=["plain", "exclude_active", "restart_participants"],
)


@AS_ASKED
@pytest.mark.parametrize("notice", [BUSY_WITH, BUSY], ids=["named", "not named"])
async def test_c1_c2_no_earlier_attempt_was_unsure_so_the_recipient_is_busy_with_something_else(
    studio: Lane, clock: Clock, notice: Notice, different: dict[str, Any], state: State
) -> None:
    """An attempt that was throttled created nothing, and what is busy may be in another flow: it is not looked for."""
    start = await create(studio.store, **different)
    said = Busy(failure=notice, external_id=notice.metadata.get("external_id", ""))
    studio.answer(start, Throttled(seconds=1.0), said)
    script_of(studio).keys["x-there"] = Missing()
    async with studio.running():
        await studio.until(lambda: "record" in studio.watched.calls)
        clock.tick(1)
        studio.ticks.tick(1)
        studio.dispatcher._news.set()
        found = await studio.until_state(start, state)

    asked = ["x-there"] * 2 if notice is BUSY_WITH else []
    assert (asked, 2) == (script_of(studio).keys_read, len(studio.sent))
    assert (1 if "exclude_active" in different else 0) == found.standing.progress.skipped


async def test_c1_what_the_store_knows_under_another_dispatch_is_not_an_earlier_attempt(studio: Lane) -> None:
    """It is asked of nobody."""
    await running_already(studio)
    start = await busy(studio)
    async with studio.running():
        await studio.until_state(start, State.FAILED)

    assert ([], 1) == (script_of(studio).keys_read, len(studio.sent))


@AS_ASKED
@pytest.mark.parametrize("notice", [BUSY_WITH, BUSY], ids=["named", "not named"])
async def test_c1_c2_who_was_looked_for_and_not_found_is_busy_with_something_else(
    studio: Lane, notice: Notice, different: dict[str, Any], state: State
) -> None:
    """After one more proof of absence it is as was asked for, and not sent every quiet window."""
    start = await busy(studio, notice, **different)
    script_of(studio).keys["x-there"] = Missing()
    async with studio.running():
        await studio.until_state(start, State.UNCERTAIN)
        await prove_absent(studio)
        found = await studio.until_state(start, state)

    assert 2 == len(studio.sent)
    assert (1 if "exclude_active" in different else 0) == found.standing.progress.skipped


@pytest.mark.parametrize("different", [{}, {"exclude_active": True}, {"restart_participants": True}], ids=str)
@pytest.mark.parametrize(
    ("key", "notice"),
    [
        (Missing(), BUSY_WITH),
        (Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR), BUSY_WITH),
        (NotSent(reason="refused"), BUSY_WITH),
        (Throttled(seconds=3.0), BUSY_WITH),
        ("", BUSY),
    ],
    ids=["missing", "unsure", "not sent", "throttled", "not told with what"],
)
async def test_who_may_be_busy_with_an_earlier_attempt_is_looked_for(
    studio: Lane, key: Any, notice: Notice, different: dict[str, Any]
) -> None:
    """It is neither failed nor sent again before that is known, whatever was asked for; and nothing is ended."""
    start = await busy(studio, notice, **different)
    script_of(studio).keys["x-there"] = key
    async with studio.running():
        found = (await studio.until_state(start, State.UNCERTAIN)).standing
        await studio.has_looked()

    assert found.next_attempt_at is not None
    assert found.failure is not None
    assert "OUTCOME_UNKNOWN" == found.failure.reason
    assert (1, []) == (len(studio.sent), script_of(studio).asked_to_end)
    assert 1 == len(await studio.store.sought(BACKEND, ACCOUNT))


async def test_whose_keys_cannot_be_read_may_be_busy_with_an_earlier_attempt(lane: Lane) -> None:
    """As on a backend that has neither a way to read them nor to end what runs."""
    start = await busy(lane, restart_participants=True)
    async with lane.running():
        await lane.until_state(start, State.UNCERTAIN)

    assert 1 == len(lane.sent)


@pytest.mark.parametrize("different", [{}, {"exclude_active": True}, {"restart_participants": True}], ids=str)
async def test_twice_6_a_first_attempt_that_finds_its_own_execution_was_accepted(
    studio: Lane, different: dict[str, Any]
) -> None:
    """A proxy sent the POST twice, and passed on the answer to the second one. Nothing is failed, skipped or ended."""
    start = await create(studio.store, **different)
    studio.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    script_of(studio).keys["x-there"] = f"{start.asked.id}-1"
    async with studio.running():
        await studio.until(lambda: "record" in studio.watched.calls)
        await studio.has_looked()
        found = await again(studio.store, start)

    assert (State.QUEUED, "x-there") == (found.standing.state, found.standing.external_id)
    assert (1, []) == (len(studio.sent), script_of(studio).asked_to_end)


async def test_a_first_attempt_that_cannot_find_out_who_is_busy_is_not_looked_for(studio: Lane) -> None:
    """There is no earlier one that was unsure, and reads that lag would show this one by now."""
    start = await create(studio.store)
    studio.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    script_of(studio).keys["x-there"] = Missing()
    slept = pauses_of(studio)
    async with studio.running():
        await studio.until_state(start, State.FAILED)

    assert ["x-there"] * 2 == script_of(studio).keys_read
    assert LAG * studio.backend.quiet_window.total_seconds() <= sum(slept)


@pytest.mark.parametrize("different", [{}, {"exclude_active": True}, {"restart_participants": True}], ids=str)
@pytest.mark.parametrize(
    "first",
    [Missing(), "", Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR), Throttled(seconds=1.0)],
    ids=["missing", "without its key", "unread", "throttled"],
)
async def test_lose2_a3_what_reads_that_lag_do_not_show_yet_is_read_again(
    studio: Lane, first: Any, different: dict[str, Any]
) -> None:
    """A proxy sent the POST twice, and the key of what the first one began can be read a little later."""
    start = await create(studio.store, **different)
    studio.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    keys = script_of(studio).keys
    keys["x-there"] = first

    async def sleep(_seconds: float) -> None:
        keys["x-there"] = f"{start.asked.id}-1"
        await asyncio.sleep(0)

    studio.dispatcher._sleep = sleep
    async with studio.running():
        await studio.until(lambda: "record" in studio.watched.calls)
        found = await again(studio.store, start)

    assert (State.QUEUED, "x-there") == (found.standing.state, found.standing.external_id)
    assert (1, []) == (len(studio.sent), script_of(studio).asked_to_end)


@pytest.mark.parametrize("different", [{}, {"exclude_active": True}, {"restart_participants": True}], ids=str)
async def test_lose2_a3_what_cannot_be_read_is_looked_for(studio: Lane, different: dict[str, Any]) -> None:
    """A read that fails decides nothing, also after a first attempt. A proof of absence does."""
    start = await create(studio.store, **different)
    studio.answer(start, *[Busy(failure=BUSY_WITH, external_id="x-there")] * 2)
    script_of(studio).keys["x-there"] = Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)
    async with studio.running():
        await studio.until_state(start, State.UNCERTAIN)
        await prove_absent(studio)
        await studio.until_state(start, State.COMPLETED if "exclude_active" in different else State.FAILED)

    assert (2, []) == (len(studio.sent), script_of(studio).asked_to_end)


class HeldPause:
    """Has the pauses of a lane last until it drains."""

    def __init__(self, lane: Lane) -> None:
        self._dispatcher = lane.dispatcher
        self._begun, self._step = asyncio.Event(), asyncio.Event()
        lane.dispatcher._sleep = self._sleep

    async def _sleep(self, _seconds: float) -> None:
        self._begun.set()
        await self._step.wait()

    async def begun(self) -> None:
        """Waits until one has begun."""
        async with asyncio.timeout(PATIENCE):
            await self._begun.wait()

    async def drain(self) -> None:
        """Drains the lane, lets a step of the pause pass, and waits until it is drained."""
        draining = asyncio.create_task(self._dispatcher.drain())
        await asyncio.sleep(0)
        self._step.set()
        async with asyncio.timeout(PATIENCE):
            await draining


async def test_lose2_a3_a_gateway_that_stops_does_not_decide_by_what_was_not_there_yet(studio: Lane) -> None:
    """The next one looks for it."""
    start = await create(studio.store)
    studio.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    script_of(studio).keys["x-there"] = Missing()
    pause = HeldPause(studio)
    async with studio.running():
        await pause.begun()
        await pause.drain()

    assert State.UNCERTAIN is (await again(studio.store, start)).standing.state


def pauses_of(lane: Lane) -> list[float]:
    """Lets pauses pass at once, and lists how long they would have been."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    lane.dispatcher._sleep = sleep
    return slept


# What a firewall refuses, and what is too late


async def test_b4_a_request_that_is_refused_on_its_way_backs_off_alone(lane: Lane) -> None:
    """Foreign words blame neither the account nor the others: those are sent meanwhile."""
    barred, others = await create(lane.store), [await create(lane.store) for _ in range(5)]
    lane.answer(barred, *[Barred(notice=WALL)] * 2)

    async def has_warned() -> bool:
        return bool((await again(lane.store, barred)).standing.warnings)

    async with lane.running():
        for each in others:
            await lane.until_state(each, State.QUEUED)
        await lane.watched.until(has_warned)
    waiting = await again(lane.store, barred)

    assert HealthState.OK is lane.transport.circuit.state
    assert 0.0 == lane.transport.circuit.wait_seconds()
    assert State.PENDING is waiting.standing.state
    assert waiting.standing.next_attempt_at is not None
    assert ["BACKEND_MISCONFIGURED"] == [warning.reason for warning in waiting.standing.warnings]


async def test_b4_where_not_even_the_account_can_be_asked_for_the_lane_waits(lane: Lane) -> None:
    """It is another host, or a wall that nothing passes: no start is burnt on it."""
    lane.script.accounts = [Barred(notice=WALL)]
    starts = [await create(lane.store) for _ in range(3)]
    for each in starts:
        lane.answer(each, *[Barred(notice=WALL)] * 9)
    async with lane.running():
        async with asyncio.timeout(PATIENCE):
            while lane.transport.circuit.state is not HealthState.BLOCKED:  # noqa: ASYNC110 -- nothing announces it
                await asyncio.sleep(0)

    assert lane.transport.circuit.wait_seconds() > 0


async def test_a9_what_was_too_late_to_be_sent_says_nothing_of_the_backend(lane: Lane) -> None:
    """Its moment passed between its claim and the first byte, however often: the lane goes on at once."""
    late, other = await create(lane.store), await create(lane.store)
    lane.answer(late, *[NotSent(reason="late", cause=Cause.TOO_LATE)] * 5)
    async with lane.running():
        await lane.until_state(other, State.QUEUED)
        await lane.until_state(late, State.QUEUED)

    assert HealthState.OK is lane.transport.circuit.state
    assert 6 == lane.sent.count(f"{late.asked.id}-1")


async def running_already(lane: Lane, **different: Any) -> FlowStart:
    """Makes a start that runs, whose external id is that of whoever keeps the recipient busy."""
    start = await create(lane.store, **different)
    await run_to(lane.store, start, accepted("x-there", State.STARTED))
    return start


async def test_restarting_ends_what_runs_and_sends_again(studio: Lane) -> None:
    """What was ended says why, and it is the same recipient's that starts anew."""
    there = await running_already(studio)
    start = await create(studio.store, restart_participants=True)
    studio.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    async with studio.running():
        found = await studio.until_state(start, State.QUEUED)
    replaced = (await again(studio.store, there)).standing

    assert (2, ["x-there"]) == (len(studio.sent), script_of(studio).asked_to_end)
    assert f"x-{start.asked.id}-1" == found.standing.external_id
    assert State.INTERRUPTED is replaced.state
    assert replaced.failure is not None
    assert "REPLACED" == replaced.failure.reason
    assert "RECIPIENT_BUSY" not in {warning.reason for warning in found.standing.warnings}


async def test_lose2_a1_a_later_start_does_not_go_between_two_rounds(studio: Lane, clock: Clock) -> None:
    """The earlier one is sent again first: then the later one replaces it, and is what runs in the end."""
    await running_already(studio)
    earlier = await create(studio.store, restart_participants=True, terms=ALONE, created_at=clock())
    earliest = f"x-{earlier.asked.id}-1"
    held = studio.hold(earlier)
    studio.answer(earlier, Busy(failure=BUSY_WITH, external_id="x-there"))
    async with studio.running():
        await studio.until(lambda: bool(studio.sent))
        clock.tick(1)
        later = await create(studio.store, restart_participants=True, terms=ALONE, created_at=clock())
        studio.answer(later, Busy(failure=BUSY_WITH, external_id=earliest))
        clock.tick(1)
        held.set()
        await studio.until_state(later, State.QUEUED)
    found = (await again(studio.store, earlier)).standing

    assert [f"{each.asked.id}-1" for each in (earlier, earlier, later, later)] == studio.sent
    assert ["x-there", earliest] == script_of(studio).asked_to_end
    assert (State.INTERRUPTED, "REPLACED") == (found.state, found.failure and found.failure.reason)


async def test_lose2_a1_whose_place_a_later_start_has_taken_is_replaced(studio: Lane) -> None:
    """It does not end the later one, and says what happened."""
    start = await create(studio.store, restart_participants=True)
    held = studio.hold(start)
    studio.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    async with studio.running():
        await studio.until(lambda: bool(studio.sent))
        later = await create(studio.store)
        studio.hold(later)
        await studio.until(lambda: 2 == len(studio.sent))
        shown = replace(seen("x-there", State.STARTED), correlation_key=f"{later.asked.id}-1", flow=later.asked.flow)
        await studio.store.sight(BACKEND, [shown], account=ACCOUNT)
        held.set()
        found = (await studio.until_state(start, State.INTERRUPTED)).standing
        there = (await again(studio.store, later)).standing

    assert found.failure is not None
    assert ("REPLACED", "A later start") == (found.failure.reason, found.failure.message[:13])
    assert (State.STARTED, []) == (there.state, script_of(studio).asked_to_end)


async def test_lose2_a4_what_is_in_doubt_in_another_flow_is_waited_for_and_ended(studio: Lane) -> None:
    """The recipient is busy with it. When it is found, it makes room, and the start says what it waited for."""
    there = await create(studio.store, terms=ALONE, flow="flow-1")
    await run_to(studio.store, there, unsure())
    start = await create(studio.store, terms=ALONE, flow="flow-2", restart_participants=True)
    studio.answer(start, *[Busy(failure=BUSY_WITH, external_id="x-there")] * 3)
    script_of(studio).keys["x-there"] = Missing()
    shown = seen("x-there", State.STARTED, correlation_key=f"{there.asked.id}-1", flow="flow-1")

    async def find() -> None:
        if 2 == len(studio.sent):
            await studio.store.sight(BACKEND, [shown], account=ACCOUNT)

    studio.watched.before["begin_attempt"] = find
    async with studio.running():
        found = await studio.until_state(start, State.QUEUED)
    replaced = (await again(studio.store, there)).standing

    assert ["x-there"] == script_of(studio).asked_to_end
    assert ["RECIPIENT_BUSY"] == [warning.reason for warning in found.standing.warnings]
    assert (State.INTERRUPTED, "REPLACED") == (replaced.state, replaced.failure and replaced.failure.reason)


async def test_what_is_missing_when_another_is_to_replace_it_is_not_over(studio: Lane) -> None:
    """A read that lags does not show what is new: only the next answer tells. It is asked to end again."""
    there = await running_already(studio)
    script_of(studio).ends["x-there"] = Missing()
    start = await create(studio.store, restart_participants=True)
    studio.answer(start, *[Busy(failure=BUSY_WITH, external_id="x-there")] * 2)
    async with studio.running():
        await studio.until_state(start, State.QUEUED)

    assert (3, ["x-there"] * 2) == (len(studio.sent), script_of(studio).asked_to_end)
    assert State.STARTED is (await again(studio.store, there)).standing.state


async def test_what_has_ended_meanwhile_need_not_be_ended(studio: Lane) -> None:
    """It is sent again, and the end that it came to by itself stays."""
    there = await running_already(studio)
    await studio.store.sight(BACKEND, [seen("x-there", State.COMPLETED)], account=ACCOUNT)
    start = await create(studio.store, restart_participants=True)
    studio.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    async with studio.running():
        await studio.until_state(start, State.QUEUED)

    assert (2, []) == (len(studio.sent), script_of(studio).asked_to_end)
    assert State.COMPLETED is (await again(studio.store, there)).standing.state


@pytest.mark.parametrize(
    "trouble",
    [None, Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR), seen("x-there", State.STARTED)],
    ids=["ended", "unsure", "runs on"],
)
async def test_restarting_is_tried_a_few_times(studio: Lane, trouble: Any) -> None:
    """Then somebody else keeps starting it, or it cannot be ended."""
    await running_already(studio)
    if trouble is not None:
        script_of(studio).ends["x-there"] = trouble
    start = await create(studio.store, restart_participants=True)
    studio.answer(start, *[Busy(failure=BUSY_WITH, external_id="x-there")] * 10)
    script_of(studio).keys["x-there"] = "another-1"
    async with studio.running():
        found = (await studio.until_state(start, State.FAILED)).standing

    assert found.failure is not None
    assert "RECIPIENT_BUSY" == found.failure.reason
    assert 1 + BUSY_ROUNDS == len(studio.sent)
    assert (1 if trouble is None else BUSY_ROUNDS) == len(script_of(studio).asked_to_end)
    assert 3 == BUSY_ROUNDS


@pytest.mark.parametrize(
    ("trouble", "looked"),
    [
        (Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR), seen("x-there", State.STARTED)),
        (Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR), Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)),
        (seen("x-there", State.STARTED), seen("x-there", State.STARTED)),
        (Missing(), Missing()),
    ],
    ids=["unsure", "and not seen either", "runs on", "missing"],
)
async def test_lose2_a5_what_was_not_replaced_ends_by_itself(studio: Lane, trouble: Any, looked: Any) -> None:
    """It is not told as replaced by a start that was never sent."""
    there = await running_already(studio)
    script_of(studio).ends["x-there"] = trouble
    script_of(studio).looks["x-there"] = looked
    start = await create(studio.store, restart_participants=True)
    studio.answer(start, *[Busy(failure=BUSY_WITH, external_id="x-there")] * 10)
    async with studio.running():
        await studio.until_state(start, State.FAILED)
    await studio.store.sight(BACKEND, [seen("x-there", State.COMPLETED)], account=ACCOUNT)

    assert State.COMPLETED is (await again(studio.store, there)).standing.state
    assert (1 + BUSY_ROUNDS, BUSY_ROUNDS) == (len(studio.sent), len(script_of(studio).looked_at))


async def test_lose2_a5_what_is_shown_to_have_ended_later_was_replaced(studio: Lane) -> None:
    """The answer to the request to end it was lost, and it was carried out."""
    there = await running_already(studio)
    script_of(studio).ends["x-there"] = Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)
    script_of(studio).looks["x-there"] = seen("x-there", State.COMPLETED)
    start = await create(studio.store, restart_participants=True)
    studio.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    async with studio.running():
        await studio.until_state(start, State.QUEUED)
    found = (await again(studio.store, there)).standing

    assert (State.INTERRUPTED, "REPLACED") == (found.state, found.failure and found.failure.reason)


async def test_what_waits_for_an_end_takes_no_slot_and_does_not_hold_up_stopping(studio: Lane) -> None:
    """Others are sent meanwhile, and a gateway that stops waits no longer than a step."""
    await running_already(studio)
    script_of(studio).ends["x-there"] = Missing()
    waits = await create(studio.store, restart_participants=True)
    studio.answer(waits, Busy(failure=BUSY_WITH, external_id="x-there"))
    pause = HeldPause(studio)
    async with studio.running():
        await pause.begun()
        others = [await create(studio.store) for _ in range(6)]
        for each in others:
            await studio.until_state(each, State.QUEUED)
        await pause.drain()

    assert State.PENDING is (await again(studio.store, waits)).standing.state


async def test_a_lane_that_closes_while_something_is_ended_waits(studio: Lane, clock: Clock) -> None:
    """The backend asked to wait: it is sent again when it is time, and not before."""
    await running_already(studio)
    script_of(studio).ends["x-there"] = Throttled(seconds=30.0)
    start = await create(studio.store, restart_participants=True)
    studio.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    async with studio.running():
        await studio.until(lambda: "record" in studio.watched.calls)
        for _ in range(5):
            await studio.has_looked()
        meanwhile = len(studio.sent)
        clock.tick(30)
        studio.ticks.tick(30)
        studio.dispatcher._news.set()
        await studio.until_state(start, State.QUEUED)

    assert (1, 2) == (meanwhile, len(studio.sent))


@pytest.mark.parametrize(
    ("different", "busy_with"),
    [
        ({"tenant": "another"}, BUSY_WITH),
        ({}, BUSY),
        ({}, replace(BUSY_WITH, metadata={"external_id": "x-elsewhere"})),
    ],
    ids=["another tenant's", "not told with what", "not ours"],
)
async def test_what_is_not_the_tenants_own_is_not_ended(
    studio: Lane, different: dict[str, Any], busy_with: Notice
) -> None:
    """Nor what is not known: the recipient is busy."""
    there = await running_already(studio, **different)
    start = await create(studio.store, restart_participants=True)
    studio.answer(start, Busy(failure=busy_with, external_id=busy_with.metadata.get("external_id", "")))
    async with studio.running():
        found = (await studio.until_state(start, State.FAILED)).standing
    await studio.store.sight(BACKEND, [seen("x-there", State.COMPLETED)], account=ACCOUNT)

    assert found.failure is not None
    assert "RECIPIENT_BUSY" == found.failure.reason
    assert (1, []) == (len(studio.sent), script_of(studio).asked_to_end)
    assert State.COMPLETED is (await again(studio.store, there)).standing.state


@pytest.mark.parametrize("restart", [None, False])
async def test_nothing_is_ended_that_was_not_asked_for(studio: Lane, restart: bool | None) -> None:  # noqa: FBT001
    """Only `restart_participants=true`, given explicitly."""
    await running_already(studio)
    start = await create(studio.store, restart_participants=restart)
    studio.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    async with studio.running():
        await studio.until_state(start, State.FAILED)

    assert (1, []) == (len(studio.sent), script_of(studio).asked_to_end)


async def test_what_a_backend_cannot_end_is_not_marked_as_replaced(lane: Lane) -> None:
    """It ends as it would have."""
    there = await running_already(lane)
    start = await create(lane.store, restart_participants=True)
    lane.answer(start, Busy(failure=BUSY_WITH, external_id="x-there"))
    async with lane.running():
        await lane.until_state(start, State.FAILED)
    await lane.store.sight(BACKEND, [seen("x-there", State.COMPLETED)], account=ACCOUNT)

    assert State.COMPLETED is (await again(lane.store, there)).standing.state
