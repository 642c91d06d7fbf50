"""A database of PostgreSQL that goes back: what it lacks, and what nobody is sent or told twice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.model import State
from gateway.store.postgres.engine import open_postgres
from tests.builders import TENANT, create
from tests.chaos.driver import reason_of
from tests.end_to_end.processes import FAR, SEED_FLOW, Client, GatewayProcess, SandboxThread, free_port
from tests.postgres_proxy import Proxy
from tests.postgres_server import Server, Standby

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.builders import Clock


@dataclass
class Pair:
    """A primary and its standby behind one address, a gateway on it, and its backend."""

    server: Server
    standby: Standby
    proxy: Proxy
    sandbox: SandboxThread
    gateway: GatewayProcess
    client: Client
    numbers: list[int] = field(default_factory=list)

    async def start(self, **fields: object) -> str:
        """Starts a flow for somebody new, and returns the start's id."""
        self.numbers.append(len(self.numbers))
        urn = f"tel:+1206{2_000_000 + len(self.numbers)}"
        done = await self.client.start(
            backend="rapidpro", flow=SEED_FLOW, urns=[urn], request_id=f"promoted-{len(self.numbers)}", **fields
        )
        return done.flow_start.id

    async def fail_over(self) -> None:
        """Loses the primary, and has its standby take its place; the gateway is started again when it has ended."""
        self.server.kill()
        await asyncio.to_thread(self.standby.promote)
        self.proxy.target = self.standby.port
        self.proxy.hang_up()
        async with asyncio.timeout(120):
            await self.gateway.ended()
        await self.gateway.start()

    async def created(self) -> list[str]:
        """Lists the starts that the backend has made, once for each time."""
        made = await self.sandbox.journal(kind="created", backend="rapidpro")
        return [str(each["params"]["startflow_id"]).rpartition("-")[0] for each in made]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Both servers run, and the gateway serves."""
    async with AsyncExitStack() as stack:
        server = Server(free_port())
        stack.callback(server.stop)
        await asyncio.to_thread(server.start)
        standby = await asyncio.to_thread(Standby, server, free_port())
        stack.callback(standby.stop)
        await asyncio.to_thread(standby.follow)
        proxy = stack.enter_context(Proxy(server.port))
        sandbox = await stack.enter_async_context(SandboxThread(tmp_path))
        url = f"postgresql://{Server.role}@127.0.0.1:{proxy.port}/postgres"
        gateway = await stack.enter_async_context(GatewayProcess(tmp_path, sandbox, url=url))
        client = await stack.enter_async_context(Client(gateway.address))
        yield Pair(server, standby, proxy, sandbox, gateway, client)


@dataclass
class Watcher:
    """Watches everything from the beginning until it is refused, resuming whenever a stream ends."""

    client: Client
    epochs: list[str] = field(default_factory=list)
    revisions: list[int] = field(default_factory=list)
    refused: tuple[grpc.StatusCode, str] | None = None

    async def run(self) -> None:
        """Watches until refused."""
        while self.refused is None:
            epoch, after = self.epochs[-1] if self.epochs else "", self.revisions[-1] if self.revisions else 0
            request = pb.WatchFlowStartsRequest(after_revision=after, epoch=epoch)
            try:
                async for message in self.client.stub.WatchFlowStarts(request, wait_for_ready=True):
                    if message.epoch != epoch:
                        self.epochs.append(epoch := message.epoch)
                    if message.HasField("changed"):
                        self.revisions.append(message.revision)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self.refused = error.code(), reason_of(error)

    async def come(self, revision: int) -> None:
        """Waits until a revision has come."""
        while not self.revisions or self.revisions[-1] < revision:  # noqa: ASYNC110 -- each change would set an event
            await asyncio.sleep(0.02)


@pytest.fixture
async def watcher(pair: Pair) -> AsyncIterator[Watcher]:
    """Somebody who has watched since the beginning."""
    made = Watcher(pair.client)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.wait([running])


async def test_a_promoted_standby_that_lacks_commits_begins_an_epoch_and_sends_nothing_twice(
    pair: Pair, watcher: Watcher
) -> None:
    """One start had been sent in its copy; another had not, and was sent since; one had not come; one is far off."""
    sent = await pair.start()
    await pair.client.finished(sent)
    later = await pair.start(schedule_time={"seconds": FAR})
    await pair.sandbox.fault(backend="rapidpro", verb="create", preset="throttled")
    unsent = await pair.start()
    while len(await pair.sandbox.creates("rapidpro")) < 2:  # noqa: ASYNC110 -- the sandbox notifies nobody
        await asyncio.sleep(0.02)
    await asyncio.to_thread(pair.standby.pause)
    await pair.sandbox.replace_faults([])
    (ended,) = await pair.client.finished(unsent)
    lost = await pair.start()
    (last,) = await pair.client.finished(lost)
    await watcher.come(last.revision)

    await pair.fail_over()
    (found,) = await pair.client.finished(unsent)
    async for message in pair.client.watch(ids=[later]):
        if message.HasField("snapshot_end"):
            break
        epoch = message.epoch

    assert pb.FlowStart.STATE_COMPLETED == ended.state == found.state
    assert ended.external_id == found.external_id
    assert sorted([sent, unsent, lost]) == sorted(await pair.created())
    with pytest.raises(grpc.aio.AioRpcError, match="no start with this id"):
        await pair.client.stub.GetFlowStart(pb.GetFlowStartRequest(id=lost))
    await asyncio.wait_for(_refused(watcher), 60)
    assert (grpc.StatusCode.OUT_OF_RANGE, "REVISION_NOT_AVAILABLE") == watcher.refused
    assert [epoch] != watcher.epochs
    assert 1 == len(watcher.epochs)


async def test_a_synchronous_standby_that_is_promoted_lacks_nothing_and_keeps_the_epoch(
    pair: Pair, watcher: Watcher
) -> None:
    """Watchers resume where they were, and see each change once; what had been sent is not sent again."""
    await asyncio.to_thread(pair.standby.synchronise)
    await pair.gateway.stop()
    await pair.gateway.start()  # it notes that replication is synchronous
    before = await pair.start()
    (ended,) = await pair.client.finished(before)

    await pair.fail_over()
    after = await pair.start()
    (last,) = await pair.client.finished(after)
    await watcher.come(last.revision)

    assert (await pair.client.stub.GetFlowStart(pb.GetFlowStartRequest(id=before))).flow_start == ended
    assert [before, after] == await pair.created()
    assert watcher.revisions == sorted(set(watcher.revisions))
    assert ended.revision in watcher.revisions
    assert watcher.refused is None
    assert 1 == len(watcher.epochs)


async def test_a_database_that_was_copied_begins_an_epoch_and_doubts_what_is_unsent(
    postgres: Server, clock: Clock
) -> None:
    """However it was copied: what was unsent in it may have been sent since. Opened again, it is as it was."""
    postgres.run("create database original")
    store = open_postgres(postgres.url("original"), clock)
    start_id = (await create(store)).asked.id
    await store.close()
    postgres.run("create database copied template original")
    epochs, states = [store.epoch], []
    for name in ("original", "copied", "copied"):
        opened = open_postgres(postgres.url(name), clock)
        found = await opened.get(TENANT, start_id)
        assert found is not None
        epochs.append(opened.epoch)
        states.append(found.standing.state)
        await opened.close()
    postgres.run("drop database original", "drop database copied")

    assert [State.PENDING, State.UNCERTAIN, State.UNCERTAIN] == states
    assert epochs[0] == epochs[1] != epochs[2] == epochs[3]


async def test_a_role_that_owns_nothing_but_its_database_is_enough(postgres: Server, clock: Clock) -> None:
    """It can read which database it is in."""
    postgres.run("create role owner_only login", "create database owned owner owner_only")
    url = postgres.url("owned").replace("startflow@", "owner_only@")
    store = open_postgres(url, clock)
    await create(store)
    await store.close()
    postgres.run("drop database owned", "drop role owner_only")


async def _refused(watcher: Watcher) -> None:
    while watcher.refused is None:  # noqa: ASYNC110 -- it ends once
        await asyncio.sleep(0.02)
