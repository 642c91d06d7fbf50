"""RapidPro and TextIt: `flow_starts.json` of their API v2, as old workspaces (v7 to v9) and new ones (v10 on) speak it.

What shapes this file:

1. A start has no idempotency key; what we put in `params` comes back in every row. Old workspaces drop what is beyond
   256 values and rewrite keys outside `[A-Za-z0-9_]`, so the correlation key comes first and is a plain word.
2. `urns` never come back. `next` holds a host that may be internal: only its cursor is used.
3. `completed` means that everybody has entered the flow. A total of -1 then means that nobody was there to.
4. A refusal lists its complaints by field, and by index in `urns`; a suspended workspace is a 400 as well.
5. How its lists are read stands in `rapidpro/reading.py`.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from gateway.adapters import reading
from gateway.adapters.base import (
    DISPATCH_ID_SIZE,
    Capabilities,
    Flows,
    Misconfigured,
    Missing,
    Refused,
    Reply,
    Request,
    Sweep,
)
from gateway.adapters.rapidpro import addresses as rapidpro_addresses
from gateway.adapters.rapidpro import reading as rapidpro_reading
from gateway.adapters.rapidpro import refusals as rapidpro_refusals
from gateway.adapters.rapidpro.addresses import PER_KIND
from gateway.adapters.room import Room
from gateway.errors import Reason, Violation
from gateway.model import CORRELATION_KEY, CompletionMeaning, RecipientKind, Recipients

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from gateway.adapters.base import Account, Exchange, Failed, Outcome, Trouble
    from gateway.model import Asked, Dispatch, Identity
    from gateway.sightings import Sighting, Window

FLOWS_PATH = "/api/v2/flows.json"
WORKSPACE_PATH = "/api/v2/workspace.json"
PATH = "/api/v2/flow_starts.json"  # without `.json` a new workspace answers 403, and a GET shows nothing
PARAMS_SIZE = 10_000  # characters, as RapidPro counts them: `json.dumps`, ASCII, ", " and ": "
PAGE_SIZE = 250  # rows, always
RATE = (2_500, 3_600.0)  # of the older workspaces; the newer allow 3,600 an hour. Everything counts, reads too
QUIET_WINDOW = timedelta(seconds=120)  # its workers are killed after 30 s, by default; proxies and replicas add to it


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
        request_id="x-request-id",  # not RapidPro's own: some proxies add one
    )

    def __init__(self, account: Account) -> None:
        if account.sender:
            raise Misconfigured("`sender` means nothing to RapidPro, whose flows choose the channel: remove it.")
        token = reading.credential(account, "token", "an API token of the RapidPro workspace")
        self._headers = {"Authorization": f"Token {token}", "Accept": "application/json"}

    def offers(self, flow: str) -> bool:
        """Whether `flow` is a UUID in lower case with dashes: RapidPro knows no flow by any other spelling."""
        return rapidpro_reading.UUID.fullmatch(flow) is not None

    def external_id(self, said: str) -> str:
        """Returns a UUID in lower case: RapidPro takes it in either."""
        return said.lower() if rapidpro_reading.UUID.fullmatch(said.lower()) else ""

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
        size = len(json.dumps(rapidpro_reading.params_of("x" * DISPATCH_ID_SIZE, asked.params)))
        if size > PARAMS_SIZE:
            found.append(
                Violation(
                    field="params",
                    description=f"take {size:,} characters as ASCII JSON with `{CORRELATION_KEY}`; RapidPro takes"
                    f" {PARAMS_SIZE:,}: send less, or a reference to it.",
                )
            )
        return [*found, *rapidpro_addresses.overlap(recipients, country)]

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
            sent, first = rapidpro_addresses.sent(dispatch.recipients), (dispatch.number - 1) * PER_KIND
            return Refused(failure=rapidpro_refusals.read(reply, sent, first))
        return rapidpro_reading.accepted(reply, dispatch)

    def sweep(self, since: datetime | None, windows: Sequence[Window], sought: Collection[str] = ()) -> Exchange[Sweep]:
        """Lists every flow start modified since then, oldest first, those of others too.

        A row that moves while it is read comes again, later: the later one counts. The next sweep begins where this one
        began, by the server's clock: no row moves it further, whatever moment that row has.
        """
        start = since or min((window.stragglers or window.oldest for window in windows), default=None)
        if start is None:
            return Sweep(sightings=())
        moves, room = rapidpro_reading.Moves(start), Room()
        found = yield from reading.scan(
            moves.first,
            ask=self._asking(PATH),
            judge=_sift,
            rows=rapidpro_reading.ROWS,
            read=lambda row: room.keep(rapidpro_reading.sighting(row, sought)),
            follow=moves.follow,
            page_size=PAGE_SIZE,
            room=room,
        )
        headers = found.headers or {}
        began = reading.date_of(headers)
        return Sweep(
            sightings=tuple({each.external_id: each for each in found.rows}.values()),
            account=rapidpro_reading.account(headers),
            since=start,
            newest=start if began is None else max(start, began),  # never None: what is not listed has not ended
            began=began,
            trouble=found.trouble,
            is_gapless=moves.is_gapless and not found.unread,
            needs_closing=found.pages > 1,
        )

    def look(self, dispatch: Dispatch) -> Exchange[Sighting | Missing | Trouble]:
        """Reads one flow start. An unknown one is an empty list, and so is one that a replica does not have yet."""
        reply = _sift((yield self._asking(PATH)(urlencode({"uuid": dispatch.external_id}))))
        if not isinstance(reply, Reply):
            return reply
        rows = reading.object_in(reply.body).get(rapidpro_reading.ROWS) if reply.status in reading.OK else None
        if not isinstance(rows, list):
            return reading.unread(reply, "list")
        for row in rows:
            shown = rapidpro_reading.sighting(row)
            if shown and shown.external_id == dispatch.external_id.lower():
                return shown
        return reading.foreign("start") if rows else Missing()

    def identify(self) -> Exchange[Identity | Trouble]:
        """Reads the workspace: its `uuid`, the name that headers give it, and the country that completes numbers."""
        reply = _sift((yield self._asking(WORKSPACE_PATH)("")))
        if not isinstance(reply, Reply):
            return reply
        return rapidpro_reading.identity(reply) if reply.status in reading.OK else reading.unread(reply)

    def flows(self, flow: str = "") -> Exchange[Flows]:
        """Lists the workspace's flows, or the one. An archived flow can be started, and RapidPro then fails it."""
        query = {"uuid": flow} if flow else {}
        found = yield from reading.scan(
            urlencode(query),
            ask=self._asking(FLOWS_PATH),
            judge=_sift,
            rows=rapidpro_reading.ROWS,
            read=rapidpro_reading.flow,
            follow=lambda page: rapidpro_reading.cursor_in(page, query),
            page_size=PAGE_SIZE,
            room=Room.for_flows(),
        )
        if flow and any(each.id != flow for each in found.rows):
            return Flows(flows=(), trouble=reading.foreign("flow"))
        return Flows(flows=tuple(found.rows), trouble=found.trouble or (reading.UNREAD_ROW if found.unread else None))

    def _asking(self, path: str) -> Callable[[str], Request]:
        return lambda query: Request(method="GET", path=path, query=query, headers=self._headers)


def _body(dispatch: Dispatch) -> dict[str, object]:
    fields = {
        "flow": dispatch.flow,
        **rapidpro_addresses.sent(dispatch.recipients),
        "restart_participants": dispatch.restart_participants,
        "exclude_active": dispatch.exclude_active,
        "params": rapidpro_reading.params_of(dispatch.id, dispatch.params),
    }
    return {name: value for name, value in fields.items() if value is not None and value != []}


def _sift(answer: Reply | Failed) -> Reply | Trouble:
    return reading.sift(answer, is_own=rapidpro_refusals.is_own, is_suspended=rapidpro_refusals.is_suspended)
