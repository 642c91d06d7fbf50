"""Copies on the command line: made of what is configured or named, put back after a question, told of in figures."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.store.sqlite import open_sqlite
from tests.builders import Clock, create, singly
from tests.end_to_end.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path


class Person:
    """Somebody at a terminal, and what they type."""

    def __init__(self, typed: str) -> None:
        self._typed = typed

    def isatty(self) -> bool:
        """It is one."""
        return True

    def readline(self) -> str:
        """Types it."""
        return self._typed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with two starts, one of them large."""

    async def fill() -> None:
        store = open_sqlite(tmp_path / "startflow.db", Clock())
        await create(store)
        await create(store, singly(150))
        await store.close()

    asyncio.run(fill())
    return tmp_path / "startflow.db"


def startflow(*words: str | Path) -> tuple[int, str, str]:
    """Runs a command; returns its code, and what it said on both ways."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


def test_there_and_back(path: Path, tmp_path: Path) -> None:
    """Into a directory under a name of its own; both commands tell what they moved."""
    config = tmp_path / "startflow.toml"
    config.write_text(f'store = "sqlite:///{path}"\n')
    (tmp_path / "copies").mkdir()
    code, said, _ = startflow("backup", tmp_path / "copies", "--config", config)
    (copy,) = (tmp_path / "copies").iterdir()

    assert 0 == code
    assert copy.name.startswith("startflow-20")
    assert f"Copied {path} to {copy}: " in said
    assert "2 starts, 2 of them not over, 151 requests unsent." in said
    code, said, _ = startflow("restore", copy, "--config", config, "--yes")
    aside = path.with_name("startflow.db.before-restore")
    assert 0 == code
    assert f"The store {path}: " in said
    assert f"It is kept as {aside}." in said
    assert "It looks for the 151 unsent requests on the backends" in said
    assert aside.exists()
    code, said, problem = startflow("restore", copy, "--store", path, "--yes")
    assert 1 == code
    assert "" == said  # newcomer 20: nothing is promised that is refused then
    assert "before-restore exists: an earlier restore" in problem
    assert "--no-keep" in problem
    code, said, _ = startflow("restore", copy, "--store", path, "--no-keep", "--yes")
    assert 0 == code
    assert "It goes." in said


def test_newcomer_34_a_restore_over_an_empty_store_has_no_year_1970(tmp_path: Path) -> None:
    """Of what is empty there is no last change, and nothing that is looked for."""
    path, copy = tmp_path / "startflow.db", tmp_path / "copy.db"

    async def make() -> None:
        await open_sqlite(path, Clock()).close()

    asyncio.run(make())
    startflow("backup", copy, "--store", path)
    code, said, _ = startflow("restore", copy, "--store", path, "--yes")

    assert 0 == code
    assert "1970" not in said
    assert "0 unsent" not in said
    assert "last change" not in said


def test_a_person_is_asked(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but yes changes nothing; with --yes nobody is."""
    copy = tmp_path / "copy.db"
    startflow("backup", copy, "--store", path)
    before = path.read_bytes()
    for typed, expected in (("\n", 1), ("no\n", 1), ("y\n", 0)):
        monkeypatch.setattr(sys, "stdin", Person(typed))
        code = _invoke_as_is(["restore", str(copy), "--store", str(path), "--no-keep"])
        assert expected == code
        assert (before == path.read_bytes()) is bool(expected)


def test_d3_a_restore_is_not_done_where_nobody_can_be_asked(path: Path, tmp_path: Path) -> None:
    """A pipe has not said yes: what there is to say is said, and the store stays."""
    copy = tmp_path / "copy.db"
    startflow("backup", copy, "--store", path)
    before = path.read_bytes()
    code, _, problem = startflow("restore", copy, "--store", path)

    assert 2 == code
    assert "Add --yes. Nothing was changed." in problem
    assert before == path.read_bytes()


