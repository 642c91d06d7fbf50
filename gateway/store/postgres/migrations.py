"""The steps that build the schema in PostgreSQL, under a lock, so that gateways that start at once take turns.

A step and its row in `steps` are one transaction: there is no half-made schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.store.engine import StoreUnusable
from gateway.store.postgres.refusals import named
from gateway.store.postgres.schema import LEASES, RATES, TABLES, TRIGGERS, WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.store.postgres.connecting import PostgresConnection

LOCK = 0x5374_6172_7446_6C6F  # of PostgreSQL's advisory locks, for the schema and for taking over: "StartFlo"
STEPS: Mapping[str, str] = {
    "p001_first_schema": TABLES + WORDS + TRIGGERS,
    "p002_leases": LEASES,
    "p003_rates": RATES,
}
"""By name, in order."""


def migrate(conn: PostgresConnection, url: str) -> None:
    """Runs the steps that the database lacks, within a transaction; raises `StoreUnusable` if it has unknown ones."""
    lock(conn)
    conn.run("create table if not exists steps (name text primary key, done_at timestamptz not null default now())")
    refuse_newer(conn, url)
    for name in missing_steps(conn):
        conn.raw.execute(STEPS[name].encode())
        conn.run("insert into steps (name) values ($1)", name)


def lock(conn: PostgresConnection) -> None:
    """Waits until nobody else begins to use the store; until the end of the transaction nobody does."""
    conn.rows("select pg_advisory_xact_lock($1)", LOCK)


def missing_steps(conn: PostgresConnection) -> list[str]:
    """Lists the steps that a database lacks, in order: an older version has made it."""
    done = {name for (name,) in conn.rows("select name from steps")}
    return [name for name in STEPS if name not in done]


def refuse_newer(conn: PostgresConnection, url: str) -> None:
    """Raises `StoreUnusable` if a newer version has made the schema, or changed it."""
    names = [str(name) for (name,) in conn.rows("select name from steps order by name")]
    if newer := [name for name in names if name not in STEPS]:
        msg = (
            f"The store {named(url)} was made by a newer version of the gateway (it has {newer[-1]}), and this one does"
            " not know what it holds. Run that version or a later one, or set `store` (STARTFLOW_STORE) to another one."
        )
        raise StoreUnusable(msg)


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
