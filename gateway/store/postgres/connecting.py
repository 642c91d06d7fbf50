"""Connections to PostgreSQL: what each of them is like, and how they say what `connection.py` says.

Each answer that is waited for costs as much as what is asked, so nothing is asked by itself that can be said together.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.types.string import TextLoader

from gateway.store.states import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from gateway.store.connection import Row

T = TypeVar("T")

DEFAULTS = {  # of an address that does not say otherwise; a server whose machine is gone is noticed within a minute
    "application_name": "startflow",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
PREPARED = 1_000  # statements that a connection keeps: more than there are
AT_ONCE = 1_000  # rows that are fetched together of those that may be too many
SETTINGS = {  # of every session
    "idle_in_transaction_session_timeout": "5000",  # milliseconds: a client that stands still gives its locks up
    "lock_timeout": "10000",
    "statement_timeout": "60000",
    "enable_seqscan": "off",  # every statement has its index, and what was counted is old while much is recorded
    "random_page_cost": "1.1",
    "jit": "off",  # before PostgreSQL 18 a plan without an index, of a few rows, counts as so dear that it is compiled
}
_PLAIN = frozenset({int, float, bytes, type(None)})
_NUL = "\0"  # which PostgreSQL's texts cannot have. What has one is found by nobody, and a backend's words lose it
_NAMED = re.compile(r"\b(?<!')[A-Z][A-Z_]+\b(?!')")
_ROWS = re.compile(r"^with (\w+)\(([^()]*)\) as \(\$rows\)")
_INTO = re.compile(r"^(\w+) \((.*)\)$")
_WORDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"/\*unled\*/ (s\.tenant|d\.start_id)", r"(\1 || '')"),
        (r"/\*unled\*/ (\S+)", r"(\1 + 0)"),
        (r"\b((?:\w+\.)?account) is not distinct from (\$\d+)", r"coalesce(\1, '') = coalesce(\2, '')"),
        (r"\baccount (=|>) (\$\d+)(?=\s+and accepted_at)", r"coalesce(account, '') \1 \2"),  # as it is indexed
        (r"(accepted_at is not null order by) account\b", r"\1 coalesce(account, '')"),
        (r"/\*by dispatches_waiting\*/ where", "where start_id > '' and"),  # which is what leads to that index
        (r"(\S+) not in \((\$\d+)\.\.\.\)", r"\1 <> all(\2)"),
        (r"(\S+) in \((\$\d+)\.\.\.\)", r"\1 = any(\2)"),
        (r"\beach_of\((\$\d+)\) (\w+)", r"unnest(\1::text[]) as \2(value)"),
        (r"\blist_of\(", "json_agg("),
        (r"\bnow_of_store\(\)", "(extract(epoch from clock_timestamp()) * 1000000)::bigint"),
    )
)


class Interruptible(psycopg.Connection[Any]):
    """A connection whose statements end early once nobody waits for them."""

    is_over: Callable[[], bool] | None = None
    is_interrupted = False

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:  # noqa: ANN401 -- psycopg's own
        """Waits for an answer; every tenth of a second it looks whether anybody wants it."""
        return super().wait(gen if self.is_over is None else self._watched(gen), *args, **kwargs)

    def _watched(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        ready = None
        try:
            while True:
                ready = yield gen.send(ready)
                if not ready and not self.is_interrupted and self.is_over is not None and self.is_over():
                    self.is_interrupted = True
                    self.cancel()
        except StopIteration as ended:
            result: T = ended.value
            return result


class PostgresConnection:
    """A connection that takes what `connection.py` says and turns it into PostgreSQL's words."""

    def __init__(self, raw: Interruptible) -> None:
        self.raw = raw
        self._cursor = psycopg.RawCursor[Any](raw)  # one for all: what it holds is taken at once
        self._streams = 0
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
        self._streams += 1
        with psycopg.RawServerCursor[Any](self.raw, f"stream_{self._streams}") as cursor:
            cursor.itersize = AT_ONCE
            yield from cursor.execute(in_postgres(sql).encode(), _plainly(values))

    def run(self, sql: str, /, *values: Any) -> int:  # noqa: ANN401 -- as above
        """Runs a statement, and returns how many rows it has changed."""
        return self._said(in_postgres(sql), values).rowcount if values else self.say(in_postgres(sql))

    def say(self, statements: str) -> int:
        """Says statements without values in one message; returns how many rows the last one has changed."""
        result = self.raw.pgconn.exec_(statements.encode())
        if result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            return result.command_tuples or 0
        if self.raw.pgconn.status == ConnStatus.BAD:
            raise errors.OperationalError(result.get_error_message())
        raise errors.error_from_result(result)

    def over(self, sql: str, rows: Sequence[Row], /) -> list[Row]:
        """Runs a statement over rows of one width; returns the rows of it."""
        if not rows:
            return []
        cursor = self._said(_over_rows(sql), _columns(rows))
        return [] if cursor.description is None else cursor.fetchall()

    def at_once(self, _sql: str, _rows: Sequence[Row], /, otherwise: str) -> None:
        """Leaves it to the tail: others give revisions meanwhile."""

    def until(self, is_over: Callable[[], bool] | None) -> None:
        """Ends statements early from here on, within a while, once nobody waits for them; None: no more."""
        self.raw.is_over = is_over
        if is_over is None and self.raw.is_interrupted:
            self.raw.close()  # it might end the next one instead

    def insert(self, into: str, rows: Sequence[Row], /, otherwise: str = "") -> int:
        """Inserts rows of one width; returns how many it has inserted or changed."""
        if not rows:
            return 0
        sql = f"insert into {into} select * from unnest({self._unnested(into)}) {otherwise}"
        return self._said(in_postgres(sql), _columns(rows)).rowcount

    def literally(self, sql: str, rows: Sequence[Row]) -> str:
        """Writes a statement over rows out, with what is in the rows, as a part of a longer text."""
        write = Transformer(self.raw).as_literal
        literals = [write(column).decode() for column in _plainly(_columns(rows))]
        return re.sub(r"\$(\d+)(?=::)", lambda place: literals[int(place[1]) - 1], _over_rows(sql))

    def _said(self, sql: str, values: Sequence[Any]) -> psycopg.RawCursor[Row]:
        return self._cursor.execute(sql.encode(), _plainly(values))

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
    params = DEFAULTS | psycopg.conninfo.conninfo_to_dict(url) | {"client_encoding": "utf8"}
    raw = Interruptible.connect(autocommit=True, **params)  # type: ignore[arg-type]
    raw.adapters.register_loader("json", TextLoader)  # as it is in rows
    raw.prepared_max = PREPARED
    conn = PostgresConnection(raw)
    try:  # not by `options`: a pooler refuses those
        conn.say(";".join(f"set {name} = {value}" for name, value in (SETTINGS | settings).items()))
    except psycopg.Error:
        raw.close()
        raise
    return conn


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


def _plainly(values: Sequence[Any]) -> list[Any]:
    return [value if type(value) in _PLAIN else _plain(value) for value in values]


def _plain(value: Any) -> Any:  # noqa: ANN401 -- whatever a statement is told
    """Returns a value as one of the plain types, without NUL: psycopg writes an enum by its name."""
    if isinstance(value, str):
        return _without_nul(value)
    if isinstance(value, list | tuple | frozenset | set):
        return "{" + ",".join([_element(each) for each in value]) + "}"
    return int(value) if isinstance(value, int) else value


def _element(value: Any) -> str:  # noqa: ANN401 -- as above
    """Writes one of an array, as PostgreSQL reads it.

    psycopg escapes each quote by a regular expression, which for JSON takes most of a commit's processor time.
    """
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    if isinstance(value, str):
        text = _without_nul(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'
    return str(value if isinstance(value, float) else int(value))


def _without_nul(text: str) -> str:
    return text.replace(_NUL, "\ufffd") if _NUL in text else str(text)
