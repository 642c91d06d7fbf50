"""Each numbered rule of `lanes/proof.py`, by tables: what a clean scan is, and when a dispatch is proved absent."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.lanes.proof import AHEAD, ANCHOR, CLOSINGS, LAG, SCANS, Hiding, Proof, Scan, clocks_apart, span
from gateway.model import State
from gateway.sightings import Control, Sought, Window
from tests.builders import NOON

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

QUIET, FIND_FOR, PAUSE = 100.0, 1_000.0, 60.0
SURE = QUIET * (1 + LAG)  # seconds after it was first seen unsure
SOUGHT = Sought(
    id="s-1",
    flow="f",
    state=State.UNCERTAIN,
    attempts=1,
    since=NOON,
    account="w",
    recipient="f sender tel:+12065551212",
)
CLEAN = Scan(
    began=0.0,
    ended=0.0,
    began_at=None,
    since=None,
    readable=True,
    possible=True,
    account="w",
    unread=frozenset(),
    shown=frozenset(),
    keys=frozenset(),
    hiding=(),
    lists_keys=False,
    needs_closing=False,
)


def control(external_id: str, flow: str = "f", accepted: float = 0.0, sent: float | None = None) -> Control:
    """Makes a dispatch that was accepted, in seconds after noon."""
    return Control(
        dispatch_id=f"d-{external_id}",
        flow=flow,
        external_id=external_id,
        accepted_at=NOON + timedelta(seconds=accepted),
        sent_at=None if sent is None else NOON + timedelta(seconds=sent),
    )


def controls(**flows: str) -> dict[str, Control]:
    """Makes controls, by external id, of their flows."""
    return {each: control(each, flow) for each, flow in flows.items()}


def at(seconds: float) -> datetime:
    """Tells a moment after noon."""
    return NOON + timedelta(seconds=seconds)


class Trial:
    """A proof that has first seen what is sought at 0."""

    def __init__(self, *sought: Sought) -> None:
        self.proof = Proof(QUIET, FIND_FOR, PAUSE)
        self.sought = sought or (SOUGHT,)
        self.proof.due_in(self.sought, 0.0, 10.0)

    def scan(self, began: float, **different: Any) -> str:
        """Weighs a scan that is clean but for what is different; returns in letters what follows for each dispatch."""
        scan = replace(CLEAN, began=began, **{"ended": began, **different})
        absent, given_up = self.proof.weigh(scan, list(self.sought))
        return "".join("a" if each in absent else "g" if each in given_up else "." for each in self.sought)


# Rules 1, 2, 5 and 6: what was read, of whom, and what it shows


UNCLEAN: dict[str, dict[str, Any]] = {
    "1: not read to its end": {"readable": False},
    "1: its flow could not be read": {"unread": frozenset({"f"})},
    "1: it could not be asked at all": {"readable": False, "possible": False},
    "2: of another account": {"account": "other"},
    "2: of nobody": {"account": ""},
    "5: nothing else is shown": {"expected": controls(x="f")},
    "5: not all else is shown": {"expected": controls(x="f", y="f"), "shown": frozenset({"x", "z"})},
    "5: another flow's is not shown": {"expected": controls(x="f", y="g"), "shown": frozenset({"x"})},
    "5: all else is shown, but without its key": {
        "expected": controls(x="f"),
        "shown": frozenset({"x"}),
        "lists_keys": True,
    },
    "6: a row of its flow and time hides its params": {"hiding": (Hiding("f", NOON, ""),)},
    "3: its clock was put back": {"began_at": NOON - timedelta(seconds=1)},
    "6: in whole seconds": {"hiding": (Hiding("f", NOON - timedelta(seconds=0.9), ""),)},
    "6: a row of its flow and of no time hides its params": {"hiding": (Hiding("g", NOON, ""), Hiding("f", None, ""))},
    "6: a row that hides its params is for the same number": {"hiding": (Hiding("f", NOON, "12065551212"),)},
    "3: it does not reach back": {"since": NOON + timedelta(seconds=1)},
    "7: it is not closed": {"needs_closing": True},
    "7: it is not closed, and does not say when it began": {"needs_closing": True, "began_at": NOON},
    "8: it is shown": {"keys": frozenset({"s-1"})},
}


@pytest.mark.parametrize("different", UNCLEAN.values(), ids=UNCLEAN.keys())
def test_a_scan_that_is_not_clean_proves_nothing(different: dict[str, Any]) -> None:
    """However often it is made; the clean ones before it still count."""
    trial = Trial()
    before = [trial.scan(SURE), *[trial.scan(SURE + 10 * n, **different) for n in range(1, 5)]]

    assert ["."] * 5 == before
    assert "a" == trial.scan(SURE + 60)


AS_CLEAN: dict[str, dict[str, Any]] = {
    "as it is": {},
    "shows others": {"shown": frozenset({"x", "y"}), "keys": frozenset({"s-2"})},
    "shows what it must": {"expected": controls(x="f"), "shown": frozenset({"x", "y"})},
    "shows what it must with a key": {
        "expected": controls(x="f", y="f"),
        "shown": frozenset({"x", "y"}),
        "keys": frozenset({"d-y"}),
        "lists_keys": True,
    },
    "what hides its params is older, or of another flow": {
        "hiding": (Hiding("f", NOON - timedelta(seconds=1), ""), Hiding("g", None, "")),
    },
    "what hides its params is for another number": {"hiding": (Hiding("f", NOON, "12065551213"),)},
    "reaches back": {"since": NOON},
    "another flow could not be read": {"unread": frozenset({"g"})},
    "another flow could not be read, nor what it must show": {"unread": frozenset({"g"}), "expected": controls(x="g")},
}


@pytest.mark.parametrize("different", AS_CLEAN.values(), ids=AS_CLEAN.keys())
def test_two_clean_scans_prove_it_absent(different: dict[str, Any]) -> None:
    """And one does not."""
    trial = Trial()

    assert [".", "a"] == [trial.scan(SURE + 10 * n, **different) for n in range(2)]
    assert 2 == SCANS


def test_an_account_that_is_not_told_is_the_same_as_another_that_is_not() -> None:
    """Some backends do not say whose they are: then nothing is kept apart."""
    trial = Trial(replace(SOUGHT, account=""))

    assert [".", "a"] == [trial.scan(SURE + 10 * n, account="") for n in range(2)]


def test_each_dispatch_is_weighed_by_itself() -> None:
    """Of one scan: shown, of an account that is not asked, of a flow that is gone, and absent."""
    trial = Trial(
        SOUGHT,
        replace(SOUGHT, id="s-2", account="other"),
        replace(SOUGHT, id="s-3", flow="g"),
        replace(SOUGHT, id="s-4"),
    )
    told = [trial.scan(SURE + n, keys=frozenset({"s-1"}), unread=frozenset({"g"})) for n in range(2)]

    assert ["....", "...a"] == told


# Rule 3: how far back, and what must be shown


def window(flow: str, oldest: float, newest: float) -> Window:
    """Makes a window, in seconds after noon."""
    return Window(flow=flow, oldest=at(oldest), newest=at(newest))


NOW = 600.0
UNTIL = NOW + AHEAD.total_seconds()
HOUR = ANCHOR.total_seconds()
LATER = replace(SOUGHT, id="s-2", since=at(30))
AGAIN = replace(SOUGHT, id="s-9", state=State.QUEUED, since=at(-500))  # sent again, watched for a while longer
SPANS: dict[str, tuple[Sequence[Window], Sequence[Sought], Sequence[tuple[str, str, float]], float, Any, set[str]]] = {
    "nothing": ((), (), (), NOW, [], set()),
    "only followed": ((window("f", 5, 9),), (), (("f", "x", 5),), NOW, [("f", 5, 9)], set()),
    "one sought": ((), (SOUGHT,), (), 0, [("f", 0, UNTIL)], set()),
    "the earliest counts": (
        (), (LATER, SOUGHT, replace(LATER, id="s-3")), (("f", "x", 9),), 0, [("f", 0, UNTIL)], {"x"},
    ),
    "followed further back": (
        (window("f", -9_000, -9),), (SOUGHT,), (("f", "x", 9), ("f", "y", -9), ("f", "z", -8_000)), 0,
        [("f", -9_000, UNTIL)], {"x"},
    ),
    "followed from later on": ((window("f", 5, 9),), (SOUGHT,), (), 0, [("f", 0, UNTIL)], set()),
    "another is followed": (
        (window("g", -9_000, 9),), (SOUGHT,), (("g", "x", 9), ("f", "y", 9)), 0,
        [("g", -9_000, 9), ("f", 0, UNTIL)], {"y"},
    ),
    "two flows": (
        (), (SOUGHT, replace(SOUGHT, flow="g", since=at(-60))), (("g", "x", -30), ("f", "y", 0), ("f", "z", -30)), -60,
        [("f", 0, UNTIL), ("g", -60, UNTIL)], {"x", "y"},
    ),
    "an anchor": ((), (SOUGHT,), (("f", "x", -60), ("f", "y", -90)), -60, [("f", -60, UNTIL)], {"x"}),
    "the oldest anchor": ((), (SOUGHT,), (("f", "x", -HOUR),), -HOUR, [("f", -HOUR, UNTIL)], {"x"}),
    "too old for an anchor": ((), (SOUGHT,), (("f", "x", -HOUR - 1),), 0, [("f", 0, UNTIL)], set()),
    "no anchor is needed": ((), (SOUGHT,), (("f", "x", 0), ("f", "y", -60)), 0, [("f", 0, UNTIL)], {"x"}),
    "an anchor of another flow": ((), (SOUGHT,), (("g", "x", -60),), 0, [("f", 0, UNTIL)], set()),
    "sent again": ((), (AGAIN,), (("f", "x", 0),), NOW, [("f", -500, UNTIL)], set()),
    "sent again, and another sought": ((), (AGAIN, SOUGHT), (("f", "x", -60),), -60, [("f", -500, UNTIL)], {"x"}),
    "sent in the future": (
        (), (replace(SOUGHT, since=at(2 * UNTIL)),), (), 2 * UNTIL, [("f", 2 * UNTIL, 2 * UNTIL)], set(),
    ),
}  # fmt: skip
"""What is followed, what is sought, what was accepted; from when, in which windows, and what must be shown."""


@pytest.mark.parametrize("row", SPANS.values(), ids=SPANS.keys())
def test_a_scan_reaches_back_to_before_it_was_sent(row: tuple[Any, ...]) -> None:
    """In windows that end later than now, and no further back than what is sought and something that is known."""
    windows, sought, accepted, since, expected_windows, expected = row
    scope = span(windows, sought, [control(each, flow, when) for flow, each, when in accepted], at(NOW))

    assert at(since) == scope.since
    assert [window(*each) for each in expected_windows] == [replace(each, proves_from=None) for each in scope.windows]
    assert expected == set(scope.expected)
    assert all(it.flow in {each.flow for each in scope.windows} for it in scope.expected.values())
    unsure = {each.flow for each in sought if each.state is State.UNCERTAIN}
    assert unsure == {each.flow for each in scope.windows if each.proves_from is not None}
    assert all(each.proves_from in (None, max(each.oldest, at(since))) for each in scope.windows)


# Rule 4: when it began


@pytest.mark.parametrize(
    ("sought", "oldest", "stragglers"),
    [((), 5, -9_000), ((SOUGHT,), 0, -9_000), ((replace(SOUGHT, since=at(-9_000)),), -9_000, None)],
    ids=["nothing sought", "sought behind them", "sought as far back"],
)
def test_what_is_sought_is_never_among_stragglers(
    sought: Sequence[Sought], oldest: float, stragglers: float | None
) -> None:
    """Of those only what still runs is listed, and what is sought may have ended."""
    followed = replace(window("f", 5, 9), stragglers=at(-9_000))
    (found,) = span((followed,), sought, (), at(NOW)).windows

    assert (at(oldest), None if stragglers is None else at(stragglers)) == (found.oldest, found.stragglers)


@pytest.mark.parametrize(("began", "counts"), [(0.0, False), (QUIET, False), (SURE - 0.1, False), (SURE, True)])
def test_a_scan_counts_when_the_quiet_window_is_over(began: float, counts: bool) -> None:  # noqa: FBT001
    """And the lag of a list on top of it, by the moment the scan began."""
    trial = Trial()

    assert [".", "a" if counts else "."] == [trial.scan(began), trial.scan(SURE)]


def test_the_quiet_window_begins_when_it_is_first_seen() -> None:
    """Not before: how long ago an attempt of an earlier process ended cannot be told by a clock that nobody sets."""
    proof = Proof(QUIET, FIND_FOR, PAUSE)
    told = [proof.weigh(replace(CLEAN, began=5_000 + each), [SOUGHT])[0] for each in (0, SURE - 1, SURE, SURE + 10)]

    assert [[], [], [], [SOUGHT]] == told


def test_the_quiet_window_begins_when_a_request_that_runs_on_is_over() -> None:
    """That of a gateway which was taken for gone may be on its way; that it is over is seen by our clock alone."""
    trial = Trial(replace(SOUGHT, runs_on=40.0))
    trial.sought = (SOUGHT,)  # as it is told later

    assert [".", ".", ".", "a"] == [trial.scan(SURE + after) for after in (-1.0, 39.9, 40.0, 50.0)]


def test_an_attempt_that_is_sent_again_is_a_new_case() -> None:
    """Neither the scans nor the time of the one before count."""
    trial = Trial()
    first = trial.scan(SURE)
    trial.sought = (replace(SOUGHT, attempts=2),)
    second = [trial.scan(SURE + each) for each in (10, SURE + 9, SURE + 10, SURE + 20)]

    assert "." == first
    assert [".", ".", ".", "a"] == second


@pytest.mark.parametrize("meanwhile", [(), (replace(SOUGHT, state=State.QUEUED),)], ids=["gone", "found"])
def test_one_that_is_settled_is_a_new_case_if_it_becomes_unsure_again(meanwhile: tuple[Sought, ...]) -> None:
    """As when it was found, or has been settled by an operator's word."""
    trial = Trial()
    trial.scan(SURE)
    trial.proof.due_in(meanwhile, SURE + 5, 10.0)

    assert [".", ".", "a"] == [trial.scan(SURE + each) for each in (10, SURE + 10, SURE + 20)]


