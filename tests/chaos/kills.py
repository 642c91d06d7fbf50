"""How the lives of the gateway end: SIGKILL at random moments and at open attempts, in its youth, after a SIGSTOP.

After each kill the store that it left is checked: what holds between any two transactions holds after any kill.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gateway.store.connecting import SqliteConnection
from gateway.store.invariants import check
from tests.chaos.journal import is_create

if TYPE_CHECKING:
    from tests.chaos.plan import Life
    from tests.end_to_end.processes import GatewayProcess, SandboxProcess

AIM_FOR = 2.0  # seconds that a kill waits for an attempt to be open
STOPS_WITHIN = 0.02  # seconds: a signal is not obeyed at once
LOOK_EVERY = 0.005
GONE_FOR = 1.5  # seconds that a gateway runs on without its store


class Reaps(Protocol):
    """Ends the lives of one gateway, and remembers when, and what was wrong then."""

    kills: list[float]
    pauses: list[tuple[float, float]]
    swept: list[tuple[float, float]]  # from when to when there was no store
    broken: list[str]  # invariants of the store that do not hold

    async def live(self, life: Life) -> None:
        """Lets a life last as long as it should, ends it, and begins the next."""


class Reaper:
    """Ends one life after another."""

    def __init__(self, gateway: GatewayProcess, sandbox: SandboxProcess) -> None:
        self._gateway = gateway
        self._sandbox = sandbox
        self._aim = Aim(gateway, sandbox)
        self._copies = 0
        self.swept: list[tuple[float, float]] = []  # from when to when there was no store
        self.broken: list[str] = []
        self.kills: list[float] = []
        self.pauses: list[tuple[float, float]] = []

    async def live(self, life: Life) -> None:
        """Lets a life last as long as it should, ends it, and begins the next."""
        await asyncio.sleep(life.seconds)
        if life.pause:
            begun = await self._aim.aim()
            self._gateway.suspend()
            await asyncio.sleep(life.pause)
            self.pauses.append((begun, time.time()))
            self._gateway.resume()
            await asyncio.sleep(0.2)
        if life.is_aimed:
            await self._aim.aim()
        if life.sweeps:
            await self._sweep()
        else:
            await self._kill()
        if life.upgrades:
            await self._sandbox.configure("rapidpro", generation="new")
        if life.dies_young:
            await self._gateway.launch()
            await asyncio.sleep(life.dies_young)
            await self._kill()
        await self._gateway.start()

    async def _kill(self) -> None:
        self.kills.append(time.time())
        await self._gateway.kill()
        await asyncio.to_thread(self._check)

    async def _sweep(self) -> None:
        """Removes the store while the process runs, kills it, and puts back what was there at that moment.

        The process is stopped while it is copied: what it has answered by then is in the copy, and whatever it says
        after that it must not have said.
        """
        store = self._gateway.store
        files = [store.with_name(store.name + end) for end in ("", "-wal", "-shm")]
        kept = store.with_name(f"kept-{len(self.swept)}")
        kept.mkdir()
        self._gateway.suspend()
        await asyncio.sleep(0.05)  # a signal is not obeyed at once
        for each in filter(Path.exists, files):
            shutil.copy2(each, kept)
            each.unlink()
        since = time.time()
        self._gateway.resume()
        await asyncio.sleep(GONE_FOR)
        await self._gateway.kill()
        self.kills.append(time.time())
        self.swept.append((since, time.time()))
        for each in files:
            each.unlink(missing_ok=True)
            if (kept / each.name).exists():
                shutil.copy2(kept / each.name, each)
        await asyncio.to_thread(self._check)

    def _check(self) -> None:
        """Reads what the kill left, from a copy, and says which invariants it breaks."""
        self._copies += 1
        with tempfile.TemporaryDirectory(prefix="killed-") as folder:
            store = self._gateway.store
            for end in ("", "-wal"):
                if (source := store.with_name(store.name + end)).exists():
                    shutil.copy2(source, Path(folder) / source.name)
            if not (copy := Path(folder) / store.name).exists():
                return
            with closing(sqlite3.connect(copy, factory=SqliteConnection)) as conn:
                if conn.execute("select 1 from sqlite_master where name = 'dispatches'").fetchone():
                    self.broken += [f"after kill {len(self.kills)}: {each}" for each in check(conn)]


class Aim:
    """Stops a gateway at the moment at which a request that creates something is open."""

    def __init__(self, gateway: GatewayProcess, sandbox: SandboxProcess) -> None:
        self._gateway = gateway
        self._sandbox = sandbox
        self._read = 0

    async def aim(self) -> float:
        """Stops the process while a request that creates something is open; returns since when it is stopped.

        What is open then stays open until it is killed. If nothing is for long, it runs on.
        """
        opened: dict[int, None] = {}
        until = time.monotonic() + AIM_FOR
        await self._look()
        while time.monotonic() < until:
            if self._keep_open(opened, await self._look()):
                begun = time.time()
                self._gateway.suspend()
                await asyncio.sleep(STOPS_WITHIN)
                if self._keep_open(opened, await self._look()):
                    return begun
                self._gateway.resume()
            await asyncio.sleep(LOOK_EVERY)
        return time.time()

    @staticmethod
    def _keep_open(opened: dict[int, None], entries: list[dict[str, Any]]) -> bool:
        """Notes what was asked and answered; returns whether something is open."""
        for entry in entries:
            if is_create(entry):
                opened[entry["n"]] = None
            elif entry["kind"] == "answer":
                opened.pop(entry["request"], None)
        return bool(opened)

    async def _look(self) -> list[dict[str, Any]]:
        entries = await self._sandbox.journal(after=str(self._read))
        self._read = entries[-1]["n"] if entries else self._read
        return entries
