"""What tests of the moving parts share: a time that moves when told to, a wire-level server, a backend by script."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Self

from gateway.adapters.base import Accepted, Failed, Key, Missing, Reply, Request, Sweep, Unsure
from gateway.adapters.rapidpro.adapter import RapidPro
from gateway.errors import Unavailable
from gateway.lanes.backend import Backend
from gateway.lanes.pacing import Circuit, Limiter
from gateway.lanes.transport import Transport
from gateway.model import Cause, Identity, State
from gateway.sightings import Sighting

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from gateway.adapters.base import Exchange, Outcome, Trouble
    from gateway.model import Asked, Dispatch, RecipientKind, Recipients
    from gateway.sightings import Window

PATIENCE = 10.0  # seconds after which a test that waits for something has failed


class Ticks:
    """A monotonic clock, and a sleep by it: both move when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._slept = asyncio.Event()
        self._count = 0

    def __call__(self) -> float:
        """Tells the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Sleeps until the clock was moved far enough."""
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        heappush(self._sleepers, (self.now + seconds, self._count, future))
        self._slept.set()
        await future

    @property
    def next_in(self) -> float | None:
        """In how many seconds the first sleeper wakes."""
        return self._sleepers[0][0] - self.now if self._sleepers else None

    def tick(self, seconds: float) -> None:
        """Moves on, and wakes whom it is time to wake."""
        self.now += seconds
        while self._sleepers and self._sleepers[0][0] <= self.now:
            *_, future = heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    async def sleeping(self) -> float:
        """Waits until somebody sleeps; returns for how long."""
        async with asyncio.timeout(PATIENCE):
            while not self._sleepers:
                self._slept.clear()
                await self._slept.wait()
        return self._sleepers[0][0] - self.now

    async def pass_by(self, seconds: float) -> None:
        """Moves on from one sleeper to the next, each of them taking its turn on the way."""
        end = self.now + seconds
        while True:
            await settled()
            step = self.next_in
            if step is None or self.now + step > end:
                break
            self.tick(step)
        self.tick(end - self.now)
        await settled()


async def settled(turns: int = 20) -> None:
    """Lets everything run that can run without time passing."""
    for _ in range(turns):
        await asyncio.sleep(0)


