"""What every store promises of starts so large that their dispatches are written out block by block."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.errors import Reason
from gateway.model import Identity, Recipients, State
from gateway.store import Terms
from tests.builders import (
    ACCOUNT,
    BACKEND,
    FLOW,
    NOON,
    TENANT,
    accepted,
    again,
    claim_ids,
    create,
    seen,
    settle,
    unsure,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.model import FlowStart
    from gateway.store import Store
    from tests.builders import Clock
    from tests.places import Place

GIVE_UP_AFTER = timedelta(hours=1)
TERMS = Terms(account=ACCOUNT, give_up_after=GIVE_UP_AFTER)
SHOWN = (State.QUEUED, State.STARTED, State.COMPLETED, State.FAILED, State.INTERRUPTED)


def plan(blocks: int) -> list[Recipients]:
    """Plans a start of one dispatch to a block."""
    return [Recipients(urns=tuple(f"tel:+1206{block:03}{each:04}" for each in range(100))) for block in range(blocks)]


async def only_a_resend_waits(store: Store) -> tuple[FlowStart, list[str]]:
    """Records a start of four blocks: the first waits for its resend, the second runs, two are not written out."""
    start = await create(store, plan(4), terms=TERMS)
    ids = [f"{start.asked.id}-{number}" for number in range(1, 5)]
    assert ids[:1] == await claim_ids(store, 1)
    await settle(store, ids[0], unsure())
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.absent(sought, on_absent=State.PENDING, pause=timedelta())
    assert ids[:1] == await claim_ids(store, 1)
    await store.release(ids[0], NOON + timedelta(seconds=60))
    assert ids[1:2] == await claim_ids(store, 1)
    await settle(store, ids[1], accepted("x2", State.STARTED))
    return start, ids


async def adopt(store: Store, dispatch_id: str, state: State = State.STARTED) -> None:
    """A list shows what waits for its resend after all."""
    shown = seen("late", state, correlation_key=dispatch_id, flow=FLOW, created_at=NOON)
    assert await store.sight(BACKEND, [shown], account=ACCOUNT) == 1


async def claim_all(store: Store) -> list[str]:
    """Claims until nothing is due."""
    claimed: list[str] = []
    while more := await claim_ids(store, 1):
        claimed += more
    return claimed


@pytest.mark.parametrize("state", SHOWN)
async def test_a1_the_rest_is_sent_when_the_last_that_waited_is_adopted(store: Store, state: State) -> None:
    """Every recipient is started, whatever the list shows of the one that had waited."""
    start, ids = await only_a_resend_waits(store)
    await adopt(store, ids[0], state)
    standing = (await again(store, start)).standing

    assert ids[2:] == await claim_all(store)
    assert standing.ended_at is None


async def test_a1_the_rest_is_sent_when_the_adoption_is_not_alone_in_its_commit(store: Store) -> None:
    """In one list with the end of another dispatch of the start."""
    start, ids = await only_a_resend_waits(store)
    shown = seen("late", State.COMPLETED, correlation_key=ids[0], flow=FLOW, created_at=NOON)
    await store.sight(BACKEND, [seen("x2", State.COMPLETED), shown], account=ACCOUNT)

    assert State.STARTED is (await again(store, start)).standing.state
    assert ids[2:] == await claim_all(store)


async def test_a1_a_cancel_ends_the_rest_after_an_adoption(store: Store) -> None:
    """Nothing of it stays behind for ever."""
    start, ids = await only_a_resend_waits(store)
    await adopt(store, ids[0])
    await store.cancel(TENANT, start.asked.id, can_end=False)
    await store.sight(BACKEND, [seen("late", State.COMPLETED), seen("x2", State.COMPLETED)], account=ACCOUNT)
    after = (await again(store, start)).standing

    assert State.COMPLETED is after.state
    assert (200, 200) == (after.progress.completed, after.progress.interrupted)
    assert [] == await claim_ids(store)


async def test_a1_the_rest_is_given_up_in_time_after_an_adoption(store: Store, clock: Clock) -> None:
    """And says why."""
    start, ids = await only_a_resend_waits(store)
    await adopt(store, ids[0], State.COMPLETED)
    await store.sight(BACKEND, [seen("x2", State.COMPLETED)], account=ACCOUNT)
    clock.tick(GIVE_UP_AFTER.total_seconds())
    assert [] == await claim_ids(store)
    after = (await again(store, start)).standing

    assert State.COMPLETED is after.state
    assert (200, 200) == (after.progress.completed, after.progress.failed)
    assert [str(Reason.PARTLY_FAILED)] == [str(warning.reason) for warning in after.warnings]


async def test_a1_what_is_held_back_brings_no_block_out(store: Store) -> None:
    """A start whose backend is another account now is not written out: nothing of it is claimed, whatever is shown."""
    _, ids = await only_a_resend_waits(store)
    await store.hold(BACKEND, Identity(account="another"))
    await store.sight(BACKEND, [seen("x2", State.COMPLETED)], account=ACCOUNT)

    assert [] == await claim_ids(store)
    await adopt(store, ids[0])
    await store.hold(BACKEND, Identity(account=ACCOUNT))
    assert ids[2:] == await claim_all(store)


async def test_what_was_claimed_of_a_cancelled_start_ends_after_a_crash(
    reopen: Callable[..., Store], place: Place
) -> None:
    """Nobody claims it once more, and it is never held."""
    store = reopen()
    start = await create(store)
    await claim_ids(store)
    await store.cancel(TENANT, start.asked.id, can_end=False)
    later = reopen(place.crash())
    await later.hold(BACKEND, None)

    assert [] == await claim_ids(later)
    assert State.INTERRUPTED is (await again(later, start)).standing.state
