"""Messages that are slow are bounded, and none is taken for slow that only waited for the loop."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gateway.doors.grpc.receiving import Receiving

SOON = 0.02  # seconds


class _Context:
    """A call whose message comes when it is told to."""

    def __init__(self) -> None:
        self._message: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def read(self) -> bytes:
        """Waits for it."""
        return await self._message

    def come(self) -> None:
        """Brings it."""
        self._message.set_result(b"here")


async def test_b7_no_message_is_slow_because_the_loop_was_held_up() -> None:
    """It is read first, even where not one may be slow."""
    receiving, contexts = Receiving(soon=SOON, most=0), [_Context() for _ in range(3)]
    made: Any = contexts
    reading = [asyncio.create_task(receiving.only_message(each, "quiet")) for each in made]
    await asyncio.sleep(0)
    time.sleep(5 * SOON)  # noqa: ASYNC251 -- as a halted process, or a long step of anybody's, does
    for each in contexts:
        asyncio.get_running_loop().call_later(SOON / 4, each.come)

    assert [b"here"] * 3 == await asyncio.gather(*reading)
