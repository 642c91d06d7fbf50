"""Each numbered rule of `gateway/proof.py`, by tables: what a clean scan is, and when a dispatch is proved absent."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.model import Sought, State, Window
from gateway.proof import AHEAD, ANCHOR, LAG, SCANS, Proof, Scan, span
from tests.builders import NOON

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

QUIET, FIND_FOR, PAUSE = 100.0, 1_000.0, 60.0
SURE = QUIET * (1 + LAG)  # seconds after it was first seen unsure
SOUGHT = Sought(id="s-1", flow="f", state=State.UNCERTAIN, attempts=1, since=NOON, account="w")
CLEAN = Scan(
    began=0.0, readable=True, possible=True, account="w", unread=frozenset(), shown=frozenset(), keys=frozenset()
)


def at(seconds: float) -> datetime:
    """Tells a moment after noon."""
    return NOON + timedelta(seconds=seconds)


class Trial:
    """A proof that has first seen what is sought at 0."""

    def __init__(self, *sought: Sought) -> None:
        self.proof = Proof(QUIET, FIND_FOR, PAUSE)
        self.sought = sought or (SOUGHT,)
        self.proof.due_in(self.sought, 0.0, 10.0)

    def scan(self, began: float, *, expected: Mapping[str, str] | None = None, **different: Any) -> str:
        """Weighs a scan that is clean but for what is different; tells in letters what follows for each dispatch."""
        absent, given_up = self.proof.weigh(replace(CLEAN, began=began, **different), list(self.sought), expected or {})
        return "".join("a" if each in absent else "g" if each in given_up else "." for each in self.sought)


# Rules 1, 2, 5 and 6: what was read, of whom, and what it shows


UNCLEAN: dict[str, dict[str, Any]] = {
    "1: not read to its end": {"readable": False},
    "1: its flow could not be read": {"unread": frozenset({"f"})},
    "1: it could not be asked at all": {"readable": False, "possible": False},
    "2: of another account": {"account": "other"},
    "2: of nobody": {"account": ""},
    "5: nothing else is shown": {"expected": {"x": "f"}},
    "5: not all else is shown": {"expected": {"x": "f", "y": "f"}, "shown": frozenset({"x", "z"})},
    "5: another flow's is not shown": {"expected": {"x": "f", "y": "g"}, "shown": frozenset({"x"})},
    "6: it is shown": {"keys": frozenset({"s-1"})},
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
    "shows what it must": {"expected": {"x": "f"}, "shown": frozenset({"x", "y"})},
    "another flow could not be read": {"unread": frozenset({"g"})},
    "another flow could not be read, nor what it must show": {"unread": frozenset({"g"}), "expected": {"x": "g"}},
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
    windows, sought, controls, since, expected_windows, expected = row
    scope = span(windows, sought, [(flow, each, at(when)) for flow, each, when in controls], at(NOW))

    assert at(since) == scope.since
    assert [window(*each) for each in expected_windows] == list(scope.windows)
    assert expected == set(scope.expected)
    assert all(flow in {each.flow for each in scope.windows} for flow in scope.expected.values())


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
    told = [proof.weigh(replace(CLEAN, began=5_000 + each), [SOUGHT], {})[0] for each in (0, SURE - 1, SURE, SURE + 10)]

    assert [[], [], [], [SOUGHT]] == told


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
