"""What watchers of everything should have got, in right and wrong worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from tests.chaos.record import Moved
from tests.chaos_postgres.onlookers import Onlooker, wrong_with

if TYPE_CHECKING:
    from tests.end_to_end.processes import Called

RECORD = tuple(Moved(revision=n, start_id=f"s{n}", labels={}, before=None, state=1, is_done=False) for n in (1, 2, 4))
ALL = [(1, "s1", 1), (2, "s2", 1), (4, "s4", 1)]


def wrong(*seen: tuple[int, str, int]) -> list[str]:
    """Judges one watcher."""
    return wrong_with([Onlooker(cast("Called", None), list(seen))], RECORD)


def test_a_watcher_that_got_each_change_once_and_in_order_is_right() -> None:
    """Revisions that nobody was given are missed by nobody."""
    assert [] == wrong(*ALL)


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        (ALL[:2], "missed 1 of 3 changes, such as revision 4"),
        ([*ALL, ALL[2]], "repeated 1 of 3 changes, such as revision 4"),
        ([ALL[1], ALL[0], ALL[2]], "out of order 1 of 3 changes, such as revision 1"),
        ([*ALL, (7, "s1", 1)], "not recorded 1 of 3 changes, such as revision 7"),
        ([*ALL[:2], (4, "s4", 2)], "contradicted 1 of 3 changes, such as revision 4"),
    ],
)
def test_each_fault_is_found(seen: list[tuple[int, str, int]], fault: str) -> None:
    """And no other."""
    assert [f"watcher 1 {fault}"] == wrong(*seen)
