"""Whether what the gateway told and shows is what really happened. Pure: plain values in, a verdict out.

| violation  | what it means                                                                                        |
|------------|------------------------------------------------------------------------------------------------------|
| `lost`     | a start that was accepted is gone, has not ended, lacks recipients, or says it was sent and was not  |
| `twice`    | one correlation key made two starts, or one start reached one person twice, and nothing says so      |
| `wrong`    | what is shown is not what happened: a state, a reason, an external id, a warning                     |
| `untimely` | a request was sent before it was due, or after it had expired or been cancelled                      |
| `refused`  | a caller was told what it should not be told                                                         |
| `bug`      | a line in the gateway's log that must never be there                                                 |
| `broken`   | an invariant of the store does not hold after a kill                                                 |

Recipients are judged one by one: each that a start names was started exactly once, however it was spelled, or the start
says why not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.sandbox.addresses import canonical
from tests.chaos.evidence import STOPPED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tests.chaos.evidence import Created, Evidence, Part, Sent, Shown, Told

SENT = frozenset({"QUEUED", "STARTED", "COMPLETED"})
OVER = frozenset({"COMPLETED", "FAILED", "INTERRUPTED", "SKIPPED"})
COUNTRY = "US"  # of the sandbox's workspace
POISON = 3  # rounds of "5xx, then proved absent" after which a dispatch is given up
SLACK = 0.3  # seconds from a decision to the request's arrival, on a busy machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that must not be."""

    kind: str
    start_id: str
    text: str
    lines: tuple[int, ...] = ()  # of the sandbox's journal

    def __str__(self) -> str:
        where = f" (journal {', '.join(map(str, self.lines))})" if self.lines else ""
        return f"{self.kind}: {self.start_id or '-'}: {self.text}{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One start with all that is known about it. `created` and `sent` are by dispatch."""

    told: Told
    shown: Shown
    created: Mapping[str, list[Created]]
    sent: Mapping[str, list[Sent]]
    ended: frozenset[str]
    kills: tuple[float, ...]
    pauses: tuple[tuple[float, float], ...]
    taken: Mapping[str, list[float]]  # by backend, in order: when it made a start of the gateway's

    def violation(self, kind: str, text: str, part: str = "") -> Violation:
        """Says what is wrong, with the journal's lines about a dispatch."""
        lines = sorted(entry.line for entry in [*self.created.get(part, []), *self.sent.get(part, [])])
        return Violation(kind=kind, start_id=self.shown.id, text=f"{part} {text}".strip(), lines=tuple(lines))


def judge(evidence: Evidence, *, kept: bool = True, may_repeat: bool = False) -> list[Violation]:
    """Lists everything that is wrong.

    `kept`: the backends carried requests out within the quiet window or never, so that nothing may be found after the
    gateway had ended it. `may_repeat`: duplicates that are reported are no violation.
    """
    created: dict[str, list[Created]] = defaultdict(list)
    for creation in evidence.created:
        created[creation.key].append(creation)
    sent: dict[str, list[Sent]] = defaultdict(list)
    for request in evidence.sent:
        sent[request.key].append(request)
    found = [Violation(kind="bug", start_id="", text=line) for line in evidence.bugs]
    found += [Violation(kind="broken", start_id="", text=line) for line in evidence.broken]
    known = {}
    taken = _taken(evidence)
    for told in evidence.told:
        found += _judge_call(told, evidence.shown)
        shown = evidence.shown.get(told.start_id)
        if shown is not None:
            known[shown.id] = told
            case = Case(
                told=told,
                shown=shown,
                created=created,
                sent=sent,
                ended=evidence.ended,
                kills=evidence.kills,
                pauses=evidence.pauses,
                taken=taken,
            )
            found += _judge_start(case, kept=kept, may_repeat=may_repeat)
    refused = {told.wanted.request_id for told in evidence.told if told.refused}
    strangers = {
        start for start, shown in evidence.shown.items() if start not in known and not _came_too_late(shown, refused)
    }
    found += [Violation(kind="wrong", start_id=start, text="was never accepted") for start in sorted(strangers)]
    parts = {part.id for shown in evidence.shown.values() for part in shown.parts}
    for key, creations in created.items():
        if key not in parts:
            lines = tuple(entry.line for entry in creations)
            found.append(Violation(kind="lost", start_id="", text=f"{key} is of no start that is shown", lines=lines))
    return found


def _came_too_late(shown: Shown, refused: set[str]) -> bool:
    """Whether a start was still being recorded when its caller asked again and was refused because it had expired.

    Nothing of it was or is sent.
    """
    return shown.request_id in refused and all(part.reason == "EXPIRED" for part in shown.parts)


