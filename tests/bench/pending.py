"""Starts that wait to be sent: a store full of them, and the bodies that are posted for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.adapters.base import Account
from gateway.adapters.rapidpro.adapter import RapidPro
from gateway.model import Asked, CompletionMeaning, Dispatch, Recipients
from gateway.server.building import utc_now
from gateway.service.ids import new_id
from gateway.store import Terms
from gateway.store.sqlite import open_sqlite
from tests.bench.stub_backend import FLOW

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.store.sqlite import SqliteStore

BATCH = 500  # starts that are recorded at a time
PARAMS = {"first_name": "Ryan", "last_name": "Lewis"}


async def fill(path: Path, backends: Sequence[str], count: int) -> None:
    """Writes a store with pending starts of one URN, the same number for each backend."""
    store = open_sqlite(path, utc_now)
    share = count // len(backends)
    for backend in backends:
        for first in range(0, share, BATCH):
            some = range(first, min(first + BATCH, share))
            await asyncio.gather(*(_record(store, each, backend) for each in some))
    await store.close()


async def _record(store: SqliteStore, number: int, backend: str) -> None:
    now = utc_now()
    asked = Asked(
        id=new_id(now),
        tenant="default",
        backend=backend,
        flow=FLOW,
        recipient_count=1,
        params=PARAMS,
        created_at=now,
        completion_meaning=CompletionMeaning.RECIPIENTS_ENTERED,
    )
    await store.create(asked, [_recipients(number)], fingerprint="1:", warnings=(), terms=Terms())


def bodies(count: int) -> list[bytes]:
    """Builds the bodies that the gateway posts for such starts."""
    adapter, now = RapidPro(Account(credentials={"token": "0123456789ABCDEF"})), utc_now()
    dispatches = (
        Dispatch(id=f"{new_id(now)}-1", flow=FLOW, recipients=_recipients(n), params=PARAMS) for n in range(count)
    )
    return [next(adapter.send(each)).body for each in dispatches]


def _recipients(number: int) -> Recipients:
    return Recipients(urns=(f"tel:+1206{number:07}",))
