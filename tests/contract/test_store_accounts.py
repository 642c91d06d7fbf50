"""Whose account a dispatch is: what an account is called, what is another's, and what is known of neither."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.model import Identity, State
from gateway.sightings import Sighting
from gateway.store import Terms
from tests.builders import BACKEND, NOON, accepted, again, claim_ids, create, unsure, warned

if TYPE_CHECKING:
    from gateway.model import FlowStart
    from gateway.store import Store

OLD = Identity(account="uuid", aliases=frozenset({"1"}))
UPGRADED = Identity(account="uuid")
ELSEWHERE = Identity(account="elsewhere", aliases=frozenset({"1"}))
BY_NUMBER = Terms(account="1")


async def running(store: Store, external_id: str, terms: Terms = BY_NUMBER) -> FlowStart:
    """Records a start that runs."""
    start = await create(store, terms=terms)
    await claim_ids(store)
    attempt = await store.begin_attempt(f"{start.asked.id}-1", account=terms.account, since=NOON)
    assert attempt is not None
    await store.record(f"{start.asked.id}-1", attempt, replace(accepted(external_id), account=terms.account))
    return start


async def test_a8_what_was_recorded_under_an_alias_is_followed_and_sent_under_the_lasting_name(store: Store) -> None:
    """An old RapidPro called its workspace `1` in its headers; the upgraded one does not any more."""
    runs, waits = await running(store, "x1"), await create(store, terms=BY_NUMBER)

    held = [await store.hold(BACKEND, OLD), await store.hold(BACKEND, UPGRADED)]

    assert [0, 0] == held
    assert frozenset({"x1"}) == await store.unseen(BACKEND, "uuid", ())
    assert [f"{waits.asked.id}-1"] == await claim_ids(store)
    assert await store.begin_attempt(f"{waits.asked.id}-1", account="uuid", since=NOON) == 1
    assert [{}, {}] == [warned(await again(store, each)) for each in (runs, waits)]


async def test_a8_a_name_is_the_first_ones_that_had_it(store: Store) -> None:
    """Every server's first workspace is called `1`: what was recorded for one of them is not another's."""
    await store.hold(BACKEND, OLD)
    start = await create(store, terms=BY_NUMBER)

    assert 1 == await store.hold(BACKEND, ELSEWHERE)
    assert [] == await claim_ids(store)
    assert {Reason.BACKEND_CHANGED: {"account": "1"}} == warned(await again(store, start))

    assert 0 == await store.hold(BACKEND, UPGRADED)
    assert [f"{start.asked.id}-1"] == await claim_ids(store)


async def test_a8_an_operators_word_says_that_it_is_the_same(store: Store) -> None:
    """Where RapidPro and the gateway were upgraded at once, nothing else can know."""
    runs, waits = await running(store, "x1"), await create(store, terms=BY_NUMBER)
    first = await store.hold(BACKEND, UPGRADED)
    told = await store.hold(BACKEND, UPGRADED, ["1"])

    assert (2, 0) == (first, told)
    assert frozenset({"x1"}) == await store.unseen(BACKEND, "uuid", ())
    assert [f"{waits.asked.id}-1"] == await claim_ids(store)
    assert await store.sight(BACKEND, [Sighting(external_id="x1", state=State.COMPLETED)], account="uuid") == 1
    assert State.COMPLETED is (await again(store, runs)).standing.state


async def test_a8_what_was_accepted_while_nobody_said_whose_it_was_is_followed(store: Store) -> None:
    """And what may have been sent then rests: which account to look for it in is not known."""
    await running(store, "x1", Terms())
    unsure_one = await create(store, terms=Terms())
    await claim_ids(store)
    attempt = await store.begin_attempt(f"{unsure_one.asked.id}-1", account="", since=NOON)
    assert attempt is not None
    await store.record(f"{unsure_one.asked.id}-1", attempt, unsure())

    assert 0 == await store.hold(BACKEND, UPGRADED)
    rests = (await again(store, unsure_one)).standing

    assert frozenset({"x1"}) == await store.unseen(BACKEND, "uuid", ())
    assert (State.UNCERTAIN, True) == (rests.state, rests.is_done)
