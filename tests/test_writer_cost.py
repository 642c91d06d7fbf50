"""What one operation may cost in the one writer: however much others have queued, it is bounded.

Stores are filled with hostile crowds, few and many, by SQL; then everything that is submitted to the writer is done to
them. The steps of SQLite's machine in one transaction are counted, on the writer's thread alone. They may not grow with
the crowd. No time is measured.
"""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import threading
from collections import Counter
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from gateway.errors import GatewayError
from gateway.model import Identity, Recipients, Resolution, State, Verdict
from gateway.store import LANE, Life, accounts, claiming, connecting, expiring, purging, stopping, turns
from gateway.store.creating import alike, contact_key
from gateway.store.operations import Operations
from gateway.store.sqlite import SqliteStore, open_sqlite
from tests.builders import ACCOUNT, FLOW, NOON, TENANT, Clock, accepted, create, put_off, seen, singly, unsure
from tests.driven import ALONE, STUDIO
from tests.lengths import some

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FEW, MANY = 600, 1_800  # of each crowd: more than all steps together take
STEP, TENANTS = 20, 8  # rows and tenants in one step: fewer than usual, so that small crowds are many
AT_ONCE = 10  # steps that are counted: one by one they would take long
SLACK, DEEPER = 1.25, 400  # by how much steps may differ: what is looked for lies deeper in a larger store
MOST = 50_000  # steps, for so many dispatches that end
MICROS = int(NOON.timestamp()) * 1_000_000
HOUR = 3_600_000_000
CRUEL = "tel:+12069999999"  # whom all of a crowd are for
KEY = contact_key(FLOW, "") + alike(CRUEL)
LINE = {"recipient": f"'{KEY}'", "recipients": f"""'[["{CRUEL}"],[],[]]'"""}
LATE = {"expire_at": str(MICROS - 1)}
OWN = {"tenant": "'tenant' || (100000 - i)"}  # in another order than their dispatches are


class Counting(connecting.SqliteConnection):
    """A connection that counts the steps and statements of each of its transactions on the writer's thread."""

    most: ClassVar[Counter[str]] = Counter()
    most_statements: ClassVar[Counter[str]] = Counter()
    name = ""
    steps = statements = 0

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        """Begins to count with each transaction."""
        if sql == "begin immediate":
            self.steps = self.statements = 0
            self.set_progress_handler(self._step, AT_ONCE)
        if threading.current_thread().name == "store-writer":
            self.statements += 1
            self.most_statements[self.name] = max(self.most_statements[self.name], self.statements)
        return super().execute(sql, values)

    def _step(self) -> int:
        if threading.current_thread().name == "store-writer":
            self.steps += AT_ONCE
            self.most[self.name] = max(self.most[self.name], self.steps)
        return 0


def spread(conn: sqlite3.Connection, table: str, count: int, **different: str) -> None:
    """Repeats the row of a table whose id is that of the pattern, with other values by the number `i`."""
    names = [name for _, name, *_ in conn.execute(f"pragma table_info({table})")]
    values = ", ".join(different.get(name, f"t.{name}") for name in names)
    conn.execute(
        f"with recursive numbers(i) as (select 1 union all select i + 1 from numbers where i < ?)"  # noqa: S608 -- ours
        f" insert into {table} ({', '.join(names)}) select {values} from {table} t, numbers where t.rowid = 1",
        (count,),
    )


def starts(conn: sqlite3.Connection, count: int, prefix: str, of_start: dict[str, str], **of_dispatch: str) -> None:
    """Records starts of one dispatch each."""
    (head,) = conn.execute("select max(revision) from changes").fetchone()
    name, revision = f"'{prefix}' || i", f"{head} + i"
    tenant = {key: value for key, value in of_start.items() if key == "tenant"}
    of = {"id": name, "revision": revision, "recorded": revision, "request_id": "null", **of_start}
    spread(conn, "starts", count, **of)
    spread(conn, "changes", count, revision=revision, start_id=name)
    conn.execute("update commits set head = (select max(revision) from changes)")
    spread(conn, "dispatches", count, **{"id": f"{name} || '-1'", "start_id": name, **tenant, **of_dispatch})


def parts(conn: sqlite3.Connection, count: int, **different: str) -> None:
    """Makes the pattern a start of so many dispatches."""
    number = "(select max(number) from dispatches where start_id = t.start_id) + i"
    spread(conn, "dispatches", count, **{"id": f"t.start_id || '-' || ({number})", "number": number, **different})
    (parts,) = conn.execute("select count(*) from dispatches where start_id = (select id from starts)").fetchone()
    states = dict(conn.execute("select state, count(*) from dispatches group by 1").fetchall())
    counts = ",".join(f'"{state}":{n}' for state, n in states.items())
    conn.execute("update starts set tally = json_set(tally, '$.d', json(?), '$.x', ?)", (f"{{{counts}}}", parts))


