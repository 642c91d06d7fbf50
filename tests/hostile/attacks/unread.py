"""Clients that read nothing, or never finish what they send. Each attack is under way inside its `async with`."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.hostile.attacks.frames import HEADERS, HEALTH, OURS, PREFACE, REFLECTION, Peer, message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

LIST_SERVICES = message(b"\x3a\x01*")
"""A request for reflection whose answer is longer than nothing."""
LATIN = "/startflow.v1.StartFlowService/\xe9".encode("latin-1")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a gateway listens: `host:port` each."""

    grpc: str
    http: str


async def _begun(peer: Peer, stream: int) -> None:
    """Waits until a call has reached its handler, as its first header block shows, and would have been answered."""
    await peer.until_came(HEADERS, stream)


@asynccontextmanager
async def health_watches(target: Target, count: int = 1) -> AsyncIterator[None]:
    """Watches the health of every service and reads nothing."""
    async with Peer(target.grpc) as peer:
        streams = [peer.call(f"{HEALTH}Watch", message(b"")) for _ in range(count)]
        await _begun(peer, streams[-1])
        yield


@asynccontextmanager
async def watches(target: Target, count: int = 10) -> AsyncIterator[None]:
    """Watches all starts and reads nothing."""
    async with Peer(target.grpc) as peer:
        streams = [peer.call(f"{OURS}WatchFlowStarts", message(b"")) for _ in range(count)]
        await _begun(peer, streams[-1])
        yield


@asynccontextmanager
async def reflections(target: Target, count: int = 10) -> AsyncIterator[None]:
    """Asks for all services, and reads nothing."""
    async with Peer(target.grpc) as peer:
        streams = [peer.call(REFLECTION, LIST_SERVICES * 3, ends=False) for _ in range(count)]
        await _begun(peer, streams[-1])
        yield


@asynccontextmanager
async def answers(target: Target, count: int = 10) -> AsyncIterator[None]:
    """Makes calls that have one answer each, and reads none."""
    async with Peer(target.grpc) as peer:
        for _ in range(count):
            first = peer.call(f"{OURS}ListBackends", message(b""))
            last = peer.call(f"{HEALTH}Check", message(b""))
        await _begun(peer, first)
        await _begun(peer, last)
        yield


@asynccontextmanager
async def half_messages(target: Target, count: int = 10) -> AsyncIterator[None]:
    """Says that a message has a megabyte, and sends less."""
    async with Peer(target.grpc) as peer:
        for path in (f"{OURS}StartFlow", f"{OURS}WatchFlowStarts", f"{HEALTH}Check", f"{HEALTH}Watch", REFLECTION):
            for _ in range(count):
                peer.call(path, message(b"x" * 1_000, says=2**20), ends=False)
        await peer.drain()
        yield


@asynccontextmanager
async def half_connections(target: Target, count: int = 10) -> AsyncIterator[None]:
    """Connects to both ports and sends nothing, half a preface, half a request, or half a body."""
    host, _, port = target.grpc.rpartition(":")
    async with half_requests(target, count), AsyncExitStack() as stack:
        for _ in range(count):
            for begin in (b"", PREFACE[:9], PREFACE):
                await stack.enter_async_context(_connection(host, int(port), begin))
        yield


@asynccontextmanager
async def half_requests(target: Target, count: int) -> AsyncIterator[None]:
    """Connects to the HTTP port four times as often and sends nothing, half a request, or half a body."""
    host, _, port = target.http.rpartition(":")
    half = b"POST /events/twilio/twilio HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
    async with AsyncExitStack() as stack:
        for _ in range(count):
            for begin in (b"", b"GET /metr", half, half + b"\r\nxxx"):
                await stack.enter_async_context(_connection(host, int(port), begin))
        yield


@asynccontextmanager
async def pages(target: Target, count: int = 10) -> AsyncIterator[None]:
    """Asks for more pages at once than all buffers together hold, and reads none."""
    host, _, port = target.http.rpartition(":")
    async with AsyncExitStack() as stack:
        for _ in range(count):
            begin = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 500
            await stack.enter_async_context(_connection(host, int(port), begin))
        yield


@asynccontextmanager
async def _connection(host: str, port: int, begin: bytes) -> AsyncIterator[None]:
    raw = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        raw.settimeout(0)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, (host.strip("[]"), port))
        await loop.sock_sendall(raw, begin)
        yield


UNREAD: dict[str, Callable[[Target], AbstractAsyncContextManager[None]]] = {
    attack.__name__: attack
    for attack in (health_watches, watches, reflections, answers, half_messages, half_connections, pages)
}
