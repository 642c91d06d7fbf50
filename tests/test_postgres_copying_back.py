"""PostgreSQL's store that is moved back into a file, and schemas that are brought up to date by a command."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.errors import Unavailable
from gateway.store.checking import check_path
from gateway.store.engine import StoreInUse, StoreUnusable
from gateway.store.moved import mark_moved
from gateway.store.postgres import copying, copying_back
from gateway.store.postgres.checking import check_url
from gateway.store.postgres.engine import open_postgres
from gateway.store.postgres.migrations import STEPS
from gateway.store.postgres.trying import tried
from gateway.store.sqlite import open_sqlite
from tests import driven
from tests.builders import claim_ids, create, create_or_find
from tests.places import FIRST, Schemas
from tests.test_migrations import SCHEMAS, put
from tests.test_postgres_copying import filled, told

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store.connection import Connection
    from tests.builders import Clock


@pytest.fixture
def engine() -> str:
    """Names the engine of the places of this test."""
    return "postgres"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    (tmp_path / "back").mkdir()
    return tmp_path / "back" / "startflow.db"


def startflow(*words: str | Path) -> tuple[int, str]:
    """Runs a command on stores; returns its code, and what it said."""
    done = CliRunner().invoke(app, ["store", *(str(word) for word in words)])
    return done.exit_code, " ".join(done.output.split())


def rows_of(url: str, query: str) -> list[tuple[object, ...]]:
    """Reads the database."""
    with psycopg.connect(url) as conn:
        return conn.execute(query.encode()).fetchall()


async def test_a_store_that_was_moved_back_is_the_same_store(path: Path, place: Schemas, clock: Clock) -> None:
    """With its epoch, its revisions and its request ids; what waits is sent from the file."""
    store = open_postgres(url := place.url(FIRST), clock)
    start = await driven.record(store, clock)
    await driven.send(store, clock, start)
    for do in (driven.wait_in_a_backlog, driven.look_for, driven.adopt, driven.stop, driven.line_up, driven.leave):
        await do(store, clock)
    await create_or_find(store, request_id="the same")
    await store.close()
    before = open_postgres(url, clock)
    kept, epoch = await told(before), before.engine.epoch
    await before.close()
    broken = {each.invariant.name for each in await asyncio.to_thread(check_url, url)}

    copied = await asyncio.to_thread(copying_back.copy_back, url, path)
    found = {each.invariant.name for each in await asyncio.to_thread(check_path, path)}
    after = open_sqlite(path, clock)

    assert copied.rows["starts"] > 5
    assert broken >= found
    assert (kept, epoch) == (await told(after), after.engine.epoch)
    assert (await create_or_find(after, request_id="the same")).replayed
    assert await claim_ids(after)
    assert kept[2] + 1 <= (await create(after)).revision  # type: ignore[operator]
    await after.close()


async def test_there_and_back_again(path: Path, place: Schemas, clock: Clock, tmp_path: Path) -> None:
    """Nothing is gone, nothing of either place is left: a third database does not take it for a copy to be doubted."""
    await filled(tmp_path / "first.db", clock)
    before = open_sqlite(tmp_path / "first.db", clock)
    kept, epoch = await told(before), before.engine.epoch
    await before.close()

    await asyncio.to_thread(copying.copy, tmp_path / "first.db", place.url(FIRST))
    await open_postgres(place.url(FIRST), clock).close()
    await asyncio.to_thread(copying_back.copy_back, place.url(FIRST), path)
    await asyncio.to_thread(copying.copy, path, place.url("third"))
    after = open_postgres(place.url("third"), clock)

    assert epoch == after.engine.epoch
    assert kept == await told(after)
    await after.close()


async def test_nobody_serves_from_a_database_that_was_moved(path: Path, place: Schemas, clock: Clock) -> None:
    """Nor does `check` find it well; moving it again changes nothing, also once the file is served from."""
    url = place.url(FIRST)
    store = open_postgres(url, clock)
    await create(store)
    await store.close()
    said = [await asyncio.to_thread(startflow, "copy", url, path)]
    there = open_sqlite(path, clock)
    await create(there)
    await there.close()
    said.append(await asyncio.to_thread(startflow, "copy", url, f"sqlite:///{path}"))

    assert [0, 0] == [code for code, _ in said]
    assert "Moved 1 starts (" in said[0][1]
    assert f'Set store = "sqlite:///{path}". No gateway serves from postgresql://127.0.0.1:' in said[0][1]
    assert said[1][1].endswith(f"was moved to {path} before. Nothing was changed.")
    for use in (lambda: open_postgres(url, clock), lambda: tried(url, clock())):
        with pytest.raises(StoreUnusable, match=rf"was moved to sqlite:///{path}: set `store`"):
            use()
    other = path.with_name("other.db")
    code, why = await asyncio.to_thread(startflow, "copy", url, other)
    assert (1, True) == (code, why.endswith(f"was moved to sqlite:///{path} already. Nothing was changed."))
    assert not other.exists()


async def test_what_cannot_be_moved_back_changes_nothing(path: Path, place: Schemas, clock: Clock) -> None:
    """A database that a gateway serves from, a file that is there, and words that name no store."""
    url = place.url(FIRST)
    store = open_postgres(url, clock)
    await create(store)
    with pytest.raises(StoreInUse, match="1 of the gateways"):
        await asyncio.to_thread(copying_back.copy_back, url, path)
    await store.close()
    put(SCHEMAS[0], path)

    assert (1, f"error: {path} exists already: name a new file. Nothing was changed.") == startflow("copy", url, path)
    for words in ((url, url), (path, path), ("postgresql://a:secret@here/b", path), (path, "mysql://here")):
        assert 2 == startflow("copy", *words)[0]
    assert [path.name, f"{path.name}.lock"] == sorted(each.name for each in path.parent.iterdir())
    await open_postgres(url, clock).close()


async def test_a_gateway_that_only_stood_still_records_nothing_more(path: Path, place: Schemas, clock: Clock) -> None:
    """Its lease was over, so it was not waited for; what it recorded afterwards would be in the database alone."""
    url = place.url(FIRST)
    store = open_postgres(url, clock)
    await create(store)
    with psycopg.connect(url) as conn:
        conn.execute("update leases set until = 0")
    await asyncio.to_thread(copying_back.copy_back, url, path)

    with pytest.raises(Unavailable):
        await create(store)
    await store.close()
    assert [(1,)] == rows_of(url, "select count(*) from starts")


async def test_a_copy_that_was_cut_short_once_the_database_was_marked_is_made_again(
    path: Path, place: Schemas, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody serves from either meanwhile."""
    url = place.url(FIRST)
    store = open_postgres(url, clock)
    await create(store)
    await store.close()

    def cut(conn: Connection, there: str) -> None:
        mark_moved(conn, there)
        conn.run("commit")
        raise KeyboardInterrupt

    monkeypatch.setattr(copying_back, "mark_moved", cut)
    with pytest.raises(KeyboardInterrupt):
        copying_back.copy_back(url, path)
    with pytest.raises(StoreUnusable, match="was moved to"):
        open_postgres(url, clock)
    monkeypatch.undo()

    assert 1 == copying_back.copy_back(url, path).rows["starts"]


