"""The only outgoing HTTP: one `Transport` per backend account, with its rate and its circuit.

Rules:

1. Nothing is repeated here but a page of a long list. What an answer means is the adapter's, what follows from it the
   dispatcher's.
2. `Failed.sent` is False only if writing had not begun: from then on the request may have left.
3. Redirects are not followed and no other host is ever asked: the credentials stay where they belong. A proxy that is
   configured is asked for a tunnel, and sees the credentials only where the backend's URL is plain HTTP.
4. What changes something goes over a connection of its own. One that has been idle may be closed by its server at that
   moment, and then nobody knows whether the request was carried out.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, assert_never

import aiohttp
from yarl import URL

from gateway.adapters.base import Barred, Blocked, Failed, Flows, NotSent, Reply, Sweep, Throttled, Unsure
from gateway.adapters.reading import date_of, passing
from gateway.lanes.following import EarliestClock
from gateway.lanes.pacing import BLOCKED_PAUSE, LONGEST_PAUSE, READ_SHARE, Circuit
from gateway.lookups import Lookups
from gateway.model import Cause, Identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime
    from typing import Self

    from aiohttp.connector import Connection

    from gateway.adapters.base import Exchange, Request, Trouble
    from gateway.lanes.pacing import Limiter

T = TypeVar("T")


class Requested(Protocol):
    """Is told of a request that has ended: its status, or `not_sent` or `unanswered`."""

    def __call__(self, *, creates: bool, answer: int | str, seconds: float) -> None:
        """Is told."""


def untold(*, creates: bool, answer: int | str, seconds: float) -> None:
    """Does nothing with it."""


CONNECT_SECONDS = 5.0
UNKNOWN_CLOCK = timedelta(hours=1)
LARGE_BODY = 65_536  # bytes; what takes longer to make sense of is done beside the event loop
AGAIN_SECONDS = 1.0  # at the least, before what was not answered well is asked for again
BODY_LIMIT = 32 * 1024 * 1024  # bytes; a page of 1,000 executions is about 1 MiB


NAMES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "timeout"),
    (aiohttp.ClientProxyConnectionError, "the proxy cannot be reached"),
    (aiohttp.ClientConnectorDNSError, "host name not found"),
    (aiohttp.ClientSSLError, "TLS failed"),
    (aiohttp.ClientConnectorError, "connection refused or unreachable"),
)
"""What errors are called; the first that fits."""


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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        requested: Requested = untold,
        proxy: str = "",
    ) -> None:
        self.limiter = limiter
        self.circuit = Circuit()
        self._clock = clock
        self._sleep = sleep
        self._requested = requested
        self.in_flight = 0  # requests that create something
        self.identity: Identity | None = None  # whose account answers; None until it was asked: nothing is sent then
        self.met: Identity | None = None  # the same, where another gateway sends
        self._examined_at = -math.inf
        self.earliest = EarliestClock()
        self._url = url.rstrip("/")
        self._rate_counts_reads = rate_counts_reads
        self._lookups = Lookups(timeout.total_seconds())
        self._timeout = aiohttp.ClientTimeout(total=timeout.total_seconds(), sock_connect=CONNECT_SECONDS)
        self._connections = concurrency
        self._proxy = proxy or None
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # by whether connections are used once

    async def __aenter__(self) -> Self:
        """Opens the connection pools."""
        self._sessions = {once: self._open(once=once) for once in (False, True)}
        return self

    def _open(self, *, once: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, force_close=once, resolver=self._lookups),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"startflow-gateway/{version('startflow-gateway')}", "Accept": "application/json"},
            timeout=self._timeout,
            request_class=_TimelyRequest,
        )

    async def __aexit__(self, *_: object) -> None:
        """Closes the connection pools."""
        for session in self._sessions.values():
            await session.close()

    def their_now(self, now: datetime) -> datetime:
        """Tells the time by the backend's clock: that moment or shortly before it, never after.

        Where no answer has told it, an hour is allowed for the difference between the clocks.
        """
        return self.earliest.at(self._clock()) if self.earliest.is_known else now - UNKNOWN_CLOCK

    def held_seconds(self) -> float:
        """How long nothing may be sent: the backend asked to wait, or the rate is spent."""
        return max(self.circuit.wait_seconds(), self.limiter.wait_seconds(sends=True))

    def pace_seconds(self, reads: int) -> float:
        """In how much time so many reads are their share of the rate; none if reading does not spend it."""
        rate = self.limiter.count / self.limiter.seconds
        return reads / (rate * READ_SHARE) if self._rate_counts_reads else 0.0

    def admits(self, tenant: str = "") -> bool:
        """Counts one more send of a tenant if it may go now. What may not is better given back than held until then.

        None may while it is not known whose account this is, and a sweep may just have shown that it is another one.
        """
        if self.identity is None:
            return False
        return not self.circuit.wait_seconds(tenant) and self.limiter.take(sends=True, tenant=tenant)

    def may_examine(self) -> bool:
        """Counts one more examination if it has been long enough since the last one."""
        now = self._clock()
        if now - self._examined_at < BLOCKED_PAUSE:
            return False
        self._examined_at = now
        return True

    def note(self, trouble: Trouble) -> None:
        """Tells the circuit why something could not be read."""
        match trouble:
            case Throttled(seconds=seconds):
                self.circuit.throttled(seconds)
            case NotSent(reason=reason):
                self.circuit.unreachable(reason)
            case Blocked(notice=notice):
                self.circuit.blocked(notice)
            case Barred() | Unsure():
                pass  # neither one that is refused on its way nor an unreadable one says anything about sending
            case _:
                assert_never(trouble)

    async def run(
        self,
        exchange: Exchange[T],
        *,
        write_before: float | None = None,
        answered: Callable[[Reply | Failed], None] | None = None,
        again: int = 0,
    ) -> T:
        """Makes the requests an exchange asks for, and returns what it concludes.

        A request that creates must have been admitted. `write_before` is by `time.monotonic()`: if nothing was written
        by then, nothing will be. `answered` is called with every answer. What blocks says which request met it.

        Once one was answered well, a request that only reads is made up to so many times `again`, after the pause that
        the backend asks for. So what takes many requests gets to its end though single ones fail.
        """
        step = _go_on(exchange, None)
        request, answer = None, None
        left = 0
        while not isinstance(step, _Ended):
            request = step
            if not request.creates and self._rate_counts_reads:
                await self.limiter.acquire(sends=False)
            self.in_flight += request.creates
            try:
                answer = await self._ask(request, write_before)
            finally:
                self.in_flight -= request.creates
            trouble = passing(answer) if again else None
            if trouble and left and request.method == "GET" and await self._has_passed(trouble):
                left -= 1
                if answered is not None:
                    answered(answer)
                continue
            left = again if trouble is None else left
            if isinstance(answer, Reply) and len(answer.body) > LARGE_BODY:
                step = await asyncio.to_thread(_go_on, exchange, answer)
            else:
                step = _go_on(exchange, answer)
            if answered is not None:
                answered(answer)
        return (
            _named(step.result, request, answer) if request is not None and isinstance(answer, Reply) else step.result
        )

    async def _has_passed(self, trouble: Trouble) -> bool:
        """Waits as long as trouble asks for; returns False at once where that is too long for a list half read."""
        self.note(trouble)
        pause = max(AGAIN_SECONDS, self.circuit.wait_seconds())
        if pause > LONGEST_PAUSE:
            return False
        await self._sleep(pause)
        return True

    async def _ask(self, request: Request, write_before: float | None) -> Reply | Failed:
        """Makes one request, and tells what it came to."""
        began = time.monotonic()
        came_to: int | str = "unanswered"  # also if it is given up while it waits
        try:
            answer = await self._make(request, write_before)
            if isinstance(answer, Reply):
                came_to = answer.status
            elif not answer.sent:
                came_to = "not_sent"
        finally:
            self._requested(creates=request.creates, answer=came_to, seconds=time.monotonic() - began)
        return answer

    async def _make(self, request: Request, write_before: float | None) -> Reply | Failed:
        assert self._sessions, "use the transport as a context manager"
        progress = _Progress(write_before=write_before, clock=self._clock)
        _progress.set(progress)
        query = f"?{request.query}" if request.query else ""
        try:
            async with self._sessions[request.method != "GET"].request(
                request.method,
                URL(f"{self._url}{request.path}{query}", encoded=True),
                data=request.body or None,
                headers=request.headers,
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                body = await _read(response)
        except TooLate:
            return Failed(sent=False, reason="its moment passed before it was sent", cause=Cause.TOO_LATE)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Failed(sent=progress.writing, reason=_name(error), cause=_cause(error, sent=progress.writing))
        if body is None:
            return Failed(sent=True, reason=f"an answer of more than {BODY_LIMIT} bytes", cause=Cause.BROKEN)
        headers = {name.lower(): value for name, value in response.headers.items()}
        if (told := _moment(headers.get("date", ""))) is not None:
            self.earliest.note(self._clock(), told)
        return Reply(status=response.status, headers=headers, body=body)


@dataclass(frozen=True, slots=True)
class _Ended(Generic[T]):
    """What an exchange concluded; no future can hold the exception that says so."""

    result: T


def _named(result: T, request: Request, reply: Reply) -> T:
    """Adds to what blocks, or to the trouble of a result, which request was answered how: the last one."""
    if isinstance(result, Blocked | Barred):
        asked = f"{request.method} {request.path}"
        notice = result.notice
        told = replace(
            notice,
            message=f"{notice.message} It answered HTTP {reply.status} to {asked}.",
            metadata={**notice.metadata, "request": asked},
        )
        return replace(result, notice=told)
    if isinstance(result, tuple) and result and not hasattr(result, "_fields"):
        return (_named(result[0], request, reply), *result[1:])  # type: ignore[return-value]
    if isinstance(result, Sweep | Flows) and isinstance(result.trouble, Blocked | Barred):
        return replace(result, trouble=_named(result.trouble, request, reply))
    return result


def _go_on(exchange: Exchange[T], answer: Reply | Failed | None) -> Request | _Ended[T]:
    """Hands an answer to an exchange, or begins it; returns its next request, or what it concludes."""
    try:
        return next(exchange) if answer is None else exchange.send(answer)
    except StopIteration as stop:
        return _Ended(stop.value)


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


@lru_cache(maxsize=64)  # a backend says the same second many times
def _moment(date: str) -> datetime | None:
    """Reads a `Date` header: whole seconds, rounded down."""
    return date_of({"date": date})


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
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy refused the connection (HTTP {error.status})"
    return next((name for kind, name in NAMES if isinstance(error, kind)), type(error).__name__)


def _cause(error: Exception, *, sent: bool) -> Cause:
    if not sent:
        return Cause.UNREACHABLE
    return Cause.TIMEOUT if isinstance(error, TimeoutError) else Cause.BROKEN
