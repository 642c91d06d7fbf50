"""Measures gateways on one PostgreSQL beside one with a file: `python -m tests.bench.postgres`.

Rules:

1. All gateways share one core; client, backend and PostgreSQL share the other one. PostgreSQL and SQLite both wait for
   the disk (`fsync`), and it is the same disk.
2. What the gateways of a row take of their core is what counts as ours. PostgreSQL's own work is not in it.
3. A delay counts from the time that the change itself bears, so the commit is part of it, until a client has read it.
4. A takeover lasts from one accepted start to the next one, whatever comes in between: the longest such gap while one
   gateway of two goes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from gateway.tenants.clients import make_token
from tests.bench.bare_calls import ASKED
from tests.bench.callers import Callers, credential, tell
from tests.bench.figures import Part
from tests.bench.population import TENANT
from tests.bench.postgres_report import FILE, LEASE, MANY, ONE, OTHER, SAME, STEADY, TWO, Row, figures, tables
from tests.bench.processes import CannotMeasure, Crowd, build_client, cores
from tests.bench.serving import DISK, Gateway, configuration
from tests.bench.stub_backend import Stub
from tests.end_to_end.processes import free_port
from tests.postgres_server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from tests.bench.calls_report import Burst

ON_THE_DISK = {"fsync": "on", "full_page_writes": "on"}
PACE = 50.0  # starts a second, where delays and takeovers are measured
SEEN = 20  # starts that were accepted before a gateway is told to go
PATIENCE = 60.0  # seconds
PENDING = pb.FlowStart.STATE_PENDING
COMMAND = "python -m tests.bench.postgres"
METHOD = (
    "Gateways as `startflow serve` runs them, on one PostgreSQL server with its own defaults (`fsync` and"
    " `synchronous_commit` are on), beside one with a file on the same disk. Starts are recorded as under *Calls*:"
    f" {MANY} calls in flight, shared out evenly where there are two gateways. Both gateways are on one core, so two"
    f" cannot be faster than one here; what they take is what counts. Delays: {PACE:.0f} starts a second, from the time"
    " of the change, before its commit, until a client in Python has read it from its stream, at the gateway that"
    " recorded it and at the other one. Takeovers: one backend, whose lane one gateway of two works, and the same pace;"
    " the longest time between two accepted starts while that gateway drains, or after SIGKILL, with the default lease"
    f" of {LEASE:.0f} s."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: turns and seconds of bursts, starts of which the delay is taken, takeovers of each kind."""

    turns: int
    seconds: float
    delays: int
    takeovers: int


FULL = Plan(turns=6, seconds=1.5, delays=750, takeovers=3)
QUICK = Plan(turns=2, seconds=0.8, delays=150, takeovers=1)


