"""What sending costs in requests to the backends, counted from the sandbox's journal: `python -m tests.chaos.cost`.

Times are a hundredth of RapidPro's defaults (quiet window 120 s, sweeps every 10 s), so the numbers of requests are
those of a gateway with its defaults.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import SEED_FLOW, STUDIO_FLOW, Client, GatewayProcess, SandboxProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FLOWS = {"rapidpro": SEED_FLOW, "twilio": STUDIO_FLOW}
MANY = 10_000
AT_ONCE = 100
SETTINGS = 'quiet_window = "1200ms"\nin_flight = 100'
FAULTS = {"found": "reset_after_commit", "absent, sent again": "reset_before_commit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """What it took beyond one POST each to settle dispatches whose answers never came."""

    sends: int
    posts: int
    lists: int
    contexts: int

    @property
    def each(self) -> float:
        """For one of them."""
        return (self.posts + self.lists + self.contexts) / self.sends


async def many(client: Client, sandbox: SandboxProcess, backend: str, count: int = MANY) -> int:
    """Sends a start of so many URNs, and returns how many POSTs that took."""
    urns, before = [f"tel:+1207{n:07}" for n in range(count)], len(await sandbox.creates(backend))
    answer = await client.start(flow=FLOWS[backend], urns=urns)
    (done,) = await client.finished(answer.flow_start.id)
    assert pb.FlowStart.STATE_COMPLETED == done.state
    return len(await sandbox.creates(backend)) - before


async def ambiguous(client: Client, sandbox: SandboxProcess, backend: str, label: str, count: int) -> Extra:
    """Makes all dispatches of a start ambiguous, and counts what it took until all of them ran."""
    before = max((entry["n"] for entry in await sandbox.journal()), default=0)
    await sandbox.fault(preset=FAULTS[label], backend=backend, times=count)
    recipients = count * {"rapidpro": 100, "twilio": 1}[backend]
    urns = [f"tel:+1206{before:05}{n:05}" for n in range(recipients)]  # nobody who is in an execution already
    answer = await client.start(flow=FLOWS[backend], urns=urns, params={"sandbox": "stick"})
    async for message in client.watch(ids=[answer.flow_start.id]):
        if message.changed.progress.started == recipients:
            break
    entries = await sandbox.journal(after=str(before), kind="request", backend=backend)
    counts = Counter((entry["method"], entry["path"].rpartition("/")[2]) for entry in entries)
    return Extra(
        sends=count,
        posts=counts["POST", "flow_starts.json"] + counts["POST", "Executions"] - count,
        lists=counts["GET", "flow_starts.json"] + counts["GET", "Executions"],
        contexts=counts["GET", "Context"],
    )


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Client, SandboxProcess]]:
    """Runs a sandbox and a gateway, and connects a client."""
    sandbox = SandboxProcess(folder)
    gateway = GatewayProcess(folder, sandbox, settings=SETTINGS)
    async with sandbox, gateway, Client(gateway.address) as client:
        yield client, sandbox


async def _measure(folder: Path) -> None:
    async with serving(folder) as (client, sandbox):
        for backend in FLOWS:
            for label in FAULTS:
                for count in (1, AT_ONCE):
                    extra = await ambiguous(client, sandbox, backend, label, count)
                    print(
                        f"{backend}, {label}, {count} at once: {extra.posts} more POSTs, {extra.lists} lists,"
                        f" {extra.contexts} contexts: {extra.each:.2f} extra requests per ambiguous send",
                        flush=True,
                    )
        for backend in FLOWS:
            posts = await many(client, sandbox, backend)
            print(f"{MANY:,} URNs on {backend}: {posts:,} POSTs", flush=True)
            assert posts == {"rapidpro": MANY // 100, "twilio": MANY}[backend]


def main() -> int:
    """Prints a line for each figure."""
    with tempfile.TemporaryDirectory(prefix="cost-") as folder:
        asyncio.run(_measure(Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
