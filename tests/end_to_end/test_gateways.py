"""Several gateways on one PostgreSQL, no one of which matters: real processes, a real server, the sandbox's journal."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import SEED_FLOW, STUDIO_FLOW, Client, GatewayProcess
from tests.places import Schemas, Shelf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.end_to_end.processes import SandboxProcess

LEASE = 2.0  # seconds
TOP = 'lease = "2s"\nwrite_within = "500ms"'
BACKENDS = {"rapidpro": SEED_FLOW, "twilio": STUDIO_FLOW}
SLOW = 0.7  # seconds of each request that creates something, so that what happens to a gateway finds some open
MANY = 30  # starts on each backend: they take several rounds


@pytest.fixture
def url(shelf: Shelf) -> Iterator[str]:
    """A store in a schema of its own."""
    schemas = Schemas(shelf)
    yield schemas.url("gateways")
    schemas.drop()


@dataclass
class House:
    """Gateways on one store, each with a client."""

    folder: Path
    sandbox: SandboxProcess
    url: str
    stack: AsyncExitStack
    count: int = 0

    async def add(self) -> tuple[GatewayProcess, Client]:
        """Starts one more."""
        self.count += 1
        folder = self.folder / f"gateway{self.count}"
        folder.mkdir()
        gateway = GatewayProcess(folder, self.sandbox, timeout="2s", top=TOP, url=self.url)
        await self.stack.enter_async_context(gateway)
        return gateway, await self.stack.enter_async_context(Client(gateway.address))

    async def judge(self, starts: list[pb.FlowStart]) -> None:
        """Sees that everything was created once, and told so."""
        created = Counter(str(entry["params"]["startflow_id"]) for entry in await self.sandbox.journal(kind="created"))
        assert {pb.FlowStart.STATE_COMPLETED} == {each.state for each in starts}
        assert {f"{each.id}-1": 1 for each in starts} == dict(created), "something was lost, or created twice"


@asynccontextmanager
async def house(folder: Path, sandbox: SandboxProcess, url: str) -> AsyncIterator[House]:
    """Has gateways, and ends them; their logs must show no bug."""
    async with AsyncExitStack() as stack, asyncio.timeout(120):
        for backend in BACKENDS:
            await sandbox.fault(backend=backend, verb="create", delay=SLOW)
        yield House(folder, sandbox, url, stack)


async def start(client: Client, count: int, name: str) -> list[str]:
    """Starts so many flows on each backend."""
    calls = [
        client.start(flow=flow, urns=[f"tel:+1206555{n:04}"], request_id=f"{name}-{backend}-{n}")
        for backend, flow in BACKENDS.items()
        for n in range(count)
    ]
    return [each.flow_start.id for each in await asyncio.gather(*calls)]


async def elsewhere(client: Client) -> dict[str, str]:
    """Returns what a gateway says of each backend whose lane it does not work."""
    listed = await client.stub.ListBackends(pb.ListBackendsRequest())
    return {each.name: each.health.message for each in listed.backends if "works it" in each.health.message}


async def works(client: Client, *backends: str) -> None:
    """Waits until a gateway works these, and no other one."""
    while {*BACKENDS} - {*backends} != {*await elsewhere(client)}:  # noqa: ASYNC110 -- another process
        await asyncio.sleep(0.05)


async def sends(sandbox: SandboxProcess) -> None:
    """Waits until the first gateway sends."""
    while not await sandbox.creates("rapidpro"):  # noqa: ASYNC110 -- as above
        await asyncio.sleep(0.02)


async def test_gateways_share_the_lanes_and_each_takes_any_call(
    tmp_path: Path, sandbox: SandboxProcess, url: str
) -> None:
    """Each works one of two. What the one records a watcher at the other sees, and how a backend is told there."""
    async with house(tmp_path, sandbox, url) as them:
        first, at_first = await them.add()
        _, at_second = await them.add()
        await works(at_second, "twilio")
        await works(at_first, "rapidpro")

        watched = asyncio.create_task(_collect(at_second))
        ids = await start(at_first, 3, "shared")
        ended = await at_second.finished(*ids)

        await them.judge(ended)
        assert {*ids} == {*await watched}
        said = (await elsewhere(at_second))["rapidpro"]
        assert f"the one that listens on {first.address}" in said


async def _collect(client: Client) -> list[str]:
    """Watches all from the beginning until six have ended."""
    done: list[str] = []
    async for message in client.watch(after_revision=0):
        if message.HasField("changed") and message.changed.state == pb.FlowStart.STATE_COMPLETED:
            done.append(message.changed.id)
            if len(done) == 6:
                return done
    return done


async def test_what_a_killed_gateway_was_sending_is_found_by_the_other_and_not_sent_twice(
    tmp_path: Path, sandbox: SandboxProcess, url: str
) -> None:
    """Its lane is taken once its lease is over."""
    async with house(tmp_path, sandbox, url) as them:
        first, at_first = await them.add()
        await works(at_first, "rapidpro", "twilio")
        _, at_second = await them.add()
        await works(at_first, "rapidpro")
        ids = await start(at_second, MANY, "killed")
        await sends(sandbox)
        await first.kill()
        await works(at_second, "rapidpro", "twilio")

        ended = await at_second.finished(*ids)
        await them.judge(ended)
        await _tells_of(at_second, ids, "the gateway stopped while sending")


async def _tells_of(client: Client, ids: list[str], detail: str) -> None:
    """Some attempt must have been cut off, or the test has tried nothing."""
    for start_id in ids:
        history = await client.stub.ListChanges(pb.ListChangesRequest(id=start_id))
        if detail in str(history):
            return
    pytest.fail("no attempt was open")


async def test_a_gateway_that_stood_still_for_longer_than_its_lease_sends_nothing_twice(
    tmp_path: Path, sandbox: SandboxProcess, url: str
) -> None:
    """What it was sending is taken over; when it goes on it begins nothing of it, and serves as before."""
    async with house(tmp_path, sandbox, url) as them:
        first, at_first = await them.add()
        await works(at_first, "rapidpro", "twilio")
        _, at_second = await them.add()
        await works(at_first, "rapidpro")
        ids = await start(at_second, MANY, "paused")
        await sends(sandbox)
        first.suspend()
        await works(at_second, "rapidpro", "twilio")
        first.resume()
        ids += await start(at_first, 5, "resumed")

        ended = await at_first.finished(*ids)
        await them.judge(ended)
        assert re.search(r"lane_lost", first.log.read_text())
        assert 0 == await first.stop()


@pytest.mark.longer  # tests/test_leasing.py has what it does without processes
async def test_a_gateway_that_drains_leaves_its_lanes_at_once(
    tmp_path: Path, sandbox: SandboxProcess, url: str
) -> None:
    """Once its last answer is in; nothing of it is in doubt."""
    async with house(tmp_path, sandbox, url) as them:
        first, at_first = await them.add()
        await works(at_first, "rapidpro", "twilio")
        _, at_second = await them.add()
        await works(at_first, "rapidpro")
        ids = await start(at_second, MANY, "drained")
        await sends(sandbox)
        assert 0 == await first.stop()

        ended = await at_second.finished(*ids)
        await them.judge(ended)
        requests = sum([len(await sandbox.creates(backend)) for backend in BACKENDS])
        assert len(ids) == requests
