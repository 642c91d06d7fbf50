"""A store of some size, the gateway that serves it, and what is asked of it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.wire.page_token import write_page_token
from tests.bench.asking import asking, call, call_all
from tests.bench.grown import RARE, grow
from tests.bench.processes import CannotMeasure
from tests.bench.serving import Gateway, Meter, Spent, configuration
from tests.builders import TENANT
from tests.end_to_end.processes import FAR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AsyncExitStack
    from pathlib import Path

    from tests.bench.processes import Crowd

MOST = 1.2
PAGE = 50
RESUMED = 1_000  # changes
LOOK = 0.001  # seconds between looks at what has come
SAMPLED = 2_000  # ids that are asked for
SETTINGS = 'backlog = 100000000\nsweep_interval = "1h"'
LATER = Timestamp(seconds=FAR)


@dataclass
class Stored:
    """A store of some size, and what is asked of the gateway that serves it."""

    size: int
    folder: Path
    random: Random = field(default_factory=lambda: Random(1))
    head: int = 0
    epoch: str = ""
    ids: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The database file."""
        return self.folder / "startflow.db"

    async def make(self) -> None:
        """Makes the store, and draws which starts are asked for."""
        self.folder.mkdir()
        await grow(self.path, self.size)
        with closing(sqlite3.connect(self.path)) as conn:
            rows = sorted(self.random.choices(range(1, self.size + 1), k=SAMPLED))
            chosen = f"select id from starts where tenant = ? and rowid in ({','.join(map(str, rows))})"  # noqa: S608
            self.ids = [each for (each,) in conn.execute(chosen, (TENANT,))]

    def serve(self, stack: AsyncExitStack, core: int, url: str, command: tuple[str, ...], crowd: Crowd) -> Serving:
        """Starts a gateway that serves it."""
        config = configuration(self.path, [url], settings=SETTINGS)
        gateway = stack.enter_context(Gateway(core, self.folder, config, command))
        return Serving(self, gateway, grpc.aio.insecure_channel(gateway.address), crowd)

    def start(self) -> bytes:
        """Asks for a new start."""
        return asking(schedule_time=LATER)

    def newest(self) -> bytes:
        """Asks for the first page."""
        return pb.ListFlowStartsRequest().SerializeToString()

    def deep(self) -> bytes:
        """Asks for a page from anywhere."""
        token = write_page_token(f"ListFlowStarts {self.epoch} {TENANT} ", self.random.randint(RESUMED, self.head))
        return pb.ListFlowStartsRequest(page_token=token).SerializeToString()

    def rare(self) -> bytes:
        """Asks for the first page of what is rare: at any size but the smallest it is short, and empty."""
        return pb.ListFlowStartsRequest(filter=pb.FlowStartFilter(labels=RARE)).SerializeToString()

    def one(self) -> bytes:
        """Asks for one start."""
        return pb.GetFlowStartRequest(id=self.random.choice(self.ids)).SerializeToString()

    def resume(self) -> bytes:
        """Asks for the newest changes."""
        return pb.WatchFlowStartsRequest(after_revision=self.head - RESUMED).SerializeToString()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is called, how often in one burst, and how many times at once. Its ratios have a target or none."""

    name: str
    method: str
    body: Callable[[Stored], bytes]
    calls: int
    in_flight: int = 1
    most: float | None = None


NEWEST = Operation(
    name="newest page of 50", method="ListFlowStarts", body=Stored.newest, calls=50, in_flight=4, most=MOST
)
RESUME = Operation(
    name=f"resume of {RESUMED:,}, from the cache",
    method="WatchFlowStarts",
    body=Stored.resume,
    calls=4,
    in_flight=4,
    most=MOST,
)
FROM_STORE = Operation(
    name=f"resume of {RESUMED:,}, from the store",
    method="WatchFlowStarts",
    body=Stored.resume,
    calls=4,
    in_flight=4,
    most=MOST,
)
ONE = Operation(name="GetFlowStart", method="GetFlowStart", body=Stored.one, calls=250, in_flight=8)
DEEP = Operation(name="page of 50 from anywhere", method="ListFlowStarts", body=Stored.deep, calls=50, in_flight=4)
RARELY = Operation(name="page of a rare label", method="ListFlowStarts", body=Stored.rare, calls=2)
START = Operation(name="StartFlow", method="StartFlow", body=Stored.start, calls=400, in_flight=64, most=MOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """What some calls took."""

    calls: int
    took: Sequence[float]  # seconds, of each, if that is known
    spent: Spent

    @property
    def each(self) -> float:
        """Milliseconds for one."""
        return self.spent.seconds / self.calls * 1e3

    @property
    def cost(self) -> float:
        """Microseconds of the server's processor time for one."""
        return self.spent.cpu_seconds / self.calls * 1e6


@dataclass(frozen=True, slots=True)
class Serving:
    """A store, the gateway that serves it, and who calls; what resumes is the crowd."""

    stored: Stored
    gateway: Gateway
    channel: grpc.aio.Channel
    crowd: Crowd

    async def begin(self) -> float:
        """Sees that it serves what it should; returns the milliseconds of the first resume."""
        page = pb.ListFlowStartsResponse.FromString(await call(self.channel, "ListFlowStarts", self.stored.newest()))
        if len(page.flow_starts) != PAGE:
            raise CannotMeasure(f"The gateway does not show what is in the store of {self.stored.size:,} starts.")
        self.stored.head, self.stored.epoch = page.revision, page.epoch
        return self._resume([self.stored.resume()]) * 1e3

    async def burst(self, operation: Operation) -> Burst:
        """Makes some calls."""
        took: list[float] = []
        bodies = [operation.body(self.stored) for _ in range(operation.calls)]
        meter = Meter(self.gateway.process, self.gateway.core)
        if operation.method == "WatchFlowStarts":
            self._resume(bodies)
        else:
            took = await call_all(self.channel, operation.method, bodies, operation.in_flight)
        return Burst(calls=operation.calls, took=took, spent=meter.read())

    def _resume(self, bodies: Sequence[bytes]) -> float:
        """Opens watches at once; returns the seconds until all that they resume has come."""
        began, address = time.perf_counter(), self.gateway.address
        self.crowd.watch(address, address, bodies, len(bodies))
        messages = 0
        while messages < RESUMED * len(bodies):
            time.sleep(LOOK)
            messages, ended, why = self.crowd.count(address)
            if ended:
                raise CannotMeasure(f"A watch has ended early: {why}")
        took = time.perf_counter() - began
        self.crowd.close(address)
        return took
