"""What was measured beside an attack, and whether it is within bounds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields

from tests.hostile.plan import MB, Attack
from tests.hostile.quiet import Figures

MOST = 3.0  # times the figure beside a burner
FLOOR = 0.010  # seconds; a figure beside a burner counts as at least this, because nobody notices three times less
PERCENTILE = 0.99
LARGEST_LOG = 64 * MB  # bytes of the write-ahead log
TIMED = {
    "start_flow": "StartFlow",
    "get_flow_start": "GetFlowStart",
    "accepted_after": "accepted",
    "watch_delay": "watch",
}


def percentile(values: list[float], share: float = PERCENTILE) -> float:
    """Returns the value that so large a share of them does not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass
class Verdict:
    """One attack: what the quiet tenant met beside it and beside a burner, and what the gateway took."""

    attack: Attack
    drain_bound: float  # seconds that a stop may take
    beside_attack: Figures = field(default_factory=Figures)
    beside_burner: Figures = field(default_factory=Figures)
    before: int = 0  # bytes in memory
    largest: int = 0
    after: int = 0  # at the end, the attack still going on
    log_size: int = 0  # bytes, the largest
    share: float = 0.0  # of its core that the gateway took, at the most
    counts: Counter[str] = field(default_factory=Counter)  # what the attackers were answered
    stop_code: int | None = None  # None: it did not stop
    stop_seconds: float = 0.0
    bugs: list[str] = field(default_factory=list)

    @property
    def ratios(self) -> dict[str, float]:
        """How much longer the slowest hundredth took beside the attack."""
        return {
            each.name: percentile(getattr(self.beside_attack, each.name))
            / max(FLOOR, percentile(getattr(self.beside_burner, each.name)))
            for each in fields(Figures)
            if each.name in TIMED
        }

    @property
    def growth(self) -> int:
        """The bytes that the gateway grew by."""
        return max(0, self.largest - self.before)

    @property
    def is_slow(self) -> bool:
        """Whether a ratio is out of bounds."""
        return any(ratio > MOST for ratio in self.ratios.values())

    def certain(self) -> list[str]:
        """Says what is wrong, whatever else the machine is doing."""
        wrong = [f"{count} times {what}" for what, count in Counter(self.beside_attack.failures).most_common(3)]
        if not self.beside_attack.start_flow:
            wrong.append("nothing was measured")
        if self.growth > self.attack.growth * MB:
            wrong.append(f"memory grew by {self.growth / MB:.0f} MB; {self.attack.growth} may be")
        if self.log_size > LARGEST_LOG:
            wrong.append(f"the write-ahead log has {self.log_size / MB:.0f} MB; {LARGEST_LOG / MB:.0f} may be")
        if self.stop_code != 0:
            said = f"exit code {self.stop_code}" if self.stop_code is not None else "still running"
            wrong.append(f"SIGTERM: {said} after {self.stop_seconds:.1f} s; {self.drain_bound:.0f} s may be")
        return wrong + [f"log: {line[:160]}" for line in self.bugs[:2]]

    def wrong(self) -> list[str]:
        """Says everything that is out of bounds."""
        slow = [f"{TIMED[name]} {ratio:.1f} times" for name, ratio in self.ratios.items() if ratio > MOST]
        return slow + self.certain()


HEAD = ("attack", "row", *TIMED.values(), "failed", "memory, MB", "-wal, MB", "SIGTERM", "")


def row(verdict: Verdict) -> tuple[str, ...]:
    """Returns the line of a table: each ratio with the milliseconds beside the attack."""
    taken = verdict.beside_attack
    timed = [f"{ratio:.1f} ({percentile(getattr(taken, name)) * 1e3:.0f} ms)" for name, ratio in verdict.ratios.items()]
    stopped = f"{verdict.stop_seconds:.1f} s, {'killed' if verdict.stop_code is None else verdict.stop_code}"
    return (
        verdict.attack.name,
        verdict.attack.row,
        *timed,
        str(len(taken.failures)),
        f"+{verdict.growth / MB:.0f} of {verdict.attack.growth}",
        f"{verdict.log_size / MB:.0f}",
        stopped,
        "FAIL" if verdict.wrong() else "PASS",
    )


def table(verdicts: list[Verdict]) -> list[str]:
    """Returns the lines of the table, and below it what is wrong."""
    rows = [HEAD, *map(row, verdicts)]
    widths = [max(len(each[column]) for each in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(each, widths, strict=True)).rstrip() for each in rows]
    for verdict in verdicts:
        lines += [f"  {verdict.attack.name}: {each}" for each in verdict.wrong()]
    return lines
