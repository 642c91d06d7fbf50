"""What keeps a user from a store is named with its owner, and is never told as a broken store."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from gateway.__main__ import main
from gateway.cli.app import app
from gateway.store import access
from gateway.store.checking import check_path
from gateway.store.copies import backup, restore
from gateway.store.engine import StoreUnusable
from gateway.store.sqlite import open_sqlite
from tests.builders import NOON, Clock, create

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65_534
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root gives files to others")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's own."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)


@pytest.fixture
def path(directory: Path) -> Path:
    """A store."""
    (directory / "data").mkdir()

    async def fill() -> None:
        store = open_sqlite(directory / "data/startflow.db", Clock())
        await create(store)
        await store.close()

    asyncio.run(fill())
    return directory / "data/startflow.db"


@contextmanager
def refused(place: Path) -> Iterator[None]:
    """Runs as a user who may not use a file or a directory; as its owner who has shut it, unless that is root."""
    before = place.stat().st_mode
    place.chmod(0o700 if IS_ROOT and place.is_dir() else 0o600 if IS_ROOT else 0)
    try:
        with as_nobody():
            yield
    finally:
        place.chmod(before)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Runs as nobody, if this is root."""
    if IS_ROOT:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if IS_ROOT:
            os.seteuid(0)
            os.setegid(0)


def startflow(*words: str | Path) -> tuple[int, str]:
    """Runs a command; returns its code, and everything that it said. What it raises is raised."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return done.exit_code, done.output


COMMANDS = {
    "check": ["check", "--config", "{config}"],
    "store check": ["store", "check", "--store", "{path}"],
    "backup": ["backup", "{elsewhere}/new.db", "--store", "{path}"],
    "restore": ["restore", "{copy}", "--store", "{path}", "--yes"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shut", ["file", "directory", "one above"])
def test_newcomer_2_and_4_a_store_of_somebody_else(
    path: Path, directory: Path, command: str, shut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command names what is shut, its owner, mode and who runs it, without a traceback or a word of a restore."""
    for name in [name for name in os.environ if name.startswith("STARTFLOW_")]:
        monkeypatch.delenv(name)
    backup(path, directory / "copy.db", NOON)
    (directory / "copy.db").chmod(0o644)
    (directory / "elsewhere").mkdir()
    (directory / "elsewhere").chmod(0o777)
    (directory / "startflow.toml").write_text(f'store = "sqlite:///{path}"\nsandbox = true\n')
    nested = directory / "above"
    if shut == "one above":
        nested.mkdir()
        shutil.move(path.parent, nested / "data")
        path = nested / "data/startflow.db"
        (directory / "startflow.toml").write_text(f'store = "sqlite:///{path}"\nsandbox = true\n')
    elif shut == "file":
        path.parent.chmod(0o777)
    place = {"file": path, "directory": path.parent, "one above": nested}[shut]
    names = {
        "path": path,
        "copy": directory / "copy.db",
        "config": directory / "startflow.toml",
        "elsewhere": directory / "elsewhere",
    }
    startflow("check", "--config", names["config"])  # imports what the command needs: nobody may not read that either
    with refused(place):
        code, said = startflow(*(word.format(**names) for word in COMMANDS[command]))

    assert 1 == code, said
    assert str(place) in said
    assert f" belongs to {access.name_of(os.getuid())}:" in said
    assert f"(mode {'0600' if IS_ROOT and shut == 'file' else '0700' if IS_ROOT else '0000'})" in said
    assert f"runs as {access.name_of(NOBODY if IS_ROOT else os.getuid())}" in said
    assert "startflow restore" not in said
    assert "last good backup" not in said
    assert "is not a store" not in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["backup", "{shut}", "--store", "{path}"], "cannot be copied to {shut}/startflow-2"),
        (["backup", "{shut}/in/it.db", "--store", "{path}"], "{shut}/in/it.db cannot be read: {shut} belongs to"),
        (["restore", "{shut}/copy.db", "--store", "{path}", "--yes"], "{shut}/copy.db cannot be read: {shut} belongs"),
        (
            ["restore", "{copy}", "--store", "{shut}/x/new.db", "--yes"],
            "{shut}/x/new.db cannot be read: {shut} belongs",
        ),
        (["check", "--config", "{shut}/startflow.toml"], "{shut}/startflow.toml cannot be read: Permission denied"),
    ],
    ids=" ".join,
)
def test_newcomer_2_and_21_every_other_file_that_may_not_be_used(
    path: Path, directory: Path, words: list[str], named: str
) -> None:
    """Of the copy, of where it goes, of the configuration: one sentence, no traceback."""
    backup(path, directory / "copy.db", NOON)
    (directory / "copy.db").chmod(0o666)
    for each in (path, path.with_name(path.name + ".lock")):
        each.chmod(0o666)
    path.parent.chmod(0o777)
    shut = directory / "shut"
    shut.mkdir()
    names = {"path": path, "copy": directory / "copy.db", "shut": shut}
    with refused(shut):
        code, said = startflow(*(word.format(**names) for word in words))

    assert code in (1, 2)
    assert named.format(**names) in said
    assert "cannot be copied to {shut}".format(**names) not in said or " belongs to " in said


