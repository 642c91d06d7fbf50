"""Twilio Studio: the Executions of its REST API v2.

What shapes this file:

1. One execution has one recipient and no idempotency key; `Parameters` are not shown again but in its Context.
2. `To` and `From` are addresses of one channel. A phone number has no prefix; `whatsapp:` and `client:` keep theirs;
   a SIP address is `name@company.com`. `From` may be a Messaging Service `MG…`, for text messages only.
3. `status` is `active` or `ended`, and `ended` is the end for whatever reason: success is not known.
4. One contact has one active execution at a time: a second one is refused with 409. An active one can be ended.
5. Pages have absolute URLs: only their query is used.
"""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from gateway.adapters import reading
from gateway.adapters.base import (
    DISPATCH_ID_SIZE,
    Accepted,
    Capabilities,
    Flows,
    Misconfigured,
    Missing,
    Reply,
    Request,
    Sweep,
    Unsure,
)
from gateway.adapters.room import Room
from gateway.adapters.twilio import addresses as twilio_addresses
from gateway.adapters.twilio import events as twilio_events
from gateway.adapters.twilio import lists as twilio_lists
from gateway.adapters.twilio import reading as twilio_reading
from gateway.errors import Reason, Violation
from gateway.model import CORRELATION_KEY, Cause, CompletionMeaning, Identity, RecipientKind, Recipients, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from gateway.adapters.base import Account, Distrusted, Exchange, Heard, Key, Outcome, Push, Trouble
    from gateway.model import Asked, Dispatch, Json
    from gateway.sightings import Sighting, Window

FLOWS_PATH = "/v2/Flows"
PARAMS_SIZE = 16_384  # bytes of UTF-8. A limit of ours, because Twilio documents none
RATE = (20, 1.0)  # new executions a second in an account; reading has a limit of its own
FORM = "application/x-www-form-urlencoded"
QUIET_WINDOW = timedelta(seconds=60)  # it ends requests of its own after about 30 s
ENDED_ALREADY = frozenset({400, 409})  # what ending an execution that has ended may be answered with


