"""How often a dispatch is sent whose answer never comes, and which answers are never followed by a resend."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.errors import Reason
from gateway.model import Cause, State
from gateway.store.finding import LONGEST_PAUSE, MOST_ROUNDS, ROUNDS
from tests.builders import (
    ACCOUNT,
    BACKEND,
    FLOW,
    NOON,
    accepted,
    again,
    begin,
    claim_ids,
    create,
    seen,
    settle,
    unsure,
    warned,
)

if TYPE_CHECKING:
    from gateway.model import FlowStart
    from gateway.store import Settlement, Store
    from tests.builders import Clock

PAUSE = timedelta(seconds=100)
ERROR = replace(unsure(), cause=Cause.SERVER_ERROR, detail="words that say nothing of a status")


async def send_in_vain(store: Store, clock: Clock, dispatch_id: str, settlement: Settlement) -> timedelta | None:
    """Sends a dispatch that is then proved absent; returns how long it waits before it is sent again, if it is."""
    for _ in range(20):
        if dispatch_id in await claim_ids(store, 100):
            break
        clock.tick(60)
    await settle(store, dispatch_id, settlement)
    (sought,) = [each for each in await store.sought(BACKEND, ACCOUNT) if each.id == dispatch_id]
    await store.absent(sought, on_absent=State.PENDING, pause=PAUSE)
    start = await store.get(None, dispatch_id.rpartition("-")[0])
    assert start is not None
    if start.standing.state is not State.PENDING:
        return None
    due = start.standing.next_attempt_at
    return (due - clock()) if due else timedelta()


async def take(store: Store, settlement: Settlement) -> FlowStart:
    """Has the backend answer another start."""
    start = await create(store)
    dispatch_id = f"{start.asked.id}-1"
    assert dispatch_id in await claim_ids(store, 100)
    await settle(store, dispatch_id, settlement)
    return start


async def test_a4_an_outage_is_no_poison(store: Store, clock: Clock) -> None:
    """While the backend takes nothing at all, errors say nothing of the request: it waits, longer each time."""
    start = await create(store)
    pauses = [await send_in_vain(store, clock, f"{start.asked.id}-1", ERROR) for _ in range(8)]

    assert [timedelta(), *(min(PAUSE * (2**n - 1), LONGEST_PAUSE) for n in range(1, 8))] == pauses
    assert LONGEST_PAUSE == pauses[-1]
    assert State.PENDING is (await again(store, start)).standing.state


async def test_a4_what_was_taken_before_its_first_attempt_says_nothing(store: Store, clock: Clock) -> None:
    """The outage may have begun since; what was found without an answer says nothing either."""
    await take(store, accepted("x1", accepted_at=NOON - timedelta(seconds=1)))
    start = await create(store)
    for n in range(ROUNDS + 1):
        await send_in_vain(store, clock, f"{start.asked.id}-1", ERROR)
        found = await take(store, unsure())
        shown = replace(seen(f"y{n}"), correlation_key=f"{found.asked.id}-1", flow=FLOW, created_at=clock())
        await store.sight(BACKEND, [shown], account=ACCOUNT)

    assert State.PENDING is (await again(store, start)).standing.state


async def test_a4_an_error_that_others_do_not_meet_is_poison(store: Store, clock: Clock) -> None:
    """Three rounds of it, once the backend has taken something else since the first attempt."""
    start = await create(store)
    for n in range(ROUNDS):
        assert State.PENDING is (await again(store, start)).standing.state
        await take(store, accepted(f"x{n}", accepted_at=clock()))
        await send_in_vain(store, clock, f"{start.asked.id}-1", ERROR)
    ended = await again(store, start)

    assert ended.standing.state is State.FAILED
    assert ended.standing.failure is not None
    assert ended.standing.failure.reason == Reason.BACKEND_FAILED


async def test_a6_a_decision_is_made_by_causes_and_never_by_words(store: Store, clock: Clock) -> None:
    """Details that read like an error of the server are none."""
    start = await create(store)
    lost = replace(unsure(), cause=Cause.TIMEOUT, detail="HTTP 503")
    for n in range(ROUNDS):
        await take(store, accepted(f"x{n}", accepted_at=clock()))
        await send_in_vain(store, clock, f"{start.asked.id}-1", lost)
    shown = replace(seen("y"), correlation_key=f"{start.asked.id}-1", flow=FLOW)
    await store.sight(BACKEND, [shown], account=ACCOUNT)
    found = await again(store, start)

    assert found.standing.state is not State.FAILED
    assert Reason.ADOPTED_AFTER_ERROR not in warned(found)


@pytest.mark.parametrize(
    ("cause", "rounds"), [(Cause.NAMED, 1), (Cause.UNREADABLE, ROUNDS), (Cause.TIMEOUT, MOST_ROUNDS)], ids=str
)
async def test_a3_rounds_are_bounded(store: Store, clock: Clock, cause: Cause, rounds: int) -> None:
    """A success that names something of its flow is never followed by a resend, others by few; then it rests."""
    start = await create(store)
    sent = 0
    while (await again(store, start)).standing.state is State.PENDING:
        if cause is Cause.TIMEOUT:
            await take(store, accepted(f"x{sent}", accepted_at=clock()))
        await send_in_vain(store, clock, f"{start.asked.id}-1", replace(unsure(), cause=cause))
        sent += 1
    rests = await again(store, start)

    assert rounds == sent
    assert (State.UNCERTAIN, None, True) == (
        rests.standing.state,
        rests.standing.next_attempt_at,
        rests.standing.is_done,
    )
    assert rests.standing.failure is not None
    assert rests.standing.failure.reason == Reason.OUTCOME_UNKNOWN


async def test_a3_an_answer_that_names_what_another_dispatch_is_is_doubted(store: Store) -> None:
    """A cache in front of the backend answers each start with the first one's answer."""
    first, second, third = [await create(store) for _ in range(3)]
    ids = await claim_ids(store)
    attempts = [await begin(store, each) for each in ids]
    await store.record(ids[0], attempts[0] or 0, accepted("x1"))
    await store.record(ids[1], attempts[1] or 0, accepted("x1"))
    await store.record(ids[2], attempts[2] or 0, accepted("x3"))

    standings = [(await again(store, each)).standing for each in (first, second, third)]

    assert [State.QUEUED, State.UNCERTAIN, State.QUEUED] == [each.state for each in standings]
    assert ["x1", "", "x3"] == [each.external_id for each in standings]
