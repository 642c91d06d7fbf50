"""What can be read: each is a function of a connection, in one view of the whole.

Every page is bounded by the rows it reads, not only by those it returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.errors import RevisionNotAvailable
from gateway.model import (
    Change,
    State,
)
from gateway.store.connection import Values
from gateway.store.rows import (
    ASKED_WIDTH,
    REACHED,
    START_COLUMNS,
    decode,
    decode_start,
    to_micros,
)
from gateway.store.unreadable import readable
from gateway.store.words import Changes, Page, Undone

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.model import Filter, FlowStart
    from gateway.store.connection import Connection

SCANNED = 5_000  # rows read for one page at the most: a filter that matches nothing costs no more


def head(conn: Connection) -> int:
    """Reads the newest revision ever given."""
    (newest,) = conn.one("select head from commits order by head desc limit 1")
    return int(newest)


def oldest(conn: Connection) -> int:
    """Reads the revision up to which changes were purged."""
    (purged,) = conn.one("select value from meta where key = 'purged_through'")
    return int(purged)


def changes(conn: Connection, after: int, limit: int) -> Changes:
    """Reads changes after a revision; raises `RevisionNotAvailable` if they are not kept or not there yet."""
    purged, newest = oldest(conn), head(conn)
    if not purged <= after <= newest:
        raise RevisionNotAvailable(
            message=f"Revision {after} is not available: {purged} to {newest} are kept. Watch again without"
            " after_revision to begin with a snapshot.",
            metadata={"oldest_revision": str(purged), "newest_revision": str(newest)},
        )
    read: list[Change] = []
    while len(read) < limit:  # what is set aside makes no page short: a short one is the last
        rows = conn.rows(
            f"select {START_COLUMNS}, c.revision, c.standing, c.state_before from changes c"
            " join starts s on s.id = c.start_id where c.revision > $1 order by c.revision limit $2",
            after,
            limit - len(read),
        )
        if not rows:
            return Changes(changes=tuple(read), through=newest)
        after = rows[-1][-3]
        is_last = len(rows) < limit - len(read)
        read += readable("change", rows, decode_change, name=-3)
        if is_last:
            return Changes(changes=tuple(read), through=newest)
    return Changes(changes=tuple(read), through=after)


def decode_change(row: tuple[Any, ...]) -> Change:
    """Reads a change from `START_COLUMNS`, its revision, its standing and the state before it."""
    *start, revision, standing, before = row
    flow_start = decode_start((*start[:-2], revision, standing))
    return Change(flow_start=flow_start, state_before=None if before is None else State(before))


def start(conn: Connection, tenant: str | None, start_id: str) -> FlowStart | None:
    """Reads a start, params included."""
    row = conn.row(f"select {START_COLUMNS}, s.params from starts s where s.id = $1 and {REACHED}", start_id, tenant)
    return None if row is None else decode_start(row, row[-1])


def carries(conn: Connection, start_id: str, external_id: str) -> bool:
    """Tells whether a start has a dispatch with an external id."""
    row = conn.row(
        "select 1 from dispatches d join starts s on s.id = d.start_id"
        " where d.external_id = $1 and /*unled*/ d.start_id = $2 and s.erased = 0",
        external_id,
        start_id,
    )
    return row is not None


def page(
    conn: Connection,
    tenant: str | None,
    selected: Filter,
    ids: frozenset[str],
    bound: tuple[str, int, str],
    limit: int,
) -> Page:
    """Reads a page in revision order; a page may be short where few of many rows match."""
    comparison, revision, direction = bound
    values = Values()
    where: str = "s.erased = 0" if tenant is None else f"s.tenant = {values.put(tenant)}"
    # These have an index; the rest is matched row by row, so that a page is bounded.
    if selected.request_id and tenant is not None:
        where += f" and s.request_id = {values.put(selected.request_id)}"
    if selected.external_id:
        where += (
            f" and s.id in (select start_id from dispatches where external_id = {values.put(selected.external_id)})"
        )
    if ids:
        where += f" and s.id in ({values.put([*ids])}...)"
    # Else an engine may go through all revisions of the tenant where a few ids are told.
    unled = "/*unled*/ " if ids or selected.external_id else ""
    filters = _filters(selected)
    rows = (
        f"from starts s where {unled}{where} and {unled}s.revision {comparison} {values.put(revision)}"
        f" order by {unled}s.revision {direction} limit {values.put(SCANNED if filters else limit)}"
    )
    chosen = [*values.all]
    if filters:  # of so many rows and no more
        matching = " and ".join(text.format(*map(values.put, wanted)) for text, *wanted in filters)
        statement = f"select * from (select {START_COLUMNS}, s.state {rows}) rows where {matching}"
        read = conn.rows(f"{statement} limit {values.next}", *values.all, limit)
    else:
        read = conn.rows(f"select {START_COLUMNS} {rows}", *chosen)
    found = tuple(readable("start", read, decode_start))
    last = int(read[-1][ASKED_WIDTH]) if len(read) == limit else None
    if filters and last is None:  # where it ends that was gone through, if there may be more behind it
        through = f"select revision from (select s.revision {rows}) rows limit 1 offset ${len(chosen) + 1}"
        row = conn.row(through, *chosen, SCANNED - 1)
        last = None if row is None else int(row[0])
    return Page(flow_starts=found, head=head(conn), next_position=last)


_IS_DONE = (
    "(s.state in (COMPLETED, FAILED, INTERRUPTED) or (s.state = UNCERTAIN"
    " and field_of(s.standing, 'state') is not null and field_of(s.standing, 'next') is null))"
)
"""What `Standing.is_done` says, of rows. What cannot be read is not done."""


def undone(conn: Connection, tenant: str | None, ids: Collection[str], since: int) -> Undone:
    """Reads which of these starts do not exist, and which are not done or have changed since a revision.

    Reads no start as a whole, and returns one row: each row costs a reader a wait for the interpreter.
    """
    missing, moving = conn.one(
        "select list_of(wanted.value) filter (where s.id is null), list_of(s.id)"
        f" filter (where s.revision > $2 or not {_IS_DONE}) from each_of($1) wanted"
        " left join starts s on s.id = wanted.value and s.erased = 0 and s.tenant = coalesce($3, s.tenant)",
        [*ids],
        since,
        tenant,
    )
    moving = frozenset(decode(moving or "[]"))
    return Undone(missing=frozenset(decode(missing or "[]")), undone=frozenset(each for each in ids if each in moving))


def _filters(selected: Filter) -> list[tuple[Any, ...]]:
    """Says what `Filter.selects` does, of rows: conditions, and the values that have a place in each.

    An engine goes through thousands of rows much faster than this does.
    """
    filters: list[tuple[Any, ...]] = []
    if selected.backends:
        filters.append(("backend in ({}...)", sorted(selected.backends)))
    if selected.flow:
        filters.append(("flow = {}", selected.flow))
    if selected.states:
        filters.append(("state in ({}...)", sorted(selected.states)))
    if selected.request_id:
        filters.append(("request_id = {}", selected.request_id))
    filters += [("label_of(asked, {}) = {}", *label) for label in selected.labels.items()]
    if selected.created_from is not None:
        filters.append(("created_at >= {}", to_micros(selected.created_from)))
    if selected.created_to is not None:
        filters.append(("created_at < {}", to_micros(selected.created_to)))
    return filters
