"""The processes of a run: gateways that know their callers, the quiet tenant, attackers, and burners of time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from tests.bench.serving import TICKS, ticks
from tests.end_to_end.processes import ROOT
from tests.fuzz.run import Victim
from tests.hostile.quiet import TENANT, Figures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.hostile.plan import Attack

NICER = 10  # than the quiet tenant are attackers, and those who burn in their place: they share its core
NANOSECONDS = 1e9
SCOPES = "start read admin"
CLIENTS = [{"tenant": name, "token": f"token-{name}", "scopes": SCOPES} for name in (TENANT, "loud", "default")]
CLIENTS += [{"tenant": f"t{n}", "token": f"token-t{n}", "scopes": SCOPES} for n in range(100)]
CLIENTS += [{"tenant": "limited", "token": "token-limited", "scopes": SCOPES, "starts_per_second": 10}]


class Gateway(Victim):
    """A gateway with tenants, or one that lets everybody in."""

    clients: ClassVar[list[dict[str, Any]]] = CLIENTS
    has_clients = True
    core: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Adds what this rig wants otherwise."""
        quick = {f"STARTFLOW_BACKENDS__{name}__SWEEP_INTERVAL": "500ms" for name in ("RAPIDPRO", "TWILIO")}
        given = {**super().environment, **quick}
        if not self.has_clients:
            del given["STARTFLOW_CLIENTS"]
        return given

    async def launch(self) -> None:
        """Starts it on its core."""
        with on(self.core):
            await super().launch()

    @property
    def log_size(self) -> int:
        """The bytes of the store's write-ahead log."""
        try:
            return self.store.with_name(f"{self.store.name}-wal").stat().st_size
        except FileNotFoundError:
            return 0


@contextmanager
def on(core: int | None) -> Iterator[None]:
    """Has processes that are started meanwhile stay on a core. None: on any."""
    own = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def processor_seconds(pid: int) -> float:
    """Returns the processor time that a process has had."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / NANOSECONDS


def stolen_seconds() -> float:
    """Returns the processor time that a hypervisor has taken from this machine, of all cores together."""
    return ticks()[-1] / TICKS


class Helper:
    """A process of ours that is asked by lines of JSON, and can be halted."""

    def __init__(self, *command: str) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Starts it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
            limit=2**24,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kills it."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    @property
    def pid(self) -> int:
        """Which process it is."""
        assert self._process is not None
        return self._process.pid

    def nicer(self) -> None:
        """Has others go first."""
        os.setpriority(os.PRIO_PROCESS, self.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICER)

    def halt(self) -> None:
        """Stops it where it is."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def ask(self, order: object) -> Any:
        """Asks it, and returns the answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        line = await self._process.stdout.readline()
        assert line, f"{' '.join(self._command)} has ended"
        return json.loads(line)


class QuietTenant(Helper):
    """The quiet tenant, who works on one gateway at a time."""

    def __init__(self) -> None:
        super().__init__("-m", "tests.hostile.quiet")

    async def know(self, name: str, gateway: Gateway) -> None:
        """Tells it of a gateway."""
        await self.ask({"do": "know", "name": name, "grpc": gateway.address, "http": gateway.http})

    async def forget(self, name: str) -> None:
        """Has it leave a gateway alone from here on."""
        await self.ask({"do": "forget", "name": name})

    async def measure(self, name: str, seconds: float, patience: float) -> Figures:
        """Has it work on a gateway for so long."""
        order = {"do": "measure", "name": name, "seconds": seconds, "patience": patience}
        return Figures(**await self.ask(order))


def attackers(attack: Attack, gateway: Gateway) -> Sequence[Helper]:
    """Returns the processes that attack a gateway, to be started."""
    where = (gateway.address, gateway.http)
    return [
        Helper("-m", "tests.hostile.attacker", attack.name, str(part), *where) for part, _ in enumerate(attack.runs)
    ]


def burner(share: float) -> Helper:
    """Returns a process that takes a share of a core, to be started."""
    return Helper("-I", "-S", str(Path(__file__).with_name("burner.py")), f"{share:.3f}")
