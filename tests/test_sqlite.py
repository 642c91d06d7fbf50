"""What is truly SQLite's: the file, its one owner, crashes, the writer's transactions, and which indexes are used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from sqlite_utils import Database

from gateway.errors import Exhausted, Reason, Unavailable
from gateway.model import Filter, Identity, Progress, Recipients, Resolution, Standing, State, Verdict
from gateway.store import Terms, claiming, operations, stopping
from gateway.store.connecting import SqliteConnection
from gateway.store.engine import StoreInUse, StoreUnusable
from gateway.store.migrations import MIGRATIONS
from gateway.store.rows import encode, encode_asked, encode_standing, pack_recipients, to_micros
from gateway.store.sqlite import SqliteStore, open_sqlite
from gateway.store.tally import fresh, stand
from tests.builders import (
    ACCOUNT,
    BACKEND,
    FLOW,
    NOON,
    TENANT,
    accepted,
    again,
    asked,
    begin,
    claim_ids,
    create,
    create_or_find,
    put_off,
    refused,
    run_to,
    seen,
    settle,
    singly,
    unsure,
)
from tests.noted import raw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.store.transaction import Transaction
    from tests.builders import Clock


@pytest.fixture
async def sqlite(reopen: Callable[..., SqliteStore]) -> SqliteStore:
    """Opens the store."""
    return reopen()


def crash(tmp_path: Path, to: str = "crashed.db") -> str:
    """Copies the store as a crash would leave it: the file and its log, with everything that was committed."""
    for suffix in ("", "-wal"):
        shutil.copyfile(tmp_path / f"startflow.db{suffix}", tmp_path / f"{to}{suffix}")
    return to


def look_into(path: Path, statement: str) -> list[Any]:
    """Reads the file with a connection of our own."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        return conn.execute(statement).fetchall()


async def write(store: SqliteStore, statement: str) -> Any:
    """Runs a statement on the writer's connection."""
    return await store.engine.writer.submit(lambda t: t.conn.row(statement))


# --- the file and its owner


async def test_every_connection_is_durable_and_checked(sqlite: SqliteStore) -> None:
    """WAL, synchronous=FULL (2) and foreign keys, for the writer and for readers, which may not write."""
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "query_only")

    def read(conn: Any) -> list[Any]:
        return [conn.execute(f"pragma {pragma}").fetchone()[0] for pragma in pragmas]

    assert ["wal", 2, 1, 0] == await sqlite.engine.writer.submit(lambda t: read(t.conn))
    assert ["wal", 2, 1, 1] == await sqlite._read(read)


