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

    from gateway.adapters.base import Sweep
    from gateway.lanes.backend import Backend
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


class Accounts:
    """Notices when a backend becomes another account, or the one it was before."""

    def __init__(self, store: Finding, backend: Backend, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._store = store
        self._backend = backend
        self._sleep = sleep
        self._asked_about = ""  # the name in a list because of which it was last asked whose account it is
        self._changes = False  # whether it has become another account in this life

    async def identify(self) -> None:
        """Asks whose account it is, until that is known; nothing is sent meanwhile."""
        await identify(self._store, self._backend, self._sleep)

    async def has_changed(self, called: str) -> bool:
        """Asks again, once, if a list calls the account by another name; returns whether it has become another one."""
        backend, before = self._backend, self._backend.account
        if not before or backend.named(called) in {"", before} or called == self._asked_about:
            return False
        self._asked_about = called
        backend.transport.identity = None
        await self.identify()
        self._changes |= backend.account != before
        return backend.account != before

    async def has_changed_back(self) -> bool:
        """Asks again where it has changed before: nothing that is held would show that the first account is back."""
        if not self._changes:
            return False
        backend = self._backend
        identity = await backend.transport.run(backend.adapter.identify())
        if not isinstance(identity, Identity) or identity.account == backend.account:
            return False
        backend.transport.identity = None
        await self.identify()
        return True

    async def shown_by(self, swept: Sweep) -> str:
        """Returns whose account a scan shows; where its answers do not say, the account is asked for once more."""
        if swept.account:
            return self._backend.named(swept.account)
        if swept.trouble is not None:
            return ""
        identity = await self._backend.transport.run(self._backend.adapter.identify())
        return identity.account if isinstance(identity, Identity) else ""
