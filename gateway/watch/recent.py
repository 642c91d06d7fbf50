"""Recent changes, each encoded once for all who watch: the cache in front of the store."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

from gateway.errors import RevisionNotAvailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.model import Change
    from gateway.store import Reading


class Messages(Protocol):
    """Encodes what a watcher is sent."""

    def write_watch_changed(self, change: Change, epoch: str) -> bytes:
        """Encodes a change."""

    def write_snapshot_end(self, revision: int, epoch: str) -> bytes:
        """Encodes the end of a snapshot."""

    def write_heartbeat(self, revision: int, epoch: str) -> bytes:
        """Encodes a heartbeat."""


class Recorded:
    """A change that is encoded at most once, when the first watcher wants it."""

    __slots__ = ("_epoch", "_message", "_messages", "change")

    def __init__(self, change: Change, messages: Messages, epoch: str) -> None:
        self.change = change
        self._messages = messages
        self._epoch = epoch
        self._message = b""

    def message(self) -> bytes:
        """Encodes it, or returns what was encoded before."""
        if not self._message:
            self._message = self._messages.write_watch_changed(self.change, self._epoch)
        return self._message


class Recent:
    """The newest changes of a store, `kept` of them at the least and twice as many at the most, once there are so many.

    `read` is how many are read or returned at a time. `head` is the newest revision that is known.
    """

    def __init__(self, store: Reading, messages: Messages, *, kept: int, read: int) -> None:
        self._store = store
        self._messages = messages
        self._kept = kept
        self._read = read
        self._changes: list[Recorded] = []
        self._revisions: list[int] = []  # of `_changes`, to find a cursor's place
        self._floor: int | None = None  # all after this revision are here; None before the first read
        self.head = 0  # and up to this one

    def __len__(self) -> int:
        """Returns how many changes are held."""
        return len(self._changes)

    @property
    def is_ready(self) -> bool:
        """Whether the store was read at all."""
        return self._floor is not None

    async def refresh(self, newest: int) -> AsyncIterator[Sequence[Change] | None]:
        """Reads what is new to the end. Yields each part in one step with `head`, so that nothing falls in between.

        `newest` is about where the end is: what is far from it is left out. Yields None where some was left out: it may
        concern anybody.
        """
        if self._floor is None or newest - self.head > 2 * self._kept:
            self._begin_anew(max(await self._store.oldest(), newest - self._kept))
            yield None
        while True:
            try:
                read = await self._store.changes(self.head, self._read)
            except RevisionNotAvailable:  # it was purged faster than it is read
                self._begin_anew(await self._store.oldest())
                yield None
                continue
            self._changes += [self._recorded(change) for change in read.changes]
            self._revisions += [change.revision for change in read.changes]
            self.head = read.through
            yield read.changes
            if len(self._changes) > 2 * self._kept:  # rarely, because it moves the whole list
                self._floor = self._revisions[-self._kept - 1]
                del self._changes[: -self._kept], self._revisions[: -self._kept]
            if len(read.changes) < self._read:
                break

    def _begin_anew(self, revision: int) -> None:
        """Holds nothing, as of a revision. In one step, so that nobody is told that what was held never was."""
        self._changes, self._revisions = [], []
        self.head = self._floor = revision

    def after(self, cursor: int) -> tuple[Sequence[Recorded], int] | None:
        """Returns changes after a revision, and through which one there are no others; None if they are not here."""
        if self._floor is None or self._floor > cursor:
            return None
        if cursor >= self.head:
            return (), cursor
        start = bisect_right(self._revisions, cursor)
        batch = self._changes[start : start + self._read]
        return batch, batch[-1].change.revision if len(batch) == self._read else self.head

    async def recorded_after(self, cursor: int, tenant: str) -> tuple[Sequence[Recorded], int]:
        """Reads the same from the store for a watcher of a tenant; raises `RevisionNotAvailable` if not kept."""
        read = await self._store.changes(cursor, self._read, asker=tenant)
        return [self._recorded(change) for change in read.changes], read.through

    def _recorded(self, change: Change) -> Recorded:
        return Recorded(change, self._messages, self._store.epoch)