def _judge_call(told: Told, shown: Mapping[str, Shown]) -> Iterator[Violation]:
    for complaint in told.complaints:
        yield Violation(kind="refused", start_id=told.start_id, text=f"{told.wanted.request_id}: {complaint}")
    if told.start_id and told.start_id not in shown:
        yield Violation(kind="lost", start_id=told.start_id, text="was accepted and is not there")
    if not told.start_id and not told.refused:
        yield Violation(kind="lost", start_id="", text=f"{told.wanted.request_id} was never answered")


def _judge_start(case: Case, *, kept: bool, may_repeat: bool) -> Iterator[Violation]:
    shown = case.shown
    if shown.state not in OVER and not shown.is_resting:
        yield case.violation("lost", f"has not ended: {shown.state}")
    yield from _judge_recipients(case)
    doubled = False
    for part in shown.parts:
        yield from _judge_part(case, part, kept=kept)
        yield from _judge_times(case, part)
        creations = case.created.get(part.id, [])
        if len(creations) > 1:
            doubled = True
            reported = shown.warnings.get("DUPLICATE_SENT")
            if not may_repeat or reported is None:
                yield case.violation("twice", f"was created {len(creations)} times, reported: {reported}", part.id)
            elif not {each.external_id for each in creations} & _mentioned(reported):
                yield case.violation("wrong", f"was created twice, DUPLICATE_SENT names others: {reported}", part.id)
    if "DUPLICATE_SENT" in shown.warnings and not doubled:
        yield case.violation("wrong", f"says DUPLICATE_SENT {shown.warnings['DUPLICATE_SENT']}; nothing is double")


def _taken(evidence: Evidence) -> dict[str, list[float]]:
    """Lists by backend when it made a start of the gateway's."""
    backends = {told.start_id: told.wanted.backend for told in evidence.told}
    taken: dict[str, list[float]] = defaultdict(list)
    for creation in sorted(evidence.created, key=lambda each: each.at):
        taken[backends.get(creation.key.rpartition("-")[0], "")].append(creation.at)
    return taken


def _judge_recipients(case: Case) -> Iterator[Violation]:
    """Judges each person that was named: started exactly once by this start, or the start says why not."""
    wanted, parts = case.told.wanted, case.shown.parts
    named = [recipient for part in parts for recipient in part.recipients]
    asked = [*wanted.urns, *wanted.groups]
    if wanted.is_spelled_twice:  # either spelling stands for the person
        named, asked = [*{canonical(each, COUNTRY) for each in named}], [*{canonical(each, COUNTRY) for each in asked}]
    if sorted(named) != sorted(asked):
        yield case.violation("lost", f"names {len(named)} recipients, not those that were asked for")
    keys: dict[str, set[str]] = defaultdict(set)  # of the dispatches that reached a person
    for part in parts:
        for creation in case.created.get(part.id, []):
            for person in creation.people:
                keys[person].add(part.id)
    for person, reached_by in keys.items():
        if len(reached_by) > 1 and not person.startswith("group:"):
            text = f"reached one person by {len(reached_by)} requests: {', '.join(sorted(reached_by))}"
            yield case.violation("twice", text, min(reached_by))
    for part in parts:
        if case.shown.state in OVER and part.state not in OVER and part.state != "UNCERTAIN":
            text = f"is {case.shown.state}, and {len(part.recipients)} of its recipients are {part.state}"
            yield case.violation("lost", text, part.id)


def _mentioned(metadata: Mapping[str, str]) -> set[str]:
    """Takes every word of the metadata, keys included, for an id that may be meant."""
    text = " ".join([*metadata, *metadata.values()])
    return set(text.replace(",", " ").split())


def _judge_part(case: Case, part: Part, *, kept: bool) -> Iterator[Violation]:
    creations = case.created.get(part.id, [])
    if any(creation.recipients != frozenset(part.recipients) for creation in creations):
        yield case.violation("wrong", "reached others than it names", part.id)
    ids = {creation.external_id for creation in creations}
    if part.external_id and part.external_id not in ids:
        yield case.violation("wrong", f"shows {part.external_id}, which is none of {sorted(ids)}", part.id)
    if part.state in SENT and not creations:
        yield case.violation("lost", f"is {part.state} and was never created", part.id)
    elif part.state in SENT and not part.external_id:
        yield case.violation("wrong", f"is {part.state} without an external id", part.id)
    if part.state in OVER and part.state not in SENT and creations and not part.external_id:
        reported = case.shown.warnings.get("FOUND_AFTER_END", {})
        if (kept and case.told.resolved.get(part.id) != "give_up") or not ids & _mentioned(reported):
            yield case.violation(
                "wrong", f"is {part.state} {part.reason} and was created, reported: {reported}", part.id
            )
    if part.state in OVER and (why := _unfounded(case, part)):
        yield case.violation("wrong", f"is {part.state} {part.reason}: {why}", part.id)


