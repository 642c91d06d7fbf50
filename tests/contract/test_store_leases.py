"""Who works a lane: what only its owner may do, what whoever takes it finds, and what an answer says that comes late.

On either engine the other gateway is rows: what one would have written.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.model import State
from gateway.store import LANE, Life
from tests.builders import (
    ACCOUNT,
    BACKEND,
    FLOW,
    TENANT,
    accepted,
    again,
    begin,
    claim_ids,
    create,
    refused,
    seen,
    singly,
    unsure,
    warned,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.builders import Clock
    from tests.places import EngineStore, Place

OTHER = 99  # the number of another gateway's life
SECOND = 1_000_000
RUNS_ON = timedelta(seconds=40)
NO_TIME = timedelta()


async def say(store: EngineStore, statement: str, *values: int | str) -> None:
    """Writes what another gateway would have."""
    await store.engine.write(lambda transaction: transaction.conn.run(statement, *values))


async def give(store: EngineStore, owner: int, seconds: int) -> None:
    """Has somebody have the lane, for so many seconds from now."""
    await say(
        store,
        "insert into leases (kind, name, owner, fence, until) values ('lane', $1, $2, 7, now_of_store() + $3)"
        " on conflict (kind, name) do update"
        " set owner = excluded.owner, fence = excluded.fence, until = excluded.until",
        BACKEND,
        owner,
        seconds * SECOND,
    )


async def make_anothers(store: EngineStore) -> None:
    """Has what this gateway has claimed and begun be the other one's."""
    await say(store, "update dispatches set claimed_by = $1 where claimed_by > HELD", OTHER)
    await say(store, "update attempts set incarnation = $1 where outcome is null", OTHER)


async def test_what_is_anothers_is_neither_claimed_nor_begun(store: EngineStore) -> None:
    """Whatever was claimed before the lane was taken; what waits stays as it is."""
    start = await create(store, singly(2))
    assert await store.take(LANE, BACKEND, runs_on=NO_TIME) == 1
    (first, second) = await claim_ids(store)
    attempt = await begin(store, first)
    await give(store, OTHER, 60)

    assert attempt == 1
    assert await begin(store, second) is None
    await store.release(second, None)
    assert [] == await claim_ids(store)
    assert State.PENDING is (await again(store, start)).standing.state
    assert await store.take(LANE, BACKEND, runs_on=NO_TIME) is None


async def test_beginnings_of_one_commit_are_judged_by_their_lanes(store: EngineStore) -> None:
    """One of a lane that is ours begins beside one that is not."""
    await create(store)
    await create(store, backend="elsewhere")
    (lost,), (ours,) = await claim_ids(store), await claim_ids(store, backend="elsewhere")
    await give(store, OTHER, 60)

    begun = [begin(store, each) for each in (lost, ours)]
    assert [None, 1] == [await each for each in begun]


async def test_a_lane_is_taken_once_its_lease_is_over(store: EngineStore, clock: Clock) -> None:
    """With the next fence. What was being sent is in doubt, and may run on; what was claimed is free."""
    await create(store, singly(3))
    await store.take(LANE, BACKEND, runs_on=NO_TIME)
    first, second, third = await claim_ids(store)
    await begin(store, first)
    await begin(store, second)
    await make_anothers(store)
    await give(store, OTHER, -1)

    assert 8 == await store.take(LANE, BACKEND, runs_on=RUNS_ON)
    assert [third] == await claim_ids(store)
    sought = {each.id: each.runs_on for each in await store.sought(BACKEND, ACCOUNT)}
    assert {first: 40.0, second: 40.0} == sought
    clock.tick(50)
    assert [0.0, 0.0] == [each.runs_on for each in await store.sought(BACKEND, ACCOUNT)]


async def test_what_was_begun_by_oneself_goes_on(store: EngineStore) -> None:
    """Though the lane was lost for a while, and is taken again: its answer will come."""
    start = await create(store)
    await store.take(LANE, BACKEND, runs_on=NO_TIME)
    (dispatch_id,) = await claim_ids(store)
    attempt = await begin(store, dispatch_id)
    await give(store, OTHER, -1)
    await store.take(LANE, BACKEND, runs_on=RUNS_ON)
    before = await again(store, start)
    await store.record(dispatch_id, attempt or 0, accepted("x1"))

    assert State.PENDING is before.standing.state
    assert "x1" == (await again(store, start)).standing.external_id


async def test_what_was_sent_lately_is_told_whoever_sent_it(store: EngineStore, clock: Clock) -> None:
    """To one backend, the latest first, and no more than is asked for; by a clock that is ahead it was just now."""
    await create(store, singly(4))
    await create(store, tenant="other")
    await create(store, backend="elsewhere")
    ids = [*await claim_ids(store), *await claim_ids(store, backend="elsewhere")]
    for dispatch_id in ids:
        await begin(store, dispatch_id)
        clock.tick(10)
    await make_anothers(store)
    latest = await store.sends(BACKEND, timedelta(seconds=45), 100)
    bounded = await store.sends(BACKEND, timedelta(hours=1), 2)
    clock.tick(-45)

    assert [20.0, 30.0, 40.0] == [ago for ago, _ in latest]
    assert latest[:2] == bounded
    assert [0.0, 0.0, 0.0, 5.0, 15.0] == [ago for ago, _ in await store.sends(BACKEND, timedelta(hours=1), 100)]
    assert {"other"} == {tenant for _, tenant in await store.sends(BACKEND, timedelta(hours=1), 100)} - {TENANT}


