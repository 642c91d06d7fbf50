"""Listens for HTTP, with so many connections and no more. There are no credentials here, so everybody is a guest.

One connection more than there may be ends the oldest that has no request, or the oldest of all: a newcomer is served,
whatever the others hold, be it half a request or an answer that they do not read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from aiohttp import web

MOST = 256  # connections; an operator's probes, a scraper and what Twilio posts are a few
BURST = 64  # connections more that there are for a moment
SOON = 0.05  # seconds: so long there may be more
KEEP_ALIVE = 620.0  # seconds without a whole request: longer than balancers keep a connection, so that they end it


async def listen(runner: web.AppRunner, host: str, port: int, stack: AsyncExitStack, *, most: int = MOST) -> int:
    """Listens until the stack is closed; returns the port. Raises `OSError` if the address is taken."""
    server = runner.server
    assert server is not None

    loop = asyncio.get_running_loop()
    trimming: asyncio.TimerHandle | None = None

    came = 0  # since the last look

    def accept() -> web.RequestHandler:
        nonlocal trimming, came
        came += 1
        if trimming is None:
            trimming = loop.call_later(SOON, trim)
        elif came == BURST // 2:
            trimming.cancel()
            trimming = loop.call_later(0, trim)
        return server()

    def trim() -> None:
        nonlocal trimming, came
        trimming, came = None, 0
        there = server.connections  # the oldest first
        there.sort(key=lambda each: each._current_request is not None)  # noqa: SLF001 -- aiohttp is pinned
        for each in there[: max(0, len(there) - most)]:
            if each.transport is not None:
                each.transport.abort()  # to close it would wait until its client has read everything

    listening = await loop.create_server(accept, host, port, backlog=BURST)

    async def stop() -> None:
        listening.close()
        await runner.cleanup()

    stack.push_async_callback(stop)
    return int(listening.sockets[0].getsockname()[1])