def modes_in(directory: Path) -> dict[str, int]:
    """Reads who may do what with each file."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


async def test_nobody_else_reads_the_files(clock: Clock, tmp_path: Path) -> None:
    """Params and addresses are personal data: 0600, log and lock included."""
    store = open_sqlite(tmp_path / "startflow.db", clock)
    await create(store)
    modes = modes_in(tmp_path)
    await store.close()

    assert {"startflow.db", "startflow.db-wal", "startflow.db-shm", "startflow.db.lock"} == set(modes)
    assert {0o600} == set(modes.values())


async def test_the_directory_is_made(tmp_path: Path, clock: Clock) -> None:
    """A first start needs no preparation."""
    store = open_sqlite(tmp_path / "a" / "b" / "startflow.db", clock)
    await create(store)
    await store.close()


async def test_a_second_owner_is_refused_and_told_what_to_do(sqlite: SqliteStore, tmp_path: Path, clock: Clock) -> None:
    """The sentence names the file, the process and the two ways out; the first owner goes on."""
    with pytest.raises(StoreInUse) as refusal:
        open_sqlite(tmp_path / "startflow.db", clock)

    expected = (
        f"The store {tmp_path / 'startflow.db'} is in use by process {os.getpid()}. One process owns a store:"
        " stop that one, or set `store` (STARTFLOW_STORE) to another file."
    )
    assert expected == str(refusal.value)
    assert 1 == (await create(sqlite)).revision


async def test_another_process_is_refused_too(sqlite: SqliteStore, tmp_path: Path) -> None:
    """The lock is the system's, not this process's own."""
    assert 1 == sqlite.engine.incarnation
    script = (
        "import asyncio, pathlib, sys\n"
        "from gateway.store.engine import StoreInUse\n"
        "from gateway.store.sqlite import open_sqlite\n"
        "async def main():\n"
        "    try: open_sqlite(pathlib.Path(sys.argv[1]), None)\n"
        "    except StoreInUse: print('in use')\n"
        "asyncio.run(main())\n"
    )
    run = [sys.executable, "-c", script, str(tmp_path / "startflow.db")]

    done = await asyncio.to_thread(subprocess.run, run, capture_output=True, text=True, check=True)

    assert "in use\n" == done.stdout


async def test_a6_a_file_that_is_served_by_another_path_is_refused(
    sqlite: SqliteStore, tmp_path: Path, clock: Clock
) -> None:
    """Its log and its lock go by the path, so nothing else shows that it is served; the first owner goes on."""
    before = await create(sqlite)
    served, other = tmp_path / "startflow.db", tmp_path / "elsewhere" / "startflow.db"
    other.parent.mkdir()
    served.rename(other)
    with pytest.raises(StoreInUse, match="serves from the same file by another path, such as a bind mount"):
        open_sqlite(other, clock)
    other.rename(served)

    assert before.revision + 1 == (await create(sqlite)).revision


def empty(log: Path) -> None:
    """What `> startflow.db-wal` does."""
    os.truncate(log, 0)


def halve(log: Path) -> None:
    """Leaves the beginning of a file."""
    os.truncate(log, log.stat().st_size // 2)


def hollow(log: Path) -> None:
    """Empties a file, into which somebody writes further back: what is before reads as zeros."""
    size = log.stat().st_size
    os.truncate(log, 0)
    os.truncate(log, size)


@pytest.mark.parametrize("spoil", [empty, halve, hollow])
@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a2_nothing_is_answered_from_files_that_were_cut_off(
    sqlite: SqliteStore, tmp_path: Path, spoil: Callable[[Path], None], suffix: str
) -> None:
    """SQLite writes on behind what is not there any more, and the next life reads nothing of it."""
    start = await create(sqlite)
    spoil(tmp_path / f"startflow.db{suffix}")

    with pytest.raises(Unavailable):
        await create(sqlite)
    with pytest.raises(Unavailable):
        await again(sqlite, start)
    await sqlite.look()

    assert "startflow.db is not the one that was opened" in sqlite.trouble


async def test_a2_a_log_that_a_tool_folds_and_empties_is_no_loss(sqlite: SqliteStore, tmp_path: Path) -> None:
    """All of it is in the file then."""
    start = await create(sqlite)
    with contextlib.closing(sqlite3.connect(tmp_path / "startflow.db")) as conn:
        assert (0, 0, 0) == conn.execute("pragma wal_checkpoint(truncate)").fetchone()

    assert start == await again(sqlite, start)
    assert start.revision + 1 == (await create(sqlite)).revision


async def test_a_closed_store_has_a_new_owner_and_the_same_epoch(
    sqlite: SqliteStore, reopen: Callable[..., SqliteStore], tmp_path: Path
) -> None:
    """Each life is an incarnation; the schema is built once."""
    start = await create(sqlite)
    epoch = sqlite.epoch
    await sqlite.close()

    second = reopen()

    assert (epoch, 2) == (second.epoch, second.engine.incarnation)
    assert start == await again(second, start)
    assert [(step.name,) for step in MIGRATIONS._migrations] == look_into(
        tmp_path / "startflow.db", "select name from _sqlite_migrations"
    )


async def test_a_closed_store_says_so(sqlite: SqliteStore) -> None:
    """Whoever comes too late is told; it does not wait for ever."""
    waiting = asyncio.ensure_future(create_or_find(sqlite))
    await asyncio.sleep(0)
    await sqlite.close()

    assert not (await waiting).replayed, "what waited is committed"
    for late in (create(sqlite), sqlite.claim(BACKEND, 1), sqlite.get(TENANT, "x"), sqlite.head()):
        with pytest.raises(Unavailable) as refusal:
            await asyncio.wait_for(late, 5)
        assert Reason.DRAINING is refusal.value.reason


# --- crashes


async def test_what_was_recorded_survives_a_crash(
    sqlite: SqliteStore, reopen: Callable[..., SqliteStore], tmp_path: Path
) -> None:
    """Starts, request ids, revisions and blocks not written out yet; revisions go on, none is given twice."""
    start = await create(sqlite, singly(250), request_id="same")
    await run_to(sqlite, start, accepted("x1", State.STARTED))

    second = reopen(crash(tmp_path))

    assert (await again(sqlite, start)) == await again(second, start)
    assert (await create_or_find(second, request_id="same")).replayed
    assert 249 == len(await claim_ids(second, 1_000))
    assert await sqlite.head() + 1 == (await create(second)).revision


async def test_claims_of_a_life_that_ended_may_be_taken_again(
    sqlite: SqliteStore, reopen: Callable[..., SqliteStore], tmp_path: Path
) -> None:
    """What was claimed and not sent is due as before."""
    await create(sqlite, singly(2))
    claimed = await claim_ids(sqlite)

    second = reopen(crash(tmp_path))

    assert claimed == await claim_ids(second)


async def test_what_was_being_sent_is_uncertain_after_a_crash(
    sqlite: SqliteStore, reopen: Callable[..., SqliteStore], tmp_path: Path
) -> None:
    """An open attempt may have happened: it is told, with the reason, and never sent again by itself."""
    start = await create(sqlite)
    (dispatch_id,) = await claim_ids(sqlite)
    await begin(sqlite, dispatch_id)

    second = reopen(crash(tmp_path))
    now = await again(second, start)

    assert (State.UNCERTAIN, Reason.OUTCOME_UNKNOWN) == (
        now.standing.state,
        now.standing.failure and now.standing.failure.reason,
    )
    assert Progress(uncertain=1) == now.standing.progress
    assert not now.standing.is_done
    assert [dispatch_id] == [sought.id for sought in await second.sought(BACKEND, ACCOUNT)]
    assert [] == await claim_ids(second)
    assert start.revision + 1 == now.revision == await second.head()
    assert [State.PENDING, State.UNCERTAIN] == [
        change.flow_start.standing.state for change in (await second.changes(0, 10)).changes
    ]


async def test_an_answer_that_comes_after_recovery_is_taken_for_what_a_list_would_have_shown(
    sqlite: SqliteStore, reopen: Callable[..., SqliteStore], tmp_path: Path
) -> None:
    """Recovery has closed the attempt. That it was accepted is a fact; that it was not is found out anyway."""
    start = await create(sqlite)
    (dispatch_id,) = await claim_ids(sqlite)
    attempt = await begin(sqlite, dispatch_id) or 0
    second = reopen(crash(tmp_path))
    recovered = await again(second, start)

    for settlement in (put_off(NOON), refused()):
        await second.record(dispatch_id, attempt, settlement)
    before = await again(second, start)
    await second.record(dispatch_id, attempt, accepted("x1"))
    after = await again(second, start)

    assert recovered == before
    assert (State.QUEUED, "x1") == (after.standing.state, after.standing.external_id)
    assert [] == await claim_ids(second)


async def test_what_was_settled_before_a_crash_stays_settled(
    sqlite: SqliteStore, reopen: Callable[..., SqliteStore], tmp_path: Path
) -> None:
    """Recovery touches open attempts only, however often the process comes and goes."""
    start = await create(sqlite, singly(3))
    await run_to(sqlite, start, accepted("x1"), refused())
    before = await again(sqlite, start)
    (third,) = [i for i in await claim_ids(reopen(crash(tmp_path, "second.db"))) if i.endswith("-3")]

    names = ["third.db", "fourth.db"]
    stores = [reopen(crash(tmp_path, name)) for name in names]

    for store in stores:
        assert before.standing == (await again(store, start)).standing
        assert [third] == await claim_ids(store)


async def test_progress_held_back_at_a_crash_is_told_by_the_next_life(
    sqlite: SqliteStore, reopen: Callable[..., SqliteStore], tmp_path: Path, clock: Clock
) -> None:
    """At once if its pause is over."""
    start = await create(sqlite, singly(2))
    await run_to(sqlite, start, accepted("x1", State.STARTED), accepted("x2", State.STARTED))
    clock.tick(2)

    now = await again(reopen(crash(tmp_path)), start)

    assert Progress(started=2) == now.standing.progress


async def test_progress_held_back_at_a_crash_is_told_even_after_a_quick_restart(
    sqlite: SqliteStore, reopen: Callable[..., SqliteStore], tmp_path: Path, clock: Clock
) -> None:
    """The pause goes on over the restart and ends by itself, though nothing more happens to the start."""
    start = await create(sqlite, singly(2))
    await run_to(sqlite, start, accepted("x1", State.STARTED), accepted("x2", State.STARTED))
    clock.tick(0.99)  # of the second's pause a hundredth is left
    second = reopen(crash(tmp_path))
    told = asyncio.Event()
    second.listen(lambda _revision: told.set())
    clock.tick(1)

    await asyncio.wait_for(told.wait(), 5)

    assert Progress(started=2) == (await again(second, start)).standing.progress


# --- a store of the first schema


def write_old_start(
    conn: sqlite3.Connection, revision: int, state: State = State.PENDING, recipient_count: int = 1, **different: Any
) -> str:
    """Writes a start as it was written before anything was looked for: only PENDING ones have more than a dispatch."""
    wanted = asked(recipient_count=recipient_count, **different)
    plan = singly(recipient_count)
    due_at, start_id = wanted.schedule_at or NOON, wanted.id
    tally = fresh(recipient_count, recipient_count, ())
    if state is not State.PENDING:
        tally = tally.moved(State.PENDING, state, 1, None)
    external_id = f"{state.name.lower()}-{start_id}" if state in (State.QUEUED, State.STARTED, State.COMPLETED) else ""
    standing = stand(
        tally,
        Standing(updated_at=NOON),
        external_id=external_id,
        next_attempt_at=wanted.schedule_at,
        now=NOON,
    )
    conn.execute(
        "insert into starts (id, tenant, backend, flow, request_id, fingerprint, created_at, expire_at, state,"
        " revision, asked, params, standing, tally) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(start_id, wanted.tenant, wanted.backend, wanted.flow, wanted.request_id or None, "1:f"),
            *(to_micros(wanted.created_at), to_micros(wanted.expire_at), standing.state, revision),
            *(encode_asked(wanted), encode(wanted.params), encode_standing(standing), tally.encode()),
        ),
    )
    conn.execute(
        "insert into changes (revision, start_id, state_before, standing) values (?, ?, null, ?)",
        (revision, start_id, encode_standing(standing)),
    )
    for number, recipients in enumerate(plan[:100], 1):
        conn.execute(
            "insert into dispatches (id, start_id, number, backend, flow, state, recipient_count, recipients, due_at,"
            " expire_at, attempts, external_id, account, accepted_at)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(f"{start_id}-{number}", start_id, number, wanted.backend, wanted.flow, state, 1),
                *(encode(pack_recipients(recipients)), to_micros(due_at), to_micros(wanted.expire_at)),
                *(int(state is not State.PENDING), external_id or None),
                *((ACCOUNT, to_micros(NOON)) if external_id else (None, None)),
            ),
        )
    for block, first in enumerate(range(100, recipient_count, 100), 1):
        body = encode([pack_recipients(recipients) for recipients in plan[first : first + 100]])
        conn.execute("insert into recipients values (?, ?, ?, ?)", (start_id, block, first + 1, body))
    if state is not State.PENDING:
        conn.execute(
            "insert into attempts values (?, 1, ?, 1, ?, ?, 'ANY', '')",
            (f"{start_id}-1", start_id, to_micros(NOON), to_micros(NOON)),
        )
    return start_id


@pytest.fixture
def old(tmp_path: Path) -> dict[str, str]:
    """Makes a store of the first schema, as a process that was killed while sending left it; returns ids by name."""
    conn = sqlite3.connect(tmp_path / "startflow.db")
    MIGRATIONS.apply(Database(conn), stop_before="m002_finding")
    conn.execute("insert into meta values ('epoch', 'old'), ('incarnation', '1'), ('purged_through', '0')")
    in_three_days = NOON + timedelta(days=3)
    ids = {
        "plain": write_old_start(conn, 1),
        "expiring": write_old_start(conn, 2, expire_at=NOON + timedelta(seconds=60)),
        "wide": write_old_start(conn, 3, recipient_count=250),
        "scheduled": write_old_start(conn, 4, recipient_count=150, schedule_at=in_three_days),
        "queued": write_old_start(conn, 5, State.QUEUED),
        "started": write_old_start(conn, 6, State.STARTED),
        "completed": write_old_start(conn, 7, State.COMPLETED),
        "uncertain": write_old_start(conn, 8, State.UNCERTAIN),
        "sending": write_old_start(conn, 9),
        "other": write_old_start(conn, 10, backend="twilio", tenant="b"),
    }
    sending = f"{ids['sending']}-1"
    conn.execute("update dispatches set claimed_by = 1, attempts = 1 where id = ?", (sending,))
    conn.execute(
        "insert into attempts (dispatch_id, number, start_id, incarnation, begun_at) values (?, 1, ?, 1, ?)",
        (sending, ids["sending"], to_micros(NOON)),
    )
    conn.commit()
    conn.close()
    return ids


async def states_by_name(store: SqliteStore, ids: dict[str, str]) -> dict[str, State]:
    """Reads where each start stands."""
    found = {}
    for name, start_id in ids.items():
        start = await store.get("b" if name == "other" else TENANT, start_id)
        assert start is not None
        found[name] = start.standing.state
    return found


async def test_an_old_store_opens_and_everything_stands_where_it_stood(
    old: dict[str, str], reopen: Callable[..., SqliteStore], tmp_path: Path
) -> None:
    """What was being sent may have been carried out; whose account that was nobody knows, so it rests."""
    store = reopen()
    sending = await store.get(TENANT, old["sending"])
    backlogs = look_into(
        tmp_path / "startflow.db",
        "select tenant, backend, scheduled, unsent from backlogs where unsent > 0 order by tenant",
    )

    assert ("old", 2, 11) == (store.epoch, store.engine.incarnation, await store.head())
    assert {
        **dict.fromkeys(("plain", "expiring", "wide", "scheduled", "other"), State.PENDING),
        **dict.fromkeys(("uncertain", "sending"), State.UNCERTAIN),
        **{state.name.lower(): state for state in (State.QUEUED, State.STARTED, State.COMPLETED)},
    } == await states_by_name(store, old)
    assert sending is not None
    assert sending.standing.is_done
    assert [("b", "twilio", 0, 1), (TENANT, BACKEND, 0, 402)] == backlogs
    assert () == await store.sought(BACKEND, ACCOUNT)


async def test_what_an_old_store_has_unsent_is_sent_expires_and_is_given_up(
    old: dict[str, str], reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """A day after the last acceptance, where nothing else was said; what is scheduled is sent then, blocks included."""
    store = reopen()
    clock.tick(60)
    claims = await store.claim(BACKEND, 1_000)
    for n, dispatch in enumerate(claims.dispatches):
        wide = dispatch.id.startswith(old["wide"])
        await settle(store, dispatch.id, accepted(f"x{n}") if wide else put_off(clock() + timedelta(days=9)))
    told = (await store.claim(BACKEND, 10)).next_due_at
    clock.now = NOON + timedelta(days=1, seconds=60)  # a day after others were accepted
    await store.claim(BACKEND, 10)
    a_day_later = await states_by_name(store, old)
    clock.now = NOON + timedelta(days=3)
    scheduled = await claim_ids(store, 1_000)
    clock.now = NOON + timedelta(days=4)
    for dispatch_id in scheduled:
        await store.release(dispatch_id, clock())
    await store.claim(BACKEND, 10)
    given_up = await store.get(TENANT, old["scheduled"])

    assert 251 == len(claims.dispatches)
    assert NOON + timedelta(days=1) == told
    assert (State.FAILED, State.FAILED, State.QUEUED, State.PENDING) == tuple(
        a_day_later[name] for name in ("plain", "expiring", "wide", "scheduled")
    )
    assert 150 == len(scheduled)
    assert given_up is not None
    assert (State.FAILED, Progress(failed=150)) == (given_up.standing.state, given_up.standing.progress)
    assert frozenset({BACKEND, "twilio"}) == await store.backends()


async def test_what_runs_in_an_old_store_is_followed_and_may_stand_still(
    old: dict[str, str], reopen: Callable[..., SqliteStore], clock: Clock
) -> None:
    """By what was recorded of it then; what is of another account now is not."""
    store = reopen()
    clock.tick(100)
    held = await store.hold(BACKEND, Identity(account=ACCOUNT))
    windows = await store.windows(BACKEND, ACCOUNT)
    stalled = await store.mark_stalled(BACKEND, clock())
    moved = await store.sight(
        BACKEND, [seen(f"{name}-{old[name]}", State.COMPLETED) for name in ("queued", "started")], account=ACCOUNT
    )
    states = await states_by_name(store, old)

    assert 0 == held
    assert [(FLOW, NOON, NOON)] == [(window.flow, window.oldest, window.newest) for window in windows]
    assert (2, 2) == (stalled, moved)
    assert (State.COMPLETED, State.COMPLETED) == (states["queued"], states["started"])


@pytest.mark.parametrize("name", ["uncertain", "sending"])
async def test_what_an_old_store_does_not_know_is_settled_by_a_list_or_a_word(
    old: dict[str, str], reopen: Callable[..., SqliteStore], tmp_path: Path, name: str
) -> None:
    """It is never sent again by itself."""
    store = reopen()
    start_id = old[name]
    claimed = await claim_ids(store, 1_000)
    await store.resolve(TENANT, start_id, Resolution(verdict=Verdict.WAS_NOT_SENT))
    on_a_word = await claim_ids(store, 1_000)
    other = reopen(crash(tmp_path))
    await other.cancel(TENANT, start_id, can_end=False)
    shown = seen("x1", State.STARTED, correlation_key=f"{start_id}-1", flow=FLOW)

    assert f"{start_id}-1" not in claimed
    assert [f"{start_id}-1"] == on_a_word
    assert 1 == await store.sight(BACKEND, [shown], account=ACCOUNT)
    assert State.STARTED is (await states_by_name(store, old))[name]
    assert State.INTERRUPTED is (await states_by_name(other, old))[name]


# --- the writer


def hold(store: SqliteStore) -> tuple[asyncio.Event, Callable[[], None]]:
    """Keeps the writer busy until released, so that what comes meanwhile waits together."""
    gate = threading.Event()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(_transaction: Transaction) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert gate.wait(10)

    store.engine.writer.submit(wait)
    return begun, gate.set


def count_commits(store: SqliteStore) -> list[str]:
    """Lists the writer's transactions from here on."""
    commits: list[str] = []

    def trace(statement: str) -> None:
        if statement == "commit":
            commits.append(statement)

    store.engine.writer.submit(lambda t: raw(t.conn).set_trace_callback(trace))
    return commits


