"""What came of the shape of an hour, as figures and a table."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING

from tests.bench.figures import Figure, Part, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.soak import Found

AT_REST = 5  # samples, a second apart, that a median is taken of
ENDS = (slice(0, AT_REST), slice(-AT_REST, None))
MOST_MEMORY = 1.10
METHOD = (
    "The gateway, on one core and with its store on the disk of the checkout, takes starts with request ids at a fixed"
    " rate (an open loop), spread over 8 backends: a stub that completes each start two seconds later and has a fault"
    " for 1 % of the POSTs, each kind in its turn. 950 watchers follow a start each that becomes due during the run,"
    " 45 a label that 1 of 100 starts has, 5 everything. Retention is on. When more starts pile up than are made in"
    " three seconds, the rate is more than this machine bears and is lowered; the lowest one is told. Stub, watchers"
    " and callers share the other core. Memory and file descriptors (but for connections to backends, of which there"
    " are as many as it takes) are medians of five seconds; the event loop is looked at every 5 ms from the inside, and"
    " a look that comes late counts as often as it has missed its turn. After the load it is waited until every start"
    " is over."
)


def report(found: Found, command: str) -> Part:
    """Reports it."""
    plan, samples = found.plan, found.samples
    at_first, at_last = (statistics.median(samples.memory[part]) for part in ENDS)
    rate = found.caller.rate
    opened, left_open = (statistics.median(samples.descriptors[part]) for part in ENDS)
    refused = sum(found.caller.refused.values())
    missed = found.recorded - found.streamed["all"][0] / found.watchers["all"]
    ended = sum(streams for _, streams, _ in found.streamed.values())
    beside = f"{sum(found.watchers.values()):,} watchers, {plan.faults:.0%} faults"
    late = f"STILL AT IT ({len(found.left)} are not over)" if found.left else ""
    figures = [
        Figure(name=f"starts/s that are borne on one core, {beside}", ratios=[rate], least=plan.rates[0]),
        Figure(name=f"memory at the end ÷ after warm-up, at {rate}/s", ratios=[at_last / at_first], most=MOST_MEMORY),
        Figure(name="file descriptors at the end, beyond those after warm-up", ratios=[left_open - opened], most=0.0),
        Figure(name="event-loop lag p99", ratios=[_part(found.lateness, 0.99) * 1e3], unit=" ms"),
        Figure(name="refused calls", ratios=[refused], most=0.0),
        Figure(name="accepted starts that never reached their backend", ratios=[found.lost], most=0.0),
        Figure(name="dispatches that a backend carried out twice", ratios=[_again(found)], most=0.0),
        Figure(name="watches that have ended", ratios=[ended], most=0.0),
        Figure(name="changes that a watcher of everything was not sent", ratios=[missed], most=0.0, doubt=late),
    ]
    return Part(
        title="The shape of an hour",
        command=command,
        method=METHOD,
        figures=figures,
        tables=[Table(title="What was borne", rows=list(_rows(found)))],
    )


def _again(found: Found) -> int:
    return sum(len(each["again"]) for each in found.stub)


def _rows(found: Found) -> list[tuple[str, str]]:
    samples, caller = found.samples, found.caller
    latencies = sorted(caller.latencies)
    faults = Counter[str]()
    for each in found.stub:
        faults.update(each["faults"])
    mib = [[f"{value / 2**20:,.0f}" for value in values] for values in (samples.memory, samples.store, samples.wal)]
    told = [
        ("starts accepted", f"{len(caller.accepted):,}"),
        ("refused calls", ", ".join(f"{count} {code}" for code, count in caller.refused.items()) or "0"),
        ("latency of StartFlow, p50 and p99, ms", _pair(latencies, 1e3)),
        ("event-loop lag, p50 and p99, ms", _pair(found.lateness, 1e3)),
        ("event-loop lag at the most, ms", f"{found.lateness[-1] * 1e3:,.0f}"),
        ("gateway busy", f"{found.spent.busy:.0%}"),
        ("of that its event loop", f"{found.spent.first_seconds / found.spent.seconds:.0%}"),
        ("stolen from its core", f"{found.spent.stolen:.1%}"),
        ("memory after warm-up, at the most and at the end, MiB", _course(samples.memory, mib[0])),
        ("file descriptors but for connections to backends, the same", _course(samples.descriptors)),
        ("store with its WAL, the same, MiB", _course(samples.store, mib[1])),
        ("WAL, the same, MiB", _course(samples.wal, mib[2])),
        ("POSTs", f"{found.total('posts'):,}"),
        *((f"of them met: {name}", f"{count:,}") for name, count in faults.items()),
        ("starts made by the backends", f"{found.total('commits'):,}"),
        ("distinct correlation keys among them", f"{found.total('keys'):,}"),
        ("carried out twice", f"{_again(found)}"),
        ("accepted but not sent yet, when the load ended", f"{found.behind:,}"),
        ("seconds until every start was over", f"{found.settled_in:.1f}"),
        ("not over after that", f"{len(found.left)}"),
        ("changes recorded while watchers watched", f"{found.recorded:,}"),
        *(
            (
                f"changes streamed to {found.watchers[by]} by {by}",
                f"{count:,}{f'; {ended} ended' if ended else ''}",
            )
            for by, (count, ended, _) in found.streamed.items()
        ),
        ("lines of the log that tell of a bug", f"{found.bugs}"),
    ]
    lowered = "".join(f", {rate}/s after {seconds:.0f} s" for seconds, rate in caller.lowered)
    return [("", f"{found.plan.load:.0f} s at {found.plan.rates[0]}/s{lowered}"), *told]


def _part(values: Sequence[float], share: float) -> float:
    """Returns the value below which a share of the sorted ones is."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def _pair(values: Sequence[float], unit: float) -> str:
    return f"{_part(values, 0.5) * unit:,.1f}, {_part(values, 0.99) * unit:,.1f}"


def _course(values: Sequence[int], told: Sequence[str] = ()) -> str:
    told = told or [f"{value:,}" for value in values]
    return f"{told[0]}, {told[values.index(max(values))]}, {told[-1]}"