# Rule 7: several pages


PAGES: dict[str, Any] = {"needs_closing": True, "since": NOON}
CLOSES = at(1_000 - QUIET * LAG - QUIET)  # from here on lists what closes a scan that began at 1,000 (their clock)


def pages(trial: Trial, began: float, lasted: float = 5.0, **different: Any) -> str:
    """Weighs a scan of several pages."""
    return trial.scan(began, **{**PAGES, "ended": began + lasted, "began_at": at(1_000), **different})


def closing(trial: Trial, began: float, **different: Any) -> str:
    """Weighs a scan of one page that lists what has moved since another one began."""
    return trial.scan(began, **{"since": CLOSES, "began_at": at(1_100), **different})


def test_a10_a_scan_of_several_pages_counts_when_it_is_closed() -> None:
    """By another one, begun a lag after its end, that reaches back to a lag before it began."""
    trial = Trial()
    told = [pages(trial, SURE), closing(trial, SURE + 30), pages(trial, SURE + 100), closing(trial, SURE + 130)]

    assert [".", ".", ".", "a"] == told


NOT_CLOSED: dict[str, dict[str, Any]] = {
    "begun too soon": {"began": SURE + 5 + QUIET * LAG - 1},
    "reaches too little back": {"since": CLOSES + timedelta(seconds=1)},
    "not read to its end": {"readable": False},
    "of another account": {"account": "other"},
    "shows it": {"keys": frozenset({"s-1"})},
    "of several pages": {"needs_closing": True},
    "a row hides its params": {"hiding": (Hiding("f", None, ""),)},
}


