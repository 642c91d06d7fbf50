"""Connections to the store's file: what each of them is like."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from gateway.store.states import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from gateway.store.connection import Row

STEPS = 50_000  # of SQLite's machine, a few milliseconds, between looks whether somebody still waits
AT_ONCE = 64  # rows in one statement, at the most
_NAMES = tuple(str(number) for number in range(1, 100))
_NAMED = re.compile(r"\b(?<!')[A-Z][A-Z_]+\b(?!')")
_TYPES = re.compile(r"^with (\w+)\(([^()]*)\) as \(\$rows\)")
_WORDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"/\*by (\w+)\*/", r"indexed by \1"),
        (r"/\*first\*/ join", "cross join"),
        (r"/\*unled\*/ ", "+"),
        (r"in \((\$\d+)\.\.\.\)", r"in (select value from json_each(\1))"),
        (r"\beach_of\(", "json_each("),
        (r"\bleast\(", "min("),
        (r"\bgreatest\(", "max("),
        (r"\bfield_of\(([\w.]+), '([\w.\"]+)'\)", r"iif(json_valid(\1), json_extract(\1, '$.\2'), null)"),
        (
            r"\blabel_of\(([\w.]+), (\$\d+)\)",
            r"""iif(json_valid(\1), json_extract(\1, '$.labels."' || \2 || '"'), null)""",
        ),
        (r"\blength_of\(([\w.]+)\)", r"iif(json_valid(\1), json_array_length(\1), null)"),
        (r"\bentries_of\(([\w.]+), '(\w+)'\)", r"json_each(iif(json_valid(\1), \1, '{}'), '$.\2')"),
        (
            r"\btexts_in\(([\w.]+)\)",
            r"iif(json_valid(\1), (select count(*) from json_tree(\1) where type = 'text'), null)",
        ),
        (r"\blist_of\(", "json_group_array("),
        (r"\bnow_of_store\(\)", "cast(strftime('%s', 'now') as integer) * 1000000"),
        (r"\bis not distinct from\b", "is"),  # which SQLite before 3.39 does not know
        (r"\bis distinct from\b", "is not"),
    )
)


class SqliteConnection(sqlite3.Connection):
    """A connection of the standard library, that takes what `connection.py` says and turns it into SQLite's words."""

    def rows(self, sql: str, /, *values: Any) -> list[Row]:  # noqa: ANN401 -- whatever a column holds
        """Runs a statement, and returns its rows."""
        return self._said(sql, values).fetchall()

    def row(self, sql: str, /, *values: Any) -> Row | None:  # noqa: ANN401 -- as above
        """Runs a statement, and returns its first row, or None."""
        row: Row | None = self._said(sql, values).fetchone()
        return row

    def one(self, sql: str, /, *values: Any) -> Row:  # noqa: ANN401 -- as above
        """Runs a statement that always has a row, and returns it."""
        row: Row = self._said(sql, values).fetchone()
        return row

    def each(self, sql: str, /, *values: Any) -> Iterator[Row]:  # noqa: ANN401 -- as above
        """Runs a statement, and yields its rows."""
        return self._said(sql, values)

    def run(self, sql: str, /, *values: Any) -> int:  # noqa: ANN401 -- as above
        """Runs a statement, and returns how many rows it has changed."""
        return self._said(sql, values).rowcount

    def over(self, sql: str, rows: Sequence[Row], /) -> list[Row]:
        """Runs a statement over rows of one width, in parts; returns the rows of all of them."""
        return [row for cursor in self._over(sql, rows) for row in cursor.fetchall()]

    def at_once(self, sql: str, rows: Sequence[Row], /, otherwise: str) -> int:
        """Inserts rows by a statement of the tail: a transaction that writes has the file to itself."""
        # `rowcount` does not count what begins with `with`.
        said = f"{sql} {otherwise}"
        return sum(int(self.execute("select changes()").fetchone()[0]) for _ in self._over(said, rows))

    def until(self, is_over: Callable[[], bool] | None) -> None:
        """Ends statements early from here on, within a while, once nobody waits for them; None: no more."""
        self.set_progress_handler(is_over, STEPS)  # `interrupt` might end the read after this one

    def insert(self, into: str, rows: Sequence[Row], /, otherwise: str = "") -> int:
        """Inserts rows of one width; returns how many it has inserted or changed."""
        return sum(cursor.rowcount for cursor in self._over(f"insert into {into} $rows {otherwise}", rows))

    def _said(self, sql: str, values: Row) -> sqlite3.Cursor:
        """Runs a statement with the values of `$1`, `$2` …, which SQLite takes for names."""
        said = in_sqlite(sql)
        if not values:
            return self.execute(said)
        if "json_each($" in said:  # it takes lists
            values = tuple(json.dumps(value) if isinstance(value, list) else value for value in values)
        return self.execute(said, dict(zip(_NAMES, values, strict=False)))

    def _over(self, sql: str, rows: Sequence[Row]) -> Iterator[sqlite3.Cursor]:
        """Runs a statement over rows, as many at a time as go in one.

        Few statements do it, because each step of one gives the interpreter away, and may wait for long to have it
        back.
        """
        while rows:
            count = min(AT_ONCE, 1 << (len(rows).bit_length() - 1))  # powers of two: statements are few and known
            said = _over_rows(sql, count, len(rows[0]))
            yield self.execute(said, tuple(chain.from_iterable(rows[:count])))
            rows = rows[count:]


@lru_cache(maxsize=2_000)
def in_sqlite(sql: str) -> str:
    """Turns a statement into SQLite's words. See `connection.py` for what they stand for."""
    for pattern, words in _WORDS:
        sql = pattern.sub(words, sql)
    return _NAMED.sub(lambda word: str(NAMES.get(word[0], word[0])), sql)


@lru_cache(maxsize=2_000)
def _over_rows(sql: str, rows: int, width: int) -> str:
    marks = ",".join([f"({','.join('?' * width)})"] * rows)
    return in_sqlite(_TYPES.sub(_untyped, sql, count=1)).replace("$rows", f"values {marks}")


def _untyped(head: re.Match[str]) -> str:
    return f"with {head[1]}({', '.join(column.split()[0] for column in head[2].split(','))}) as ($rows)"


def text_of(data: bytes) -> str | bytes:
    """Turns what a column holds into text; leaves it as it is if it is none, which only damage makes.

    Reading that raises one of `rows.UNREADABLE`, for its own row alone: sqlite3 would give up on the whole statement.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def connect(path: Path) -> SqliteConnection:
    """Opens the file to write; makes one that only its owner can read if there is none."""
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # personal data: nobody else reads it
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0, factory=SqliteConnection)
    return _set_up(
        conn,
        "journal_mode = wal",
        "synchronous = full",
        "foreign_keys = on",
        "secure_delete = on",  # what is erased is overwritten: it does not stay in free pages
    )


def connect_to_read(path: Path) -> SqliteConnection:
    """Opens a file that is there. Such a connection makes none, and never folds a log into one."""
    conn = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=5.0,
        factory=SqliteConnection,
    )
    return _set_up(conn, "synchronous = full", "foreign_keys = on", "query_only = on")


def _set_up(conn: SqliteConnection, *pragmas: str) -> SqliteConnection:
    """Says what a new connection is like. Closes it if the file does not let that be."""
    conn.text_factory = text_of
    try:
        for pragma in pragmas:
            conn.execute(f"pragma {pragma}")
    except BaseException:
        conn.close()
        raise
    return conn