async def test_what_waits_together_is_committed_together(sqlite: SqliteStore) -> None:
    """Two hundred creates that come while the writer is busy are one transaction."""
    commits = count_commits(sqlite)
    begun, release = hold(sqlite)
    await begun.wait()
    creates = asyncio.gather(*(create(sqlite) for _ in range(200)))
    await asyncio.sleep(0)
    release()

    starts = await creates

    assert len(commits) <= 3
    assert list(range(1, 201)) == [start.revision for start in starts]


async def test_one_that_fails_does_not_undo_its_neighbours(sqlite: SqliteStore) -> None:
    """In one transaction: a row that breaks a rule, a bug after a write, and two good ones between them."""

    def broken(transaction: Transaction) -> None:
        transaction.record_anew(first.asked.id)
        transaction.conn.run("insert into meta values ('broken', 'yes')")
        raise LookupError

    first = await create(sqlite)
    commits = count_commits(sqlite)
    begun, release = hold(sqlite)
    await begun.wait()
    together = asyncio.gather(
        create(sqlite),
        create(sqlite, id=first.asked.id),  # the id is taken
        sqlite.engine.writer.submit(broken),
        create(sqlite),
        return_exceptions=True,
    )
    await asyncio.sleep(0)
    release()
    one, taken, bug, two = await together

    assert len(commits) <= 3
    assert (sqlite3.IntegrityError, LookupError) == (type(taken), type(bug))
    assert [2, 3] == [one.revision, two.revision]  # type: ignore[union-attr]
    assert 3 == await sqlite.head()
    assert await write(sqlite, "select 1 from meta where key = 'broken'") is None


