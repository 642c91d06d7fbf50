"""The judge of watchers finds what is wrong with them."""

from __future__ import annotations

import pytest

from tests.chaos.record import Moved
from tests.chaos.watched import Down, Ending, Judge, Told, Watching

A, B = {"shard": "a"}, {"shard": "b"}


def _moved(revision: int, start_id: str, labels: dict[str, str], before: int | None, state: int) -> Moved:
    is_done = state == 4
    return Moved(revision=revision, start_id=start_id, labels=labels, before=before, state=state, is_done=is_done)


RECORD = (
    _moved(1, "a", A, None, 1),
    _moved(2, "b", B, None, 1),
    _moved(3, "a", A, 1, 3),
    _moved(4, "b", B, 1, 3),
    _moved(5, "a", A, 3, 4),
    _moved(6, "b", B, 3, 4),
)
ALL = Watching(after=0)
UNTIL_DONE = Watching(after=0, ids=("a",), until_done=True)
SNAPSHOT = Watching()


@pytest.mark.parametrize(
    "told",
    [
        Told(watching=ALL, seen=(1, 2, 3, 4, 5, 6)),
        Told(watching=Watching(after=4), seen=(5, 6)),
        Told(watching=Watching(after=0, labels=A), seen=(1, 3, 5)),
        Told(watching=Watching(after=0, ids=("b",)), seen=(2, 4, 6)),
        Told(watching=Watching(after=0, states=(3,)), seen=(3, 4, 5, 6)),
        Told(watching=UNTIL_DONE, seen=(1, 3, 5), is_ended=True),
        Told(watching=SNAPSHOT, seen=(2, 3, 4, 5, 6), snapshot_end=3),
        Told(watching=SNAPSHOT, seen=(1, 2, 3, 4, 5, 6), snapshot_end=3),  # a moved on while it was read
        Told(watching=SNAPSHOT, seen=(1, 3, 4, 5, 6), resumed_at=2),  # b had moved on before it was read
        Told(watching=Watching(states=(1,)), seen=(2, 4), snapshot_end=3),
        Told(watching=Watching(states=(1,)), seen=(1, 2, 3, 4), snapshot_end=3),  # a was shown before it left
        Told(watching=Watching(states=(1,)), seen=(2, 3, 4), snapshot_end=3),  # a left before it was shown
    ],
)
def test_what_is_due_is_right(told: Told) -> None:
    """Each of these got what it had to."""
    assert {} == dict(Judge(RECORD).judge(told))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"missed": 1}, Told(watching=ALL, seen=(1, 2, 4, 5, 6))),
        ({"missed": 1}, Told(watching=ALL, seen=(1, 2, 3, 4, 5))),
        ({"missed": 1}, Told(watching=SNAPSHOT, seen=(3, 4, 5, 6), snapshot_end=3)),
        ({"missed": 1}, Told(watching=Watching(states=(1,)), seen=(1, 2, 4), snapshot_end=3)),
        ({"not due": 1}, Told(watching=Watching(states=(1,)), seen=(2, 4, 5), snapshot_end=3)),
        ({"missed": 6}, Told(watching=ALL, seen=())),
        ({"missed": 2}, Told(watching=SNAPSHOT, seen=())),
        ({"repeated": 1}, Told(watching=ALL, seen=(1, 2, 3, 3, 4, 5, 6))),
        ({"repeated": 1, "out of order": 1}, Told(watching=ALL, seen=(1, 2, 3, 2, 4, 5, 6))),
        ({"out of order": 1}, Told(watching=ALL, seen=(1, 3, 2, 4, 5, 6))),
        ({"not due": 1}, Told(watching=Watching(after=4), seen=(4, 5, 6))),
        ({"not due": 1}, Told(watching=Watching(after=0, labels=A), seen=(1, 2, 3, 5))),
        ({"not due": 1}, Told(watching=UNTIL_DONE, seen=(1, 3, 5, 6), is_ended=True)),
        ({"missed": 1}, Told(watching=UNTIL_DONE, seen=(1, 3), is_ended=True)),
        ({"not ended": 1}, Told(watching=UNTIL_DONE, seen=(1, 3, 5))),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(wrong: dict[str, int], told: Told) -> None:
    """Each of these got something else than it had to."""
    assert wrong == dict(Judge(RECORD).judge(told))


def _ending(code: str = "UNAVAILABLE", *, opened: float = 0, ended: float = 11, is_told: bool = False) -> Ending:
    return Ending(code=code, opened=opened, ended=ended, is_told=is_told)


@pytest.mark.parametrize(
    ("refused", "endings"),
    [
        (0, (_ending(),)),
        (1, (_ending("CANCELLED"),)),
        (1, (_ending("OK"),)),
        (1, (_ending(is_told=True),)),
        (1, (_ending(ended=9),)),
        (1, (_ending(opened=13, ended=14),)),
        (1, (_ending(), _ending(opened=9.5, ended=11.5))),
        (0, (_ending(), _ending(opened=11, ended=11.5), _ending(opened=12, ended=21))),
        (0, (_ending(), _ending(opened=11, ended=21))),
    ],
)
def test_a_kill_excuses_one_stream_of_a_watcher(refused: int, endings: tuple[Ending, ...]) -> None:
    """Whatever else ends a stream is a refusal."""
    downs = (Down(killed=10, served=12), Down(killed=20, served=22))

    told = Told(watching=ALL, seen=(1, 2, 3, 4, 5, 6), endings=endings)

    assert refused == Judge(RECORD, downs).judge(told)["refused"]


def test_what_a_change_told_is_compared() -> None:
    """Another start, another state, and a revision that is not recorded are wrong."""
    assert 3 == Judge(RECORD).wrong({1: ("a", 1), 2: ("a", 1), 3: ("a", 4), 7: ("a", 4)})
