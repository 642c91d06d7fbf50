"""What Twilio's answers say, read into our words: executions, contexts, flows, pages, refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

from gateway.adapters import reading
from gateway.adapters.base import Barred, Blocked, Busy, Key, Missing, Refused, Reply, Unsure
from gateway.adapters.twilio import addresses as twilio_addresses
from gateway.errors import Reason
from gateway.model import CORRELATION_KEY, Cause, Flow, Notice, State
from gateway.sightings import Sighting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.adapters.base import Failed, Trouble

STATES = {"active": State.STARTED, "ended": State.COMPLETED}

ALREADY_ACTIVE = 20409

REFUSALS = {
    20404: (
        Reason.FLOW_NOT_FOUND,
        "flow",
        "there is no such flow in this account and region, or it is inactive",
    ),
    ALREADY_ACTIVE: (
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

MEANING_OF_STATUS = {404: 20404, 409: ALREADY_ACTIVE}  # where the body does not say
NOT_FOUND = 404
NOT_PERMITTED = (
    "The API key may not read this: give it the permission (docs/backends.md lists them). Starts are sent all the same,"
    " but what became of some cannot be found out."
)
TOO_LARGE = 413
FORBIDDEN = 403
LACKS_PERMISSION = 70051  # with 401
OF_ONE_FLOW = frozenset({400, 404})  # refusals that another flow need not meet
NOT_ACTIVE = 20005  # "Account not active"
MISSING_PARAMETER = re.compile(r"Missing required parameter (To|From|Parameters)\b")
FIELDS = {"To": "urns[0]", "From": "sender", "Parameters": "params"}

FLOW = re.compile(r"FW[0-9a-fA-F]{32}")
EXECUTION = re.compile(r"FN[0-9a-fA-F]{32}")
ACCOUNT = re.compile(r"AC[0-9a-fA-F]{32}")
REGIONAL = re.compile(r"[^.]+\.(?:[^.]+\.)?(?P<region>[^.]+)\.twilio\.com")
FIRST_REGION = "us1"
KEY = re.compile(r"[!-~]{1,64}")  # no correlation key of ours is longer or holds anything else
NAMED_EXECUTION = re.compile(rf"\b{EXECUTION.pattern}\b")
WHERE_PARAMS_ARE = (("trigger", "request", "parameters"), ("flow", "data"))  # the same ones, twice
OTHER_TRIGGERS = ("message", "call", "conversation", "parent")
UNREADABLE = Unsure(reason="unreadable answer", cause=Cause.UNREADABLE)


def region(url: str) -> str:
    """Returns the region of Twilio that a URL leads to: empty for US1, and for a host that is not Twilio's.

    A host is `studio.twilio.com`, `studio.REGION.twilio.com` or `studio.EDGE.REGION.twilio.com`.
    """
    found = REGIONAL.fullmatch((urlsplit(url).hostname or "").rstrip("."))
    return found["region"] if found and found["region"] != FIRST_REGION else ""


def sift(answer: Reply | Failed) -> Reply | Trouble:
    """Passes on what refuses this request or grants it; the rest is trouble.

    A 403 whose code is about the recipient or the sender says nothing of the account.
    """
    if isinstance(answer, Reply) and answer.status == FORBIDDEN and _code(answer) in REFUSALS:
        return answer
    return reading.sift(answer, is_own=is_own, is_suspended=_is_suspended)


def sift_read(answer: Reply | Failed) -> Reply | Trouble:
    """Does the same with what was only read: a permission to read that a key lacks keeps nothing from being sent."""
    reply = sift(answer)
    if isinstance(reply, Blocked) and lacks_permission(answer):
        return Barred(notice=replace(reply.notice, message=NOT_PERMITTED))
    return reply


def is_own(reply: Reply) -> bool:
    """Whether an error has the body that Twilio gives it; a `code` is optional, the HTTP status always in it."""
    return _code(reply) is not None or reading.object_in(reply.body).get("status") == reply.status


def lacks_permission(answer: Reply | Failed) -> bool:
    """Whether Twilio knows the key, and the key has not the permission for this request."""
    if not isinstance(answer, Reply) or not is_own(answer):
        return False
    return (answer.status == FORBIDDEN and not _is_suspended(answer)) or _code(answer) == LACKS_PERMISSION


def of_another(account: str) -> Blocked:
    """Says that the key is another account's."""
    message = (
        f"The credentials belong to the account {account}, which is not `account_sid`: set the one that the key was"
        " made in, or a key of that account. Nothing is lost; its starts wait."
    )
    notice = Notice(reason=Reason.BACKEND_CREDENTIALS_REJECTED, message=message, metadata={"account": account})
    return Blocked(notice=notice)


def concerns_one_flow(reply: Reply | None) -> bool:
    """Whether Twilio refuses something that is wrong with a flow, and need not be with the next."""
    return reply is not None and reply.status in OF_ONE_FLOW and is_own(reply)


def one(answer: Reply | Failed) -> dict[str, object] | Missing | Trouble:
    """Reads an answer that shows one thing. What is unknown, deleted or not visible yet is a 404."""
    reply = sift_read(answer)
    if not isinstance(reply, Reply):
        return reply
    if reply.status == NOT_FOUND:
        return Missing()
    if reply.status not in reading.OK:
        return reading.unread(reply)
    return reading.object_in(reply.body) or reading.unread(reply)


def one_execution(answer: Reply | Failed, sid: str) -> Sighting | Missing | Trouble:
    """Reads an answer that must be about this execution."""
    row = one(answer)
    if not isinstance(row, dict):
        return row
    shown = sighting(row)
    if shown is None:
        return UNREADABLE
    return shown if shown.external_id == sid else reading.foreign("execution")


