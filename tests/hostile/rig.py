"""Measures a quiet tenant beside attacks and beside burners of processor time, in turns.

Rules:

1. Two gateways run: one is attacked, the other never is. Slices of time alternate: while the quiet tenant is measured
   on the second, the first and its attackers are halted, so neither an attack nor what it has left behind touches the
   figures beside the burner.
2. The burners take what the attack took in the slice before: on the core of the gateways what the attacked one took
   beyond its quiet load, on the other core what attackers and backends took.
3. Both gateways share one core; the quiet tenant, attackers and backends share the other one.
4. What is out of bounds is measured for three times as long again, and all of it counts: the slowest hundredth of two
   seconds is a handful of calls.
5. A slice of which a hypervisor took more than `STOLEN` is measured once more, some times at most.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from gateway.server.building import STOP_SECONDS
from tests.bench.crowd import ACCOUNTS
from tests.bench.grown import Lane, finished, grow
from tests.bench.watch_report import STOLEN
from tests.chaos.memory import resident
from tests.end_to_end.processes import SandboxProcess
from tests.hostile.judge import Verdict
from tests.hostile.processes import (
    Gateway,
    Helper,
    QuietTenant,
    attackers,
    burner,
    on,
    processor_seconds,
    stolen_seconds,
)
from tests.hostile.quiet import Figures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock
    from tests.hostile.plan import Attack

TIMEOUT = 5  # seconds, of the gateways' requests to the backends
DRAIN = TIMEOUT + STOP_SECONDS  # seconds a stop may take, as docs/operations.md says
SETTLE = 0.25  # seconds before a slice counts
WARM_UP = 0.5  # seconds on each gateway that do not count
GATHERING = 2.0  # seconds in which an attack gathers before it is measured
LOOK = 0.05  # seconds between looks at memory and log
LEAST = 0.02  # of a core; less is not burnt
TRIES = 4  # of a slice; the last one counts


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long is measured, and where.

    `pairs` of slices of so many `seconds`; `cores` are that of the gateways and that of all others, None: any.
    """

    pairs: int = 2
    seconds: float = 1.0
    gathering: float = GATHERING
    patience: float = 5.0  # seconds; what takes the quiet tenant longer has failed
    drain: float = DRAIN
    cores: tuple[int, int] | None = None


@dataclass
class Ground:
    """Where attacks take place: the backends, the gateway that is never attacked, and the quiet tenant."""

    options: Options
    folder: Path
    sandbox: SandboxProcess
    calm: Gateway
    quiet: QuietTenant
    say: Callable[[str], None]
    quiet_share: float = 0.0  # of its core that a gateway takes for the quiet tenant alone
    sandbox_share: float = 0.0

    @property
    def cores(self) -> tuple[int | None, int | None]:
        """The core of the gateways, and that of the others."""
        return self.options.cores or (None, None)

    async def measure(self, name: str) -> Figures:
        """Has the quiet tenant work on a gateway for one slice."""
        for _ in range(TRIES):  # rule 5
            before = stolen_seconds()
            figures = await self.quiet.measure(name, self.options.seconds, self.options.patience)
            if figures.failures or stolen_seconds() - before <= STOLEN * self.options.seconds:
                break
        return figures


@asynccontextmanager
async def prepared(options: Options, folder: Path, say: Callable[[str], None]) -> AsyncIterator[Ground]:
    """Builds what all attacks share."""
    core, others = options.cores or (None, None)
    calm_folder = folder / "calm"
    calm_folder.mkdir()
    async with AsyncExitStack() as stack:
        with on(others):
            sandbox = await stack.enter_async_context(SandboxProcess(folder))
            quiet = await stack.enter_async_context(QuietTenant())
        calm = Gateway(calm_folder, sandbox, timeout=f"{TIMEOUT}s")
        calm.core = core
        await stack.enter_async_context(calm)
        ground = Ground(options, folder, sandbox, calm, quiet, say)
        await quiet.know("calm", calm)
        await quiet.measure("calm", WARM_UP, options.patience)
        pids = (calm.pid, sandbox_pid(sandbox))
        before = [processor_seconds(pid) for pid in pids]
        await quiet.measure("calm", WARM_UP, options.patience)
        after = [processor_seconds(pid) for pid in pids]
        ground.quiet_share, ground.sandbox_share = (
            (late - early) / WARM_UP for late, early in zip(after, before, strict=True)
        )
        say(f"a gateway takes {ground.quiet_share:.0%} of its core for the quiet tenant alone")
        try:
            yield ground
        finally:
            await quiet.forget("calm")


def sandbox_pid(sandbox: SandboxProcess) -> int:
    """Returns which process the sandbox is."""
    assert sandbox._process is not None
    return sandbox._process.pid


async def measure(attack: Attack, ground: Ground) -> Verdict:
    """Measures one attack, stops the gateway under it, and returns what was found."""
    folder = ground.folder / attack.name
    folder.mkdir()
    async with AsyncExitStack() as stack:
        victim = Gateway(folder, ground.sandbox, timeout=f"{TIMEOUT}s")
        victim.core, victim.has_clients = ground.cores[0], attack.has_clients
        if attack.starts:
            await _grown(ground.folder, attack.starts, victim.store)
        await ground.sandbox.replace_faults(list(attack.faults))
        await victim.start()
        trial = _Trial(attack, ground, victim)
        stack.push_async_callback(trial.end)
        return await trial.run(stack)


