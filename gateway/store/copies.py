"""Copies of a store: a backup while it is served from, and the way back.

Rules:

1. A copy is of one moment, and gets its name when it is complete and on the disk.
2. A copy knows that it is one: whoever serves from it looks for what was unsent before sending it. See `restoring.py`.
3. What a restore replaces is kept beside it, unless told otherwise.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

from gateway.store import access, restoring
from gateway.store.connecting import SqliteConnection
from gateway.store.counting import Counts, count
from gateway.store.engine import StoreUnusable
from gateway.store.migrations import migrate
from gateway.store.rows import from_micros
from gateway.store.sqlite import own, refuse_newer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

T = TypeVar("T")

STEP = 4_096  # pages, 16 MiB
NOTHING_CHANGED = ", then restore. Nothing was changed"
TRY_AGAIN = ", and try again. Nothing was changed"
LOGS = ("-wal", "-shm")  # beside the file: what was committed and is not in it yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents(Counts):
    """What is in a store, or in a copy of one, and of which moment that is: for a copy, when it was made.

    `newest` is when something last happened.
    """

    path: Path
    size: int  # bytes
    copied_at: datetime | None
    newest: datetime | None
    log: int = 0  # bytes beside it, not folded into the file yet


def into(target: Path, name: str) -> Path:
    """Returns the file in which a copy goes: the target, or a new one of this name if that is a directory."""
    with reading(target):
        return target / name if target.is_dir() else target


def backup(path: Path, target: Path, now: datetime) -> None:
    """Copies the store at a path into a new file, readable by its owner only; the gateway may be serving from it.

    `now` is a moment before, from which on that may have been sent which is unsent in the copy. Raises `StoreUnusable`
    if there is no store, if the target exists, or if it cannot be written.
    """
    with _copying(path, target):
        _refuse_to_replace(target)
    with _copying(path, target), opened(path) as source, _temporary(target) as made:
        _copy(source, made, lambda conn: restoring.mark(conn, now))
        _refuse_to_replace(target)
        made.rename(target)
    _settle(target)


def restore(source: Path, path: Path, aside: Path | None = None) -> None:
    """Puts a copy in the place of the store at a path, in one step; that store, if there is one, is kept `aside`.

    Without `aside` it is gone. Raises `StoreInUse` if a gateway is serving from it, and `StoreUnusable` if the copy is
    damaged, is no store, or is one of a newer version, or if `aside` exists.
    """
    refuse_in_use(path)
    if aside is not None:
        refuse_second_aside(path, aside)
    with (
        _copying(source, path),
        contextlib.closing(own(path, NOTHING_CHANGED)),
        opened(source) as found,
        _temporary(path) as made,
    ):
        refuse_newer(found, source)
        _refuse_damaged(found, source)
        _copy(found, made, restoring.mark_found)
        _take_place(made, path)
        _fold(path)  # else its log would be taken for that of what comes in its place
        if aside is not None and path.exists():
            aside.hardlink_to(path)  # there is a store at the path at every moment
        made.replace(path)
    _settle(path)


def make(path: Path, fill: Callable[[SqliteConnection], T], agree: Callable[[], None]) -> T:
    """Makes a store at a path where there is none, and has it filled; returns what `fill` does.

    `agree` is called once it is complete on the disk, before it gets its name. No trigger runs while it is filled.
    Raises `StoreInUse` if a gateway has the path, and `StoreUnusable` if there is a file, or what fills it does not
    hold together.
    """
    with reading(path), contextlib.closing(own(path, TRY_AGAIN)), _temporary(path) as made:
        if path.exists():
            msg = f"{path} exists already: name a new file. Nothing was changed."
            raise StoreUnusable(msg)
        with contextlib.closing(sqlite3.connect(made, isolation_level=None, factory=SqliteConnection)) as conn:
            migrate(conn)
            conn.execute("begin")
            triggers = conn.execute("select name, sql from sqlite_master where type = 'trigger'").fetchall()
            for name, _ in triggers:
                conn.execute(f"drop trigger {name}")
            result = fill(conn)
            for _, statement in triggers:
                conn.execute(statement)
            if conn.execute("pragma foreign_key_check").fetchone():
                msg = f"What is copied does not hold together: see `startflow store check`. {path} was not made."
                raise StoreUnusable(msg)
            conn.execute("commit")
        with made.open("rb") as written:
            os.fsync(written.fileno())
        agree()
        made.rename(path)
    _settle(path)
    return result


def refuse_in_use(path: Path) -> None:
    """Raises `StoreInUse` if a gateway is serving from the store at a path, and `StoreUnusable` if none could."""
    with reading(path):
        if wrong := access.not_a_file(path):
            raise StoreUnusable(wrong)
        if path.parent.is_dir():
            own(path, NOTHING_CHANGED).close()


def refuse_second_aside(path: Path, aside: Path) -> None:
    """Raises `StoreUnusable` if the store at a path cannot be kept `aside`, because another one is there."""
    with reading(path):
        if path.exists() and aside.exists():
            msg = (
                f"{aside} exists: an earlier restore has kept the store there that it replaced. Move that file away,"
                " or use --no-keep, with which the store that is at its place now is gone. Nothing was changed."
            )
            raise StoreUnusable(msg)


def refuse_no_copy(copy: Path) -> None:
    """Raises `StoreUnusable` if there is no file that could be a copy."""
    with reading(copy):
        if not access.is_file(copy):
            msg = f"There is no copy {copy}. Give a file that `startflow backup` has written. Nothing was changed."
            raise StoreUnusable(msg)


def refuse_nowhere(target: Path) -> None:
    """Raises `StoreUnusable` if the directory of a new copy is not there: one that is made by mistake holds it."""
    with reading(target):
        if not target.parent.is_dir():
            msg = f"There is no directory {target.parent}. Make it, or name another one. Nothing was written."
            raise StoreUnusable(msg)
        if not target.suffix and not target.exists():
            msg = (
                f"There is no directory {target}. Make it (`mkdir {target}`), or give a file an ending, such as"
                f" {target}.db. Nothing was written."
            )
            raise StoreUnusable(msg)


def contents(path: Path) -> Contents:
    """Counts what is in a store, or in a copy; raises `StoreUnusable` if that is none."""
    with reading(path), opened(path) as conn:
        refuse_newer(conn, path)
        conn.execute("begin")
        log = path.with_name(path.name + LOGS[0])
        return Contents(
            path=path,
            size=path.stat().st_size,
            log=log.stat().st_size if log.exists() else 0,
            **asdict(count(conn)),
            copied_at=from_micros(restoring.copied_at(conn)),
            newest=from_micros(restoring.newest(conn) or None),
        )


@contextlib.contextmanager
def _copying(source: Path, target: Path) -> Iterator[None]:
    """Raises `StoreUnusable`, which says what is wrong with either file, for what the system or SQLite raises."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        place = target if access.is_refused(target) or not access.is_refused(source) else source
        msg = f"{source} cannot be copied to {target}: {access.why(place, error)} Nothing was changed."
        raise StoreUnusable(msg) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises `StoreUnusable`, which says what is wrong with a file, for what the system or SQLite raises."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        msg = f"{path} cannot be read: {access.why(path, error)} Nothing was changed."
        raise StoreUnusable(msg) from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[SqliteConnection]:
    """Opens a store for reading; one that is being served from goes on. Raises `StoreUnusable` if it is none."""
    if wrong := access.not_a_file(path):
        raise StoreUnusable(wrong)
    if not access.is_file(path):
        msg = f"There is no store {path}. Name the file of one."
        raise StoreUnusable(msg)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5.0, factory=SqliteConnection)) as conn:
        conn.execute("pragma query_only = on")
        try:
            epoch = conn.execute("select value from meta where key = 'epoch'").fetchone()
            steps = conn.execute("select 1 from _sqlite_migrations where migration_set = 'startflow'").fetchone()
        except sqlite3.DatabaseError as error:
            if not access.is_broken(error):
                raise
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


