"""How a tally counts, and where a start stands by it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Reason
from gateway.model import NEXT, Notice, Progress, Standing, State
from gateway.store.tally import Tally, fresh, only_progress_moved, stand
from tests.builders import NOON, REFUSED

if TYPE_CHECKING:
    from collections.abc import Sequence

WARNING = Notice(reason="PARAMS_ALTERED", message="another value", metadata={"paths": "a.b"})
BEFORE = Standing(updated_at=NOON)


def standing(tally: Tally, before: Standing = BEFORE, seconds: float = 0) -> Standing:
    """Tells where a start stands that many seconds after noon."""
    return stand(tally, before, external_id="", next_attempt_at=None, now=NOON + timedelta(seconds=seconds))


def moved(tally: Tally, *states: State, recipients: int = 10) -> Tally:
    """Moves one pending dispatch to each of the states."""
    for state in states:
        tally = tally.moved(State.PENDING, state, recipients, REFUSED if state is State.FAILED else None)
    return tally


def reasons(notices: Sequence[Notice]) -> list[str]:
    """Names the reasons of notices."""
    return [str(notice.reason) for notice in notices]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(State)), max_size=30))
def test_counts_are_those_of_the_dispatches(moves: list[tuple[int, State]]) -> None:
    """After any legal moves of five dispatches, the tally is what counting them anew would give."""
    states, sizes = [State.PENDING] * 5, [1, 2, 3, 40, 100]
    tally = fresh(5, sum(sizes), ())
    for number, after in moves:
        if after in NEXT[states[number]]:
            tally = tally.moved(states[number], after, sizes[number], None)
            states[number] = after

    for state in State:
        assert states.count(state) == tally.dispatches.get(state, 0)
        assert sum(n for n, at in zip(sizes, states, strict=True) if at is state) == tally.recipients.get(state, 0)


def test_a_tally_survives_being_stored() -> None:
    """Counts, failures, warnings and contact counts come back; what is not counted stays uncounted."""
    tally = moved(fresh(3, 30, (WARNING,)), State.FAILED, State.QUEUED).counted(7, None)
    plain = fresh(1, 1, ())

    assert replace(tally, dispatches={s: n for s, n in tally.dispatches.items() if n}) == Tally.decode(tally.encode())
    assert plain == Tally.decode(plain.encode())
    assert Tally.decode(plain.encode()).contact_count is None


def test_contact_counts_are_added_as_differences() -> None:
    """None says nothing; zero says that the backend counts."""
    tally = fresh(1, 1, ())

    assert tally is tally.counted(None, None)
    assert (0, None) == (tally.counted(0, None).contact_count, tally.counted(0, None).contact_started_count)
    assert 5 == tally.counted(2, 0).counted(3, None).contact_count


def test_the_first_failure_of_the_state_is_the_one_told() -> None:
    """Others of the same state come after it; that of another state is not the start's."""
    second = Notice(reason="ADDRESS_INVALID", message="later")
    tally = moved(fresh(3, 30, ()), State.FAILED).moved(State.PENDING, State.FAILED, 10, second)
    tally = tally.moved(State.PENDING, State.INTERRUPTED, 10, second)

    assert REFUSED == standing(tally).failure
    assert standing(moved(fresh(2, 20, ()), State.FAILED, State.COMPLETED)).failure is None


def test_completed_says_what_it_hides() -> None:
    """Nobody started, or not all: each as a warning, only at the end."""
    not_over = moved(fresh(3, 30, ()), State.COMPLETED, State.FAILED)
    nobody = moved(fresh(2, 20, ()), State.SKIPPED, State.SKIPPED)
    partly = moved(fresh(3, 30, (WARNING,)), State.COMPLETED, State.FAILED, State.INTERRUPTED)
    all_well = moved(fresh(2, 20, ()), State.COMPLETED, State.SKIPPED)

    assert [] == reasons(standing(not_over).warnings)
    assert (State.COMPLETED, [Reason.NO_ONE_STARTED]) == (standing(nobody).state, reasons(standing(nobody).warnings))
    assert [WARNING.reason, Reason.PARTLY_FAILED] == reasons(standing(partly).warnings)
    assert {"recipients": "20", "first_reason": REFUSED.reason} == standing(partly).warnings[-1].metadata
    assert () == standing(all_well).warnings


def test_an_end_has_a_time_that_stays() -> None:
    """And nothing to wait for."""
    tally = moved(fresh(1, 10, ()), State.FAILED)
    once = standing(tally, replace(BEFORE, next_attempt_at=NOON), 5)
    twice = standing(tally, once, 9)

    assert (NOON + timedelta(seconds=5), None) == (once.ended_at, once.next_attempt_at)
    assert once.ended_at == twice.ended_at
    assert standing(fresh(1, 1, ())).ended_at is None


def test_what_the_tally_does_not_tell_stays() -> None:
    """A cancel that was asked for is not forgotten by the next answer. Whether it stands still, the tally does tell."""
    before = replace(BEFORE, cancel_requested_at=NOON)
    tally = moved(fresh(2, 20, ()), State.QUEUED)
    after, stuck = standing(tally, before, 5), standing(tally.stuck(1), before, 5)

    assert [NOON, NOON] == [after.cancel_requested_at, stuck.cancel_requested_at]
    assert [False, True] == [after.stalled, stuck.stalled]
    assert not standing(tally.stuck(1).stuck(-1), stuck, 5).stalled


def test_only_progress_moved_is_about_counts_and_nothing_else() -> None:
    """A warning, a state or a time to wait for is told at once."""
    before = standing(moved(fresh(3, 30, ()), State.STARTED))
    counted = replace(before, progress=Progress(started=20), updated_at=NOON + timedelta(seconds=1))

    assert only_progress_moved(before, counted)
    assert only_progress_moved(before, before)
    assert not only_progress_moved(before, replace(counted, warnings=(WARNING,)))
    assert not only_progress_moved(before, replace(counted, state=State.COMPLETED))
    assert not only_progress_moved(before, replace(counted, next_attempt_at=NOON))
