"""Logs what somebody outside can bring about as often as they like, so that no flood of it floods the log.

Of each kind there is a line a minute, and it says how often the same was not logged since the one before. Where there
are `KINDS` of them within a minute, what is of yet another kind is left out; the metrics count it all the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()

EVERY = 60.0  # seconds
KINDS = 256


@dataclass(slots=True)
class _Kind:
    logged_at: float
    unlogged: int = 0


class Complaints:
    """What was complained of in the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, ...], _Kind] = {}  # in the order in which they were logged last

    def warn(self, event: str, kind: tuple[str, ...], **said: str) -> None:
        """Logs an event, unless it was logged within the last minute for the same kind."""
        now, key = self._clock(), (event, *kind)
        known = self._kinds.get(key)
        if known is not None and now - known.logged_at < EVERY:
            known.unlogged += 1
            return
        self._kinds.pop(key, None)
        while self._kinds:
            oldest = next(iter(self._kinds))
            if now - self._kinds[oldest].logged_at < EVERY:
                break
            del self._kinds[oldest]
        if len(self._kinds) >= KINDS:
            return
        self._kinds[key] = _Kind(now)
        log.warning(event, **said, unlogged=known.unlogged if known else 0)
