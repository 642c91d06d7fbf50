"""What is copied between a file and PostgreSQL, table by table, and compared: either way, the same rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from gateway.store.engine import StoreUnusable
from gateway.store.moved import MOVED_TO
from gateway.store.postgres.timelines import IDENTITY, SYNCHRONOUS

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store.connecting import SqliteConnection
    from gateway.store.postgres.connecting import PostgresConnection

OF_A_LIFE = {"leases"}  # tables that say what a running gateway has: it runs no more
_BUT = {
    "meta": f" where key not in ('{MOVED_TO}', '{IDENTITY}', '{SYNCHRONOUS}')",
    "commits": " where head = (select max(head) from commits)",
}


@dataclass(slots=True)
class Copied:
    """What was copied: how many rows, by table. Nothing, if it had been copied before."""

    rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """A table that both engines have, with what its rows are known by."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def all(self) -> str:
        """Selects its rows, ordered by key, without what belongs to this place alone."""
        but = _BUT.get(self.name, "")
        return f"select {', '.join(self.columns)} from {self.name}{but} order by {', '.join(self.key)}"


def epoch_of(conn: SqliteConnection | PostgresConnection) -> str:
    """Reads which epoch a store is in."""
    return str(conn.one("select value from meta where key = 'epoch'")[0])


def tables_of(file: SqliteConnection, conn: PostgresConnection) -> list[Table]:
    """Lists what is copied."""
    names = file.rows(
        "select name from sqlite_master where type = 'table' and substr(name, 1, 1) <> '_' and name not like 'sqlite_%'"
        " order by name"
    )
    tables = []
    for (name,) in names:
        if name not in OF_A_LIFE:
            columns = tuple(str(each) for (each,) in file.rows("select name from pragma_table_info($1)", name))
            key = conn.rows(
                "select a.attname from pg_index i join unnest(i.indkey) with ordinality k(number, place) on true"
                " join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number"
                " where i.indrelid = to_regclass($1) and i.indisprimary order by k.place",
                name,
            )
            tables.append(Table(str(name), columns, tuple(str(each) for (each,) in key)))
    return tables


def compared(table: Table, file: SqliteConnection, conn: PostgresConnection, path: Path) -> int:
    """Counts the rows of a table; raises `StoreUnusable` if they are not the same in both."""
    count = 0
    for ours, theirs in zip_longest(file.each(table.all), conn.each(table.all)):
        if ours != theirs:
            msg = f"The table {table.name} is not in PostgreSQL as it is in {path}. Nothing was changed."
            raise StoreUnusable(msg)
        count += 1
    return count
