"""The gateway and the sandbox as real processes, and a client of each."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import aiohttp
import grpc
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from gateway.sandbox import (
    SANDBOX_RAPIDPRO_TOKEN,
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_AUTH_TOKEN,
    Sandbox,
    SandboxSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
READY = re.compile(r"gRPC on (\S+), HTTP on (\S+)")
SEED_FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
STUDIO_FLOW = "FW" + "a" * 32
AT_ONCE = 1_000  # ids in one watch
FAR = int(time.time()) + 300 * 86_400  # in seconds since 1970: a start may be scheduled for a year ahead
DONE = (pb.FlowStart.STATE_COMPLETED, pb.FlowStart.STATE_FAILED, pb.FlowStart.STATE_INTERRUPTED)

_CONFIG = """
listen = "{listen}"
http_listen = "127.0.0.1:0"
store = "{url}"
{top}
[backends.rapidpro]
kind = "rapidpro"
url = "{rapidpro}"
token = "{token}"
rate = "10000/second"
timeout = "{timeout}"
sweep_interval = "100ms"
{settings}
flows = {{ thrift = "f5901b62-ba76-4003-9c62-72fdacc1b7b7" }}

[backends.twilio]
kind = "twilio"
url = "{twilio}"
account_sid = "{sid}"
auth_token = {{ env = "TEST_TWILIO_TOKEN" }}
sender = "+18007654321"
rate = "10000/second"
timeout = "{timeout}"
sweep_interval = "100ms"
{settings}
"""


def free_port() -> int:
    """Finds a port that is free now, and that no connection is given meanwhile: those have ports from 32768 on."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = secrets.choice(range(20_000, 32_768))
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class SandboxProcess:
    """Both simulated backends in a process of their own, which is not killed."""

    folder: Path
    duration: float = 0.5
    urls: dict[str, str] = field(default_factory=dict)
    _process: asyncio.subprocess.Process | None = None
    _session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Starts it and waits until it says where it is."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.sandbox", "--json", "--journal", str(self.folder / "journal.jsonl")),
            *("--duration", str(self.duration), "--rapidpro-rate", "0", "--twilio-rate", "0", "--seed", "1"),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        self.urls = json.loads(await self._process.stdout.readline())
        self._session = aiohttp.ClientSession(self.urls["control"])
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops it."""
        assert self._process is not None
        assert self._session is not None
        await self._session.close()
        self._process.terminate()
        await self._process.wait()

    async def journal(self, **query: str) -> list[dict[str, Any]]:
        """Reads what really happened."""
        assert self._session is not None
        async with self._session.get("/journal", params={"limit": "1000000", **query}) as answer:
            return (await answer.json())["entries"]

    async def creates(self, backend: str) -> list[dict[str, Any]]:
        """Reads the requests that asked for a start."""
        path = {"rapidpro": "flow_starts.json", "twilio": "/Executions"}[backend]
        requests = await self.journal(kind="request", backend=backend)
        return [entry for entry in requests if entry["method"] == "POST" and entry["path"].endswith(path)]

    async def fault(self, **rule: Any) -> None:
        """Asks for a fault."""
        await self._post("/faults", rule)

    async def faults(self) -> list[dict[str, Any]]:
        """Returns the faults in force."""
        assert self._session is not None
        async with self._session.get("/faults") as answer:
            return (await answer.json())["faults"]

    async def pending_faults(self) -> int:
        """Counts the faults that have not fired as often as they were to."""
        rules = await self.faults()
        return sum(rule["times"] is not None and rule["fired"] < rule["times"] for rule in rules)

    async def replace_faults(self, rules: list[dict[str, Any]]) -> list[int]:
        """Asks for these faults in place of those in force, and returns their ids."""
        assert self._session is not None
        async with self._session.delete("/faults"):
            pass
        return (await self._post("/faults", rules))["ids"]

    async def refuse(self, backend: str, seconds: float) -> None:
        """Makes a backend refuse connections for so long."""
        await self._post("/refuse", {"backend": backend, "seconds": seconds})

    async def configure(self, backend: str, **changes: Any) -> Any:
        """Changes how a backend behaves, and returns how it does then."""
        return await self._post(f"/{backend}", changes)

    async def touch(self, **data: Any) -> Any:
        """Gives rows of RapidPro one time of change."""
        return await self._post("/touch", data)

    async def _post(self, path: str, data: object) -> Any:
        assert self._session is not None
        async with self._session.post(path, json=data) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()


@dataclass
class SandboxThread(SandboxProcess):
    """The same in a thread of this process, which starts in a tenth of the time: for tests that do not measure it.

    It has a loop of its own, so that a test may hold up its own one.
    """

    _thread: threading.Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _stopping: asyncio.Event | None = None

    async def __aenter__(self) -> Self:
        """Starts it and waits until it serves."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(target=self._run, args=(ready, ready.get_loop()), name="sandbox")
        self._thread.start()
        await ready
        self._session = aiohttp.ClientSession(self.urls["control"])
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops it."""
        assert self._session is not None
        assert self._thread is not None
        assert self._loop is not None
        assert self._stopping is not None
        await self._session.close()
        self._loop.call_soon_threadsafe(self._stopping.set)
        await asyncio.to_thread(self._thread.join)

    def _run(self, ready: asyncio.Future[None], whose: asyncio.AbstractEventLoop) -> None:
        try:
            asyncio.run(self._serve(ready, whose))
        except Exception as error:  # noqa: BLE001 -- whoever waits is told; a thread has nobody else
            whose.call_soon_threadsafe(_fail, ready, error)

    async def _serve(self, ready: asyncio.Future[None], whose: asyncio.AbstractEventLoop) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        settings = SandboxSettings(
            journal=self.folder / "journal.jsonl",
            duration=timedelta(seconds=self.duration),
            rapidpro_requests_per_hour=0,
            twilio_creates_per_second=0,
            seed=1,
        )
        async with Sandbox(settings) as sandbox:
            self.urls = {
                "rapidpro": sandbox.rapidpro_url,
                "twilio": sandbox.twilio_url,
                "control": sandbox.control_url,
            }
            whose.call_soon_threadsafe(ready.set_result, None)
            await self._stopping.wait()


def _fail(ready: asyncio.Future[None], error: Exception) -> None:
    if ready.done():
        raise error
    ready.set_exception(error)


@dataclass
class GatewayProcess:
    """The gateway as its users run it: one process, which can be killed and started again."""

    folder: Path
    sandbox: SandboxProcess
    timeout: str = "5s"
    settings: str = 'quiet_window = "1s"'  # more lines for both backends
    top: str = ""  # more lines above the tables
    tables: str = ""  # of the configuration, behind the others
    url: str = ""  # of its store; a file in its folder, if none is named
    command: tuple[str, ...] = ("-m", "gateway")
    port: int = field(default_factory=free_port)
    http: str = ""
    _process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Where it serves gRPC."""
        return f"127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        """The database file."""
        return self.folder / "startflow.db"

    @property
    def log(self) -> Path:
        """Everything it has written to stderr, over all its lives."""
        return self.folder / "gateway.log"

    @property
    def environment(self) -> dict[str, str]:
        """What its configuration takes from the environment."""
        return {**os.environ, "TEST_TWILIO_TOKEN": SANDBOX_TWILIO_AUTH_TOKEN}

    async def __aenter__(self) -> Self:
        """Starts it."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops it."""
        if self._process is not None and self._process.returncode is None:
            await self.stop()

    async def start(self) -> None:
        """Starts it and waits until it serves."""
        assert await self.try_to_start(), f"the gateway did not start: {self.log.read_text()}"

    async def try_to_start(self) -> bool:
        """Starts it; returns whether it serves, once that is known."""
        await self.launch()
        assert self._process is not None
        assert self._process.stdout is not None
        found = READY.search((await self._process.stdout.readline()).decode())
        if found:
            self.http = found[2]
        else:
            await self._process.wait()
        return bool(found)

    async def launch(self) -> None:
        """Starts it and does not wait."""
        config = self.folder / "startflow.toml"
        config.write_text(
            _CONFIG.format(
                listen=self.address,
                url=self.url or f"sqlite:///{self.store}",
                top=self.top,
                rapidpro=self.sandbox.urls["rapidpro"],
                twilio=self.sandbox.urls["twilio"],
                token=SANDBOX_RAPIDPRO_TOKEN,
                sid=SANDBOX_TWILIO_ACCOUNT_SID,
                timeout=self.timeout,
                settings=self.settings,
            )
            + self.tables
        )
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, *self.command, "serve", "--config", str(config)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=self.environment,
            )

    @property
    def pid(self) -> int:
        """Which process it is."""
        assert self._process is not None
        return self._process.pid

    async def refuses_to_start(self) -> tuple[int, str]:
        """Starts it in vain; returns its exit code and what it said."""
        before = self.log.stat().st_size
        await self.launch()
        assert self._process is not None
        return await self._process.wait(), self.log.read_text()[before:]

    def suspend(self) -> None:
        """Stops it where it is."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on from where it was stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Ends it as a power cut would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> int:
        """Asks it to stop, and returns its exit code."""
        self.tell(signal.SIGTERM)
        return await self.ended()

    def tell(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Waits for its end, and returns its exit code."""
        assert self._process is not None
        return await self._process.wait()

    def bugs(self) -> list[str]:
        """Returns the lines of its log that must never be there: bugs, and what is nobody's business."""
        marks = ("rpc_failed", "loop_failed", "send_failed", "Traceback")
        marks += ("+1206", "+1800", "first_name", SANDBOX_RAPIDPRO_TOKEN, SANDBOX_TWILIO_AUTH_TOKEN)  # private
        return [line for line in self.log.read_text().splitlines() if any(mark in line for mark in marks)]


