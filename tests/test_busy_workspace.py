"""What it takes to prove a start absent where much of others' is listed: how far each scan reaches, and how often."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from gateway.adapters.rapidpro.adapter import RATE
from gateway.lanes.pacing import Limiter
from gateway.lanes.proof import LAG
from gateway.model import State
from tests.builders import accepted, unsure
from tests.replicas import WORKSPACE, Lists
from tests.test_absence import QUIET, World

if TYPE_CHECKING:
    from gateway.model import FlowStart
    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock

PAGE, OTHERS = 250, 1_500  # as RapidPro's; one of others' a second
OVER = QUIET * (1 + LAG)  # seconds after which a scan can prove something


class Resent(Exception):
    """The start was proved absent."""


@dataclass
class Scan:
    """One sweep: how many seconds after the doubt began, how many seconds its list reaches back, and its pages."""

    at: float
    reach: float
    pages: int


class Busy(World):
    """A workspace at RapidPro's own rate and size of pages, with a caller's starts every second."""

    def __init__(self, store: SqliteStore, clock: Clock) -> None:
        super().__init__(store, clock)
        self.lists = Lists(self.seconds, page=PAGE)
        self.transport.limiter = Limiter(*RATE, clock=self.ticks)
        self.transport._rate_counts_reads = True
        self.scans: list[Scan] = []

    def others(self, count: int) -> None:
        """Lets others start so many, one a second."""
        for _ in range(count):
            self.lists.create()
            self.pass_by(1)

    async def until_resent(self, lost: FlowStart) -> float:
        """Runs the tracker as the gateway does, but for waiting; returns after how many seconds the start is resent."""
        began = self.ticks()

        async def sleep(seconds: float) -> None:
            self._note(began)
            if await self.state(lost) is State.PENDING:
                raise Resent
            self.others(int(seconds))
            self.transport.tell(self.clock.now)

        self.tracker._sleep = sleep
        with pytest.raises(Resent):
            await self.tracker.run()
        return self.ticks() - began

    def _note(self, began: float) -> None:
        listed = [parse_qs(each.query)["after"][0] for each in self.transport.requests if "flow_starts" in each.path]
        if listed:
            reach = (self.clock.now - datetime.fromisoformat(listed[0])).total_seconds()
            self.scans.append(Scan(self.ticks() - began, reach, len(listed)))
        self.transport.requests.clear()


async def busy(store: SqliteStore, clock: Clock, since_the_last: int) -> tuple[Busy, FlowStart]:
    """Makes a workspace where 1,500 of others' were started, and one of ours so many seconds ago; and a doubt."""
    world = Busy(store, clock)
    world.others(OTHERS - since_the_last)
    known = accepted("00000000-0000-4000-8000-000000000001", State.COMPLETED, accepted_at=clock.now)
    known = replace(known, external_id=f"00000000-0000-4000-8000-{len(world.lists.rows) + 1:012}", account=WORKSPACE)
    start = await world.send(known)
    world.lists.create(f"{start.asked.id}-1")
    world.others(since_the_last)
    return world, await world.send(unsure())


async def test_c12_a_scan_reaches_as_far_back_as_the_doubt_needs(store: SqliteStore, clock: Clock) -> None:
    """Only the two that count reach back to what was accepted last, 25 minutes ago, which they must show."""
    world, lost = await busy(store, clock, OTHERS)
    took = await world.until_resent(lost)
    _, *scans = world.scans  # the first of a process reads everything that may be of ours
    finding = [each for each in scans if each.at < OVER]
    proving = [each for each in scans if each.reach > each.at + OTHERS]
    closing = [each for each in scans if each not in finding and each not in proving]

    assert [each for each in finding if each.reach > each.at + QUIET + 1] == []
    assert {1} == {each.pages for each in finding}
    assert [OVER] == [each.at for each in proving][:1], "a scan of several pages before that would have put it off"
    assert (2, 2) == (len(proving), len(closing))
    assert max(each.reach - each.at for each in proving) <= OTHERS + QUIET + 1
    assert {1} == {each.pages for each in closing}
    assert took <= 300  # by the clock of the test; reading keeps to its share of the rate


async def test_c12_where_something_was_accepted_just_before_nothing_is_put_off(
    store: SqliteStore, clock: Clock
) -> None:
    """The scans that count come as soon as they can, and one interval apart, with the windows of the defaults."""
    world, lost = await busy(store, clock, 5)
    world.others = world.pass_by  # type: ignore[method-assign,assignment]
    took = await world.until_resent(lost)

    assert [(OVER, 1), (OVER + 10, 1)] == [(each.at, each.pages) for each in world.scans if each.at >= OVER]
    assert OVER + 10 == took
