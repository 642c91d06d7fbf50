"""The words in which a store is asked and answers: what operations are handed, and what they return.

What a start, a dispatch and a change are is in `gateway.model`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gateway.model import (
        Attempt,
        Cause,
        Change,
        Dispatch,
        FlowStart,
        Notice,
        OutcomeKind,
        RecipientStanding,
        State,
    )

LANE, UPKEEP = "lane", "upkeep"
"""Kinds of leases: on sending and following of a backend, and on what is done for all of them."""
NO_LIMITS: Mapping[str, int] = MappingProxyType({})  # of what a claim may take of a tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What a gateway says of itself to others on the same store: where it listens, and which backends it has."""

    at: str
    backends: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Which gateways live, by their numbers, and which of them has what, by kind and name; None where nobody has it.

    `me` is the number of whoever asks.
    """

    me: int
    lives: Mapping[int, Life]
    owners: Mapping[tuple[str, str], int | None]

    @property
    def others(self) -> frozenset[str]:
        """Names the backends that other gateways have."""
        return frozenset(name for number, life in self.lives.items() if number != self.me for name in life.backends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A start that was recorded, now or by an earlier call with the same request id."""

    flow_start: FlowStart
    fingerprint: str
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the settings of a backend say of a start, as they were when it was recorded.

    `account` is empty while it is not known whose account the backend is. `backlog` is how many unsent dispatches a
    tenant may have on the backend, scheduled ones counted apart.
    """

    account: str = ""
    give_up_after: timedelta = timedelta(days=1)
    one_at_a_time: bool = False
    backlog: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Dispatches this incarnation may send, and when the next unclaimed one is due (None: none waits).

    `ends_more` is whether more is over than was ended in this step.
    """

    dispatches: tuple[Dispatch, ...]
    next_due_at: datetime | None
    ends_more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What came of an attempt: where its dispatch goes, and what is known now.

    `detail` is for people. `due_at` is when to send again if `state` is PENDING (None: at once, in the place that it
    had in the queue), and about when it is known if it is UNCERTAIN.
    """

    outcome: OutcomeKind
    cause: Cause | None = None
    detail: str
    state: State
    due_at: datetime | None = None
    external_id: str = ""
    account: str = ""
    accepted_at: datetime | None = None
    failure: Notice | None = None
    warnings: tuple[Notice, ...] = ()


class Kept(Enum):
    """Why a running dispatch of the same tenant is not ended for another one."""

    LATER = auto()  # it is of a later start, which has taken the other one's place
    UNKNOWN = auto()  # it may be one that is being sent, or in doubt: its external id is not known yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Starts, and the newest revision at the moment they were read.

    `next_position` is the revision to go on from, or None after the last page.
    """

    flow_starts: tuple[FlowStart, ...]
    head: int
    next_position: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """Of some ids: those of no start, and those of starts that may still change or have changed lately."""

    missing: frozenset[str]
    undone: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Recorded changes in revision order. Everything up to and including `through` has been read."""

    changes: tuple[Change, ...]
    through: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientsPage:
    """Recipients in the order of the request. `next_position` is a dispatch's number and an index in it, or None."""

    recipients: tuple[RecipientStanding, ...]
    next_position: tuple[int, int] | None


HistoryPosition: TypeAlias = tuple[int, int, str, int]
"""The last change and the last attempt that were read: a revision; a moment, a dispatch and its attempt's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """Changes and attempts of one start, the oldest first."""

    entries: tuple[Change | Attempt, ...]
    next_position: HistoryPosition | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """How much there is, by backend; a backend that has none may be missing.

    `unsent` and `scheduled` count the dispatches that were not accepted yet, without and with a schedule. `waited` is
    for how many seconds the one of them has been due that waits longest. `sought` and `resting` count what is
    uncertain, `stalled` what stands still.
    """

    head: int
    unsent: Mapping[str, int]
    scheduled: Mapping[str, int]
    waited: Mapping[str, float]
    sought: Mapping[str, int]
    resting: Mapping[str, int]
    stalled: Mapping[str, int]


HeldPosition: TypeAlias = tuple[str, int]
"""The last held dispatch that was looked at: its start and its number."""

PROGRESS_PAUSE_SECONDS = 1.0
"""Progress alone makes at most one change per start in this time."""