@dataclass
class Bench:
    """What is measured, and with whom."""

    plan: Plan
    callers: Sequence[Callers]  # each with a client of its own
    server: Server

    def starts(self) -> tuple[dict[str, Row], dict[str, Row]]:
        """Measures recording, each kind in turn: as fast as it can, and at one pace."""
        fast, steady = ({name: Row() for name in (FILE, ONE, TWO)} for _ in range(2))
        with ExitStack() as stack:
            first, second = self.callers
            alone, shared = self._database(), self._database()
            houses = {
                FILE: [first.gateway(stack)],
                ONE: [first.gateway(stack, store=alone)],
                TWO: [first.gateway(stack, store=shared), second.gateway(stack, store=shared)],
            }
            for turn in range(self.plan.turns):
                for rows, pace in ((fast, 0.0), (steady, STEADY)):
                    for name in list(rows)[:: 1 if turn % 2 == 0 else -1]:
                        rows[name].turns.append(self._burst(houses[name], pace))
                        tell(f"{name}: {rows[name].speeds[-1]:,.0f}/s, {rows[name].costs[-1]:,.0f} µs each")
        return fast, steady

    def _burst(self, gateways: Sequence[Gateway], pace: float) -> list[Burst]:
        """Has all of them called at once."""

        def one(number: int) -> Burst:
            callers, share = self.callers[number], len(gateways)
            caller = callers.start(MANY // share, per_second=pace / share)
            [burst] = callers.burst(gateways[number], [caller], self.plan.seconds)
            return burst

        with ThreadPoolExecutor() as pool:
            return list(pool.map(one, range(len(gateways))))

    def delays(self) -> dict[str, list[float]]:
        """Measures seconds until watchers know."""
        with ExitStack() as stack:
            callers = self.callers[0]
            shared = self._database()
            file = callers.gateway(stack)
            pair = [callers.gateway(stack, store=shared) for _ in range(2)]
            [of_file] = asyncio.run(self._delays([file]))
            same, other = asyncio.run(self._delays(pair))
        return {FILE: of_file, SAME: same, OTHER: other}

    async def _delays(self, gateways: Sequence[Gateway]) -> list[list[float]]:
        """Starts flows at the first one, and watches each."""
        token = self.callers[0].tokens[TENANT]
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            watchers = [Watcher(each, token) for each in gateways]
            watching = [group.create_task(each.watch()) for each in watchers]
            for each in watchers:
                await each.is_live.wait()
            async with calling(gateways[0], token) as flows:
                wanted = {await flows.start() for _ in range(self.plan.delays)}
            for each in watchers:
                await each.until(lambda each=each: wanted <= each.first.keys())
            for task in watching:
                task.cancel()
        return [[seen - changed for key, (changed, seen) in each.first.items() if key in wanted] for each in watchers]

    def takeovers(self) -> dict[signal.Signals, list[float]]:
        """Measures seconds in which nothing is accepted, over the end of the gateway that works the only lane."""
        gaps: dict[signal.Signals, list[float]] = {signal.SIGTERM: [], signal.SIGKILL: []}
        with ExitStack() as stack:
            shared, stub = self._database(), stack.enter_context(Stub(1))
            owner = self._sending(stack, shared, stub)
            for _ in range(self.plan.takeovers):
                for number, taken in gaps.items():
                    heir = self._sending(stack, shared, stub)
                    taken.append(asyncio.run(self._gap(owner, heir, number)))
                    tell(f"{number.name}: nothing accepted for {taken[-1]:.2f} s")
                    owner = heir
            if (made := stub.counts()[0])["commits"] != made["keys"]:
                raise CannotMeasure("Something was created twice.")
        return gaps

    async def _gap(self, owner: Gateway, heir: Gateway, number: signal.Signals) -> float:
        """Ends the owner, and returns the longest time between two acceptances until the heir has gone on."""
        token = self.callers[0].tokens[TENANT]
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            watcher = Watcher(heir, token, counts=lambda start: start.state != PENDING)
            tasks = [group.create_task(watcher.watch())]
            await watcher.is_live.wait()
            async with calling(heir, token) as flows:
                tasks.append(group.create_task(flows.go_on()))
                await watcher.until(lambda: len(watcher.first) >= SEEN)
                began = time.time()
                owner.process.send_signal(number)
                await asyncio.to_thread(owner.process.wait)
                ended = time.time()
                await watcher.until(lambda: watcher.latest > ended)
                for task in tasks:
                    task.cancel()
        moments = sorted(changed for changed, _ in watcher.first.values())
        pairs = [(one, other) for one, other in pairwise(moments) if other > began]
        return max(other - one for one, other in pairs)

    def _sending(self, stack: ExitStack, store: str, stub: Stub) -> Gateway:
        """Starts a gateway whose backend takes what it is sent."""
        callers = self.callers[0]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=DISK)))
        config = configuration(store, stub.urls, head=callers.clients())
        return stack.enter_context(Gateway(callers.core, folder, config))

    def _database(self) -> str:
        """Makes an empty database, and returns its address."""
        name = f"bench_{uuid4().hex}"
        self.server.run(f"create database {name}")
        return self.server.url(name)


