"""A tracker follows a few thousand starts on the real wire: what it asks for, and what it misses nothing of.

The sandbox of either generation of RapidPro and of Twilio, over HTTP, by a clock that is moved. `tests/bench` has the
same with 100,000 starts, in processes of their own.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from gateway.adapters.base import Account
from gateway.adapters.rapidpro.adapter import RapidPro
from gateway.adapters.twilio.adapter import Twilio
from gateway.lanes.backend import Backend
from gateway.lanes.by_id import LOOKS, UNSEEN_FOR
from gateway.lanes.pacing import Limiter
from gateway.lanes.tracker import REREAD, Tracker
from gateway.lanes.transport import Transport
from gateway.model import Identity, State
from gateway.sandbox import (
    SANDBOX_RAPIDPRO_TOKEN,
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_AUTH_TOKEN,
    Sandbox,
    SandboxSettings,
)
from gateway.store.sqlite import SqliteStore, open_sqlite
from tests.bench.crowd import ACCOUNTS, FLOWS, OLD, Running, crowd, fill, write_journal
from tests.builders import TENANT, Clock
from tests.fakes import Ticks, Watched
from tests.lengths import size, some

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.adapters.base import Request
    from gateway.model import FlowStart

COUNT = size(1_500, quick=600)  # RapidPro shows 250 a page
KINDS = {"new": "rapidpro", "old": "rapidpro", "studio": "twilio"}
CREDENTIALS = {
    "rapidpro": (RapidPro, Account(credentials={"token": SANDBOX_RAPIDPRO_TOKEN})),
    "twilio": (
        Twilio,
        Account(credentials={"account_sid": SANDBOX_TWILIO_ACCOUNT_SID, "auth_token": SANDBOX_TWILIO_AUTH_TOKEN}),
    ),
}


class Hooked(Transport):
    """The real transport, but that something may happen after each answer."""

    after: Callable[[Request], None] | None = None

    async def _ask(self, request: Request, write_before: float | None) -> Any:
        answer = await super()._ask(request, write_before)
        if self.after is not None:
            self.after(request)
        return answer


@dataclass
class World:
    """A backend on which starts run, and what follows them."""

    backend: str
    runs: list[Running]
    sandbox: Sandbox
    store: SqliteStore
    watched: Watched
    transport: Hooked
    tracker: Tracker
    clock: Clock
    ticks: Ticks
    account: str

    async def sweep(self) -> list[dict[str, Any]]:
        """Sweeps once; returns the requests that the backend heard."""
        before = self.sandbox.journal.head
        windows = await self.store.windows(self.backend, self.account)
        await self.tracker.sweep(windows, await self.store.sought(self.backend, self.account))
        return list(self.sandbox.journal.entries(after=before, kind="request"))

    def pass_by(self, seconds: float) -> None:
        """Lets time pass by every clock."""
        self.clock.tick(seconds)
        self.ticks.tick(seconds)

    def force(self, run: Running, status: str | None) -> None:
        """Has a start be in a state at once."""
        self.sandbox.force(self.backend, run.external_id, status=status)

    async def start(self, run: Running) -> FlowStart:
        """Reads a start."""
        found = await self.store.get(TENANT, run.id)
        assert found is not None
        return found

    async def states(self, runs: list[Running]) -> list[State]:
        """Reads where starts stand."""
        return [(await self.start(run)).standing.state for run in runs]

    @property
    def over(self) -> str:
        """The backend's word for what is over."""
        return "ended" if self.backend == "twilio" else "completed" if self.account != "1" else "complete"


@cache
def journal_of(backend: str, count: int) -> bytes:
    """Returns what a sandbox begins with; made once, because that takes as long as a test."""
    now = Clock()()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        write_journal(path, {"rapidpro": [], "twilio": [], backend: crowd(count, now)[backend]}, now)
        return path.read_bytes()


