"""How much waits, is uncertain or stands still: what an operator watches. Each read is bounded or finds its index."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from gateway.store import Measures
from gateway.store.reads import head

if TYPE_CHECKING:
    from sqlite3 import Connection

COUNTED = 10_000  # rows; more of them are no other news
FIRST = 20  # dispatches of a tenant that are due first, among which those are that were tried in vain
MICROS = 1_000_000


def measure(conn: Connection, now: int) -> Measures:
    """Reads it; `now` is in microseconds."""
    unsent: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    waited: dict[str, float] = {}
    backlogs = conn.execute("select tenant, backend, scheduled, unsent from backlogs where unsent > 0").fetchall()
    for _, backend, scheduled, count in backlogs:
        unsent[scheduled][backend] += count
    for tenant, backend in {(tenant, backend) for tenant, backend, *_ in backlogs}:
        waited[backend] = max(waited.get(backend, 0.0), _waited(conn, tenant, backend, now))
    uncertain: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for backend, is_sought, count in conn.execute(
        "select backend, is_sought, count(*) from (select backend, sought_from is not null as is_sought"
        " from dispatches indexed by dispatches_unsure where state = 7 limit ?) group by 1, 2",
        (COUNTED,),
    ):
        uncertain[is_sought][backend] += count
    stalled = conn.execute(
        "select backend, count(*) from (select backend from dispatches indexed by dispatches_stalled"
        " where stalled = 1 limit ?) group by 1",
        (COUNTED,),
    )
    return Measures(
        head=head(conn),
        unsent=unsent[0],
        scheduled=unsent[1],
        waited=waited,
        resting=uncertain[0],
        sought=uncertain[1],
        stalled=dict(stalled.fetchall()),
    )


def _waited(conn: Connection, tenant: str, backend: str, now: int) -> float:
    """Tells for how many seconds a tenant has waited: since the first attempt, or since it was due if there is none."""
    (since,) = conn.execute(
        "select min(since) from (select coalesce((select a.begun_at from attempts a where a.dispatch_id = d.id"
        " and a.number = 1), d.due_at) as since from dispatches d where d.backend = ? and d.tenant = ?"
        " and d.state = 1 and d.claimed_by is null order by d.due_at limit ?)",
        (backend, tenant, FIRST),
    ).fetchone()
    return 0.0 if since is None else max(0, now - since) / MICROS
