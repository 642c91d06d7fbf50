"""Three gateways behind HAProxy as deploy/haproxy.cfg has it: a watcher of one that goes resumes at another."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import grpc
import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.haproxy import haproxy, needs_haproxy
from tests.end_to_end.processes import SEED_FLOW, Client, GatewayProcess, free_port
from tests.lengths import QUICK
from tests.places import Schemas, Shelf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.end_to_end.processes import SandboxProcess

pytestmark = needs_haproxy
TOP = 'lease = "2s"\nwrite_within = "500ms"'


@dataclass
class Gateway(GatewayProcess):
    """One whose probes have the same address in each of its lives, as HAProxy is told it once."""

    http_port: int = field(default_factory=free_port)

    @property
    def environment(self) -> dict[str, str]:
        """What its configuration takes from the environment."""
        return {**super().environment, "STARTFLOW_HTTP_LISTEN": f"127.0.0.1:{self.http_port}"}


@pytest.fixture
def url(shelf: Shelf) -> Iterator[str]:
    """A store in a schema of its own."""
    schemas = Schemas(shelf)
    yield schemas.url("gateways")
    schemas.drop()


@asynccontextmanager
async def three(folder: Path, sandbox: SandboxProcess, url: str) -> AsyncIterator[tuple[list[Gateway], str]]:
    """Runs three gateways on one store, and HAProxy; returns them and its address. Their logs must show no bug."""
    gateways = [Gateway(folder / f"gateway{number}", sandbox, top=TOP, url=url) for number in (1, 2, 3)]
    async with AsyncExitStack() as stack, asyncio.timeout(180):
        for gateway in gateways:
            gateway.folder.mkdir()
            await stack.enter_async_context(gateway)
        yield gateways, await stack.enter_async_context(haproxy(gateways, folder / "haproxy.log"))
    assert [] == [line for gateway in gateways for line in gateway.bugs()]


class Watcher:
    """Watches everything, and resumes after `UNAVAILABLE`, and after nothing else."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._moved = asyncio.Event()
        self.revisions: list[int] = []
        self.ended: set[str] = set()
        self.said: list[str] = []

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        last, epoch = 0, ""
        while True:
            try:
                async for message in self._client.watch(after_revision=last, epoch=epoch):
                    last, epoch = message.revision, message.epoch
                    self._note(message)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                self.said.append(error.details() or "")

    def _note(self, message: pb.WatchFlowStartsResponse) -> None:
        if message.HasField("changed"):
            self.revisions.append(message.revision)
            if message.changed.state == pb.FlowStart.STATE_COMPLETED:
                self.ended.add(message.changed.id)
            self._moved.set()

    async def sees_the_end_of(self, start_id: str) -> None:
        """Waits until it was told that a start is over."""
        while start_id not in self.ended:
            self._moved.clear()
            await self._moved.wait()


@asynccontextmanager
async def watching(client: Client) -> AsyncIterator[Watcher]:
    """Has somebody watch meanwhile; what was wrong is raised."""
    watcher = Watcher(client)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watcher.run())
        yield watcher
        task.cancel()


async def _recorded(gateway: Gateway, count: int) -> list[int]:
    """Returns the revisions of so many changes, as a gateway has them that nobody stands before."""
    found: list[int] = []
    async with Client(gateway.address) as client:
        async for message in client.watch(after_revision=0):
            if message.HasField("changed"):
                found.append(message.revision)
            if len(found) == count:
                break
    return found


async def _start(client: Client, name: str) -> str:
    return (await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"], request_id=name)).flow_start.id


async def test_a_watcher_resumes_at_another_gateway_when_its_own_is_killed(
    tmp_path: Path, sandbox: SandboxProcess, url: str
) -> None:
    """Each is killed in turn, so one of them is the watcher's own: nothing is missed, nothing comes twice.

    `make test` kills that one.
    """
    async with three(tmp_path, sandbox, url) as (gateways, front), Client(front) as client, watching(client) as watcher:
        await watcher.sees_the_end_of(await _start(client, "before"))
        for number, gateway in enumerate([await _the_watchers_own(gateways)] if QUICK else gateways):
            await gateway.kill()
            await watcher.sees_the_end_of(await _start(client, f"without {number}"))
            await gateway.start()

        assert watcher.said, "the watcher's own gateway was never killed"
        assert watcher.revisions == await _recorded(gateways[0], len(watcher.revisions))


@pytest.mark.longer
async def test_a_gateway_that_drains_ends_its_calls_itself(tmp_path: Path, sandbox: SandboxProcess, url: str) -> None:
    """The watcher is told why, and resumes at another one; the gateway ends in good order."""
    async with three(tmp_path, sandbox, url) as (gateways, front), Client(front) as client, watching(client) as watcher:
        await watcher.sees_the_end_of(await _start(client, "before"))
        for number, gateway in enumerate(gateways):
            assert 0 == await gateway.stop()
            await watcher.sees_the_end_of(await _start(client, f"without {number}"))
            await gateway.start()

        assert watcher.said, "the watcher's own gateway was never stopped"
        assert "shutting down" in watcher.said[0], watcher.said
        assert watcher.revisions == await _recorded(gateways[0], len(watcher.revisions))


async def _the_watchers_own(gateways: list[Gateway]) -> Gateway:
    """Returns the gateway that has a watch open."""
    async with aiohttp.ClientSession() as session:
        for gateway in gateways:
            async with session.get(f"{gateway.http}/metrics") as answer:
                if "\nstartflow_watchers 1.0\n" in await answer.text():
                    return gateway
    pytest.fail("no gateway has a watch open")


@pytest.mark.longer
async def test_a_gateway_that_hangs_is_cut_off(tmp_path: Path, sandbox: SandboxProcess, url: str) -> None:
    """It answers no check, so its watchers need not find out for themselves."""
    async with three(tmp_path, sandbox, url) as (gateways, front), Client(front) as client, watching(client) as watcher:
        await watcher.sees_the_end_of(await _start(client, "before"))
        own = await _the_watchers_own(gateways)
        own.suspend()
        await watcher.sees_the_end_of(await _start(client, "without it"))
        own.resume()

        assert watcher.said
        others = [each for each in gateways if each is not own]
        assert watcher.revisions == await _recorded(others[0], len(watcher.revisions))
