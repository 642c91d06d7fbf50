"""Measures how fast starts are sent, as ratios to a bare aiohttp loop: `python -m tests.bench.dispatch`.

Rules:

1. Each gateway finds a store full of pending starts, of one URN each, and no rate holds it back. The bare loop posts
   the same bodies to the same stub. All are pinned to the same core; the stub is on the other one.
2. They take turns of a second, and stand still (SIGSTOP) while it is another's: a machine that is slow for a while is
   so for all of them. A ratio is that of two turns of one round.
3. What counts is what the stub has answered.
"""

from __future__ import annotations

import asyncio
import os
import pstats
import shutil
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import bare_dispatch
from tests.bench.figures import Figure, Part, Table
from tests.bench.pending import bodies, fill
from tests.bench.processes import MEMORY, CannotMeasure, cores
from tests.bench.running import options, run, tell
from tests.bench.serving import DISK, Gateway, Meter, Spent, backend_name, configuration, launch
from tests.bench.stub_backend import STARTS, Stub

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

LANES = 8
SETTINGS = 'in_flight = 50\nsweep_interval = "1h"'  # following has figures of its own
LEAST = 0.5  # of the bare loop's speed
LEAD = 0.1  # seconds of a turn before what is measured: what had come meanwhile is taken in
MARGIN = 500  # starts that must be left at the end of a turn: with fewer, not every place in flight is taken
PATIENCE = 60.0  # seconds
SHOWN = 30  # lines of each profile
COMMAND = "python -m tests.bench.dispatch"
METHOD = (
    "A store is filled with pending starts of one URN; the gateway, its rate limits out of the way and 50 requests in"
    " flight on each backend, sends them to a stub that answers at once. The bare loop posts the same bodies to the"
    " same stub, 50 in flight. They run on one core, the stub on the other, in turns of a second, each stopped"
    " while it is another's turn; a ratio is that of two turns of one round. The store is in memory (/dev/shm) or on"
    " the disk of the checkout; fsync is on in both. Every dispatch is an attempt on the disk before its POST, and its"
    " answer on the disk after it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: starts in each store, rounds, and seconds of each turn."""

    starts: int
    rounds: int
    seconds: float
    skipped: tuple[str, ...] = ()


FULL = Plan(starts=30_000, rounds=6, seconds=1.0)
QUICK = Plan(starts=10_000, rounds=2, seconds=0.6, skipped=("eight",))


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


@dataclass
class Bench:
    """What is measured with."""

    plan: Plan
    core: int
    stub: Stub
    folder: Path
    stack: ExitStack

    def measure(self) -> dict[str, list[Run]]:
        """Measures everything; returns the turns of each kind, round by round."""
        backends = [backend_name(n) for n in range(LANES)]
        asyncio.run(fill(self.folder / "one.db", backends[:1], self.plan.starts))
        asyncio.run(fill(self.folder / "many.db", backends, self.plan.starts))
        tell(f"twice {self.plan.starts:,} starts are pending")
        lanes = self.stub.urls
        senders: dict[str, Callable[[], Sender]] = {
            "bare": self._bare,
            "memory": lambda: self._gateway("one.db", MEMORY, lanes[:1]),
            "disk": lambda: self._gateway("one.db", DISK, lanes[:1]),
            "eight": lambda: self._gateway("many.db", MEMORY, lanes[:LANES]),
            "seven": lambda: self._gateway("many.db", MEMORY, lanes[: LANES - 1]),
            "one slow": lambda: self._gateway("many.db", MEMORY, [*lanes[: LANES - 1], lanes[LANES]]),
        }
        each = {kind: make() for kind, make in senders.items() if kind not in self.plan.skipped}
        runs: dict[str, list[Run]] = {kind: [] for kind in each}
        for number in range(self.plan.rounds):
            try:
                made = {
                    kind: each[kind].turn(self.plan.seconds) for kind in (each if number % 2 == 0 else reversed(each))
                }
            except RanDry:
                tell("there is too little left for another round")
                break
            for kind, turned in made.items():
                runs[kind].append(turned)
            tell(", ".join(f"{kind} {made[kind].speed:,.0f}/s" for kind in runs))
        if not runs["bare"]:
            raise CannotMeasure("All that was to be sent was sent before the end of the first round.")
        return runs

    def _bare(self) -> Sender:
        """Starts the bare loop."""
        (self.folder / "bodies").write_bytes(b"\n".join(bodies(self.plan.starts)))
        url, before = self.stub.urls[0] + STARTS, self.stub.counts()[0]["answered"]
        process = launch(self.core, "-m", "tests.bench.bare_dispatch", url, str(self.folder / "bodies"))
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        _wait(lambda: self.stub.counts()[0]["answered"] > before)
        return self._sender(process, 1)

    def _gateway(self, store: str, where: Path, urls: Sequence[str]) -> Sender:
        """Starts a gateway that sends what is in a store. What goes to the slow workspace does not count."""
        where.mkdir(exist_ok=True)
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=where)))
        shutil.copy(self.folder / store, folder / "startflow.db")
        config = configuration(folder / "startflow.db", urls, settings=SETTINGS)
        lanes = len(urls) - (self.stub.urls[LANES] in urls)
        share = 1.0 if len(urls) == 1 else lanes / LANES  # of the starts in the store
        before = sum(each["answered"] for each in self.stub.counts()[:lanes])
        gateway = self.stack.enter_context(Gateway(self.core, folder, config))
        return self._sender(gateway.process, lanes, self.plan.starts * share + before)

    def _sender(self, process: subprocess.Popen[str], lanes: int, until: float = inf) -> Sender:
        sender = Sender(process, self.core, self.stub, range(lanes))
        sender.stand_still()
        sender.left = until - sender.answered()
        return sender


