"""When a dispatch whose answer never came is proved absent: pure, so that every line of it can be tried.

What is required of a scan, and why:

1. It was read to its end, keys included, and is gapless: what was not read may be it.
2. It was answered by the account that the dispatch was sent to: another one does not know it.
3. It reaches back to before the dispatch was sent, by the clock that the backend's rows have: ours may be wrong, and so
   may the one of its answers. What was accepted before says how far the two are apart. Where the clock of its answers
   is behind that moment it was put back, and what was carried out since is older than what is listed.
4. It began when the quiet window, and a quarter of it for lists that lag, had passed since the attempt had ended.
   That is measured from when this process first saw it unsure, which is later, by a clock that nobody sets; or from
   when the request of another process, which was taken for gone, is surely over.
5. It shows what else that account accepted since then on the flows that are sought, less what is too new for a list
   that lags: an empty list, or one from a replica that hangs, shows nothing of it. And it shows it with its keys: a
   list that hides them hides the dispatch, too.
6. It shows no row of the flow, of that time and for that number that hides the params it began with: that may be it.
   (An execution that somebody began without params looks the same as one whose params were emptied.) A key that is read
   by itself lags as a list does: one that was read before 4 is over, and is not ours, is read once more after it.
7. A row moves at the moment at which a transaction begins, and is seen when that ends, at most a quiet window later. So
   every list begins a quiet window before the moment that it is about. If it needs several pages it is closed: another
   one, begun when lists that lag had caught up with its end, shows what has moved since it began. If that one needs
   several pages, it is closed likewise.
8. It does not show the dispatch, nor do those that close it; and neither does a second one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from gateway.model import State
from gateway.sightings import Window

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from gateway.sightings import Control, Sought

LAG = 0.25  # of the quiet window, by which a list may be behind
SCANS = 2  # clean ones without it
CLOSINGS = 4  # of one scan, at the most: where so much moves, nothing is proved
ANCHOR = timedelta(hours=1)  # how much further back a scan may reach so that it shows something that is known
AHEAD = timedelta(hours=1)  # beyond `now`, which may be early: a scan that ends too soon would show nothing of it
SECOND = timedelta(seconds=1)  # that a moment may have lost: some are whole seconds
UNANCHORED = timedelta(minutes=10)  # for the difference of the backend's two clocks, where nothing says what it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a scan is to cover: from when (their clock), which windows, and what it must show to be believed.

    `finds_from` is from when on what is sought may be there; `since` is earlier where a scan that proves something must
    show what was accepted before. `expected` has controls by their external ids.
    """

    since: datetime
    finds_from: datetime
    windows: tuple[Window, ...]
    expected: Mapping[str, Control]


