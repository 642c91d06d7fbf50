"""What always holds of the store: each invariant notices what breaks it and nothing else, and what can heal does."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.errors import Reason
from gateway.model import Recipients, State
from gateway.store import Terms
from gateway.store.checking import SOUNDNESS, check_path
from gateway.store.engine import StoreUnusable
from gateway.store.invariants import INVARIANTS
from gateway.store.sqlite import open_sqlite
from tests.builders import (
    ACCOUNT,
    NOON,
    TENANT,
    Clock,
    accepted,
    again,
    begin,
    claim_ids,
    create,
    put_off,
    seen,
    settle,
    singly,
    unsure,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[1]
DAY = timedelta(days=1)
ALONE = Terms(account=ACCOUNT, one_at_a_time=True)
BROKEN: tuple[tuple[str, Sequence[str]], ...] = (
    ("blocks_have_a_dispatch_ahead", ["update dispatches set claimed_by = 1 where id = 'large-1'"]),
    (
        "dispatches_are_numbered_through",
        ["update recipients set first_number = first_number + 1 where start_id = 'large' and block = 2"],
    ),
    ("dispatches_are_numbered_through", ["update recipients set block = block + 1 where block = 3"]),
    ("dispatches_are_of_their_start", ["update dispatches set flow = 'another' where id = 'running-2'"]),
    ("dispatches_are_of_their_start", ["update dispatches set tenant = 'another' where id = 'running-2'"]),
    ("tallies_count_dispatches", ["update starts set tally = json_set(tally, '$.d.\"4\"', 2) where id = 'done'"]),
    ("tallies_count_recipients", ["update starts set tally = json_set(tally, '$.r.\"1\"', 1) where id = 'large'"]),
    ("tallies_count_contacts", ["update dispatches set contact_count = 7 where id = 'done-1'"]),
    ("starts_stand_by_their_tally", ["update starts set state = 5 where id = 'done'"]),
    ("backlogs_count_the_unsent", ["update backlogs set unsent = unsent + 1 where backend = 'large'"]),
    ("backlogs_count_the_unsent", ["delete from backlogs where backend = 'large'"]),
    ("only_the_unsent_are_claimed", ["update dispatches set claimed_by = 1 where id = 'done-1'"]),
    ("only_the_unsent_are_claimed", ["update dispatches set claimed_by = 9 where id = 'running-2'"]),
    ("a_recipient_is_claimed_once", ["update dispatches set claimed_by = 1 where start_id = 'alone'"]),
    ("a_recipient_has_one_at_the_front", ["update dispatches set in_line = 1 - in_line where start_id = 'alone'"]),
    ("lines_count_who_waits", ["insert into lines values ('large', 'nobody', 1)"]),
    ("tenants_have_their_turn", ["delete from turns"]),
    ("totals_add_up_backlogs", ["update totals set unsent = unsent + 1"]),
    ("attempts_are_numbered_through", ["update dispatches set attempts = 2 where id = 'done-1'"]),
    ("attempts_are_numbered_through", ["update attempts set number = 2 where dispatch_id = 'done-1'"]),
    ("open_attempts_are_being_sent", ["update dispatches set claimed_by = null where id = 'open-1'"]),
    ("open_attempts_are_being_sent", ["update attempts set incarnation = 9 where dispatch_id = 'open-1'"]),
    ("what_runs_can_be_followed", ["update dispatches set external_id = null where id = 'running-1'"]),
    ("external_ids_are_of_one_dispatch", ["update dispatches set external_id = 'x1' where id = 'done-1'"]),
    ("doubt_is_of_what_was_sent", ["update dispatches set sought_until = 1 where id = 'unsure-1'"]),
    ("looking_ends", ["update dispatches set sought_from = 1 where id = 'done-1'"]),
    (
        "only_what_runs_stalls",
        [
            "update dispatches set stalled = 1 where id = 'done-1'",
            (
                "update starts set tally = json_set(tally, '$.x', 1),"
                " standing = json_set(standing, '$.stalled', json('true')) where id = 'done'"
            ),
            (
                "update changes set standing = (select standing from starts where id = 'done')"
                " where revision = (select revision from starts where id = 'done')"
            ),
        ],
    ),
    ("what_is_open_gives_up", ["update starts set give_up_at = null where id = 'running'"]),
    ("what_is_open_gives_up", ["update dispatches set expire_at = null where id = 'unsure-1'"]),
    ("cancelled_starts_end", ["update starts set cancel_at = 1 where id = 'large'"]),
    (
        "cancelled_starts_end",
        [
            "update starts set cancel_at = 1, cancelling = 1 where id = 'running'",
            "update dispatches set claimed_by = 0 where id = 'running-2'",
        ],
    ),
    ("revisions_are_given_once", ["update commits set head = head + 1"]),
    ("revisions_are_given_once", ["update starts set standing = json_set(standing, '$.updated', 1) where id = 'done'"]),
    ("changes_follow_one_another", ["update changes set state_before = 5 where start_id = 'done' and revision > 7"]),
    ("times_can_be_read", ["update dispatches set due_at = 9000000000000000000 where id = 'running-2'"]),
    ("rows_can_be_read", ["update starts set params = '{' where id = 'done'"]),
    ("rows_can_be_read", ["update starts set asked = '{}' where id = 'done'"]),
    (
        "references_hold",
        [
            (
                "insert into attempts (dispatch_id, number, start_id, incarnation, begun_at, outcome)"
                " values ('nobody-1', 1, 'nobody', 1, 1, 'ACCEPTED')"
            )
        ],
    ),
    (
        "the_file_is_sound",
        [
            "pragma writable_schema = on",
            (
                "update sqlite_master set sql = 'create index starts_newest on starts (state)'"
                " where name = 'starts_newest'"
            ),
        ],
    ),
)
"""What breaks each invariant, and no other."""


def blocks(count: int) -> list[Recipients]:
    """Plans a start of one dispatch to a block."""
    return [Recipients(urns=tuple(f"tel:+1206{block:03}{each:04}" for each in range(100))) for block in range(count)]


async def fill(path: Path) -> None:
    """Makes a store with a start in every way to be, as a process leaves it that is killed."""
    clock = Clock()
    store = open_sqlite(path, clock)
    await create(store, blocks(4), id="large", backend="large")
    await create(store, [*singly(1), *singly(1)], id="alone", backend="alone", terms=ALONE)
    for name in ("done", "unsure", "open"):
        await create(store, id=name)
    await create(store, singly(2), id="running")
    for dispatch_id in sorted(await claim_ids(store)):
        if dispatch_id == "open-1":
            await begin(store, dispatch_id)
            continue
        answers = {"unsure-1": unsure(), "running-2": put_off(NOON + DAY), "done-1": accepted("x0")}
        await settle(store, dispatch_id, answers.get(dispatch_id) or accepted("x1", State.STARTED))
    await store.sight("rapidpro", [seen("x0", State.COMPLETED)], account=ACCOUNT)
    await store.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which nothing is broken."""
    path = tmp_path_factory.mktemp("whole") / "whole.db"
    asyncio.run(fill(path))
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copyfile(whole, tmp_path / "startflow.db")
    return tmp_path / "startflow.db"