async def _grown(folder: Path, count: int, store: Path) -> None:
    """Copies a store that has been in use for a while; it is made once."""
    kept = folder / f"grown-{count}.db"

    async def record(made: SqliteStore, clock: Clock) -> None:
        await finished(made, clock, Lane("rapidpro", ACCOUNTS["rapidpro"]))

    if not kept.exists():
        await grow(kept, count, record)
    shutil.copy(kept, store)


class _Trial:
    """One attack on one gateway."""

    def __init__(self, attack: Attack, ground: Ground, victim: Gateway) -> None:
        self._attack, self._ground, self._victim = attack, ground, victim
        self._verdict = Verdict(attack=attack, drain_bound=ground.options.drain)
        self._attackers: list[Helper] = []
        self._shares = (0.0, 0.0)  # of each core, to be burnt in the next slice beside burners

    async def run(self, stack: AsyncExitStack) -> Verdict:
        ground, victim, verdict, options = self._ground, self._victim, self._verdict, self._ground.options
        ground.calm.suspend()
        await ground.quiet.know("attacked", victim)
        await ground.quiet.measure("attacked", WARM_UP, options.patience)
        verdict.before = resident(victim.pid)
        watching = asyncio.create_task(self._look())
        try:
            await self._begin(stack)
            for times in (1, 3):  # rule 4
                for _ in range(times * options.pairs):
                    await self._beside_attack()
                    await self._beside_burner()
                if verdict.beside_attack.failures or not verdict.is_slow:
                    break
        finally:
            watching.cancel()
            ground.calm.resume()
        await self._tell_attackers()
        await ground.quiet.forget("attacked")
        await self._stop()
        verdict.bugs = victim.bugs()
        return verdict

    async def end(self) -> None:
        """Leaves nothing running."""
        if self._verdict.stop_code is None:
            await self._victim.kill()

    async def _begin(self, stack: AsyncExitStack) -> None:
        """Has the attackers come, and the attack gather."""
        self._attackers = list(attackers(self._attack, self._victim))
        with on(self._ground.cores[1]):
            for each in self._attackers:
                await stack.enter_async_context(each)
                each.nicer()
        await asyncio.gather(*(each.ask("begun?") for each in self._attackers))
        await asyncio.sleep(self._ground.options.gathering)

    async def _beside_attack(self) -> None:
        ground, verdict = self._ground, self._verdict
        ground.calm.suspend()
        self._victim.resume()
        for each in self._attackers:
            each.resume()
        await asyncio.sleep(SETTLE)
        others = [each.pid for each in self._attackers]
        before, began = self._spent(others), time.monotonic()
        _add(verdict.beside_attack, await ground.measure("attacked"))
        lasted = time.monotonic() - began
        own, beside, backends = (
            (late - early) / lasted for late, early in zip(self._spent(others), before, strict=True)
        )
        self._shares = (own - ground.quiet_share, beside + backends - ground.sandbox_share)
        verdict.share = max(verdict.share, own)
        verdict.after = resident(self._victim.pid)

    async def _beside_burner(self) -> None:
        ground, verdict = self._ground, self._verdict
        for each in self._attackers:
            each.halt()
        self._victim.suspend()
        ground.calm.resume()
        async with AsyncExitStack() as stack:
            for core, share, is_nicer in zip(ground.cores, self._shares, (False, True), strict=True):
                if share > LEAST:
                    with on(core):
                        burning = await stack.enter_async_context(burner(share))
                    if is_nicer:
                        burning.nicer()
            await asyncio.sleep(SETTLE)
            _add(verdict.beside_burner, await ground.measure("calm"))

    async def _tell_attackers(self) -> None:
        self._victim.resume()
        for each in self._attackers:
            each.resume()
        for told in await asyncio.gather(*(each.ask("how far?") for each in self._attackers)):
            self._verdict.counts += Counter(told)

    async def _stop(self) -> None:
        """Stops the gateway while the attack goes on."""
        began = time.monotonic()
        self._victim.tell(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._verdict.drain_bound):
                self._verdict.stop_code = await self._victim.ended()
        except TimeoutError:
            pass
        self._verdict.stop_seconds = time.monotonic() - began

    async def _look(self) -> None:
        while True:
            self._verdict.largest = max(self._verdict.largest, resident(self._victim.pid))
            self._verdict.log_size = max(self._verdict.log_size, self._victim.log_size)
            await asyncio.sleep(LOOK)

    def _spent(self, others: list[int]) -> tuple[float, float, float]:
        """Returns the processor time so far of the gateway, of the attackers and of the backends."""
        backends = processor_seconds(sandbox_pid(self._ground.sandbox))
        return processor_seconds(self._victim.pid), sum(map(processor_seconds, others)), backends


def _add(to: Figures, more: Figures) -> None:
    for each in fields(Figures):
        getattr(to, each.name).extend(getattr(more, each.name))
