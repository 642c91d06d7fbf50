"""The store on SQLite: one file, one owner, one writer, many readers.

Rules:

1. WAL and `synchronous = FULL`: what was committed survives the loss of power.
2. A reader has a connection of its own thread, and no read transaction outlives the call that needs it.
3. Another process that opens the file for serving is refused; there are no leases that a paused process could lose.
4. Nothing is answered before it was seen that the files are still those that were opened. See `files.py`.
5. Whoever reads takes turns with others, and leaves gaps in which the log begins anew. See `reading.py` and `gate.py`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import sys
import threading
import uuid
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import structlog

from gateway.errors import Unavailable
from gateway.store import access, reads, sending
from gateway.store.committing import Writer, closed, too_long, untimed
from gateway.store.connecting import SqliteConnection, connect, connect_to_read
from gateway.store.engine import Room, StoreInUse, StoreUnusable
from gateway.store.files import Files, StoreLost
from gateway.store.listening import Listeners
from gateway.store.living import begin_life
from gateway.store.migrations import migrate, newer_steps
from gateway.store.moved import refuse_moved
from gateway.store.operations import Operations
from gateway.store.reading import rooms
from gateway.store.sqlite_commits import LOG_BOUND, SqliteCommits, down, end
from gateway.store.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path
    from typing import IO

    from gateway.store.committing import Timed
    from gateway.store.connection import Connection
    from gateway.store.transaction import Later

T = TypeVar("T")
log = structlog.get_logger()

STUCK = 30.0  # seconds of one commit or read, after which the store is not well
LOOK = "/look"  # who reads, beside the lanes and the watchers: no backend has such a name


class SqliteEngine:
    """SQLite, as the operations of a store see it. Made by `open_sqlite`, on the event loop that uses it."""

    lease: timedelta | None = None  # one process has the file

    def __init__(
        self,
        path: Path,
        clock: Callable[[], datetime],
        lock: ExitStack,
        timed: Timed,
        *,
        log_bound: int = LOG_BOUND,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._lock = lock
        self._listeners = Listeners()
        self._closed = False
        self._can_read = True  # as far as the last reads and checks tell
        self._read_failed = ""  # SQLite's name of the error that the last one failed with that did
        self._why_dead = ""
        self.broken = asyncio.Event()
        self._local = threading.local()
        self.epoch, self.incarnation, head, behind, self.healed = _take_over(path, clock())
        self._loop = asyncio.get_running_loop()
        with ExitStack() as opened:  # here, so that a file that cannot be opened is told to whoever opens it
            self._conn = opened.enter_context(closing(connect(path)))
            reads.head(self._conn)  # from here on there is a log
            self._connections = [opened.enter_context(closing(connect_to_read(path)))]  # stays open, see `_in_order`
            reads.head(self._connections[0])
            self._files = Files(path, self._conn)
            opened.pop_all()
        self._commits = SqliteCommits(self._conn, self._files, self.incarnation, log_bound)
        self.rooms = rooms(self._within)
        self.writer = Writer(
            self._commits,
            loop=self._loop,
            clock=clock,
            head=head,
            incarnation=self.incarnation,
            behind=behind,
            committed=self._listeners.notify,
            timed=timed,
            died=self._died,
            monotonic=monotonic,
        )

    async def close(self) -> None:
        """Commits what waits, closes every connection and gives the file up."""
        if self._closed:
            return
        await self.writer.stop()
        self._closed = True
        for readers in self.rooms.values():
            readers.close(closed())
        for conn in self._in_order():
            conn.close()
        self._files.close()
        self._lock.close()

    def _in_order(self) -> list[SqliteConnection]:
        """Returns the connections as they are to be closed: the one that writes last, for it folds the log in.

        Not where the files are others: a log is never folded into what came in the place of its store.
        """
        try:
            self._files.check()
        except (StoreLost, OSError):
            return [self._conn, *self._connections]
        return [*self._connections, self._conn]

    @property
    def trouble(self) -> str:
        """Says what is wrong with it; nothing while it is well."""
        if self._why_dead or self._files.trouble:
            return self._why_dead or self._files.trouble
        if self.writer.busy_seconds() > STUCK:
            return f"the store {self._path} does not work: a commit does not end. Look at its disk"
        if any(readers.busy_seconds() > STUCK for readers in self.rooms.values()):
            return f"the store {self._path} does not work: a read does not end. Look at its disk"
        if self.writer.is_well and self._can_read:
            return ""
        failed = self._read_failed if self.writer.is_well else self.writer.failed
        return f"the store {self._path} does not work ({failed}). {access.advice(failed)}"

    def _died(self, why: str) -> None:
        self._why_dead = why
        self.broken.set()

    async def follow(self) -> None:
        """Returns: nobody else records anything."""

    async def look(self) -> None:
        """Looks whether the files are still those that were opened; what is wrong is `trouble` then."""
        with suppress(Unavailable):
            await self.read(lambda _conn: self._files.check(), Room.OWN, LOOK)

    async def check(self) -> None:
        """Writes and reads a little; raises `Unavailable` if that does not work."""
        await self.writer.submit(sending.touch)
        await self.read(reads.head, Room.OWN, LOOK)
        self._can_read = True

    def listen(self, listener: Callable[[int], None], backend: str | None = None) -> None:
        """Calls `listener` with the newest revision after each commit that made one, of a backend if one is named."""
        self._listeners.add(listener, backend)

    def now(self) -> datetime:
        """Returns the time by our clock."""
        return self._clock()

    @property
    def is_writing(self) -> bool:
        """Whether something is to be written, or being written."""
        return self.writer.is_busy

    def write(self, operation: Callable[[Transaction], T | Later[T]]) -> Awaitable[T]:
        """Queues an operation; its result comes once it is on the disk."""
        return self.writer.submit(operation)

    async def read(self, read: Callable[[Connection], T], room: Room, asker: str) -> T:
        """Reads when it is the asker's turn in a room."""
        if self._closed:
            raise closed()
        return await self.rooms[room].read(asker, read)

    def _within(self, read: Callable[[Connection], T]) -> T:
        """Reads with the connection of this thread, in one view of the whole."""
        try:
            with self._commits.gate.inside(conn := self._connection()):
                conn.execute("begin")
                try:
                    result = read(conn)
                finally:
                    conn.execute("rollback")
            self._files.check()
        except (StoreLost, sqlite3.Error) as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                raise too_long() from error
            if (wrong := down(error)) is None:
                raise
            if wrong.name:
                self._can_read, self._read_failed = False, wrong.name
            raise wrong.error from error
        return result

    def _connection(self) -> SqliteConnection:
        conn: SqliteConnection | None = getattr(self._local, "conn", None)
        if conn is None:
            self._files.check()
            conn = self._local.conn = connect_to_read(self._path)
            self._connections.append(conn)
        return conn


