"""How SQLite commits: whose files they are is looked at around each transaction, and its log is kept short."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import structlog

from gateway.errors import Reason, Unavailable
from gateway.store import reads
from gateway.store.engine import Down, Unanswered
from gateway.store.files import StoreLost
from gateway.store.gate import Gate
from gateway.store.transaction import RolledBack

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.store.connecting import SqliteConnection
    from gateway.store.files import Files
    from gateway.store.transaction import Tail

log = structlog.get_logger()

LOG_BOUND = 16 * 1024 * 1024  # bytes of the log, above which readers leave a gap in which it begins anew
CLOSED_PAUSE = 0.1  # seconds between looks whether the readers have left
_WORDS = {
    "SQLITE_FULL": ("its disk is full: ", "make room on the disk"),
    "SQLITE_NOMEM": ("memory is short: ", "give the gateway more of it"),
}


class SqliteCommits:
    """The connection that writes, and the gate by which readers come in. On the writer's thread, the gate aside."""

    def __init__(self, conn: SqliteConnection, files: Files, incarnation: int, log_bound: int) -> None:
        self._conn = conn
        self._files = files
        self._incarnation = str(incarnation)
        self._log_least = self._log_bound = log_bound
        self._log_size = 0
        self.woken: Callable[[], None] = _nobody
        self.gate = Gate(self._left)

    def begin(self, *, moves: bool) -> SqliteConnection:  # noqa: ARG002 -- nobody else writes
        """Begins a transaction. Gives the store up if another gateway has had it: a lock may have been removed."""
        self._files.check()
        self._conn.execute("begin immediate")
        (incarnation,) = self._conn.one("select value from meta where key = 'incarnation'")
        if incarnation != self._incarnation:
            self._files.condemn("another gateway has opened it since")
        return self._conn

    def _left(self) -> None:
        """Tells the writer that the readers have left."""
        self.woken()

    def commit(self, tail: Tail) -> int:
        """Ends it with the statements that give revisions, and commits it; returns the newest one before those."""
        head = end(self._conn, tail, int(self._incarnation))
        try:
            self._conn.execute("commit")
        except sqlite3.Error as error:
            if not _name(error).startswith("SQLITE_IOERR"):
                raise
            with contextlib.suppress(sqlite3.Error):
                self.roll_back()
            raise Unanswered from error
        return head

    def became(self) -> None:
        """Writes over what a commit that was not confirmed has left in the log: whoever opens the store may find it."""
        self.begin(moves=True)
        self._conn.execute("update meta set value = value where key = 'incarnation'")
        self._conn.execute("commit")

    def confirm(self) -> None:
        """Raises `StoreLost` if the files are not those that were opened."""
        self._log_size = self._files.check()

    def roll_back(self) -> None:
        """Takes back what was not committed, if there is something."""
        if self._conn.in_transaction:
            self._conn.execute("rollback")

    def end(self) -> None:
        """Lets readers in for good: nothing is committed any more."""
        self.gate.open()

    def is_own(self, error: Exception) -> bool:
        """Whether an error is that of the operation that raised it, and says nothing about the store."""
        return isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError) or down(error) is None

    def is_conflict(self, _error: Exception, /) -> bool:
        """Whether an error comes of what others wrote meanwhile. Nobody else writes."""
        return False

    def down(self, error: Exception) -> Down | None:
        """Says what is wrong with the store, if an error is one of it."""
        return down(error)

    def between(self) -> float | None:
        """Begins the log anew if it is long, as soon as the readers have left it."""
        if self._log_size <= self._log_bound:
            return None
        if not self.gate.close():
            return CLOSED_PAUSE
        busy = 1
        try:
            self._conn.execute("pragma busy_timeout = 0")  # another process that reads is not waited for
            (busy, _, _) = self._conn.execute("pragma wal_checkpoint(truncate)").fetchone()
            self._conn.execute("pragma busy_timeout = 5000")
        except sqlite3.Error as error:
            log.warning("log_not_folded", error=getattr(error, "sqlite_errorname", ""), bytes=self._log_size)
        finally:
            self.gate.open()
        self._log_bound = self._log_size + self._log_least if busy else self._log_least
        self._log_size = self._log_size if busy else 0
        return None


def end(conn: SqliteConnection, tail: Tail, incarnation: int) -> int:
    """Runs the statements that give revisions. Nobody else gives any: the transaction owns the file."""
    head = reads.head(conn)
    if tail.count:
        for statement, rows in tail.statements:
            conn.over(statement, rows)
        conn.run("insert into commits (head, incarnation) values ($1, $2)", head + tail.count, incarnation)
        conn.run("delete from commits where head <= $1", head)
    return head


def _nobody() -> None:
    """Is told as long as there is no writer."""


def down(error: Exception) -> Down | None:
    """Says what is wrong with the store, without what was being stored or read; None if it is no error of it."""
    if isinstance(error, StoreLost):
        return Down("", Unavailable(reason=Reason.STORE_UNAVAILABLE, message=str(error)))
    if isinstance(error, Unanswered):
        name = _name(error.__cause__)
        message = (
            f"The disk did not confirm what was written ({name}): it is not known yet whether this was recorded. Ask"
            " again, with the same request_id if there is one; if it persists, check the disk."
        )
    elif isinstance(error, sqlite3.Error | MemoryError | RolledBack):
        name = _name(error.__cause__ if isinstance(error, RolledBack) else error)
        what, advice = _WORDS.get(name, ("", "check the disk"))
        message = f"The store does not work ({what}{name}); nothing was recorded. Try again; if it persists, {advice}."
    else:
        return None
    unavailable = Unavailable(reason=Reason.STORE_UNAVAILABLE, message=message, metadata={"sqlite_error": name})
    return Down(name, unavailable)


def _name(error: BaseException | None) -> str:
    if isinstance(error, MemoryError):  # what Python makes of it
        return "SQLITE_NOMEM"
    return str(getattr(error, "sqlite_errorname", "SQLITE_ERROR"))
