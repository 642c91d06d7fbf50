"""What is truly PostgreSQL's: which servers are refused and with what words, its schema, and how it commits."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
import uuid
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.errors import Reason, Unavailable
from gateway.model import Recipients
from gateway.store import reads
from gateway.store.engine import Room, StoreUnusable, Unanswered
from gateway.store.invariants import INVARIANTS
from gateway.store.postgres import commits, connecting, refusals
from gateway.store.postgres.checking import SOUNDNESS
from gateway.store.postgres.commits import PostgresCommits
from gateway.store.postgres.engine import PostgresEngine, open_postgres
from gateway.store.postgres.trying import tried
from tests.builders import NOON, TENANT, claim_ids, create, create_or_find
from tests.lengths import size
from tests.places import FIRST, Schemas
from tests.postgres_server import WITH_PASSWORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gateway.store.connection import Connection
    from gateway.store.transaction import Tail
    from tests.builders import Clock
    from tests.places import EngineStore
    from tests.postgres_server import Server


@pytest.fixture
def engine() -> str:
    """Names the engine of the stores of this test."""
    return "postgres"


@pytest.fixture
def role(postgres: Server) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    name = f"r{uuid.uuid4().hex[:12]}"
    run(postgres, f"create role {name} login")
    yield name
    run(postgres, f"drop owned by {name}", f"drop role {name}")


def run(server: Server, *statements: str) -> None:
    """Says something to the server."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def as_role(server: Server, role: str, *options: str) -> str:
    """Names a database as another role sees it."""
    said = "".join(f" -c{option}" for option in options)
    return server.url().replace("startflow@", f"{role}@") + (f"?options={quote(said.strip())}" if said else "")


async def refused(url: str, clock: Clock) -> str:
    """Returns the sentence with which a store is refused, by `serve` and by `check` alike."""
    with pytest.raises(StoreUnusable) as when_served:
        open_postgres(url, clock)
    with pytest.raises(StoreUnusable) as when_checked:
        tried(url, datetime.now(UTC))
    assert str(when_served.value) == str(when_checked.value)
    return str(when_served.value)


async def test_a_server_that_is_not_there_is_refused(clock: Clock) -> None:
    """With its host and port."""
    said = await refused("postgresql://somebody@127.0.0.1:1/starts", clock)

    assert "The store postgresql://127.0.0.1:1/starts cannot be reached." in said


async def test_a_database_and_a_role_that_are_not_there_are_refused(postgres: Server, clock: Clock) -> None:
    """Each by what makes it."""
    assert "createdb" in await refused(postgres.url("nowhere"), clock)
    assert "createuser" in await refused(as_role(postgres, "nobody"), clock)


