from __future__ import annotations

import asyncio
import gc
import gzip
import socket
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from gateway.adapters.base import Account, Failed, Reply, Request
from gateway.adapters.rapidpro.adapter import RapidPro
from gateway.lanes.pacing import Limiter
from gateway.lanes.transport import BODY_LIMIT, UNKNOWN_CLOCK, Transport
from gateway.model import Cause
from tests.builders import NOON
from tests.fakes import Heard, Ticks, Wire, backend, http

if TYPE_CHECKING:
    from collections.abc import Generator

    from gateway.adapters.base import Exchange

SECRET = "Token s3cr3t"
POST = Request(
    method="POST",
    path="/api/v2/flow_starts.json",
    query="a=%2B1&b=%20+x%2Fy",
    headers={"Authorization": SECRET, "Content-Type": "application/json"},
    body=b'{"flow":"x","name":"R\\u00e9mi"}',
    creates=True,
)
GET = Request(method="GET", path="/api/v2/flow_starts.json", headers={"Authorization": SECRET})


def transport(url: str, *, timeout: float = 5.0, limiter: Limiter | None = None, **different: Any) -> Transport:
    """Makes a transport to a server of the test."""
    return Transport(
        url,
        timeout=timedelta(seconds=timeout),
        limiter=limiter or Limiter(1000, 1.0),
        rate_counts_reads=different.pop("rate_counts_reads", False),
        concurrency=8,
        **different,
    )


def one(request: Request) -> Exchange[Reply | Failed]:
    """Asks for one request and concludes with its answer."""
    return (yield request)


async def ask(request: Request, url: str, *, write_before: float | None = None, **settings: Any) -> Reply | Failed:
    """Makes one request."""
    async with transport(url, **settings) as open_transport:
        return await open_transport.run(one(request), write_before=write_before)


async def test_the_request_arrives_byte_for_byte() -> None:
    """Path, query, headers and body are as the adapter has encoded them."""
    async with Wire(lambda _: http(200)) as server:
        await ask(POST, server.url + "/")

    (heard,) = server.heard
    assert "POST /api/v2/flow_starts.json?a=%2B1&b=%20+x%2Fy HTTP/1.1" == heard.line
    assert POST.body == heard.body
    assert (SECRET, "application/json", "application/json") == (
        heard.headers["authorization"],
        heard.headers["content-type"],
        heard.headers["accept"],
    )
    assert heard.headers["user-agent"].startswith("startflow-gateway/")


async def test_the_answer_is_handed_over_whole() -> None:
    """Status and body are as they came, the names of headers in lower case; no cookie is kept."""
    answer = http(201, b'{"a":1}', "X-Temba-Org: 7", "RETRY-AFTER: 5", "Set-Cookie: session=1; Path=/")
    async with Wire(lambda _: answer) as server, transport(server.url) as open_transport:
        first = await open_transport.run(one(POST))
        await open_transport.run(one(GET))

    assert isinstance(first, Reply)
    assert (201, b'{"a":1}', "7", "5") == (
        first.status,
        first.body,
        first.headers["x-temba-org"],
        first.headers["retry-after"],
    )
    assert [name.lower() for name in first.headers] == list(first.headers)
    assert all("cookie" not in heard.headers for heard in server.heard)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int) -> None:
    """The credentials stay with the host they were given for; the adapter judges the redirect."""
    async with (
        Wire(lambda _: http(200)) as elsewhere,
        Wire(lambda _: http(status, b"", f"Location: {elsewhere.url}/x")) as server,
    ):
        answers = [await ask(request, server.url) for request in (POST, GET)]

    assert [status, status] == [answer.status for answer in answers if isinstance(answer, Reply)]
    assert 0 == elsewhere.connections


