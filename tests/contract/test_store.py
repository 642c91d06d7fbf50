"""What every store must keep. Whatever takes the fixture `store` is run for each kind there is."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import Reason, RevisionNotAvailable
from gateway.model import TERMINAL, Change, Filter, Notice, Progress, Recipients, State
from gateway.sightings import Window
from gateway.store.claiming import ENDED, IN_FRONT
from tests.builders import (
    ACCOUNT,
    BACKEND,
    FLOW,
    NOON,
    REFUSED,
    TENANT,
    TERMS,
    accepted,
    again,
    asked,
    begin,
    claim_ids,
    create,
    create_or_find,
    put_off,
    refused,
    run_to,
    seen,
    settle,
    singly,
    unsure,
)
from tests.lengths import size

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from gateway.model import FlowStart
    from gateway.store import Store
    from tests.builders import Clock

HEARD = Notice(reason="STATUS_UNKNOWN", message="an unknown word", metadata={"word": "paused"})
ALTERED = Notice(reason="PARAMS_ALTERED", message="another value", metadata={"paths": "a"})


def later(seconds: float) -> Any:
    """A moment after noon."""
    return NOON + timedelta(seconds=seconds)


async def every_change(store: Store, after: int = 0) -> list[Change]:
    """Reads all changes, a few at a time."""
    found: list[Change] = []
    while True:
        read = await store.changes(after, 7)
        found += read.changes
        if read.through == after:
            return found
        after = read.through


async def history(store: Store, start: FlowStart) -> list[State]:
    """Reads the states a start has gone through, in order."""
    changes = await every_change(store)
    return [c.flow_start.standing.state for c in changes if c.flow_start.asked.id == start.asked.id]


# --- recording and finding


async def test_a_recorded_start_is_what_was_asked(store: Store) -> None:
    """Everything that was asked comes back, params included, and it stands at PENDING."""
    wanted = asked(
        sender="+1",
        restart_participants=False,
        exclude_active=True,
        request_id="r",
        labels={"team": "red"},
        schedule_at=later(60),
        expire_at=later(120),
    )
    warning = Notice(reason="DUPLICATES_REMOVED", message="two", metadata={"count": "2"})

    recorded = await store.create(wanted, singly(1), fingerprint="1:f", warnings=(warning,), terms=TERMS)
    found = await again(store, recorded.flow_start)

    assert not recorded.replayed
    assert wanted == recorded.flow_start.asked == found.asked
    assert recorded.flow_start == found
    assert (State.PENDING, (warning,), later(60)) == (
        found.standing.state,
        found.standing.warnings,
        found.standing.next_attempt_at,
    )
    assert Progress() == found.standing.progress


@pytest.mark.parametrize("restart", [None, False, True])
@pytest.mark.parametrize("exclude", [None, False, True])
async def test_unset_and_false_stay_different(store: Store, restart: bool | None, exclude: bool | None) -> None:  # noqa: FBT001
    """What was left unset is the backend's default, not false."""
    start = await create(store, restart_participants=restart, exclude_active=exclude)

    (dispatch,) = (await store.claim(BACKEND, 1)).dispatches

    assert (restart, exclude) == (dispatch.restart_participants, dispatch.exclude_active)
    assert start.asked == (await again(store, start)).asked


async def test_get_finds_only_the_tenants_own(store: Store) -> None:
    """An id of another tenant is as unknown as one that never was."""
    start = await create(store, tenant="a")

    assert await store.get("b", start.asked.id) is None
    assert await store.get("a", "never") is None
    assert start == await store.get("a", start.asked.id)


# --- idempotency


async def test_what_has_a_nul_in_it_is_found_by_nobody(store: Store) -> None:
    """It is asked for as anything else is: the store is as well as before."""
    start = await create(store, request_id="r", labels={"label": "here"})
    (dispatch_id,) = await claim_ids(store)

    assert await store.get(TENANT, f"{start.asked.id}\0") is None
    assert await store.find_request(TENANT, "r\0") is None
    assert not (await store.list(TENANT, Filter(labels={"label": "here\0"}), before=None, limit=10)).flow_starts
    await settle(store, dispatch_id, refused(Notice(reason="BACKEND_REJECTED", message="no\0", metadata={"a": "\0"})))
    assert State.FAILED is (await again(store, start)).standing.state
    assert "" == store.trouble


async def test_fifty_twins_at_once_make_one_start(store: Store) -> None:
    """Concurrent twins get one start: one is recorded, the others find it."""
    results = await asyncio.gather(*(create_or_find(store, request_id="same") for _ in range(50)))

    assert 49 == sum(recorded.replayed for recorded in results)
    assert 1 == len({recorded.flow_start.asked.id for recorded in results})
    assert 1 == len(await every_change(store))
    assert 1 == len(await claim_ids(store))


async def test_the_first_twin_decides_what_was_asked(store: Store) -> None:
    """A later one gets the fingerprint of the first, to be compared by whoever knows what it means."""
    await create_or_find(store, request_id="same", fingerprint="1:first")

    second = await create_or_find(store, request_id="same", fingerprint="1:second", params={"other": 1})

    assert (True, "1:first") == (second.replayed, second.fingerprint)
    assert "other" not in second.flow_start.asked.params


async def test_a_request_id_is_the_tenants_own(store: Store) -> None:
    """Two tenants may use the same request id."""
    results = await asyncio.gather(
        *(create_or_find(store, request_id="same", tenant=tenant) for tenant in ("a", "b") for _ in range(5))
    )

    assert 2 == sum(not recorded.replayed for recorded in results)
    assert {"a", "b"} == {recorded.flow_start.asked.tenant for recorded in results}
    assert await store.find_request("c", "same") is None


async def test_starts_without_a_request_id_are_never_twins(store: Store) -> None:
    """Who gives none asks for one start each time."""
    results = await asyncio.gather(*(create_or_find(store) for _ in range(10)))

    assert 10 == len({recorded.flow_start.asked.id for recorded in results})


async def test_a_replay_shows_the_start_as_it_stands_now(store: Store) -> None:
    """Whatever has become of the first start is what its twin gets."""
    start = await create(store, request_id="same")
    await run_to(store, start, refused())

    found = await store.find_request(TENANT, "same")
    replayed = await create_or_find(store, request_id="same")

    assert found is not None
    assert await again(store, start) == found.flow_start == replayed.flow_start
    assert State.FAILED is replayed.flow_start.standing.state


