"""A sandbox and a gateway for each test that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.processes import Client, GatewayProcess, SandboxProcess, SandboxThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[SandboxProcess]:
    """Runs both simulated backends."""
    async with SandboxThread(tmp_path) as running:
        yield running


@pytest.fixture
async def gateway(tmp_path: Path, sandbox: SandboxProcess) -> AsyncIterator[GatewayProcess]:
    """Runs the gateway; at the end its log must show no bug."""
    async with GatewayProcess(tmp_path, sandbox) as running:
        yield running
    assert running.bugs() == []


@pytest.fixture
async def client(gateway: GatewayProcess) -> AsyncIterator[Client]:
    """Calls the gateway."""
    async with Client(gateway.address) as caller:
        yield caller
