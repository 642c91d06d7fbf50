"""What every store keeps of what was sent without an answer: looking for it, finding it, and proving it absent."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import Reason
from gateway.lanes.proof import clocks_apart
from gateway.model import Cause, Identity, Notice, Progress, Resolution, State, Verdict
from gateway.sightings import Sought
from gateway.store import Terms
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
    put_off,
    refused,
    seen,
    settle,
    singly,
    unsure,
    warned,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.model import FlowStart
    from gateway.sightings import Sighting
    from gateway.store import Settlement, Store
    from tests.builders import Clock
    from tests.places import Place

PAUSE = timedelta(seconds=1)
OTHER_FLOW = "9ecc8e84-6b83-442b-a04a-8094d5de997b"


def later(seconds: float) -> Any:
    """A moment after noon."""
    return NOON + timedelta(seconds=seconds)


def shown(dispatch_id: str, external_id: str, state: State = State.QUEUED, **different: Any) -> Sighting:
    """Builds how a backend shows a dispatch with its correlation key."""
    return seen(external_id, state, correlation_key=dispatch_id, **{"flow": FLOW, "created_at": NOON, **different})


def errored(status: int = 502) -> Settlement:
    """Settles an attempt that the backend answered with an error of its own."""
    return replace(unsure(), cause=Cause.SERVER_ERROR, detail=f"HTTP {status}")


def why(start: FlowStart) -> str:
    """Returns the reason of a start's failure."""
    assert start.standing.failure is not None
    return start.standing.failure.reason


async def left_unsure(store: Store, settlement: Settlement | None = None, **different: Any) -> tuple[FlowStart, str]:
    """Records a start whose only dispatch was sent without an answer."""
    start = await create(store, **different)
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, settlement or unsure())
    return start, dispatch_id


async def the_sought(store: Store) -> Sought:
    """Returns the one dispatch that is looked for."""
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    return sought


async def take_another(store: Store) -> None:
    """The backend takes another start, so that it is well."""
    await create(store)
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, accepted(f"x-{dispatch_id}"))


async def prove_absent(store: Store, on_absent: State = State.PENDING) -> None:
    """Settles what is uncertain as proved absent."""
    for sought in await store.sought(BACKEND, ACCOUNT):
        if sought.state is State.UNCERTAIN:
            await store.absent(sought, on_absent=on_absent, pause=timedelta())


async def states_gone_through(store: Store, start: FlowStart) -> list[State]:
    """Reads the states a start has gone through, in order."""
    changes = (await store.changes(0, 1_000)).changes
    return [c.flow_start.standing.state for c in changes if c.flow_start.asked.id == start.asked.id]


# --- what is sought


async def test_what_is_sought_was_sent_at_since_or_later_to_one_account(store: Store) -> None:
    """The moment is the one by the backend's clock that was given when the attempt began."""
    await create(store)
    (dispatch_id,) = await claim_ids(store)
    attempt = await store.begin_attempt(dispatch_id, account=ACCOUNT, since=later(-7)) or 0
    while_open = await store.sought(BACKEND, ACCOUNT)
    await store.record(dispatch_id, attempt, unsure())

    assert () == while_open
    assert Sought(
        id=dispatch_id, flow=FLOW, state=State.UNCERTAIN, attempts=1, since=later(-7), account=ACCOUNT
    ) == await the_sought(store)
    assert () == await store.sought(BACKEND, "other")
    assert () == await store.sought(BACKEND, "")
    assert () == await store.sought("twilio", ACCOUNT)


async def test_what_was_sent_while_the_account_was_not_known_is_sought_where_it_is_not(store: Store) -> None:
    """Whoever cannot tell whose account a backend is still finds what it sent."""
    await create(store, terms=Terms())
    (dispatch_id,) = await claim_ids(store)
    attempt = await store.begin_attempt(dispatch_id, account="", since=NOON) or 0
    await store.record(dispatch_id, attempt, unsure())

    assert [dispatch_id] == [sought.id for sought in await store.sought(BACKEND, "")]
    assert () == await store.sought(BACKEND, ACCOUNT)


async def test_an_earlier_attempt_counts_as_well(store: Store, clock: Clock) -> None:
    """What was proved absent and sent again is sought from when the first of the two was sent."""
    _, dispatch_id = await left_unsure(store)
    await prove_absent(store)
    again_pending = await the_sought(store)
    clock.tick(600)
    assert [dispatch_id] == await claim_ids(store)
    attempt = await begin(store, dispatch_id, later(600)) or 0
    await store.record(dispatch_id, attempt, unsure())
    sought = await the_sought(store)

    assert (State.PENDING, 1, NOON) == (again_pending.state, again_pending.attempts, again_pending.since)
    assert (State.UNCERTAIN, 2, NOON) == (sought.state, sought.attempts, sought.since)