def _said(heard: Heard) -> bytes | None:
    """Answers as the path says."""
    return {
        "/reset": b"",
        "/silence": None,
        "/short": b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{",
        "/no-http": b"SSH-2.0-OpenSSH_9.9\r\nConnection: close\r\n\r\n",
        "/half-line": b"HTTP/1.1 2\r\nConnection: close",
        "/odd-status": b"HTTP/1.1 banana Yes\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "/odd-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n{}\r\n",
        "/no-gzip": http(200, b"plain", "Content-Encoding: gzip", "Connection: close"),
        "/long-header": http(200, b"", "X-Long: " + "x" * 20_000, "Connection: close"),
        "/two-lengths": http(200, b"{}", "Content-Length: 7", "Connection: close"),
        "/bomb": http(200, gzip.compress(b"\0" * (BODY_LIMIT + 1), 9), "Content-Encoding: gzip", "Connection: close"),
    }[heard.line.split()[1]]


@pytest.mark.parametrize(
    "path",
    [
        "/reset",
        "/silence",
        "/short",
        "/no-http",
        "/half-line",
        "/odd-status",
        "/odd-chunk",
        "/no-gzip",
        "/long-header",
        "/two-lengths",
        "/bomb",
    ],
)
async def test_what_was_written_may_have_been_carried_out(path: str) -> None:
    """Whatever goes wrong once the request has left: it says `sent`, and the request was made once."""
    request = Request(method="POST", path=path, headers={}, body=b"{}", creates=True)
    async with Wire(_said) as server:
        answer = await ask(request, server.url, timeout=0.3 if path == "/silence" else 5.0)

    assert isinstance(answer, Failed)
    assert answer.sent
    assert 1 == len(server.heard)


async def test_a_timeout_is_named() -> None:
    """The reason is a few words, without address or content."""
    async with Wire(lambda _: None) as server:
        answer = await ask(POST, server.url, timeout=0.2)

    assert Failed(sent=True, reason="timeout", cause=Cause.TIMEOUT) == answer


async def test_a_refused_port_means_nothing_was_sent() -> None:
    """Nobody listens: nothing can have left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answer = await ask(POST, f"http://127.0.0.1:{port}")

    assert Failed(sent=False, reason="connection refused or unreachable", cause=Cause.UNREACHABLE) == answer


async def test_an_unknown_host_means_nothing_was_sent() -> None:
    """A name under `.invalid` never resolves."""
    answer = await ask(POST, "https://gateway.invalid", timeout=5.0)

    assert isinstance(answer, Failed)
    assert not answer.sent
    assert answer.reason in {"host name not found", "timeout"}  # where there is no name server, it times out


async def test_failed_tls_means_nothing_was_sent() -> None:
    """A server that speaks no TLS gets no request."""

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        answer = await ask(POST, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    assert Failed(sent=False, reason="TLS failed", cause=Cause.UNREACHABLE) == answer


async def test_a_connection_that_never_opens_means_nothing_was_sent() -> None:
    """A listener whose backlog is full lets nobody in."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(listener.getsockname())
        answer = await ask(POST, f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3)

    assert Failed(sent=False, reason="timeout", cause=Cause.UNREACHABLE) == answer


async def test_c9_a_post_never_rides_on_a_connection_that_was_used_before() -> None:
    """The server drops a kept-alive connection as the next request arrives: no POST is lost in it."""

    def answer(heard: Heard) -> bytes:
        return http(200) if heard.number == 1 else b""

    async with Wire(answer) as server, transport(server.url) as open_transport:
        answers = [await open_transport.run(one(request)) for request in (GET, POST, POST, GET, POST)]

    assert [200] * 5 == [each.status if isinstance(each, Reply) else each.reason for each in answers]
    assert [(1, "close")] * 3 == [
        (heard.number, heard.headers["connection"]) for heard in server.heard if heard.line.startswith("POST")
    ]


async def test_a_post_whose_connection_breaks_is_never_repeated() -> None:
    """The server may have acted, so nothing is sent again."""
    async with Wire(lambda _: b"") as server, transport(server.url) as open_transport:
        answer = await open_transport.run(one(POST))

    assert isinstance(answer, Failed)
    assert answer.sent
    assert 1 == len(server.heard)


def _by_proxy(heard: Heard) -> bytes:
    return http(200 if heard.line.startswith("POST http://backend.invalid:8000/api/") else 400)


async def test_c10_a_proxy_leads_out() -> None:
    """The backend's own name is not looked up here; the proxy does that."""
    async with Wire(_by_proxy) as proxy:
        answer = await ask(POST, "http://backend.invalid:8000", proxy=proxy.url)

    assert isinstance(answer, Reply)
    assert 200 == answer.status


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (http(407), "the proxy refused the connection (HTTP 407)"),
        (http(403), "the proxy refused the connection (HTTP 403)"),
    ],
)
async def test_c10_what_a_proxy_refuses_to_connect_was_not_sent(said: bytes, reason: str) -> None:
    """It was asked for a tunnel and saw neither the credentials nor the body."""
    async with Wire(lambda _: said) as proxy:
        answer = await ask(POST, "https://backend.invalid", proxy=proxy.url)

    assert Failed(sent=False, reason=reason, cause=Cause.UNREACHABLE) == answer
    (heard,) = proxy.heard
    assert "CONNECT backend.invalid:443 HTTP/1.1" == heard.line
    assert SECRET not in str(heard)
    assert b"" == heard.body


