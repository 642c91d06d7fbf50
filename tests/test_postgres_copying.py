"""A file's store that is moved into PostgreSQL: all of it, once, and never served from twice."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.model import Filter
from gateway.store.checking import check_path
from gateway.store.engine import StoreInUse, StoreUnusable
from gateway.store.moved import mark_moved
from gateway.store.postgres import copying
from gateway.store.postgres.checking import check_url
from gateway.store.postgres.engine import open_postgres
from gateway.store.sqlite import open_sqlite
from tests import driven
from tests.builders import TENANT, claim_ids, create, create_or_find
from tests.places import FIRST, Schemas

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store import Store
    from gateway.store.connection import Connection
    from tests.builders import Clock


@pytest.fixture
def engine() -> str:
    """Names the engine of the places of this test."""
    return "postgres"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "startflow.db"


async def filled(path: Path, clock: Clock) -> None:
    """Does to a store what is done to one, and stops."""
    store = open_sqlite(path, clock)
    start = await driven.record(store, clock)
    await driven.send(store, clock, start)
    for do in (driven.wait_in_a_backlog, driven.look_for, driven.adopt, driven.stop, driven.line_up, driven.leave):
        await do(store, clock)
    await store.close()


async def told(store: Store) -> tuple[object, ...]:
    """Returns what callers read of it."""
    changes = await store.changes(0, 500)
    page = await store.list(TENANT, Filter(), before=None, limit=50)
    return changes.changes, page.flow_starts, page.head


async def test_a_store_that_was_moved_is_the_same_store(path: Path, place: Schemas, clock: Clock) -> None:
    """With its epoch, its revisions and its request ids; what was sent before is known, and what waits is sent."""
    await filled(path, clock)
    before = open_sqlite(path, clock)
    await create_or_find(before, request_id="the same")
    kept, epoch = await told(before), before.engine.epoch
    await before.close()
    broken = {(each.invariant.name, each.id) for each in await asyncio.to_thread(check_path, path)}

    copied = await asyncio.to_thread(copying.copy, path, url := place.url(FIRST))
    after = open_postgres(url, clock)

    assert copied.rows["starts"] > 5
    assert (kept, epoch) == (await told(after), after.engine.epoch)
    assert (await create_or_find(after, request_id="the same")).replayed
    assert await claim_ids(after)
    assert kept[2] + 1 <= (await create(after)).revision  # type: ignore[operator]
    await after.close()
    assert {name for name, _ in broken} >= {each.invariant.name for each in await asyncio.to_thread(check_url, url)}


async def test_nobody_serves_from_a_store_that_was_moved(path: Path, place: Schemas, clock: Clock) -> None:
    """Nor does `check` find it well; moving it again changes nothing, also once it is served from there."""
    store = open_sqlite(path, clock)
    await create(store)
    await store.close()
    url = place.url(FIRST)
    said = [await asyncio.to_thread(moved, path, url)]
    moved_to = open_postgres(url, clock)
    await create(moved_to)
    await moved_to.close()
    said.append(await asyncio.to_thread(moved, path, url))

    with pytest.raises(StoreUnusable, match=r"was moved to postgresql://127\.0\.0\.1:"):
        open_sqlite(path, clock)
    assert (0, "Moved 1 starts") == (said[0][0], said[0][1][:14])
    assert (0, True) == (said[1][0], "Nothing was changed" in said[1][1])
    config = path.with_name("startflow.toml")
    config.write_text(f"""
store = "sqlite:///{path}"
backends.b = {{kind = "rapidpro", url = "http://127.0.0.1:1", token = "a"}}
""")
    checked = await asyncio.to_thread(CliRunner().invoke, app, ["check", "--config", str(config)])
    assert "was moved to postgresql://127.0.0.1:" in " ".join(checked.output.split())
    with pytest.raises(StoreUnusable, match=r"was moved to .* already"):
        await asyncio.to_thread(copying.copy, path, place.url("other.db") + "&port=1")


def moved(path: Path, url: str) -> tuple[int, str]:
    """Runs the command."""
    done = CliRunner().invoke(app, ["store", "copy", str(path), url])
    return done.exit_code, done.output


async def test_what_cannot_be_moved_changes_nothing(path: Path, place: Schemas, clock: Clock) -> None:
    """A file that is served from or not there, a database that has a store or is none, a text with a NUL."""
    url = place.bare(FIRST)
    store = open_sqlite(path, clock)
    await create(store)
    with pytest.raises(StoreInUse):
        await asyncio.to_thread(copying.copy, path, url)
    await store.close()
    other = open_postgres(place.url("other.db"), clock)
    await other.close()
    with pytest.raises(StoreUnusable, match="There is a store in"):
        await asyncio.to_thread(copying.copy, path, place.url("other.db"))
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("update starts set flow = 'a' || char(0) || 'b'")
    with pytest.raises(StoreUnusable, match="a row of the table starts"):
        await asyncio.to_thread(copying.copy, path, url)

    with psycopg.connect(url) as raw:
        assert [] == raw.execute("select tablename from pg_tables where schemaname = current_schema()").fetchall()
    await open_sqlite(path, clock).close()
    assert 1 == (await asyncio.to_thread(moved, path.with_name("none.db"), url))[0]
    assert 2 == (await asyncio.to_thread(moved, path, "mysql://here"))[0]
    assert 2 == (await asyncio.to_thread(moved, path, "postgresql://a:secret@here/b"))[0]


async def test_a_copy_that_was_cut_short_once_the_file_was_marked_is_made_again(
    path: Path, place: Schemas, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody serves from either meanwhile."""
    store = open_sqlite(path, clock)
    await create(store)
    await store.close()
    really = mark_moved

    def cut(conn: Connection, there: str) -> None:
        really(conn, there)
        raise KeyboardInterrupt

    monkeypatch.setattr(copying, "mark_moved", cut)
    with pytest.raises(KeyboardInterrupt):
        copying.copy(path, place.url(FIRST))
    with pytest.raises(StoreUnusable, match="was moved to"):
        open_sqlite(path, clock)
    monkeypatch.setattr(copying, "mark_moved", really)

    assert 1 == copying.copy(path, place.url(FIRST)).rows["starts"]
