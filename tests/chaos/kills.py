"""How the lives of the gateway end: SIGKILL at random moments and at open attempts, in its youth, after a SIGSTOP."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from tests.chaos.journal import is_create

if TYPE_CHECKING:
    from tests.chaos.plan import Life
    from tests.end_to_end.processes import GatewayProcess, SandboxProcess

AIM_FOR = 1.5  # seconds that a kill waits for an attempt to be open
LOOK_EVERY = 0.005


class Reaper:
    """Ends one life after another."""

    def __init__(self, gateway: GatewayProcess, sandbox: SandboxProcess) -> None:
        self._gateway = gateway
        self._sandbox = sandbox
        self._read = 0
        self.kills: list[float] = []
        self.pauses: list[tuple[float, float]] = []

    async def live(self, life: Life) -> None:
        """Lets a life last as long as it should, ends it, and begins the next."""
        await asyncio.sleep(life.seconds)
        if life.pause:
            await self._aim()
            begun = time.time()
            self._gateway.suspend()
            await asyncio.sleep(life.pause)
            self.pauses.append((begun, time.time()))
            self._gateway.resume()
            await asyncio.sleep(0.2)
        if life.is_aimed:
            await self._aim()
        await self._kill()
        if life.dies_young:
            await self._gateway.launch()
            await asyncio.sleep(life.dies_young)
            await self._kill()
        await self._gateway.start()

    async def _kill(self) -> None:
        self.kills.append(time.time())
        await self._gateway.kill()

    async def _aim(self) -> None:
        """Waits until a request that creates something is open, or has been waited for long enough."""
        await self._look()
        until = time.monotonic() + AIM_FOR
        while time.monotonic() < until:
            entries = await self._look()
            answered = {entry["request"] for entry in entries if entry["kind"] == "answer" and entry.get("status")}
            if any(is_create(entry) and entry["n"] not in answered for entry in entries):
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self) -> list[dict[str, Any]]:
        entries = await self._sandbox.journal(after=str(self._read))
        self._read = entries[-1]["n"] if entries else self._read
        return entries
