"""The quiet tenant: does a little all the time, and measures what that takes: `python -m tests.hostile.quiet`.

Runs in a process of its own. Each line on stdin is an order as JSON, each line on stdout its answer. It knows several
gateways by name and works on one at a time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

import aiohttp
import grpc
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from tests.end_to_end.processes import SEED_FLOW, STUDIO_FLOW
from tests.hostile.caller import token

TENANT = "quiet"
RATE = 20.0  # starts a second, and as many reads
PROBES = 2.0  # a second, of each kind of health
PENDING = pb.FlowStart.STATE_PENDING
GOOD = (pb.FlowStart.STATE_QUEUED, pb.FlowStart.STATE_STARTED, pb.FlowStart.STATE_COMPLETED)
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"  # as grpc.health.v1 writes it
numbers = count(1)


@dataclass
class Figures:
    """Seconds of each thing that was done in a slice of time, and what failed."""

    start_flow: list[float] = field(default_factory=list)
    get_flow_start: list[float] = field(default_factory=list)
    accepted_after: list[float] = field(default_factory=list)
    watch_delay: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Quiet:
    """The quiet tenant on one gateway."""

    def __init__(self, address: str, http: str) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200))
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._stub: Any = rpc.StartFlowServiceStub(self._channel)
        self._http = http
        self._metadata = token(TENANT)
        self._figures: Figures | None = None  # of the slice that is being measured
        self._began = 0.0  # the clock when it began
        self._accepted: dict[str, asyncio.Future[float]] = {}
        self._known: list[str] = []  # starts
        self._revision = 0
        self._epoch = ""
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Hangs up."""
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await self._channel.close()

    async def measure(self, seconds: float, patience: float) -> Figures:
        """Does a little for so long, waits for the last answer, and returns what everything took.

        What takes longer than `patience` seconds has failed.
        """
        self._figures, self._began = figures, began = Figures(), time.time()
        async with asyncio.TaskGroup() as group:
            for kind, rate in ((self._start, RATE), (self._get, RATE), (self._probe, PROBES), (self._visit, PROBES)):
                for n in range(max(1, round(rate * seconds))):
                    group.create_task(self._due(began + n / rate, kind, patience))
        self._figures = None
        return figures

    async def _due(self, at: float, kind: Any, patience: float) -> None:
        """Does something at a time. It counts from then, even if the client is late itself."""
        await asyncio.sleep(max(0.0, at - time.time()))
        figures = self._figures
        assert figures is not None
        try:
            async with asyncio.timeout(patience):
                await kind(at, figures)
        except grpc.aio.AioRpcError as error:
            figures.failures.append(f"{kind.__name__[1:]}: {error.code().name} {error.details()}")
        except TimeoutError:
            figures.failures.append(f"{kind.__name__[1:]}: not within {patience:g} s")
        except (aiohttp.ClientError, OSError) as error:
            figures.failures.append(f"{kind.__name__[1:]}: {error!r}")

    async def _start(self, at: float, figures: Figures) -> None:
        number = next(numbers)
        on_studio = number % 2 == 0
        request = pb.StartFlowRequest(
            backend="twilio" if on_studio else "rapidpro",
            flow=STUDIO_FLOW if on_studio else SEED_FLOW,
            urns=[f"tel:+1415{number:07}"],
            request_id=f"quiet-{number}",
        )
        answer = await self._stub.StartFlow(request, metadata=self._metadata)
        figures.start_flow.append(time.time() - at)
        self._known.append(answer.flow_start.id)
        accepted = await self._future(answer.flow_start.id)
        if accepted < 0:
            figures.failures.append("start: it ended without having been started")
        else:
            figures.accepted_after.append(accepted - at)

    async def _get(self, at: float, figures: Figures) -> None:
        if not self._known:
            return
        await self._stub.GetFlowStart(pb.GetFlowStartRequest(id=self._known[-1]), metadata=self._metadata)
        figures.get_flow_start.append(time.time() - at)

    async def _probe(self, _at: float, figures: Figures) -> None:
        """Asks gRPC's health service."""
        answer = await self._channel.unary_unary(HEALTH_CHECK)(b"")
        if answer != SERVING:
            figures.failures.append("probe: not SERVING")

    async def _visit(self, _at: float, figures: Figures) -> None:
        """Asks for the page that a probe asks for, each time over a connection of its own."""
        async with aiohttp.ClientSession(self._http) as session, session.get("/readyz") as answer:
            if answer.status != 200:
                figures.failures.append(f"visit: {answer.status}")

    def _future(self, start_id: str) -> asyncio.Future[float]:
        return self._accepted.setdefault(start_id, asyncio.get_running_loop().create_future())

    async def _watch(self) -> None:
        """Watches everything of the tenant, and resumes where a stream ends."""
        while True:
            request = pb.WatchFlowStartsRequest(epoch=self._epoch)
            if self._epoch:
                request.after_revision = self._revision
            try:
                async for message in self._stub.WatchFlowStarts(request, metadata=self._metadata):
                    self._take(message, time.time())
            except grpc.aio.AioRpcError as error:
                if self._figures is not None:
                    self._figures.failures.append(f"watch: {error.code().name} {error.details()}")
            await asyncio.sleep(0.1)

    def _take(self, message: pb.WatchFlowStartsResponse, now: float) -> None:
        self._revision, self._epoch = message.revision, message.epoch
        if not message.HasField("changed"):
            return
        start = message.changed
        changed = start.update_time.ToNanoseconds() / 1e9
        if self._figures is not None and changed >= self._began:
            self._figures.watch_delay.append(now - changed)
        if start.state != PENDING and not (found := self._future(start.id)).done():
            found.set_result(now if start.state in GOOD else -1.0)


async def obey() -> None:
    """Carries out the orders that come, one after the other."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    gateways: dict[str, Quiet] = {}
    while line := await reader.readline():
        order = json.loads(line)
        answer: Any = {}
        match order["do"]:
            case "know":
                gateways[order["name"]] = Quiet(order["grpc"], order["http"])
            case "forget":
                await gateways.pop(order["name"]).close()
            case "measure":
                answer = asdict(await gateways[order["name"]].measure(order["seconds"], order["patience"]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(obey())
