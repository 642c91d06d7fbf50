"""What the store says to SQLite, and how SQLite goes about it: no statement's work grows with what is over.

Every statement is noted as it was said, with its values, while everything a store does is done to one in which many
starts are over. Plans tell which index is used; steps of SQLite's machine tell how much was read. No time is measured.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gateway.store
from gateway.model import Filter
from gateway.store import reads, restoring
from gateway.store.connecting import SqliteConnection
from gateway.store.operations import Operations
from gateway.store.sqlite import open_sqlite
from gateway.store.sqlite_commits import SqliteCommits
from gateway.store.transaction import Transaction
from tests.bench.grown import Lane, finished, grow
from tests.builders import ACCOUNT, BACKEND, TENANT, Clock, accepted, claim_ids, create, settle, singly
from tests.driven import ALONE, STUDIO, Driven, drive
from tests.noted import PLANNED, Notes, explain, noting, plain, triggered

if TYPE_CHECKING:
    from gateway.store import Page

FEW, MANY = 10_000, 15_000  # starts that are over: half are of the tenant, and those are more than a page may read
SLACK, DEEPER = 1.1, 20  # by how much steps may differ: what is looked for lies elsewhere in a larger store
STEPS_A_ROW = 28  # that SQLite takes to read one; it takes 16 to 26
STORE = Path(gateway.store.__file__).parent
OPENING = str(STORE / "sqlite.py")
ELSEWHERE = (
    "checking.py",
    "connecting.py",
    "copies.py",
    "counting.py",
    "invariants.py",
    "misfits.py",
    "migrations.py",
    "moved.py",
)  # of files that nobody serves from
SAYING = ("rows", "row", "one", "each", "run", "over", "insert", "execute")

ALLOWED = {
    "SCAN rows": "those that a subquery has found, or that are inserted: both are limited",
    "SCAN d": "the same, by a name",
    "SCAN f": "the one who waits first",
    "SCAN backlogs": "one for each tenant and backend, once",
    "SCAN totals": "two for each backend",
    "SCAN json_each VIRTUAL TABLE INDEX 1:": "tenants that wait because of what they have sent",
    "SCAN wanted VIRTUAL TABLE INDEX 1:": "the ids of a watch",
    "SCAN meta": "a few",
    "SCAN commits": "one",
    "SCAN leases": "one for each lane, and for each gateway",
    "SCAN sqlite_master": "the tables and indexes, once",
    "SCAN attempts USING INDEX attempts_open": "what is being sent, once",
    "SCAN starts USING INDEX starts_behind": "what has moved in the last second of an earlier life, once",
    "SCAN dispatches USING INDEX dispatches_unsure": "what is uncertain, up to a bound",
    "SCAN dispatches USING INDEX dispatches_stalled": "what stands still, up to a bound",
    "SCAN dispatches USING INDEX dispatches_running": "what runs, once",
    "SCAN dispatches USING INDEX dispatches_sought": "what is looked for, once",
    "SCAN dispatches USING INDEX dispatches_waiting": "what waits, once",
    "SCAN dispatches USING INDEX dispatches_held": "what is held, once for each account",
    "SCAN dispatches USING INDEX dispatches_claimed": "what an earlier process had claimed, once",
    "SCAN blocked": "the starts with blocks, once",
    "SCAN pending": "the starts of which something is pending, once",
}
"""Plans that go through something whole, and what that is."""
AT_FIRST = {
    "SCAN attempts": "for the last moment there was",
    "SCAN changes": "the last one",
    "SCAN dispatches": "for what waits",
    "SCAN dispatches USING INDEX dispatches_start": "for the account, which is that of the last one",
    "SCAN r": "what was not written out yet",
}
"""The same of a copy that was restored, once and before it serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lives:
    """What was said to a store while everything was done to it and after a crash, and at first after it was restored.

    `called` are the operations that were.
    """

    path: Path
    usual: Notes
    restored: Notes
    called: set[str]

    def plans(self, notes: Notes) -> list[tuple[str, str]]:
        """Tells how SQLite goes about each statement: the statement, and one step of its plan."""
        with closing(sqlite3.connect(self.path, factory=SqliteConnection)) as conn:
            return [*explain(conn, notes), *triggered(conn)]