async def test_a_twin_that_replays_takes_no_revision(store: Store) -> None:
    """A replay is no change."""
    first = await create(store, request_id="same")
    await create(store, request_id="same")
    other = await create(store)

    assert (first.revision, first.revision + 1) == (first.revision, other.revision)
    assert other.revision == await store.head()


async def test_a_request_id_is_remembered_after_a_restart(store: Store, reopen: Callable[..., Store]) -> None:
    """The second process knows what the first recorded."""
    first = await create(store, request_id="same")
    await store.close()  # type: ignore[attr-defined]

    second = await create_or_find(reopen(), request_id="same")

    assert (True, first) == (second.replayed, second.flow_start)


# --- revisions and changes


async def test_revisions_are_in_commit_order_and_nothing_appears_behind_a_reader(store: Store) -> None:
    """Whoever has read through a revision never finds a change at or before it later."""
    seen_by_reader: list[int] = []
    through = 0

    async def read_on() -> None:
        nonlocal through
        for _ in range(60):
            read = await store.changes(through, 5)
            seen_by_reader.extend(change.revision for change in read.changes)
            assert all(change.revision > through for change in read.changes)
            through = read.through

    async def write() -> None:
        for _ in range(10):
            await asyncio.gather(*(create(store) for _ in range(5)))
            for dispatch_id in await claim_ids(store, 3):
                await settle(store, dispatch_id, accepted(f"x{dispatch_id}"))

    await asyncio.gather(read_on(), write())
    await read_on()

    assert [change.revision for change in await every_change(store)] == seen_by_reader
    assert list(range(1, await store.head() + 1)) == seen_by_reader


async def test_what_create_returned_is_below_what_is_created_after_it(store: Store) -> None:
    """Revisions increase strictly, one after the other."""
    revisions = [(await create(store)).revision for _ in range(5)]

    assert sorted(set(revisions)) == revisions


async def test_the_last_change_of_a_start_is_how_it_stands(store: Store) -> None:
    """The record and its history never differ."""
    starts = [await create(store, singly(3)) for _ in range(3)]
    for n, dispatch_id in enumerate(await claim_ids(store)):
        await settle(store, dispatch_id, [accepted(f"x{n}"), refused(), unsure()][n % 3])

    for start in starts:
        now = await again(store, start)
        last = [c for c in await every_change(store) if c.flow_start.asked.id == start.asked.id][-1]

        assert (now.revision, now.standing) == (last.revision, last.flow_start.standing)


async def test_each_change_tells_the_state_before(store: Store) -> None:
    """The first change has none before it."""
    start = await create(store)
    await run_to(store, start, accepted("x1"))
    await store.sight(BACKEND, [seen("x1", State.STARTED)], account=ACCOUNT)
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)

    assert [
        (None, State.PENDING),
        (State.PENDING, State.QUEUED),
        (State.QUEUED, State.STARTED),
        (State.STARTED, State.COMPLETED),
    ] == [(c.state_before, c.flow_start.standing.state) for c in await every_change(store)]


async def test_changes_are_refused_outside_of_what_is_there(store: Store) -> None:
    """From the beginning to the head is there; beyond it is a revision nobody was given."""
    await create(store)

    assert 1 == (await store.changes(0, 10)).through
    assert () == (await store.changes(1, 10)).changes
    for nowhere in (2, -1):
        with pytest.raises(RevisionNotAvailable, match="is not available"):
            await store.changes(nowhere, 10)


async def test_listeners_hear_the_newest_revision_after_each_commit_that_made_one(store: Store) -> None:
    """They hear nothing of what changes nothing a caller can see."""
    heard: list[int] = []
    store.listen(heard.append)

    start = await create(store, request_id="same")
    await create(store, request_id="same")
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, accepted("x1"))
    await again(store, start)

    assert [1, 2] == heard
    assert 2 == await store.head()


async def test_who_listens_for_one_backend_hears_of_its_starts_alone(store: Store) -> None:
    """Whether they are recorded, or move for whatever reason."""
    heard: dict[str, list[int]] = {BACKEND: [], "twilio": []}
    for backend, revisions in heard.items():
        store.listen(revisions.append, backend)
    here = await create(store)
    there = await create(store, backend="twilio")
    await run_to(store, there, accepted("x1"))
    await store.sight("twilio", [seen("x1", State.COMPLETED)], account=ACCOUNT)
    await store.cancel(TENANT, here.asked.id, can_end=False)
    await store.head()  # what was announced has arrived

    assert {BACKEND: [1, 5], "twilio": [2, 3, 4]} == heard


# --- claims


async def test_a_dispatch_is_claimed_once(store: Store) -> None:
    """However many ask at once."""
    await create(store, singly(100))

    claims = await asyncio.gather(*(claim_ids(store, 7) for _ in range(30)))
    ids = [dispatch_id for claimed in claims for dispatch_id in claimed]

    assert max(len(claimed) for claimed in claims) == 7
    assert (100, 100) == (len(ids), len(set(ids)))
    assert [] == await claim_ids(store)


async def test_a_claim_takes_no_more_than_its_limit_and_only_its_backends(store: Store) -> None:
    """A limit of none takes nothing, and still tells that there is something."""
    await create(store, singly(5))
    await create(store, singly(5), backend="twilio")

    nothing = await store.claim(BACKEND, 0)

    assert ((), NOON) == (nothing.dispatches, nothing.next_due_at)
    assert 3 == len(await claim_ids(store, 3))
    assert 5 == len(await claim_ids(store, 100, "twilio"))
    assert 2 == len(await claim_ids(store, 100))


async def test_a_claimed_dispatch_has_all_that_sending_needs(store: Store) -> None:
    """The start's flow, params, sender and options with the dispatch's own recipients."""
    start = await create(store, [Recipients(urns=("tel:+1", "tel:+2"), groups=("g",))], sender="+9")

    (dispatch,) = (await store.claim(BACKEND, 1)).dispatches

    assert f"{start.asked.id}-1" == dispatch.id
    assert (FLOW, start.asked.params, "+9") == (dispatch.flow, dispatch.params, dispatch.sender)
    assert Recipients(urns=("tel:+1", "tel:+2"), groups=("g",)) == dispatch.recipients


