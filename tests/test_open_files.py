"""Who gets how many files, and that callers cannot take those of the store."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from startflow.v1 import start_flow_service_pb2 as pb
from structlog.testing import capture_logs

from gateway.doors.http import port as http_port
from gateway.server.open_files import LEAST, OWN, Shares, TooFewFiles, share
from tests.end_to_end.processes import SEED_FLOW, Client, GatewayProcess, SandboxProcess

if TYPE_CHECKING:
    from pathlib import Path

LIMITED = (
    "-c",
    (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'gateway', *sys.argv[2:]])"
    ),
)
"""Runs `startflow` with so few open files."""


@pytest.mark.parametrize("limit", range(180, 2_000, 20))
def test_everybody_s_files_fit(limit: int) -> None:
    """Those of both ports, with what HTTP has more for a moment, of the backend and of the store."""
    with capture_logs() as logged:
        shares = share(limit, [8])

    assert sum(shares) + http_port.BURST + 2 * (8 + 2) + OWN <= limit
    assert min(shares) >= LEAST
    assert logged == [] if shares.http == http_port.MOST else "few_files" == logged[0]["event"]


def test_with_enough_files_half_are_for_grpc() -> None:
    """As ever."""
    assert Shares(http=256, grpc=32_768) == share(65_536, [8, 8])


def test_too_few_files_are_told() -> None:
    """With how many it takes: with one less it is refused."""
    with pytest.raises(TooFewFiles, match="may have 100 open files, and needs 172: 148 for the store"):
        share(100, [8])
    with pytest.raises(TooFewFiles):
        share(171, [8])

    assert Shares(http=8, grpc=16) == share(172, [8])
    with pytest.raises(TooFewFiles, match="needs 668"):
        share(600, [256])
    with pytest.raises(TooFewFiles, match="needs 232"):
        share(200, [], sandbox=True)


@pytest.mark.longer
async def test_connections_never_take_the_files_of_the_store(tmp_path: Path) -> None:
    """With few files, whatever callers hold, what is asked for is recorded and sent."""
    async with SandboxProcess(tmp_path) as sandbox, AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(GatewayProcess(tmp_path, sandbox, command=(*LIMITED, "256")))
        client = await stack.enter_async_context(Client(gateway.address))
        await client.stub.ListBackends(pb.ListBackendsRequest())
        for address in [gateway.http.removeprefix("http://")] * 300 + [gateway.address] * 300:
            host, _, port = address.rpartition(":")
            with suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port))
                stack.callback(writer.close)
        async with asyncio.timeout(60):
            for n in range(20):
                made = await client.stub.StartFlow(pb.StartFlowRequest(flow=SEED_FLOW, urns=[f"tel:+120655512{n:02}"]))
                (done,) = await client.finished(made.flow_start.id)
                assert pb.FlowStart.STATE_COMPLETED == done.state

    log = gateway.log.read_text()
    assert "few_files" in log
    assert "not_serving" not in log


async def test_with_too_few_files_nothing_is_served(tmp_path: Path) -> None:
    """In one sentence."""
    async with SandboxProcess(tmp_path) as sandbox:
        gateway = GatewayProcess(tmp_path, sandbox, command=(*LIMITED, "100"))
        gateway.log.touch()
        async with asyncio.timeout(60):
            code, said = await gateway.refuses_to_start()

    assert 1 == code
    assert said.startswith("error: This process may have 100 open files, and needs ")
    assert "LimitNOFILE" in said