async def test_starts_that_wait_together_are_recorded_together(sqlite: SqliteStore) -> None:
    """In the order in which they came, however many; if there is something about one of them, each for itself."""
    begun, release = hold(sqlite)
    await begun.wait()
    many = asyncio.gather(*(create(sqlite, singly(2), request_id=f"r{n}") for n in range(100)))
    await asyncio.sleep(0)
    release()
    first = await many

    begun, release = hold(sqlite)
    await begun.wait()
    terms = Terms(account=ACCOUNT, backlog=203)
    mixed = asyncio.gather(
        create(sqlite, request_id="r7"),  # recorded before
        *(create(sqlite, request_id=f"s{n}", terms=terms) for n in range(5)),  # two more than fit
        create(sqlite, request_id="s0"),  # a twin
        return_exceptions=True,
    )
    await asyncio.sleep(0)
    release()
    replay, *new, full, fuller, twin = await mixed

    assert list(range(1, 101)) == [start.revision for start in first]
    assert first[7].asked.id == replay.asked.id  # type: ignore[union-attr]
    assert [101, 102, 103] == [start.revision for start in new]  # type: ignore[union-attr]
    assert [Exhausted, Exhausted] == [type(full), type(fuller)]
    assert new[0].asked.id == twin.asked.id  # type: ignore[union-attr]
    assert 103 == await sqlite.head()


