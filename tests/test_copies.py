"""Copies of a store: whole, of one moment, readable by nobody else, and never in the place of what still serves."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import stat
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.model import Filter
from gateway.store import copies
from gateway.store.copies import backup, contents, refuse_in_use, restore
from gateway.store.engine import StoreInUse, StoreUnusable
from gateway.store.sqlite import open_sqlite
from tests.builders import NOON, TENANT, accepted, again, create, refused, run_to, singly, unsure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "startflow.db"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Where a copy goes."""
    return tmp_path / "backups" / "copy.db"


def write(path: Path, *statements: str) -> None:
    """Changes a file behind the gateway's back."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        for statement in statements:
            conn.execute(statement)
        conn.commit()


def content(path: Path) -> bytes:
    """Reads a file."""
    return path.read_bytes()


def put(path: Path, content: bytes) -> None:
    """Writes a file."""
    path.write_bytes(content)


def mode(path: Path) -> int:
    """Reads who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


def remove(path: Path) -> None:
    """Removes a file."""
    path.unlink()


def damage(path: Path) -> None:
    """Overwrites the middle of a file."""
    with path.open("r+b") as file:
        file.seek(40_000)
        file.write(b"x" * 40_000)


async def kill(store: SqliteStore, path: Path) -> None:
    """Closes a store, and leaves the file and its log as a process that was killed would."""
    left = {each: content(each) for each in (path, path.with_name(path.name + "-wal"))}
    await store.close()
    for each, bytes_before in left.items():
        put(each, bytes_before)


def files(directory: Path) -> set[str]:
    """Lists what is in a directory."""
    return {each.name for each in directory.iterdir()}


async def ids(store: SqliteStore) -> list[str]:
    """Lists the starts of a store."""
    page = await store.list(TENANT, Filter(), before=None, limit=1_000)
    return [start.asked.id for start in page.flow_starts]


# --- there


async def test_a_backup_is_of_one_moment_while_the_store_goes_on(
    path: Path, copy: Path, reopen: Callable[..., SqliteStore]
) -> None:
    """What was committed before is in it, what came after is not, and nobody waits for it."""
    store = reopen()
    before = [await create(store, singly(3)) for _ in range(20)]
    copying = asyncio.create_task(asyncio.to_thread(backup, path, copy, NOON))
    during = [await create(store) for _ in range(20)]
    await copying
    await create(store)
    await store.close()
    copied = await ids(reopen("backups/copy.db"))

    assert {start.asked.id for start in before} <= set(copied)
    assert sorted(copied) == sorted(start.asked.id for start in (before + during)[: len(copied)])


async def test_a_backup_is_one_file_that_nobody_else_reads(
    path: Path, copy: Path, reopen: Callable[..., SqliteStore]
) -> None:
    """No log beside it, no trace of the making; what only the log of the store has is in it."""
    await create(reopen())
    await asyncio.to_thread(backup, path, copy, NOON)

    assert {"copy.db"} == files(copy.parent)
    assert 0o600 == mode(copy)
    assert {"startflow.db", "startflow.db-wal", "startflow.db-shm", "startflow.db.lock", "backups"} == files(
        path.parent
    )


async def test_a_backup_replaces_nothing(path: Path, copy: Path, reopen: Callable[..., SqliteStore]) -> None:
    """Not even an older one of its own."""
    reopen()
    backup(path, copy, NOON)
    first = content(copy)
    with pytest.raises(StoreUnusable, match=r"copy\.db exists, and a backup never replaces anything"):
        backup(path, copy, NOON)

    assert first == content(copy)
    assert {"copy.db"} == files(copy.parent)


