"""Every schema that there ever was is opened by today's code, and all that is in it is read and goes on.

`schemas/` has a database for each step, as it was left by a process that was killed: a start that is over, one half
refused, one that was being sent, one of 150 parts with some of them not written out, and one scheduled. They never
change; whoever adds a step adds its dump (`sqlite3 startflow.db .dump`), with what is new in it.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.model import Attempt, Filter, State
from gateway.store.copies import backup, contents, restore
from gateway.store.migrations import MIGRATIONS
from tests.builders import ACCOUNT, BACKEND, NOON, TENANT, claim_ids, create

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock

SCHEMAS = sorted((Path(__file__).parent / "schemas").glob("*.sql"))
STEPS = [step.name for step in MIGRATIONS._migrations]
STATES = {
    "done": State.COMPLETED,
    "part": State.QUEUED,
    "crash": State.UNCERTAIN,
    "unsent": State.PENDING,
    "later": State.PENDING,
}


def put(schema: Path, path: Path) -> None:
    """Makes a database of a dump."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.executescript(schema.read_text(encoding="utf-8"))


def structure(path: Path) -> dict[str, object]:
    """Reads the tables, indexes and triggers of a database, columns in any order and without comments."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        names = [name for (name,) in conn.execute("select name from sqlite_master where type = 'table'")]
        indexes = conn.execute(
            "select name, sql from sqlite_master where type in ('index', 'trigger') and sql is not null"
        )
        return {
            **{name: sorted(row[1:] for row in conn.execute(f"pragma table_info({name})")) for name in names},
            **{name: re.sub(r"\s+", " ", sql) for name, sql in indexes},
        }


def test_every_step_has_its_dump() -> None:
    """A schema that nobody opens in a test is one that nobody may be able to open."""
    assert STEPS == [each.stem for each in SCHEMAS]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda each: each.stem)
async def test_what_is_in_it_is_read(
    schema: Path, tmp_path: Path, clock: Clock, reopen: Callable[..., SqliteStore]
) -> None:
    """Starts, params, recipients, history and request ids; what was being sent may have been carried out."""
    put(schema, tmp_path / "startflow.db")
    clock.tick(60)
    store = reopen()
    page = await store.list(TENANT, Filter(), before=None, limit=100)
    found = {start.asked.id: start for start in page.flow_starts}

    assert STATES == {name: start.standing.state for name, start in found.items()}
    unsent = await store.get(TENANT, "unsent")
    assert unsent is not None
    assert {"a": [1, "é", None]} == unsent.asked.params
    assert {"team": "a"} == found["done"].asked.labels
    assert "ext-done" == found["done"].standing.external_id
    assert NOON + timedelta(hours=1) == found["later"].standing.next_attempt_at
    again = await store.find_request(TENANT, "first")
    assert again is not None
    assert "done" == again.flow_start.asked.id
    recipients = await store.recipients(TENANT, "unsent", after=None, limit=1_000)
    assert recipients is not None
    assert 150 == len(recipients.recipients)
    history = await store.history(TENANT, "crash", after=None, limit=100)
    assert history is not None
    assert ["UNSURE"] == [each.outcome for each in history.entries if isinstance(each, Attempt)]
    changes = (await store.changes(0, 1_000)).changes
    assert list(range(1, len(changes) + 1)) == [change.revision for change in changes]
    assert await store.head() == changes[-1].revision


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda each: each.stem)
async def test_it_goes_on(schema: Path, tmp_path: Path, clock: Clock, reopen: Callable[..., SqliteStore]) -> None:
    """What waits is sent, blocks included, what runs is followed, and new starts come behind; its schema is today's."""
    put(schema, tmp_path / "startflow.db")
    clock.tick(60)
    store = reopen()
    sent: set[str] = set()
    while claimed := await claim_ids(store, 1_000):
        sent |= set(claimed)
    clock.tick(3_600)

    assert {f"unsent-{n}" for n in range(1, 151)} == sent
    assert ["later-1"] == await claim_ids(store)
    assert ["ext-part"] == [each.external_id for each in await store.running(BACKEND, ["ext-part", "ext-done"])]
    sought = [each.id for each in await store.sought(BACKEND, ACCOUNT)]
    assert (["crash-1"] if schema.stem > "m002" else []) == sought  # before, the backend's clock was not remembered
    before = await store.head()
    assert before + 1 == (await create(store)).revision
    reopen("new.db")
    assert structure(tmp_path / "new.db") == structure(tmp_path / "startflow.db")


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda each: each.stem)
async def test_it_is_copied_and_put_back(
    schema: Path, tmp_path: Path, clock: Clock, reopen: Callable[..., SqliteStore]
) -> None:
    """By today's code as it is; what may have been sent since is looked for once it is opened."""
    path, copy = tmp_path / "startflow.db", tmp_path / "copy.db"
    put(schema, path)
    backup(path, copy, NOON)
    found = contents(copy)
    restore(copy, path)
    clock.tick(60)
    store = reopen()

    assert (5, 4, 153) == (found.starts, found.not_over, found.unsent + found.uncertain + 1)
    sought = {each.id for each in await store.sought(BACKEND, ACCOUNT)} - {"crash-1"}
    assert {"later-1", *(f"unsent-{n}" for n in range(1, 151))} == sought  # that one is due within the hour
    assert [] == await claim_ids(store)


async def test_b2_those_who_wait_in_an_old_store_stand_in_line(
    tmp_path: Path, clock: Clock, reopen: Callable[..., SqliteStore]
) -> None:
    """Of three for one recipient the first is sent; of two whose recipient is being asked about, none."""
    put(Path(__file__).parent / "schemas" / "m005_holding.sql", tmp_path / "startflow.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "startflow.db")) as conn, conn:
        for number in range(1, 6):
            conn.execute(
                "update dispatches set recipient = ?, due_at = due_at - ? where id = ?",
                ("busy" if number > 3 else "free", number, f"unsent-{number}"),
            )
        conn.execute(
            "update dispatches set recipient = 'busy', state = 7, sought_from = 1, sought_until = null"
            " where id = 'done-1'"
        )
    clock.tick(60)
    store = reopen()
    claimed = set(await claim_ids(store, 1_000))

    assert {"unsent-3"} == {f"unsent-{n}" for n in range(1, 6)} & claimed
