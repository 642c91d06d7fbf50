"""Where tests have their stores, by engine: files in a directory, or schemas in a database."""

from __future__ import annotations

import shutil
import uuid
from typing import TYPE_CHECKING, Protocol, TypeAlias

import psycopg
from psycopg import sql

from gateway.store.postgres.engine import PostgresStore, open_postgres
from gateway.store.postgres.migrations import STEPS
from gateway.store.sqlite import SqliteStore, open_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.builders import Clock
    from tests.postgres_server import Server

EngineStore: TypeAlias = SqliteStore | PostgresStore
FIRST = "startflow.db"


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
        return open_sqlite(self._directory / name, clock, monotonic=monotonic)

    def crash(self, name: str = "crashed.db", first: str = FIRST) -> str:
        """Copies the file, and its log."""
        for suffix in ("", "-wal"):
            shutil.copy(self._directory / f"{first}{suffix}", self._directory / f"{name}{suffix}")
        return name

    def drop(self) -> None:
        """Removes the directory."""
        shutil.rmtree(self._directory)


class Schemas:
    """Stores on PostgreSQL, all in one database."""

    def __init__(self, server: Server) -> None:
        self._url = server.url()
        self._prefix = f"t{uuid.uuid4().hex[:12]}"
        self._made: set[str] = set()

    def url(self, name: str) -> str:
        """Names a store as settings do; makes its schema if there is none."""
        schema = f"{self._prefix}_{name.removesuffix('.db').replace(' ', '_').replace('-', '_')}"
        if schema not in self._made:
            self._run(sql.SQL("create schema {}").format(sql.Identifier(schema)))
            self._made.add(schema)
        return f"{self._url}?options=-csearch_path%3D{schema}"

    def open(self, name: str, clock: Clock, monotonic: Callable[[], float] | None = None) -> PostgresStore:
        """Opens a schema."""
        return open_postgres(self.url(name), clock, monotonic=monotonic)

    def crash(self, name: str = "crashed.db", first: str = FIRST) -> str:
        """Copies the tables, row by row, in one view of them."""
        source, target = (url.rpartition("%3D")[2] for url in (self.url(first), self.url(name)))
        with psycopg.connect(self.url(name), autocommit=True) as conn:
            conn.execute("set session_replication_role = replica")  # no trigger runs
            conn.execute("begin isolation level repeatable read")
            conn.execute("create table steps (name text primary key, done_at timestamptz not null default now())")
            for statements in STEPS.values():
                conn.execute(statements.encode())
            tables = conn.execute("select tablename from pg_tables where schemaname = %s", (source,)).fetchall()
            for (table,) in tables:
                names = [sql.Identifier(target, table), sql.Identifier(source, table)]
                conn.execute(sql.SQL("delete from {}").format(names[0]))
                conn.execute(sql.SQL("insert into {} select * from {}").format(*names))
            conn.execute("commit")
        return name

    def drop(self) -> None:
        """Removes every schema."""
        for schema in self._made:
            self._run(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._url, autocommit=True) as conn:
            conn.execute(statement)