async def live(path: Path) -> Lives:
    """Has a store live three times: all is done to it, it goes on after a crash, and it is restored from a copy."""
    usual, restored, clock = Notes(), Notes(), Clock(datetime.now(UTC))
    with noting(usual):
        store = open_sqlite(path, clock)
        driven = Driven(store)
        await drive(driven, clock)
        await store.close()
        clock.tick(60)
        with closing(sqlite3.connect(path, isolation_level=None, factory=SqliteConnection)) as conn:
            conn.execute(
                "update backlogs set unsent = unsent + 1 where tenant = ? and backend = ?", (TENANT, BACKEND)
            )  # for the next life to heal
        await open_sqlite(path, clock).close()
    with noting(restored):
        with closing(sqlite3.connect(path, isolation_level=None, factory=SqliteConnection)) as conn:
            restoring.mark(conn, clock())
            restoring.mark_found(conn)
        await open_sqlite(path, clock).close()
    return Lives(path=path, usual=usual, restored=restored, called=driven.called)


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Lives]:
    """What is said to stores in which few and many starts are over."""

    async def grow_and_live() -> dict[int, Lives]:
        found = {}
        for count in (FEW, MANY):
            path = tmp_path_factory.mktemp("grown") / "startflow.db"
            await grow(path, count, partial(finished, lane=Lane(BACKEND, ACCOUNT)))
            found[count] = await live(path)
        return found

    return asyncio.run(grow_and_live())


def test_everything_that_a_store_does_was_done(lives: dict[int, Lives]) -> None:
    """What is not called here is not judged here: a new operation has its place in `driven.py`."""
    operations = {name for name, one in vars(Operations).items() if inspect.iscoroutinefunction(one)}

    assert set() == {name for name in operations if not name.startswith("_")} - lives[FEW].called - {"close"}
    assert len(lives[FEW].usual.said) > 100


def sites() -> list[tuple[str, range]]:
    """Finds where the store says something that has a plan: the file, and the lines of the call."""
    calls = [
        (path, node)
        for path in sorted(STORE.glob("*.py"))
        if path.name not in ELSEWHERE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SAYING
    ]
    return [
        (str(path), range(node.lineno, (node.end_lineno or node.lineno) + 1))
        for path, node in calls
        if not (isinstance(node.args[0], ast.Constant) and node.args[0].value.split()[0] not in PLANNED)  # type: ignore[operator,union-attr]
    ]


def test_every_statement_was_said(lives: dict[int, Lives]) -> None:
    """Wherever the store speaks to SQLite it has, at least once.

    But for what another engine alone is asked, and what is written once a disk has failed.
    """
    not_said = [
        (inspect.getfile(each), range(first, first + len(lines)))
        for each in (Transaction._are_known, SqliteCommits.became)
        for lines, first in (inspect.getsourcelines(each),)
    ]
    at_first = {(file, line) for file, line in lives[FEW].restored.sites if file in (restoring.__file__, OPENING)}
    said = lives[FEW].usual.sites | at_first

    assert [] == [
        f"{path}:{lines.start}"
        for path, lines in sites()
        if not any(file == path and lines.start in elsewhere for file, elsewhere in not_said)
        and not any(file == path and line in lines for file, line in said)
    ]


def test_no_statement_goes_through_a_whole_table(lives: dict[int, Lives]) -> None:
    """Each is led by an index to what it is about. What is not, is small, or is only what waits or runs."""
    found = scans(lives[MANY].plans(lives[MANY].usual))

    assert [] == [(plan, sql) for plan, sql in found if plan not in ALLOWED]


def test_no_statement_does_more_where_more_is_over(lives: dict[int, Lives]) -> None:
    """Nor is one led to rows that are not what it is about: half as many again are no more steps."""
    few, many = lives[FEW].usual.said, lives[MANY].usual.said

    assert set(few) == set(many)
    assert [] == [
        (sql, few[sql].steps, many[sql].steps) for sql in few if many[sql].steps > SLACK * few[sql].steps + DEEPER
    ]


def test_only_a_restored_copy_is_gone_through(lives: dict[int, Lives]) -> None:
    """Once, before it serves: what may have been sent since is looked for among all there is."""
    usual = lives[MANY].usual.said
    found = scans(lives[MANY].plans(lives[MANY].restored))

    assert [] == [(plan, sql) for plan, sql in found if sql not in map(plain, usual) and plan not in ALLOWED | AT_FIRST]


