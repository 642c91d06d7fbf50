"""Tenants share a lane: nobody's crowd keeps another one waiting."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.model import Filter, Resolution, State, Verdict
from tests.builders import (
    ACCOUNT,
    BACKEND,
    NOON,
    TENANT,
    again,
    claim_ids,
    create,
    refused,
    run_to,
    settle,
    singly,
    unsure,
)

if TYPE_CHECKING:
    from gateway.store import Store
    from tests.builders import Clock


async def crowd(store: Store, **recipients: int) -> dict[str, str]:
    """Records a start of so many recipients for each tenant, in this order; returns whose each id is."""
    return {
        (await create(store, singly(count, first=1_000 * place), tenant=tenant)).asked.id: tenant
        for place, (tenant, count) in enumerate(recipients.items())
    }


async def whose(store: Store, owners: dict[str, str], limit: int) -> list[str]:
    """Claims; returns whose dispatches they are."""
    return [owners[dispatch_id.rpartition("-")[0]] for dispatch_id in await claim_ids(store, limit)]


@pytest.mark.parametrize(
    ("recipients", "limit", "expected"),
    [
        ({"a": 300, "b": 5}, 4, {"a": 2, "b": 2}),
        ({"a": 300, "b": 5}, 20, {"a": 15, "b": 5}),
        ({"a": 300, "b": 300, "c": 1}, 9, {"a": 4, "b": 4, "c": 1}),
        ({"a": 300}, 150, {"a": 150}),
        ({"a": 2, "b": 1}, 100, {"a": 2, "b": 1}),
    ],
    ids=str,
)
async def test_a_claim_is_shared(
    store: Store, recipients: dict[str, int], limit: int, expected: dict[str, int]
) -> None:
    """Evenly, and what one does not need the others have."""
    owners = await crowd(store, **recipients)
    claimed = await whose(store, owners, limit)

    assert expected == {tenant: claimed.count(tenant) for tenant in expected}


async def test_one_at_a_time_they_take_turns(store: Store) -> None:
    """A lane that sends slowly serves whoever has waited longest for a turn."""
    owners = await crowd(store, a=300, b=300, c=2)
    turns = [(await whose(store, owners, 1))[0] for _ in range(8)]

    assert ["a", "b", "c", "a", "b", "c", "a", "b"] == turns


async def test_whoever_comes_late_has_the_next_turn(store: Store) -> None:
    """Not the last one: what others have asked for before does not stand in the way."""
    owners = await crowd(store, a=300)
    assert ["a"] * 10 == await whose(store, owners, 10)
    owners |= await crowd(store, b=1)

    assert "b" in await whose(store, owners, 2)


async def test_whoever_was_served_the_longest_ago_is_next(store: Store, clock: Clock) -> None:
    """A newcomer is before all who were served, and of newcomers the one who has waited longest, whatever its name."""
    owners = await crowd(store, a=300)
    assert ["a"] * 10 == await whose(store, owners, 10)
    owners |= await crowd(store, z=1)
    clock.tick(1)
    owners |= await crowd(store, b=300, c=1)
    first = [(await whose(store, owners, 1))[0] for _ in range(9)]
    clock.tick(1)
    owners |= await crowd(store, c=1)

    assert ["z", "b", "c", "a", "b", "a", "b", "a", "b"] == first
    assert ["c", "a"] == [(await whose(store, owners, 1))[0] for _ in range(2)]


async def test_what_waits_again_has_its_turn_too(store: Store) -> None:
    """A tenant of whom everything was sent once, and proved absent, is served as the others are."""
    owners = await crowd(store, a=1, b=50)
    ids = await claim_ids(store, 2)
    for dispatch_id in ids:
        if owners[dispatch_id.rpartition("-")[0]] == "a":
            await settle(store, dispatch_id, unsure())
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.absent(sought, on_absent=State.PENDING, pause=timedelta())

    assert "a" in await whose(store, owners, 2)


async def test_no_tenant_in_particular_is_all_of_them(store: Store) -> None:
    """Whoever spans tenants reads, cancels and resolves as each of them does; a tenant reaches its own only."""
    mine, theirs = [await create(store, singly(2), tenant=tenant, request_id="r") for tenant in "ab"]
    later = await create(store, singly(1), tenant="b")
    ids = frozenset({mine.asked.id, theirs.asked.id})

    async def found(tenant: str | None, **wanted: Any) -> list[str]:
        page = await store.list(tenant, Filter(**wanted), before=None, limit=10)
        return [start.asked.id for start in page.flow_starts]

    everything = [later.asked.id, theirs.asked.id, mine.asked.id]
    assert [everything, everything[:2], everything[2:]] == [await found(tenant) for tenant in (None, "b", "a")]
    assert everything[1:] == await found(None, request_id="r")
    first = await store.list(None, Filter(), before=None, limit=2)
    rest = await store.list(None, Filter(), before=first.next_position, limit=2)
    assert everything == [start.asked.id for start in (*first.flow_starts, *rest.flow_starts)]
    named = [await store.snapshot(tenant, Filter(), ids, after=0, limit=10) for tenant in (None, "b", "c")]
    assert [everything[:0:-1], everything[1:2], []] == [[s.asked.id for s in page.flow_starts] for page in named]
    for tenant, reached in ((None, True), ("a", True), ("b", False)):
        start_id = mine.asked.id
        answers = [
            await store.get(tenant, start_id),
            await store.recipients(tenant, start_id, after=None, limit=5),
            await store.history(tenant, start_id, after=None, limit=5),
        ]
        assert [reached] * 3 == [answer is not None for answer in answers]


async def test_what_is_done_for_no_tenant_in_particular_is_done(store: Store) -> None:
    """A cancel and a resolution move the start, and leave it its tenant's."""
    mine, theirs = [await create(store, singly(1), tenant=tenant) for tenant in "ab"]
    assert await store.cancel("b", mine.asked.id, can_end=False) is None
    cancelled = await store.cancel(None, mine.asked.id, can_end=False)
    (dispatch_id,) = await claim_ids(store, 1)
    await settle(store, dispatch_id, unsure())
    assert await store.resolve("a", theirs.asked.id, Resolution(verdict=Verdict.GIVE_UP)) is None
    resolved = await store.resolve(None, theirs.asked.id, Resolution(verdict=Verdict.GIVE_UP))

    assert cancelled is not None
    assert resolved is not None
    assert [("a", State.INTERRUPTED), ("b", State.FAILED)] == [
        (start.asked.tenant, start.standing.state) for start in (cancelled, resolved)
    ]


