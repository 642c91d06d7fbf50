"""Twilio Studio: the Executions of its REST API v2.

What shapes this file:

1. One execution has one recipient and no idempotency key; `Parameters` are not shown again but in its Context.
2. `To` and `From` are addresses of one channel. A phone number has no prefix; `whatsapp:` and `client:` keep theirs;
   a SIP address is `name@company.com`. `From` may be a Messaging Service `MG…`, for text messages only.
3. `status` is `active` or `ended`, and `ended` is the end for whatever reason: success is not known.
4. One contact has one active execution at a time: a second one is refused with 409.
5. Pages have absolute URLs: only their query is used.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from datetime import UTC, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

from gateway.adapters import reading, twilio_addresses
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
from gateway.errors import Reason, Violation
from gateway.model import CORRELATION_KEY, CompletionMeaning, Flow, Notice, RecipientKind, Recipients, Sighting, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from gateway.adapters.base import Account, Exchange, Failed, Outcome, Trouble
    from gateway.model import Asked, Dispatch, Json, Window

FLOWS_PATH = "/v2/Flows"
PARAMS_SIZE = 16_384  # bytes of UTF-8. A limit of ours, because Twilio documents none
RATE = (20, 1.0)  # new executions a second in an account; reading has a limit of its own
PAGE_SIZE = 1_000  # the most
SLACK = timedelta(seconds=60)  # around a window, because creation times are whole seconds of another clock

STATES = {"active": State.STARTED, "ended": State.COMPLETED}

REFUSALS = {
    20404: (
        Reason.FLOW_NOT_FOUND,
        "flow",
        "there is no such flow in this account and region, or it is inactive",
    ),
    20409: (
        Reason.RECIPIENT_BUSY,
        "urns[0]",
        "the recipient has an active execution; it may start when that has ended",
    ),
    **dict.fromkeys((21210, 21212, 21213), (Reason.ADDRESS_INVALID, "sender", "the account cannot use the sender")),
    **dict.fromkeys(
        (21211, *range(21214, 21220)), (Reason.ADDRESS_INVALID, "urns[0]", "the address is not valid or not reachable")
    ),
    21408: (Reason.ADDRESS_INVALID, "urns[0]", "the account may not send to the recipient's region"),
    21610: (Reason.ADDRESS_INVALID, "urns[0]", "the recipient has opted out"),
    21614: (Reason.ADDRESS_INVALID, "urns[0]", "the recipient's number is not a mobile one"),
}
"""What the codes of Twilio's refusals mean: a reason, the field of ours, and words for a person."""

MEANING_OF_STATUS = {404: 20404, 409: 20409}  # where the body does not say
NOT_FOUND = 404
TOO_LARGE = 413
OF_ONE_FLOW = frozenset({400, 404})  # refusals that another flow need not meet
NOT_ACTIVE = 20005  # "Account not active"
MISSING_PARAMETER = re.compile(r"Missing required parameter (To|From|Parameters)\b")
FIELDS = {"To": "urns[0]", "From": "sender", "Parameters": "params"}

FLOW = re.compile(r"FW[0-9a-fA-F]{32}")
EXECUTION = re.compile(r"FN[0-9a-fA-F]{32}")
ACCOUNT = re.compile(r"AC[0-9a-fA-F]{32}")


