"""What RapidPro's answers say, read into our words: flow starts, flows, accounts, and pages of what moves.

How its lists are read, and what that rests on:

1. Rows are sorted by `modified_on`: the time at which the transaction that moved a row began, visible from its end on.
2. Its cursor is a position and, among rows of one `modified_on`, an offset: a row that moves between two pages makes an
   unread one skip. So the next page begins at the last row's own moment, that moment included, and no cursor is used.
3. More rows of one moment than a page holds can only be read with the cursor. Such a list is not gapless.
4. Pages may come from replicas that lag differently: a row that moves between them can be in neither. So a list of
   several pages needs closing.
"""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

from gateway.adapters import reading
from gateway.adapters.base import Accepted, Unsure
from gateway.errors import Reason
from gateway.model import CORRELATION_KEY, Cause, Flow, Identity, Notice, State
from gateway.sightings import Sighting

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from gateway.adapters.base import Reply
    from gateway.model import Dispatch, Json

STATES = {
    "pending": State.QUEUED,
    "queued": State.QUEUED,
    "starting": State.STARTED,  # until v9.3
    "started": State.STARTED,
    "complete": State.COMPLETED,  # until v9.3
    "completed": State.COMPLETED,
    "failed": State.FAILED,
    "interrupted": State.INTERRUPTED,
}

FAILURES = {
    State.FAILED: Notice(
        reason=Reason.BACKEND_FAILED,
        message="RapidPro took the start and then failed it; it does not say why. Likely reasons: the flow is archived"
        " or was deleted, or a group's query no longer works.",
    ),
    State.INTERRUPTED: Notice(
        reason=Reason.BACKEND_INTERRUPTED, message="Somebody interrupted the start in RapidPro before it was complete."
    ),
}

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
KEY = re.compile(r"[!-~]{1,64}")  # no correlation key of ours is longer or holds anything else
OURS = re.compile(r"[0-9a-z]+-[0-9]+")  # what every key of a gateway like this one looks like
COUNTRY = re.compile(r"[A-Z]{2}")
ROWS = "results"


def params_of(dispatch_id: str, params: Mapping[str, Json]) -> dict[str, Json]:
    """Returns the params as they are sent: the correlation key first."""
    return {CORRELATION_KEY: dispatch_id, **params}


def accepted(reply: Reply, dispatch: Dispatch) -> Accepted | Unsure:
    """Reads a success. One that names a start of this flow is believed, unless it shows that it is another one.

    That is another dispatch's key, or no key and params that were not sent: a cache may answer with anybody's start.
    """
    row = reading.object_in(reply.body)
    shown = sighting(row)
    if not shown or shown.flow != dispatch.flow:
        return Unsure(reason="the answer is not about this dispatch", cause=Cause.UNREADABLE)
    if shown.correlation_key != dispatch.id and (shown.correlation_key or _shows_others(row.get("params"), dispatch)):
        return Unsure(reason="the answer is about another dispatch", cause=Cause.NAMED)
    sent, params = params_of(dispatch.id, dispatch.params), row.get("params")
    altered = reading.params_altered(sent, params) if isinstance(params, dict) else ()
    return Accepted(
        external_id=shown.external_id,
        state=State.QUEUED if shown.failure else shown.state or State.QUEUED,  # a sweep reports the failure
        account=account(reply.headers),
        accepted_at=shown.created_at,
        warnings=shown.warnings + altered,
    )


def _shows_others(params: object, dispatch: Dispatch) -> bool:
    """Whether some of these params are not those of a dispatch."""
    shown = params if isinstance(params, dict) else {}
    sent = {name: value for name, value in dispatch.params.items() if name in shown}
    return any(reading.altered(sent, shown, "params"))


