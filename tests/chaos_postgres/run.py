"""One run of `make chaos-postgres`: that of `make chaos` with several gateways, and PostgreSQL breaking as well."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.judge import ambiguous, resting
from tests.chaos.record import read_postgres
from tests.chaos.report import RESTING, report
from tests.chaos.run import Run
from tests.chaos_postgres.breaker import KINDS, Breaker
from tests.chaos_postgres.duel import Duelist
from tests.chaos_postgres.house import House
from tests.chaos_postgres.onlookers import COUNT, Onlooker, wrong_with
from tests.chaos_postgres.reaper import PostgresReaper, broken_in
from tests.end_to_end.processes import SandboxProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.chaos.evidence import Evidence
    from tests.chaos.plan import Plan

OF = 2_000  # starts in the run that the floors are for; those of a shorter one are as much lower
FLOORS = {"kills": 60, "stopped": 30, "server killed": 10, "cut after COMMIT": 10}
EACH_FAULT = 20


@dataclass(slots=True)
class Outcome:
    """What a run has come to."""

    evidence: Evidence
    counts: Counter[str]
    wrong: list[str] = field(default_factory=list)  # beside what the judge of `make chaos` finds
    changes: int = 0
    streams: int = 0


async def run(
    plan: Plan,
    count: int,
    every: float,
    folder: Path,
    say: Callable[[str], None],
    breaks: Sequence[str] = KINDS,
    duel: str = "",
) -> Outcome:
    """Carries a plan out with so many gateways; something of `breaks` breaks about every so many seconds.

    `duel`: lives are those of `duel.py`, not those of any gateway by itself.
    """
    options = plan.options
    sandbox = SandboxProcess(folder, duration=options.duration)
    async with sandbox, House(count, folder, sandbox, options) as house:
        await sandbox.configure("rapidpro", ahead=options.ahead, generation="old" if options.upgrade else "new")
        chance = random.Random(options.seed)
        url = house.server.url()
        reapers: list[PostgresReaper | Duelist] = [
            PostgresReaper(each, sandbox, url, random.Random(chance.random())) for each in house.gateways
        ]
        if duel:
            reapers = [Duelist(duel, house, sandbox, options)]
        breaker = Breaker(house.server, house.proxy, random.Random(chance.random()), every, breaks)
        onlookers = [Onlooker(house.client) for _ in range(COUNT)]
        watching = [asyncio.create_task(each.run()) for each in onlookers]
        evidence = await Run(plan, sandbox, house.client, reapers, house.gateways, say, breaker.run).run()
        record = await asyncio.to_thread(read_postgres, url)
        await asyncio.gather(*(each.come(record[-1].revision) for each in onlookers if record))
        for each in watching:
            each.cancel()
        await asyncio.wait(watching)
        return Outcome(
            evidence=evidence,
            counts=_counted(reapers, breaker),
            wrong=[*wrong_with(onlookers, record), *await asyncio.to_thread(broken_in, url)],
            changes=len(record),
            streams=sum(each.streams for each in onlookers),
        )


def _counted(reapers: Sequence[PostgresReaper | Duelist], breaker: Breaker) -> Counter[str]:
    counts = Counter(breaker.counts)
    for reaper in reapers:
        counts["drained"] += reaper.drains
        counts["ended by themselves"] += reaper.own_ends
        counts["started in vain"] += reaper.vain_starts
        counts["checked"] += reaper.checked
        counts["duels"] += reaper.duels
    return counts


def reported(plan: Plan, count: int, outcome: Outcome, say: Callable[[str], None]) -> bool:
    """Prints what happened and what is wrong; returns whether the run has passed."""
    counts = outcome.counts
    more = {
        "gateways": f"{count}; {counts['drained']} drained, {counts['ended by themselves']} ended by themselves,"
        f" {counts['started in vain']} started in vain",
        "PostgreSQL": f"{counts['killed']} times killed, {counts['hung']} times every connection broken",
        "at a COMMIT": ", ".join(f"{counts[kind]} {kind}" for kind in ("before", "after", "frozen", "held")),
        "invariants": f"{counts['checked']} times checked",
        "watchers": f"{COUNT} of {outcome.changes} changes, {outcome.streams} streams",
        "beside": str(len(outcome.wrong)),
    }
    passed = report(plan.options, outcome.evidence, say, more, list(_shortfalls(plan, outcome)))
    for each in outcome.wrong[:25]:
        say(f"  VIOLATION {each}")
    return passed and not outcome.wrong


def _shortfalls(plan: Plan, outcome: Outcome) -> Iterator[str]:
    options, evidence, counts = plan.options, outcome.evidence, outcome.counts
    share = options.starts / OF
    cuts = counts["after"] + counts["frozen"]
    reached = {
        "kills": len(evidence.kills),
        "stopped": len(evidence.pauses),
        "server killed": counts["killed"],
        "cut after COMMIT": cuts,
    }
    floors = {
        "starts": (sum(bool(told.start_id) for told in evidence.told), options.starts),
        **{name: (reached[name], int(least * share)) for name, least in FLOORS.items()},
    }
    yield from (f"{name}: {count} of {least}" for name, (count, least) in floors.items() if count < least)
    if len(resting(evidence)) > ambiguous(evidence) * RESTING:
        yield f"uncertain at rest: {len(resting(evidence))} of {ambiguous(evidence)}"