async def test_ten_thousand_recipients_are_each_sent_once_and_in_order(store: Store) -> None:
    """A plan of 10,000 single dispatches is written out in blocks, and none is left out, doubled or overtaken."""
    plan = singly(size(10_000, quick=2_000))
    await create(store, plan)
    claimed: list[Any] = []

    while dispatches := (await store.claim(BACKEND, 777)).dispatches:
        claimed += dispatches

    assert len(plan) == len({dispatch.id for dispatch in claimed})
    assert plan == [dispatch.recipients for dispatch in claimed]
    assert list(range(1, len(plan) + 1)) == [int(dispatch.id.rpartition("-")[2]) for dispatch in claimed]


async def test_a_plan_of_large_dispatches_is_written_out_in_order_too(store: Store) -> None:
    """Blocks hold about a hundred recipients, whatever the dispatches are."""
    urns = [f"tel:+1{n}" for n in range(950)]
    plan = [Recipients(urns=tuple(urns[n : n + 70])) for n in range(0, 950, 70)]
    await create(store, plan)

    claimed = (await store.claim(BACKEND, 1_000)).dispatches

    assert plan == [dispatch.recipients for dispatch in claimed]


async def test_large_starts_and_small_ones_take_turns(store: Store, clock: Clock) -> None:
    """A block of a large start queues up behind what came since the one before it, and is not starved by it either."""
    large = await create(store, singly(350))
    clock.tick(1)
    small = await create(store)
    clock.tick(1)
    first = await claim_ids(store, 100)
    clock.tick(1)
    smaller = [await create(store) for _ in range(3)]
    then = await claim_ids(store, 300)

    assert [f"{large.asked.id}-{n}" for n in range(1, 101)] == first
    assert [f"{small.asked.id}-1", *(f"{large.asked.id}-{n}" for n in range(101, 201))] == then[:101]
    assert [f"{start.asked.id}-1" for start in smaller] == then[101:104]
    assert [f"{large.asked.id}-{n}" for n in range(201, 351)] == then[104:] + await claim_ids(store, 300)


async def test_what_is_due_longest_is_claimed_first(store: Store, clock: Clock) -> None:
    """By the time it was due, whatever the order in which it was recorded or put off."""
    third = await create(store, schedule_at=later(30))
    second = await create(store, schedule_at=later(20))
    first = await create(store, schedule_at=later(10))
    clock.tick(60)
    last = await create(store)

    assert [f"{start.asked.id}-1" for start in (first, second, third, last)] == await claim_ids(store)


async def test_nothing_is_claimed_before_it_is_due(store: Store, clock: Clock) -> None:
    """Neither what is written out nor the blocks that are not; and the store says when to come back."""
    await create(store, singly(250), schedule_at=later(60))

    early = await store.claim(BACKEND, 1_000)
    clock.tick(59.999999)
    still_early = await store.claim(BACKEND, 1_000)
    clock.tick(0.000001)

    assert ((), later(60)) == (early.dispatches, early.next_due_at)
    assert ((), later(60)) == (still_early.dispatches, still_early.next_due_at)
    assert 250 == len(await claim_ids(store, 1_000))


async def test_a_schedule_in_the_past_means_now(store: Store) -> None:
    """And nothing is said to be waited for."""
    start = await create(store, schedule_at=later(-60))

    assert start.standing.next_attempt_at is None
    assert 1 == len(await claim_ids(store))


@pytest.mark.parametrize("recipients", [1, 100, 101, 350])
async def test_next_due_at_never_misses_work_and_never_calls_in_vain(
    store: Store, clock: Clock, recipients: int
) -> None:
    """Whoever claims at `next_due_at` and at no other time sends all and is called no more often than needed."""
    await create(store, singly(recipients))
    await create(store, singly(recipients), schedule_at=later(30))
    await create(store, singly(recipients), schedule_at=later(40), expire_at=later(50))
    await create(store, singly(recipients), schedule_at=later(70), backend="twilio")
    claimed = calls = 0

    while True:
        claims = await store.claim(BACKEND, 10)
        claimed += len(claims.dispatches)
        calls += 1
        if claims.next_due_at is None:
            break
        assert claims.dispatches or claims.next_due_at > clock(), "called in vain"
        clock.now = max(clock.now, claims.next_due_at)

    assert 3 * recipients == claimed
    assert calls <= 3 * (recipients // 10 + 2)


async def test_b_much_that_expires_at_once_ends_in_small_steps(store: Store, clock: Clock) -> None:
    """Whoever claims says whether it may end some, and may rest: nothing that has expired is claimed meanwhile."""
    for _ in range(3):
        await create(store, singly(350), expire_at=later(60))
    clock.tick(60)
    quiet = await create(store, tenant="quiet")
    waiting, steps, claimed = await store.count_pending(BACKEND), [], []
    for turn in range(100):
        may = turn % 2 == 0
        claims = await store.claim(BACKEND, 3, ends=may)
        claimed += [dispatch.id for dispatch in claims.dispatches]
        before, waiting = waiting, await store.count_pending(BACKEND)
        steps.append((may, before - waiting - len(claims.dispatches)))
        assert may or claims.next_due_at is None, "comes back for what it may not end"
        if may and not claims.ends_more:
            break

    assert 3 * 350 == sum(rows for _, rows in steps)
    assert ENDED + IN_FRONT >= max(rows for _, rows in steps)
    assert {0} == {rows for may, rows in steps if not may}
    assert [f"{quiet.asked.id}-1"] == claimed


async def test_b_who_stands_behind_what_has_expired_waits_for_no_other_tenants(store: Store, clock: Clock) -> None:
    """Each step ends some of what stands before others, of each tenant, whatever else has expired earlier."""
    for _ in range(3):
        await create(store, singly(350), expire_at=later(50))
    await create(store, singly(2), expire_at=later(60), tenant="quiet")
    last = await create(store, tenant="quiet")
    clock.tick(60)

    claims = await store.claim(BACKEND, 8)

    assert [f"{last.asked.id}-1"] == [dispatch.id for dispatch in claims.dispatches]
    assert claims.ends_more


async def test_next_due_at_tells_of_an_expiry_that_comes_before_the_work(store: Store, clock: Clock) -> None:
    """So that what expires while it waits is told in time."""
    start = await create(store, expire_at=later(60))
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, put_off(later(600)))

    waiting = await store.claim(BACKEND, 1)
    clock.tick(60)
    after = await store.claim(BACKEND, 1)

    assert later(60) == waiting.next_due_at
    assert ((), None) == (after.dispatches, after.next_due_at)
    assert State.FAILED is (await again(store, start)).standing.state


