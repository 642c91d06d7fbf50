"""Walks the tables of `docs/backends.md`: every field has its place, and what is said of it is true."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64encode
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import grpc
import pytest
from aiohttp import web
from google.protobuf.json_format import ParseDict
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from startflow.v1 import start_flow_service_pb2 as pb

from docs import errors as errors_page
from gateway import adapters, model, sightings
from gateway.adapters import ADAPTERS, base
from gateway.adapters.base import Accepted, Account, Blocked, Failed, Misconfigured, Reply, Sweep, Unsure
from gateway.adapters.rapidpro import reading as rapidpro_reading
from gateway.adapters.rapidpro import refusals as rapidpro_refusals
from gateway.adapters.twilio import reading as twilio_reading
from gateway.config import loading, settings
from gateway.doors.door import Door
from gateway.errors import Reason
from gateway.lanes.pacing import Circuit
from gateway.lanes.settling import settle
from gateway.model import Cause, Identity
from gateway.sandbox.twilio.events import signature, with_hash
from gateway.server import building as server
from tests.builders import NOON
from tests.cases import twilio as cases
from tests.contract.test_adapters import drive
from tests.end_to_end.processes import Client, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.adapters.base import Adapter, Exchange, Request
    from tests.cases import Table

Place = tuple[str, str]

DOCUMENT = Path(__file__).parents[1] / "docs" / "backends.md"
RAPIDPRO, TWILIO, OTHER = "RapidPro", "Twilio Studio", "The other direction"
KINDS = {RAPIDPRO: "rapidpro", TWILIO: "twilio"}
WORDS = {RAPIDPRO: rapidpro_reading.STATES, TWILIO: twilio_reading.STATES}
REQUEST, ANSWER, ROW, LIST = "Request", "Answer to the POST", "Row of the list", "List: envelope, query, headers"
TABLES: dict[str, Table] = {name: import_module(f"tests.cases.{kind}").TABLE for name, kind in KINDS.items()}

START_ROW = (
    *("uuid", "flow", "flow.uuid", "flow.name", "contacts", "contacts[].uuid", "contacts[].name"),
    *("groups", "groups[].uuid", "groups[].name", "status", "params", "created_on", "modified_on"),
)
SEEDS: dict[Place, tuple[str, ...]] = {
    (RAPIDPRO, REQUEST): (*("flow", "groups", "contacts", "urns", "restart_participants", "exclude_active", "params"),),
    (RAPIDPRO, ANSWER): START_ROW,
    (RAPIDPRO, ROW): START_ROW,
    (RAPIDPRO, LIST): ("next", "previous", "results", "uuid", "cursor"),
    (TWILIO, REQUEST): (
        *("FlowSid", "To", "From", "Parameters", "ExternalId", "username", "password", "Content-Type"),
    ),
    (TWILIO, ANSWER): (
        *("sid", "account_sid", "flow_sid", "contact_channel_address", "context", "status", "date_created"),
        *("date_updated", "url", "links", "links.steps", "links.execution_context"),
        *("Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers"),
        *("Access-Control-Allow-Credentials", "Access-Control-Expose-Headers"),
    ),
}
"""Every field in the two documents that the gateway was made for, each where a reader would look for it."""

SEED_STATES = {
    RAPIDPRO: ("pending", "queued", "started", "completed", "failed", "interrupted", "complete"),
    TWILIO: ("active", "ended"),
}

CODE = re.compile(r"`([^`]+)`")
UNUSED = ("Not used: ", "Not sent: ")


def read_tables() -> dict[Place, list[list[str]]]:
    """Reads the rows of every table, by the headings it is under; a heading has one table."""
    found: dict[Place, list[list[str]]] = {}
    part = section = ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            part, section = line[3:], ""
        elif line.startswith("### "):
            section = line[4:]
        elif line.startswith("|"):
            found.setdefault((part, section), []).append([cell.strip() for cell in line[1:-1].split("|")])
    return {place: rows[2:] for place, rows in found.items()}


DOCS = read_tables()


def rows(*sections: str) -> pytest.MarkDecorator:
    """Parametrises a test over the rows of the tables under these headings."""
    found = [(*place, row) for place, table in DOCS.items() if place[1] in sections for row in table]
    return pytest.mark.parametrize(
        ("part", "section", "row"), [pytest.param(*it, id=f"{it[0]}, {it[1]}: {' '.join(it[2])[:50]}") for it in found]
    )


def names(row: list[str]) -> list[str]:
    """Returns the fields that a row is about."""
    return CODE.findall(row[0])


# Every field has its place


@pytest.mark.parametrize(("place", "name"), [(place, name) for place, every in SEEDS.items() for name in every])
def test_every_field_of_the_documents_has_a_row(place: Place, name: str) -> None:
    """One row in the right table, which says where it goes."""
    (row,) = [row for row in DOCS[place] if name in names(row)]

    assert CODE.search(row[1]) or row[1].startswith(UNUSED)
    assert not row[1].startswith(UNUSED) or len(row[1]) > len("Not used: ")


@pytest.mark.parametrize("section", [REQUEST, ANSWER, ROW, LIST])
@pytest.mark.parametrize("part", KINDS)
def test_no_row_is_empty_or_there_twice(part: str, section: str) -> None:
    """Every row names fields, which no other row of its table names, and says where they go."""
    table = DOCS[part, section]
    every = [name for row in table for name in names(row)]

    assert len(set(every)) == len(every)
    assert all(names(row) and row[1] for row in table)


def resolves(name: str) -> bool:
    """Whether `Message.field` is in the proto, or in a value of the adapters or the model."""
    first, *path = name.split(".")
    inner = next((found for room in (base, model, sightings) if (found := getattr(room, first, None))), None)
    if is_dataclass(inner) and [each.name for each in fields(inner)].count(path[0]):
        return len(path) == 1
    step = pb.DESCRIPTOR.message_types_by_name.get(first)
    for part in path:
        if step is None:
            return False
        found = step.fields_by_name.get(part)
        if found is not None:
            return part == path[-1]
        step = step.nested_types_by_name.get(part)
    return step is not None


def places_in(text: str) -> Iterator[tuple[str, bool]]:
    """Yields every name in backticks that is one of ours, and whether it exists."""
    states = set(pb.FlowStart.State.keys()) | set(pb.Recipient.State.keys()) | set(pb.CompletionMeaning.keys())
    known = set(settings.BackendSettings.model_fields)
    for name in CODE.findall(text):
        if re.fullmatch(r"[A-Z]\w*[a-z]\w*(\.\w+)+", name):
            yield name, resolves(name)
        elif re.fullmatch(r"(STATE|COMPLETION_MEANING)_[A-Z_]+", name):
            yield name, name in states
        elif re.fullmatch(r"[A-Z]{2,}[A-Z_]{4,}", name):
            yield name, name in set(Reason) or name in grpc.StatusCode.__members__
        elif name.startswith("backends.NAME."):
            yield name, name.removeprefix("backends.NAME.") in known
        elif found := re.fullmatch(r"([\w/]+\.py): (\w+)", name):
            code = Path(adapters.__file__).parent / found[1]
            yield name, code.exists() and f"def {found[2]}(" in code.read_text()


def test_every_name_of_ours_exists() -> None:
    """Fields and states of the API, reasons, settings, values and places in the code."""
    found = list(places_in(DOCUMENT.read_text()))

    assert not [name for name, exists in found if not exists]
    assert len({name for name, _ in found}) > 60
    missing = "`FlowStart.nothing` `STATE_ODD` `BACKEND_ODD` `backends.NAME.odd` `rapidpro/adapter.py: odd` `Odd.uuid`"
    assert [False] * 6 == [exists for _, exists in places_in(missing)]


# What is sent


@dataclass
class Sent:
    """What came of a request: the reasons of its bad fields, or the fields that one dispatch was sent with."""

    refused: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] | None = None


FLOWS = {RAPIDPRO: TABLES[RAPIDPRO].flow, TWILIO: TABLES[TWILIO].flow}
SENDER = "+18007654321"
HANGS = 120.0  # seconds after which it never ends; a busy machine takes tens of them
BASIC: dict[str, dict[str, Any]] = {
    RAPIDPRO: {"flow": FLOWS[RAPIDPRO], "urns": ["tel:+12065551212"]},
    TWILIO: {"flow": FLOWS[TWILIO], "urns": ["tel:+12065551212"]},
}
PROBES: dict[str, list[Any]] = {
    "backend": ["{own}"],
    "flow": ["{other flow}"],
    "urns": [["tel:+12065551213"]],
    "contacts": [["ada"]],
    "groups": [["Mothers"]],
    "params": [{"first_name": "Ryan"}],
    "sender": ["+18005550100"],
    "restart_participants": [True, False],
    "exclude_active": [True, False],
    "request_id": ["{own}"],
    "schedule_time": ["2020-01-01T00:00:00Z"],
    "expire_time": ["{tomorrow}"],
    "labels": [{"team": "health"}],
    "validate_only": [True],
}
"""Values of each field of `StartFlowRequest`, beside or in place of the basic ones."""

CONFIG = """
listen = "127.0.0.1:{port}"
http_listen = "127.0.0.1:0"
store = "sqlite:///{folder}/startflow.db"

