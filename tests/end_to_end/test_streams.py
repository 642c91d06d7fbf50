"""D16: the command is started with standard streams closed, as a bare supervisor or `>&-` has it."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import ROOT, SEED_FLOW, Client, GatewayProcess, free_port
from tests.lengths import some

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.processes import SandboxProcess

URN = "tel:+12065551212"
WITHOUT = (
    "-c",
    (
        "import os, sys\nfor number in sys.argv[1]: os.close(int(number))\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'gateway', *sys.argv[2:]])"
    ),
)
"""Runs `startflow` without the streams of these numbers."""


@pytest.mark.parametrize("closed", some(["0", "1", "2", "012"], "012"))
async def test_d16_serves_and_stops_whatever_is_closed(tmp_path: Path, sandbox: SandboxProcess, closed: str) -> None:
    """No file that it opens takes the place of a stream."""
    gateway = GatewayProcess(tmp_path, sandbox, command=(*WITHOUT, closed))
    await gateway.launch()
    async with asyncio.timeout(30), Client(gateway.address) as client:
        made = await client.start(flow=SEED_FLOW, urns=[URN], request_id="one")
        (done,) = await client.finished(made.flow_start.id)
        code = await gateway.stop()

    assert pb.FlowStart.STATE_COMPLETED == done.state
    assert 0 == code
    assert [] == gateway.bugs()


@pytest.mark.parametrize(("closed", "line", "code"), [
    ("1", "list",                                  3),
    ("0", f"start {SEED_FLOW} {URN} --params -",   2),
])  # fmt: skip
async def test_d16_a_command_says_one_sentence(closed: str, line: str, code: int) -> None:
    """Whether it has nowhere to print, or nothing to read."""
    command = (sys.executable, *WITHOUT, closed, *line.split(), "--address", f"127.0.0.1:{free_port()}")
    process = await asyncio.create_subprocess_exec(
        *command, "--timeout", "1", stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, cwd=ROOT
    )
    said = (await process.communicate())[1].decode()

    assert code == process.returncode, said
    assert said.startswith("error: ")
    assert "Traceback" not in said
