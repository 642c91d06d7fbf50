"""How PostgreSQL goes about what a store says to it: it reads no more where more is over. No time is measured."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest

from gateway.store.postgres.copying import copy
from gateway.store.postgres.engine import open_postgres
from tests import driven
from tests.bench.grown import Lane, finished, grow
from tests.builders import ACCOUNT, BACKEND, Clock

if TYPE_CHECKING:
    from pathlib import Path

    from tests.places import Schemas

FEW, MANY = 500, 2_500  # starts that are over; half are of the tenant
DEEPER = 500  # rows by which what is read may differ: what is deleted stays there for a while
WHO = "reader"  # as which the connections of these stores are known
PAGES = {"starts", "starts_newest", "starts_revision"}  # callers list what is over, a page at a time


@pytest.fixture
def engine() -> str:
    """Names the engine of the places of this test."""
    return "postgres"


def rows_read(url: str) -> dict[str, int]:
    """Counts what was read by now: of each table, and by each index."""
    with psycopg.connect(url, autocommit=True) as conn:
        others = "select 1 from pg_stat_activity where application_name = %s and pid <> pg_backend_pid()"
        while conn.execute(others.encode(), (WHO,)).fetchone():  # a connection counts for certain once it is over
            time.sleep(0.02)
        return {
            str(name): int(count)
            for name, count in conn.execute(
                "select relname, seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables"
                " where schemaname = current_schema() union all"
                " select indexrelname, idx_tup_read from pg_stat_user_indexes where schemaname = current_schema()"
            )
        }


async def lived(place: Schemas, path: Path, over: int) -> dict[str, int]:
    """Does to a store with so many starts that are over what is done to one; returns what was read meanwhile."""
    await grow(path, over, partial(finished, lane=Lane(BACKEND, ACCOUNT)))
    copy(path, url := f"{place.url(path.name)}&application_name={WHO}")
    before, clock = rows_read(url), Clock(datetime.now(UTC))
    store = open_postgres(url, clock)
    start = await driven.record(store, clock)
    await driven.send(store, clock, start)
    for do in (driven.wait_in_a_backlog, driven.look_for, driven.adopt, driven.stop):
        await do(store, clock)
    await driven.read(store, start)
    await driven.watch_over(store, clock)
    await driven.leave(store, clock)
    await store.close()
    await open_postgres(url, clock).close()
    return {name: count - before[name] for name, count in rows_read(url).items()}


@pytest.mark.longer  # filling the stores takes its time
async def test_nothing_reads_more_where_more_is_over(place: Schemas, tmp_path: Path) -> None:
    """Each statement is led by an index to what it is about, also while PostgreSQL has counted nothing of it yet."""
    few = await lived(place, tmp_path / "few.db", FEW)
    many = await lived(place, tmp_path / "many.db", MANY)

    assert few.keys() == many.keys()
    assert few["dispatches"] > FEW
    assert {} == {
        name: (few[name], many[name]) for name in few if name not in PAGES and many[name] > few[name] + DEEPER
    }
