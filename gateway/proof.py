"""When a dispatch whose answer never came is proved absent: pure, so that every line of it can be tried.

What is required of a scan, and why:

1. It was read to its end, keys included: what was not read may be it.
2. It was answered by the account that the dispatch was sent to: another one does not know it.
3. It reaches back to before the dispatch was sent, by the backend's own clock: ours may be wrong. It ends after now by
   either clock.
4. It began when the quiet window, and a quarter of it for lists that lag, had passed since the attempt had ended.
   That is measured from when this process first saw it unsure, which is later, by a clock that nobody sets.
5. It shows what else that account accepted since then on the flows that are sought, less what is too new for a list
   that lags: an empty list, or one from a replica that hangs, shows nothing of it.
6. It does not show the dispatch; and neither does a second one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from gateway.model import State, Window

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from gateway.model import Sought

LAG = 0.25  # of the quiet window, by which a list may be behind
SCANS = 2  # clean ones without it
ANCHOR = timedelta(hours=1)  # how much further back a scan may reach so that it shows something that is known
AHEAD = timedelta(hours=1)  # beyond `now`, which may be early: a scan that ends too soon would show nothing of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a scan is to cover: from when (their clock), which windows, and what it must show to be believed.

    `expected` has external ids, and the flow of each.
    """

    since: datetime
    windows: tuple[Window, ...]
    expected: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What came of a scan: when it began (monotonic), whether all of it could be read, and what it showed.

    `shown` are external ids, `keys` correlation keys.

    `possible` is False when the backend could not be asked at all; `unread` are flows that it would not show.
    """

    began: float
    readable: bool
    possible: bool
    account: str
    unread: frozenset[str]
    shown: Collection[str]
    keys: Collection[str]


def span(
    windows: Sequence[Window],
    sought: Collection[Sought],
    controls: Iterable[tuple[str, str, datetime]],
    now: datetime,
) -> Scope:
    """Widens what is followed to what is sought, and tells what the scan must show.

    `controls` are accepted dispatches, the latest first. `now` is by the backend's clock or by ours, the later.
    What is followed as well neither makes the scan reach further back nor tells what it must show: that may have been
    deleted long ago. Of stragglers only what still runs is listed, so what is sought reaches over them.
    """
    stragglers = {window.flow: window.stragglers for window in windows}
    oldest = {window.flow: window.oldest for window in windows}
    newest = {window.flow: window.newest for window in windows}
    for each in sought:
        oldest[each.flow] = min(oldest.get(each.flow, each.since), each.since)
        newest[each.flow] = max(newest.get(each.flow, each.since), each.since, now + AHEAD)
    reach: dict[str, datetime] = {}
    for each in sought:
        if each.state is State.UNCERTAIN:
            reach[each.flow] = min(reach.get(each.flow, each.since), each.since)
    expected: dict[str, str] = {}
    anchored: set[str] = set()
    for flow, external_id, accepted_at in controls:
        if flow not in reach:
            continue
        if flow not in anchored and reach[flow] - ANCHOR <= accepted_at < reach[flow]:
            reach[flow] = accepted_at  # nothing newer is known there, so reach back for something that is
        if accepted_at >= reach[flow]:
            anchored.add(flow)
            expected[external_id] = flow
    oldest |= {flow: min(since, oldest[flow]) for flow, since in reach.items()}
    return Scope(
        since=min(reach.values(), default=now),
        windows=tuple(
            Window(flow=flow, oldest=since, newest=newest[flow], stragglers=_before(stragglers.get(flow), since))
            for flow, since in oldest.items()
        ),
        expected=expected,
    )


def _before(moment: datetime | None, other: datetime) -> datetime | None:
    return moment if moment is not None and moment < other else None


@dataclass(slots=True)
class _Case:
    """What is known of one attempt: since when it is sought, how many clean scans lacked it, how long was scanned."""

    seen_at: float
    absences: int = 0
    searched: float = 0.0


class Proof:
    """Weighs scans for what is sought.

    All in seconds: `longest_pause` is between scans that nothing hinders.
    """

    def __init__(self, quiet_window: float, find_for: float, longest_pause: float) -> None:
        self._quiet = quiet_window * (1 + LAG)
        self._find_for = find_for
        self._cases: dict[tuple[str, int], _Case] = {}
        self._longest_pause = longest_pause
        self._last_scan = -math.inf

    def due_in(self, sought: Iterable[Sought], now: float, interval: float) -> float:
        """Tells after how many seconds without a scan the next one is worth it; infinity if none is sought."""
        cases = self._open(sought, now)
        if not cases:
            return math.inf
        over = [now - case.seen_at >= self._quiet for case in cases]
        first = min(case.seen_at for case in cases) + self._quiet
        return interval if any(over) else max(interval, first - self._last_scan)

    def weigh(
        self, scan: Scan, sought: Sequence[Sought], expected: Mapping[str, str]
    ) -> tuple[list[Sought], list[Sought]]:
        """Returns what is proved absent by this scan, and what was looked for long enough without any proof."""
        self._open(sought, scan.began)
        elapsed = min(scan.began - self._last_scan, self._longest_pause) if scan.possible else 0.0
        self._last_scan = scan.began
        shows_others = all(each in scan.shown for each, flow in expected.items() if flow not in scan.unread)
        absent: list[Sought] = []
        given_up: list[Sought] = []
        for each in sought:
            case = self._cases[each.id, each.attempts]
            if scan.began - case.seen_at < self._quiet:
                continue
            is_whole = scan.readable and each.flow not in scan.unread and scan.account == each.account
            if is_whole and shows_others and each.id not in scan.keys:
                case.absences += 1
                if case.absences >= SCANS:
                    absent.append(each)
                continue
            case.searched += min(elapsed, scan.began - case.seen_at - self._quiet)
            if case.searched >= self._find_for:
                given_up.append(each)
        return absent, given_up

    def _open(self, sought: Iterable[Sought], now: float) -> list[_Case]:
        """Opens a case for every attempt that is new, and closes those that are settled."""
        current = {(each.id, each.attempts): each for each in sought if each.state is State.UNCERTAIN}
        self._cases = {key: self._cases.get(key) or _Case(seen_at=now) for key in current}
        return list(self._cases.values())
