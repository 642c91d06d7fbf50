"""Measures what a long history costs: `python -m tests.bench.growth`.

Rules:

1. Each size is served by a gateway of its own, all at once and on one core. They are called in turns, forwards and
   backwards: what counts is a ratio of neighbours. The client is on another core.
2. Stores are on a disk, and were written out to it before anything is measured. What was read of them lately is in
   memory, as it is on a machine that has served for a while.
3. StartFlow comes last, because it makes a store larger; what it records waits for a moment that is far away.
4. What was measured while the hypervisor took time from the core is thrown away and measured again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.figures import Figure, Part, Table
from tests.bench.grown import record_all
from tests.bench.processes import MEMORY, CannotMeasure, Crowd, build_client, cores
from tests.bench.running import options, run, tell
from tests.bench.serving import DISK, Gateway, Spent
from tests.bench.stored import DEEP, FROM_STORE, NEWEST, ONE, RARELY, RESUME, RESUMED, START, Stored
from tests.bench.stub_backend import Stub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.bench.stored import Burst, Operation, Serving

TRIES = 3
SPACE = 6_000_000_000  # bytes that must be free
UNCACHED = ("-m", "tests.bench.uncached")
COMMAND = "python -m tests.bench.growth"
METHOD = (
    "A store of each size is made of finished starts, most of one dispatch and four changes, by repeating rows that"
    " the store's own operations have written. A gateway serves each, on the disk of the checkout with fsync on; all"
    " are pinned to one core and called in turns by clients on another one, and each ratio is of two neighbours."
    f" A resume reads the last {RESUMED:,} changes of a tenant over gRPC until all have come, four at once: from the"
    " cache of recent changes, as whoever was away for a moment does, and from the store, by gateways whose cache is"
    " turned off. Every operation was run before, so that the caches are as full in each. StartFlow comes last and is"
    " scheduled for later, so nothing is sent meanwhile; when all is over the smallest store has about 4,000 starts"
    " more. In the table the first resume is one alone, of a gateway that has just started and encodes each change;"
    " after that it keeps them, in its cache."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: stores by their starts, and rounds through all of them.

    With `compares` the smallest is also recorded one by one.
    """

    sizes: tuple[int, ...]
    rounds: int
    compares: bool


FULL = Plan(sizes=(1_000, 100_000, 1_000_000), rounds=8, compares=True)
QUICK = Plan(sizes=(1_000, 100_000), rounds=3, compares=False)


@dataclass
class Bench:
    """One run: what was measured so far, by operation and size."""

    plan: Plan
    core: int
    folder: Path
    crowd: Crowd
    bursts: dict[Operation, dict[int, list[Burst]]] = field(default_factory=dict)
    first: dict[str, dict[int, float]] = field(default_factory=dict)  # milliseconds of the first resumes
    bytes_each: dict[int, float] = field(default_factory=dict)
    bytes_recorded: float = 0.0  # of starts that were recorded one by one, as many as the smallest store has

    async def run(self) -> None:
        """Makes the stores, and measures everything."""
        stores = [Stored(size, self.folder / str(size)) for size in self.plan.sizes]
        for each in stores:
            await each.make()
            self.bytes_each[each.size] = each.path.stat().st_size / each.size
            tell(f"{each.size:,} starts are stored, {self.bytes_each[each.size]:,.0f} bytes each")
        if self.plan.compares:
            with tempfile.TemporaryDirectory(prefix="bench-", dir=MEMORY) as name:
                path = Path(name) / "startflow.db"
                await record_all(path, self.plan.sizes[0])
                self.bytes_recorded = path.stat().st_size / self.plan.sizes[0]
        with Stub(1) as stub:
            await self._serve(stores, stub.urls[0], UNCACHED, (FROM_STORE,))
            await self._serve(stores, stub.urls[0], Gateway.command, (RESUME, NEWEST, ONE, DEEP, RARELY, START))

    async def _serve(
        self, stores: Sequence[Stored], url: str, command: tuple[str, ...], operations: Sequence[Operation]
    ) -> None:
        """Serves every store, and has each operation run in all of them in turns."""
        async with AsyncExitStack() as stack:
            smallest, *others = (each.serve(stack, self.core, url, command, self.crowd) for each in stores)
            serving = [*others[:-1], smallest, others[-1]]  # the smallest is everybody's neighbour
            for each in serving:
                stack.push_async_callback(each.channel.close)
                self.first.setdefault(operations[0].name, {})[each.stored.size] = await each.begin()
            for operation in operations:
                self.bursts[operation] = {each.size: [] for each in stores}
                for each in serving:
                    await each.burst(operation)  # the first is not the measure of the others
                for number in range(self.plan.rounds):
                    for each in serving if number % 2 == 0 else serving[::-1]:
                        self.bursts[operation][each.stored.size].append(await self._burst(each, operation))
                tell(f"{operation.name}: {statistics.median(self.ratios(operation, lambda one: one.each)):.2f}")

    async def _burst(self, serving: Serving, operation: Operation) -> Burst:
        for _ in range(TRIES):
            burst = await serving.burst(operation)
            if not burst.spent.is_disturbed:
                break
            tell(f"thrown away: {', '.join(burst.spent.doubts)}")
        return burst

    def ratios(self, operation: Operation, of: Callable[[Burst], float], size: int | None = None) -> list[float]:
        """Compares a size, the largest if none is told, with the smallest, round by round."""
        taken, sizes = self.bursts[operation], self.plan.sizes
        return [of(large) / of(small) for large, small in zip(taken[size or sizes[-1]], taken[sizes[0]], strict=True)]


