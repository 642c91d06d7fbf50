"""What somebody without a credential can do: each attack is a coroutine that runs until it is cancelled."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import grpc

from tests.hostile.attacks.frames import (
    HEADERS,
    HEALTH,
    OURS,
    PING,
    REFLECTION,
    SETTINGS,
    frame,
    header_block,
    message,
)
from tests.hostile.attacks.unread import UNREAD, Target
from tests.hostile.caller import PAUSE, at_once, calling, flood, hold

if TYPE_CHECKING:
    from tests.hostile.attacks.frames import Peer
    from tests.hostile.caller import Aim

LIST_SERVICES = b":\x01*"  # `list_services: "*"` of a reflection request
HALVES, HALF = 48, 15 * 1024 * 1024  # connections, and bytes that a message says it has
STREAMS = 5_000
SLOW, SLOWLY = 300, 0.3  # connections, and seconds between two bytes
RESETS = 200  # at a time; twice in a hundredth of a second
POST = (
    b"POST /events/twilio/twilio HTTP/1.1\r\nHost: gateway\r\nContent-Length: 500000\r\nX-Twilio-Signature: x\r\n\r\n"
)
GET = b"GET /metrics HTTP/1.1\r\nHost: gateway\r\n"
CONTINUATION = 0x9


async def unread_health(aim: Aim) -> None:
    """Watches health and asks for reflection, and reads nothing."""

    async def each(peer: Peer) -> None:
        for n in range(90):
            if n % 3 == 0:
                peer.call(f"{HEALTH}Watch", message(b""))
            elif n % 3 == 1:
                peer.call(f"{HEALTH}Check", message(b""))
            else:
                peer.call(REFLECTION, message(LIST_SERVICES) * 50, ends=False)
        await peer.drain()
        await peer.closed.wait()

    await hold(aim, 20, each)


async def unread(aim: Aim) -> None:
    """Begins calls and requests of every kind, and reads no answer, or never finishes what it sends."""
    target = Target(aim.grpc, aim.http.removeprefix("http://"))
    async with AsyncExitStack() as stack:
        for name, begun in UNREAD.items():
            await stack.enter_async_context(begun(target, 30))
            aim.counts[name] += 30
        await asyncio.Event().wait()


async def half_messages(aim: Aim) -> None:
    """Sends half of very large messages, and then waits."""
    data = message(bytes(HALF // 2), says=HALF)

    async def each(peer: Peer) -> None:
        await peer.pour(peer.call(f"{OURS}StartFlow", b"", ends=False), data)
        await peer.closed.wait()

    await hold(aim, HALVES, each)


async def streams(aim: Aim) -> None:
    """Opens thousands of streams of health and reflection on one connection."""

    async def each(peer: Peer) -> None:
        for n in range(STREAMS):
            if n % 2:
                peer.call(f"{HEALTH}Watch", message(b""))
            else:
                peer.call(REFLECTION, message(LIST_SERVICES), ends=False)
            if n % 100 == 0:
                await peer.drain()
        await peer.closed.wait()

    await hold(aim, 2, each, window=65_535)


async def rapid_reset(aim: Aim) -> None:
    """Opens streams and takes them back at once, thousands a second."""

    async def each(peer: Peer) -> None:
        while not peer.closed.is_set():
            for n in range(RESETS):
                paths = (f"{HEALTH}Watch", f"{OURS}WatchFlowStarts")
                peer.reset(peer.call(paths[n % 2], message(b""), ends=False))
            await peer.drain()
            aim.counts["resets"] += RESETS
            await asyncio.sleep(0.02)

    await hold(aim, 2, each)


async def control_frames(aim: Aim) -> None:
    """Sends pings, settings, and headers that never end."""
    begun = frame(HEADERS, 0, 1, header_block(f"{OURS}StartFlow"))
    endless = frame(CONTINUATION, 0, 1, header_block("/x", [("x", "y" * 900)]))
    floods = [frame(PING, 0, 0, bytes(8)) * 50, frame(SETTINGS, 0, 0) * 50]

    async def each(peer: Peer) -> None:
        kind = aim.counts["connections"] % 3
        if kind == 2:
            peer.send(begun)
        while not peer.closed.is_set():
            peer.send(endless if kind == 2 else floods[kind])
            await peer.drain()
            await asyncio.sleep(0.005)

    await hold(aim, 6, each)


async def bad_tokens(aim: Aim) -> None:
    """Calls with credentials that nobody has."""
    await flood(aim, "ListFlowStarts", lambda _: b"", 64, tenant="nobody")


async def connections(aim: Aim) -> None:
    """Connects, calls once and leaves."""

    async def each(_: int) -> None:
        with suppress(grpc.aio.AioRpcError):
            async with calling(aim, "nobody") as caller:
                await caller.ask("ListBackends", b"")

    await at_once(16, each)


async def _slowly(aim: Aim, data: bytes, forever: bytes) -> None:
    """Keeps connections of HTTP in use by a byte now and then."""
    host, _, port = aim.http.removeprefix("http://").rpartition(":")

    async def each(_: int) -> None:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            aim.counts["no connection"] += 1
            await asyncio.sleep(PAUSE)
            return
        aim.counts["connections"] += 1
        with suppress(OSError):
            writer.write(data)
            while True:
                writer.write(forever)
                await writer.drain()
                await asyncio.sleep(SLOWLY)
        writer.close()

    await at_once(SLOW, each)


async def slow_requests(aim: Aim) -> None:
    """Sends HTTP requests so slowly that they never end."""
    await _slowly(aim, GET, b"X: y\r\n")


async def half_posts(aim: Aim) -> None:
    """Posts events whose bodies never end."""
    await _slowly(aim, POST, b"[")


async def metrics(aim: Aim) -> None:
    """Asks for the metrics, over one connection after the other, and reads none of them."""
    host, _, port = aim.http.removeprefix("http://").rpartition(":")

    async def each(_: int) -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write((GET + b"\r\n") * 20)
            await writer.drain()
            aim.counts["connections"] += 1
            await asyncio.sleep(0.2)
            writer.close()

    await at_once(16, each)
