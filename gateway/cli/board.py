"""What a watch remembers of the starts it was told of, and the picture of it on a terminal.

Rules:

1. Taking a change costs the same however many starts there are; drawing costs what fits on the terminal.
2. Memory is bounded: the latest starts as they are, of all others only what is needed to count them.
3. A picture is never taller or wider than it was told, so that it can be redrawn in place.
"""

from __future__ import annotations

import textwrap
from collections import Counter, OrderedDict
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.cli import views

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rich.console import RenderableType

KEPT = 1_000  # starts remembered by a watch: as many as it can be asked to wait for
WAITS = frozenset({pb.FlowStart.STATE_PENDING, pb.FlowStart.STATE_QUEUED, pb.FlowStart.STATE_STARTED})
ENDED = frozenset({pb.FlowStart.STATE_COMPLETED, pb.FlowStart.STATE_FAILED, pb.FlowStart.STATE_INTERRUPTED})

COLUMNS = ("ID", "TENANT", "BACKEND", "FLOW", "STATE", "TO", "PROGRESS", "UPDATED")
BY_IMPORTANCE = ("ID", "STATE", "PROGRESS", "UPDATED", "TENANT", "TO", "BACKEND", "FLOW")  # the last gives way first
AT_LEAST = {"STATE": 11, "PROGRESS": 12, "FLOW": 10}  # cells; what is longer is cut, the other columns never are
WRAPPED = ("STATE", "PROGRESS")


class Board:
    """Takes changes from one thread while another draws them. `one` draws the bars of a single start."""

    def __init__(self, *, one: bool = False) -> None:
        self._one = one
        self._lock = Lock()
        self._latest: OrderedDict[str, pb.FlowStart] = OrderedDict()  # the latest last
        self._moving: dict[str, pb.FlowStart.State.ValueType] = {}  # of those that have not ended
        self._counts: Counter[pb.FlowStart.State.ValueType] = Counter()
        self._asked: Sequence[str] = ()  # of these it was asked last why they wait
        self._has_all = False  # the snapshot is over, so every start selected has been counted

    def take(self, message: pb.WatchFlowStartsResponse) -> None:
        """Takes what a watch was sent."""
        with self._lock:
            if message.HasField("snapshot_end"):
                self._has_all = True
            if message.HasField("changed"):
                self._count(message.changed)
                self._latest[message.changed.id] = message.changed
                self._latest.move_to_end(message.changed.id)
                if len(self._latest) > KEPT:
                    self._latest.popitem(last=False)

    def _count(self, start: pb.FlowStart) -> None:
        """Counts a start where it is now, and no more where it was."""
        known = self._latest.get(start.id)
        before = known.state if known is not None else self._moving.get(start.id)
        self._moving.pop(start.id, None)
        if before is not None:
            self._counts[before] -= 1
        elif self._has_all and start.HasField("end_time") and start.end_time != start.update_time:
            return  # a warning on one that had ended and was counted before, and is not remembered any more
        self._counts[start.state] += 1
        if start.state not in ENDED:
            self._moving[start.id] = start.state

    def clear(self) -> None:
        """Forgets everything: what comes next begins with how the starts are."""
        with self._lock:
            self._latest.clear()
            self._moving.clear()
            self._counts.clear()
            self._has_all = False

    def get(self, start_id: str) -> pb.FlowStart | None:
        """Returns a start as it was last heard of; None if it was not, or too many others were since."""
        with self._lock:
            return self._latest.get(start_id)

    def unsent(self, most: int) -> list[pb.FlowStart]:
        """Returns starts of which something is not sent yet, those that changed last before the others."""
        with self._lock:
            return list(islice((each for each in reversed(self._latest.values()) if _is_unsent(each)), most))

    def learn(self, starts: Sequence[pb.FlowStart]) -> None:
        """Takes what was asked for where nothing newer is known. The order stays; these tell why starts wait."""
        with self._lock:
            self._asked = [start.id for start in starts]
            for start in starts:
                known = self._latest.get(start.id)
                if known is not None and known.revision <= start.revision:
                    self._count(start)
                    self._latest[start.id] = start

    def asked(self) -> list[pb.FlowStart]:
        """Returns those that were asked for last, as they are known now."""
        with self._lock:
            return [self._latest[each] for each in self._asked if each in self._latest]

    def picture(self, width: int, height: int, now: datetime) -> RenderableType:
        """Draws what fits: the bars of the one start, or the starts that changed last and how many are in which state.

        The bars are as tall as their start has notes.
        """
        with self._lock:
            latest = list(islice(reversed(self._latest.values()), max(height, 1)))
            counts = +self._counts
            has_all = self._has_all
            asked = [self._latest[each] for each in self._asked if each in self._latest]
        if self._one and latest:
            return views.start_view(latest[0], now, width)
        footer = textwrap.wrap(_sum(counts) if counts or has_all else "", max(width, 1))
        why = [line for told in views.reasons(asked, now) for line in textwrap.wrap(told, max(width, 1))]
        footer = [*why[: max(height - 3 - len(footer), 0)], *footer]  # room for the headings, a start and the rest
        if not latest:
            return _dim(footer) if footer else Group()
        room = max(height - 1 - len(footer), 1)  # below the headings
        if counts.total() > min(room, len(latest)):
            room = max(room - 1, 1)
            footer.insert(0, f"… and {counts.total() - min(room, len(latest)):,} more"[:width])
        return Group(latest_table(latest[:room], width, now), _dim(footer))


