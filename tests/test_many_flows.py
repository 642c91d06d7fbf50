"""Many flows on one Twilio account: whose are seen when, and what a sweep of all of them still proves."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.adapters.base import Account, Failed, Reply, Request, Sweep, Unsure
from gateway.adapters.twilio.adapter import Twilio
from gateway.lanes.following import LISTS_AT_ONCE, REMEMBERED, TOGETHER, EarliestClock, as_one, in_turns, steps
from gateway.lanes.pacing import Limiter
from gateway.lanes.tracker import Tracker
from gateway.model import Cause, Identity, State
from gateway.sightings import Window
from tests.builders import BACKEND, NOON, TERMS, Clock, accepted, again, claim_ids, create, unsure
from tests.fakes import ScriptedTransport, Ticks, Watched, backend

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.model import FlowStart
    from gateway.store import Settlement
    from gateway.store.sqlite import SqliteStore

SID = "AC" + "a" * 32
MANY = 300
TOOK = 0.1  # seconds that a list takes
INTERVAL = 2.0
QUIET = Twilio.capabilities.quiet_window.total_seconds()


class World:
    """A tracker of an account: the executions that there are, and the lists that were asked for."""

    def __init__(self, store: SqliteStore, clock: Clock, in_flight: int = 4) -> None:
        self.store, self.clock, self.ticks = store, clock, Ticks()
        self.rows: dict[str, dict[str, str]] = {}  # by SID: what a list shows of each
        self.keys: dict[str, str] = {}  # by SID
        self.listed: list[str] = []  # flows, in the order in which they were asked for
        self.at_once = self.most_at_once = 0
        self.after: Callable[[], None] = lambda: None  # is called after each list
        self.failure: Callable[[str], Reply | Failed | None] = lambda _: None  # of the list of a flow
        transport = ScriptedTransport(self._answer, ticks=self.ticks, limiter=Limiter(1_000, 1.0), sleep=self._sleep)
        twilio = Twilio(Account(credentials={"account_sid": SID, "auth_token": "t"}))
        self.backend = backend(
            transport, twilio, sweep_interval=timedelta(seconds=INTERVAL), quiet_window=Twilio.capabilities.quiet_window
        )
        self.backend = replace(self.backend, in_flight=in_flight)
        transport.identity = Identity(account=SID)
        self.watched = Watched(store)
        self.tracker = Tracker(self.watched, self.backend, clock, self.ticks, sleep=self.ticks.sleep)

    async def _answer(self, request: Request) -> Reply | Failed:
        parts = request.path.split("/")
        if parts[-1] == "Context":
            sid = parts[-2]
            context = {"trigger": {"request": {"parameters": {"startflow_id": self.keys[sid]}}}}
            return Reply(status=200, body=json.dumps({"execution_sid": sid, "context": context}).encode())
        flow = parts[3]
        self.listed.append(flow)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        self.pass_by(TOOK / LISTS_AT_ONCE)
        shown = [row for row in self.rows.values() if row["flow_sid"] == flow]
        body = json.dumps({"executions": shown, "meta": {"next_page_url": None}}).encode()
        self.after()
        return self.failure(flow) or Reply(status=200, body=body)

    async def _sleep(self, seconds: float) -> None:
        self.pass_by(seconds)

    def pass_by(self, seconds: float) -> None:
        """Lets time pass by every clock."""
        self.ticks.tick(seconds)
        self.clock.tick(seconds)

    async def send(self, flow: str, tenant: str, settlement: Settlement) -> FlowStart:
        """Sends a start; what was accepted runs."""
        start = await create(self.store, terms=replace(TERMS, account=SID), flow=flow, tenant=tenant)
        (dispatch_id,) = await claim_ids(self.store)
        attempt = await self.store.begin_attempt(dispatch_id, account=SID, since=self.clock.now)
        assert attempt is not None
        if settlement.external_id:
            settlement = replace(settlement, account=SID, accepted_at=self.clock.now)
            self.show(settlement.external_id, flow, dispatch_id)
        await self.store.record(dispatch_id, attempt, settlement)
        return start

    def show(self, sid: str, flow: str, key: str) -> None:
        """Has the lists show an execution that is active."""
        created = self.clock.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        self.rows[sid] = {"sid": sid, "status": "active", "flow_sid": flow, "account_sid": SID, "date_created": created}
        self.keys[sid] = key

    async def crowd(self, count: int) -> None:
        """Has another tenant run one execution in each of many flows."""
        for number in range(count):
            await self.send(flow_of(number), "loud", accepted(sid_of(number), State.STARTED))

    async def sweep(self) -> None:
        """Sweeps once."""
        windows, sought = await self.store.windows(BACKEND, SID), await self.store.sought(BACKEND, SID)
        self.tracker._proof.due_in(sought, self.ticks(), INTERVAL)
        await self.tracker.sweep(windows, sought)

    async def state(self, start: FlowStart) -> State:
        """Returns where a start stands."""
        return (await again(self.store, start)).standing.state


def flow_of(number: int) -> str:
    """Names a flow; the later the number the later it comes in every order."""
    return f"FW{number:032}"


def sid_of(number: int) -> str:
    """Names an execution."""
    return f"FN{number:032}"


async def test_b_who_has_one_flow_does_not_wait_for_another_tenants_300(store: SqliteStore, clock: Clock) -> None:
    """What ends while a long sweep is under way is seen in the middle of it."""
    world = World(store, clock)
    await world.crowd(MANY)
    quiet = await world.send(flow_of(MANY), "quiet", accepted(sid_of(MANY), State.STARTED))
    told_at: list[int] = []

    def end() -> None:
        if len(world.listed) >= 100:
            world.rows[sid_of(MANY)]["status"] = "ended"

    async def look() -> None:
        if not told_at and await world.state(quiet) is State.COMPLETED:
            told_at.append(len(world.listed))

    world.after, world.watched.before["news"] = end, look
    await world.sweep()

    lists_in_an_interval = INTERVAL / TOOK * LISTS_AT_ONCE
    assert set(map(flow_of, range(MANY + 1))) == set(world.listed)
    assert told_at, "not before the end of the sweep"
    assert told_at[0] <= 100 + lists_in_an_interval + 3 * LISTS_AT_ONCE * TOGETHER
    assert len(world.listed) < MANY * 1.1


@pytest.mark.parametrize(("in_flight", "at_once"), [(1, 1), (4, LISTS_AT_ONCE), (50, LISTS_AT_ONCE)])
async def test_b_some_flows_are_listed_at_the_same_time(
    store: SqliteStore, clock: Clock, in_flight: int, at_once: int
) -> None:
    """As many as may be, and no more."""
    world = World(store, clock, in_flight)
    await world.crowd(40)
    await world.sweep()

    assert at_once == world.most_at_once
    assert sorted(map(flow_of, range(40))) == sorted(world.listed)


async def test_b_what_many_lists_do_not_show_is_proved_absent_by_all_of_them(store: SqliteStore, clock: Clock) -> None:
    """So that what follows can fail."""
    world = World(store, clock)
    await world.crowd(40)
    start = await world.send(flow_of(30), "quiet", unsure())
    for _ in range(6):
        world.pass_by(QUIET)
        await world.sweep()

    assert await world.state(start) is State.PENDING


@pytest.mark.parametrize("broken", [0, 17, 30, 39])
@pytest.mark.parametrize("failure", [Reply(status=200, body=b"{}"), Reply(status=500)], ids=["unreadable", "500"])
async def test_b_a_list_that_cannot_be_read_has_all_of_them_prove_nothing(
    store: SqliteStore, clock: Clock, broken: int, failure: Reply
) -> None:
    """Whichever of those that are read at the same time it is, or of those before and after."""
    world = World(store, clock)
    await world.crowd(40)
    start = await world.send(flow_of(30), "quiet", unsure())
    world.failure = lambda flow: failure if flow == flow_of(broken) else None
    for _ in range(6):
        world.pass_by(QUIET)
        await world.sweep()

    assert await world.state(start) is State.UNCERTAIN


async def test_b_what_is_in_doubt_is_found_in_whichever_list_shows_it(store: SqliteStore, clock: Clock) -> None:
    """In the last one of many, too."""
    world = World(store, clock)
    await world.crowd(40)
    start = await world.send(flow_of(39), "quiet", unsure())
    world.show(sid_of(99), flow_of(39), f"{start.asked.id}-1")
    await world.sweep()

    assert State.STARTED is await world.state(start)


def window(number: int) -> Window:
    """Makes the window of a flow."""
    return Window(flow=flow_of(number), oldest=NOON, newest=NOON)


def test_b_tenants_take_turns_with_their_flows() -> None:
    """A flow of two tenants comes in the turn of the one that has fewer before it."""
    whose = {0: "a", 1: "a", 2: "a", 3: "b", 4: "ac", 5: "b"}
    ordered, first = in_turns(
        [window(number) for number in whose], {flow_of(number): frozenset(names) for number, names in whose.items()}
    )

    assert [0, 3, 4, 1, 5, 2] == [int(each.flow[2:]) for each in ordered]
    assert 3 == first


@pytest.mark.parametrize("count", [0, 1, TOGETHER, TOGETHER + 1, 100])
def test_b_every_window_is_in_one_exchange(count: int) -> None:
    """In their order, and few at the same time."""
    windows = [window(number) for number in range(count)]
    cut = steps(windows, 50)

    assert windows == [each for step in cut for exchange in step for each in exchange]
    assert all(0 < len(step) <= LISTS_AT_ONCE and all(len(each) <= TOGETHER for each in step) for step in cut)
    assert [[()]] == steps([], 50)


def test_b_several_lists_prove_what_each_of_them_does() -> None:
    """Of each the part that proves least."""
    trouble = Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)
    clean = Sweep(sightings=(), account=SID, began=NOON)
    later = replace(clean, began=NOON + timedelta(seconds=9))

    assert clean == as_one(later, clean, later)
    assert trouble == as_one(clean, replace(clean, trouble=trouble), clean).trouble
    assert not as_one(clean, clean, replace(clean, is_gapless=False)).is_gapless
    assert not as_one(clean, replace(clean, account="AC" + "b" * 32)).is_gapless
    assert {"x", "y"} == as_one(replace(clean, unread=frozenset("x")), replace(clean, unread=frozenset("y"))).unread
    assert as_one(clean, replace(clean, needs_closing=True)).needs_closing
    assert NOON == as_one(replace(clean, since=NOON - timedelta(1)), replace(clean, since=NOON)).since


def test_the_earliest_clock_of_an_hour_counts() -> None:
    """One that is put back counts at once, one that was put forward after an hour."""
    clock = EarliestClock()
    shown = []
    for ours, ahead in ((0.0, 0.0), (60.0, 3_600.0), (120.0, -5.0), (180.0, 0.0), (121.0 + REMEMBERED, 7.0)):
        clock.note(ours, NOON + timedelta(seconds=ours + ahead))
        shown.append((clock.at(ours) - NOON).total_seconds() - ours)

    assert [0.0, 0.0, -5.0, -5.0, 0.0] == shown