class Called(Protocol):
    """Whatever calls go to: one gateway, or one of several."""

    @property
    def stub(self) -> rpc.StartFlowServiceAsyncStub:
        """Where the next call goes."""


@dataclass
class Client:
    """A caller in the same process as the test, over a real channel."""

    address: str
    stub: rpc.StartFlowServiceAsyncStub = field(init=False)
    _channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        """Connects."""
        options = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200))
        self._channel = grpc.aio.insecure_channel(self.address, options=options)
        self.stub = rpc.StartFlowServiceStub(self._channel)  # type: ignore[assignment]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hangs up."""
        assert self._channel is not None
        await self._channel.close()

    async def start(self, **fields: Any) -> pb.StartFlowResponse:
        """Starts a flow; a call that gets no answer is made again, so it needs a `request_id` to be safe."""
        while True:
            try:
                return await self.stub.StartFlow(pb.StartFlowRequest(**fields), timeout=10, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise

    async def watch(self, **fields: Any) -> AsyncIterator[pb.WatchFlowStartsResponse]:
        """Watches until the stream ends."""
        async for message in self.stub.WatchFlowStarts(pb.WatchFlowStartsRequest(**fields), wait_for_ready=True):
            yield message

    async def finished(self, *ids: str) -> list[pb.FlowStart]:
        """Waits until starts are done, and returns them as they ended."""
        last: dict[str, pb.FlowStart] = {}
        for first in range(0, len(ids), AT_ONCE):
            async for message in self.watch(ids=ids[first : first + AT_ONCE], until_done=True):
                if message.HasField("changed"):
                    last[message.changed.id] = message.changed
        return [last[start_id] for start_id in ids]
