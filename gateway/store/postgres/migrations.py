"""The steps that build the schema in PostgreSQL, under a lock, so that gateways that start at once take turns.

Rules:

1. The steps that a database lacks, and their rows in `steps`, are one transaction: there is no half-made schema.
2. A step that only adds, such as a table, an index or a column with a default, is done beside gateways that do not know
   it. They go on, and start again, as if it was not there; so what it adds may not be needed for what they do.
3. Any other step is done once no gateway lives. A gateway that was suspended meanwhile records nothing afterwards.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from psycopg import errors

from gateway.store.engine import StoreInUse, StoreUnusable
from gateway.store.postgres.refusals import named
from gateway.store.postgres.schema import LEASES, RATES, TABLES, TRIGGERS, WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.store.postgres.connecting import PostgresConnection


class Step(NamedTuple):
    """Some statements, and whether they only add to what is there."""

    statements: str
    only_adds: bool = False


LOCK = 0x5374_6172_7446_6C6F  # of PostgreSQL's advisory locks, for the schema and for taking over: "StartFlo"
HELD_UP = "2s"  # at the most, by each table that is changed: gateways that live wait behind it
STEPS: Mapping[str, Step] = {
    "p001_first_schema": Step(TABLES + WORDS + TRIGGERS),
    "p002_leases": Step(LEASES),
    "p003_rates": Step(RATES, only_adds=True),
}
"""By name, in order."""


def migrate(conn: PostgresConnection, url: str) -> list[str]:
    """Runs the steps that the database lacks, within a transaction, and returns their names.

    Raises `StoreUnusable` if it has unknown ones that do not only add, or if what they change is held; `StoreInUse` if
    gateways live that do not know them, unless they only add.
    """
    lock(conn)
    conn.run("create table if not exists steps (name text primary key, done_at timestamptz not null default now())")
    refuse_newer(conn, url)
    missing = missing_steps(conn)
    if not missing:
        return []
    refuse_beside_older(conn, url)
    conn.say(f"set local lock_timeout = '{HELD_UP}'" if living(conn) else "set local statement_timeout = 0")
    try:
        for name in missing:
            conn.raw.execute(STEPS[name].statements.encode())
    except errors.LockNotAvailable as error:
        msg = (
            f"The tables of the store {named(url)} cannot be changed ({missing[0]}) while something else reads them,"
            " such as pg_dump or a long transaction. Start this version again when that is over, or end it. Nothing was"
            " changed."
        )
        raise StoreUnusable(msg) from error
    for name in missing:
        conn.run(f"insert into steps (name, only_adds) values ($1, {STEPS[name].only_adds})", name)
    if not all(STEPS[name].only_adds for name in missing):
        conn.run("delete from lives")  # whose commits fail from here on
    return missing


def lock(conn: PostgresConnection) -> None:
    """Waits until nobody else begins to use the store; until the end of the transaction nobody does."""
    conn.rows("select pg_advisory_xact_lock($1)", LOCK)


def missing_steps(conn: PostgresConnection) -> list[str]:
    """Lists the steps that a database lacks, in order: an older version has made it."""
    done = {name for (name,) in conn.rows("select name from steps")}
    return [name for name in STEPS if name not in done]


def refuse_newer(conn: PostgresConnection, url: str) -> None:
    """Raises `StoreUnusable` if a newer version has made the schema, or has changed it and not only added to it."""
    adds = "coalesce((to_jsonb(steps) ->> 'only_adds')::boolean, false)"  # the third step has made that column
    names = [str(name) for (name,) in conn.rows(f"select name from steps where not {adds} order by name")]
    if newer := [name for name in names if name not in STEPS]:
        msg = (
            f"The store {named(url)} was made by a newer version of the gateway (it has {newer[-1]}), and this one does"
            " not know what it holds. Run that version or a later one, or set `store` (STARTFLOW_STORE) to another one."
        )
        raise StoreUnusable(msg)


def refuse_beside_older(conn: PostgresConnection, url: str) -> None:
    """Raises `StoreInUse` if gateways live beside which the steps that a database lacks may not be done."""
    changing = [name for name in missing_steps(conn) if not STEPS[name].only_adds]
    others = living(conn) if changing else []
    if others:
        places = ", ".join(sorted(at or "an address that it has not told yet" for at, _ in others))
        msg = (
            f"This version changes the store {named(url)} in a way that older gateways do not know ({changing[0]}), and"
            f" {len(others)} of those may still run: on {places}. Stop them, then start this version. What was killed"
            f" counts for up to {max(seconds for _, seconds in others)} seconds more. Nothing was changed."
        )
        raise StoreInUse(msg)


def refuse_others(conn: PostgresConnection, url: str) -> None:
    """Raises `StoreUnusable` if there is no store, or if another version of the gateway has made it."""
    if not conn.one("select to_regclass('steps') is not null")[0]:
        msg = f"There is no store in {named(url)}: the first start of a gateway makes its tables."
        raise StoreUnusable(msg)
    refuse_newer(conn, url)
    if missing := missing_steps(conn):
        msg = (
            f"The store {named(url)} was made by an older version of the gateway (it lacks {missing[0]}). Start this"
            " version on it once, or use the version that made it."
        )
        raise StoreUnusable(msg)


def living(conn: PostgresConnection) -> list[tuple[str, int]]:
    """Reads where the gateways that live listen, and for how many seconds each counts if it lives no more."""
    if not conn.one("select to_regclass('leases') is not null")[0]:
        return []
    rows = conn.rows(
        "select says, ceil((until - now_of_store()) / 1000000.0)::bigint from leases"
        " where kind = 'life' and until > now_of_store()"
    )
    return [(json.loads(says).get("at", ""), seconds) for says, seconds in rows]