[backends.rapidpro]
kind = "rapidpro"
url = "{url}"
token = "t"
rate = "10000/second"

[backends.twilio]
kind = "twilio"
url = "{url}"
account_sid = "AC{zeros}"
auth_token = "t"
sender = "{sender}"
rate = "10000/second"
"""


@dataclass
class Refuser:
    """Both backends: says who it is, takes down what is asked for and refuses it, and cannot say which flows it has."""

    seen: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """Answers any request."""
        body = (await request.read()).decode()
        if request.path == "/api/v2/workspace.json":
            return web.json_response({"uuid": "fa6f2c37-c69e-4d8d-a596-ef17019c5886"}, headers={"X-Temba-Org": "1"})
        if request.query_string == "PageSize=1":
            return web.json_response({"flows": []})
        if request.method == "GET":
            return web.Response(status=500)
        if request.path.startswith("/api/"):
            self.seen.append(json.loads(body))
            return web.json_response({"detail": "no"}, status=400)
        form = {name: value for name, (value,) in parse_qs(body, strict_parsing=True).items()}
        form["Parameters"] = json.loads(form["Parameters"])
        self.seen.append({"FlowSid": request.path.split("/")[3], **form})
        return web.json_response({"code": 20001, "message": "no"}, status=400)

    def of(self, start_id: str) -> dict[str, Any]:
        """Returns what one start was sent with, without its own id."""
        (found,) = [each for each in self.seen if self.params(each)[model.CORRELATION_KEY].startswith(f"{start_id}-")]
        found = deepcopy(found)
        self.params(found)[model.CORRELATION_KEY] = ""
        return found

    @staticmethod
    def params(seen: dict[str, Any]) -> dict[str, Any]:
        """Finds the params in what was asked for."""
        found: dict[str, Any] = seen["params"] if "params" in seen else seen["Parameters"]
        return found


async def start(client: Client, refuser: Refuser, asked: dict[str, Any]) -> Sent:
    """Starts, waits until that has ended, and tells what was sent."""
    try:
        response = await client.stub.StartFlow(ParseDict(asked, pb.StartFlowRequest()), timeout=HANGS)
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        bad = error_details_pb2.BadRequest()
        assert any(detail.Unpack(bad) for detail in status.details)
        return Sent(refused={each.field: each.reason for each in bad.field_violations})
    if not response.flow_start.id:
        return Sent()
    async with asyncio.timeout(HANGS):
        await client.finished(response.flow_start.id)
    return Sent(fields=refuser.of(response.flow_start.id))


async def send_everything(folder: Path) -> dict[tuple[str, str], list[Sent]]:
    """Sends each probe through a whole gateway, and the basic request of each backend under the name ``."""
    refuser = Refuser()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuser.answer)
    runner = web.AppRunner(app, access_log=None)
    sent: dict[tuple[str, str], list[Sent]] = {}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url, port = f"http://127.0.0.1:{runner.addresses[0][1]}", free_port()
        file = folder / "startflow.toml"
        file.write_text(CONFIG.format(port=port, folder=folder, url=url, zeros="0" * 32, sender=SENDER))
        settings = loading.load(file)
        await server._build(settings, Door(settings, server.utc_now), stack)
        client = await stack.enter_async_context(Client(f"127.0.0.1:{port}"))
        for part, basic in BASIC.items():
            other = basic["flow"][:-1] + ("8" if part == RAPIDPRO else "b")
            sent[part, ""] = [await start(client, refuser, basic)]
            for name, values in PROBES.items():
                tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
                known = {"{own}": KINDS[part], "{other flow}": other, "{tomorrow}": tomorrow}
                spelled = [known.get(str(value), value) for value in values]
                sent[part, name] = [await start(client, refuser, {**basic, name: value}) for value in spelled]
    return sent


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Sent]]:
    """Tells what came of each probe."""
    return asyncio.run(send_everything(tmp_path_factory.mktemp("sent")))


def test_every_field_of_a_start_has_a_row() -> None:
    """And a probe, so that what its row says is tried."""
    every = [each.name for each in pb.StartFlowRequest.DESCRIPTOR.fields]

    assert every == [name for row in DOCS[OTHER, "StartFlowRequest"] for name in names(row)]
    assert set(every) == set(PROBES)


@pytest.mark.parametrize(("column", "backend"), [(1, RAPIDPRO), (2, TWILIO)])
@rows("StartFlowRequest")
def test_a_field_of_a_start_goes_where_its_row_says(
    sent: dict[tuple[str, str], list[Sent]], part: str, section: str, row: list[str], column: int, backend: str
) -> None:
    """It alone changes what its row names in the backend's request, or nothing, or is refused for the reason told."""
    assert (part, section) == (OTHER, "StartFlowRequest")
    (name,), told = names(row), row[column]
    (basic,) = sent[backend, ""]
    assert basic.fields is not None
    for value, outcome in zip(PROBES[name], sent[backend, name], strict=True):
        _, is_refused_if_false, why = told.partition("False is refused: ")
        if value is False and is_refused_if_false:
            assert {name: CODE.findall(why)[0]} == outcome.refused
        elif told.startswith("Refused: "):
            assert {name: CODE.findall(told)[0]} == outcome.refused
        elif name == "validate_only":
            assert told.startswith("Not sent: ")
            assert Sent() == outcome
        elif told.startswith("Not sent: "):
            assert basic == outcome
        else:
            assert outcome.fields is not None
            changed = {
                key for key in {**basic.fields, **outcome.fields} if basic.fields.get(key) != outcome.fields.get(key)
            }
            assert set(CODE.findall(told)) == changed


