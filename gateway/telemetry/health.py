"""How the gateway and its backends are, for load balancers and probes: as gRPC's health service, and to ask.

Overall, and for the service of the API, it is how the store is, and whether watchers are served: starts are recorded
whatever the backends do. A backend has the name `backend/NAME`: it serves when it answers, nothing keeps the gateway
from sending to it, and what sends and follows there is running.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from grpc_health.v1 import health_pb2

from gateway.errors import Unavailable
from gateway.lanes.pacing import HealthState
from gateway.loops import Loops, came_round
from gateway.telemetry.probes import Probes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.lanes.backend import Backend
    from gateway.store import Keeping

log = structlog.get_logger()

PAUSE = 0.5  # seconds between looks
VITAL = frozenset({"watch"})  # loops without which no caller is served as is promised; a lane's concern its backend
_Status = health_pb2.HealthCheckResponse
_WELL, _UNWELL, _UNKNOWN = int(_Status.SERVING), int(_Status.NOT_SERVING), int(_Status.UNKNOWN)


class Health:
    """Tells of one server; `service` is the full name of its API."""

    def __init__(
        self,
        store: Keeping,
        backends: Mapping[str, Backend],
        service: str,
        *,
        loops: Loops | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.probes = Probes()
        self._store = store
        self._backends = backends
        self._service = service
        self._sleep = sleep
        self.loops = Loops() if loops is None else loops
        self._was_wrong = ""
        self._draining = False

    @property
    def is_well(self) -> bool:
        """Whether starts are recorded and watchers served."""
        return not self.trouble

    @property
    def trouble(self) -> str:
        """Says why not; nothing while it is well."""
        return self._store.trouble or "; ".join(
            loop.trouble for loop in self.loops if loop.name in VITAL and loop.trouble
        )

    @property
    def limping(self) -> list[str]:
        """Says what else does not run as it should."""
        return [loop.trouble for loop in self.loops if loop.name not in VITAL and loop.trouble]

    @property
    def is_ready(self) -> bool:
        """Whether it takes starts."""
        return self.is_well and not self._draining

    def drain(self) -> None:
        """Says from here on that nothing is served any more."""
        self._draining = True
        self.probes.drain()

    async def run(self) -> None:
        """Looks again and again; a store that does not work is tried until it does."""
        while True:
            self.look()
            await self._store.look()
            if not self._store.is_well:
                with suppress(Unavailable):
                    await self._store.check()
            came_round()
            await self._sleep(PAUSE)

    def look(self) -> None:
        """Tells how everything is now, where that has changed."""
        wrong = self.trouble
        well = not wrong
        if wrong and not self._was_wrong:
            log.error("not_serving", why=wrong)
        elif self._was_wrong and well:
            log.warning("serving", after=self._was_wrong)
        self._was_wrong = wrong
        states = dict.fromkeys(("", self._service), _WELL if well else _UNWELL)
        stopped = {loop.backend for loop in self.loops if loop.backend and loop.trouble}
        states |= {
            f"backend/{name}": _UNWELL if name in stopped else _status(backend)
            for name, backend in self._backends.items()
        }
        for name, status in states.items():
            self.probes.set(name, status)


def _status(backend: Backend) -> int:
    circuit = backend.transport.circuit
    if circuit.wait_seconds() or circuit.state in (HealthState.UNREACHABLE, HealthState.BLOCKED):
        return _UNWELL  # until it has answered: that a pause is over proves nothing
    return _UNKNOWN if circuit.state is HealthState.UNKNOWN else _WELL
