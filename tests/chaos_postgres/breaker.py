"""What breaks between the gateways and PostgreSQL: the server is killed, connections are cut at a COMMIT, or all are.

| kind     | what happens                                                                                             |
|----------|----------------------------------------------------------------------------------------------------------|
| `killed` | `kill -9` of the postmaster; it is started again after up to two seconds                                 |
| `hung`   | every connection breaks at once                                                                          |
| others   | see `tests/postgres_proxy.py`; a process that is frozen commits up to six seconds after its client went  |
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.postgres_proxy import CUTS

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.postgres_proxy import Proxy
    from tests.postgres_server import Server

KINDS = ("killed", "after", "frozen", "killed", "before", "after", "held", "hung")
MET_WITHIN = 5.0  # seconds in which some COMMIT should come along
DOWN, FROZEN, HELD = 2.0, 6.0, 2.0  # seconds, at the most
SHORT = 0.05  # seconds, at the least: over when a caller who was refused asks again
LOOK_EVERY = 0.02


class Breaker:
    """Breaks one thing after another, until cancelled; whatever was begun is brought to its end then."""

    def __init__(
        self, server: Server, proxy: Proxy, chance: random.Random, every: float, kinds: Sequence[str] = KINDS
    ) -> None:
        self._server, self._proxy, self._chance, self._every = server, proxy, chance, every
        self._kinds = kinds
        self.counts: Counter[str] = Counter()
        self.server_kills: list[float] = []

    async def run(self) -> None:
        """Goes on until cancelled."""
        while self._kinds:
            for kind in self._chance.sample(self._kinds, len(self._kinds)):
                await asyncio.sleep(self._chance.uniform(0.5, 1.5) * self._every)
                acting = asyncio.create_task(self._break(kind))
                try:
                    await asyncio.shield(acting)
                finally:
                    await acting
        await asyncio.Event().wait()

    async def _break(self, kind: str) -> None:
        if kind == "killed":
            self.server_kills.append(time.time())
            await asyncio.to_thread(self._server.kill)
            await asyncio.sleep(self._chance.uniform(0, DOWN))
            await asyncio.to_thread(self._server.start)
        elif kind == "hung":
            await asyncio.to_thread(self._proxy.hang_up)
        elif not await self._cut(kind):
            return
        self.counts[kind] += 1

    async def _cut(self, kind: str) -> bool:
        """Cuts at the next COMMIT; returns whether there was one."""
        assert kind in CUTS
        longest = FROZEN if kind == "frozen" else HELD
        seconds = self._chance.uniform(SHORT, self._chance.choice((4 * SHORT, longest)))
        self._proxy.has_cut.clear()
        self._proxy.cut(kind, seconds)
        until = time.monotonic() + MET_WITHIN
        while not self._proxy.has_cut.is_set():
            if time.monotonic() > until:
                self._proxy.disarm()
                return False
            await asyncio.sleep(LOOK_EVERY)
        if kind in ("frozen", "held"):
            await asyncio.sleep(seconds)
        return True
