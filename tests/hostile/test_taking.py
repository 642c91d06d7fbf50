"""Calls that nobody waits for, and paths that are no text: others are served, and memory is bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.doors.grpc.taking import Server
from gateway.server.building import METHODS, OPTIONS
from tests.end_to_end.conftest import client, gateway, sandbox
from tests.end_to_end.processes import SEED_FLOW, Client, GatewayProcess
from tests.hostile.attacks.floods import rapid_resets
from tests.hostile.attacks.frames import OURS, Peer, message
from tests.hostile.attacks.unread import LATIN
from tests.lengths import some

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["client", "gateway", "sandbox"]
PAIRS = 30_000
MIB = 1024
GROWS = 100 * MIB  # KiB: what 2,000 calls that wait cost, and a wide margin


def resident(pid: int) -> int:
    """Reads how much memory a process has, in KiB."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


PATHS = [LATIN, b"", b"\xff", b"/\xf0\x28\x8c\x28/x", "/no.such.Service/Method", "no-slash"]


@pytest.mark.parametrize("path", some(PATHS, LATIN))
async def test_b3_a_path_that_is_no_text_is_no_method(gateway: GatewayProcess, client: Client, path: bytes) -> None:
    """It is answered as what is not there, and stops nothing."""
    async with Peer(gateway.address) as peer, asyncio.timeout(20):
        await peer.until_ended(peer.call(path, message(b"")))
        made = await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"])
        assert made.flow_start.id


TAKEN_BACK = [f"{OURS}StartFlow", "/grpc.health.v1.Health/Check", "/no.such.Service/Method"]


@pytest.mark.parametrize("path", some(TAKEN_BACK, TAKEN_BACK[0]))
async def test_b7_calls_that_are_taken_back_hold_no_memory(gateway: GatewayProcess, client: Client, path: str) -> None:
    """However many there were; and meanwhile others are answered."""
    before = resident(gateway.pid)
    flood = asyncio.create_task(rapid_resets(gateway.address, count=PAIRS, path=path))
    async with asyncio.timeout(60):
        answered = 0
        while not flood.done():
            await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"])
            answered += 1
        grew = resident(gateway.pid) - before
        sent = await flood
    print(f"{sent:,} taken back, {answered:,} answered; memory grew by {grew // MIB} MiB")
    assert PAIRS <= sent
    assert answered
    assert grew < GROWS


class _Counting(grpc.GenericRpcHandler):
    """Counts the calls that are taken, and answers `Check`."""

    def __init__(self) -> None:
        self.taken = 0

    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Finds it."""
        self.taken += 1

        async def check(_data: bytes, _context: object) -> bytes:
            return health_pb2.HealthCheckResponse().SerializeToString()

        return grpc.unary_unary_rpc_method_handler(check)


@pytest.fixture
async def counting() -> AsyncIterator[tuple[_Counting, str]]:
    """Serves, and says where."""
    handler, server = _Counting(), Server(OPTIONS, METHODS)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield handler, f"127.0.0.1:{port}"
    await server.stop(0)


async def test_b7_few_of_the_calls_that_are_taken_back_are_taken(counting: tuple[_Counting, str]) -> None:
    """The others end inside the core. Whoever calls in between is answered."""
    handler, address = counting
    flood = asyncio.create_task(rapid_resets(address, count=PAIRS))
    answered = 0
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(60):
        stub = health_pb2_grpc.HealthStub(channel)
        while not flood.done():
            await stub.Check(health_pb2.HealthCheckRequest())
            answered += 1
    print(f"{handler.taken - answered:,} of {flood.result():,} were taken, {answered:,} answered")
    assert answered
    assert handler.taken - answered < flood.result() / 4