async def test_what_was_sent_again_is_sought_for_an_hour_more_and_no_longer(store: Store, clock: Clock) -> None:
    """Two of it are worth knowing, but nobody looks for ever."""
    _, dispatch_id = await left_unsure(store)
    await prove_absent(store)
    await claim_ids(store)
    await settle(store, dispatch_id, accepted("x1"))

    clock.tick(3_599)
    before = await store.sought(BACKEND, ACCOUNT)
    clock.tick(2)
    after = await store.sought(BACKEND, ACCOUNT)
    await store.mark_stalled(BACKEND, NOON)

    assert [(dispatch_id, State.QUEUED)] == [(sought.id, sought.state) for sought in before]
    assert () == after
    assert () == await store.sought(BACKEND, ACCOUNT)


async def test_what_was_accepted_at_once_is_not_sought(store: Store) -> None:
    """There was one attempt, and its answer is known."""
    await create(store, singly(3))
    for dispatch_id, settlement in zip(await claim_ids(store), (accepted("x1"), refused(), put_off(NOON)), strict=True):
        await settle(store, dispatch_id, settlement)

    assert () == await store.sought(BACKEND, ACCOUNT)


async def test_controls_are_the_latest_an_account_accepted_before_a_moment(store: Store) -> None:
    """The latest first, whatever became of them since; with when it was, by the backend's clock."""
    await create(store, singly(4))
    for n, dispatch_id in enumerate(await claim_ids(store)):
        await settle(store, dispatch_id, accepted(f"x{n}", accepted_at=later(10 * n)))
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)

    found = await store.controls(BACKEND, ACCOUNT, later(30))
    assert [("x2", later(20)), ("x1", later(10)), ("x0", NOON)] == [(it.external_id, it.accepted_at) for it in found]
    assert {(FLOW, NOON)} == {(each.flow, each.sent_at) for each in found}
    assert () == await store.controls(BACKEND, "other", later(30))
    assert () == await store.controls("twilio", ACCOUNT, later(30))


async def test_unknown_are_external_ids_of_no_dispatch_of_that_backend(store: Store) -> None:
    """However many are asked about."""
    await create(store)
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, accepted("x1"))
    many = {f"y{n}" for n in range(1_000)}

    assert many == await store.unknown(BACKEND, many | {"x1"})
    assert {"x1"} == await store.unknown("twilio", ["x1"])
    assert set() == await store.unknown(BACKEND, [])


# --- found by its key


async def bring(store: Store, where: str) -> tuple[FlowStart, str, int]:
    """Brings a dispatch to where its backend may show it; returns it and its last attempt."""
    start = await create(store)
    (dispatch_id,) = await claim_ids(store)
    attempt = await begin(store, dispatch_id) or 0
    if where == "in flight":
        return start, dispatch_id, attempt
    await store.record(dispatch_id, attempt, put_off(later(60)) if where == "put off" else unsure())
    if where == "at rest":
        await store.rest(await the_sought(store))
    elif where in ("absent", "claimed again", "in flight again"):
        await prove_absent(store)
    if where in ("claimed again", "in flight again"):
        assert [dispatch_id] == await claim_ids(store)
    if where == "in flight again":
        attempt = await begin(store, dispatch_id) or 0
    return start, dispatch_id, attempt


ANYWHERE = ["put off", "absent", "claimed again", "in flight", "in flight again", "uncertain", "at rest"]


@pytest.mark.parametrize("where", ANYWHERE)
@pytest.mark.parametrize("state", [State.QUEUED, State.STARTED, State.COMPLETED, State.FAILED, State.INTERRUPTED])
async def test_what_is_shown_with_its_key_is_adopted_wherever_it_stands(
    store: Store, clock: Clock, where: str, state: State
) -> None:
    """As if the answer had come: with its external id, when the backend had it, its counts; and it is not sent."""
    start, dispatch_id, _ = await bring(store, where)
    failure = Notice(reason=Reason.BACKEND_FAILED, message="no") if state in (State.FAILED, State.INTERRUPTED) else None

    sighting = shown(
        dispatch_id, "x1", state, created_at=later(3), contact_count=5, contact_started_count=2, failure=failure
    )
    moved = [await store.sight(BACKEND, [sighting], account=ACCOUNT) for _ in range(2)]
    now = await again(store, start)
    clock.tick(4_000)

    assert [1, 0] == moved
    assert (state, "x1") == (now.standing.state, now.standing.external_id)
    assert (5, 2) == (now.standing.progress.contact_count, now.standing.progress.contact_started_count)
    assert {} == warned(now)
    assert failure == now.standing.failure
    (control,) = await store.controls(BACKEND, ACCOUNT, later(4))
    assert (dispatch_id, FLOW, "x1", later(3)) == (
        control.dispatch_id,
        control.flow,
        control.external_id,
        control.accepted_at,
    )
    assert [] == await claim_ids(store)
    assert [] == [sought.id for sought in await store.sought(BACKEND, ACCOUNT) if sought.state is State.UNCERTAIN]


