"""Measures the shape of an hour in five minutes: `python -m tests.bench.soak`.

Rules:

1. Starts come at a fixed rate, whether the ones before were answered or not. If more pile up than in three seconds are
   made, the rate is more than this machine bears: it is lowered, and that is told.
2. Time that is waited for is shorter than by default, so that what takes minutes is met often: the quiet window, the
   time for which things are kept.
3. What really happened is what the stub says. The gateway's own account is compared with it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from tests.bench.follower import LOOK
from tests.bench.population import watch
from tests.bench.processes import Crowd, build_client, cores
from tests.bench.running import options, run, tell
from tests.bench.serving import DISK, Gateway, Meter, Spent, configuration
from tests.bench.soak_load import CAMPAIGNS, Caller
from tests.bench.soak_report import report
from tests.bench.stub_backend import Stub

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.figures import Part

BACKENDS = 8
WATCHERS = {"id": 950, "label": 45, "all": 5}  # how many, by what they select
KEPT = ("01", "08")  # states of a TCP connection, as the kernel numbers them, that has a file descriptor: open, or half
CATCH_UP = 5.0  # seconds, at the most, until watchers have been sent what is recorded
COMMAND = "python -m tests.bench.soak"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much, and with which settings. Times are in seconds; `rates` in starts a second, `faults` a share of POSTs.

    `load` includes `warm_up`; `settle` comes after it, and is the most that is waited.
    """

    rates: tuple[int, ...] = (300, 225, 150, 100, 66)
    faults: float = 0.01
    warm_up: float
    load: float
    settle: float
    keep: str
    backends: str


FULL = Plan(
    warm_up=60.0,
    load=245.0,
    settle=45.0,
    keep="150 seconds",  # longer than the two minutes that every sweep reads again
    backends='timeout = "5s"\nquiet_window = "10s"',
)
QUICK = Plan(
    warm_up=7.0,
    load=13.0,
    settle=10.0,
    keep="150 seconds",
    backends='timeout = "1s"\nquiet_window = "1s"\nsweep_interval = "3s"',
)


@dataclass
class Samples:
    """What was seen of the gateway, second by second, from its warm-up on."""

    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)  # but for connections to backends, whose number varies
    store: list[int] = field(default_factory=list)  # bytes, with its WAL
    wal: list[int] = field(default_factory=list)

    async def take(self, gateway: Gateway, stub: Stub, seconds: float) -> None:
        """Looks every second, for so long."""
        until = time.monotonic() + seconds
        files = [gateway.folder / f"startflow.db{end}" for end in ("", "-wal")]
        while time.monotonic() < until:
            self.memory.append(gateway.memory())
            self.descriptors.append(gateway.descriptors() - _connections(stub))
            sizes = [file.stat().st_size for file in files]
            self.store.append(sum(sizes))
            self.wal.append(sizes[1])
            await asyncio.sleep(1)


