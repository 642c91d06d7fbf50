"""The words of the gateway: starts, dispatches, changes, and the rules by which they move.

Rules:

1. Every legal move of a dispatch is in `NEXT`, and nowhere else.
2. Where a start stands is a function of its dispatches alone: `state_of`.
3. Nothing here reads a clock, a file, a socket or a database.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from gateway.errors import GatewayError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

CORRELATION_KEY = "startflow_id"
"""The params key that carries a dispatch's id to its backend."""

MERGED = 100
"""Entries in the metadata of a notice that several of its reason became: all of them would be too many for a status."""


class State(IntEnum):
    """Where a start or a dispatch stands. The numbers are stored and are those of the API; they never change."""

    PENDING = 1
    QUEUED = 2
    STARTED = 3
    COMPLETED = 4
    FAILED = 5
    INTERRUPTED = 6
    UNCERTAIN = 7
    SKIPPED = 8  # of a dispatch only


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.INTERRUPTED, State.SKIPPED})

NEXT: dict[State, frozenset[State]] = {
    State.PENDING: frozenset(State) - {State.PENDING},
    State.UNCERTAIN: frozenset(State) - {State.UNCERTAIN},
    State.QUEUED: TERMINAL | {State.STARTED, State.PENDING},  # PENDING on an operator's word alone
    State.STARTED: TERMINAL | {State.PENDING},
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.INTERRUPTED: frozenset(),
    State.SKIPPED: frozenset(),
}
"""Which states a dispatch may move to from each."""


class OutcomeKind(StrEnum):
    """What came of an attempt. The names are stored and are those of the API; they never change."""

    ACCEPTED = "ACCEPTED"
    REFUSED = "REFUSED"
    THROTTLED = "THROTTLED"
    NOT_SENT = "NOT_SENT"
    BLOCKED = "BLOCKED"
    UNSURE = "UNSURE"


class Cause(StrEnum):
    """Why an attempt came to nothing certain, or to nothing at all: what decisions are made by, beside the outcome.

    Words for people stand in an attempt's detail. The names are stored; they never change.
    """

    TIMEOUT = "TIMEOUT"  # no answer came in time
    BROKEN = "BROKEN"  # the connection broke once writing had begun, or the answer had no end
    SERVER_ERROR = "SERVER_ERROR"  # 5xx, 408, or a status that is none
    UNREADABLE = "UNREADABLE"  # a success that cannot be read, or is about something else
    NAMED = "NAMED"  # a success that names something of the same flow and does not show that it is this dispatch
    STOPPED = "STOPPED"  # the gateway stopped while sending
    RESTORED = "RESTORED"  # the store was restored from a backup that may be older than the attempt
    BUG = "BUG"  # the gateway failed
    UNREACHABLE = "UNREACHABLE"  # no host, no connection, no TLS
    TOO_LATE = "TOO_LATE"  # its moment passed before the first byte was written
    BARRED = "BARRED"  # something in front of the backend refused the request
    BUSY = "BUSY"  # the recipient is busy
    RIVAL = "RIVAL"  # the recipient is busy, perhaps with another dispatch of the tenant whose answer is not known yet


class RecipientKind(IntEnum):
    """What a recipient is. The numbers are stored and are those of the API; they never change."""

    URN = 1
    CONTACT = 2
    GROUP = 3


