"""What every store keeps of what callers and operators put an end to, of what stands still, and of backlogs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import Exhausted, InvalidRequest, NotFound, NotPossible, Reason
from gateway.model import Cause, Dispatch, OutcomeKind, Progress, Resolution, State, Verdict
from gateway.store import Kept, Settlement
from gateway.store.replacing import RIVAL_ROUNDS
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
    run_to,
    seen,
    settle,
    singly,
    unsure,
)
from tests.lengths import size, some

if TYPE_CHECKING:
    from gateway.model import FlowStart
    from gateway.store import Store
    from tests.builders import Clock

FEW = replace(TERMS, backlog=5)
ALONE = replace(TERMS, one_at_a_time=True)
BUSY = Settlement(outcome=OutcomeKind.REFUSED, cause=Cause.BUSY, detail="", state=State.PENDING, due_at=NOON)


def later(seconds: float) -> Any:
    """A moment after noon."""
    return NOON + timedelta(seconds=seconds)


def why(start: FlowStart) -> str:
    """Returns the reason of a start's failure."""
    assert start.standing.failure is not None
    return start.standing.failure.reason


def warned(start: FlowStart) -> list[str]:
    """Returns the reasons of a start's warnings."""
    return [str(warning.reason) for warning in start.standing.warnings]


async def cancel(store: Store, start: FlowStart, *, can_end: bool = True) -> FlowStart:
    """Cancels a start that is there."""
    cancelled = await store.cancel(start.asked.tenant, start.asked.id, can_end=can_end)
    assert cancelled is not None
    return cancelled


async def running(store: Store, count: int = 1, **different: Any) -> FlowStart:
    """Records a start whose dispatches are accepted as x1, x2 and so on."""
    start = await create(store, singly(count), **different)
    await run_to(store, start, *(accepted(f"x{n + 1}") for n in range(count)))
    return await again(store, start)


async def states_of(store: Store, start: FlowStart) -> list[State]:
    """Reads where each recipient of a start stands."""
    page = await store.recipients(start.asked.tenant, start.asked.id, after=None, limit=20_000)
    assert page is not None
    return [each.state for each in page.recipients]


# --- cancelling


@pytest.mark.parametrize("can_end", [False, True])
@pytest.mark.parametrize("schedule", [None, 60])
async def test_what_is_unsent_ends_at_once(store: Store, can_end: bool, schedule: int | None) -> None:  # noqa: FBT001
    """Scheduled or due; it says that it was cancelled, and when that was asked for."""
    start = await create(store, schedule_at=None if schedule is None else later(schedule))

    cancelled = await cancel(store, start, can_end=can_end)

    assert (State.INTERRUPTED, Reason.CANCELLED, NOON, NOON) == (
        cancelled.standing.state,
        why(cancelled),
        cancelled.standing.cancel_requested_at,
        cancelled.standing.ended_at,
    )
    assert (Progress(interrupted=1), [], None) == (
        cancelled.standing.progress,
        warned(cancelled),
        cancelled.standing.next_attempt_at,
    )
    assert cancelled == await again(store, start)
    assert ((), None) == ((await store.claim(BACKEND, 10)).dispatches, (await store.claim(BACKEND, 10)).next_due_at)
    assert start.revision + 1 == await store.head()


@pytest.mark.parametrize("claimed", some([0, 100, 150], 150))
async def test_ten_thousand_recipients_are_cancelled_together(store: Store, clock: Clock, claimed: int) -> None:
    """Blocks that were never written out too; what is claimed ends when it is given back."""
    count = size(10_000, quick=2_000)
    start = await create(store, singly(count))
    ids = await claim_ids(store, claimed) if claimed else []

    cancelled = await cancel(store, start)
    clock.tick(2)
    claims = await store.claim(BACKEND, 10)
    for dispatch_id in ids:
        assert await begin(store, dispatch_id) is None
        await store.release(dispatch_id, NOON)
    clock.tick(2)
    await store.sight(BACKEND, [], account=ACCOUNT)
    now = await again(store, start)

    assert (State.PENDING if claimed else State.INTERRUPTED) is cancelled.standing.state or claimed
    assert ((), None) == (claims.dispatches, claims.next_due_at)
    assert (State.INTERRUPTED, Progress(interrupted=count)) == (now.standing.state, now.standing.progress)
    assert frozenset() == await store.backends()
    assert {State.INTERRUPTED} == set(await states_of(store, start))


@pytest.mark.parametrize("can_end", [False, True])
async def test_what_is_in_flight_is_settled_by_its_answer(store: Store, can_end: bool) -> None:  # noqa: FBT001
    """Accepted it runs until it is ended, if it can be; refused it failed; not sent it is not sent again."""
    start = await create(store, singly(4))
    ids = await claim_ids(store)
    attempts = [await begin(store, dispatch_id) or 0 for dispatch_id in ids]

    cancelled = await cancel(store, start, can_end=can_end)
    answers = [accepted("x1"), refused(), put_off(NOON), unsure()]
    for dispatch_id, attempt, answer in zip(ids, attempts, answers, strict=True):
        await store.record(dispatch_id, attempt, answer)
    endings = await store.endings(BACKEND, ACCOUNT, 10)

    assert State.PENDING is cancelled.standing.state
    assert [State.QUEUED, State.FAILED, State.INTERRUPTED, State.UNCERTAIN] == await states_of(store, start)
    assert [] == await claim_ids(store)
    assert ([ids[0]] if can_end else []) == [dispatch.id for dispatch in endings]
    assert ([] if can_end else [Reason.CANNOT_CANCEL]) == warned(await again(store, start))