async def test_b4_of_a_tenant_that_waits_nothing_is_taken(store: Store) -> None:
    """Of one that probes one dispatch; what a claim leaves because of it is not due, nor lost."""
    owners = await crowd(store, a=3, b=3, c=3)
    claims = [await store.claim(BACKEND, 5, limits) for limits in ({"a": 0, "b": 1}, {"a": 0, "b": 0}, {})]
    taken = [[owners[each.id.rpartition("-")[0]] for each in claim.dispatches] for claim in claims]

    assert [["b", "c", "c", "c"], [], ["a", "a", "a", "b", "b"]] == [sorted(each) for each in taken]
    assert [each.tenant for claim in claims for each in claim.dispatches] == [name for each in taken for name in each]
    assert all(claim.next_due_at and claim.next_due_at > NOON + timedelta(hours=1) for claim in claims[:2])


async def test_f1_of_slow_tenants_a_claim_takes_a_bounded_number_together(store: Store) -> None:
    """They take turns in that; what is left of them is not due, nor lost, and others get all the room there is."""
    owners = await crowd(store, a=3, b=3, c=3, d=3)
    limits = [(3, "abc"), (0, "abc"), (1, "abc"), (1, "abc"), (0, "")]
    claims = [await store.claim(BACKEND, 5, slow=slow, slow_limit=most) for most, slow in limits]
    taken = [sorted(owners[each.id.rpartition("-")[0]] for each in claim.dispatches) for claim in claims]

    assert [["a", "b", "c", "d", "d"], ["d"], ["a"], ["b"], ["a", "b", "c", "c"]] == taken
    assert all(claim.next_due_at and claim.next_due_at > NOON + timedelta(hours=1) for claim in claims[1:4])


@pytest.mark.parametrize("tenant", [TENANT, None, "another"])
async def test_b5_of_many_ids_a_store_says_which_are_missing_and_which_are_not_done(
    store: Store, clock: Clock, tenant: str | None
) -> None:
    """The same as the starts themselves say; those that have changed since a revision count as not done."""
    rests = await create(store)
    await run_to(store, rests, unsure())
    clock.tick(100_000)
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.rest(sought)
    failed = await create(store)
    await run_to(store, failed, refused())
    unsure_one = await create(store)
    await run_to(store, unsure_one, unsure())
    head = await store.head()
    late = await create(store)
    await run_to(store, late, refused())
    waits = await create(store)
    starts = [await again(store, each) for each in (failed, unsure_one, rests, waits, late)]
    ids = frozenset(each.asked.id for each in starts)
    found = await store.undone(tenant, ids | {"nobody's"}, since=head)

    theirs = ids if tenant != "another" else frozenset()
    assert ids - theirs | {"nobody's"} == found.missing
    assert {
        each.asked.id for each in starts if each.revision > head or not each.standing.is_done
    } & theirs == found.undone
    assert not theirs or {each.asked.id for each in (unsure_one, waits, late)} == found.undone