class CompletionMeaning(IntEnum):
    """What COMPLETED tells on a kind of backend. The numbers are those of the API."""

    RECIPIENTS_ENTERED = 1
    EXECUTIONS_ENDED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something to tell a caller about a start: its failure, or a warning. `reason` is one of `errors.Reason`."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipients:
    """The recipients of a start or of one dispatch, in the caller's order and spelling."""

    urns: tuple[str, ...] = field(default=(), repr=False)  # personal data
    contacts: tuple[str, ...] = field(default=(), repr=False)
    groups: tuple[str, ...] = field(default=(), repr=False)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.urns) + len(self.contacts) + len(self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a caller asked for once. It never changes. `id` is empty until the start is recorded."""

    id: str = ""
    tenant: str
    backend: str
    flow: str
    recipient_count: int
    params: Mapping[str, Json] = field(repr=False)  # personal data; keys sorted at every level
    sender: str = ""
    restart_participants: bool | None = None
    exclude_active: bool | None = None
    request_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    schedule_at: datetime | None = None
    expire_at: datetime | None = None
    created_at: datetime
    completion_meaning: CompletionMeaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """The part of a start that is one backend request, with all that an adapter needs to send it.

    `id` is the correlation key: the same in every attempt. `external_id` and `accepted_at` (by the backend's own
    clock) are known once the backend has accepted it. `attempts` counts those that have begun. `tenant` is whose it is.
    `number` is its place among the dispatches of its start, from 1.

    `was_unsure` says that an earlier attempt may have been carried out. `was_busy` says that one of those found the
    recipient busy, after which the dispatch was looked for and not found.
    """

    id: str
    flow: str
    recipients: Recipients
    params: Mapping[str, Json] = field(repr=False)
    sender: str = ""
    restart_participants: bool | None = None
    exclude_active: bool | None = None
    expire_at: datetime | None = None
    state: State = State.PENDING
    external_id: str = ""
    accepted_at: datetime | None = None
    number: int = 1
    attempts: int = 0
    was_unsure: bool = False
    was_busy: bool = False
    tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose account answers.

    `account` is the backend's lasting name of it. `aliases` are other names by which answers call the same account.
    `country` is the one (ISO 3166, two letters) by which the backend completes phone numbers; empty if it has none.
    """

    account: str
    aliases: frozenset[str] = frozenset()
    country: str = ""

    def named(self, name: str) -> str:
        """Returns the account's lasting name if `name` is one of its names, else `name` itself."""
        return self.account if name in self.aliases else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How many recipients of a start stand where; the rest are pending.

    `contact_count` and `contact_started_count` are the backend's own counts, where it has them.
    """

    queued: int = 0
    started: int = 0
    completed: int = 0
    failed: int = 0
    interrupted: int = 0
    skipped: int = 0
    uncertain: int = 0
    contact_count: int | None = None
    contact_started_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What has become of a start: the part that moves."""

    state: State = State.PENDING
    failure: Notice | None = None
    progress: Progress = Progress()
    external_id: str = ""
    stalled: bool = False
    warnings: tuple[Notice, ...] = ()
    updated_at: datetime
    next_attempt_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing more happens to it by itself: terminal, or uncertain at rest."""
        return self.state in TERMINAL or (self.state is State.UNCERTAIN and self.next_attempt_at is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStart:
    """A start as it stood at one revision."""

    asked: Asked
    standing: Standing
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One recorded move of a start: how it stood after `revision`. `state_before` is None for its first change."""

    flow_start: FlowStart
    state_before: State | None

    @property
    def revision(self) -> int:
        """Its place in the one total order over the store."""
        return self.flow_start.revision


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientStanding:
    """What became of one recipient: what became of the dispatch that carries it."""

    recipient: str = field(repr=False)  # personal data
    kind: RecipientKind
    state: State
    dispatch_id: str
    external_id: str
    failure: Notice | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to send a dispatch. `outcome` is empty while it is open, else the name of an outcome."""

    dispatch_id: str
    number: int
    begun_at: datetime
    ended_at: datetime | None
    outcome: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which starts are meant. Empty fields do not narrow."""

    backends: frozenset[str] = frozenset()
    flow: str = ""
    states: frozenset[State] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    external_id: str = ""
    created_from: datetime | None = None
    created_to: datetime | None = None

    def selects(self, start: FlowStart, state_before: State | None = None) -> bool:
        """Whether a start matches, in its state or the one before; `external_id` is looked up, not matched here."""
        asked, states = start.asked, (start.standing.state, state_before)
        return (
            (not self.backends or asked.backend in self.backends)
            and (not self.flow or asked.flow == self.flow)
            and (not self.states or not self.states.isdisjoint(states))
            and (not self.request_id or asked.request_id == self.request_id)
            and all(asked.labels.get(key) == value for key, value in self.labels.items())
            and (self.created_from is None or asked.created_at >= self.created_from)
            and (self.created_to is None or asked.created_at < self.created_to)
        )


class Verdict(IntEnum):
    """What an operator says of a dispatch that is uncertain or stalled."""

    WAS_SENT = 1
    WAS_NOT_SENT = 2
    GIVE_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """An operator's word on one dispatch, or on all of a start that are uncertain or stalled if `dispatch_id` is empty.

    `external_id` is the backend's own id, with WAS_SENT.
    """

    verdict: Verdict
    dispatch_id: str = ""
    external_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A flow that a backend has. `startable` is None where the backend does not tell whether it can be started."""

    id: str
    name: str
    startable: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who calls, how far that goes, and for how many seconds they still wait; None if without end.

    `backends` are those that the caller may use; None: all. One that `spans_tenants` reaches every tenant's starts.
    `ended` tells, while a stream goes on, why it may not any more; None while it may.
    """

    tenant: str
    seconds_left: float | None = None
    backends: frozenset[str] | None = None
    spans_tenants: bool = False
    ended: Callable[[], GatewayError | None] | None = field(default=None, compare=False, repr=False)

    @property
    def reaches(self) -> str | None:
        """Whose starts the caller reaches; None: every tenant's."""
        return None if self.spans_tenants else self.tenant


def state_of(counts: Mapping[State, int]) -> State:
    """Tells where a start stands, from how many of its dispatches stand where.

    A dispatch that was not written out yet counts as PENDING.
    """
    n = {state: counts.get(state, 0) for state in State}
    accepted = n[State.QUEUED] + n[State.STARTED]
    ended = sum(n[state] for state in TERMINAL)
    if not accepted and not ended:
        return State.UNCERTAIN if n[State.UNCERTAIN] else State.PENDING
    if accepted or n[State.PENDING]:
        return State.STARTED if n[State.STARTED] or n[State.COMPLETED] else State.QUEUED
    order = (State.UNCERTAIN, State.COMPLETED, State.FAILED, State.INTERRUPTED)
    return next((state for state in order if n[state]), State.COMPLETED)  # all skipped: nobody matched


def merged(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """Leaves the first notice of each reason, where it stood, with what the metadata of the others add to it.

    Told again, it moves nothing.
    """
    first: dict[str, Notice] = {}
    for notice in notices:
        known = first.setdefault(notice.reason, notice)
        news = [key for key in notice.metadata if key not in known.metadata][: MERGED - len(known.metadata)]
        if news:
            more = {key: notice.metadata[key] for key in news}
            first[notice.reason] = replace(known, metadata={**known.metadata, **more})
    return tuple(first.values())
