"""A third backend is one file and one line: an adapter that the product does not know serves a start end to end."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog
from aiohttp import web
from startflow.v1 import start_flow_service_pb2 as pb

import gateway
from gateway.adapters import ADAPTERS
from gateway.config import loading
from gateway.doors.door import Door
from gateway.server import building as server
from tests import third_adapter
from tests.end_to_end.processes import Client, free_port
from tests.third_adapter import Pigeon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 20.0  # seconds; far more than it takes
PRODUCT = Path(gateway.__file__).parent
CONFIG = """
listen = "127.0.0.1:{port}"
http_listen = "127.0.0.1:0"
store = "sqlite:///{folder}/startflow.db"

[backends.loft]
kind = "pigeon"
url = "{url}"
token = {{ env = "TEST_LOFT_KEY" }}
flows = {{ home = "route-66" }}
sweep_interval = "20ms"
"""


@dataclass
class Loft:
    """The invented backend: a pigeon is airborne until the list has been read twice."""

    flights: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lists: int = 0

    async def send_off(self, request: web.Request) -> web.Response:
        """Takes a pigeon, but none to a place that is not known."""
        self.requests.append(("POST", request.headers.get("Authorization", "")))
        asked = json.loads(await request.read())
        if asked["to"] == "place:nowhere":
            return web.json_response({"error": "no such place"}, status=422)
        self.flights.append({**asked, "flight": f"p-{len(self.flights):032}", "phase": "airborne", "loft": "rome"})
        return web.json_response(self.flights[-1], status=202)

    async def tell(self, request: web.Request) -> web.Response:
        """Lists every pigeon."""
        self.requests.append(("GET", request.headers.get("Authorization", "")))
        self.lists += bool(self.flights)
        phase = "airborne" if self.lists < 3 else "landed"
        return web.json_response({"loft": "rome", "flights": [{**it, "phase": phase} for it in self.flights]})

    async def name(self, request: web.Request) -> web.Response:
        """Says whose loft it is."""
        self.requests.append(("GET", request.headers.get("Authorization", "")))
        return web.json_response({"loft": "rome"})


@dataclass
class Running:
    """The gateway with nothing but the invented backend, and a client of it."""

    loft: Loft
    client: Client


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """Serves as `startflow serve --config` does, in this process, with one more line in the registry."""
    monkeypatch.setitem(ADAPTERS, "pigeon", Pigeon)
    monkeypatch.setenv("TEST_LOFT_KEY", "corn")
    loft = Loft()
    app = web.Application()
    app.add_routes([web.post("/flights", loft.send_off), web.get("/flights", loft.tell), web.get("/loft", loft.name)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = free_port()
    file = tmp_path / "startflow.toml"
    file.write_text(CONFIG.format(port=port, folder=tmp_path, url=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    with structlog.testing.capture_logs() as logged:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(runner.cleanup)
            settings = loading.load(file)
            await server._build(settings, Door(settings, server.utc_now), stack)
            client = await stack.enter_async_context(Client(f"127.0.0.1:{port}"))
            yield Running(loft, client)
    assert not [entry for entry in logged if entry["log_level"] == "error"]


async def test_a_start_is_sent_and_followed_to_its_end(running: Running) -> None:
    """StartFlow, one POST for each recipient, and COMPLETED when the backend says that it is over."""
    places = ["place:rome", "place:paris"]
    response = await running.client.start(flow="home", urns=places, params={"says": "ciao"}, request_id="1")
    states = []
    async with asyncio.timeout(PATIENCE):
        async for message in running.client.watch(ids=[response.flow_start.id], until_done=True):
            if message.HasField("changed"):
                states.append(message.changed.state)
                last = message.changed

    assert ("loft", "route-66") == (response.flow_start.backend, response.flow_start.flow)
    assert response.backend_request_count == 2
    assert pb.FlowStart.STATE_STARTED in states
    assert pb.FlowStart.STATE_COMPLETED == states[-1]
    assert pb.Progress(completed=2) == last.progress
    assert pb.COMPLETION_MEANING_EXECUTIONS_ENDED == last.completion_meaning
    expected = [(place, "route-66", f"{last.id}-{number}") for number, place in enumerate(places, 1)]
    assert expected == sorted(
        [(each["to"], each["by"], each["note"]["startflow_id"]) for each in running.loft.flights], key=lambda it: it[2]
    )
    assert "ciao" == running.loft.flights[0]["note"]["says"]
    assert {("POST", "Bearer corn"), ("GET", "Bearer corn")} == set(running.loft.requests)


async def test_each_recipient_has_its_flight(running: Running) -> None:
    """A refusal is the failure of one, and the backend's own id is told of the other."""
    response = await running.client.start(flow="home", urns=["place:rome", "place:nowhere"], request_id="1")
    async with asyncio.timeout(PATIENCE):
        (ended,) = await running.client.finished(response.flow_start.id)
    listed = await running.client.stub.ListRecipients(pb.ListRecipientsRequest(id=ended.id))

    assert ["PARTLY_FAILED"] == [warning.reason for warning in ended.warnings]
    told = [(each.recipient, each.external_id, each.failure.reason) for each in listed.recipients]
    assert [("place:rome", f"p-{0:032}", ""), ("place:nowhere", "", "ADDRESS_INVALID")] == told


async def test_what_it_cannot_express_is_refused(running: Running) -> None:
    """By the adapter's word, before anything is recorded or sent."""
    with pytest.raises(grpc.aio.AioRpcError, match="not a thing of Pigeon's"):
        await running.client.start(backend="loft", flow="home", groups=["doves"], request_id="1")

    assert not running.loft.flights


async def test_it_is_listed_like_the_others(running: Running) -> None:
    """With its kind and what it can do."""
    (backend,) = (await running.client.stub.ListBackends(pb.ListBackendsRequest())).backends

    assert ("loft", "pigeon") == (backend.name, backend.kind)
    assert [pb.Recipient.KIND_URN] == list(backend.capabilities.recipient_kinds)
    assert (100, 1) == (backend.limits.rate, backend.limits.rate_period.seconds)


def test_the_adapter_is_small() -> None:
    """What a backend needs is about three pages."""
    lines = Path(third_adapter.__file__).read_text().splitlines()

    assert len([line for line in lines if line]) < 180


def test_no_file_of_the_product_names_it() -> None:
    """The one line in the registry is this test's."""
    files = [path for path in PRODUCT.rglob("*") if path.is_file() and path.suffix != ".pyc"]

    assert len(files) > 50
    assert not [path for path in files if b"pigeon" in path.read_bytes().lower()]
