"""Copied while it serves, killed later and restored, the gateway sends nothing twice and loses nothing of the copy."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING

from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import ROOT, SEED_FLOW, STUDIO_FLOW, Client, GatewayProcess, SandboxProcess

if TYPE_CHECKING:
    from pathlib import Path

EACH = 12  # starts of each kind: enough for some to be sent, some being sent and many waiting when the copy is made
MANY = 230  # recipients of one start: blocks that are not written out when the copy is made


async def startflow(*words: str | Path) -> str:
    """Runs a command; returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *map(str, words), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    said = (await process.stdout.read()).decode()
    assert 0 == await process.wait(), said
    return said


async def test_a_restored_store_sends_nothing_twice(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """Of what was unsent in the copy, most is sent before the kill and some never was; each is carried out once."""
    for backend in ("rapidpro", "twilio"):
        await sandbox.fault(backend=backend, verb="create", delay=0.1)
    slow = 'quiet_window = "1s"\nin_flight = 4'
    gateway = GatewayProcess(tmp_path, sandbox, settings=slow)
    copy = tmp_path / "copy.db"
    async with gateway, Client(gateway.address) as client:
        urns = [f"tel:+1206{n:07}" for n in range(MANY)]
        many = await client.start(flow=STUDIO_FLOW, urns=urns, request_id="many")
        ids = [many.flow_start.id]
        for n in range(EACH):
            for flow in (SEED_FLOW, STUDIO_FLOW):
                made = await client.start(flow=flow, urns=[f"tel:+1800{n:07}"], request_id=f"{flow}-{n}")
                ids.append(made.flow_start.id)
        before = len(await sandbox.journal(kind="created"))
        said = await startflow("backup", copy, "--store", gateway.store)
        while len(await sandbox.journal(kind="created")) < before + 100:  # noqa: ASYNC110 -- another process writes it
            await asyncio.sleep(0.05)
        await gateway.kill()
        at_kill = len(await sandbox.journal(kind="created"))
        told = await startflow("restore", copy, "--store", gateway.store, "--yes")
        await gateway.start()
        async with asyncio.timeout(60):
            ended = await client.finished(*ids)
        assert 0 == await gateway.stop()

    keys = Counter(entry["params"]["startflow_id"] for entry in await sandbox.journal(kind="created"))
    print(f"\n{said}{told}{before} carried out before the copy, {at_kill} before the kill, {len(keys)} in the end,"
          f" {sum(count > 1 for count in keys.values())} twice")  # fmt: skip
    assert before < at_kill < MANY + 2 * EACH, "the kill came too early or too late to tell anything"
    assert {1} == set(keys.values()), "something was sent twice"
    expected = {f"{many.flow_start.id}-{n}" for n in range(1, MANY + 1)} | {f"{each}-1" for each in ids[1:]}
    assert expected == set(keys), "something was lost"
    assert {pb.FlowStart.STATE_COMPLETED} == {start.state for start in ended}
    assert "unsent requests" in told
    assert gateway.store.with_name("startflow.db.before-restore").exists()
    assert gateway.bugs() == []