async def test_what_is_claimed_and_not_yet_sent_is_not_sent_after_cancelling(store: Store) -> None:
    """The claim is worth nothing any more; given back, it ends."""
    start = await create(store)
    (dispatch_id,) = await claim_ids(store)
    await cancel(store, start)

    assert await begin(store, dispatch_id) is None
    await store.release(dispatch_id, NOON)
    now = await again(store, start)

    assert (State.INTERRUPTED, Reason.CANCELLED) == (now.standing.state, why(now))


@pytest.mark.parametrize("can_end", [False, True])
async def test_what_is_unsure_is_settled_by_its_finding(store: Store, can_end: bool) -> None:  # noqa: FBT001
    """Found it is ended, if it can be; absent it is never sent again."""
    start = await create(store, singly(2))
    first, second = await claim_ids(store)
    for dispatch_id in (first, second):
        await settle(store, dispatch_id, unsure())
    cancelled = await cancel(store, start, can_end=can_end)
    sought = await store.sought(BACKEND, ACCOUNT)

    await store.sight(BACKEND, [seen("x1", State.STARTED, correlation_key=first, flow=FLOW)], account=ACCOUNT)
    await store.absent(sought[1], on_absent=State.PENDING, pause=timedelta())
    endings = await store.endings(BACKEND, ACCOUNT, 10)

    assert (State.UNCERTAIN, False) == (cancelled.standing.state, cancelled.standing.is_done)
    assert [first, second] == [each.id for each in sought]
    assert [State.STARTED, State.INTERRUPTED] == await states_of(store, start)
    assert [(first, "x1")] * can_end == [(dispatch.id, dispatch.external_id) for dispatch in endings]
    assert [Reason.CANNOT_CANCEL] * (not can_end) == warned(await again(store, start))


async def test_what_runs_is_ended_where_the_backend_can(store: Store) -> None:
    """It is asked for first, so that its end is known to be ours; then it is INTERRUPTED, whatever the word for it."""
    start = await running(store, 3)
    await store.sight(BACKEND, [seen("x3", State.COMPLETED)], account=ACCOUNT)
    cancelled = await cancel(store, start)
    endings = await store.endings(BACKEND, ACCOUNT, 10)
    asked_to = [await store.ending(dispatch.id) for dispatch in endings]
    still = await store.endings(BACKEND, ACCOUNT, 10)
    await store.sight(BACKEND, [seen("x1", State.COMPLETED), seen("x2", State.FAILED)], account=ACCOUNT)
    now = await again(store, start)

    assert (State.STARTED, [], NOON) == (
        cancelled.standing.state,
        warned(cancelled),
        cancelled.standing.cancel_requested_at,
    )
    assert [("x1", State.QUEUED, FLOW, NOON), ("x2", State.QUEUED, FLOW, NOON)] == [
        (dispatch.external_id, dispatch.state, dispatch.flow, dispatch.accepted_at) for dispatch in endings
    ]
    assert [True, True] == asked_to
    assert len(endings) == len(still), "it is asked again until it has ended"
    assert [State.INTERRUPTED, State.INTERRUPTED, State.COMPLETED] == await states_of(store, start)
    assert (State.COMPLETED, [Reason.PARTLY_FAILED]) == (now.standing.state, warned(now))
    assert () == await store.endings(BACKEND, ACCOUNT, 10)


async def test_what_ended_before_it_was_asked_to_ended_by_itself(store: Store) -> None:
    """Cancelling came too late for it, and it need not be asked any more."""
    start = await running(store)
    await cancel(store, start)
    (dispatch,) = await store.endings(BACKEND, ACCOUNT, 10)
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)

    assert not await store.ending(dispatch.id)
    assert () == await store.endings(BACKEND, ACCOUNT, 10)
    assert State.COMPLETED is (await again(store, start)).standing.state


async def test_only_what_is_to_be_ended_is_asked_to(store: Store) -> None:
    """Of the account, a bounded number, and nothing of starts that were not cancelled."""
    await running(store)
    (dispatch,) = await store.running(BACKEND, ["x1"])
    wide = await create(store, singly(5))
    await run_to(store, wide, *(accepted(f"y{n}") for n in range(5)))
    await cancel(store, wide)

    assert not await store.ending(dispatch.id)
    assert not await store.ending("never-1")
    assert 3 == len(await store.endings(BACKEND, ACCOUNT, 3))
    assert 5 == len(await store.endings(BACKEND, ACCOUNT, 100))
    assert () == await store.endings(BACKEND, "other", 100)
    assert () == await store.endings("twilio", ACCOUNT, 100)


async def test_what_cannot_be_ended_runs_on_and_the_caller_is_told(store: Store) -> None:
    """What was not sent is stopped all the same."""
    start = await create(store, singly(2))
    first, second = await claim_ids(store)
    await settle(store, first, accepted("x1"))
    await store.release(second, NOON)
    cancelled = await cancel(store, start, can_end=False)
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    now = await again(store, start)

    assert [Reason.CANNOT_CANCEL] == warned(cancelled)
    assert () == await store.endings(BACKEND, ACCOUNT, 10)
    assert (State.COMPLETED, Progress(completed=1, interrupted=1)) == (now.standing.state, now.standing.progress)


