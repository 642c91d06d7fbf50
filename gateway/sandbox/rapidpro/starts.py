"""The flow starts of the sandbox's workspace, how they move, and how they stood at any moment before.

A start's moves are known when it is made: shares of its duration after which it is queued, started, over.
Nothing runs in between; whoever looks first has the moves that are due carried out, each at its own time.

Every move leaves a version of the row behind, so that a replica can show the table as it was some time ago: at a
moment the version counts whose transaction had committed last.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.sandbox.rapidpro.generations import STARTED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from gateway.sandbox.rapidpro.catalogue import Flow
    from gateway.sandbox.rapidpro.database import Database
    from gateway.sandbox.rapidpro.generations import Ways


class Version(NamedTuple):
    """How a row stands from the commit of a transaction to that of the next. `modified_at` is by the database."""

    committed_at: datetime
    modified_at: datetime
    status: str | None
    moved: int  # how many moves of the script were done


class Row(NamedTuple):
    """A start as one reader sees it."""

    start: Start
    version: Version


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
    created_at: datetime  # by the database
    base: datetime
    duration: timedelta
    settles: timedelta = timedelta()  # from `created_at` to the first `modified_at`
    stopped_at: datetime | None = None
    scheduled: int = 0  # which entry of the heap is the valid one
    versions: list[Version] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.versions.append(Version(self.base, self.created_at + self.settles, "pending", 0))

    @property
    def latest(self) -> Version:
        """How the row stands when everything that was begun has committed."""
        return self.versions[-1]

    def asks_for(self, word: str) -> bool:
        """Says whether `params.sandbox` is this word."""
        return bool(self.params.get("sandbox") == word)

    def as_of(self, at: datetime) -> Version | None:
        """Returns the version that had committed last by a moment; None if there was no such row yet."""
        return next((version for version in reversed(self.versions) if version.committed_at <= at), None)

    def progress(self, version: Version, script: str, at: datetime) -> dict[str, int]:
        """Counts contacts; the total is -1 while it is not known, and when there is nobody."""
        total = len(self.urns) + len(self.contacts) + 10 * len(self.groups)
        if script == "nobody" or not version.moved or (script, version.status) == ("fail", "failed"):
            return {"total": -1, "started": 0}
        length = self.duration * (1 - STARTED)
        running = (self.stopped_at or at) - self.base - self.duration * STARTED
        done = version.status == "completed" or running >= length
        started = total if done else max(0, int(total * (running / length)))
        return {"total": total, "started": min(started, total - (script == "partial"))}


class Starts:
    """All starts, sorted by (modified_on, id) as they stood at any moment."""

    def __init__(self, ways: Ways, database: Database) -> None:
        self._ways = ways
        self._database = database
        self._by_uuid: dict[str, Start] = {}
        self._sorted: list[tuple[datetime, int, str, int]] = []  # the last: which version of the row
        self._due: list[tuple[datetime, int, int, str]] = []

    def __len__(self) -> int:
        return len(self._by_uuid)

    def add(self, start: Start) -> None:
        """Takes in a new start."""
        self._by_uuid[start.uuid] = start
        insort(self._sorted, (start.latest.modified_at, start.id, start.uuid, 0))
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

    def between(
        self, low: datetime | None, high: datetime | None, *, oldest_first: bool, as_of: datetime
    ) -> Iterator[Row]:
        """Yields the starts last modified within the bounds, both included, as they stood at a moment."""
        first = 0 if low is None else bisect_left(self._sorted, (low,))
        last = len(self._sorted) if high is None else bisect_right(self._sorted, high, key=lambda row: row[0])
        places = range(first, last) if oldest_first else range(last - 1, first - 1, -1)
        for place in places:
            _, _, uuid, number = self._sorted[place]
            start = self._by_uuid[uuid]
            version = start.versions[number]
            following = number + 1
            if version.committed_at <= as_of and (
                following == len(start.versions) or start.versions[following].committed_at > as_of
            ):
                yield Row(start, version)

    def recent(self, count: int) -> list[Start]:
        """Returns the starts that were made last."""
        uuids = list(self._by_uuid)[-count:] if count else []
        return [self._by_uuid[uuid] for uuid in uuids]

    def catch_up(self, now: datetime) -> None:
        """Carries out every move that is due, in order, each at its own time."""
        while self._due and self._due[0][0] <= now:
            at, _, scheduled, uuid = heapq.heappop(self._due)
            start = self._by_uuid[uuid]
            if scheduled == start.scheduled:
                moved = start.latest.moved
                status = self._ways.scripts[self._ways.script_of(start.flow, start.params)][moved][1]
                self._move(start, status, moved + 1, at, self._database.lasts())
                self._schedule(start)

    def force(self, start: Start, status: str | None, at: datetime) -> None:
        """Gives a start a status at once. It does not move by itself any more."""
        start.scheduled += 1
        start.stopped_at = start.stopped_at or at
        self._move(start, status, max(start.latest.moved, int(status != "failed")), at)

    def touch(self, start: Start, modified_at: datetime, at: datetime) -> None:
        """Gives a row another `modified_on`, which is visible from now on, and may be earlier than the last."""
        self._add_version(start, Version(at, modified_at, start.latest.status, start.latest.moved))

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

    def upgrade(self, ways: Ways, now: datetime) -> None:
        """Goes on in the ways of another generation: the same rows at the same places, in its words."""
        self.catch_up(now)
        words: dict[str | None, str] = dict(zip(self._ways.words, ways.words, strict=True))
        self._ways = ways
        for start in self._by_uuid.values():
            start.versions = [
                version._replace(status=words.get(version.status, version.status)) for version in start.versions
            ]
            script = ways.scripts[ways.script_of(start.flow, start.params)]
            over = start.latest.moved and start.latest.status in ways.ends
            passed = sum(start.base + start.duration * share <= now for share, _ in script)
            moved = len(script) if over else max(passed, int(start.latest.moved > 0))
            start.versions[-1] = start.latest._replace(moved=min(moved, len(script)))
            if start.stopped_at is None:
                self._schedule(start)

    def counts(self) -> dict[str, int]:
        """Counts the starts by status."""
        counts: dict[str, int] = {}
        for start in self._by_uuid.values():
            counts[str(start.latest.status)] = counts.get(str(start.latest.status), 0) + 1
        return counts

    def _schedule(self, start: Start) -> None:
        start.scheduled += 1
        moves = self._ways.scripts[self._ways.script_of(start.flow, start.params)]
        if start.latest.moved < len(moves):
            due = start.base + start.duration * moves[start.latest.moved][0]
            heapq.heappush(self._due, (due, start.id, start.scheduled, start.uuid))

    def _move(self, start: Start, status: str | None, moved: int, at: datetime, lasts: timedelta = timedelta()) -> None:
        modified_at = self._database.written(at)
        if status == "interrupted":
            start.stopped_at = start.stopped_at or at
            modified_at = start.latest.modified_at  # an interruption does not touch modified_on
        # A row is locked by the transaction that writes it, so its versions commit one after the other.
        committed_at = max(at + lasts, start.latest.committed_at)
        self._add_version(start, Version(committed_at, modified_at, status, moved))

    def _add_version(self, start: Start, version: Version) -> None:
        version = version._replace(committed_at=max(version.committed_at, start.latest.committed_at))
        start.versions.append(version)
        insort(self._sorted, (version.modified_at, start.id, start.uuid, len(start.versions) - 1))
