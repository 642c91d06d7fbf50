"""Calls of one tenant leave the event loop to those of others, and finish all the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.tenants import loop_time
from gateway.tenants.loop_time import BESIDE, BURST, SEND, SHARE, LoopTime, Sends, at_once, in_parts
from tests.fakes import settled

if TYPE_CHECKING:
    from collections.abc import Callable

LONG = 4 * BURST  # seconds of a step: far more than may be had at once


class _Ticks:
    """A clock that goes on by hand only."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> _Ticks:
    """Returns the clock by which time is counted."""
    made = _Ticks()
    monkeypatch.setattr(loop_time, "monotonic", made)
    return made


class _Work:
    """Calls whose steps take `LONG` each."""

    def __init__(self, ticks: _Ticks) -> None:
        self.turns = LoopTime()
        self.done: list[str] = []
        self._ticks = ticks

    def call(self, tenant: str, steps: int = 1, *, takes: float = LONG) -> asyncio.Task[str]:
        """Begins one."""

        async def body() -> str:
            await self.turns.begin(tenant)
            for _ in range(steps):
                self._ticks.now += takes
                self.done.append(tenant)
                await asyncio.sleep(0)
            return tenant

        async def carried_out() -> str:
            return await self.turns.steps(body())

        return asyncio.create_task(carried_out())

    async def until(self, happened: Callable[[], bool]) -> None:
        """Lets time pass until something has happened."""
        while not happened():
            self._ticks.now += 0.01
            await asyncio.sleep(0.001)


async def test_b5_beside_others_steps_beyond_the_share_wait(ticks: _Ticks) -> None:
    """Another tenant's go at once meanwhile; those that wait have the share of the time, and finish."""
    work = _Work(ticks)
    await work.call("quiet", takes=0.0)
    loud = [work.call("loud", 2) for _ in range(5)]
    await settled()
    before = [*work.done]
    quiet = work.call("quiet", takes=0.0)
    await settled()
    meanwhile = [*work.done]
    began, had = ticks.now, before.count("loud")
    await work.until(lambda: quiet.done() and all(each.done() for each in loud))
    lasted = ticks.now - began

    assert ["quiet", "loud"] == before[:2]
    assert (len(before), "quiet") == (had + 1, meanwhile[-1])
    assert had < 10 == work.done.count("loud")
    assert (10 - had - 2) * LONG / SHARE <= lasted


async def test_b7_refusals_are_as_the_calls_of_one_tenant(ticks: _Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait beside others. Beyond some of them none does: what waits takes memory."""
    monkeypatch.setattr(loop_time, "REFUSED", 3)
    work = _Work(ticks)
    await work.call("quiet", takes=0.0)
    work.turns.account_of("").charge(LONG)
    calls = [asyncio.create_task(work.turns.refuse()) for _ in range(5)]
    await settled()
    gone_on = [each.done() for each in calls]
    await work.until(lambda: all(each.done() for each in calls))

    assert [False, False, False, True, True] == gone_on


async def test_b7_a_call_that_has_had_its_turn_never_waits_also_after_it_was_at_once(ticks: _Ticks) -> None:
    """A probe, for example: its method has the turns, and what was begun of it is answered."""
    work = _Work(ticks)
    await work.call("quiet", takes=0.0)
    account = work.turns.account_of("/Check")

    async def body() -> None:
        with at_once():
            await asyncio.sleep(0)
        ticks.now += LONG
        await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await work.turns.steps(body(), account)

    assert account.wait_seconds(ticks.now) > 0


async def test_a_tenant_that_nobody_is_beside_never_waits(ticks: _Ticks) -> None:
    """Neither at first nor once the others have been gone for a while."""
    work = _Work(ticks)
    await asyncio.gather(*(work.call("loud", 3) for _ in range(3)))
    await work.call("quiet", takes=0.0)
    ticks.now += 2 * BESIDE
    began = ticks.now
    await asyncio.gather(*(work.call("loud", 3) for _ in range(3)))

    assert ticks.now - began == pytest.approx(9 * LONG)


async def test_a_call_that_waits_can_be_taken_back(ticks: _Ticks) -> None:
    """Those behind it have its turn."""
    work = _Work(ticks)
    await work.call("quiet", takes=0.0)
    first, taken_back, last = (work.call("loud", 2) for _ in range(3))
    await settled()
    taken_back.cancel()
    await work.until(lambda: first.done() and last.done() and taken_back.done())

    assert (taken_back.cancelled(), work.done.count("loud")) == (True, 4)


async def test_a_call_returns_and_raises_what_it_does() -> None:
    """As it would without its turns, also what is thrown at it."""
    turns = LoopTime()

    async def failing() -> None:
        await asyncio.sleep(0)
        raise KeyError("why")

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "told"
        return ""

    async def carried_out() -> str:
        return await turns.steps(stubborn())

    with pytest.raises(KeyError, match="why"):
        await turns.steps(failing())
    task = asyncio.create_task(carried_out())
    await settled()
    task.cancel()

    assert await task == "told"


async def test_b3_once_the_gateway_drains_nothing_waits(ticks: _Ticks) -> None:
    """What waits goes on, and what comes does not wait."""
    work = _Work(ticks)
    await work.call("quiet", takes=0.0)
    loud = [work.call("loud", 2) for _ in range(5)]
    await settled()
    work.turns.open()
    await asyncio.gather(*loud, work.call("loud", 2))

    assert work.done.count("loud") == 12


async def test_tenants_that_have_gone_are_forgotten(ticks: _Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have had more than their share are remembered until that is made up for."""
    monkeypatch.setattr(loop_time, "REMEMBERED", 5)
    work = _Work(ticks)
    await work.call("loud")
    for number in range(50):
        await work.call(f"t{number}", takes=0.0)

    assert "loud" in work.turns._accounts
    assert len(work.turns._accounts) <= 10


async def test_b5_beside_others_the_sends_of_a_tenant_are_bounded(ticks: _Ticks) -> None:
    """One after the other again as time passes; whoever is alone has no bound."""
    work = _Work(ticks)
    sends = Sends(work.turns)
    await work.call("loud", takes=0.0)
    sends.begin("loud")
    alone = sends.limits()
    await work.call("quiet", takes=0.0)
    at_first = sends.limits()["loud"]
    for _ in range(at_first):
        sends.begin("loud")
    over, wait = sends.limits(), sends.until_more()
    ticks.now += wait + SEND / SHARE / 2
    then = sends.limits()
    ticks.now += 0.9

    assert ({}, {"loud": 0}) == (alone, over)
    assert 0 < at_first <= BURST / SEND
    assert {"loud": 1} == then
    assert {} == sends.limits()


async def test_long_work_is_done_in_parts(ticks: _Ticks) -> None:
    """Whoever goes through many things gives others a turn now and then, and leaves none out."""
    turns: list[int] = []

    async def other() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    got = []
    async for each in in_parts(range(100)):
        ticks.now += 0.0004
        got.append(each)
    beside.cancel()

    assert got == [*range(100)]
    assert 30 <= len(turns) <= 40
