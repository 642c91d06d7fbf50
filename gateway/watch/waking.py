"""What watchers select, and how those that wait are woken.

A watcher is woken by the narrowest key that says what may concern it; one that has been silent for long wakes to beat.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.model import Filter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gateway.errors import GatewayError
    from gateway.model import Change

WOKEN = 50  # watchers in one pass of the loop, about 2 ms
IDS_OF_ONE = 75  # ids that cost as much as a stream without any: 1,000 take 327 KiB, and a stream 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What one watcher selects, and where it goes on from (None: begin with a snapshot).

    `most` is how many streams its tenant may have, if not as many as others. `ended` tells why it may not go on.
    """

    tenant: str
    spans_tenants: bool = False
    most: int | None = None
    ended: Callable[[], GatewayError | None] | None = None
    ids: frozenset[str] = frozenset()
    selected: Filter = field(default_factory=Filter)
    after: int | None = None
    epoch: str = ""
    until_done: bool = False

    @property
    def cost(self) -> int:
        """How many streams it counts as."""
        return 1 + len(self.ids) // IDS_OF_ONE

    @property
    def reaches(self) -> str | None:
        """Whose starts it may see; None: every tenant's."""
        return None if self.spans_tenants else self.tenant


_Key = str | tuple[str | None, tuple[str, str] | None]
"""The id of a start; or a tenant (None: all) and one of its labels (None: whatever they are)."""


class Waiter:
    """A watcher in its live part: what may have come for it, and the sleep that this ends."""

    __slots__ = ("is_due", "is_queued", "passed", "silent_since", "sleep", "tenant")

    def __init__(self, tenant: str, now: float) -> None:
        self.tenant = tenant
        self.is_queued = False  # to be woken
        self.is_due = True  # whether there may be something to read: at first, everything
        self.passed = 0  # a revision up to which there was nothing for it, as far as it was told
        self.silent_since = now  # by the loop's clock
        self.sleep: asyncio.Future[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it has read all that may concern it."""
        return not self.is_due and self.sleep is not None

    def note(self, passed: int = 0) -> None:
        """Notes that there may be something to read, and up to which revision nothing was said to be."""
        if self.is_idle:
            self.passed = passed
        self.is_due = True

    def end_sleep(self) -> None:
        """Has it look around."""
        if self.sleep is not None and not self.sleep.done():
            self.sleep.set_result(None)


class Alarm:
    """Ends the sleep of watchers: of tenants in turn, and of few in one pass of the loop, which serves others too."""

    def __init__(self) -> None:
        self._queued: dict[str, deque[Waiter]] = {}  # by tenant, whose turn is next first

    def wake(self, waiter: Waiter) -> None:
        """Has one woken soon, if it sleeps."""
        if waiter.sleep is None or waiter.is_queued:
            return
        waiter.is_queued = True
        if not self._queued:
            asyncio.get_running_loop().call_soon(self._ring)
        self._queued.setdefault(waiter.tenant, deque()).append(waiter)

    def _ring(self) -> None:
        for _ in range(WOKEN):
            if not self._queued:
                return
            tenant = next(iter(self._queued))
            waiters = self._queued.pop(tenant)
            waiter = waiters.popleft()
            if waiters:
                self._queued[tenant] = waiters
            waiter.is_queued = False
            waiter.end_sleep()
        if self._queued:
            asyncio.get_running_loop().call_soon(self._ring)


class Waiters:
    """The watchers of one gateway that are in their live part."""

    def __init__(self, heartbeat: float) -> None:
        self._heartbeat = heartbeat  # seconds
        self._by_key: dict[_Key, set[Waiter]] = {}
        self._alarm = Alarm()
        self._silent: dict[Waiter, None] = {}  # whoever has been silent longest comes first
        self._live: set[Waiter] = set()

    @property
    def idle_count(self) -> int:
        """How many have read all that may concern them."""
        return sum(waiter.is_idle for waiter in self._live)

    @contextmanager
    def waiting(self, watched: Watched) -> Iterator[Waiter]:
        """Has a watcher woken from here on by whatever may concern it."""
        waiter = Waiter(watched.tenant, asyncio.get_running_loop().time())
        self._silent[waiter] = None
        self._live.add(waiter)
        keys = _keys_of_watcher(watched)
        for key in keys:
            self._by_key.setdefault(key, set()).add(waiter)
        try:
            yield waiter
        finally:
            self._silent.pop(waiter, None)
            self._live.discard(waiter)
            for key in keys:
                waiters = self._by_key[key]
                waiters.discard(waiter)
                if not waiters:
                    del self._by_key[key]

    def wake_all(self) -> None:
        """Wakes every watcher."""
        for waiters in self._by_key.values():
            for waiter in waiters:
                waiter.note()
                self._alarm.wake(waiter)

    def wake(self, changes: Sequence[Change] | None) -> None:
        """Wakes those whom changes may concern; None: whoever there is, for it is not known what has changed."""
        if changes is None:
            self.wake_all()
            return
        for key in {key for change in changes for key in _keys_of_change(change)}:
            for waiter in self._by_key.get(key, ()):
                waiter.note(passed=changes[0].revision - 1)
                self._alarm.wake(waiter)

    async def beat(self) -> None:
        """Wakes whoever has been silent for long. One timer for all of them: one each would cost more than a change."""
        loop = asyncio.get_running_loop()
        while True:
            latest = loop.time() - self._heartbeat
            while self._silent and (waiter := next(iter(self._silent))).silent_since <= latest:
                del self._silent[waiter]
                self._alarm.wake(waiter)
            first = next(iter(self._silent), None)
            await asyncio.sleep(self._heartbeat if first is None else first.silent_since - latest)

    def spoke(self, waiter: Waiter, now: float) -> None:
        """Notes that a watcher was sent something."""
        waiter.silent_since = now
        self._silent.pop(waiter, None)
        self._silent[waiter] = None


def _keys_of_watcher(watched: Watched) -> Iterable[_Key]:
    """Returns by what a watcher is woken: the narrowest that says it for all that it selects."""
    label = min(watched.selected.labels.items(), default=None)
    return watched.ids or [(watched.reaches, label)]


def _keys_of_change(change: Change) -> Iterable[_Key]:
    """Returns the keys of all whom a change may concern."""
    asked = change.flow_start.asked
    yield asked.id
    for label in (None, *asked.labels.items()):
        yield asked.tenant, label
        yield None, label