async def test_cancelling_again_changes_nothing(store: Store, clock: Clock) -> None:
    """While it runs on, and after its end; twins at once are one."""
    start = await running(store)
    results = await asyncio.gather(*(cancel(store, start) for _ in range(5)))
    head = await store.head()
    clock.tick(10)
    later_on = await cancel(store, start, can_end=False)
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    ended = await again(store, start)

    assert [later_on] * 5 == results
    assert head == start.revision + 1
    assert ended == await cancel(store, start)
    assert NOON == ended.standing.cancel_requested_at


@pytest.mark.parametrize("end", [accepted("x1", State.COMPLETED), refused(), accepted("x1", State.INTERRUPTED)])
async def test_what_has_ended_cannot_be_cancelled(store: Store, end: Settlement) -> None:
    """There is nothing to stop, and nothing of it changes."""
    start = await create(store)
    await run_to(store, start, end)
    ended = await again(store, start)

    with pytest.raises(NotPossible) as refusal:
        await cancel(store, start)

    assert Reason.ALREADY_TERMINAL is refusal.value.reason
    assert ended == await again(store, start)


async def test_nobody_cancels_or_resolves_what_is_another_tenants_or_nobodys(store: Store) -> None:
    """Such a start is not there."""
    start = await create(store, tenant="a")
    word = Resolution(verdict=Verdict.GIVE_UP)

    assert await store.cancel("b", start.asked.id, can_end=True) is None
    assert await store.cancel("a", "never", can_end=True) is None
    assert await store.resolve("b", start.asked.id, word) is None
    assert await store.resolve("a", "never", word) is None
    assert start == await again(store, start)


async def test_what_rests_can_be_cancelled_and_is_then_not_sent_again(store: Store) -> None:
    """An operator's word that it was not sent ends it."""
    start = await create(store)
    await run_to(store, start, unsure())
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.rest(sought)
    cancelled = await cancel(store, start)
    await store.resolve(TENANT, start.asked.id, Resolution(verdict=Verdict.WAS_NOT_SENT))
    now = await again(store, start)

    assert (State.UNCERTAIN, NOON) == (cancelled.standing.state, cancelled.standing.cancel_requested_at)
    assert (State.INTERRUPTED, Reason.CANCELLED) == (now.standing.state, why(now))


# --- resolving


async def uncertain(store: Store, count: int = 1, *, at_rest: bool = True, **different: Any) -> FlowStart:
    """Records a start whose dispatches are all uncertain."""
    start = await create(store, singly(count), **different)
    await run_to(store, start, *(unsure() for _ in range(count)))
    if at_rest:
        for sought in await store.sought(BACKEND, ACCOUNT):
            await store.rest(sought)
    return await again(store, start)


async def resolve(
    store: Store, start: FlowStart, verdict: Verdict, number: int = 0, external_id: str = ""
) -> FlowStart:
    """Resolves one dispatch of a start, or all of them."""
    dispatch_id = f"{start.asked.id}-{number}" if number else ""
    word = Resolution(verdict=verdict, dispatch_id=dispatch_id, external_id=external_id)
    resolved = await store.resolve(start.asked.tenant, start.asked.id, word)
    assert resolved is not None
    assert resolved == await again(store, start)
    return resolved


@pytest.mark.parametrize("at_rest", [False, True])
@pytest.mark.parametrize("number", [0, 1])
async def test_what_was_sent_is_adopted(store: Store, at_rest: bool, number: int) -> None:  # noqa: FBT001
    """By the external id an operator has found, and followed from then on."""
    start = await uncertain(store, at_rest=at_rest)

    resolved = await resolve(store, start, Verdict.WAS_SENT, number, "x1")

    assert (State.QUEUED, "x1", None, Progress(queued=1)) == (
        resolved.standing.state,
        resolved.standing.external_id,
        resolved.standing.failure,
        resolved.standing.progress,
    )
    assert () == await store.sought(BACKEND, ACCOUNT)
    assert [NOON] == [window.oldest for window in await store.windows(BACKEND, ACCOUNT)]
    assert 1 == await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    assert State.COMPLETED is (await again(store, start)).standing.state


@pytest.mark.parametrize("at_rest", [False, True])
@pytest.mark.parametrize("number", [0, 1])
async def test_what_was_not_sent_is_sent_again(store: Store, at_rest: bool, number: int) -> None:  # noqa: FBT001
    """At once, as its next attempt."""
    start = await uncertain(store, at_rest=at_rest)

    resolved = await resolve(store, start, Verdict.WAS_NOT_SENT, number)
    (dispatch_id,) = await claim_ids(store)

    assert (State.PENDING, None, None) == (
        resolved.standing.state,
        resolved.standing.failure,
        resolved.standing.next_attempt_at,
    )
    assert 2 == await begin(store, dispatch_id)


