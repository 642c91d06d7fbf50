"""RapidPro and TextIt: `flow_starts.json` of their API v2, as old workspaces (v7 to v9) and new ones (v10 on) speak it.

What shapes this file:

1. A start has no idempotency key; what we put in `params` comes back in every row. Old workspaces drop what is beyond
   256 values and rewrite keys outside `[A-Za-z0-9_]`, so the correlation key comes first and is a plain word.
2. `urns` never come back. `next` holds a host that may be internal: only its cursor is used.
3. `completed` means that everybody has entered the flow. A total of -1 then means that nobody was there to.
4. A refusal lists its complaints by field, and by index in `urns`; a suspended workspace is a 400 as well.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qs, urlencode

from gateway.adapters import rapidpro_addresses, rapidpro_refusals, reading
from gateway.adapters.base import (
    DISPATCH_ID_SIZE,
    Accepted,
    Capabilities,
    Flows,
    Misconfigured,
    Missing,
    Refused,
    Reply,
    Request,
    Sweep,
    Unsure,
)
from gateway.adapters.rapidpro_addresses import PER_KIND
from gateway.errors import Reason, Violation
from gateway.model import CORRELATION_KEY, CompletionMeaning, Flow, Notice, RecipientKind, Recipients, Sighting, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from gateway.adapters.base import Account, Exchange, Failed, Outcome, Trouble
    from gateway.model import Asked, Dispatch, Json, Window

R = TypeVar("R")

FLOWS_PATH = "/api/v2/flows.json"
WORKSPACE_PATH = "/api/v2/workspace.json"
PATH = "/api/v2/flow_starts.json"  # without `.json` a new workspace answers 403, and a GET shows nothing
PARAMS_SIZE = 10_000  # characters, as RapidPro counts them: `json.dumps`, ASCII, ", " and ": "
RATE = (2_500, 3_600.0)  # of the older workspaces; the newer allow 3,600 an hour. Everything counts, reads too
OVERLAP = timedelta(minutes=2)  # rows are sorted by `modified_on`, which is not the order in which they are committed
SETTLED = timedelta(minutes=10)  # by the backend's clock, after which no row comes in before the last one, however late
QUIET_WINDOW = timedelta(seconds=120)  # its workers are killed after 30 s, by default; proxies and replicas add to it

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


class RapidPro:
    """Speaks to one RapidPro workspace. Needs the credential `token`: an API token of an administrator or editor."""

    capabilities = Capabilities(
        recipient_kinds=(RecipientKind.URN, RecipientKind.CONTACT, RecipientKind.GROUP),
        urn_schemes=(),
        sender=False,
        restart_participants=True,
        exclude_active=True,
        cancel=False,
        one_at_a_time=False,
        recipients_per_dispatch=PER_KIND,
        params_size=PARAMS_SIZE,
        completion_meaning=CompletionMeaning.RECIPIENTS_ENTERED,
        rate=RATE,
        quiet_window=QUIET_WINDOW,
        rate_counts_reads=True,
    )

    def __init__(self, account: Account) -> None:
        if account.sender:
            raise Misconfigured("`sender` means nothing to RapidPro, whose flows choose the channel: remove it.")
        token = reading.credential(account, "token", "an API token of the RapidPro workspace")
        self._headers = {"Authorization": f"Token {token}", "Accept": "application/json"}

    def offers(self, flow: str) -> bool:
        """Whether `flow` is a UUID in lower case with dashes: RapidPro knows no flow by any other spelling."""
        return UUID.fullmatch(flow) is not None

    def same_as(self, kind: RecipientKind, recipient: str, country: str = "") -> str:
        """Returns the canonical form of a recipient, as RapidPro looks for it."""
        return rapidpro_addresses.same_as(kind, recipient, country)

    def objections(self, asked: Asked, recipients: Recipients, country: str = "") -> list[Violation]:
        """Lists what RapidPro cannot express, what would reach somebody twice, and what it answers with a 500."""
        found = []
        if not self.offers(asked.flow):
            found.append(Violation(field="flow", description="must be a flow's UUID, in lower case with dashes."))
        if asked.sender:
            found.append(
                Violation(
                    field="sender",
                    description="means nothing to RapidPro, whose flows choose the channel: leave it out.",
                    reason=Reason.UNSUPPORTED_BY_BACKEND,
                )
            )
        size = len(json.dumps(_params("x" * DISPATCH_ID_SIZE, asked.params)))
        if size > PARAMS_SIZE:
            found.append(
                Violation(
                    field="params",
                    description=f"take {size:,} characters as ASCII JSON with `{CORRELATION_KEY}`; RapidPro takes"
                    f" {PARAMS_SIZE:,}: send less, or a reference to it.",
                )
            )
        return [
            *found,
            *rapidpro_addresses.bad_addresses(recipients),
            *rapidpro_addresses.overlap(recipients, country),
        ]

    def plan(self, asked: Asked, recipients: Recipients) -> list[Recipients]:  # noqa: ARG002
        """Splits the recipients so that each dispatch holds at most 100 of each kind, in order."""
        longest = max(len(recipients.urns), len(recipients.contacts), len(recipients.groups))
        return [
            Recipients(
                urns=recipients.urns[start : start + PER_KIND],
                contacts=recipients.contacts[start : start + PER_KIND],
                groups=recipients.groups[start : start + PER_KIND],
            )
            for start in range(0, longest, PER_KIND)
        ]

    def send(self, dispatch: Dispatch) -> Exchange[Outcome]:
        """Creates a flow start. The body is ASCII JSON without spaces, its keys in the order of RapidPro's docs."""
        answer = yield Request(
            method="POST",
            path=PATH,
            headers={**self._headers, "Content-Type": "application/json"},
            body=json.dumps(_body(dispatch), separators=(",", ":")).encode(),
            creates=True,
        )
        reply = _sift(answer)
        if not isinstance(reply, Reply):
            return reply
        if reply.status not in reading.OK:
            return Refused(failure=rapidpro_refusals.read(reply, rapidpro_addresses.sent(dispatch.recipients)))
        return _accepted(reply, dispatch)

    def sweep(self, since: datetime | None, windows: Sequence[Window]) -> Exchange[Sweep]:
        """Lists every flow start modified since then, oldest first, those of others too; two minutes are read again.

        A row that moves while it is read comes again, later: the later one counts. When the last one has stood for ten
        minutes, nothing before it is read again: a busy moment is not read over and over when it has become quiet.
        """
        start = since or min((window.stragglers or window.oldest for window in windows), default=None)
        if start is None:
            return Sweep(sightings=())
        last = start - OVERLAP

        def read(row: object) -> Sighting | None:
            nonlocal last
            last = max(last, reading.moment_of(reading.inside(row, "modified_on")) or last)
            return _sighting(row)

        base = {"after": _zulu(start - OVERLAP), "reverse": "true"}
        found = yield from self._scan(PATH, base, read)
        headers = found.headers or {}
        now = reading.date_of(headers)
        return Sweep(
            sightings=tuple({each.external_id: each for each in found.rows}.values()),
            account=_account(headers),
            # Never None: what is not listed here has not ended.
            newest=max(start, last + OVERLAP if now and now - last >= SETTLED else last),
            trouble=found.trouble or (Unsure(reason="unreadable row") if found.unread else None),
        )

    def look(self, dispatch: Dispatch) -> Exchange[Sighting | Missing | Trouble]:
        """Reads one flow start. An unknown one is an empty list, and so is one that a replica does not have yet."""
        reply = _sift((yield self._asking(PATH)(urlencode({"uuid": dispatch.external_id}))))
        if not isinstance(reply, Reply):
            return reply
        rows = reading.object_in(reply.body).get("results") if reply.status in reading.OK else None
        if not isinstance(rows, list):
            return Unsure(reason="unreadable list" if reply.status in reading.OK else f"HTTP {reply.status}")
        for row in rows:
            if _uuid(row) == dispatch.external_id.lower() and (sighting := _sighting(row)):
                return sighting
        return Unsure(reason="the answer is about another start") if rows else Missing()

    def identify(self) -> Exchange[str | Trouble]:
        """Reads the workspace. Its `uuid` proves that it is one; the account is told by the headers, as everywhere."""
        reply = _sift((yield self._asking(WORKSPACE_PATH)("")))
        if not isinstance(reply, Reply):
            return reply
        if reply.status not in reading.OK:
            return Unsure(reason=f"HTTP {reply.status}")
        body = reading.object_in(reply.body)
        return _account(reply.headers) if _uuid(body) else Unsure(reason="unreadable answer")

    def flows(self, flow: str = "") -> Exchange[Flows]:
        """Lists the workspace's flows, or the one. An archived flow can be started, and RapidPro then fails it."""
        found = yield from self._scan(FLOWS_PATH, {"uuid": flow} if flow else {}, _flow)
        if flow and any(each.id != flow for each in found.rows):
            return Flows(flows=(), trouble=Unsure(reason="the answer is about another flow"))
        unread = Unsure(reason="unreadable row") if found.unread else None
        return Flows(flows=tuple(found.rows), trouble=found.trouble or unread)

    def _scan(
        self, path: str, query: Mapping[str, str], read: Callable[[object], R | None]
    ) -> Exchange[reading.Scan[R]]:
        def follow(page: dict[str, object]) -> str | None:
            following = reading.query_of(page.get("next"))
            if not following:
                return following
            cursor = parse_qs(following).get("cursor")
            return urlencode({**query, "cursor": cursor[0]}) if cursor else None

        return reading.scan(
            urlencode(query), ask=self._asking(path), judge=_sift, rows="results", read=read, follow=follow
        )

    def _asking(self, path: str) -> Callable[[str], Request]:
        return lambda query: Request(method="GET", path=path, query=query, headers=self._headers)