class Twilio:
    """Speaks to one Twilio account.

    Needs the credentials `account_sid` and `auth_token`, or `api_key` and `api_secret`, which are preferred; with those
    `account_sid` may be left out, and then executions of any account are believed to be ours.

    A sender that is a plain number is that number on each recipient's channel: with a `whatsapp:` recipient it is sent
    as `whatsapp:+…`. A `whatsapp:` sender reaches only WhatsApp, a Messaging Service `MG…` only `tel:`.
    """

    capabilities = Capabilities(
        recipient_kinds=(RecipientKind.URN,),
        urn_schemes=tuple(twilio_addresses.SCHEMES),
        sender=True,
        restart_participants=False,
        exclude_active=True,
        cancel=False,  # Twilio can end an execution; this version does not ask it to
        recipients_per_dispatch=1,
        params_size=PARAMS_SIZE,
        completion_meaning=CompletionMeaning.EXECUTIONS_ENDED,
        rate=RATE,
        rate_counts_reads=False,
    )

    def __init__(self, account: Account) -> None:
        given = account.credentials
        user, secret = ("api_key", "api_secret") if given.get("api_key") else ("account_sid", "auth_token")
        name = reading.credential(account, user, "the Twilio account's SID, `AC…`, or use `api_key` and `api_secret`")
        login = f"{name}:{reading.credential(account, secret, f'the secret that belongs to `{user}`')}"
        self._account = given.get("account_sid", "").strip()
        if self._account and not ACCOUNT.fullmatch(self._account):
            raise Misconfigured("`account_sid` is not one: set it to `AC` and 32 hexadecimal digits.")
        if wrong := twilio_addresses.wrong_sender(account.sender):
            raise Misconfigured(f"`sender` {wrong}")
        basic = b64encode(login.encode()).decode()
        self._headers = {"Authorization": f"Basic {basic}", "Accept": "application/json"}

    def offers(self, flow: str) -> bool:
        """Whether `flow` is `FW` and 32 hexadecimal digits."""
        return FLOW.fullmatch(flow) is not None

    def objections(self, asked: Asked, recipients: Recipients) -> list[Violation]:
        """Lists what Twilio cannot express, and addresses that are none of its."""
        found = []
        if not self.offers(asked.flow):
            found.append(Violation(field="flow", description="must be a flow's SID, `FW` and 32 hexadecimal digits."))
        size = len(_parameters("x" * DISPATCH_ID_SIZE, asked.params).encode(errors="surrogatepass"))
        if size > PARAMS_SIZE:
            description = (
                f"take {size:,} bytes as JSON with `{CORRELATION_KEY}`; {PARAMS_SIZE:,} are sent: send less, or a"
                " reference to it."
            )
            found.append(Violation(field="params", description=description))
        return [
            *found,
            *_unsupported(asked, recipients),
            *twilio_addresses.bad_urns(recipients.urns),
            *twilio_addresses.bad_sender(asked.sender, recipients.urns),
        ]

    def plan(self, asked: Asked, recipients: Recipients) -> list[Recipients]:  # noqa: ARG002
        """Makes each URN a dispatch of its own, in order."""
        return [Recipients(urns=(urn,)) for urn in recipients.urns]

    def send(self, dispatch: Dispatch) -> Exchange[Outcome]:
        """Creates an execution. `Parameters` is JSON without spaces, in UTF-8."""
        address = twilio_addresses.written(dispatch.recipients.urns[0])
        form = {
            "To": address,
            "From": twilio_addresses.sender_for(dispatch.sender, address),
            "Parameters": _parameters(dispatch.id, dispatch.params),
        }
        answer = yield Request(
            method="POST",
            path=_path(dispatch.flow),
            headers={**self._headers, "Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(form).encode(),
            creates=True,
        )
        reply = _sift(answer)
        if not isinstance(reply, Reply):
            return reply
        if reply.status not in reading.OK:
            return Refused(failure=_refusal(reply, (*dispatch.recipients.urns, dispatch.sender)))
        return self._accepted(reading.object_in(reply.body), dispatch, address)

    def sweep(self, since: datetime | None, windows: Sequence[Window]) -> Exchange[Sweep]:  # noqa: ARG002
        """Lists the executions of each flow that were created in its window, a minute around it included.

        Nothing tells what moved since a moment, so `since` does not matter and there is no `newest`.
        """
        rows: list[object] = []
        trouble: Trouble | None = None
        for window in windows:
            found = yield from reading.scan(
                _listing(window),
                ask=self._asking(_path(window.flow)),
                judge=_sift,
                rows="executions",
                follow=_next_page,
            )
            rows += found.rows
            trouble = found.trouble or trouble
            if found.trouble and not (found.last and found.last.status in OF_ONE_FLOW and _is_own(found.last)):
                break  # it is not about this flow, and will not be better with the next
        sightings = {each.external_id: each for row in rows if (each := _sighting(row))}
        accounts = (reading.text_of(reading.inside(row, "account_sid"), ACCOUNT) for row in rows)
        unread = None if all(map(_sighting, rows)) else Unsure(reason="unreadable row")
        return Sweep(
            sightings=tuple(sightings.values()),
            account=next(filter(None, accounts), self._account),
            trouble=trouble or unread,
        )

    def look(self, dispatch: Dispatch) -> Exchange[Sighting | Missing | Trouble]:
        """Reads one execution. One that is unknown, deleted or not visible yet is a 404."""
        path = f"{_path(dispatch.flow)}/{quote(dispatch.external_id, safe='')}"
        reply = _sift((yield self._asking(path)("")))
        if not isinstance(reply, Reply):
            return reply
        if reply.status == NOT_FOUND:
            return Missing()
        sighting = _sighting(reading.object_in(reply.body)) if reply.status in reading.OK else None
        if sighting is None:
            return Unsure(reason="unreadable answer" if reply.status in reading.OK else f"HTTP {reply.status}")
        if sighting.external_id != dispatch.external_id:
            return Unsure(reason="the answer is about another execution")
        return sighting

    def flows(self, flow: str = "") -> Exchange[Flows]:
        """Lists the account's flows, or the one. A draft may have an older revision that is published: not told."""
        if not flow:
            query = urlencode({"PageSize": PAGE_SIZE})
            found = yield from reading.scan(
                query, ask=self._asking(FLOWS_PATH), judge=_sift, rows="flows", follow=_next_page
            )
            flows = tuple(each for row in found.rows if (each := _flow(row)))
            unread = None if len(flows) == len(found.rows) else Unsure(reason="unreadable row")
            return Flows(flows=flows, trouble=found.trouble or unread)
        reply = _sift((yield self._asking(f"{FLOWS_PATH}/{quote(flow, safe='')}")("")))
        if not isinstance(reply, Reply):
            return Flows(flows=(), trouble=reply)
        if reply.status == NOT_FOUND:
            return Flows(flows=())
        shown = _flow(reading.object_in(reply.body)) if reply.status in reading.OK else None
        if shown is None:
            why = "unreadable answer" if reply.status in reading.OK else f"HTTP {reply.status}"
            return Flows(flows=(), trouble=Unsure(reason=why))
        if shown.id.lower() != flow.lower():
            return Flows(flows=(), trouble=Unsure(reason="the answer is about another flow"))
        return Flows(flows=(shown,))

    def _asking(self, path: str) -> Callable[[str], Request]:
        return lambda query: Request(method="GET", path=path, query=query, headers=self._headers)

    def _accepted(self, row: dict[str, object], dispatch: Dispatch, address: str) -> Accepted | Unsure:
        if not row:
            return Unsure(reason="unreadable answer")
        sighting = _sighting(row)
        account = reading.text_of(row.get("account_sid"), ACCOUNT)
        is_ours = (
            account
            and account.lower() == (self._account or account).lower()
            and reading.text_of(row.get("flow_sid"), FLOW).lower() == dispatch.flow.lower()
            and twilio_addresses.is_same(row.get("contact_channel_address"), address)
        )
        if not sighting or not is_ours:
            return Unsure(reason="the answer is not about this dispatch")
        return Accepted(
            external_id=sighting.external_id,
            state=sighting.state or State.QUEUED,
            account=account,
            accepted_at=reading.moment_of(row.get("date_created")),
            warnings=sighting.warnings,
        )


def _path(flow: str) -> str:
    return f"/v2/Flows/{quote(flow, safe='')}/Executions"


def _parameters(dispatch_id: str, params: Mapping[str, Json]) -> str:
    return json.dumps({CORRELATION_KEY: dispatch_id, **params}, ensure_ascii=False, separators=(",", ":"))


def _unsupported(asked: Asked, recipients: Recipients) -> Iterator[Violation]:
    restart = {
        True: "would need the running execution to be ended first, which this version does not do: leave it out.",
        False: "cannot be false on Twilio, which does not tell who has been in a flow: leave it out, or use"
        " `exclude_active`.",
    }
    found = {
        "groups": "are not a thing of Twilio's: send `urns`." if recipients.groups else "",
        "contacts": "are not a thing of Twilio's: send `urns`." if recipients.contacts else "",
        "restart_participants": "" if asked.restart_participants is None else restart[asked.restart_participants],
    }
    for field, description in found.items():
        if description:
            yield Violation(field=field, description=description, reason=Reason.UNSUPPORTED_BY_BACKEND)


def _sift(answer: Reply | Failed) -> Reply | Trouble:
    return reading.sift(answer, is_own=_is_own, is_suspended=_is_suspended)


def _code(reply: Reply) -> int | None:
    return reading.count_of(reading.object_in(reply.body).get("code"))


def _is_own(reply: Reply) -> bool:
    """Whether an error has the body that Twilio gives it; a `code` is optional, the HTTP status always in it."""
    return _code(reply) is not None or reading.object_in(reply.body).get("status") == reply.status


def _is_suspended(reply: Reply) -> bool:
    return _code(reply) == NOT_ACTIVE


def _refusal(reply: Reply, private: Sequence[str]) -> Notice:
    body = reading.object_in(reply.body)
    words = reading.quotation(body.get("message") or body.get("title"), private)  # `title` is of a newer shape
    code = _code(reply) or MEANING_OF_STATUS.get(reply.status)
    missing = MISSING_PARAMETER.search(words)
    default = "the params are too large" if reply.status == TOO_LARGE else words.rstrip(".") or "it does not say why"
    field = FIELDS[missing[1]] if missing else ""
    reason, field, meaning = REFUSALS.get(code or 0, (Reason.BACKEND_REJECTED, field, default))
    return Notice(
        reason=reason,
        message=f"Twilio refused the request (HTTP {reply.status}{f', code {code}' if code else ''}): {meaning}.",
        metadata={**reading.listed([field] if field else []), **({"code": str(code)} if code else {})},
    )


def _sighting(row: object) -> Sighting | None:
    """Reads one execution; None if it does not even say which one it is."""
    sid, status = reading.text_of(reading.inside(row, "sid"), EXECUTION), reading.inside(row, "status")
    state = STATES.get(status) if isinstance(status, str) else None
    return Sighting(external_id=sid, state=state, warnings=() if state else (reading.STATUS_UNKNOWN,)) if sid else None


def _flow(row: object) -> Flow | None:
    sid, name = reading.text_of(reading.inside(row, "sid"), FLOW), reading.inside(row, "friendly_name")
    startable = True if reading.inside(row, "status") == "published" else None
    return Flow(id=sid, name=reading.name_of(name), startable=startable) if sid else None


def _listing(window: Window) -> str:
    """Asks for a window. Creation times are whole seconds, and the end is not included."""
    span = {"DateCreatedFrom": window.oldest - SLACK, "DateCreatedTo": window.newest + SLACK + timedelta(seconds=1)}
    written = {name: moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for name, moment in span.items()}
    return urlencode({**written, "PageSize": PAGE_SIZE})


def _next_page(body: dict[str, object]) -> str | None:
    """Finds the next page's query, written anew so that nothing but parameters is taken over."""
    meta = body.get("meta")
    if not isinstance(meta, dict):
        return None
    query = reading.query_of(meta.get("next_page_url"))
    return urlencode(parse_qsl(query, keep_blank_values=True)) or None if query else query
