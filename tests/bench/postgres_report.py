"""What was measured of gateways on one PostgreSQL: figures, and tables of what they are made of."""

from __future__ import annotations

import signal
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.config.settings import Settings
from tests.bench.figures import Figure, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.calls_report import Burst

LEASE = Settings.model_fields["lease"].default.total_seconds()
MANY = 64  # calls in flight, of all gateways together
STEADY = 800.0  # starts a second, of all gateways together: fewer than any of them can record
FILE, ONE, TWO = "SQLite, one gateway", "PostgreSQL, one gateway", "PostgreSQL, two gateways"
SAME, OTHER = "PostgreSQL, the same gateway", "PostgreSQL, another gateway"


@dataclass
class Row:
    """Bursts of one kind: of each turn, those of all its gateways."""

    turns: list[list[Burst]] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Starts a second, of each turn."""
        return [sum(burst.speed for burst in bursts) for bursts in self.turns]

    @property
    def costs(self) -> list[float]:
        """Microseconds of processor time for a start, of each turn."""
        return [
            sum(burst.spent.cpu_seconds for burst in bursts) / sum(burst.calls for burst in bursts) * 1e6
            for bursts in self.turns
        ]

    def cells(self, name: str) -> list[str]:
        """Lays it out."""
        slowest = [max(burst.delay_p99 for burst in bursts) / 1000 for bursts in self.turns]
        return [
            name,
            f"{statistics.median(self.speeds):,.0f}",
            f"{statistics.median(self.costs):,.0f}",
            f"{statistics.median(slowest):.1f}",
        ]


def figures(
    fast: dict[str, Row],
    steady: dict[str, Row],
    delays: dict[str, list[float]],
    gaps: dict[signal.Signals, list[float]],
) -> list[Figure]:
    """Tells of processor time, speed, delays and takeovers."""

    def speeds(of: str) -> list[float]:
        return [ours / alone for ours, alone in zip(fast[of].speeds, fast[FILE].speeds, strict=True)]

    def costs(rows: dict[str, Row], of: str) -> list[float]:
        return [ours / alone for ours, alone in zip(rows[of].costs, rows[FILE].costs, strict=True)]

    at = f"at {STEADY:.0f} a second"
    return [
        Figure(name=f"our CPU per StartFlow, on PostgreSQL ÷ on SQLite, {at}", ratios=costs(steady, ONE), most=1.0),
        Figure(name=f"the same of two gateways on PostgreSQL, {at}", ratios=costs(steady, TWO)),
        Figure(name=f"the same of one, {MANY} in flight", ratios=costs(fast, ONE)),
        Figure(name=f"StartFlow/s, on PostgreSQL ÷ on SQLite, {MANY} in flight", ratios=speeds(ONE)),
        Figure(name="the same of two gateways on one core", ratios=speeds(TWO)),
        Figure(
            name="p50 of a change's delay to a watcher of another gateway",
            ratios=[_milliseconds(delays[OTHER], 0.5)],
            most=30.0,
            unit=" ms",
        ),
        Figure(name="takeover while a gateway drains", ratios=gaps[signal.SIGTERM], most=2.0, unit=" s"),
        Figure(name="takeover after SIGKILL", ratios=gaps[signal.SIGKILL], most=LEASE + 2.0, unit=" s"),
    ]


def tables(fast: dict[str, Row], steady: dict[str, Row], delays: dict[str, list[float]]) -> list[Table]:
    """Shows what the figures are made of."""
    head = ["store", "starts/s", "our CPU µs/start", "p99 ms"]
    watched = [
        [name, f"{_milliseconds(taken, 0.5):.1f}", f"{_milliseconds(taken, 0.99):.1f}"]
        for name, taken in delays.items()
    ]
    return [
        *(
            Table(title=f"StartFlow, {how}", rows=[head, *(row.cells(name) for name, row in rows.items())])
            for how, rows in ((f"{MANY} in flight", fast), (f"{STEADY:.0f} a second", steady))
        ),
        Table(title="From a change to its watcher", rows=[["watched", "p50 ms", "p99 ms"], *watched]),
    ]


def _milliseconds(seconds: Sequence[float], share: float) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000