@pytest.mark.parametrize(("column", "backend"), [(1, RAPIDPRO), (2, TWILIO)])
def test_both_directions_say_the_same(sent: dict[tuple[str, str], list[Sent]], column: int, backend: str) -> None:
    """A field of a start that goes to a field of a backend is where that comes from, and nothing else is sent."""
    there = {
        (name, theirs)
        for row in DOCS[OTHER, "StartFlowRequest"]
        for name in names(row)
        for theirs in CODE.findall(row[column])
        if not row[column].startswith(("Refused: ", "Not sent: "))
    }
    back = {
        (ours.removeprefix("StartFlowRequest."), name)
        for row in DOCS[backend, REQUEST]
        for name in names(row)
        for ours in CODE.findall(row[1])
        if ours.startswith("StartFlowRequest.")
    }
    keys = {
        key for (part, _), all_sent in sent.items() if part == backend for each in all_sent for key in each.fields or ()
    }

    assert there == back
    assert {theirs for _, theirs in there} == keys


@pytest.mark.parametrize("part", KINDS)
def test_the_params_begin_with_our_key(sent: dict[tuple[str, str], list[Sent]], part: str) -> None:
    """And are sent when there are none."""
    (basic,), (probe,) = sent[part, ""], sent[part, "params"]

    assert {model.CORRELATION_KEY: ""} == Refuser.params(basic.fields or {})
    assert [model.CORRELATION_KEY, "first_name"] == list(Refuser.params(probe.fields or {}))