async def test_a_bug_while_changes_are_written_does_not_end_the_writer(sqlite: SqliteStore) -> None:
    """All that waited with it is told, nothing of it is recorded, and the next is served."""

    def broken(transaction: Transaction) -> None:
        transaction.move(start.asked.id, lambda tally: tally)
        transaction._touched[start.asked.id] = None  # type: ignore[assignment]

    start = await create(sqlite)

    with pytest.raises(AttributeError):
        await asyncio.wait_for(sqlite.engine.writer.submit(broken), 5)

    assert 2 == (await asyncio.wait_for(create(sqlite), 5)).revision


async def test_a_full_disk_is_unavailable_and_leaves_nothing_half_recorded(sqlite: SqliteStore) -> None:
    """The whole batch is told to come again; when there is room it is recorded as if nothing had been."""
    await create(sqlite)
    heard: list[int] = []
    sqlite.listen(heard.append)
    (pages,) = await write(sqlite, "pragma page_count")
    await write(sqlite, f"pragma max_page_count = {pages + 4}")
    wide = [Recipients(urns=tuple(f"tel:+1206{n:07}" for n in range(100)))] * 30

    results = await asyncio.gather(
        *(create_or_find(sqlite, wide, request_id=f"r{n}") for n in range(5)), return_exceptions=True
    )

    assert {Unavailable} == {type(result) for result in results}
    assert {"SQLITE_FULL"} == {result.metadata["sqlite_error"] for result in results}  # type: ignore[union-attr]
    assert "tel:" not in str(results[0])
    assert (1, []) == (await sqlite.head(), heard)
    assert await sqlite.find_request(TENANT, "r0") is None

    await write(sqlite, "pragma max_page_count = 1000000")
    starts = await asyncio.gather(*(create_or_find(sqlite, wide, request_id=f"r{n}") for n in range(5)))

    assert [2, 3, 4, 5, 6] == [recorded.flow_start.revision for recorded in starts]
    assert not any(recorded.replayed for recorded in starts)
    assert [] == await sqlite._read(lambda conn: conn.rows("pragma foreign_key_check"))


