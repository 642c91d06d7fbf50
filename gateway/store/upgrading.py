"""Brings the file of a stopped gateway to the schema of this version, without serving from it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from gateway.store.connecting import connect
from gateway.store.copies import TRY_AGAIN, opened, reading
from gateway.store.migrations import migrate, missing_steps
from gateway.store.sqlite import own, refuse_newer

if TYPE_CHECKING:
    from pathlib import Path


def upgrade(path: Path) -> list[str]:
    """Runs the steps that a store lacks, and returns their names.

    Raises `StoreUnusable` if there is no store, or one of a newer version, `StoreInUse` if a gateway serves from it.
    """
    with reading(path), opened(path) as found, closing(own(path, TRY_AGAIN)):
        refuse_newer(found, path)
        missing = missing_steps(found)
        with closing(connect(path)) as conn:
            migrate(conn)
    return missing
