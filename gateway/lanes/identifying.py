"""Whose account a backend is: asked before anything is sent, until it is known."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gateway.adapters.base import Barred, Unsure
from gateway.errors import Unavailable
from gateway.lanes.sighting import note, readable
from gateway.lasting import Lasting
from gateway.loops import is_alive
from gateway.model import Identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.lanes.transport import Backend
    from gateway.store import Finding

log = structlog.get_logger()

SLOWEST_RETRY = 60.0  # seconds between questions whose account it is
HOLD_AGAIN = 1.0  # seconds, while the store cannot be written


async def meet(backend: Backend, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> Identity:
    """Asks whose account the backend is, until it says so."""
    pause = 1.0
    while True:
        identity = await backend.transport.run(backend.adapter.identify())
        is_alive()
        if isinstance(identity, Identity):
            readable(backend)
            return identity
        note(backend, identity)
        if isinstance(identity, Barred):
            backend.transport.circuit.blocked(identity.notice)
        elif isinstance(identity, Unsure):
            backend.transport.circuit.unreachable(identity.reason)  # nothing is sent, and health says why
        await sleep(max(pause, backend.transport.circuit.wait_seconds()))
        pause = min(pause * 2, SLOWEST_RETRY)


async def identify(store: Finding, backend: Backend, sleep: Callable[[float], Awaitable[None]]) -> None:
    """Asks whose account the backend is, and keeps back what was recorded for another one."""
    identity = await meet(backend, sleep)
    held, failing = 0, Lasting("hold_failed", backend=backend.name)
    while identity.account:  # what does not say whose it is holds nothing back
        try:
            held = await store.hold(backend.name, identity, backend.formerly)
            failing.is_over()
            break
        except Unavailable as error:
            failing.again(reason=error.reason, why=error.message)
            await sleep(HOLD_AGAIN)
    if held:
        log.warning("account_changed", backend=backend.name, starts=held)
    backend.transport.met, backend.transport.identity = None, identity  # from here on the dispatcher sends
