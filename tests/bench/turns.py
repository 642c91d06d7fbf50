"""Processes that send, each in its turn: a machine that is slow for a while is so for all of them."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from tests.bench.serving import Meter

if TYPE_CHECKING:
    import subprocess

    from tests.bench.serving import Spent
    from tests.bench.stub_backend import Stub

LEAD = 0.1  # seconds of a turn before what is measured: what had come meanwhile is taken in
MARGIN = 500  # starts that must be left at the end of a turn: with fewer, not every place in flight is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One turn: how many starts were answered in it, and what that took."""

    count: int
    spent: Spent

    @property
    def speed(self) -> float:
        """Starts per second."""
        return self.count / self.spent.seconds

    @property
    def cost(self) -> float:
        """Microseconds of processor time for one."""
        return self.spent.cpu_seconds / self.count * 1e6

    @property
    def loop_cost(self) -> float:
        """Of these, those of the event loop's thread; the others are the store's."""
        return self.spent.first_seconds / self.count * 1e6


class RanDry(Exception):
    """All that was to be sent was sent before the end of a turn."""


@dataclass
class Sender:
    """One that sends when it is its turn. `lanes` are the stub's workspaces that count, `left` what is to go there."""

    process: subprocess.Popen[str]
    core: int
    stub: Stub
    lanes: range
    left: float = inf

    def turn(self, seconds: float) -> Run:
        """Lets it send for so long."""
        before = self.answered()
        self.process.send_signal(signal.SIGCONT)
        time.sleep(LEAD)
        began, meter = self.answered(), Meter(self.process, self.core)
        time.sleep(seconds)
        run = Run(count=self.answered() - began, spent=meter.read())
        self.stand_still()
        self.left -= self.answered() - before
        if self.left <= MARGIN:
            raise RanDry
        return run

    def stand_still(self) -> None:
        """Has it wait for its turn."""
        self.process.send_signal(signal.SIGSTOP)

    def answered(self) -> int:
        """Tells how many starts were answered."""
        counts = self.stub.counts()
        return sum(counts[n]["answered"] for n in self.lanes)