@asynccontextmanager
async def world(kind: str, folder: Path, count: int) -> AsyncIterator[World]:
    """Builds a backend on which so many starts run, all of which have been swept once."""
    backend, clock, ticks = KINDS[kind], Clock(), Ticks()
    account = "1" if kind == "old" else ACCOUNTS[backend]
    runs = crowd(count, clock())[backend]
    (folder / "journal").write_bytes(journal_of(backend, count))
    await fill(folder / "startflow.db", runs, account)
    settings = SandboxSettings(
        journal=folder / "journal",
        rapidpro_generation="old" if kind == "old" else "new",
        rapidpro_requests_per_hour=0,
    )
    made, credentials = CREDENTIALS[backend]
    async with Sandbox(settings, clock=clock) as sandbox:
        transport = Hooked(
            sandbox.rapidpro_url if backend == "rapidpro" else sandbox.twilio_url,
            timeout=timedelta(seconds=10),
            limiter=Limiter(100_000, 1.0),
            rate_counts_reads=backend == "rapidpro",
            concurrency=2,
            clock=ticks,
        )
        async with transport:
            transport.identity = Identity(account=account)
            store = open_sqlite(folder / "startflow.db", clock)
            watched = Watched(store)
            followed = Backend(
                name=backend,
                kind=backend,
                adapter=made(credentials),  # type: ignore[arg-type]
                transport=transport,
                sweep_interval=timedelta(seconds=10),
                in_flight=4,
                quiet_window=timedelta(seconds=120),
            )
            tracker = Tracker(watched, followed, clock, ticks, sleep=ticks.sleep)  # type: ignore[arg-type]
            built = World(backend, runs, sandbox, store, watched, transport, tracker, clock, ticks, account)
            try:
                await built.sweep()
                yield built
            finally:
                await store.close()


every_kind = pytest.mark.parametrize("kind", list(KINDS))
most_kinds = pytest.mark.parametrize("kind", some(KINDS, "new", "studio"))
rapidpro = pytest.mark.parametrize("kind", ["new", "old"])


@most_kinds
async def test_what_nothing_changes_of_costs_few_requests_and_no_write(kind: str, tmp_path: Path) -> None:
    """RapidPro one, however many run; Twilio one for each thousand of a flow, and one for its stragglers."""
    async with world(kind, tmp_path, COUNT) as it:
        it.watched.calls.clear()
        asked = []
        for _ in range(3):
            it.pass_by(60)
            asked.append(len(await it.sweep()))

        assert [1 if it.backend == "rapidpro" else 2 * len(FLOWS["twilio"])] * 3 == asked
        assert "sight" not in it.watched.calls


@most_kinds
async def test_what_changes_is_recorded_by_the_next_sweep(kind: str, tmp_path: Path) -> None:
    """All of it, and nothing else."""
    async with world(kind, tmp_path, COUNT) as it:
        it.pass_by(60)
        young = it.runs[len(it.runs) - COUNT :]
        changed, others = young[::10], [run for n, run in enumerate(young) if n % 10]
        for run in changed:
            it.force(run, it.over)
        await it.sweep()

        assert {State.COMPLETED} == set(await it.states(changed))
        assert {State.STARTED} == set(await it.states(others[::50]))


async def test_interrupts_that_bump_nothing_are_seen_when_everything_is_read_again(tmp_path: Path) -> None:
    """Every hour at the most; only RapidPro's newer ones can be interrupted."""
    async with world("new", tmp_path, 600) as it:
        it.pass_by(60)
        changed = it.runs[::20]
        for run in changed:
            it.force(run, "interrupted")
        shown = [len(await it.sweep()), len({*await it.states(changed)} - {State.STARTED})]
        it.pass_by(REREAD)
        asked = len(await it.sweep())

        assert [1, 0] == shown
        assert 3 == asked  # 600 rows, 250 a page
        assert {State.INTERRUPTED} == set(await it.states(changed))


