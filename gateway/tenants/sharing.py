"""Has the reads of one tenant wait for each other, so that the event loop has time for everybody else's calls.

Rules:

1. A tenant has a few reads answered at once. Its next ones wait, the oldest first; no other tenant's does.
2. While some wait and the store writes, a read that ends is followed by a pause. The interpreter has one lock, and the
   thread that writes needs it for every statement: a loop that always has something to do leaves it little.
3. A `turn` is followed by a rest of the same length while others of the tenant wait: it takes half of the time at most.
4. The queue is bounded, unless what waits has a limit of its own. A caller that asks for more gets an error and a time
   to come back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from gateway.errors import Exhausted, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

AT_ONCE = 4
PAUSE = 0.002  # seconds
WAITING = 500  # reads that one tenant may have waiting
COME_BACK = timedelta(seconds=1)


class Sharing:
    """Counts the reads of each tenant that are being answered, and queues the others."""

    def __init__(
        self,
        is_writing: Callable[[], bool] = lambda: False,
        *,
        at_once: int = AT_ONCE,
        pause: float = PAUSE,
        waiting: int | None = WAITING,
    ) -> None:
        self._is_writing = is_writing
        self._at_once = at_once
        self._pause = pause
        self._most = waiting
        self._going: dict[str, int] = {}  # also those whose turn comes after a pause
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def enter(self, tenant: str) -> None:
        """Waits for the turn of one read, which must `leave` when it has ended; raises `Exhausted` if too many wait."""
        going = self._going.get(tenant, 0)
        if going < self._at_once:
            self._going[tenant] = going + 1
            return
        queue = self._waiting.setdefault(tenant, deque())
        if self._most is not None and len(queue) >= self._most:
            raise too_many(self._most)
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was its turn at the same moment
                self.leave(tenant)
            raise

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Waits for the turn of one read, and ends it. While others wait, a rest follows, as long as it took."""
        await self.enter(tenant)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            self.leave(tenant, rest=loop.time() - began)

    def leave(self, tenant: str, *, rest: float = 0.0) -> None:
        """Ends a read, and begins the next one that waits, after a rest of so many seconds at least."""
        rest = max(rest, self._pause if self._is_writing() else 0.0)
        if tenant not in self._waiting:
            self._free(tenant)
        elif rest:
            asyncio.get_running_loop().call_later(rest, self._next, tenant)
        else:
            self._next(tenant)

    def _next(self, tenant: str) -> None:
        queue = self._waiting.get(tenant)
        while queue:
            turn = queue.popleft()
            if not queue:
                del self._waiting[tenant]
            if not turn.done():
                turn.set_result(None)
                return
        self._free(tenant)

    def _free(self, tenant: str) -> None:
        self._going[tenant] -= 1
        if not self._going[tenant]:
            del self._going[tenant]


def too_many(most: int) -> Exhausted:
    """Builds the error for a tenant that has too many reads waiting."""
    return Exhausted(
        reason=Reason.READ_LIMIT,
        message=f"Too many reads of this tenant wait already: {most:,} is the limit. Wait for answers before asking for"
        " more; ask for larger pages, or watch.",
        metadata={"quota_subject": "reads", "limit": str(most)},
        retry_after=COME_BACK,
    )
