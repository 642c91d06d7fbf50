"""The tally of a start's dispatches, and where the start stands by it.

A tally is kept per start, so that one answer for one of 10,000 dispatches costs the same as for one of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gateway.errors import Reason
from gateway.model import TERMINAL, Notice, Progress, Standing, State, merged, state_of
from gateway.store.rows import decode, encode, pack_notice, unpack_notice, unpack_notices

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

ABOUT_SENDING = frozenset({Reason.BACKEND_CREDENTIALS_REJECTED, Reason.BACKEND_SUSPENDED, Reason.BACKEND_MISCONFIGURED})
_TELLS_FAILURE = (State.FAILED, State.INTERRUPTED, State.UNCERTAIN)
_UNWELL = (State.FAILED, State.INTERRUPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many dispatches of a start, and how many recipients in them, stand where.

    `failures` holds the first failure of each state; the contact counts are None where the backend counts none.
    """

    dispatches: Mapping[State, int]
    recipients: Mapping[State, int]
    failures: Mapping[State, Notice] = field(default_factory=dict)
    warnings: tuple[Notice, ...] = ()
    contact_count: int | None = None
    contact_started_count: int | None = None
    stalled: int = 0  # dispatches

    def moved(self, before: State, after: State, recipient_count: int, failure: Notice | None) -> Tally:
        """Counts a dispatch that went from one state to another.

        Of an end the first failure stays. What is UNCERTAIN has the one of the dispatch that became so, or came to
        rest so, last: only that says whether it is still looked for.
        """
        failures = self.failures
        is_latest = after is State.UNCERTAIN and (before is after or not self.dispatches.get(after))
        if failure is not None and (is_latest or after not in failures):
            failures = {**failures, after: failure}
        return replace(
            self,
            dispatches=_shifted(self.dispatches, before, after, 1),
            recipients=_shifted(self.recipients, before, after, recipient_count),
            failures=failures,
        )

    def counted(self, contacts: int | None, contacts_started: int | None) -> Tally:
        """Adds to what the backend counts; the arguments are differences. A count that it did not show stays unset."""
        if contacts is None and contacts_started is None:
            return self
        return replace(
            self,
            contact_count=_sum(self.contact_count, contacts),
            contact_started_count=_sum(self.contact_started_count, contacts_started),
        )

    def stuck(self, more: int) -> Tally:
        """Counts dispatches that have begun to stand still, or less of them."""
        return replace(self, stalled=max(0, self.stalled + more)) if more else self

    def warned(self, warnings: tuple[Notice, ...]) -> Tally:
        """Adds warnings, one of each reason."""
        return replace(self, warnings=merged((*self.warnings, *warnings))) if warnings else self

    def encode(self) -> str:
        """Turns it into text."""
        return encode(
            {
                "d": {int(state): n for state, n in self.dispatches.items() if n},
                "r": {int(state): n for state, n in self.recipients.items() if n},
                "f": {int(state): pack_notice(notice) for state, notice in self.failures.items()},
                "w": [pack_notice(warning) for warning in self.warnings],
                "c": self.contact_count,
                "s": self.contact_started_count,
                **({"x": self.stalled} if self.stalled else {}),
            }
        )

    @classmethod
    def decode(cls, text: str) -> Tally:
        """Reads it."""
        row = decode(text)
        return cls(
            dispatches=_by_state(row["d"]),
            recipients=_by_state(row["r"]),
            failures={
                State(int(key)): notice
                for key, packed in row["f"].items()
                if (notice := unpack_notice(packed)) is not None
            },
            warnings=unpack_notices(row["w"]),
            contact_count=row["c"],
            contact_started_count=row["s"],
            stalled=row.get("x", 0),
        )


def fresh(dispatch_count: int, recipient_count: int, warnings: tuple[Notice, ...] = ()) -> Tally:
    """Counts a start of which nothing was sent."""
    return Tally(
        dispatches={State.PENDING: dispatch_count}, recipients={State.PENDING: recipient_count}, warnings=warnings
    )


