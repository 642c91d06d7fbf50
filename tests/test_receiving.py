"""Messages that are slow are bounded, and none is taken for slow that only waited for the loop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from gateway.doors.grpc.receiving import AT_ONCE, LARGE, LARGE_AT_ONCE, Receiving
from gateway.tenants.loop_time import BURST, LoopTime
from tests.fakes import settled

SOON = 0.02  # seconds


class _Context:
    """A call whose message comes when it is told to."""

    def __init__(self) -> None:
        self._message: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.is_read = False  # or waited for

    async def read(self) -> bytes:
        """Waits for it."""
        self.is_read = True
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


async def test_b5_what_was_received_waits_for_its_turn_and_few_are_received_meanwhile() -> None:
    """Beside another tenant. What is done with large messages then holds nobody up for longer than one of them."""
    receiving, turns, taken = Receiving(), LoopTime(), 0
    contexts = [_Context() for _ in range(3 * AT_ONCE)]

    async def call(context: Any, tenant: str) -> None:
        nonlocal taken
        await turns.begin(tenant)
        await receiving.only_message(context, tenant)
        taken += 1
        time.sleep(BURST)  # noqa: ASYNC251 -- as checking a large one does

    async def carried_out(context: Any, tenant: str) -> None:
        await turns.steps(call(context, tenant))

    quiet = _Context()
    quiet.come()
    await carried_out(quiet, "quiet")
    calls = [asyncio.create_task(carried_out(context, "loud")) for context in contexts]
    await settled()
    waiting = [context for context in contexts if context.is_read]
    for context in contexts:
        context.come()
    before = taken
    await settled()
    for each in calls:
        each.cancel()
    await asyncio.wait(calls)

    assert AT_ONCE == len(waiting)
    assert taken - before <= 2


async def test_b5_few_work_on_large_messages_of_one_tenant_at_a_time() -> None:
    """What is read of one takes many times its bytes. Small ones, and those of others, go on meanwhile."""
    receiving, working, large, done = Receiving(), asyncio.Event(), bytes(LARGE), []

    async def call(data: bytes, tenant: str) -> None:
        async with receiving.working(data, tenant):
            done.append(tenant)
            await working.wait()

    calls = [asyncio.create_task(call(large, "loud")) for _ in range(LARGE_AT_ONCE + 3)]
    calls += [asyncio.create_task(call(b"small", "loud")), asyncio.create_task(call(large, "quiet"))]
    await settled()
    meanwhile = Counter(done)
    working.set()
    await asyncio.gather(*calls)

    assert {"loud": LARGE_AT_ONCE + 1, "quiet": 1} == meanwhile
    assert len(calls) == len(done)
