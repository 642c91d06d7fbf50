"""The credentials of a backend are replaced while everything else goes on."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from startflow.v1 import start_flow_service_pb2 as pb

from gateway.sandbox import SANDBOX_RAPIDPRO_TOKEN
from tests.end_to_end.processes import SEED_FLOW, STUDIO_FLOW, Client, GatewayProcess

if TYPE_CHECKING:
    from tests.end_to_end.processes import SandboxProcess

URN = "tel:+12065551212"
PATIENCE = 30.0  # seconds
WRONG = "0" * len(SANDBOX_RAPIDPRO_TOKEN)


async def _replace(gateway: GatewayProcess, before: str, after: str, *, lanes: int) -> None:
    """Rewrites the configuration, has it read, and waits until so many lanes have been replaced."""
    config = gateway.folder / "startflow.toml"
    config.write_text(config.read_text().replace(before, after))
    gateway.tell(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE):
        while gateway.log.read_text().count('"lane_renewed"') < lanes:  # noqa: ASYNC110 -- it is another process
            await asyncio.sleep(0.02)


async def test_credentials_are_renewed_while_it_serves(
    gateway: GatewayProcess, client: Client, sandbox: SandboxProcess
) -> None:
    """What is in flight has its answer, what comes while they are wrong waits, and is sent when they are right."""
    await client.start(flow=SEED_FLOW, urns=[URN])  # the flow is known from here on
    await sandbox.fault(backend="rapidpro", verb="create", delay=1.0)
    in_flight = await client.start(flow=SEED_FLOW, urns=[URN])
    async with asyncio.timeout(PATIENCE):
        while len(await sandbox.creates("rapidpro")) < 2:  # noqa: ASYNC110 -- the same
            await asyncio.sleep(0.02)
    await _replace(gateway, SANDBOX_RAPIDPRO_TOKEN, WRONG, lanes=1)
    waiting = await client.start(flow=SEED_FLOW, urns=[URN])
    (beside,) = await client.finished((await client.start(flow=STUDIO_FLOW, urns=[URN])).flow_start.id)
    got = await client.stub.GetFlowStart(pb.GetFlowStartRequest(id=waiting.flow_start.id))
    listed = await client.stub.ListBackends(pb.ListBackendsRequest())
    await _replace(gateway, WRONG, SANDBOX_RAPIDPRO_TOKEN, lanes=2)
    done = await client.finished(in_flight.flow_start.id, waiting.flow_start.id)

    assert pb.FlowStart.STATE_COMPLETED == beside.state
    assert pb.FlowStart.STATE_PENDING == got.flow_start.state
    assert pb.Backend.Health.STATE_BLOCKED == listed.backends[0].health.state
    assert [pb.FlowStart.STATE_COMPLETED] * 2 == [start.state for start in done]
    assert 3 == len(await sandbox.creates("rapidpro")), "each of them once"


async def test_what_a_replaced_lane_sends_is_waited_for_when_the_gateway_stops(
    gateway: GatewayProcess, client: Client, sandbox: SandboxProcess
) -> None:
    """The lane with the credentials before has its answer first, as every other one has."""
    await client.start(flow=SEED_FLOW, urns=[URN])  # the flow is known from here on
    await sandbox.fault(backend="rapidpro", verb="create", delay=3.0)
    await client.start(flow=SEED_FLOW, urns=[URN])
    async with asyncio.timeout(PATIENCE):
        while len(await sandbox.creates("rapidpro")) < 2:  # noqa: ASYNC110 -- another process sends it
            await asyncio.sleep(0.02)
    config = gateway.folder / "startflow.toml"
    config.write_text(config.read_text().replace(SANDBOX_RAPIDPRO_TOKEN, WRONG))
    gateway.tell(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE):
        while '"reloaded"' not in gateway.log.read_text():  # noqa: ASYNC110 -- the same
            await asyncio.sleep(0.02)
    assert 0 == await gateway.stop()

    with closing(sqlite3.connect(f"file:{gateway.store}?mode=ro", uri=True)) as conn:
        outcomes = conn.execute("select outcome from attempts order by begun_at").fetchall()
    assert [("ACCEPTED",), ("ACCEPTED",)] == outcomes
    assert "loop_complains" not in gateway.log.read_text()
