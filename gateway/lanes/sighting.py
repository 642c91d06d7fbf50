"""What is done with what a backend shows, and with why it shows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.adapters.base import Barred, Blocked
from gateway.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.adapters.base import Trouble
    from gateway.lanes.backend import Backend
    from gateway.sightings import Sighting
    from gateway.store import Finding

log = structlog.get_logger()

BATCH = 32  # sightings in one write, which take 10 ms when all have moved: every other write waits for as long


async def sight(store: Finding, backend: Backend, sightings: Sequence[Sighting]) -> int:
    """Records what a backend shows. What of it cannot be recorded is named and set aside; returns what had moved."""
    try:
        return await store.sight(backend.name, sightings, account=backend.account)
    except Unavailable:
        raise
    except Exception as error:
        if len(sightings) == 1:
            log.error("sighting_set_aside", backend=backend.name, id=sightings[0].external_id, exc_info=error)
            return 0
    return sum([await sight(store, backend, [each]) for each in sightings])


async def record(store: Finding, backend: Backend, sightings: Iterable[Sighting]) -> int:
    """Records what a backend shows, a bounded part at a time; returns how many dispatches had moved."""
    batch = list(sightings)
    moved = 0
    for first in range(0, len(batch), BATCH):
        some = batch[first : first + BATCH]
        moved += await sight(store, backend, some)
    return moved


def note(backend: Backend, trouble: Trouble) -> None:
    """Tells the circuit, and the log, why something could not be read."""
    backend.transport.note(trouble)
    why = trouble.notice.message if isinstance(trouble, Blocked | Barred) else getattr(trouble, "reason", "")
    backend.unread.again(backend=backend.name, trouble=type(trouble).__name__, why=why)


def readable(backend: Backend) -> None:
    """Tells the circuit, and the log, that the backend can be read."""
    backend.transport.circuit.readable()
    backend.unread.is_over()
