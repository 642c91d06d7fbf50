"""What a store knows of having been copied into another one: nobody serves from it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.store.engine import StoreUnusable

if TYPE_CHECKING:
    from gateway.store.connection import Connection

MOVED_TO = "moved_to"  # in `meta`


def moved_to(conn: Connection) -> str | None:
    """Names the store that this one was copied into, if it was."""
    row = conn.row("select value from meta where key = $1", MOVED_TO)
    return None if row is None else str(row[0])


def refuse_moved(conn: Connection, place: object) -> None:
    """Raises `StoreUnusable` if it was copied into another one: what is sent from there is unknown here."""
    if (there := moved_to(conn)) is not None:
        msg = (
            f"The store {place} was moved to {there}: set `store` (STARTFLOW_STORE) to that. Whoever served from this"
            " one would send again what was sent from there."
        )
        raise StoreUnusable(msg)


def mark_moved(conn: Connection, there: str) -> None:
    """Notes where it was copied to."""
    conn.run("insert into meta values ($1, $2) on conflict (key) do update set value = $2", MOVED_TO, there)
