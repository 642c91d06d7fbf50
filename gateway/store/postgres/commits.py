"""How PostgreSQL commits: one message that gives revisions and commits, and what is done when its answer is lost.

Rules:

1. A batch takes its number first: `lives` says which is the newest that its life has committed.
2. The message locks the turnstile, and only then gives revisions, by statements that each see what was committed
   before. So revisions are in commit order, and nobody holds the lock while a client thinks.
3. If the answer to the message is lost, no read decides. The same number is taken once more: that waits for the
   transaction that has it, and finds out whether it was committed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
import structlog
from psycopg import errors

from gateway.store.postgres.refusals import StoreLost, down
from gateway.store.transaction import NEWEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.store.committing import Down
    from gateway.store.postgres.connecting import PostgresConnection
    from gateway.store.transaction import Tail

log = structlog.get_logger()

ASKED_FOR = 20.0  # seconds in which it is asked again and again what became of a commit
PAUSE = 0.2
_CONFLICTS = (
    errors.UniqueViolation,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
)


class PostgresCommits:
    """The connection that writes. On the writer's thread."""

    def __init__(self, connect: Callable[[], PostgresConnection], incarnation: int, head: int) -> None:
        self._connect = connect
        self._conn = connect()
        self._incarnation = incarnation
        self._batch = 0
        self._head = head
        self.woken: Callable[[], None] = _nobody

    def begin(self) -> PostgresConnection:
        """Begins a transaction. Gives the store up if another gateway has taken it over."""
        if self._conn.raw.closed:
            self._conn = self._connect()
        if not self._take_number(self._conn):
            self.roll_back()
            msg = "The store is not ours any more: another gateway has taken it over since. Restart this one."
            raise StoreLost(msg)
        return self._conn

    def _take_number(self, conn: PostgresConnection) -> bool:
        """Begins a transaction by taking the next number for it; returns whether that was to be had."""
        conn.raw.execute("begin")
        return bool(
            conn.run(
                "update lives set batch = $1 where incarnation = $2 and batch = $1 - 1",
                self._batch + 1,
                self._incarnation,
            )
        )

    def commit(self, tail: Tail) -> int:
        """Ends it with the statements that give revisions, and commits it; returns the newest one before those."""
        message = ended(self._conn, tail, self._incarnation, self._batch + 1) if tail.count else "commit"
        try:
            cursor = self._conn.raw.execute(message.encode())
        except psycopg.OperationalError as error:
            if not self._conn.raw.broken:
                raise
            before = self._resolved(tail, error)
        else:
            before = head_in(cursor) if tail.count else self._head
        self._batch += 1
        self._head = before + tail.count
        return before

    def _resolved(self, tail: Tail, error: psycopg.OperationalError) -> int:
        """Finds out whether what was lost is committed; returns the newest revision before it, or raises the error."""
        log.warning("commit_unanswered", batch=self._batch + 1, revisions=tail.count)
        until = time.monotonic() + ASKED_FOR
        while True:
            try:
                conn = self._conn = self._connect()
                was_committed = not self._take_number(conn)
                found = was_committed and conn.row(
                    "select head from commits where incarnation = $1 and batch = $2", self._incarnation, self._batch + 1
                )
                self.roll_back()
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(PAUSE)
                continue
            if not was_committed:
                raise error
            return int(found[0]) - tail.count if found else self._head

    def confirm(self) -> None:
        """Raises nothing: what PostgreSQL has committed is committed."""

    def roll_back(self) -> None:
        """Takes back what was not committed, if there is something."""
        if self._conn.raw.closed:
            return
        try:
            if self._conn.in_transaction:
                self._conn.raw.execute("rollback")
        except psycopg.Error:
            self._conn.raw.close()

    def end(self) -> None:
        """Closes the connection."""
        self._conn.raw.close()

    def is_own(self, error: Exception) -> bool:
        """Whether an error is that of the operation that raised it, and says nothing about the store."""
        return isinstance(error, psycopg.IntegrityError | psycopg.DataError | psycopg.ProgrammingError) or (
            down(error) is None
        )

    def is_conflict(self, error: Exception, /) -> bool:
        """Whether an error comes of what others wrote meanwhile: the same may work when it is tried again."""
        return isinstance(error, _CONFLICTS)

    def down(self, error: Exception) -> Down | None:
        """Says what is wrong with the store, if an error is one of it."""
        return down(error)

    def between(self) -> float | None:
        """Has nothing to do between two transactions."""
        return None


def ended(conn: PostgresConnection, tail: Tail, incarnation: int, batch: int) -> str:
    """Writes the message that gives revisions and commits them. Its second answer is the newest one before those."""
    return ";\n".join(
        (
            "select from turnstile for update",
            f"select {NEWEST}",  # by itself: in the statement that waits for the lock it would be stale
            *(conn.literally(statement, rows) for statement, rows in tail.statements if rows),
            f"insert into commits (head, incarnation, batch) values ({NEWEST} + {tail.count}, {incarnation}, {batch})",
            f"delete from commits where incarnation = {incarnation} and batch < {batch}",
            "commit",
        )
    )


def head_in(cursor: psycopg.Cursor[tuple[object, ...]]) -> int:
    """Reads the newest revision out of the answers to such a message."""
    cursor.nextset()
    (head,) = cursor.fetchone() or (0,)
    assert isinstance(head, int)
    return head


def _nobody() -> None:
    """Is told as long as there is no writer."""