async def test_a_wrong_password_and_none_are_refused(
    postgres: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is told."""
    run(postgres, f"drop role if exists {WITH_PASSWORD}", f"create role {WITH_PASSWORD} login password 'right'")
    none = await refused(as_role(postgres, WITH_PASSWORD), clock)
    monkeypatch.setenv("PGPASSWORD", "wrong-one")
    wrong = await refused(as_role(postgres, WITH_PASSWORD), clock)

    assert "asks for a password" in none
    assert "The password or the user is wrong" in wrong
    assert "wrong-one" not in wrong
    monkeypatch.setenv("PGPASSWORD", "right")
    assert "no right to make tables" in await refused(as_role(postgres, WITH_PASSWORD), clock)


async def test_a_server_that_is_too_old_is_refused(
    postgres: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By both versions."""
    monkeypatch.setattr(refusals, "OLDEST", 99)

    assert "is PostgreSQL 18, and 99 or newer is needed" in await refused(postgres.url(), clock)


async def test_a_database_of_another_encoding_is_refused(postgres: Server, clock: Clock) -> None:
    """What it cannot hold would be found out later."""
    run(postgres, "drop database if exists latin", "create database latin encoding latin1 template template0")
    said = await refused(postgres.url("latin"), clock)

    assert "is encoded in LATIN1" in said


async def test_a_role_that_may_not_write_is_refused(postgres: Server, role: str, clock: Clock) -> None:
    """Whether it may make no tables, or only read; nothing half-made stays."""
    assert "no right to make tables" in await refused(as_role(postgres, role), clock)
    assert "takes no writes" in await refused(as_role(postgres, role, "default_transaction_read_only=on"), clock)


async def test_a_server_without_a_connection_left_is_refused(postgres: Server, role: str, clock: Clock) -> None:
    """It says what to raise."""
    run(postgres, f"alter role {role} connection limit 0")

    assert "is out of connections" in await refused(as_role(postgres, role), clock)


async def test_a_server_that_goes_while_a_gateway_starts_is_refused(
    place: Schemas, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever connection it is that fails."""
    gone = psycopg.OperationalError("server closed the connection unexpectedly")

    def fails(_: PostgresEngine) -> None:
        raise gone

    monkeypatch.setattr(PostgresEngine, "_connect", fails)

    with pytest.raises(StoreUnusable, match="cannot be reached"):
        open_postgres(place.url(FIRST), clock)


async def test_a_schema_of_a_newer_version_is_refused(
    postgres: Server, reopen: Callable[..., EngineStore], place: Schemas, clock: Clock
) -> None:
    """By the step that this one does not know; the store stays as it is."""
    await reopen().close()
    url = place.url(FIRST)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("insert into steps (name) values ('p999_later')")
        before = conn.execute("select * from meta order by key").fetchall()

        assert "it has p999_later" in await refused(url, clock)
        assert before == conn.execute("select * from meta order by key").fetchall()
    assert postgres.role not in await refused(url, clock)


async def test_check_says_what_a_store_is(place: Schemas, reopen: Callable[..., EngineStore]) -> None:
    """And what to mend of it; the tests' server writes nothing to the disk."""
    url = place.bare(FIRST)
    before, _ = tried(url, datetime.now(UTC))
    await reopen().close()
    after, warnings = tried(url, NOON)

    assert "PostgreSQL 18.6, whose tables the first start makes" in before
    assert after.endswith("PostgreSQL 18.6")
    assert ["fsync is off", "its clock is"] == [each[:12] for each in warnings]


async def test_a_store_is_checked_while_it_is_served_from(
    place: Schemas, reopen: Callable[..., EngineStore], tmp_path: Path
) -> None:
    """By the command, with what is broken and by which row; one that is not there is refused."""
    config = tmp_path / "startflow.toml"
    config.write_text(f'store = "{place.bare(FIRST)}"\n')

    def checked() -> tuple[int, list[str], str]:
        done = CliRunner().invoke(app, ["store", "check", "--config", str(config)])
        return done.exit_code, [json.loads(line)["invariant"] for line in done.stdout.splitlines()], done.stderr

    none = await asyncio.to_thread(checked)
    start = await create(reopen(), [Recipients(urns=(f"tel:+1206555{n:04}",)) for n in range(150)])
    well = await asyncio.to_thread(checked)
    with psycopg.connect(place.url(FIRST), autocommit=True) as conn:
        conn.execute("update dispatches set claimed_by = 1")
        conn.execute("update changes set start_id = 'gone' where start_id = %s", (start.asked.id,))
    broken = await asyncio.to_thread(checked)

    assert (1, []) == none[:2]
    assert "There is no store in postgresql://127.0.0.1:" in none[2]
    assert (0, []) == well[:2]
    assert well[2].endswith(f"all {len(INVARIANTS) + len(SOUNDNESS)} invariants hold.\n")
    assert 1 == broken[0]
    assert {"blocks_have_a_dispatch_ahead", "references_hold"} <= set(broken[1])


LOST = pytest.mark.parametrize("moment", ["before", "after"])


@LOST
async def test_a_commit_whose_answer_is_lost_is_found_out(
    reopen: Callable[..., EngineStore], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Cut before it, the start is refused and not there; cut after it, it is answered with its revision."""
    store = reopen()
    await create(store)
    really = PostgresCommits.commit
    cut = 0

    def commit(self: PostgresCommits, tail: Tail) -> int:
        nonlocal cut
        cut += 1
        conn = self._conn.raw
        with closing(psycopg.connect(conn.info.dsn, autocommit=True)) as other:
            if moment == "before":
                other.execute("select pg_terminate_backend(%s, 5000)", (conn.info.backend_pid,))
                return really(self, tail)
            execute = type(conn).execute

            def lose(_self: object, message: bytes) -> object:
                monkeypatch.setattr(type(conn), "execute", execute)
                execute(conn, message)
                other.execute("select pg_terminate_backend(%s, 5000)", (conn.info.backend_pid,))
                return execute(conn, "select 1")

            monkeypatch.setattr(type(conn), "execute", lose)
            return really(self, tail)

    monkeypatch.setattr(PostgresCommits, "commit", commit)
    asked = asyncio.ensure_future(create_or_find(store, request_id="lost"))
    if moment == "before":
        with pytest.raises(Unavailable):
            await asked
    else:
        assert (2, False) == ((recorded := await asked).flow_start.revision, recorded.replayed)
    monkeypatch.setattr(PostgresCommits, "commit", really)

    assert 1 == cut
    found = await store.find_request(TENANT, "lost")
    assert (moment == "after") is (found is not None)
    assert (3 if found else 2) == (await create(store)).revision
    assert "" == store.trouble


@contextmanager
def turnstile_held(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Lets no revision be given meanwhile; what is yielded can look what waits for it."""
    with closing(psycopg.connect(url, autocommit=True)) as look, closing(psycopg.connect(url)) as holder:
        holder.execute("select from turnstile where one = 1 for update")
        yield look


def wait_until_locked_out(look: psycopg.Connection[Any], pid: int) -> None:
    """Waits until a process of the server waits for a lock."""
    waits = "select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
    while look.execute(waits, (pid,)).fetchone() is None:
        time.sleep(0.01)


async def cut_while_it_commits(store: EngineStore, look: psycopg.Connection[Any]) -> None:
    """Waits until the message that commits waits for the turnstile, and cuts the client's end of its connection."""
    conn = writing(store)._conn.raw
    await asyncio.to_thread(wait_until_locked_out, look, conn.info.backend_pid)
    with socket.socket(fileno=os.dup(conn.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def writing(store: EngineStore) -> PostgresCommits:
    """Returns what commits."""
    found = store.engine.writer._commits
    assert isinstance(found, PostgresCommits)
    return found


@pytest.mark.parametrize("ends", ["committed", "undone"])
async def test_a_commit_stays_open_as_long_as_nobody_knows_what_became_of_it(
    reopen: Callable[..., EngineStore], place: Schemas, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Who asked is told so, and nobody that nothing was recorded; nothing else is written; then it is found out."""
    monkeypatch.setattr(commits, "ASKED_FOR", 0.0)
    monkeypatch.setattr(commits, "WAITED_FOR", "100ms")
    store, told = reopen(), asyncio.Event()
    store.engine.listen(lambda _revision: told.set())
    with turnstile_held(place.url(FIRST)) as look:
        pid = writing(store)._conn.raw.info.backend_pid
        asked = asyncio.ensure_future(create_or_find(store, request_id="open"))
        await cut_while_it_commits(store, look)
        with pytest.raises(Unavailable, match="not known yet whether this was recorded") as refusal:
            await asked
        with pytest.raises(Unavailable, match="nothing was recorded"):
            await create_or_find(store, request_id="next")
        assert "does not work" in store.trouble
        if ends == "undone":
            look.execute("select pg_terminate_backend(%s, 5000)", (pid,))
    assert Reason.STORE_UNAVAILABLE is refusal.value.reason
    if ends == "committed":
        await told.wait()  # by itself: nobody asks for anything

    recorded = await create_or_find(store, request_id="open")
    assert (ends == "committed", 1) == (recorded.replayed, recorded.flow_start.revision)
    assert 2 == (await create(store)).revision
    assert await store.find_request(TENANT, "next") is None
    assert "" == store.trouble


async def test_what_was_claimed_by_a_commit_that_was_open_can_be_claimed_again(
    reopen: Callable[..., EngineStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would send it otherwise: the lane was told that its claim has failed."""
    monkeypatch.setattr(commits, "ASKED_FOR", 0.0)
    store = reopen()
    await create(store)
    really = PostgresCommits.commit

    def commit(self: PostgresCommits, tail: Tail) -> int:
        really(self, tail)
        monkeypatch.setattr(PostgresCommits, "commit", really)
        self._batch -= 1  # as if its answer had been lost
        self._open = tail
        raise Unanswered

    monkeypatch.setattr(PostgresCommits, "commit", commit)
    with pytest.raises(Unavailable):
        await claim_ids(store)

    assert 1 == len(await claim_ids(store))


async def test_a_read_whose_caller_has_gone_ends(
    reopen: Callable[..., EngineStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one has its thread, and is not ended in its stead."""
    monkeypatch.setitem(connecting.SETTINGS, "statement_timeout", "0")
    store, begun, loop = reopen(), asyncio.Event(), asyncio.get_running_loop()

    def endless(conn: Connection) -> object:
        loop.call_soon_threadsafe(begun.set)
        return conn.row("select pg_sleep(600)")

    gone = asyncio.create_task(store.engine.read(endless, Room.POINT, TENANT))
    await begun.wait()
    gone.cancel()

    async with asyncio.timeout(60):
        assert 0 == await store.engine.read(reads.head, Room.POINT, TENANT)
        assert 0 == await store.engine.read(reads.head, Room.POINT, TENANT)


async def test_rows_that_may_be_too_many_are_fetched_in_parts(reopen: Callable[..., EngineStore]) -> None:
    """And two such reads do not disturb one another, nor do others between them."""

    def read(conn: Connection) -> list[object]:
        found: list[object] = []
        for (number,) in conn.each("select generate_series(1, $1)", 2_500):
            if number == 1:
                found += conn.one("select count(*) from pg_cursors")
                found += [sum(each for (each,) in conn.each("select generate_series(1, $1)", 2_000))]
        return [*found, number]

    assert [1, 2_001_000, 2_500] == await reopen().engine.read(read, Room.OWN, TENANT)


@settings(deadline=None, max_examples=size(100, quick=20))
@given(st.lists(st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
@example([None, "null", "", '"', "\\", "{}", "a,b", "'", "\n", '{"quoted": "\\\\"}'])
def test_what_is_written_in_arrays_is_read_as_it_was(postgres: Server, texts: list[str | None]) -> None:
    """Beside a list of numbers, and one of bytes."""
    numbers = [None if each is None else len(each) - 0.5 for each in texts]
    blobs = [None if each is None else each.encode() for each in texts]
    with closing(connecting.connect(postgres.url()).raw) as raw:
        conn = connecting.PostgresConnection(raw)
        rows = list(zip(texts, numbers, blobs, strict=True))
        sql = "with given(text text, number float8, blob bytea) as ($rows) select text, number, blob from given"

        assert rows == conn.over(sql, rows)


def test_a_connection_asks_for_nothing_that_a_pooler_refuses(postgres: Server) -> None:
    """Its settings come behind its start-up packet, and hold all the same."""
    conn = connecting.connect(postgres.url())
    with closing(conn.raw):
        assert {"options"}.isdisjoint(conn.raw.info.get_parameters())
        assert ["5s", "10s", "1min", "off", "1.1", "off"] == [
            conn.one(f"show {name}")[0] for name in connecting.SETTINGS
        ]


def test_a_pooler_that_mixes_connections_up_is_named(postgres: Server) -> None:
    """In transaction mode a statement that one connection has prepared is not there for it a moment later."""
    with psycopg.connect(postgres.url()) as conn, pytest.raises(psycopg.Error) as raised:
        conn.execute("execute what_another_one_has")

    found = refusals.down(raised.value)

    assert found is not None
    assert "(26000); nothing was recorded. Try again; if it persists, put the pooler before it in session mode" in str(
        found.error
    )
