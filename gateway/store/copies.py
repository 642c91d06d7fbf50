"""Copies of a store: a backup while it is served from, and the way back.

Rules:

1. A copy is of one moment, and gets its name when it is complete and on the disk.
2. A store that was put back has a new epoch: a revision of the one before it means nothing here.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from typing import TYPE_CHECKING

from gateway.store.sqlite import StoreUnusable, own, refuse_newer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGS = ("-wal", "-shm")  # beside the file: what was committed and is not in it yet


def backup(path: Path, target: Path) -> None:
    """Copies the store at a path into a new file, readable by its owner only; the gateway may be serving from it.

    Raises `StoreUnusable` if there is no store, if the target exists, or if it cannot be written.
    """
    _refuse_to_replace(target)
    with _told(path, target), _opened(path) as source, _temporary(target) as made:
        _copy(source, made)
        _refuse_to_replace(target)
        made.rename(target)
    _settle(target)


def restore(source: Path, path: Path) -> None:
    """Puts a copy in the place of the store at a path, in one step; that store, if there is one, is gone.

    Raises `StoreInUse` if a gateway is serving from it, and `StoreUnusable` if the copy is damaged, is no store, or is
    one of a newer version.
    """
    with _told(source, path), contextlib.closing(own(path)), _opened(source) as found, _temporary(path) as made:
        refuse_newer(found, source)
        _refuse_damaged(found, source)
        _copy(found, made, epoch=uuid.uuid4().hex)
        _fold(path)  # else its log would be taken for that of what comes in its place
        made.replace(path)
    _settle(path)


@contextlib.contextmanager
def _told(source: Path, target: Path) -> Iterator[None]:
    """Says in one sentence what went wrong with either file."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        msg = f"{source} cannot be copied to {target}: {why}. Nothing was changed."
        raise StoreUnusable(msg) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Opens a store for copying; one that is being served from goes on."""
    if not path.is_file():
        msg = f"There is no store {path}. Name the file of a store."
        raise StoreUnusable(msg)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5.0)) as conn:
        conn.execute("pragma query_only = on")
        try:
            epoch = conn.execute("select value from meta where key = 'epoch'").fetchone()
            steps = conn.execute("select 1 from _sqlite_migrations where migration_set = 'startflow'").fetchone()
        except sqlite3.DatabaseError:
            epoch = steps = None
        if epoch is None or steps is None:
            msg = f"{path} is not a store of this gateway. Name the file of a store, or of a copy of one."
            raise StoreUnusable(msg)
        yield conn


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Makes an empty file beside a target, in which a copy becomes complete before it gets its name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
    os.close(os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # personal data: nobody else reads it
    try:
        yield made
    finally:
        for suffix in ("", "-journal", *LOGS):
            made.with_name(made.name + suffix).unlink(missing_ok=True)


def _copy(source: sqlite3.Connection, made: Path, *, epoch: str | None = None) -> None:
    """Copies a store as it is at this moment, into a single file that is complete without a log."""
    with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as conn:
        source.backup(conn)  # all of it in one read: a writer neither waits nor makes it begin again
        conn.execute("pragma journal_mode = delete")
        conn.execute("pragma synchronous = full")
        if epoch is not None:
            conn.execute("update meta set value = ? where key = 'epoch'", (epoch,))
    with made.open("rb") as written:
        os.fsync(written.fileno())


def _refuse_to_replace(target: Path) -> None:
    if target.exists():
        msg = f"{target} exists, and a copy never replaces anything. Name another file, or move that one away."
        raise StoreUnusable(msg)


def _refuse_damaged(conn: sqlite3.Connection, path: Path) -> None:
    try:
        (found,) = conn.execute("pragma quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        msg = f"{path} is damaged ({found}). Nothing was changed; take another copy."
        raise StoreUnusable(msg)


def _fold(path: Path) -> None:
    """Folds the log of a store into its file, so that the store is whole until it is replaced; then removes the log."""
    if path.exists():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as conn:  # or it is broken
            conn.execute("pragma wal_checkpoint(truncate)")
    for suffix in LOGS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Has the name of a file survive the loss of power."""
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
