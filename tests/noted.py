"""What a store says to SQLite, noted as it is said: its texts, its values, and the steps that SQLite takes for it."""

from __future__ import annotations

import re
import sqlite3
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from gateway.store import connecting

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANNED = ("select", "insert", "update", "delete", "with")
AT_ONCE = 10  # steps that are counted: one by one they would take long


@dataclass
class Said:
    """A statement, the values it was said with first, and the most steps it has taken."""

    values: Any
    steps: int = 0


@dataclass
class Notes:
    """All that was said, by its text."""

    said: dict[str, Said] = field(default_factory=dict)
    sites: set[tuple[str, int]] = field(default_factory=set)  # the file and the line that said it

    def connect(self, *args: Any, **named: Any) -> sqlite3.Connection:
        """Connects, and notes what is said from then on."""
        conn = Noting(*args, **named)
        conn.note_in(self)
        return conn


class Noting(connecting.SqliteConnection):
    """A connection whose statements are noted."""

    def note_in(self, notes: Notes) -> None:
        """Notes everything from here on."""
        self._notes = notes
        self._current = Said(())
        self._taken = 0
        self.set_progress_handler(self._step, AT_ONCE)

    def set_progress_handler(self, _handler: Any, n: int, /) -> None:
        """Keeps the one that counts: a reader's own only looks whether its caller is still there."""
        super().set_progress_handler(self._step, min(n, AT_ONCE))

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        """Notes it and says it."""
        self._begin(sql, values)
        return super().execute(sql, values)

    def executemany(self, sql: str, values: Any, /) -> sqlite3.Cursor:
        """Notes it with the first values, and says it."""
        values = list(values)
        if values:
            self._begin(sql, values[0])
        return super().executemany(sql, values)

    def _begin(self, sql: str, values: Any) -> None:
        caller = sys._getframe(2)
        self._notes.sites.add((caller.f_code.co_filename, caller.f_lineno))
        while caller.f_code.co_filename in (connecting.__file__, __file__) and caller.f_back is not None:
            caller = caller.f_back  # who had it said over rows
        self._notes.sites.add((caller.f_code.co_filename, caller.f_lineno))
        self._current, self._taken = self._notes.said.setdefault(sql, Said(values)), 0

    def _step(self) -> int:
        self._taken += AT_ONCE
        self._current.steps = max(self._current.steps, self._taken)
        return 0


def raw(conn: object) -> sqlite3.Connection:
    """Returns a store's connection as that of the standard library that it is."""
    assert isinstance(conn, sqlite3.Connection)
    return conn


@contextmanager
def noting(notes: Notes) -> Iterator[None]:
    """Notes what is said on every connection that is opened meanwhile."""
    really = sqlite3.connect

    def connect(*args: Any, **named: Any) -> sqlite3.Connection:
        return really(*args, **{**named, "factory": notes.connect})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        yield


def explain(conn: sqlite3.Connection, notes: Notes) -> list[tuple[str, str]]:
    """Tells how SQLite goes about each statement: the statement, and one step of its plan."""
    return [
        (plain(sql), detail)
        for sql, said in notes.said.items()
        if sql.split()[0] in PLANNED
        for *_, detail in conn.execute(f"explain query plan {sql}", said.values)
    ]


def plain(sql: str) -> str:
    """Writes a statement on one line."""
    return " ".join(sql.split())


def triggered(conn: sqlite3.Connection) -> list[tuple[str, str]]:
    """Tells how SQLite goes about the statements of triggers: the statement, and one step of its plan."""
    plans = []
    for (trigger,) in conn.execute("select sql from sqlite_master where type = 'trigger'").fetchall():
        _, _, body = trigger.partition("begin")
        for statement in body.removesuffix("end").split(";"):
            said, count = re.subn(r"\b(?:old|new)\.\w+", "?", statement)
            if said.strip():
                steps = conn.execute(f"explain query plan {said}", ["x"] * count)
                plans += [(plain(statement), detail) for *_, detail in steps]
    return plans
