"""The store on PostgreSQL: one connection that writes, and one for each thread that reads.

Rules:

1. Writes run at READ COMMITTED, reads at REPEATABLE READ: a read is one view of the whole.
2. Whoever takes a store over does it under the lock of `migrations.py`, in one transaction with whatever the schema
   lacks.
3. A connection that breaks is made anew by whoever needs it next.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import psycopg
from psycopg import errors

from gateway.errors import Unavailable
from gateway.loops import came_round
from gateway.store import leases, reads, sending
from gateway.store.committing import Writer, closed, too_long, untimed
from gateway.store.engine import Room, StoreUnusable
from gateway.store.listening import Listeners
from gateway.store.living import begin_life
from gateway.store.moved import refuse_moved
from gateway.store.operations import Operations
from gateway.store.postgres import timelines
from gateway.store.postgres.commits import PostgresCommits, ended, head_in
from gateway.store.postgres.connecting import PostgresConnection, connect
from gateway.store.postgres.migrations import migrate
from gateway.store.postgres.neighbours import Neighbours
from gateway.store.postgres.refusals import StoreLost, down, named, why_not_connected, why_not_made, why_unfit
from gateway.store.reading import rooms
from gateway.store.transaction import NEWEST, Transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from gateway.store.committing import Timed
    from gateway.store.connection import Connection
    from gateway.store.transaction import Later

T = TypeVar("T")

LEASE = timedelta(seconds=8)
POLL = 0.25  # seconds between looks for what others have recorded, whatever is heard of it
STUCK = 30.0  # seconds of one commit or read, after which the store is not well
LOOK = "/look"  # who reads, beside the lanes and the watchers: no backend has such a name


class PostgresEngine:
    """PostgreSQL, as the operations of a store see it. Made by `open_postgres`, on the event loop that uses it."""

    def __init__(
        self,
        url: str,
        clock: Callable[[], datetime],
        timed: Timed,
        monotonic: Callable[[], float] | None = None,
        *,
        lease: timedelta = LEASE,
        hears: str | None = None,
    ) -> None:
        self._url = url
        self.lease: timedelta | None = lease
        self._clock = clock
        self._listeners = Listeners()
        self._closed = False
        self._read_failed = ""  # PostgreSQL's code of the error that the last read failed with, if it did
        self._why_dead = ""
        self.broken = asyncio.Event()
        self._local = threading.local()
        self._connections: list[PostgresConnection] = []
        self._loop = asyncio.get_running_loop()
        self.epoch, self.incarnation, self._identity, head, behind, self.healed = _take_over(url, clock(), lease)
        self._head = head
        self._is_alone = False  # before it has looked
        self._neighbours = Neighbours(url, url if hears is None else hears, self._hear, self._loop)
        self.rooms = rooms(self._within)
        self.writer = Writer(
            PostgresCommits(self._connect, self.incarnation, head),
            loop=self._loop,
            clock=clock,
            head=head,
            incarnation=self.incarnation,
            behind=behind,
            committed=self._committed,
            timed=timed,
            died=self._died,
            monotonic=monotonic,
        )

    async def close(self) -> None:
        """Commits what waits, and closes every connection."""
        if self._closed:
            return
        with suppress(Exception):  # else others wait until its leases are over
            await self.writer.submit(leases.GiveUp(leases.LIFE, [str(self.incarnation)]))
        await self.writer.stop()
        self._neighbours.close()
        self._closed = True
        for readers in self.rooms.values():
            readers.close(closed())
        for conn in self._connections:
            conn.raw.close()

    @property
    def trouble(self) -> str:
        """Says what is wrong with it; nothing while it is well."""
        store = f"the store {named(self._url)} does not work"
        if self._why_dead:
            return self._why_dead
        if self.writer.busy_seconds() > STUCK:
            return f"{store}: a commit does not end. Look at PostgreSQL"
        if any(readers.busy_seconds() > STUCK for readers in self.rooms.values()):
            return f"{store}: a read does not end. Look at PostgreSQL"
        if failed := self._read_failed if self.writer.is_well else self.writer.failed:
            return f"{store} ({failed}). Look at PostgreSQL"
        return "" if self.writer.is_well else f"{store}. Look at PostgreSQL"

    def _died(self, why: str) -> None:
        self._why_dead = why
        self.broken.set()

    def _committed(self, head: int, backends: Collection[str]) -> None:
        """Announces what this gateway has recorded: to its own listeners, and to other gateways if there are any."""
        if not self._is_alone:
            self._neighbours.tell(head, backends)
        self._hear(head, backends)

    def _hear(self, head: int, backends: Collection[str] | None) -> None:
        """Tells of what was recorded up to a revision; None: nobody says of which backends."""
        if head > self._head:
            self._head = head
            self._listeners.notify(head, backends)

    async def follow(self) -> None:
        """Hears of what other gateways record, until it is cancelled."""
        self._neighbours.open()
        while True:
            with suppress(Unavailable):
                head, self._is_alone = await self.read(self._looked, Room.OWN, LOOK)
                self._hear(head, None)
            came_round()
            await asyncio.sleep(POLL)

    def _looked(self, conn: Connection) -> tuple[int, bool]:
        """Reads the newest revision, and whether no other gateway lives, in which case none is notified."""
        return reads.head(conn), leases.is_alone(conn, self.incarnation)

    async def look(self) -> None:
        """Looks whether it answers; what is wrong is `trouble` then."""
        with suppress(Unavailable):
            await self.read(reads.head, Room.OWN, LOOK)

    async def check(self) -> None:
        """Writes and reads a little; raises `Unavailable` if that does not work."""
        await self.writer.submit(sending.touch)
        await self.read(reads.head, Room.OWN, LOOK)

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
            conn = self._connection()
            conn.say("begin isolation level repeatable read read only")
            try:
                result = read(conn)
            finally:
                if not conn.raw.closed:
                    conn.say("rollback")
        except (psycopg.Error, StoreLost) as error:
            if isinstance(error, errors.QueryCanceled):
                raise too_long() from error
            if (wrong := down(error)) is None:
                raise
            self._read_failed = wrong.name
            raise wrong.error from error
        self._read_failed = ""
        return result

    def _connection(self) -> PostgresConnection:
        conn: PostgresConnection | None = getattr(self._local, "conn", None)
        if conn is None or conn.raw.closed:
            if conn is not None:
                self._connections.remove(conn)
                self._local.conn = None  # connecting may fail
            conn = self._local.conn = self._connect()
            self._connections.append(conn)
        return conn

    def _connect(self) -> PostgresConnection:
        """Connects to the database that was opened; on any thread. Ends the gateway if it is another one."""
        conn = connect(self._url)
        try:
            is_known = timelines.identity_of(conn) == self._identity
        except psycopg.Error:
            conn.raw.close()
            raise
        if is_known:
            return conn
        conn.raw.close()
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._died, timelines.WENT_BACK)
        raise StoreLost(timelines.WENT_BACK)


PostgresStore: TypeAlias = Operations[PostgresEngine]


def open_postgres(
    url: str,
    clock: Callable[[], datetime],
    timed: Timed = untimed,
    *,
    monotonic: Callable[[], float] | None = None,
    lease: timedelta = LEASE,
    hears: str | None = None,
) -> PostgresStore:
    """Opens the store, making its schema if needed. `timed` is called for each commit.

    `lease` is how long others wait for this gateway once it is gone. `hears` is where it listens for what others record
    if that is not `url`; "": it only looks again and again.

    Raises `StoreUnusable`, which says why and what to do.
    """
    try:
        return Operations(PostgresEngine(url, clock, timed, monotonic, lease=lease, hears=hears))
    except (psycopg.Error, StoreLost) as error:  # what was reached a moment ago
        raise StoreUnusable(why_not_connected(url, error)) from error


def reach(url: str) -> PostgresConnection:
    """Connects to a server that can be stored in; raises `StoreUnusable` if it is none."""
    try:
        conn = connect(url)
    except (psycopg.Error, UnicodeError) as error:
        raise StoreUnusable(why_not_connected(url, error)) from error
    try:
        unfit = why_unfit(conn.raw, url)
    except psycopg.Error as error:
        unfit = why_not_made(url, error)
    if unfit:
        conn.raw.close()
        raise StoreUnusable(unfit)
    conn.say("set enable_seqscan = on")  # its statements read whole tables, once
    return conn


def _take_over(
    url: str, now: datetime, lease: timedelta
) -> tuple[str, int, str, int, dict[str, datetime], Mapping[str, Sequence[str]]]:
    """Builds the schema and begins an incarnation. One that is alone settles what earlier ones left.

    Returns the epoch, the incarnation, which database it is, the head, the starts whose progress is still to be told,
    with when, and what was healed.
    """
    conn = reach(url)
    try:
        with conn.raw:
            conn.raw.execute("begin")
            migrate(conn, url)
            refuse_moved(conn, named(url))
            for key, value in (("epoch", uuid.uuid4().hex), ("incarnation", "0"), ("purged_through", "0")):
                conn.run("insert into meta values ($1, $2) on conflict do nothing", key, value)
            (said,) = conn.one(
                "update meta set value = (cast(value as bigint) + 1)::text where key = 'incarnation' returning value"
            )
            incarnation = int(said)
            identity = timelines.take_over(conn)
            if leases.is_alone(conn):
                conn.rows("select from lives for update")  # one that only stood still waits until this is done
            transaction = Transaction(conn, now, incarnation)
            healed = begin_life(transaction, lease)
            conn.run("delete from lives where incarnation not in (select owner from leases where kind = 'life')")
            conn.run(
                f"delete from commits where incarnation not in (select incarnation from lives) and head < {NEWEST}"
            )
            conn.run("insert into lives (incarnation, batch) values ($1, 0)", incarnation)
            (epoch,) = conn.one("select value from meta where key = 'epoch'")
            tail = transaction.tail
            if tail.count:
                head = head_in(conn.raw.execute(ended(conn, tail, incarnation, 0).encode())) + tail.count
            else:
                head = reads.head(conn)
                conn.raw.execute("commit")
            return str(epoch), incarnation, identity, head, transaction.behind, healed
    except psycopg.Error as error:
        raise StoreUnusable(why_not_made(url, error)) from error
    finally:
        conn.raw.close()
