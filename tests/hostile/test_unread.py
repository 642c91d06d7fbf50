"""A client that does not read, or does not finish what it sends, costs itself only; and nobody keeps a stop waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.server.building import STOP_SECONDS
from tests.end_to_end.conftest import gateway, sandbox
from tests.end_to_end.processes import SEED_FLOW, Client
from tests.hostile.attacks.unread import UNREAD, Target, health_watches
from tests.lengths import some

if TYPE_CHECKING:
    from tests.end_to_end.processes import GatewayProcess

__all__ = ["gateway", "sandbox"]
WITHIN = 5 + STOP_SECONDS  # as docs/operations.md says; 5 s is the timeout of a backend here
URN = "tel:+12065551212"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def target(gateway: GatewayProcess) -> Target:
    """Says where a gateway listens."""
    return Target(gateway.address, gateway.http.removeprefix("http://"))


async def test_b3_a_health_watcher_that_reads_nothing_costs_its_own_stream_only(gateway: GatewayProcess) -> None:
    """Others are told of the end, and the process ends."""
    async with health_watches(target(gateway)), grpc.aio.insecure_channel(gateway.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        async with asyncio.timeout(WITHIN):
            assert SERVING == (await watch.read()).status
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            code = asyncio.create_task(gateway.stop())
            assert NOT_SERVING == (await watch.read()).status
            assert 0 == await code
    assert SERVING == answer.status


@pytest.mark.parametrize("attack", some(UNREAD, "half_messages"))  # the test above has `health_watches`
async def test_b3_a_stop_is_bounded_whatever_clients_do(gateway: GatewayProcess, attack: str) -> None:
    """While somebody reads nothing, others are served; told to stop, the gateway ends as it does alone."""
    async with UNREAD[attack](target(gateway)):
        async with Client(gateway.address) as client:
            made = await client.start(flow=SEED_FLOW, urns=[URN])
            (done,) = await client.finished(made.flow_start.id)
        async with asyncio.timeout(WITHIN):
            assert 0 == await gateway.stop()
    assert done.id == made.flow_start.id