async def test_a_released_dispatch_may_be_claimed_again_when_it_is_due(store: Store, clock: Clock) -> None:
    """It was not sent, so it is no attempt."""
    await create(store)
    (dispatch_id,) = await claim_ids(store)

    await store.release(dispatch_id, later(5))
    early = await store.claim(BACKEND, 1)
    clock.tick(5)

    assert ((), later(5)) == (early.dispatches, early.next_due_at)
    assert [dispatch_id] == await claim_ids(store)
    assert 1 == await begin(store, dispatch_id)


async def test_count_pending_counts_what_is_due_unsent_and_unclaimed(store: Store, clock: Clock) -> None:
    """What is scheduled is not due yet."""
    await create(store, singly(5))
    await create(store, singly(4), schedule_at=later(60))
    await create(store, singly(3), backend="twilio")

    before = await store.count_pending(BACKEND)
    await claim_ids(store, 2)
    after = await store.count_pending(BACKEND)
    clock.tick(60)

    assert (5, 3, 7) == (before, after, await store.count_pending(BACKEND))


async def test_b_count_pending_counts_what_is_not_written_out_yet(store: Store, clock: Clock) -> None:
    """Of large starts too, scheduled ones once they are due."""
    await create(store, singly(950))
    await create(store, singly(450), schedule_at=later(60))
    before = await store.count_pending(BACKEND)
    await claim_ids(store, 150)
    clock.tick(60)

    assert (950, 950 - 150 + 450) == (before, await store.count_pending(BACKEND))


# --- expiry


async def test_what_is_unsent_when_it_expires_fails_blocks_included(store: Store, clock: Clock) -> None:
    """Dispatches that were never written out fail as the others do, and nothing is claimed afterwards."""
    start = await create(store, singly(1_000), expire_at=later(60))
    await run_to(store, start)  # claims all of it
    second = await create(store, singly(1_000), expire_at=later(60))
    sent = await claim_ids(store, 2)
    for n, dispatch_id in enumerate(sent):
        await settle(store, dispatch_id, accepted(f"x{n}", State.COMPLETED))
    clock.tick(60)

    claims = await store.claim(BACKEND, 5_000)
    while claims.next_due_at is not None:  # a bounded number is ended at a time
        claims = await store.claim(BACKEND, 5_000)
        assert () == claims.dispatches
    now = await again(store, second)

    assert ((), None) == (claims.dispatches, claims.next_due_at)
    assert Progress(completed=2, failed=998) == now.standing.progress
    assert (State.COMPLETED, None) == (now.standing.state, now.standing.failure)
    assert {Reason.PARTLY_FAILED: {"recipients": "998", "first_reason": "EXPIRED"}} == {
        warning.reason: warning.metadata for warning in now.standing.warnings
    }


async def test_a_start_of_which_nothing_was_sent_expires_with_one_change(store: Store, clock: Clock) -> None:
    """250 dispatches that expire together are one change, with the reason."""
    start = await create(store, singly(250), schedule_at=later(30), expire_at=later(60))
    clock.tick(61)

    assert [] == await claim_ids(store)
    now = await again(store, start)

    assert [State.PENDING, State.FAILED] == await history(store, start)
    assert Reason.EXPIRED == getattr(now.standing.failure, "reason", None)
    assert (later(61), None) == (now.standing.ended_at, now.standing.next_attempt_at)


async def test_an_attempt_is_not_begun_after_expiry(store: Store, clock: Clock) -> None:
    """A claim that was taken in time is no leave to send later; given back, it fails."""
    start = await create(store, expire_at=later(60))
    (dispatch_id,) = await claim_ids(store)
    clock.tick(60)

    assert await begin(store, dispatch_id) is None
    await store.release(dispatch_id, clock())
    assert [] == await claim_ids(store)
    assert State.FAILED is (await again(store, start)).standing.state


async def test_an_answer_that_comes_after_expiry_still_counts(store: Store, clock: Clock) -> None:
    """Expiry stops sends, never answers."""
    start = await create(store, expire_at=later(60))
    (dispatch_id,) = await claim_ids(store)
    attempt = await begin(store, dispatch_id)
    clock.tick(120)
    await store.claim(BACKEND, 1)

    await store.record(dispatch_id, attempt or 0, accepted("x1"))

    assert State.QUEUED is (await again(store, start)).standing.state


# --- attempts and what came of them


async def test_an_attempt_needs_a_claim(store: Store) -> None:
    """What is unclaimed, unknown or settled is not sent."""
    await create(store)

    unclaimed = [await begin(store, dispatch_id) for dispatch_id in ("never-1",)]
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, accepted("x1"))

    assert [None] == unclaimed
    assert await begin(store, dispatch_id) is None


async def test_an_attempt_is_not_begun_while_another_is_open(store: Store) -> None:
    """One claim is one POST: what may be on its way is neither sent again nor given back."""
    await create(store)
    (dispatch_id,) = await claim_ids(store)

    first = await begin(store, dispatch_id)
    second = await begin(store, dispatch_id)
    await store.release(dispatch_id, NOON)

    assert (1, None) == (first, second)
    assert [] == await claim_ids(store)


async def test_an_answer_counts_once(store: Store) -> None:
    """The first record closes the attempt; a second one changes nothing, whatever it says."""
    start = await create(store)
    (dispatch_id,) = await claim_ids(store)
    attempt = await begin(store, dispatch_id) or 0
    await store.record(dispatch_id, attempt, accepted("x1"))
    once = await again(store, start)

    for other in (accepted("x2"), refused(), put_off(NOON), unsure()):
        await store.record(dispatch_id, attempt, other)

    assert once == await again(store, start)
    assert ("x1", Progress(queued=1)) == (once.standing.external_id, once.standing.progress)
    assert [] == await claim_ids(store)


async def test_a_dispatch_put_off_is_tried_again_when_it_is_due(store: Store, clock: Clock) -> None:
    """The start says when, its warnings are kept once each, and attempts are numbered on."""
    blocked = Notice(reason="BACKEND_SUSPENDED", message="first words")
    start = await create(store, warnings=(ALTERED,))
    (dispatch_id,) = await claim_ids(store)

    await settle(store, dispatch_id, put_off(later(30), blocked))
    once = (await again(store, start)).standing
    clock.tick(30)
    assert [dispatch_id] == await claim_ids(store)
    assert 2 == await begin(store, dispatch_id)
    await store.record(dispatch_id, 2, put_off(later(90), replace(blocked, message="other words"), ALTERED))
    twice = (await again(store, start)).standing

    assert (State.PENDING, later(30), (ALTERED, blocked)) == (once.state, once.next_attempt_at, once.warnings)
    assert (State.PENDING, later(90), (ALTERED, blocked)) == (twice.state, twice.next_attempt_at, twice.warnings)
    assert later(90) == (await store.claim(BACKEND, 1)).next_due_at


