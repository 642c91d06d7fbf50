"""The processes of a measurement: a server on a core of its own, and on another one the client that feeds on it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.bench.control import AFTER, SOCKET

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "watchers"
BINARY = Path(sys.prefix) / "bench" / "watchers"  # beside the interpreter: made, never committed
MEMORY = Path("/dev/shm")  # noqa: S108 -- a store there waits for no disk, which is not what is measured
READY = re.compile(r"gRPC on ([^\s,]+)")
PER_CONNECTION = 100  # streams
PATIENCE = 60.0  # seconds for a server to come up

SERVERS = {  # by kind: which module, and whether the collector is tuned
    "bare": ("tests.bench.bare_watch", "untuned"),
    "bare tuned": ("tests.bench.bare_watch", "tuned"),
    "gateway": ("tests.bench.watch_server", "tuned"),
    "gateway untuned": ("tests.bench.watch_server", "untuned"),
}


class CannotMeasure(Exception):
    """Something that a measurement needs is missing, or has failed. Says what."""


def cores() -> tuple[int, int]:
    """Chooses the core of the servers, and that of everything else."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise CannotMeasure("This machine offers one core: the server and its clients need one each.")
    return usable[0], usable[1]


def build_client() -> Path:
    """Builds the client that holds the watches."""
    return build(".", BINARY)


def build(package: str, binary: Path) -> Path:
    """Builds one of the programs in `watchers`."""
    go = shutil.which("go")
    if go is None:
        raise CannotMeasure(
            "What must not be the limit, such as the client that holds 10,000 watches, is written in Go, and there is"
            " no `go` on the PATH. Install Go 1.26 or newer (Debian: golang-go; others: go.dev/doc/install)."
        )
    command = [go, "build", "-trimpath", "-o", str(binary), package]
    built = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, check=False)
    if built.returncode:
        raise CannotMeasure(f"{binary.name} cannot be built: {built.stderr.strip()}")
    return binary


@dataclass
class Server:
    """A server under test, in a process and with files of its own, pinned to a core."""

    kind: str
    core: int
    starts: int = 0  # that can be watched one by one
    folder: Path = field(init=False)
    address: str = ""
    after: int = 0  # the revision after which its changes come
    _process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Starts it, and waits until it can be told to make changes."""
        self.folder = Path(tempfile.mkdtemp(prefix="bench-", dir=MEMORY if MEMORY.is_dir() else None))
        module, how = SERVERS[self.kind]
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(self.core), str(self.folder), str(self.starts), how],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        found = READY.search(self._process.stdout.readline())
        until = time.monotonic() + PATIENCE
        while found and not (self.folder / SOCKET).exists() and time.monotonic() < until:
            time.sleep(0.05)
        if found is None or not (self.folder / SOCKET).exists():
            self.__exit__()
            raise CannotMeasure(f"The {self.kind} server did not come up.")
        self.address, self.after = found[1], int((self.folder / AFTER).read_text())
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it; nothing of it is needed any more."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Which process it is."""
        assert self._process is not None
        return self._process.pid

    def memory(self) -> int:
        """Returns the bytes that it has in memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Crowd:
    """The client: holds groups of watches, and measures what it takes to feed them."""

    binary: Path
    _process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Starts it."""
        self._process = subprocess.Popen(
            [str(self.binary)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def open(self, group: str, server: Server, requests: Sequence[bytes], streams: int) -> None:
        """Opens watches, the requests dealt out in turn; returns when each has received something."""
        self._order(
            do="open",
            group=group,
            target=server.address,
            control=str(server.folder / SOCKET),
            pid=server.pid,
            core=server.core,
            streams=streams,
            perConnection=PER_CONNECTION,
            requests=[base64.b64encode(request).decode() for request in requests],
        )

    def watch(self, group: str, address: str, requests: Sequence[bytes], streams: int) -> None:
        """Opens watches on a server that changes by itself; what they bring can be counted."""
        encoded = [base64.b64encode(request).decode() for request in requests]
        self._order(
            do="open", group=group, target=address, streams=streams, perConnection=PER_CONNECTION, requests=encoded
        )

    def count(self, group: str) -> tuple[int, int, str]:
        """Counts the changes that watches have brought, and the watches that ended; tells what the first one said."""
        told = self._order(do="count", group=group)
        return told["messages"], told["ended"], told["why"]

    def run(
        self, group: str, rounds: Sequence[tuple[str, int]], *, pause: int = 0, timed: bool = False
    ) -> dict[str, Any]:
        """Has changes made, each by its name, after the messages that the one before brings; returns what it took.

        `pause` is in microseconds.
        """
        named = [{"send": name, "expect": messages} for name, messages in rounds]
        return self._order(do="run", group=group, rounds=named, pause=pause, timed=timed)

    def load(
        self, target: str, pid: int, core: int, callers: Sequence[dict[str, Any]], *, seconds: float, warm_up: float
    ) -> dict[str, Any]:
        """Has callers, as `watchers/load.go` describes them, call a server on a core; returns what it took.

        Measures so many seconds, after the warm-up.
        """
        told = {"target": target, "pid": pid, "core": core, "callers": callers, "seconds": seconds, "warmUp": warm_up}
        return self._order(do="load", group=target, **told)

    def close(self, group: str) -> None:
        """Ends the watches of a group."""
        self._order(do="close", group=group)

    def _order(self, **order: Any) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the client has ended"}
        if "error" in answer:
            raise CannotMeasure(f"{order['do']} {order['group']}: {answer['error']}")
        return answer
