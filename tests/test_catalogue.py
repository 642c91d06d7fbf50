from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.adapters.base import Blocked, Flows, NotSent, Request, Throttled, Unsure
from gateway.errors import InvalidRequest, NotFound, Reason, Unavailable
from gateway.lanes import catalogue
from gateway.lanes.catalogue import FOUND_FOR, LISTED_FOR, REFUSED_FOR, REMEMBERED, UNTOLD_FOR, Catalogue
from gateway.lanes.pacing import HealthState, Limiter
from gateway.model import Cause, Flow, Notice
from tests.fakes import Script, ScriptedTransport, Ticks, backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.adapters.base import Exchange

GOOD, ARCHIVED = Flow(id="good", name="Good", startable=True), Flow(id="old", name="Old", startable=False)
BLOCKED = Blocked(notice=Notice(reason=Reason.BACKEND_CREDENTIALS_REJECTED, message="Correct the token."))


class Offering(Script):
    """An adapter whose answers about flows are what comes back over the wire."""

    def flows(self, flow: str = "") -> Exchange[Flows]:
        """Asks once."""
        answer: Any = yield Request(method="GET", path=f"/flows/{flow}", headers={})
        return answer


class World:
    """A catalogue whose backend answers as it is told to."""

    def __init__(self, answer: Callable[[Request], Awaitable[Any]] | None = None, rate: int = 1_000) -> None:
        self.ticks = Ticks()
        self.shown: dict[str, Flows] = {}
        self.transport = ScriptedTransport(
            answer or self._answer, ticks=self.ticks, limiter=Limiter(rate, 3600.0, clock=self.ticks)
        )
        self.catalogue = Catalogue(backend(self.transport, Offering()), self.ticks)

    async def _answer(self, request: Request) -> Flows:
        return self.shown[request.path.removeprefix("/flows/")]

    @property
    def asked(self) -> list[str]:
        """What the backend was asked for."""
        return [request.path.removeprefix("/flows/") for request in self.transport.requests]

    async def refusal(self, flow: str, seconds_left: float | None = None) -> str:
        """Returns why a flow cannot be started; empty if it can."""
        try:
            await self.catalogue.require(flow, seconds_left)
        except NotFound as error:
            return f"{error.reason} {error.metadata['flow']} {error.message}"
        return ""


async def silence(_request: Request) -> Any:
    """Never answers."""
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (Flows(flows=(GOOD,)), ""),
        (Flows(flows=(Flow(id="good", name="", startable=None),)), ""),
        (Flows(flows=(ARCHIVED,)), "archived"),
        (Flows(flows=()), "no such flow"),
        (Flows(flows=(), trouble=Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)), ""),
        (Flows(flows=(), trouble=NotSent(reason="refused")), ""),
        (Flows(flows=(), trouble=Throttled(seconds=3.0)), ""),
        (Flows(flows=(), trouble=BLOCKED), ""),
    ],
    ids=str,
)
async def test_only_the_backends_own_word_stops_a_start(shown: Flows, said: str) -> None:
    """Unknown and archived flows are refused; whatever leaves it open lets the start through."""
    world = World()
    world.shown["x"] = shown

    refusal = await world.refusal("x")
    assert said in refusal
    assert refusal.startswith("FLOW_NOT_FOUND x flow: ") if said else not refusal


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [
        (Flows(flows=(GOOD,)), FOUND_FOR),
        (Flows(flows=(ARCHIVED,)), REFUSED_FOR),
        (Flows(flows=()), REFUSED_FOR),
        (Flows(flows=(), trouble=Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)), UNTOLD_FOR),
    ],
    ids=str,
)
async def test_an_answer_is_remembered_for_a_while(shown: Flows, seconds: float) -> None:
    """A good one for minutes; a bad one for seconds, because somebody may be mending it."""
    world = World()
    world.shown["x"] = shown
    before = await world.refusal("x")
    world.ticks.tick(seconds - 0.1)
    assert before == await world.refusal("x")
    assert ["x"] == world.asked

    world.shown["x"] = Flows(flows=(GOOD,))
    world.ticks.tick(0.2)
    assert "" == await world.refusal("x")
    assert ["x", "x"] == world.asked


async def test_nobody_waits_longer_than_half_of_their_time() -> None:
    """A backend that says nothing delays a start by that much, and only the first."""
    world = World(silence)
    started = asyncio.get_running_loop().time()
    assert "" == await world.refusal("x", seconds_left=0.1)
    assert asyncio.get_running_loop().time() - started < 1.0

    assert "" == await world.refusal("x", seconds_left=0.0)