async def test_a11_an_operators_word_says_nothing_of_the_backends_clock(store: Store, clock: Clock) -> None:
    """Ours may be minutes behind: the moment of what no row dates is the attempt's, by the backend's clock."""
    start = await create(store)
    (dispatch_id,) = await claim_ids(store)
    attempt = await begin(store, dispatch_id, since=NOON + timedelta(minutes=5))
    assert attempt is not None
    await store.record(dispatch_id, attempt, unsure())
    clock.tick(1)
    resolution = Resolution(verdict=Verdict.WAS_SENT, external_id="x1")
    await store.resolve(TENANT, start.asked.id, resolution)
    controls = await store.controls(BACKEND, ACCOUNT, NOON + timedelta(hours=1))

    assert [NOON + timedelta(minutes=5)] == [each.accepted_at for each in controls]
    assert timedelta() == clocks_apart(controls)


@pytest.mark.parametrize("where", ["claimed again", "in flight", "in flight again"])
async def test_what_was_adopted_while_it_was_claimed_is_not_sent(store: Store, where: str) -> None:
    """Neither a claim nor its return brings it back."""
    start, dispatch_id, _ = await bring(store, where)
    await store.sight(BACKEND, [shown(dispatch_id, "x1")], account=ACCOUNT)

    assert await begin(store, dispatch_id) is None
    await store.release(dispatch_id, NOON)
    assert [] == await claim_ids(store)
    assert State.QUEUED is (await again(store, start)).standing.state


@pytest.mark.parametrize(
    "answer", [accepted("x1"), accepted("x1", State.STARTED), unsure(), refused(), put_off(NOON)], ids=repr
)
async def test_an_answer_that_comes_after_adoption_moves_nothing(store: Store, answer: Settlement) -> None:
    """The list was faster; what it showed stands, and the history of attempts has the answer."""
    start, dispatch_id, attempt = await bring(store, "in flight")
    await store.sight(BACKEND, [shown(dispatch_id, "x1")], account=ACCOUNT)
    adopted = await again(store, start)

    await store.record(dispatch_id, attempt, answer)
    history = await store.history(TENANT, start.asked.id, after=None, limit=100)

    assert adopted == await again(store, start)
    assert () == await store.sought(BACKEND, ACCOUNT)
    assert [] == await claim_ids(store)
    assert history is not None
    assert [answer.outcome] == [entry.outcome for entry in history.entries if hasattr(entry, "outcome")]


async def test_an_answer_with_another_id_after_adoption_tells_that_it_was_sent_twice(store: Store) -> None:
    """The first attempt was adopted while the second was being sent, and both were carried out."""
    start, dispatch_id, attempt = await bring(store, "in flight again")
    await store.sight(BACKEND, [shown(dispatch_id, "x1")], account=ACCOUNT)

    await store.record(dispatch_id, attempt, accepted("x2"))
    now = await again(store, start)

    assert {Reason.DUPLICATE_SENT: {dispatch_id: "x1, x2"}} == warned(now)
    assert (State.QUEUED, "x1", Progress(queued=1)) == (
        now.standing.state,
        now.standing.external_id,
        now.standing.progress,
    )


@pytest.mark.parametrize("status", [500, 502, 599])
@pytest.mark.parametrize("at_rest", [False, True])
async def test_adoption_after_an_error_of_the_backend_says_so(store: Store, status: int, at_rest: bool) -> None:  # noqa: FBT001
    """RapidPro can leave such a start pending for ever."""
    start, dispatch_id = await left_unsure(store, errored(status))
    if at_rest:
        await store.rest(await the_sought(store))

    await store.sight(BACKEND, [shown(dispatch_id, "x1")], account=ACCOUNT)

    assert [Reason.ADOPTED_AFTER_ERROR] == list(warned(await again(store, start)))