async def test_what_was_not_sent_and_has_expired_fails(store: Store, clock: Clock) -> None:
    """An operator's word is no leave to send it late."""
    start = await uncertain(store, expire_at=later(60))
    clock.tick(60)

    await resolve(store, start, Verdict.WAS_NOT_SENT)

    assert [] == await claim_ids(store)
    assert (State.FAILED, Reason.EXPIRED) == (
        (await again(store, start)).standing.state,
        why(await again(store, start)),
    )


@pytest.mark.parametrize("at_rest", [False, True])
async def test_what_is_given_up_fails(store: Store, at_rest: bool) -> None:  # noqa: FBT001
    """Nobody knows what became of it, and nobody looks any more."""
    start = await uncertain(store, at_rest=at_rest)

    resolved = await resolve(store, start, Verdict.GIVE_UP)

    assert (State.FAILED, Reason.OUTCOME_UNKNOWN, NOON) == (
        resolved.standing.state,
        why(resolved),
        resolved.standing.ended_at,
    )
    assert [] == await claim_ids(store)
    assert [] == [each for each in await store.sought(BACKEND, ACCOUNT) if each.state is State.UNCERTAIN]


@pytest.mark.parametrize(("verdict", "state"), [(Verdict.WAS_NOT_SENT, State.PENDING), (Verdict.GIVE_UP, State.FAILED)])
async def test_all_that_is_open_is_resolved_at_once(store: Store, verdict: Verdict, state: State) -> None:
    """What is not open stays as it is."""
    start = await create(store, singly(5))
    await run_to(store, start, unsure(), accepted("x2"), unsure(), refused())

    await resolve(store, start, verdict)

    expected = [state, State.QUEUED, state, State.FAILED, State.PENDING]
    assert expected == await states_of(store, start)


async def test_one_is_resolved_and_the_others_are_not(store: Store) -> None:
    """Each may have a verdict of its own."""
    start = await uncertain(store, 4)

    await resolve(store, start, Verdict.WAS_SENT, 3, "x3")
    await resolve(store, start, Verdict.WAS_NOT_SENT, 1)
    last = await resolve(store, start, Verdict.GIVE_UP, 4)

    assert [State.PENDING, State.UNCERTAIN, State.QUEUED, State.FAILED] == await states_of(store, start)
    assert "" == last.standing.external_id
    assert [f"{start.asked.id}-1"] == await claim_ids(store)


async def test_resolving_is_refused_with_the_reason(store: Store) -> None:
    """Nothing open, no such dispatch, one that is not open, several for one id, an id that is another's."""
    start = await create(store, singly(4))
    await run_to(store, start, unsure(), unsure(), accepted("x3"))
    other = await uncertain(store)
    fine = await running(store, tenant="b")
    before = await again(store, start)
    refusals: list[tuple[FlowStart, Verdict, int, str, type[Exception], str]] = [
        (fine, Verdict.GIVE_UP, 0, "", NotPossible, Reason.NOT_UNCERTAIN),
        (start, Verdict.GIVE_UP, 3, "", NotPossible, Reason.NOT_UNCERTAIN),
        (start, Verdict.WAS_NOT_SENT, 4, "", NotPossible, Reason.NOT_UNCERTAIN),
        (start, Verdict.GIVE_UP, 9, "", NotFound, Reason.FLOW_START_NOT_FOUND),
        (start, Verdict.WAS_SENT, 0, "x1", InvalidRequest, Reason.VALIDATION_FAILED),
        (start, Verdict.WAS_SENT, 1, "x3", InvalidRequest, Reason.VALIDATION_FAILED),
        (other, Verdict.WAS_SENT, 0, "x3", InvalidRequest, Reason.VALIDATION_FAILED),
    ]

    for at, verdict, number, external_id, error, reason in refusals:
        with pytest.raises(error) as refusal:
            await resolve(store, at, verdict, number, external_id)
        assert reason == getattr(refusal.value, "reason", None)

    assert before == await again(store, start)
    assert other == await again(store, other)


async def test_a_dispatch_of_another_start_is_not_resolved(store: Store) -> None:
    """Its id has to be one of the start's own."""
    start, other = await uncertain(store), await uncertain(store)

    with pytest.raises(NotFound):
        await store.resolve(
            TENANT, start.asked.id, Resolution(verdict=Verdict.GIVE_UP, dispatch_id=f"{other.asked.id}-1")
        )

    assert other == await again(store, other)


async def test_resolving_twice_is_refused(store: Store) -> None:
    """The first word counts."""
    start = await uncertain(store)
    await resolve(store, start, Verdict.WAS_SENT, external_id="x1")

    with pytest.raises(NotPossible):
        await resolve(store, start, Verdict.GIVE_UP)


# --- what stands still


async def test_what_has_not_moved_is_stalled_until_it_moves(store: Store, clock: Clock) -> None:
    """Told once for the start, taken back by any move of all that stood still."""
    start = await running(store, 2)
    clock.tick(100)
    early = await store.mark_stalled(BACKEND, NOON)
    both = await store.mark_stalled(BACKEND, later(1))
    told = await again(store, start)
    once_more = await store.mark_stalled(BACKEND, later(1))
    head = await store.head()
    await store.sight(BACKEND, [seen("x1", State.STARTED)], account=ACCOUNT)
    one_left = (await again(store, start)).standing.stalled
    await store.sight(BACKEND, [seen("x2", contact_count=1)], account=ACCOUNT)
    now = await again(store, start)

    assert (0, 2, 0) == (early, both, once_more)
    assert (True, True, False) == (told.standing.stalled, one_left, now.standing.stalled)
    assert told.revision == head