def _report(bench: Bench, command: str) -> Part:
    largest = bench.plan.sizes[-1]
    return Part(
        title="Growth",
        command=command,
        method=METHOD,
        figures=[
            *(_figure(bench, operation) for operation in sorted(bench.bursts, key=lambda one: one.most is None)),
            Figure(name=f"bytes per start, {largest:,} stored", ratios=[bench.bytes_each[largest]]),
            *_compared(bench),
        ],
        tables=[Table(title="A call, by what is stored", rows=list(_rows(bench)))],
    )


def _compared(bench: Bench) -> Iterator[Figure]:
    """Tells whether the smallest store is as large as one that was recorded start by start."""
    smallest = bench.plan.sizes[0]
    if bench.plan.compares:
        ratio = bench.bytes_each[smallest] / bench.bytes_recorded
        yield Figure(name=f"bytes per start ÷ recorded one by one, {smallest:,} stored", ratios=[ratio])


def _figure(bench: Bench, operation: Operation) -> Figure:
    """Tells of one operation. Where the server was not busy, its processor time says more than the client's clock."""
    smallest, largest = bench.plan.sizes[0], bench.plan.sizes[-1]
    bursts = [*bench.bursts[operation][smallest], *bench.bursts[operation][largest]]
    by_cpu = statistics.median(bench.ratios(operation, lambda burst: burst.cost))
    worst = Spent(
        seconds=1.0,
        cpu_seconds=min(burst.spent.busy for burst in bursts),
        stolen=max(burst.spent.stolen for burst in bursts),
        others=max(burst.spent.others for burst in bursts),
    )
    return Figure(
        name=f"{operation.name}: {largest:,} stored starts ÷ {smallest:,}",
        ratios=bench.ratios(operation, lambda burst: burst.each),
        most=operation.most,
        doubt="  ".join([f"by CPU {by_cpu:.2f}", *worst.doubts]),
    )


def _rows(bench: Bench) -> Iterator[tuple[str, ...]]:
    yield ("", "stored", "ms each", "p50", "p99", "CPU µs", "busy", "÷", "CPU ÷")
    for operation, taken in bench.bursts.items():
        for size, first in sorted(bench.first.get(operation.name, {}).items()):
            yield (f"first {operation.name}", f"{size:,}", f"{first:.2f}", *[""] * 6)
        for size, bursts in taken.items():
            took = sorted(each * 1e3 for burst in bursts for each in burst.took)
            yield (
                f"{operation.name}, {operation.in_flight} in flight",
                f"{size:,}",
                f"{statistics.median(burst.each for burst in bursts):.2f}",
                f"{took[len(took) // 2]:.2f}" if took else "",
                f"{took[len(took) * 99 // 100]:.2f}" if took else "",
                f"{statistics.median(burst.cost for burst in bursts):,.0f}",
                f"{statistics.median(burst.spent.busy for burst in bursts):.0%}",
                f"{statistics.median(bench.ratios(operation, lambda burst: burst.each, size)):.2f}",
                f"{statistics.median(bench.ratios(operation, lambda burst: burst.cost, size)):.2f}",
            )


def measure(quick: bool) -> Part:  # noqa: FBT001 -- so are all parts measured
    """Measures what is asked of stores of several sizes."""
    own, (core, others) = os.sched_getaffinity(0), cores()
    DISK.mkdir(exist_ok=True)
    if shutil.disk_usage(DISK).free < SPACE:
        raise CannotMeasure(f"The disk of {DISK} has less than {SPACE / 1e9:.0f} GB left for a million starts.")
    os.sched_setaffinity(0, {others})
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=DISK) as name, Crowd(build_client()) as crowd:
            bench = Bench(QUICK if quick else FULL, core, Path(name), crowd)
            asyncio.run(bench.run())
    finally:
        os.sched_setaffinity(0, own)
    return _report(bench, COMMAND + (" --quick" if quick else ""))


def main() -> int:
    """Measures and reports."""
    given = options(COMMAND, __doc__).parse_args()
    return run(lambda: measure(given.quick))


if __name__ == "__main__":
    sys.exit(main())