OTHER_FILE = ", or set `store` (STARTFLOW_STORE) to another file"

SqliteStore: TypeAlias = Operations[SqliteEngine]


def open_sqlite(
    path: Path,
    clock: Callable[[], datetime],
    timed: Timed = untimed,
    *,
    log_bound: int = LOG_BOUND,
    monotonic: Callable[[], float] | None = None,
) -> SqliteStore:
    """Opens the store, making it if needed. `timed` is called for each commit; `log_bound` is in bytes.

    By `monotonic` it sees that the clock is set; without it, only between two lives.
    Raises `StoreInUse` if another process serves from it, and `StoreUnusable` if the file cannot be used.
    """
    try:
        return Operations(_open(path, clock, timed, log_bound, monotonic))
    except (OSError, sqlite3.Error) as error:
        raise StoreUnusable(_not_opened(path, error)) from error


def _not_opened(path: Path, error: OSError | sqlite3.Error) -> str:
    said = f"The store {path} cannot be opened: {access.why(path, error)}"
    if isinstance(error, sqlite3.Error) and access.is_broken(error):
        return (
            f"{said} If it was the store, keep the file and put the last good backup in its place with `startflow"
            " restore`; else set `store` (STARTFLOW_STORE) to another file."
        )
    if access.may_exist(path):
        return f"{said} Do not begin an empty store instead: it would not know what was sent."
    return f"{said} Or set `store` (STARTFLOW_STORE) to a file that can be written."


