"""Forgets what is older than the configured time, and has expire what no lane sends, in small steps."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from gateway.errors import Unavailable
from gateway.loops import came_round, is_alive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from datetime import datetime

    from gateway.store import Keeping

log = structlog.get_logger()

STEP_PAUSE = 0.05  # seconds between steps, so that what callers wait for goes first
LONGEST_PAUSE = timedelta(minutes=1)  # between rounds
SHARE = 10  # of the time for which everything is kept: rounds come that often in it, at the least


class Upkeep:
    """Has expire what no lane claims: what is held, and what is of backends that are configured no more."""

    def __init__(
        self,
        store: Keeping,
        adopt: Callable[[], Awaitable[Iterable[str]]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._adopt = adopt  # returns the backends that no gateway has, and whose lanes this one keeps
        self._is_ours = is_ours  # whether no other gateway does it
        self._sleep = sleep

    async def run(self) -> None:
        """Does one round after the other; one that a store which is down has cut short is done by the next."""
        while True:
            try:
                await self.round()
                came_round()
            except Unavailable as error:
                log.warning("upkeep_interrupted", reason=error.reason)
            await self._sleep(LONGEST_PAUSE.total_seconds())

    async def round(self) -> None:
        """Settles, once, backends without a lane, held dispatches, and progress that no gateway has announced."""
        if not self._is_ours():
            return
        await self._store.tell_behind()
        for backend in await self._adopt():
            while (await self._store.claim(backend, 0)).ends_more:  # claims nothing; ends what is over
                is_alive()
                await self._sleep(STEP_PAUSE)
        position = await self._store.expire_held()
        while position is not None:
            is_alive()
            await self._sleep(STEP_PAUSE)
            position = await self._store.expire_held(position)


class Retention:
    """Forgets, round after round, the changes and the finished starts of one store that are old enough."""

    def __init__(
        self,
        store: Keeping,
        kept_for: timedelta,
        clock: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._is_ours = is_ours  # whether no other gateway does it
        self._kept_for = kept_for
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Does one round after the other."""
        pause = min(LONGEST_PAUSE, self._kept_for / SHARE).total_seconds()
        while True:
            if self._is_ours():
                await self._round()
            came_round()
            await self._sleep(pause)

    async def _round(self) -> None:
        """Forgets what is old by now; what a store that is down keeps from it is left for the next round."""
        before, rows = self._clock() - self._kept_for, 0  # the same for all steps, so that the round has an end
        try:
            while forgotten := await self._store.purge(before):
                rows += forgotten
                is_alive()
                await self._sleep(STEP_PAUSE)
        except Unavailable as error:
            log.warning("purge_interrupted", reason=error.reason, rows=rows)
            return
        if rows:
            log.info("purged", rows=rows, before=before.isoformat())
