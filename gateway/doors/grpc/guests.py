"""Bounds the streams of those who bring no credential: health watches and reflection.

A stream costs 25 KiB. So a connection may have a few; of all of them together there may be as many as fit; and one more
than these ends the oldest of the host that has most, so that a newcomer is served whatever the others do. A stream that
ends this way is dropped: its client may not read, and then a status would wait for it for ever.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gateway.doors.grpc.taking import dropping
from gateway.errors import Exhausted, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc

PER_CONNECTION = 20
IN_ALL = 1_000
LONGEST = timedelta(hours=1)


class Guests:
    """The streams of one server's open services."""

    def __init__(
        self, *, per_connection: int = PER_CONNECTION, in_all: int = IN_ALL, longest: timedelta = LONGEST
    ) -> None:
        self._per_connection = per_connection
        self._in_all = in_all
        self._longest = longest.total_seconds()
        self._open: dict[str, dict[object, Callable[[], None]]] = {}  # by host, what drops each; the oldest first
        self._count = 0
        self._connections: Counter[str] = Counter()

    @contextmanager
    def stream(self, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Counts a stream while it lasts. Raises `Exhausted` if its connection has too many."""
        connection = context.peer()
        if self._connections[connection] >= self._per_connection:
            raise Exhausted(
                reason=Reason.STREAM_LIMIT,
                message=f"Too many streams of health or reflection are open: {self._per_connection} is the limit of a"
                " connection. End some.",
                metadata={"quota_subject": "streams", "limit": str(self._per_connection)},
            )
        if self._count >= self._in_all:
            self._make_room()
        drop = dropping.get()
        key, host = object(), connection.rpartition(":")[0]
        self._open.setdefault(host, {})[key] = drop
        self._count += 1
        self._connections[connection] += 1
        ageing = asyncio.get_running_loop().call_later(self._longest, drop)
        try:
            yield
        finally:
            ageing.cancel()
            self._forget(host, key)
            self._connections[connection] -= 1
            if not self._connections[connection]:
                del self._connections[connection]

    def _make_room(self) -> None:
        """Drops the oldest stream of the host that has most."""
        host, streams = max(self._open.items(), key=lambda each: len(each[1]))
        key, drop = next(iter(streams.items()))
        self._forget(host, key)
        drop()

    def _forget(self, host: str, key: object) -> None:
        """Counts a stream no longer, once."""
        streams = self._open.get(host, {})
        if streams.pop(key, None) is not None:
            self._count -= 1
        if not streams:
            self._open.pop(host, None)
