"""When a store is told to forget, and what keeps it from it."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
from structlog.testing import capture_logs

from gateway.errors import Reason, Unavailable
from gateway.lanes.retention import STEP_PAUSE, Retention, Upkeep
from gateway.model import State
from gateway.store.claiming import ENDED
from tests.builders import BACKEND, NOON, Clock, again, create, singly

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.store import Store


class Over(Exception):
    """The test has seen enough."""


class Forgetting:
    """A store that has so many rows to forget in each step, or cannot; and the time that passes between steps."""

    def __init__(self, *steps: int | Unavailable) -> None:
        self.steps = list(steps)
        self.clock = Clock()
        self.asked: list[datetime] = []
        self.slept: list[float] = []

    async def purge(self, before: datetime) -> int:
        """Takes a step."""
        self.asked.append(before)
        step = self.steps.pop(0)
        if isinstance(step, Unavailable):
            raise step
        return step

    async def sleep(self, seconds: float) -> None:
        """Lets time pass; ends the test when there is nothing left to do."""
        self.slept.append(seconds)
        self.clock.tick(seconds)
        if not self.steps:
            raise Over

    async def run(self, kept_for: timedelta) -> list[dict[str, Any]]:
        """Runs until there is nothing left to do; returns what was logged."""
        with capture_logs() as logged, pytest.raises(Over):
            await Retention(cast("Store", self), kept_for, self.clock, self.sleep).run()
        return [dict(entry) for entry in logged]


async def test_a_round_is_many_steps_with_pauses_between() -> None:
    """All steps of one have the same bound, so that it ends however much comes; it is logged once."""
    store = Forgetting(200, 200, 7, 0)
    logged = await store.run(timedelta(days=90))

    assert [NOON - timedelta(days=90)] * 4 == store.asked
    assert [STEP_PAUSE] * 3 + [60.0] == store.slept
    assert [("purged", 407)] == [(entry["event"], entry["rows"]) for entry in logged]


@pytest.mark.parametrize(("kept_for", "pause"), [(timedelta(seconds=5), 0.5), (timedelta(hours=1), 60.0)])
async def test_rounds_come_often_enough(kept_for: timedelta, pause: float) -> None:
    """Each with a later bound; one with nothing to do is not logged."""
    store = Forgetting(0, 0)
    logged = await store.run(kept_for)

    assert [pause, pause] == store.slept
    assert [NOON - kept_for, NOON - kept_for + timedelta(seconds=pause)] == store.asked
    assert [] == logged


async def test_a_store_that_is_down_is_tried_again() -> None:
    """In the next round, which goes on where this one was."""
    store = Forgetting(200, Unavailable(message="The store does not work."), 5, 0)
    logged = await store.run(timedelta(days=1))

    assert [STEP_PAUSE, 60.0, STEP_PAUSE, 60.0] == store.slept
    assert [("purge_interrupted", 200), ("purged", 5)] == [(entry["event"], entry["rows"]) for entry in logged]


async def removed() -> list[str]:
    """Names the backends that no gateway has."""
    return [BACKEND]


async def test_b_what_no_lane_claims_expires_in_one_round_of_small_steps(store: Store, clock: Clock) -> None:
    """With a rest after each, in which other work goes on."""
    start = await create(store, singly(700), expire_at=clock() + timedelta(seconds=60))
    clock.tick(61)
    waiting = [700]

    async def rest(seconds: float) -> None:
        assert STEP_PAUSE == seconds
        waiting.append(await store.count_pending(BACKEND))

    await Upkeep(store, removed, rest).round()

    assert 700 == (await again(store, start)).standing.progress.failed
    assert ENDED >= max(before - after for before, after in pairwise([*waiting, 0]))


@pytest.mark.parametrize("recipients", [1, 250])
async def test_a8_what_is_held_expires(store: Store, clock: Clock, recipients: int) -> None:
    """Though its backend is configured no more and no lane claims it, blocks that are not written out yet included."""
    start = await create(store, singly(recipients), expire_at=clock() + timedelta(seconds=60))
    later = await create(store)
    await store.hold(BACKEND, None)
    upkeep = Upkeep(store, removed)
    await upkeep.round()
    before = await again(store, start)
    clock.tick(61)
    for _ in range(4):
        await upkeep.round()
    now = await again(store, start)

    assert State.PENDING is before.standing.state
    assert (State.FAILED, Reason.EXPIRED) == (now.standing.state, now.standing.failure and now.standing.failure.reason)
    assert recipients == now.standing.progress.failed
    assert State.PENDING is (await again(store, later)).standing.state
