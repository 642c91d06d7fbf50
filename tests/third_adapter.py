"""Pigeon, an invented backend: `POST /flights` sends a pigeon to one address, `GET /flights` lists all of them."""
# ruff: noqa: ANN201, ARG002, D101, D102, D103

from datetime import timedelta
from functools import partial
from json import dumps

from gateway.adapters.base import Accepted, Account, Capabilities, Missing, Refused, Reply, Request, Sweep, Unsure
from gateway.adapters.reading import OK, credential, inside, object_in, scan, sift
from gateway.errors import Reason, Violation
from gateway.model import Asked, CompletionMeaning, Dispatch, Notice, RecipientKind, Recipients, Sighting, State

STATES = {"airborne": State.STARTED, "landed": State.COMPLETED}
judge = partial(sift, is_own=lambda reply: bool(object_in(reply.body)), is_suspended=lambda _: False)


class Pigeon:
    capabilities = Capabilities(
        recipient_kinds=(RecipientKind.URN,), urn_schemes=(), sender=False, restart_participants=False, cancel=False,
        exclude_active=False, recipients_per_dispatch=1, params_size=10_000, rate=(100, 1.0), rate_counts_reads=False,
        one_at_a_time=False, quiet_window=timedelta(seconds=0),
        completion_meaning=CompletionMeaning.EXECUTIONS_ENDED)  # fmt: skip

    def __init__(self, account: Account) -> None:
        key = credential(account, "token", "the key of a loft")
        self._request = partial(Request, method="GET", path="/flights", headers={"Authorization": f"Bearer {key}"})

    def offers(self, flow: str) -> bool:
        return flow.startswith("route-")

    def same_as(self, kind: RecipientKind, recipient: str, country: str = "") -> str:
        return recipient.casefold()

    def objections(self, asked: Asked, recipients: Recipients, country: str = "") -> list[Violation]:
        odd = ("contacts", "groups", "sender", "restart_participants", "exclude_active")
        no = {"description": "is not a thing of Pigeon's: leave it out.", "reason": Reason.UNSUPPORTED_BY_BACKEND}
        return [Violation(field=name, **no) for name in odd if getattr(recipients, name, getattr(asked, name, None))]

    def plan(self, asked: Asked, recipients: Recipients) -> list[Recipients]:
        return [Recipients(urns=(urn,)) for urn in recipients.urns]

    def send(self, dispatch: Dispatch):
        flight = {"to": dispatch.recipients.urns[0], "by": dispatch.flow, "key": dispatch.id, "note": dispatch.params}
        reply = judge((yield self._request(method="POST", body=dumps(flight).encode(), creates=True)))
        if not isinstance(reply, Reply):
            return reply
        if reply.status not in OK:
            return Refused(failure=Notice(reason=Reason.BACKEND_REJECTED, message="Pigeon refused the flight."))
        found = seen(object_in(reply.body))
        if found is None or found.correlation_key != dispatch.id:
            return Unsure(reason="the answer is not about this dispatch")
        return Accepted(external_id=found.external_id, state=State.QUEUED, account="", accepted_at=None)

    def sweep(self, since: object, windows: object):
        page = {"ask": lambda _: self._request(), "judge": judge, "rows": "flights", "follow": lambda _: ""}
        found = yield from scan("", read=seen, **page)
        odd = Unsure(reason="unreadable row") if found.unread else None
        return Sweep(sightings=tuple(found.rows), trouble=found.trouble or odd)

    def look(self, dispatch: Dispatch):
        found = yield from self.sweep(None, ())
        return {it.external_id: it for it in found.sightings}.get(dispatch.external_id, found.trouble or Missing())

    def identify(self):
        return (yield from self.sweep(None, ())).trouble or ""  # Pigeon does not tell whose loft it is


def seen(row: object) -> Sighting | None:
    name, key, phase = (inside(row, part) for part in ("flight", "key", "phase"))
    return Sighting(external_id=name, state=STATES.get(str(phase)), correlation_key=key) if type(name) is str else None