def _params(dispatch_id: str, params: Mapping[str, Json]) -> dict[str, Json]:
    return {CORRELATION_KEY: dispatch_id, **params}


def _body(dispatch: Dispatch) -> dict[str, object]:
    fields = {
        "flow": dispatch.flow,
        **rapidpro_addresses.sent(dispatch.recipients),
        "restart_participants": dispatch.restart_participants,
        "exclude_active": dispatch.exclude_active,
        "params": _params(dispatch.id, dispatch.params),
    }
    return {name: value for name, value in fields.items() if value is not None and value != []}


def _sift(answer: Reply | Failed) -> Reply | Trouble:
    return reading.sift(answer, is_own=rapidpro_refusals.is_own, is_suspended=rapidpro_refusals.is_suspended)


def _accepted(reply: Reply, dispatch: Dispatch) -> Accepted | Unsure:
    row = reading.object_in(reply.body)
    if not row:
        return Unsure(reason="unreadable answer")
    sighting = _sighting(row)
    if not sighting or (sighting.correlation_key, sighting.flow) != (dispatch.id, dispatch.flow):
        return Unsure(reason="the answer is not about this dispatch")
    altered = reading.params_altered(_params(dispatch.id, dispatch.params), row["params"])
    return Accepted(
        external_id=sighting.external_id,
        state=State.QUEUED if sighting.failure else sighting.state or State.QUEUED,  # a failure is told by a sweep
        account=_account(reply.headers),
        accepted_at=sighting.created_at,
        warnings=sighting.warnings + altered,
    )


