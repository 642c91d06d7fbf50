"""Measures what calls cost, as ratios to a bare echo of the same messages: `python -m tests.bench.calls`.

Rules:

1. Both servers are measured in one run, in turns, each on the same core; client and backend are on the other one.
2. One client, written in Go, calls both in the same way. Each start that it asks for has a `request_id` of its own.
3. What was measured while the hypervisor took time from the core is thrown away and measured again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startflow.v1 import start_flow_service_pb2 as pb

from gateway.tenants.clients import make_token
from tests.bench import bare_calls, profiled
from tests.bench.callers import CONNECTIONS, LOUD, QUIET, QUOTA, Callers, tell
from tests.bench.calls_report import Burst, Cell, Neighbours, call_figures, call_table, part_table
from tests.bench.figures import Part
from tests.bench.population import TENANT
from tests.bench.processes import MEMORY, CannotMeasure, Crowd, build_client, cores
from tests.bench.stub_backend import Stub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.serving import Gateway

LEAST = {("StartFlow", 64): 0.7}  # of the bare server's speed
MOST = 2.0  # times the p99 of a quiet tenant alone
TIMES = 10  # the quota of the loud one: that many starts it makes
QUIET_SPEED = 100  # starts a second of the quiet one, one at a time
MANY = 64  # calls in flight
PAGE = 50
GOTTEN = 500  # starts that are read one by one, in turns: as many as a page can hold
COMMAND = "python -m tests.bench.calls"
METHOD = (
    "The gateway runs as `startflow serve` does, with clients configured, so every call has a token. One client, in Go,"
    f" keeps so many calls in flight on at most {CONNECTIONS} connections; what is answered within a window counts."
    " `StartFlow` asks for one URN, with four params, a label and a `request_id` that no other call has; the store is"
    " on the disk of the checkout, with fsync. Nothing is sent meanwhile: the backend may be asked twice a day, which"
    " reading the workspace and the flow takes, so its lane waits, and what is known of the flow lasts for the whole"
    f" run. `GetFlowStart` reads {GOTTEN} starts in turns, `ListFlowStarts` the newest page of {PAGE} of all that were"
    " recorded before. The bare server reads the same requests and builds answers of the same size. Two tenants: a"
    f" quiet one makes {QUIET_SPEED} starts a second, one at a time, alone or beside one that makes {TIMES} times its"
    f" quota of {QUOTA}; a call counts from when it was due, if the one before held it up. Their store is in memory:"
    " one stall of a disk would be most of a p99, whoever it meets."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: pairs of bursts by calls in flight, and seconds of one burst."""

    starts: dict[int, int]
    reads: int
    neighbours: int
    seconds: float
    reading_seconds: float
    neighbour_seconds: float


FULL = Plan(starts={64: 6, 16: 4, 1: 4}, reads=4, neighbours=4, seconds=1.0, reading_seconds=0.7, neighbour_seconds=3.0)
QUICK = Plan(
    starts={64: 2, 16: 1, 1: 1}, reads=1, neighbours=2, seconds=0.8, reading_seconds=0.5, neighbour_seconds=1.5
)


