"""When a request may go: the rate of an account, and the circuit that opens when its backend is not well.

Rules:

1. Time is a function that is given; nothing here knows what a request is.
2. What may not go now is told how long to wait; whoever asks decides whether to.
3. Where tenants share a backend, none of them can spend a long window alone (`GREED`).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import IntEnum
from operator import itemgetter
from typing import TYPE_CHECKING

from gateway.errors import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from gateway.model import Notice

READ_SHARE = 0.2  # of the rate is kept for reading, so that following goes on while sends wait
GREED = 4  # times what is left of a window a tenant's sends in it may be: alone it leaves a fifth, one of two a ninth
LONG = 5.0  # seconds; a window up to this is over soon for everybody, and one tenant may spend it
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
BLOCKED_PAUSE = 30.0  # seconds between probes of an account that somebody must see to
ROUNDING = 1e-6  # seconds by which sums of fractions may be off
STUMBLES = 3  # dispatches in doubt, with no answer in between, before a tenant waits: not every start is to be burnt


class HealthState(IntEnum):
    """How a backend is. The numbers are those of the API."""

    UNKNOWN = 0
    OK = 1
    THROTTLED = 2
    UNREACHABLE = 3
    BLOCKED = 4


class Limiter:
    """At most `count` requests in any `seconds`: the sliding window by which RapidPro counts, too.

    While `is_shared()` is true, a tenant's sends in a long window may be at most `GREED` times what is left of it. A
    tenant that has sent little can therefore always send, without configured or reserved shares.
    """

    def __init__(
        self,
        count: int,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        is_shared: Callable[[], bool] = lambda: False,
    ) -> None:
        self.count = count
        self.seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self._is_shared = is_shared
        self._spent: deque[tuple[float, str | None]] = deque()  # when, and by which tenant if it was a send
        self._taken: Counter[str] = Counter()  # sends in the window, by tenant
        self._sends = 0
        self._sends_limit = max(1, count - max(1, int(count * READ_SHARE)))
        self._queues = {True: asyncio.Lock(), False: asyncio.Lock()}  # sends wait for sends, reads for reads

    def left(self, *, sends: bool, tenant: str | None = None) -> int:
        """Returns how many requests may go at once; with a tenant, how many of its sends."""
        self._drop_old()
        left = self.count - len(self._spent)
        if not sends:
            return max(0, left)
        left = max(0, min(left, self._sends_limit - self._sends))
        if tenant is None or not self._bounds_tenants():
            return left
        # Each send leaves one less and is one more taken.
        return max(0, math.ceil((GREED * left - self._taken[tenant]) / (GREED + 1)))

    def limits(self) -> dict[str, int]:
        """Returns how many sends of a tenant may go at once, for each that may not have all that is left."""
        left = self.left(sends=True)
        if not left or not self._bounds_tenants():
            return {}
        return {each: own for each in self._taken if (own := self.left(sends=True, tenant=each)) < left}

    def wait_seconds(self, *, sends: bool, tenant: str | None = None) -> float:
        """Returns the seconds until one may go; with a tenant, until one of its sends may."""
        if self.left(sends=sends, tenant=tenant):
            return 0.0
        free, share = self.count - len(self._spent), self._sends_limit - self._sends
        taken = self._taken[tenant] if tenant is not None and self._bounds_tenants() else 0
        until = self._clock()
        for at, whose in self._spent:
            left = min(free, share) if sends else free
            if left > 0 and taken < GREED * left:
                break
            until = at + self.seconds
            free += 1
            share += whose is not None
            taken -= whose is not None and whose == tenant
        return max(0.0, until - self._clock())

    def drain_seconds(self, count: int) -> float:
        """Returns the seconds that so many more sends take: as the window frees their places, or at the steady rate.

        A window that is used up frees nothing before its oldest send is `seconds` old. Whose the sends are is not known
        here, so where tenants are bounded they count as the greediest one's.
        """
        now, steady = self._clock(), count * self.seconds / self._sends_limit
        free = min(self.limits().values(), default=self.left(sends=True))
        places = [now] * free + [at + self.seconds for at, whose in self._spent if whose is not None]
        if not count or not places:
            return steady + self.wait_seconds(sends=True) * bool(count)
        rounds, place = divmod(count - 1, len(places))
        return max(steady, places[place] - now + rounds * self.seconds)

    def until_tenant(self) -> float:
        """Returns the seconds until a tenant that may send nothing now may send again; infinity if there is none."""
        waiting = (each for each, own in self.limits().items() if not own)
        return min((self.wait_seconds(sends=True, tenant=each) for each in waiting), default=math.inf)

    def take(self, *, sends: bool, tenant: str = "") -> bool:
        """Counts a request, a send as this tenant's, if it may go now."""
        if not self.left(sends=sends, tenant=tenant):
            return False
        self._spent.append((self._clock(), tenant if sends else None))
        if sends:
            self._sends += 1
            self._taken[tenant] += 1
        return True

    def recall(self, sends: Iterable[tuple[float, str]]) -> None:
        """Replaces the sends counted so far with recorded ones: how many seconds ago each was, and its tenant.

        Sends of an earlier process, or of another gateway, count against the same rate.
        """
        now = self._clock()
        sent: list[tuple[float, str | None]] = [(now - ago, tenant) for ago, tenant in sends]
        reads = [each for each in self._spent if each[1] is None]
        self._spent = deque(sorted(reads + sent, key=itemgetter(0)))
        self._sends, self._taken = len(sent), Counter(whose for _, whose in sent if whose is not None)

    async def acquire(self, *, sends: bool) -> None:
        """Waits until a request may go, and counts it."""
        async with self._queues[sends]:
            while not self.take(sends=sends):
                await self._sleep(max(self.wait_seconds(sends=sends), 0.001))

    def _drop_old(self) -> None:
        horizon = self._clock() - self.seconds
        while self._spent and self._spent[0][0] <= horizon:
            _, whose = self._spent.popleft()
            if whose is None:
                continue
            self._sends -= 1
            self._taken[whose] -= 1
            if not self._taken[whose]:
                del self._taken[whose]

    def _bounds_tenants(self) -> bool:
        return self.seconds > LONG and self._is_shared()


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


