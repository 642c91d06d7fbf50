"""Measures a start with 100,000 pending starts, and the log of a store under load: `python -m tests.bench.starting`.

Rules:

1. Seconds count from before the process is made. The backend's stub counts what is sent; it is asked every few
   milliseconds, so that nothing counts too early.
2. Every time begins with a fresh copy of the store, which is on a disk. It is in memory, as that of a process is which
   was only restarted, or it is not, as after the machine was.
3. SQLite's log only grows while it is served from: its size is looked at all the same, and the largest counts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.figures import Figure, Part, Table
from tests.bench.grown import grow, pending
from tests.bench.loading import IN_FLIGHT, keep_busy
from tests.bench.processes import CannotMeasure, cores
from tests.bench.running import options, run, tell
from tests.bench.serving import DISK, Gateway, Meter, configuration
from tests.bench.stub_backend import Stub

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.loading import Load

PENDING = 100_000
LASTS = timedelta(milliseconds=20)  # from one group of them to the next
SOONEST = 5.0  # seconds: the target
LARGEST = 64.0  # MB of the log
PATIENCE = 60.0  # seconds
LOOK = 0.005  # seconds between questions to the stub
SETTINGS = "backlog = 100000000"
MB = 1e6
COMMAND = "python -m tests.bench.starting"
METHOD = (
    f"A store with {PENDING:,} starts of 21 tenants that are all due on one backend is copied, and the gateway started"
    " on it; no rate holds it back, and the stub takes whatever is sent. Seconds are from before the process is made"
    " until it says that it serves, and until the stub has got the first start; the memory is what is resident then."
    f" The log is measured on another copy: {IN_FLIGHT} calls of StartFlow are in flight for as long as it says, the"
    " pending starts are sent as fast as goes, one watcher reads every change of its tenant, and one caller reads page"
    " after page and looks for a rare label, which keeps a read open for longest."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: starts with the store in memory and not, and seconds of load."""

    warm: int
    cold: int
    seconds: float


FULL = Plan(warm=3, cold=3, seconds=20.0)
QUICK = Plan(warm=1, cold=0, seconds=8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """One start of the gateway: seconds until it served and until it sent, and its bytes in memory then."""

    serves: float
    sends: float
    memory: int


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured with."""

    core: int
    folder: Path
    stub: Stub

    @property
    def store(self) -> Path:
        """The store of which each time begins with a copy."""
        return self.folder / "pending.db"

    @contextmanager
    def _copied(self, *, is_cold: bool = False) -> Iterator[Gateway]:
        """Copies the store, and gives a gateway that is to be started on it."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            path = Path(name) / "startflow.db"
            shutil.copy(self.store, path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
                if is_cold:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            yield Gateway(self.core, Path(name), configuration(path, self.stub.urls, settings=SETTINGS))

    def begin(self, *, is_cold: bool) -> Begun:
        """Starts it once."""
        before = self._sent()
        with self._copied(is_cold=is_cold) as gateway:
            began = time.monotonic()
            with gateway:
                serves = time.monotonic() - began
                while self._sent() == before:
                    if time.monotonic() - began > PATIENCE:
                        raise CannotMeasure(f"Nothing was sent in {PATIENCE:.0f} s.")
                    time.sleep(LOOK)
                return Begun(serves=serves, sends=time.monotonic() - began, memory=gateway.memory())

    def load(self, seconds: float) -> Load:
        """Keeps it busy, and looks at its log."""
        before = self._sent()
        with self._copied() as gateway, gateway:
            meter = Meter(gateway.process, self.core)
            load = asyncio.run(keep_busy(gateway, seconds))
            load.spent, load.sent = meter.read(), self._sent() - before
            if gateway.bugs():
                raise CannotMeasure(f"Something went wrong in the gateway: {gateway.log.read_text()[-500:]}")
        return load

    def _sent(self) -> int:
        return int(self.stub.counts()[0]["posts"])


def _report(begun: dict[str, Sequence[Begun]], load: Load, seconds: float, command: str) -> Part:
    warm = begun["in memory"]
    assert load.spent is not None
    figures = [
        Figure(name=f"until it serves, {PENDING:,} pending", ratios=[each.serves for each in warm], unit=" s"),
        *(
            Figure(
                name=f"until the first start is sent, {PENDING:,} pending, the store {where}",
                ratios=[each.sends for each in taken],
                most=SOONEST,
                unit=" s",
            )
            for where, taken in begun.items()
        ),
        Figure(
            name=f"memory when the first is sent, {PENDING:,} pending",
            ratios=[each.memory / MB for each in warm],
            unit=" MB",
        ),
        Figure(name=f"WAL under {seconds:.0f} s of load", ratios=[load.largest / MB], most=LARGEST, unit=" MB"),
    ]
    starts = [("the store is", "serves after, s", "sends after, s", "memory, MB")]
    starts += [
        (
            where,
            *(
                f"{statistics.median(of):.{digits}f}"
                for of, digits in (
                    ([each.serves for each in taken], 2),
                    ([each.sends for each in taken], 2),
                    ([each.memory / MB for each in taken], 0),
                )
            ),
        )
        for where, taken in begun.items()
    ]
    counts = {"StartFlow": load.starts, "sent": load.sent, "changes watched": load.changes, "pages": load.pages}
    went_on = [
        ("", "each second"),
        *((name, f"{count / load.spent.seconds:,.1f}") for name, count in counts.items()),
        ("busy", f"{load.spent.busy:.0%}"),
    ]
    tables = [
        Table(title=f"Starting with {PENDING:,} pending", rows=starts),
        Table(title="What went on while the log was looked at", rows=went_on),
    ]
    return Part(title="Starting, and the log", command=command, method=METHOD, figures=figures, tables=tables)


def measure(quick: bool) -> Part:  # noqa: FBT001 -- so are all parts measured
    """Measures starting, and the log."""
    own, (core, others) = os.sched_getaffinity(0), cores()
    plan = QUICK if quick else FULL
    DISK.mkdir(exist_ok=True)
    os.sched_setaffinity(0, {others})
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=DISK) as name, Stub(1) as stub:
            bench = Bench(core, Path(name), stub)
            asyncio.run(grow(bench.store, PENDING, pending, LASTS))
            tell(f"{PENDING:,} starts are pending")
            begun: dict[str, list[Begun]] = {}
            for where, times in (("in memory", plan.warm), ("not in memory", plan.cold)):
                if not times:
                    continue
                begun[where] = [bench.begin(is_cold=where == "not in memory") for _ in range(times)]
                tell(f"sends after {statistics.median(each.sends for each in begun[where]):.2f} s, {where}")
            load = bench.load(plan.seconds)
            tell(f"log: {load.largest / MB:.1f} MB")
    finally:
        os.sched_setaffinity(0, own)
    return _report(begun, load, plan.seconds, COMMAND + (" --quick" if quick else ""))


def main() -> int:
    """Measures and reports."""
    given = options(COMMAND, __doc__).parse_args()
    return run(lambda: measure(given.quick))


if __name__ == "__main__":
    sys.exit(main())
