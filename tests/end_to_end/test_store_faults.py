"""What the gateway does while its disk is full, its database locked or broken: says so, records no halves, recovers."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import SEED_FLOW

if TYPE_CHECKING:
    from tests.end_to_end.processes import Client, GatewayProcess, SandboxProcess

URN = "tel:+12065551212"
LIMIT = 150_000  # bytes that the gateway may write to one file while its disk is "full"


async def _start(client: Client, **fields: Any) -> pb.StartFlowResponse:
    """Starts once, whatever comes of it."""
    return await client.stub.StartFlow(pb.StartFlowRequest(**fields), timeout=20)


async def refusal(client: Client) -> tuple[grpc.StatusCode, str, str]:
    """Starts what cannot be recorded; returns the code, the reason and the message. It says when to come back."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _start(client, flow=SEED_FLOW, urns=[URN])
    found: dict[str, Any] = {}
    (packed,) = [value for key, value in caught.value.trailing_metadata() or () if key == "grpc-status-details-bin"]
    for detail in status_pb2.Status.FromString(packed).details:
        name = detail.TypeName().removeprefix("google.rpc.")
        found[name] = getattr(error_details_pb2, name).FromString(detail.value)
    assert found["RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 0
    return caught.value.code(), found["ErrorInfo"].reason, str(caught.value.details())


async def until_health(gateway: GatewayProcess, expected: str) -> None:
    """Waits until the gateway says that it is so."""
    async with asyncio.timeout(20), grpc.aio.insecure_channel(gateway.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        async for message in stub.Watch(health_pb2.HealthCheckRequest(service="startflow.v1.StartFlowService")):
            if expected == health_pb2.HealthCheckResponse.ServingStatus.Name(message.status):
                return


def _limit_files(gateway: GatewayProcess, size: int) -> None:
    """Lets the process write no file beyond a size, which SQLite meets as it meets a full disk."""
    _, hard = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (size, hard))


async def test_a_full_disk(gateway: GatewayProcess, client: Client, sandbox: SandboxProcess) -> None:
    """Starts are refused and nothing of them is recorded; when there is room again everything goes on."""
    _limit_files(gateway, LIMIT)
    recorded = 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while True:
            await _start(client, flow=SEED_FLOW, urns=[URN], params={"filler": "x" * 5_000})
            recorded += 1
    assert grpc.StatusCode.UNAVAILABLE == caught.value.code()
    await until_health(gateway, "NOT_SERVING")
    code, reason, _ = await refusal(client)
    assert (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE") == (code, reason)
    assert recorded

    _limit_files(gateway, resource.RLIM_INFINITY)
    await until_health(gateway, "SERVING")
    after = await _start(client, flow=SEED_FLOW, urns=[URN])
    listed = (await client.stub.ListFlowStarts(pb.ListFlowStartsRequest(page_size=500))).flow_starts
    assert recorded + 1 == len(listed)
    done = await client.finished(*(start.id for start in listed))
    assert {pb.FlowStart.STATE_COMPLETED} == {start.state for start in done}
    created = await sandbox.journal(kind="created")
    assert recorded + 1 == len({entry["params"]["startflow_id"] for entry in created}) == len(created)
    assert after.flow_start.id in {start.id for start in listed}


async def test_a_locked_database(gateway: GatewayProcess, client: Client) -> None:
    """Somebody else's tool holds the write lock for longer than is waited; afterwards all goes on."""
    other = sqlite3.connect(gateway.store, isolation_level=None)
    other.execute("begin immediate")
    code, reason, _ = await refusal(client)
    assert (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE") == (code, reason)
    await until_health(gateway, "NOT_SERVING")
    other.execute("rollback")
    other.close()

    await until_health(gateway, "SERVING")
    answer = await _start(client, flow=SEED_FLOW, urns=[URN])
    (done,) = await client.finished(answer.flow_start.id)
    assert pb.FlowStart.STATE_COMPLETED == done.state


async def test_a_broken_database(gateway: GatewayProcess, client: Client) -> None:
    """What cannot be read is UNAVAILABLE and no bug, and a restart says what is wrong with the file."""
    for _ in range(20):
        await _start(client, flow=SEED_FLOW, urns=[URN], params={"filler": "x" * 5_000})
    await gateway.stop()
    size = gateway.store.stat().st_size
    with gateway.store.open("r+b") as file:
        file.seek(4096)
        file.write(b"\x5a" * (size - 4096))
    code, said = await gateway.refuses_to_start()

    assert 1 == code
    assert "cannot be opened" in said
    assert "Traceback" not in said
