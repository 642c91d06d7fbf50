"""When what was not accepted is given up: not while its lane accepts, and not never."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

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
    settle,
    singly,
    unsure,
)
from tests.lengths import size

if TYPE_CHECKING:
    from gateway.model import FlowStart
    from gateway.store import Store
    from tests.builders import Clock

GIVES_UP = replace(TERMS, give_up_after=timedelta(seconds=100))


def message(start: FlowStart) -> str:
    """Returns why a start failed."""
    return start.standing.failure.message if start.standing.failure else ""


async def test_what_waits_for_a_lane_that_accepts_is_not_given_up(store: Store, clock: Clock) -> None:
    """A backlog that takes longer than `give_up_after` is sent all the same, blocks that come later too."""
    count = size(250, quick=110)
    start = await create(store, singly(count), terms=GIVES_UP)
    for place in range(count):
        clock.tick(10)
        (dispatch_id,) = await claim_ids(store, 1)
        await settle(store, dispatch_id, accepted(f"it-{place}", accepted_at=clock()))
    now = await again(store, start)

    assert (0, count) == (now.standing.progress.failed, now.standing.progress.queued)


async def test_what_was_never_tried_is_given_up_when_its_lane_accepts_nothing_any_more(
    store: Store, clock: Clock
) -> None:
    """It counts from the last acceptance, to the second."""
    start = await create(store, singly(2), terms=GIVES_UP)
    clock.tick(90)
    (dispatch_id,) = await claim_ids(store, 1)
    await settle(store, dispatch_id, accepted("it"))
    clock.tick(99)
    (held,) = await claim_ids(store)
    before = await again(store, start)
    await store.release(held, clock())
    clock.tick(1)
    claimed = await claim_ids(store)
    now = await again(store, start)

    assert ([], 0, 1) == (claimed, before.standing.progress.failed, now.standing.progress.failed)


async def test_what_is_tried_again_and_again_ends_though_its_lane_accepts_others(store: Store, clock: Clock) -> None:
    """As long after its first attempt; the message says so."""
    start = await create(store, terms=GIVES_UP)
    ends = []
    for place in range(12):
        for dispatch_id in await claim_ids(store):
            await settle(store, dispatch_id, put_off(NOON + timedelta(seconds=10 * (place + 1))))
        await create(store, terms=GIVES_UP)
        (other,) = await claim_ids(store)
        await settle(store, other, accepted(f"it-{place}", accepted_at=clock()))
        clock.tick(10)
        ends.append((await again(store, start)).standing.state)
    now = await again(store, start)

    assert 11 == ends.index(State.FAILED) + 1
    assert "of the first attempt" in message(now)


async def test_what_was_tried_once_waits_on_in_the_backlog(store: Store, clock: Clock) -> None:
    """One refusal sends it to the end of a queue, which may be longer than `give_up_after`."""
    start = await create(store, terms=GIVES_UP)
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, put_off(NOON + timedelta(seconds=150)))
    clock.tick(90)
    await create(store, terms=GIVES_UP)
    (other,) = await claim_ids(store)
    await settle(store, other, accepted("it"))
    clock.tick(60)
    claimed = await claim_ids(store)

    assert [dispatch_id] == claimed
    assert State.PENDING is (await again(store, start)).standing.state


async def test_what_was_tried_in_an_outage_is_tried_on_after_it(store: Store, clock: Clock) -> None:
    """Its tries said nothing of it. What accepts others in the meantime gives all that waits its time anew."""
    start = await create(store, terms=GIVES_UP)
    for _ in range(12):
        (dispatch_id,) = await claim_ids(store)
        clock.tick(8)
        await settle(store, dispatch_id, put_off(clock()))
    (dispatch_id,) = await claim_ids(store)
    await create(store, terms=GIVES_UP)
    (other,) = await claim_ids(store)
    await settle(store, other, accepted("it"))
    await store.release(dispatch_id, clock())
    clock.tick(50)
    claimed = await claim_ids(store)

    assert ([dispatch_id], State.PENDING) == (claimed, (await again(store, start)).standing.state)


async def test_what_is_proved_absent_late_is_sent_while_its_lane_accepts(store: Store, clock: Clock) -> None:
    """Looking for it may take longer than `give_up_after`."""
    start = await create(store, terms=GIVES_UP)
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, unsure())
    clock.tick(90)
    await create(store, terms=GIVES_UP)
    (other,) = await claim_ids(store)
    await settle(store, other, accepted("it"))
    clock.tick(20)
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.absent(sought, on_absent=State.PENDING, pause=timedelta())
    claimed = await claim_ids(store)

    assert ([dispatch_id], State.PENDING) == (claimed, (await again(store, start)).standing.state)
