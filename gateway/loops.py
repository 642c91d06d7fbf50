"""What runs in the background for as long as it is wanted, and whether it does.

Rules:

1. A loop that fails is logged and counted, and runs again. One that fails again and again is not well, and neither is
   one that has not come round for longer than a round of it can take.
2. A loop says itself when it has come round. Until then, what it did may be what it will fail with again.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AsyncExitStack

log = structlog.get_logger()

RESTART_PAUSE = 1.0  # seconds before a loop that has failed runs again
LONGEST_PAUSE = 30.0  # seconds; each failure in a row doubles the pause
IN_A_ROW = 3  # failures after which a loop is not well


@dataclass(slots=True, kw_only=True)
class Loop:
    """One loop, how often it has failed, and when it last gave a sign of life."""

    name: str
    backend: str  # whose lane it is a part of; "" if of none
    within: float | None  # seconds in which it gives a sign of life; None if it waits for something outside
    failures: int = 0
    in_a_row: int = 0
    alive_at: float = field(default_factory=time.monotonic)

    @property
    def trouble(self) -> str:
        """Says what is wrong with it; nothing while it is well."""
        if self.in_a_row >= IN_A_ROW:
            return f"the loop {self} has failed {self.in_a_row} times in a row"
        silent = time.monotonic() - self.alive_at
        if self.within is not None and silent > self.within:
            return f"the loop {self} has not come round for {silent:.0f} seconds"
        return ""

    def __str__(self) -> str:
        """Names it."""
        return f"{self.name} {self.backend}".strip()


_running: ContextVar[Loop | None] = ContextVar("running", default=None)


def is_alive() -> None:
    """Says of the loop that calls this that it is getting on."""
    if (loop := _running.get()) is not None:
        loop.alive_at = time.monotonic()


def came_round() -> None:
    """Says of the loop that calls this that it has done a whole round."""
    if (loop := _running.get()) is not None:
        loop.alive_at = time.monotonic()
        loop.in_a_row = 0


class Loops:
    """All loops of one gateway. `failed` is called with the loop whenever one has failed."""

    def __init__(self, failed: Callable[[Loop], None] = lambda _loop: None) -> None:
        self._failed = failed
        self._loops: list[Loop] = []

    def __iter__(self) -> Iterator[Loop]:
        """Returns those that run, or are to run."""
        return iter(list(self._loops))

    def keep(
        self,
        stack: AsyncExitStack,
        name: str,
        run: Callable[[], Awaitable[None]],
        *,
        backend: str = "",
        within: float | None = None,
    ) -> None:
        """Runs a loop until it returns or the stack is closed, again whenever it fails."""
        loop = Loop(name=name, backend=backend, within=within)
        self._loops.append(loop)
        task = asyncio.create_task(self._keep(loop, run), name=str(loop))

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])

        stack.push_async_callback(stop)

    async def _keep(self, loop: Loop, run: Callable[[], Awaitable[None]]) -> None:
        _running.set(loop)
        task = asyncio.current_task()
        assert task is not None
        try:
            while True:
                try:
                    await run()
                except Exception as error:  # noqa: BLE001 -- rule 1
                    self._note(loop, error)
                except asyncio.CancelledError as error:
                    if task.cancelling():
                        raise
                    self._note(loop, error)  # something that it waited for was cancelled: that is no reason to end
                else:
                    return
                await asyncio.sleep(min(RESTART_PAUSE * 2 ** (loop.in_a_row - 1), LONGEST_PAUSE))
        finally:
            self._loops.remove(loop)

    def _note(self, loop: Loop, error: BaseException) -> None:
        loop.failures += 1
        loop.in_a_row += 1
        loop.alive_at = time.monotonic()
        log.error("loop_failed", loop=str(loop), in_a_row=loop.in_a_row, exc_info=error)
        self._failed(loop)