def sighting(row: object, listed_of: str = "") -> Sighting | None:
    """Reads one execution; None if it does not even say which one it is. Every property may be null.

    `listed_of` is the flow whose list shows it: it is that one's, also if the row does not say so.
    """
    sid, status = reading.text_of(reading.inside(row, "sid"), EXECUTION), reading.inside(row, "status")
    if not sid:
        return None
    state = STATES.get(status) if isinstance(status, str) else None
    flow = reading.text_of(reading.inside(row, "flow_sid"), FLOW)
    return Sighting(
        external_id=sid,
        state=state,
        flow=listed_of if flow == listed_of else flow or listed_of,  # one text for all of a long list
        created_at=reading.moment_of(reading.inside(row, "date_created")),
        number=twilio_addresses.number_in(reading.inside(row, "contact_channel_address")),
        warnings=() if state else (reading.STATUS_UNKNOWN,),
    )


def account(row: object) -> str:
    """Tells whose a row is, as `account_id` spells it; empty if it does not say."""
    return account_id(reading.text_of(reading.inside(row, "account_sid"), ACCOUNT))


def account_id(sid: str) -> str:
    """Spells an account's SID in the one way by which it is compared."""
    return sid[:2] + sid[2:].lower()


def flow(row: object) -> Flow | None:
    """Reads one flow; None if it does not even say which one it is."""
    sid, name = reading.text_of(reading.inside(row, "sid"), FLOW), reading.inside(row, "friendly_name")
    startable = True if reading.inside(row, "status") == "published" else None
    return Flow(id=sid, name=reading.name_of(name), startable=startable) if sid else None


def key_in(body: dict[str, object], flow_sid: str, sid: str) -> Key | Missing | Unsure:
    """Finds the correlation key in an execution's context; empty if what the execution began with holds none.

    The context of an execution of another flow shows that this flow has none of that name, as a 404 does.

    A context that shows nothing of that is unreadable. One that shows it emptied hides the key: so do executions that
    somebody began over the API without params, which look the same.
    """
    if _differs(body.get("execution_sid"), sid):
        return reading.foreign("execution")
    if _differs(body.get("flow_sid"), flow_sid):
        return Missing() if isinstance(body["flow_sid"], str) else reading.foreign("execution")
    context = body.get("context")
    for path in WHERE_PARAMS_ARE:
        params = reading.inside(context, *path)
        key = reading.text_of(reading.inside(params, CORRELATION_KEY), KEY)
        if key and isinstance(params, dict):
            return Key(correlation_key=key, params=params)
    if not any(isinstance(reading.inside(context, path[0]), dict) for path in WHERE_PARAMS_ARE):
        return Unsure(reason="unreadable context", cause=Cause.UNREADABLE)
    shows_other_params = any(reading.inside(context, *path) for path in WHERE_PARAMS_ARE)
    return Key(correlation_key="", is_hidden=not shows_other_params and not _begun_otherwise(context))


def _begun_otherwise(context: object) -> bool:
    """Whether a context shows that a message or a call began the execution, and not a request."""
    return any(reading.inside(context, "trigger", name) for name in OTHER_TRIGGERS)


def next_page(body: dict[str, object]) -> str | None:
    """Finds the next page's query, written anew so that nothing but parameters is taken over."""
    query = reading.query_in(body.get("meta"), "next_page_url")
    return urlencode(parse_qsl(query, keep_blank_values=True)) or None if query else query


def refusal(reply: Reply, private: Sequence[str], place: int) -> Refused | Busy:
    """Reads why Twilio refused, and with which execution the recipient is busy, if that is why and Twilio names it.

    `place` is that of the recipient in the start. What keeps the recipient busy may be another tenant's, so the failure
    does not name it.
    """
    body = reading.object_in(reply.body)
    words = reading.quotation(body.get("message") or body.get("title"), private)  # `title` is of a newer shape
    code = _code(reply) or MEANING_OF_STATUS.get(reply.status)
    missing = MISSING_PARAMETER.search(words)
    default = "the params are too large" if reply.status == TOO_LARGE else words.rstrip(".") or "it does not say why"
    field = FIELDS[missing[1]] if missing else ""
    reason, field, meaning = REFUSALS.get(code or 0, (Reason.BACKEND_REJECTED, field, default))
    busy_with = _named_execution(body) if code == ALREADY_ACTIVE else ""
    failure = Notice(
        reason=reason,
        message=f"Twilio refused the request (HTTP {reply.status}{f', code {code}' if code else ''}): {meaning}.",
        metadata={
            **reading.listed([field.replace("[0]", f"[{place}]")] if field else []),
            **({"code": str(code)} if code else {}),
        },
    )
    return Busy(failure=failure, external_id=busy_with) if code == ALREADY_ACTIVE else Refused(failure=failure)


def _named_execution(body: dict[str, object]) -> str:
    """Finds the execution that an error is about: `Execution FN… is already active for this contact`."""
    said = (words for words in (body.get("message"), body.get("detail")) if isinstance(words, str))
    return next((found[0] for words in said if (found := NAMED_EXECUTION.search(words))), "")


def _code(reply: Reply) -> int | None:
    return reading.count_of(reading.object_in(reply.body).get("code"))


def _is_suspended(reply: Reply) -> bool:
    return _code(reply) == NOT_ACTIVE


def _differs(shown: object, expected: str) -> bool:
    """Whether an id is shown that is another one; it may be null."""
    return shown is not None and not (isinstance(shown, str) and shown.lower() == expected.lower())