def sighting(row: object, sought: Collection[str] = ()) -> Sighting | None:
    """Reads one row; None if it does not even say which start it shows. Keeps the params of what is `sought`."""
    external_id, status = uuid(row), reading.inside(row, "status")
    if not external_id:
        return None
    state = STATES.get(status) if isinstance(status, str) else None
    total, started = (reading.inside(row, "progress", name) for name in ("total", "started"))
    if state is State.COMPLETED and isinstance(total, int) and total <= 0:
        state = State.SKIPPED  # it counts -1 when it found nobody to start
    params = reading.inside(row, "params")
    key = reading.text_of(reading.inside(params, CORRELATION_KEY), KEY) or None
    return Sighting(
        external_id=external_id,
        state=state,
        correlation_key=key,
        hides_key=_hides_key(params),
        params=params if isinstance(params, dict) and key in sought else None,
        flow=uuid(reading.inside(row, "flow")),
        created_at=reading.moment_of(reading.inside(row, "created_on")),
        contact_count=reading.contacts_of(total),
        contact_started_count=reading.contacts_of(started),
        failure=FAILURES.get(state) if state else None,
        warnings=() if state else (reading.STATUS_UNKNOWN,),
    )


def _hides_key(params: object) -> bool:
    """Whether something took the params away, of which RapidPro always shows an object, or masked the key in them."""
    if not isinstance(params, dict):
        return True
    return CORRELATION_KEY in params and not reading.text_of(params[CORRELATION_KEY], OURS)


def flow(row: object) -> Flow | None:
    """Reads one flow; None if it does not even say which one it is."""
    flow_id, name, archived = uuid(row), reading.inside(row, "name"), reading.inside(row, "archived")
    startable = not archived if isinstance(archived, bool) else None
    return Flow(id=flow_id, name=reading.name_of(name), startable=startable) if flow_id else None


def identity(reply: Reply) -> Identity | Unsure:
    """Reads the workspace. Its `uuid` lasts; the name in the headers of an old one, such as `1`, is many a server's."""
    body = reading.object_in(reply.body)
    lasting, named = uuid(body), account(reply.headers)
    if not lasting:
        return reading.unread(reply)
    country = reading.text_of(reading.inside(body, "country"), COUNTRY)
    return Identity(account=lasting, aliases=frozenset({named} - {"", lasting}), country=country)


def account(headers: Mapping[str, str]) -> str:
    """Returns the name by which an answer calls its workspace: a UUID, or an old one's number; or empty."""
    return reading.text_of(headers.get("x-temba-workspace") or headers.get("x-temba-org"), KEY)


def uuid(row: object) -> str:
    """Returns the UUID of what a row shows, in lower case; empty if it has none."""
    value = reading.inside(row, "uuid")
    return reading.text_of(value.lower(), UUID) if isinstance(value, str) else ""


def zulu(moment: datetime) -> str:
    """Writes a moment with `Z`. With an offset, whose plus a server may read as a space, the list would be empty."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def cursor_in(page: dict[str, object], query: Mapping[str, str]) -> str | None:
    """Returns the query of the next page, by the cursor: empty if there is no next page, None if that is unknown."""
    following = reading.query_in(page, "next")
    if not following:
        return following
    cursor = parse_qs(following).get("cursor")
    return urlencode({**query, "cursor": cursor[0]}) if cursor else None


class Moves:
    """Pages of what moved since a moment, the oldest first, by rules 2 and 3."""

    def __init__(self, since: datetime) -> None:
        self.is_gapless = True
        self._position = since
        self._query = {"after": zulu(since), "reverse": "true"}

    @property
    def first(self) -> str:
        """The query of the first page."""
        return urlencode(self._query)

    def follow(self, page: dict[str, object]) -> str | None:
        """Finds the query of the next page."""
        following = cursor_in(page, self._query)
        rows = page.get(ROWS)
        if not following or not isinstance(rows, list) or not rows:
            return following
        last = reading.moment_of(reading.inside(rows[-1], "modified_on"))
        if last is None or last <= self._position:
            self.is_gapless = False
            return following
        self._position = last
        self._query["after"] = zulu(last)
        return urlencode(self._query)
