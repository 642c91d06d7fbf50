"""One run: a gateway with tenants before both simulated backends, all that is thrown at it, and what is left."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import grpc
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from gateway.tenants.clients import hash_token
from tests.chaos.memory import resident
from tests.end_to_end.processes import SEED_FLOW, GatewayProcess, SandboxProcess
from tests.fuzz import grpcurl
from tests.fuzz.callers import PATIENCE, Caller
from tests.fuzz.judge import Answers
from tests.fuzz.listener import Listener
from tests.fuzz.messages import Maker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IN_FLIGHT = 24  # gRPC calls
CHANNELS = 4
PER_HTTP = 50  # gRPC requests to one of HTTP
MOST_OF_HTTP = 2_000
SLOW = 4  # bodies
LOOKS = 5  # at the memory, the first of them after the warm-up
SETTLE = 1.0  # seconds
CLIENTS = [
    {"tenant": "a", "token": "token-a", "scopes": "start read admin"},
    {"tenant": "b", "token": "token-b", "scopes": "start read admin", "backends": ["rapidpro"]},
    {"tenant": "boss", "token": "token-boss", "scopes": "start read admin operator"},
    {"tenant": "reader", "token": "token-reader", "scopes": "read"},
    {"tenant": "hasty", "token": "token-hasty", "scopes": "start read admin"},
    {"tenant": "few", "token": "token-few", "scopes": "start read", "starts_per_second": 1, "streams": 1},
    {"tenant": "old", "token": "token-old", "scopes": "read", "expires": "2020-01-01T00:00:00Z"},
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is thrown."""

    seed: int = 1
    requests: int = 100_000
    json: int = 100


class Victim(GatewayProcess):
    """A gateway that knows its callers."""

    clients: ClassVar[list[dict[str, Any]]] = CLIENTS

    @property
    def environment(self) -> dict[str, str]:
        """Adds the clients."""
        clients = [
            {
                **{name: value for name, value in client.items() if name != "token"},
                "token_sha256": hash_token(str(client["token"])).hex(),
                "scopes": str(client["scopes"]).split(),
            }
            for client in self.clients
        ]
        return {**super().environment, "STARTFLOW_CLIENTS": json.dumps(clients)}


async def run(options: Options, folder: Path, say: Callable[[str], None]) -> Answers:
    """Throws everything, and judges it."""
    answers = Answers()
    async with SandboxProcess(folder) as sandbox, Victim(folder, sandbox) as victim:
        await _throw(options, victim, answers, say)
        await _is_well(victim, answers)
        if (code := await victim.stop()) != 0:
            answers.violate(f"the gateway ended with {code}")
        with closing(sqlite3.connect(f"file:{victim.store}?mode=ro", uri=True)) as store:
            found = store.execute("select id from starts where tenant <> 'hasty'")
            answers.recorded = {start_id for (start_id,) in found}
        for line in victim.bugs():
            answers.violate(f"log: {line[:300]}")
    answers.judge()
    return answers


async def _throw(options: Options, victim: Victim, answers: Answers, say: Callable[[str], None]) -> None:
    random = Random(options.seed)
    maker, other = Maker(random), Maker(Random(options.seed + 1))
    listener = Listener(victim.http, victim.address, Random(options.seed + 2), answers)
    slow = [asyncio.create_task(listener.slow()) for _ in range(SLOW)]
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(_channel(victim.address, each)) for each in range(CHANNELS)]
        callers = [Caller(channels[each % CHANNELS], maker, answers) for each in range(IN_FLIGHT)]
        for look in range(LOOKS):
            requests = _counter(options.requests // LOOKS)
            http = _counter(min(options.requests // PER_HTTP, MOST_OF_HTTP) // LOOKS)
            asking = _ask(_counter(options.json // LOOKS), other, victim, answers)
            await asyncio.gather(*(each.run(requests) for each in callers), listener.run(http), asking)
            await asyncio.sleep(SETTLE)
            answers.memory.append(resident(victim.pid))
            done, bad = answers.codes.total(), len(answers.violations)
            say(f"{(look + 1) * 100 // LOOKS} %: {done:,} answers, {bad} violations")
    await asyncio.gather(*slow)


def _channel(address: str, number: int) -> grpc.aio.Channel:
    options = [("grpc.channel_id", number), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    return grpc.aio.insecure_channel(address, options=options)


def _counter(count: int) -> Callable[[], bool]:
    """Says so often that there is one more."""
    left = iter(range(count))
    return lambda: next(left, None) is not None


async def _ask(next_one: Callable[[], bool], maker: Maker, victim: Victim, answers: Answers) -> None:
    while next_one():
        await grpcurl.ask(maker, victim.address, answers)


async def _is_well(victim: Victim, answers: Answers) -> None:
    """Starts a flow and follows it to its end, as if nothing had been."""
    async with grpc.aio.insecure_channel(victim.address) as channel:
        stub = rpc.StartFlowServiceStub(channel)
        metadata = (("authorization", "Bearer token-a"),)
        request = pb.StartFlowRequest(flow=SEED_FLOW, backend="rapidpro", urns=["tel:+12065551299"])
        try:
            started = await stub.StartFlow(request, metadata=metadata, timeout=PATIENCE)
            answers.accepted.add(started.flow_start.id)
            watching = pb.WatchFlowStartsRequest(ids=[started.flow_start.id], until_done=True)
            async for _ in stub.WatchFlowStarts(watching, metadata=metadata, timeout=PATIENCE):
                pass
        except grpc.aio.AioRpcError as error:
            answers.violate(f"afterwards: {error.code().name} {error.details()}")