def _wait(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > until:
            raise CannotMeasure(f"The stub did not get in {PATIENCE:.0f} s what was to be sent to it.")
        time.sleep(0.02)


NAMES = {
    "bare": "bare aiohttp loop",
    "memory": "1 backend, store in memory",
    "disk": "1 backend, store on disk",
    "eight": "8 backends, in memory",
    "seven": "7 of them",
    "one slow": "these 7 beside a slow one",
}


def measure(quick: bool) -> Part:  # noqa: FBT001 -- so are all parts measured
    """Measures sending."""
    core, others = cores()
    os.sched_setaffinity(0, {others})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=MEMORY)))
        stub = stack.enter_context(Stub(LANES + 1, slow=True))
        runs = Bench(QUICK if quick else FULL, core, stub, folder, stack).measure()
    return _report(runs, COMMAND + (" --quick" if quick else ""))


def _figure(runs: dict[str, list[Run]], name: str, kinds: tuple[str, str], *, least: float | None, of: str) -> Figure:
    one, other = (runs[kind] for kind in kinds)
    ratios = [getattr(ours, of) / getattr(theirs, of) for ours, theirs in zip(one, other, strict=True)]
    busy = min(statistics.median(run.spent.busy for run in taken) for taken in (one, other))
    shared = max(statistics.median(run.spent.others + run.spent.stolen for run in taken) for taken in (one, other))
    doubt = Spent(seconds=1.0, cpu_seconds=busy, stolen=0.0, others=shared).doubts
    return Figure(name=name, ratios=ratios, least=least, doubt=", ".join(doubt))


def _report(runs: dict[str, list[Run]], command: str) -> Part:
    wanted = [
        ("dispatches/s ÷ bare aiohttp loop, store in memory", ("memory", "bare"), LEAST, "speed"),
        ("dispatches/s ÷ bare aiohttp loop, store on disk", ("disk", "bare"), LEAST, "speed"),
        ("CPU per dispatch ÷ bare aiohttp loop, store in memory", ("memory", "bare"), None, "cost"),
        ("dispatches/s to 8 backends ÷ to 1", ("eight", "memory"), None, "speed"),
        ("dispatches/s to 7 backends, beside one that takes 2 s ÷ without it", ("one slow", "seven"), None, "speed"),
    ]
    figures = [
        _figure(runs, name, kinds, least=least, of=of) for name, kinds, least, of in wanted if runs.keys() >= set(kinds)
    ]
    rows = [("", "starts/s", "CPU µs each", "of them, event loop", "busy", "others", "stolen")]
    for kind, taken in runs.items():
        each = [statistics.median(getattr(run, of) for run in taken) for of in ("speed", "cost", "loop_cost")]
        shares = [statistics.median(getattr(run.spent, of) for run in taken) for of in ("busy", "others", "stolen")]
        rows.append((NAMES[kind], *(f"{value:,.0f}" for value in each), *(f"{share:.0%}" for share in shares)))
    return Part(
        title="Dispatch",
        command=command,
        method=METHOD,
        figures=figures,
        tables=[Table(title="Sending starts of one URN, medians", rows=rows)],
        sources={"the bare aiohttp loop": bare_dispatch.source()},
    )


def profile(file: Path) -> str:
    """Keeps a profile of the gateway while it sends; returns what takes longest in each of its threads."""
    core, others = cores()
    os.sched_setaffinity(0, {others})
    with Stub(1) as stub, tempfile.TemporaryDirectory(prefix="bench-", dir=MEMORY) as name:
        folder, starts = Path(name), FULL.starts
        asyncio.run(fill(folder / "startflow.db", [backend_name(0)], starts))
        config = configuration(folder / "startflow.db", stub.urls, settings=SETTINGS)
        command = ("-m", "tests.bench.profiled", str(file.resolve()))
        with Gateway(core, folder, config, command) as gateway:
            _wait(lambda: stub.counts()[0]["answered"] == starts)
            gateway.stop()
    with file.open("w") as written:
        for thread in ("loop", "writer"):
            written.write(f"The thread of the {thread}, while {starts:,} starts were sent\n")
            stats = pstats.Stats(f"{file}.{thread}", stream=written).strip_dirs()
            stats.sort_stats("tottime").print_stats(SHOWN).sort_stats("cumulative").print_stats(SHOWN)
    return file.read_text()


def main() -> int:
    """Measures and reports, or keeps a profile."""
    parser = options(COMMAND, __doc__)
    parser.add_argument("--profile", type=Path, metavar="FILE", help="keep a profile there instead of measuring")
    given = parser.parse_args()
    if given.profile is None:
        return run(lambda: measure(given.quick))
    print(profile(given.profile))
    return 0


if __name__ == "__main__":
    sys.exit(main())
