"""The sandbox's clock is that of another machine: setting this one's moves nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest

from gateway.sandbox import Sandbox
from gateway.sandbox import server as sandbox_server
from gateway.sandbox.clock import Clock
from tests.sandbox.conftest import Client

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.sandbox import SandboxSettings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass
class Machine:
    """A machine whose clock can be set."""

    wall: datetime = NOON
    seconds: float = 1000.0

    def passes(self, seconds: float) -> None:
        """Lets time go by."""
        self.wall += timedelta(seconds=seconds)
        self.seconds += seconds

    def clock(self) -> Clock:
        """Makes a clock that begins now."""
        return Clock(lambda: self.wall, lambda: self.seconds)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """What every sandbox of a test begins at."""
    machine = Machine()
    monkeypatch.setattr(sandbox_server, "Clock", machine.clock)
    return machine


async def statuses(client: Client) -> tuple[str, str]:
    """Asks both backends for the one start that each has."""
    rapidpro = (await client.rapidpro("GET", "flow_starts.json")).json["results"]
    twilio = (await client.twilio("GET", "Flows/" + "FW" + "a" * 32 + "/Executions")).json["executions"]
    return rapidpro[0]["status"], twilio[0]["status"]


async def test_d19_a_clock_put_back_an_hour_stops_no_start(
    settings: SandboxSettings, machine: Machine, tmp_path: Path
) -> None:
    """Starts end after their ten seconds, in the sandbox that ran then and in one that goes on from its journal."""
    chosen = replace(settings, journal=tmp_path / "journal")
    async with Sandbox(chosen) as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        await client.start()
        await client.execute()
        machine.wall -= HOUR
        machine.passes(11)

        assert ("completed", "ended") == await statuses(client)
        await client.start()
        await client.execute(to="+12065551213")
        before = (await client.rapidpro("GET", "flow_starts.json")).headers["Date"]
    machine.wall -= HOUR
    async with Sandbox(chosen) as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        assert before == (await client.rapidpro("GET", "flow_starts.json")).headers["Date"]
        machine.passes(11)

        assert ("completed", "ended") == await statuses(client)


def test_a_clock_begins_at_the_time_of_the_machine() -> None:
    """It never goes back to a moment that was there before, and forward only where it has to."""
    machine = Machine()
    clock = machine.clock()
    machine.passes(5)
    clock.not_before(NOON)
    assert NOON + timedelta(seconds=5) == clock()

    clock.not_before(NOON + HOUR)
    machine.passes(1)
    assert NOON + HOUR + timedelta(seconds=1) == clock()
