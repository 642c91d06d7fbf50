"""Whether the file of a store keeps what always holds of it: for an operator, and for tests that kill gateways.

A gateway may be serving from the file: everything is read in one view, and nothing is written.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from gateway.store import access
from gateway.store.copies import opened
from gateway.store.engine import StoreUnusable
from gateway.store.invariants import RESTORE, Invariant, Violation, check, violations
from gateway.store.migrations import missing_steps
from gateway.store.sqlite import refuse_newer

if TYPE_CHECKING:
    from pathlib import Path

REFERENCES = Invariant(
    name="references_hold",
    sentence="What belongs to a start or a dispatch belongs to one that is there.",
    find="select \"table\" || coalesce(' row ' || rowid, '') from pragma_foreign_key_check",
    advice=RESTORE,
)
SOUNDNESS: tuple[Invariant, ...] = (
    REFERENCES,
    Invariant(
        name="the_file_is_sound",
        sentence="SQLite finds nothing wrong with the file (`pragma integrity_check`).",
        find="select 'the file' from pragma_integrity_check where integrity_check <> 'ok'",
        advice=RESTORE,
    ),
)
"""What always holds of the file. It takes as long as reading all of it."""


def check_path(path: Path, *, whole: bool = True) -> list[Violation]:
    """Returns what breaks an invariant in the store at a path; the `whole` file is read as well, unless told otherwise.

    Raises `StoreUnusable` if there is no store, or if another version of the gateway has made it.
    """
    try:
        with opened(path) as conn:
            refuse_newer(conn, path)
            _refuse_older(conn, path)
            conn.execute("begin")  # one view, whatever a gateway writes meanwhile
            found = check(conn)
            if whole:
                found += [violation for each in SOUNDNESS for violation in violations(conn, each)]
            return found
    except (OSError, sqlite3.Error) as error:
        is_broken = isinstance(error, sqlite3.Error) and access.is_broken(error)
        advice = RESTORE if is_broken else "Nothing was read: this says nothing about what is in the store."
        msg = f"The store {path} cannot be read: {access.why(path, error)} {advice}"
        raise StoreUnusable(msg) from error


def _refuse_older(conn: sqlite3.Connection, path: Path) -> None:
    if missing := missing_steps(conn):
        msg = (
            f"The store {path} was made by an older version of the gateway (it lacks {missing[0]}). Start this version"
            " on it once, or check it with the version that made it."
        )
        raise StoreUnusable(msg)
