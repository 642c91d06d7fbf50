"""How PostgreSQL commits: one message that gives revisions and commits, and what is done when its answer is lost.

Rules:

1. A batch takes its number first: `lives` says which is the newest that its life has committed.
2. Whoever moves what is there waits at a turnstile of its own until nobody else does, and then reads what those have
   left. New starts move nothing, so they wait for nobody.
3. The message locks the turnstile, and only then gives revisions, by statements that each see what was committed
   before. So revisions are in commit order, and nobody holds the lock while a client thinks.
4. If the answer to the message is lost, no read decides. The same number is taken once more: that waits for the
   transaction that has it, and finds out whether it was committed. Until then nothing else is written.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
import structlog
from psycopg import errors

from gateway.store.engine import Unanswered
from gateway.store.postgres.refusals import StoreLost, down
from gateway.store.transaction import NEWEST, RolledBack

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.store.engine import Down
    from gateway.store.postgres.connecting import PostgresConnection
    from gateway.store.transaction import Tail

log = structlog.get_logger()

ASKED_FOR = 3.0  # seconds in which it is asked again and again what became of a commit, before its callers are told
PAUSE = 0.2
WAITED_FOR = "2s"  # for the end of a transaction whose server process is still there, each time it is asked
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
        self._open: Tail | None = None  # of the commit that was `Unanswered`
        self.woken: Callable[[], None] = _nobody

    def begin(self, *, moves: bool) -> PostgresConnection:
        """Begins a transaction; one that `moves` waits for others that do. Gives the store up if it is gone."""
        if self._conn.raw.closed:
            self._conn = self._connect()
        if not self._take_number(self._conn):
            self.roll_back()
            raise _lost()
        if moves:
            self._conn.rows("select from turnstile where one = 2 for update")
        return self._conn

    def _take_number(self, conn: PostgresConnection, wait: str = "") -> bool:
        """Begins a transaction by taking the next number for it; returns whether that was to be had."""
        patience = f"set local lock_timeout = '{wait}';" if wait else ""
        taken = f"update lives set batch = batch + 1 where incarnation = {self._incarnation} and batch = {self._batch}"
        return bool(conn.say(f"begin; {patience} {taken}"))

    def commit(self, tail: Tail) -> int:
        """Ends it with the statements that give revisions, and commits it; returns the newest one before those."""
        message = ended(self._conn, tail, self._incarnation, self._batch + 1) if tail.count else "commit"
        try:
            cursor = self._conn.raw.execute(message.encode())
        except psycopg.Error as error:
            if not self._conn.raw.broken:
                raise
            log.warning("commit_unanswered", batch=self._batch + 1, revisions=tail.count)
            before = self._became(tail, error)
            if before is None:
                raise
        else:
            before = head_in(cursor) if tail.count else self._head
        self._is_committed(before, tail)
        return before

    def _is_committed(self, before: int, tail: Tail) -> None:
        self._batch += 1
        self._head = before + tail.count

    def _became(self, tail: Tail, error: psycopg.Error) -> int | None:
        """Finds out what became of a commit, for as long as its callers can well wait."""
        until = time.monotonic() + ASKED_FOR
        while True:
            try:
                return self._ask(tail)
            except (psycopg.OperationalError, StoreLost):
                if time.monotonic() > until:
                    self._open = tail
                    raise Unanswered(*error.args) from error
                time.sleep(PAUSE)

    def became(self) -> int | None:
        """Finds out what became of the commit that was `Unanswered`."""
        if (tail := self._open) is None:
            return None
        before = self._ask(tail)
        self._open = None
        if before is not None:
            self._is_committed(before, tail)
        return before

    def _ask(self, tail: Tail) -> int | None:
        """Returns the newest revision before a commit without an answer; None if it is not committed."""
        self._conn.raw.close()
        conn = self._conn = self._connect()
        try:
            taken = self._take_number(conn, wait=WAITED_FOR)
            if taken:
                return None
            # Written anew, so that it is on the standbys that are waited for: it stands behind the one asked about.
            if not conn.run("update lives set batch = batch where incarnation = $1", self._incarnation):
                raise _lost()
            found = conn.row(
                "select head from commits where incarnation = $1 and batch = $2", self._incarnation, self._batch + 1
            )
            conn.raw.execute("commit")
        finally:
            self.roll_back()
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
        if isinstance(error, RolledBack):
            return False
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
    """Writes the message that gives revisions and commits them. Its third answer is the newest one before those."""
    return ";\n".join(
        (
            "set local statement_timeout = 0",  # or a commit that standbys do not confirm in time would count as done
            "select from turnstile where one = 1 for update",
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
    cursor.nextset()
    (head,) = cursor.fetchone() or (0,)
    assert isinstance(head, int)
    return head


def _lost() -> StoreLost:
    return StoreLost("The store is not ours any more: another gateway has taken it over since. Restart this one.")


def _nobody() -> None:
    """Is told as long as there is no writer."""