class Twilio:
    """Speaks to one Twilio account.

    Needs the credentials `account_sid` and `auth_token`, or in place of that `api_key` and `api_secret`, which are
    preferred. The SID is needed with those too: nothing else says for certain whose executions are shown. What Twilio
    posts is believed by the `auth_token` or the `shared_key` alone, so they may be given beside a key.

    A sender that is a plain number is that number on each recipient's channel: with a `whatsapp:` recipient it is sent
    as `whatsapp:+…`. A `whatsapp:` sender reaches only WhatsApp, a Messaging Service `MG…` every channel but
    calls.
    """

    capabilities = Capabilities(
        recipient_kinds=(RecipientKind.URN,),
        urn_schemes=tuple(twilio_addresses.SCHEMES),
        sender=True,
        restart_participants=False,  # true ends what runs; false would need to know who has been in a flow
        exclude_active=True,
        cancel=True,
        one_at_a_time=True,
        recipients_per_dispatch=1,
        params_size=PARAMS_SIZE,
        completion_meaning=CompletionMeaning.EXECUTIONS_ENDED,
        rate=RATE,
        quiet_window=QUIET_WINDOW,
        rate_counts_reads=False,
        lists_by_flow=True,
        request_id="twilio-request-id",
    )

    def __init__(self, account: Account) -> None:
        given = account.credentials
        user, secret = ("api_key", "api_secret") if given.get("api_key") else ("account_sid", "auth_token")
        name = reading.credential(account, user, "the Twilio account's SID, `AC…`")
        login = f"{name}:{reading.credential(account, secret, f'the secret that belongs to `{user}`')}"
        self._account = reading.credential(account, "account_sid", "the Twilio account's SID, `AC…`")
        if not twilio_reading.ACCOUNT.fullmatch(self._account):
            raise Misconfigured("`account_sid` is not one: set it to `AC` and 32 hexadecimal digits.")
        self._account = twilio_reading.account_id(self._account)
        self._region = twilio_reading.region(account.url)
        if wrong := twilio_addresses.wrong_sender(account.sender):
            raise Misconfigured(f"`sender` {wrong}")
        self._signed_with = twilio_events.Keys(
            token=_optional(account, "auth_token", "the account's primary auth token"),
            shared=_optional(account, "shared_key", "the secret of the SharedKey that signs events"),
        )
        basic = b64encode(login.encode()).decode()
        self._headers = {"Authorization": f"Basic {basic}", "Accept": "application/json"}

    def offers(self, flow: str) -> bool:
        """Whether `flow` is `FW` and 32 hexadecimal digits."""
        return twilio_reading.FLOW.fullmatch(flow) is not None

    def external_id(self, said: str) -> str:
        """Returns the SID of an execution as it is: its case counts."""
        return said if twilio_reading.EXECUTION.fullmatch(said) else ""

    def same_as(self, kind: RecipientKind, recipient: str, country: str = "") -> str:  # noqa: ARG002
        """Returns the canonical form of an address; numbers of Twilio's have their country code."""
        return twilio_addresses.canonical(recipient)

    def objections(self, asked: Asked, recipients: Recipients, country: str = "") -> list[Violation]:  # noqa: ARG002
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
            headers={**self._headers, "Content-Type": FORM},
            body=urlencode(form).encode(),
            creates=True,
        )
        reply = twilio_reading.sift(answer)
        if not isinstance(reply, Reply):
            return reply
        if reply.status not in reading.OK:
            return twilio_reading.refusal(reply, (*dispatch.recipients.urns, dispatch.sender), dispatch.number - 1)
        return self._accepted(reading.object_in(reply.body), dispatch, address)

    def sweep(
        self,
        since: datetime | None,  # noqa: ARG002 -- Twilio cannot list by when a row moved
        windows: Sequence[Window],
        sought: Collection[str] = (),  # noqa: ARG002 -- no list shows params
    ) -> Exchange[Sweep]:
        """Lists the executions of each flow that were created in its window.

        What ran before that is a few among many that have ended: of those only the active ones are listed, and one
        that is not among them is not ended for that.
        """
        shown: dict[str, Sighting] = {}
        account, is_gapless = "", True
        began: datetime | None = None
        trouble: Trouble | None = None
        unread: set[str] = set()
        room = Room()
        for window in windows:
            listed = yield from twilio_lists.executions(window, self._asking(_path(window.flow)), room)
            shown.update(listed.sightings)
            account = account or listed.account
            began = began or listed.began
            is_gapless = is_gapless and listed.is_gapless
            if listed.trouble and listed.concerns_one_flow:
                unread.add(window.flow)
            elif listed.trouble:
                trouble = listed.trouble
                break  # it will not be better with the next flow
        return Sweep(
            sightings=tuple(shown.values()),
            account=self._here(account or self._account),
            began=began,
            trouble=trouble,
            unread=frozenset(unread),
            is_gapless=is_gapless,
        )

    def look(self, dispatch: Dispatch) -> Exchange[Sighting | Missing | Trouble]:
        """Reads one execution. One that is unknown, deleted or not visible yet is a 404."""
        answer = yield self._asking(_path(dispatch.flow, dispatch.external_id))("")
        return twilio_reading.one_execution(answer, dispatch.external_id)

    def identify(self) -> Exchange[Identity | Trouble]:
        """Lists one flow, whose row names the account. Without flows, or a key that may not read them, it is as set."""
        answer = yield self._asking(FLOWS_PATH)(urlencode({"PageSize": 1}))
        reply = twilio_reading.sift(answer)
        if not isinstance(reply, Reply):
            return Identity(account=self._here(self._account)) if twilio_reading.lacks_permission(answer) else reply
        rows = reading.object_in(reply.body).get("flows") if reply.status in reading.OK else None
        if not isinstance(rows, list):
            return reading.unread(reply, "list")
        account = self._account_of(rows)
        is_ours = account == self._account
        return Identity(account=self._here(account)) if is_ours else twilio_reading.of_another(account)

    def key(self, flow: str, external_id: str) -> Exchange[Key | Missing | Trouble]:
        """Reads an execution's context: no list shows with which `Parameters` one was created."""
        body = twilio_reading.one((yield self._asking(f"{_path(flow, external_id)}/Context")("")))
        return twilio_reading.key_in(body, flow, external_id) if isinstance(body, dict) else body

    def cancel(self, dispatch: Dispatch) -> Exchange[Sighting | Missing | Trouble]:
        """Ends an execution, which can be asked for again and again. What it refuses as ended already is looked at."""
        answer = yield Request(
            method="POST",
            path=_path(dispatch.flow, dispatch.external_id),
            headers={**self._headers, "Content-Type": FORM},
            body=urlencode({"Status": "ended"}).encode(),
        )
        shown = twilio_reading.one_execution(answer, dispatch.external_id)
        is_refused = isinstance(answer, Reply) and answer.status in ENDED_ALREADY and twilio_reading.is_own(answer)
        return (yield from self.look(dispatch)) if is_refused and isinstance(shown, Unsure) else shown

    def hear(self, push: Push) -> tuple[Heard, ...] | Distrusted | Unsure:
        """Reads a post of Event Streams."""
        return twilio_events.hear(push, keys=self._signed_with, account=self._account)

    def flows(self, flow: str = "") -> Exchange[Flows]:
        """Lists the account's flows, or the one. A draft may have an older revision that is published: not told."""
        if not flow:
            query = urlencode({"PageSize": twilio_lists.PAGE_SIZE})
            found = yield from reading.scan(
                query,
                ask=self._asking(FLOWS_PATH),
                judge=twilio_reading.sift_read,
                rows="flows",
                read=twilio_reading.flow,
                follow=twilio_reading.next_page,
                page_size=twilio_lists.PAGE_SIZE,
                room=Room.for_flows(),
            )
            unread = reading.UNREAD_ROW if found.unread else None
            return Flows(flows=tuple(found.rows), trouble=found.trouble or unread)
        row = twilio_reading.one((yield self._asking(f"{FLOWS_PATH}/{quote(flow, safe='')}")("")))
        if not isinstance(row, dict):
            return Flows(flows=(), trouble=None if isinstance(row, Missing) else row)
        shown = twilio_reading.flow(row)
        if shown is None:
            return Flows(flows=(), trouble=twilio_reading.UNREADABLE)
        if shown.id.lower() != flow.lower():
            return Flows(flows=(), trouble=reading.foreign("flow"))
        return Flows(flows=(shown,))

    def _account_of(self, rows: list[object]) -> str:
        """Tells whose rows these are: the configured account's if they do not say."""
        return next(filter(None, map(twilio_reading.account, rows)), self._account)

    def _here(self, account: str) -> str:
        """Returns what an account is called in this region: each has executions of its own.

        In the first one that is the SID alone, as stores have it from before regions counted.
        """
        return f"{account}/{self._region}" if self._region else account

    def _asking(self, path: str) -> Callable[[str], Request]:
        return lambda query: Request(method="GET", path=path, query=query, headers=self._headers)

    def _accepted(self, row: dict[str, object], dispatch: Dispatch, address: str) -> Accepted | Unsure:
        sighting, account = twilio_reading.sighting(row), twilio_reading.account(row)
        if not sighting or sighting.flow.lower() != dispatch.flow.lower():
            return Unsure(reason="the answer is not about this dispatch", cause=Cause.UNREADABLE)
        is_recipients = twilio_addresses.is_same(row.get("contact_channel_address"), address)
        if account != self._account or not is_recipients:
            return Unsure(reason="the answer is about another recipient or account", cause=Cause.NAMED)
        return Accepted(
            external_id=sighting.external_id,
            state=sighting.state or State.QUEUED,
            account=self._here(account),
            accepted_at=sighting.created_at,
            warnings=sighting.warnings,
        )


def _optional(account: Account, name: str, meaning: str) -> str:
    return reading.credential(account, name, meaning) if account.credentials.get(name, "").strip() else ""


def _path(flow: str, execution: str = "") -> str:
    path = f"{FLOWS_PATH}/{quote(flow, safe='')}/Executions"
    return f"{path}/{quote(execution, safe='')}" if execution else path


def _parameters(dispatch_id: str, params: Mapping[str, Json]) -> str:
    return json.dumps({CORRELATION_KEY: dispatch_id, **params}, ensure_ascii=False, separators=(",", ":"))


def _unsupported(asked: Asked, recipients: Recipients) -> Iterator[Violation]:
    not_a_thing = "are not supported by Twilio: send `urns`."
    unknown = (
        "cannot be false on Twilio, which does not show who has been in a flow: leave it out, or use `exclude_active`."
    )
    found = (
        ("groups", not_a_thing, bool(recipients.groups)),
        ("contacts", not_a_thing, bool(recipients.contacts)),
        ("restart_participants", unknown, asked.restart_participants is False),
    )
    for field, description, is_asked_for in found:
        if is_asked_for:
            yield Violation(field=field, description=description, reason=Reason.UNSUPPORTED_BY_BACKEND)