@pytest.mark.parametrize("detail", ["timeout", "HTTP 408", "HTTP 200", "the answer was HTTP 500", ""])
async def test_adoption_after_anything_else_needs_no_warning(store: Store, detail: str) -> None:
    """An answer that was lost is no error of the backend."""
    start, dispatch_id = await left_unsure(store, replace(unsure(), detail=detail))

    await store.sight(BACKEND, [shown(dispatch_id, "x1")], account=ACCOUNT)

    assert {} == warned(await again(store, start))


async def test_a_key_on_another_flow_is_somebody_elses(store: Store) -> None:
    """A flow may hand its params on to another one: that is not our start."""
    start, dispatch_id = await left_unsure(store)

    moved = await store.sight(BACKEND, [shown(dispatch_id, "x1", flow=OTHER_FLOW)], account=ACCOUNT)

    assert 0 == moved
    assert State.UNCERTAIN is (await again(store, start)).standing.state
    assert {"x1"} == await store.unknown(BACKEND, ["x1"])


async def test_a_key_is_of_its_own_backend_and_its_flow_is_told_in_any_case(store: Store) -> None:
    """Ids of flows are hexadecimal, and who writes them with capitals means the same."""
    start, dispatch_id = await left_unsure(store)

    elsewhere = await store.sight("twilio", [shown(dispatch_id, "x1")], account=ACCOUNT)
    here = await store.sight(BACKEND, [shown(dispatch_id, "x1", flow=FLOW.upper())], account=ACCOUNT)

    assert (0, 1) == (elsewhere, here)
    assert State.QUEUED is (await again(store, start)).standing.state


async def test_a_key_of_what_was_never_sent_is_not_ours(store: Store) -> None:
    """Whoever guesses an id, or copies one, starts nothing of ours."""
    start = await create(store, singly(2))
    (dispatch_id,) = await claim_ids(store, 1)

    moved = await store.sight(
        BACKEND, [shown(i, "x1") for i in (dispatch_id, f"{start.asked.id}-2", "nobody's")], account=ACCOUNT
    )

    assert 0 == moved
    assert State.PENDING is (await again(store, start)).standing.state
    assert 1 == await begin(store, dispatch_id)


@pytest.mark.parametrize("answers", [(accepted("x1"),), (put_off(later(0)), accepted("x1"))], ids=["once", "throttled"])
async def test_lose_f9_what_was_sent_once_is_not_late(store: Store, answers: tuple[Settlement, ...]) -> None:
    """A second one is somebody's who passed the params on, or repeated the request: no longer window prevents that."""
    start = await create(store)
    for answer in answers:
        (dispatch_id,) = await claim_ids(store)
        await settle(store, dispatch_id, answer)
    await store.sight(BACKEND, [shown(f"{start.asked.id}-1", "y1")], account=ACCOUNT)
    (warning,) = (await again(store, start)).standing.warnings

    assert (Reason.DUPLICATE_SENT, {f"{start.asked.id}-1": "x1, y1"}) == (warning.reason, warning.metadata)
    assert "quiet_window" not in warning.message


async def test_what_was_sent_again_may_have_been_late(store: Store) -> None:
    """Then a longer window is what helps."""
    start, dispatch_id = await left_unsure(store)
    await prove_absent(store)
    await claim_ids(store)
    await settle(store, dispatch_id, accepted("x1"))
    await store.sight(BACKEND, [shown(dispatch_id, "y1")], account=ACCOUNT)
    (warning,) = (await again(store, start)).standing.warnings

    assert "lengthen `quiet_window`" in warning.message


async def test_several_dispatches_of_a_start_that_were_sent_twice_are_all_told(store: Store) -> None:
    """One warning, with both external ids of each; told again, it is no change."""
    start = await create(store, singly(3))
    ids = await claim_ids(store)
    for dispatch_id in ids:
        await settle(store, dispatch_id, unsure())
    await prove_absent(store)
    await claim_ids(store)
    for n, dispatch_id in enumerate(ids):
        await settle(store, dispatch_id, accepted(f"x{n}"))
    twice = [shown(ids[0], "y0"), shown(ids[2], "y2", State.COMPLETED)]

    moved = [await store.sight(BACKEND, twice, account=ACCOUNT)]
    head = await store.head()
    moved.append(await store.sight(BACKEND, [*twice, shown(ids[0], "z0")], account=ACCOUNT))
    now = await again(store, start)

    assert [0, 0] == moved
    assert {Reason.DUPLICATE_SENT: {ids[0]: "x0, y0", ids[2]: "x2, y2"}} == warned(now)
    assert (State.QUEUED, head) == (now.standing.state, await store.head())
    assert now.standing == (await store.changes(head - 1, 1)).changes[0].flow_start.standing


