"""Why a start waits, and until when: from its first minute on, and only while it does."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gateway.adapters.base import Blocked, NotSent, Throttled
from gateway.lanes.pacing import Limiter
from gateway.model import FlowStart, Identity, Notice, Progress, Standing, State
from gateway.service.waiting import wait_of
from tests.builders import ACCOUNT, BACKEND, NOON, asked
from tests.fakes import ScriptedTransport, Ticks, backend

LATER = NOON + timedelta(seconds=50)
CREDENTIALS = Notice(reason="BACKEND_CREDENTIALS_REJECTED", message="rejected: correct them")
CHANGED = Notice(reason="BACKEND_CHANGED", message="another account")


class Lane:
    """A backend whose circuit, rate and account are as a test says."""

    def __init__(self, rate: int = 10, *, is_shared: bool = False) -> None:
        self.ticks = Ticks()
        limiter = Limiter(rate, 100.0, clock=self.ticks, is_shared=lambda: is_shared)
        self.transport = ScriptedTransport(self._nothing, ticks=self.ticks, limiter=limiter)
        self.backend = backend(self.transport)

    async def _nothing(self, _request: Any) -> Any:
        return None

    def shows(self, start: FlowStart, after: float = 50.0) -> tuple[str, float | None]:
        """Returns why a start waits, so long after it was recorded, and for how many seconds; empty if it does not."""
        now = NOON + timedelta(seconds=after)
        wait = wait_of(start, {BACKEND: self.backend}, now)
        at = start.standing.next_attempt_at if wait is None else wait.next_attempt_at
        return "" if wait is None else wait.warning.message, None if at is None else (at - now).total_seconds()


def pending(**different: Any) -> FlowStart:
    """Builds a start of which nothing was sent."""
    return FlowStart(asked=asked(), standing=Standing(updated_at=NOON, **different), revision=1)


@pytest.fixture
def lane() -> Lane:
    """A lane on which nothing was asked yet, but whose account is known."""
    return Lane()


@pytest.mark.parametrize(
    ("trouble", "words", "seconds"),
    [
        (Blocked(notice=CREDENTIALS), "rejected: correct them", 30.0),
        (Throttled(seconds=2099.0), "asked to wait", 2099.0),
        (NotSent(reason="host name not found"), "host name not found", 1.0),
    ],
    ids=["blocked", "throttled", "unreachable"],
)
def test_c6_a_start_says_what_its_backend_says(lane: Lane, trouble: Any, words: str, seconds: float) -> None:
    """Though it was not tried itself; and no more when the backend answers again."""
    start = pending()
    lane.transport.note(trouble)
    said, until = lane.shows(start, after=0.0)
    lane.ticks.tick(3000)
    lane.transport.circuit.answered()

    assert words in said
    assert seconds == until
    assert ("", None) == lane.shows(start, after=0.0)


def test_c6_a_backend_that_was_not_asked_yet_whose_account_it_is(lane: Lane) -> None:
    """Nothing is sent before that, also while what answers makes no sense."""
    lane.transport.identity = None
    said, _ = lane.shows(pending(), after=0.0)
    lane.transport.circuit.unreachable("HTTP 503")
    trouble, until = lane.shows(pending(), after=0.0)

    assert "whose account" in said
    assert "HTTP 503" in trouble
    assert 1.0 == until


def test_c6_a_rate_that_is_spent(lane: Lane) -> None:
    """Until the next request may go."""
    while lane.transport.admits():
        pass
    lane.ticks.tick(40)
    said, until = lane.shows(pending(), after=0.0)

    assert "rate is spent" in said
    assert 60.0 == until


def test_f2_a_rate_of_which_its_tenant_has_had_most() -> None:
    """Until the tenant may send again; the starts of others do not wait."""
    lane = Lane(is_shared=True)
    start = pending()
    while lane.transport.admits(start.asked.tenant):
        pass
    lane.ticks.tick(40)
    said, until = lane.shows(start, after=0.0)
    other = replace(start, asked=replace(start.asked, tenant="other"))

    assert "kept for other tenants" in said
    assert 60.0 == until
    assert ("", None) == lane.shows(other, after=0.0)


def test_c6_others_before_it(lane: Lane) -> None:
    """Only when it has waited longer than sending takes."""
    assert ("", None) == lane.shows(pending(), after=1.0)
    said, until = lane.shows(pending(), after=3.0)

    assert "Others are sent first" in said
    assert until is None


def test_c6_what_waits_for_a_moment_of_its_own_says_that_moment(lane: Lane) -> None:
    """A schedule, a quiet window, its next attempt; but if the backend takes nothing until later, that."""
    start = pending(next_attempt_at=NOON + timedelta(seconds=90))

    assert ("", 40.0) == lane.shows(start)
    lane.transport.note(Throttled(seconds=2099.0))
    said, until = lane.shows(start)
    assert "asked to wait" in said
    assert 2099.0 == until


@pytest.mark.parametrize(
    "start",
    [
        pending(state=State.COMPLETED, progress=Progress(completed=1)),
        pending(state=State.QUEUED, progress=Progress(queued=1)),
        pending(state=State.UNCERTAIN, progress=Progress(uncertain=1)),
        pending(cancel_requested_at=NOON),
        pending(warnings=(CHANGED,)),
        replace(pending(), asked=asked(backend="removed")),
    ],
    ids=["over", "sent", "looked for", "cancelled", "held by account", "backend removed"],
)
def test_c6_what_does_not_wait_for_its_backend_says_nothing_more(lane: Lane, start: FlowStart) -> None:
    """What it waits for is recorded with it, or it waits for nothing."""
    lane.transport.note(Blocked(notice=CREDENTIALS))

    assert wait_of(start, {BACKEND: lane.backend}, LATER) is None


def test_c6_a_start_of_which_a_part_runs_waits_with_the_rest(lane: Lane) -> None:
    """The rest is what is not counted yet."""
    start = pending(state=State.STARTED, progress=Progress(started=1))
    rest = replace(start, asked=replace(start.asked, recipient_count=2))
    lane.transport.note(Blocked(notice=CREDENTIALS))

    assert ("", None) == lane.shows(start)
    assert "rejected" in lane.shows(rest)[0]


def test_c6_an_account_is_no_secret() -> None:
    """The warning names the backend and the reason of its health, to branch on."""
    lane = Lane()
    lane.transport.identity = Identity(account=ACCOUNT)
    lane.transport.note(Blocked(notice=CREDENTIALS))
    wait = wait_of(pending(), {BACKEND: lane.backend}, LATER)

    assert wait is not None
    assert {"backend": BACKEND, "reason": "BACKEND_CREDENTIALS_REJECTED"} == wait.warning.metadata
