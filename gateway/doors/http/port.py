"""Listens for HTTP, with a bounded number of connections. No request here needs a credential.

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


class Port:
    """An address that this process has and nobody is served at yet."""

    def __init__(self, host: str, listening: asyncio.Server, accept: _Accept) -> None:
        self._listening, self._accept = listening, accept
        self.address = f"{host}:{listening.sockets[0].getsockname()[1]}"

    @classmethod
    async def take(cls, address: str, stack: AsyncExitStack) -> Port:
        """Takes an address until the stack is closed. Raises `OSError` if another process has it."""
        host, _, port = address.rpartition(":")
        accept, loop = _Accept(), asyncio.get_running_loop()
        listening = await loop.create_server(accept, host.strip("[]"), int(port), backlog=BURST, start_serving=False)
        stack.callback(listening.close)
        return cls(host, listening, accept)

    async def serve(self, runner: web.AppRunner, stack: AsyncExitStack, *, most: int = MOST) -> None:
        """Serves until the stack is closed. Raises `OSError` if another process has come to listen here first."""
        assert runner.server is not None
        self._accept.begin(runner.server, most)
        await self._listening.start_serving()

        async def stop() -> None:
            self._listening.close()
            await runner.cleanup()

        stack.push_async_callback(stop)


class _Accept:
    """Makes what answers a new connection, and ends the oldest ones beyond `most` of them."""

    def __init__(self) -> None:
        self._server: web.Server | None = None
        self._most = MOST
        self._trimming: asyncio.TimerHandle | None = None
        self._came = 0  # since the last look

    def begin(self, server: web.Server, most: int) -> None:
        """Has a server answer the connections from here on."""
        self._server, self._most = server, most

    def __call__(self) -> web.RequestHandler:
        assert self._server is not None
        self._came += 1
        loop = asyncio.get_running_loop()
        if self._trimming is None:
            self._trimming = loop.call_later(SOON, self._trim)
        elif self._came == BURST // 2:
            self._trimming.cancel()
            self._trimming = loop.call_later(0, self._trim)
        return self._server()

    def _trim(self) -> None:
        self._trimming, self._came = None, 0
        assert self._server is not None
        there = self._server.connections  # the oldest first
        there.sort(key=lambda each: each._current_request is not None)  # noqa: SLF001 -- aiohttp is pinned
        for each in there[: max(0, len(there) - self._most)]:
            if each.transport is not None:
                each.transport.abort()  # to close it would wait until its client has read everything
