"""Tables of PostgreSQL that were put back from a dump, as an operator does it and says so: nothing is sent twice."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import grpc
import pytest
from startflow.v1 import start_flow_service_pb2 as pb
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.store.engine import StoreInUse, StoreUnusable
from gateway.store.postgres import restored
from gateway.store.postgres.engine import open_postgres
from tests.builders import create
from tests.chaos.driver import reason_of
from tests.end_to_end.processes import FAR, SEED_FLOW, Client, GatewayProcess, SandboxThread
from tests.places import FIRST, Schemas, Shelf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.builders import Clock
    from tests.postgres_server import Server

SHORT = 'lease = "1s"\nwrite_within = "500ms"'


@pytest.fixture
def place(shelf: Shelf) -> Iterator[Schemas]:
    """Has stores in schemas."""
    schemas = Schemas(shelf)
    yield schemas
    schemas.drop()


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[SandboxThread]:
    """Runs both simulated backends."""
    async with SandboxThread(tmp_path) as running:
        yield running


def startflow(url: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """Runs the command with a store; returns its code, and what it said."""
    monkeypatch.setenv("STARTFLOW_STORE", url)
    done = CliRunner().invoke(app, ["store", "restored", *words])
    return done.exit_code, " ".join(done.output.split())


def tool(server: Server, program: str, *words: str | Path) -> None:
    """Runs one of PostgreSQL's programs."""
    subprocess.run([server.programs / program, *words, "-d", server.url()], check=True, capture_output=True)


async def epoch_of(client: Client) -> str:
    """Asks for what watchers resume with."""
    async for message in client.watch():
        return message.epoch
    pytest.fail("nothing came")


async def test_what_was_sent_since_the_dump_is_found_and_not_sent_again(
    tmp_path: Path, sandbox: SandboxThread, place: Schemas, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump is put back over the tables that it is of, which nobody can see: an operator says it."""
    url = place.url(FIRST)
    schema, dump = url.rpartition("%3D")[2], tmp_path / "dump"
    async with (
        GatewayProcess(tmp_path, sandbox, url=url, top=SHORT) as gateway,
        Client(gateway.address) as client,
    ):
        far = await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"], schedule_time={"seconds": FAR})
        await sandbox.fault(backend="rapidpro", verb="create", preset="throttled")
        unsent = (await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"])).flow_start.id
        while not await sandbox.creates("rapidpro"):  # noqa: ASYNC110 -- the sandbox notifies nobody
            await asyncio.sleep(0.02)
        await asyncio.to_thread(tool, postgres, "pg_dump", "-Fc", "-n", schema, "-f", dump)
        await sandbox.replace_faults([])
        (ended,) = await client.finished(unsent)
        epoch = await epoch_of(client)
        await gateway.stop()

        await asyncio.to_thread(tool, postgres, "pg_restore", "--clean", dump)
        await asyncio.to_thread(postgres.run, f"update {schema}.leases set until = 0")  # noqa: S608 -- time goes by
        code, said = startflow(url, monkeypatch, "--yes")
        await gateway.start()
        (again,) = await client.finished(unsent)

        assert (0, True) == (code, "2 starts, 2 of them not over, 2 requests unsent, last change 20" in said), said
        assert "The next gateway has another epoch. It looks for the 2 unsent requests on the backends" in said
        assert pb.FlowStart.STATE_COMPLETED == ended.state == again.state
        assert ended.external_id == again.external_id
        assert 1 == len(await sandbox.journal(kind="created", backend="rapidpro"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in client.watch(after_revision=ended.revision, epoch=epoch):
                pass
        assert "REVISION_NOT_AVAILABLE" == reason_of(refused.value)
        waits = await client.stub.GetFlowStart(pb.GetFlowStartRequest(id=far.flow_start.id))
        assert pb.FlowStart.STATE_PENDING == waits.flow_start.state
        assert 0 == waits.flow_start.progress.uncertain


async def test_it_is_refused_while_a_gateway_serves_or_where_there_is_no_store(
    place: Schemas, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for a file; nothing is changed then."""
    url = place.url(FIRST)
    with pytest.raises(StoreUnusable, match="There is no store in"):
        restored.look(url)
    store = open_postgres(url, clock)
    await create(store)
    epoch = store.engine.epoch
    for what in (restored.look, restored.mark):
        with pytest.raises(StoreInUse, match=r"1 of the gateways .* in [1-8] seconds at the latest"):
            await asyncio.to_thread(what, url)
    assert 1 == (await asyncio.to_thread(startflow, url, monkeypatch, "--yes"))[0]
    await store.close()

    code, said = await asyncio.to_thread(startflow, url, monkeypatch)
    assert (2, True) == (code, "cannot be confirmed here" in said)
    assert (2, "error: The store is a file, which is put back by `startflow restore`.") == startflow(
        f"sqlite:///{tmp_path}/startflow.db", monkeypatch
    )
    again = open_postgres(url, clock)
    assert epoch == again.engine.epoch
    await again.close()
