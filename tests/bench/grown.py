"""Stores as they are after many starts: `python -m tests.bench.grown FILE COUNT`.

A few starts are recorded by the store's own operations. Their rows are then repeated, in every table, with ids,
request ids, external ids, revisions and times of their own, in the order in which real starts would have come, into
the same indexes. Half of all starts are one tenant's and the newest all are; the others are dealt out to twenty more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from gateway.model import CompletionMeaning, State
from gateway.service.ids import new_id
from gateway.store import Terms
from gateway.store.rows import from_micros, to_micros
from gateway.store.sqlite import open_sqlite
from tests.bench.serving import backend_name
from tests.bench.stub_backend import FLOW
from tests.builders import TENANT, Clock, accepted, claim_ids, create, refused, seen, singly

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from gateway.model import FlowStart
    from gateway.store.sqlite import SqliteStore

RECIPIENTS = (1, 1, 1, 1, 1, 1, 1, 1, 3, 1)  # of the starts that are recorded, and then repeated
GROUP = len(RECIPIENTS)
LASTS = timedelta(minutes=1)  # from one group to the next: a million starts are ten weeks
NEWEST = 40  # groups whose starts are all of one tenant, so that it sees the newest 1,000 changes
OTHERS = 20  # tenants
LABELS = {"campaign": "spring", "channel": "whatsapp"}
RARE = {"campaign": "autumn"}  # of the first group only: the oldest
STUDIO = "twilio"
STUDIO_FLOW = f"FW{'a' * 32}"
PART = 1_000  # groups in one transaction
MEMORY = 1_000_000  # KiB of the file kept at hand while it is filled


@dataclass(frozen=True, slots=True)
class Lane:
    """The backend on RapidPro that starts are on, and its account, which is that of the one on Twilio as well."""

    backend: str
    account: str


STUB = Lane(backend_name(0), "fa6f2c37-c69e-4d8d-a596-000000000000")  # as `watchers/backend` calls its first workspace

Recording: TypeAlias = "Callable[[SqliteStore, Clock], Awaitable[None]]"
"""Records a group of starts, the first at what the clock says."""


async def finished(store: SqliteStore, clock: Clock, lane: Lane = STUB) -> None:
    """Records starts that are over: most completed, one refused, two of them on Twilio, one for three recipients."""
    starts = [await _ask(store, clock, lane, number, recipients) for number, recipients in enumerate(RECIPIENTS)]
    bad = f"{starts[0].asked.id}-1"
    running: dict[str, list[str]] = {lane.backend: [], STUDIO: []}
    for backend, external_ids in running.items():
        for dispatch_id in await claim_ids(store, sum(RECIPIENTS), backend):
            attempt = await store.begin_attempt(dispatch_id, account=lane.account, since=clock())
            assert attempt is not None
            clock.tick(0.2)
            if dispatch_id == bad:
                await store.record(dispatch_id, attempt, refused())
                continue
            external_ids.append(_external_id(lane, backend))
            state = State.QUEUED if backend == lane.backend else State.STARTED
            await store.record(dispatch_id, attempt, accepted(external_ids[-1], state, accepted_at=clock()))
    for state in (State.STARTED, State.COMPLETED):
        clock.tick(5)
        for backend, external_ids in running.items():
            count = 1 if backend == lane.backend else None
            shown = [seen(each, state, contact_count=count, contact_started_count=count) for each in external_ids]
            await store.sight(backend, shown, account=lane.account)


async def pending(store: SqliteStore, clock: Clock, lane: Lane = STUB) -> None:
    """Records starts of one backend that wait to be sent."""
    for _ in range(GROUP):
        await _ask(store, clock, lane, 0, 1)


async def _ask(store: SqliteStore, clock: Clock, lane: Lane, number: int, recipients: int) -> FlowStart:
    """Records one start of a group; the last two are on Twilio."""
    on_studio = number >= GROUP - 2
    clock.tick(0.001)
    return await create(
        store,
        singly(recipients, GROUP * number),
        id=new_id(clock()),
        backend=STUDIO if on_studio else lane.backend,
        flow=STUDIO_FLOW if on_studio else FLOW,
        request_id=os.urandom(16).hex(),
        fingerprint=f"1;flow={'0' * 32};urns={'1' * 32};params={'2' * 32};labels={'3' * 32}",
        params={"first_name": "Ryan", "appointment": "2026-03-14T09:30:00Z", "attempt": 2},
        labels={**LABELS, **RARE},
        created_at=clock(),
        completion_meaning=CompletionMeaning.EXECUTIONS_ENDED if on_studio else CompletionMeaning.RECIPIENTS_ENTERED,
        terms=Terms(account=lane.account, one_at_a_time=on_studio),
    )


def _external_id(lane: Lane, backend: str) -> str:
    drawn = UUID(bytes=os.urandom(16), version=4)
    return str(drawn) if backend == lane.backend else f"FN{drawn.hex}"


async def grow(path: Path, count: int, record: Recording = finished, lasts: timedelta = LASTS) -> None:
    """Makes a store of so many starts, the last of which were recorded just now; `lasts` is from group to group."""
    groups = max(1, count // GROUP)
    clock = Clock(datetime.now(UTC) - groups * lasts)
    store = open_sqlite(path, clock)
    await record(store, clock)
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("pragma journal_mode = off")
        conn.execute("pragma synchronous = off")
        conn.execute("pragma temp_store = memory")
        conn.execute(f"pragma cache_size = -{MEMORY}")
        _repeat(conn, groups, lasts)
        conn.execute("pragma journal_mode = wal")
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is measured next does not wait for this to be written


async def record_all(path: Path, count: int) -> None:
    """Makes such a store by the store's operations alone, one start after the other, which takes far longer."""
    clock = Clock(datetime.now(UTC) - count // GROUP * LASTS)
    store = open_sqlite(path, clock)
    for _ in range(count // GROUP):
        begun = clock.now
        await finished(store, clock)
        clock.now = begun + LASTS
    await store.close()


# What is told of one repetition of one start. `shift` is in microseconds, `step` in revisions.
_COPIES = """
create temp table copies (
    step integer not null,
    prototype text not null,
    id text not null,
    tenant text not null,
    request_id text not null,
    uuid text not null,
    execution text not null,
    shift integer not null,
    primary key (step, prototype)
) without rowid;
create temp table steps (step integer primary key);
"""
# What a group is made of, in the order it came, and what is to be found in its texts.
_PROTOTYPES = {
    "starts": "select s.*, s.id as of_start, {found} from main.starts s order by s.rowid",
    "recipients": "select r.*, r.start_id as of_start from main.recipients r",
    "dispatches": "select d.*, d.start_id as of_start from main.dispatches d order by d.rowid",
    "attempts": "select a.*, a.start_id as of_start from main.attempts a order by a.begun_at",
    "changes": "select s.*, s.start_id as of_start, {found} from main.changes s order by s.revision",
}
_FOUND = "json_extract(s.standing, '$.updated') as at, coalesce(json_extract(s.standing, '$.external'), '') as external"
_EXTERNAL = (
    "case when p.external like 'FN%' then g.execution || '01' else g.uuid end"  # of a start that is one dispatch
)
_STANDING = f"replace(replace(p.standing, p.at, p.at + g.shift), p.external, {_EXTERNAL})"
_DIFFERENT = {
    "starts": {
        "id": "g.id",
        "tenant": "g.tenant",
        "request_id": "g.request_id",
        "created_at": "p.created_at + g.shift",
        "expire_at": "p.expire_at + g.shift",
        "give_up_at": "p.give_up_at + g.shift",
        "revision": "p.revision + g.step",
        "recorded": "p.recorded + g.step",
        "asked": f"replace(p.asked, '{RARE['campaign']}', '{LABELS['campaign']}')",
        "standing": _STANDING,
    },
    "recipients": {"start_id": "g.id"},
    "dispatches": {
        "id": "g.id || '-' || p.number",
        "start_id": "g.id",
        "tenant": "g.tenant",
        "due_at": "p.due_at + g.shift",
        "expire_at": "p.expire_at + g.shift",
        "accepted_at": "p.accepted_at + g.shift",
        "moved_at": "p.moved_at + g.shift",
        "external_id": "case when p.external_id is null then null when p.external_id like 'FN%'"
        " then g.execution || printf('%02x', p.number) else g.uuid end",
    },
    "attempts": {
        "dispatch_id": "replace(p.dispatch_id, p.start_id, g.id)",
        "start_id": "g.id",
        "begun_at": "p.begun_at + g.shift",
        "ended_at": "p.ended_at + g.shift",
        "since": "p.since + g.shift",
    },
    "changes": {"revision": "p.revision + g.step", "start_id": "g.id", "standing": _STANDING},
}
_BACKLOGS = """
insert into backlogs (tenant, backend, scheduled, unsent)
    select g.tenant, p.backend, p.scheduled, sum(coalesce(json_extract(p.tally, '$.d."1"'), 0))
    from copies g join temp.starts_of_group p on p.of_start = g.prototype group by 1, 2, 3
    on conflict do update set unsent = unsent + excluded.unsent
"""
_HEAD = "update commits set head = (select max(revision) from changes)"


def _repeat(conn: sqlite3.Connection, groups: int, lasts: timedelta) -> None:
    """Writes the rows of every group but the first, which is there."""
    conn.executescript(_COPIES)
    for table, select in _PROTOTYPES.items():
        conn.execute(f"create temp table {table}_of_group as {select.format(found=_FOUND)}")
    statements = [_inserting(conn, table) for table in _PROTOTYPES]
    for first in range(1, groups, PART):
        conn.execute("begin immediate")
        conn.execute("delete from copies")
        conn.execute("delete from steps")
        numbers = range(first, min(first + PART, groups))
        conn.executemany("insert into copies values (?, ?, ?, ?, ?, ?, ?, ?)", _copies(conn, numbers, groups, lasts))
        conn.execute("insert into steps select distinct step from copies order by step")
        for statement in (*statements, _BACKLOGS, _HEAD):
            conn.execute(statement)
        conn.execute("commit")


def _inserting(conn: sqlite3.Connection, table: str) -> str:
    """Builds the statement that repeats a group's rows of a table, in the order of time."""
    columns = [name for _, name, *_ in conn.execute(f"pragma table_info({table})")]
    values = ", ".join(_DIFFERENT[table].get(name, f"p.{name}") for name in columns)
    return (
        f"insert into main.{table} ({', '.join(columns)}) select {values} from steps"  # noqa: S608 -- names of ours
        f" cross join temp.{table}_of_group p cross join copies g on g.step = steps.step and g.prototype = p.of_start"
    )


def _copies(
    conn: sqlite3.Connection, numbers: range, groups: int, lasts: timedelta
) -> Iterator[tuple[int, str, str, str, str, str, str, int]]:
    """Draws what is different of each repetition."""
    starts = conn.execute("select id, created_at from temp.starts_of_group").fetchall()
    (revisions,) = conn.execute("select max(revision) from temp.changes_of_group").fetchone()
    apart = (to_micros(datetime(1970, 1, 1, tzinfo=UTC) + lasts)) or 0
    for number in numbers:
        is_ours = number % 2 == 0 or number >= groups - NEWEST
        tenant = TENANT if is_ours else f"tenant-{number // 2 % OTHERS}"
        for prototype, created_at in starts:
            at = from_micros(created_at + number * apart)
            assert at is not None
            drawn, execution, request_id = os.urandom(16).hex(), os.urandom(15).hex(), os.urandom(16).hex()
            uuid = f"{drawn[:8]}-{drawn[8:12]}-4{drawn[13:16]}-8{drawn[17:20]}-{drawn[20:]}"
            yield (
                number * revisions, prototype, new_id(at), tenant, request_id, uuid, f"FN{execution}", number * apart
            )  # fmt: skip


def main() -> None:
    """Makes one, and tells how long that took."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.grown", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("count", type=int)
    given = parser.parse_args()
    began = time.monotonic()
    asyncio.run(grow(given.file, given.count))
    size = given.file.stat().st_size
    print(f"{given.count:,} starts, {size / given.count:,.0f} bytes each, in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
