"""What the process itself does: signals while it still starts, and a standard output that nobody reads."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import ROOT, SEED_FLOW, Client, GatewayProcess, free_port
from tests.lengths import some

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.processes import SandboxProcess

IMPORTING = """
import sys, time
class Slow:
    def find_spec(self, name, path, target=None):
        if name == "gateway.cli.app":
            print("importing", flush=True)
            for _ in range(600):  # a signal that came just before a sleep is seen behind it
                time.sleep(0.1)
sys.meta_path.insert(0, Slow())
from gateway.__main__ import main
main()
"""
AS_FIRST = """
import ctypes, os, signal, sys
if ctypes.CDLL(None).unshare(0x20000000) != 0:
    sys.exit("not allowed")
child = os.fork()
if child:
    print(child, flush=True)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert os.getpid() == 1
"""
FULL = """
import os, runpy
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, bytes(4096))
except BlockingIOError:
    pass
os.set_blocking(writer, True)
os.dup2(writer, 1)
runpy.run_module("gateway", run_name="__main__")
"""
HALF_COPIED = """
import runpy, time
from gateway.store import restoring
def mark(conn, now):
    print("copying", flush=True)
    time.sleep(60)
restoring.mark = mark
runpy.run_module("gateway", run_name="__main__")
"""


NOTHING_IGNORED = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


async def _run(code: str, *words: str) -> asyncio.subprocess.Process:
    """Runs Python, whatever signals this process ignores: one in which `serve` was tried ignores SIGHUP."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", NOTHING_IGNORED + code, *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )


async def _end(process: asyncio.subprocess.Process) -> tuple[int | None, bytes]:
    """Returns its exit code and what it wrote to standard error; a process that does not end is killed."""
    try:
        async with asyncio.timeout(30):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_b3_the_first_process_of_a_container_ends_by_a_signal_while_it_starts(number: signal.Signals) -> None:
    """The kernel drops those that such a process does not handle."""
    process = await _run(AS_FIRST + IMPORTING, "serve")
    assert process.stdout is not None
    said = await process.stdout.readline()
    if not said:
        await process.wait()
        pytest.skip("only root may make a process the first one")
    assert b"importing\n" == await process.stdout.readline()
    os.kill(int(said), number)

    assert (128 + number, b"") == await _end(process)


async def test_ctrl_c_while_it_starts_prints_nothing() -> None:
    """It ends by the signal, as every tool does."""
    process = await _run(IMPORTING, "watch")
    assert process.stdout is not None
    assert b"importing\n" == await process.stdout.readline()
    process.send_signal(signal.SIGINT)

    assert (-signal.SIGINT, b"") == await _end(process)


async def test_b3_an_output_that_nobody_reads_keeps_it_from_neither_serving_nor_stopping(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    """Its first lines go into a pipe that is full."""
    gateway = GatewayProcess(tmp_path, sandbox, command=("-c", FULL))
    await gateway.launch()
    try:
        async with asyncio.timeout(30), Client(gateway.address) as client:
            made = await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"], request_id="one")
            (done,) = await client.finished(made.flow_start.id)
    finally:
        code = await gateway.stop()

    assert pb.FlowStart.STATE_COMPLETED == done.state
    assert 0 == code
    assert [] == gateway.bugs()


@pytest.mark.parametrize("number", some([signal.SIGTERM, signal.SIGINT], signal.SIGTERM))
async def test_b3_a_sandbox_whose_output_nobody_reads_serves_and_stops(number: signal.Signals) -> None:
    """The same of `startflow sandbox`."""
    port = free_port()
    process = await _run(FULL, "sandbox", "--control-listen", f"127.0.0.1:{port}")
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            while True:
                try:
                    async with session.get("/faults") as answer:
                        assert 200 == answer.status
                    break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)
    finally:
        process.send_signal(number)
        ended = await _end(process)

    assert (0, b"") == ended


@pytest.mark.parametrize("number", some([signal.SIGTERM, signal.SIGHUP, signal.SIGINT], signal.SIGTERM))
async def test_a_backup_that_is_ended_leaves_nothing_behind(gateway: GatewayProcess, number: signal.Signals) -> None:
    """What is half copied has phone numbers in it, and nobody would remove it."""
    target = gateway.folder / "copies"
    target.mkdir()
    process = await _run(HALF_COPIED, "backup", str(target), "--store", str(gateway.store))
    assert process.stdout is not None
    assert b"copying\n" == await process.stdout.readline()
    assert list(target.iterdir())
    process.send_signal(number)
    code, _ = await _end(process)

    assert 128 + number == code
    assert [] == list(target.iterdir())