@pytest.mark.parametrize("ended", ["absent and expired", "given up", "refused"])
async def test_what_is_shown_after_its_end_is_told_and_moves_nothing(store: Store, clock: Clock, ended: str) -> None:
    """An end is final; that it was carried out all the same is worth knowing."""
    start, dispatch_id = await left_unsure(
        store, refused() if ended == "refused" else None, expire_at=later(60) if "expired" in ended else None
    )
    if "expired" in ended:
        clock.tick(60)
        await prove_absent(store)
    elif ended == "given up":
        await store.resolve(TENANT, start.asked.id, Resolution(verdict=Verdict.GIVE_UP))
    before = await again(store, start)

    moved = [await store.sight(BACKEND, [shown(dispatch_id, "x1")], account=ACCOUNT) for _ in range(2)]
    now = await again(store, start)

    assert [0, 0] == moved
    assert {Reason.FOUND_AFTER_END: {dispatch_id: "x1"}} == warned(now)
    assert (State.FAILED, before.standing.failure, before.standing.ended_at) == (
        now.standing.state,
        now.standing.failure,
        now.standing.ended_at,
    )
    assert before.revision + 1 == now.revision == await store.head()


async def test_sightings_in_one_list_are_each_taken_for_what_they_are(store: Store) -> None:
    """Found, followed, sent twice and unknown in one write: the number is of those that have moved."""
    start = await create(store, singly(3))
    ids = await claim_ids(store)
    for dispatch_id, settlement in zip(ids, (accepted("x0"), unsure(), unsure()), strict=True):
        await settle(store, dispatch_id, settlement)

    moved = await store.sight(
        BACKEND,
        [
            shown(ids[0], "x0", State.STARTED),
            shown(ids[1], "x1"),
            shown(ids[1], "x1", State.STARTED),
            shown(ids[0], "y0"),
            seen("z", State.COMPLETED),
        ],
        account=ACCOUNT,
    )
    now = await again(store, start)

    assert 3 == moved
    assert {Reason.DUPLICATE_SENT: {ids[0]: "x0, y0"}} == warned(now)
    assert Progress(started=2, uncertain=1) == now.standing.progress


# --- proved absent


async def test_what_is_absent_is_sent_again_when_it_is_due(store: Store, clock: Clock) -> None:
    """It is as good as never sent, and two attempts older: at once the first time, later the second."""
    start, dispatch_id = await left_unsure(store)
    await store.absent(await the_sought(store), on_absent=State.PENDING, pause=timedelta(seconds=30))
    assert [dispatch_id] == await claim_ids(store)
    await settle(store, dispatch_id, unsure())
    await store.absent(await the_sought(store), on_absent=State.PENDING, pause=timedelta(seconds=30))
    now = await again(store, start)
    early = await store.claim(BACKEND, 10)
    clock.tick(30)

    assert (State.PENDING, None, later(30)) == (
        now.standing.state,
        now.standing.failure,
        now.standing.next_attempt_at,
    )
    assert ((), later(30)) == (early.dispatches, early.next_due_at)
    assert [(dispatch_id, 2)] == [(d.id, d.attempts) for d in (await store.claim(BACKEND, 10)).dispatches]
    assert 3 == await begin(store, dispatch_id)
    assert [State.PENDING, *[State.UNCERTAIN, State.PENDING] * 2] == await states_gone_through(store, start)


async def test_what_is_absent_after_its_expiry_fails(store: Store, clock: Clock) -> None:
    """Expiry stops sends, never looking."""
    start, _ = await left_unsure(store, expire_at=later(60))
    clock.tick(61)
    await claim_ids(store)
    looked_for = await again(store, start)
    await prove_absent(store)
    now = await again(store, start)

    assert State.UNCERTAIN is looked_for.standing.state
    assert (State.FAILED, Reason.EXPIRED, later(61)) == (now.standing.state, why(now), now.standing.ended_at)
    assert [] == await claim_ids(store)


async def test_what_is_absent_after_its_backend_was_given_up_fails(store: Store, clock: Clock) -> None:
    """Without an expiry of its own it gives up as what was never sent does, and says so in other words."""
    start, _ = await left_unsure(store, terms=replace(TERMS, give_up_after=timedelta(minutes=5)))
    clock.tick(300)
    await prove_absent(store)
    now = await again(store, start)

    assert (State.FAILED, Reason.EXPIRED) == (now.standing.state, why(now))
    assert "give_up_after" in (now.standing.failure.message if now.standing.failure else "")


