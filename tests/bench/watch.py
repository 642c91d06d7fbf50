"""Measures what it costs to feed watchers, as ratios to a bare stream server: `python -m tests.bench.watch`.

Rules:

1. Both servers are measured in one run, in turns (bare, ours, ours, bare), each pinned to the same core; the client is
   on another one. A figure of one machine on one day says little, a ratio much.
2. A server is only measured if it is busy: where it was not, the client or a neighbour was the limit, and it says so.
3. What was measured while the hypervisor took time from the core is thrown away and measured again.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.bare_watch import source
from tests.bench.figures import Part
from tests.bench.population import SINGLES, few_of_many, one_by_one, shared
from tests.bench.processes import Crowd, Server, build_client, cores
from tests.bench.running import options, run, tell
from tests.bench.watch_report import STOLEN, figures, tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TRIES = 3
PARTS = ("updates", "delay", "one-of-many", "collector")
FEW = 10  # watchers that want a change of which many do not
COMMAND = "python -m tests.bench.watch"
METHOD = (
    "The bare server keeps a queue for each watcher, and builds and serialises each message for each of them. A client"
    " written in Go holds the watches, a hundred on a connection, and counts messages without unmarshalling them. The"
    " gateway's changes are real commits, to a store in memory; that none wants a heartbeat is the one thing that is"
    " not as `startflow serve` has it. Its collector is tuned as production's is, the bare one's is Python's own, but"
    " for the lines that say otherwise."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    sizes: dict[int, tuple[int, int]]  # watchers: changes in one burst, all at once and one at a time
    selections: dict[int, tuple[str, ...]]
    pairs: int
    many: int  # watchers of which one wants a change
    timed_changes: int
    collector_pairs: int
    pause: int = 2_000  # microseconds between changes whose delay is measured


FULL = Plan(
    sizes={1_000: (15, 10), 10_000: (15, 10)},
    selections=dict.fromkeys((1_000, 10_000), ("id", "label", "all")),
    pairs=2,
    many=10_000,
    timed_changes=200,
    collector_pairs=1,
)
QUICK = Plan(
    sizes={1_000: (10, 10)},
    selections={1_000: ("id", "label", "all")},
    pairs=2,
    many=2_000,
    timed_changes=50,
    collector_pairs=1,
)


RESULTS = ("fan_out", "memory", "delay", "few", "collector")


@dataclass
class Bench:
    """One run: what was measured so far, and with what."""

    plan: Plan
    core: int
    crowd: Crowd
    results: dict[str, Any] = field(default_factory=lambda: {name: [] for name in RESULTS})

    def run(self, only: str | None = None) -> dict[str, Any]:
        """Measures everything, or one part."""
        if only in (None, "updates"):
            for watchers, counts in self.plan.sizes.items():
                for selection in self.plan.selections[watchers]:
                    self._fan_out(watchers, *counts, selection)
        if only in (None, "delay"):
            for selection in ("id", "label"):
                self._delay(selection)
        if only in (None, "one-of-many"):
            self._one_of_many()
        if only in (None, "collector"):
            self._collector()
        return self.results

    def _fan_out(self, watchers: int, at_once: int, in_turn: int, selection: str) -> None:
        """Measures updates per second: every watcher wants every change."""
        with ExitStack() as stack:
            servers = self._servers(stack, 0)
            requests = {kind: shared(selection, at_once, server.after) for kind, server in servers.items()}
            for kind, server in servers.items():
                self._open(stack, kind, server, requests[kind], watchers, selection)
                self.crowd.run(kind, [("single-0", watchers)] * 2)  # what comes first is slower
            modes = {
                "all at once": [(f"crowd-{at_once}", at_once * watchers)],
                "one at a time": [("single-0", watchers)] * in_turn,
            }
            for mode, rounds in modes.items():
                bursts: dict[str, list[dict[str, Any]]] = {"bare": [], "gateway": []}
                for kind in _turns(self.plan.pairs):
                    bursts[kind].append(self._burst(kind, rounds))
                cell = {"watchers": watchers, "selection": selection, "mode": mode, **bursts}
                self.results["fan_out"].append(cell)
                tell(f"{watchers:,} watchers by {selection}, {mode}: {_ratio(cell):.2f}")

    def _open(
        self, stack: ExitStack, kind: str, server: Server, requests: Sequence[bytes], watchers: int, selection: str
    ) -> None:
        """Opens watches, and notes what each takes while it is idle."""
        self.crowd.open("first", server, requests, FEW)  # what the first ones load is not the others' memory
        self.crowd.close("first")
        before = server.memory()
        self.crowd.open(kind, server, requests, watchers)
        stack.callback(self.crowd.close, kind)
        taken = (server.memory() - before) / watchers
        self.results["memory"].append({"kind": kind, "watchers": watchers, "selection": selection, "bytes": taken})

    def _delay(self, selection: str) -> None:
        """Measures how long a change takes from its commit to those few of 1,000 watchers that want it."""
        watchers = 1_000
        with ExitStack() as stack:
            servers = self._servers(stack, watchers)
            for kind, server in servers.items():
                self.crowd.open(kind, server, few_of_many(selection, FEW, watchers, server.after), watchers)
                stack.callback(self.crowd.close, kind)
                self.crowd.run(kind, [("single-0", FEW)] * 10)
            taken: dict[str, list[dict[str, Any]]] = {"bare": [], "gateway": []}
            rounds = [("single-0", FEW)] * self.plan.timed_changes
            for kind in _turns(2):
                taken[kind].append(self._burst(kind, rounds, pause=self.plan.pause, timed=True))
            self.results["delay"].append({"watchers": watchers, "few": FEW, "selection": selection, **taken})
            tell(f"delay of a change that {FEW} of {watchers:,} watchers by {selection} want")

    def _one_of_many(self) -> None:
        """Measures what a change costs that one of many watchers by id wants, and one of few."""
        many = self.plan.many
        with ExitStack() as stack:
            crowds = {}
            for count in (FEW, many):
                server = stack.enter_context(Server("gateway", self.core, many))
                requests = one_by_one(count, server.after)
                crowds[count] = "gateway" if count == many else "few"
                self._open(stack, crowds[count], server, requests, count, "id")
            bare = stack.enter_context(Server("bare", self.core))
            self._open(stack, "bare", bare, one_by_one(many, 0), many, "id")
            taken: dict[str, list[dict[str, Any]]] = {str(FEW): [], str(many): []}
            for count in (FEW, many, many, FEW) * (self.plan.pairs // 2):
                wanted = min(count, SINGLES)
                rounds = [(f"single-{number % wanted}", 1) for number in range(4 * SINGLES)]
                taken[str(count)].append(self._burst(crowds[count], rounds))
            self.results["few"].append({"few": FEW, "many": many, "taken": taken})
            tell(f"a change that 1 of {many:,} watchers by id wants")

    def _collector(self) -> None:
        """Measures what tuning the collector does, in both servers."""
        watchers = self.plan.many
        cell: dict[str, Any] = {"watchers": watchers, "selection": "all", "mode": "one at a time"}
        for bare, ours in (("bare tuned", "gateway"), ("bare", "gateway untuned")):
            with ExitStack() as stack:
                for kind in (bare, ours):
                    server = stack.enter_context(Server(kind, self.core))
                    self.crowd.open(kind, server, shared("all", 1, server.after), watchers)
                    stack.callback(self.crowd.close, kind)
                    self.crowd.run(kind, [("single-0", watchers)])
                    cell[kind] = []
                for number in range(self.plan.collector_pairs):
                    for kind in (bare, ours) if number % 2 == 0 else (ours, bare):
                        cell[kind].append(self._burst(kind, [("single-0", watchers)] * 3))
            tell(f"collector: {bare} and {ours}")
        self.results["collector"].append(cell)

    def _servers(self, stack: ExitStack, starts: int) -> dict[str, Server]:
        return {kind: stack.enter_context(Server(kind, self.core, starts)) for kind in ("bare", "gateway")}

    def _burst(self, group: str, rounds: Sequence[tuple[str, int]], **how: Any) -> dict[str, Any]:
        """Runs once more what was disturbed; what always is keeps the mark of it."""
        for _ in range(TRIES):
            taken = self.crowd.run(group, rounds, **how)
            if taken["stolen"] <= STOLEN or how:  # a delay is told by its median, which bears some theft
                break
            tell(f"thrown away: {taken['stolen']:.0%} of the time was stolen")
        return taken


def _turns(pairs: int) -> Iterator[str]:
    for number in range(pairs):
        yield from ("bare", "gateway") if number % 2 == 0 else ("gateway", "bare")


def _ratio(cell: dict[str, Any]) -> float:
    """Tells how many times as many updates per second a cell has as the bare one, for a first look."""
    speeds = {kind: [one["messages"] / one["seconds"] for one in cell[kind]] for kind in ("bare", "gateway")}
    return float(statistics.median(speeds["gateway"]) / statistics.median(speeds["bare"]))


def measure_watch(plan: Plan, only: str | None = None) -> dict[str, Any]:
    """Measures, on cores of its own; raises `CannotMeasure`."""
    servers, others = cores()
    binary, own = build_client(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {others})  # so are the client and whatever else this process starts
    try:
        with Crowd(binary) as crowd:
            return Bench(plan, servers, crowd).run(only)
    finally:
        os.sched_setaffinity(0, own)


def part(results: dict[str, Any]) -> Part:
    """Says what was measured."""
    return Part(
        title="Watching",
        command=COMMAND,
        method=METHOD,
        figures=figures(results),
        tables=tables(results),
        sources={"The bare stream server": source()},
    )


def measure(quick: bool) -> Part:  # noqa: FBT001 -- so are all parts measured
    """Measures everything; raises `CannotMeasure`."""
    return part(measure_watch(QUICK if quick else FULL))


def main() -> int:
    """Measures and reports; 1 if it cannot measure."""
    parser = options(COMMAND, __doc__)
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    parser.add_argument("--watchers", type=int, choices=tuple(FULL.sizes), help="measure updates/s with so many only")
    parser.add_argument(
        "--nice", type=int, default=0, metavar="N", help="priority; below 0, as root, on a busy machine"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw results there")
    parser.add_argument("--show-bare", action="store_true", help="show what the bare server is, and end")
    given = parser.parse_args()
    if given.show_bare:
        print(source())
        return 0
    plan = QUICK if given.quick else FULL
    if given.watchers:
        plan = replace(plan, sizes={given.watchers: plan.sizes[given.watchers]})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    os.nice(given.nice)

    def measured() -> Part:
        results = measure_watch(plan, given.only)
        if given.json:
            given.json.write_text(json.dumps(results, indent=1) + "\n")
        return part(results)

    return run(measured)


if __name__ == "__main__":
    sys.exit(main())