async def test_only_what_runs_on_the_backend_stands_still(store: Store, clock: Clock) -> None:
    """What waits, is uncertain or has ended does not."""
    start = await create(store, singly(4))
    await run_to(store, start, accepted("x1", State.COMPLETED), refused(), unsure())
    other = await create(store, backend="twilio")
    await run_to(store, other, accepted("y1"))
    clock.tick(100)

    assert 0 == await store.mark_stalled(BACKEND, clock())
    assert not (await again(store, start)).standing.stalled
    assert not (await again(store, other)).standing.stalled


async def test_what_moves_after_standing_still_may_stand_still_again(store: Store, clock: Clock) -> None:
    """The time is counted from its last move."""
    start = await running(store)
    clock.tick(100)
    await store.mark_stalled(BACKEND, clock())
    await store.sight(BACKEND, [seen("x1", State.STARTED)], account=ACCOUNT)
    clock.tick(100)

    assert 0 == await store.mark_stalled(BACKEND, later(100))
    assert 1 == await store.mark_stalled(BACKEND, later(101))
    assert (await again(store, start)).standing.stalled


async def stalled(store: Store, clock: Clock) -> FlowStart:
    """Records a start of two dispatches, of which the first stands still."""
    start = await create(store, singly(2))
    await run_to(store, start, accepted("x1", State.STARTED), accepted("x2", State.COMPLETED))
    await store.sight(BACKEND, [seen("x1", contact_count=7, contact_started_count=3)], account=ACCOUNT)
    clock.tick(100)
    await store.mark_stalled(BACKEND, clock())
    return await again(store, start)


async def test_what_is_stalled_is_sent_again_on_an_operators_word(store: Store, clock: Clock) -> None:
    """What was known of it is forgotten: its external id, and what its backend had counted."""
    start = await stalled(store, clock)

    resolved = await resolve(store, start, Verdict.WAS_NOT_SENT)
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, accepted("x9"))
    clock.tick(2)
    await store.sight(BACKEND, [], account=ACCOUNT)
    now = await again(store, start)

    assert start.standing.stalled
    assert (State.STARTED, False, 0, 0) == (
        resolved.standing.state,
        resolved.standing.stalled,
        resolved.standing.progress.contact_count,
        resolved.standing.progress.contact_started_count,
    )
    assert f"{start.asked.id}-1" == dispatch_id
    assert Progress(queued=1, completed=1, contact_count=0, contact_started_count=0) == now.standing.progress
    assert not await store.carries(start.asked.id, "x1", asker=None)


@pytest.mark.parametrize("verdict", [Verdict.WAS_NOT_SENT, Verdict.GIVE_UP])
async def test_a_start_does_not_show_an_external_id_that_it_has_no_more(
    store: Store, clock: Clock, verdict: Verdict
) -> None:
    """What its only dispatch has is what it shows."""
    start = await running(store)
    clock.tick(100)
    await store.mark_stalled(BACKEND, clock())

    resolved = await resolve(store, start, verdict)

    assert ("x1", "") == (start.standing.external_id, resolved.standing.external_id)
    assert not await store.carries(start.asked.id, "x1", asker=None)


async def test_what_is_stalled_may_be_given_up_or_be_another_one(store: Store, clock: Clock) -> None:
    """Under another id it stays where it stood, and moves by what is shown of that."""
    first = await stalled(store, clock)
    given_up = await resolve(store, first, Verdict.GIVE_UP, 1)
    second = await running(store)
    clock.tick(100)
    await store.mark_stalled(BACKEND, clock())
    renamed = await resolve(store, second, Verdict.WAS_SENT, external_id="x7")
    moved = await store.sight(BACKEND, [seen("x7", State.COMPLETED)], account=ACCOUNT)

    assert (State.COMPLETED, False, Progress(completed=1, failed=1, contact_count=0, contact_started_count=0)) == (
        given_up.standing.state,
        given_up.standing.stalled,
        given_up.standing.progress,
    )
    assert (State.QUEUED, "x7", False) == (
        renamed.standing.state,
        renamed.standing.external_id,
        renamed.standing.stalled,
    )
    assert 1 == moved


# --- giving up


@pytest.mark.parametrize("schedule", [0, 500])
async def test_what_is_never_accepted_is_given_up_some_time_after_it_was_due(
    store: Store, clock: Clock, schedule: int
) -> None:
    """Blocks that were never written out too; the lane is told to come back for it."""
    terms = replace(TERMS, give_up_after=timedelta(seconds=100))
    start = await create(store, singly(150), terms=terms, schedule_at=later(schedule) if schedule else None)
    clock.now = later(schedule)
    for dispatch_id in await claim_ids(store, 1_000):
        await settle(store, dispatch_id, put_off(later(100_000)))
    told = (await store.claim(BACKEND, 10)).next_due_at
    clock.tick(99)
    await claim_ids(store)
    before = await again(store, start)
    clock.tick(1)
    claims = await store.claim(BACKEND, 10)
    now = await again(store, start)

    assert later(schedule + 100) == told
    assert State.PENDING is before.standing.state
    assert ((), None) == (claims.dispatches, claims.next_due_at)
    assert (State.FAILED, Reason.EXPIRED, Progress(failed=150)) == (
        now.standing.state,
        why(now),
        now.standing.progress,
    )
    assert now.standing.failure is not None
    assert "give_up_after" in now.standing.failure.message


