"""Connections to PostgreSQL: what each of them is like, and how they say what `connection.py` says."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import TransactionStatus
from psycopg.types.string import TextLoader

from gateway.store.states import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gateway.store.connection import Row

CONNECT_SECONDS = 10
SETTINGS = {  # of every session, in milliseconds: whoever stands still with a lock gives it up
    "idle_in_transaction_session_timeout": "5000",
    "lock_timeout": "10000",
    "statement_timeout": "60000",
}
_PLAIN = frozenset({int, str, float, bytes, type(None)})
_NAMED = re.compile(r"\b(?<!')[A-Z][A-Z_]+\b(?!')")
_ROWS = re.compile(r"^with (\w+)\(([^()]*)\) as \(\$rows\)")
_INTO = re.compile(r"^(\w+) \((.*)\)$")
_WORDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"(\S+) not in \((\$\d+)\.\.\.\)", r"\1 <> all(\2)"),
        (r"(\S+) in \((\$\d+)\.\.\.\)", r"\1 = any(\2)"),
        (r"\beach_of\((\$\d+)\) (\w+)", r"unnest(\1::text[]) as \2(value)"),
        (r"\blist_of\(", "json_agg("),
    )
)


class PostgresConnection:
    """A connection that takes what `connection.py` says and turns it into PostgreSQL's words."""

    def __init__(self, raw: psycopg.Connection[Row]) -> None:
        self.raw = raw
        self._types: dict[str, dict[str, str]] = {}  # of columns, by table

    @property
    def in_transaction(self) -> bool:
        """Whether the transaction is still there."""
        status = self.raw.info.transaction_status
        return status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)

    def rows(self, sql: str, /, *values: Any) -> list[Row]:  # noqa: ANN401 -- whatever a column holds
        """Runs a statement, and returns its rows."""
        return self._said(in_postgres(sql), values).fetchall()

    def row(self, sql: str, /, *values: Any) -> Row | None:  # noqa: ANN401 -- as above
        """Runs a statement, and returns its first row, or None."""
        return self._said(in_postgres(sql), values).fetchone()

    def one(self, sql: str, /, *values: Any) -> Row:  # noqa: ANN401 -- as above
        """Runs a statement that always has a row, and returns it."""
        row = self._said(in_postgres(sql), values).fetchone()
        assert row is not None
        return row

    def each(self, sql: str, /, *values: Any) -> Iterator[Row]:  # noqa: ANN401 -- as above
        """Runs a statement, and yields its rows."""
        yield from self._said(in_postgres(sql), values)

    def run(self, sql: str, /, *values: Any) -> int:  # noqa: ANN401 -- as above
        """Runs a statement, and returns how many rows it has changed."""
        return self._said(in_postgres(sql), values).rowcount

    def over(self, sql: str, rows: Sequence[Row], /) -> list[Row]:
        """Runs a statement over rows of one width; returns the rows of it."""
        if not rows:
            return []
        cursor = self._said(_over_rows(sql), _columns(rows))
        return [] if cursor.description is None else cursor.fetchall()

    def at_once(self, _sql: str, _rows: Sequence[Row], /, otherwise: str) -> None:
        """Leaves it to the tail: others give revisions meanwhile."""

    def until(self, is_over: Callable[[], bool] | None) -> None:
        """Ends statements early from here on; only by `statement_timeout`."""

    def insert(self, into: str, rows: Sequence[Row], /, otherwise: str = "") -> int:
        """Inserts rows of one width; returns how many it has inserted or changed."""
        if not rows:
            return 0
        sql = f"insert into {into} select * from unnest({self._unnested(into)}) {otherwise}"
        return self._said(in_postgres(sql), _columns(rows)).rowcount

    def literally(self, sql: str, rows: Sequence[Row]) -> str:
        """Writes a statement over rows out, with what is in the rows, as a part of a longer text."""
        write = Transformer(self.raw).as_literal
        literals = [write(column).decode() for column in _columns(rows)]
        return re.sub(r"\$(\d+)(?=::)", lambda place: literals[int(place[1]) - 1], _over_rows(sql))

    def _said(self, sql: str, values: Sequence[Any]) -> psycopg.RawCursor[Row]:
        plain = [value if type(value) in _PLAIN else _plain(value) for value in values]
        return psycopg.RawCursor(self.raw).execute(sql.encode(), plain)

    def _unnested(self, into: str) -> str:
        """Names the types of the columns that rows are inserted into, as the arrays that they come in."""
        named = _INTO.match(into)
        assert named is not None
        table = named[1]
        if table not in self._types:
            found = self.rows(
                "select attname, format_type(atttypid, null) from pg_attribute"
                " where attrelid = to_regclass($1) and attnum > 0",
                table,
            )
            self._types[table] = dict(found)
        types = [self._types[table][column.strip()] for column in named[2].split(",")]
        return ", ".join(f"${place}::{each}[]" for place, each in enumerate(types, 1))


def connect(url: str, **settings: str) -> PostgresConnection:
    """Connects; raises what psycopg does if that cannot be."""
    asked = "".join(f" -c {name}={value}" for name, value in (SETTINGS | settings).items())
    params = psycopg.conninfo.conninfo_to_dict(url)
    params["options"] = str(params.get("options") or "") + asked
    params.setdefault("connect_timeout", CONNECT_SECONDS)
    params.setdefault("application_name", "startflow")
    params["client_encoding"] = "utf8"
    raw = psycopg.connect(autocommit=True, **params)  # type: ignore[arg-type]
    raw.adapters.register_loader("json", TextLoader)  # as it is in rows
    return PostgresConnection(raw)


@lru_cache(maxsize=2_000)
def in_postgres(sql: str) -> str:
    """Turns a statement into PostgreSQL's words. See `connection.py` for what they stand for."""
    for pattern, words in _WORDS:
        sql = pattern.sub(words, sql)
    return _NAMED.sub(lambda word: str(NAMES.get(word[0], word[0])), sql)


@lru_cache(maxsize=2_000)
def _over_rows(sql: str) -> str:
    return in_postgres(_ROWS.sub(_unnest, sql, count=1))


def _unnest(head: re.Match[str]) -> str:
    columns = [column.split() for column in head[2].split(",")]
    arrays = ", ".join(f"${place}::{kind}[]" for place, (_, kind) in enumerate(columns, 1))
    return f"with {head[1]}({', '.join(name for name, _ in columns)}) as (select * from unnest({arrays}))"


def _columns(rows: Sequence[Row]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _plain(value: Any) -> Any:  # noqa: ANN401 -- whatever a statement is told
    """Returns a value as one of the plain types: psycopg writes an enum by its name."""
    if isinstance(value, list | tuple | frozenset | set):
        return [each if type(each) in _PLAIN else _plain(each) for each in value]
    if isinstance(value, int):
        return int(value)
    return str(value) if isinstance(value, str) else value