def _is_unsent(start: pb.FlowStart) -> bool:
    told = start.progress
    taken = told.queued + told.started + told.completed + told.failed + told.interrupted + told.skipped
    return start.state in WAITS and taken + told.uncertain < start.recipient_count


def _sum(counts: Counter[pb.FlowStart.State.ValueType]) -> str:
    """Returns how many starts are in which state. A count and its word stay on one line."""
    total = counts.total()
    parts = [f"{total:,} start{'' if total == 1 else 's'}"]
    for state, number in sorted(counts.items()):
        parts.append(f"{views.state_name(pb.FlowStart(state=state)).lower()} {number:,}")
    return " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts) if total else "No starts yet."


def _dim(lines: Sequence[str]) -> Text:
    return Text("\n".join(lines), style="dim")


def latest_table(starts: Sequence[pb.FlowStart], width: int, now: datetime, *, wraps: bool = False) -> Table:
    """Returns one line for each start; what does not fit is cut, and columns that cannot be are left out.

    With `wraps`, states and progress take as many lines as they need instead: where nothing is drawn anew.
    Whose each is stands there if they are of several tenants, whom only an operator sees together.
    """
    cells = [
        {
            "ID": Text(views.clean(start.id)),
            "TENANT": Text(views.clean(start.tenant)),
            "BACKEND": Text(views.clean(start.backend)),
            "FLOW": Text(views.clean(start.flow)),
            "STATE": views.state_text(start),
            "TO": Text(f"{start.recipient_count:,}"),
            "PROGRESS": Text(views.progress_text(start)),
            "UPDATED": Text(views.updated(start, now)),
        }
        for start in starts
    ]
    told = COLUMNS if len({start.tenant for start in starts}) > 1 else [name for name in COLUMNS if name != "TENANT"]
    widths = _widths({name: max(len(name), *(cell_len(row[name].plain) for row in cells)) for name in told}, width)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    shown = [name for name in COLUMNS if name in widths]
    for name in shown:
        justify = "right" if name == "UPDATED" else "left"
        is_wrapped = wraps and name in WRAPPED
        overflow = "fold" if is_wrapped else "ellipsis"
        table.add_column(name, width=widths[name], no_wrap=not is_wrapped, overflow=overflow, justify=justify)  # type: ignore[arg-type]
    for row in cells:
        table.add_row(*(row[name] for name in shown))
    return table


def _widths(wanted: dict[str, int], width: int) -> dict[str, int]:
    """Gives each column its width in cells, a gap behind each; those that there is no room for get none."""
    given: dict[str, int] = {}
    left = width + 1  # the last column needs no gap
    for name in [name for name in BY_IMPORTANCE if name in wanted]:
        least = max(min(wanted[name], AT_LEAST.get(name, wanted[name])), 1)
        if given and least + 1 > left:
            continue
        given[name] = min(least, width)
        left -= given[name] + 1
    for name in AT_LEAST:
        if name in given:
            more = min(wanted[name] - given[name], left)
            given[name] += more
            left -= more
    return given
