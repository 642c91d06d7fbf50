"""Addresses that a backend may take: from a caller through the gateway to the backend, which judges them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import SEED_FLOW, STUDIO_FLOW, Client, GatewayProcess, SandboxProcess, SandboxThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SCOPED = "whatsapp:US.13491208655302741918"  # an id of WhatsApp's that only one business sees
SERVICE = "MG" + "b" * 32
NUMBER = "+18007654321"


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[SandboxProcess]:
    """Both simulated backends, whose starts end soon."""
    async with SandboxThread(tmp_path, duration=0.1) as running:
        yield running


@pytest.fixture
async def client(tmp_path: Path, sandbox: SandboxProcess) -> AsyncIterator[Client]:
    """A caller of a gateway to both."""
    gateway = GatewayProcess(tmp_path, sandbox)
    async with gateway, Client(gateway.address) as caller:
        yield caller
    assert [] == gateway.bugs()


async def sent(sandbox: SandboxProcess, backend: str) -> dict[str, dict[str, Any]]:
    """Reads what a backend has created, by the start's id."""
    created = await sandbox.journal(kind="created", backend=backend)
    made = {entry["params"]["startflow_id"].removesuffix("-1"): entry for entry in created}
    assert len(created) == len(made)
    return made


async def test_c8_rapidpro_is_sent_what_it_may_take(client: Client, sandbox: SandboxProcess) -> None:
    """Ids of WhatsApp's and of other channels: as they are, in one POST each."""
    urns = [SCOPED, "whatsapp:12065551212", "facebook:123456", "ext:agent/7"]
    ids = [(await client.start(flow=SEED_FLOW, urns=[urn])).flow_start.id for urn in urns]
    ended = await client.finished(*ids)
    made = await sent(sandbox, "rapidpro")

    assert [pb.FlowStart.STATE_COMPLETED] * len(urns) == [start.state for start in ended]
    assert [[urn] for urn in urns] == [made[each]["urns"] for each in ids]


TAKEN = [
    (SCOPED, "", SCOPED, f"whatsapp:{NUMBER}"),
    (SCOPED, SERVICE, SCOPED, SERVICE),
    ("whatsapp:+12065551212", SERVICE, "whatsapp:+12065551212", SERVICE),
    ("rcs:+12065551212", SERVICE, "rcs:+12065551212", SERVICE),
    ("rcs:+12065551212", "rcs:brand_agent", "rcs:+12065551212", "rcs:brand_agent"),
    ("messenger:123456", SERVICE, "messenger:123456", SERVICE),
    ("messenger:123456", "messenger:654321", "messenger:123456", "messenger:654321"),
    ("tel:+12065551212", SERVICE, "+12065551212", SERVICE),
]
"""A recipient, the start's sender, and what Twilio is sent as `To` and `From`."""


async def test_c8_twilio_is_sent_what_it_may_take(client: Client, sandbox: SandboxProcess) -> None:
    """On each channel, from its own sender or from a Messaging Service: `To` and `From` as Twilio writes them."""
    ids = []
    for urn, sender, _, _ in TAKEN:
        started = await client.start(flow=STUDIO_FLOW, urns=[urn], sender=sender)
        (ended,) = await client.finished(started.flow_start.id)  # another one for the same may not begin before
        assert (urn, sender, pb.FlowStart.STATE_COMPLETED) == (urn, sender, ended.state)
        ids.append(ended.id)
    made = await sent(sandbox, "twilio")

    assert TAKEN == [
        (urn, sender, made[each]["to"], made[each]["from"])
        for (urn, sender, _, _), each in zip(TAKEN, ids, strict=True)
    ]


async def test_c8_what_a_backend_refuses_is_reported_as_its_refusal(client: Client, sandbox: SandboxProcess) -> None:
    """With Twilio's own code, and schemes that RapidPro does not have: it is asked. At the place in the start."""
    refusal = {"status": 400, "body": {"code": 21211, "message": "Invalid 'To' Phone Number", "status": 400}}
    await sandbox.fault(backend="twilio", verb="create", commit=False, answer=refusal)
    refused = [(STUDIO_FLOW, urn, SERVICE) for urn in (SCOPED, "rcs:agent_x", "messenger:123456")]
    refused += [(SEED_FLOW, urn, "") for urn in ("rcs:+12065551212", "messenger:123456")]
    ids = [(await client.start(flow=flow, urns=[urn], sender=by)).flow_start.id for flow, urn, by in refused]
    ended = await client.finished(*ids)

    assert [(pb.FlowStart.STATE_FAILED, "ADDRESS_INVALID", "urns[0]")] * 5 == [
        (start.state, start.failure.reason, start.failure.metadata["fields"]) for start in ended
    ]
    assert [3, 2] == [len(await sandbox.creates(backend)) for backend in ("twilio", "rapidpro")]
    assert [] == await sandbox.journal(kind="created")