def _connections(stub: Stub) -> int:
    """Counts the connections to the stub; nobody but the gateway keeps any."""
    ports = {f":{int(url.rpartition(':')[2]):04X}" for url in stub.urls}
    sockets = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(fields[2][-5:] in ports and fields[3] in KEPT for fields in sockets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of it all."""

    plan: Plan
    caller: Caller
    samples: Samples
    spent: Spent
    lateness: Sequence[float]  # seconds
    behind: int  # starts that were accepted and had not reached a backend when the load ended
    settled_in: float
    left: set[str]
    stub: list[dict[str, Any]]
    lost: int  # accepted starts that no backend has ever seen
    recorded: int  # changes, while watchers watched
    watchers: dict[str, int]
    streamed: dict[str, tuple[int, int, str]]  # changes, streams that ended, and why
    bugs: int

    def total(self, what: str) -> int:
        """Adds up what the workspaces have counted."""
        return sum(each[what] for each in self.stub)


async def _run(plan: Plan, core: int, binary: Path, folder: Path) -> Found:
    holds = folder / "holds"
    head = f'retention = "{plan.keep}"\n'
    command = ("-m", "tests.bench.follower", str(holds))
    with Stub(BACKENDS, faults=plan.faults) as stub, Crowd(binary) as crowd:
        config = configuration(folder / "startflow.db", stub.urls, head=head, settings=plan.backends)
        with Gateway(core, folder, config, command) as gateway:
            async with grpc.aio.insecure_channel(gateway.address) as channel:
                caller = Caller(rpc.StartFlowServiceStub(channel), BACKENDS, plan.rates[0])  # type: ignore[arg-type]
                first = await _watch(plan, caller, crowd, gateway.address)
                load, easing = asyncio.create_task(caller.load(plan.load)), caller.ease(plan.rates, stub)
                ends, eased = time.monotonic() + plan.load, asyncio.create_task(easing)
                await asyncio.sleep(plan.warm_up)
                tell("warmed up")
                meter, since, samples = Meter(gateway.process, core), len(holds.read_text().split()), Samples()
                await samples.take(gateway, stub, ends - time.monotonic())
                spent, late = meter.read(), [float(each) for each in holds.read_text().split()[since:]]
                eased.cancel()
                await load
                behind = len(caller.accepted - await _reached(stub))
                tell(f"{len(caller.accepted):,} starts were accepted; {behind:,} have not reached a backend yet")
                settled_in, left = await _settle(plan, caller)
                recorded = await caller.head() - first
                streamed = await _streamed(crowd, recorded)
                return Found(
                    plan=plan,
                    caller=caller,
                    samples=samples,
                    spent=spent,
                    lateness=sorted(_counted(late)),
                    behind=behind,
                    settled_in=settled_in,
                    left=left,
                    recorded=recorded,
                    watchers=WATCHERS,
                    streamed=streamed,
                    stub=await asyncio.to_thread(stub.counts),
                    lost=len(caller.accepted - await _reached(stub) - left),
                    bugs=gateway.bugs(),
                )


async def _reached(stub: Stub) -> set[str]:
    """Tells which starts a backend has seen; each is one dispatch."""
    return {key.removesuffix("-1") for key in await asyncio.to_thread(stub.keys)}


async def _watch(plan: Plan, caller: Caller, crowd: Crowd, address: str) -> int:
    """Opens the watchers; returns the revision after which all of them watch."""
    count = WATCHERS["id"]
    step = (plan.load - plan.warm_up) / count
    ids = await caller.schedule([plan.warm_up / 2 + n * step for n in range(count)])
    first = await caller.head()
    requests = {
        "id": [watch(each, after=first) for each in ids],
        "label": [watch(labels={"campaign": f"c{n}"}, after=first) for n in range(CAMPAIGNS)],
        "all": [watch(after=first)],
    }
    for group, streams in WATCHERS.items():
        crowd.watch(group, address, requests[group], streams)
    tell(f"{sum(WATCHERS.values()):,} watchers watch")
    return first


async def _settle(plan: Plan, caller: Caller) -> tuple[float, set[str]]:
    """Waits until every start is over; returns after how many seconds, and which are not if that takes too long."""
    began, left = time.monotonic(), await caller.open()
    while left and time.monotonic() - began < plan.settle:
        await asyncio.sleep(0.25)
        left = await caller.open()
    tell(f"settled, but for {len(left)}")
    return time.monotonic() - began, left


async def _streamed(crowd: Crowd, recorded: int) -> dict[str, tuple[int, int, str]]:
    """Counts what was streamed, once those who watch everything have what is recorded, or are late with it."""
    until = time.monotonic() + CATCH_UP
    while crowd.count("all")[0] < recorded * WATCHERS["all"] and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.25)
    return {group: crowd.count(group) for group in WATCHERS}


def _counted(late: Sequence[float]) -> list[float]:
    """Counts a look that came late as often as it has missed its turn: whoever else waited is as many."""
    return [max(0.0, each - n * LOOK) for each in late for n in range(1 + int(max(0.0, each) / LOOK))]


def measure(quick: bool) -> Part:  # noqa: FBT001 -- so are all parts measured
    """Measures the shape of an hour."""
    core, others = cores()
    binary = build_client()
    os.sched_setaffinity(0, {others})
    DISK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=DISK) as folder:
        found = asyncio.run(_run(QUICK if quick else FULL, core, binary, Path(folder)))
    return report(found, COMMAND + (" --quick" if quick else ""))


if __name__ == "__main__":
    given = options(COMMAND, __doc__).parse_args()
    sys.exit(run(lambda: measure(given.quick)))
