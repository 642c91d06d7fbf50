"""How the gRPC server ends without breaking off who calls in that moment.

gRPC ends calls that have reached the server and wait for their handler as CANCELLED, which no caller takes for a reason
to ask again. So before the end nobody is answered for a moment in which no further call arrives: callers that ask one
call after the other then all wait in a handler, and get their answer once the server accepts no new call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

MOMENT = 0.2  # seconds: longer than a call needs from the network to its handler, unless the machine is busy
MOMENTS = 3  # at the most: callers that never wait for an answer would keep the server from ending


class Parting(grpc.GenericRpcHandler):
    """Stands before other handlers, and can have them wait."""

    def __init__(self, handler: grpc.GenericRpcHandler) -> None:
        self._handler = handler
        self._over: asyncio.Event | None = None
        self._held = 0

    def service(self, details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401 -- as the types of gRPC have it
        """Finds a handler."""
        found: Any = self._handler.service(details)
        if found is None or self._over is None:
            return found
        self._held += 1
        if found.response_streaming:
            return grpc.stream_stream_rpc_method_handler(_waiting(found.stream_stream, self._over))
        return grpc.stream_unary_rpc_method_handler(_waiting(found.stream_unary, self._over))

    async def stop(self, server: grpc.aio.Server, seconds: float) -> None:
        """Ends the server; calls that are being answered may take so many seconds."""
        self._over = asyncio.Event()
        for _ in range(MOMENTS):
            held = self._held
            await asyncio.sleep(MOMENT)
            if self._held == held:
                break
        ended = asyncio.create_task(server.stop(seconds))
        await asyncio.sleep(MOMENT)
        self._over.set()
        await ended


def _waiting(answer: Callable[..., Any], over: asyncio.Event) -> Callable[..., Any]:
    async def call(messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: ANN401 -- whatever it is
        await over.wait()
        return await answer(messages, context)

    return call
