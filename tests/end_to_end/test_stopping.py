"""Told to stop, the gateway drains; restarted under load, it loses nothing and fails nobody who asks again."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from google.rpc import error_details_pb2, status_pb2
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from tests.end_to_end.processes import DONE, ROOT, SEED_FLOW, STUDIO_FLOW, Client, GatewayProcess
from tests.lengths import size, some

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.processes import SandboxProcess

URN = "tel:+12065551212"
CALLERS = 8
PAUSE = 1.0  # seconds that a life lasts under load
ENDS = ("drain", "kill", "drain", "drain")[: size(4, quick=2)]  # of lives; the last one follows


def _why(error: grpc.aio.AioRpcError) -> tuple[str, bool]:
    """Returns the reason of a refusal, and whether it says when to come back."""
    found: dict[str, Any] = {}
    (packed,) = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    for detail in status_pb2.Status.FromString(packed).details:
        name = detail.TypeName().removeprefix("google.rpc.")
        found[name] = getattr(error_details_pb2, name).FromString(detail.value)
    return found["ErrorInfo"].reason, "RetryInfo" in found


def _open_attempts(gateway: GatewayProcess) -> int:
    with closing(sqlite3.connect(f"file:{gateway.store}?mode=ro", uri=True)) as conn:
        return int(conn.execute("select count(*) from attempts where outcome is null").fetchone()[0])


async def _until_sending(gateway: GatewayProcess, count: int) -> None:
    async with asyncio.timeout(20):
        while _open_attempts(gateway) < count:  # noqa: ASYNC110 -- another process writes it
            await asyncio.sleep(0.02)


async def test_a_drain(gateway: GatewayProcess, client: Client, sandbox: SandboxProcess) -> None:
    """Sends in flight are finished; meanwhile nothing new is taken, replays are, and streams are told to return."""
    await sandbox.fault(backend="rapidpro", verb="create", delay=3.0)
    known = [await client.start(flow=SEED_FLOW, urns=[URN], request_id=f"known-{n}") for n in range(5)]
    stream = client.stub.WatchFlowStarts(pb.WatchFlowStartsRequest())
    await stream.read()
    await _until_sending(gateway, 5)
    gateway.tell(signal.SIGTERM)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        while await stream.read() is not grpc.aio.EOF:
            pass
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.StartFlow(pb.StartFlowRequest(flow=SEED_FLOW, urns=[URN], request_id="new"))
    replayed = await client.stub.StartFlow(pb.StartFlowRequest(flow=SEED_FLOW, urns=[URN], request_id="known-3"))

    assert ("DRAINING", True) == _why(ended.value)
    assert ("DRAINING", True) == _why(refused.value)
    assert (known[3].flow_start.id, True) == (replayed.flow_start.id, replayed.replayed)
    assert 5 == _open_attempts(gateway), "the drain was over too early to tell anything"
    (said,) = (json.loads(line) for line in gateway.log.read_text().splitlines() if '"stopping"' in line)
    assert (5, "ends it at once") == (said["requests_in_flight"], said["second_signal"])
    assert said["at_most_seconds"] >= 20
    assert 0 == await gateway.ended()
    assert 0 == _open_attempts(gateway)
    with closing(sqlite3.connect(gateway.store)) as conn:
        states = conn.execute("select external_id is not null, attempts from dispatches").fetchall()
    assert [(1, 1)] * 5 == states, "a send that was in flight was not finished"
    assert 5 == len(await sandbox.journal(kind="created"))


@pytest.mark.parametrize("second", some([signal.SIGTERM, signal.SIGINT], signal.SIGTERM))
async def test_a_second_signal(
    gateway: GatewayProcess, client: Client, sandbox: SandboxProcess, second: signal.Signals
) -> None:
    """It ends the drain at once, with the code of an end by that signal. What was in flight is found by the next."""
    await sandbox.fault(backend="rapidpro", verb="create", delay=3.0, times=1)
    made = await client.start(flow=SEED_FLOW, urns=[URN], request_id="one")
    await _until_sending(gateway, 1)
    gateway.tell(signal.SIGTERM)
    with pytest.raises(grpc.aio.AioRpcError):
        while True:
            await client.stub.StartFlow(pb.StartFlowRequest(flow=SEED_FLOW, urns=[URN]))  # until it drains
    gateway.tell(second)
    assert 128 + second == await gateway.ended()
    assert 1 == _open_attempts(gateway), "it was not ended at once"

    await gateway.start()
    async with asyncio.timeout(30):
        (done,) = await client.finished(made.flow_start.id)
    assert pb.FlowStart.STATE_COMPLETED == done.state
    created = [entry["params"]["startflow_id"] for entry in await sandbox.journal(kind="created")]
    assert 1 == created.count(f"{made.flow_start.id}-1")


async def test_b3_a_log_that_nobody_reads_holds_nobody_up(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """Its pipe is full. Callers are answered all the same, and it stops."""
    gateway = GatewayProcess(tmp_path, sandbox)
    os.mkfifo(gateway.log)
    pipe = os.open(gateway.log, os.O_RDWR | os.O_NONBLOCK)  # open, and read by nobody
    try:
        os.write(pipe, bytes(fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)))
        await gateway.start()
        async with Client(gateway.address) as client:
            made = await client.start(flow=SEED_FLOW, urns=[URN])
            async with asyncio.timeout(30):
                (done,) = await client.finished(made.flow_start.id)
        async with asyncio.timeout(30):
            code = await gateway.stop()
    finally:
        os.close(pipe)

    assert pb.FlowStart.STATE_COMPLETED == done.state
    assert 0 == code


async def test_b3_what_cannot_start_ends_though_nobody_reads_why(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """Neither its last sentence nor what libraries write waits for whoever does not read."""
    gateway = GatewayProcess(tmp_path, sandbox)
    os.mkfifo(gateway.log)
    pipe = os.open(gateway.log, os.O_RDWR | os.O_NONBLOCK)
    with socket.create_server(("127.0.0.1", gateway.port)):
        os.write(pipe, bytes(fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)))
        await gateway.launch()
        try:
            async with asyncio.timeout(30):
                code = await gateway.ended()
        except TimeoutError:
            await gateway.kill()
            raise
        finally:
            os.close(pipe)

    assert 1 == code


async def test_b3_a_configuration_that_does_not_answer_holds_nobody_up(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """It is read beside everything else, and read anew after that it is taken."""
    gateway = GatewayProcess(tmp_path, sandbox)
    await gateway.start()
    config = tmp_path / "startflow.toml"
    written = config.read_bytes()
    config.unlink()
    os.mkfifo(config)
    gateway.tell(signal.SIGHUP)
    async with asyncio.timeout(30):
        with await asyncio.to_thread(config.open, "wb") as fifo:  # opens once somebody reads it
            async with Client(gateway.address) as client:
                await client.start(flow=SEED_FLOW, urns=[URN])
            fifo.write(written)
        while "reloaded" not in gateway.log.read_text():  # noqa: ASYNC110 -- another process writes it
            await asyncio.sleep(0.02)
        gateway.tell(signal.SIGHUP)
        writer = await asyncio.to_thread(os.open, config, os.O_WRONLY)
        code = await gateway.stop()
        os.close(writer)

    assert 0 == code


@dataclass
class Load:
    """Callers that start one after another, each with its request id, and ask again until they are answered."""

    stub: rpc.StartFlowServiceAsyncStub
    metadata: tuple[tuple[str, str], ...]
    accepted: dict[str, str] = field(default_factory=dict)
    asked_again: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    stopping: bool = False

    async def call(self, name: str) -> None:
        """Goes on until told to stop."""
        n = 0
        while not self.stopping:
            n += 1
            flow = (SEED_FLOW, STUDIO_FLOW)[n % 2]
            request = pb.StartFlowRequest(flow=flow, urns=[f"tel:+1206{hash((name, n)) % 10**7:07}"])
            request.request_id = f"{name}-{n}"
            self.accepted[request.request_id] = await self._insist(request)

    async def _insist(self, request: pb.StartFlowRequest) -> str:
        while True:
            try:
                answer = await self.stub.StartFlow(request, metadata=self.metadata, timeout=60, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self.failed.append(f"{error.code().name} {error.details()}")
                    raise
                self.asked_again[error.details() if "shutting down" in (error.details() or "") else "broken off"] += 1
                await asyncio.sleep(0.05)
            else:
                return answer.flow_start.id


async def _token() -> tuple[str, str]:
    """Makes a token as anybody does; returns it and the lines to paste."""
    words = (sys.executable, "-m", "gateway", "token", "--tenant", "clinic")
    process = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    token, _, lines = said.decode().partition("\n")
    return token, lines


async def test_restarts_under_load(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """With TLS and one token, drained and killed while eight call: no accepted start is lost, and no caller fails."""
    authority = trustme.CA()
    pair = authority.issue_cert("localhost", "127.0.0.1")
    (tmp_path / "certificate.pem").write_bytes(b"".join(each.bytes() for each in pair.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(pair.private_key_pem.bytes())
    (tmp_path / "key.pem").chmod(0o600)
    token, lines = await _token()
    tls = f'\n[tls]\ncertificate = "{tmp_path}/certificate.pem"\nkey = "{tmp_path}/key.pem"\n{lines}'
    gateway = GatewayProcess(tmp_path, sandbox, tables=tls)
    options = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200))
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    codes = []
    async with gateway, grpc.aio.secure_channel(gateway.address, credentials, options=options) as channel:
        stub: Any = rpc.StartFlowServiceStub(channel)
        load = Load(stub, (("authorization", f"Bearer {token}"),))
        callers = [asyncio.create_task(load.call(f"caller-{n}")) for n in range(CALLERS)]
        for end in ENDS:
            await asyncio.sleep(PAUSE)
            if end == "kill":
                await gateway.kill()
            else:
                codes.append(await gateway.stop())
            await gateway.start()
        load.stopping = True
        async with asyncio.timeout(90):
            await asyncio.gather(*callers)
            ended = await _ended(load)
    assert gateway.bugs() == []

    keys = Counter(entry["params"]["startflow_id"] for entry in await sandbox.journal(kind="created"))
    print(f"\n{len(ENDS)} restarts under load, TLS and a token:"
          f" {len(load.accepted)} starts accepted,"
          f" {len(set(load.accepted.values()) - set(ended))} lost, {len(load.failed)} callers failed,"
          f" {sum(count > 1 for count in keys.values())} sent twice,"
          f" asked again: {dict(load.asked_again)}")  # fmt: skip
    assert [0] * ENDS.count("drain") == codes
    assert [] == load.failed
    assert load.asked_again, "no restart was noticed"
    assert len(load.accepted) == len(set(load.accepted.values()))
    assert set(load.accepted.values()) == set(ended)
    assert {f"{each}-1" for each in ended} == set(keys)
    assert {1} == set(keys.values())


async def _ended(load: Load) -> dict[str, int]:
    """Watches until every accepted start is over, and returns how each ended."""
    left, ended = set(load.accepted.values()), {}
    async for message in load.stub.WatchFlowStarts(pb.WatchFlowStartsRequest(), metadata=load.metadata):
        if message.HasField("changed") and message.changed.state in DONE:
            ended[message.changed.id] = message.changed.state
            if left <= set(ended):
                break
    return ended
