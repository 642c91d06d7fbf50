"""What each watcher had to get, by the record, and how that differs from what it got. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.chaos.record import Moved

NOTICED = 5.0  # seconds in which gateways have noticed that the store is there again
KINDS = ("missed", "repeated", "out of order", "not due", "not ended", "refused", "wrong")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """What one watcher asked for first."""

    ids: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    states: tuple[int, ...] = ()
    after: int | None = None
    until_done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a stream ended that was not told that all is done. Moments are of the machine's monotonic clock."""

    code: str
    opened: float
    ended: float
    is_told: bool  # the server itself said so
    details: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one watcher got, over all its streams."""

    watching: Watching
    seen: tuple[int, ...]
    snapshot_end: int | None = None
    resumed_at: int | None = None  # from where it went on, if its snapshot was broken off
    is_ended: bool = False
    endings: tuple[Ending, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    """When nobody served: from before the kill until the next process said that it serves."""

    killed: float
    served: float
    is_store: bool = False  # only the store was away: gateways say so


def read_told(row: dict[str, Any]) -> Told:
    """Reads what a watcher wrote down."""
    watching = Watching(**{**row["watching"], "ids": tuple(row["watching"]["ids"])})
    endings = tuple(Ending(**ending) for ending in row["endings"])
    return Told(**{**row, "watching": watching, "seen": tuple(row["seen"]), "endings": endings})


class Judge:
    """Compares watchers with the record."""

    def __init__(self, record: Sequence[Moved], downs: Sequence[Down] = ()) -> None:
        self._record = record
        self._downs = downs
        self._by_start: dict[str, list[Moved]] = defaultdict(list)
        self._by_label: dict[tuple[str, str], list[Moved]] = defaultdict(list)
        for moved in record:
            self._by_start[moved.start_id].append(moved)
            for label in moved.labels.items():
                self._by_label[label].append(moved)

    def judge(self, told: Told) -> Counter[str]:
        """Counts what is wrong with one watcher, by `KINDS`."""
        must, may = self._due(told)
        seen = Counter(told.seen)
        wrong = Counter(
            {
                "missed": len(must - seen.keys()),
                "repeated": seen.total() - len(seen),
                "out of order": sum(later < earlier for earlier, later in zip(told.seen, told.seen[1:], strict=False)),
                "not due": len(seen.keys() - may),
                "refused": sum(1 for _ in self.refusals(told)),
            }
        )
        if told.watching.until_done and not told.is_ended:
            wrong["not ended"] = 1
        return +wrong

    def refusals(self, told: Told) -> Iterable[Ending]:
        """Yields the endings that no kill excuses; each kill excuses one stream of a watcher, and those begun after it.

        What is begun while nobody serves may go out on the connection of whoever did, and end with it.
        """
        downs = iter(self._downs)
        for ending in told.endings:
            if ending.code == "UNAVAILABLE" and any(
                down.is_store and down.killed < ending.ended and ending.opened < down.served + NOTICED
                for down in self._downs
            ):
                continue
            is_lost = ending.code == "UNAVAILABLE" and not ending.is_told
            if is_lost and any(down.killed <= ending.opened < down.served for down in self._downs):
                continue
            if not is_lost or not any(down.killed < ending.ended and ending.opened < down.served for down in downs):
                yield ending

    def wrong(self, shown: dict[int, tuple[str, int]]) -> int:
        """Counts the messages, by revision, that tell another start or state than is recorded."""
        recorded = {moved.revision: (moved.start_id, moved.state) for moved in self._record}
        return sum(recorded.get(revision) != told for revision, told in shown.items())

    def _due(self, told: Told) -> tuple[set[int], set[int]]:
        """Returns the revisions that it had to get, and those that it could get."""
        watching, seen = told.watching, set(told.seen)
        selected = self._selected(watching)
        states = set(watching.states)

        def shows(moved: Moved) -> bool:
            return not states or moved.state in states

        def passes(moved: Moved) -> bool:
            return shows(moved) or moved.before in states

        begun = watching.after
        must: set[int] = set()
        may: set[int] = set()
        if begun is None:
            at = told.snapshot_end if told.resumed_at is None else told.resumed_at
            begun = at if at is not None else self._record[-1].revision if self._record else 0
            must = {moved.revision for moved in self._current(selected, begun, told) if shows(moved)}
            may = {moved.revision for moved in selected if moved.revision <= begun and passes(moved)}
            shown = {moved.start_id: moved for moved in selected if moved.revision in seen and moved.revision <= begun}
            must |= {  # whoever was shown one that has left since must hear that it has
                moved.revision
                for moved in selected
                if moved.start_id in shown
                and shows(shown[moved.start_id])
                and shown[moved.start_id].revision < moved.revision <= begun
                and passes(moved)
            }
        last = self._done_at(watching, begun) if watching.until_done else None
        later = {
            moved.revision
            for moved in selected
            if moved.revision > begun and (last is None or moved.revision <= last) and passes(moved)
        }
        return must | later, may | later

    def _current(self, selected: Iterable[Moved], at: int, told: Told) -> Iterable[Moved]:
        """Yields the last change of each start as of a revision: what a snapshot must hold."""
        last: dict[str, Moved] = {}
        for moved in selected:
            if moved.revision <= at:
                last[moved.start_id] = moved
            elif told.resumed_at is not None:  # it may have moved on before the snapshot came to it
                last.pop(moved.start_id, None)
        return last.values()

    def _selected(self, watching: Watching) -> Sequence[Moved]:
        if watching.ids:
            moves = (moved for start_id in watching.ids for moved in self._by_start.get(start_id, ()))
            narrowed: Sequence[Moved] = sorted(moves, key=lambda moved: moved.revision)
        elif watching.labels:
            narrowed = self._by_label.get(next(iter(watching.labels.items())), ())
        else:
            return self._record
        return [moved for moved in narrowed if watching.labels.items() <= moved.labels.items()]

    def _done_at(self, watching: Watching, begun: int) -> int | None:
        """Returns the first revision, from where it began, at which all its starts were done."""
        undone = set(watching.ids)
        for moved in self._selected(Watching(ids=watching.ids)):
            if moved.revision > begun and not undone:
                return begun
            (undone.discard if moved.is_done else undone.add)(moved.start_id)
            if moved.revision > begun and not undone:
                return moved.revision
        return None if undone else begun
