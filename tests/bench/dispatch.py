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
from tests.bench.serving import DISK, Gateway, Spent, backend_name, configuration, launch
from tests.bench.stub_backend import STARTS, Stub
from tests.bench.turns import RanDry, Run, Sender

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

LANES = 8
SETTINGS = 'sweep_interval = "1h"\nin_flight = {}'  # following has figures of its own
IN_FLIGHT = {1: 50, LANES: 8}  # on each backend, by how many there are about: much the same for all of them together
WORKSPACES = 1 + 1 + 1 + LANES + 2 * (LANES - 1) + 1  # the last one is slow
LEAST = 0.5  # of the bare loop's speed
PATIENCE = 60.0  # seconds
SHOWN = 30  # lines of each profile
COMMAND = "python -m tests.bench.dispatch"
METHOD = (
    "A store is filled with pending starts of one URN; the gateway, its rate limits out of the way and 50 requests in"
    " flight (of 8 backends 8 on each), sends them to a stub that answers at once. The bare loop posts the same bodies"
    " to the same stub, 50 in flight. They run on one core, the stub on the other, in turns of a second, each stopped"
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


@dataclass
class Bench:
    """What is measured with."""

    plan: Plan
    core: int
    stub: Stub
    folder: Path
    stack: ExitStack
    taken: int = 0  # workspaces

    def measure(self) -> dict[str, list[Run]]:
        """Measures everything; returns the turns of each kind, round by round."""
        backends = [backend_name(n) for n in range(LANES)]
        asyncio.run(fill(self.folder / "one.db", backends[:1], self.plan.starts))
        asyncio.run(fill(self.folder / "many.db", backends, self.plan.starts))
        tell(f"twice {self.plan.starts:,} starts are pending")
        senders: dict[str, Callable[[], Sender]] = {
            "bare": self._bare,
            "memory": lambda: self._gateway("one.db", MEMORY, 1),
            "disk": lambda: self._gateway("one.db", DISK, 1),
            "eight": lambda: self._gateway("many.db", MEMORY, LANES),
            "seven": lambda: self._gateway("many.db", MEMORY, LANES - 1),
            "one slow": lambda: self._gateway("many.db", MEMORY, LANES - 1, self.stub.urls[-1:]),
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
        lanes = self._lanes(1)
        url, before = self.stub.urls[lanes[0]] + STARTS, self.stub.counts()[lanes[0]]["answered"]
        process = launch(self.core, "-m", "tests.bench.bare_dispatch", url, str(self.folder / "bodies"))
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        _wait(lambda: self.stub.counts()[lanes[0]]["answered"] > before)
        return self._sender(process, lanes)

    def _gateway(self, store: str, where: Path, count: int, slow: Sequence[str] = ()) -> Sender:
        """Starts a gateway that sends what is in a store. What goes to the slow workspace does not count."""
        where.mkdir(exist_ok=True)
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=where)))
        shutil.copy(self.folder / store, folder / "startflow.db")
        lanes = self._lanes(count)
        urls = [*self.stub.urls[lanes.start : lanes.stop], *slow]
        settings = SETTINGS.format(IN_FLIGHT[1 if count == 1 else LANES])
        config = configuration(folder / "startflow.db", urls, settings=settings)
        gateway = self.stack.enter_context(Gateway(self.core, folder, config))
        return self._sender(gateway.process, lanes, self.plan.starts * (1.0 if count == 1 else count / LANES))

    def _lanes(self, count: int) -> range:
        """Takes so many workspaces that nobody else sends to: whoever sweeps one must not find the starts of others."""
        self.taken += count
        return range(self.taken - count, self.taken)

    def _sender(self, process: subprocess.Popen[str], lanes: range, starts: float = inf) -> Sender:
        sender = Sender(process, self.core, self.stub, lanes)
        sender.stand_still()
        sender.left = starts - sender.answered()
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
        stub = stack.enter_context(Stub(WORKSPACES, slow=True))
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
        config = configuration(folder / "startflow.db", stub.urls, settings=SETTINGS.format(IN_FLIGHT[1]))
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
