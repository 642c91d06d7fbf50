"""Recent changes, each encoded once for all who watch: the cache in front of the store."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from gateway.errors import RevisionNotAvailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from gateway.model import Change
    from gateway.store import Reading

ORDINARY = 2_048  # bytes of memory of a change without labels and notices, its message included
PAIR = 64  # bytes of a label or of an entry of a notice's metadata, beside its texts


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
    """The newest changes of a store, bounded in number and in memory.

    `most` of them are held at the most, and `most_bytes` of memory, beside the `read` that are read at a time. Where
    it is more, the oldest go until half of both is left. `head` is the newest revision that is known.
    """

    def __init__(self, store: Reading, messages: Messages, *, most: int, most_bytes: int, read: int) -> None:
        self._store = store
        self._messages = messages
        self._most = most
        self._most_bytes = most_bytes
        self._read = read
        self._changes: list[Recorded] = []
        self._revisions: list[int] = []  # of `_changes`, to find a cursor's place
        self._weights: list[int] = []  # of `_changes`, in bytes of memory
        self._held_bytes = 0  # their sum
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
        if self._floor is None or newest - self.head > self._most:
            self._begin_anew(max(await self._store.oldest(), newest - self._most // 2))
            yield None
        while True:
            try:
                read = await self._store.changes(self.head, self._read)
            except RevisionNotAvailable:  # it was purged faster than it is read
                self._begin_anew(await self._store.oldest())
                yield None
                continue
            self._add(read.changes)
            self.head = read.through
            yield read.changes
            if len(self._changes) > self._most or self._held_bytes > self._most_bytes:
                self._forget()
            if len(read.changes) < self._read:
                break

    def _add(self, changes: Sequence[Change]) -> None:
        weights = [weigh(change) for change in changes]
        self._changes += [self._recorded(change) for change in changes]
        self._revisions += [change.revision for change in changes]
        self._weights += weights
        self._held_bytes += sum(weights)

    def _forget(self) -> None:
        """Drops the oldest until half is left: rarely, because it moves the whole list."""
        room = self._held_bytes - self._most_bytes // 2
        by_bytes = bisect_left(list(accumulate(self._weights)), room) + 1 if room > 0 else 0
        count = min(max(by_bytes, len(self._changes) - self._most // 2), len(self._changes))
        self._floor = self._revisions[count - 1]
        self._held_bytes -= sum(self._weights[:count])
        del self._changes[:count], self._revisions[:count], self._weights[:count]

    def _begin_anew(self, revision: int) -> None:
        """Holds nothing, as of a revision. In one step, so that nobody is told that what was held never was."""
        self._changes, self._revisions, self._weights, self._held_bytes = [], [], [], 0
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


def weigh(change: Change) -> int:
    """Returns how many bytes of memory a change takes while it is kept, its message included."""
    pairs = [*change.flow_start.asked.labels.items(), *_notices(change)]
    return ORDINARY + sum(PAIR + _weigh_text(key) + _weigh_text(value) for key, value in pairs)


def _notices(change: Change) -> Iterator[tuple[str, str]]:
    standing = change.flow_start.standing
    for notice in (*standing.warnings, *filter(None, [standing.failure])):
        yield notice.reason, notice.message
        yield from notice.metadata.items()


def _weigh_text(text: str) -> int:
    """Weighs a text and its bytes in the message. Once written, one that is not ASCII holds a second copy of these."""
    size = sys.getsizeof(text)
    return size + len(text) if text.isascii() else size + 2 * len(text.encode(errors="replace"))