async def test_next_attempt_at_is_told_only_while_everything_waits(store: Store) -> None:
    """As long as one dispatch may be sent now there is nothing to wait for."""
    start = await create(store, singly(2))
    first, second = await claim_ids(store)
    await store.release(second, NOON)

    await settle(store, first, put_off(later(30)))
    one_waits = (await again(store, start)).standing
    await claim_ids(store)
    await settle(store, second, put_off(later(20)))
    both_wait = (await again(store, start)).standing

    assert (None, later(20)) == (one_waits.next_attempt_at, both_wait.next_attempt_at)


async def test_a_refusal_keeps_its_failure(store: Store) -> None:
    """Reason, words and metadata as they were settled."""
    start = await create(store)
    await run_to(store, start, refused())
    now = await again(store, start)

    assert (State.FAILED, REFUSED, NOON) == (now.standing.state, now.standing.failure, now.standing.ended_at)
    assert Progress(failed=1) == now.standing.progress


async def test_an_unsure_outcome_is_looked_for_and_then_rests_and_is_not_sent_again(store: Store, clock: Clock) -> None:
    """Once it cannot be found out, nothing more happens to it by itself."""
    start = await create(store)
    await run_to(store, start, unsure())
    clock.tick(100_000)
    looked_for = await again(store, start)
    assert [] == await claim_ids(store)
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.rest(sought)
    now = await again(store, start)

    assert not looked_for.standing.is_done
    assert [] == await claim_ids(store)
    assert () == await store.sought(BACKEND, ACCOUNT)
    assert (State.UNCERTAIN, "OUTCOME_UNKNOWN") == (now.standing.state, getattr(now.standing.failure, "reason", None))
    assert now.standing.is_done


async def test_uncertain_is_not_at_rest_while_other_dispatches_are_still_to_be_sent(store: Store) -> None:
    """One is uncertain, one is being sent, one waits: the start is done only when the last is settled."""
    start = await create(store, singly(3))
    first, second, third = await claim_ids(store)
    await store.release(third, later(30))

    dones = []
    await settle(store, first, unsure())
    dones.append((await again(store, start)).standing.is_done)
    await settle(store, second, unsure())
    waits = (await again(store, start)).standing
    dones.append(waits.is_done)
    await store.release(third, NOON)

    assert [False, False] == dones
    assert waits.next_attempt_at is not None


async def test_a_wide_start_that_turns_uncertain_is_not_one_change_for_each_dispatch(
    store: Store, clock: Clock
) -> None:
    """While others are still to be sent the time of the next attempt does not move with every answer."""
    start = await create(store, singly(50))
    for dispatch_id in await claim_ids(store):
        clock.tick(0.01)
        await settle(store, dispatch_id, unsure())
    states = await history(store, start)

    assert len(states) <= 4


async def test_one_dispatch_has_an_external_id_and_many_have_none(store: Store) -> None:
    """The start carries the backend's id only where there is exactly one; each dispatch carries its own."""
    single = await create(store)
    few = await create(store, singly(2))
    many = await create(store, [Recipients(urns=tuple(f"tel:+1{n}" for n in range(100)))] * 2, recipient_count=200)
    for n, dispatch_id in enumerate(await claim_ids(store)):
        await settle(store, dispatch_id, accepted(f"x{n}"))

    assert ["x0", "", ""] == [(await again(store, start)).standing.external_id for start in (single, few, many)]
    assert await store.carries(few.asked.id, "x2", asker=None)
    assert not await store.carries(few.asked.id, "x0", asker=None)


# --- following


async def running(store: Store, count: int = 1, state: State = State.QUEUED) -> FlowStart:
    """Records a start whose dispatches are accepted as x1, x2 and so on."""
    start = await create(store, singly(count))
    await run_to(store, start, *(accepted(f"x{n + 1}", state) for n in range(count)))
    return await again(store, start)


async def test_sightings_move_a_dispatch_on_and_never_back(store: Store) -> None:
    """An older row, from a replica that lags, is not believed; an end is final."""
    start = await running(store)
    shown = [State.STARTED, State.QUEUED, State.STARTED, State.COMPLETED, State.FAILED, State.STARTED]

    moved = [await store.sight(BACKEND, [seen("x1", state)], account=ACCOUNT) for state in shown]

    assert [1, 0, 0, 1, 0, 0] == moved
    assert [State.PENDING, State.QUEUED, State.STARTED, State.COMPLETED] == await history(store, start)


async def test_sightings_of_what_is_unknown_or_another_backends_move_nothing(store: Store) -> None:
    """Ids are the backend's own."""
    await running(store)
    head = await store.head()

    assert 0 == await store.sight("twilio", [seen("x1", State.COMPLETED)], account=ACCOUNT)
    assert 0 == await store.sight(BACKEND, [seen("nobody's", State.COMPLETED)], account=ACCOUNT)
    assert 0 == await store.sight(BACKEND, [], account=ACCOUNT)
    assert head == await store.head()


async def test_contact_counts_of_dispatches_add_up(store: Store, clock: Clock) -> None:
    """They are kept as differences: a count shown twice counts once, one that is not shown stays."""
    start = await running(store, 2, State.STARTED)

    async def show(*sightings: tuple[str, int | None, int | None]) -> tuple[int, int | None, int | None]:
        clock.tick(2)
        moved = await store.sight(
            BACKEND,
            [seen(i, State.STARTED, contact_count=n, contact_started_count=s) for i, n, s in sightings],
            account=ACCOUNT,
        )
        progress = (await again(store, start)).standing.progress
        return moved, progress.contact_count, progress.contact_started_count

    assert (None, None) == (start.standing.progress.contact_count, start.standing.progress.contact_started_count)
    assert (2, 30, 3) == await show(("x1", 10, 1), ("x2", 20, 2))
    assert (0, 30, 3) == await show(("x1", 10, 1), ("x2", 20, 2))
    assert (1, 30, 7) == await show(("x1", 10, 5), ("x2", None, None))
    assert (0, 30, 7) == await show(("x1", 10, 2), ("x2", 20, 0)), "a count went back"
    assert (2, 31, 10) == await show(("x1", 11, 7), ("x2", None, 3))


