"""What Studio shows: executions, their context and steps, flows, and lists of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from gateway.sandbox.settings import SANDBOX_TWILIO_ACCOUNT_SID
from gateway.sandbox.twilio.access import not_found, refusal

if TYPE_CHECKING:
    from gateway.sandbox.exchange import Received, Refused
    from gateway.sandbox.twilio.executions import Execution, Executions

DEFAULT_PAGE, LARGEST_PAGE = 50, 1000
NUMBER = re.compile(r"[0-9]{1,9}")
AUTHOR = "US5a4db0c5a4db0c5a4db0c5a4db0c5a4d"  # the user who made every flow
FLOWS = {  # the flows that are listed; more can be run
    "FWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": "Thrift Shop",
    "FWbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb": "Registration",
}
UNLISTED = ("definition", "commit_message", "valid", "errors", "warnings")  # null where flows are listed
MESSAGE = "send-message"  # the type of the only widget that the flows have


def written(at: datetime) -> str:
    """Writes a time as Studio does: whole seconds, Z."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def execution_document(base: str, execution: Execution, now: datetime) -> dict[str, Any]:
    """Shows an execution. Its context is always empty here."""
    url = _url(base, execution)
    over = execution.ended(now) and execution.ends_at is not None
    return {
        "sid": execution.sid,
        "account_sid": SANDBOX_TWILIO_ACCOUNT_SID,
        "flow_sid": execution.flow,
        "contact_channel_address": execution.to,
        "contact_sid": "FC" + execution.sid[2:],
        "flow_version": 1,
        "context": {},
        "status": execution.status(now),
        "date_created": written(execution.created_at),
        "date_updated": written(execution.ends_at if over and execution.ends_at else execution.created_at),
        "initiated_by": execution.request_id,
        "url": url,
        "links": {"steps": f"{url}/Steps", "execution_context": f"{url}/Context"},
    }


def context_document(request: Received, execution: Execution) -> dict[str, Any]:
    """Shows an execution's context as it is now."""
    return {
        "account_sid": SANDBOX_TWILIO_ACCOUNT_SID,
        "flow_sid": execution.flow,
        "execution_sid": execution.sid,
        "context": _context(execution, _steps(request, execution)),
        "url": f"{_url(request.base_url, execution)}/Context",
    }


def steps_document(request: Received, execution: Execution, *, largest: int) -> dict[str, Any]:
    """Lists the widgets that were left so far, the last one first."""
    return _page(request, "steps", _steps(request, execution)[::-1], largest=largest)


def step_document(request: Received, execution: Execution, sid: str, *, inside: bool) -> dict[str, Any]:
    """Shows one step, or its context, which is the execution's as that step left it."""
    steps = _steps(request, execution)
    place = next((place for place, step in enumerate(steps) if step["sid"] == sid), None)
    if place is None:
        raise not_found(request.path)
    if not inside:
        return steps[place]
    return {
        "account_sid": SANDBOX_TWILIO_ACCOUNT_SID,
        "execution_sid": execution.sid,
        "flow_sid": execution.flow,
        "step_sid": sid,
        "context": _context(execution, steps[: place + 1]),
        "url": f"{steps[place]['url']}/Context",
    }