def _invoke_as_is(words: list[str]) -> int:
    """Runs a command with the standard input that there is."""
    with pytest.raises(SystemExit) as ended:
        app(words)
    return int(str(ended.value.code))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["backup", "{tmp}/copy.db", "--store", "{tmp}/none.db"], 1, "There is no store"),
        (["backup", "{tmp}/startflow.db", "--store", "{tmp}/startflow.db"], 1, "a backup never replaces anything"),
        (["restore", "{tmp}/none.db", "--store", "{tmp}/startflow.db"], 1, "There is no copy"),
        (["restore", "{tmp}/words.toml", "--store", "{tmp}/startflow.db"], 1, "is not a store of this gateway"),
        (["backup", "{tmp}/copy.db", "--store", "x", "--config", "y"], 2, "Give either --config or --store"),
        (["backup", "{tmp}/copy.db", "--config", "{tmp}/none.toml"], 2, "cannot be read: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_told(path: Path, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    """And changes nothing."""
    (tmp_path / "words.toml").write_text("words")
    before = path.read_bytes()
    ended, _, problem = startflow(*(word.format(tmp=tmp_path) for word in words))

    assert code == ended
    assert said in problem
    assert before == path.read_bytes()
    assert not (tmp_path / "copy.db").exists()


async def test_a_store_that_is_served_from_is_not_replaced(path: Path, tmp_path: Path) -> None:
    """It is copied, though."""
    store = open_sqlite(path, Clock())
    copied = startflow("backup", tmp_path / "copy.db", "--store", path)
    code, _, problem = startflow("restore", tmp_path / "copy.db", "--store", path)
    await store.close()

    assert 0 == copied[0]
    assert 1 == code
    assert "is in use by process" in problem


def test_words_are_completed() -> None:
    """As the shell asks for it once `--install-completion` has been run."""
    asked = {"_STARTFLOW_COMPLETE": "complete_bash", "COMP_WORDS": "startflow ba", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env=asked, capture_output=True, text=True, check=False
    )

    assert ["backends", "backup"] == done.stdout.split()


def test_newcomer_10_a_copy_and_a_directory_that_are_not_there_are_named(path: Path, tmp_path: Path) -> None:
    """Nothing is made in their place."""
    before = {each.name for each in tmp_path.iterdir()}
    code, _, said = startflow("restore", tmp_path / "none.db", "--store", path, "--yes")

    assert (1, True) == (code, f"There is no copy {tmp_path / 'none.db'}." in said)
    code, _, said = startflow("backup", tmp_path / "nowhere" / "copy.db", "--store", path)
    assert (1, True) == (code, f"There is no directory {tmp_path / 'nowhere'}." in said)
    assert {each.name for each in tmp_path.iterdir()} - before <= {"startflow.db.lock"}


def test_newcomer_10_a_backup_into_a_directory_that_is_not_there_makes_no_file(path: Path, tmp_path: Path) -> None:
    """Else the next night's backup fails: there is a file of that name. What has an ending is meant as a file."""
    code, _, said = startflow("backup", f"{tmp_path / 'copies'}/", "--store", path)

    assert (1, False) == (code, (tmp_path / "copies").exists())
    assert f"There is no directory {tmp_path / 'copies'}. Make it (`mkdir {tmp_path / 'copies'}`)" in said
    assert 0 == startflow("backup", tmp_path / "copy.db", "--store", path)[0]


async def test_newcomer_10_a_restore_while_it_is_served_names_no_other_file(tmp_path: Path) -> None:
    """To set `store` to another file would restore beside what is served."""
    store = open_sqlite(tmp_path / "served.db", Clock())
    code, _, said = startflow("restore", tmp_path / "copy.db", "--store", tmp_path / "served.db", "--yes")
    await store.close()

    assert 1 == code
    assert "stop that one, then restore. Nothing was changed." in said
    assert "STARTFLOW_STORE" not in said


@pytest.mark.parametrize("words", [("store", "check"), ("backup", "copy.db"), ("restore", "copy.db", "--yes")])
def test_newcomer_10_a_directory_is_no_store(path: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Whatever is done with it."""
    (tmp_path / "there").mkdir()
    named = [str(path) if word == "copy.db" and words[0] == "restore" else word for word in words]
    code, _, said = startflow(*named, "--store", tmp_path / "there")

    assert 1 == code
    assert f"{tmp_path / 'there'} is a directory. Name a file in it, such as {tmp_path / 'there'}/startflow.db." in said
