"""How the gRPC server ends: no call that reached it is broken off as CANCELLED."""

from __future__ import annotations

import asyncio
from asyncio import sleep
from typing import Any

import grpc
import pytest

from gateway.doors.grpc.stopping import MOMENTS, Parting


class Handler(grpc.GenericRpcHandler):
    """Answers each call at once."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:  # noqa: ARG002 -- as the types of gRPC have it
        """Finds a handler of one answer."""

        async def answer(_messages: object, _context: object) -> bytes:
            return b"answer"

        return grpc.stream_unary_rpc_method_handler(answer)  # type: ignore[arg-type]


class Ending:
    """A server that ends, and the calls that reach it meanwhile."""

    def __init__(self, calls: list[int]) -> None:
        self.parting = Parting(Handler())
        self.seen: list[str] = []
        self._calls = calls
        self._answers: list[asyncio.Task[None]] = []

    async def moment(self, _seconds: float) -> None:
        """Passes a moment, in which so many calls arrive."""
        self.seen.append("moment")
        for _ in range(self._calls.pop(0) if self._calls else 0):
            self.call()
        await sleep(0)

    async def stop(self, _seconds: float) -> None:
        """Takes no new calls from now on."""
        self.seen.append("closed")

    def call(self) -> None:
        """Lets a call arrive."""
        found = self.parting.service(None)  # type: ignore[arg-type]
        self._answers.append(asyncio.create_task(self._answer(found)))

    async def _answer(self, found: Any) -> None:
        await found.stream_unary(None, None)
        self.seen.append("answer")

    async def run(self) -> list[str]:
        """Ends it; returns what happened, in order."""
        await self.parting.stop(self, 5)  # type: ignore[arg-type]
        await asyncio.gather(*self._answers)
        return self.seen


@pytest.mark.parametrize(("calls", "moments"), [
    ([],                  1),
    ([2, 0],              2),
    ([2, 1, 0],           3),
    ([1] * MOMENTS,       MOMENTS),  # callers that never wait for an answer keep no server from ending
])  # fmt: skip
async def test_d2_a_call_that_arrives_at_the_end_is_answered_once_no_new_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, calls: list[int], moments: int
) -> None:
    """The port closes after a moment without a further call: on a busy machine a moment alone was too short."""
    ending, count = Ending([*calls]), sum(calls)
    monkeypatch.setattr("gateway.doors.grpc.stopping.asyncio.sleep", ending.moment)
    seen = await ending.run()

    assert ["moment"] * moments == [each for each in seen[: seen.index("closed")] if each == "moment"][:-1]
    assert count == seen[seen.index("closed") :].count("answer") == seen.count("answer")


async def test_a_call_is_answered_at_once_while_the_server_does_not_end() -> None:
    """Nothing waits before."""
    ending = Ending([])
    ending.call()
    await sleep(0)

    assert ["answer"] == ending.seen
