"""What is truly SQLite's in forgetting: nothing stays in the file, and nothing goes through a whole table for it."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlite_utils import Database

from gateway.errors import Reason
from gateway.model import Recipients, State
from gateway.store import finding, purging
from gateway.store.rows import to_micros
from tests.builders import ACCOUNT, BACKEND, FLOW, NOON, TENANT, accepted, again, create, run_to, seen
from tests.noted import raw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.store.sqlite import SqliteStore
    from gateway.store.transaction import Transaction
    from tests.builders import Clock

TABLES = ("starts", "recipients", "dispatches", "attempts", "changes")
FOREIGN = (  # SQLite asks this when a start goes
    "select 1 from dispatches where start_id = 'x'",
    "select 1 from changes where start_id = 'x'",
    "select 1 from recipients where start_id = 'x'",
)
AFTERNOON = NOON + timedelta(hours=1)
SECRET = "Secret"


@pytest.fixture
async def sqlite(reopen: Callable[..., SqliteStore]) -> SqliteStore:
    """Opens the store."""
    return reopen()


async def personal(store: SqliteStore, count: int, external_ids: str = "x") -> None:
    """Records starts that say a word wherever a caller can, and that complete."""
    for n in range(count):
        plan = [Recipients(urns=(f"tel:{SECRET}{n}-{each}",)) for each in range(3)]
        words = {"params": {SECRET: SECRET * 500}, "labels": {SECRET: SECRET}, "request_id": f"{SECRET}{n}"}
        start = await create(store, plan, sender=SECRET, **words)
        names = [f"{external_ids}{n}-{each}" for each in range(3)]
        await run_to(store, start, *(accepted(name) for name in names))
        assert 3 == await store.sight(BACKEND, [seen(name, State.COMPLETED) for name in names], account=ACCOUNT)


async def counts(store: SqliteStore) -> list[int]:
    """Counts the rows of each table."""

    def read(conn: Any) -> list[int]:
        return [Database(conn)[table].count for table in TABLES]

    return await store._read(read)


def contents(directory: Path) -> dict[str, bytes]:
    """Reads every file in a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def forget(store: SqliteStore) -> None:
    """Forgets everything that is over."""
    while await store.purge(AFTERNOON):
        pass


async def test_no_row_stays(sqlite: SqliteStore, clock: Clock) -> None:
    """Of what is over; and the others are whole."""
    await personal(sqlite, 20)
    clock.now = AFTERNOON
    await forget(sqlite)
    assert [0] * len(TABLES) == await counts(sqlite)
    await create(sqlite)
    assert [1, 0, 1, 0, 1] == await counts(sqlite)
    assert [] == await sqlite._read(lambda conn: conn.rows("pragma foreign_key_check"))
    assert [("ok",)] == await sqlite._read(lambda conn: conn.rows("pragma integrity_check"))


async def test_nothing_that_was_said_stays_in_the_file(sqlite: SqliteStore, clock: Clock, tmp_path: Path) -> None:
    """Not in free pages either, once the log has been folded into the file."""
    await personal(sqlite, 30)
    clock.now = AFTERNOON
    await forget(sqlite)
    await sqlite.close()

    assert {"startflow.db": False, "startflow.db.lock": False} == {
        name: SECRET.encode() in content for name, content in contents(tmp_path).items()
    }


async def test_the_room_of_what_went_is_used_again(sqlite: SqliteStore, clock: Clock) -> None:
    """So that a store under steady load does not grow for ever."""

    async def pages() -> int:
        return int((await sqlite._read(lambda conn: conn.one("pragma page_count")))[0])

    await personal(sqlite, 20)
    before = await pages()
    for n in range(3):
        clock.tick(3_600)
        while await sqlite.purge(clock() - timedelta(minutes=1)):
            pass
        await personal(sqlite, 20, f"y{n}-")

    assert await pages() <= before + 5


async def explained(store: SqliteStore, statement: str) -> list[str]:
    """Tells how SQLite goes about a statement."""
    return [row[3] for row in await store._read(lambda conn: conn.rows(f"explain query plan {statement}"))]


async def test_each_step_is_found_by_an_index(sqlite: SqliteStore, clock: Clock) -> None:
    """What is to be erased next, and what belongs to it, is searched for; so is what a foreign key may point from."""
    said: set[str] = set()
    await personal(sqlite, 3)
    clock.now = AFTERNOON
    await sqlite.engine.writer.submit(lambda t: raw(t.conn).set_trace_callback(said.add))
    await forget(sqlite)
    plans = {
        statement: await explained(sqlite, statement)
        for statement in said
        if statement.split()[0] in ("select", "update", "delete", "insert")
    }

    erased = {statement.split()[2] for statement in plans if statement.startswith("delete")}
    assert set(TABLES) == erased
    assert [] == [
        (statement, plan)
        for statement, plan in plans.items()
        if "SCAN" in "".join(plan) and plan != ["SCAN commits"]  # which has one row
    ]
    for statement in FOREIGN:
        (plan,) = await explained(sqlite, statement)
        assert "SEARCH" in plan


async def test_a_step_that_fails_leaves_everything_as_it_was(sqlite: SqliteStore, clock: Clock) -> None:
    """And the next one begins where it began."""
    await personal(sqlite, 2)
    clock.now = AFTERNOON
    before = await counts(sqlite)

    def failing(transaction: Transaction) -> None:
        transaction.conn.run("create temp trigger failing before update on meta begin select raise(abort, 'no'); end")

    await sqlite.engine.writer.submit(failing)
    with pytest.raises(sqlite3.IntegrityError):
        await sqlite.purge(AFTERNOON)
    assert (before, 0) == (await counts(sqlite), await sqlite.oldest())
    await sqlite.engine.writer.submit(lambda t: t.conn.run("drop trigger failing"))
    await forget(sqlite)

    assert [0] * len(TABLES) == await counts(sqlite)


async def test_what_is_being_erased_says_nothing_any_more(sqlite: SqliteStore, tmp_path: Path, clock: Clock) -> None:
    """What was asked and how it stands are gone at once; people's addresses follow with the dispatches."""
    await personal(sqlite, 1)
    clock.now = AFTERNOON
    assert 0 < await sqlite.purge(AFTERNOON)

    with contextlib.closing(sqlite3.connect(tmp_path / "startflow.db")) as conn:
        rows = conn.execute("select * from starts").fetchall()
    assert 1 == len(rows)
    assert SECRET not in str(rows)
    assert TENANT not in str(rows)


async def test_one_that_is_told_something_in_the_same_transaction_is_kept(sqlite: SqliteStore, clock: Clock) -> None:
    """Its newest change is written at the end of it, when the start must still be there."""
    start = await create(sqlite)
    await run_to(sqlite, start, accepted("x1"))
    await sqlite.sight(BACKEND, [seen("x1", State.COMPLETED)], account=ACCOUNT)
    clock.now = AFTERNOON
    twice = seen("x2", State.COMPLETED, correlation_key=f"{start.asked.id}-1", flow=FLOW)

    def both(transaction: Transaction) -> int:
        finding.Sight(BACKEND, [twice], ACCOUNT)(transaction)
        return purging.Purge(to_micros(AFTERNOON) or 0)(transaction)

    assert 3 == await sqlite.engine.writer.submit(both)
    found = await again(sqlite, start)
    assert (4, 3) == (found.revision, await sqlite.oldest())
    assert [Reason.DUPLICATE_SENT] == [warning.reason for warning in found.standing.warnings]
    assert "serves from a copy of this store" in found.standing.warnings[0].message  # D8: a cause like any other
