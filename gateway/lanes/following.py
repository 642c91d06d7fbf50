"""In what order the flows of a backend are listed where each has a list of its own, and what their lists come to.

Rules:

1. Tenants take turns: the first flow of each tenant, then the second of each. A tenant with one flow does not wait for
   the 300 flows of another.
2. All lists together are one scan, with what proves least of each: it is believed only if every one of them is.
3. A list of what moved begins where the one before began by the backend's clock. One answer may be of a host whose
   clock is ahead, so of the answers of an hour the earliest clock counts, by one that nobody sets. So it does for when
   something was sent: what is looked for too late in a list is not found there, and would be sent again.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from gateway.adapters.base import Sweep
    from gateway.sightings import Window

TOGETHER = 4  # flows in one exchange, one after the other
LISTS_AT_ONCE = 4  # exchanges at the same time
REMEMBERED = 3_600.0  # seconds in which the earliest clock counts


class EarliestClock:
    """The earliest of the clocks by which a backend answered of late."""

    def __init__(self) -> None:
        self._zeros: deque[tuple[float, datetime]] = deque()  # what each showed at 0 of ours: the earliest is first

    def note(self, ours: float, theirs: datetime) -> None:
        """Notes what an answer said what time is theirs, and the moment of ours (monotonic) at which it came."""
        zero = theirs - timedelta(seconds=ours)
        while self._zeros and self._zeros[-1][1] >= zero:
            self._zeros.pop()
        self._zeros.append((ours, zero))

    @property
    def is_known(self) -> bool:
        """Whether an answer has said what time it is."""
        return bool(self._zeros)

    def at(self, ours: float) -> datetime:
        """Returns what it shows at a moment of ours. It must be known."""
        while len(self._zeros) > 1 and ours - self._zeros[0][0] > REMEMBERED:
            self._zeros.popleft()
        return self._zeros[0][1] + timedelta(seconds=ours)


def in_turns(windows: Iterable[Window], tenants: Mapping[str, frozenset[str]]) -> tuple[list[Window], int]:
    """Orders windows so that tenants take turns; returns how many come in the first turn, too.

    A flow of several tenants comes when the first of them has a turn.
    """
    had: Counter[str] = Counter()
    turns: list[tuple[int, Window]] = []
    for window in windows:
        whose = tenants.get(window.flow) or {""}
        turns.append((min(had[each] for each in whose), window))
        had.update(whose)
    turns.sort(key=lambda each: each[0])
    return [window for _, window in turns], sum(turn == 0 for turn, _ in turns)


def steps(windows: Sequence[Window], at_once: int) -> list[list[tuple[Window, ...]]]:
    """Cuts windows into steps, and each into the exchanges that are made at the same time; always one at the least."""
    exchanges = [tuple(windows[at : at + TOGETHER]) for at in range(0, max(1, len(windows)), TOGETHER)]
    size = max(1, min(at_once, LISTS_AT_ONCE))
    return [exchanges[at : at + size] for at in range(0, len(exchanges), size)]


def as_one(first: Sweep, *others: Sweep) -> Sweep:
    """Returns what several lists come to as one scan."""
    whole = first
    for each in others:
        whole = replace(
            whole,
            sightings=whole.sightings + each.sightings,
            account=whole.account or each.account,
            since=max(_known(whole.since, each.since), default=None),
            newest=None if None in (whole.newest, each.newest) else min(_known(whole.newest, each.newest)),
            began=min(_known(whole.began, each.began), default=None),
            trouble=whole.trouble or each.trouble,
            unread=whole.unread | each.unread,
            is_gapless=whole.is_gapless and each.is_gapless and whole.account == each.account,
            needs_closing=whole.needs_closing or each.needs_closing,
        )
    return whole


def _known(*moments: datetime | None) -> list[datetime]:
    return [each for each in moments if each is not None]
