"""Opens whichever store the settings name. PostgreSQL is an extra, so it is imported only when it is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from gateway.store.engine import StoreUnusable
from gateway.store.sqlite import open_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta
    from pathlib import Path

    from gateway.store.committing import Timed
    from gateway.store.postgres.engine import PostgresStore
    from gateway.store.sqlite import SqliteStore

    OpenedStore: TypeAlias = "SqliteStore | PostgresStore"


def open_store(
    named: Path | str,
    clock: Callable[[], datetime],
    timed: Timed,
    monotonic: Callable[[], float],
    *,
    lease: timedelta,
    hears: str | None,
) -> OpenedStore:
    """Opens a store: SQLite's is a path, PostgreSQL's an address. Raises `StoreUnusable`.

    `lease` and `hears` are for where several gateways have one: see `open_postgres`.
    """
    if not isinstance(named, str):
        return open_sqlite(named, clock, timed, monotonic=monotonic)
    require_postgres()
    from gateway.store.postgres.engine import open_postgres  # noqa: PLC0415 -- an extra

    return open_postgres(named, clock, timed, monotonic=monotonic, lease=lease, hears=hears)


def require_postgres() -> None:
    """Raises `StoreUnusable` if what talks to PostgreSQL is not installed."""
    try:
        import psycopg  # noqa: F401, PLC0415 -- as above
    except ImportError as error:
        msg = (
            "`store` (STARTFLOW_STORE) is PostgreSQL, and psycopg is not installed, or has no libpq. Install it with"
            " `pip install startflow-gateway[postgres]`."
        )
        raise StoreUnusable(msg) from error