@lru_cache(maxsize=1_000)  # most starts are of one recipient
def encode_fresh(dispatch_count: int, recipient_count: int) -> str:
    """Turns the tally of a start of which nothing was sent, and that warns of nothing, into text."""
    return fresh(dispatch_count, recipient_count).encode()


def _that_hold(tally: Tally) -> tuple[Notice, ...]:
    """Leaves out what a backend said about sending, once nothing is to be sent."""
    if tally.dispatches.get(State.PENDING, 0):
        return tally.warnings
    return tuple(each for each in tally.warnings if each.reason not in ABOUT_SENDING)


def stand(
    tally: Tally,
    before: Standing,
    *,
    external_id: str,
    next_attempt_at: datetime | None,
    now: datetime,
    cancel_requested_at: datetime | None = None,
) -> Standing:
    """Tells where a start stands by its tally. What the tally does not tell stays as it was."""
    state = state_of(tally.dispatches)
    ended = state in TERMINAL
    return replace(
        before,
        state=state,
        failure=tally.failures.get(state) if state in _TELLS_FAILURE else None,
        progress=progress_of(tally),
        external_id=external_id,
        stalled=tally.stalled > 0,
        warnings=merged((*_that_hold(tally), *(_closing_warnings(tally, state) if ended else ()))),
        updated_at=now,
        next_attempt_at=None if ended else next_attempt_at,
        cancel_requested_at=before.cancel_requested_at or cancel_requested_at,
        ended_at=(before.ended_at or now) if ended else None,
    )


def only_progress_moved(before: Standing, after: Standing) -> bool:
    """Whether the two differ in nothing but counts."""
    return replace(after, progress=before.progress, updated_at=before.updated_at) == before


def _closing_warnings(tally: Tally, state: State) -> tuple[Notice, ...]:
    """Says what COMPLETED hides: that nobody was started, or that not all were."""
    if state is not State.COMPLETED:
        return ()
    if not tally.dispatches.get(State.COMPLETED):
        message = "Nobody was started: every recipient was excluded, or nobody matched."
        return (Notice(reason=Reason.NO_ONE_STARTED, message=message),)
    unwell = [failed for failed in _UNWELL if tally.dispatches.get(failed)]
    if not unwell:
        return ()
    count = sum(tally.recipients.get(failed, 0) for failed in unwell)
    first = tally.failures.get(unwell[0])
    metadata = {"recipients": str(count), **({"first_reason": str(first.reason)} if first else {})}
    message = f"{count} recipients failed or were interrupted; the others completed. ListRecipients lists them."
    return (Notice(reason=Reason.PARTLY_FAILED, message=message, metadata=metadata),)


def progress_of(tally: Tally) -> Progress:
    """Returns the progress that callers see of a start with this tally."""
    n = tally.recipients
    return Progress(
        queued=n.get(State.QUEUED, 0),
        started=n.get(State.STARTED, 0),
        completed=n.get(State.COMPLETED, 0),
        failed=n.get(State.FAILED, 0),
        interrupted=n.get(State.INTERRUPTED, 0),
        skipped=n.get(State.SKIPPED, 0),
        uncertain=n.get(State.UNCERTAIN, 0),
        contact_count=tally.contact_count,
        contact_started_count=tally.contact_started_count,
    )


def _shifted(counts: Mapping[State, int], before: State, after: State, n: int) -> dict[State, int]:
    shifted = dict(counts)
    shifted[before] = shifted.get(before, 0) - n
    shifted[after] = shifted.get(after, 0) + n
    return shifted


def _by_state(row: dict[str, Any]) -> dict[State, int]:
    return {State(int(key)): n for key, n in row.items()}


def _sum(count: int | None, more: int | None) -> int | None:
    return count if more is None else (count or 0) + more
