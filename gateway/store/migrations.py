"""The schema of the SQLite store, as the ordered steps that build it.

A released step never changes; a new one is added behind it. Times are integers: microseconds since 1970, UTC.
Columns that are looked up or counted are columns; what is only carried is JSON text. `schema.py` has their statements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from gateway.store.schema import (
    ALIGN_ALL,
    CAUSES,
    COMMITS,
    FINDING,
    HOLDING,
    LEASES,
    LINES,
    PURGING,
    RATES,
    SPANNING,
    TABLES,
    TRIGGERS,
)

if TYPE_CHECKING:
    from sqlite3 import Connection

MIGRATIONS = Migrations("startflow")


@MIGRATIONS()
def m001_first_schema(db: Database) -> None:
    """Builds the first schema."""
    _run(db, TABLES)


@MIGRATIONS()
def m002_finding(db: Database) -> None:
    """Adds what looking for dispatches, cancelling and limits need."""
    _run(db, FINDING)


@MIGRATIONS()
def m003_purging(db: Database) -> None:
    """Adds what erasing starts needs."""
    _run(db, PURGING)


@MIGRATIONS()
def m004_spanning(db: Database) -> None:
    """Adds what reading the starts of all tenants needs."""
    _run(db, SPANNING)


@MIGRATIONS()
def m005_holding(db: Database) -> None:
    """Adds what finding held dispatches of a start needs."""
    _run(db, HOLDING)


@MIGRATIONS()
def m006_causes(db: Database) -> None:
    """Adds causes of attempts, proofs of absence, and other names of accounts."""
    _run(db, CAUSES)


@MIGRATIONS()
def m007_lines(db: Database) -> None:
    """Adds what keeps those in line who wait for one recipient, and tenants in turn."""
    _run(db, LINES)
    _run(db, ALIGN_ALL)
    for trigger in TRIGGERS:
        db.execute(trigger)


@MIGRATIONS()
def m008_commits(db: Database) -> None:
    """Adds what says which revision is the newest, in which order starts were recorded, and which are erased."""
    _run(db, COMMITS)


@MIGRATIONS()
def m009_leases(db: Database) -> None:
    """Adds what says who works which lane."""
    _run(db, LEASES)


@MIGRATIONS()
def m010_rates(db: Database) -> None:
    """Adds what says how much of a backend's rate is spent."""
    _run(db, RATES)


def migrate(conn: Connection) -> None:
    """Runs the steps that a database lacks, each in a transaction."""
    MIGRATIONS.apply(Database(conn))


def newer_steps(conn: Connection) -> list[str]:
    """Lists the steps that a database has and this version does not know: a newer one has made it."""
    if not conn.execute("select 1 from sqlite_master where name = ?", (MIGRATIONS.migrations_table,)).fetchone():
        return []
    known = {step.name for step in MIGRATIONS._migrations}  # noqa: SLF001 -- applied ones aside, it tells of no others
    names = conn.execute(
        f"select name from {MIGRATIONS.migrations_table} where migration_set = ? order by name", (MIGRATIONS.name,)
    )
    return [name for (name,) in names if name not in known]


def missing_steps(conn: Connection) -> list[str]:
    """Lists the steps that a database lacks: an older version has made it."""
    applied = {name for (name,) in conn.execute(f"select name from {MIGRATIONS.migrations_table}")}
    return [step.name for step in MIGRATIONS._migrations if step.name not in applied]  # noqa: SLF001 -- as above


def _run(db: Database, statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            db.execute(statement)