@rapidpro
async def test_a_row_that_jumps_to_another_page_while_it_is_read_is_not_missed(kind: str, tmp_path: Path) -> None:
    """Nor are those that move up because it does."""
    async with world(kind, tmp_path, 600) as it:
        it.pass_by(60)
        first, later = it.runs[100], it.runs[260]
        it.pass_by(REREAD)
        asked = 0

        def jump(_request: Request) -> None:
            nonlocal asked
            asked += 1
            if asked == 1:
                it.force(first, it.over)  # it was shown as running, on the first page
                it.force(later, it.over)

        it.transport.after = jump
        await it.sweep()

        assert 3 == asked
        assert [State.COMPLETED] * 2 == await it.states([first, later])
        assert {State.STARTED} == set(await it.states(it.runs[101:260:20]))


@every_kind
async def test_a_status_that_is_not_known_moves_nothing_and_warns(kind: str, tmp_path: Path) -> None:
    """Null, and a word of tomorrow; it moves again when the word is known."""
    async with world(kind, tmp_path, 20) as it:
        some = it.runs[-2:]
        it.pass_by(60)
        for run, status in zip(some, (None, "postponed"), strict=True):
            it.force(run, status)
        await it.sweep()
        warned = [(await it.start(run)).standing for run in some]
        it.pass_by(60)
        for run in some:
            it.force(run, it.over)
        await it.sweep()

        assert [State.STARTED] * 2 == [standing.state for standing in warned]
        reasons = [[notice.reason for notice in standing.warnings] for standing in warned]
        assert [["STATUS_UNKNOWN"]] * 2 == reasons
        assert [State.COMPLETED] * 2 == await it.states(some)


@every_kind
async def test_a_replica_that_lags_ends_nothing(kind: str, tmp_path: Path) -> None:
    """Nothing is shown of what was created in the last two hours; when it is again, all is as before."""
    async with world(kind, tmp_path, 20) as it:
        rule = it.sandbox.faults.add({"backend": it.backend, "list_lag": 7_200})
        it.pass_by(UNSEEN_FOR / 2)
        await it.sweep()
        during = set(await it.states(it.runs))
        it.sandbox.faults.remove(rule)
        it.force(it.runs[-1], it.over)
        it.pass_by(UNSEEN_FOR)
        await it.sweep()

        assert {State.STARTED} == during
        assert {State.STARTED} == set(await it.states(it.runs[:-1]))
        assert [State.COMPLETED] == await it.states(it.runs[-1:])


async def test_executions_that_vanish_are_gone_a_minute_later(tmp_path: Path) -> None:
    """Stragglers too; asked for by id, a few in each sweep, because no list says so."""
    async with world("studio", tmp_path, 100) as it:
        gone = [*it.runs[:3], *it.runs[-LOOKS:]]
        for run in gone:
            it.sandbox.force("twilio", run.external_id, deleted=True)
        before = len(await it.sweep()), set(await it.states(gone))
        it.pass_by(UNSEEN_FOR)
        asked = [len(await it.sweep()) for _ in range(3)]
        standings = [(await it.start(run)).standing for run in gone]

        assert (2 * len(FLOWS["twilio"]), {State.STARTED}) == before
        lists = before[0]
        assert [lists + LOOKS, lists + 3, lists] == asked
        assert {(State.INTERRUPTED, "BACKEND_GONE")} == {
            (each.state, each.failure.reason if each.failure else "") for each in standings
        }
        assert {State.STARTED} == set(await it.states(it.runs[3 : len(it.runs) - LOOKS]))


async def test_stragglers_end_though_only_what_is_active_is_listed_of_them(tmp_path: Path) -> None:
    """That one is not among the active is no end; that it is shown as ended, asked for by its id, is."""
    async with world("studio", tmp_path, 100) as it:
        old = it.runs[: OLD * len(FLOWS["twilio"])]
        it.force(old[0], "ended")
        requests = await it.sweep()
        before = await it.states(old[:1])
        it.pass_by(UNSEEN_FOR)
        await it.sweep()

        assert [State.STARTED] == before
        assert len(FLOWS["twilio"]) == sum("status=active" in each["query"] for each in requests)
        assert [State.COMPLETED] == await it.states(old[:1])
        assert {State.STARTED} == set(await it.states(old[1:]))