async def test_a_database_is_brought_to_the_schema_of_this_version(place: Schemas, clock: Clock) -> None:
    """Of one that has no tables, all of it is made; a gateway may serve meanwhile, if there is nothing to do."""
    url = place.url(FIRST)
    schema = url.rpartition("%3D")[2]
    with psycopg.connect(url) as conn:
        conn.execute(f"drop schema {schema} cascade".encode())
        conn.execute(f"create schema {schema}".encode())
    said = [migrated(url)]
    store = open_postgres(url, clock)
    said.append(await asyncio.to_thread(migrated, url))
    await store.close()

    ends = f"made {', '.join(STEPS)}.", "nothing to do, it has the schema of this version."
    assert [(0, True), (0, True)] == [
        (code, words.endswith(end)) for (code, words), end in zip(said, ends, strict=True)
    ]


def migrated(url: str) -> tuple[int, str]:
    """Runs the command with a configured store."""
    done = CliRunner().invoke(app, ["store", "migrate"], env={"STARTFLOW_STORE": url})
    return done.exit_code, " ".join(done.output.split())


def test_a_file_is_brought_to_the_schema_of_this_version(tmp_path: Path) -> None:
    """A file that was made by an older version, which cannot be moved before."""
    path = tmp_path / "startflow.db"
    put(SCHEMAS[-2], path)
    latest = SCHEMAS[-1].stem

    assert (0, f"{path}: made {latest}.") == startflow("migrate", "--store", path)
    assert (0, f"{path}: nothing to do, it has the schema of this version.") == startflow("migrate", "--store", path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(
            "insert into _sqlite_migrations (migration_set, name, applied_at) values ('startflow', 'm999', '')"
        )
        conn.commit()
    code, said = startflow("migrate", "--store", path)
    assert (1, True) == (code, "was made by a newer version" in said)
    assert 1 == startflow("migrate", "--store", tmp_path / "none.db")[0]
