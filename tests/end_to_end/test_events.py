"""Twilio tells by itself what moved: the sandbox posts to a real gateway whose sweeps can read nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.sandbox import SANDBOX_TWILIO_SHARED_KEY, Sandbox, SandboxSettings
from tests.end_to_end.processes import STUDIO_FLOW, Client, GatewayProcess, SandboxProcess, free_port
from tests.lengths import some

if TYPE_CHECKING:
    from pathlib import Path

EITHER = (False, True)
PATIENCE = 90.0  # seconds; far more than it takes, and far less than until the second sweep


class Told(GatewayProcess):
    """A gateway that listens for events at a known port, and that hardly sweeps."""

    http_port: int

    @property
    def environment(self) -> dict[str, str]:
        """What its configuration takes from the environment."""
        here = {"STARTFLOW_HTTP_LISTEN": f"127.0.0.1:{self.http_port}"}
        twilio = {"SWEEP_INTERVAL": "1h", "SHARED_KEY": SANDBOX_TWILIO_SHARED_KEY}
        chosen = {f"STARTFLOW_BACKENDS__TWILIO__{name}": value for name, value in twilio.items()}
        return {**super().environment, **here, **chosen}


async def follow(folder: Path, simulated: Sandbox, port: int, count: int = 1) -> list[list[str]]:
    """Starts so many through a gateway; returns the states that each was seen in, the last being COMPLETED."""
    simulated.faults.add({"backend": "twilio", "verb": "list", "commit": False, "answer": {"status": 500}})
    urls = {"rapidpro": simulated.rapidpro_url, "twilio": simulated.twilio_url}
    gateway = Told(folder, SandboxProcess(folder, urls=urls))
    gateway.http_port = port
    states: dict[str, list[str]] = {}
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        await stack.enter_async_context(gateway)
        client = await stack.enter_async_context(Client(gateway.address))
        for number in range(count):
            urn = f"tel:+1206555{number:04}"
            response = await client.stub.StartFlow(pb.StartFlowRequest(flow=STUDIO_FLOW, urns=[urn]), timeout=PATIENCE)
            states[response.flow_start.id] = []
        async for message in client.watch(ids=list(states), until_done=True):
            if message.HasField("changed"):
                states[message.changed.id].append(pb.FlowStart.State.Name(message.changed.state))
    assert [] == gateway.bugs()
    assert "push_" not in gateway.log.read_text()
    return list(states.values())


def settings(port: int, **different: Any) -> SandboxSettings:
    """Posts to the gateway that will listen on this port."""
    return SandboxSettings(twilio_events_url=f"http://127.0.0.1:{port}/events/twilio/twilio", seed=1, **different)


def tries(simulated: Sandbox) -> list[tuple[str, int | None]]:
    """Returns the type of each event that was posted, in order, and how that was answered."""
    entries = simulated.journal.entries(kind="event")
    return [(entry["type"].rpartition(".")[2], entry["status"]) for entry in entries]


@pytest.mark.parametrize("duplicate", some(EITHER, EITHER[1]))
@pytest.mark.parametrize("reverse", [False, True])
async def test_events_alone_end_a_start(tmp_path: Path, *, duplicate: bool, reverse: bool) -> None:
    """Told once or twice, in order or the wrong way round: each start is seen to end, and nothing goes back."""
    port = free_port()
    async with Sandbox(settings(port, duration=timedelta(seconds=0.5))) as simulated:
        simulated.events.ways.update(duplicate=duplicate, reverse=reverse)
        states = await follow(tmp_path, simulated, port, count=3)
        told = tries(simulated)

    assert [("STATE_COMPLETED", 1)] * 3 == [(each[-1], each.count("STATE_COMPLETED")) for each in states]
    assert {204} == {status for _, status in told} - {None}  # the gateway may have stopped before the last
    assert ("ended" if reverse else "started") == told[0][0]


@pytest.mark.parametrize("shared_key", some(EITHER, EITHER[1]))
async def test_events_to_a_url_with_user_and_password(tmp_path: Path, *, shared_key: bool) -> None:
    """Are believed, signed by the auth token or by a SharedKey, and end a start."""
    port = free_port()
    chosen = settings(port, duration=timedelta(seconds=0.5))
    assert chosen.twilio_events_url is not None
    url = chosen.twilio_events_url.replace("://", "://name:pa55word@")
    async with Sandbox(replace(chosen, twilio_events_url=url)) as simulated:
        simulated.events.ways.update(shared_key=shared_key)
        (states,) = await follow(tmp_path, simulated, port)
        told = tries(simulated)

    assert "STATE_COMPLETED" == states[-1]
    assert {204} == {status for _, status in told} - {None}


async def test_an_end_before_the_answer(tmp_path: Path) -> None:
    """The event arrives while Twilio is still answering the request that began it."""
    port = free_port()
    async with Sandbox(settings(port, duration=timedelta(seconds=0.1))) as simulated:
        simulated.faults.add({"backend": "twilio", "verb": "create", "delay": 1.0})
        (states,) = await follow(tmp_path, simulated, port)
        told = tries(simulated)
        entries = list(simulated.journal.entries())
        (answered,) = [entry["n"] for entry in entries if entry["kind"] == "answer" and entry["status"] == 201]
        ended = [entry["n"] for entry in entries if entry["kind"] == "event" and entry["type"].endswith("ended")]

    assert "STATE_COMPLETED" == states[-1]
    assert [("started", 204), ("ended", 204)] == told
    assert ended[0] < answered