async def test_progress_that_a_gateway_did_not_live_to_tell_is_told(
    store: EngineStore, clock: Clock, place: Place, reopen: Callable[..., EngineStore]
) -> None:
    """Whoever has the lane: it held back what another one's lists or a push showed it."""
    start = await create(store, singly(3))
    await store.take(LANE, BACKEND, runs_on=NO_TIME)
    for number, dispatch_id in enumerate(await claim_ids(store)):
        await begin(store, dispatch_id)
        await store.record(dispatch_id, 1, accepted(f"x{number}", State.STARTED))
    for number in range(2):
        await store.sight(BACKEND, [seen(f"x{number}", State.COMPLETED)], account=ACCOUNT)
    told = await again(store, start)
    other = reopen(place.crash())
    await say(
        other, "update leases set owner = $1, until = now_of_store() + $2 where kind = 'lane'", OTHER, 60 * SECOND
    )
    clock.tick(60)
    await other.tell_behind()

    assert told.standing.progress.completed < 2
    assert 2 == (await again(other, start)).standing.progress.completed


async def test_other_lanes_are_left_alone(store: EngineStore) -> None:
    """Whoever takes one touches nothing of those that others work."""
    start = await create(store, backend="elsewhere")
    await claim_ids(store, backend="elsewhere")
    await make_anothers(store)
    await store.take(LANE, BACKEND, runs_on=NO_TIME)

    assert [] == await claim_ids(store, backend="elsewhere")
    assert State.PENDING is (await again(store, start)).standing.state


@pytest.mark.parametrize("meanwhile", ["nothing", "found", "sent again", "sent twice"])
async def test_an_answer_is_a_fact(store: EngineStore, clock: Clock, meanwhile: str) -> None:
    """That of an attempt which was closed meanwhile is what a list would have shown, whatever has become of it."""
    start = await create(store)
    await store.take(LANE, BACKEND, runs_on=NO_TIME)
    (dispatch_id,) = await claim_ids(store)
    attempt = await begin(store, dispatch_id) or 0
    await make_anothers(store)
    await give(store, OTHER, -1)
    await store.take(LANE, BACKEND, runs_on=NO_TIME)
    if meanwhile == "found":
        await store.sight(BACKEND, [seen("x1", State.STARTED, correlation_key=dispatch_id, flow=FLOW)], account=ACCOUNT)
    if meanwhile.startswith("sent"):
        (sought,) = await store.sought(BACKEND, ACCOUNT)
        await store.absent(sought, on_absent=State.PENDING, pause=NO_TIME)
        clock.tick(1)
        (same,) = await claim_ids(store)
        second = await begin(store, same) or 0
        if meanwhile == "sent twice":
            await store.record(same, second, accepted("x2"))
    await store.record(dispatch_id, attempt, accepted("x1"))
    standing = (await again(store, start)).standing

    assert {"sent twice": "x2"}.get(meanwhile, "x1") == standing.external_id
    assert {"found": State.STARTED}.get(meanwhile, State.QUEUED) is standing.state
    told = warned(await again(store, start)).get("DUPLICATE_SENT", {})
    assert (meanwhile == "sent twice") is ("x1" in str(told))


async def test_that_something_was_not_sent_is_found_out_where_its_attempt_was_closed(store: EngineStore) -> None:
    """Only what was taken is believed late; the rest is looked for as it was."""
    start = await create(store)
    await store.take(LANE, BACKEND, runs_on=NO_TIME)
    (dispatch_id,) = await claim_ids(store)
    attempt = await begin(store, dispatch_id) or 0
    await make_anothers(store)
    await give(store, OTHER, -1)
    await store.take(LANE, BACKEND, runs_on=NO_TIME)
    before = await again(store, start)
    for late in (refused(), unsure()):
        await store.record(dispatch_id, attempt, late)

    assert State.UNCERTAIN is before.standing.state
    assert before == await again(store, start)


async def test_what_a_gateway_has_is_told_to_the_others(store: EngineStore) -> None:
    """Who lives and what each has; what was lost is not renewed, and what was given up is nobody's."""
    me = store.engine.incarnation
    await store.take(LANE, BACKEND, runs_on=NO_TIME)
    await store.take(LANE, "elsewhere", runs_on=NO_TIME)
    await give(store, OTHER, 60)
    has = await store.renew(Life(at="here:1", backends=frozenset({"elsewhere"})))
    before = await store.standing()
    await store.give_up(LANE, ["elsewhere"])
    after = await store.standing()

    assert {(LANE, "elsewhere")} == has
    assert {(LANE, BACKEND): OTHER, (LANE, "elsewhere"): me} == before.owners
    assert {(LANE, BACKEND): OTHER, (LANE, "elsewhere"): None} == after.owners
    if store.lease is not None:
        assert {me: Life(at="here:1", backends=frozenset({"elsewhere"}))} == before.lives
