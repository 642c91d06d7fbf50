"""Rows that cannot be read: one stops nothing but itself, its start says so, and it ends like any other."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.errors import Reason
from gateway.model import State
from gateway.store.rows import from_micros, moment
from tests.builders import BACKEND, NOON, TENANT, TERMS, again, claim_ids, create, singly

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock


def damage(path: Path, statement: str, *values: object) -> None:
    """Changes a row behind the gateway's back."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(statement, values)


@pytest.mark.parametrize("micros", [-(2**62), 2**62, 2**63 - 1])
def test_b1_every_number_is_some_moment(micros: int) -> None:
    """The nearest that there is: nothing that a row holds makes reading a time raise."""
    nearest = datetime(1, 1, 1, tzinfo=UTC) if micros < 0 else datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

    assert nearest == moment(micros) == from_micros(micros)


async def test_b1_a_start_at_the_end_of_time_stops_no_claim(store: SqliteStore, clock: Clock) -> None:
    """However late it is due, the others are claimed, and the lane is told when to come back."""
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    terms = type(TERMS)(account=TERMS.account, one_at_a_time=True)
    await create(store, terms=terms, schedule_at=last)
    now = await create(store, terms=terms)
    claims = await store.claim(BACKEND, 10)

    assert [f"{now.asked.id}-1"] == [dispatch.id for dispatch in claims.dispatches]
    assert claims.next_due_at is not None
    assert claims.next_due_at > clock()


@pytest.mark.parametrize("column", ["created_at", "give_up_at"])
@pytest.mark.parametrize("micros", [-(2**63), 2**63 - 1])
async def test_b1_no_time_in_a_row_stops_a_claim_that_gives_up(
    store: SqliteStore, clock: Clock, tmp_path: Path, column: str, micros: int
) -> None:
    """What is put off because of it is put off to a moment that there is."""
    bad = await create(store)
    damage(tmp_path / "startflow.db", f"update starts set {column} = ? where id = ?", micros, bad.asked.id)  # noqa: S608 -- of ours
    clock.tick(timedelta(days=2).total_seconds())
    good = await create(store)

    assert f"{good.asked.id}-1" in await claim_ids(store)


@pytest.mark.parametrize(
    "statement",
    [
        "update dispatches set recipients = '{' where start_id = ?",
        "update dispatches set recipients = '[1,2]' where start_id = ?",
        """update starts set asked = replace(asked, '"n":', '"x":') where id = ?""",
        "update starts set params = '' where id = ?",
        "update dispatches set recipients = cast(x'5b5b22ff225d5d' as text) where start_id = ?",
        "update starts set asked = cast(x'7bff7d' as text) where id = ?",
        "update starts set params = cast(x'7b22ff223a317d' as text) where id = ?",
        "update starts set flow = cast(x'ff' as text) where id = ?",
    ],
)
async def test_b_what_cannot_be_read_is_set_aside(store: SqliteStore, tmp_path: Path, statement: str) -> None:
    """Once: the others go on, its start warns, and it gives up in time or is cancelled."""
    bad, worse, good = [await create(store, expire_at=NOON + timedelta(hours=1)) for _ in range(3)]
    for start in (bad, worse):
        damage(tmp_path / "startflow.db", statement, start.asked.id)
    first = await claim_ids(store)
    second = await claim_ids(store)

    assert ([f"{good.asked.id}-1"], []) == (first, second)
    with closing(sqlite3.connect(tmp_path / "startflow.db")) as conn:
        for start in (bad, worse):
            (standing,) = conn.execute("select standing from starts where id = ?", (start.asked.id,)).fetchone()
            assert Reason.SET_ASIDE in standing


@pytest.mark.parametrize(
    "damaged",
    [
        "body = '?'",
        "body = '[]'",
        "body = '[[],[],[]]'",
        """body = '[[["tel:+12065551212"],[],[]]]'""",
        "first_number = first_number + 1",
        "first_number = -9223372036854775808",
        "first_number = 9223372036854775807",
    ],
)
async def test_b_a_block_that_cannot_be_read_does_not_keep_the_next_one(
    store: SqliteStore, tmp_path: Path, damaged: str
) -> None:
    """Its dispatches are there, held; the rest is sent, and a cancel ends all that is not."""
    start = await create(store, singly(300))
    damage(tmp_path / "startflow.db", f"update recipients set {damaged} where block = 1")  # noqa: S608 -- of ours
    sent = []
    while claimed := await claim_ids(store, 1_000):
        sent += claimed

    assert {f"{start.asked.id}-{n}" for n in (*range(1, 101), *range(201, 301))} == set(sent)
    assert Reason.SET_ASIDE in [warning.reason for warning in (await again(store, start)).standing.warnings]
    cancelled = await store.cancel(TENANT, start.asked.id, can_end=False)
    assert cancelled is not None
    with closing(sqlite3.connect(tmp_path / "startflow.db")) as conn:
        left = conn.execute("select state, count(*) from dispatches group by 1").fetchall()
    assert [(State.PENDING, 200), (State.INTERRUPTED, 100)] == left


@pytest.mark.parametrize("text", [b"{", b"[]", b"{\xff}", b'{"updated":"late"}'])
async def test_b_a_change_that_cannot_be_read_keeps_nothing_from_being_forgotten(
    store: SqliteStore, tmp_path: Path, clock: Clock, text: bytes
) -> None:
    """It is as old as can be, and goes with the others."""
    starts = [await create(store, created_at=clock()) for _ in range(3)]
    unreadable = "update changes set standing = cast(? as text) where start_id = ?"
    damage(tmp_path / "startflow.db", unreadable, text, starts[0].asked.id)
    for start in starts:
        await store.cancel(TENANT, start.asked.id, can_end=False)
    clock.tick(60)
    while await store.purge(clock()):
        pass

    assert [None] * 3 == [await store.get(TENANT, start.asked.id) for start in starts]
