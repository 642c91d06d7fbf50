"""The only outgoing HTTP: one `Transport` per backend account, with its rate and its circuit.

Rules:

1. Nothing is repeated here. What an answer means is the adapter's, what follows from it the dispatcher's.
2. `Failed.sent` is False only if writing had not begun: from then on the request may have left.
3. Redirects are not followed and no other host is ever asked: the credentials stay where they belong.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar

import aiohttp
from yarl import URL

from gateway.adapters.base import Failed, Reply
from gateway.errors import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import timedelta
    from typing import Self

    from aiohttp.connector import Connection

    from gateway.adapters.base import Adapter, Exchange, Request
    from gateway.model import Notice

T = TypeVar("T")

CONNECT_SECONDS = 5.0
BODY_LIMIT = 32 * 1024 * 1024  # bytes; a page of 1,000 executions is about 1 MiB
READ_SHARE = 0.2  # of the rate is kept for reading, so that following goes on while sends wait
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
BLOCKED_PAUSE = 30.0  # seconds between probes of an account that somebody must see to
STUMBLES = 3  # unanswered sends in a row before the lane waits: a broken backend must not burn every start


class HealthState(IntEnum):
    """How a backend is. The numbers are those of the API."""

    UNKNOWN = 0
    OK = 1
    THROTTLED = 2
    UNREACHABLE = 3
    BLOCKED = 4


class Limiter:
    """At most `count` requests in any `seconds`: the sliding window by which RapidPro counts, too."""

    def __init__(
        self,
        count: int,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.count = count
        self.seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self._spent: deque[tuple[float, bool]] = deque()
        self._sends = 0
        self._sends_limit = max(1, count - max(1, int(count * READ_SHARE)))
        self._queues = {True: asyncio.Lock(), False: asyncio.Lock()}  # sends wait for sends, reads for reads

    def left(self, *, sends: bool) -> int:
        """How many requests may go at once."""
        self._drop_old()
        left = self.count - len(self._spent)
        return max(0, min(left, self._sends_limit - self._sends) if sends else left)

    def wait_seconds(self, *, sends: bool) -> float:
        """How long until one may go."""
        if self.left(sends=sends) or not self._spent:
            return 0.0
        only_sends = sends and len(self._spent) < self.count  # then it is their share that is used up
        oldest = next(at for at, was_send in self._spent if was_send or not only_sends)
        return max(0.0, oldest + self.seconds - self._clock())

    def take(self, *, sends: bool) -> bool:
        """Counts a request if it may go now."""
        if not self.left(sends=sends):
            return False
        self._spent.append((self._clock(), sends))
        self._sends += sends
        return True

    async def acquire(self, *, sends: bool) -> None:
        """Waits until a request may go, and counts it."""
        async with self._queues[sends]:
            while not self.take(sends=sends):
                await self._sleep(max(self.wait_seconds(sends=sends), 0.001))

    def _drop_old(self) -> None:
        horizon = self._clock() - self.seconds
        while self._spent and self._spent[0][0] <= horizon:
            _, was_send = self._spent.popleft()
            self._sends -= was_send


class Circuit:
    """Whether a backend takes requests now, and if not, until when the lane waits."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self.state = HealthState.UNKNOWN
        self.notice: Notice | None = None
        self.detail = ""
        self._clock = clock
        self._jitter = jitter
        self._until = 0.0
        self._pauses = 0
        self._stumbles = 0

    def wait_seconds(self) -> float:
        """How long the lane waits; 0 when it does not."""
        return max(0.0, self._until - self._clock())

    @property
    def is_probing(self) -> bool:
        """Whether one send must be answered before others follow: those of a broken backend may all be in doubt."""
        return self._stumbles >= STUMBLES

    def answered(self) -> None:
        """Notes that the backend answers."""
        if not self.wait_seconds():  # an answer to what was asked before a pause does not end the pause
            self.state, self.notice, self.detail = HealthState.OK, None, ""
            self._pauses = self._stumbles = 0

    def readable(self) -> None:
        """Notes that reading works. A suspended workspace can be read as well; nothing else that blocks can."""
        suspended = self.notice is not None and self.notice.reason == Reason.BACKEND_SUSPENDED
        if not self.wait_seconds() and not suspended:
            self.state, self.notice, self.detail = HealthState.OK, None, ""

    def throttled(self, seconds: float | None) -> None:
        """Notes that the backend asked to wait; for no time at all is for an unknown one, rounded down."""
        self._pause(HealthState.THROTTLED, "it asked to wait", seconds or None)

    def unreachable(self, detail: str) -> None:
        """Notes that the backend could not be reached."""
        self._pause(HealthState.UNREACHABLE, detail, None)

    def blocked(self, notice: Notice) -> None:
        """Notes that somebody must see to the account."""
        self._pause(HealthState.BLOCKED, notice.message, BLOCKED_PAUSE)
        self.notice = notice

    def stumbled(self, detail: str) -> None:
        """Notes that a request was sent and not answered as it should be."""
        self._stumbles += 1
        if self._stumbles >= STUMBLES:
            self._pause(HealthState.UNREACHABLE, detail, None)

    def _pause(self, state: HealthState, detail: str, seconds: float | None) -> None:
        self.state, self.detail, self.notice = state, detail, None
        if seconds is None:
            if self.wait_seconds():
                return  # one outage, however many requests it hit
            seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._pauses) * (0.5 + self._jitter() / 2)
            self._pauses = min(self._pauses + 1, 16)
        self._until = max(self._until, self._clock() + seconds)