def _unfounded(case: Case, part: Part) -> str:
    """Tells what speaks against how a dispatch ended, if anything; one may end otherwise only for a reason we gave."""
    told, reason = case.told, part.reason or ("RECIPIENT_BUSY" if part.state == "SKIPPED" else "")
    unmet = {
        "": part.state != "COMPLETED" and "no reason",
        "EXPIRED": told.expire_at is None and "it does not expire",
        "CANCELLED": (told.cancelled_at is None and "nobody cancelled it")
        or (bool(part.external_id) and _never_ended(case, part)),
        "RECIPIENT_BUSY": not told.wanted.is_paired and "nobody else started the recipient",
        "REPLACED": _never_ended(case, part)
        if part.external_id
        else not told.wanted.restart_participants and "it was to replace nobody",
        "OUTCOME_UNKNOWN": told.resolved.get(part.id) != "give_up" and "nobody gave it up",
        "BACKEND_FAILED": _rounds(case, part.id) < POISON and "the backend did not fail often enough",
    }
    if part.state == "SKIPPED" and not told.wanted.exclude_active:
        return "nobody was to be left out"
    return unmet.get(reason, "nothing that was done leads to it") or ""


def _never_ended(case: Case, part: Part) -> str:
    """Tells that nobody asked the backend to end it; unless a kill came while it ran, after which nobody can know."""
    since = case.told.cancelled_at or 0.0
    killed = any(
        max(since, creation.at) - SLACK <= kill <= (creation.over_at or creation.at)
        for creation in case.created.get(part.id, [])
        for kill in case.kills
    )
    return "" if killed or part.external_id in case.ended else "the backend was not asked to end it"


def _rounds(case: Case, dispatch: str) -> int:
    """Counts the attempts of a dispatch that were answered with a 5xx while the backend took something else.

    An outage is no poison: a round counts if others were taken since the first attempt, before the next one.
    """
    begun = sorted(each.begun for each in case.shown.attempts if each.dispatch == dispatch)
    failed = sorted(each.begun for each in case.shown.attempts if each.dispatch == dispatch and "HTTP 5" in each.detail)
    taken = case.taken.get(case.told.wanted.backend, [])
    rounds = 0
    for at in failed:
        following = begun[bisect_right(begun, at) :]
        until = following[0] if following else float("inf")
        rounds += bisect_right(taken, until) > bisect_right(taken, begun[0])
    return rounds


def _judge_times(case: Case, part: Part) -> Iterator[Violation]:
    told = case.told
    for request in case.sent.get(part.id, []):
        if told.schedule_at is not None and request.at < told.schedule_at - SLACK:
            yield case.violation("untimely", f"was sent {told.schedule_at - request.at:.2f} s too early", part.id)
        for name, moment in _passed(told, request):
            if not _was_stopped(case.pauses, moment, request):
                yield case.violation("untimely", f"was sent {request.at - moment:.2f} s after it {name}", part.id)


def _passed(told: Told, request: Sent) -> list[tuple[str, float]]:
    """Lists the moments after which a request should not have come, and came."""
    moments = {"expired": told.expire_at, "was cancelled": told.cancelled_at}
    return [(name, at) for name, at in moments.items() if at is not None and request.at > at + SLACK]


def _was_stopped(pauses: Iterable[tuple[float, float]], moment: float, request: Sent) -> bool:
    """Whether the process was stopped in time and wrote at once when it went on: no program can look once more."""
    return any(begin < moment and request.at < end + SLACK and end > moment for begin, end in pauses)


def excused(evidence: Evidence) -> int:
    """Counts the requests that came late because the process was stopped between its last look and the writing."""
    told = {each.start_id: each for each in evidence.told}
    late = (
        (moment, request)
        for request in evidence.sent
        if (known := told.get(request.key.rpartition("-")[0]))
        for _, moment in _passed(known, request)
    )
    return sum(_was_stopped(evidence.pauses, moment, request) for moment, request in late)


def ambiguous(evidence: Evidence) -> int:
    """Counts the sends whose outcome was not known at first."""
    return sum(each.outcome == "UNSURE" for shown in evidence.shown.values() for each in shown.attempts)


def resting(evidence: Evidence) -> dict[str, str]:
    """Returns the dispatches that are uncertain at rest, with the reason of each."""
    return {
        part.id: part.detail or part.reason
        for shown in evidence.shown.values()
        for part in shown.parts
        if part.state == "UNCERTAIN"
    }


def kills_that_hit(evidence: Evidence) -> int:
    """Counts the kills that interrupted an attempt: one that had begun in the life that the kill ended."""
    begun = [
        each.begun for shown in evidence.shown.values() for each in shown.attempts if each.detail.startswith(STOPPED)
    ]
    hit = set()
    for moment in begun:
        hit.add(next((kill for kill in evidence.kills if kill >= moment), None))
    return len(hit - {None})
