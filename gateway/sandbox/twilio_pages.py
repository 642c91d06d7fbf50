"""What Studio shows: executions, their context and steps, flows, and lists of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from gateway.sandbox.settings import SANDBOX_TWILIO_ACCOUNT_SID
from gateway.sandbox.twilio_access import not_found, refusal

if TYPE_CHECKING:
    from gateway.sandbox.exchange import Received, Refused
    from gateway.sandbox.twilio_executions import Execution, Executions

DEFAULT_PAGE, LARGEST_PAGE = 50, 1000
NUMBER = re.compile(r"[0-9]{1,9}")
FLOWS = {  # the flows that are listed; more can be run
    "FWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": "Thrift Shop",
    "FWbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb": "Registration",
}


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


def context_document(base: str, execution: Execution) -> dict[str, Any]:
    """Shows an execution's context: the parameters stand in it twice."""
    context = {
        "trigger": {"request": {"to": execution.to, "from": execution.sender, "parameters": execution.parameters}},
        "contact": {"channel": {"address": execution.to}},
        "flow": {
            "sid": execution.sid,
            "flow_sid": execution.flow,
            "channel": {"address": execution.sender},
            "data": execution.parameters,
            "variables": {},
        },
        "widgets": {},
    }
    return {
        "account_sid": SANDBOX_TWILIO_ACCOUNT_SID,
        "flow_sid": execution.flow,
        "execution_sid": execution.sid,
        "context": context,
        "url": f"{_url(base, execution)}/Context",
    }


def steps_document(request: Received, execution: Execution) -> dict[str, Any]:
    """Lists the widgets that were left so far, the last one first."""
    return _paged(request, "steps", _steps(request, execution)[::-1])


def step_document(request: Received, execution: Execution, sid: str, *, inside: bool) -> dict[str, Any]:
    """Shows one step, or its context: what a widget that sends a message left behind."""
    found = next((step for step in _steps(request, execution) if step["sid"] == sid), None)
    if found is None:
        raise not_found(request.path)
    if not inside:
        return found
    outbound = {"ErrorCode": "30003", "ErrorMessage": "Unreachable destination handset"}
    widget = {found["transitioned_from"]: {"outbound": outbound if found["name"] == "failed" else {}}}
    context: dict[str, Any] = context_document(request.base_url, execution)["context"]
    return {
        "account_sid": SANDBOX_TWILIO_ACCOUNT_SID,
        "execution_sid": execution.sid,
        "flow_sid": execution.flow,
        "step_sid": sid,
        "context": context | {"widgets": widget if found["type"] == "send-message" else {}},
        "url": f"{found['url']}/Context",
    }


def _steps(request: Received, execution: Execution) -> list[dict[str, Any]]:
    """Builds the steps. How it went shows in the name of the last one only."""
    moves = [(execution.created_at, "incomingRequest", "Trigger", "send_message_1", "trigger")]
    if execution.ended(request.at) and execution.ends_at is not None:
        name = "failed" if execution.steers("fail") else "sent"
        moves.append((execution.ends_at, name, "send_message_1", "Ended", "send-message"))
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
        "friendly_name": FLOWS.get(sid, f"Flow {sid[2:10]}"),
        "definition": {},
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
        "links": {"revisions": f"{url}/Revisions", "test_users": f"{url}/TestUsers"},
    }


def flows_document(request: Received) -> dict[str, Any]:
    """Lists the flows, without their definitions."""
    shown = ("sid", "account_sid", "friendly_name", "status", "revision", "date_created", "date_updated", "url")
    flows = [flow_document(request.base_url, sid) for sid in FLOWS]
    return _paged(request, "flows", [{name: flow[name] for name in shown} for flow in flows])


def list_document(
    request: Received, executions: Executions, flow: str, *, as_of: datetime, largest: int
) -> dict[str, Any]:
    """Lists a flow's executions as they stood at a moment, newest first. A page is an offset into that list."""
    low, high = (_date(request, name) for name in ("DateCreatedFrom", "DateCreatedTo"))
    rows, first, last = executions.of_flow(flow, low, high)
    while last > first and rows[last - 1].created_at > as_of:
        last -= 1
    size = min(_number(request, "PageSize", DEFAULT_PAGE, 1, LARGEST_PAGE), largest)
    offset = _number(request, "PageToken", 0, 0, prefix="PT")
    status = _one(request, "status")
    if status is None:
        place = max(first, last - offset)
        shown, more = rows[max(first, place - size) : place][::-1], place - size > first
    else:
        listed = [row for row in rows[first:last] if row.status(as_of) == status][::-1]
        shown, more = listed[offset : offset + size], len(listed) > offset + size
    documents = [execution_document(request.base_url, row, as_of) for row in shown]
    return _paged(request, "executions", documents, more=f"PT{offset + size}" if more else None)


def _url(base: str, execution: Execution) -> str:
    return f"{base}/v2/Flows/{execution.flow}/Executions/{execution.sid}"


def _paged(request: Received, key: str, rows: list[Any], *, more: str | None = None) -> dict[str, Any]:
    page = _number(request, "Page", 0, 0)
    size = _number(request, "PageSize", DEFAULT_PAGE, 1, LARGEST_PAGE)
    own = ("Page", "PageSize", "PageToken")
    filters = {name: values[0] for name, values in request.parameters().items() if name not in own}

    def url(number: int, token: str | None = None) -> str:
        query = filters | {"PageSize": size, "Page": number} | ({"PageToken": token} if token else {})
        return f"{request.base_url}{request.path}?{urlencode(query)}"

    meta = {
        "page": page,
        "page_size": size,
        "first_page_url": url(0),
        "previous_page_url": None,
        "url": url(page, _one(request, "PageToken")),
        "next_page_url": url(page + 1, more) if more else None,
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
