"""The gateway as it is served, told to make changes: `python -m tests.bench.watch_server CORE FOLDER N HOW`.

Everything is production's, from `gateway.server.building.run` down, but for this:

1. No backend is configured. Changes come through the store's own operations, as the tracker makes them: what stood
   still moves, what moved stands still. So the same starts change as often as it takes.
2. Heartbeats come once an hour, not every 20 seconds: their cost goes by time, and what is measured goes by change.
3. With HOW `untuned`, the garbage collector is Python's own.
4. The orders are read from a UNIX socket, by the same loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config.settings import Settings
from gateway.model import Asked, CompletionMeaning, OutcomeKind, Recipients, State
from gateway.server import building as server
from gateway.sightings import Sighting
from gateway.store import Settlement, Terms
from gateway.store.sqlite import SqliteStore, open_sqlite
from gateway.watch.stream import Watch
from tests.bench.control import obey
from tests.bench.population import (
    CROWDS,
    FLOW,
    LABELS,
    SINGLES,
    TENANT,
    crowd_id,
    external_id,
    ids_of,
    start_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.store.committing import Timed

ACCOUNT = "workspace"
HEARTBEAT = timedelta(hours=1)
FAR = datetime(9999, 1, 1, tzinfo=UTC)  # whatever has moved has moved before


class _Changes:
    """Makes changes in the store."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._counts: dict[str, int] = {}  # by name: how often it has moved
        self._stands_still: dict[str, bool] = {}

    async def build_up(self, starts: int) -> int:
        """Records starts, and those that change as running; returns the newest revision then.

        `starts` of them can be watched one by one, those that change alone among them.
        """
        ids = [(start_id(n), f"single-{n}") for n in range(max(starts, SINGLES))]
        ids += [(crowd_id(size, n), f"crowd-{size}") for size in CROWDS for n in range(size)]
        await asyncio.gather(*(self._record(each, backend) for each, backend in ids))
        names = [*(f"single-{n}" for n in range(SINGLES)), *(f"crowd-{size}" for size in CROWDS)]
        for name in names:
            claims = await self._store.claim(name, len(ids))
            await asyncio.gather(*(self._start(dispatch.id) for dispatch in claims.dispatches))
            self._counts[name], self._stands_still[name] = 0, False
        return await self._store.head()

    async def change(self, name: str) -> None:
        """Makes one commit that changes every start of a name."""
        if self._stands_still[name]:
            self._counts[name] += 1
            sightings = [
                Sighting(external_id=external_id(each), state=State.STARTED, contact_count=self._counts[name])
                for each in ids_of(name)
            ]
            await self._store.sight(name, sightings, account=ACCOUNT)
        else:
            await self._store.mark_stalled(name, FAR)
        self._stands_still[name] = not self._stands_still[name]

    async def _record(self, each: str, backend: str) -> None:
        asked = Asked(
            id=each,
            tenant=TENANT,
            backend=backend,
            flow=FLOW,
            recipient_count=1,
            params={},
            labels=LABELS,
            created_at=server.utc_now(),
            completion_meaning=CompletionMeaning.RECIPIENTS_ENTERED,
        )
        plan = [Recipients(urns=("tel:+12065551212",))]
        await self._store.create(asked, plan, fingerprint="1:", warnings=(), terms=Terms(account=ACCOUNT))

    async def _start(self, dispatch_id: str) -> None:
        attempt = await self._store.begin_attempt(dispatch_id, account=ACCOUNT, since=server.utc_now())
        assert attempt is not None
        each, _, _ = dispatch_id.rpartition("-")
        settlement = Settlement(
            outcome=OutcomeKind.ACCEPTED, detail="", state=State.STARTED, external_id=external_id(each), account=ACCOUNT
        )
        await self._store.record(dispatch_id, attempt, settlement)


async def _build_up(store: SqliteStore, folder: Path, starts: int) -> None:
    changes = _Changes(store)
    await obey(folder, changes.change, after=await changes.build_up(starts))


def main() -> int:
    """Serves until it is told to stop."""
    core, folder, starts = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    os.sched_setaffinity(0, {core})
    tasks = set()

    def open_and_build_up(path: Path, clock: Callable[[], datetime], timed: Timed) -> SqliteStore:
        store = open_sqlite(path, clock, timed)
        tasks.add(asyncio.get_running_loop().create_task(_build_up(store, folder, starts)))
        return store

    if sys.argv[4] == "untuned":
        vars(server).update(tune_collector=lambda: None)
    vars(server).update(open_sqlite=open_and_build_up, Watch=partial(Watch, heartbeat=HEARTBEAT))
    settings = Settings(listen="127.0.0.1:0", http_listen="127.0.0.1:0", store=f"sqlite:///{folder / 'startflow.db'}")
    return server.run(settings, lambda: settings)


if __name__ == "__main__":
    sys.exit(main())
