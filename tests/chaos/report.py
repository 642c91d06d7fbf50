"""What a run counted, as a table, and whether it proves what it should."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.chaos.faults import COUNTED, OUTAGES
from tests.chaos.judge import ambiguous, excused, judge, kills_that_hit, resting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.chaos.evidence import Evidence, Told
    from tests.chaos.judge import Violation
    from tests.chaos.plan import Options

BLOCK = 100  # recipients: a start with more is written out in blocks
SHOWN = 25  # violations of each kind, at the most
FIRED, OF = 50, 500  # how often each kind of fault must have fired in so many starts
HITS, OF_KILLS = 30, 100  # how many of so many kills must have hit an open attempt; of fewer, one
LEAST_IN_FLIGHT = 8
RESTING = 0.01  # of the ambiguous sends may rest uncertain


def report(
    options: Options,
    evidence: Evidence,
    say: Callable[[str], None],
    more: Mapping[str, str] | None = None,
    short: Sequence[str] | None = None,
) -> bool:
    """Prints what happened and what is wrong; returns whether the run has passed.

    `more` are further rows; `short` says what the run did too little of, in place of what `make chaos` asks for.
    """
    violations = judge(evidence, kept=options.is_kept, may_repeat=not options.is_kept and options.on_absent == "resend")
    for line in _table(options, evidence, violations):
        say(line)
    for name, text in (more or {}).items():
        say(_row(name, text))
    shortfalls = (list(_shortfalls(options, evidence)) if short is None else short) if options.floors else []
    told: Counter[str] = Counter()
    for violation in violations:
        told[violation.kind] += 1
        if told[violation.kind] <= SHOWN:
            say(f"  VIOLATION {violation}")
    for shortfall in shortfalls:
        say(f"  TOO FEW OR TOO MANY {shortfall}")
    passed = not violations and not shortfalls
    say(f"{'PASSED' if passed else 'FAILED'}: seed {options.seed}, {len(violations)} violations")
    return passed


def _table(options: Options, evidence: Evidence, violations: list[Violation]) -> Iterator[str]:
    accepted = [told for told in evidence.told if told.start_id]
    kinds = Counter(violation.kind for violation in violations)
    rests = resting(evidence)
    unsure = ambiguous(evidence)
    yield (
        f"seed {options.seed}, late up to {options.late:.0%} of a window of {options.window:g} s, on_absent"
        f" {options.on_absent}, clock {options.skew:+g} s"
    )
    several = sum(told.wanted.dispatches > 1 for told in accepted)
    large = sum(_is_large(told) for told in accepted)
    yield _row(
        "starts",
        f"{len(accepted)} accepted, {large} large, {several} of several dispatches, {_refused(evidence)} refused",
    )
    people = sum(len(part.recipients) for shown in evidence.shown.values() for part in shown.parts)
    yield _row("recipients", str(people))
    parts = Counter(part.state for shown in evidence.shown.values() for part in shown.parts)
    yield _row("dispatches", _listed(parts))
    reasons = Counter(part.reason for shown in evidence.shown.values() for part in shown.parts if part.reason)
    yield _row("reasons", _listed(reasons))
    yield _row("warnings", _listed(Counter(name for shown in evidence.shown.values() for name in shown.warnings)))
    yield _row("backend", f"{len(evidence.sent)} requests to create, {len(evidence.created)} created")
    twins = _twins(evidence)
    told_of = sum("DUPLICATE_SENT" in shown.warnings for shown in evidence.shown.values())
    yield _row("duplicates", f"{twins} dispatches created more than once; {told_of} starts say DUPLICATE_SENT")
    yield _row("in flight", _listed(evidence.in_flight))
    attempts = Counter(each.outcome for shown in evidence.shown.values() for each in shown.attempts)
    yield _row("attempts", _listed(attempts))
    yield _row("kills", f"{len(evidence.kills)}, {kills_that_hit(evidence)} at an open attempt")
    late = excused(evidence)
    yield _row("pauses", f"{len(evidence.pauses)}, {late} requests late by one that came between look and write")
    yield _row("faults", _listed({kind: evidence.fired.get(kind, 0) for kind in COUNTED}))
    yield _row("outages", _listed({kind: evidence.fired.get(f"outage {kind}", 0) for kind in OUTAGES}))
    yield _row("store swept", str(evidence.fired.get("store swept", 0)))
    yield _row("and", _listed(evidence.counts))
    share = len(rests) / unsure if unsure else 0.0
    yield _row("uncertain", f"{len(rests)} at rest of {unsure} ambiguous sends: {share:.2%}")
    for reason, count in Counter(rests.values()).most_common(8):
        yield _row("", f"{count} of them: {reason}")
    for kind in ("lost", "twice", "wrong", "untimely", "refused", "bug", "broken"):
        yield _row(kind, str(kinds[kind]))


def _shortfalls(options: Options, evidence: Evidence) -> Iterator[str]:
    """Says what the run did too little of to prove anything, and whether too much is left uncertain."""
    accepted = [told for told in evidence.told if told.start_id]
    unsure = ambiguous(evidence)
    floors = {
        "starts": (len(accepted), options.starts),
        "large starts": (
            sum(_is_large(told) for told in accepted),
            len(accepted) * 2 // 5 if options.starts >= OF else 1,
        ),
        "times the store was swept": (
            evidence.fired.get("store swept", 0),
            options.swept if options.starts >= OF else 0,
        ),
        **{
            f"outages {kind}": (evidence.fired.get(f"outage {kind}", 0), int(options.starts >= OF and not options.only))
            for kind in OUTAGES
        },
        "duplicates": (_twins(evidence), int(not options.is_kept and options.on_absent == "resend")),
        "kills": (len(evidence.kills), options.kills),
        "kills at an open attempt": (kills_that_hit(evidence), max(1, options.kills // OF_KILLS * HITS)),
        **{f"faults {kind}": (evidence.fired.get(kind, 0), options.starts // OF * FIRED) for kind in COUNTED},
        **{
            f"in flight on {backend}": (evidence.in_flight.get(backend, 0), LEAST_IN_FLIGHT * (options.starts // OF))
            for backend in ("rapidpro", "twilio")
        },
    }
    yield from (f"{name}: {count} of {least}" for name, (count, least) in floors.items() if count < least)
    if options.on_absent == "resend" and len(resting(evidence)) > unsure * RESTING:
        yield f"uncertain at rest: {len(resting(evidence))} of {unsure}"


def _twins(evidence: Evidence) -> int:
    """Counts the dispatches that were created more than once."""
    return sum(count > 1 for count in Counter(creation.key for creation in evidence.created).values())


def _is_large(told: Told) -> bool:
    return len(told.wanted.urns) > BLOCK


def _refused(evidence: Evidence) -> int:
    return sum(bool(told.refused) for told in evidence.told)


def _row(name: str, text: str) -> str:
    return f"  {name:<12}{text}"


def _listed(counts: object) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(dict(counts).items())) or "none"  # type: ignore[call-overload]
