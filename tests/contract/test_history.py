"""What became of each recipient, and the history of a start: the same of every store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.model import Attempt, Change, RecipientKind, Recipients, State
from tests.builders import TENANT, TERMS, accepted, asked, begin, claim_ids, create, put_off, refused, settle, singly

if TYPE_CHECKING:
    from gateway.store import Store
    from tests.builders import Clock


async def recipients(store: Store, start_id: str, limit: int) -> list[Any]:
    """Reads all recipients, page by page."""
    found: list[Any] = []
    after = None
    while True:
        page = await store.recipients(TENANT, start_id, after=after, limit=limit)
        assert page is not None
        assert len(page.recipients) <= limit
        found += page.recipients
        after = page.next_position
        if after is None:
            return found


async def history(store: Store, start_id: str, limit: int) -> list[Change | Attempt]:
    """Reads the whole history, page by page."""
    found: list[Change | Attempt] = []
    after = None
    while True:
        page = await store.history(TENANT, start_id, after=after, limit=limit)
        assert page is not None
        assert len(page.entries) <= limit
        found += page.entries
        after = page.next_position
        if after is None:
            return found


@pytest.mark.parametrize("limit", [1, 7, 100, 1_000])
async def test_every_recipient_is_listed_once_and_in_order(store: Store, limit: int) -> None:
    """Those that were not written out yet too, whatever the size of a page."""
    count = 12 if limit == 1 else 350
    start = await create(store, singly(count))
    listed = await recipients(store, start.asked.id, limit)

    assert [f"tel:+1206{n:07}" for n in range(1, count + 1)] == [each.recipient for each in listed]
    assert [f"{start.asked.id}-{n}" for n in range(1, count + 1)] == [each.dispatch_id for each in listed]
    assert {(State.PENDING, "", None)} == {(each.state, each.external_id, each.failure) for each in listed}


async def test_kinds_of_one_dispatch_are_told_apart(store: Store) -> None:
    """URNs, then contacts, then groups, with what became of the dispatch they share."""
    plan = [Recipients(urns=("tel:+1",), contacts=("c1", "c2"), groups=("g",))]
    start = await create(store, plan)
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, accepted("x1"))
    listed = await recipients(store, start.asked.id, 3)

    urn, contact, group = RecipientKind.URN, RecipientKind.CONTACT, RecipientKind.GROUP
    assert [("tel:+1", urn), ("c1", contact), ("c2", contact), ("g", group)] == [(r.recipient, r.kind) for r in listed]
    assert {(State.QUEUED, "x1")} == {(each.state, each.external_id) for each in listed}


async def test_a_failure_is_that_of_its_own_recipient(store: Store) -> None:
    """One refused, one accepted, one waiting."""
    start = await create(store, singly(3))
    first, second = await claim_ids(store, 2)
    await settle(store, first, refused())
    await settle(store, second, accepted("x2", State.STARTED))
    listed = await recipients(store, start.asked.id, 10)

    assert [State.FAILED, State.STARTED, State.PENDING] == [each.state for each in listed]
    assert ["BACKEND_REJECTED", None, None] == [each.failure and each.failure.reason for each in listed]


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_the_history_has_changes_and_attempts_in_the_order_of_time(
    store: Store, clock: Clock, limit: int
) -> None:
    """An attempt comes before the change that its answer makes; an open one has no outcome."""
    start = await create(store)
    (dispatch_id,) = await claim_ids(store)
    clock.tick(1)
    await settle(store, dispatch_id, put_off(clock()))
    clock.tick(1)
    await claim_ids(store)
    clock.tick(1)
    await begin(store, dispatch_id)
    opened = await history(store, start.asked.id, limit)
    clock.tick(1)
    await store.record(dispatch_id, 2, accepted("x1"))
    entries = await history(store, start.asked.id, limit)

    shape = [entry.outcome if isinstance(entry, Attempt) else entry.flow_start.standing.state.name for entry in entries]
    assert ["PENDING", "THROTTLED", "ACCEPTED", "QUEUED"] == shape
    assert ("", None) == (opened[-1].outcome, opened[-1].ended_at)  # type: ignore[union-attr]
    assert [1, 2] == [entry.number for entry in entries if isinstance(entry, Attempt)]


async def test_the_history_is_that_of_one_start(store: Store) -> None:
    """However many others there are, and whoever asks."""
    starts = [await create(store) for _ in range(5)]
    for dispatch_id in await claim_ids(store):
        await settle(store, dispatch_id, accepted(f"x-{dispatch_id}"))
    entries = await history(store, starts[2].asked.id, 100)

    assert 3 == len(entries)
    assert {starts[2].asked.id} == {
        entry.dispatch_id.rpartition("-")[0] if isinstance(entry, Attempt) else entry.flow_start.asked.id
        for entry in entries
    }


@pytest.mark.parametrize("read", ["recipients", "history"])
async def test_another_tenants_start_is_not_there(store: Store, read: str) -> None:
    """As one that never was."""
    await store.create(asked(id="theirs", tenant="other"), singly(1), fingerprint="1:f", warnings=(), terms=TERMS)
    answers = [
        await getattr(store, read)(tenant, start_id, after=None, limit=10)
        for tenant, start_id in [(TENANT, "theirs"), (TENANT, "never"), ("other", "theirs")]
    ]

    assert [True, True, False] == [answer is None for answer in answers]
