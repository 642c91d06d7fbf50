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
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

import structlog
from sqlite_utils import Database

from gateway.errors import Unavailable
from gateway.store import (
    access,
    accounts,
    claiming,
    creating,
    expiring,
    finding,
    measuring,
    purging,
    reads,
    replacing,
    restoring,
    sending,
    stepping,
    stopping,
)
from gateway.store.committing import LOG_BOUND, Writer, closed, lost, name_of, too_long, unavailable, untimed
from gateway.store.connecting import connect, connect_to_read
from gateway.store.creating import Creation
from gateway.store.files import Files, StoreLost
from gateway.store.gate import Gate
from gateway.store.healing import heal
from gateway.store.migrations import MIGRATIONS, newer_steps
from gateway.store.reading import Readers
from gateway.store.rows import (
    REACHED,
    START_COLUMNS,
    decode_start,
    to_micros,
)
from gateway.store.sending import Answer, Beginning
from gateway.store.settling import settle
from gateway.store.transaction import Transaction
from gateway.store.words import NO_LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path
    from typing import IO

    from gateway.model import (
        Asked,
        Control,
        Dispatch,
        Filter,
        FlowStart,
        Identity,
        Json,
        Notice,
        Recipients,
        Resolution,
        Sighting,
        Sought,
        State,
        Window,
    )
    from gateway.store.committing import Timed
    from gateway.store.words import (
        Changes,
        Claims,
        HeldPosition,
        HistoryPage,
        HistoryPosition,
        Kept,
        Measures,
        Page,
        RecipientsPage,
        Recorded,
        Settlement,
        Terms,
        Undone,
    )

T = TypeVar("T")
log = structlog.get_logger()

CONTROLS = 200  # accepted dispatches that a list must show to be believed
SCANNERS = 1  # threads for what callers list: each more would hold up everything else, for there is one interpreter
POINTERS = 1  # threads for what callers read by an id
TOGETHER = 4  # short reads of one caller that a thread takes at once: it takes longer to wake than to read
OWN = 2  # threads for what the gateway reads for itself: a sweep does not hold up watchers
REST = 0.05  # seconds between steps of cancelling
STUCK = 30.0  # seconds of one commit or read, after which the store is not well
WATCH, LOOK = "/watch", "/look"  # who reads, beside the lanes: no backend has such a name
NEWEST = 2**63 - 1  # above every revision


class StoreUnusable(Exception):
    """The store cannot be opened. Says why, and what to do."""


class StoreInUse(StoreUnusable):
    """Another process owns the store."""