def _context(execution: Execution, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Builds a context: the parameters stand in it twice, and each widget that was left has a place of its own."""
    left = [step for step in steps if step["type"] == MESSAGE]
    return {
        "trigger": {"request": {"to": execution.to, "from": execution.sender, "parameters": execution.parameters}},
        "contact": {"channel": {"address": execution.to}},
        "flow": {
            "sid": execution.sid,
            "flow_sid": execution.flow,
            "channel": {"address": execution.sender},
            "data": execution.parameters,
            "variables": {},
        },
        "widgets": {step["transitioned_from"]: {"outbound": _message(execution, step["name"])} for step in left},
    }


def _message(execution: Execution, event: str) -> dict[str, Any]:
    """Builds what a widget that sends a message leaves behind: the page of that widget names the fields."""
    is_failed = event == "failed"
    return {
        "AccountSid": SANDBOX_TWILIO_ACCOUNT_SID,
        "Sid": "SM" + execution.sid[2:],
        "To": execution.to,
        "From": execution.sender,
        "Body": "Hello",
        "Status": event,
        "ErrorCode": "30003" if is_failed else None,
        "ErrorMessage": "Unreachable destination handset" if is_failed else None,
    }


def _steps(request: Received, execution: Execution) -> list[dict[str, Any]]:
    """Builds the steps. How it went shows in the name and the context of the last one only."""
    moves = [(execution.created_at, "incomingRequest", "Trigger", "send_message_1", "trigger")]
    if execution.ended(request.at) and execution.ends_at is not None:
        name = "failed" if execution.steers("fail") else "sent"
        moves.append((execution.ends_at, name, "send_message_1", "Ended", MESSAGE))
    steps = []
    for index, (at, name, left, entered, widget) in enumerate(moves):
        sid = f"FT{index}{execution.sid[3:]}"
        url = f"{_url(request.base_url, execution)}/Steps/{sid}"
        step = {
            "sid": sid,
            "account_sid": SANDBOX_TWILIO_ACCOUNT_SID,
            "flow_sid": execution.flow,
            "execution_sid": execution.sid,
            "parent_step_sid": None,
            "name": name,
            "context": {},
            "transitioned_from": left,
            "transitioned_to": entered,
            "type": widget,
            "date_created": written(at),
            "date_updated": None,
            "url": url,
            "links": {"step_context": f"{url}/Context"},
        }
        steps.append(step)
    return steps


def flow_document(base: str, sid: str) -> dict[str, Any]:
    """Shows a flow; every one is published."""
    url = f"{base}/v2/Flows/{sid}"
    return {
        "sid": sid,
        "account_sid": SANDBOX_TWILIO_ACCOUNT_SID,
        "author_sid": AUTHOR,
        "friendly_name": FLOWS.get(sid, f"Flow {sid[2:10]}"),
        "definition": {"initial_state": "Trigger"},
        "status": "published",
        "revision": 1,
        "commit_message": None,
        "valid": True,
        "errors": [],
        "warnings": [],
        "date_created": "2026-01-01T00:00:00Z",
        "date_updated": None,
        "webhook_url": f"https://webhooks.twilio.com/v1/Accounts/{SANDBOX_TWILIO_ACCOUNT_SID}/Flows/{sid}",
        "url": url,
        "links": {
            "test_users": f"{url}/TestUsers",
            "revisions": f"{url}/Revisions",
            "executions": f"{url}/Executions",
        },
    }


def flows_document(request: Received, *, largest: int) -> dict[str, Any]:
    """Lists the flows. What is in one is null there."""
    flows = [flow_document(request.base_url, sid) | dict.fromkeys(UNLISTED) for sid in FLOWS]
    return _page(request, "flows", flows, largest=largest)


def list_document(
    request: Received, executions: Executions, flow: str, *, as_of: datetime, largest: int
) -> dict[str, Any]:
    """Lists a flow's executions as they stood at a moment, newest first. A page is an offset into that list."""
    low, high = (_date(request, name) for name in ("DateCreatedFrom", "DateCreatedTo"))
    rows, first, last = executions.of_flow(flow, low, high)
    while last > first and rows[last - 1].created_at > as_of:
        last -= 1
    offset, size = _place(request, largest)
    status = _one(request, "status")
    if status is None:
        place = max(first, last - offset)
        shown, more = rows[max(first, place - size) : place][::-1], place - size > first
    else:
        listed = [row for row in rows[first:last] if row.status(as_of) == status][::-1]
        shown, more = listed[offset : offset + size], len(listed) > offset + size
    documents = [execution_document(request.base_url, row, as_of) for row in shown]
    return _paged(request, "executions", documents, offset=offset, size=size, more=more)


def _url(base: str, execution: Execution) -> str:
    return f"{base}/v2/Flows/{execution.flow}/Executions/{execution.sid}"


def _place(request: Received, largest: int) -> tuple[int, int]:
    """Reads which page is asked for: its offset, and how many rows it has at the most."""
    size = _number(request, "PageSize", DEFAULT_PAGE, 1, LARGEST_PAGE)
    return _number(request, "PageToken", 0, 0, prefix="PT"), min(size, largest)


def _page(request: Received, key: str, rows: list[Any], *, largest: int) -> dict[str, Any]:
    """Shows one page of all the rows."""
    offset, size = _place(request, largest)
    shown, more = rows[offset : offset + size], len(rows) > offset + size
    return _paged(request, key, shown, offset=offset, size=size, more=more)


def _paged(request: Received, key: str, rows: list[Any], *, offset: int, size: int, more: bool) -> dict[str, Any]:
    page = _number(request, "Page", 0, 0)
    asked = _number(request, "PageSize", DEFAULT_PAGE, 1, LARGEST_PAGE)
    own = ("Page", "PageSize", "PageToken")
    filters = {name: values[0] for name, values in request.parameters().items() if name not in own}

    def url(number: int, at: int) -> str:
        query = filters | {"PageSize": asked, "Page": number} | ({"PageToken": f"PT{at}"} if at else {})
        return f"{request.base_url}{request.path}?{urlencode(query)}"

    meta = {
        "page": page,
        "page_size": asked,
        "first_page_url": url(0, 0),
        "previous_page_url": url(max(page - 1, 0), max(offset - size, 0)) if offset else None,
        "url": url(page, offset),
        "next_page_url": url(page + 1, offset + size) if more else None,
        "key": key,
    }
    return {key: rows, "meta": meta}


def _one(request: Received, name: str) -> str | None:
    return request.parameters().get(name, [""])[0] or None


def _number(
    request: Received, name: str, default: int, least: int, most: int | None = None, *, prefix: str = ""
) -> int:
    text = _one(request, name)
    if text is None:
        return default
    digits = text.removeprefix(prefix)
    if not NUMBER.fullmatch(digits) or int(digits) < least:
        raise _invalid(name, text)
    return int(digits) if most is None else min(int(digits), most)


def _date(request: Received, name: str) -> datetime | None:
    text = _one(request, name)
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the year 1 or 9999, in another zone
        raise _invalid(name, text) from None


def _invalid(name: str, text: str) -> Refused:
    return refusal(400, 20001, f"Invalid {name}: {text}")