async def test_an_unknown_word_keeps_the_state_and_warns_once(store: Store, clock: Clock) -> None:
    """Shown again, alone or with other warnings in turn, it makes no change: a sweep repeats it for ever."""
    start = await running(store, 2, State.STARTED)
    for _ in range(3):
        await store.sight(
            BACKEND,
            [seen("x1", None, warnings=(HEARD, ALTERED)), seen("x2", None, warnings=(ALTERED,))],
            account=ACCOUNT,
        )
    head = await store.head()

    for n in range(6):
        clock.tick(2)
        assert 0 == await store.sight(
            BACKEND, [seen(f"x{n % 2 + 1}", None, warnings=(HEARD, ALTERED)[n % 2 :])], account=ACCOUNT
        )
    now = await again(store, start)

    assert head == await store.head()
    assert (State.STARTED, (HEARD, ALTERED)) == (now.standing.state, now.standing.warnings)


async def test_an_end_may_come_with_a_failure(store: Store) -> None:
    """A backend that says it failed, or was interrupted, is quoted."""
    start = await running(store)
    gone = Notice(reason="BACKEND_GONE", message="gone")
    await store.sight(BACKEND, [seen("x1", State.INTERRUPTED, failure=gone)], account=ACCOUNT)
    now = await again(store, start)

    assert (State.INTERRUPTED, gone, NOON) == (now.standing.state, now.standing.failure, now.standing.ended_at)


async def test_windows_unseen_and_running_tell_what_runs(store: Store, clock: Clock) -> None:
    """By flow and by when the backend had accepted it; what has ended is in none."""
    start = await create(store, singly(3))
    await run_to(store, start, *(accepted(f"x{n}", accepted_at=later(10 * n)) for n in range(3)))
    other = await create(store, flow="other")
    await run_to(store, other, accepted("y", accepted_at=later(5)))
    clock.tick(60)
    await store.sight(BACKEND, [seen("x0", State.COMPLETED)], account=ACCOUNT)

    windows = {(window.flow, window.oldest, window.newest) for window in await store.windows(BACKEND, ACCOUNT)}
    found = await store.running(BACKEND, ["x0", "x1", "nobody's"])

    assert {(FLOW, later(10), later(20)), ("other", later(5), later(5))} == windows
    assert [("x1", FLOW, State.QUEUED, later(10))] == [
        (one.external_id, one.flow, one.state, one.accepted_at) for one in found
    ]
    assert {"x1", "x2", "y"} == await store.unseen(BACKEND, ACCOUNT, frozenset())
    assert {"x2"} == await store.unseen(BACKEND, ACCOUNT, frozenset({"x1", "y", "nobody's"}))
    assert () == await store.windows("twilio", ACCOUNT)
    assert () == await store.running("twilio", ["x1"])
    assert set() == await store.unseen("twilio", ACCOUNT, frozenset())
    assert set() == await store.unseen(BACKEND, "another", frozenset())


@pytest.mark.parametrize(
    ("minutes", "oldest", "stragglers"),
    [
        ([0], 0, None),
        ([0, 60, 120, 180], 0, None),  # no gap, however long it is
        ([0, 61], 61, 0),
        ([0, 1, 61, 122, 130, 182], 122, 0),  # the last gap counts
        ([0, 20, 40, 59, 60, 120], 0, None),
    ],
)
async def test_a_window_begins_behind_the_last_gap(
    store: Store, minutes: list[int], oldest: int, stragglers: int | None
) -> None:
    """Of an hour in which nothing was accepted that still runs: what is before it is stragglers."""
    start = await create(store, singly(len(minutes)))
    when = [NOON + timedelta(minutes=each) for each in minutes]
    await run_to(store, start, *(accepted(f"x{n}", accepted_at=each) for n, each in enumerate(when)))

    assert (
        Window(
            flow=FLOW,
            oldest=NOON + timedelta(minutes=oldest),
            newest=when[-1],
            stragglers=None if stragglers is None else NOON + timedelta(minutes=stragglers),
        ),
    ) == await store.windows(BACKEND, ACCOUNT)


async def test_news_is_what_sighting_would_record(store: Store) -> None:
    """What shows nothing new costs no write; what has ended, and what is nobody's, tells nothing any more."""
    start = await create(store, singly(2))
    await run_to(store, start, accepted("x0", State.STARTED), accepted("x1", State.STARTED))
    unsent = await create(store)
    await store.sight(
        BACKEND, [seen("x0", contact_count=3, contact_started_count=1), seen("x1", State.COMPLETED)], account=ACCOUNT
    )
    told = [
        seen("x0", State.COMPLETED),
        seen("x0", State.STARTED, contact_started_count=2),
        seen("x0", contact_count=4),
        seen("x0", warnings=(Notice(reason="STATUS_UNKNOWN", message=""),)),
        seen("mine", State.STARTED, correlation_key=f"{start.asked.id}-1"),
    ]
    stale = [
        seen("x0", State.STARTED),
        seen("x0", State.QUEUED),
        seen("x0", contact_count=2, contact_started_count=1),
        seen("x0"),
        seen("x0", State.STARTED, correlation_key=f"{start.asked.id}-1"),
        seen("x1", State.COMPLETED),
        seen("x1", State.FAILED),
        seen("nobody's", State.COMPLETED),
        seen("forgotten", State.COMPLETED, correlation_key="0BYGONE-1"),
        seen("unsent", State.COMPLETED, correlation_key=f"{unsent.asked.id}-1"),
    ]

    assert tuple(told) == await store.news(BACKEND, [*stale, *told])
    assert () == await store.news("twilio", told[:4])
    assert 0 == await store.sight(BACKEND, stale, account=ACCOUNT)


ANSWERS = [
    accepted("", State.QUEUED),
    accepted("", State.COMPLETED, warnings=(Notice(reason="STATUS_UNKNOWN", message=""),)),
    refused(),
    unsure(),
    put_off(NOON + timedelta(minutes=3)),
]


