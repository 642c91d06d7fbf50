"""How the lives of one of several gateways end, and who starts the next: SIGKILL, SIGSTOP, a drain, or by itself."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import psycopg

from gateway.store.invariants import check
from gateway.store.postgres.connecting import connect
from tests.chaos.kills import Aim

if TYPE_CHECKING:
    import random

    from tests.chaos.plan import Life
    from tests.end_to_end.processes import GatewayProcess, SandboxProcess

STAYS = 2.0  # seconds, at the most, that a gateway which was stopped is left to itself before its end
AGAIN = 0.3  # seconds until a gateway that did not start is started again, as whoever supervises it would
DRAINED_WITHIN = 30.0


class PostgresReaper:
    """Ends one life of a gateway after another. The store's invariants are checked after each end."""

    def __init__(self, gateway: GatewayProcess, sandbox: SandboxProcess, url: str, chance: random.Random) -> None:
        self._gateway, self._url, self._chance = gateway, url, chance
        self._aim = Aim(gateway, sandbox)
        self.kills: list[float] = []
        self.pauses: list[tuple[float, float]] = []
        self.swept: list[tuple[float, float]] = []
        self.broken: list[str] = []
        self.checked = 0  # times the invariants were read
        self.drains = 0
        self.own_ends = 0  # lives that ended by themselves
        self.vain_starts = 0
        self.duels = 0  # it has none

    async def live(self, life: Life) -> None:
        """Lets a life last as long as it should, ends it, and begins the next."""
        await self._last(life.seconds)
        if life.pause:
            await self._pause(life.pause)
            await self._last(self._chance.uniform(0.2, STAYS))
        if life.is_aimed:
            with suppress(ProcessLookupError):
                await self._aim.aim()
        if life.drains:
            await self._drain()
        else:
            await self._kill()
        if life.dies_young:
            await self._gateway.launch()
            await asyncio.sleep(life.dies_young)
            await self._kill()
        await self._serve()

    async def _last(self, seconds: float) -> None:
        """Waits; starts the gateway again if it ends by itself."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self._gateway.ended(), left)
            except TimeoutError:
                return
            self.own_ends += 1
            await self._serve()

    async def _pause(self, seconds: float) -> None:
        with suppress(ProcessLookupError):
            begun = await self._aim.aim()
            self._gateway.suspend()
            await asyncio.sleep(seconds)
            self.pauses.append((begun, time.time()))
            self._gateway.resume()

    async def _kill(self) -> None:
        self.kills.append(time.time())
        with suppress(ProcessLookupError):
            await self._gateway.kill()
        await asyncio.to_thread(self._check)

    async def _drain(self) -> None:
        with suppress(ProcessLookupError):
            self._gateway.resume()  # it may have been stopped to be aimed at
            code = await asyncio.wait_for(self._gateway.stop(), DRAINED_WITHIN)
            self.drains += 1
            if code:
                self.broken.append(f"a drain ended with exit code {code}")
        await asyncio.to_thread(self._check)

    async def _serve(self) -> None:
        while not await self._gateway.try_to_start():
            self.vain_starts += 1
            await asyncio.sleep(AGAIN)

    def _check(self) -> None:
        try:
            found = broken_in(self._url)
        except psycopg.OperationalError:
            return  # the server is down: it is checked after the next end
        self.checked += 1
        self.broken += [f"after kill {len(self.kills)}: {each}" for each in found]


def broken_in(url: str) -> list[str]:
    """Returns what is broken in a store, in one view of it."""
    conn = connect(url)
    with closing(conn.raw):
        conn.raw.execute("begin isolation level repeatable read read only")
        if not conn.one("select to_regclass('dispatches') is not null")[0]:
            return []
        return [str(each) for each in check(conn)]
