"""How much waits, is uncertain or stands still: what an operator watches. Each read is bounded or finds its index."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from gateway.model import State
from gateway.store.reads import head
from gateway.store.rows import UNREADABLE
from gateway.store.tally import Tally
from gateway.store.words import Measures

if TYPE_CHECKING:
    from gateway.store.connection import Connection

COUNTED = 10_000  # rows; more of them are no other news
FIRST = 20  # dispatches that are due first, among which those are that were tried in vain; and tenants
MICROS = 1_000_000


def measure(conn: Connection, now: int) -> Measures:
    """Reads it; `now` is in microseconds."""
    unsent: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    waited: dict[str, float] = {}
    for backend, scheduled, count in conn.rows("select backend, scheduled, unsent from totals where unsent > 0"):
        unsent[scheduled][backend] += count
    for backend in set(unsent[0]) | set(unsent[1]):
        for tenant in _waiting(conn, backend):
            waited[backend] = max(waited.get(backend, 0.0), _waited(conn, tenant, backend, now))
    uncertain: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for backend, is_sought, count in conn.rows(
        "select backend, is_sought, count(*) from (select backend, sought_from is not null as is_sought"
        " from dispatches /*by dispatches_unsure*/ where state = UNCERTAIN limit $1) rows group by 1, 2",
        COUNTED,
    ):
        uncertain[is_sought][backend] += count
    stalled = conn.rows(
        "select backend, count(*) from (select backend from dispatches /*by dispatches_stalled*/"
        " where stalled = 1 limit $1) rows group by 1",
        COUNTED,
    )
    return Measures(
        head=head(conn),
        unsent=unsent[0],
        scheduled=unsent[1],
        waited=waited,
        resting=uncertain[0],
        sought=uncertain[1],
        stalled=dict(stalled),
    )


def pending(conn: Connection, backend: str, now: int) -> int:
    """Counts what is unsent and due, without what is being sent."""
    counted = conn.one(
        "select coalesce((select unsent from totals where backend = $1 and scheduled = 0), 0)"
        " - (select count(*) from dispatches /*by dispatches_claimed*/"
        " where claimed_by > HELD"
        " and backend = $1 and state = PENDING)",
        backend,
    )
    come_due = conn.rows(
        "select tally from starts /*by starts_scheduled*/ where backend = $1 and scheduled = 1"
        " and state not in (COMPLETED, FAILED, INTERRUPTED) and due_at <= $2 limit $3",
        backend,
        now,
        COUNTED,
    )
    return int(counted[0]) + sum(_unsent(tally) for (tally,) in come_due)


def _unsent(tally: str) -> int:
    try:
        return Tally.decode(tally).dispatches.get(State.PENDING, 0)
    except UNREADABLE:
        return 0


def _waiting(conn: Connection, backend: str) -> list[str]:
    """Returns tenants that may have waited longest: those whose turn is next, and those that are due first."""
    rows = conn.rows(
        "select * from (select tenant from turns where backend = $1 and ready = 1 order by turn, tenant limit $2) rows"
        " union select * from (select tenant from turns where backend = $1 and ready = 0 and due_at is not null"
        " order by due_at limit $2) rows",
        backend,
        FIRST,
    )
    return [tenant for (tenant,) in rows]


def _waited(conn: Connection, tenant: str, backend: str, now: int) -> float:
    """Tells for how many seconds a tenant has waited: since the first attempt, or since it was due if there is none."""
    (since,) = conn.one(
        "select min(since) from (select coalesce((select a.begun_at from attempts a where a.dispatch_id = d.id"
        " and a.number = 1), d.due_at) as since from dispatches d where d.backend = $1 and d.tenant = $2"
        " and d.state = PENDING and d.claimed_by is null and d.in_line = 0 order by d.due_at limit $3) rows",
        backend,
        tenant,
        FIRST,
    )
    return 0.0 if since is None else max(0, now - since) / MICROS
