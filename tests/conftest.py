"""What every part's tests may use: a clock that ticks, and a store of each kind there is."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from gateway.store.postgres import connecting
from tests.builders import Clock
from tests.end_to_end.processes import free_port
from tests.places import FIRST, Files, Lent, Schemas, Shelf
from tests.postgres_server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.places import EngineStore, Place


# A machine that does much else makes examples slowly; that says nothing of the strategy.
PATIENT = (HealthCheck.too_slow,)
settings.register_profile("patient", suppress_health_check=PATIENT)
settings.register_profile("ci", derandomize=True, suppress_health_check=PATIENT)  # the same examples each time
settings.load_profile("ci" if os.environ.get("CI") else "patient")
if "PYTEST_XDIST_WORKER" in os.environ:  # nohup, and a script's background, have them ignored by all that is started
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def clock() -> Clock:
    """A clock that moves when it is told to."""
    return Clock()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Starts a PostgreSQL server for all tests of this process."""
    server = Server(free_port(), autovacuum="off", jit="off")  # for small tables of short lives
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shelf(postgres: Server) -> Iterator[Shelf]:
    """Has the schemas of the tests of this process."""
    shelf = Shelf(postgres)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connecting, "Interruptible", Lent)
        yield shelf
    shelf.close()


@pytest.fixture
def engine() -> str:
    """Names the engine of the stores of this test. The contract's tests have one of each."""
    return "sqlite"


@pytest.fixture
def place(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where this test has its stores."""
    if engine == "sqlite":
        yield Files(tmp_path)
        return
    schemas = Schemas(request.getfixturevalue("shelf"))
    yield schemas
    schemas.drop()


@pytest.fixture
async def reopen(place: Place, clock: Clock) -> AsyncIterator[Callable[..., EngineStore]]:
    """Opens the store of this test, again and again; `name` is that of its file."""
    opened: list[EngineStore] = []

    def open_again(name: str = FIRST) -> EngineStore:
        store = place.open(name, clock)
        opened.append(store)
        return store

    yield open_again
    for store in opened:
        await store.close()


@pytest.fixture
async def store(reopen: Callable[..., EngineStore]) -> EngineStore:
    """Opens a store."""
    return reopen()