@dataclass(slots=True)
class _Doubt:
    """The dispatches of one tenant that are in doubt since one of this tenant was answered, `STUMBLES` at the most."""

    dispatches: set[str] = field(default_factory=set)
    pauses: int = 0
    until: float = 0.0

    @property
    def is_probing(self) -> bool:
        """Whether one send must be answered before others of this tenant follow."""
        return len(self.dispatches) >= STUMBLES


class Circuit:
    """Whether a backend takes requests now, and if not, until when the lane waits, or one tenant in it.

    What a backend does not answer may be down to the backend or to what one tenant sends. So a tenant whose sends
    remain in doubt waits and probes alone. The lane waits and probes once two tenants meet the same.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self.state = HealthState.UNKNOWN
        self.notice: Notice | None = None
        self.detail = ""
        self.unread = ""  # why what runs there cannot be followed though it takes what is sent
        self._clock = clock
        self._jitter = jitter
        self._until = 0.0
        self._pauses = 0
        self._unanswered: dict[str, set[str]] = {}  # dispatches in doubt since any was answered, by tenant
        self._doubts: dict[str, _Doubt] = {}  # by tenant

    def wait_seconds(self, tenant: str | None = None) -> float:
        """How long the lane waits, or a tenant in it; 0 when it does not."""
        doubt = None if tenant is None else self._doubts.get(tenant)
        return max(0.0, (self._until if doubt is None else max(self._until, doubt.until)) - self._clock())

    def limits(self, sending: Collection[str]) -> dict[str, int]:
        """Returns how many sends of a tenant may begin now, for each that waits or probes. `sending` has some going."""
        return {
            tenant: int(not self.wait_seconds(tenant) and tenant not in sending)
            for tenant, doubt in self._doubts.items()
            if doubt.is_probing
        }

    def until_probe(self) -> float:
        """Returns the seconds until the next tenant that waits may probe; infinity if none waits."""
        waits = (self.wait_seconds(tenant) for tenant in self._doubts)
        return min((wait for wait in waits if wait), default=math.inf)

    @property
    def is_probing(self) -> bool:
        """Whether one send must be answered before others follow: those of a broken backend may all be in doubt."""
        return len(self._unanswered) > 1 and sum(map(len, self._unanswered.values())) >= STUMBLES

    def answered(self, tenant: str = "") -> None:
        """Notes that the backend has answered a send of a tenant."""
        if not self.wait_seconds(tenant):  # an answer to what was asked before a pause does not end the pause
            self._doubts.pop(tenant, None)
        if not self.wait_seconds():
            self.state, self.notice, self.detail = HealthState.OK, None, ""
            self._pauses = 0
            self._unanswered.clear()

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

    def stumbled(self, detail: str, dispatch_id: str, tenant: str = "") -> None:
        """Notes that a dispatch of a tenant was sent and not answered as it should be.

        Distinct ones are counted: one that its backend cannot take, sent again and again, must not hold the others up.
        """
        doubt = self._doubts.setdefault(tenant, _Doubt())
        for dispatches in (doubt.dispatches, self._unanswered.setdefault(tenant, set())):
            if len(dispatches) < STUMBLES:
                dispatches.add(dispatch_id)
        if doubt.is_probing and doubt.until <= self._clock():
            doubt.until = self._clock() + self._growing(doubt.pauses)
            doubt.pauses += 1
        if self.is_probing:
            self._pause(HealthState.UNREACHABLE, detail, None)
        elif len(self._unanswered[tenant]) >= STUMBLES:
            self.state, self.detail, self.notice = HealthState.UNREACHABLE, detail, None

    def _growing(self, pauses: int) -> float:
        """Returns how long to wait after so many pauses."""
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(pauses, 16)) * (0.5 + self._jitter() / 2)

    def _pause(self, state: HealthState, detail: str, seconds: float | None) -> None:
        self.state, self.detail, self.notice = state, detail, None
        if seconds is None:
            if self.wait_seconds():
                return  # one outage, however many requests it hit
            seconds = self._growing(self._pauses)
            self._pauses += 1
        self._until = max(self._until, self._clock() + seconds)