async def test_what_only_waits_for_others_is_not_given_up_while_these_are_accepted(store: Store, clock: Clock) -> None:
    """Neither what is written out nor what is not; what was tried and not accepted has its own time."""
    terms = replace(TERMS, give_up_after=timedelta(seconds=100))
    count = size(150, quick=110)
    start = await create(store, singly(count), terms=terms)
    (refused,) = await claim_ids(store, 1)
    await settle(store, refused, unsure())
    for n in range(count - 1):
        clock.tick(60)
        (dispatch_id,) = await claim_ids(store, 1)
        await settle(store, dispatch_id, accepted(f"e{n}", accepted_at=clock()))
    last = await create(store, terms=terms, created_at=clock())
    clock.tick(99)
    await store.claim(BACKEND, 0)
    before = await again(store, last)
    clock.tick(1)
    await store.claim(BACKEND, 0)

    assert Progress(queued=count - 1, uncertain=1) == (await again(store, start)).standing.progress
    assert State.PENDING is before.standing.state
    assert (State.FAILED, Reason.EXPIRED) == ((now := await again(store, last)).standing.state, why(now))


async def test_an_expiry_of_its_own_comes_before_giving_up(store: Store, clock: Clock) -> None:
    """However much later it is."""
    terms = replace(TERMS, give_up_after=timedelta(seconds=100))
    start = await create(store, terms=terms, expire_at=later(200))
    (dispatch_id,) = await claim_ids(store)
    await settle(store, dispatch_id, put_off(later(150)))
    clock.tick(150)
    claimed = await claim_ids(store)
    await store.release(dispatch_id, clock())
    clock.tick(50)
    await claim_ids(store)
    now = await again(store, start)

    assert [dispatch_id] == claimed
    assert (State.FAILED, Reason.EXPIRED) == (now.standing.state, why(now))
    assert now.standing.failure is not None
    assert "expire_time" in now.standing.failure.message


# --- replacing


async def busy(store: Store, tenant: str = TENANT, rounds: int = 0) -> str:
    """Records a dispatch that found its recipient busy for some rounds, and is being sent again."""
    await create(store, tenant=tenant)
    for _ in range(rounds):
        (dispatch_id,) = await claim_ids(store)
        await settle(store, dispatch_id, BUSY)
    (dispatch_id,) = await claim_ids(store)
    await begin(store, dispatch_id)
    return dispatch_id


async def test_what_runs_of_the_same_tenant_may_be_replaced(store: Store) -> None:
    """However it ends after that, it is because it was replaced."""
    start = await running(store)
    dispatch_id = await busy(store)

    found = await store.replaceable(dispatch_id, "x1")
    endings = await store.endings(BACKEND, ACCOUNT, 10)
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    now = await again(store, start)
    ended = await store.replaceable(dispatch_id, "x1")

    assert isinstance(found, Dispatch)
    assert (f"{start.asked.id}-1", "x1", State.QUEUED) == (found.id, found.external_id, found.state)
    assert () == endings
    assert (State.INTERRUPTED, Reason.REPLACED) == (now.standing.state, why(now))
    assert isinstance(ended, Dispatch)
    assert State.INTERRUPTED is ended.state


async def test_what_is_another_tenants_nobodys_or_its_own_is_not_replaced(store: Store) -> None:
    """Nor does it end as replaced."""
    start = await running(store)
    others = await busy(store, tenant="b")
    elsewhere = await create(store, backend="twilio")
    await run_to(store, elsewhere, accepted("t1"))

    assert await store.replaceable(others, "x1") is None
    assert await store.replaceable(others, "nobody's") is None
    assert await store.replaceable(f"{start.asked.id}-1", "x1") is None
    assert await store.replaceable(f"{start.asked.id}-1", "t1") is None
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    assert State.COMPLETED is (await again(store, start)).standing.state


@pytest.mark.parametrize("ticks", [0, 5, -600], ids=["at once", "later", "the clock is put back"])
async def test_lose2_a1_what_was_recorded_later_is_not_replaced(store: Store, clock: Clock, ticks: float) -> None:
    """It has taken the earlier one's place, and ends as it would have."""
    dispatch_id = await busy(store)
    clock.tick(ticks)
    start = await running(store, created_at=clock())

    found = await store.replaceable(dispatch_id, "x1")
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    ended = await store.replaceable(dispatch_id, "x1")

    assert Kept.LATER is found
    assert State.COMPLETED is (await again(store, start)).standing.state
    assert isinstance(ended, Dispatch)


async def test_lose2_a1_a_scheduled_start_counts_from_when_it_is_due(store: Store, clock: Clock) -> None:
    """It replaces what was recorded after it and before that moment, not what came after that."""
    scheduled = await create(store, schedule_at=later(60))
    await running(store)
    clock.tick(60)
    (dispatch_id,) = await claim_ids(store)
    await begin(store, dispatch_id)
    after = await create(store, created_at=clock())
    await run_to(store, after, accepted("after"))

    assert f"{scheduled.asked.id}-1" == dispatch_id
    assert isinstance(await store.replaceable(dispatch_id, "x1"), Dispatch)
    assert Kept.LATER is await store.replaceable(dispatch_id, "after")