CREDENTIALS = {
    RAPIDPRO: [{"token": "t0"}],
    TWILIO: [
        {"account_sid": "AC" + "0" * 32, "auth_token": "t0"},
        {"account_sid": "AC" + "0" * 32, "api_key": "SK0", "api_secret": "t0"},
    ],
}


@rows(REQUEST)
def test_a_credential_is_what_its_row_says(part: str, section: str, row: list[str]) -> None:
    """Each setting that a row names changes how the gateway says who it is, and nothing else of the request.

    The SID beside a key does not even that.
    """
    assert section == REQUEST
    settings = [it.removeprefix("backends.NAME.") for it in CODE.findall(f"{row[1]} {row[2]}") if "backends.NAME" in it]
    tried = set()
    credentials = set(settings) - {"flows", "sender"}
    for setting in credentials:
        for given in (given for given in CREDENTIALS[part] if setting in given):
            tried.add(setting)
            before, after = (
                next(ADAPTERS[KINDS[part]](Account(credentials=each)).send(TABLES[part].dispatch))
                for each in (given, {**given, setting: given[setting][:-1] + "1"})
            )
            is_login = setting != "account_sid" or "api_key" not in given
            changed = {key for key in before.headers if before.headers[key] != after.headers[key]}
            assert ({"Authorization"} if is_login else set()) == changed
            assert before == replace(after, headers=before.headers)
    assert credentials == tried
    assert bool(tried) == (names(row)[0] in {"Authorization", "username", "password"})


def test_the_sid_is_needed_beside_a_key_as_its_row_says() -> None:
    """A key alone is told by the name of what is missing."""
    (row,) = [row for row in DOCS[TWILIO, REQUEST] if names(row) == ["username"]]
    with pytest.raises(Misconfigured) as raised:
        ADAPTERS["twilio"](Account(credentials={"api_key": "SK0", "api_secret": "t0"}))

    assert "The SID is needed beside a key" in row[2]
    assert "account_sid" == CODE.findall(str(raised.value))[0]


def test_the_form_is_what_its_row_says() -> None:
    """Twilio's content type is the one that the document asks for."""
    (row,) = [row for row in DOCS[TWILIO, REQUEST] if names(row) == ["Content-Type"]]
    request = next(ADAPTERS["twilio"](TABLES[TWILIO].account).send(TABLES[TWILIO].dispatch))

    assert [request.headers["Content-Type"]] == CODE.findall(row[1])


# What is read

ODD: tuple[Any, ...] = (None, True, -1, "x", [], {})
OTHERS: dict[str, tuple[Any, ...]] = {
    "uuid": ("692c11ab-00e4-4e69-9338-7cc506a2cb6c",),
    "flow.uuid": ("692c11ab-00e4-4e69-9338-7cc506a2cb6c",),
    "status": (*rapidpro_reading.STATES, *twilio_reading.STATES, "paused"),
    "params": ({"startflow_id": "another"}, {"startflow_id": "01kb0000000000000000000000-1", "first_name": "R"}),
    "created_on": ("2027-01-01T00:00:00Z",),
    "modified_on": ("2027-01-01T00:00:00Z",),
    "progress.total": (0, 9),
    "progress.started": (0, 9),
    "sid": ("FN" + "b" * 32,),
    "account_sid": ("AC" + "b" * 32, "AC" + "A" * 32),
    "flow_sid": ("FW" + "b" * 32,),
    "contact_channel_address": ("+18001234568",),
    "date_created": ("2027-01-01T00:00:00Z",),
    "date_updated": ("2027-01-01T00:00:00Z",),
    "X-Temba-Workspace": ("692c11ab-00e4-4e69-9338-7cc506a2cb6c",),
    "X-Temba-Org": ("2",),
    "next": ("http://internal.example/?cursor=abc",),
    "results": ([{"uuid": "692c11ab-00e4-4e69-9338-7cc506a2cb6c"}],),
    "executions": ([{"sid": "FN" + "b" * 32}],),
    "meta.next_page_url": ("https://internal.example/?PageToken=abc",),
}
"""Values that make sense, and say something else than what a backend answers in the basic cases."""

ENDED = {RAPIDPRO: "completed", TWILIO: "ended"}
ROWS_KEY = {RAPIDPRO: "results", TWILIO: "executions"}


