"""A gateway whose name servers are silent, as it is when a network comes up late or a firewall drops their answers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import ROOT, SEED_FLOW, Client, GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.processes import SandboxProcess

ADDRESS = "127.0.0.53" if os.getpid() % 2 else "127.0.0.54"
MANY = 6  # backends whose names are looked up in vain
OWN_RESOLV_CONF = """
import ctypes, runpy
libc = ctypes.CDLL(None, use_errno=True)
NEWNS, BIND, PRIVATE = 0x20000, 0x1000, 0x4000 | 0x40000
assert libc.unshare(NEWNS) == 0
assert libc.mount(None, b"/", None, PRIVATE, None) == 0
assert libc.mount({path!r}, b"/etc/resolv.conf", None, BIND, None) == 0
runpy.run_module("gateway", run_name="__main__")
"""
SILENT = """
import socket, threading
known = socket.getaddrinfo
def getaddrinfo(host, *rest, **named):
    if host.endswith(".test"):
        print("asked", flush=True)
        threading.Event().wait()
    return known(host, *rest, **named)
socket.getaddrinfo = getaddrinfo
import runpy
runpy.run_module("gateway", run_name="__main__")
"""
TABLE = """
[backends.silent{n}]
kind = "rapidpro"
url = "https://rapidpro{n}.startflow.test"
token = "0123456789abcdef0123456789abcdef0123456{n}"
timeout = "1s"
sweep_interval = "100ms"
"""


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Takes the place of name servers and says nothing; returns how a gateway is run that asks there."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        try:
            server.bind((ADDRESS, 53))
        except OSError as error:
            pytest.skip(f"this machine does not allow a name server here: {error.strerror}")
        if os.geteuid() != 0:
            pytest.skip("only root may give a process name servers of its own")
        file = tmp_path / "resolv.conf"
        file.write_text(f"nameserver {ADDRESS}\noptions timeout:30 attempts:5\n")
        yield ("-c", OWN_RESOLV_CONF.format(path=bytes(file)))


async def test_b3_silent_name_servers_hold_up_neither_the_start_nor_other_backends_nor_the_stop(
    tmp_path: Path, sandbox: SandboxProcess, silent: tuple[str, ...]
) -> None:
    """It listens, starts what it can reach, and stops with 0 while names are looked up."""
    tables = "".join(TABLE.format(n=n) for n in range(MANY))
    good = sandbox.urls["rapidpro"]
    sandbox.urls["rapidpro"] = good.replace("127.0.0.1", "localhost")  # in the file, not asked of a server
    gateway = GatewayProcess(tmp_path, sandbox, timeout="1s", tables=tables, command=silent)
    async with asyncio.timeout(60):
        await gateway.start()
    try:
        async with Client(gateway.address) as client, asyncio.timeout(30):
            waiting = await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"], backend="silent0")
            made = await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"], backend="rapidpro")
            (done,) = await client.finished(made.flow_start.id)
    finally:
        code = await gateway.stop()
        sandbox.urls["rapidpro"] = good

    assert pb.FlowStart.STATE_COMPLETED == done.state
    assert waiting.flow_start.id
    assert 0 == code
    assert "stop_cut_short" not in gateway.log.read_text()


async def test_b3_a_check_ends_while_a_name_is_looked_up(tmp_path: Path) -> None:
    """Ctrl-C ends it, though the thread that looks the name up does not end."""
    config = tmp_path / "startflow.toml"
    config.write_text(f'store = "sqlite:///{tmp_path}/startflow.db"\n{TABLE.format(n=1)}'.replace('"1s"', '"300s"'))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SILENT, "check", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert b"asked\n" == await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert 130 == process.returncode
    assert b"Traceback" not in said
