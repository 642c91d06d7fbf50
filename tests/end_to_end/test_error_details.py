"""What a person sees of an error with a real grpcurl: its details, decoded, without a file on the client's side."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.end_to_end.processes import SEED_FLOW
from tests.fuzz.grpcurl import program

if TYPE_CHECKING:
    from tests.end_to_end.processes import GatewayProcess

DETAILS = "type.googleapis.com/google.rpc."


async def refusal(gateway: GatewayProcess, rpc: str, request: Any) -> dict[str, Any]:
    """Calls what is refused, with reflection only; returns the status as grpcurl prints it."""
    called = await asyncio.create_subprocess_exec(
        *(program(), "-plaintext", "-format-error", "-d", json.dumps(request)),
        *(gateway.address, f"startflow.v1.StartFlowService/{rpc}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await called.communicate()
    return json.loads(said)


@pytest.mark.parametrize(
    ("rpc", "request_", "expected"),
    [
        (
            "StartFlow",
            {"flow": SEED_FLOW, "urns": ["tel:1", "x"]},
            {
                "ErrorInfo": {"reason": "VALIDATION_FAILED", "domain": "startflow.v1"},
                "BadRequest": {"urns[1]"},
            },
        ),
        (
            "GetFlowStart",
            {"id": "never"},
            {
                "ErrorInfo": {"reason": "FLOW_START_NOT_FOUND", "domain": "startflow.v1", "metadata": {"id": "never"}},
                "ResourceInfo": {"resource_type": "startflow.v1.FlowStart", "resource_name": "never"},
            },
        ),
    ],
    ids=["StartFlow", "GetFlowStart"],
)
async def test_grpcurl_prints_the_details_decoded(
    gateway: GatewayProcess, rpc: str, request_: Any, expected: dict[str, Any]
) -> None:
    """As JSON, by the names of their fields; none is a blob."""
    status = await refusal(gateway, rpc, request_)
    told = {detail.pop("@type").removeprefix(DETAILS): detail for detail in status["details"]}
    if "BadRequest" in told:
        told["BadRequest"] = {violation["field"] for violation in told["BadRequest"]["field_violations"]}
        del told["ErrorInfo"]["metadata"]

    assert expected == told
