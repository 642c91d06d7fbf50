"""Brings a database to the schema of this version, without serving from it. `migrations.py` says what must wait."""

from __future__ import annotations

from contextlib import closing

import psycopg

from gateway.store.engine import StoreUnusable
from gateway.store.postgres.engine import reach
from gateway.store.postgres.migrations import migrate
from gateway.store.postgres.refusals import why_not_made


def upgrade(url: str) -> list[str]:
    """Runs the steps that a store lacks, all of them where there is none, and returns their names.

    Raises `StoreUnusable` if the database cannot be used, is of a newer version, or may not be changed yet.
    """
    conn = reach(url)
    with closing(conn.raw):
        try:
            with conn.raw:
                conn.raw.execute("begin")
                return migrate(conn, url)
        except psycopg.Error as error:
            raise StoreUnusable(why_not_made(url, error)) from error