def _open(
    path: Path, clock: Callable[[], datetime], timed: Timed, log_bound: int, monotonic: Callable[[], float] | None
) -> SqliteEngine:
    locks = ExitStack()  # outlives every connection
    try:
        locks.enter_context(own(path))
        refuse_other_names(path)
        locks.enter_context(_own_file(path))
        return SqliteEngine(path, clock, locks, timed, log_bound=log_bound, monotonic=monotonic)
    except BaseException:
        locks.close()
        raise


def own(path: Path, otherwise: str = OTHER_FILE) -> IO[str]:
    """Takes the lock of a store, which is this process's own until it is closed.

    Raises `StoreInUse`, which says `otherwise` to do than to stop the process that has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_path = path.with_name(path.name + ".lock")
    lock = os.fdopen(os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
    if os.geteuid() == 0:
        access.give(lock_path, access.owner(path))  # else a restore by root keeps the gateway's user out
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = lock.read().strip() or "unknown"
        lock.close()
        msg = f"The store {path} is in use by process {owner}. One process owns a store: stop that one{otherwise}."
        raise StoreInUse(msg) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _own_file(path: Path) -> IO[bytes]:
    """Takes the file itself, which may be reached by other paths, each with a lock of its own; raises `StoreInUse`.

    On Linux this lock and those that SQLite takes know nothing of each other. Over NFS they would, and there a file
    that is opened to read cannot be locked so (flock(2)): then only the lock beside it counts.
    """
    opened = os.fdopen(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb")
    if sys.platform != "linux":
        return opened
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        opened.close()
        msg = (
            f"The store {path} is in use: a process serves from the same file by another path, such as a bind mount, or"
            f" its lock was removed. Find it with `fuser {path}`. One process owns a store: stop that one, or set"
            " `store` (STARTFLOW_STORE) to another file."
        )
        raise StoreInUse(msg) from error
    except OSError:
        log.info("store_file_not_locked", path=str(path))
    return opened


def refuse_other_names(path: Path) -> None:
    """Raises `StoreUnusable` if a file has another name: its lock and its log go by the name, so two could serve."""
    if path.is_symlink():
        msg = (
            f"The store {path} is a symbolic link. Set `store` (STARTFLOW_STORE) to the file itself, {path.resolve()}."
        )
        raise StoreUnusable(msg)
    if wrong := access.not_a_file(path):
        raise StoreUnusable(wrong)
    if path.exists() and path.stat().st_nlink > 1:
        msg = (
            f"The store {path} has more than one name (hard links), and a gateway may serve from it under another one."
            f" Find them with `find DIRECTORY -samefile {path}`, and remove all names but one, or copy the file with"
            " `startflow backup`."
        )
        raise StoreUnusable(msg)


def refuse_newer(conn: sqlite3.Connection, path: Path) -> None:
    """Raises `StoreUnusable` if a newer version has made this database, or changed it."""
    if newer := newer_steps(conn):
        msg = (
            f"The store {path} was made by a newer version of the gateway (it has {newer[-1]}), and this one does not"
            " know what it holds. Run that version or a later one, or set `store` (STARTFLOW_STORE) to another file."
        )
        raise StoreUnusable(msg)


def _take_over(path: Path, now: datetime) -> tuple[str, int, int, dict[str, datetime], Mapping[str, Sequence[str]]]:
    """Builds the schema, begins an incarnation and settles what earlier ones left.

    Returns the epoch, the incarnation, the head, the starts whose progress is still to be told, with when, and what was
    healed.
    """
    conn = connect(path)
    try:
        refuse_newer(conn, path)
        migrate(conn)
        refuse_moved(conn, path)
        conn.execute("begin immediate")
        conn.execute("insert into meta values ('epoch', ?) on conflict do nothing", (uuid.uuid4().hex,))
        conn.execute(
            "insert into meta values ('incarnation', '1')"
            " on conflict do update set value = cast(cast(value as integer) + 1 as text)"
        )
        conn.execute("insert into meta values ('purged_through', '0') on conflict do nothing")
        (incarnation,) = conn.one("select cast(value as integer) from meta where key = 'incarnation'")
        transaction = Transaction(conn, now, incarnation)
        healed = begin_life(transaction, None)
        (epoch,) = conn.one("select value from meta where key = 'epoch'")
        head = end(conn, transaction.tail, incarnation) + transaction.tail.count
        conn.execute("commit")
        return epoch, incarnation, head, transaction.behind, healed
    finally:
        conn.close()
