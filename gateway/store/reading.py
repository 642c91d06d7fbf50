"""Runs reads on a few threads, and has whoever asks take turns.

Rules:

1. Who asks has a queue, and one read at a time: however much one asks for, the next one's turn comes after it.
2. A queue is bounded. Who asks for more is told to come back.
3. A read that nobody waits for any more is not begun, and one that has begun is interrupted.
4. What the gateway reads for itself has threads of its own, and so has what is short: neither waits behind a scan.
5. Short reads of one asker are handed over a few at a time: to wake a thread costs more than each of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.store.engine import Room
from gateway.tenants.loop_time import account
from gateway.tenants.sharing import WAITING, too_many

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.store.connection import Connection

T = TypeVar("T")

SCANNERS = 1  # threads for what callers list: each more would hold up everything else, for there is one interpreter
POINTERS = 1  # threads for what callers read by an id
TOGETHER = 4  # short reads of one caller that a thread takes at once: it takes longer to wake than to read
OWN = 2  # threads for what the gateway reads for itself: a sweep does not hold up watchers


class _Read:
    """A read that somebody waits for."""

    __slots__ = ("asker", "began", "future", "is_over", "took", "what", "whose")

    def __init__(self, asker: str, run: Callable[[Connection], Any], future: asyncio.Future[Any]) -> None:
        self.asker = asker
        self.what = run
        self.future = future
        self.is_over = False  # its caller has gone
        self.began = 0.0
        self.took = 0.0  # seconds of the thread
        self.whose = account()

    def carry_out(self, conn: Connection) -> Any:  # noqa: ANN401 -- whatever is read
        """Reads, on the thread of the connection, for as long as the caller is there."""
        conn.until(lambda: self.is_over)
        began = time.thread_time()
        try:
            return self.what(conn)
        finally:
            self.took = time.thread_time() - began
            conn.until(None)


class Readers:
    """Some threads, each with a connection, and the queues in front of them. Used from the event loop it is made on."""

    def __init__(
        self,
        name: str,
        threads: int,
        within: Callable[[Callable[[Connection], Any]], Any],
        *,
        waiting: int | None = WAITING,
        together: int = 1,
    ) -> None:
        self._within = within  # runs a function with the connection of the thread that it is called on
        self._most = waiting
        self._together = together  # reads of one asker that take one turn
        self._free = self.threads = threads
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._queues: dict[str, deque[_Read]] = {}  # of askers that have something waiting or running
        self._ready: dict[str, None] = {}  # askers that have something waiting and nothing running, the next one first
        self._running: set[_Read] = set()

    async def read(self, asker: str, run: Callable[[Connection], T]) -> T:
        """Reads when it is the asker's turn. Raises `Exhausted` if too much of it waits."""
        queue = self._queues.get(asker)
        if queue is None:
            queue = self._queues[asker] = deque()
            self._ready[asker] = None
        elif self._most is not None and len(queue) >= self._most:
            raise too_many(self._most)
        read = _Read(asker, run, self._loop.create_future())
        queue.append(read)
        self._begin()
        try:
            result: T = await read.future
        except asyncio.CancelledError:
            read.is_over = True
            raise
        return result

    def busy_seconds(self) -> float:
        """Returns for how long the read has been running that has been running longest."""
        return max((time.monotonic() - read.began for read in self._running), default=0.0)

    def close(self, why: Exception) -> None:
        """Waits for what is running, and ends the threads; whatever else waits fails."""
        for queue in self._queues.values():
            for read in queue:
                if not read.future.done():
                    read.future.set_exception(why)
            queue.clear()
        self._ready.clear()
        self._threads.shutdown()

    def _begin(self) -> None:
        """Hands the next reads to the threads that are free."""
        while self._free and self._ready:
            asker = next(iter(self._ready))
            del self._ready[asker]
            queue = self._queues[asker]
            turn: list[_Read] = []
            while queue and len(turn) < self._together:
                read = queue.popleft()
                if not read.is_over:
                    turn.append(read)
            if not turn:
                del self._queues[asker]
                continue
            now = time.monotonic()
            for read in turn:
                read.began = now
            self._free -= 1
            self._running.update(turn)
            self._threads.submit(self._carry_out, turn)

    def _carry_out(self, turn: list[_Read]) -> None:
        outcomes = [self._outcome(read) for read in turn]
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended, turn, outcomes)

    def _outcome(self, read: _Read) -> tuple[Any, BaseException | None]:
        try:
            return self._within(read.carry_out), None
        except BaseException as error:  # noqa: BLE001 -- the caller gets it; the thread goes on
            return None, error

    def _ended(self, turn: list[_Read], outcomes: list[tuple[Any, BaseException | None]]) -> None:
        self._free += 1
        self._running.difference_update(turn)
        asker = turn[0].asker
        if self._queues[asker]:
            self._ready[asker] = None  # behind the others
        else:
            del self._queues[asker]
        for read, (result, failure) in zip(turn, outcomes, strict=True):
            if read.whose is not None:
                read.whose.charge(read.took)
            if read.future.done():
                continue
            if failure is None:
                read.future.set_result(result)
            else:
                read.future.set_exception(failure)
        self._begin()


def rooms(within: Callable[[Callable[[Connection], Any]], Any]) -> Mapping[Room, Readers]:
    """Makes the threads of every room; `within` runs a function with the connection of the thread it is called on."""
    return {
        Room.SCAN: Readers("store-scan", SCANNERS, within),
        Room.POINT: Readers("store-point", POINTERS, within, together=TOGETHER),
        Room.STREAM: Readers("store-stream", SCANNERS, within, waiting=None),  # watchers have a limit of their own
        Room.OWN: Readers("store-own", OWN, within, waiting=None),
    }