async def test_c10_a_proxy_that_is_not_there_is_named() -> None:
    """Not the backend behind it."""
    answer = await ask(POST, "https://backend.invalid", proxy="http://127.0.0.1:1")

    assert Failed(sent=False, reason="the proxy cannot be reached", cause=Cause.UNREACHABLE) == answer


async def test_a_get_on_a_stale_connection_is_repeated_once() -> None:
    """The HTTP library does that by itself, and only for methods that change nothing; it costs no start anything."""

    def answer(heard: Heard) -> bytes:
        return http(200) if heard.number == 1 else b""

    async with Wire(answer) as server, transport(server.url) as open_transport:
        answers = [await open_transport.run(one(GET)) for _ in range(2)]

    assert [200, 200] == [each.status for each in answers if isinstance(each, Reply)]
    assert [(1, 1), (1, 2), (2, 1)] == [(heard.connection, heard.number) for heard in server.heard]


@pytest.mark.parametrize("kept_alive", [False, True])
async def test_a_request_that_was_held_up_is_not_written(kept_alive: bool) -> None:  # noqa: FBT001
    """A process that was paused past the deadline sends nothing, and the connection it had is not left open."""
    ticks = Ticks()
    async with Wire(lambda _: http(200)) as server:
        async with transport(server.url, clock=ticks) as open_transport:
            if kept_alive:
                await open_transport.run(one(GET))
            late = await open_transport.run(one(POST), write_before=ticks() - 0.001)
            await asyncio.wait_for(server.closed.wait(), 5)
            in_time = await open_transport.run(one(POST), write_before=ticks())
        gc.collect()  # an unclosed socket would warn

    assert Failed(sent=False, reason="its moment passed before it was sent", cause=Cause.TOO_LATE) == late
    assert isinstance(in_time, Reply)
    assert ["POST"] == [heard.line.split()[0] for heard in server.heard if heard.body]


async def test_an_answer_of_any_size_is_bounded() -> None:
    """A body beyond the limit is not held in memory, and not believed."""
    async with Wire(lambda _: http(200, b"x" * (BODY_LIMIT + 1), "Connection: close")) as server:
        answer = await ask(GET, server.url)
    async with Wire(lambda _: http(200, b"x" * BODY_LIMIT, "Connection: close")) as server:
        largest = await ask(GET, server.url)

    assert Failed(sent=True, reason=f"an answer of more than {BODY_LIMIT} bytes", cause=Cause.BROKEN) == answer
    assert isinstance(largest, Reply)
    assert BODY_LIMIT == len(largest.body)


async def test_an_exchange_is_run_to_its_conclusion() -> None:
    """Each request is answered before the next one is asked for; what is in flight and creates is counted."""
    numbers = count(1)
    flying: list[int] = []

    def three() -> Generator[Request, Reply | Failed, list[bytes]]:
        found = []
        for request in (GET, POST, GET):
            answer = yield request
            assert isinstance(answer, Reply)
            found.append(answer.body)
        return found

    def answer(_: Heard) -> bytes:
        flying.append(open_transport.in_flight)
        return http(200, str(next(numbers)).encode())

    async with Wire(answer) as server, transport(server.url) as open_transport:
        concluded = await open_transport.run(three())

    assert [b"1", b"2", b"3"] == concluded
    assert [0, 1, 0] == flying
    assert 0 == open_transport.in_flight


