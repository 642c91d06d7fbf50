"""Tells other gateways on the same database that something was recorded, and hears it of them.

Rules:

1. A notification is a hint: whoever misses it sees the same by looking, `POLL` later. So nothing is repeated here.
2. It is sent after the commit and on a connection of its own: within the transaction it would hold up every commit.
3. It is not sent while no other gateway is known. A new one finds earlier changes by its first look.
4. The channel is one of the database, so what is said names the schema, and whoever hears that of another passes it by.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
import structlog

from gateway.store.postgres.connecting import connect

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection

log = structlog.get_logger()

CHANNEL = "startflow"
APART = 0.004  # seconds between two notifications at the least
AGAIN = 1.0  # seconds until a connection that broke is made anew
LOOK = 0.5  # seconds in which a thread sees that it is to end
MOST = 50  # backends that are named in one; if there are more, none is


class Neighbours:
    """The other gateways. `heard` is called on the event loop."""

    def __init__(
        self,
        url: str,
        hears: str,
        heard: Callable[[int, Collection[str] | None], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._url = url
        self._hears = hears
        self._heard = heard
        self._loop = loop
        self._head = 0  # to be told
        self._backends: set[str] = set()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    def open(self) -> None:
        """Begins to tell and to hear, unless nobody is to be heard."""
        if not self._hears or self._threads or self._ending.is_set():
            return
        for name, run in (("store-teller", self._tell), ("store-hearer", self._hear)):
            thread = threading.Thread(target=self._keep, args=(run,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def tell(self, head: int, backends: Collection[str]) -> None:
        """Has others told, soon, that there is something new of some backends."""
        with self._lock:
            self._head = max(self._head, head)
            self._backends |= set(backends)
        self._news.set()

    def close(self) -> None:
        """Has the threads end soon."""
        self._ending.set()
        self._news.set()

    def _keep(self, run: Callable[[psycopg.Connection[tuple[Any, ...]], str], None]) -> None:
        """Runs one side of it until it is to end, with a new connection whenever one breaks."""
        is_well = True
        while not self._ending.is_set():
            try:
                conn = connect(self._hears if run == self._hear else self._url, statement_timeout="0").raw
                try:
                    (schema,) = conn.execute("select current_schema()").fetchone() or ("",)
                    is_well = True
                    run(conn, str(schema))
                finally:
                    conn.close()
            except psycopg.Error as error:
                if is_well:
                    log.warning("neighbours_not_reached", error=type(error).__name__, thread=run.__name__)
                is_well = False
                self._ending.wait(AGAIN)

    def _tell(self, conn: psycopg.Connection[tuple[Any, ...]], schema: str) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            if self._ending.is_set():
                return
            with self._lock:
                head, backends, self._backends = self._head, sorted(self._backends), set()
            said = json.dumps([schema, head, backends if len(backends) <= MOST else None])
            conn.execute("select pg_notify(%s, %s)", (CHANNEL, said))
            self._ending.wait(APART)

    def _hear(self, conn: psycopg.Connection[tuple[Any, ...]], schema: str) -> None:
        conn.execute(f"listen {CHANNEL}".encode())
        while not self._ending.is_set():
            for notification in conn.notifies(timeout=LOOK):
                where, head, backends = json.loads(notification.payload)
                if where == schema:
                    with suppress(RuntimeError):  # the loop is closed
                        self._loop.call_soon_threadsafe(self._heard, head, backends)
                if self._ending.is_set():
                    return