@dataclass
class Bench:
    """What is measured, and with whom."""

    plan: Plan
    callers: Callers

    def calls(self) -> list[Cell]:
        """Measures starting and reading, on both servers."""
        with ExitStack() as stack:
            servers = {"bare": self.callers.bare(stack), "ours": self.callers.gateway(stack)}
            self.callers.check(servers["ours"])
            cells = [
                self._cell(servers, self.callers.start(in_flight), pairs, self.plan.seconds)
                for in_flight, pairs in self.plan.starts.items()
            ]
            page = pb.ListFlowStartsRequest(page_size=GOTTEN)
            starts = self.callers.ask(servers["ours"], "ListFlowStarts", page).flow_starts
            gets = [pb.GetFlowStartRequest(id=each.id) for each in starts]
            for method, requests in (
                ("GetFlowStart", gets),
                ("ListFlowStarts", [pb.ListFlowStartsRequest(page_size=PAGE)]),
            ):
                caller = self.callers.caller(method, requests, TENANT, MANY)
                cells.append(self._cell(servers, caller, self.plan.reads, self.plan.reading_seconds))
        return cells

    def neighbours(self) -> Neighbours:
        """Measures what a quiet tenant waits, alone and beside a loud one."""
        quiet = self.callers.start(1, QUIET, per_second=QUIET_SPEED)
        loud = self.callers.start(MANY, LOUD, per_second=TIMES * QUOTA)
        taken: dict[str, list[list[Burst]]] = {"alone": [], "beside": []}
        with ExitStack() as stack:
            gateway = self.callers.gateway(stack, where=MEMORY)
            for kind in _turns("alone", "beside", self.plan.neighbours):
                callers = [quiet] if kind == "alone" else [quiet, loud]
                bursts = self.callers.burst(gateway, callers, self.plan.neighbour_seconds, refusing=(1,))
                taken[kind].append(bursts)
                tell(f"quiet tenant, {kind}: p99 {bursts[0].delay_p99 / 1000:.2f} ms")
        beside, beyond = ([bursts[n] for bursts in taken["beside"]] for n in (0, 1))
        return Neighbours(
            alone=[each for [each] in taken["alone"]], beside=beside, loud=beyond, quota=QUOTA, times=TIMES
        )

    def profile(self, file: Path) -> None:
        """Profiles a gateway while flows are started, from when it is ready until it has stopped."""
        if sys.version_info >= (3, 12):
            raise CannotMeasure("Python profiles two threads at a time up to 3.11 only.")
        with ExitStack() as stack:
            gateway = self.callers.gateway(stack, ("-m", "tests.bench.profiled", str(file.resolve())))
            [burst] = self.callers.burst(gateway, [self.callers.start(MANY)], 5 * self.plan.seconds)
            gateway.stop()
        file.write_text(profiled.show(file, f"while {burst.calls:,} starts and some more were recorded"))

    def _cell(self, servers: dict[str, Gateway], caller: dict[str, Any], pairs: int, seconds: float) -> Cell:
        """Measures the same calls on both servers, in turns."""
        taken: dict[str, list[Burst]] = {"bare": [], "ours": []}
        method, in_flight = caller["method"].rpartition("/")[2], caller["inFlight"]
        for kind in _turns("bare", "ours", pairs):
            [burst] = self.callers.burst(servers[kind], [caller], seconds)
            taken[kind].append(burst)
            told = f"{burst.speed:,.0f}/s, {burst.cost:,.0f} µs each, busy {burst.spent.busy:.0%}"
            tell(f"{method}, {in_flight} in flight, {kind}: {told}")
        return Cell(method=method, in_flight=in_flight, **taken)


def _turns(one: str, other: str, pairs: int) -> Iterator[str]:
    for number in range(pairs):
        yield from (one, other) if number % 2 == 0 else (other, one)


def _measured(quick: bool, do: Callable[[Bench], Any]) -> Any:  # noqa: FBT001 -- passed on
    """Does something with everything that it takes, which it leaves as it was."""
    binary, own, (core, others) = build_client(), os.sched_getaffinity(0), cores()
    os.sched_setaffinity(0, {others})  # so are client and backend, which inherit it
    try:
        with Crowd(binary) as crowd, Stub(1) as stub:
            tokens = {tenant: make_token() for tenant in (TENANT, QUIET, LOUD)}
            done = do(Bench(QUICK if quick else FULL, Callers(crowd, core, stub, tokens)))
            if stub.counts()[0]["posts"]:
                raise CannotMeasure("The gateway sent what it was only to record.")
            return done
    finally:
        os.sched_setaffinity(0, own)


def measure(quick: bool) -> Part:  # noqa: FBT001 -- so are all parts measured
    """Measures starting, reading, and a tenant at ten times its quota."""
    cells, neighbours = _measured(quick, lambda bench: (bench.calls(), bench.neighbours()))
    crowded = [cell for cell in cells if cell.in_flight == MANY]
    return Part(
        title="Calls",
        command=COMMAND + (" --quick" if quick else ""),
        method=METHOD,
        figures=[*call_figures(cells, LEAST), neighbours.figure(MOST)],
        tables=[call_table(cells), *map(part_table, crowded), neighbours.table()],
        sources={"the bare echo": bare_calls.source()},
    )


def main() -> int:
    """Measures and reports; 1 if it cannot measure."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, in 25 seconds")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="keep a profile there instead of measuring")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    try:
        if given.profile:
            _measured(given.quick, lambda bench: bench.profile(given.profile))
            print(given.profile.read_text())
        else:
            print("\n".join(measure(given.quick).lines()))
    except CannotMeasure as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
