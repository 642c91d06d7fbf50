"""What runs in the background for as long as it is wanted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack

log = structlog.get_logger()

RESTART_PAUSE = 1.0  # seconds before a loop that has failed runs again


def keep_running(stack: AsyncExitStack, name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Runs a loop until the stack is closed; a bug in it is logged, and it runs again."""

    async def keep() -> None:
        while True:
            try:
                await loop()
            except Exception as error:
                log.error("loop_failed", loop=name, exc_info=error)
                await asyncio.sleep(RESTART_PAUSE)
            else:
                return

    task = asyncio.create_task(keep(), name=name)

    async def stop() -> None:
        task.cancel()
        await asyncio.wait([task])

    stack.push_async_callback(stop)
