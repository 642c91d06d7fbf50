"""What statements may say beside the SQL of all engines, and what SQLite is told instead."""

from __future__ import annotations

import ast
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.store import connection
from gateway.store.connecting import SqliteConnection, in_sqlite
from gateway.store.invariants import INVARIANTS
from gateway.store.states import NAMES, Ending

WORDS = {
    "select 1 from d /*by d_due*/ where id = $1": "select 1 from d indexed by d_due where id = $1",
    "from moved /*first*/ join d on d.id = moved.id": "from moved cross join d on d.id = moved.id",
    "where /*unled*/ s.revision > $1": "where +s.revision > $1",
    "where a not in ($2...)": "where a not in (select value from json_each($2))",
    "from each_of($1) wanted": "from json_each($1) wanted",
    "least(a, $1), greatest(b, c)": "min(a, $1), max(b, c)",
    "state = PENDING and ending in (TO_END, ASKED)": "state = 1 and ending in (1, 2)",
    "claimed_by = HELD": "claimed_by = 0",
    "outcome in ('UNSURE', 'ACCEPTED')": "outcome in ('UNSURE', 'ACCEPTED')",
    "a is distinct from $1 and b is not distinct from $2": "a is not $1 and b is $2",
}


@pytest.fixture
def conn() -> SqliteConnection:
    """A connection to nothing that stays."""
    made = sqlite3.connect(":memory:", isolation_level=None, factory=SqliteConnection)
    made.execute("create table rows (id text primary key, body text) strict")
    return made


@pytest.mark.parametrize("said", WORDS)
def test_a_word_is_turned_into_sqlites(said: str) -> None:
    """Wherever it stands; what is quoted stays."""
    assert WORDS[said] == in_sqlite(said)


def test_every_word_of_the_list_is_tried_here() -> None:
    """Whoever adds one adds it to this file."""
    words = set(re.findall(r"\b([a-z]+_of|[a-z]+_in|least|greatest)\b|/\*(\w+)", connection.__doc__ or ""))
    tried = Path(__file__).read_text(encoding="utf-8")

    assert len(words) > 9
    assert [] == [word for pair in words for word in pair if word and word.lower() not in tried]


def test_what_is_in_json_is_read_and_what_is_none_is_null(conn: SqliteConnection) -> None:
    """A row that is damaged makes no statement fail."""
    bodies = ('{"n":7,"labels":{"a.b":"x"},"d":{"1":2}}', '[[["t"],[],["u"]]]', "?")
    with closing(conn):
        assert 3 == conn.insert("rows (id, body)", [(str(n), body) for n, body in enumerate(bodies)])
        assert [(7, "x", 0), (None, None, 1), (None, None, None)] == conn.rows(
            "select field_of(body, 'n'), label_of(body, $1), length_of(body) from rows order by id", "a.b"
        )
        assert [("0", "1", 2)] == conn.rows("select r.id, j.key, j.value from rows r, entries_of(r.body, 'd') j")
        assert [(1,), (2,), (None,)] == conn.rows("select texts_in(body) from rows order by id")
        assert ('["0","1","2"]',) == conn.one("select list_of(id) from rows")


def test_rows_are_handed_in_however_many(conn: SqliteConnection) -> None:
    """In parts, each row once and in its order; conflicts are not counted."""
    rows = [(str(n), str(n * n)) for n in range(1_000)]
    with closing(conn):
        assert 1_000 == conn.insert("rows (id, body)", rows)
        assert 1 == conn.insert("rows (id, body)", [*rows[:5], ("new", "0")], "on conflict (id) do nothing")
        assert rows == conn.over(
            "with named(id text, n bigint) as ($rows) select named.id, r.body from named"
            " /*first*/ join rows r on r.id = named.id order by named.n",
            [(name, n) for n, (name, _) in enumerate(rows)],
        )
        assert [] == conn.over("with named(id text) as ($rows) select id from named", [])
        assert [("1",), ("3",)] == conn.rows("select id from rows where id in ($1...) order by id", ["1", "3", "none"])


def test_no_two_states_share_a_name() -> None:
    """Else one of them would be said with the number of the other."""
    assert len(NAMES) == 1 + len(Ending) + len(set(NAMES) - {each.name for each in Ending} - {"HELD"})
    assert [0, 1, 2, 3] == [NAMES[each.name] for each in Ending]


def nameless(sql: str) -> list[str]:
    """Returns the subqueries in a `from` that have no name."""
    found = []
    for begins in re.finditer(r"\b(?:from|join)\s*\((?=select)", sql):
        end, depth = begins.end(), 1
        while depth and end < len(sql):
            depth += {"(": 1, ")": -1}.get(sql[end], 0)
            end += 1
        if depth == 0 and not re.match(r" (?:as )?(?!(?:where|join|on|group|order|union|limit|left)\b)\w", sql[end:]):
            found.append(sql[begins.start() : end])
    return found


def test_every_subquery_has_a_name() -> None:
    """PostgreSQL before 16 takes no other one; the server of these tests does."""
    said = [str(each.find) for each in INVARIANTS]
    for path in sorted(Path(connection.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                said.append("".join(str(each.value) if isinstance(each, ast.Constant) else "x" for each in node.values))
            elif isinstance(node, ast.Constant) and path.name != "schema.py":  # SQLite's own steps
                said.append(str(node.value))

    assert nameless("select a from (select 1 as a) where a") == ["from (select 1 as a)"]
    assert [] == [each for sql in said for each in nameless(sql)]