async def test_what_expires_while_it_is_looked_for_is_adopted_when_it_is_found(store: Store, clock: Clock) -> None:
    """It was sent in time."""
    start, dispatch_id = await left_unsure(store, expire_at=later(60))
    clock.tick(3_600)
    await claim_ids(store)

    await store.sight(BACKEND, [shown(dispatch_id, "x1")], account=ACCOUNT)

    assert State.QUEUED is (await again(store, start)).standing.state


async def test_what_is_absent_of_a_cancelled_start_is_never_sent_again(store: Store) -> None:
    """It ends as cancelled."""
    start, _ = await left_unsure(store)
    cancelled = await store.cancel(TENANT, start.asked.id, can_end=False)
    await prove_absent(store)
    now = await again(store, start)

    assert cancelled is not None
    assert State.UNCERTAIN is cancelled.standing.state
    assert (State.INTERRUPTED, Reason.CANCELLED) == (now.standing.state, why(now))
    assert [] == await claim_ids(store)


async def test_three_rounds_of_an_error_and_absence_are_poison(store: Store) -> None:
    """Something about the request breaks its backend, which takes others: it is not sent a fourth time."""
    start = await create(store)
    states = []
    for _ in range(3):
        (dispatch_id,) = await claim_ids(store)
        await settle(store, dispatch_id, errored())
        await take_another(store)
        await prove_absent(store)
        states.append((await again(store, start)).standing.state)

    assert [State.PENDING, State.PENDING, State.FAILED] == states
    assert Reason.BACKEND_FAILED == why(await again(store, start))
    assert [] == await claim_ids(store)


async def test_rounds_without_an_error_are_no_poison(store: Store) -> None:
    """A network that loses answers says nothing of the request; two errors among them are not three."""
    start = await create(store)
    for settlement in (errored(), unsure(), unsure(), errored(), unsure(), unsure()):
        (dispatch_id,) = await claim_ids(store)
        await settle(store, dispatch_id, settlement)
        await take_another(store)
        await prove_absent(store)

    assert State.PENDING is (await again(store, start)).standing.state
    await claim_ids(store)
    assert 7 == await begin(store, f"{start.asked.id}-1")


async def test_on_absent_uncertain_never_sends_again(store: Store, clock: Clock) -> None:
    """It rests, and only an operator's word or the backend showing it moves it."""
    start, dispatch_id = await left_unsure(store)
    await prove_absent(store, State.UNCERTAIN)
    now = await again(store, start)
    clock.tick(100)

    assert (State.UNCERTAIN, True) == (now.standing.state, now.standing.is_done)
    assert [] == await claim_ids(store)
    assert () == await store.sought(BACKEND, ACCOUNT)
    assert 1 == await store.sight(BACKEND, [shown(dispatch_id, "x1")], account=ACCOUNT)
    assert State.QUEUED is (await again(store, start)).standing.state


async def test_newcomer_10_what_was_proved_absent_and_rests_says_so(store: Store) -> None:
    """Whoever decides reads the one fact for it, and not that it is being looked for."""
    start, _ = await left_unsure(store)
    await prove_absent(store, State.UNCERTAIN)
    failure = (await again(store, start)).standing.failure

    assert failure is not None
    assert failure.message.startswith("Two complete scans of the backend did not show it")


@pytest.mark.parametrize("rests", ["rest", "absent"])
async def test_newcomer_10_what_is_looked_for_again_says_so(store: Store, rests: str) -> None:
    """The words of an earlier rest would say that nobody looks."""
    start, _ = await left_unsure(store)
    sought = await the_sought(store)
    await (store.rest(sought) if rests == "rest" else store.absent(sought, on_absent=State.UNCERTAIN, pause=PAUSE))
    await store.resolve(TENANT, start.asked.id, Resolution(verdict=Verdict.WAS_NOT_SENT))
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, unsure())
    failure = (await again(store, start)).standing.failure

    assert failure is not None
    assert failure == unsure().failure


async def test_a_proof_of_an_earlier_attempt_proves_nothing_of_a_later_one(store: Store) -> None:
    """Neither does one of what was found, rests, or is sent again since."""
    start, dispatch_id = await left_unsure(store)
    first = await the_sought(store)
    await prove_absent(store)
    unmoved = []

    async def try_again() -> None:
        before = await again(store, start)
        for state in (State.PENDING, State.UNCERTAIN):
            await store.absent(first, on_absent=state, pause=timedelta())
        await store.rest(first)
        unmoved.append(before == await again(store, start))

    await try_again()  # it waits
    await claim_ids(store)
    attempt = await begin(store, dispatch_id) or 0
    await try_again()  # it is being sent
    await store.record(dispatch_id, attempt, unsure())
    await try_again()  # the second attempt is uncertain
    await store.rest(await the_sought(store))
    await try_again()  # it rests
    await store.sight(BACKEND, [shown(dispatch_id, "x1")], account=ACCOUNT)
    await try_again()  # it runs

    assert [True] * 5 == unmoved


