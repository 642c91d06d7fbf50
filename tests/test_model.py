"""The rules of the model against the prose of the design, over every small case."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from gateway.model import NEXT, TERMINAL, Filter, FlowStart, Notice, Recipients, Standing, State, merged, state_of
from tests.builders import asked

if TYPE_CHECKING:
    from collections.abc import Mapping

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUNNING = (State.QUEUED, State.STARTED)


def by_the_prose(n: Mapping[State, int]) -> State:
    """Says the rule of the design in its own order and words."""
    present = {state for state, count in n.items() if count}
    accepted = present & set(RUNNING)
    ended = present & {State.COMPLETED, State.FAILED, State.INTERRUPTED, State.SKIPPED}
    not_ended = present & {State.PENDING, State.QUEUED, State.STARTED}
    begun = present & {State.STARTED, State.COMPLETED}
    if not accepted and not ended:
        return State.UNCERTAIN if State.UNCERTAIN in present else State.PENDING
    if not_ended:
        return State.STARTED if begun else State.QUEUED
    for state in (State.UNCERTAIN, State.COMPLETED, State.FAILED, State.INTERRUPTED):
        if state in present:
            return state
    return State.COMPLETED


def test_state_of_is_the_rule_of_the_design_for_every_small_start() -> None:
    """Zero, one or two dispatches in each of the eight states: 6,561 starts."""
    for counts in product(range(3), repeat=len(State)):
        n = dict(zip(State, counts, strict=True))

        assert by_the_prose(n) == state_of(n), n


@pytest.mark.parametrize(
    ("dispatches", "expected"),
    [
        ((), State.PENDING),
        ((State.PENDING,), State.PENDING),
        ((State.UNCERTAIN, State.PENDING), State.UNCERTAIN),
        ((State.UNCERTAIN, State.FAILED), State.UNCERTAIN),
        ((State.UNCERTAIN, State.COMPLETED), State.UNCERTAIN),
        ((State.UNCERTAIN, State.QUEUED), State.QUEUED),
        ((State.PENDING, State.QUEUED), State.QUEUED),
        ((State.PENDING, State.FAILED), State.QUEUED),
        ((State.PENDING, State.COMPLETED), State.STARTED),
        ((State.QUEUED, State.STARTED), State.STARTED),
        ((State.COMPLETED, State.FAILED, State.INTERRUPTED, State.SKIPPED), State.COMPLETED),
        ((State.FAILED, State.INTERRUPTED, State.SKIPPED), State.FAILED),
        ((State.INTERRUPTED, State.SKIPPED), State.INTERRUPTED),
        ((State.SKIPPED, State.SKIPPED), State.COMPLETED),
    ],
)
def test_state_of_telling_examples(dispatches: tuple[State, ...], expected: State) -> None:
    """The cases a reader would ask about, in words that a wrong rule above could not hide."""
    assert expected == state_of({state: dispatches.count(state) for state in dispatches})


def test_a_start_is_terminal_only_when_each_of_its_dispatches_is() -> None:
    """So an ended start never moves again."""
    for present in product((0, 1), repeat=len(State)):
        n = dict(zip(State, present, strict=True))
        if state_of(n) in TERMINAL:
            assert {state for state, count in n.items() if count} <= TERMINAL


def test_next_leads_nowhere_from_an_end_and_never_back() -> None:
    """A dispatch that the backend has accepted is never sent again, but on an operator's word."""
    order = {State.PENDING: 0, State.UNCERTAIN: 0, State.QUEUED: 1, State.STARTED: 2} | dict.fromkeys(TERMINAL, 3)

    assert set(State) == set(NEXT)
    for before, following in NEXT.items():
        assert before not in following
        for after in following:
            assert order[before] < order[after] or after is State.PENDING or before is State.PENDING
    assert all(not NEXT[state] for state in TERMINAL)


def start(**different: Any) -> FlowStart:
    """Builds a start that is STARTED, for filters to match."""
    labels = different.pop("labels", {"team": "red", "wave": "1"})
    standing = Standing(state=State.STARTED, updated_at=NOON)
    return FlowStart(asked=asked(labels=labels, request_id="r1", **different), standing=standing, revision=1)


@pytest.mark.parametrize(
    ("selected", "state_before", "expected"),
    [
        (Filter(), None, True),
        (Filter(backends=frozenset({"rapidpro", "other"})), None, True),
        (Filter(backends=frozenset({"other"})), None, False),
        (Filter(flow="f5901b62-ba76-4003-9c62-72fdacc1b7b7"), None, True),
        (Filter(flow="another"), None, False),
        (Filter(states=frozenset({State.STARTED, State.FAILED})), None, True),
        (Filter(states=frozenset({State.QUEUED})), None, False),
        (Filter(states=frozenset({State.QUEUED})), State.QUEUED, True),
        (Filter(states=frozenset({State.STARTED})), State.QUEUED, True),
        (Filter(states=frozenset({State.PENDING})), State.QUEUED, False),
        (Filter(labels={"team": "red"}), None, True),
        (Filter(labels={"team": "red", "wave": "1"}), None, True),
        (Filter(labels={"team": "red", "wave": "2"}), None, False),
        (Filter(labels={"absent": ""}), None, False),
        (Filter(request_id="r1"), None, True),
        (Filter(request_id="r2"), None, False),
        (Filter(created_from=NOON), None, True),
        (Filter(created_from=NOON + timedelta(microseconds=1)), None, False),
        (Filter(created_to=NOON), None, False),
        (Filter(created_to=NOON + timedelta(microseconds=1)), None, True),
        (Filter(backends=frozenset({"rapidpro"}), flow="another"), None, False),
    ],
)
def test_filter_selects(selected: Filter, state_before: State | None, expected: bool) -> None:  # noqa: FBT001
    """Every field narrows by itself, fields narrow together, and the start of a span of time is in it."""
    assert expected is selected.selects(start(), state_before)


def test_only_an_end_and_uncertain_at_rest_are_done() -> None:
    """What is uncertain and still to be tried is not."""
    done = {state for state in State if Standing(state=state, updated_at=NOON).is_done}
    waiting = Standing(state=State.UNCERTAIN, updated_at=NOON, next_attempt_at=NOON)

    assert TERMINAL | {State.UNCERTAIN} == done
    assert not waiting.is_done


def test_merged_leaves_the_first_notice_of_each_reason_where_it_stood() -> None:
    """A warning that is told again neither changes its words nor its place."""
    a, b, later = (Notice(reason=reason, message=said) for reason, said in (("A", "1"), ("B", "1"), ("A", "2")))

    assert (a, b) == merged([a, b, later])
    assert (b, a) == merged([b, a, later, b])
    assert () == merged([])


def test_personal_data_is_in_no_repr() -> None:
    """Params and recipients may end in a log by accident: their values may not."""
    shown = repr(asked(params={"secret": "s3cret"})) + repr(Recipients(urns=("tel:+12065551212",)))

    assert "s3cret" not in shown
    assert "12065551212" not in shown
