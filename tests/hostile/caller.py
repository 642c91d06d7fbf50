"""Calls one gateway as a tenant, as often as an attack wants, and counts the answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc

from tests.chaos.driver import reason_of
from tests.fuzz.callers import path
from tests.hostile.attacks.frames import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from google.protobuf.message import Message

    from tests.fuzz.callers import Metadata

PATIENCE = 30.0  # seconds until a call is given up
PAUSE = 0.05  # seconds before the next try, where nobody listens


@dataclass
class Aim:
    """The gateway that an attack is aimed at, and what it has answered so far."""

    grpc: str
    http: str
    counts: Counter[str] = field(default_factory=Counter)


def token(tenant: str) -> Metadata:
    """Returns the credential of a tenant."""
    return (("authorization", f"Bearer token-{tenant}"),)


@dataclass
class Caller:
    """Calls as one tenant over one connection."""

    channel: grpc.aio.Channel
    aim: Aim
    metadata: Metadata

    async def ask(self, name: str, request: Message | bytes) -> bytes | None:
        """Calls once; returns the answer, or None if there was an error. Counts either."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            answer: bytes = await self.channel.unary_unary(path(name))(data, metadata=self.metadata, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            await self.refused(error)
            return None
        self.aim.counts["OK"] += 1
        return answer

    async def refused(self, error: grpc.aio.AioRpcError) -> None:
        """Counts an error. Pauses if nobody listens."""
        self.aim.counts[reason_of(error) or error.code().name] += 1
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            await asyncio.sleep(PAUSE)

    async def watch(self, request: Message, messages: int | None = None) -> None:
        """Opens a watch and reads so many messages, or all until the stream ends."""
        method = self.channel.unary_stream(path("WatchFlowStarts"))
        stream: Any = method(request.SerializeToString(), metadata=self.metadata)
        try:
            while messages != 0 and await stream.read() is not grpc.aio.EOF:
                self.aim.counts["messages"] += 1
                messages = None if messages is None else messages - 1
        except grpc.aio.AioRpcError as error:
            await self.refused(error)
        finally:
            stream.cancel()


@asynccontextmanager
async def calling(aim: Aim, tenant: str = "loud") -> AsyncIterator[Caller]:
    """Connects, and gives a caller."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    async with grpc.aio.insecure_channel(aim.grpc, options=options) as channel:
        yield Caller(channel, aim, token(tenant))


async def at_once(number: int, each: Callable[[int], Awaitable[None]]) -> None:
    """Calls a function with 0, 1, 2 … for ever, so many at a time."""
    numbers = count()

    async def one() -> None:
        for n in numbers:
            await each(n)

    async with asyncio.TaskGroup() as group:
        for _ in range(number):
            group.create_task(one())


async def flood(
    aim: Aim, name: str, make: Callable[[int], Message | bytes], at_a_time: int, tenant: str = "loud"
) -> None:
    """Calls one RPC for ever, so many calls at a time."""
    async with calling(aim, tenant) as caller:

        async def ask(number: int) -> None:
            await caller.ask(name, make(number))

        await at_once(at_a_time, ask)


async def hold(aim: Aim, connections: int, each: Callable[[Peer], Awaitable[None]], *, window: int = 0) -> None:
    """Keeps so many connections in use, and opens another one for each that is closed."""

    async def one() -> None:
        while True:
            try:
                async with Peer(aim.grpc, window=window) as peer:
                    aim.counts["connections"] += 1
                    await each(peer)
            except OSError:
                aim.counts["no connection"] += 1
            await asyncio.sleep(PAUSE)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(one())