def _sighting(row: object) -> Sighting | None:
    """Reads one row of RapidPro's; None if it does not even say which start it shows."""
    uuid, status = _uuid(row), reading.inside(row, "status")
    if not uuid:
        return None
    state = STATES.get(status) if isinstance(status, str) else None
    total, started = (reading.inside(row, "progress", name) for name in ("total", "started"))
    if state is State.COMPLETED and isinstance(total, int) and total <= 0:
        state = State.SKIPPED  # it counts -1 when it found nobody to start
    return Sighting(
        external_id=uuid,
        state=state,
        correlation_key=reading.text_of(reading.inside(row, "params", CORRELATION_KEY), KEY) or None,
        flow=_uuid(reading.inside(row, "flow")),
        created_at=reading.moment_of(reading.inside(row, "created_on")),
        contact_count=reading.count_of(total),
        contact_started_count=reading.count_of(started),
        failure=FAILURES.get(state) if state else None,
        warnings=() if state else (reading.STATUS_UNKNOWN,),
    )


def _flow(row: object) -> Flow | None:
    uuid, name, archived = _uuid(row), reading.inside(row, "name"), reading.inside(row, "archived")
    startable = not archived if isinstance(archived, bool) else None
    return Flow(id=uuid, name=reading.name_of(name), startable=startable) if uuid else None


def _uuid(row: object) -> str:
    uuid = reading.inside(row, "uuid")
    return reading.text_of(uuid.lower(), UUID) if isinstance(uuid, str) else ""


def _account(headers: Mapping[str, str]) -> str:
    """Returns the workspace that answered: a UUID; of older ones, a number."""
    return reading.text_of(headers.get("x-temba-workspace") or headers.get("x-temba-org"), KEY)


def _zulu(moment: datetime) -> str:
    """Writes a moment with `Z`. With an offset, whose plus a server may read as a space, the list would be empty."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
