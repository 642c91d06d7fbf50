"""When a request may go: the rate of an account, and the circuit that opens when its backend is not well.

Rules:

1. Time is a function that is given; nothing here knows what a request is.
2. What may not go now is told how long to wait; whoever asks decides whether to.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING

from gateway.errors import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.model import Notice

READ_SHARE = 0.2  # of the rate is kept for reading, so that following goes on while sends wait
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
BLOCKED_PAUSE = 30.0  # seconds between probes of an account that somebody must see to
ROUNDING = 1e-6  # seconds by which sums of fractions may be off
STUMBLES = 3  # dispatches in doubt, with no answer in between, before the lane waits: not every start is to be burnt


class HealthState(IntEnum):
    """How a backend is. The numbers are those of the API."""

    UNKNOWN = 0
    OK = 1
    THROTTLED = 2
    UNREACHABLE = 3
    BLOCKED = 4


class Limiter:
    """At most `count` requests in any `seconds`: the sliding window by which RapidPro counts, too."""

    def __init__(
        self,
        count: int,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.count = count
        self.seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self._spent: deque[tuple[float, bool]] = deque()
        self._sends = 0
        self._sends_limit = max(1, count - max(1, int(count * READ_SHARE)))
        self._queues = {True: asyncio.Lock(), False: asyncio.Lock()}  # sends wait for sends, reads for reads

    def left(self, *, sends: bool) -> int:
        """How many requests may go at once."""
        self._drop_old()
        left = self.count - len(self._spent)
        return max(0, min(left, self._sends_limit - self._sends) if sends else left)

    def wait_seconds(self, *, sends: bool) -> float:
        """How long until one may go."""
        if self.left(sends=sends) or not self._spent:
            return 0.0
        only_sends = sends and len(self._spent) < self.count  # then it is their share that is used up
        oldest = next(at for at, was_send in self._spent if was_send or not only_sends)
        return max(0.0, oldest + self.seconds - self._clock())

    def take(self, *, sends: bool) -> bool:
        """Counts a request if it may go now."""
        if not self.left(sends=sends):
            return False
        self._spent.append((self._clock(), sends))
        self._sends += sends
        return True

    async def acquire(self, *, sends: bool) -> None:
        """Waits until a request may go, and counts it."""
        async with self._queues[sends]:
            while not self.take(sends=sends):
                await self._sleep(max(self.wait_seconds(sends=sends), 0.001))

    def _drop_old(self) -> None:
        horizon = self._clock() - self.seconds
        while self._spent and self._spent[0][0] <= horizon:
            _, was_send = self._spent.popleft()
            self._sends -= was_send


class Quota:
    """How many starts each tenant may make in a second, on average: what one second allows may come at once."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}  # when a tenant may again make all that a second allows

    def take(self, tenant: str, rate: float) -> float:
        """Counts a start of a tenant who may make `rate` a second; if it may not be now, returns in how many seconds.

        Whoever may make less than one a second may make one when that much time has passed.
        """
        now = self._clock()
        full_at = max(self._full_at.get(tenant, now), now)
        wait = full_at + 1 / rate - now - max(1.0, 1 / rate)
        if wait > ROUNDING:
            return wait
        self._full_at[tenant] = full_at + 1 / rate
        return 0.0

    def give_back(self, tenant: str, rate: float) -> None:
        """Takes it back that a start was counted."""
        self._full_at[tenant] = self._full_at.get(tenant, 0.0) - 1 / rate


class Circuit:
    """Whether a backend takes requests now, and if not, until when the lane waits."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self.state = HealthState.UNKNOWN
        self.notice: Notice | None = None
        self.detail = ""
        self._clock = clock
        self._jitter = jitter
        self._until = 0.0
        self._pauses = 0
        self._stumbled: set[str] = set()

    def wait_seconds(self) -> float:
        """How long the lane waits; 0 when it does not."""
        return max(0.0, self._until - self._clock())

    @property
    def is_probing(self) -> bool:
        """Whether one send must be answered before others follow: those of a broken backend may all be in doubt."""
        return len(self._stumbled) >= STUMBLES

    def answered(self) -> None:
        """Notes that the backend answers."""
        if not self.wait_seconds():  # an answer to what was asked before a pause does not end the pause
            self.state, self.notice, self.detail = HealthState.OK, None, ""
            self._pauses = 0
            self._stumbled.clear()

    def readable(self) -> None:
        """Notes that reading works. A suspended workspace can be read as well; nothing else that blocks can."""
        suspended = self.notice is not None and self.notice.reason == Reason.BACKEND_SUSPENDED
        if not self.wait_seconds() and not suspended:
            self.state, self.notice, self.detail = HealthState.OK, None, ""

    def throttled(self, seconds: float | None) -> None:
        """Notes that the backend asked to wait; for no time at all is for an unknown one, rounded down."""
        self._pause(HealthState.THROTTLED, "it asked to wait", seconds or None)

    def unreachable(self, detail: str) -> None:
        """Notes that the backend could not be reached."""
        self._pause(HealthState.UNREACHABLE, detail, None)

    def blocked(self, notice: Notice) -> None:
        """Notes that somebody must see to the account."""
        self._pause(HealthState.BLOCKED, notice.message, BLOCKED_PAUSE)
        self.notice = notice

    def stumbled(self, detail: str, dispatch_id: str) -> None:
        """Notes that a dispatch was sent and not answered as it should be.

        Distinct ones are counted: one that its backend cannot take, sent again and again, must not hold the others up.
        """
        self._stumbled.add(dispatch_id)
        if len(self._stumbled) >= STUMBLES:
            self._pause(HealthState.UNREACHABLE, detail, None)

    def _pause(self, state: HealthState, detail: str, seconds: float | None) -> None:
        self.state, self.detail, self.notice = state, detail, None
        if seconds is None:
            if self.wait_seconds():
                return  # one outage, however many requests it hit
            seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._pauses) * (0.5 + self._jitter() / 2)
            self._pauses = min(self._pauses + 1, 16)
        self._until = max(self._until, self._clock() + seconds)
