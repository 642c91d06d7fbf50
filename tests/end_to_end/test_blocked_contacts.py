"""Contacts who enter a flow and get no message: what the gateway can know of them, and what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf.json_format import ParseDict
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import SEED_FLOW, Client, GatewayProcess, SandboxThread

if TYPE_CHECKING:
    from pathlib import Path

URNS = ["tel:+12065551212", "tel:+12065551213"]


@pytest.mark.parametrize("generation", ["old", "new"])
async def test_blocked_contacts_whose_runs_complete_are_told_to_have_entered(tmp_path: Path, generation: str) -> None:
    """RapidPro starts blocked, stopped and archived contacts and completes their runs; no start tells of the messages.

    So the gateway promises no more than RapidPro does: they have entered. It neither fails them nor warns.
    """
    async with SandboxThread(tmp_path, duration=0.2) as sandbox:
        await sandbox.configure("rapidpro", generation=generation)
        gateway = GatewayProcess(tmp_path, sandbox)
        async with gateway, Client(gateway.address) as client:
            asked = ParseDict(
                {"flow": SEED_FLOW, "urns": URNS, "params": {"sandbox": "blocked"}}, pb.StartFlowRequest()
            )
            started = await client.stub.StartFlow(asked, timeout=10)
            (ended,) = await client.finished(started.flow_start.id)
            told = await client.stub.ListRecipients(pb.ListRecipientsRequest(id=ended.id), timeout=10)
        (made,) = await sandbox.journal(kind="created")

    assert URNS == made["undelivered"]
    assert pb.FlowStart.STATE_COMPLETED == ended.state
    assert pb.COMPLETION_MEANING_RECIPIENTS_ENTERED == ended.completion_meaning
    assert [] == [warning.reason for warning in ended.warnings]
    assert [pb.Recipient.STATE_COMPLETED] * 2 == [each.state for each in told.recipients]
    assert (2, 0) == (ended.progress.completed, ended.progress.failed)
    if generation == "new":
        assert (2, 2) == (ended.progress.contact_count, ended.progress.contact_started_count)