def scans(plans: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Returns those steps of plans that go through something, and their statements. Rows that are said are `rows`."""
    found = set()
    for sql, plan in plans:
        said = re.match(r"with (\w+)\(", sql)
        rows = rf"\(subquery-\d+\)|(\d+ )?CONSTANT ROWS?{rf'|(?<=SCAN ){said[1]}' if said else ''}"
        found.add((re.sub(rows, "rows", plan), sql))
    return {(plan, sql) for plan, sql in found if plan.startswith("SCAN")}


@pytest.mark.parametrize("index", ["dispatches_external", "dispatches_due", "attempts_open"])
def test_a_lost_index_is_noticed_by_its_plans(lives: dict[int, Lives], index: str) -> None:
    """A statement that was led by it goes through a whole table without."""
    with closing(sqlite3.connect(lives[FEW].path, isolation_level=None, factory=SqliteConnection)) as conn:
        conn.execute("begin")
        conn.execute(f"drop index {index}")
        found = scans(explain(conn, lives[FEW].usual))
        conn.execute("rollback")

    assert {plan for plan, _ in found} - set(ALLOWED)


def test_a_lost_index_is_noticed_by_the_steps(lives: dict[int, Lives]) -> None:
    """Without that of the changes of a start, its history would be looked for among all later changes."""
    taken = []
    for each in lives.values():
        notes = Notes()
        (sql,) = (sql for sql in each.usual.said if " from changes where start_id = $1 and revision > $2" in sql)
        with noting(notes), closing(sqlite3.connect(each.path, isolation_level=None, factory=SqliteConnection)) as conn:
            conn.execute("begin")
            conn.execute("drop index changes_start")
            conn.execute(sql, each.usual.said[sql].values).fetchall()
            taken.append(notes.said[sql].steps)
            conn.execute("rollback")

    assert taken[1] > SLACK * taken[0] + DEEPER


def test_every_index_is_used(lives: dict[int, Lives]) -> None:
    """One that leads nobody would only make writing slower."""
    used = " ".join(plan for _, plan in lives[FEW].plans(lives[FEW].usual))
    with closing(sqlite3.connect(lives[FEW].path, factory=SqliteConnection)) as conn:
        names = [name for (name,) in conn.execute("select name from sqlite_master where type = 'index'")]

    assert [] == [name for name in names if re.search(rf"\b{name}\b", used) is None]


@pytest.mark.parametrize("tenant", [TENANT, None])
def test_a_page_that_nothing_matches_is_short(lives: dict[int, Lives], tenant: str | None) -> None:
    """It reads so many rows at the most, and its token leads on from the last of them."""
    notes, path = Notes(), lives[MANY].path
    nothing = Filter(labels={"of": "nothing"})

    async def read() -> tuple[Page, Page]:
        store = open_sqlite(path, Clock())
        pages = (
            await store.list(tenant, nothing, before=None, limit=50),
            await store.snapshot(tenant, nothing, frozenset(), after=0, limit=50),
        )
        await store.close()
        return pages

    with noting(notes):
        newest, oldest = asyncio.run(read())
    whose = "erased = 0" if tenant is None else f"tenant = '{tenant}'"
    with closing(sqlite3.connect(path, factory=SqliteConnection)) as conn:
        counted = [
            conn.execute(
                f"select count(*) from starts where {whose} and revision {side} ?",  # noqa: S608 -- of ours
                (page.next_position,),
            )
            for side, page in ((">=", newest), ("<=", oldest))
        ]
        read_rows = [count.fetchone()[0] for count in counted]
    pages = [said.steps for sql, said in notes.said.items() if "order by s.revision" in sql]

    assert ((), ()) == (newest.flow_starts, oldest.flow_starts)
    assert [reads.SCANNED, reads.SCANNED] == read_rows
    assert 4 == len(pages)  # the page, and where it ends
    assert max(pages) <= STEPS_A_ROW * reads.SCANNED


async def test_the_end_of_a_large_start_costs_what_its_beginning_does(tmp_path: Path) -> None:
    """However many of its dispatches are over, the next ones are found at once."""
    notes, taken = Notes(), []
    with noting(notes):
        store = open_sqlite(tmp_path / "startflow.db", Clock())
        await create(store, singly(1_000), terms=ALONE, backend=STUDIO)
        for _ in range(10):
            for said in notes.said.values():
                said.steps = 0
            ids = await claim_ids(store, 100, STUDIO)
            await asyncio.gather(*(settle(store, each, accepted(f"x-{each}")) for each in ids))
            taken.append({sql: said.steps for sql, said in notes.said.items()})
        await store.close()
    early, late = taken[1], taken[-2]

    assert [] == [(sql, early[sql], late[sql]) for sql in early if late[sql] > SLACK * early[sql] + DEEPER]
