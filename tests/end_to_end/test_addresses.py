"""Addresses that a backend may take: from a caller through the gateway to the backend, which judges them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import SEED_FLOW, STUDIO_FLOW, Client, GatewayProcess, SandboxProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SCOPED = "whatsapp:US.13491208655302741918"  # an id of WhatsApp's that only one business sees
SERVICE = "MG" + "b" * 32
NUMBER = "+18007654321"


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[SandboxProcess]:
    """Both simulated backends, whose starts end soon."""
    async with SandboxProcess(tmp_path, duration=0.1) as running:
        yield running


@pytest.fixture
async def client(tmp_path: Path, sandbox: SandboxProcess) -> AsyncIterator[Client]:
    """A caller of a gateway to both."""
    gateway = GatewayProcess(tmp_path, sandbox)
    async with gateway, Client(gateway.address) as caller:
        yield caller
    assert [] == gateway.bugs()


@pytest.mark.parametrize("urn", [SCOPED, "whatsapp:12065551212", "facebook:123456", "ext:agent/7"])
async def test_c8_rapidpro_is_sent_what_it_may_take(client: Client, sandbox: SandboxProcess, urn: str) -> None:
    """Ids of WhatsApp's and of other channels: as they are, in one POST."""
    started = await client.start(flow=SEED_FLOW, urns=[urn])
    (ended,) = await client.finished(started.flow_start.id)
    (made,) = await sandbox.journal(kind="created", backend="rapidpro")

    assert pb.FlowStart.STATE_COMPLETED == ended.state
    assert [urn] == made["urns"]


@pytest.mark.parametrize(
    ("urn", "sender", "to", "by"),
    [
        (SCOPED, "", SCOPED, f"whatsapp:{NUMBER}"),
        (SCOPED, SERVICE, SCOPED, SERVICE),
        ("whatsapp:+12065551212", SERVICE, "whatsapp:+12065551212", SERVICE),
        ("rcs:+12065551212", SERVICE, "rcs:+12065551212", SERVICE),
        ("rcs:+12065551212", "rcs:brand_agent", "rcs:+12065551212", "rcs:brand_agent"),
        ("messenger:123456", SERVICE, "messenger:123456", SERVICE),
        ("messenger:123456", "messenger:654321", "messenger:123456", "messenger:654321"),
        ("tel:+12065551212", SERVICE, "+12065551212", SERVICE),
    ],
)
async def test_c8_twilio_is_sent_what_it_may_take(
    client: Client, sandbox: SandboxProcess, urn: str, sender: str, to: str, by: str
) -> None:
    """On each channel, from its own sender or from a Messaging Service: `To` and `From` as Twilio writes them."""
    started = await client.start(flow=STUDIO_FLOW, urns=[urn], sender=sender)
    (ended,) = await client.finished(started.flow_start.id)
    (made,) = await sandbox.journal(kind="created", backend="twilio")

    assert pb.FlowStart.STATE_COMPLETED == ended.state
    assert (to, by) == (made["to"], made["from"])


@pytest.mark.parametrize("urn", [SCOPED, "rcs:agent_x", "messenger:123456"])
async def test_c8_what_twilio_refuses_is_reported_as_its_refusal(
    client: Client, sandbox: SandboxProcess, urn: str
) -> None:
    """With Twilio's own code, at the place in the start."""
    refusal = {"status": 400, "body": {"code": 21211, "message": "Invalid 'To' Phone Number", "status": 400}}
    await sandbox.fault(backend="twilio", verb="create", commit=False, answer=refusal)
    started = await client.start(flow=STUDIO_FLOW, urns=[urn], sender=SERVICE)
    (ended,) = await client.finished(started.flow_start.id)

    assert pb.FlowStart.STATE_FAILED == ended.state
    assert ("ADDRESS_INVALID", "urns[0]") == (ended.failure.reason, ended.failure.metadata["fields"])
    assert [] == await sandbox.journal(kind="created")


@pytest.mark.parametrize("urn", ["rcs:+12065551212", "messenger:123456"])
async def test_c8_what_rapidpro_refuses_is_reported_as_its_refusal(
    client: Client, sandbox: SandboxProcess, urn: str
) -> None:
    """Schemes that it does not have: it is asked, and its words are told, at the place in the start."""
    started = await client.start(flow=SEED_FLOW, urns=[urn])
    (ended,) = await client.finished(started.flow_start.id)

    assert pb.FlowStart.STATE_FAILED == ended.state
    assert ("ADDRESS_INVALID", "urns[0]") == (ended.failure.reason, ended.failure.metadata["fields"])
    assert 1 == len(await sandbox.creates("rapidpro"))
    assert [] == await sandbox.journal(kind="created")
