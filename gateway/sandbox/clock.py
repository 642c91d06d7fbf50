"""The sandbox's own clock: that of another machine, which this one's does not move.

Setting this machine's clock back would otherwise stop every start until the old hour is reached again.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Goes on while the machine sleeps, where there is one that does (Linux).
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def utc_now() -> datetime:
    """Tells the time of this machine."""
    return datetime.now(UTC)


def steady() -> float:
    """Counts seconds, whatever this machine's clock is set to."""
    return time.clock_gettime(_STEADY)


class Clock:
    """Begins at the time of this machine, and goes on by itself."""

    def __init__(self, wall: Callable[[], datetime] = utc_now, seconds: Callable[[], float] = steady) -> None:
        self._seconds = seconds
        self._began = wall() - timedelta(seconds=seconds())

    def __call__(self) -> datetime:
        """Tells the sandbox's time."""
        return self._began + timedelta(seconds=self._seconds())

    def not_before(self, at: datetime) -> None:
        """Goes on from a moment that was reached before, if the clock was set back since."""
        self._began += max(at - self(), timedelta())