class Watcher:
    """Watches all starts of one gateway. `first` is, by start, when it first changed as wanted, and when that came."""

    def __init__(self, gateway: Gateway, token: str, counts: Any = lambda _start: True) -> None:
        self._address = gateway.address
        self._metadata = credential(token)
        self._counts = counts
        self._came = asyncio.Event()
        self.first: dict[str, tuple[float, float]] = {}
        self.latest = 0.0  # when what came last was changed
        self.is_live = asyncio.Event()

    async def watch(self) -> None:
        """Reads the stream until it is cancelled."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub: Any = rpc.StartFlowServiceStub(channel)
            async for message in stub.WatchFlowStarts(pb.WatchFlowStartsRequest(), metadata=self._metadata):
                now = time.time()
                if message.HasField("snapshot_end"):
                    self.is_live.set()
                start = message.changed
                if message.HasField("changed") and self.is_live.is_set() and self._counts(start):
                    changed = start.update_time.ToNanoseconds() / 1e9
                    if start.id not in self.first:
                        self.first[start.id] = changed, now
                        self.latest = max(self.latest, changed)
                        self._came.set()

    async def until(self, is_so: Any) -> None:
        """Waits for what was seen."""
        while not is_so():
            self._came.clear()
            await self._came.wait()


class Flows:
    """Starts flows at one gateway, at an uneven pace: an even one may fall in step with what is measured."""

    def __init__(self, stub: Any, metadata: Any) -> None:
        self._stub = stub
        self._metadata = metadata

    async def start(self) -> str:
        """Starts one, after a pause; returns its id."""
        await asyncio.sleep(random.uniform(0.5, 1.5) / PACE)
        asked = pb.StartFlowRequest()
        asked.CopyFrom(ASKED)
        asked.request_id = str(uuid4())
        asked.urns[:] = [f"tel:+1206{random.randrange(2_000_000, 10_000_000)}"]
        answer = await self._stub.StartFlow(asked, metadata=self._metadata)
        return str(answer.flow_start.id)

    async def go_on(self) -> None:
        """Starts one after the other until it is cancelled."""
        while True:
            await self.start()


@asynccontextmanager
async def calling(gateway: Gateway, token: str) -> AsyncIterator[Flows]:
    """Connects to a gateway."""
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        yield Flows(rpc.StartFlowServiceStub(channel), credential(token))


@contextmanager
def _running() -> Iterator[Server]:
    """A server whose files are where those of SQLite are."""
    DISK.mkdir(exist_ok=True)
    server = Server(free_port(), where=DISK, **ON_THE_DISK)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def measure(quick: bool) -> Part:  # noqa: FBT001 -- so are all parts measured
    """Measures recording, watching and takeovers."""
    binary, own, (core, others) = build_client(), os.sched_getaffinity(0), cores()
    os.sched_setaffinity(0, {others})  # so are clients, backend and PostgreSQL, which inherit it
    tokens = {TENANT: make_token()}
    try:
        with Crowd(binary) as one, Crowd(binary) as other, Stub(1) as stub, _running() as server:
            callers = [Callers(crowd, core, stub, tokens) for crowd in (one, other)]
            bench = Bench(QUICK if quick else FULL, callers, server)
            (fast, steady), delays = bench.starts(), bench.delays()
            if stub.counts()[0]["posts"]:
                raise CannotMeasure("A gateway sent what it was only to record.")
            gaps = bench.takeovers()
    finally:
        os.sched_setaffinity(0, own)
    return Part(
        title="PostgreSQL",
        command=COMMAND + (" --quick" if quick else ""),
        method=METHOD,
        figures=figures(fast, steady, delays, gaps),
        tables=tables(fast, steady, delays),
    )


def main() -> int:
    """Measures and reports; 1 if it cannot measure."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, in a minute")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    try:
        print("\n".join(measure(given.quick).lines()))
    except CannotMeasure as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
