"""How a gateway is called in numbers: requests and answers stay bytes, so that the client costs little."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from startflow.v1 import start_flow_service_pb2 as pb

from gateway.doors.grpc.interceptors import SERVICE
from tests.bench.serving import backend_name
from tests.bench.stub_backend import FLOW

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc

TIMEOUT = 60.0  # seconds


def asking(**different: Any) -> bytes:
    """Asks for a start of one URN, with a request id of its own."""
    request = pb.StartFlowRequest(
        backend=backend_name(0),
        flow=FLOW,
        urns=["tel:+12065551212"],
        labels={"campaign": "spring", "channel": "whatsapp"},
        request_id=os.urandom(16).hex(),
        **different,
    )
    request.params.update({"first_name": "Ryan", "appointment": "2026-03-14T09:30:00Z", "attempt": 2})
    return request.SerializeToString()


async def call(channel: grpc.aio.Channel, name: str, body: bytes) -> bytes:
    """Calls once."""
    answer: bytes = await channel.unary_unary(f"/{SERVICE.full_name}/{name}")(body, timeout=TIMEOUT)
    return answer


async def call_all(channel: grpc.aio.Channel, name: str, bodies: Iterable[bytes], in_flight: int) -> list[float]:
    """Calls with each body, so many in flight; returns the seconds of each."""
    method = channel.unary_unary(f"/{SERVICE.full_name}/{name}")
    waiting, took = iter(bodies), []

    async def call_one_after_the_other() -> None:
        for body in waiting:
            began = time.perf_counter()
            await method(body, timeout=TIMEOUT)
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(call_one_after_the_other() for _ in range(in_flight)))
    return took