@pytest.mark.parametrize("different", NOT_CLOSED.values(), ids=NOT_CLOSED.keys())
def test_a10_a_scan_that_does_not_show_what_moved_meanwhile_closes_nothing(different: dict[str, Any]) -> None:
    """Then what the two do not show may have moved between their pages."""
    trial = Trial()
    trial.scan(SURE)
    told = pages(trial, SURE), closing(trial, **{"began": SURE + 30, **different})

    assert (".", ".") == told


def test_a10_a_closing_of_several_pages_is_closed_likewise() -> None:
    """And that one too, up to four times; then it begins anew."""
    trial = Trial()
    trial.scan(SURE)
    chained = [pages(trial, SURE + 50 * n, since=NOON if n == 0 else CLOSES) for n in range(CLOSINGS)]
    last = closing(trial, SURE + 50 * CLOSINGS)

    assert ["."] * CLOSINGS == chained
    assert "a" == last

    trial = Trial()
    trial.scan(SURE)
    chained = [pages(trial, SURE + 50 * n, since=NOON if n == 0 else CLOSES) for n in range(CLOSINGS + 1)]
    last = closing(trial, SURE + 50 * (CLOSINGS + 1))

    assert ["."] * (CLOSINGS + 2) == [*chained, last]
    assert at(-QUIET) == trial.proof.reach_back(SCOPE, SURE + 1_000)


