"""What is wrong for as long as it lasts, and is met at every try.

A line for each try fills the log of a night, often on the disk that is full. So there is a line when it begins, one a
minute for each kind of it while it goes on, and one when it is over.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()

EVERY = 60.0  # seconds
KINDS = 16  # of which the last minute is remembered


class Lasting:
    """One thing that goes wrong at every try until it is over. `about` is said in each line of it."""

    def __init__(
        self, event: str, clock: Callable[[], float] = time.monotonic, *, is_grave: bool = True, **about: str
    ) -> None:
        self._event, self._clock, self._about = event, clock, about
        self._is_grave = is_grave  # an error, else a warning: what a backend does is not the gateway's failure
        self._logged: dict[str, float] = {}  # when each kind was, the latest at the end
        self._since: float | None = None
        self._times = 0
        self._is_told = False

    def again(self, **why: str) -> None:
        """Logs that it goes wrong, unless the same was logged within the last minute."""
        now, kind = self._clock(), " ".join(why.values())
        self._times += 1
        if self._since is None:
            self._since = now
        before = self._logged.get(kind)
        if before is not None and now - before < EVERY:
            return
        self._logged.pop(kind, None)
        self._logged[kind] = now
        if len(self._logged) > KINDS:
            del self._logged[next(iter(self._logged))]
        self._is_told = True
        say = log.error if self._is_grave else log.warning
        say(self._event, **self._about, **why, times=self._times)

    def is_over(self) -> None:
        """Logs that it is over, if that it had begun was logged."""
        if self._since is None:
            return
        if self._is_told:
            seconds = round(self._clock() - self._since, 1)
            over = self._event + "_over"
            log.warning(over, **self._about, seconds=seconds, times=self._times)
        self._since, self._times, self._is_told = None, 0, False
