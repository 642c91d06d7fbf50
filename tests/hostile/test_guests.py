"""What has no credential has limits of its own: half-sent messages, and streams of health and reflection."""

from __future__ import annotations

import asyncio
import resource
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.doors.grpc.guests import IN_ALL, PER_CONNECTION, Guests
from gateway.doors.grpc.receiving import LARGEST_READ, MOST, Receiving
from gateway.doors.grpc.taking import Server
from gateway.doors.http import port as http_port
from gateway.errors import Exhausted
from gateway.server.building import METHODS, OPTIONS
from gateway.telemetry.probes import Probes
from gateway.tenants.clients import hash_token
from tests.end_to_end.conftest import sandbox
from tests.end_to_end.processes import GatewayProcess, SandboxProcess
from tests.hostile.attacks.frames import HEADERS, HEALTH, OURS, REFLECTION, Peer, message
from tests.hostile.attacks.unread import Target, half_requests, pages
from tests.hostile.test_taking import MIB, resident
from tests.lengths import some

__all__ = ["sandbox"]
HALF = LARGEST_READ - 65_536  # bytes that are sent of a message of `LARGEST_READ`
COUNT = 48  # calls at once
OTHERS = 8  # files that a gateway opens meanwhile


def open_files(pid: int) -> int:
    """Counts the open files of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def pour(address: str, path: str, least: int) -> int:
    """Sends most of a message in each of many calls, until so many have ended; returns how many."""
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer(address, window=65_535)) for _ in range(COUNT // 8)]
        calls = [
            (peer, peer.call(path, message(b"x", says=LARGEST_READ), ends=False)) for peer in peers for _ in range(8)
        ]
        pouring = [asyncio.create_task(peer.pour(stream, bytes(HALF))) for peer, stream in calls]
        await asyncio.wait(pouring, timeout=20)  # those that gRPC grants nothing more wait for ever
        for each in pouring:
            each.cancel()
        await asyncio.wait(pouring)
        async with asyncio.timeout(20):
            while len(ended := [stream for peer, stream in calls if stream in peer.ended]) < least:  # noqa: ASYNC110 -- of several peers
                await asyncio.sleep(0.05)
        return len(ended)


RECEIVING = [f"{OURS}StartFlow", f"{OURS}WatchFlowStarts", f"{HEALTH}Check", REFLECTION]


@pytest.mark.parametrize("path", some(RECEIVING, f"{OURS}StartFlow", f"{HEALTH}Check"))
async def test_b7_half_sent_messages_hold_little(tmp_path: Path, sandbox: SandboxProcess, path: str) -> None:
    """Of a caller who is not known nothing is received; of the open services no more than 16 messages are."""
    needs_credential = path.startswith(OURS)
    client = f'\n[[clients]]\ntenant = "clinic"\ntoken_sha256 = "{hash_token("secret").hex()}"\n'
    async with GatewayProcess(tmp_path, sandbox, tables=client) as gateway:
        before = resident(gateway.pid)
        peak = 0

        async def look() -> None:
            nonlocal peak
            while True:
                peak = max(peak, resident(gateway.pid))
                await asyncio.sleep(0.1)

        looking = asyncio.create_task(look())
        ended = await pour(gateway.address, path, COUNT if needs_credential else COUNT - MOST)
        looking.cancel()
        held = resident(gateway.pid) - before
    print(f"{path}: {ended} of {COUNT} ended; {held // MIB} MiB more after, {(peak - before) // MIB} at the most")
    assert held < (50 if needs_credential else 2 * MOST * LARGEST_READ / 2**20) * MIB
    assert [] == gateway.bugs()


class _Silent:
    """A call whose message never comes."""

    async def read(self) -> bytes:
        """Waits for ever."""
        return await asyncio.get_running_loop().create_future()


async def test_b7_a_message_that_does_not_arrive_in_time_ends_its_call() -> None:
    """Whoever sends it; the error says what to do."""
    silent: Any = _Silent()
    with pytest.raises(Exhausted) as caught:
        await Receiving(soon=0.001, within=0.002).message(silent, "clinic")

    assert "MESSAGE_TOO_SLOW" == caught.value.reason


async def test_b7_slow_messages_of_the_unknown_end_before_those_of_tenants() -> None:
    """And among tenants those of the one that has most."""
    silent: Any = _Silent()
    receiving = Receiving(soon=0.001, most=3)
    ended: list[str] = []

    async def receive(whose: str) -> None:
        try:
            await receiving.message(silent, whose)
        except Exhausted:
            ended.append(whose)

    waiting = [asyncio.create_task(receive(whose)) for whose in ("", "a", "b", "b", "b", "")]
    while len(ended) < 3:  # noqa: ASYNC110 -- a timer of a millisecond does it
        await asyncio.sleep(0.001)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)

    assert ["", "", "b"] == sorted(ended)


@pytest.mark.parametrize("path", some([f"{HEALTH}Watch", REFLECTION], f"{HEALTH}Watch"))
async def test_b7_a_connection_has_few_streams_without_a_credential(
    tmp_path: Path, sandbox: SandboxProcess, path: str
) -> None:
    """The others end at once, and cost nothing."""
    async with GatewayProcess(tmp_path, sandbox) as gateway, Peer(gateway.address) as peer:
        before = resident(gateway.pid)
        streams = [peer.call(path, message(b""), ends=False) for _ in range(1_500)]
        await peer.until_came(HEADERS, streams[-1])
        await peer.until_answered()
        grew = resident(gateway.pid) - before
    print(f"{len(streams) - len(peer.ended)} of {len(streams):,} streams stay; memory grew by {grew // MIB} MiB")
    assert PER_CONNECTION == len(streams) - len(peer.ended)
    assert grew < 60 * MIB


async def test_b7_a_newcomer_is_served_whatever_the_others_hold() -> None:
    """One more than there may be drops the oldest of the host that has most, though it reads nothing."""
    from gateway.doors.grpc.interceptors import Guarded  # noqa: PLC0415

    server: Any = Server(OPTIONS, METHODS)
    beside: Any = Guarded(server, None)
    beside._guests = Guests(in_all=5)
    probes = Probes()
    probes.set("", 1)
    health_pb2_grpc.add_HealthServicer_to_server(probes, beside)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with Peer(address) as peer, grpc.aio.insecure_channel(address) as channel, asyncio.timeout(20):
        streams = [peer.call(f"{HEALTH}Watch", message(b"")) for _ in range(5)]
        for stream in streams:
            await peer.until_came(HEADERS, stream)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert health_pb2.HealthCheckResponse.SERVING == (await watch.read()).status
        await peer.until_ended(streams[0])
        assert {streams[0]} == peer.ended
        watch.cancel()
    await server.stop(0)
    assert IN_ALL > PER_CONNECTION


async def test_b7_http_connections_are_bounded_and_a_newcomer_is_served(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    """Whatever the others hold: nothing, half a request, or answers that they do not read."""
    async with GatewayProcess(tmp_path, sandbox) as gateway:
        target = Target(gateway.address, gateway.http.removeprefix("http://"))
        before = open_files(gateway.pid)
        async with pages(target, 20), half_requests(target, 120), aiohttp.ClientSession() as session:
            async with session.get(f"{gateway.http}/healthz") as answer:
                assert 200 == answer.status
            async with asyncio.timeout(20):
                while (held := open_files(gateway.pid) - before) > http_port.MOST + OTHERS:  # noqa: ASYNC110 -- a process
                    await asyncio.sleep(0.05)
    print(f"{held} files for 500 connections")
    assert held


async def test_b7_the_limit_of_open_files_is_raised(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """To what the process may have, from the little that it is begun with."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual[1] // 2, usual[1]))
    try:
        async with GatewayProcess(tmp_path, sandbox) as gateway:
            soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert usual[1] == hard == soft