class TooLate(Exception):
    """The moment by which a request had to be written has passed."""


class Transport:
    """Sends the requests of one backend. Use as an asynchronous context manager."""

    def __init__(
        self,
        url: str,
        *,
        timeout: timedelta,
        limiter: Limiter,
        rate_counts_reads: bool,
        concurrency: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limiter = limiter
        self.circuit = Circuit()
        self._clock = clock
        self.in_flight = 0  # requests that create something
        self._url = url.rstrip("/")
        self._rate_counts_reads = rate_counts_reads
        self._timeout = aiohttp.ClientTimeout(total=timeout.total_seconds(), sock_connect=CONNECT_SECONDS)
        self._connections = concurrency
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Opens the connection pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"startflow-gateway/{version('startflow-gateway')}", "Accept": "application/json"},
            timeout=self._timeout,
            request_class=_TimelyRequest,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connection pool."""
        if self._session is not None:
            await self._session.close()

    def held_seconds(self) -> float:
        """How long nothing may be sent: the backend asked to wait, or the rate is spent."""
        return max(self.circuit.wait_seconds(), self.limiter.wait_seconds(sends=True))

    def admits(self) -> bool:
        """Counts one more send if it may go now. What may not is better given back than held until it may."""
        return not self.circuit.wait_seconds() and self.limiter.take(sends=True)

    async def run(self, exchange: Exchange[T], *, write_before: float | None = None) -> T:
        """Makes the requests an exchange asks for, and returns what it concludes.

        A request that creates must have been admitted. `write_before` is by `time.monotonic()`: if nothing was written
        by then, nothing will be.
        """
        try:
            request = next(exchange)
            while True:
                if not request.creates and self._rate_counts_reads:
                    await self.limiter.acquire(sends=False)
                self.in_flight += request.creates
                try:
                    answer = await self._ask(request, write_before)
                finally:
                    self.in_flight -= request.creates
                request = exchange.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _ask(self, request: Request, write_before: float | None) -> Reply | Failed:
        assert self._session is not None, "use the transport as a context manager"
        progress = _Progress(write_before=write_before, clock=self._clock)
        _progress.set(progress)
        query = f"?{request.query}" if request.query else ""
        try:
            async with self._session.request(
                request.method,
                URL(f"{self._url}{request.path}{query}", encoded=True),
                data=request.body or None,
                headers=request.headers,
                allow_redirects=False,
            ) as response:
                body = await _read(response)
        except TooLate:
            return Failed(sent=False, reason="held up too long before sending")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Failed(sent=progress.writing, reason=_name(error))
        if body is None:
            return Failed(sent=True, reason=f"an answer of more than {BODY_LIMIT} bytes")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(status=response.status, headers=headers, body=body)


@dataclass(slots=True, kw_only=True)
class _Progress:
    """How far a request has come."""

    write_before: float | None
    clock: Callable[[], float]
    writing: bool = False


_progress: ContextVar[_Progress] = ContextVar("progress")  # of the request that this task makes


class _TimelyRequest(aiohttp.ClientRequest):
    """Checks the time when a connection is there, right before the first byte is written to it."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Writes the request; raises `TooLate` instead if its moment has passed, and the connection is closed."""
        progress = _progress.get()
        if progress.write_before is not None and progress.clock() > progress.write_before:
            raise TooLate
        progress.writing = True
        return await super().send(conn)


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """Reads a whole body; None if it is larger than any sane answer."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        body += chunk
        if len(body) > BODY_LIMIT:
            return None
    return bytes(body)


def _name(error: Exception) -> str:
    """Names an error in a few words that hold no address and no content."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "host name not found"
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS failed"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connection refused or unreachable"
    return type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A configured account: its adapter, and the transport that reaches it."""

    name: str
    kind: str
    adapter: Adapter
    transport: Transport
    sender: str = ""
    flow_aliases: Mapping[str, str] = field(default_factory=dict)
    sweep_interval: timedelta
    in_flight: int
