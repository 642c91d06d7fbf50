"""What every part's tests may use: a clock that ticks, and a store of each kind there is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from gateway.store.sqlite import SqliteStore, open_sqlite
from tests.builders import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


# A machine that does much else makes examples slowly; that says nothing of the strategy.
PATIENT = (HealthCheck.too_slow,)
settings.register_profile("patient", suppress_health_check=PATIENT)
settings.register_profile("ci", derandomize=True, suppress_health_check=PATIENT)  # the same examples each time
settings.load_profile("ci" if os.environ.get("CI") else "patient")


@pytest.fixture
def clock() -> Clock:
    """A clock that moves when it is told to."""
    return Clock()


@pytest.fixture
async def reopen(tmp_path: Path, clock: Clock) -> AsyncIterator[Callable[..., SqliteStore]]:
    """Opens the store of this test, again and again; `name` is that of its file."""
    opened: list[SqliteStore] = []

    def open_again(name: str = "startflow.db") -> SqliteStore:
        store = open_sqlite(tmp_path / name, clock)
        opened.append(store)
        return store

    yield open_again
    for store in opened:
        await store.close()


@pytest.fixture(params=["sqlite"])
async def store(request: pytest.FixtureRequest, reopen: Callable[..., SqliteStore]) -> SqliteStore:
    """Opens a store of each kind."""
    assert request.param == "sqlite"
    return reopen()
