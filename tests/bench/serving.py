"""The gateway as `startflow serve` runs it, on a core of its own, and what it takes of that core."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.bench.processes import ROOT, CannotMeasure
from tests.bench.watch_report import BUSY, STOLEN

if TYPE_CHECKING:
    from collections.abc import Sequence

DISK = ROOT / "var"  # never committed, and on a real disk as far as the checkout is
READY = re.compile(r"gRPC on ([^\s,]+)")
BUGS = ("rpc_failed", "loop_failed", "send_failed", "Traceback")  # none of which a log may hold
NANOSECONDS = 1e9
TICKS = os.sysconf("SC_CLK_TCK")
SHARED = 0.08  # of the time; what the kernel does for nobody in particular is less
ANY_RATE = "1000000/second"

_HEAD = """
listen = "127.0.0.1:0"
http_listen = "127.0.0.1:0"
store = "{store}"
"""
_BACKEND = """
[backends.{name}]
kind = "rapidpro"
url = "{url}"
token = "0123456789ABCDEF"
rate = "{rate}"
{settings}
"""


def configuration(
    store: Path | str, urls: Sequence[str], *, head: str = "", settings: str = "", rate: str = ANY_RATE
) -> str:
    """Writes a configuration with a backend for each URL, named as `backend_name` says.

    `store` is a file, or a URL. `head` and `settings` are further lines, of the gateway and of every backend. Unless
    told, no rate holds one back.
    """
    url = f"sqlite:///{store}" if isinstance(store, Path) else store
    backends = (
        _BACKEND.format(name=backend_name(n), url=url, rate=rate, settings=settings) for n, url in enumerate(urls)
    )
    return _HEAD.format(store=url) + head + "".join(backends)


def backend_name(number: int) -> str:
    """Names a backend."""
    return f"backend-{number}"


def launch(core: int, *command: str, **how: Any) -> subprocess.Popen[str]:
    """Starts Python with a command, on a core that it and all its threads stay on."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # a child inherits it
    try:
        return subprocess.Popen([sys.executable, *command], cwd=ROOT, text=True, **how)
    finally:
        os.sched_setaffinity(0, own)


@dataclass
class Gateway:
    """A gateway in a process and with files of its own. `command` is how Python is told to run it."""

    core: int
    folder: Path
    config: str
    command: tuple[str, ...] = ("-m", "gateway")
    address: str = ""
    process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Self:
        """Starts it, and waits until it serves."""
        config = self.folder / "startflow.toml"
        config.write_text(self.config)
        with self.log.open("a") as log:
            self.process = launch(
                self.core, *self.command, "serve", "--config", str(config), stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        found = READY.search(self.process.stdout.readline())
        if found is None:
            self.__exit__()
            raise CannotMeasure(f"The gateway did not come up: {self.log.read_text()[-500:]}")
        self.address = found[1]
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it; nothing of it is needed any more."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Asks it to stop, and waits until it has."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    @property
    def log(self) -> Path:
        """What it has written to stderr."""
        return self.folder / "gateway.log"

    def bugs(self) -> int:
        """Counts the lines of its log that must never be there."""
        return sum(any(mark in line for mark in BUGS) for line in self.log.read_text().splitlines())

    def memory(self) -> int:
        """Returns the bytes that it has in memory."""
        return int(self._file("statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Counts its open files and sockets."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def _file(self, name: str) -> str:
        return Path(f"/proc/{self.process.pid}/{name}").read_text()


def ticks(core: int | None = None) -> list[int]:
    """Returns what a core, or all of them together, did since the machine started, as proc(5) orders it up to `steal`.

    In parts of a second: `TICKS`.
    """
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    name = "cpu" if core is None else f"cpu{core}"
    return next([int(each) for each in fields[1:9]] for fields in lines if fields[0] == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a process took in some seconds, and which share of them the hypervisor and others took from its core."""

    seconds: float
    cpu_seconds: float
    stolen: float
    others: float = 0.0
    first_seconds: float = 0.0  # of the processor, of its first thread: the event loop's

    @property
    def busy(self) -> float:
        """The share of the time in which it ran."""
        return self.cpu_seconds / self.seconds

    @property
    def doubts(self) -> list[str]:
        """Says what was wrong, if what was to be measured is how fast it is."""
        doubts = [f"NOT BUSY ({self.busy:.0%})"] if self.busy < BUSY else []
        doubts += [f"STOLEN ({self.stolen:.0%})"] if self.stolen > STOLEN else []
        return doubts + ([f"SHARED ({self.others:.0%})"] if self.others > SHARED else [])

    @property
    def is_disturbed(self) -> bool:
        """Whether it is worth measuring again."""
        return self.stolen > STOLEN or self.others > SHARED


class Meter:
    """Measures what a process takes of its core, from the moment it is made."""

    def __init__(self, process: subprocess.Popen[str], core: int) -> None:
        self._pid = process.pid
        self._core = core
        self._began = self._look()

    def read(self) -> Spent:
        """Tells what it took until now."""
        at, cpu, first, passed, busy, stolen = (
            now - before for now, before in zip(self._look(), self._began, strict=True)
        )
        return Spent(
            seconds=at,
            cpu_seconds=cpu,
            stolen=stolen / max(1, passed),
            others=max(0.0, busy / TICKS - cpu) / at,
            first_seconds=first,
        )

    def _look(self) -> tuple[float, float, float, float, float, float]:
        tasks = Path(f"/proc/{self._pid}/task")
        taken = {each.parent.name: int(each.read_text().split()[0]) for each in tasks.glob("*/schedstat")}
        cpu, first = (sum(taken.values()) / NANOSECONDS, taken[str(self._pid)] / NANOSECONDS)
        passed = ticks(self._core)
        user, nice, system, _, _, irq, softirq, steal = passed
        return time.monotonic(), cpu, first, sum(passed), user + nice + system + irq + softirq, steal