async def test_a_proof_that_comes_after_it_was_left_at_rest_moves_nothing(store: Store) -> None:
    """Who left it had given up scanning for it; only its sighting, or an operator's word, counts from there on."""
    start, _ = await left_unsure(store)
    sought = await the_sought(store)
    await store.rest(sought)
    before = await again(store, start)

    for state in (State.PENDING, State.UNCERTAIN):
        await store.absent(sought, on_absent=state, pause=timedelta())

    assert before == await again(store, start)
    assert [] == await claim_ids(store)


async def test_what_rests_is_told_why_and_not_sent(store: Store, clock: Clock) -> None:
    """One of several that rests leaves the others alone."""
    start = await create(store, singly(2))
    ids = await claim_ids(store)
    for dispatch_id in ids:
        await settle(store, dispatch_id, unsure())
    first, second = await store.sought(BACKEND, ACCOUNT)
    await store.rest(first)
    one = await again(store, start)
    await store.rest(second)
    both = await again(store, start)
    clock.tick(1_000_000)
    await claim_ids(store)
    page = await store.recipients(TENANT, start.asked.id, after=None, limit=10)

    assert [False, True] == [one.standing.is_done, both.standing.is_done]
    assert page is not None
    assert [(State.UNCERTAIN, True)] * 2 == [
        (each.state, each.failure is not None and "ResolveFlowStart" in each.failure.message)
        for each in page.recipients
    ]


async def test_an_adopted_dispatch_is_followed_like_any_other(store: Store) -> None:
    """By its external id, to its end."""
    start, dispatch_id = await left_unsure(store)
    await store.sight(BACKEND, [shown(dispatch_id, "x1", created_at=later(5))], account=ACCOUNT)

    assert [later(5)] == [window.oldest for window in await store.windows(BACKEND, ACCOUNT)]
    assert [dispatch_id] == [one.id for one in await store.running(BACKEND, ["x1"])]
    assert 1 == await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    assert State.COMPLETED is (await again(store, start)).standing.state


# --- after a crash


async def test_what_was_being_sent_at_a_crash_is_sought_from_when_it_was_sent(
    store: Store, reopen: Callable[..., Store], place: Place, clock: Clock
) -> None:
    """However long the gateway was down; found it is adopted, absent it is sent again."""
    starts = [await create(store) for _ in range(2)]
    ids = await claim_ids(store)
    for n, dispatch_id in enumerate(ids):
        await begin(store, dispatch_id, later(n))
    clock.tick(86_000)

    second = reopen(place.crash())
    sought = await second.sought(BACKEND, ACCOUNT)
    await second.sight(BACKEND, [shown(ids[0], "x1")], account=ACCOUNT)
    await second.absent(sought[1], on_absent=State.PENDING, pause=timedelta())

    assert [(ids[0], State.UNCERTAIN, 1, NOON), (ids[1], State.UNCERTAIN, 1, later(1))] == [
        (each.id, each.state, each.attempts, each.since) for each in sought
    ]
    assert [State.QUEUED, State.PENDING] == [(await again(second, start)).standing.state for start in starts]
    assert {} == warned(await again(second, starts[0]))
    assert [ids[1]] == await claim_ids(second)


async def test_what_a_list_had_shown_before_a_crash_stays_adopted(
    store: Store, reopen: Callable[..., Store], place: Place
) -> None:
    """Its attempt is closed, and nothing is looked for."""
    start, dispatch_id, attempt = await bring(store, "in flight")
    await store.sight(BACKEND, [shown(dispatch_id, "x1")], account=ACCOUNT)
    adopted = await again(store, start)

    second = reopen(place.crash())
    recovered = await again(second, start)
    await second.record(dispatch_id, attempt, accepted("x1"))

    assert adopted == recovered == await again(second, start)
    assert () == await second.sought(BACKEND, ACCOUNT)


async def test_what_is_sought_is_still_sought_after_a_crash(
    store: Store, reopen: Callable[..., Store], place: Place
) -> None:
    """And what rests still rests."""
    _, first = await left_unsure(store)
    await store.rest(await the_sought(store))
    _, second = await left_unsure(store)

    reopened = reopen(place.crash())

    assert first != second
    assert [second] == [sought.id for sought in await reopened.sought(BACKEND, ACCOUNT)]


# --- held for another account