Answering = Callable[["Heard"], bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One request as its bytes arrived. `connection` counts the connections from 1, `number` the requests on each."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int
    number: int


class Wire:
    """A server that answers with raw bytes, or hangs up: it does what no HTTP library would.

    `answer` is given each request and returns the bytes to send back; b"" resets the connection, None says nothing.
    An answer that has `Connection: close` ends its connection.
    """

    def __init__(self, answer: Answering) -> None:
        self.heard: list[Heard] = []
        self.connections = 0
        self.closed = asyncio.Event()  # set when a client has hung up
        self._answer = answer
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        """Listens."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hangs up on everybody."""
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where it is."""
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def hang_up(self) -> None:
        """Closes every connection at once."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection, number = self.connections, 0
        self._writers.add(writer)
        try:
            while True:
                number += 1
                heard = await _hear(reader, connection, number)
                self.heard.append(heard)
                answer = self._answer(heard)
                if answer is None:
                    continue
                if not answer:
                    writer.transport.abort()
                    return
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in answer.lower():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def _hear(reader: asyncio.StreamReader, connection: int, number: int) -> Heard:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Heard(line=line, headers=headers, body=body, connection=connection, number=number)


def http(status: int, body: bytes = b"{}", *headers: str) -> bytes:
    """Writes a whole answer."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


Answers = Callable[["Dispatch"], Awaitable["Outcome"]]


async def accept(dispatch: Dispatch) -> Outcome:
    """Accepts whatever is sent."""
    return Accepted(external_id=f"x-{dispatch.id}", state=State.QUEUED, account="workspace", accepted_at=None)


@dataclass
class Script:
    """An adapter that asks for one request a dispatch and takes what comes back for the outcome.

    `sweeps` and `accounts` are given out in turn, the last one again and again. As on RapidPro, what shows a dispatch
    shows its key, and nothing can be ended.
    """

    sweeps: list[Sweep] = field(default_factory=lambda: [Sweep(sightings=(), account="workspace")])
    looks: dict[str, Sighting | Missing | Trouble] = field(default_factory=dict)
    accounts: list[str | Trouble] = field(default_factory=lambda: ["workspace"])
    asked_since: list[datetime | None] = field(default_factory=list)
    asked_windows: list[Sequence[Window]] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)
    capabilities = RapidPro.capabilities

    def offers(self, flow: str) -> bool:
        """Offers what begins like it."""
        return flow.startswith("flow-")

    def external_id(self, said: str) -> str:
        """Returns it as it is: its case counts."""
        return said

    def same_as(self, kind: RecipientKind, recipient: str, country: str = "") -> str:  # noqa: ARG002
        """Takes recipients as they are."""
        return f"{kind.name} {recipient}"

    def objections(self, asked: Asked, recipients: Recipients, country: str = "") -> list[Any]:  # noqa: ARG002
        """Objects to nothing."""
        return []

    def plan(self, asked: Asked, recipients: Recipients) -> list[Recipients]:  # noqa: ARG002
        """Makes one dispatch of it all."""
        return [recipients]

    def send(self, dispatch: Dispatch) -> Exchange[Outcome]:
        """Sends one dispatch."""
        answer: Any = yield Request(method="POST", path=f"/{dispatch.id}", headers={}, creates=True)
        return answer

    def sweep(
        self,
        since: datetime | None,
        windows: Sequence[Window],
        sought: Collection[str] = (),  # noqa: ARG002
    ) -> Exchange[Sweep]:
        """Scans. What it is asked for is about a moment that is a quiet window later: nothing is committed later."""
        self.asked_since.append(since and since + self.capabilities.quiet_window)
        self.asked_windows.append(windows)
        yield Request(method="GET", path="/list", headers={})
        return self.sweeps.pop(0) if len(self.sweeps) > 1 else self.sweeps[0]

    def look(self, dispatch: Dispatch) -> Exchange[Sighting | Missing | Trouble]:
        """Reads one."""
        self.looked_at.append(dispatch.external_id)
        yield Request(method="GET", path="/one", headers={})
        return self.looks.get(dispatch.external_id, Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR))

    def identify(self) -> Exchange[Identity | Trouble]:
        """Says whose account it is."""
        yield Request(method="GET", path="/account", headers={})
        account = self.accounts.pop(0) if len(self.accounts) > 1 else self.accounts[0]
        return Identity(account=account) if isinstance(account, str) else account


@dataclass
class Studio(Script):
    """The same, but as on Twilio keys are read one by one, and what runs can be ended.

    A key that is not told is of nobody of ours; what is not told of ending is that it has ended.
    """

    keys: dict[str, str | Key | Missing | Trouble] = field(default_factory=dict)
    ends: dict[str, Sighting | Missing | Trouble] = field(default_factory=dict)
    keys_read: list[str] = field(default_factory=list)
    asked_to_end: list[str] = field(default_factory=list)

    def key(self, flow: str, external_id: str) -> Exchange[Key | Missing | Trouble]:  # noqa: ARG002
        """Reads one key."""
        self.keys_read.append(external_id)
        yield Request(method="GET", path="/key", headers={})
        key = self.keys.get(external_id, "")
        return Key(correlation_key=key) if isinstance(key, str) else key

    def cancel(self, dispatch: Dispatch) -> Exchange[Sighting | Missing | Trouble]:
        """Ends one."""
        self.asked_to_end.append(dispatch.external_id)
        yield Request(method="POST", path="/end", headers={})
        ended = Sighting(external_id=dispatch.external_id, state=State.COMPLETED)
        return self.ends.get(dispatch.external_id, ended)


class ScriptedTransport(Transport):
    """The real transport, but that what comes back over the wire is as a function says. It sleeps by `ticks`, or so."""

    def __init__(
        self,
        answer: Callable[[Request], Awaitable[Any]],
        *,
        ticks: Ticks,
        limiter: Limiter,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(
            "http://127.0.0.1:1",
            timeout=timedelta(seconds=1),
            limiter=limiter,
            rate_counts_reads=False,
            concurrency=1,
            clock=ticks,
            sleep=sleep or ticks.sleep,
        )
        self.circuit = Circuit(clock=ticks, jitter=lambda: 1.0)
        self.requests: list[Request] = []
        self._script = answer

    def tell(self, now: datetime) -> None:
        """Tells what time it is by the backend's clock, as an answer would."""
        self.earliest.note(self._clock(), now)

    async def _ask(self, request: Request, write_before: float | None) -> Reply | Failed:  # noqa: ARG002
        self.requests.append(request)
        answer: Reply | Failed = await self._script(request)
        return answer or Reply(status=200) if request.path == "/list" else answer


def backend(transport: Transport, adapter: Any = None, **different: Any) -> Backend:
    """Builds a backend around a transport, whose account is known."""
    transport.identity = Identity(account="workspace")
    made = Backend(
        name="rapidpro",
        kind="rapidpro",
        adapter=adapter or Script(),
        transport=transport,
        sweep_interval=timedelta(seconds=10),
        in_flight=4,
        quiet_window=timedelta(seconds=120),
    )
    return replace(made, **different)


class Watched:
    """A store whose operations are counted when they are done, and that can be made unavailable for a while.

    `down` names the operations that fail, with how many times each still does. `before` is awaited before an operation.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self.calls: list[str] = []
        self.down: dict[str, int] = {}
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self._changed = asyncio.Event()
        store.listen(lambda _revision: self._changed.set())

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)
        if not asyncio.iscoroutinefunction(operation):
            return operation

        async def call(*args: Any, **named: Any) -> Any:
            if name in self.before:
                await self.before[name]()
            try:
                if self.down.get(name, 0) > 0:
                    self.down[name] -= 1
                    raise Unavailable(message="the disk is full")
                return await operation(*args, **named)
            finally:
                self.calls.append(name)
                self._changed.set()

        return call

    async def until(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        """Waits until it is so; looks again after every operation and every commit."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._changed.clear()
                if await is_so():
                    return
                await self._changed.wait()
