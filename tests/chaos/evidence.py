"""What a run leaves behind, as plain values: what callers were told, what the gateway shows, what really happened.

Times are seconds since the epoch, by the driver's clock; those of a gateway with a skewed clock have been set right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.chaos.plan import Wanted

STOPPED = "the gateway stopped while sending"  # the detail of an attempt that a kill interrupted


@dataclass(slots=True, kw_only=True)
class Told:
    """One start as its caller knows it. `start_id` is empty while no call has succeeded."""

    wanted: Wanted
    start_id: str = ""
    refused: str = ""  # why the gateway would not have it, if it was right not to
    schedule_at: float | None = None
    expire_at: float | None = None
    cancelled_at: float | None = None  # when the call to cancel it had returned
    resolved: dict[str, str] = field(default_factory=dict)  # by dispatch: what the operator said
    complaints: list[str] = field(default_factory=list)  # what no caller should be told
    denials: int = 0  # answers that said that nothing was recorded
    unanswered: int = 0  # calls that may have been carried out
    replays: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to send a dispatch, as ListChanges shows it."""

    dispatch: str
    begun: float
    outcome: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One dispatch, as ListRecipients shows it."""

    id: str
    state: str
    external_id: str
    reason: str
    detail: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One start, as the gateway shows it at the end."""

    id: str
    request_id: str
    state: str
    is_resting: bool
    warnings: Mapping[str, Mapping[str, str]]
    parts: tuple[Part, ...]
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """One start or execution that the backend really made."""

    line: int
    at: float
    key: str
    external_id: str
    recipients: frozenset[str]
    people: frozenset[str] = frozenset()  # in the one spelling that the backend keeps; of a group no single ones
    over_at: float | None = None  # when it ends by itself, if that is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request to create something, as it arrived at the backend."""

    line: int
    at: float
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All of it."""

    told: tuple[Told, ...]
    shown: Mapping[str, Shown]
    created: tuple[Created, ...]
    sent: tuple[Sent, ...]
    ended: frozenset[str]  # external ids that the backend was asked to end
    kills: tuple[float, ...]
    pauses: tuple[tuple[float, float], ...]  # from when to when the gateway's process was stopped
    fired: Mapping[str, int]
    in_flight: Mapping[str, int]  # by backend: how many requests to create something were open at once, at the most
    counts: Mapping[str, int] = field(default_factory=dict)  # of what else happened
    bugs: tuple[str, ...] = ()  # lines of the gateway's log that must never be there
    broken: tuple[str, ...] = ()  # invariants of the store that a kill left broken