@pytest.mark.parametrize("seed", range(8))
async def test_what_is_done_at_once_comes_to_the_same_as_one_by_one(
    reopen: Callable[..., Store], clock: Clock, seed: int
) -> None:
    """Sent, answered twice, cancelled meanwhile and shown: of starts of one dispatch and of many, in one commit."""
    draw = random.Random(seed)
    sizes = [draw.choice([1, 1, 3, size(70, quick=16)]) for _ in range(6)]
    cancelled = draw.randrange(6)
    ids = sorted(f"s{n}-{k}" for n, count in enumerate(sizes) for k in range(1, count + 1))
    told = {each: draw.choice(ANSWERS) for each in ids}
    told |= {each: replace(answer, external_id=f"x{each}") for each, answer in told.items() if answer.account}
    shown = [
        seen(f"x{each}", state, contact_count=count)
        for each in draw.sample(ids, len(ids) // 2)
        for state, count in ((State.STARTED, 1), draw.choice([(None, None), (State.QUEUED, 2), (State.FAILED, None)]))
    ]
    found = []
    for name in ("one by one", "at once"):
        store, is_at_once = reopen(name), name == "at once"
        starts = [await create(store, singly(count), id=f"s{n}", created_at=NOON) for n, count in enumerate(sizes)]
        assert ids == sorted(await claim_ids(store, 1_000))
        attempts = await _do((begin(store, each) for each in [*ids, "nobody's"]), at_once=is_at_once)
        await store.cancel(TENANT, f"s{cancelled}", can_end=True)
        answers = [(each, attempt, told[each]) for each, attempt in zip(ids, attempts, strict=False)]
        await _do((store.record(*answer) for answer in [*answers, *answers[::7]]), at_once=is_at_once)
        parts = [shown] if is_at_once else [[each] for each in shown]
        moved = [await store.sight(BACKEND, part, account=ACCOUNT) for part in parts]
        clock.tick(2)
        await store.sight(BACKEND, [], account=ACCOUNT)  # tells the progress that was held back
        clock.tick(-2)
        found.append((attempts, sum(moved), [await _everything(store, start) for start in starts]))

    assert found[0] == found[1]
    assert [1] * len(ids) + [None] == found[0][0]


async def _do(operations: Iterable[Coroutine[Any, Any, Any]], *, at_once: bool) -> list[Any]:
    """Does them in one commit, or each in its own."""
    if at_once:
        return await asyncio.gather(*operations)
    return [await operation for operation in operations]


async def _everything(store: Store, start: FlowStart) -> tuple[Any, ...]:
    """Reads where a start stands, its recipients and its attempts."""
    page = await store.recipients(TENANT, start.asked.id, after=None, limit=1_000)
    history = await store.history(TENANT, start.asked.id, after=None, limit=1_000)
    assert page is not None
    assert history is not None
    attempts = [entry for entry in history.entries if not isinstance(entry, Change)]
    return replace((await again(store, start)).standing, updated_at=NOON), page.recipients, attempts


# --- progress


async def test_progress_alone_is_one_change_a_second(store: Store, clock: Clock) -> None:
    """Twenty steps in two seconds are at most three changes, and the last step is told."""
    start = await running(store, 30, State.STARTED)
    clock.tick(1)
    before = await store.head()

    for n in range(20):
        clock.tick(0.1)
        await store.sight(BACKEND, [seen(f"x{n + 1}", State.COMPLETED)], account=ACCOUNT)
    told = await every_change(store, before)
    clock.tick(1)
    await store.sight(BACKEND, [], account=ACCOUNT)

    assert 2 <= len(told) <= 3
    assert Progress(started=10, completed=20) == (await again(store, start)).standing.progress


async def test_a_change_of_state_is_told_at_once_with_the_progress_held_back(store: Store) -> None:
    """In the same instant in which progress has to wait."""
    start = await running(store, 3, State.STARTED)
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    held_back = await again(store, start)

    await store.sight(BACKEND, [seen("x2", State.COMPLETED), seen("x3", State.COMPLETED)], account=ACCOUNT)
    now = await again(store, start)

    assert Progress(started=1) == held_back.standing.progress
    assert (State.COMPLETED, Progress(completed=3)) == (now.standing.state, now.standing.progress)
    assert now.revision == await store.head()


async def test_progress_held_back_is_told_by_itself(store: Store, clock: Clock) -> None:
    """Nobody has to write anything more."""
    start = await running(store, 2, State.STARTED)
    clock.tick(0.99)  # of the second's pause a hundredth is left
    told = asyncio.Event()
    store.listen(lambda _revision: told.set())
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    clock.tick(2)

    await asyncio.wait_for(told.wait(), 5)

    assert Progress(started=1, completed=1) == (await again(store, start)).standing.progress


async def test_the_progress_of_one_start_does_not_hold_back_another(store: Store, clock: Clock) -> None:
    """The pause is each start's own."""
    first = await running(store, 2, State.STARTED)
    clock.tick(0.9)
    second = await create(store, singly(2))
    await run_to(store, second, accepted("y1", State.STARTED), accepted("y2", State.STARTED))
    await store.sight(BACKEND, [seen("x1", State.COMPLETED), seen("y1", State.COMPLETED)], account=ACCOUNT)
    clock.tick(0.2)
    await store.sight(BACKEND, [], account=ACCOUNT)

    assert Progress(started=1, completed=1) == (await again(store, first)).standing.progress
    assert Progress(started=1) == (await again(store, second)).standing.progress


async def test_what_lands_in_one_write_for_one_start_is_one_change(store: Store) -> None:
    """Sightings of all its dispatches together move it once."""
    start = await running(store, 5)
    await store.sight(BACKEND, [seen(f"x{n + 1}", State.COMPLETED) for n in range(5)], account=ACCOUNT)

    assert State.COMPLETED is (await history(store, start))[-1]
    assert 1 == (await history(store, start)).count(State.COMPLETED)


# --- a wide start, to its end


async def test_progress_adds_up_to_the_recipients_all_along(store: Store, clock: Clock) -> None:
    """Whatever mix of answers comes, nobody is counted twice or lost, and the end is told."""
    start = await create(store, singly(230))
    n = 0
    while ids := await claim_ids(store, 60):
        for dispatch_id in ids:
            n += 1
            outcome = [accepted(f"x{n}"), refused(), accepted(f"x{n}", State.STARTED)][n % 3]
            await settle(store, dispatch_id, outcome)
    clock.tick(2)
    await store.sight(BACKEND, [seen(f"x{i}", State.COMPLETED) for i in range(1, n + 1)], account=ACCOUNT)
    now = (await again(store, start)).standing

    assert 230 == n
    assert Progress(completed=153, failed=77) == now.progress
    assert State.COMPLETED is now.state
    for change in await every_change(store):
        counts = change.flow_start.standing.progress
        assert counts.queued + counts.started + counts.completed + counts.failed <= 230
    after_end = [c for c in await every_change(store) if c.state_before in TERMINAL]
    assert [] == after_end


# --- lists and snapshots


async def page_all(store: Store, selected: Filter, limit: int = 2, tenant: str = TENANT) -> list[str]:
    """Reads a list to its end."""
    found: list[str] = []
    before: int | None = None
    while True:
        page = await store.list(tenant, selected, before=before, limit=limit)
        assert len(page.flow_starts) <= limit
        found += [start.asked.id for start in page.flow_starts]
        if page.next_position is None:
            return found
        before = page.next_position


async def test_a_list_shows_the_most_recently_changed_first(store: Store) -> None:
    """A start that changes moves to the front; pages go on where the last one ended."""
    starts = [await create(store) for _ in range(5)]
    ids = [start.asked.id for start in starts]
    await run_to(store, starts[1], accepted("x1"))

    assert [ids[n] for n in (1, 4, 3, 2, 0)] == await page_all(store, Filter())
    assert [] == await page_all(store, Filter(), tenant="other")


async def test_a_page_tells_the_head_it_was_read_at(store: Store) -> None:
    """So that watching from there misses nothing the page lacks."""
    for _ in range(3):
        await create(store)
    page = await store.list(TENANT, Filter(), before=None, limit=2)

    assert (3, 2) == (page.head, page.next_position)
    assert 3 == (await store.snapshot("other", Filter(), frozenset(), after=0, limit=2)).head


async def test_a_start_that_changes_while_pages_are_read_is_not_shown_twice_at_one_revision(store: Store) -> None:
    """Further pages show only what has not changed since the first; what changed is ahead of it."""
    starts = [await create(store) for _ in range(4)]
    first = await store.list(TENANT, Filter(), before=None, limit=2)
    await run_to(store, starts[0], accepted("x1"))
    rest = await store.list(TENANT, Filter(), before=first.next_position, limit=10)

    assert [starts[3].asked.id, starts[2].asked.id] == [start.asked.id for start in first.flow_starts]
    assert [starts[1].asked.id] == [start.asked.id for start in rest.flow_starts]


@pytest.fixture
async def mixed(store: Store, clock: Clock) -> dict[str, str]:
    """Records starts that differ in everything there is a filter for; returns their names by id."""
    names = {}
    for name, different in {
        "plain": {},
        "twilio": {"backend": "twilio"},
        "flow": {"flow": "other"},
        "label": {"labels": {"team": "red", "wave": "2"}},
        "request": {"request_id": "r1"},
        "later": {"created_at": later(60)},
    }.items():
        names[(await create(store, **different)).asked.id] = name  # type: ignore[arg-type]
    wide = await create(store, singly(2))
    names[wide.asked.id] = "wide"
    await run_to(store, wide, accepted("w1"), accepted("w2"))
    failed = await create(store, backend="third")
    names[failed.asked.id] = "failed"
    await run_to(store, failed, refused())
    clock.tick(60)
    await create(store, tenant="other", request_id="r1", labels={"team": "red"})
    return names


FILTERS = [
    (Filter(), {"plain", "twilio", "flow", "label", "request", "later", "wide", "failed"}),
    (Filter(backends=frozenset({"twilio", "third"})), {"twilio", "failed"}),
    (Filter(flow="other"), {"flow"}),
    (Filter(states=frozenset({State.QUEUED, State.FAILED})), {"wide", "failed"}),
    (Filter(labels={"team": "red"}), {"label"}),
    (Filter(labels={"team": "red", "wave": "1"}), set()),
    (Filter(request_id="r1"), {"request"}),
    (Filter(request_id="nobody's"), set()),
    (Filter(external_id="w2"), {"wide"}),
    (Filter(external_id="nobody's"), set()),
    (Filter(external_id="w2", states=frozenset({State.FAILED})), set()),
    (Filter(created_from=later(60)), {"later"}),
    (Filter(created_to=later(60), backends=frozenset({"twilio"})), {"twilio"}),
    (Filter(created_from=later(61)), set()),
]


@pytest.mark.parametrize(("selected", "expected"), FILTERS)
async def test_lists_and_snapshots_filter_by_every_field(
    store: Store, mixed: dict[str, str], selected: Filter, expected: set[str]
) -> None:
    """Both show the same starts, the one in descending and the other in ascending order, whatever the page."""
    listed = await page_all(store, selected)
    shown: list[str] = []
    after: int | None = 0
    while after is not None:
        page = await store.snapshot(TENANT, selected, frozenset(), after=after, limit=2)
        shown += [start.asked.id for start in page.flow_starts]
        after = page.next_position

    assert expected == {mixed[start_id] for start_id in listed}
    assert len(expected) == len(listed)
    assert listed[::-1] == shown


async def test_a_snapshot_may_be_of_named_starts(store: Store, mixed: dict[str, str]) -> None:
    """Of the tenant's own; the filter narrows further."""
    plain, twilio, *_ = mixed
    named = frozenset({plain, twilio, "never"})

    both = await store.snapshot(TENANT, Filter(), named, after=0, limit=10)
    one = await store.snapshot(TENANT, Filter(backends=frozenset({"twilio"})), named, after=0, limit=10)
    others = await store.snapshot("other", Filter(), named, after=0, limit=10)

    assert [plain, twilio] == [start.asked.id for start in both.flow_starts]
    assert [twilio] == [start.asked.id for start in one.flow_starts]
    assert ((), None) == (others.flow_starts, others.next_position)


async def test_a_page_of_a_filter_that_matches_little_is_short_and_says_where_to_go_on(store: Store) -> None:
    """The rows read for one page are bounded: 5,000 at the most, so a page may be short and yet not the last."""
    rare = await create(store, labels={"rare": "1"})
    await asyncio.gather(*(create(store) for _ in range(5_100)))

    first = await store.list(TENANT, Filter(labels={"rare": "1"}), before=None, limit=10)
    second = await store.list(TENANT, Filter(labels={"rare": "1"}), before=first.next_position, limit=10)

    assert ((), 102) == (first.flow_starts, first.next_position)
    assert ([rare.asked.id], None) == ([start.asked.id for start in second.flow_starts], second.next_position)
