"""Checking a store on the command line: in sentences or as JSON lines, while a gateway serves from it or not."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli import store as command
from gateway.cli.app import app
from gateway.store.checking import SOUNDNESS
from gateway.store.invariants import INVARIANTS
from gateway.store.sqlite import open_sqlite
from tests.builders import Clock, create, singly

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with a large start."""

    async def fill() -> None:
        store = open_sqlite(tmp_path / "startflow.db", Clock())
        await create(store, singly(150), id="large")
        await store.close()

    asyncio.run(fill())
    return tmp_path / "startflow.db"


def startflow(*words: str | Path) -> tuple[int, str, str]:
    """Runs a command; returns its code, and what it said on both ways."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


def break_it(path: Path) -> None:
    """Has nothing of the start wait, though most of it is not written out."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("update dispatches set claimed_by = 1")


@pytest.mark.parametrize("written", ["{path}", "sqlite:///{path}"])
def test_a_store_that_is_well_is_0(path: Path, written: str) -> None:
    """Named by its path or as the setting is written; newcomer 37: whoever reads no lines reads that all is well."""
    code, lines, said = startflow("store", "check", "--store", written.format(path=path))

    assert (0, "") == (code, lines)
    assert said == f"{path}: all {len(INVARIANTS) + len(SOUNDNESS)} invariants hold.\n"


def test_the_configured_store_is_checked(path: Path, tmp_path: Path) -> None:
    """As the gateway would find it."""
    config = tmp_path / "startflow.toml"
    config.write_text(f'store = "sqlite:///{path}"\n')
    break_it(path)

    assert 1 == startflow("store", "check", "--config", config)[0]


def test_what_is_broken_is_1_and_a_json_line(path: Path) -> None:
    """With the id, and no recipient."""
    break_it(path)
    code, said, _ = startflow("store", "check", "--store", path, "--json")

    assert 1 == code
    assert {
        "invariant": "blocks_have_a_dispatch_ahead",
        "id": "large",
        "sentence": "A start with recipients that are not written out has a dispatch that waits or is held.",
        "advice": "Restart the gateway, which heals this when it starts.",
    } == json.loads(said)


def test_a_person_reads_sentences(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal: what is broken and what to do, and how often; or that all is well."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for broken in (False, True):
        if broken:
            break_it(path)
        with pytest.raises(typer.Exit) as ended:
            command.check(store=path)
        assert int(broken) == ended.value.exit_code
    said = capsys.readouterr().out.splitlines()

    assert f"{path}: all {len(INVARIANTS) + len(SOUNDNESS)} invariants hold." == said[0]
    assert said[1].startswith("large breaks `blocks_have_a_dispatch_ahead`: A start with recipients that")
    assert ["blocks_have_a_dispatch_ahead: 1"] == said[2:]


async def test_a_store_that_is_served_from_is_checked(path: Path) -> None:
    """And goes on."""
    store = open_sqlite(path, Clock())
    code, said, _ = await asyncio.to_thread(startflow, "store", "check", "--store", path)
    await create(store)
    await store.close()

    assert (0, "") == (code, said)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--store", "{tmp}/none.db"], 1, "There is no store"),
        (["--store", "{tmp}/words.toml"], 1, "is not a store of this gateway"),
        (["--store", "x", "--config", "y"], 2, "Give either --config or --store"),
    ],
)
def test_what_is_no_store_is_told(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    """In one sentence."""
    (tmp_path / "words.toml").write_text("words")
    ended, _, problem = startflow("store", "check", *(word.format(tmp=tmp_path) for word in words))

    assert code == ended
    assert said in problem
