"""Lets readers into the store, and now and then has them leave a gap, in which the log begins anew.

SQLite begins its log anew only in a moment in which nobody reads from it. While reads overlap all the time that moment
never comes, and the log grows without end.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from sqlite3 import Connection

PATIENCE = 1.0  # seconds a read may go on once the gate is closed; then it is interrupted
LONGEST = 5.0  # seconds a read waits at the gate, whatever has become of the writer


class Gate:
    """Counts who reads. Readers' threads enter, the writer's closes and opens."""

    def __init__(self, left: Callable[[], None]) -> None:
        self._left = left  # is called when the last reader leaves a closed gate
        self._changed = threading.Condition()  # guards all below
        self._inside: set[Connection] = set()
        self._closed_at: float | None = None

    @contextmanager
    def inside(self, conn: Connection) -> Iterator[None]:
        """Waits until reading is possible, and counts a reader while it reads."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed_at is None, LONGEST)
            self._inside.add(conn)
        try:
            yield
        finally:
            with self._changed:
                self._inside.discard(conn)
                is_last = not self._inside and self._closed_at is not None
            if is_last:
                self._left()

    def close(self) -> bool:
        """Lets nobody in from here on; returns whether nobody is inside. Whoever takes too long is interrupted."""
        with self._changed:
            if self._closed_at is None:
                self._closed_at = time.monotonic()
            elif time.monotonic() - self._closed_at > PATIENCE:
                for conn in self._inside:
                    conn.interrupt()
            return not self._inside

    def open(self) -> None:
        """Lets everybody in."""
        with self._changed:
            self._closed_at = None
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether readers wait for the writer."""
        return self._closed_at is not None