def test_a10_a_scan_of_one_page_needs_no_closing_and_ends_the_wait_for_one() -> None:
    """What it shows is all that there is."""
    trial = Trial()
    told = [pages(trial, SURE), trial.scan(SURE + 10, since=NOON), trial.scan(SURE + 20, since=NOON)]

    assert [".", ".", "a"] == told


SCOPE = span((), (SOUGHT,), (), at(NOW))


def test_a10_what_waits_for_its_closing_is_read_no_further_back() -> None:
    """Nor before it is time; what runs is followed meanwhile."""
    trial = Trial()
    before = trial.proof.reach_back(SCOPE, SURE)
    pages(trial, SURE)
    waits, due = (trial.proof.reach_back(SCOPE, SURE + each) for each in (5 + QUIET * LAG - 1, 5 + QUIET * LAG))

    assert (at(-QUIET), None, CLOSES) == (before, waits, due)
    assert 5 + QUIET * LAG == trial.proof.due_in(trial.sought, SURE + 1, 10.0)


APART = [
    ("nothing was accepted", [], None),
    ("it is not known when it was sent", [control("x", accepted=5)], None),
    ("at once", [control("x", accepted=5, sent=5)], timedelta()),
    ("some time later", [control("x", accepted=5, sent=1), control("y", accepted=9, sent=2)], timedelta()),
    ("two minutes before it was sent", [control("x", accepted=5, sent=1), control("y", accepted=9, sent=129)],
     timedelta(minutes=2)),
]  # fmt: skip