def test_newcomer_2_no_file_that_cannot_be_used_ends_in_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a command forgot to say."""

    def forgetful(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("gateway.cli.app.app", forgetful)
    with pytest.raises(SystemExit) as ended:
        main()

    assert 1 == ended.value.code
    assert "error: /some/file: Permission denied.\n" == capsys.readouterr().err


def test_newcomer_3_a_store_that_cannot_be_opened_is_not_to_be_left_for_an_empty_one(path: Path) -> None:
    """`serve` names who owns it, and does not advise another file: that would forget what was sent."""
    path.parent.chmod(0o777)
    path.with_name(path.name + ".lock").unlink()
    with refused(path), pytest.raises(StoreUnusable) as refusal:
        open_sqlite(path, Clock())
    said = str(refusal.value)

    assert f"{path} belongs to {access.name_of(os.getuid())}:" in said
    assert "chown" in said or "chmod" in said
    assert "STARTFLOW_STORE" not in said


@needs_root
@pytest.mark.parametrize("there", [True, False])
def test_newcomer_3_a_restored_store_is_the_gateways_own(path: Path, directory: Path, *, there: bool) -> None:
    """A restore by root keeps owner and mode of what it replaces, or the owner of the directory; so with its lock."""
    backup(path, directory / "copy.db", NOON)
    for each in (path.parent, path):
        os.chown(each, NOBODY, NOBODY)
    path.with_name(path.name + ".lock").unlink()
    path.chmod(0o640)
    if not there:
        path.unlink()
    restore(directory / "copy.db", path)
    found = path.stat()

    assert (NOBODY, NOBODY) == (found.st_uid, found.st_gid)
    assert (0o640 if there else 0o600) == found.st_mode & 0o777
    with as_nobody():
        asyncio.run(_serve_and_close(path))


async def _serve_and_close(path: Path) -> None:
    await open_sqlite(path, Clock()).close()


@needs_root
def test_a_restore_that_would_take_the_store_from_its_user_is_refused(path: Path, directory: Path) -> None:
    """Somebody who may write the directory, and is not the owner, is told as whom to run it; nothing is changed."""
    backup(path, directory / "copy.db", NOON)
    (directory / "copy.db").chmod(0o644)
    path.parent.chmod(0o777)
    path.chmod(0o666)
    path.with_name(path.name + ".lock").unlink()
    before = path.read_bytes()
    with as_nobody(), pytest.raises(StoreUnusable, match=r"belongs to root, and this runs as nobody\. Run it as root"):
        restore(directory / "copy.db", path)

    assert before == path.read_bytes()


def test_only_what_is_in_the_file_leads_to_a_restore(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that somebody else has locked, say, is not broken."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("pragma journal_mode = delete")
        other.execute("begin exclusive")
        monkeypatch.setattr(sqlite3, "connect", _impatient(sqlite3.connect))
        with pytest.raises(StoreUnusable, match="database is locked") as refusal:
            check_path(path)

    assert "restore" not in str(refusal.value)


def _impatient(connect: object) -> object:
    def at_once(*words: object, **named: object) -> object:
        assert callable(connect)
        return connect(*words, **{**named, "timeout": 0.0})

    return at_once


def test_a1_a_disk_that_cannot_be_read_is_not_called_a_damaged_file() -> None:
    """SQLite has two names for a read that fails with EIO: one while it opens, and that of a damaged file later."""
    with pytest.raises(sqlite3.OperationalError) as failed:  # reading what is not mapped is EIO
        sqlite3.connect("file:/proc/self/mem?mode=ro&immutable=1", uri=True).execute("select 1 from meta")

    for name in (failed.value.sqlite_errorname, "SQLITE_CORRUPT"):
        assert access.advice(name).startswith("Its disk fails, or "), name
