"""The adapter reads what real RapidPro servers answered; what it must read stands beside each answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import pytest

from gateway.adapters.base import (
    Accepted,
    Account,
    Barred,
    Blocked,
    Missing,
    Refused,
    Reply,
    Sweep,
    Throttled,
    Unsure,
)
from gateway.adapters.rapidpro.adapter import RapidPro
from gateway.model import CORRELATION_KEY, Dispatch, Notice, Recipients, State
from gateway.sightings import Sighting
from tests.captures.captured import Captured, exchanges
from tests.contract.test_adapters import drive

ADAPTER = RapidPro(Account(credentials={"token": "0123456789ABCDEF"}))
ID = "01kb0000000000000000000000-1"
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
READ = [
    pytest.param(each, id=f"{generation}: {each.name}")
    for generation in ("new", "old")
    for each in exchanges(generation)
    if each.read
]


@pytest.mark.parametrize("captured", READ)
def test_an_answer_is_read_as_it_must_be(captured: Captured) -> None:
    """A POST is read by `send`, a GET of one start by `look`, another by `sweep`."""
    assert captured.read == reading(captured)


def reading(captured: Captured) -> str:
    """Has the adapter read an answer, and tells what it read in a line."""
    reply = Reply(status=captured.status, headers=_lower(captured.headers), body=captured.answer.encode())
    if captured.method == "POST":
        # The servers were not asked by us: our key is put where they would have given it back.
        echoed = Reply(status=reply.status, headers=reply.headers, body=_with_key(captured.answer).encode())
        return told(drive(ADAPTER.send(dispatch_of(captured)), [echoed])[1])
    asked = parse_qs(captured.path.partition("?")[2]).get("uuid")
    if asked:
        looked = Dispatch(id=ID, flow="", recipients=Recipients(), params={}, external_id=asked[0])
        return told(drive(ADAPTER.look(looked), [reply])[1])
    empty = Reply(status=200, headers={}, body=b'{"next":null,"previous":null,"results":[]}')
    return told(drive(ADAPTER.sweep(SINCE, ()), [reply, empty])[1])


def dispatch_of(captured: Captured) -> Dispatch:
    """Builds the dispatch whose request this is, as far as one can be it."""
    try:
        body = json.loads(captured.body or "")
    except (ValueError, RecursionError):
        body = None
    body = body if isinstance(body, dict) else dict(_form(captured))
    named = {name: body.get(name) for name in ("urns", "contacts", "groups")}
    params = body.get("params") or body.get("extra")
    return Dispatch(
        id=ID,
        flow=str(body.get("flow")),
        recipients=Recipients(**{name: tuple(map(str, it)) for name, it in named.items() if isinstance(it, list)}),
        params=params if isinstance(params, dict) else {},
    )


def _form(captured: Captured) -> dict[str, Any]:
    form = parse_qs(captured.body or "") if "form" in (captured.type or "") else {}
    return {name: values if name == "contacts" else values[0] for name, values in form.items()}


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _with_key(answer: str) -> str:
    try:
        body = json.loads(answer)
    except ValueError:
        return answer
    if isinstance(body, dict) and isinstance(body.get("extra"), dict):
        for name in ("params", "extra"):
            body[name] = {CORRELATION_KEY: ID, **body[name]}
    return json.dumps(body)


def told(read: Any) -> str:
    """Tells what was read in a line: the type, and what is in it."""
    match read:
        case Accepted():
            words = ["accepted", read.external_id[:8], read.state.name, _notices(read.warnings)]
        case Refused():
            words = ["refused", _notices([read.failure])]
        case Blocked() | Barred():
            words = ["blocked", _notices([read.notice])]
        case Throttled():
            words = ["throttled", str(read.seconds)]
        case Unsure():
            words = ["unsure:", read.reason]
        case Missing():
            words = ["missing"]
        case Sighting():
            words = [_sighted(read)]
        case Sweep():
            words = ["swept", str(len(read.sightings)), *map(_sighted, read.sightings)]
            words += [told(read.trouble)] if read.trouble else []
        case _:
            words = [repr(read)]
    return " ".join(filter(None, words))


def _sighted(sighting: Sighting) -> str:
    state = sighting.state.name if isinstance(sighting.state, State) else "unknown"
    counts = f"{sighting.contact_started_count}/{sighting.contact_count}"
    failure = [sighting.failure] if sighting.failure else []
    return f"{sighting.external_id[:8]} {state} {counts} {_notices([*failure, *sighting.warnings])}".strip()


def _notices(notices: Any) -> str:
    found: list[Notice] = list(notices)
    return ", ".join(" ".join(filter(None, (str(each.reason), each.metadata.get("fields", "")))) for each in found)