def say(path: Path, *statements: str) -> None:
    """Changes a store behind the gateway's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        for statement in statements:
            conn.execute(statement)


def broken(path: Path) -> set[str]:
    """Names what is broken."""
    return {violation.invariant.name for violation in check_path(path)}


def test_nothing_is_broken_that_nobody_broke(path: Path) -> None:
    """As a process leaves it that is killed while it sends."""
    assert [] == [str(each) for each in check_path(path)]


@pytest.mark.parametrize(("name", "statements"), BROKEN, ids=[f"{name}-{n}" for n, (name, _) in enumerate(BROKEN)])
def test_what_breaks_an_invariant_is_found_and_is_named_alone(path: Path, name: str, statements: Sequence[str]) -> None:
    """Each has teeth, and no two are the same."""
    say(path, *statements)

    assert {name} == broken(path)


def test_each_invariant_is_broken_once() -> None:
    """What nothing breaks is not checked."""
    every = [invariant.name for invariant in (*INVARIANTS, *SOUNDNESS)]

    assert sorted(every) == sorted({name for name, _ in BROKEN})


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("starts", "standing"),
        ("starts", "tally"),
        ("starts", "asked"),
        ("starts", "params"),
        ("changes", "standing"),
        ("dispatches", "recipients"),
        ("recipients", "body"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_ends_nothing(path: Path, table: str, column: str) -> None:
    """What it holds is not shown, and the others are checked all the same."""
    say(path, f"update {table} set {column} = '{{\"tel:+1'")  # noqa: S608 -- both are ours
    say(path, "update backlogs set unsent = unsent + 1")
    found = check_path(path)

    assert {"rows_can_be_read", "backlogs_count_the_unsent"} <= {each.invariant.name for each in found}
    assert "tel:" not in "".join(map(str, found))


def test_a_violation_says_what_where_and_what_to_do(path: Path) -> None:
    """In sentences, with an id and no address."""
    say(path, "update dispatches set claimed_by = 1 where id = 'large-1'")
    (violation,) = check_path(path)

    assert (
        "large breaks `blocks_have_a_dispatch_ahead`: A start with recipients that are not written out has a dispatch"
        " that waits or is held. Restart the gateway, which heals this when it starts."
    ) == str(violation)


def test_a_store_of_another_version_is_refused(path: Path, tmp_path: Path) -> None:
    """Both ways, and what is none."""
    say(path, "delete from _sqlite_migrations where name = 'm004_spanning'")
    with pytest.raises(StoreUnusable, match="made by an older version of the gateway"):
        check_path(path)
    say(path, "insert into _sqlite_migrations values (99, 'startflow', 'm999_later', '2030-01-01')")
    with pytest.raises(StoreUnusable, match="made by a newer version"):
        check_path(path)
    with pytest.raises(StoreUnusable, match="There is no store"):
        check_path(tmp_path / "nothing.db")


async def test_a_store_in_use_is_checked(reopen: Callable[..., SqliteStore], tmp_path: Path) -> None:
    """While a gateway serves from it."""
    store = reopen()
    await create(store)

    assert [] == check_path(tmp_path / "startflow.db")


# --- healing


STRANDED = (  # as adoption left a large start before it was mended
    (
        "update dispatches set state = 3, external_id = 'x9', attempts = 1, accepted_at = 1, moved_at = 1"
        " where id = 'large-1'"
    ),
    (
        "insert into attempts (dispatch_id, number, start_id, incarnation, begun_at, ended_at, outcome)"
        " values ('large-1', 1, 'large', 1, 1, 1, 'UNSURE')"
    ),
    (
        "update starts set state = 3, tally = json_set(tally, '$.d', json('{\"1\":3,\"3\":1}'), '$.r',"
        " json('{\"1\":300,\"3\":100}')), standing = json_set(standing, '$.state', 3, '$.progress',"
        " json('{\"started\":100}')) where id = 'large'"
    ),
    (
        "update changes set standing = (select standing from starts where id = 'large')"
        " where revision = (select revision from starts where id = 'large')"
    ),
    "update backlogs set unsent = 3 where backend = 'large'",
)


async def claim_all(store: SqliteStore, backend: str = "large") -> list[str]:
    """Claims until nothing is due."""
    claimed: list[str] = []
    while more := await claim_ids(store, 1, backend):
        claimed += more
    return claimed


async def told(store: SqliteStore, clock: Clock) -> None:
    """Lets the second pass after which progress is written."""
    clock.tick(2)
    await store.check()


async def test_a1_what_was_stranded_is_sent_after_the_next_start(
    path: Path, reopen: Callable[..., SqliteStore]
) -> None:
    """And the start says what happened to it."""
    say(path, *STRANDED)
    before = broken(path)
    store = reopen()

    assert {"blocks_have_a_dispatch_ahead"} == before
    assert {"blocks_have_a_dispatch_ahead": ["large"]} == store.engine.healed
    assert [] == [str(each) for each in check_path(path)]
    assert ["large-2", "large-3", "large-4"] == await claim_all(store)
    found = await store.get(TENANT, "large")
    assert found is not None
    assert [str(Reason.HEALED)] == [str(warning.reason) for warning in found.standing.warnings]


async def test_a1_what_was_stranded_and_cancelled_ends_after_the_next_start(
    path: Path, reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """A cancel that had no effect has it now."""
    say(path, *STRANDED, "update starts set cancel_at = 1 where id = 'large'")
    store = reopen()

    assert [] == await claim_all(store)
    assert [] == [str(each) for each in check_path(path)]
    await told(store, clock)
    found = await store.get(TENANT, "large")
    assert found is not None
    assert 300 == found.standing.progress.interrupted


async def test_a1_what_was_stranded_for_longer_than_it_may_wait_is_given_up(
    path: Path, reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """Nobody is reached a month late."""
    say(path, *STRANDED)
    clock.tick(30 * 86_400)
    store = reopen()

    assert [] == await claim_all(store)
    await told(store, clock)
    found = await store.get(TENANT, "large")
    assert found is not None
    assert 300 == found.standing.progress.failed


@pytest.mark.parametrize("unsent", [0, 1, 1_000])
async def test_a_backlog_that_is_wrong_is_counted_anew(
    path: Path, reopen: Callable[..., SqliteStore], unsent: int
) -> None:
    """One that is too small would never be served."""
    say(path, f"update backlogs set unsent = {unsent} where backend = 'large'")  # noqa: S608 -- a number
    store = reopen()

    assert {"backlogs_count_the_unsent": ["backlog default/large"]} == store.engine.healed
    assert [] == check_path(path)
    assert ["large-1", "large-2", "large-3", "large-4"] == await claim_all(store)


async def test_looking_without_an_end_ends(path: Path, reopen: Callable[..., SqliteStore]) -> None:
    """An hour later."""
    say(path, "update dispatches set sought_from = 1 where id = 'done-1'")
    store = reopen()

    assert {"looking_ends": ["done-1"]} == store.engine.healed
    assert [] == check_path(path)


@pytest.mark.parametrize("backend", ["large", "rapidpro", "alone"])
async def test_nothing_is_healed_of_what_a_crash_leaves(
    path: Path, reopen: Callable[..., SqliteStore], backend: str
) -> None:
    """Claims, open attempts and blocks are as they should be: nobody is warned."""
    store = reopen()
    await claim_ids(store, 1, backend)
    await store.close()
    store = reopen()

    assert {} == store.engine.healed
    assert [] == check_path(path)


async def test_what_is_healed_is_healed_once(path: Path, reopen: Callable[..., SqliteStore]) -> None:
    """The next start has nothing to say."""
    say(path, *STRANDED)
    store = reopen()
    start = await store.get(TENANT, "large")
    await store.close()
    store = reopen()

    assert {} == store.engine.healed
    assert start is not None
    assert start == await again(store, start)


# --- docs


def test_the_page_lists_what_is_checked() -> None:
    """docs/guarantees.md has each invariant in the words of the code, in its order, and how it is healed."""
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    _, _, section = page.partition("## What always holds of the store\n")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]

    assert [f"| `{each.name}` | {each.sentence} | {each.heals} |" for each in (*INVARIANTS, *SOUNDNESS)] == rows
