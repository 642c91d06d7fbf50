"""The flow starts of the sandbox's workspace, and how they move.

A start's moves are known when it is made: shares of its duration after which it is queued, started, over.
Nothing runs in between; whoever looks first has the moves that are due carried out, each at its own time.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gateway.sandbox.rapidpro_generations import NEW_SCRIPTS, STARTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from gateway.sandbox.rapidpro_catalogue import Flow
    from gateway.sandbox.rapidpro_generations import Script


@dataclass(slots=True, kw_only=True)
class Start:
    """One flow start. `base` is when its script began; holding it moves `base` on."""

    id: int
    uuid: str
    flow: Flow
    contacts: list[tuple[str, str]]
    groups: list[tuple[str, str]]
    urns: list[str]
    params: dict[str, Any]
    restart_participants: bool
    exclude_active: bool
    created_at: datetime
    duration: timedelta
    settles: timedelta = timedelta()  # from `created_at` to the first `modified_at`
    status: str | None = "pending"
    modified_at: datetime = field(init=False)
    base: datetime = field(init=False)
    stopped_at: datetime | None = None
    moved: int = 0  # how many moves of the script are done
    scheduled: int = 0  # which entry of the heap is the valid one

    def __post_init__(self) -> None:
        self.base = self.created_at
        self.modified_at = self.created_at + self.settles

    @property
    def script(self) -> str:
        """What was asked for with `params.sandbox`; an archived flow always fails, without a reason."""
        if self.flow.archived:
            return "fail"
        asked = self.params.get("sandbox")
        return asked if isinstance(asked, str) and asked in NEW_SCRIPTS else "complete"

    @property
    def key(self) -> tuple[datetime, int]:
        """Where the start stands in lists."""
        return self.modified_at, self.id

    def progress(self, now: datetime) -> dict[str, int]:
        """Counts contacts; the total is -1 while it is not known, and when there is nobody."""
        total = len(self.urns) + len(self.contacts) + 10 * len(self.groups)
        if self.script == "nobody" or not self.moved or (self.script, self.status) == ("fail", "failed"):
            return {"total": -1, "started": 0}
        length = self.duration * (1 - STARTED)
        running = (self.stopped_at or now) - self.base - self.duration * STARTED
        done = self.status == "completed" or running >= length
        started = total if done else max(0, int(total * (running / length)))
        return {"total": total, "started": min(started, total - (self.script == "partial"))}


class Starts:
    """All starts, sorted by (modified_on, id) at any moment."""

    def __init__(self, scripts: Mapping[str, Script] = NEW_SCRIPTS) -> None:
        self._scripts = scripts
        self._by_uuid: dict[str, Start] = {}
        self._sorted: list[tuple[datetime, int, str]] = []
        self._due: list[tuple[datetime, int, int, str]] = []

    def __len__(self) -> int:
        return len(self._by_uuid)

    def add(self, start: Start) -> None:
        """Takes in a new start."""
        self._by_uuid[start.uuid] = start
        insort(self._sorted, (*start.key, start.uuid))
        self._schedule(start)

    def find(self, uuid: str) -> Start | None:
        """Finds a start, if there is one."""
        return self._by_uuid.get(uuid)

    def get(self, uuid: str) -> Start:
        """Finds a start. Raises KeyError."""
        return self._by_uuid[uuid]

    def numbered(self, number: int) -> Start | None:
        """Finds a start by its number, if there is one."""
        return next((start for start in self._by_uuid.values() if start.id == number), None)

    def between(self, low: datetime | None, high: datetime | None, *, oldest_first: bool) -> Iterator[Start]:
        """Yields the starts last modified within the bounds, both included."""
        first = 0 if low is None else bisect_left(self._sorted, (low,))
        last = len(self._sorted) if high is None else bisect_right(self._sorted, high, key=lambda row: row[0])
        places = range(first, last) if oldest_first else range(last - 1, first - 1, -1)
        return (self._by_uuid[self._sorted[place][2]] for place in places)

    def catch_up(self, now: datetime) -> None:
        """Carries out every move that is due, in order, each at its own time."""
        while self._due and self._due[0][0] <= now:
            at, _, scheduled, uuid = heapq.heappop(self._due)
            start = self._by_uuid[uuid]
            if scheduled == start.scheduled:
                status = self._scripts[start.script][start.moved][1]
                start.moved += 1
                self._move(start, status, at)
                self._schedule(start)

    def force(self, start: Start, status: str | None, at: datetime) -> None:
        """Gives a start a status at once. It does not move by itself any more."""
        start.moved = max(start.moved, int(status != "failed"))
        start.scheduled += 1
        start.stopped_at = start.stopped_at or at
        self._move(start, status, at)

    def hold(self, start: Start, at: datetime) -> None:
        """Keeps a start from moving."""
        if start.stopped_at is None:
            start.scheduled += 1
            start.stopped_at = at

    def release(self, start: Start, at: datetime) -> None:
        """Lets a held start go on from where it was."""
        if start.stopped_at is not None:
            start.base += at - start.stopped_at
            start.stopped_at = None
            self._schedule(start)

    def counts(self) -> dict[str, int]:
        """Counts the starts by status."""
        counts: dict[str, int] = {}
        for start in self._by_uuid.values():
            counts[str(start.status)] = counts.get(str(start.status), 0) + 1
        return counts

    def _schedule(self, start: Start) -> None:
        start.scheduled += 1
        moves = self._scripts[start.script]
        if start.moved < len(moves):
            due = start.base + start.duration * moves[start.moved][0]
            heapq.heappush(self._due, (due, start.id, start.scheduled, start.uuid))

    def _move(self, start: Start, status: str | None, at: datetime) -> None:
        start.status = status
        if status == "interrupted":
            start.stopped_at = start.stopped_at or at
            return  # an interruption does not touch modified_on
        if at != start.modified_at:
            del self._sorted[bisect_left(self._sorted, (*start.key, start.uuid))]
            start.modified_at = at
            insort(self._sorted, (*start.key, start.uuid))