class SqliteStore:
    """The store on SQLite. Made by `open_sqlite`, on the event loop that uses it."""

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
        self._listeners: list[tuple[str | None, Callable[[int], None]]] = []
        self._closed = False
        self._can_read = True  # as far as the last reads and checks tell
        self._read_failed = ""  # SQLite's name of the error that the last one failed with that did
        self._why_dead = ""
        self.broken = asyncio.Event()
        self._cancelling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by tenant
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
        self._scans = Readers("store-scan", SCANNERS, self._within)
        self._points = Readers("store-point", POINTERS, self._within, together=TOGETHER)
        self._streams = Readers("store-stream", SCANNERS, self._within, waiting=None)  # these have a limit of their own
        self._own = Readers("store-own", OWN, self._within, waiting=None)
        self._readers = (self._scans, self._points, self._streams, self._own)
        self._writer = Writer(
            self._conn,
            loop=self._loop,
            clock=clock,
            head=head,
            incarnation=self.incarnation,
            behind=behind,
            committed=self._committed,
            timed=timed,
            files=self._files,
            gate=Gate,
            died=self._died,
            log_bound=log_bound,
            monotonic=monotonic,
        )

    async def close(self) -> None:
        """Commits what waits, closes every connection and gives the file up."""
        if self._closed:
            return
        await self._writer.stop()
        self._closed = True
        for readers in self._readers:
            readers.close(closed())
        for conn in self._in_order():
            conn.close()
        self._files.close()
        self._lock.close()

    def _in_order(self) -> list[sqlite3.Connection]:
        """Returns the connections as they are to be closed: the one that writes last, for it folds the log in.

        Not where the files are others: a log is never folded into what came in the place of its store.
        """
        try:
            self._files.check()
        except (StoreLost, OSError):
            return [self._conn, *self._connections]
        return [*self._connections, self._conn]

    @property
    def is_well(self) -> bool:
        """Whether the last write worked, no read has failed since the last check, and no thread hangs."""
        return not self.trouble

    @property
    def trouble(self) -> str:
        """Says what is wrong with it; nothing while it is well."""
        if self._why_dead or self._files.trouble:
            return self._why_dead or self._files.trouble
        if self._writer.busy_seconds() > STUCK:
            return f"the store {self._path} does not work: a commit does not end. Look at its disk"
        if any(readers.busy_seconds() > STUCK for readers in self._readers):
            return f"the store {self._path} does not work: a read does not end. Look at its disk"
        if self._writer.is_well and self._can_read:
            return ""
        failed = self._read_failed if self._writer.is_well else self._writer.failed
        return f"the store {self._path} does not work ({failed}). {access.advice(failed)}"

    def _died(self, why: str) -> None:
        self._why_dead = why
        self.broken.set()

    async def look(self) -> None:
        """Looks whether the files are still those that were opened; what is wrong is `trouble` then."""
        with suppress(Unavailable):
            await self._read(lambda _conn: self._files.check(), LOOK)

    async def check(self) -> None:
        """Writes and reads a little; raises `Unavailable` if that does not work."""
        await self._writer.submit(sending.touch)
        await self._read(reads.head, LOOK)
        self._can_read = True

    def listen(self, listener: Callable[[int], None], backend: str | None = None) -> None:
        """Calls `listener` with the newest revision after each commit that made one, of a backend if one is named."""
        self._listeners.append((backend, listener))

    def _committed(self, head: int, backends: Collection[str]) -> None:
        for backend, listener in self._listeners:
            if backend is None or backend in backends:
                try:
                    listener(head)
                except Exception as error:
                    log.error("listener_failed", exc_info=error)

    # --- writing

    async def create(
        self,
        asked: Asked,
        plan: Sequence[Recipients],
        *,
        fingerprint: str,
        warnings: tuple[Notice, ...],
        terms: Terms,
    ) -> Recorded:
        """Records a start, or returns the one of the tenant that already has its request id."""
        return await self._writer.submit(Creation(asked, plan, fingerprint, warnings, terms))

    async def cancel(self, tenant: str | None, start_id: str, *, can_end: bool) -> FlowStart | None:
        """Stops what is unsent of a start, and marks what runs to be ended if its backend can."""
        step = partial(stopping.cancel, tenant=tenant, start_id=start_id, can_end=can_end)
        more = await self._writer.submit(step)
        turns = self._cancelling.setdefault(tenant or "", asyncio.Lock())
        while more:  # a bounded number in one write, so that large starts hold nobody up, however many a tenant has
            async with turns:
                more = await self._writer.submit(step)
                if more:
                    await rest()
        return await self.get(tenant, start_id)

    async def resolve(self, tenant: str | None, start_id: str, resolution: Resolution) -> FlowStart | None:
        """Settles what is uncertain or stalled of a start by an operator's word."""
        open_ones = await self._point(tenant, lambda conn: stopping.unresolved(conn, tenant, start_id, resolution))
        if open_ones is None:
            return None
        moved = 0
        for some in _steps(open_ones):
            moved += await self._writer.submit(partial(stopping.resolve, unresolved=some, resolution=resolution))
        if not moved:
            raise stopping.nothing_to_resolve()
        return await self.get(tenant, start_id)

    async def claim(
        self,
        backend: str,
        limit: int,
        limits: Mapping[str, int] = NO_LIMITS,
        *,
        slow: Collection[str] = (),
        slow_limit: int = 0,
        ends: bool = True,
    ) -> Claims:
        """Takes due dispatches of a backend; ends those that have expired."""
        return await self._writer.submit(
            lambda t: claiming.claim(t, backend, limit, limits, slow=slow, slow_limit=slow_limit, ends=ends)
        )

    async def release(self, dispatch_id: str, due_at: datetime | None) -> None:
        """Gives a claimed dispatch back without having sent it."""
        await self._writer.submit(lambda t: claiming.release(t, dispatch_id, due_at))

    async def begin_attempt(self, dispatch_id: str, *, account: str, since: datetime) -> int | None:
        """Records that a claimed dispatch is about to be sent to an account; None if it may not be."""
        return await self._writer.submit(Beginning(dispatch_id, account, since))

    async def record(self, dispatch_id: str, attempt: int, settlement: Settlement) -> None:
        """Records what came of an attempt."""
        await self._writer.submit(Answer(dispatch_id, attempt, settlement))

    async def sight(self, backend: str, sightings: Sequence[Sighting], *, account: str) -> int:
        """Records what an account of a backend shows of our dispatches; returns how many had moved."""
        return await self._writer.submit(lambda t: finding.sight(t, backend, sightings, account))

    async def absent(self, sought: Sought, *, on_absent: State, pause: timedelta) -> None:
        """Settles a dispatch that was proved absent."""
        await self._writer.submit(lambda t: finding.absent(t, sought, on_absent, pause))

    async def rest(self, sought: Sought) -> None:
        """Leaves a dispatch that cannot be found out about uncertain."""
        await self._writer.submit(lambda t: finding.rest(t, sought))

    async def hold(self, backend: str, identity: Identity | None, formerly: Collection[str] = ()) -> int:
        """Holds what was recorded for another account; returns of how many starts."""
        names = await self._writer.submit(lambda t: accounts.names(t, backend, identity, formerly))
        account = identity.account if identity else None
        held: set[str] = set()
        found = [""]
        while found := await self._read(partial(accounts.strangers, backend=backend, account=account, after=found[-1])):
            for some in _steps(found):
                held |= await self._writer.submit(
                    partial(accounts.settle, account=account, known_as=names, dispatches=some)
                )
        return len(held)

    async def expire_held(self, after: HeldPosition | None = None) -> HeldPosition | None:
        """Ends those of the next held dispatches that have expired; returns where to go on, None at the end."""
        now = to_micros(self._clock()) or 0
        found, position = await self._read(lambda conn: expiring.expired(conn, now, after or ("", 0)))
        if found:
            await self._writer.submit(lambda t: expiring.expire(t, found))
        return position

    async def ending(self, dispatch_id: str) -> bool:
        """Records that the backend is about to be asked to end a dispatch; False if it need not be any more."""
        return await self._writer.submit(lambda t: stopping.ending(t, dispatch_id))

    async def spare(self, dispatch_id: str) -> None:
        """Takes it back that the backend was asked to end a dispatch: the request never got there."""
        await self._writer.submit(lambda t: replacing.spare(t, dispatch_id))

    async def replaceable(self, dispatch_id: str, external_id: str) -> Dispatch | Kept | None:
        """Returns the dispatch of the same tenant with this external id, marked as about to be replaced."""
        return await self._writer.submit(lambda t: replacing.replaceable(t, dispatch_id, external_id))

    async def mark_stalled(self, backend: str, before: datetime) -> int:
        """Marks the running dispatches of which nothing has moved since a moment; returns how many."""
        marked = 0
        while await self._writer.submit(lambda t: stopping.stop_watching(t, backend)):
            pass
        while some := await self._writer.submit(lambda t: stopping.mark_stalled(t, backend, to_micros(before) or 0)):
            marked += some
        return marked

    async def purge(self, before: datetime) -> int:
        """Takes one small step of forgetting what is older than a moment; returns how many rows it went through."""
        return await self._writer.submit(lambda t: purging.purge(t, to_micros(before) or 0))

    # --- reading

    async def find_request(self, tenant: str, request_id: str) -> Recorded | None:
        """Returns the tenant's start with this request id."""
        return await self._point(tenant, lambda conn: creating.find_request(conn, tenant, request_id))

    async def get(self, tenant: str | None, start_id: str) -> FlowStart | None:
        """Returns a start of the tenant, params included."""

        def read(conn: sqlite3.Connection) -> FlowStart | None:
            row = conn.execute(
                f"select {START_COLUMNS}, s.params from starts s where s.id = ? and {REACHED}", (start_id, tenant)
            ).fetchone()
            return None if row is None else decode_start(row, row[-1])

        return await self._point(tenant, read)

    async def list(self, tenant: str | None, selected: Filter, *, before: int | None, limit: int) -> Page:
        """Reads starts, the most recently changed first."""
        below = NEWEST if before is None else before
        return await self._scan(
            tenant, lambda conn: reads.page(conn, tenant, selected, frozenset(), ("<", below, "desc"), limit)
        )

    async def snapshot(
        self, tenant: str | None, selected: Filter, ids: frozenset[str], *, after: int, limit: int
    ) -> Page:
        """Reads starts in ascending order of their current revision."""
        return await self._stream(
            tenant, lambda conn: reads.page(conn, tenant, selected, ids, (">", after, "asc"), limit)
        )

    async def undone(self, tenant: str | None, ids: frozenset[str], *, since: int) -> Undone:
        """Returns which of these starts do not exist, and which are not done or have changed since a revision."""
        return await self._stream(tenant, lambda conn: reads.undone(conn, tenant, ids, since))

    async def head(self) -> int:
        """Returns the newest revision."""
        return await self._read(reads.head, WATCH)

    async def oldest(self) -> int:
        """Returns the oldest revision that one can go on from."""
        return await self._read(reads.oldest, WATCH)

    async def changes(self, after: int, limit: int, *, asker: str | None = None) -> Changes:
        """Reads the changes of all tenants after a revision, for all watchers or for those of one tenant."""

        def read(conn: sqlite3.Connection) -> Changes:
            return reads.changes(conn, after, limit)

        return await (self._read(read, WATCH) if asker is None else self._stream(asker, read))

    async def recipients(
        self, tenant: str | None, start_id: str, *, after: tuple[int, int] | None, limit: int
    ) -> RecipientsPage | None:
        """Reads what became of the recipients of a start, in the order of the request."""
        return await self._scan(tenant, lambda conn: reads.recipients(conn, tenant, start_id, after or (1, -1), limit))

    async def history(
        self, tenant: str | None, start_id: str, *, after: HistoryPosition | None, limit: int
    ) -> HistoryPage | None:
        """Reads the changes and attempts of a start, the oldest first."""
        return await self._scan(
            tenant, lambda conn: reads.history(conn, tenant, start_id, after or reads.BEGINNING, limit)
        )

    async def carries(self, start_id: str, external_id: str) -> bool:
        """Tells whether a start has a dispatch with an external id."""
        return await self._stream(
            None,
            lambda conn: (
                conn.execute(
                    "select 1 from dispatches d join starts s on s.id = d.start_id"
                    " where d.external_id = ? and d.start_id = ? and s.tenant <> ''",
                    (external_id, start_id),
                ).fetchone()
                is not None
            ),
        )

    @property
    def is_writing(self) -> bool:
        """Whether something is to be written, or being written."""
        return self._writer.is_busy

    async def count_pending(self, backend: str) -> int:
        """Counts the dispatches of a backend that are due and not being sent."""
        now = to_micros(self._clock()) or 0
        return await self._scan(None, lambda conn: measuring.pending(conn, backend, now))

    async def measure(self) -> Measures:
        """Counts what waits, what is uncertain and what stands still; what may be many, up to a bound."""
        now = to_micros(self._clock()) or 0
        return await self._read(lambda conn: measuring.measure(conn, now))

    async def windows(self, backend: str, account: str) -> tuple[Window, ...]:
        """Returns when an account accepted the running dispatches of each flow: since the last gap, and before it."""
        return await self._read(lambda conn: reads.windows(conn, backend, account), backend)

    async def unseen(self, backend: str, account: str, shown: Collection[str]) -> frozenset[str]:
        """Returns the external ids of an account's running dispatches that are not among those shown."""
        return await self._read(lambda conn: reads.unseen(conn, backend, account, shown), backend)

    async def running(self, backend: str, external_ids: Sequence[str]) -> tuple[Dispatch, ...]:
        """Returns the running dispatches that have these external ids."""
        return await self._read(lambda conn: reads.running(conn, backend, external_ids), backend)

    async def news(self, backend: str, sightings: Sequence[Sighting]) -> tuple[Sighting, ...]:
        """Returns those sightings that may move something: `sight` records nothing of the others."""
        return await self._read(lambda conn: reads.news(conn, backend, sightings), backend)

    async def sought(self, backend: str, account: str) -> tuple[Sought, ...]:
        """Returns what an account may have though its answer is not known."""
        now = to_micros(self._clock()) or 0
        return await self._read(lambda conn: reads.sought(conn, backend, account, now), backend)

    async def controls(self, backend: str, account: str, before: datetime) -> tuple[Control, ...]:
        """Returns the latest dispatches an account accepted before a moment (their clock), the latest first."""
        return await self._read(lambda conn: reads.controls(conn, backend, account, before, CONTROLS), backend)

    async def running_controls(self, backend: str, account: str) -> tuple[Control, ...]:
        """Returns those dispatches of an account that moved last (our clock) and run."""
        return await self._read(lambda conn: reads.running_controls(conn, backend, account, CONTROLS), backend)

    async def params(self, dispatch_ids: Collection[str]) -> Mapping[str, Mapping[str, Json]]:
        """Returns the params of the starts of some dispatches, by dispatch."""
        return await self._read(lambda conn: reads.params(conn, sorted(dispatch_ids)))

    async def unknown(self, backend: str, external_ids: Collection[str]) -> frozenset[str]:
        """Returns those external ids that are of no dispatch."""
        return await self._read(lambda conn: reads.unknown(conn, backend, sorted(external_ids)), backend)

    async def endings(self, backend: str, account: str, limit: int) -> tuple[Dispatch, ...]:
        """Returns dispatches that are to be ended because their start was cancelled."""
        return await self._read(lambda conn: reads.endings(conn, backend, account, limit), backend)

    async def backends(self) -> frozenset[str]:
        """Returns the backends that have dispatches which are not over."""
        return await self._read(reads.backends)

    async def _read(self, read: Callable[[sqlite3.Connection], T], who: str = "") -> T:
        """Reads what a part of the gateway needs; `who` is WATCH, or the backend whose lane it is."""
        return await self._of(self._own).read(who, read)

    async def _point(self, tenant: str | None, read: Callable[[sqlite3.Connection], T]) -> T:
        """Reads what a caller asked for by an id."""
        return await self._of(self._points).read(tenant or "", read)

    async def _scan(self, tenant: str | None, read: Callable[[sqlite3.Connection], T]) -> T:
        """Reads what a caller lists."""
        return await self._of(self._scans).read(tenant or "", read)

    async def _stream(self, tenant: str | None, read: Callable[[sqlite3.Connection], T]) -> T:
        """Reads what a watcher is behind of."""
        return await self._of(self._streams).read(tenant or "", read)

    def _of(self, readers: Readers) -> Readers:
        if self._closed:
            raise closed()
        return readers

    def _within(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Reads with the connection of this thread, in one view of the whole."""
        try:
            with self._writer.gate.inside(conn := self._connection()):
                conn.execute("begin")
                try:
                    result = read(conn)
                finally:
                    conn.execute("rollback")
            self._files.check()
        except StoreLost as error:
            raise lost(error) from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                raise too_long() from error
            self._can_read, self._read_failed = False, name_of(error)
            raise unavailable(error) from error
        return result

    def _connection(self) -> sqlite3.Connection:
        conn: sqlite3.Connection | None = getattr(self._local, "conn", None)
        if conn is None:
            self._files.check()
            conn = self._local.conn = connect_to_read(self._path)
            self._connections.append(conn)
        return conn


async def rest() -> None:
    """Lets other work go first between two steps of cancelling."""
    await asyncio.sleep(REST)


def _steps(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cuts rows into what the writer takes at once, so that many of them hold nobody up."""
    return (rows[first : first + claiming.AT_ONCE] for first in range(0, len(rows), claiming.AT_ONCE))


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
        return _open(path, clock, timed, log_bound, monotonic)
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
) -> SqliteStore:
    locks = ExitStack()  # outlives every connection
    try:
        locks.enter_context(own(path))
        refuse_other_names(path)
        locks.enter_context(_own_file(path))
        return SqliteStore(path, clock, locks, timed, log_bound=log_bound, monotonic=monotonic)
    except BaseException:
        locks.close()
        raise