class Hiding(NamedTuple):
    """A row that hides the params it began with: its flow, when it was created (None if that is not said), for whom."""

    flow: str
    created_at: datetime | None
    number: str

    def may_be(self, sought: Sought) -> bool:
        """Whether it may be what is sought: it is of that flow and time, and not for somebody else."""
        return (
            self.flow == sought.flow
            and (self.created_at is None or self.created_at > sought.since - SECOND)
            and (not sought.recipient or sought.recipient.endswith(self.number))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What came of a scan: when it began and ended (monotonic), whether all of it could be read, and what it showed.

    `began_at` is when it began by the backend's clock, and `since` from when on it lists what moved; None: everything.
    `shown` are external ids, `keys` correlation keys; `lists_keys` is whether keys come with the list. `hiding` are the
    rows that hide the params they began with.
    `possible` is False when the backend could not be asked at all; `unread` are flows that it would not show.
    `needs_closing` is that of the sweep.
    """

    began: float
    ended: float
    began_at: datetime | None
    since: datetime | None
    readable: bool
    possible: bool
    account: str
    unread: frozenset[str]
    shown: frozenset[str]
    keys: frozenset[str]
    hiding: tuple[Hiding, ...]
    lists_keys: bool
    needs_closing: bool
    expected: Mapping[str, Control] = field(default_factory=dict)

    def closed_by(self, other: Scan) -> Scan:
        """Returns the two as one: it began when this one did, and shows what either does."""
        return replace(
            self,
            ended=other.ended,
            began_at=other.began_at,
            readable=self.readable and other.readable,
            account=self.account if self.account == other.account else "",
            unread=self.unread | other.unread,
            shown=self.shown | other.shown,
            keys=self.keys | other.keys,
            hiding=self.hiding + other.hiding,
            needs_closing=other.needs_closing,
        )


def clocks_apart(controls: Sequence[Control]) -> timedelta | None:
    """Returns by how much the clock of the backend's rows is behind the one of its answers; None if nothing says so.

    A row is made after the attempt began, so what it has less than that is the difference.
    """
    behind = [each.sent_at - each.accepted_at for each in controls if each.sent_at is not None]
    return max(*behind, timedelta()) if behind else None


def span(windows: Sequence[Window], sought: Collection[Sought], controls: Iterable[Control], now: datetime) -> Scope:
    """Widens what is followed to what is sought, and says what the scan must show.

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
    finds_from = min(reach.values(), default=now)
    expected: dict[str, Control] = {}
    anchored: set[str] = set()
    for control in controls:
        flow, accepted_at = control.flow, control.accepted_at
        if flow not in reach:
            continue
        if flow not in anchored and reach[flow] - ANCHOR <= accepted_at < reach[flow]:
            reach[flow] = accepted_at  # nothing newer is known there, so reach back for something that is
        if accepted_at >= reach[flow]:
            anchored.add(flow)
            expected[control.external_id] = control
    oldest |= {flow: min(since, oldest[flow]) for flow, since in reach.items()}
    return Scope(
        since=min(reach.values(), default=now),
        finds_from=finds_from,
        windows=tuple(
            Window(
                flow=flow,
                oldest=since,
                newest=newest[flow],
                stragglers=_before(stragglers.get(flow), since),
                proves_from=reach.get(flow),
            )
            for flow, since in oldest.items()
        ),
        expected=expected,
    )


def _before(moment: datetime | None, other: datetime) -> datetime | None:
    return moment if moment is not None and moment < other else None


@dataclass(slots=True)
class _Case:
    """What is known of one attempt: since when it is over, how many clean scans lacked it, how long was scanned."""

    seen_at: float
    absences: int = 0
    searched: float = 0.0


class Proof:
    """Weighs scans for what is sought.

    All in seconds: `longest_pause` is between scans that nothing hinders.
    """

    def __init__(self, quiet_window: float, find_for: float, longest_pause: float) -> None:
        self._overlap = timedelta(seconds=quiet_window)
        self._lag = quiet_window * LAG
        self._quiet = quiet_window + self._lag
        self._find_for = find_for
        self._cases: dict[tuple[str, int], _Case] = {}
        self._longest_pause = longest_pause
        self._last_scan = -math.inf
        self._unclosed: Scan | None = None
        self._closings = 0

    def due_in(self, sought: Iterable[Sought], now: float, interval: float) -> float:
        """Returns after how many seconds without a scan the next one is worth it; infinity if none is sought."""
        cases = self._open(sought, now)
        if not cases:
            return math.inf
        if self._unclosed is not None:
            return max(interval, self._unclosed.ended + self._lag - self._last_scan)
        over = [now - case.seen_at >= self._quiet for case in cases]
        first = min(case.seen_at for case in cases) + self._quiet
        return interval if any(over) else max(interval, first - self._last_scan)

    def reach_back(self, scope: Scope, now: float) -> datetime | None:
        """Returns from when on (their clock) a scan that begins now should list what moved; None if it need not.

        One that waits for its closing needs no other than that. One that proves nothing yet only finds.
        """
        if self._unclosed is None:
            return (scope.since if self._may_prove(now) else scope.finds_from) - self._overlap
        return self._closes_from(self._unclosed) if now >= self._unclosed.ended + self._lag else None

    def settled_at(self, sought: Iterable[Sought], now: float) -> float:
        """Returns when the latest quiet window that is over ended: only what is read since then proves absence."""
        ends = (case.seen_at + self._quiet for case in self._open(sought, now))
        return max((end for end in ends if end <= now), default=-math.inf)

    def weigh(self, scan: Scan, sought: Sequence[Sought]) -> tuple[list[Sought], list[Sought]]:
        """Returns what is proved absent by this scan, and what was looked for long enough without any proof."""
        self._open(sought, scan.began)
        elapsed = min(scan.began - self._last_scan, self._longest_pause) if scan.possible else 0.0
        self._last_scan = scan.began
        whole = self._close(scan)
        absent: list[Sought] = []
        given_up: list[Sought] = []
        for each in sought:
            case = self._cases[each.id, each.attempts]
            if scan.began - case.seen_at < self._quiet:
                continue
            if whole is not None and whole.began - case.seen_at >= self._quiet and _lacks(whole, each):
                case.absences += 1
                if case.absences >= SCANS:
                    absent.append(each)
                continue
            case.searched += min(elapsed, scan.began - case.seen_at - self._quiet)
            if case.searched >= self._find_for:
                given_up.append(each)
        return absent, given_up

    def _close(self, scan: Scan) -> Scan | None:
        """Returns a scan that is closed now: this one, or an earlier one that this one closes; None if neither is."""
        before, self._unclosed = self._unclosed, None
        if before is not None and self._may_close(before, scan):
            scan, self._closings = before.closed_by(scan), self._closings + 1
        elif before is not None and (scan.needs_closing or not scan.readable or not _reaches(scan, before)):
            self._unclosed = before  # this one adds nothing
            return None
        else:
            self._closings = 0
        if not scan.readable:
            return None
        if not scan.needs_closing:
            return scan
        if scan.began_at is not None and self._closings < CLOSINGS and self._may_prove(scan.began):
            self._unclosed = scan
        return None

    def _may_prove(self, began: float) -> bool:
        """Whether a scan that begins then can count for anything: for some attempt, the quiet window is over."""
        return any(began - case.seen_at >= self._quiet for case in self._cases.values())

    def _may_close(self, before: Scan, scan: Scan) -> bool:
        """Whether a scan shows all that has moved since an earlier one began."""
        return (
            scan.readable
            and scan.began >= before.ended + self._lag
            and (scan.since is None or scan.since <= self._closes_from(before))
        )

    def _closes_from(self, scan: Scan) -> datetime:
        assert scan.began_at is not None, "one that does not say when it began is not kept"
        return scan.began_at - timedelta(seconds=self._lag) - self._overlap

    def _open(self, sought: Iterable[Sought], now: float) -> list[_Case]:
        """Opens a case for every attempt that is new, and closes those that are settled."""
        current = {(each.id, each.attempts): each for each in sought if each.state is State.UNCERTAIN}
        self._cases = {key: self._cases.get(key) or _Case(seen_at=now + each.runs_on) for key, each in current.items()}
        if not current:
            self._unclosed = None
        return list(self._cases.values())


def _reaches(scan: Scan, other: Scan) -> bool:
    """Whether a scan lists at least what another one does."""
    return scan.since is None or (other.since is not None and scan.since <= other.since)


def _lacks(scan: Scan, sought: Sought) -> bool:
    """Whether a scan that is closed shows that a dispatch is not there."""
    expected = [each for each in scan.expected.values() if each.flow not in scan.unread]
    return (
        sought.flow not in scan.unread
        and scan.account == sought.account
        and (scan.since is None or scan.since <= sought.since)
        and (scan.began_at is None or scan.began_at >= sought.since)
        and all(each.external_id in scan.shown for each in expected)
        and (not scan.lists_keys or not expected or any(each.dispatch_id in scan.keys for each in expected))
        and not any(each.may_be(sought) for each in scan.hiding)
        and sought.id not in scan.keys
    )
