"""Pigeon, an invented backend: `POST /flights` sends a pigeon to a place, `GET /flights` lists all, the oldest first.

A flight shows the note that it carries: the correlation key is a part of that. `GET /loft` says whose pigeons they are.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import partial
from json import dumps
from typing import TYPE_CHECKING

from gateway.adapters import reading
from gateway.adapters.base import (
    DISPATCH_ID_SIZE,
    Accepted,
    Capabilities,
    Missing,
    Refused,
    Reply,
    Request,
    Sweep,
    Unsure,
)
from gateway.errors import Reason, Violation
from gateway.model import CORRELATION_KEY, Cause, CompletionMeaning, Identity, Notice, RecipientKind, Recipients, State
from gateway.sightings import Sighting

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from gateway.adapters.base import Account, Exchange, Outcome, Trouble
    from gateway.model import Asked, Dispatch
    from gateway.sightings import Window

NOTE_SIZE = 10_000  # characters of JSON
STATES = {"airborne": State.STARTED, "landed": State.COMPLETED}
REFUSALS = {"no such route": (Reason.FLOW_NOT_FOUND, "flow"), "no such place": (Reason.ADDRESS_INVALID, "urns[0]")}
FLIGHT, ROUTE, WORD = re.compile(r"p-[0-9a-f]{32}"), re.compile(r"route-[0-9]{2}"), re.compile(r"[!-~]{1,64}")


def error_in(reply: Reply) -> object:
    """Returns what Pigeon says against a request; None if these are not its words."""
    return reading.inside(reading.object_in(reply.body), "error")


judge = partial(
    reading.sift,
    is_own=lambda reply: isinstance(error_in(reply), str),
    is_suspended=lambda reply: error_in(reply) == "loft closed",
)


class Pigeon:
    """Speaks to one loft. Needs the credential `token`: the key of the loft."""

    capabilities = Capabilities(
        recipient_kinds=(RecipientKind.URN,),
        urn_schemes=("place",),
        sender=False,
        restart_participants=False,
        exclude_active=False,
        cancel=False,
        one_at_a_time=False,
        recipients_per_dispatch=1,
        params_size=NOTE_SIZE,
        completion_meaning=CompletionMeaning.EXECUTIONS_ENDED,
        rate=(100, 1.0),
        quiet_window=timedelta(seconds=1),
        rate_counts_reads=False,
    )

    def __init__(self, account: Account) -> None:
        key = reading.credential(account, "token", "the key of a loft")
        self._request = partial(Request, headers={"Authorization": f"Bearer {key}"})

    def offers(self, flow: str) -> bool:
        """Whether `flow` is a route."""
        return ROUTE.fullmatch(flow) is not None

    def external_id(self, said: str) -> str:
        """Returns the name of a flight as it is: its case counts."""
        return said if FLIGHT.fullmatch(said) else ""

    def same_as(self, kind: RecipientKind, recipient: str, country: str = "") -> str:  # noqa: ARG002
        """Returns the name of a place in lower case, as pigeons hear it."""
        return recipient.lower()

    def objections(self, asked: Asked, recipients: Recipients, country: str = "") -> list[Violation]:  # noqa: ARG002
        """Lists what a pigeon cannot do."""
        given: dict[str, object] = {
            "contacts": recipients.contacts,
            "groups": recipients.groups,
            "sender": asked.sender,
        }
        given |= {"restart_participants": asked.restart_participants, "exclude_active": asked.exclude_active}
        never, no_place = "is not a thing of Pigeon's: leave it out.", "must be `place:` and a name."
        found = [
            Violation(field=name, description=never, reason=Reason.UNSUPPORTED_BY_BACKEND)
            for name, value in given.items()
            if value
        ]
        if not self.offers(asked.flow):
            found.append(Violation(field="flow", description="must be `route-` and two digits."))
        if len(dumps({CORRELATION_KEY: "x" * DISPATCH_ID_SIZE, **asked.params})) > NOTE_SIZE:
            found.append(Violation(field="params", description=f"must fit into {NOTE_SIZE} characters of JSON."))
        bad = [index for index, urn in enumerate(recipients.urns) if not urn.startswith("place:")]
        return [*found, *(Violation(field=f"urns[{index}]", description=no_place) for index in bad)]

    def plan(self, asked: Asked, recipients: Recipients) -> list[Recipients]:  # noqa: ARG002
        """Gives each place a pigeon of its own."""
        return [Recipients(urns=(urn,)) for urn in recipients.urns]

    def send(self, dispatch: Dispatch) -> Exchange[Outcome]:
        """Sends one pigeon off. It is believed to be ours only if it shows our route and our key."""
        note = {CORRELATION_KEY: dispatch.id, **dispatch.params}
        body = dumps({"to": dispatch.recipients.urns[0], "by": dispatch.flow, "note": note}).encode()
        reply = judge((yield self._request(method="POST", path="/flights", body=body, creates=True)))
        if not isinstance(reply, Reply):
            return reply
        if reply.status not in reading.OK:
            reason, field = REFUSALS.get(str(error_in(reply)), (Reason.BACKEND_REJECTED, ""))
            metadata = reading.listed([field] if field else [])
            return Refused(failure=Notice(reason=reason, message="Pigeon refused the flight.", metadata=metadata))
        row = reading.object_in(reply.body)
        found = sighting(row)
        if found is None or found.flow != dispatch.flow:
            return Unsure(reason="the answer is not about this dispatch", cause=Cause.UNREADABLE)
        if found.correlation_key != dispatch.id:
            return Unsure(reason="the answer is about another dispatch", cause=Cause.NAMED)
        return Accepted(
            external_id=found.external_id,
            state=found.state or State.QUEUED,
            account=reading.text_of(row.get("loft"), WORD),
            accepted_at=found.created_at,
            warnings=found.warnings,
        )

    def sweep(self, since: datetime | None, windows: Sequence[Window], sought: Collection[str] = ()) -> Exchange[Sweep]:  # noqa: ARG002
        """Lists every flight. A new one is added at the end, so none is missed between two pages."""
        if not windows:
            return Sweep(sightings=())
        found = yield from self._list()
        last = reading.object_in(found.last.body) if found.last else {}
        return Sweep(
            sightings=tuple({each.external_id: each for each in found.rows}.values()),
            account=reading.text_of(last.get("loft"), WORD),
            trouble=found.trouble,
            is_gapless=not found.unread,
        )

    def look(self, dispatch: Dispatch) -> Exchange[Sighting | Missing | Trouble]:
        """Looks for one flight in the list: there is no other way."""
        found = yield from self._list()
        doubt = found.trouble or (reading.UNREAD_ROW if found.unread else None)
        shown = {each.external_id: each for each in found.rows}
        return shown.get(dispatch.external_id) or doubt or Missing()

    def identify(self) -> Exchange[Identity | Trouble]:
        """Asks whose loft it is."""
        reply = judge((yield self._request(method="GET", path="/loft")))
        if not isinstance(reply, Reply):
            return reply
        name = reading.text_of(reading.object_in(reply.body).get("loft"), WORD)
        return Identity(account=name) if name and reply.status in reading.OK else reading.unread(reply)

    def _list(self) -> Exchange[reading.Scan[Sighting]]:
        return reading.scan(
            "",
            ask=lambda query: self._request(method="GET", path="/flights", query=query),
            judge=judge,
            rows="flights",
            read=sighting,
            follow=lambda page: reading.query_in(page, "next"),
        )


def sighting(row: object) -> Sighting | None:
    """Reads one flight; None if it does not even say which."""
    flight = reading.text_of(reading.inside(row, "flight"), FLIGHT)
    state = STATES.get(str(reading.inside(row, "phase")))
    shown = Sighting(
        external_id=flight,
        state=state,
        correlation_key=reading.text_of(reading.inside(row, "note", CORRELATION_KEY), WORD) or None,
        flow=reading.text_of(reading.inside(row, "by"), ROUTE),
        created_at=reading.moment_of(reading.inside(row, "sent")),
        warnings=() if state else (reading.STATUS_UNKNOWN,),
    )
    return shown if flight else None