@pytest.mark.parametrize("asked_already", [False, True])
async def test_what_is_being_cancelled_is_ended_for_another_and_ends_as_cancelled(
    store: Store,
    asked_already: bool,  # noqa: FBT001
) -> None:
    """Also where that one is of an earlier start: it makes room in any case."""
    dispatch_id = await busy(store)
    start = await running(store)
    await cancel(store, start)
    if asked_already:
        await store.ending(f"{start.asked.id}-1")

    found = await store.replaceable(dispatch_id, "x1")
    await store.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    now = await again(store, start)

    assert isinstance(found, Dispatch)
    assert (State.INTERRUPTED, Reason.CANCELLED) == (now.standing.state, why(now))


async def test_lose2_a1_what_is_sent_again_at_once_keeps_its_place(store: Store, clock: Clock) -> None:
    """A later start of the same recipient does not go between two rounds."""
    first = await create(store, terms=ALONE)
    (dispatch_id,) = await claim_ids(store)
    clock.tick(1)
    await create(store, terms=ALONE, created_at=clock())
    clock.tick(1)
    await settle(store, dispatch_id, replace(BUSY, due_at=None))

    assert [f"{first.asked.id}-1"] == await claim_ids(store)


RIVAL = replace(BUSY, cause=Cause.RIVAL)


@pytest.mark.parametrize("is_sent", [False, True], ids=["in doubt", "being sent"])
@pytest.mark.parametrize(
    ("different", "may_be"),
    [({}, True), ({"tenant": "b"}, False), ({"sender": "+1999"}, False), ({"backend": "twilio"}, False)],
    ids=["the tenant's", "another tenant's", "from another sender", "another backend's"],
)
async def test_lose2_a4_what_runs_may_be_one_whose_answer_is_not_known(
    store: Store,
    is_sent: bool,  # noqa: FBT001
    different: dict[str, Any],
    may_be: bool,  # noqa: FBT001
) -> None:
    """Of the same tenant, sender and recipient, in whatever flow; many flows may be in doubt."""
    for number in range(3):
        await run_to(store, await create(store, singly(1, 5), terms=ALONE, flow=f"flow {number}"), unsure())
    rival = await create(store, terms=ALONE, **{"flow": "flow 1", **different})
    backend = different.get("backend", BACKEND)
    if is_sent:
        (rival_id,) = await claim_ids(store, backend=backend)
        await begin(store, rival_id)
    else:
        await run_to(store, rival, unsure())
    await create(store, terms=ALONE, flow="flow 2")
    (dispatch_id,) = await claim_ids(store)
    await begin(store, dispatch_id)

    assert (Kept.UNKNOWN if may_be else None) is await store.replaceable(dispatch_id, "x1")


async def test_lose2_a4_what_is_known_or_rests_is_not_waited_for(store: Store) -> None:
    """Nor is what the store knows under another tenant's, which keeps the recipient busy."""
    rival = await create(store, terms=ALONE, flow="flow 1")
    await run_to(store, rival, unsure())
    await run_to(store, await create(store, terms=ALONE, tenant="b"), accepted("theirs"))
    await create(store, terms=ALONE, flow="flow 2")
    (dispatch_id,) = await claim_ids(store)
    await begin(store, dispatch_id)
    known = await store.replaceable(dispatch_id, "theirs")
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.rest(sought)

    assert (None, None) == (known, await store.replaceable(dispatch_id, "x1"))


async def test_lose2_a4_waiting_for_it_is_bounded_and_uses_up_no_round(store: Store) -> None:
    """When it is found it can be ended; the rounds in which it was not are counted apart."""
    rival = await create(store, terms=ALONE, flow="flow 1")
    await run_to(store, rival, unsure())
    await create(store, terms=ALONE, flow="flow 2")
    seen_as: list[Any] = []
    for _ in range(RIVAL_ROUNDS + 1):
        (dispatch_id,) = await claim_ids(store)
        await begin(store, dispatch_id)
        seen_as.append(await store.replaceable(dispatch_id, "x1"))
        await store.record(dispatch_id, len(seen_as), RIVAL)
    shown = seen("x1", State.STARTED, correlation_key=f"{rival.asked.id}-1", flow="flow 1")
    await store.sight(BACKEND, [shown], account=ACCOUNT)

    assert [*[Kept.UNKNOWN] * RIVAL_ROUNDS, None] == seen_as
    assert isinstance(await store.replaceable(dispatch_id, "x1"), Dispatch)


@pytest.mark.parametrize(("rounds", "may"), [(0, True), (2, True), (3, False), (4, False)])
async def test_replacing_has_three_rounds(store: Store, rounds: int, may: bool) -> None:  # noqa: FBT001
    """Then somebody else keeps starting what runs."""
    await running(store)
    dispatch_id = await busy(store, rounds=rounds)

    assert may is (await store.replaceable(dispatch_id, "x1") is not None)


# --- backlogs


