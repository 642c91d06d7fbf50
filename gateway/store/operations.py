"""Everything that a store does, on whichever engine: which transactions and reads each operation is made of.

What each does is said once, in `protocols.py`; how, where its transaction or its read is.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakValueDictionary

from gateway.store import (
    accounts,
    claiming,
    creating,
    details,
    expiring,
    lane_reads,
    leases,
    measuring,
    reads,
    stopping,
)
from gateway.store.accounts import Names, SettleAccount
from gateway.store.answering import Answer
from gateway.store.claiming import Claim, Release
from gateway.store.creating import Creation
from gateway.store.engine import Engine, Room
from gateway.store.expiring import Expire
from gateway.store.finding import Absent, Rest, Sight
from gateway.store.leases import GiveUp, Renew, Take
from gateway.store.purging import Purge
from gateway.store.recovering import TellBehind
from gateway.store.replacing import Replace, Spare
from gateway.store.rows import to_micros
from gateway.store.sending import Beginning
from gateway.store.stopping import AskToEnd, Cancel, MarkStalled, Resolve, StopWatching
from gateway.store.words import NO_LIMITS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    from gateway.model import Asked, Dispatch, Filter, FlowStart, Identity, Json, Notice, Recipients, Resolution, State
    from gateway.sightings import Control, Sighting, Sought, Window
    from gateway.store.connection import Connection
    from gateway.store.transaction import Later, Transaction
    from gateway.store.words import (
        Changes,
        Claims,
        Held,
        HeldPosition,
        HistoryPage,
        HistoryPosition,
        Kept,
        Life,
        Measures,
        Page,
        RecipientsPage,
        Recorded,
        Settlement,
        Terms,
        Undone,
    )

T = TypeVar("T")
E = TypeVar("E", bound=Engine)

CONTROLS = 200  # accepted dispatches that a list must show to be believed
REST = 0.05  # seconds between steps of cancelling and resolving
WATCH = "/watch"  # who reads, beside the lanes: no backend has such a name
NEWEST = 2**63 - 1  # above every revision


class Operations(Generic[E]):
    """A store on an engine."""

    def __init__(self, engine: E) -> None:
        self.engine = engine
        self.epoch, self.broken, self.lease = engine.epoch, engine.broken, engine.lease
        self._cancelling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by tenant

    @property
    def is_well(self) -> bool:
        return not self.engine.trouble

    @property
    def trouble(self) -> str:
        return self.engine.trouble

    @property
    def is_writing(self) -> bool:
        return self.engine.is_writing

    def listen(self, listener: Callable[[int], None], backend: str | None = None) -> None:
        self.engine.listen(listener, backend)

    async def look(self) -> None:
        await self.engine.look()

    async def check(self) -> None:
        await self.engine.check()

    async def close(self) -> None:
        await self.engine.close()

    # --- writing

    async def create(
        self,
        asked: Asked,
        plan: Sequence[Recipients],
        *,
        fingerprint: str,
        warnings: tuple[Notice, ...],
        terms: Terms,
    ) -> Recorded:
        return await self._write(Creation(asked, plan, fingerprint, warnings, terms))

    async def cancel(self, tenant: str | None, start_id: str, *, can_end: bool) -> FlowStart | None:
        step = Cancel(tenant, start_id, can_end)
        more = await self._write(step)
        turns = self._cancelling.setdefault(tenant or "", asyncio.Lock())
        while more:  # a bounded number in one write, so that large starts hold nobody up, however many a tenant has
            async with turns:
                more = await self._write(step)
                if more:
                    await rest()
        return await self.get(tenant, start_id)

    async def resolve(self, tenant: str | None, start_id: str, resolution: Resolution) -> FlowStart | None:
        open_ones = await self._point(tenant, lambda conn: stopping.unresolved(conn, tenant, start_id, resolution))
        if open_ones is None:
            return None
        first, *others = _steps(open_ones)
        moved = await self._write(Resolve(first, resolution))
        turns = self._cancelling.setdefault(tenant or "", asyncio.Lock())
        for some in others:  # as in `cancel`
            async with turns:
                await rest()
                moved += await self._write(Resolve(some, resolution))
        if not moved:
            raise stopping.nothing_to_resolve()
        return await self.get(tenant, start_id)

    async def claim(
        self,
        backend: str,
        limit: int,
        limits: Mapping[str, int] = NO_LIMITS,
        *,
        slow: Collection[str] = (),
        slow_limit: int = 0,
        ends: bool = True,
    ) -> Claims:
        return await self._write(Claim(backend, limit, limits, slow, slow_limit, ends))

    async def release(self, dispatch_id: str, due_at: datetime | None) -> None:
        await self._write(Release(dispatch_id, due_at))

    async def begin_attempt(self, dispatch_id: str, *, account: str, since: datetime) -> int | None:
        return await self._write(Beginning(dispatch_id, account, since))

    async def record(self, dispatch_id: str, attempt: int, settlement: Settlement) -> None:
        await self._write(Answer(dispatch_id, attempt, settlement))

    async def sight(self, backend: str, sightings: Sequence[Sighting], *, account: str) -> int:
        return await self._write(Sight(backend, sightings, account))

    async def absent(self, sought: Sought, *, on_absent: State, pause: timedelta) -> None:
        await self._write(Absent(sought, on_absent, pause))

    async def rest(self, sought: Sought) -> None:
        await self._write(Rest(sought))

    async def hold(self, backend: str, identity: Identity | None, formerly: Collection[str] = ()) -> int:
        names = await self._write(Names(backend, identity, formerly))
        account = identity.account if identity else None
        held: set[str] = set()
        found = [""]
        while found := await self._read(partial(accounts.strangers, backend=backend, account=account, after=found[-1])):
            for some in _steps(found):
                held |= await self._write(SettleAccount(account, names, some))
        return len(held)

    async def expire_held(self, after: HeldPosition | None = None) -> HeldPosition | None:
        now = to_micros(self.engine.now()) or 0
        found, position = await self._read(lambda conn: expiring.expired(conn, now, after or ("", 0)))
        if found:
            await self._write(Expire(found))
        return position

    async def ending(self, dispatch_id: str) -> bool:
        return await self._write(AskToEnd(dispatch_id))

    async def spare(self, dispatch_id: str) -> None:
        await self._write(Spare(dispatch_id))

    async def replaceable(self, dispatch_id: str, external_id: str) -> Dispatch | Kept | None:
        return await self._write(Replace(dispatch_id, external_id))

    async def mark_stalled(self, backend: str, before: datetime) -> int:
        marked, step = 0, MarkStalled(backend, to_micros(before) or 0)
        while await self._write(StopWatching(backend)):
            pass
        while some := await self._write(step):
            marked += some
        return marked

    async def take(self, kind: str, name: str, *, runs_on: timedelta) -> int | None:
        return await self._write(Take(kind, name, self.lease, runs_on))

    async def renew(self, life: Life) -> frozenset[tuple[str, str]]:
        return await self._write(Renew(self.lease, life))

    async def give_up(self, kind: str, names: Collection[str]) -> None:
        await self._write(GiveUp(kind, names))

    async def tell_behind(self) -> None:
        after = await self._write(TellBehind())
        while after:
            after = await self._write(TellBehind(after))

    async def purge(self, before: datetime) -> int:
        return await self._write(Purge(to_micros(before) or 0))

    # --- reading

    async def sends(self, backend: str, within: timedelta, limit: int) -> tuple[tuple[float, str], ...]:
        now = self.engine.now()
        return await self._read(lambda conn: lane_reads.sends(conn, backend, now, within, limit), backend)

    async def find_request(self, tenant: str, request_id: str) -> Recorded | None:
        return await self._point(tenant, lambda conn: creating.find_request(conn, tenant, request_id))

    async def get(self, tenant: str | None, start_id: str) -> FlowStart | None:
        return await self._point(tenant, lambda conn: reads.start(conn, tenant, start_id))

    async def list(self, tenant: str | None, selected: Filter, *, before: int | None, limit: int) -> Page:
        below = NEWEST if before is None else before
        return await self._scan(
            tenant, lambda conn: reads.page(conn, tenant, selected, frozenset(), ("<", below, "desc"), limit)
        )

    async def snapshot(
        self, tenant: str | None, selected: Filter, ids: frozenset[str], *, after: int, limit: int
    ) -> Page:
        return await self._stream(
            tenant, lambda conn: reads.page(conn, tenant, selected, ids, (">", after, "asc"), limit)
        )

    async def undone(self, tenant: str | None, ids: frozenset[str], *, since: int) -> Undone:
        return await self._stream(tenant, lambda conn: reads.undone(conn, tenant, ids, since))

    async def head(self) -> int:
        return await self._read(reads.head, WATCH)

    async def oldest(self) -> int:
        return await self._read(reads.oldest, WATCH)

    async def changes(self, after: int, limit: int, *, asker: str | None = None) -> Changes:

        def read(conn: Connection) -> Changes:
            return reads.changes(conn, after, limit)

        return await (self._read(read, WATCH) if asker is None else self._stream(asker, read))

    async def recipients(
        self, tenant: str | None, start_id: str, *, after: tuple[int, int] | None, limit: int
    ) -> RecipientsPage | None:
        return await self._scan(
            tenant, lambda conn: details.recipients(conn, tenant, start_id, after or (1, -1), limit)
        )

    async def history(
        self, tenant: str | None, start_id: str, *, after: HistoryPosition | None, limit: int
    ) -> HistoryPage | None:
        return await self._scan(
            tenant, lambda conn: details.history(conn, tenant, start_id, after or details.BEGINNING, limit)
        )

    async def carries(self, start_id: str, external_id: str, *, asker: str | None) -> bool:
        return await self._stream(asker, lambda conn: reads.carries(conn, start_id, external_id))

    async def count_pending(self, backend: str) -> int:
        now = to_micros(self.engine.now()) or 0
        return await self._scan(None, lambda conn: measuring.pending(conn, backend, now))

    async def measure(self) -> Measures:
        now = to_micros(self.engine.now()) or 0
        return await self._read(lambda conn: measuring.measure(conn, now))

    async def windows(self, backend: str, account: str) -> tuple[Window, ...]:
        return await self._read(lambda conn: lane_reads.windows(conn, backend, account), backend)

    async def unseen(self, backend: str, account: str, shown: Collection[str]) -> frozenset[str]:
        return await self._read(lambda conn: lane_reads.unseen(conn, backend, account, shown), backend)

    async def running(self, backend: str, external_ids: Sequence[str]) -> tuple[Dispatch, ...]:
        return await self._read(lambda conn: lane_reads.running(conn, backend, external_ids), backend)

    async def news(self, backend: str, sightings: Sequence[Sighting]) -> tuple[Sighting, ...]:
        return await self._read(lambda conn: lane_reads.news(conn, backend, sightings), backend)

    async def sought(self, backend: str, account: str) -> tuple[Sought, ...]:
        now = to_micros(self.engine.now()) or 0
        return await self._read(lambda conn: lane_reads.sought(conn, backend, account, now), backend)

    async def controls(self, backend: str, account: str, before: datetime) -> tuple[Control, ...]:
        return await self._read(lambda conn: lane_reads.controls(conn, backend, account, before, CONTROLS), backend)

    async def running_controls(self, backend: str, account: str) -> tuple[Control, ...]:
        return await self._read(lambda conn: lane_reads.running_controls(conn, backend, account, CONTROLS), backend)

    async def params(self, dispatch_ids: Collection[str]) -> Mapping[str, Mapping[str, Json]]:
        return await self._read(lambda conn: lane_reads.params(conn, sorted(dispatch_ids)))

    async def unknown(self, backend: str, external_ids: Collection[str]) -> frozenset[str]:
        return await self._read(lambda conn: lane_reads.unknown(conn, backend, sorted(external_ids)), backend)

    async def endings(self, backend: str, account: str, limit: int) -> tuple[Dispatch, ...]:
        return await self._read(lambda conn: lane_reads.endings(conn, backend, account, limit), backend)

    async def standing(self) -> Held:
        return await self._read(partial(leases.standing, me=self.engine.incarnation))

    async def follow(self) -> None:
        await self.engine.follow()

    async def backends(self) -> frozenset[str]:
        return await self._read(lane_reads.backends)

    def _write(self, operation: Callable[[Transaction], T | Later[T]]) -> Awaitable[T]:
        """Writes, together with whatever else waits."""
        return self.engine.write(operation)

    async def _read(self, read: Callable[[Connection], T], who: str = "") -> T:
        """Reads what a part of the gateway needs; `who` is WATCH, or the backend whose lane it is."""
        return await self.engine.read(read, Room.OWN, who)

    async def _point(self, tenant: str | None, read: Callable[[Connection], T]) -> T:
        """Reads what a caller asked for by an id."""
        return await self.engine.read(read, Room.POINT, tenant or "")

    async def _scan(self, tenant: str | None, read: Callable[[Connection], T]) -> T:
        """Reads what a caller lists."""
        return await self.engine.read(read, Room.SCAN, tenant or "")

    async def _stream(self, tenant: str | None, read: Callable[[Connection], T]) -> T:
        """Reads what a watcher is behind of."""
        return await self.engine.read(read, Room.STREAM, tenant or "")


async def rest() -> None:
    """Lets other work go first between two steps of cancelling or resolving."""
    await asyncio.sleep(REST)


def _steps(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cuts rows into what the writer takes at once, so that many of them hold nobody up."""
    return (rows[first : first + claiming.AT_ONCE] for first in range(0, len(rows), claiming.AT_ONCE))
