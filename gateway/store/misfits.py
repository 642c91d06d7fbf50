"""What no query finds: rows that cannot be decoded, and starts that do not stand where their tally says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from gateway.model import TERMINAL, state_of
from gateway.store.rows import decode, decode_asked, decode_standing, unpack_recipients
from gateway.store.tally import Tally, progress_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.store.connection import Connection

T = TypeVar("T")


def unreadable_rows(conn: Connection) -> Iterator[str]:
    """Finds starts of which a row cannot be decoded."""
    tables: tuple[tuple[str, Callable[[str], object]], ...] = (
        ("select id, standing from starts where erased = 0", decode_standing),
        ("select id, tally from starts where erased = 0", Tally.decode),
        ("select id, params from starts where erased = 0", decode),
        ("select start_id, standing from changes", decode_standing),
        ("select start_id, recipients from dispatches", lambda text: unpack_recipients(decode(text))),
        ("select start_id, body from recipients", lambda text: [unpack_recipients(each) for each in decode(text)]),
    )
    hidden = {each for (each,) in conn.each("select id from starts where erased = 1")}
    for query, read in tables:
        yield from (each for each, text in conn.each(query) if each not in hidden and _decoded(read, text) is None)
    columns = "id, tenant, backend, flow, request_id, created_at, expire_at, asked"  # as `decode_asked` takes them
    for row in conn.each(f"select {columns} from starts where erased = 0"):
        if _decoded(decode_asked, row) is None:
            yield row[0]


def _decoded(read: Callable[[Any], T], value: object) -> T | None:
    """Returns what a text in a row says; None if it cannot be decoded."""
    try:
        return read(value)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError):
        return None


def misplaced_starts(conn: Connection) -> Iterator[str]:
    """Finds starts that do not stand where their tally says."""
    for start_id, state, behind, encoded, text in conn.each(
        "select id, state, behind, standing, tally from starts where erased = 0"
    ):
        standing, tally = _decoded(decode_standing, encoded), _decoded(Tally.decode, text)
        if standing is None or tally is None:
            continue  # `rows_can_be_read` has it
        stands = state_of(tally.dispatches)
        if (
            not state == standing.state == stands
            or standing.stalled is not (tally.stalled > 0)
            or (standing.ended_at is not None) is not (stands in TERMINAL)
            or (not behind and standing.progress != progress_of(tally))
        ):
            yield start_id
