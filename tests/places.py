"""Where tests have their stores, by engine: files in a directory, or schemas in a database."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter, defaultdict
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias
from urllib.parse import quote

import psycopg
from psycopg import pq
from sqlite_utils import Database

from gateway.store import connecting
from gateway.store.migrations import MIGRATIONS
from gateway.store.postgres.connecting import Interruptible, PostgresConnection, connect
from gateway.store.postgres.engine import PostgresStore, open_postgres
from gateway.store.postgres.migrations import migrate
from gateway.store.sqlite import SqliteStore, open_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.builders import Clock
    from tests.postgres_server import Server

EngineStore: TypeAlias = SqliteStore | PostgresStore
FIRST = "startflow.db"
OFTEN = 30  # times that a schema is used, for nobody vacuums it
CLOSED = pq.PGconn.connect_start(b"host=/nowhere")  # a connection that is closed
CLOSED.finish()


class Place(Protocol):
    """Has stores, by names."""

    def open(self, name: str, clock: Clock, monotonic: Callable[[], float] | None = None) -> EngineStore:
        """Opens a store, making it if needed."""

    def crash(self, name: str = "crashed.db", first: str = FIRST) -> str:
        """Copies a store as a process that is killed now would leave it; returns the name of the copy."""

    def drop(self) -> None:
        """Removes them all."""


class Files:
    """Stores on SQLite."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, name: str, clock: Clock, monotonic: Callable[[], float] | None = None) -> SqliteStore:
        """Opens a file."""
        path = self._directory / name
        if not path.exists():
            path.touch(0o600)
            path.write_bytes(_new_file())
        return open_sqlite(path, clock, monotonic=monotonic)

    def crash(self, name: str = "crashed.db", first: str = FIRST) -> str:
        """Copies the file, and its log."""
        for suffix in ("", "-wal"):
            shutil.copy(self._directory / f"{first}{suffix}", self._directory / f"{name}{suffix}")
        return name

    def drop(self) -> None:
        """Removes the directory."""
        shutil.rmtree(self._directory)


