"""Grown stores are what they would be after so many real starts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.model import Attempt, Filter, State
from gateway.store.sqlite import open_sqlite
from tests.bench.grown import GROUP, LABELS, LASTS, RARE, finished, grow, pending, record_all
from tests.builders import TENANT, Clock

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.model import Change, FlowStart
    from gateway.store.sqlite import SqliteStore

STARTS = 500
TABLES = ("starts", "recipients", "dispatches", "attempts", "changes")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "startflow.db"


def ask(path: Path, query: str) -> list[Any]:
    """Reads a file."""
    with closing(sqlite3.connect(path)) as conn:
        return conn.execute(query).fetchall()


def counts(path: Path) -> list[Any]:
    """Counts the rows of every table, and the revisions that were given."""
    rows = [ask(path, f"select count(*) from {table}") for table in TABLES]  # noqa: S608 -- names of ours
    return [*rows, ask(path, "select head from commits")]


def size(path: Path) -> int:
    """Tells how many bytes a file has."""
    return path.stat().st_size


async def told(store: SqliteStore, start: FlowStart) -> list[Any]:
    """Tells what is known of a start, but for its names and when it was."""
    page = await store.history(start.asked.tenant, start.asked.id, after=None, limit=100)
    named = await store.recipients(start.asked.tenant, start.asked.id, after=None, limit=100)
    assert page is not None
    assert named is not None
    history = [_entry(each, start.asked.created_at) for each in page.entries]
    recipients = [(each.recipient, each.state, bool(each.external_id), each.failure) for each in named.recipients]
    asked = start.asked
    return [asked.backend, asked.flow, asked.params, start.standing.progress, *history, *recipients]


def _entry(entry: Change | Attempt, since: datetime) -> tuple[Any, ...]:
    if isinstance(entry, Attempt):
        assert entry.ended_at is not None
        return entry.number, entry.outcome, entry.begun_at - since, entry.ended_at - entry.begun_at
    standing = entry.flow_start.standing
    return entry.state_before, standing.state, standing.updated_at - since, bool(standing.external_id)


@pytest.mark.parametrize("record", [finished, pending])
async def test_a_grown_store_is_whole(path: Path, record: Any) -> None:
    """SQLite finds nothing wrong with it, and no row is without those it belongs to."""
    await grow(path, STARTS, record)

    assert [("ok",)] == ask(path, "pragma integrity_check")
    assert [] == ask(path, "pragma foreign_key_check")
    assert [(STARTS,)] == ask(path, "select count(distinct request_id) from starts")
    assert [(STARTS,)] == ask(path, "select count(distinct start_id) from changes")
    assert [] == ask(path, "select external_id from dispatches group by 1 having count(external_id) > 1")
    newest = "(select max(revision) from changes where start_id = s.id)"
    assert [] == ask(path, f"select id from starts s where revision <> {newest}")  # noqa: S608 -- of ours


async def test_it_has_the_rows_that_real_starts_have(tmp_path: Path, path: Path) -> None:
    """As many of each kind as if every start had been recorded by itself, and about as many bytes."""
    await grow(path, STARTS)
    await record_all(tmp_path / "recorded.db", STARTS)

    assert counts(tmp_path / "recorded.db") == counts(path)
    assert size(path) == pytest.approx(size(tmp_path / "recorded.db"), rel=0.15)


async def test_each_start_is_like_the_first_of_its_kind(path: Path) -> None:
    """The same moves with the same pauses, each later by as much as its group is, under names of its own."""
    await grow(path, STARTS)
    store = open_sqlite(path, Clock(datetime.now(UTC)))
    found = [
        start
        for (start_id,) in ask(path, "select id from starts order by rowid")
        if (start := await store.get(None, start_id)) is not None
    ]
    first, others = found[:GROUP], found[GROUP:]
    expected = [await told(store, each) for each in first]

    assert STARTS == len(found)
    assert [State.FAILED, *[State.COMPLETED] * (GROUP - 1)] == [each.standing.state for each in first]
    for number, start in enumerate(others, GROUP):
        prototype = first[number % GROUP]
        assert expected[number % GROUP] == await told(store, start)
        assert number // GROUP * LASTS == start.asked.created_at - prototype.asked.created_at
        assert prototype.asked.labels == {**LABELS, **RARE}
        assert start.asked.labels == LABELS
    rare = await store.list(TENANT, Filter(labels=RARE), before=None, limit=100)
    assert {each.asked.id for each in first} == {each.asked.id for each in rare.flow_starts}
    await store.close()


async def test_what_is_pending_in_it_can_be_claimed(path: Path) -> None:
    """By all tenants in turns, and it is what their backlogs count."""
    await grow(path, STARTS, pending, timedelta(milliseconds=20))
    store = open_sqlite(path, Clock(datetime.now(UTC)))
    unsent = (await store.measure()).unsent
    claims = await store.claim(next(iter(unsent)), 10 * STARTS)
    await store.close()

    assert {STARTS} == set(unsent.values())
    assert STARTS == len(claims.dispatches)