async def held(store: Store) -> dict[str, FlowStart]:
    """Records starts for the account, by where they stand: waiting, running, uncertain, ended, with more in blocks."""
    starts = {}
    for name, settlement in {"running": accepted("x1"), "uncertain": unsure(), "ended": refused()}.items():
        starts[name] = await create(store)
        (dispatch_id,) = await claim_ids(store)
        await settle(store, dispatch_id, settlement)
    starts["waiting"] = await create(store)
    starts["wide"] = await create(store, singly(750))
    return starts


async def test_what_was_recorded_for_another_account_is_held(store: Store, clock: Clock) -> None:
    """It is neither sent nor proof, and each start says so; what has ended does not."""
    starts = await held(store)
    ours = await create(store, terms=replace(TERMS, account="new"))

    count = await store.hold(BACKEND, Identity(account="new"))
    head = await store.head()
    claimed = await claim_ids(store, 1_000)
    clock.tick(60)

    assert 4 == count
    assert [f"{ours.asked.id}-1"] == claimed
    assert () == await store.sought(BACKEND, "new")
    assert () == await store.windows(BACKEND, "new")
    assert () == await store.controls(BACKEND, "new", later(60))
    assert {name for name in starts if name != "ended"} == {
        name for name, start in starts.items() if Reason.BACKEND_CHANGED in warned(await again(store, start))
    }
    assert {} == warned(await again(store, ours))
    assert 4 == await store.hold(BACKEND, Identity(account="new"))
    assert head == await store.head(), "told twice"


async def test_of_a_backend_that_is_configured_no_more_everything_is_held(store: Store) -> None:
    """Whatever account it was recorded for, a known one or not."""
    starts = await held(store)
    unknown = await create(store, terms=Terms())
    other = await create(store, backend="twilio")

    names = await store.backends()
    count = await store.hold(BACKEND, None)

    assert {BACKEND, "twilio"} == names
    assert 5 == count
    assert [] == await claim_ids(store, 1_000)
    assert Reason.BACKEND_CHANGED in warned(await again(store, unknown))
    assert {} == warned(await again(store, starts["ended"]))
    assert [f"{other.asked.id}-1"] == await claim_ids(store, 10, "twilio")


async def test_what_is_recorded_for_the_account_or_for_none_yet_is_not_held(store: Store) -> None:
    """What was recorded before anybody knew whose account it is is sent."""
    await create(store)
    await create(store, terms=Terms())
    head = await store.head()

    assert 0 == await store.hold(BACKEND, Identity(account=ACCOUNT))
    assert head == await store.head()
    assert 2 == len(await claim_ids(store))


async def test_what_is_held_is_looked_at_again_by_the_next_life(
    store: Store, reopen: Callable[..., Store], place: Place
) -> None:
    """Configured for the account again, the backend is sent it, blocks included; otherwise it is held again."""
    await held(store)
    await store.hold(BACKEND, None)
    back = reopen(place.crash("back.db"))
    gone = reopen(place.crash("gone.db"))

    assert 0 == await back.hold(BACKEND, Identity(account=ACCOUNT))
    assert 751 == len(await claim_ids(back, 1_000))
    assert 1 == len(await back.sought(BACKEND, ACCOUNT))
    assert 4 == await gone.hold(BACKEND, Identity(account="new"))
    assert [] == await claim_ids(gone, 1_000)


async def test_what_is_held_can_be_cancelled(store: Store) -> None:
    """As its warning says: everything unsent ends at once, blocks included, though no lane ever claims it."""
    starts = await held(store)
    await store.hold(BACKEND, None)

    for name in ("waiting", "wide"):
        cancelled = await store.cancel(TENANT, starts[name].asked.id, can_end=False)

        assert cancelled is not None
        assert (State.INTERRUPTED, Reason.CANCELLED) == (cancelled.standing.state, why(cancelled))
    assert frozenset({BACKEND}) == await store.backends()  # for what runs


async def test_a_dispatch_of_another_account_is_held_when_it_is_about_to_be_sent(store: Store) -> None:
    """An operator's word that it was not sent makes it wait again, but not for somebody else's account."""
    start, dispatch_id = await left_unsure(store)
    await store.hold(BACKEND, Identity(account="new"))
    await store.resolve(TENANT, start.asked.id, Resolution(verdict=Verdict.WAS_NOT_SENT))

    for claimed in await claim_ids(store):
        assert await store.begin_attempt(claimed, account="new", since=NOON) is None
        await store.release(claimed, NOON)
    claims = await store.claim(BACKEND, 10)

    assert ((), None) == (claims.dispatches, claims.next_due_at)
    assert Reason.BACKEND_CHANGED in warned(await again(store, start))
    assert dispatch_id == f"{start.asked.id}-1"
