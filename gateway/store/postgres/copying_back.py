"""Copies a store from PostgreSQL into a file, once no gateway serves from it: what `copying.py` does, the other way.

Rules:

1. The file gets its name when every row is in it and compared, so there is nothing half copied.
2. The database is marked as moved before that. So there is no moment in which both could be served from; a copy that
   was cut short between the two is made again.
3. A gateway that was only suspended loses its life as well, so it records nothing when it goes on.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg

from gateway.store.copies import make, opened
from gateway.store.engine import StoreUnusable
from gateway.store.moved import mark_moved, moved_to
from gateway.store.postgres.engine import reach
from gateway.store.postgres.migrations import refuse_others
from gateway.store.postgres.refusals import named, why_not_made
from gateway.store.postgres.restored import begin_alone
from gateway.store.postgres.tables import Copied, compared, epoch_of, tables_of

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store.connecting import SqliteConnection
    from gateway.store.postgres.connecting import PostgresConnection
    from gateway.store.postgres.tables import Table


def copy_back(url: str, path: Path) -> Copied:
    """Copies a store from a database into a new file. The database is marked, and nobody serves from it any more.

    Raises `StoreUnusable` if either cannot be used, `StoreInUse` if a gateway serves from the database.
    """
    conn = reach(url)
    with closing(conn.raw):
        try:
            refuse_others(conn, url)
            conn.say("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
            begin_alone(conn, url)
            return _copied(conn, url, path)
        except psycopg.Error as error:
            raise StoreUnusable(why_not_made(url, error)) from error


def _copied(conn: PostgresConnection, url: str, path: Path) -> Copied:
    place = f"sqlite:///{path.resolve()}"
    if (there := moved_to(conn)) not in (None, place):
        msg = f"The store {named(url)} was moved to {there} already. Nothing was changed."
        raise StoreUnusable(msg)
    if there is not None and path.exists():
        with opened(path) as found:
            if epoch_of(found) == epoch_of(conn):
                return Copied()

    def fill(file: SqliteConnection) -> Copied:
        return Copied({table.name: _copy_table(table, file, conn, path) for table in tables_of(file, conn)})

    def agree() -> None:
        mark_moved(conn, place)
        conn.say("commit")

    return make(path, fill, agree)


def _copy_table(table: Table, file: SqliteConnection, conn: PostgresConnection, path: Path) -> int:
    file.execute(f"delete from {table.name}")
    places = ", ".join("?" for _ in table.columns)
    file.executemany(f"insert into {table.name} ({', '.join(table.columns)}) values ({places})", conn.each(table.all))
    return compared(table, file, conn, path)
