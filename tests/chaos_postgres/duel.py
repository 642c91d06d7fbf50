"""Two gateways and one lane: its owner is stopped at the worst moment, the other takes over, the first goes on.

| duel          | its owner is stopped                    | and goes on when the other one                    |
|---------------|-----------------------------------------|---------------------------------------------------|
| `before`      | after a claim, before an attempt begins | is sending what the first has claimed             |
| `after`       | after an attempt began, before it wrote | has sent it once more                             |
| `open`        | while its request is on its way         | has sent it once more                             |
| `uncommitted` | killed, its COMMIT of an attempt frozen | takes the lane: then that COMMIT goes on          |

A gateway must suffer from none of them: each is what a lease, its clock, a fence or a lock is for.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg

from gateway.model import State
from tests.chaos.faults import calm
from tests.chaos_postgres.reaper import broken_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.chaos.plan import Life, Options
    from tests.chaos_postgres.house import House
    from tests.end_to_end.processes import GatewayProcess, SandboxProcess

LANE = "rapidpro"
MEETS_WITHIN = 8.0  # seconds in which the moment for the stop comes
GOES_ON_WITHIN = 30.0  # seconds in which the other gateway has done what is waited for
LOOK_EVERY = 0.01
SHORT = 40  # characters of a COMMIT without revisions: an attempt that begins gives none
BROKEN_FOR = 2.0  # seconds in which the invariants are read after a takeover
LATE = 0.85  # of the quiet window: what is carried out so long after its request's end is in time

_OWNER = (
    "select lane.owner, life.says::json->>'at' from leases lane join leases life on life.kind = 'life'"
    " and life.owner = lane.owner where lane.kind = 'lane' and lane.name = %s"
    " and lane.until > extract(epoch from clock_timestamp()) * 1000000"
)
_OPEN = "exists (select 1 from attempts a where a.dispatch_id = d.id and a.outcome is null)"
_TAKEN = "select id from dispatches d where backend = %s and state = %s and claimed_by = %s and"
_BY_OTHERS = (
    "select 1 from attempts where dispatch_id = any(%s) and incarnation <> %s and (not %s or outcome is null) limit 1"
)
_ELSEWHERE = "select 1 from dispatches where backend <> %s and state = %s limit 1"
_WRITES = (
    "select 1 from pg_locks where relation = 'attempts'::regclass and mode = 'RowExclusiveLock' and granted"
    " and pid = %s"
)
_WAITS = (  # it gives back what the first has claimed, and finds it locked
    "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%%claimed_by = null from found%%'"
)


class Duelist:
    """Has one duel in each life of a plan. The store's invariants are read after each."""

    def __init__(self, kind: str, house: House, sandbox: SandboxProcess, options: Options) -> None:
        self._house, self._sandbox, self._options = house, sandbox, options
        self._gateways = {each.address: each for each in house.gateways}
        self._duel: Callable[[int, GatewayProcess], Awaitable[bool]] = {
            "before": self._before, "after": self._after, "open": self._on_its_way, "uncommitted": self._uncommitted,
        }[kind]  # fmt: skip
        self.kills: list[float] = []
        self.pauses: list[tuple[float, float]] = []
        self.swept: list[tuple[float, float]] = []
        self.broken: list[str] = []
        self.checked = self.drains = self.own_ends = self.vain_starts = 0
        self.duels = 0  # duels in which the moment came

    async def live(self, _life: Life) -> None:
        """Tries until the moment has come once."""
        until = time.monotonic() + MEETS_WITHIN
        while time.monotonic() < until:
            if (found := await self._ask(_OWNER, LANE)) and found[0][1] in self._gateways:
                owner, at = found[0]
                if await self._duel(owner, self._gateways[at]):
                    self.duels += 1
                    break
            await asyncio.sleep(LOOK_EVERY)
        await self._check()

    async def _before(self, owner: int, gateway: GatewayProcess) -> bool:
        if not (claimed := await self._ask(f"{_TAKEN} not {_OPEN}", LANE, State.PENDING, owner)):
            return False
        return await self._stop(owner, gateway, [each for (each,) in claimed], while_open=True)

    async def _after(self, owner: int, gateway: GatewayProcess) -> bool:
        if not (begun := await self._ask(f"{_TAKEN} {_OPEN}", LANE, State.PENDING, owner)):
            return False
        return await self._stop(owner, gateway, [each for (each,) in begun], while_open=False)

    async def _on_its_way(self, owner: int, gateway: GatewayProcess) -> bool:
        late = self._options.timeout + LATE * self._options.window
        rule = {"backend": LANE, "verb": "create", "commit": late, "times": 1}
        (number, *_) = await self._sandbox.replace_faults([rule, *(each for _, each in calm(self._options.latency))])
        while True:
            fired = [rule["fired"] for rule in await self._sandbox.faults() if rule["id"] == number]
            if not fired:  # the weather has changed
                return False
            if fired[0]:
                break
            await asyncio.sleep(LOOK_EVERY)
        begun = await self._ask(f"{_TAKEN} {_OPEN}", LANE, State.PENDING, owner)
        return bool(begun) and await self._stop(owner, gateway, [each for (each,) in begun], while_open=False)

    async def _stop(self, owner: int, gateway: GatewayProcess, ids: list[str], *, while_open: bool) -> bool:
        """Stops an owner until another gateway has begun one of these."""
        since = time.time()
        gateway.suspend()
        met = await self._comes(_BY_OTHERS, ids, owner, while_open)
        self.pauses.append((since, time.time()))
        gateway.resume()
        return met

    async def _uncommitted(self, owner: int, gateway: GatewayProcess) -> bool:
        if await self._ask(_ELSEWHERE, LANE, State.PENDING):
            return False  # the other gateway may be about to send that
        if not await self._ask(f"{_TAKEN} not {_OPEN}", LANE, State.PENDING, owner):
            return False  # an attempt begins soon after a claim
        proxy = self._house.proxy
        proxy.has_cut.clear()
        proxy.cut("frozen", GOES_ON_WITHIN, lambda message: len(message) < SHORT)
        if not await asyncio.to_thread(proxy.has_cut.wait, 1.0):
            proxy.disarm()
            return False
        if not await self._ask(_WRITES, proxy.cuts[-1].process):
            proxy.thaw()
            return False
        self.kills.append(time.time())
        await gateway.kill()
        met = await self._comes(_WAITS)
        proxy.thaw()
        until = time.monotonic() + BROKEN_FOR
        while time.monotonic() < until and not self.broken:
            await asyncio.sleep(0.1)
            await self._check()
        await gateway.start()
        return met

    async def _comes(self, statement: str, *values: Any) -> bool:
        """Waits until a statement finds something; returns whether it has."""
        until = time.monotonic() + GOES_ON_WITHIN
        while time.monotonic() < until:
            if await self._ask(statement, *values):
                return True
            await asyncio.sleep(LOOK_EVERY)
        return False

    async def _ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self._read, statement, values)

    def _read(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with suppress(psycopg.OperationalError), psycopg.connect(self._house.server.url()) as conn:
            return conn.execute(statement.encode(), values).fetchall()
        return []

    async def _check(self) -> None:
        self.checked += 1
        found = await asyncio.to_thread(broken_in, self._house.server.url())
        self.broken += [f"after duel {self.duels}: {each}" for each in found]
