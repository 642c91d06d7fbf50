"""One tenant's reads wait for each other, and nobody else's for them."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import Exhausted
from gateway.tenants.sharing import Sharing
from tests.fakes import settled


async def _read(sharing: Sharing, tenant: str, begun: list[str], goes_on: asyncio.Event) -> None:
    await sharing.enter(tenant)
    begun.append(tenant)
    await goes_on.wait()
    sharing.leave(tenant)


async def test_b5_a_few_reads_of_a_tenant_are_answered_at_once() -> None:
    """Its others wait; another tenant's begin at once; all have their turn."""
    sharing, begun, goes_on = Sharing(at_once=2, pause=0.0), list[str](), asyncio.Event()
    loud = [asyncio.create_task(_read(sharing, "loud", begun, goes_on)) for _ in range(5)]
    await settled()
    quiet = asyncio.create_task(_read(sharing, "quiet", begun, goes_on))
    await settled()
    before = [*begun]
    goes_on.set()
    await asyncio.gather(*loud, quiet)

    assert ["loud", "loud", "quiet"] == before
    assert ["loud", "loud", "quiet", "loud", "loud", "loud"] == begun


async def test_b5_a_tenant_may_have_so_many_reads_waiting() -> None:
    """One more is refused with a time to come back; when those before have ended, it may read again."""
    sharing, begun, goes_on = Sharing(at_once=1, pause=0.0, waiting=1), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(_read(sharing, "loud", begun, goes_on)) for _ in range(2)]
    await settled()
    with pytest.raises(Exhausted) as refused:
        await sharing.enter("loud")
    goes_on.set()
    await asyncio.gather(*tasks)
    await sharing.enter("loud")

    assert ("READ_LIMIT", True) == (refused.value.reason, refused.value.retry_after is not None)


async def test_b5_while_the_store_writes_reads_pause() -> None:
    """Those that wait, between each and the next: the thread that writes has the interpreter meanwhile."""
    is_writing, loop = True, asyncio.get_running_loop()
    sharing, begun, goes_on = Sharing(lambda: is_writing, at_once=1, pause=3_600.0), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(_read(sharing, "loud", begun, goes_on)) for _ in range(3)]
    await settled()
    goes_on.set()
    await settled()
    paused = [*begun]
    is_writing = False
    loop.call_soon(sharing._next, "loud")  # as the pause ends
    await asyncio.gather(*tasks)

    assert ["loud"] == paused


async def test_a_read_that_is_given_up_keeps_no_place() -> None:
    """Neither while it waits, nor at the very moment of its turn."""
    sharing = Sharing(at_once=1)
    await sharing.enter("loud")
    waiting, called = (asyncio.create_task(sharing.enter("loud")) for _ in range(2))
    await settled()
    waiting.cancel()
    await settled()
    sharing.leave("loud")  # it is the turn of the other one
    called.cancel()
    await asyncio.wait([waiting, called])

    assert [True, True] == [waiting.cancelled(), called.cancelled()]
    assert {} == sharing._going


async def test_b5_after_a_turn_comes_a_rest_as_long_as_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others of the tenant wait; another tenant does not wait for it."""
    sharing, loop, rests = Sharing(at_once=1), asyncio.get_running_loop(), list[float]()
    async with asyncio.timeout(10):
        async with sharing.turn("loud"):
            began = loop.time()
            waiting = asyncio.create_task(sharing.enter("loud"))
            await settled()
            while loop.time() == began:  # a clock that has moved
                await settled()
            monkeypatch.setattr(loop, "call_later", lambda rest, *_: rests.append(rest))
        await sharing.enter("quiet")
        await settled()
        has_begun = waiting.done()
        sharing._next("loud")  # as the rest ends
        await waiting

    assert not has_begun
    assert [True] == [rest > 0 for rest in rests]
