"""HAProxy as deploy/haproxy.cfg has it, in front of gateways of a test. Nothing of it comes from PyPI."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.processes import ROOT, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.end_to_end.processes import GatewayProcess

HAPROXY = ROOT / "deploy" / "haproxy.cfg"
PROGRAM = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""
needs_haproxy = pytest.mark.skipif(not PROGRAM, reason="there is no haproxy here: apt install haproxy")


@asynccontextmanager
async def haproxy(gateways: Sequence[GatewayProcess], log: Path) -> AsyncIterator[str]:
    """Runs it in front of three gateways, and returns its address; it serves soon."""
    front = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "FRONT": front}
    for number, gateway in enumerate(gateways, start=1):
        environment[f"GATEWAY{number}"] = gateway.address
        environment[f"GATEWAY{number}_HTTP"] = gateway.http.rpartition(":")[2]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "-db", "-f", HAPROXY, env=environment, stdout=output, stderr=output
        )
    try:
        yield front
    finally:
        process.kill()
        await process.wait()
