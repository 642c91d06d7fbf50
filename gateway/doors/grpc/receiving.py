"""Receives the messages of calls, in bounded time and memory.

gRPC grants a message that is being received the room of all its bytes, once somebody waits for it. So:

1. Nobody waits for the message of a caller who is not known: gRPC takes no more than the first 64 KiB of it.
2. A message that is not there soon is slow. Of these there may be 16; one more ends the oldest of whoever has most.
3. A message that is not there in time ends its call.
4. Of one tenant's calls a few receive at a time, and hold what they have received until it is their turn. The others
   wait before they receive. Fewer still work on a large message: what is read of it takes many times its bytes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import nullcontext
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import grpc

from gateway.errors import Exhausted, InvalidRequest, Reason
from gateway.tenants.loop_time import account, at_once

if TYPE_CHECKING:
    from gateway.errors import GatewayError

LARGEST = 4 * 1024 * 1024  # bytes of a request; 10,000 recipients with all that they may have are 3 MB
LARGEST_READ = LARGEST * 3 // 2  # what gRPC takes, so that an error of ours says what to do about somewhat too much

COST = 3e-9  # seconds that a byte takes of the loop and of gRPC's threads
SOON = 0.1  # seconds: so long somebody may send as much as the network carries
WITHIN = 30.0  # seconds: 4 MiB at a megabit a second
PAUSE = timedelta(seconds=1)
MOST = 16  # slow messages: with what gRPC holds of each, 100 MB
AT_ONCE = 32  # calls of a tenant that receive, or have received and wait for their turn: twice as many as may be slow
LARGE = 64 * 1024  # bytes
LARGE_AT_ONCE = 4  # of a tenant


class Receiving:
    """Receives messages for one server."""

    def __init__(self, *, soon: float = SOON, within: float = WITHIN, most: int = MOST) -> None:
        self._soon = soon
        self._within = within
        self._most = most
        self._waiting: dict[_Wait, None] = {}  # who has waited longest comes first
        self._looks = False
        self._due = 0.0  # when it looks next
        self._rooms: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by tenant
        self._benches: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def message(self, context: grpc.aio.ServicerContext[Any, Any], whose: str) -> bytes | None:
        """Returns the next message of a call, or None if there is no more. `whose` names the tenant; "": nobody known.

        Raises `Exhausted` if it is too slow.
        """
        async with self._rooms.setdefault(whose, asyncio.Semaphore(AT_ONCE)) if whose else nullcontext():
            data = await self._read(context, whose)
            if data is grpc.aio.EOF:
                return None
            if (payer := account()) is not None:
                payer.charge(len(data) * COST)
                if payer.wait_seconds(monotonic()) > 0:
                    await asyncio.sleep(0)  # ends the step: what is to be done with it waits for its turn
            return data  # type: ignore[no-any-return]

    async def _read(self, context: grpc.aio.ServicerContext[Any, Any], whose: str) -> Any:  # noqa: ANN401 -- or EOF
        loop = asyncio.get_running_loop()
        wait = _Wait(whose, loop.time())
        self._waiting[wait] = None
        if not self._looks:
            self._looks = True
            self._look_soon(loop)
        try:
            with at_once():  # whoever has to wait for a turn is not slow
                return await context.read()
        except asyncio.CancelledError:
            if wait.ended is None:
                raise
            wait.task.uncancel()
            raise wait.ended from None
        finally:
            del self._waiting[wait]

    async def only_message(self, context: grpc.aio.ServicerContext[Any, Any], whose: str) -> bytes:
        """Returns the message of a call that has one.

        Raises `InvalidRequest` if it has none, and `Exhausted` if it is too large or too slow.
        """
        data = await self.message(context, whose)
        if data is None:
            raise InvalidRequest(message="The call brings no message. Send one; it may be empty.")
        if len(data) > LARGEST:
            raise _too_large(len(data))
        return data

    def working(self, data: bytes, whose: str) -> asyncio.Semaphore | nullcontext[None]:
        """Returns what a call has to enter while it works on its message: of large ones there is room for a few."""
        if len(data) < LARGE:
            return nullcontext()
        return self._benches.setdefault(whose, asyncio.Semaphore(LARGE_AT_ONCE))

    def _look(self) -> None:
        """Ends what is too slow, or too many. One timer for all: one each would cost more than a message."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._due > self._soon:  # the loop itself was held up, and what came meanwhile is not read yet
            self._look_soon(loop)
            return
        slow = [wait for wait in self._waiting if wait.ended is None and now - wait.since >= self._soon]
        late = [wait for wait in slow if now - wait.since >= self._within]
        for wait in late:
            wait.end(_too_slow(f"It did not arrive within {self._within:g} s."))
        slow = slow[len(late) :]
        whose = Counter(wait.whose for wait in slow)
        for _ in range(len(slow) - self._most):
            most = "" if whose[""] else max(whose, key=whose.__getitem__)  # first those whom nobody knows
            wait = next(each for each in slow if each.ended is None and each.whose == most)
            wait.end(_too_slow("Too many messages arrive slowly at once."))
            whose[most] -= 1
        self._looks = bool(self._waiting)
        if self._looks:
            self._look_soon(loop)

    def _look_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + self._soon
        loop.call_later(self._soon, self._look)


class _Wait:
    """Somebody who waits for a message."""

    __slots__ = ("ended", "since", "task", "whose")

    def __init__(self, whose: str, since: float) -> None:
        self.whose = whose
        self.since = since
        self.ended: GatewayError | None = None
        task = asyncio.current_task()
        assert task is not None
        self.task = task

    def end(self, error: GatewayError) -> None:
        """Has it raise an error instead."""
        self.ended = error
        self.task.cancel()


def _too_slow(why: str) -> GatewayError:
    return Exhausted(
        reason=Reason.MESSAGE_TOO_SLOW,
        message=f"The message of this call was not received: {why} Send it again, with the same request_id.",
        metadata={"quota_subject": "message", "limit": str(MOST)},
        retry_after=PAUSE,
    )


def _too_large(size: int) -> GatewayError:
    return Exhausted(
        reason=Reason.MESSAGE_TOO_LARGE,
        message=f"The request has {size:,} bytes; the most is {LARGEST:,}. Send less, or split it: sending it again"
        " does not help.",
        metadata={"quota_subject": "message", "limit": str(LARGEST)},
    )
