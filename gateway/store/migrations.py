"""The schema of the SQLite store, as the ordered steps that build it.

A released step never changes; a new one is added behind it. Times are integers: microseconds since 1970, UTC.
Columns that are looked up or counted are columns; what is only carried is JSON text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlite_utils.migrations import Migrations

if TYPE_CHECKING:
    from sqlite_utils import Database

MIGRATIONS = Migrations("startflow")

# `state = 1` is PENDING; 2 and 3 are QUEUED and STARTED. A partial index is used only where a query repeats its words.
_TABLES = """
create table meta (
    key text primary key,
    value text not null
) strict;

-- What was asked once (asked), where it stands (standing, as of revision), and what that follows from (tally).
-- behind = 1 while the tally has moved and the standing has not been written yet.
create table starts (
    id text primary key,
    tenant text not null,
    backend text not null,
    flow text not null,
    request_id text,
    fingerprint text not null,
    created_at integer not null,
    expire_at integer,
    state integer not null,
    revision integer not null,
    behind integer not null default 0,
    asked text not null,
    params text not null,
    standing text not null,
    tally text not null
) strict;
create unique index starts_request on starts (tenant, request_id) where request_id is not null;
create unique index starts_revision on starts (tenant, revision);
create index starts_behind on starts (id) where behind = 1;

-- Recipients whose dispatches have not been written out yet, about a hundred to a block. While a start has blocks, one
-- of its dispatches waits unclaimed; when the last of these is claimed or ends, the next block is written out.
create table recipients (
    start_id text not null references starts (id),
    block integer not null,
    first_number integer not null,
    body text not null,
    primary key (start_id, block)
) strict, without rowid;

create table dispatches (
    id text primary key,
    start_id text not null references starts (id),
    number integer not null,
    backend text not null,
    flow text not null,
    state integer not null,
    recipient_count integer not null,
    recipients text not null,
    due_at integer not null,
    expire_at integer,
    claimed_by integer,
    attempts integer not null default 0,
    external_id text,
    account text,
    accepted_at integer,
    contact_count integer,
    contact_started_count integer,
    failure text
) strict;
create index dispatches_due on dispatches (backend, due_at, start_id, number) where state = 1 and claimed_by is null;
create index dispatches_expiring on dispatches (backend, expire_at)
    where state = 1 and claimed_by is null and expire_at is not null;
create index dispatches_waiting on dispatches (start_id, due_at) where state = 1 and claimed_by is null;
create index dispatches_claimed on dispatches (claimed_by) where claimed_by is not null;
create index dispatches_running on dispatches (backend, flow, accepted_at) where state in (2, 3);
create index dispatches_external on dispatches (external_id, backend) where external_id is not null;

-- One row before every POST; outcome is null while it is open.
create table attempts (
    dispatch_id text not null references dispatches (id),
    number integer not null,
    start_id text not null,
    incarnation integer not null,
    begun_at integer not null,
    ended_at integer,
    outcome text,
    detail text,
    primary key (dispatch_id, number)
) strict, without rowid;
create index attempts_start on attempts (start_id, begun_at, dispatch_id, number);
create index attempts_open on attempts (incarnation) where outcome is null;

-- One row for every recorded move of a start. AUTOINCREMENT: a revision is never given twice, even after a purge.
create table changes (
    revision integer primary key autoincrement,
    start_id text not null references starts (id),
    state_before integer,
    standing text not null
) strict;
create index changes_start on changes (start_id, revision);
"""


@MIGRATIONS()
def m001_first_schema(db: Database) -> None:
    """Builds the first schema."""
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            db.execute(statement)