def _take_place(made: Path, path: Path) -> None:
    """Gives a restored file the owner and the mode of the store that it replaces, so that its gateway can open it."""
    like = access.owner(path)
    if stat.S_ISREG(like.st_mode):
        made.chmod(stat.S_IMODE(like.st_mode))
    try:
        access.give(made, like)
    except PermissionError as error:
        owner, me = access.name_of(like.st_uid), access.name_of(os.geteuid())
        msg = f"The store {path} belongs to {owner}, and this runs as {me}. Run it as {owner}. Nothing was changed."
        raise StoreUnusable(msg) from error


def _copy(source: sqlite3.Connection, made: Path, mark: Callable[[SqliteConnection], None]) -> None:
    """Copies a store as it is at this moment, into a single file that is complete without a log."""
    with contextlib.closing(sqlite3.connect(made, isolation_level=None, factory=SqliteConnection)) as conn:
        source.execute("begin")
        source.execute("select 1 from meta").fetchone()  # one read for all steps: no writer makes it begin again
        source.backup(conn, pages=STEP, progress=lambda *_: None)  # a signal is handled between two steps
        source.execute("rollback")
        conn.execute("pragma journal_mode = delete")
        conn.execute("pragma synchronous = full")
        mark(conn)
    with made.open("rb") as written:
        os.fsync(written.fileno())


def _refuse_to_replace(target: Path) -> None:
    if target.exists():
        msg = f"{target} exists, and a backup never replaces anything. Name another file, or move that one away."
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