def line(conn: sqlite3.Connection, count: int) -> None:
    """For one number: half of them due, half in an hour; one of them is being sent."""
    starts(conn, count // 2, "due", {}, **LINE)
    starts(conn, count // 2, "hour", {}, **LINE, due_at=f"{MICROS + HOUR} + i")


def tenants(conn: sqlite3.Connection, count: int) -> None:
    """Each has one start, half of them in an hour, and many have had their turn and have nothing."""
    starts(conn, count // 2, "due", OWN, recipient="null")
    starts(conn, count // 2, "hour", {"tenant": "'hour' || i"}, recipient="null", due_at=f"{MICROS + HOUR} + i")
    numbers = "with recursive numbers(i) as (select 1 union all select i + 1 from numbers where i < ?)"
    conn.execute(f"{numbers} insert into backlogs select 'gone' || i, '{STUDIO}', 0, 0 from numbers", (count,))  # noqa: S608
    conn.execute(f"{numbers} insert into turns select '{STUDIO}', 'gone' || i, i, 0, null from numbers", (count,))  # noqa: S608


def stale(conn: sqlite3.Connection, count: int) -> None:
    """Each tenant had something that was due, and all of it has been cancelled since."""
    tenants(conn, count)
    conn.execute("update turns set ready = 1")
    conn.execute("update dispatches set state = 6 where start_id glob 'due*' or start_id glob 'hour*'")


def expired(conn: sqlite3.Connection, count: int) -> None:
    """All of them at the same moment, which has passed."""
    starts(conn, count, "late", {**OWN, **LATE}, recipient="null", **LATE)


def late_line(conn: sqlite3.Connection, count: int) -> None:
    """All for one number, and all too late."""
    starts(conn, count, "late", LATE, **LINE, **LATE)


def given_up(conn: sqlite3.Connection, count: int) -> None:
    """All of them would be, had their account not accepted something else meanwhile."""
    starts(conn, 1, "took", {}, recipient="null", state="2", accepted_at=str(MICROS), external_id="'took'")
    starts(conn, 3 * count, "late", OWN, recipient="null", **LATE)  # more than all claims together put off


def cancelled(conn: sqlite3.Connection, count: int) -> None:
    """Of each something is still to be ended."""
    stopping = {"cancel_at": str(MICROS), "cancelling": "1", "ends": "1", "marked": "0"}
    starts(conn, count, "stop", stopping, recipient="null")


def held(conn: sqlite3.Connection, count: int) -> None:
    """For another account than the backend is now; half wait, half were held by an earlier life."""
    starts(conn, count // 2, "wait", {}, recipient="null", account="'former'")
    starts(conn, count // 2, "held", {}, recipient="null", account="'former'", claimed_by="0")


def watched(conn: sqlite3.Connection, count: int) -> None:
    """Sent again not long ago, and still looked for; or long ago, and looked for until then."""
    for name, until in (("soon", str(MICROS + HOUR)), ("seen", "2")):
        starts(conn, count // 2, name, {}, state="2", sought_from="1", sought_until=until, moved_at="1",
               accepted_at="1", external_id=f"'{name}' || i", attempts="2")  # fmt: skip


def damaged(conn: sqlite3.Connection, count: int) -> None:
    """None of them can be read."""
    starts(conn, count, "odd", OWN, recipient="null", recipients="'?'")


def large(conn: sqlite3.Connection, count: int) -> None:
    """One start: a part of it waits, another one runs, and stands still, others are uncertain and at rest, or held."""
    share = count // 5
    parts(conn, share, recipient="null", due_at=f"{MICROS + HOUR}")
    parts(conn, share, recipient="null", state="3", external_id="'run' || i", accepted_at="1", moved_at="1")
    parts(conn, share, recipient="null", state="3", external_id="'old' || i", accepted_at="1", stalled="1")
    parts(conn, share, recipient="null", state="7", attempts="1")
    parts(conn, share, recipient="null", claimed_by="0", account="'former'")


def resting(conn: sqlite3.Connection, count: int) -> None:
    """One start: but for one that waits, all are uncertain for good."""
    parts(conn, count, recipient="null", state="7", attempts="1")


def blocks(conn: sqlite3.Connection, count: int) -> None:
    """One start has them, of one recipient each."""
    conn.execute(
        "with recursive numbers(i) as (select 1 union all select i + 1 from numbers where i < ?)"
        """ insert into recipients select (select id from starts), i, i + 1, '[[["tel:+1206' || i || '"],[],[]]]'"""
        " from numbers",
        (count,),
    )
    conn.execute("update starts set tally = json_set(tally, '$.d.\"1\"', ?)", (count + 1,))


QUICK = (line, tenants, cancelled, large)  # `make check-all` tries all
CROWDS = (line, tenants, stale, expired, late_line, given_up, cancelled, held, watched, damaged, large, resting, blocks)


async def fill(path: Path, crowd: Callable[[sqlite3.Connection, int], None], count: int) -> str:
    """Makes a store with a crowd in it; returns the id of the start that was there before."""
    store = open_sqlite(path, Clock())
    first = await create(store, singly(1), terms=ALONE, backend=STUDIO)
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("begin")
        crowd(conn, count)
        conn.execute("commit")
    return first.asked.id


async def measure(path: Path, start_id: str) -> Counter[str]:
    """Does everything to it that is submitted to a writer; returns the most steps that each took in one transaction."""
    Counting.most = most = Counter()
    clock = Clock()

    def count(name: str) -> None:
        Counting.name = name

    store = open_sqlite(path, clock)
    for name, operation in operations(store, clock, start_id):
        count(name)
        with suppress(GatewayError):
            await operation()
    await store.close()
    return most


def operations(store: SqliteStore, clock: Clock, start_id: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Lists what is done: each name is that of an operation of the store, and more."""
    cruel = Recipients(urns=(CRUEL,))
    ours: list[str] = []

    async def claim() -> None:
        ours.extend(dispatch.id for dispatch in (await store.claim(STUDIO, 10)).dispatches)

    async def with_one(answer: Any) -> None:
        await create(store, singly(1, 7_000 + len(ours)), terms=ALONE, backend=STUDIO, tenant="quiet")
        await claim()
        while ours:
            number = await store.begin_attempt(ours[-1], account=ACCOUNT, since=clock())
            await store.record(ours.pop(), number or 1, answer)

    async def conclude(name: str, **different: Any) -> None:
        for sought in (await store.sought(STUDIO, ACCOUNT))[:1]:
            await getattr(store, name)(sought, **different)

    yield "take", partial(store.take, LANE, STUDIO, runs_on=timedelta())
    yield "renew", partial(store.renew, Life(at="", backends=frozenset({STUDIO})))
    yield "give_up", partial(store.give_up, LANE, ["elsewhere"])
    for turn in range(3):
        yield f"claim none {turn}", partial(store.claim, STUDIO, 0)
        yield f"claim {turn}", claim
    yield "create", partial(create, store, singly(1, 5_000), terms=ALONE, backend=STUDIO, tenant="quiet")
    yield "create in line", partial(create, store, [cruel], terms=ALONE, backend=STUDIO, tenant="quiet")
    yield "create many", partial(create, store, singly(200, 6_000), terms=ALONE, backend=STUDIO, tenant="quiet")
    yield "begin_attempt, record accepted", partial(with_one, accepted("x1"))
    yield "record put off", partial(with_one, put_off(clock() + timedelta(seconds=5)))
    yield "record unsure", partial(with_one, unsure())
    yield "absent", partial(conclude, "absent", on_absent=State.PENDING, pause=timedelta())
    yield "record unsure again", partial(with_one, unsure())
    yield "rest", partial(conclude, "rest")
    yield "release", lambda: store.release(ours[-1] if ours else "nobody-1", clock())
    yield "sight", partial(store.sight, STUDIO, [seen("x1", State.COMPLETED), seen("seen1", State.COMPLETED)],
                           account=ACCOUNT)  # fmt: skip
    yield "replaceable", partial(store.replaceable, f"{start_id}-1", "seen2")
    yield "replaceable, by one in doubt", partial(store.replaceable, f"{start_id}-1", "nobody's")
    yield "spare", partial(store.spare, "seen2-1")
    yield "ending", partial(store.ending, "seen2-1")
    yield "mark_stalled: watching alone", partial(store.mark_stalled, STUDIO, datetime.fromtimestamp(0, UTC))
    yield "mark_stalled", partial(store.mark_stalled, STUDIO, clock())
    yield "hold", partial(store.hold, STUDIO, Identity(account=ACCOUNT))
    yield "hold of another", partial(store.hold, STUDIO, Identity(account="latest"))
    for verdict in (Verdict.WAS_NOT_SENT, Verdict.GIVE_UP):
        yield f"resolve {verdict.name}", partial(store.resolve, None, start_id, Resolution(verdict=verdict))
    yield "cancel", partial(store.cancel, TENANT, start_id, can_end=True)
    yield "expire_held", store.expire_held
    yield "tell_behind", store.tell_behind
    yield "check", store.check
    for turn in range(3):
        yield f"purge {turn}", partial(store.purge, clock() + timedelta(days=1))
    yield "claim at last", claim


def grown(few: Counter[str], many: Counter[str]) -> list[tuple[str, int, int]]:
    """Lists the operations that take more where more others are."""
    return [(name, few[name], many[name]) for name in many if many[name] > SLACK * few[name] + DEEPER]


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has connections count, and steps be small."""
    for module in (accounts, claiming, stopping):
        monkeypatch.setattr(module, "AT_ONCE", STEP)
    monkeypatch.setattr(turns, "AT_ONCE", TENANTS)
    monkeypatch.setattr(purging, "ROWS", STEP)
    monkeypatch.setattr(expiring, "ROWS", STEP)
    monkeypatch.setattr(claiming, "ENDED", STEP)
    monkeypatch.setattr(claiming, "IN_FRONT", STEP)
    monkeypatch.setattr(connecting, "SqliteConnection", Counting)


def test_all_that_is_submitted_to_the_writer_is_measured(tmp_path: Path) -> None:
    """A new operation has its place in `operations`."""

    async def named() -> str:
        store = open_sqlite(tmp_path / "startflow.db", Clock())
        names = " ".join(name for name, _ in operations(store, Clock(), "none"))
        await store.close()
        return names

    names = asyncio.run(named())
    submitted = {
        name
        for name, method in vars(Operations).items()
        if inspect.iscoroutinefunction(method) and "self._write(" in inspect.getsource(method)
    }

    assert set() == {name for name in submitted if name not in names}


@pytest.mark.parametrize("crowd", some(CROWDS, *QUICK))
async def test_b2_no_operation_costs_more_because_of_a_crowd(
    tmp_path: Path, crowd: Callable[[sqlite3.Connection, int], None]
) -> None:
    """Nor more than is bearable, whatever there is."""
    taken = []
    for count in (FEW, MANY):
        path = tmp_path / f"{count}.db"
        taken.append(await measure(path, await fill(path, crowd, count)))

    assert [] == grown(*taken)
    assert [] == [(name, steps) for name, steps in taken[1].items() if steps > MOST]


@pytest.mark.parametrize("crowd", [large, resting])
async def test_t3_what_is_resolved_or_cancelled_together_takes_few_statements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crowd: Callable[[sqlite3.Connection, int], None]
) -> None:
    """Many more dispatches in one step: for each of them alone nothing is run."""
    monkeypatch.setattr(Counting, "most_statements", Counter())
    for module in (claiming, stopping):
        monkeypatch.setattr(module, "AT_ONCE", STEP * 10)
    path = tmp_path / "startflow.db"
    await measure(path, await fill(path, crowd, FEW))

    taken = Counting.most_statements
    assert [] == [
        (name, taken[name]) for name in taken if name.startswith(("resolve", "cancel")) and taken[name] > STEP * 5
    ]


OLD = (  # what once held back the second of two for one recipient: it walks all who wait for him
    " and (d.recipient is null or not exists (select 1 from dispatches o where o.recipient = d.recipient"
    " and o.recipient is not null and o.state in (1, 7) and o.backend = d.backend and o.id <> d.id"
    " and (o.claimed_by is not null or (o.state = 7 and o.sought_from is not null))))"
)
WITHOUT_LINES = """
drop trigger lines_joined;
drop trigger lines_moved;
create index dispatches_recipient on dispatches (recipient) where recipient is not null and state in (1, 7);
update dispatches set in_line = 0;
"""


@pytest.mark.parametrize(
    ("crowd", "planted", "found"),
    [
        (line, WITHOUT_LINES, "claim 1"),
        (tenants, "drop index turns_due;", "claim none 0"),
        pytest.param(line, "drop index dispatches_line;", "create in line", marks=pytest.mark.longer),
        (watched, "drop index dispatches_watched;", "mark_stalled: watching alone"),
        (expired, "drop index dispatches_expiring;", "claim none 0"),
    ],
    ids=["the old claim", "turns_due", "dispatches_line", "dispatches_watched", "dispatches_expiring"],
)
async def test_a_planted_scan_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    crowd: Callable[[sqlite3.Connection, int], None],
    planted: str,
    found: str,
) -> None:
    """The measure has teeth: what walks through a crowd takes more where the crowd is larger."""
    if planted == WITHOUT_LINES:
        monkeypatch.setattr(claiming, "_CLAIMABLE", claiming._CLAIMABLE + OLD)
    taken = []
    for count in (STEP * 4, STEP * 32):
        path = tmp_path / f"{count}.db"
        first = await fill(path, crowd, count)
        with closing(sqlite3.connect(path)) as conn:
            conn.executescript(planted)
        taken.append(await measure(path, first))

    assert found in [name for name, _, _ in grown(*taken)]