@pytest.mark.parametrize(("accepted", "apart"), [row[1:] for row in APART], ids=[row[0] for row in APART])
def test_a10_what_was_accepted_before_says_how_far_two_clocks_are_apart(
    accepted: list[Control], apart: timedelta | None
) -> None:
    """A row that seems older than the request it is of has another clock than the answers."""
    assert apart == clocks_apart(accepted)


# When the next scan is worth it


DUE = [
    ("none is sought", (), None, 0.0, math.inf),
    ("only one that was sent again", (AGAIN,), None, 0.0, math.inf),
    ("never scanned", (SOUGHT,), None, 1.0, math.inf),  # then a scan is made anyway
    ("in the quiet window", (SOUGHT,), 0.0, 1.0, SURE),
    ("in it, and scanned late", (SOUGHT,), 100.0, 101.0, SURE - 100.0),
    ("nearly over", (SOUGHT,), SURE - 4, SURE - 1, 10.0),
    ("over", (SOUGHT,), 100.0, SURE, 10.0),
    ("long over", (SOUGHT,), 500.0, 505.0, 10.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sought", "scanned_at", "now", "due_in"), [row[1:] for row in DUE], ids=[row[0] for row in DUE]
)
def test_how_long_until_the_next_scan_is_told(
    sought: tuple[Sought, ...], scanned_at: float | None, now: float, due_in: float
) -> None:
    """In seconds after the last scan: when the quiet window is over, and then at every interval."""
    trial = Trial()
    if scanned_at is not None:
        trial.scan(scanned_at)

    assert due_in == trial.proof.due_in(sought, now, 10.0)


def test_of_several_the_first_that_is_due_counts() -> None:
    """One whose quiet window is over does not wait for the others."""
    trial, other = Trial(), replace(SOUGHT, id="s-2")
    trial.scan(90.0)
    both = [trial.proof.due_in((SOUGHT, other), now, 10.0) for now in (100.0, SURE)]

    assert [SURE - 90, 10.0] == both
    assert SURE + 100 - 90 == trial.proof.due_in((other,), SURE, 10.0)


# How long it is looked for


def searched(trial: Trial, first: float, step: float, **different: Any) -> float:
    """Scans every so often until it is given up; returns when."""
    began = first
    while trial.scan(began, **different) == ".":
        began += step
        assert began < 100 * FIND_FOR, "it is never given up"
    return began


@pytest.mark.parametrize(
    "different",
    [each for label, each in UNCLEAN.items() if each.get("possible", True)],
    ids=[label for label, each in UNCLEAN.items() if each.get("possible", True)],
)
def test_what_cannot_be_found_out_is_given_up(different: dict[str, Any]) -> None:
    """After `find_for` in which it was looked for, on top of the quiet window."""
    assert SURE + FIND_FOR == searched(Trial(), SURE, 50.0, **different)


def test_only_time_in_which_scans_were_possible_counts() -> None:
    """A backend that cannot be reached for days has not been asked."""
    trial = Trial()
    for n in range(100):
        trial.scan(SURE + 50.0 * n, readable=False, possible=False)
    resumed = SURE + 50.0 * 99

    assert resumed + FIND_FOR == searched(trial, resumed + 50.0, 50.0, readable=False)


def test_a_pause_counts_no_longer_than_nothing_hinders_it() -> None:
    """A process that was paused for a day has not looked for a day."""
    trial = Trial()
    paused = [trial.scan(SURE), trial.scan(SURE + 86_400.0, readable=False)]

    assert [".", "."] == paused
    assert SURE + 86_400 + FIND_FOR - PAUSE <= searched(trial, SURE + 86_400 + 50.0, 50.0, readable=False)


def test_the_quiet_window_is_no_time_of_looking() -> None:
    """A first scan right after it counts only what has passed since."""
    trial = Trial()
    trial.scan(SURE - 1, readable=False)

    assert SURE + FIND_FOR == searched(trial, SURE, 50.0, readable=False)


def test_what_is_given_up_may_still_be_proved_absent_first() -> None:
    """Clean scans in between are not forgotten, and cost no time."""
    trial = Trial()
    told = [trial.scan(SURE + 50.0 * n, readable=n in {5, 15}) for n in range(16)]

    assert ["."] * 15 + ["a"] == told