@cache
def _new_file() -> bytes:
    """Returns what a file has before its first life; made once, for the steps take longer than most tests."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / FIRST
        with closing(connecting.connect(path)) as conn:
            MIGRATIONS.apply(Database(conn))
        return path.read_bytes()


class Lent(Interruptible):
    """A connection whose server process is kept when its user closes it, and lent to the next one, as a pooler does.

    That process knows the tables of its schema already; to learn of them costs most of what a short life costs.
    """

    kept: ClassVar[defaultdict[str, list[pq.abc.PGconn]]] = defaultdict(list)
    lasting: ClassVar[set[str]] = set()  # `options` of those that are lent on, for each names a schema that stays

    _options = ""

    @classmethod
    def connect(cls, conninfo: str = "", **params: Any) -> Self:
        """Connects to a process that is kept, with nothing left of whoever had it before, or to a new one."""
        options = params.get("options", "")
        lent = cls._again(cls.kept[options]) if options in cls.lasting else None
        raw = lent or super().connect(conninfo, **params)
        raw._options = options
        return raw

    @classmethod
    def _again(cls, kept: list[pq.abc.PGconn]) -> Self | None:
        while True:
            try:
                conn = kept.pop()
            except IndexError:
                return None
            is_well = conn.exec_(b"discard all").status == pq.ExecStatus.COMMAND_OK
            while conn.notifies():  # nor is it told what somebody else has listened for
                pass
            if is_well:
                raw = cls(conn)
                raw.autocommit = True
                return raw
            conn.finish()

    def close(self) -> None:
        """Closes it, as far as its user sees."""
        is_idle = not self.closed and self.info.transaction_status == pq.TransactionStatus.IDLE
        if is_idle and not self.is_interrupted and self._options in self.lasting:
            conn, self.pgconn = self.pgconn, CLOSED
            self.kept[self._options].append(conn)
        super().close()

    @classmethod
    def forget(cls, options: str) -> None:
        """Closes those of a schema that goes."""
        cls.lasting.discard(options)
        for conn in cls.kept.pop(options, ()):
            conn.finish()


class Shelf:
    """Schemas of a database. What tests are done with is emptied for others: to make one costs three times as much."""

    def __init__(self, server: Server) -> None:
        self.url = server.url()
        self._conn = psycopg.connect(self.url, autocommit=True)
        self._say("set session_replication_role = replica")  # no trigger runs
        self._emptied: list[str] = []
        self._taken: Counter[str] = Counter()
        self._new = self._make()
        self._migrate(self._new)
        self._tables = self._tables_of(self._new)

    def take(self, *, bare: bool = False) -> str:
        """Returns a schema with nothing in it, or, unless it is to be bare, with what a new store has at first."""
        schema = self._emptied.pop() if self._emptied and not bare else self._make()
        self._taken[schema] += 1
        Lent.lasting.add(_options(schema))
        return schema

    def tell(self, schema: str) -> str:
        """Names the store in a schema as settings do, to whoever may do to it what it likes."""
        Lent.forget(_options(schema))
        return self.address(schema)

    def put_back(self, schema: str) -> None:
        """Empties a schema for whoever takes it next."""
        if self._taken[schema] < OFTEN and self._tables_of(schema) == self._tables:
            self.copy(self._new, schema)
            self._emptied.append(schema)
        else:
            self.remove(schema)

    def remove(self, schema: str) -> None:
        """Removes a schema."""
        Lent.forget(_options(schema))
        self._say(f"drop schema {schema} cascade")

    def copy(self, source: str, target: str) -> None:
        """Copies the tables of a schema, row by row, in one view of them."""
        if not self._tables_of(target):
            self._migrate(target)
        each = (
            f"delete from {target}.{table}; insert into {target}.{table} table {source}.{table}"  # noqa: S608 -- ours
            for table in self._tables
        )
        self._say("; ".join(("begin isolation level repeatable read", *each, "commit")))

    def leave(self, schema: str) -> None:
        """Has whoever had leases be gone."""
        self._say(f"update {schema}.leases set until = 0")  # noqa: S608 -- ours

    def address(self, schema: str) -> str:
        """Names the store in a schema as settings do."""
        return f"{self.url}?options={quote(_options(schema))}"

    def close(self) -> None:
        """Leaves the rest to the server's end."""
        self._conn.close()

    def _make(self) -> str:
        schema = f"t{uuid.uuid4().hex}"
        self._say(f"create schema {schema}")
        return schema

    def _migrate(self, schema: str) -> None:
        url = self.address(schema)
        with connect(url).raw as raw:
            raw.execute("begin")
            migrate(PostgresConnection(raw), url)
            raw.execute("commit")

    def _tables_of(self, schema: str) -> list[str]:
        found = self._conn.execute("select tablename from pg_tables where schemaname = %s order by 1", (schema,))
        return [table for (table,) in found]

    def _say(self, statements: str) -> None:
        self._conn.execute(statements.encode())


def _options(schema: str) -> str:
    return f"-csearch_path={schema}"


class Schemas:
    """Stores on PostgreSQL, each in a schema."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._schemas: dict[str, str] = {}  # by the name of the store
        self._told: set[str] = set()  # whoever knows where a store is may do to it what it likes

    def url(self, name: str) -> str:
        """Names a store as settings do; makes its schema if there is none."""
        self._told.add(self._schema(name))
        return self._shelf.tell(self._schema(name))

    def bare(self, name: str) -> str:
        """Does the same with a schema that has nothing in it yet."""
        self._schemas[name] = self._shelf.take(bare=True)
        return self.url(name)

    def open(self, name: str, clock: Clock, monotonic: Callable[[], float] | None = None) -> PostgresStore:
        """Opens a schema."""
        return open_postgres(self._shelf.address(self._schema(name)), clock, monotonic=monotonic)

    def crash(self, name: str = "crashed.db", first: str = FIRST) -> str:
        """Copies the tables, row by row, in one view of them."""
        self._shelf.copy(self._schema(first), self._schema(name))
        self._shelf.leave(self._schema(name))
        return name

    def drop(self) -> None:
        """Gives every schema up."""
        for schema in self._schemas.values():
            if schema in self._told:
                self._shelf.remove(schema)
            else:
                self._shelf.put_back(schema)

    def _schema(self, name: str) -> str:
        if name not in self._schemas:
            self._schemas[name] = self._shelf.take()
        return self._schemas[name]
