"""What a step of our clock does to what waits."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.model import State
from tests.builders import (
    ACCOUNT,
    BACKEND,
    NOON,
    TERMS,
    accepted,
    again,
    claim_ids,
    create,
    put_off,
    run_to,
    settle,
    singly,
    unsure,
)
from tests.fakes import Ticks
from tests.places import FIRST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.builders import Clock
    from tests.places import Place

MONTH = 30 * 86_400
TWO_HOURS = 7_200


class Host:
    """A machine with both clocks, and the store on it."""

    def __init__(self, place: Place, clock: Clock) -> None:
        self.place, self.clock, self.ticks = place, clock, Ticks()
        self.open()

    def open(self) -> None:
        """Begins a life."""
        self.store = self.place.open(FIRST, self.clock, monotonic=self.ticks)

    async def step(self, seconds: float, *, kill: bool) -> None:
        """Sets the clock, while the store is open or between two lives."""
        if kill:
            await self.store.close()
        self.clock.tick(seconds)
        if kill:
            self.open()

    def wait(self, seconds: float) -> None:
        """Has time pass."""
        self.clock.tick(seconds)
        self.ticks.now += seconds


@pytest.fixture
async def host(place: Place, clock: Clock) -> AsyncIterator[Host]:
    """A host of one test."""
    found = Host(place, clock)
    yield found
    await found.store.close()


KILLED = pytest.mark.parametrize("kill", [True, False], ids=["killed", "live"])


@KILLED
@pytest.mark.parametrize("ahead", [TWO_HOURS, MONTH])
async def test_f5_what_a_clock_that_was_ahead_recorded_is_sent_when_it_is_right(
    host: Host, clock: Clock, ahead: int, *, kill: bool
) -> None:
    """In its turn, blocks included; what was put off waits for as long as was said, and tells until when."""
    clock.tick(ahead)
    paused = await create(host.store, created_at=clock())
    await run_to(host.store, paused, put_off(clock() + timedelta(seconds=90)))
    waiting = await create(host.store, singly(250), created_at=clock())
    await host.step(-ahead, kill=kill)
    claimed = [each for _ in range(4) for each in await claim_ids(host.store, 100)]
    told = (await again(host.store, paused)).standing.next_attempt_at
    host.wait(90)

    assert [f"{waiting.asked.id}-{n}" for n in range(1, 251)] == claimed
    assert NOON + timedelta(seconds=90) == told
    assert [f"{paused.asked.id}-1"] == await claim_ids(host.store)


@KILLED
async def test_f5_a_schedule_stays_where_it_is(host: Host, clock: Clock, *, kill: bool) -> None:
    """It was the caller's moment, not the clock's."""
    clock.tick(TWO_HOURS)
    start = await create(host.store, schedule_at=NOON + timedelta(hours=5), created_at=clock())
    await host.step(-TWO_HOURS, kill=kill)
    before = await claim_ids(host.store)
    host.wait(5 * 3_600 - 1)
    before += await claim_ids(host.store)
    host.wait(1)

    assert ([], [f"{start.asked.id}-1"]) == (before, await claim_ids(host.store))


async def test_f5_what_a_clock_that_was_behind_recorded_is_sent_when_it_is_right(host: Host, clock: Clock) -> None:
    """Nobody tried it, or only for a moment: a month is not the time that its backend had."""
    clock.tick(-MONTH)
    tried = await create(host.store, created_at=clock())
    await run_to(host.store, tried, put_off(clock() + timedelta(seconds=5)))
    waiting = await create(host.store, singly(250), created_at=clock())
    await host.step(MONTH, kill=False)
    claimed = [each for _ in range(4) for each in await claim_ids(host.store, 100)]

    assert 251 == len(set(claimed))
    assert State.PENDING is (await again(host.store, waiting)).standing.state


async def test_f5_time_without_a_gateway_counts(host: Host) -> None:
    """Nobody is reached a month late: of a clock that was put forward meanwhile, it cannot be told."""
    start = await create(host.store)
    await host.step(MONTH, kill=True)

    assert [] == await claim_ids(host.store)
    assert State.FAILED is (await again(host.store, start)).standing.state


async def test_f5_a_step_forward_gives_no_more_time_than_it_took(host: Host, clock: Clock) -> None:
    """A backend that takes nothing is given up all the same."""
    start = await create(host.store, terms=replace(TERMS, give_up_after=timedelta(hours=10)))
    for _ in range(9):
        host.wait(3_600)
        for each in await claim_ids(host.store):
            await settle(host.store, each, put_off(clock() + timedelta(minutes=1)))
    await host.step(MONTH, kill=False)
    seen = []
    for _ in range(2):
        for each in await claim_ids(host.store):
            await settle(host.store, each, put_off(clock() + timedelta(minutes=1)))
        seen.append((await again(host.store, start)).standing.state)
        host.wait(3_600)

    assert [State.PENDING, State.FAILED] == seen


async def sent_again(host: Host) -> str:
    """Has a dispatch accepted that was proved absent before; returns its id."""
    start = await create(host.store)
    await run_to(host.store, start, unsure())
    *_, sought = await host.store.sought(BACKEND, ACCOUNT)
    await host.store.absent(sought, on_absent=State.PENDING, pause=timedelta())
    await run_to(host.store, start, accepted(f"x-{sought.id}"))
    return sought.id


async def looked_for(host: Host) -> list[str]:
    """Ages what is there, and returns what is looked for after that."""
    await host.store.mark_stalled(BACKEND, NOON)
    return [each.id for each in await host.store.sought(BACKEND, ACCOUNT)]


@KILLED
async def test_a7_what_was_sent_again_is_looked_for_an_hour_in_which_a_gateway_runs(host: Host, *, kill: bool) -> None:
    """Whether our clock was put forward, or no gateway ran: in that time, nobody could have seen that there are two."""
    dispatch_id = await sent_again(host)
    host.wait(600)
    await looked_for(host)
    await create(host.store)  # a change: so much is known to have passed
    seen = []
    for seconds in (TWO_HOURS, MONTH):
        await host.step(seconds, kill=kill)
        seen.append(await looked_for(host))
        host.wait(600)
        await create(host.store)
        seen.append(await looked_for(host))
    host.wait(1_799)
    seen.append(await looked_for(host))
    host.wait(2)

    assert [[dispatch_id]] * 5 == seen
    assert [] == await looked_for(host)


async def test_a7_a_life_looks_for_an_hour_at_the_most_for_what_an_earlier_one_left(host: Host) -> None:
    """And for what it sent again itself as long, however long no gateway ran before."""
    await sent_again(host)
    await host.step(MONTH, kill=True)
    host.wait(1_800)
    second = await sent_again(host)
    host.wait(1_801)
    then = await looked_for(host)
    host.wait(1_800)

    assert ([second], []) == (then, await looked_for(host))
