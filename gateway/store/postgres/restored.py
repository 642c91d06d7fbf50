"""Tells a database that its tables were put back from a copy, which it cannot see: `pg_restore` over what was there.

A database that was made anew, a server of another base backup and a promoted standby are known by themselves
(`timelines.py`). What is in the tables is not looked at, so nobody needs to say of when the copy is: everything that it
does not have came after all that it has.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import psycopg

from gateway.store import restoring
from gateway.store.counting import count
from gateway.store.engine import StoreInUse, StoreUnusable
from gateway.store.moved import refuse_moved
from gateway.store.postgres.engine import reach
from gateway.store.postgres.migrations import living, lock, refuse_others
from gateway.store.postgres.refusals import named, why_not_made
from gateway.store.rows import from_micros

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from gateway.store.counting import Counts
    from gateway.store.postgres.connecting import PostgresConnection


def look(url: str) -> tuple[Counts, datetime | None]:
    """Counts what is in a store that no gateway serves from, and returns when something last happened in it.

    Raises `StoreUnusable` if there is no store of this version, `StoreInUse` if a gateway serves from it.
    """
    with _within(url) as conn:
        return count(conn), from_micros(restoring.newest(conn) or None)


def mark(url: str) -> None:
    """Has the next gateway begin a new epoch and doubt what is unsent; raises what `look` does."""
    with _within(url) as conn:
        restoring.mark_found(conn)


@contextmanager
def _within(url: str) -> Iterator[PostgresConnection]:
    conn = reach(url)
    with closing(conn.raw):
        try:
            refuse_others(conn, url)
            conn.say("set statement_timeout = 0")
            begin_alone(conn, url)
            refuse_moved(conn, named(url))
            yield conn
            conn.say("commit")
        except psycopg.Error as error:
            raise StoreUnusable(why_not_made(url, error)) from error


def begin_alone(conn: PostgresConnection, url: str) -> None:
    """Begins a transaction in which no gateway begins, and which ends the lives of those that only stood still.

    Raises `StoreInUse` if one lives.
    """
    conn.say("begin")
    lock(conn)
    _refuse_in_use(conn, url)
    conn.run("delete from lives")


def _refuse_in_use(conn: PostgresConnection, url: str) -> None:
    if others := living(conn):
        seconds = max(seconds for _, seconds in others)
        msg = (
            f"{len(others)} of the gateways that served from {named(url)} live, or were killed so lately that others"
            f" wait for them: stop them, and try again, in {seconds} seconds at the latest if none of them runs."
            " Nothing was changed."
        )
        raise StoreInUse(msg)
