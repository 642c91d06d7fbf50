"""The gateway that benches look into serves as the product does, whatever its parts are handed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.end_to_end.processes import GatewayProcess, SandboxThread

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_gateway_that_is_watched_serves(tmp_path: Path) -> None:
    """It gets ready, looks at its loop, and ends by SIGTERM."""
    late = tmp_path / "late"

    async with SandboxThread(tmp_path) as sandbox:
        gateway = GatewayProcess(tmp_path, sandbox, command=("-m", "tests.bench.follower", str(late)))
        async with gateway:
            pass

    assert 0 == await gateway.ended()
    assert late.exists()
