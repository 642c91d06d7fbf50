"""The oracle of what watchers must get: the `changes` table, read with SQL alone."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from pathlib import Path

TERMINAL = (4, 5, 6)
UNCERTAIN = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One recorded change."""

    revision: int
    start_id: str
    labels: dict[str, str]
    before: int | None
    state: int
    is_done: bool


QUERY = (
    "select c.revision, c.start_id, s.asked, c.state_before, c.standing from changes c"
    " join starts s on s.id = c.start_id where c.revision > {} order by c.revision"
)


def read_record(store: Path, after: int = 0) -> tuple[Moved, ...]:
    """Reads every change after a revision, in order."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as conn:
        return tuple(_moved(*row) for row in conn.execute(QUERY.format("?"), (after,)))


def read_postgres(url: str, after: int = 0) -> tuple[Moved, ...]:
    """Does the same on PostgreSQL."""
    with psycopg.connect(url) as conn:
        return tuple(_moved(*row) for row in conn.execute(QUERY.format("%s").encode(), (after,)))


def _moved(revision: int, start_id: str, asked: str, before: int | None, standing: str) -> Moved:
    stands = json.loads(standing)
    state = stands["state"]
    return Moved(
        revision=revision,
        start_id=start_id,
        labels=json.loads(asked).get("labels", {}),
        before=before,
        state=state,
        is_done=state in TERMINAL or (state == UNCERTAIN and "next" not in stands),
    )
