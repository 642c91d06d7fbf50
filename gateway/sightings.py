"""What is looked for at a backend, and how the backend shows it.

Rule: what a moment is by is said where it stands. The backend's clock is not ours, and its rows may have another one
than its answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gateway.model import Json, Notice, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A span of time, by the backend's clock, in which the dispatches of one flow that matter were created there.

    `stragglers` is since when, before `oldest`, there are a few that still run; None if there are none. What was
    created from `proves_from` on is looked for: what a scan does not show of that must not be there. `tenants` are some
    of those whose dispatches these are.
    """

    flow: str
    oldest: datetime
    newest: datetime
    stragglers: datetime | None = None
    proves_from: datetime | None = None
    tenants: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """A dispatch that its backend may have though its answer is not known.

    It was sent at `since` or later, by the backend's own clock, to `account`. It is UNCERTAIN until it is found, or
    proved absent; one that was proved absent and sent again is sought for a while longer: it may show up after all.
    `runs_on` is for how many seconds from now its request may still run: its gateway was only taken for gone.
    """

    id: str
    flow: str
    state: State
    attempts: int
    since: datetime
    account: str
    recipient: str = field(default="", repr=False)  # ends with whom it is for, where that is a single one
    runs_on: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A dispatch that an account accepted: a list must show it to be believed.

    `accepted_at` is by the clock that the backend's rows have, `sent_at` by the one of its answers (their `Date`), at
    the attempt or shortly before it; None where that is not known.
    """

    dispatch_id: str
    flow: str
    external_id: str
    accepted_at: datetime
    sent_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """How the backend shows one dispatch. `state` is None when its word for it is unknown: then a warning says so.

    `correlation_key` is None where the backend does not show it; `hides_key` says that this row should show the params
    it began with and does not, so that it may be any dispatch's; `number` are the digits of whom it is for, where they
    are of a single phone number, so that it is nobody else's. `params` are those that it shows, None where they are
    not wanted. `flow` and `created_at` (by the backend's clock) are empty and None where it shows none;
    `contact_count` and `contact_started_count` are None where it does not count them.
    """

    external_id: str
    state: State | None
    correlation_key: str | None = None
    hides_key: bool = False
    number: str = field(default="", repr=False, compare=False)  # personal data
    params: Mapping[str, Json] | None = field(default=None, repr=False, compare=False)  # personal data
    flow: str = ""
    created_at: datetime | None = None
    contact_count: int | None = None
    contact_started_count: int | None = None
    failure: Notice | None = None
    warnings: tuple[Notice, ...] = ()
