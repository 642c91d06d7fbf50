"""Reloads the configuration on SIGHUP, without holding up anything else."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.settings import Settings
    from gateway.doors.door import Door, Reread
    from gateway.lanes.lanes import Lanes
    from gateway.watch.stream import Watch

log = structlog.get_logger()


class Reload:
    """Can be told before there is anything to reload."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self._is_reading = False

    def tell(self) -> None:
        """Asks for a reload; one that has not read its files yet is followed by another."""
        if self._is_reading:
            log.warning("reload_waits", detail="the one before still waits for its files; this one follows it")
        self._told.set()

    async def run(self, door: Door, watch: Watch, lanes: Lanes, reread: Callable[[], Settings]) -> None:
        """Whenever it is told to, lets in who may come in now, and has streams end whose caller may not any more.

        Backends whose credentials are others now are asked and sent to with these.
        """
        while True:
            await self._told.wait()
            self._told.clear()  # before reading, so that what changes meanwhile is not missed
            self._is_reading = True
            try:
                outcome = await _outcome(partial(door.read, reread))
            finally:
                self._is_reading = False
            renewed = door.take(outcome)
            if renewed is None:
                continue
            watch.look_around()
            for name, chosen in renewed.items():
                await lanes.renew(name, chosen)


async def _outcome(function: Callable[[], Reread]) -> Callable[[], Reread]:
    """Returns what a function returns, or raises, once it has been called: beside the loop, for files may not answer.

    Nothing waits for its thread when the process ends.
    """
    loop = asyncio.get_running_loop()
    called: asyncio.Future[Reread] = loop.create_future()

    def call() -> None:
        settle: Callable[[], None]
        try:
            settle = partial(called.set_result, function())
        except Exception as error:  # noqa: BLE001 -- whoever waits has it
            settle = partial(called.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if called.done() else settle())

    threading.Thread(target=call, name="reload", daemon=True).start()
    await asyncio.wait([called])
    return called.result