def own(path: Path) -> IO[str]:
    """Takes the lock of a store, which is this process's own until it is closed; raises `StoreInUse`."""
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
        msg = (
            f"The store {path} is in use by process {owner}. One process owns a store: stop that one, or set `store`"
            " (STARTFLOW_STORE) to another file."
        )
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
        MIGRATIONS.apply(Database(conn))
        conn.execute("begin immediate")
        conn.execute("insert into meta values ('epoch', ?) on conflict do nothing", (uuid.uuid4().hex,))
        conn.execute(
            "insert into meta values ('incarnation', '1')"
            " on conflict do update set value = cast(cast(value as integer) + 1 as text)"
        )
        conn.execute("insert into meta values ('purged_through', '0') on conflict do nothing")
        meta = dict(conn.execute("select key, value from meta").fetchall())
        incarnation = int(meta["incarnation"])
        transaction = Transaction(conn, now, reads.head(conn), incarnation)
        seen = stepping.newest(conn)
        healed = heal(transaction)
        if restoring.doubt(transaction):
            meta = dict(conn.execute("select key, value from meta").fetchall())
        sending.recover(transaction)
        stepping.resumed(transaction, seen)
        settle(transaction)
        conn.execute("commit")
        return meta["epoch"], incarnation, transaction.head, transaction.behind, healed
    finally:
        conn.close()
