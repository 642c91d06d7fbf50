"""Tries a PostgreSQL store without writing to it: what keeps a gateway from it, and what it had better be like."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg

from gateway.store.engine import StoreUnusable
from gateway.store.moved import refuse_moved
from gateway.store.postgres.connecting import PostgresConnection
from gateway.store.postgres.engine import reach
from gateway.store.postgres.migrations import refuse_beside_older, refuse_newer
from gateway.store.postgres.refusals import named, not_granted, why_not_made

if TYPE_CHECKING:
    from datetime import datetime

APART = 5.0  # seconds between two clocks that are worth a warning


def tried(url: str, now: datetime) -> tuple[str, list[str]]:
    """Returns what the store is, and what to mend of it; raises `StoreUnusable` if no gateway could serve from it."""
    with closing(reach(url).raw) as raw:
        try:
            return _look(PostgresConnection(raw), url, now)
        except psycopg.Error as error:
            raise StoreUnusable(why_not_made(url, error)) from error


def _look(conn: PostgresConnection, url: str, now: datetime) -> tuple[str, list[str]]:
    is_there = conn.one("select to_regclass('steps') is not null")[0]
    if is_there:
        refuse_newer(conn, url)
        refuse_moved(conn, named(url))
        refuse_beside_older(conn, url)
    elif not conn.one("select has_schema_privilege(current_schema(), 'create')")[0]:
        raise StoreUnusable(not_granted(url))
    commit, fsync, version, clock = conn.one(
        "select current_setting('synchronous_commit'), current_setting('fsync'), current_setting('server_version'),"
        " extract(epoch from clock_timestamp())::float8"
    )
    warnings = []
    if commit == "off":
        warnings.append(
            "synchronous_commit is off: what was answered may be lost. Set it to on for the role or the database"
        )
    if fsync == "off":
        warnings.append("fsync is off: a crash of its host may lose everything. Set it to on")
    if abs(clock - now.timestamp()) > APART:
        warnings.append(
            f"its clock is {clock - now.timestamp():+.0f} seconds from this machine's: have both follow a time server"
        )
    return f"{named(url)}, PostgreSQL {version}{'' if is_there else ', whose tables the first start makes'}", warnings