async def test_many_starts_of_a_flow_are_one_lookup() -> None:
    """Whoever comes while one is under way joins it, and it goes on though the first one leaves."""
    answered = asyncio.Event()

    async def later(_request: Request) -> Flows:
        await answered.wait()
        return Flows(flows=())

    world = World(later)
    leaving, staying = (asyncio.create_task(world.refusal("x", wait)) for wait in (0.02, None))
    assert "" == await leaving
    answered.set()

    assert "no such flow" in await staying
    assert ["x"] == world.asked


async def test_a_lane_that_waits_is_not_asked() -> None:
    """Nor is one whose share for look-ups, a tenth of its rate, is used up: sending has the rest."""
    world = World(rate=20)
    world.shown |= {name: Flows(flows=()) for name in "abc"}
    refusals = [bool(await world.refusal(name)) for name in "abc"]
    assert [True, True, False] == refusals

    world = World()
    world.shown["a"] = Flows(flows=())
    world.transport.circuit.throttled(30.0)
    assert "" == await world.refusal("a")
    assert [] == world.asked


@pytest.mark.parametrize(
    ("trouble", "state"),
    [
        (NotSent(reason="refused"), HealthState.UNREACHABLE),
        (Throttled(seconds=3.0), HealthState.THROTTLED),
        (BLOCKED, HealthState.UNKNOWN),
    ],
    ids=str,
)
async def test_trouble_is_told_to_the_circuit(trouble: Any, state: HealthState) -> None:
    """The whole lane waits; but a rejected credential is for a start to meet, which then carries the warning."""
    world = World()
    world.shown["x"] = Flows(flows=(), trouble=trouble)
    await world.refusal("x")

    assert state == world.transport.circuit.state


async def test_guesses_do_not_fill_the_memory() -> None:
    """The oldest findings make room."""
    world = World(rate=1_000_000)
    for n in range(REMEMBERED + 10):
        world.shown[str(n)] = Flows(flows=(GOOD,))
        await world.refusal(str(n))

    assert REMEMBERED == len(world.catalogue._findings)


async def test_flows_are_listed_once_a_minute() -> None:
    """What the list shows is also known to whoever starts one of them."""
    world = World()
    world.shown[""] = Flows(flows=(GOOD, ARCHIVED))
    for _ in range(2):
        assert (GOOD, ARCHIVED) == await world.catalogue.flows()
    assert "archived" in await world.refusal("old")
    assert "" == await world.refusal("good")
    assert [""] == world.asked

    world.ticks.tick(LISTED_FOR)
    await world.catalogue.flows()
    assert ["", ""] == world.asked


@pytest.mark.parametrize(
    ("trouble", "reason", "said"),
    [
        (Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR), Reason.BACKEND_UNAVAILABLE, "(HTTP 500)"),
        (NotSent(reason="connection refused"), Reason.BACKEND_UNAVAILABLE, "(connection refused)"),
        (Throttled(seconds=7.0), Reason.BACKEND_UNAVAILABLE, "asked to wait"),
        (BLOCKED, Reason.BACKEND_CREDENTIALS_REJECTED, "Correct the token."),
    ],
    ids=str,
)
async def test_a_list_that_cannot_be_read_says_why(trouble: Any, reason: Reason, said: str) -> None:
    """Part of a list is no list, and nothing of it is remembered as one."""
    world = World()
    world.shown[""] = Flows(flows=(GOOD,), trouble=trouble)
    with pytest.raises(Unavailable) as caught:
        await world.catalogue.flows()
    assert reason == caught.value.reason
    assert said in str(caught.value)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() >= 0.5

    world.shown[""] = Flows(flows=(GOOD,))
    assert (GOOD,) == await world.catalogue.flows()


async def test_a_list_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks next asks anew."""
    monkeypatch.setattr(catalogue, "LIST_WITHIN", 0.02)
    world = World(silence)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"no answer within 0\.02 s"):
            await world.catalogue.flows()
    assert ["", ""] == world.asked


async def test_a_kind_that_does_not_tell_its_flows_takes_every_start() -> None:
    """And says so to whoever wants a list."""
    world = World()
    silent = Catalogue(backend(world.transport, Script()), world.ticks)

    await silent.require("x", None)
    with pytest.raises(InvalidRequest, match="does not list its flows") as caught:
        await silent.flows()
    assert [Reason.UNSUPPORTED_BY_BACKEND] == [violation.reason for violation in caught.value.violations]
