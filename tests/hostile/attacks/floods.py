"""Clients that ask for much at once. Each runs until it is cancelled, or for `count` calls."""

from __future__ import annotations

import asyncio
import itertools

from tests.hostile.attacks.frames import HEALTH, Peer

BATCH = 100  # calls between two looks at what came back


async def rapid_resets(
    address: str, *, count: int | None = None, rate: float | None = None, path: str | bytes = f"{HEALTH}Check"
) -> int:
    """Begins calls and takes each back at once, at most `rate` a second; returns how many."""
    loop = asyncio.get_running_loop()
    async with Peer(address) as peer:
        began = loop.time()
        for done in itertools.count(BATCH, BATCH):
            for _ in range(BATCH):
                peer.reset(peer.call(path))
            await peer.drain()
            await asyncio.sleep(0 if rate is None else max(0, began + done / rate - loop.time()))
            if peer.closed.is_set() or (count is not None and done >= count):
                await peer.until_answered()
                return done
    raise AssertionError  # it counts for ever