async def test_a_full_backlog_refuses_and_records_nothing(store: Store) -> None:
    """It says how much waits, what the limit is, and when to come again."""
    await create(store, singly(3), terms=FEW)
    head = await store.head()

    with pytest.raises(Exhausted) as refusal:
        await create(store, singly(3), terms=FEW, request_id="r")

    assert (Reason.BACKLOG_FULL, {"quota_subject": "backend:rapidpro", "unsent": "3", "limit": "5"}) == (
        refusal.value.reason,
        refusal.value.metadata,
    )
    assert refusal.value.retry_after is not None
    assert (head, None) == (await store.head(), await store.find_request(TENANT, "r"))
    assert head + 1 == (await create(store, singly(2), terms=FEW)).revision
    with pytest.raises(Exhausted):
        await create(store, terms=FEW)


async def test_a_start_that_is_larger_than_the_limit_is_taken_when_nothing_waits(store: Store) -> None:
    """Otherwise nobody could ever send it."""
    await create(store, singly(250), terms=FEW)

    with pytest.raises(Exhausted):
        await create(store, terms=FEW)


async def test_a_backlog_is_of_one_tenant_and_backend_and_what_is_scheduled_has_its_own(store: Store) -> None:
    """Nobody's backlog is full because of another one."""
    different: list[dict[str, Any]] = [
        {},
        {"tenant": "b"},
        {"backend": "twilio"},
        {"schedule_at": later(60)},
        {"schedule_at": later(60), "tenant": "b"},
    ]
    for fields in different:
        await create(store, singly(5), terms=FEW, **fields)
    for fields in different:
        with pytest.raises(Exhausted):
            await create(store, terms=FEW, **fields)
    assert {BACKEND, "twilio"} == await store.backends()


async def test_of_many_at_once_only_as_many_as_fit_are_recorded(store: Store) -> None:
    """Those that are refused take no place, no revision, and leave their neighbours alone."""
    results = await asyncio.gather(*(create(store, singly(2), terms=FEW) for _ in range(20)), return_exceptions=True)
    recorded = [result for result in results if not isinstance(result, BaseException)]

    assert [1, 2] == [start.revision for start in recorded]
    assert {Exhausted} == {type(result) for result in results if isinstance(result, BaseException)}
    assert 1 == (await create(store, terms=FEW)).revision - await store.head() + 1


@pytest.mark.parametrize("scheduled", [False, True])
async def test_a_backlog_empties_as_it_is_sent_cancelled_or_expires(
    store: Store,
    clock: Clock,
    scheduled: bool,  # noqa: FBT001
) -> None:
    """What comes back because it was not sent after all counts again."""
    terms = replace(TERMS, backlog=4)
    fields: dict[str, Any] = {"schedule_at": later(10)} if scheduled else {}
    start = await create(store, singly(4), terms=terms, expire_at=later(60), **fields)
    clock.tick(10)

    async def takes() -> int:
        taken = 0
        try:
            while taken < 10:
                await create(store, terms=terms, **({"schedule_at": later(1_000)} if scheduled else {}))
                taken += 1
        except Exhausted:
            return taken
        return taken

    ids = await claim_ids(store)
    full = await takes()
    await settle(store, ids[0], accepted("x1"))
    await settle(store, ids[1], unsure())
    after_two = await takes()
    (sought,) = await store.sought(BACKEND, ACCOUNT)
    await store.absent(sought, on_absent=State.PENDING, pause=timedelta())
    after_one_came_back = await takes()
    await cancel(store, start)
    await store.release(ids[2], clock())
    after_cancelling = await takes()

    assert [0, 2, 0] == [full, after_two, after_one_came_back]
    assert 1 == after_cancelling, "the last one is still claimed"


async def test_a_backlog_empties_when_what_waits_expires(store: Store, clock: Clock) -> None:
    """Blocks that were never written out too."""
    await create(store, singly(250), terms=FEW, expire_at=later(60))
    clock.tick(60)
    await claim_ids(store)

    assert frozenset() == await store.backends()
    await create(store, singly(5), terms=FEW)


async def test_a_twin_is_found_however_full_the_backlog_is(store: Store) -> None:
    """A retry never fails where the first call succeeded."""
    first = await create(store, singly(5), terms=FEW, request_id="r")
    with pytest.raises(Exhausted):
        await create(store, terms=FEW)

    twins = await asyncio.gather(*(create_or_find(store, terms=FEW, request_id="r") for _ in range(5)))

    assert [(True, first)] * 5 == [(twin.replayed, twin.flow_start) for twin in twins]
    assert first.revision == await store.head()


@pytest.mark.parametrize("ending", ["cancelled", "replaced"])
async def test_what_the_backend_was_never_asked_to_end_ends_by_itself(store: Store, ending: str) -> None:
    """A request to end it that never got there is taken back: then it is not called ours."""
    start = await create(store, backend=BACKEND)
    await run_to(store, start, accepted("x", State.STARTED))
    (dispatch_id,) = (f"{start.asked.id}-1",)
    if ending == "cancelled":
        await store.cancel(TENANT, start.asked.id, can_end=True)
        assert await store.ending(dispatch_id)
    else:
        other = await create(store, backend=BACKEND)
        assert await store.replaceable(f"{other.asked.id}-1", "x") is not None
    await store.spare(dispatch_id)
    await store.sight(BACKEND, [seen("x", State.COMPLETED)], account=ACCOUNT)

    assert State.COMPLETED is (await again(store, start)).standing.state
