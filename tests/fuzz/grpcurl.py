"""Random JSON through a real grpcurl."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from google.protobuf import json_format
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.doors.grpc.interceptors import SERVICE
from gateway.wire.status import DOMAIN
from tests.fuzz.judge import NEVER
from tests.fuzz.messages import METHODS

if TYPE_CHECKING:
    from tests.fuzz.judge import Answers
    from tests.fuzz.messages import Maker

OFFSET = 64  # what grpcurl adds to a status code to make its exit code
LEFT = ("WatchFlowStarts", "DEADLINE_EXCEEDED")
NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def program() -> str:
    """Finds the grpcurl of the development tools."""
    found = shutil.which("grpcurl", path=str(Path(sys.executable).parent))
    assert found, "grpcurl is not there: run make dev"
    return found


async def ask(maker: Maker, address: str, answers: Answers) -> None:
    """Asks once; what grpcurl itself refuses to send is counted as that."""
    rpc = maker.random.choice(list(METHODS))
    text = maker.json(rpc)
    asking = await asyncio.create_subprocess_exec(
        *(
            program(),
            "-plaintext",
            "-max-time",
            "1" if rpc == "WatchFlowStarts" else "30",
            "-H",
            "authorization: Bearer token-a",
            "-d",
            "@",
        ),
        *(address, f"{SERVICE.full_name}/{rpc}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = (each.decode(errors="replace") for each in await asking.communicate(text.encode()))
    code = NAMES.get((asking.returncode or 0) - OFFSET, "OK" if asking.returncode == 0 else "not sent")
    answers.json[code] += 1
    if code in NEVER:
        answers.violate(f"grpcurl {rpc} {text[:300]}: {complained[:500]}")
    elif code not in ("OK", "not sent") and DOMAIN not in complained and (rpc, code) != LEFT:
        answers.violate(f"grpcurl {rpc} {text[:300]}: {code} without our details: {complained[:500]}")
    if rpc == "StartFlow" and code == "OK":
        answer = json_format.Parse(said, pb.StartFlowResponse())
        if answer.flow_start.id and not answer.replayed:
            answers.accepted.add(answer.flow_start.id)
