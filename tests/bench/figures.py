"""What a benchmark found: a line for each target, and tables of what the lines are made of."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure. `ratios` are those of paired runs; what counts is their median.

    With `least` or `most` it has a target. `doubt` says what was wrong while it was measured, if anything was.
    """

    name: str
    ratios: Sequence[float]
    least: float | None = None
    most: float | None = None
    unit: str = ""
    doubt: str = ""

    @property
    def median(self) -> float:
        """What counts."""
        return float(statistics.median(self.ratios))

    @property
    def told(self) -> str:
        """The median, to read."""
        return _number(self.median) + self.unit

    @property
    def spread(self) -> str:
        """From the least to the most; nothing if there is one."""
        low, high = (_number(each) for each in (min(self.ratios), max(self.ratios)))
        return f"{low}-{high}" if len(self.ratios) > 1 else ""

    @property
    def target(self) -> str:
        """What it should be, if that was set."""
        if self.least is not None:
            return f"≥ {_number(self.least)}{self.unit}"
        return "" if self.most is None else f"≤ {_number(self.most)}{self.unit}"

    @property
    def verdict(self) -> str:
        """Whether it is."""
        if not self.target:
            return ""
        reached = (self.least is None or self.median >= self.least) and (self.most is None or self.median <= self.most)
        return "reached" if reached else "not reached"

    def line(self) -> str:
        """Tells it in one line."""
        told = f"{self.name:76} {self.told:>9} {self.spread:>13}  {self.target:9} {self.verdict}"
        return f"{told}  {self.doubt}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What figures are made of, in the units they were measured in. The first row is the head."""

    title: str
    rows: Sequence[Sequence[str]]

    def lines(self) -> Iterator[str]:
        """Lays it out for a terminal."""
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        yield self.title
        for row in self.rows:
            first, *others = zip(row, widths, strict=True)
            cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
            yield "  " + "  ".join(cells).rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one benchmark found. `command` measures it again; `method` says how, in sentences.

    `sources` are what it was compared with, by what they are.
    """

    title: str
    command: str
    method: str
    figures: Sequence[Figure]
    tables: Sequence[Table] = ()
    sources: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Lays it out for a terminal."""
        for figure in self.figures:
            yield figure.line()
        for table in self.tables:
            yield ""
            yield from table.lines()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
