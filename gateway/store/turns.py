"""Which tenants have something to send to a backend, and whose turn it is.

Rules:

1. Tenants take turns: the one that was served the longest ago is next. Newcomers are before all who were served, and of
   them the one who has waited longest.
2. A claim reads a bounded number of tenants, however many have something that is not due yet, or nothing at all.
   Triggers note in `turns` when each has something next (see `migrations.py`); here it is made exact when it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

AT_ONCE = 100  # tenants looked at in one claim; if there are more, the lane claims again at once

_FIRST_DUE = (
    "select min(due_at) from dispatches where backend = $1 and tenant = $2 and state = PENDING and claimed_by is null"
    " and in_line = 0"
)
_AWAKE = "tenant not in ($2...)"


def call(transaction: Transaction, backend: str) -> None:
    """Makes those tenants ready whose next dispatch is due by now, a bounded number of them."""
    transaction.conn.run(
        "update turns set ready = 1 where (backend, tenant) in (select backend, tenant from turns"
        " where backend = $1 and ready = 0 and due_at is not null and due_at <= $2 order by due_at limit $3)",
        backend,
        transaction.now_micros,
        AT_ONCE,
    )


def ready(conn: Connection, backend: str, limit: int, resting: Collection[str]) -> list[str]:
    """Returns the tenants whose turn is next, without those that rest."""
    rows = conn.rows(
        f"select tenant from turns where backend = $1 and ready = 1 and {_AWAKE}"
        " order by turn, due_at, tenant limit $3",
        backend,
        [*resting],
        limit,
    )
    return [tenant for (tenant,) in rows]


def serve(conn: Connection, backend: str, tenant: str) -> None:
    """Notes that a tenant has had its turn."""
    conn.run(
        "update turns set turn = 1 + (select max(turn) from (select max(turn) as turn from turns where backend = $1"
        " and ready = 0 union all select max(turn) from turns where backend = $1 and ready = 1) rows)"
        " where backend = $1 and tenant = $2",
        backend,
        tenant,
    )


def look_again(transaction: Transaction, backend: str, tenant: str) -> int | None:
    """Notes when a tenant has something to send next, and returns it; None if nothing waits."""
    conn = transaction.conn
    (due,) = conn.one(_FIRST_DUE, backend, tenant)
    if due is None or due > transaction.now_micros:
        conn.run("update turns set ready = 0, due_at = $1 where backend = $2 and tenant = $3", due, backend, tenant)
    return None if due is None else int(due)


def next_due(transaction: Transaction, backend: str, resting: Collection[str]) -> int | None:
    """Returns when the next dispatch can be claimed of a tenant that does not rest.

    Returns now if too many tenants had to be looked at.
    """
    conn, now = transaction.conn, transaction.now_micros
    asleep = [*resting]
    for _ in range(AT_ONCE):
        row = conn.row(
            "select tenant, noted from (select * from (select tenant, cast(null as bigint) as noted from turns"
            f" where backend = $1 and ready = 1 and {_AWAKE} order by turn, due_at, tenant limit 1) rows union all"
            " select * from (select tenant, due_at from turns where backend = $1 and ready = 0 and due_at is not null"
            f" and {_AWAKE} order by due_at limit 1) rows) rows limit 1",
            backend,
            asleep,
        )
        if row is None:
            return None
        tenant, noted = row
        due = look_again(transaction, backend, tenant)
        if due is not None and (due <= now or due == noted):
            return due
    return now
