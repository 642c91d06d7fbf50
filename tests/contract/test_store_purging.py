"""What every store forgets, in which order, and what nobody may notice of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import NotPossible, RevisionNotAvailable
from gateway.model import Filter, Resolution, State, Verdict
from tests.builders import (
    ACCOUNT,
    BACKEND,
    FLOW,
    NOON,
    TENANT,
    accepted,
    again,
    begin,
    claim_ids,
    create,
    create_or_find,
    refused,
    run_to,
    seen,
    settle,
    singly,
    unsure,
)
from tests.lengths import size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.model import FlowStart
    from gateway.store import Store
    from tests.builders import Clock
    from tests.places import EngineStore

AFTERNOON = NOON + timedelta(hours=1)
SMALL = 200  # rows in a step, at the most


async def finished(store: Store, external_id: str = "x1", **different: Any) -> FlowStart:
    """Records a start of one recipient that is sent and completes."""
    start = await create(store, **different)
    await run_to(store, start, accepted(external_id))
    assert 1 == await store.sight(BACKEND, [seen(external_id, State.COMPLETED)], account=ACCOUNT)
    return await again(store, start)


async def forget(store: Store, clock: Clock) -> int:
    """Forgets, an hour later, all that is older than half of it; returns in how many steps."""
    clock.now = AFTERNOON
    steps = 0
    while rows := await store.purge(AFTERNOON - timedelta(minutes=30)):
        assert rows <= SMALL
        steps += 1
        await check(store)
    return steps


async def check(store: Store) -> None:
    """Whoever goes on from the oldest revision that is kept has seen each start that there is when it is through."""
    oldest, head = await store.oldest(), await store.head()
    page = await store.snapshot(TENANT, Filter(), frozenset(), after=0, limit=100_000)
    newest: dict[str, int] = {}
    through = oldest
    while True:
        read = await store.changes(through, 1_000)
        newest |= {change.flow_start.asked.id: change.revision for change in read.changes}
        assert list(range(through + 1, through + 1 + len(read.changes))) == [change.revision for change in read.changes]
        if not read.changes:
            break
        through = read.through
    assert through == head == page.head
    assert {start.asked.id: start.revision for start in page.flow_starts} == newest
    if oldest:
        with pytest.raises(RevisionNotAvailable):
            await store.changes(oldest - 1, 1)


# --- what goes, and what stays


async def test_what_is_forgotten_is_looked_for_no_more(store: Store, clock: Clock) -> None:
    """Though it was sent again, and would be looked for a while longer; and though it is not erased yet."""
    await create(store, expire_at=clock() + timedelta(minutes=1), created_at=clock())
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, unsure())
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.absent(sought, on_absent=State.PENDING, pause=timedelta())
    clock.tick(60)
    assert [] == await claim_ids(store)
    assert [dispatch_id] == [each.id for each in await store.sought(BACKEND, ACCOUNT)]
    clock.tick(60)
    assert await store.purge(clock())

    assert () == await store.sought(BACKEND, ACCOUNT)


async def test_nothing_is_forgotten_unless_it_is_old(store: Store, clock: Clock) -> None:
    """What changed at the moment itself is kept, and every revision with it."""
    start = await finished(store)
    clock.now = AFTERNOON

    assert 0 == await store.purge(NOON)
    assert (0, start) == (await store.oldest(), await again(store, start))


async def test_a_finished_start_goes_with_its_newest_change(store: Store, clock: Clock) -> None:
    """Not before: as long as its end is younger, it is there as a whole."""
    start = await create(store)
    clock.tick(600)
    await run_to(store, start, refused())
    clock.now = AFTERNOON

    assert 1 == await store.purge(NOON + timedelta(seconds=1))
    assert 1 == await store.oldest()
    assert State.FAILED is (await again(store, start)).standing.state
    await check(store)
    assert 0 < await store.purge(NOON + timedelta(seconds=601))
    assert await store.get(TENANT, start.asked.id) is None


async def test_changes_go_in_order_up_to_the_first_that_is_not_old(store: Store, clock: Clock) -> None:
    """An older one behind a younger one (the clock was put back) waits for its turn."""
    first = await finished(store, "x1")
    clock.tick(1_000)
    second = await finished(store, "x2")
    clock.now = NOON
    third = await finished(store, "x3")
    clock.now = AFTERNOON
    while await store.purge(NOON + timedelta(seconds=500)):
        await check(store)

    assert first.revision == await store.oldest()
    assert await store.get(TENANT, first.asked.id) is None
    assert (second, third) == (await again(store, second), await again(store, third))


async def test_when_everything_is_forgotten_revisions_go_on(
    store: EngineStore, clock: Clock, reopen: Callable[..., EngineStore]
) -> None:
    """The newest revision never goes back, after a restart neither: a watcher that is there misses nothing."""
    start = await finished(store)
    await forget(store, clock)

    assert start.revision == await store.oldest() == await store.head()
    assert () == (await store.changes(start.revision, 10)).changes
    await store.close()
    store = reopen()
    assert start.revision == await store.oldest() == await store.head()
    assert start.revision + 1 == (await create(store)).revision
    await check(store)


async def unsent(store: Store) -> FlowStart:
    """Waits for tomorrow."""
    return await create(store, schedule_at=NOON + timedelta(days=1))


async def running(store: Store) -> FlowStart:
    """Runs."""
    start = await create(store)
    await run_to(store, start, accepted("x1", State.STARTED))
    return await again(store, start)


async def sending(store: Store) -> FlowStart:
    """Is being sent at this moment."""
    start = await create(store)
    (dispatch_id,) = await claim_ids(store)
    await begin(store, dispatch_id)
    return start


async def looked_for(store: Store) -> FlowStart:
    """May have been sent, and is looked for."""
    start = await create(store)
    await run_to(store, start, unsure())
    return await again(store, start)


async def at_rest(store: Store) -> FlowStart:
    """May have been sent, and nobody will find out."""
    start = await looked_for(store)
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.rest(sought)
    found = await again(store, start)
    assert found.standing.is_done
    return found


@pytest.mark.parametrize("kind", [unsent, running, looked_for, at_rest, sending])
async def test_what_is_not_over_is_recorded_anew(
    store: Store, clock: Clock, kind: Callable[[Store], Awaitable[FlowStart]]
) -> None:
    """As it stands, at the head: it is found by whoever begins now, and nothing of it is lost."""
    before = await kind(store)
    recipients = await store.recipients(TENANT, before.asked.id, after=None, limit=10)
    heard: list[int] = []
    store.listen(heard.append)
    await forget(store, clock)
    after = await again(store, before)
    (change,) = (await store.changes(await store.oldest(), 10)).changes

    assert before.revision < after.revision == await store.head() == heard[-1]
    assert before.revision == await store.oldest()
    assert (before.asked, before.standing.state) == (after.asked, after.standing.state)
    assert (before.standing.failure, before.standing.progress) == (after.standing.failure, after.standing.progress)
    assert before.standing.is_done is after.standing.is_done
    assert AFTERNOON == after.standing.updated_at
    assert (after.revision, after.standing.state) == (change.revision, change.state_before)
    assert after.standing == change.flow_start.standing
    assert recipients == await store.recipients(TENANT, before.asked.id, after=None, limit=10)
    assert 0 == await store.purge(AFTERNOON), "once"


async def test_what_was_recorded_anew_goes_on_and_ends(store: Store, clock: Clock) -> None:
    """As if nothing had been, and then it goes as the others do."""
    start = await running(store)
    await forget(store, clock)
    assert 1 == await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    assert State.COMPLETED is (await again(store, start)).standing.state
    while await store.purge(AFTERNOON + timedelta(seconds=1)):
        await check(store)

    assert await store.get(TENANT, start.asked.id) is None


# --- nobody notices more than that it is gone


async def test_the_request_id_is_free_again(store: Store, clock: Clock) -> None:
    """At once, for a start of other content."""
    first = await finished(store, request_id="same")
    await forget(store, clock)

    assert await store.find_request(TENANT, "same") is None
    second = await create_or_find(store, request_id="same", fingerprint="1:other")
    assert not second.replayed
    assert first.asked.id != second.flow_start.asked.id


async def is_gone(store: Store, start: FlowStart, external_id: str) -> None:
    """No read finds it, whatever of it is still being erased."""
    for tenant in (TENANT, None):
        assert await store.get(tenant, start.asked.id) is None
        assert await store.recipients(tenant, start.asked.id, after=None, limit=10) is None
        assert await store.history(tenant, start.asked.id, after=None, limit=10) is None
        assert await store.cancel(tenant, start.asked.id, can_end=True) is None
        assert await store.resolve(tenant, start.asked.id, Resolution(verdict=Verdict.GIVE_UP)) is None
        assert () == (await store.list(tenant, Filter(), before=None, limit=10)).flow_starts
    selections = [
        Filter(),
        Filter(request_id=start.asked.request_id),
        Filter(external_id=external_id),
        Filter(flow=FLOW),
    ]
    for selected in selections:
        assert () == (await store.list(TENANT, selected, before=None, limit=10)).flow_starts
        for ids in (frozenset[str](), frozenset({start.asked.id})):
            assert () == (await store.snapshot(TENANT, selected, ids, after=0, limit=10)).flow_starts
    assert not await store.carries(start.asked.id, external_id, asker=None)
    assert await store.find_request(TENANT, start.asked.request_id) is None
    assert () == (await store.changes(await store.oldest(), 10)).changes


async def comes_late(store: Store, start: FlowStart, external_id: str) -> None:
    """Nothing that a backend shows or answers too late brings it back, or breaks anything."""
    head, dispatch_id = await store.head(), f"{start.asked.id}-1"
    shown = [
        seen(external_id, State.FAILED, correlation_key=dispatch_id, flow=FLOW),
        seen("another", State.STARTED, correlation_key=dispatch_id, flow=FLOW),
    ]
    assert 0 == await store.sight(BACKEND, shown, account=ACCOUNT)
    await store.record(dispatch_id, 1, accepted("another"))
    await store.release(dispatch_id, NOON)
    assert not await store.ending(dispatch_id)
    await store.spare(dispatch_id)
    assert await begin(store, dispatch_id) is None
    assert [] == await claim_ids(store)
    assert head == await store.head()


async def test_an_erased_start_is_gone_from_its_first_moment_on(store: Store, clock: Clock) -> None:
    """Between any two steps of its erasing, too."""
    start = await create(store, singly(150), request_id="same", labels={"a": "b"})
    await run_to(store, start, accepted("x1"), *[refused()] * 149)
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    clock.now = AFTERNOON
    seen_whole, seen_gone = 0, 0
    while await store.purge(AFTERNOON):
        if (await store.get(TENANT, start.asked.id)) is not None:
            page = await store.recipients(TENANT, start.asked.id, after=None, limit=1_000)
            assert page is not None
            assert 150 == len(page.recipients)
            seen_whole += 1
            continue
        await is_gone(store, start, "x1")
        await comes_late(store, start, "x1")
        seen_gone += 1
    await is_gone(store, start, "x1")
    await comes_late(store, start, "x1")

    assert seen_gone > 1, "it is erased in more than one step"


async def test_an_answer_that_comes_after_its_start_was_erased_is_nothing(store: Store, clock: Clock) -> None:
    """A list had shown the end while the answer was on its way; by then everything was forgotten."""
    start = await create(store)
    (dispatch_id,) = await claim_ids(store)
    attempt = await begin(store, dispatch_id) or 0
    ended = seen("x1", State.COMPLETED, correlation_key=dispatch_id, flow=FLOW)
    assert 1 == await store.sight(BACKEND, [ended], account=ACCOUNT)
    clock.now = AFTERNOON
    assert 0 < await store.purge(AFTERNOON)
    assert await store.get(TENANT, start.asked.id) is None
    head = await store.head()

    await store.record(dispatch_id, attempt, accepted("x2"))  # it is being erased
    while await store.purge(AFTERNOON):
        pass
    await store.record(dispatch_id, attempt, accepted("x2"))
    assert head == await store.head()


async def test_progress_that_was_held_back_does_not_outlive_its_start(store: Store, clock: Clock) -> None:
    """What was to be told a second later is not told of a start that is gone, and the store goes on."""
    start = await create(store, singly(2))
    await run_to(store, start, accepted("x1", State.STARTED), accepted("x2", State.STARTED))
    shown = [seen("x1", State.COMPLETED), seen("x2", State.COMPLETED)]
    assert 2 == await store.sight(BACKEND, shown, account=ACCOUNT)
    while await store.purge(NOON + timedelta(milliseconds=1)):
        pass
    assert await store.get(TENANT, start.asked.id) is None
    clock.tick(2)  # its pause is over

    assert State.PENDING is (await create(store)).standing.state
    await check(store)


# --- small steps beside everything else


async def test_a_large_start_goes_in_many_small_steps(store: Store, clock: Clock) -> None:
    """Thousands of dispatches: whole or gone at every moment, and meanwhile others come and go."""
    count = size(10_000, quick=3_000)
    start = await create(store, singly(count), request_id="large")
    await store.cancel(TENANT, start.asked.id, can_end=False)
    clock.now = AFTERNOON
    moments, steps = [], 0
    while rows := await store.purge(AFTERNOON):
        assert rows <= SMALL
        found = await store.get(TENANT, start.asked.id)
        page = await store.recipients(TENANT, start.asked.id, after=(count - 10, 0), limit=100)
        assert (found is None) is (page is None)
        assert page is None or 10 == len(page.recipients)
        moments.append(found is not None)
        steps += 1
        if steps % 10 == 0:
            await create(store)
            await check(store)

    assert steps > count / SMALL
    assert sorted(moments, reverse=True) == moments, "what is gone stays gone"
    assert await store.get(TENANT, start.asked.id) is None


async def test_erasing_goes_on_after_a_restart(
    store: EngineStore, clock: Clock, reopen: Callable[..., EngineStore]
) -> None:
    """Where it was, however often; what was gone stays gone, and in the end there is nothing left to do."""
    start = await create(store, singly(1_000), request_id="same")
    await store.cancel(TENANT, start.asked.id, can_end=False)
    clock.now = AFTERNOON
    lives = 0
    while await store.purge(AFTERNOON):
        await store.close()
        store = reopen()
        lives += 1
        found = await store.get(TENANT, start.asked.id)
        assert found is None or State.INTERRUPTED is found.standing.state

    assert lives > 5
    await is_gone(store, start, "x1")
    assert not (await create_or_find(store, request_id="same")).replayed


async def test_many_starts_go_few_steps_a_piece(store: Store, clock: Clock) -> None:
    """Small ones share a step, so that forgetting keeps up with what comes."""
    starts = await asyncio.gather(*(create(store) for _ in range(size(300, quick=120))))
    for dispatch_id in await claim_ids(store, 300):
        await settle(store, dispatch_id, refused())

    assert await forget(store, clock) < len(starts) / 10
    assert () == (await store.list(TENANT, Filter(), before=None, limit=10)).flow_starts


async def test_what_comes_meanwhile_is_kept(store: Store, clock: Clock) -> None:
    """Starts that are recorded, sent and finished while others are forgotten, in the same transactions or not."""
    for n in range(40):
        await finished(store, f"old{n}")
    running_on = await running(store)
    clock.now = AFTERNOON

    async def live(n: int) -> FlowStart:
        start = await create(store, backend="twilio", request_id=f"r{n}")
        await store.cancel(TENANT, start.asked.id, can_end=False)
        return start

    purges = [store.purge(AFTERNOON) for _ in range(30)]
    results = await asyncio.gather(*(each for n in range(30) for each in (live(n), purges[n])))
    while await store.purge(AFTERNOON):
        pass
    await check(store)
    page = await store.list(TENANT, Filter(), before=None, limit=100)

    lived = {each.asked.id for each in results if not isinstance(each, int)}  # type: ignore[attr-defined]
    assert lived | {running_on.asked.id} == {start.asked.id for start in page.flow_starts}


async def test_one_that_moves_in_the_same_moment_is_kept(store: Store, clock: Clock) -> None:
    """Its end and the purge that would have recorded it anew, or erased it, wait together: it has one change more."""
    start = await running(store)
    clock.now = AFTERNOON
    ended = store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    late = store.sight(
        BACKEND, [seen("x9", State.STARTED, correlation_key=f"{start.asked.id}-1", flow=FLOW)], account=ACCOUNT
    )
    await asyncio.gather(store.purge(AFTERNOON), ended, store.purge(AFTERNOON), late, store.purge(AFTERNOON))
    await check(store)

    found = await again(store, start)
    assert State.COMPLETED is found.standing.state
    with pytest.raises(NotPossible):
        await store.cancel(TENANT, start.asked.id, can_end=False)
