"""What every store keeps where a recipient may have one running dispatch of a flow at the most."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import Exhausted, Reason
from gateway.model import Identity, Recipients, Resolution, State, Verdict
from tests.builders import (
    ACCOUNT,
    BACKEND,
    FLOW,
    NOON,
    TENANT,
    TERMS,
    accepted,
    again,
    begin,
    claim_ids,
    create,
    create_or_find,
    put_off,
    refused,
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

ALONE = replace(TERMS, one_at_a_time=True)
ADA, BOB, EVE = (Recipients(urns=(f"tel:+1206555{n:04}",)) for n in range(3))


def later(seconds: float) -> Any:
    """A moment after noon."""
    return NOON + timedelta(seconds=seconds)


async def alone(store: Store, *plan: Recipients, **different: Any) -> FlowStart:
    """Records a start of which each recipient has one running dispatch at the most."""
    return await create(store, plan, terms=ALONE, **different)


async def test_two_for_one_recipient_are_never_claimed_together(store: Store) -> None:
    """The one that was due first is; the other recipients are not held up."""
    first = await alone(store, ADA, BOB)
    second = await alone(store, EVE, ADA)
    third = await alone(store, ADA)
    claims = await store.claim(BACKEND, 10)

    assert [f"{first.asked.id}-1", f"{first.asked.id}-2", f"{second.asked.id}-1"] == [d.id for d in claims.dispatches]
    assert [] == await claim_ids(store)
    assert State.PENDING is (await again(store, third)).standing.state


async def test_of_one_start_too(store: Store) -> None:
    """A recipient who is named twice gets two, one after the other."""
    start = await alone(store, ADA, ADA, BOB)

    assert [f"{start.asked.id}-1", f"{start.asked.id}-3"] == await claim_ids(store)
    await settle(store, f"{start.asked.id}-1", accepted("x1", State.COMPLETED))
    assert [f"{start.asked.id}-2"] == await claim_ids(store)


@pytest.mark.parametrize(
    ("urns", "senders"),
    [
        (("sip:joe@Example.com", "sip:joe@example.com"), ("+1800", "+1800")),
        (("tel:+1 206-555", "tel:+1206555"), ("+1800", "+1800")),
        (("tel:+1206555", "tel:+1206555"), ("+1800", "tel:+1800")),
        (("whatsapp:+1206555", "whatsapp:+1206555"), ("+1 800", "whatsapp:+1800")),
    ],
)
async def test_a5_one_recipient_in_two_spellings_waits_for_itself(
    store: Store, urns: tuple[str, str], senders: tuple[str, str]
) -> None:
    """However the address or the sender is written; in a block that is written out later, too."""
    first = await alone(store, Recipients(urns=urns[:1]), sender=senders[0])
    second = await alone(store, *singly(250), Recipients(urns=urns[1:]), sender=senders[1])
    claimed = [each for _ in range(20) for each in await claim_ids(store)]

    assert f"{first.asked.id}-1" in claimed
    assert f"{second.asked.id}-250" in claimed
    assert f"{second.asked.id}-251" not in claimed


@pytest.mark.parametrize(
    "different", [{"flow": "other"}, {"sender": "+1999"}, {"backend": "twilio"}], ids=["flow", "sender", "backend"]
)
async def test_another_flow_sender_or_backend_is_another_matter(store: Store, different: dict[str, str]) -> None:
    """Only the same contact of the same flow is held."""
    await alone(store, ADA)
    other = await alone(store, ADA, **different)
    claimed = await claim_ids(store) + await claim_ids(store, 10, "twilio")

    assert f"{other.asked.id}-1" in claimed
    assert 2 == len(claimed)


async def test_another_tenants_dispatch_holds_as_well(store: Store) -> None:
    """The backend knows one contact, whoever asked."""
    await alone(store, ADA, tenant="a")
    await alone(store, ADA, tenant="b")

    assert 1 == len(await claim_ids(store))


async def test_where_several_may_run_nobody_is_held(store: Store) -> None:
    """RapidPro takes what it is given."""
    for _ in range(3):
        await create(store, [ADA])

    assert 3 == len(await claim_ids(store))


async def test_a_recipient_is_free_again_in_large_starts_too(store: Store) -> None:
    """Blocks that are written out later are held like the first."""
    count = size(250, quick=110)
    await alone(store, *singly(count))
    second = await alone(store, *singly(count))
    first_ids = await claim_ids(store, 1_000)
    for n, dispatch_id in enumerate(first_ids):
        await settle(store, dispatch_id, accepted(f"x{n}"))
    second_ids = await claim_ids(store, 1_000)

    assert count == len(first_ids) == len(second_ids)
    assert {second.asked.id} == {dispatch_id.rpartition("-")[0] for dispatch_id in second_ids}


# --- how long


@pytest.mark.parametrize("answer", [accepted("x1"), accepted("x1", State.COMPLETED), refused()], ids=repr)
async def test_the_second_is_held_until_the_first_has_its_answer(store: Store, answer: Any) -> None:
    """Claimed, and while it is being sent."""
    await alone(store, ADA)
    second = await alone(store, ADA)
    (first_id,) = await claim_ids(store)
    while_claimed = await claim_ids(store)
    attempt = await begin(store, first_id) or 0
    while_sent = await claim_ids(store)
    await store.record(first_id, attempt, answer)

    assert ([], []) == (while_claimed, while_sent)
    assert [f"{second.asked.id}-1"] == await claim_ids(store)


async def test_the_second_goes_first_while_the_first_is_put_off(store: Store) -> None:
    """What waits has not been sent; then the first is held by the second."""
    await alone(store, ADA)
    second = await alone(store, ADA)
    (first_id,) = await claim_ids(store)
    await settle(store, first_id, put_off(NOON))
    await store.release(f"{second.asked.id}-1", NOON)

    claimed = await claim_ids(store)

    assert 1 == len(claimed)
    assert [] == await claim_ids(store)


async def find(store: Store, dispatch_id: str) -> None:
    """Shows it."""
    sighting = seen("x1", State.QUEUED, correlation_key=dispatch_id, flow=FLOW)
    await store.sight(BACKEND, [sighting], account=ACCOUNT)


async def leave(store: Store, dispatch_id: str) -> None:
    """Leaves it at rest."""
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    assert dispatch_id == sought.id
    await store.rest(sought)


async def leave_absent(store: Store, dispatch_id: str) -> None:
    """Leaves it at rest though it was proved absent."""
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    assert dispatch_id == sought.id
    await store.absent(sought, on_absent=State.UNCERTAIN, pause=timedelta())


async def prove_absent(store: Store, dispatch_id: str) -> None:
    """Sends it again, a while later."""
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    assert dispatch_id == sought.id
    await store.absent(sought, on_absent=State.PENDING, pause=timedelta())


async def give_up(store: Store, dispatch_id: str) -> None:
    """Gives it up."""
    await store.resolve(TENANT, dispatch_id.rpartition("-")[0], Resolution(verdict=Verdict.GIVE_UP))


@pytest.mark.parametrize("settled", [find, leave, leave_absent, prove_absent, give_up])
async def test_the_second_is_held_while_the_first_is_looked_for(
    store: Store, clock: Clock, settled: Callable[[Store, str], Awaitable[None]]
) -> None:
    """Found, at rest, absent or given up: then the recipient is free."""
    await alone(store, ADA)
    second = await alone(store, ADA)
    (first_id,) = await claim_ids(store)
    await settle(store, first_id, unsure())
    clock.tick(10)
    while_sought = await claim_ids(store)
    await settled(store, first_id)

    assert [] == while_sought
    assert [f"{second.asked.id}-1"] == await claim_ids(store)


async def test_the_second_is_held_over_a_crash(store: Store, reopen: Callable[..., Store]) -> None:
    """What was being sent is looked for by the next life, and what was claimed is due again."""
    await alone(store, ADA)
    await alone(store, ADA)
    await alone(store, BOB)
    await alone(store, BOB)
    ada, bob = await claim_ids(store)
    await begin(store, ada)
    await store.close()  # type: ignore[attr-defined]
    second = reopen()

    assert [bob] == await claim_ids(second)
    assert [ada] == [sought.id for sought in await second.sought(BACKEND, ACCOUNT)]


async def test_what_is_held_expires_and_is_cancelled_all_the_same(store: Store, clock: Clock) -> None:
    """The lane is told when."""
    await alone(store, ADA)
    expiring = await alone(store, ADA, expire_at=later(60))
    cancelled = await alone(store, ADA)
    (first_id,) = await claim_ids(store)
    await begin(store, first_id)
    told = (await store.claim(BACKEND, 10)).next_due_at
    await store.cancel(TENANT, cancelled.asked.id, can_end=True)
    clock.tick(60)
    await claim_ids(store)

    assert later(60) == told
    assert State.FAILED is (await again(store, expiring)).standing.state
    assert State.INTERRUPTED is (await again(store, cancelled)).standing.state


# --- when to come back


async def test_nobody_is_called_for_what_is_held(store: Store, clock: Clock) -> None:
    """`next_due_at` is never in the past for it: a lane that comes back then would come back at once, for ever."""
    await alone(store, ADA)
    second = await alone(store, ADA)
    await alone(store, BOB, schedule_at=later(3_600))
    (first_id,) = await claim_ids(store)
    told = [(await store.claim(BACKEND, 10)).next_due_at]
    await settle(store, first_id, unsure())
    clock.tick(10)
    told.append((await store.claim(BACKEND, 10)).next_due_at)
    await leave(store, first_id)
    told.append((await store.claim(BACKEND, 0)).next_due_at)

    assert [later(3_600), later(3_600), NOON] == told
    assert [f"{second.asked.id}-1"] == await claim_ids(store)


async def test_a_lane_that_comes_back_when_it_is_told_sends_everything_and_never_in_vain(
    store: Store, clock: Clock
) -> None:
    """Fifteen for three recipients, some put off, some unsure: as many calls as there is work, and none too many."""
    for n in range(5):
        await alone(store, ADA, BOB, EVE, schedule_at=later(n) if n % 2 else None)
    sent: list[str] = []
    calls = 0

    while True:
        claims = await store.claim(BACKEND, 10)
        calls += 1
        together = [dispatch.recipients for dispatch in claims.dispatches]
        assert len(set(together)) == len(together)
        for dispatch in claims.dispatches:
            sent.append(dispatch.id)
            answers = [accepted(f"x{len(sent)}"), unsure(), put_off(clock() + timedelta(seconds=5))]
            await settle(store, dispatch.id, answers[len(sent) % 3])
        for sought in await store.sought(BACKEND, ACCOUNT):
            if sought.state is State.UNCERTAIN:
                await store.rest(sought)
        if claims.dispatches:
            continue
        if claims.next_due_at is None:
            break
        assert claims.next_due_at > clock(), "called in vain"
        clock.now = claims.next_due_at

    assert 15 == len(set(sent))
    assert calls <= len(sent) + 15


async def test_what_is_held_for_another_account_holds_nobody(store: Store) -> None:
    """A start whose backend is another account now does not keep its recipient from the starts for this one."""
    await create(store, terms=ALONE)
    await store.hold(BACKEND, Identity(account="another"))
    start = await create(store, terms=replace(ALONE, account="another"))

    assert [f"{start.asked.id}-1"] == await claim_ids(store)


# --- who is next, and how many may wait


async def test_b2_whoever_is_due_first_has_the_front(store: Store, clock: Clock) -> None:
    """One that comes later and is due earlier goes first; each of the others when the one before it has ended."""
    late = await alone(store, ADA, schedule_at=later(30))
    early = await alone(store, ADA, schedule_at=later(20))
    last = await alone(store, ADA, schedule_at=later(40))
    told = (await store.claim(BACKEND, 10)).next_due_at
    clock.tick(60)
    sent = []
    while claimed := await claim_ids(store):
        sent.append(claimed)
        await settle(store, claimed[0], accepted(f"x{len(sent)}"))

    assert later(20) == told
    assert [[f"{start.asked.id}-1"] for start in (early, late, last)] == sent


async def test_b2_the_front_that_is_cancelled_or_expires_makes_room(store: Store, clock: Clock) -> None:
    """For the next one, which is due long since."""
    first = await alone(store, ADA, schedule_at=later(5), expire_at=later(10))
    second = await alone(store, ADA, schedule_at=later(6))
    third = await alone(store, ADA, schedule_at=later(7))
    await store.cancel(TENANT, second.asked.id, can_end=True)
    clock.tick(20)

    assert [f"{third.asked.id}-1"] == await claim_ids(store)
    assert State.FAILED is (await again(store, first)).standing.state


async def test_b2_more_than_a_thousand_for_one_recipient_are_refused(store: Store) -> None:
    """Nothing is recorded then, whoever asks; other recipients and replays are taken, and one that ends makes room."""
    starts = [await alone(store, ADA, request_id=f"r{n}") for n in range(1_000)]
    head = await store.head()

    for plan in ([ADA], [BOB, ADA], [*singly(150), ADA]):
        with pytest.raises(Exhausted) as refusal:
            await alone(store, *plan, request_id="refused", tenant="another")
        place = plan.index(ADA)
        assert (Reason.BACKLOG_FULL, f"urns[{place}]") == (refusal.value.reason, refusal.value.metadata["field"])
        assert f"urns[{place}]" in refusal.value.message
        assert ADA.urns[0] not in refusal.value.message
    assert (head, None) == (await store.head(), await store.find_request("another", "refused"))
    replay = await create_or_find(store, [ADA], terms=ALONE, request_id="r7")
    assert replay.replayed
    await alone(store, BOB)
    await create(store, [ADA], backend="other")
    await store.cancel(TENANT, starts[3].asked.id, can_end=True)
    await alone(store, ADA)
    with pytest.raises(Exhausted):
        await alone(store, ADA)


async def test_b2_a_thousand_at_once_are_counted_as_one_by_one(store: Store) -> None:
    """Those of one commit too."""
    results = await asyncio.gather(*(alone(store, ADA) for _ in range(1_003)), return_exceptions=True)

    assert 3 == sum(isinstance(result, Exhausted) for result in results)
