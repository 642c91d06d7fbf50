"""Bounds what the calls of one tenant take of the event loop's time beside those of others.

A step is what a call does between two waits. Whoever makes many calls at once has many steps ready at once: each pass
of the loop would carry out all of them before anybody else's next one, and what they bring about fills the threads of
the store. So:

1. Beside others, the calls of a tenant may have the `SHARE` of the time. Steps beyond that wait, in their order. It is
   far from all of it, so that nobody else finds the loop or the threads busy.
2. What a call has the store do counts as well.
3. A tenant that had nothing for a while may have `BURST` at once.
4. A tenant whom no other one is beside, and everybody once the gateway is draining, has all the time.
5. Calls of nobody who is known wait as those of a tenant do, those that are refused together, and those of each method
   that answers everybody. No tenant waits because of them.

What takes long goes through its work `in_parts`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from math import ceil, inf
from time import monotonic
from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Generator, Iterable, Iterator

T = TypeVar("T")

SHARE = 0.125
BURST = 0.01  # seconds
SEND = 0.001  # seconds that a send takes of the loop and of the threads of the store
NOBODY = ("", "/")  # how the names of accounts begin that are no tenants': of who is refused, and of open methods
BESIDE = 1.0  # seconds for which a tenant is there after its last step
PART = 0.001  # seconds of work that is done in one step
REFUSED = 500  # calls that wait to be refused
REMEMBERED = 1_000  # tenants, at the least


async def in_parts(items: Iterable[T]) -> AsyncIterator[T]:
    """Yields the items, and ends the step whenever the work with them has taken a millisecond."""
    began = monotonic()
    for each in items:
        if monotonic() - began > PART:
            await asyncio.sleep(0)
            began = monotonic()
        yield each


class Account:
    """What the calls of one tenant have had, and their steps that wait."""

    __slots__ = ("_even_at", "is_known", "tenant", "waiting")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.is_known = tenant[:1] not in NOBODY
        self._even_at = 0.0  # when it will have had no more than its share
        self.waiting: deque[asyncio.Future[None]] = deque()

    def charge(self, seconds: float) -> None:
        """Counts time that was taken for it."""
        self._even_at = max(self._even_at, monotonic()) + seconds / SHARE

    @property
    def is_even(self) -> bool:
        """Whether it has had no more than its share."""
        return self._even_at <= monotonic()

    def wait_seconds(self, now: float) -> float:
        """Returns how long its next step has to wait; 0 or less if it need not."""
        return self._even_at - BURST / SHARE - now


class _Call:
    """A call that is carried out in steps, and whose it is, once that is known."""

    __slots__ = ("account", "unknown", "waits")

    def __init__(self, account: Account | None = None) -> None:
        self.account = account
        self.unknown = 0.0  # seconds that it has had before it was known whose it is
        self.waits = account is None  # it has waited otherwise


_current: ContextVar[_Call | None] = ContextVar("_current", default=None)


def account() -> Account | None:
    """Returns the account of the call that is being carried out."""
    call = _current.get()
    return None if call is None else call.account


class Sends:
    """Bounds the sends of each tenant by the same rules: what they cost fills the loop and the threads as calls do."""

    def __init__(self, loop_time: LoopTime) -> None:
        self._loop_time = loop_time
        self._accounts: dict[str, Account] = {}  # of those that have had more than their share, or nearly

    def begin(self, tenant: str) -> None:
        """Counts a send."""
        self._accounts.setdefault(tenant, Account(tenant)).charge(SEND)

    def limits(self) -> dict[str, int]:
        """Returns how many sends of a tenant may begin now, for each that had some of late and is beside others."""
        self._accounts = {tenant: each for tenant, each in self._accounts.items() if not each.is_even}
        now = monotonic()
        return {
            tenant: max(0, ceil(-each.wait_seconds(now) * SHARE / SEND))
            for tenant, each in self._accounts.items()
            if self._loop_time.is_beside(tenant)
        }

    def until_more(self) -> float:
        """Returns the seconds until a tenant that may send nothing now may again; infinity if there is none."""
        now = monotonic()
        waits = (each.wait_seconds(now) for tenant, each in self._accounts.items() if self._loop_time.is_beside(tenant))
        return min((wait for wait in waits if wait > 0), default=inf)


@contextmanager
def at_once() -> Iterator[None]:
    """Has the steps of a call go at once: it waits for somebody else, who is not to be blamed for its turns."""
    call = _current.get() or _Call()
    waited, call.waits = call.waits, False
    try:
        yield
    finally:
        call.waits = waited


class LoopTime:
    """Has the calls on one event loop carried out step by step."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._latest = ""  # the tenant of the latest step
        self._latest_at = self._other_at = 0.0  # when that was, and the latest one of any other tenant
        self._is_open = False

    def open(self) -> None:
        """Has nothing wait any more: what has begun comes to its end."""
        self._is_open = True
        for each in self._accounts.values():
            while each.waiting:
                _release(each)

    @coroutine
    def steps(self, call: Coroutine[Any, Any, T], account: Account | None = None) -> Generator[Any, Any, T]:
        """Carries out a call, each step when it may be. Returns and raises what the call does.

        With an account, that of a call which has had its turn, none of them waits.
        """
        current = _Call(account)
        _current.set(current)
        error: BaseException | None = None
        while True:
            if error is None and current.account is not None and current.waits:
                try:
                    yield from self.turn(current.account)
                except BaseException as raised:  # noqa: BLE001 -- whatever it is, it is the call's
                    error = raised
            began = monotonic()
            try:
                awaited = call.send(None) if error is None else call.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                error = None
                if current.account is None:
                    current.unknown += monotonic() - began
                else:
                    current.account.charge(monotonic() - began)
            try:
                yield awaited
            except BaseException as raised:  # noqa: BLE001 -- the same
                error = raised

    async def begin(self, tenant: str) -> None:
        """Waits until a call of a tenant may go on. From here on its steps count, and wait."""
        account, call = self.account_of(tenant), _current.get()
        await self.turn(account)
        if call is not None:
            account.charge(call.unknown)
            call.account = account

    async def refuse(self) -> None:
        """Waits until a call of nobody who is known may be refused. All of these together are as one tenant's.

        Beyond `REFUSED` of them none waits: what waits takes memory.
        """
        if len(self.account_of("").waiting) < REFUSED:
            await self.begin("")

    def account_of(self, tenant: str) -> Account:
        """Returns what the calls of a tenant, or of nobody who is known, have had."""
        found = self._accounts.get(tenant)
        if found is None:
            if len(self._accounts) >= 2 * REMEMBERED:
                self._forget()
            found = self._accounts[tenant] = Account(tenant)
        return found

    def _forget(self) -> None:
        kept = [each for each in self._accounts.values() if each.waiting or not each.is_even]
        self._accounts = {each.tenant: each for each in kept}

    @coroutine
    def turn(self, account: Account) -> Generator[Any, None, None]:
        """Waits until a step of this account may be."""
        now = monotonic()
        if not self._is_over(account, now):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        account.waiting.append(turn)
        if len(account.waiting) == 1:
            self._look_later(account, now)
        yield from turn

    def _is_over(self, account: Account, now: float) -> bool:
        """Tells whether a tenant is beside others, and has had its share."""
        if account.is_known:  # nobody else makes a tenant wait
            if self._latest != account.tenant:
                self._other_at = self._latest_at
                self._latest = account.tenant
            self._latest_at = now
        is_over = bool(account.waiting) or account.wait_seconds(now) > 0
        return is_over and not self._is_open and self.is_beside(account.tenant)

    def is_beside(self, tenant: str) -> bool:
        """Tells whether others than this tenant have called of late."""
        latest = self._other_at if self._latest == tenant else self._latest_at
        return monotonic() - latest <= BESIDE

    def _look_later(self, account: Account, now: float) -> None:
        asyncio.get_running_loop().call_later(max(0.0, account.wait_seconds(now)), self._look, account)

    def _look(self, account: Account) -> None:
        """Gives the next step of a tenant its turn, if that has come."""
        now = monotonic()
        if account.waiting and account.wait_seconds(now) <= 0:
            _release(account)
        if account.waiting:
            self._look_later(account, now)


def _release(account: Account) -> None:
    """Gives the first that somebody still waits for its turn."""
    while account.waiting:
        turn = account.waiting.popleft()
        if not turn.done():
            turn.set_result(None)
            return
