"""One run: the sandbox and the gateway as processes, callers, an operator, bad weather and kills; then the evidence."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.chaos.driver import Callers
from tests.chaos.evidence import Evidence
from tests.chaos.faults import Sky
from tests.chaos.journal import created_in, ended_in, most_in_flight, sent_in
from tests.chaos.kills import Reaper
from tests.chaos.plan import LONG
from tests.chaos.resolver import Operator
from tests.chaos.strangers import Strangers
from tests.chaos.witness import Witness
from tests.end_to_end.processes import Client, GatewayProcess, SandboxProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

    from tests.chaos.kills import Reaps
    from tests.chaos.plan import Life, Options, Plan
    from tests.end_to_end.processes import Called

REST_WITHIN = 60.0  # seconds after the last fault in which everything must have ended
LAST = 0.2  # seconds after a long life is over in which the last of its starts is asked for
SETTINGS = """
quiet_window = "{window}s"
on_absent = "{on_absent}"
in_flight = {in_flight}
backlog = {backlog}
"""


async def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> Evidence:
    """Carries a plan out and gathers the evidence. Everything the processes leave behind is in `folder`."""
    options = plan.options
    settings = settings_of(options)
    command = ("-m", "tests.chaos.skewed", str(options.skew)) if options.skew else ("-m", "gateway")
    if options.plant:
        command = ("-m", "tests.chaos.planted", options.plant)
    sandbox = SandboxProcess(folder, duration=options.duration)
    gateway = GatewayProcess(folder, sandbox, timeout=f"{options.timeout}s", settings=settings, command=command)
    async with sandbox:
        await sandbox.configure("rapidpro", ahead=options.ahead, generation="old" if options.upgrade else "new")
        return await _serve(plan, sandbox, gateway, say)


async def _serve(plan: Plan, sandbox: SandboxProcess, gateway: GatewayProcess, say: Callable[[str], None]) -> Evidence:
    async with gateway, Client(gateway.address) as client:
        return await Run(plan, sandbox, client, [Reaper(gateway, sandbox)], [gateway], say).run()


def settings_of(options: Options) -> str:
    """Writes what a run's options say of each backend, as lines of the configuration."""
    return SETTINGS.format(
        window=options.window, on_absent=options.on_absent, in_flight=options.in_flight, backlog=options.backlog
    )


