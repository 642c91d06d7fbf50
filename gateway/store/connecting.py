"""Connections to the store's file: what each of them is like."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.store.rows import text_of

if TYPE_CHECKING:
    from pathlib import Path


class Connection(sqlite3.Connection):
    """A connection of the standard library, that Python 3.12.0 to 3.12.3 can give the values of `?1` as well.

    These take it for a name and warn of values in a row (python/cpython#117995); Ubuntu 24.04 has such a Python.
    """

    if (3, 12) <= sys.version_info[:3] < (3, 12, 4):

        def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:  # noqa: ANN401 -- as sqlite3 has it
            """Executes a statement."""
            if "?1" in sql and not isinstance(values, Mapping):
                values = {str(number): value for number, value in enumerate(values, 1)}
            return super().execute(sql, values)


def connect(path: Path) -> sqlite3.Connection:
    """Opens the file to write; makes one that only its owner can read if there is none."""
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # personal data: nobody else reads it
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0, factory=Connection)
    return _set_up(
        conn,
        "journal_mode = wal",
        "synchronous = full",
        "foreign_keys = on",
        "secure_delete = on",  # what is erased is overwritten: it does not stay in free pages
    )


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Opens a file that is there. Such a connection makes none, and never folds a log into one."""
    conn = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=5.0,
        factory=Connection,
    )
    return _set_up(conn, "synchronous = full", "foreign_keys = on", "query_only = on")


def _set_up(conn: sqlite3.Connection, *pragmas: str) -> sqlite3.Connection:
    """Says what a new connection is like. Closes it if the file does not let that be."""
    conn.text_factory = text_of
    try:
        for pragma in pragmas:
            conn.execute(f"pragma {pragma}")
    except BaseException:
        conn.close()
        raise
    return conn
