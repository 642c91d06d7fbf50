from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gateway.service.ids import new_id

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_ids_are_26_characters_without_a_slash_or_an_upper_case_letter() -> None:
    """Ids stand in URLs, in rows that sort by them and, with a number behind, in a backend's params."""
    alphabet = set("0123456789abcdefghijklmnopqrstuv")

    for _ in range(200):
        made = new_id(AT)

        assert 26 == len(made)
        assert set() == set(made) - alphabet


def test_ids_sort_by_the_time_they_were_made() -> None:
    """An id of a later millisecond is a greater string, from one millisecond to decades."""
    steps = [timedelta(milliseconds=n) for n in (0, 1, 2, 31, 32, 33, 1023, 1024, 10**6, 10**9, 10**12)]
    ids = [new_id(AT + step) for step in steps]

    assert sorted(ids) == ids


def test_ids_of_one_millisecond_differ() -> None:
    """Eighty random bits tell them apart."""
    assert 10_000 == len({new_id(AT) for _ in range(10_000)})