async def test_progress_waits_while_the_disk_is_full_and_is_told_when_it_is_not(
    sqlite: SqliteStore, clock: Clock
) -> None:
    """The writer neither spins meanwhile nor forgets."""
    start = await create(sqlite, singly(2))
    await run_to(sqlite, start, accepted("x1", State.STARTED), accepted("x2", State.STARTED))
    tries: list[str] = []

    def trace(statement: str) -> None:
        if statement == "begin immediate":
            tries.append(statement)

    await write(sqlite, "create temp trigger full before insert on changes begin select raise(abort, 'full'); end")
    await sqlite.engine.writer.submit(lambda t: raw(t.conn).set_trace_callback(trace))
    clock.tick(2)
    with pytest.raises(Unavailable):
        await create_or_find(sqlite, singly(1), request_id=None)
    for _ in range(20):
        await again(sqlite, start)
    tried = len(tries)
    await write(sqlite, "drop trigger full")
    clock.tick(2)
    await sqlite.sight(BACKEND, [], account=ACCOUNT)

    assert tried <= 3
    assert Progress(started=2) == (await again(sqlite, start)).standing.progress


async def test_what_the_disk_did_not_confirm_is_not_said_to_be_nothing(
    sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log may hold it, for whoever opens the store next: until that is written over, nothing else is written."""
    failing = ["commit"]

    def execute(conn: SqliteConnection, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql in failing:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error
        return sqlite3.Connection.execute(conn, sql, *values)

    monkeypatch.setattr(SqliteConnection, "execute", execute)
    with pytest.raises(Unavailable, match="not known yet whether this was recorded"):
        await create(sqlite)
    with pytest.raises(Unavailable, match="nothing was recorded"):
        await create(sqlite)
    failing.clear()
    last = await create(sqlite)

    page = await sqlite.list(TENANT, Filter(), before=None, limit=10)

    assert [last.asked.id] == [start.asked.id for start in page.flow_starts]


async def test_an_operation_that_takes_the_whole_transaction_back_leaves_nothing_of_the_others(
    sqlite: SqliteStore,
) -> None:
    """As SQLite does where its memory is full, and Python says nothing of SQLite then."""
    await write(
        sqlite,
        "create temp trigger full before insert on starts when new.flow = 'full' begin select raise(rollback, ''); end",
    )
    flows = ("a", "full", "b")
    came = await asyncio.gather(*(create(sqlite, flow=flow) for flow in flows), return_exceptions=True)
    again = [await create(sqlite, flow=flow) for flow in ("a", "b")]

    def fails(_: Transaction) -> None:
        raise MemoryError

    with pytest.raises(Unavailable, match="SQLITE_NOMEM"):
        await sqlite.engine.writer.submit(fails)

    page = await sqlite.list(TENANT, Filter(), before=None, limit=10)
    assert [Unavailable] * 3 == [type(each) for each in came]
    assert [start.asked.id for start in reversed(again)] == [start.asked.id for start in page.flow_starts]
    await sqlite.check()


async def test_a_read_that_fails_is_unavailable(sqlite: SqliteStore) -> None:
    """Its sentence names SQLite's error and nothing that was asked."""
    await create(sqlite)
    await write(sqlite, "alter table starts rename to gone")

    with pytest.raises(Unavailable) as refusal:
        await sqlite.get(TENANT, "secret")

    assert "secret" not in str(refusal.value)
    assert Reason.STORE_UNAVAILABLE is refusal.value.reason


async def test_a_caller_that_has_gone_does_not_hold_up_others(sqlite: SqliteStore) -> None:
    """What it asked for is done all the same."""
    begun, release = hold(sqlite)
    await begun.wait()
    gone = asyncio.ensure_future(create_or_find(sqlite, request_id="gone"))
    stays = asyncio.ensure_future(create(sqlite))
    await asyncio.sleep(0)
    gone.cancel()
    release()

    assert 2 == (await stays).revision
    assert await sqlite.find_request(TENANT, "gone") is not None


# --- indexes


async def on_every_reader(store: SqliteStore, do: Callable[[sqlite3.Connection], None]) -> None:
    """Does something with the connection of each reader: each waits for the others, so that none comes twice."""
    threads = sum(readers.threads for readers in store.engine.rooms.values())
    together = threading.Barrier(threads)

    def read(conn: Any) -> None:
        together.wait(10)
        do(conn)

    await asyncio.gather(
        *(readers.read(f"asker {n}", read) for readers in store.engine.rooms.values() for n in range(readers.threads))
    )


async def test_named_starts_are_found_by_their_names_not_among_all_of_the_tenant(sqlite: SqliteStore) -> None:
    """A watcher of a hundred ids, or of an external id, does not go through a million revisions."""
    said: set[str] = set()
    await on_every_reader(sqlite, lambda conn: conn.set_trace_callback(said.add))
    for ids in (2, 100, 1_000):
        await sqlite.snapshot(TENANT, Filter(), frozenset(f"start{n}" for n in range(ids)), after=5, limit=10)
    await sqlite.snapshot(TENANT, Filter(external_id="x1"), frozenset(), after=5, limit=10)
    await sqlite.list(TENANT, Filter(external_id="x1"), before=None, limit=10)

    plans = [
        [row[3] for row in await sqlite._read(lambda conn, s=s: conn.rows(f"explain query plan {s}"))]  # type: ignore[misc]
        for s in said
        if "from starts s" in s
    ]

    assert 5 == len(plans)
    assert {"SEARCH s USING INDEX sqlite_autoindex_starts_1 (id=?)"} == {plan[0] for plan in plans}


async def steps(store: SqliteStore, operation: Callable[[Transaction], Any]) -> int:
    """Counts, in tens, the instructions SQLite's machine takes for an operation."""
    taken = [0]

    def tick() -> int:
        taken[0] += 1
        return 0

    def counted(transaction: Transaction) -> None:
        raw(transaction.conn).set_progress_handler(tick, 10)
        operation(transaction)
        raw(transaction.conn).set_progress_handler(None, 10)

    await store.engine.writer.submit(counted)
    return taken[0]


async def test_a_claim_costs_the_same_however_much_waits(sqlite: SqliteStore) -> None:
    """Counted in steps of SQLite's machine: with 3,000 dispatches due, 3,000 scheduled and 3,000 in blocks."""

    async def fill(count: int) -> None:
        far, expiry = NOON.replace(day=2), NOON.replace(day=3)
        await asyncio.gather(*(create(sqlite, expire_at=expiry) for _ in range(count)))
        await asyncio.gather(*(create(sqlite, schedule_at=far, expire_at=expiry) for _ in range(count)))
        await create(sqlite, singly(count), schedule_at=far, expire_at=expiry)

    await fill(30)
    few = await steps(sqlite, claiming.Claim(BACKEND, 5))
    await fill(3_000)
    many = await steps(sqlite, claiming.Claim(BACKEND, 5))

    assert many <= few * 1.5


@pytest.mark.parametrize("kind", ["hard", "symbolic"])
async def test_a_store_with_another_name_is_refused(tmp_path: Path, clock: Clock, kind: str) -> None:
    """Two gateways would each have a lock of their own; what to do is said."""
    path, other = tmp_path / "a" / "startflow.db", tmp_path / "b" / "startflow.db"
    other.parent.mkdir()
    await open_sqlite(path, clock).close()
    if kind == "hard":
        other.hardlink_to(path)
    else:
        other.symlink_to(path)

    with pytest.raises(StoreUnusable, match="more than one name" if kind == "hard" else f"the file itself, {path}"):
        open_sqlite(other, clock)
    other.unlink()
    await open_sqlite(path, clock).close()


async def test_d15_no_connection_stays_open_where_the_store_cannot_be_used(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the first word to the file fails, nor where a later one does."""
    made: list[sqlite3.Connection] = []

    def connect(*given: Any, **different: Any) -> sqlite3.Connection:
        made.append(really(*given, **different))
        return made[-1]

    really = sqlite3.connect
    (tmp_path / "garbage.db").write_text("this is no database, and much longer than a header of one would be" * 10)
    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(StoreUnusable):
        open_sqlite(tmp_path / "garbage.db", clock)
    monkeypatch.setattr("gateway.store.sqlite.Files", _refuse)
    with pytest.raises(StoreUnusable):
        open_sqlite(tmp_path / "startflow.db", clock)

    assert 4 == len(made)
    for conn in made:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            conn.execute("select 1")


def _refuse(*_: object) -> None:
    raise OSError("refused")


async def test_b_large_starts_are_cancelled_in_turns_with_rests_between(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are cancelled at once; a small one waits for none of them."""
    large = [await create(store, singly(120)) for _ in range(4)]
    small = await create(store)
    running, most, done = 0, 0, []
    submit = store.engine.writer.submit

    async def count(operation: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await submit(operation)
        finally:
            running -= 1

    async def rest() -> None:
        if not done:  # all have begun by now
            monkeypatch.setattr(store.engine.writer, "submit", count)
            await store.cancel("default", small.asked.id, can_end=False)
        done.append(await store.count_pending(BACKEND))

    for module in (claiming, stopping):
        monkeypatch.setattr(module, "AT_ONCE", 10)
    monkeypatch.setattr(operations, "rest", rest)
    stopped = await asyncio.gather(*(store.cancel("default", start.asked.id, can_end=False) for start in large))

    assert [120] * 4 == [start.standing.progress.interrupted for start in stopped if start]
    assert 1 == most
    assert 10 >= max(before - after for before, after in pairwise(done))
    assert State.INTERRUPTED is (await again(store, small)).standing.state


async def test_t4_where_nothing_runs_only_what_is_unsent_is_gone_through(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its backend could end what runs; and where something runs, it is found and ended."""
    scheduled = await create(store, singly(100), schedule_at=NOON + timedelta(hours=1))
    sent = await create(store, singly(2, 1_001))
    for dispatch_id in await claim_ids(store):
        await settle(store, dispatch_id, accepted(f"x{dispatch_id}"))
    rests = []

    async def rest() -> None:
        rests.append(None)

    for module in (claiming, stopping):
        monkeypatch.setattr(module, "AT_ONCE", 10)
    monkeypatch.setattr(operations, "rest", rest)
    for start in (scheduled, sent):
        await store.cancel("default", start.asked.id, can_end=True)

    assert 10 >= len(rests)
    assert 2 == len(await store.endings(BACKEND, ACCOUNT, 10))


async def test_t3_large_starts_are_resolved_in_turns_with_rests_between(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are resolved at once, nobody waits for more than one step."""
    large = [await create(store, singly(30, first)) for first in (1, 101, 201)]
    for dispatch_id in await claim_ids(store):
        await settle(store, dispatch_id, unsure())
    left: list[int] = []

    async def rest() -> None:
        left.extend(await store._read(lambda conn: conn.one("select count(*) from dispatches where state = UNCERTAIN")))

    for module in (claiming, stopping):
        monkeypatch.setattr(module, "AT_ONCE", 10)
    monkeypatch.setattr(operations, "rest", rest)
    word = Resolution(verdict=Verdict.GIVE_UP)
    resolved = await asyncio.gather(*(store.resolve("default", start.asked.id, word) for start in large))

    assert [30] * 3 == [start.standing.progress.failed for start in resolved if start]
    assert 6 == len(left)
    assert 10 == left[-1], "those that wait take turns"


async def test_newcomer_12_a_full_disk_is_named(tmp_path: Path, clock: Clock) -> None:
    """With SQLite's name of it, the path, and what to do; once there is room again nothing is wrong any more."""
    path = tmp_path / "startflow.db"
    store = open_sqlite(path, clock)
    pages = store.engine._conn.execute("pragma page_count").fetchone()[0]
    store.engine._conn.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(Unavailable, match="SQLITE_FULL"):
        while True:
            await create(store)
    full = store.trouble
    store.engine._conn.execute("pragma max_page_count = 1000000")
    await store.check()
    assert "" == store.trouble
    await store.close()

    assert f"the store {path} does not work (SQLITE_FULL). The disk is full: make room there" == full