@pytest.mark.parametrize(("counts", "spent"), [(True, 2), (False, 0)])
async def test_reading_spends_the_rate_where_the_backend_counts_it(counts: bool, spent: int) -> None:  # noqa: FBT001
    """RapidPro counts every request, Twilio only what is created; a POST was counted when it was admitted."""
    limiter = Limiter(10, 60.0, clock=Ticks())
    async with (
        Wire(lambda _: http(200)) as server,
        transport(server.url, limiter=limiter, rate_counts_reads=counts) as open_transport,
    ):
        for request in (GET, GET, POST):
            await open_transport.run(one(request))

    assert 10 - spent == limiter.left(sends=False)


def test_credentials_are_in_no_repr() -> None:
    """Neither of a request, nor of an answer, nor of what is built around them."""
    adapter = RapidPro(Account(credentials={"token": "s3cr3t"}))
    made = backend(transport("http://127.0.0.1:1"), adapter)
    shown = [repr(each) for each in (POST, made, Account(credentials={"token": "s3cr3t"}), made.transport)]

    assert [] == [text for text in shown if "s3cr3t" in text]
    assert "R\\u00e9mi" not in repr(POST)
    assert "s3cr3t" not in repr(Reply(status=200, headers={"x": "s3cr3t"}, body=b"s3cr3t"))


# --- the backend's clock


@pytest.mark.parametrize("off", [0.0, 0.999, -90.0, 86_400.0], ids=str)
async def test_the_backends_clock_is_told_by_its_answers_and_never_early(off: float) -> None:
    """However far from ours it is: the `Date` of the latest answer, and what has passed since; never after it."""
    ticks, theirs = Ticks(), NOON + timedelta(seconds=off)
    early: list[timedelta] = []

    async with (
        Wire(lambda _: http(200, b"{}", f"Date: {format_datetime(theirs, usegmt=True)}")) as server,
        transport(server.url, clock=ticks) as open_transport,
    ):
        for pause in (0.0, 0.4, 3_600.0):
            await open_transport.run(one(GET))
            ticks.tick(pause)
            theirs += timedelta(seconds=pause)
            early.append(theirs - open_transport.their_now(NOON))

    assert [True] * 3 == [timedelta(0) <= each < timedelta(seconds=1) for each in early]


@pytest.mark.parametrize("status", [200, 401, 500])
async def test_whatever_an_answer_says_it_tells_the_time(status: int) -> None:
    """An error has a date as well."""
    async with (
        Wire(lambda _: http(status, b"{}", f"Date: {format_datetime(NOON, usegmt=True)}")) as server,
        transport(server.url, clock=Ticks()) as open_transport,
    ):
        await open_transport.run(one(POST))

    assert NOON == open_transport.their_now(datetime(2000, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Date: yesterday",),
        ("Date: Wed, 31 Dec 1969 23:59:59 GMT",),
        ("Date: Fri, 31 Dec 9999 23:59:59 GMT",),
        ("Date: Fri, 31 Dec 9999 23:59:59 -2359",),
        ("Date: Mon, 99 Jan 2026 00:00:00 GMT",),
    ],
    ids=str,
)
async def test_a_clock_that_is_not_told_may_be_an_hour_behind(headers: tuple[str, ...]) -> None:
    """Before the first answer, without the header, and with one that makes no sense."""
    async with (
        Wire(lambda _: http(200, b"{}", *headers)) as server,
        transport(server.url, clock=Ticks()) as open_transport,
    ):
        before = open_transport.their_now(NOON)
        await open_transport.run(one(GET))

    assert [NOON - UNKNOWN_CLOCK] * 2 == [before, open_transport.their_now(NOON)]
    assert timedelta(hours=1) == UNKNOWN_CLOCK


async def test_no_answer_tells_no_time() -> None:
    """What was told before still holds."""
    ticks = Ticks()

    def answer(heard: Heard) -> bytes:
        return http(200, b"{}", f"Date: {format_datetime(NOON, usegmt=True)}") if heard.line.startswith("GET") else b""

    async with Wire(answer) as server, transport(server.url, clock=ticks) as open_transport:
        await open_transport.run(one(GET))
        ticks.tick(60)
        failed = await open_transport.run(one(POST))

    assert isinstance(failed, Failed)
    assert NOON + timedelta(seconds=60) == open_transport.their_now(NOON)
