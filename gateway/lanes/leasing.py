"""Which lanes this gateway works, where several have one store.

Rules:

1. A lane is worked only while its lease lasts. The end is counted from before the renewal was sent, by the monotonic
   clock, so the owner stops before any other gateway takes over.
2. Each gateway computes from the same rows which lanes are its own: see `share`. It gives the others up once their last
   answer is in, and renews them until then.
3. A gateway that has lost a lane begins nothing there. What it had begun goes on, and its answers are recorded.
4. If no gateway has a lane's backend in its settings any more, one gateway takes the lane and ends what waits there.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from gateway.errors import Unavailable
from gateway.loops import came_round
from gateway.store import LANE, UPKEEP, Held, Life

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

    from gateway.store import Leasing

log = structlog.get_logger()

RENEWALS = 4  # of a lease, while it lasts
LOOKS = 8  # at who lives and has what, while it lasts; and
PAUSE = 1.0  # seconds between two of them at the most
AGAIN = 0.5  # seconds after the store could not be asked
WITHIN = 60.0  # seconds for a round
_EVERYTHING = (UPKEEP, "")  # what is done for all backends


class Lease:
    """The right to work a lane, until a moment by `time.monotonic`; without one, for good."""

    def __init__(self, ends_at: float = math.inf, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.ends_at = ends_at
        self._monotonic = monotonic

    @property
    def left(self) -> float:
        """For how many seconds it lasts."""
        return self.ends_at - self._monotonic()


class Leases:
    """Those of one gateway. `begin` and `end` are called when it has a lane, and when it is to have it no more."""

    def __init__(
        self,
        store: Leasing,
        life: Life,
        runs_on: Mapping[str, timedelta],
        *,
        begin: Callable[[str, Lease], Awaitable[None]],
        end: Callable[[str], Awaitable[None]],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._life = life
        self._runs_on = runs_on  # how long what another one has begun may still run, by backend
        self._begin = begin
        self._end = end
        self._monotonic = monotonic
        self._sleep = sleep
        self._held: dict[tuple[str, str], Lease] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._orphans: frozenset[str] = frozenset()  # backends that no gateway had, when it was last looked
        self._came: dict[int, float] = {}  # when others were first seen, by their numbers
        self._renew_at = -math.inf
        self._standing = Held(me=0, lives={}, owners={})
        self._draining = False

    async def run(self) -> None:
        """Renews and takes until cancelled; where leases have no end, until it has all."""
        while True:
            pause = AGAIN
            try:
                await self.look()
                came_round()
                if self._store.lease is None:
                    if all((LANE, name) in self._held for name in self._runs_on):
                        return
                else:
                    pause = min(PAUSE, self._store.lease.total_seconds() / LOOKS)
            except Unavailable as error:
                log.error("leases_not_renewed", reason=error.reason)
            await self._sleep(pause)

    async def look(self) -> None:
        """Renews what it has if it is time to, takes what is its own and free, and begins to give up what is not."""
        if self._store.lease is not None and self._monotonic() >= self._renew_at:
            await self._renew(self._store.lease)
        self._standing = standing = await self._store.standing()
        self._orphans -= standing.others
        if self._draining:
            return
        whose, settled = share(standing, self._life), share(self._settled(standing), self._life)
        if standing.owners.get(_EVERYTHING) is None:
            await self._take(*_EVERYTHING)
        for name in self._runs_on:
            if whose.get(name) == standing.me and (LANE, name) not in self._held and name not in self._ending:
                await self._take(LANE, name)
        for (kind, name), owner in standing.owners.items():  # as after an answer that was lost
            if owner == standing.me and (kind, name) not in self._held and self._store.lease is not None:
                await self._store.give_up(kind, [name])
        for kind, name in list(self._held):
            if kind == LANE and settled.get(name, standing.me) != standing.me and name not in self._ending:
                self._ends(name, self._hand_over(name))

    def _settled(self, standing: Held) -> Held:
        """Leaves those out that have only just come: one that ends again and again takes no lane from others."""
        now = self._monotonic()
        self._came = {number: self._came.get(number, now) for number in standing.lives}
        lasts = 0.0 if self._store.lease is None else self._store.lease.total_seconds()
        lives = {number: life for number, life in standing.lives.items() if now - self._came[number] >= lasts}
        return replace(standing, lives=lives)

    def has_everything(self) -> bool:
        """Whether what is done for all backends is this gateway's to do."""
        return _EVERYTHING in self._held

    def elsewhere(self, name: str) -> str:
        """Says who works a lane, if it is not this gateway."""
        if (LANE, name) in self._held:
            return ""
        owner = self._standing.owners.get((LANE, name))
        life = None if owner is None else self._standing.lives.get(owner)
        if life is None:
            return "No gateway works it at the moment; one will in a few seconds."
        return f"Another gateway works it, the one that listens on {life.at}: how the backend is, is told there."

    async def adopt(self, backends: Iterable[str]) -> list[str]:
        """Takes the lanes of those backends that no gateway has; returns those that it has for that reason.

        Beside others it takes none at first sight: a gateway that has it may only be starting anew.
        """
        orphans = sorted(set(backends) - self._runs_on.keys() - self._standing.others)
        is_alone = self._standing.lives.keys() <= {self._standing.me}
        adopted = []
        for name in orphans:
            may_take = not self._draining and (is_alone or name in self._orphans)
            if (LANE, name) in self._held or (may_take and await self._take(LANE, name)):
                adopted.append(name)
        self._orphans = frozenset(orphans)
        return adopted

    async def drain(self) -> None:
        """Takes nothing more, and says so: what it gives up after this is for others."""
        self._draining, self._life = True, Life(at=self._life.at, backends=frozenset())
        if self._store.lease is not None:
            with suppress(Unavailable):
                await self._renew(self._store.lease)

    async def give_up(self) -> None:
        """Leaves what it has to others, at once. Nothing of it may be worked any more."""
        for task in self._ending.values():
            task.cancel()
        if self._store.lease is None:
            return
        by_kind: dict[str, list[str]] = {}
        for kind, name in self._held:
            by_kind.setdefault(kind, []).append(name)
        self._held.clear()
        with suppress(Unavailable):
            for kind, names in by_kind.items():
                await self._store.give_up(kind, names)

    async def _take(self, kind: str, name: str) -> bool:
        lasts, began = self._store.lease, self._monotonic()
        runs_on = self._runs_on.get(name, max(self._runs_on.values(), default=timedelta()))
        fence = await self._store.take(kind, name, runs_on=runs_on)
        if fence is None:
            return False
        ends_at = math.inf if lasts is None else began + lasts.total_seconds()
        lease = self._held[kind, name] = Lease(ends_at, self._monotonic)
        if kind == LANE and name in self._runs_on:
            if lasts is not None:
                log.info("lane_taken", backend=name, fence=fence)
            await self._begin(name, lease)
        return True

    async def _renew(self, lasts: timedelta) -> None:
        began = self._monotonic()
        has = await self._store.renew(self._life)
        self._renew_at = began + lasts.total_seconds() / RENEWALS
        for key, lease in list(self._held.items()):
            if key in has:
                lease.ends_at = began + lasts.total_seconds()
                continue
            lease.ends_at = -math.inf
            del self._held[key]
            kind, name = key
            if kind == LANE and name not in self._ending:
                log.warning("lane_lost", backend=name)
                self._ends(name, self._stop(name))

    async def _hand_over(self, name: str) -> None:
        """Gives up a lane once the last answer is in."""
        log.info("lane_handed_over", backend=name)
        await self._stop(name)
        while True:
            try:
                await self._store.give_up(LANE, [name])
            except Unavailable:
                await self._sleep(AGAIN)
            else:
                break
        self._held.pop((LANE, name), None)

    async def _stop(self, name: str) -> None:
        if name in self._runs_on:
            await self._end(name)

    def _ends(self, name: str, ending: Coroutine[None, None, None]) -> None:
        """Ends the work on a lane beside everything else: it waits for answers."""
        task = self._ending[name] = asyncio.create_task(ending)
        task.add_done_callback(lambda _: self._ending.pop(name))


def share(standing: Held, own: Life) -> dict[str, int]:
    """Returns which gateway should work which lane: the same at each of them, as long as they see the same rows.

    Whoever has a lane goes on with it, up to its share of all. What is left goes to whoever has least, of those that
    have the backend.
    """
    lives = {**standing.lives, standing.me: own}
    names = sorted({name for life in lives.values() for name in life.backends})
    most = -(-len(names) // len(lives))
    counts: Counter[int] = Counter()
    whose: dict[str, int] = {}
    for name in names:
        owner = standing.owners.get((LANE, name))
        if owner in lives and name in lives[owner].backends and counts[owner] < most:
            whose[name] = owner
            counts[owner] += 1
    for name in names:
        if name not in whose:
            able = [number for number, life in lives.items() if name in life.backends]
            whose[name] = min(able, key=lambda number: (counts[number], number))
            counts[whose[name]] += 1
    return whose
