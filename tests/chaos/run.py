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
    from collections.abc import Callable
    from pathlib import Path

    from tests.chaos.plan import Life, Plan

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
    settings = SETTINGS.format(
        window=options.window, on_absent=options.on_absent, in_flight=options.in_flight, backlog=options.backlog
    )
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
        return await _Run(plan, sandbox, gateway, client, say).run()


class _Run:
    def __init__(
        self, plan: Plan, sandbox: SandboxProcess, gateway: GatewayProcess, client: Client, say: Callable[[str], None]
    ) -> None:
        options = plan.options
        self._plan, self._sandbox, self._gateway, self._say = plan, sandbox, gateway, say
        self._callers = Callers(client, options.skew)
        self._sky = Sky(sandbox, plan.weathers, plan.outages)
        self._reaper = Reaper(gateway, sandbox)
        self._longest = max(options.late, 0.9) * options.window + options.timeout  # until nothing comes late any more
        self._operator = Operator(client, sandbox, plan.verdicts, settled_after=self._longest)
        self._witness = Witness(client, options.skew)
        in_doubt = self._witness.in_doubt if options.restless else None
        self._strangers = Strangers(sandbox, random.Random(options.seed), options.every, options.page_size, in_doubt)
        self._counts: Counter[str] = Counter()

    async def run(self) -> Evidence:
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
        options, lives = self._plan.options, self._plan.lives
        weather = asyncio.create_task(self._sky.run())
        strangers = asyncio.create_task(self._strangers.run())
        operator = asyncio.create_task(self._operator.run())
        for number, life in enumerate(lives, start=1):
            if time.monotonic() - begun > options.seconds:
                self._say(f"out of time after {number - 1} of {len(lives)} lives")
                break
            await self._sky.blind(life.blind)
            lived = asyncio.gather(self._feed(life), self._reaper.live(life))
            await self._first_of(weather, self._first_of(strangers, self._first_of(operator, lived)))
            if number % 10 == 0 or number == len(lives):
                told = len(self._callers.told)
                self._say(
                    f"{time.monotonic() - begun:4.0f} s: {number} of {len(lives)} lives, {told} starts asked for,"
                    f" {self._callers.waiting} calls wait, {len(self._operator.words)} resolved"
                )
        await _cancelled(strangers)
        await _cancelled(weather)
        await self._sky.clear_up()
        await _cancelled(operator)

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
        fired["store swept"] = len(self._reaper.swept)
        self._counts += self._callers.counts + self._operator.counts + self._strangers.counts
        return Evidence(
            told=told,
            shown=shown,
            created=created_in(journal),
            sent=sent_in(journal),
            ended=ended_in(journal),
            kills=tuple(self._reaper.kills),
            pauses=tuple(self._reaper.pauses),
            fired=fired,
            in_flight=most_in_flight(journal),
            counts=self._counts,
            bugs=tuple(line[:400] for line in self._gateway.bugs()),
            broken=tuple(self._reaper.broken),
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
