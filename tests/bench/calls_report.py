"""What was measured of calls: figures, and tables of what they are made of."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.figures import Figure, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.serving import Spent

SAME_SIZE = 0.02  # by which the answers of both may differ
PARTS = LOOP, WRITER, READERS, OTHERS = "event loop", "writer", "readers", "gRPC's own"  # threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """What one burst of calls took of the server, and what its caller met. Delays are in microseconds."""

    spent: Spent
    client_seconds: float
    codes: dict[str, int]
    bytes: int
    delay_p50: float
    delay_p99: float
    parts: dict[str, float] = field(default_factory=dict)  # each one's share of the server's processor time

    @property
    def calls(self) -> int:
        """How many were answered."""
        return sum(self.codes.values())

    @property
    def speed(self) -> float:
        """How many were answered in a second."""
        return self.calls / self.spent.seconds

    @property
    def cost(self) -> float:
        """The server's processor time for one, in microseconds."""
        return self.spent.cpu_seconds / self.calls * 1e6

    @property
    def size(self) -> float:
        """The bytes of an answer."""
        return self.bytes / self.calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Bursts of the same calls to both servers, those next to each other at the same place."""

    method: str
    in_flight: int
    bare: Sequence[Burst]
    ours: Sequence[Burst]

    def ratios(self, of: Callable[[Burst], float]) -> list[float]:
        """Compares what was measured next to each other."""
        return [of(ours) / of(bare) for ours, bare in zip(self.ours, self.bare, strict=True)]

    @property
    def doubt(self) -> str:
        """Says what was wrong."""
        told = dict.fromkeys(doubt for burst in (*self.bare, *self.ours) for doubt in burst.spent.doubts)
        busy = [f"{kind} {_least(bursts):.0%}" for kind, bursts in (("bare", self.bare), ("ours", self.ours))]
        doubts = [f"NOT BUSY ({', '.join(busy)})"] if any("BUSY" in each for each in told) else []
        doubts += [each for each in told if "BUSY" not in each]
        if any(abs(ratio - 1) > SAME_SIZE for ratio in self.ratios(lambda burst: burst.size)):
            doubts.append("ANSWERS OF OTHER SIZES")
        return "  ".join(doubts)


def call_figures(cells: Sequence[Cell], targets: dict[tuple[str, int], float]) -> list[Figure]:
    """Tells of speed, then of processor time; `targets` are those of speed, by method and calls in flight."""
    speeds = [
        Figure(
            name=f"{cell.method}/s ÷ bare echo, {cell.in_flight} in flight",
            ratios=cell.ratios(lambda burst: burst.speed),
            least=targets.get((cell.method, cell.in_flight)),
            doubt=cell.doubt,
        )
        for cell in cells
    ]
    costs = [
        Figure(
            name=f"server CPU per {cell.method} ÷ bare echo, {cell.in_flight} in flight",
            ratios=cell.ratios(lambda burst: burst.cost),
        )
        for cell in cells
    ]
    return [*speeds, *costs]


def call_table(cells: Sequence[Cell]) -> Table:
    """Shows medians of both servers; how busy they were, at the least, and the client, at the most."""
    head = ["in flight", "server", "calls/s", "CPU µs/call", "busy", "p50 ms", "p99 ms", "bytes", "client busy"]
    rows = [["call", *head]]
    for cell in cells:
        for kind, bursts in (("bare", cell.bare), ("ours", cell.ours)):
            rows.append(
                [
                    cell.method,
                    str(cell.in_flight),
                    kind,
                    f"{_median(bursts, lambda burst: burst.speed):,.0f}",
                    f"{_median(bursts, lambda burst: burst.cost):,.0f}",
                    f"{_least(bursts):.0%}",
                    f"{_median(bursts, lambda burst: burst.delay_p50) / 1000:.2f}",
                    f"{_median(bursts, lambda burst: burst.delay_p99) / 1000:.2f}",
                    f"{_median(bursts, lambda burst: burst.size):,.0f}",
                    f"{max(burst.client_seconds / burst.spent.seconds for burst in bursts):.0%}",
                ]
            )
    return Table(title="Calls", rows=rows)


def part_table(cell: Cell) -> Table:
    """Shows which threads the processor time of a call goes to."""
    rows = [["thread", "bare", "ours", "share of ours"]]
    whole = sum(_part(cell.ours, part) for part in PARTS)
    for part in PARTS:
        bare, ours = _part(cell.bare, part), _part(cell.ours, part)
        rows.append([part, f"{bare:,.0f}", f"{ours:,.0f}", f"{ours / whole:.0%}"])
    return Table(title=f"CPU µs per {cell.method} by thread, {cell.in_flight} in flight", rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """What a quiet tenant met alone, and beside one that calls far more than it may; and what that one met."""

    alone: Sequence[Burst]
    beside: Sequence[Burst]
    loud: Sequence[Burst]
    quota: int  # starts a second that the loud one may make
    times: int  # it makes so many times that

    def figure(self, most: float) -> Figure:
        """Compares how long the quiet one waits."""
        pairs = zip(self.beside, self.alone, strict=True)
        stolen = [doubt for each in self.beside for doubt in each.spent.doubts if "STOLEN" in doubt]
        made = statistics.median(each.speed for each in self.loud) / self.quota
        slow = [f"ONLY {made:.1f} TIMES"] if made < self.times * 0.95 else []
        return Figure(
            name=f"p99 of a quiet tenant's StartFlow beside one at {self.times} times its quota ÷ alone",
            ratios=[beside.delay_p99 / alone.delay_p99 for beside, alone in pairs],
            most=most,
            doubt="  ".join([*slow, *dict.fromkeys(stolen)]),
        )

    def table(self) -> Table:
        """Shows what each met."""
        rows = [["tenant", "calls/s", "recorded/s", "refused/s", "p50 ms", "p99 ms", "server busy"]]
        for name, bursts in (("quiet, alone", self.alone), ("quiet, beside it", self.beside), ("loud", self.loud)):
            recorded = _median(bursts, lambda burst: burst.codes.get("OK", 0) / burst.spent.seconds)
            speed = _median(bursts, lambda burst: burst.speed)
            rows.append(
                [
                    name,
                    f"{speed:,.0f}",
                    f"{recorded:,.0f}",
                    f"{speed - recorded:,.0f}",
                    f"{_median(bursts, lambda burst: burst.delay_p50) / 1000:.2f}",
                    f"{_median(bursts, lambda burst: burst.delay_p99) / 1000:.2f}",
                    f"{_median(bursts, lambda burst: burst.spent.busy):.0%}",
                ]
            )
        return Table(title=f"Two tenants; the loud one may make {self.quota} starts a second", rows=rows)


def _median(bursts: Sequence[Burst], of: Callable[[Burst], float]) -> float:
    return float(statistics.median(map(of, bursts)))


def _part(bursts: Sequence[Burst], part: str) -> float:
    return _median(bursts, lambda burst: burst.parts.get(part, 0.0) * burst.cost)


def _least(bursts: Sequence[Burst]) -> float:
    return min(burst.spent.busy for burst in bursts)
