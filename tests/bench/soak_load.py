"""Who starts flows at a fixed rate, whether the ones before were answered or not, as long as the gateway bears it."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import grpc
from startflow.v1 import start_flow_service_pb2 as pb

from tests.bench.running import tell
from tests.bench.serving import backend_name
from tests.bench.stub_backend import FLOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from startflow.v1 import start_flow_service_pb2_grpc as rpc

    from tests.bench.stub_backend import Stub

CAMPAIGNS = 100  # values of a label; every start has one of them
TOO_MUCH = 3.0  # seconds' worth of starts that wait for their answer, or to be sent: then the rate is lowered
ENOUGH = 1.0  # the same, when it goes on
TIMEOUT = 10  # seconds
PAGE = 500
OPEN = [pb.FlowStart.STATE_PENDING, pb.FlowStart.STATE_QUEUED, pb.FlowStart.STATE_STARTED, pb.FlowStart.STATE_UNCERTAIN]


@dataclass
class Caller:
    """Starts flows on a number of backends, and remembers what came of that."""

    stub: rpc.StartFlowServiceAsyncStub
    backends: int
    rate: int  # starts a second, while nothing has piled up
    accepted: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # seconds, at the present rate
    lowered: list[tuple[float, int]] = field(default_factory=list)  # seconds after the beginning, and the rate since
    _is_held: bool = False  # hardly any are made, until what has piled up is gone
    _due_at: list[float] = field(default_factory=list)  # of those that were scheduled
    _waiting: set[asyncio.Task[str]] = field(default_factory=set)

    async def schedule(self, later: Sequence[float]) -> list[str]:
        """Starts flows that become due so many seconds later, in this order; returns their ids."""
        ids = []
        for number, seconds in enumerate(later, 10**6):
            self._due_at.append(time.monotonic() + seconds)
            ids.append(await self._start(number, later=seconds))
        return ids

    async def load(self, seconds: float) -> None:
        """Starts so many a second, whatever becomes of them; latency counts from when each was to be called."""
        due, number = time.monotonic(), 0
        end = due + seconds
        while due < end:
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._start(number, due=due))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
            due, number = due + (1.0 if self._is_held else 1 / self.rate), number + 1
        await asyncio.gather(*self._waiting)

    async def ease(self, rates: Sequence[int], stub: Stub) -> None:
        """Lowers the rate to the next whenever too much piles up, until cancelled."""
        began = time.monotonic()
        for rate, lower in pairwise(rates):
            while await self._behind(stub) <= rate * TOO_MUCH:  # noqa: ASYNC110 -- the stub tells only who asks
                await asyncio.sleep(1)
            tell(f"{rate}/s is too much: starts pile up")
            self.rate, self._is_held = lower, True
            self.lowered.append((time.monotonic() - began, lower))
            while await self._behind(stub) > lower * ENOUGH:  # noqa: ASYNC110 -- the same
                await asyncio.sleep(0.5)
            self._is_held = False
            self.latencies.clear()

    async def _behind(self, stub: Stub) -> int:
        """Counts the starts that wait for their answer, or to be sent though they are due."""
        sent = sum(each["keys"] for each in await asyncio.to_thread(stub.counts))
        not_due = len(self._due_at) - bisect(self._due_at, time.monotonic())
        return len(self._waiting) + max(0, len(self.accepted) - not_due - sent)

    async def _start(self, number: int, *, due: float | None = None, later: float = 0.0) -> str:
        request = pb.StartFlowRequest(
            backend=backend_name(number % self.backends),
            flow=FLOW,
            urns=[f"tel:+1206{number:07}"],
            request_id=f"soak-{number}",
            labels={"campaign": f"c{number % CAMPAIGNS}"},
        )
        if later:
            request.schedule_time.FromNanoseconds(time.time_ns() + int(later * 1e9))
        try:
            answer = await self.stub.StartFlow(request, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            self.refused[error.code().name] += 1
            return ""
        self.accepted.add(answer.flow_start.id)
        if due is not None:
            self.latencies.append(time.monotonic() - due)
        return answer.flow_start.id

    async def head(self) -> int:
        """Tells the newest revision."""
        return (await self.stub.ListFlowStarts(pb.ListFlowStartsRequest(page_size=1), timeout=TIMEOUT)).revision

    async def open(self) -> set[str]:
        """Tells which starts are not over, up to a page of them."""
        request = pb.ListFlowStartsRequest(filter=pb.FlowStartFilter(states=OPEN), page_size=PAGE)
        while True:
            page = await self.stub.ListFlowStarts(request, timeout=TIMEOUT)
            if page.flow_starts or not page.next_page_token:
                return {start.id for start in page.flow_starts}
            request.page_token = page.next_page_token  # a page may be empty and still not the last