class Run:
    """One run over gateways that share a store; each reaper ends the lives of one of them."""

    def __init__(
        self,
        plan: Plan,
        sandbox: SandboxProcess,
        client: Called,
        reapers: Sequence[Reaps],
        gateways: Sequence[GatewayProcess],
        say: Callable[[str], None],
        *others: Callable[[], Coroutine[object, object, None]],
    ) -> None:
        """`others` run beside the weather, until they are cancelled when it clears up."""
        options = plan.options
        self._plan, self._sandbox, self._gateways, self._say = plan, sandbox, gateways, say
        self._callers = Callers(client, options.skew, options.patience)
        self._sky = Sky(sandbox, plan.weathers, plan.outages)
        self._reapers, self._others = reapers, others
        self._longest = max(options.late, 0.9) * options.window + options.timeout  # until nothing comes late any more
        self._operator = Operator(client, sandbox, plan.verdicts, settled_after=self._longest)
        self._witness = Witness(client, options.skew)
        in_doubt = self._witness.in_doubt if options.restless else None
        self._strangers = Strangers(sandbox, random.Random(options.seed), options.every, options.page_size, in_doubt)
        self._counts: Counter[str] = Counter()

    async def run(self) -> Evidence:
        """Lives through the plan, and gathers the evidence once nothing moves."""
        begun = time.monotonic()
        calling = asyncio.create_task(self._callers.run())
        await self._live(begun)
        self._say(f"{time.monotonic() - begun:4.0f} s: the weather clears up, {self._callers.waiting} calls wait")
        await self._first_of(calling, self._callers.finish())
        await _cancelled(calling)
        moving = await self._rest()
        if moving:
            self._say(f"after {REST_WITHIN:g} s still moving: {', '.join(moving[:5])} …, {len(moving)} in all")
        self._say(f"{time.monotonic() - begun:4.0f} s: gathering the evidence")
        return await self._gather()

    async def _live(self, begun: float) -> None:
        """Lives through every life of the plan, or as many as there is time for."""
        weather = asyncio.create_task(self._sky.run())
        strangers = asyncio.create_task(self._strangers.run())
        operator = asyncio.create_task(self._operator.run())
        others = [asyncio.create_task(other()) for other in self._others]
        lives = iter(enumerate(self._plan.lives, start=1))
        lived: asyncio.Future[object] = asyncio.gather(*(self._reap(each, lives, begun) for each in self._reapers))
        for background in (*others, weather, strangers, operator):
            lived = asyncio.ensure_future(self._first_of(background, lived))
        await lived
        for each in (*others, strangers, weather):
            await _cancelled(each)
        await self._sky.clear_up()
        await _cancelled(operator)

    async def _reap(self, reaper: Reaps, lives: Iterator[tuple[int, Life]], begun: float) -> None:
        """Ends lives of one gateway, as long as there are some and there is time."""
        options, count = self._plan.options, len(self._plan.lives)
        for number, life in lives:
            if time.monotonic() - begun > options.seconds:
                self._say(f"out of time after {number - 1} of {count} lives")
                return
            await self._sky.blind(life.blind)
            await asyncio.gather(self._feed(life), reaper.live(life))
            if number % 10 == 0 or number == count:
                told = len(self._callers.told)
                self._say(
                    f"{time.monotonic() - begun:4.0f} s: {number} of {count} lives, {told} starts asked for,"
                    f" {self._callers.waiting} calls wait, {len(self._operator.words)} resolved"
                )

    async def _feed(self, life: Life) -> None:
        """Has one half of a life's starts asked for at its beginning, and the other shortly before its end.

        In a life that is longer than usual they are spread over it, and the last is for the kill to aim at.
        """
        if life.seconds > LONG[1]:
            for wanted in life.starts:
                await asyncio.sleep((life.seconds + LAST) / len(life.starts))
                self._callers.ask([wanted])
            return
        half = len(life.starts) // 2
        self._callers.ask(life.starts[:half])
        await asyncio.sleep(life.seconds * 0.9)
        self._callers.ask(life.starts[half:])

    async def _rest(self) -> list[str]:
        """Waits until nothing moves any more, and whatever comes late would have come and been seen."""
        until = time.monotonic() + REST_WITHIN
        while True:
            if not await self._witness.moving() or time.monotonic() > until:
                break
            await asyncio.sleep(0.3)
        await asyncio.sleep(self._longest + 1.5)
        return await self._witness.moving()

    async def _gather(self) -> Evidence:
        shown = await self._witness.testify()
        journal = await self._sandbox.journal()
        told = tuple(self._callers.told.values())
        self._operator.tell(told)
        fired = self._sky.fired(journal)
        fired["refused"] = sum(
            each.outcome == "NOT_SENT" and "refused" in each.detail
            for start in shown.values()
            for each in start.attempts
        )
        for kind, begin, end in self._sky.out:
            fired[f"outage {kind}"] += 1
            self._say(f"outage {kind}: {end - begin:.1f} s")
        fired["store swept"] = sum(len(reaper.swept) for reaper in self._reapers)
        self._counts += self._callers.counts + self._operator.counts + self._strangers.counts
        return Evidence(
            told=told,
            shown=shown,
            created=created_in(journal),
            sent=sent_in(journal),
            ended=ended_in(journal),
            kills=tuple(sorted(kill for reaper in self._reapers for kill in reaper.kills)),
            pauses=tuple(sorted(pause for reaper in self._reapers for pause in reaper.pauses)),
            fired=fired,
            in_flight=most_in_flight(journal),
            counts=self._counts,
            bugs=tuple(line[:400] for gateway in self._gateways for line in gateway.bugs()),
            broken=tuple(each for reaper in self._reapers for each in reaper.broken),
        )

    async def _first_of(self, background: asyncio.Task[None], work: object) -> None:
        """Does some work; if what runs in the background fails meanwhile, so does this."""
        task = asyncio.ensure_future(work)  # type: ignore[arg-type]
        await asyncio.wait({task, background}, return_when=asyncio.FIRST_COMPLETED)
        if background.done():
            task.cancel()
            background.result()
        await task


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
