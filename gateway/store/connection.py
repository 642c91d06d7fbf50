"""The connection that every engine offers: statements with `$1`, `$2` … in them, and rows.

What is said is SQL that SQLite and PostgreSQL both speak, and these words beside it, which an engine turns into its
own:

- `with moved(id text, at bigint) as ($rows) …`: rows that `over` hands in. The types are PostgreSQL's.
- `in ($2...)`, `not in ($2...)`, `each_of($2) wanted`: the second parameter is a list; `wanted.value` is one of it.
- `field_of(s.asked, 'schedule')`, `label_of(s.asked, $1)`: a number or a text out of a column of JSON; null where it is
  no JSON, or has no such thing.
- `length_of(body)`, `texts_in(body)`, `entries_of(s.tally, 'd') j`: how long an array is (0 of what is none); how many
  texts are anywhere in it; the entries of an object in it, as `j.key` and `j.value`. Null, or none, where it is no
  JSON.
- `list_of(id)`: the values of all rows, as JSON text; null or `[]` if there are none.
- `PENDING`, `HELD`, `TO_END` …: the number that the word stands for in `states.py`.
- `least`, `greatest`: of values that are not null.
- `now_of_store()`: microseconds since 1970, by the clock of the host that has the store.
- `/*by INDEX*/` behind a table, `/*first*/ join`, `/*unled*/`: for an engine that must be told by which index to go,
  that the table on the left leads to the one on the right, or that an index does not help. Else they are comments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Row: TypeAlias = "tuple[Any, ...]"


class Connection(Protocol):
    """A connection in a transaction."""

    @property
    def in_transaction(self) -> bool:
        """Whether the transaction is still there: a full disk may have rolled it back."""

    def rows(self, sql: str, /, *values: Any) -> list[Row]:  # noqa: ANN401 -- whatever a column holds
        """Runs a statement, and returns its rows."""

    def row(self, sql: str, /, *values: Any) -> Row | None:  # noqa: ANN401 -- as above
        """Runs a statement, and returns its first row, or None."""

    def one(self, sql: str, /, *values: Any) -> Row:  # noqa: ANN401 -- as above
        """Runs a statement that always has a row, and returns it."""

    def each(self, sql: str, /, *values: Any) -> Iterator[Row]:  # noqa: ANN401 -- as above
        """Runs a statement, and yields its rows, which may be too many to have them all at once."""

    def run(self, sql: str, /, *values: Any) -> int:  # noqa: ANN401 -- as above
        """Runs a statement, and returns how many rows it has changed."""

    def over(self, sql: str, rows: Sequence[Row], /) -> list[Row]:
        """Runs a statement over rows of one width, in parts; returns the rows of all of them."""

    def at_once(self, sql: str, rows: Sequence[Row], /, otherwise: str) -> int | None:
        """Inserts rows by a statement that belongs to the tail of a transaction, if nobody else gives revisions now.

        Returns how many it has inserted; None where others can give some: then it has to wait for the tail.
        """

    def until(self, is_over: Callable[[], bool] | None) -> None:
        """Ends statements early from here on, within a while, once nobody waits for them; None: no more."""

    def insert(self, into: str, rows: Sequence[Row], /, otherwise: str = "") -> int:
        """Inserts rows of one width; `into` names the table and its columns, `otherwise` says `on conflict …`.

        Returns how many rows it has inserted or changed.
        """


class Values:
    """The values of a statement that is put together."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    @property
    def next(self) -> str:
        """The place of the value that comes behind them."""
        return f"${len(self.all) + 1}"

    def put(self, value: Any) -> str:  # noqa: ANN401 -- as above
        """Adds a value; returns its place in the statement."""
        self.all.append(value)
        return f"${len(self.all)}"