def test_what_is_no_store_is_not_copied(path: Path, copy: Path) -> None:
    """It is not made by looking for it either."""
    with pytest.raises(StoreUnusable, match="There is no store"):
        backup(path, copy, NOON)
    assert not path.exists()
    write(path, "create table meta (key text, value text)")
    with pytest.raises(StoreUnusable, match="is not a store of this gateway"):
        backup(path, copy, NOON)
    path.write_text("hello" * 1_000)
    with pytest.raises(StoreUnusable, match="is not a store of this gateway"):
        backup(path, copy, NOON)
    assert not copy.exists()


async def test_a_backup_that_fails_leaves_nothing(
    path: Path, copy: Path, reopen: Callable[..., SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, say: there is no half copy that somebody could trust."""
    await create(reopen())

    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copies.os, "fsync", full)  # type: ignore[attr-defined]
    with pytest.raises(StoreUnusable, match=r"cannot be copied to .*: No space left on device"):
        backup(path, copy, NOON)

    assert set() == files(copy.parent)


# --- and back


async def copied(store: SqliteStore, path: Path, copy: Path) -> str:
    """Records a start, copies the store, records another one and closes it; returns the first one's id."""
    start = await create(store, request_id="first")
    backup(path, copy, NOON)
    await create(store, request_id="second")
    await store.close()
    return start.asked.id


async def test_a_restored_store_is_the_copy_with_another_epoch(
    path: Path, copy: Path, reopen: Callable[..., SqliteStore]
) -> None:
    """So a watcher of the store before it is told, whatever its revision; the copy can be used again."""
    store = reopen()
    start_id = await copied(store, path, copy)
    before = content(copy)
    restore(copy, path)
    restored = reopen()

    assert [start_id] == await ids(restored)
    assert store.epoch != restored.epoch
    assert 3 == (await create(restored)).revision  # the second is that the first start is looked for: test_restoring.py
    assert 0o600 == mode(path)
    assert before == content(copy)
    assert {"startflow.db", "startflow.db-wal", "startflow.db-shm", "startflow.db.lock", "backups"} == files(
        path.parent
    )


async def test_each_restore_has_an_epoch_of_its_own(path: Path, copy: Path, reopen: Callable[..., SqliteStore]) -> None:
    """Twice from the same copy are two histories."""
    epochs = set()
    store = reopen()
    await copied(store, path, copy)
    for _ in range(2):
        restore(copy, path)
        store = reopen()
        epochs.add(store.epoch)
        await store.close()

    assert 2 == len(epochs)


async def test_the_log_of_the_store_before_is_not_taken_for_the_new_ones(
    path: Path, copy: Path, reopen: Callable[..., SqliteStore]
) -> None:
    """A gateway that was killed has left one beside its file."""
    store = reopen()
    start = await create(store)
    backup(path, copy, NOON)
    for _ in range(30):
        await create(store)
    await kill(store, path)
    restore(copy, path)

    assert [start.asked.id] == await ids(reopen())


async def test_a_crash_while_restoring_leaves_the_store_as_it_was(
    path: Path, copy: Path, reopen: Callable[..., SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything that only its log had."""
    store = reopen()
    await create(store)
    backup(path, copy, NOON)
    await create(store)
    await kill(store, path)

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        restore(copy, path)
    monkeypatch.undo()
    again_open = reopen()

    assert store.epoch == again_open.epoch
    assert 2 == len(await ids(again_open))


async def test_what_is_replaced_is_kept_aside(path: Path, copy: Path, reopen: Callable[..., SqliteStore]) -> None:
    """Whole, what only its log had included, if that is wanted; and it replaces nothing."""
    store = reopen()
    await create(store)
    backup(path, copy, NOON)
    await create(store)
    await kill(store, path)
    aside = path.with_name("startflow.db.before-restore")
    restore(copy, path, aside)
    with pytest.raises(StoreUnusable, match=r"before-restore exists"):
        restore(copy, path, aside)
    restored = reopen()

    assert 1 == len(await ids(restored))
    assert 0o600 == mode(aside)
    assert 2 == len(await ids(reopen(aside.name)))


async def test_a_store_and_its_copy_tell_what_is_in_them(
    path: Path, copy: Path, reopen: Callable[..., SqliteStore]
) -> None:
    """Blocks that are not written out yet are counted, and a copy tells when it was made."""
    store = reopen()
    await run_to(store, await create(store), refused())
    await run_to(store, await create(store, singly(3)), accepted("a"), unsure())
    await create(store, singly(250))
    backup(path, copy, NOON + timedelta(seconds=60))  # the store's clock stays: progress that it holds back is a change
    found, copied_from = contents(copy), contents(path)

    assert (3, 2, 251, 1) == (found.starts, found.not_over, found.unsent, found.uncertain)
    assert (NOON + timedelta(seconds=60), NOON) == (found.copied_at, found.newest)
    assert (None, 251) == (copied_from.copied_at, copied_from.unsent)
    assert copied_from.log > 0
    with pytest.raises(StoreInUse, match="is in use by process"):
        refuse_in_use(path)
    refuse_in_use(copy)


async def test_a_store_that_is_served_from_is_not_replaced(
    path: Path, copy: Path, reopen: Callable[..., SqliteStore]
) -> None:
    """It goes on as if nothing had been."""
    store = reopen()
    start = await create(store)
    backup(path, copy, NOON)
    with pytest.raises(StoreInUse, match="is in use by process"):
        restore(copy, path)

    assert start == await again(store, start)
    assert 2 == (await create(store)).revision


async def test_a_store_can_be_restored_where_there_is_none_or_a_broken_one(
    path: Path, copy: Path, reopen: Callable[..., SqliteStore]
) -> None:
    """That is what copies are for."""
    start_id = await copied(reopen(), path, copy)
    put(path, b"broken" * 10_000)
    restore(copy, path)
    store = reopen()
    assert [start_id] == await ids(store)
    await store.close()
    remove(path)
    restore(copy, path)
    assert [start_id] == await ids(reopen())


async def test_what_is_no_good_is_not_put_in_the_place_of_a_store(
    path: Path, copy: Path, reopen: Callable[..., SqliteStore]
) -> None:
    """Something else, something damaged, something newer: each is told, and the store is as it was."""
    store = reopen()
    for _ in range(200):
        await create(store)
    backup(path, copy, NOON)
    await store.close()
    before = content(path)
    damaged, newer, other = (copy.with_name(f"{name}.db") for name in ("damaged", "newer", "other"))
    for each in (damaged, newer):
        shutil.copyfile(copy, each)
    damage(damaged)
    write(newer, "insert into _sqlite_migrations (migration_set, name, applied_at) values ('startflow', 'm999', '')")
    write(other, "create table meta (key text, value text)")

    for source, why in (
        (damaged, "is damaged"),
        (newer, r"was made by a newer version of the gateway \(it has m999\)"),
        (other, "is not a store of this gateway"),
        (copy.with_name("none.db"), "There is no store"),
    ):
        with pytest.raises(StoreUnusable, match=why):
            restore(source, path)
    assert before == content(path)


# --- other versions


async def test_a_store_of_a_newer_version_is_refused(path: Path, clock: Clock, copy: Path) -> None:
    """By the steps that it has and this version does not know; nothing in it is changed. A backup of it can be made."""
    store = open_sqlite(path, clock)
    await create(store)
    await store.close()
    write(path, "insert into _sqlite_migrations (migration_set, name, applied_at) values ('startflow', 'm999_x', '')")
    before = content(path)
    with pytest.raises(StoreUnusable) as refusal:
        open_sqlite(path, clock)

    expected = (
        f"The store {path} was made by a newer version of the gateway (it has m999_x), and this one does not know what"
        " it holds. Run that version or a later one, or set `store` (STARTFLOW_STORE) to another file."
    )
    assert expected == str(refusal.value)
    assert before == content(path)
    backup(path, copy, NOON)
    assert {copy.name} == files(copy.parent)
