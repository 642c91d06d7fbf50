"""Counts the requests that a backend gets, from the sandbox's journal: `python -m tests.bench.cost`.

Nothing here is timed: numbers of requests are the same on every machine.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Figure, Part, Table
from tests.bench.following import FLOWS, QUIET_SWEEPS, Quiet, following, rest
from tests.bench.running import options, run, tell
from tests.chaos.cost import AT_ONCE, FAULTS, Extra, ambiguous, many, serving

WORDS = {"rapidpro": "RapidPro", "twilio": "Twilio"}
POSTS = {"rapidpro": 0.01, "twilio": 1.0}  # for one URN
COMMAND = "python -m tests.bench.cost"
METHOD = (
    "The gateway and both simulated backends are processes of their own, and requests are counted from the sandbox's"
    " journal, which no gateway code reads or writes. One start of many URNs is sent to its end. Sends are made"
    " ambiguous by hanging up after, or before, the backend has made the start; counted is what it takes until each of"
    " them runs, once. Sweeps are counted while many starts run and none changes."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is counted: URNs of a start, whether ambiguous sends are, and starts that run on each backend."""

    urns: int
    ambiguous: bool
    running: int


INTERVAL = "100ms"  # between sweeps, at the least

FULL = Plan(urns=10_000, ambiguous=True, running=20_000)
QUICK = Plan(urns=1_000, ambiguous=False, running=5_000)


async def _measure(plan: Plan, folder: Path) -> tuple[dict[str, int], dict[tuple[str, str, int], Extra], Quiet]:
    extras: dict[tuple[str, str, int], Extra] = {}
    for part in ("sending", "following"):
        (folder / part).mkdir()
    async with serving(folder / "sending") as (client, sandbox):
        cases = [(backend, label, count) for backend in FLOWS for label in FAULTS for count in (1, AT_ONCE)]
        for case in cases if plan.ambiguous else ():  # first, while a list is one page
            extras[case] = await ambiguous(client, sandbox, *case)
            tell(f"{case}: {extras[case].each:.2f} extra requests per ambiguous send")
        posts = {}
        for backend in FLOWS:
            posts[backend] = await many(client, sandbox, backend, plan.urns)
            tell(f"{plan.urns:,} URNs on {backend}: {posts[backend]:,} POSTs")
    async with following(folder / "following", plan.running, INTERVAL) as (bench, crowds):
        tell(f"{plan.running:,} starts run on each backend")
        quiet = await rest(bench, crowds)
        tell(f"{QUIET_SWEEPS} sweeps of each while nothing changes")
    return posts, extras, quiet


def measure(quick: bool) -> Part:  # noqa: FBT001 -- so are all parts measured
    """Counts requests."""
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        posts, extras, quiet = asyncio.run(_measure(plan, Path(folder)))
    figures = [
        Figure(
            name=f"requests to send {plan.urns:,} URNs, {WORDS[backend]}",
            ratios=[float(count)],
            most=plan.urns * POSTS[backend],
        )
        for backend, count in posts.items()
    ]
    running = f"{plan.running:,} running"
    figures += [
        Figure(
            name=f"requests per sweep, RapidPro, {running}, none changed",
            ratios=[float(each) for each in quiet.sweeps["rapidpro"].requests],
            most=1.0,
        ),
        Figure(
            name=f"requests per sweep ÷ 1 per 1,000 per flow, Twilio, {running}, none changed",
            ratios=[each / quiet.allowed for each in quiet.sweeps["twilio"].requests],
            most=1.0,
        ),
    ]
    return Part(
        title="Cost",
        command=COMMAND + (" --quick" if quick else ""),
        method=METHOD,
        figures=figures,
        tables=list(_tables(extras, quiet)),
    )


def _tables(extras: dict[tuple[str, str, int], Extra], quiet: Quiet) -> list[Table]:
    rows = [("", "requests in each", "seconds apart")]
    for backend, sweeps in quiet.sweeps.items():
        apart = (sweeps.began[-1] - sweeps.began[0]) / QUIET_SWEEPS
        rows.append((WORDS[backend], ", ".join(map(str, sweeps.requests)), f"{apart:.1f}"))
    tables = [Table(title="Sweeps while nothing changes", rows=rows)]
    if extras:
        found = [("what became of it, and how many at once", "POSTs", "lists", "contexts", "for each")]
        found += [
            (
                f"{WORDS[backend]}, {label}, {count}",
                *(str(each) for each in (extra.posts, extra.lists, extra.contexts)),
                f"{extra.each:.2f}",
            )
            for (backend, label, count), extra in extras.items()
        ]
        tables.append(Table(title="Requests beyond the first for ambiguous sends", rows=found))
    return tables


if __name__ == "__main__":
    given = options(COMMAND, __doc__).parse_args()
    sys.exit(run(lambda: measure(given.quick)))
