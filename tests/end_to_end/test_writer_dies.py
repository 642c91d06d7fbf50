"""What a gateway does that cannot go on: it answers nothing false and ends, to be started anew."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import SEED_FLOW, Client, GatewayProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.processes import SandboxProcess

DYING = """
from gateway.__main__ import main
from gateway.store import batches
create = batches.create
def die(transaction, creations):
    raise SystemExit("killed")
batches._TOGETHER[batches.Creation] = die
batches.Creation.__call__ = die
main()
"""


async def test_b8_a_gateway_whose_writer_has_died_ends(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """What waits is UNAVAILABLE, one line says why, the exit code is 1, and the next life serves the same store."""
    gateway = GatewayProcess(tmp_path, sandbox, command=("-c", DYING))
    await gateway.start()
    async with Client(gateway.address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.stub.StartFlow(pb.StartFlowRequest(flow=SEED_FLOW, urns=["tel:+12065551212"]), timeout=60)
    code = await asyncio.wait_for(gateway.ended(), 60)
    said = [line for line in gateway.log.read_text().splitlines() if line.startswith("error: ")]
    gateway.command = ("-m", "gateway")
    async with gateway, Client(gateway.address) as client:
        await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"])

    assert (grpc.StatusCode.UNAVAILABLE, 1, 1) == (caught.value.code(), code, len(said))
    assert "the thread that writes has ended" in said[0]
