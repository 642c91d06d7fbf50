"""Copies the file of a stopped gateway into PostgreSQL, whole: ids, request ids, revisions and the epoch stay.

Rules:

1. It is one transaction, and every row is compared at its end: there is nothing half copied, and a second try begins
   anew.
2. The file is marked as moved before that is committed. So there is no moment in which both could be served from; a
   copy that was cut short between the two is made again.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import psycopg

from gateway.store.connecting import connect as open_file
from gateway.store.copies import opened, reading
from gateway.store.engine import StoreUnusable
from gateway.store.migrations import missing_steps
from gateway.store.moved import mark_moved, moved_to
from gateway.store.postgres.engine import reach
from gateway.store.postgres.migrations import migrate
from gateway.store.postgres.refusals import name_of, named, why_not_made
from gateway.store.postgres.tables import Copied, compared, epoch_of, tables_of
from gateway.store.sqlite import own, refuse_newer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.store.connecting import SqliteConnection
    from gateway.store.connection import Row
    from gateway.store.postgres.connecting import PostgresConnection
    from gateway.store.postgres.tables import Table


def copy(path: Path, url: str) -> Copied:
    """Copies a store from a file into a database without one. The file is marked, and nobody serves from it any more.

    Raises `StoreUnusable` if either cannot be used, `StoreInUse` if a gateway serves from the file.
    """
    with reading(path), opened(path) as source, closing(own(path)):
        refuse_newer(source, path)
        _refuse_unready(source, path, url)
        conn = reach(url)
        with closing(conn.raw):
            try:
                return _copied(path, source, conn, url)
            except psycopg.Error as error:
                raise StoreUnusable(why_not_made(url, error)) from error


def _refuse_unready(source: SqliteConnection, path: Path, url: str) -> None:
    if missing := missing_steps(source):
        msg = (
            f"The store {path} was made by an older version of the gateway (it lacks {missing[0]}). Run `startflow"
            " store migrate` on it first."
        )
        raise StoreUnusable(msg)
    if (there := moved_to(source)) not in (None, named(url)):
        msg = f"The store {path} was moved to {there} already. Nothing was changed."
        raise StoreUnusable(msg)


def _copied(path: Path, source: SqliteConnection, conn: PostgresConnection, url: str) -> Copied:
    conn.say("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
    open_file(path).close()  # makes its write-ahead log, without which the mark would wait for the read
    source.execute("begin")
    conn.say("begin")
    migrate(conn, url)
    if conn.row("select 1 from meta limit 1"):
        if moved_to(source) is not None and epoch_of(conn) == epoch_of(source):
            return Copied()
        msg = f"There is a store in {named(url)} already. Name a database without one. Nothing was changed."
        raise StoreUnusable(msg)
    copied = Copied()
    for table in tables_of(source, conn):
        copied.rows[table.name] = _copy_table(table, source, conn, path)
    with closing(open_file(path)) as writer:
        mark_moved(writer, named(url))
    conn.say("commit")
    conn.say(f"analyze {', '.join(copied.rows)}")
    return copied


def _copy_table(table: Table, source: SqliteConnection, conn: PostgresConnection, path: Path) -> int:
    conn.say(f"alter table {table.name} disable trigger user; delete from {table.name}")
    with (
        _naming(table, path),
        conn.raw.cursor() as cursor,
        cursor.copy(f"copy {table.name} ({', '.join(table.columns)}) from stdin".encode()) as into,
    ):
        for row in source.each(table.all):
            into.write_row(_held(table, row, path))
    conn.say(f"alter table {table.name} enable trigger user")
    return compared(table, source, conn, path)


def _held(table: Table, row: Row, path: Path) -> Row:
    if any(isinstance(value, bytes) for value in row):
        msg = (
            f"A row of the table {table.name} of {path} cannot be read: restore a copy, see `startflow store check`."
            " Nothing was changed."
        )
        raise StoreUnusable(msg)
    return row


@contextmanager
def _naming(table: Table, path: Path) -> Iterator[None]:
    """Says of which table a row is that PostgreSQL does not take."""
    try:
        yield
    except psycopg.DataError as error:
        msg = (
            f"PostgreSQL does not take a row of the table {table.name} of {path} ({name_of(error)}). Nothing was"
            " changed."
        )
        raise StoreUnusable(msg) from error