def with_value(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Returns the document with another value at a path; `[]` stands for every item."""
    changed = deepcopy(document)
    inside: list[dict[str, Any]] = [changed]
    *steps, last = path.split(".")
    for step in steps:
        key = step.removesuffix("[]")
        inside = [
            found
            for each in inside
            for found in (each.setdefault(key, []) if step.endswith("[]") else [each.setdefault(key, {})])
        ]
    assert inside
    for each in inside:
        each[last] = deepcopy(value)
    return changed


def adapters_of(part: str) -> list[Adapter]:
    """Makes an adapter for each way to log in."""
    accounts = [TABLES[part].account]
    if part == TWILIO:
        by_key = {"account_sid": accounts[0].credentials["account_sid"], "api_key": "SK0", "api_secret": "t0"}
        accounts.append(Account(credentials=by_key, sender=SENDER))
    return [ADAPTERS[KINDS[part]](account) for account in accounts]


def answer_of(part: str) -> Reply:
    """Finds an answer that accepts."""
    answer = next(row[1] for row in TABLES[part].send if row[0] == "accepted")
    assert isinstance(answer, Reply)
    return answer


def is_header(name: str) -> bool:
    """Whether a field is a header."""
    return re.fullmatch(r"[A-Z]\w*(-\w+)+", name) is not None


def variants(part: str, section: str, name: str, odd: tuple[Any, ...] = ODD) -> Iterator[tuple[Any, Any]]:
    """Yields what an adapter makes of an answer as it is, and of the same with another value in one place."""
    basic = json.loads(answer_of(part).body)
    if part == RAPIDPRO:
        basic["contacts"] = [{"uuid": "f1ea776e-c923-4c1a-b3a3-0c466932b2cc", "name": "Wanz"}]
    for adapter in adapters_of(part):
        for document in (basic, {**basic, "status": ENDED[part]}):
            before = told(adapter, part, section, document, {})
            for value in (*odd, *OTHERS.get(name, ())):
                if is_header(name):
                    yield before, told(adapter, part, section, document, {name.lower(): str(value)})
                else:
                    yield before, told(adapter, part, section, with_value(document, name, value), {})


def told(adapter: Adapter, part: str, section: str, document: dict[str, Any], headers: dict[str, str]) -> Any:
    """Hands an adapter a document as the answer to its POST, or as the one row of a list."""
    table = TABLES[part]
    if section == ANSWER:
        return drive(adapter.send(table.dispatch), [reply_of(part, document, headers)])[1]
    page = {ROWS_KEY[part]: [document], "next": None, "meta": {"next_page_url": None}}
    _, since, windows, *_ = next(row for row in table.sweep if row[0] == "found")
    return drive(adapter.sweep(since, windows), [reply_of(part, page, headers)])[1]


def reply_of(part: str, document: dict[str, Any], headers: dict[str, str]) -> Reply:
    """Makes a reply with the headers of the table's, and these."""
    given = dict(answer_of(part).headers)
    if "x-temba-org" in headers:
        given.pop("x-temba-workspace", None)  # old workspaces have the one, new ones the other
    return Reply(status=200, headers={**given, **headers}, body=json.dumps(document).encode())


def effects(result: Any) -> dict[str, Any]:
    """Tells what a result says, by the names that the tables use."""
    if isinstance(result, Sweep):
        said: dict[str, Any] = {"Sweep.account": result.account, "Sweep.newest": result.newest}
        said["Sighting.external_id"] = result.sightings[0].external_id if result.sightings else None
        for each in result.sightings[:1]:
            said |= {
                "FlowStart.state": each.state,
                "FlowStart.failure": each.failure,
                "Sighting.correlation_key": each.correlation_key,
                "Sighting.flow": each.flow,
                "Sighting.created_at": each.created_at,
                "Sighting.number": each.number,
                "Progress.contact_count": each.contact_count,
                "Progress.contact_started_count": each.contact_started_count,
                "STATUS_UNKNOWN": Reason.STATUS_UNKNOWN in {it.reason for it in each.warnings},
            }
        return said
    assert isinstance(result, Accepted | Unsure)
    if isinstance(result, Unsure):
        return {"OUTCOME_UNKNOWN": True}
    return {
        "OUTCOME_UNKNOWN": False,
        "FlowStart.external_id": result.external_id,
        "FlowStart.state": result.state,
        "Accepted.account": result.account,
        "Accepted.accepted_at": result.accepted_at,
        "STATUS_UNKNOWN": Reason.STATUS_UNKNOWN in {it.reason for it in result.warnings},
        "PARAMS_ALTERED": Reason.PARAMS_ALTERED in {it.reason for it in result.warnings},
    }


KNOWN_EFFECTS = {
    ANSWER: {
        *("OUTCOME_UNKNOWN", "FlowStart.external_id", "FlowStart.state", "Accepted.account", "Accepted.accepted_at"),
        *("STATUS_UNKNOWN", "PARAMS_ALTERED"),
    },
    ROW: {
        *("Sweep.account", "Sweep.newest", "Sighting.external_id", "FlowStart.state", "FlowStart.failure"),
        *("Sighting.correlation_key", "Progress.contact_count", "Progress.contact_started_count", "STATUS_UNKNOWN"),
        *("Sighting.flow", "Sighting.created_at", "Sighting.number"),
    },
}


@rows(ANSWER, ROW)
def test_what_is_read_goes_where_its_row_says(part: str, section: str, row: list[str]) -> None:
    """Other values of a field change what its row names, all of it, and nothing else that a caller could see."""
    for name in names(row):
        seen: set[str] = set()
        for before, after in variants(part, section, name):
            if row[1].startswith(UNUSED):
                assert before == after, name
            said, says = effects(before), effects(after)
            seen |= {each for each in said.keys() & says.keys() if said[each] != says[each]}
        if row[1].startswith(UNUSED):
            continue
        known = KNOWN_EFFECTS[section] & set(CODE.findall(f"{row[1]} {row[2]}"))
        assert known & set(CODE.findall(row[1])), "the row names what it changes"
        assert known == seen, name


@rows(ANSWER)
def test_what_a_row_says_is_compared_is(part: str, section: str, row: list[str]) -> None:
    """An answer that makes sense, and is about something else, is not believed."""
    found = [after for name in names(row) for _, after in variants(part, section, name, odd=())]

    assert row[2].startswith(("Compared with", "Another `startflow_id`")) == any(isinstance(it, Unsure) for it in found)


def exchange(part: str, page: dict[str, Any], headers: dict[str, str]) -> tuple[list[Request], Any]:
    """Sweeps over a page, and an empty one if another is asked for."""
    adapter = adapters_of(part)[0]
    _, since, windows, *_ = next(row for row in TABLES[part].sweep if row[0] == "found")
    empty = {ROWS_KEY[part]: [], "next": None, "meta": {"next_page_url": None}}
    return drive(adapter.sweep(since, windows), [reply_of(part, page, headers), reply_of(part, empty, {})])


@rows(LIST)
def test_the_envelope_of_a_list_is_read_as_its_row_says(part: str, section: str, row: list[str]) -> None:
    """Other values change what is asked for next or what is found, or nothing."""
    assert section == LIST
    if row[2].startswith("Query"):
        return
    basic = {ROWS_KEY[part]: [json.loads(answer_of(part).body)], "next": None, "meta": {"next_page_url": None}}
    before = exchange(part, basic, {})
    for name in names(row):
        changed = set()
        for value in (*ODD, *OTHERS.get(name, ())):
            headers = {name.lower(): str(value)} if is_header(name) else {}
            requests, sweep = exchange(part, basic if headers else with_value(basic, name, value), headers)
            changed |= {"Sweep.sightings"} if sweep.sightings != before[1].sightings else set()
            changed |= {"Sweep.account"} if sweep.account != before[1].account else set()
            changed |= {"next"} if len(requests) > 1 else set()
            assert {(it.method, it.path) for it in requests} == {(it.method, it.path) for it in before[0]}
            assert len(requests) == 1 or part == RAPIDPRO or "abc" in requests[1].query
            assert not [it for it in requests if "internal" in it.query]
        named = {it for it in CODE.findall(row[1]) if it.startswith("Sweep.")} or {"next"}
        assert (set() if row[1].startswith(UNUSED) else named) <= changed, name
        assert not row[1].startswith(UNUSED) or not changed, name


@pytest.mark.parametrize("part", KINDS)
def test_the_query_of_a_list_is_what_the_rows_say(part: str) -> None:
    """Every parameter that is sent has a row, and none that is said not to be sent is."""
    page = {"results": [], "next": "http://internal.example/?cursor=abc&after=x", "executions": []}
    requests, _ = exchange(part, {**page, "meta": {"next_page_url": None}}, {})
    table = TABLES[part]
    looks, _ = drive(adapters_of(part)[0].look(table.dispatch), [Failed(sent=True, reason="lost", cause=Cause.BROKEN)])
    windows = next(row[2] for row in table.sweep if row[0] in ("stragglers", "as far back as stragglers"))
    empty = reply_of(part, {**page, "next": None, "meta": {"next_page_url": None}}, {})
    older, _ = drive(adapters_of(part)[0].sweep(None, windows), [empty] * (2 if part == TWILIO else 1))
    asked = {
        key
        for request in (*requests, *looks, *older)
        for key in parse_qs(request.query, strict_parsing=bool(request.query))
    }
    told = {
        name
        for row in DOCS[part, LIST]
        if row[2].startswith("Query") and not row[1].startswith(UNUSED)
        for name in names(row)
    }

    assert told == asked
    assert quote(table.dispatch.external_id) in looks[0].query + looks[0].path


CONTEXT, ENDING, ACCOUNT = "Context of an execution", "Ending an execution", "Whose account"


def read(exchange: Exchange[Any], body: Any, headers: dict[str, str] | None = None) -> Any:
    """Hands an adapter one answer, and returns what it reads."""
    return drive(exchange, [Reply(status=200, headers=headers or {}, body=json.dumps(body).encode())])[1]


def test_a_context_is_read_as_its_rows_say() -> None:
    """Each place of our mark is enough, other ids are not believed, and what shows nothing proves nothing."""
    dispatch, (adapter, *_) = TABLES[TWILIO].dispatch, adapters_of(TWILIO)

    def key(body: Any) -> Any:
        found = read(adapter.key(dispatch.flow, dispatch.external_id), body)  # type: ignore[attr-defined]
        return found.correlation_key if isinstance(found, base.Key) else found

    every = [name for row in DOCS[TWILIO, CONTEXT] for name in names(row)]
    marks = [name for name in every if name.endswith(f".{model.CORRELATION_KEY}")]
    shown = {"execution_sid": dispatch.external_id, "flow_sid": dispatch.flow}
    assert set(every) == {*marks, *shown}
    for mark in marks:
        assert key(with_value({}, mark, dispatch.id)) == dispatch.id
    assert key(with_value(with_value({}, marks[0], "another"), marks[1], dispatch.id)) == dispatch.id
    whole = {**with_value({}, marks[0], dispatch.id), **shown}
    assert key(whole) == dispatch.id
    others = {name: key({**whole, name: whole[name][:-1] + "b"}) for name in shown}
    assert isinstance(others["execution_sid"], Unsure)
    assert isinstance(others["flow_sid"], base.Missing)
    assert isinstance(key({"context": {"widgets": {}}}), Unsure)
    assert not key({"context": {"flow": {}}})


@rows(ENDING)
def test_ending_is_answered_as_its_row_says(part: str, section: str, row: list[str]) -> None:
    """The answer of a row, and a look at the execution where that is what it says."""
    assert (part, section) == (TWILIO, ENDING)
    table = TABLES[TWILIO]
    (found,) = [it[1] for it in table.look if it[0] == "ended"]
    told = CODE.findall(row[1])[0]
    for status in CODE.findall(row[0]):
        body = found.body if told == "{execution}" else told.encode()  # type: ignore[union-attr]
        reply = Reply(status=int(status), body=body)
        requests, result = drive(adapters_of(TWILIO)[0].cancel(table.dispatch), [reply, found])  # type: ignore[attr-defined]

        assert (1 if CODE.search(row[2]) else 2) == len(requests)
        assert (CODE.findall(row[2]) or ["Sighting"])[0] == type(result).__name__


def posted(
    body: bytes, *, signed: bool = True, with_its_hash: bool = True, login: str = "", more: dict[str, str] | None = None
) -> object:
    """Returns what is heard of a post of Event Streams."""
    url = with_hash(cases.SINK, body if with_its_hash else body + b" ")
    signed_url = url.replace("://", f"://{login}")
    headers = {"x-twilio-signature": signature(signed_url, "s3cr3t" if signed else "other"), **(more or {})}
    adapter = ADAPTERS["twilio"](TABLES[TWILIO].account)
    assert isinstance(adapter, base.Listener)
    return adapter.hear(base.Push(url=url, headers=headers, body=body))


@rows("Event")
def test_an_event_is_read_as_its_row_says(part: str, section: str, row: list[str]) -> None:
    """Another value of a field that is read is heard, of one that is not used makes no difference."""
    assert (part, section) == (TWILIO, "Event")
    for name in names(row):
        (event,) = json.loads(cases.ENDS_TOO)
        if name == "X-Twilio-Signature":
            heard = posted(cases.ENDS_TOO, signed=False)
        elif name == "X-Twilio-Webhooks-Signature-Settings":
            heard = posted(cases.ENDS_TOO, more={name.lower(): "key=k,algorithm=HMAC_SHA256"})
        elif name == "Authorization":
            basic = "Basic " + b64encode(b"name:password").decode()
            assert posted(cases.ENDS_TOO, login="name:password@", more={"authorization": basic}) == posted(
                cases.ENDS_TOO
            )
            heard = posted(cases.ENDS_TOO, login="name:password@")
        elif name == "bodySHA256":
            heard = posted(cases.ENDS_TOO, with_its_hash=False)
        else:
            *path, last = name.split(".")
            inner = event[path[0]] if path else event
            assert last in inner
            inner[last] = "odd"
            heard = posted(json.dumps([event]).encode())
        assert (heard == posted(cases.ENDS_TOO)) is row[1].startswith(UNUSED)


def test_every_field_of_an_event_has_a_row() -> None:
    """Once, and there is no row about a field that events have not."""
    (event,) = json.loads(cases.ENDS_TOO)
    fields_of = [*(name for name in event if name != "data"), *(f"data.{name}" for name in event["data"])]
    told = [name for row in DOCS[TWILIO, "Event"] for name in names(row)]

    around = ["X-Twilio-Signature", "X-Twilio-Webhooks-Signature-Settings", "Authorization", "bodySHA256"]
    assert sorted([*fields_of, *around]) == sorted(told)


@pytest.mark.parametrize("part", KINDS)
def test_the_account_is_told_as_the_rows_say(part: str) -> None:
    """By what the rows name; and by nothing else."""
    named = [name for row in DOCS[part, ACCOUNT] for name in names(row)]
    basic: dict[str, Any]
    if part == RAPIDPRO:
        (adapter,) = adapters_of(part)
        basic = {"uuid": TABLES[part].flow}
        for name in (name for name in named if is_header(name)):
            assert read(adapter.identify(), basic, {name.lower(): "7"}).aliases == {"7"}
        assert read(adapter.identify(), {**basic, "country": "RW"}) == Identity(account=basic["uuid"], country="RW")
        assert {"uuid", "country"} == {name for name in named if not is_header(name)}
    else:
        basic, configured, shown = {"flows": []}, TABLES[part].account.credentials["account_sid"], "AC" + "b" * 32
        for adapter in adapters_of(part):
            assert configured == read(adapter.identify(), basic).account
            assert configured == read(adapter.identify(), {"flows": [{"account_sid": None}]}).account
            foreign = read(adapter.identify(), {"flows": [{"account_sid": shown}]})
            assert isinstance(foreign, Blocked)
            assert shown in foreign.notice.message
        there = ADAPTERS[KINDS[part]](replace(TABLES[part].account, url="https://studio.dublin.ie1.twilio.com"))
        assert f"{configured}/ie1" == read(there.identify(), basic).account
        assert {"backends.NAME.url", "flows", "flows[].account_sid"} == set(named)
    assert isinstance(read(adapter.identify(), {}), Unsure)


# States, errors, reasons


@pytest.mark.parametrize("part", KINDS)
def test_the_states_are_those_of_the_adapter(part: str) -> None:
    """Each word of the backend, and those of the documents among them."""
    told = {name: CODE.findall(row[1])[0] for row in DOCS[part, "States"] for name in names(row)}

    assert {word: f"STATE_{state.name}" for word, state in WORDS[part].items()} == told
    assert set(SEED_STATES[part]) <= set(told)


NO_ANSWER = {
    "nothing written": Failed(sent=False, reason="lost", cause=Cause.UNREACHABLE),
    "written, no answer": Failed(sent=True, reason="lost", cause=Cause.BROKEN),
}
ANY = ("", "{}", "[]", "<html>", '{"odd":1}')


def calm_backend() -> Any:
    """Makes as much of a backend as tells what follows from an outcome."""
    transport = SimpleNamespace(circuit=Circuit(), their_now=lambda now: now)
    return SimpleNamespace(transport=transport, quiet_window=timedelta(minutes=1))


@rows("Errors")
def test_an_error_is_what_its_row_says(part: str, section: str, row: list[str]) -> None:
    """The answer of a row, handed to the adapter, becomes its outcome, state, reason and field."""
    assert section == "Errors"
    http, body, *expected = row
    bodies = ANY if body == "any" else CODE.findall(body)
    answers: list[Reply | Failed] = [
        Reply(status=int(status), body=each.encode()) for status in CODE.findall(http) for each in bodies
    ]
    answers = answers or [NO_ANSWER[http]]
    dispatch = TABLES[part].dispatch
    for answer in answers:
        _, outcome = drive(adapters_of(part)[0].send(dispatch), [answer])
        settled = settle(dispatch, outcome, calm_backend(), NOON)
        notice = settled.failure or next(iter(settled.warnings), None)
        said = [
            type(outcome).__name__,
            notice.reason if notice else "",
            f"STATE_{settled.state.name}",
            notice.metadata.get("fields", "") if notice else "",
        ]
        assert [cell.strip("`") for cell in expected] == said


@pytest.mark.parametrize(("exclude_active", "state"), [(True, "STATE_SKIPPED"), (None, "STATE_FAILED")])
def test_who_is_busy_is_left_out_if_that_was_asked_for(exclude_active: bool | None, state: str) -> None:  # noqa: FBT001
    """As is said below Twilio's errors."""
    dispatch = replace(TABLES[TWILIO].dispatch, exclude_active=exclude_active)
    _, outcome = drive(adapters_of(TWILIO)[0].send(dispatch), [Reply(status=409)])

    assert state == f"STATE_{settle(dispatch, outcome, calm_backend(), NOON).state.name}"


def test_the_keys_of_an_error_are_those_of_the_adapter() -> None:
    """Each key that RapidPro complains under."""
    told = {name: "".join(CODE.findall(row[1])) for row in DOCS[RAPIDPRO, "Keys of an error"] for name in names(row)}

    assert rapidpro_refusals.FIELDS == told


def test_the_codes_of_an_error_are_those_of_the_adapter() -> None:
    """Each code that says more than that a request was refused."""
    told = {
        int(code): (CODE.findall(row[1])[0], CODE.findall(row[2])[0])
        for row in DOCS[TWILIO, "Codes of an error"]
        for code in row[0].split(", ")
    }

    assert {code: (str(reason), name) for code, (reason, name, _) in twilio_reading.REFUSALS.items()} == told


def test_our_states_come_from_where_the_table_says() -> None:
    """Every state of the API has a row, and the backends' words in it are those of the adapters."""
    table = DOCS[OTHER, "Our states"]
    every = [name for name in pb.Recipient.State.DESCRIPTOR.values_by_name if name != "STATE_UNSPECIFIED"]

    assert every == [name for row in table for name in names(row)]
    assert set(pb.FlowStart.State.keys()) <= {*every, "STATE_UNSPECIFIED"}
    for column, part in enumerate(KINDS, 1):
        told = {word: names(row)[0] for row in table for word in CODE.findall(row[column])}
        assert {word: f"STATE_{state.name}" for word, state in WORDS[part].items()} == told
    assert all(any(row[1:]) for row in table)


def reasons_of(place: str) -> set[str]:
    """Returns the reasons that appear there: as a failure, as a warning, or as the status of some code."""
    return {entry.reason for entry in errors_page.entries() if place in entry.places}


def test_every_reason_of_a_failure_or_warning_has_a_row() -> None:
    """In the table of what it is of; what ends an RPC has one if it is an adapter's."""
    told: dict[str, set[str]] = {}
    for row in DOCS[OTHER, "Our reasons"]:
        told.setdefault(CODE.findall(row[1])[0], set()).update(names(row))

    assert {"Failure", "Warning", "INVALID_ARGUMENT"} == set(told)
    assert reasons_of("failure") == told["Failure"]
    assert reasons_of("warning") == told["Warning"]
    assert told["INVALID_ARGUMENT"] == reasons_of("INVALID_ARGUMENT")
    assert all(row[2] for row in DOCS[OTHER, "Our reasons"])


def test_the_generations_of_rapidpro_speak_the_words_of_the_table() -> None:
    """Together they have every word that the adapter knows."""
    (row,) = [row for row in DOCS[RAPIDPRO, "Two generations"] if row[0].startswith("words")]

    assert set(rapidpro_reading.STATES) == {*CODE.findall(row[1]), *CODE.findall(row[2])}
    assert all(len(row) == 4 and row[3] for row in DOCS[RAPIDPRO, "Two generations"])
