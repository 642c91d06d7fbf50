"""What a person sees of starts and backends: renderables, made of values and nothing else.

Rules:

1. Pure: the time is an argument, and nothing here prints.
2. Whatever came from elsewhere goes through `clean`: neither terminal codes nor rich markup reach the terminal.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.protobuf import json_format
from rich.cells import cell_len
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.cli.tables import fitting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf import duration_pb2, timestamp_pb2
    from rich.console import RenderableType

ENDED = ("completed", "failed", "interrupted", "skipped")  # the counts of recipients that move no more
COUNTS = ("queued", "started", "completed", "failed", "interrupted", "skipped", "uncertain")
SHORTEST_BAR, LONGEST_BAR = 5, 30  # cells; a shorter one tells nothing
STYLES = {
    "PENDING": "dim",
    "QUEUED": "blue",
    "STARTED": "cyan",
    "COMPLETED": "green",
    "FAILED": "red",
    "INTERRUPTED": "magenta",
    "UNCERTAIN": "yellow",
    "OK": "green",
    "THROTTLED": "yellow",
    "UNREACHABLE": "red",
    "BLOCKED": "red",
    "WARNING": "yellow",
    "PROBLEM": "red",
}
WAITING, CANNOT_CANCEL = "WAITING", "CANNOT_CANCEL"  # the reasons of two warnings
MEANINGS = {
    pb.COMPLETION_MEANING_RECIPIENTS_ENTERED: "everyone has entered the flow; conversations may continue",
    pb.COMPLETION_MEANING_EXECUTIONS_ENDED: "every execution is over; whether it succeeded is not known",
}


def clean(text: str) -> str:
    """Returns text in which control characters are written out, so that it cannot move the cursor or forge a line."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def state_name(start: pb.FlowStart) -> str:
    """Returns the state in one word; the number if the gateway is newer than this client."""
    return _enum_name(pb.FlowStart.State.items(), start.state)


def _enum_name(items: Iterable[tuple[str, int]], value: int) -> str:
    name = next((name for name, number in items if number == value), str(value))
    return name.removeprefix("STATE_").removeprefix("OUTCOME_")


def state_text(start: pb.FlowStart) -> Text:
    """Returns the state in its colour, with what a person should know beside it."""
    text = _styled(state_name(start))
    if start.stalled:
        text.append(" (stalled)", style="yellow")
    if start.HasField("cancel_requested_time") and not start.HasField("end_time"):
        runs_on = any(each.reason == CANNOT_CANCEL for each in start.warnings)
        text.append(" (cannot cancel)" if runs_on else " (cancelling)", style="dim")
    return text


def _styled(name: str) -> Text:
    return Text(name, style=STYLES.get(name, ""))


def counts_text(start: pb.FlowStart) -> str:
    """Returns where the recipients stand, such as `pending 1 · started 2`; states without any are left out."""
    parts = [f"{name} {number:,}" for name, number in _counts(start).items()]
    if start.progress.HasField("contact_count"):
        parts.append(f"contacts {start.progress.contact_started_count:,}/{start.progress.contact_count:,}")
    return " · ".join(parts)


def progress_text(start: pb.FlowStart) -> str:
    """Returns why a start failed, if it did, and where its recipients stand."""
    return " · ".join(part for part in (clean(start.failure.reason), counts_text(start)) if part)


def _counts(start: pb.FlowStart) -> dict[str, int]:
    """Returns how many recipients are in which state; states without any are left out."""
    counts = {name: int(getattr(start.progress, name)) for name in COUNTS}
    counts = {"pending": start.recipient_count - sum(counts.values()), **counts}
    return {name: number for name, number in counts.items() if number > 0}


def age(start: pb.FlowStart, now: datetime) -> str:
    """Returns how long a start has taken, up to its end if it has one."""
    end = start.end_time.ToDatetime(UTC) if start.HasField("end_time") else now
    return _short((end - start.create_time.ToDatetime(UTC)).total_seconds())


def _short(seconds: float) -> str:
    seconds = max(0.0, seconds)  # the gateway's clock may be ahead of ours
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - an hour
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d"  # noqa: PLR2004 - two days


def _rough(seconds: float) -> str:
    """Returns a time in its largest unit, never wider than three characters for a month."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _at(moment: timestamp_pb2.Timestamp) -> str:
    return moment.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _notes(start: pb.FlowStart) -> list[Text]:
    """Returns the failure and the warnings, a line each."""
    notes = []
    if start.failure.reason:
        notes.append(Text(clean(f"{start.failure.reason}: {start.failure.message}"), style="red"))
    if settling := how_to_settle(start):
        notes.append(Text(settling, style="yellow"))
    notes += [Text(clean(f"{each.reason}: {each.message}"), style="yellow") for each in start.warnings]
    return notes


def how_to_settle(start: pb.FlowStart) -> str:
    """Returns the command that settles a start that the gateway does not look for any more; empty if it needs none."""
    if start.state != pb.FlowStart.STATE_UNCERTAIN or start.HasField("next_attempt_time"):
        return ""
    return f"Look on the backend, then settle it: `startflow resolve {clean(start.id)} --help` says how."


def updated(start: pb.FlowStart, now: datetime) -> str:
    """Returns how long ago a start changed."""
    return f"{_rough((now - start.update_time.ToDatetime(UTC)).total_seconds())} ago"


def start_view(start: pb.FlowStart, now: datetime, width: int = 80) -> RenderableType:
    """Returns the live picture of one start: where it is, how far it got, how long it has taken.

    A start of several recipients has a bar for each state that some of them are in.
    """
    ended = sum(int(getattr(start.progress, name)) for name in ENDED)
    title = Text.assemble((clean(start.id), "bold"), f"  {clean(start.backend)}  {clean(start.flow)}")
    state, told, took = state_text(start), f"{ended:,} of {start.recipient_count:,} ended", age(start, now)
    line = Table.grid(padding=(0, 2))
    room = width - cell_len(state.plain) - len(told) - len(took) - 6  # the gaps
    bar = [_bar(ended, start.recipient_count, room, "cyan", "green")] if room >= SHORTEST_BAR else []
    line.add_row(state, *bar, told, took)
    counts = _bars(start, width) if start.recipient_count > 1 else Text(counts_text(start), style="dim")
    waiting = []
    if start.HasField("next_attempt_time") and not start.HasField("end_time"):
        wait = (start.next_attempt_time.ToDatetime(UTC) - now).total_seconds()
        waiting.append(Text(f"next attempt in {_short(wait)}", style="dim"))
    return Group(title, line, counts, *waiting, *_notes(start))


def _bars(start: pb.FlowStart, width: int) -> Table:
    bars = Table.grid(padding=(0, 2))
    rows = [(name, number, start.recipient_count, f"{number:,}") for name, number in _counts(start).items()]
    if count := start.progress.contact_count:
        entered = start.progress.contact_started_count
        rows.append(("contacts", entered, count, f"{entered:,}/{count:,}"))
    room = width - max((len(name) + len(told) for name, _, _, told in rows), default=0) - 4  # the gaps
    for name, number, total, told in rows:
        style = STYLES.get(name.upper(), "")
        bar = [_bar(number, total, room, style, style)] if room >= SHORTEST_BAR else []
        bars.add_row(Text(name, style=style), *bar, told)
    return bars


def _bar(completed: int, total: int, room: int, style: str, finished: str) -> ProgressBar:
    return ProgressBar(
        total=max(total, 1),
        completed=completed,
        width=min(room, LONGEST_BAR),
        complete_style=style or "bar.complete",
        finished_style=finished or "bar.finished",
    )


def waits_for(start: pb.FlowStart) -> str:
    """Returns why a start waits; empty if it does not, or if that was not asked for."""
    return next((each.message for each in start.warnings if each.reason == WAITING), "")


def waits(starts: Iterable[pb.FlowStart], now: datetime) -> list[Text]:
    """Returns why some of these starts wait, a line for each reason with how many they are and until when."""
    return [Text(f"{count:,} waiting: {told}", style="yellow") for told, count in _waiting(starts, now)]


def reasons(starts: Iterable[pb.FlowStart], now: datetime) -> list[str]:
    """Returns the same without how many they are, where not each was asked for."""
    return [f"Waiting: {told}" for told, _ in _waiting(starts, now)]


def _waiting(starts: Iterable[pb.FlowStart], now: datetime) -> list[tuple[str, int]]:
    """Returns each reason for which some of these starts wait, with the next attempt, and how many they are."""
    found: dict[str, list[float]] = {}
    for start in starts:
        if message := waits_for(start):
            at = start.next_attempt_time.ToDatetime(UTC) if start.HasField("next_attempt_time") else now
            found.setdefault(message, []).append((at - now).total_seconds())
    return [
        (clean(f"{message} Next attempt in {_short(min(seconds))}." if min(seconds) > 0 else message), len(seconds))
        for message, seconds in found.items()
    ]


def start_details(response: pb.GetFlowStartResponse, now: datetime) -> RenderableType:
    """Returns everything about one start, its params below."""
    start = response.flow_start
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    rows: list[tuple[str, str | Text]] = [
        ("id", clean(start.id)),
        ("state", state_text(start)),
        ("backend", clean(start.backend)),
        ("flow", clean(start.flow)),
        ("recipients", f"{start.recipient_count:,}"),
        ("progress", counts_text(start)),
        ("external id", clean(start.external_id)),
        ("request id", clean(start.request_id)),
        ("labels", clean(", ".join(_pairs(start.labels)))),
        *((name, _at(moment)) for name, moment in _moments(start)),
        ("took" if start.HasField("end_time") else "age", age(start, now)),
        ("completed means", MEANINGS.get(start.completion_meaning, "")),
        ("revision", str(start.revision)),
    ]
    for name, value in rows:
        if value:
            grid.add_row(Text(name, style="dim"), Text(value) if isinstance(value, str) else value)
    params = json.dumps(integral(json_format.MessageToDict(response.params)), indent=2, ensure_ascii=False)
    shown = [Text("params", style="dim"), Text("\n".join(clean(line) for line in params.splitlines()))]
    return Group(grid, *_notes(start), *(shown if response.params.fields else ()))


def _moments(start: pb.FlowStart) -> list[tuple[str, timestamp_pb2.Timestamp]]:
    """Returns the times that are set, by a person's words for them."""
    words = {
        "created": "create_time",
        "updated": "update_time",
        "scheduled": "schedule_time",
        "expires": "expire_time",
        "next attempt": "next_attempt_time",
        "cancel requested": "cancel_requested_time",
        "ended": "end_time",
    }
    return [(word, getattr(start, name)) for word, name in words.items() if start.HasField(name)]  # type: ignore[arg-type]


def integral(value: object) -> object:
    """Returns JSON in which integral numbers are written as integers and keys are sorted, as the backends get it."""
    match value:
        case dict():
            return {key: integral(value[key]) for key in sorted(value)}
        case list():
            return [integral(each) for each in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def recipients_table(recipients: Iterable[pb.Recipient], width: int) -> RenderableType:
    """Returns a row for each recipient."""
    rows = [
        (
            Text(clean(each.recipient)),
            _styled(_enum_name(pb.Recipient.State.items(), each.state)),
            Text(clean(each.dispatch_id)),
            Text(clean(each.external_id)),
            Text(clean(f"{each.failure.reason}: {each.failure.message}" if each.failure.reason else "")),
        )
        for each in recipients
    ]
    return fitting(("RECIPIENT", "STATE", "DISPATCH", "EXTERNAL ID", "WHY"), rows, width, prose="WHY")


def changes_table(changes: Iterable[pb.Change], width: int) -> RenderableType:
    """Returns a row for each change and each attempt."""
    rows = []
    for each in changes:
        if each.HasField("attempt"):
            outcome = _enum_name(pb.Attempt.Outcome.items(), each.attempt.outcome)
            what = Text(f"attempt {each.attempt.number}: {'open' if outcome == 'UNSPECIFIED' else outcome.lower()}")
            detail = " ".join(part for part in (each.attempt.dispatch_id, each.attempt.detail) if part)
        else:
            what, why = state_text(each.changed), each.changed.failure
            failure = f"{why.reason}: {why.message}" if why.reason else ""
            detail = " · ".join(part for part in (counts_text(each.changed), failure) if part)
        rows.append((Text(_at(each.change_time)), what, Text(clean(detail))))
    return fitting(("TIME", "WHAT", "DETAIL"), rows, width, prose="DETAIL")


def backends_table(backends: Iterable[pb.Backend], width: int) -> RenderableType:
    """Returns a row for each backend, and below them what is to be known of their health."""
    rows, notes = [], []
    for backend in backends:
        lane = f"{backend.lane.pending:,} pending, {backend.lane.in_flight:,} in flight"
        if drain := _seconds(backend.lane.estimated_drain):
            lane += f", about {_short(drain)}"
        health = _health(backend.health)
        aliases = Text("\n".join(clean(pair) for pair in _pairs(backend.flow_aliases)))
        rows.append(
            (Text(clean(backend.name)), Text(clean(backend.kind)), health, Text(lane), _limits(backend), aliases)
        )
        if why := ": ".join(part for part in (backend.health.reason, backend.health.message) if part):
            notes.append(Text(clean(f"{backend.name}: {why}"), style=health.style))
    headings = ("NAME", "KIND", "HEALTH", "LANE", "LIMITS", "ALIASES")
    return Group(fitting(headings, rows, width, prose=""), *notes)


def flows_table(flows: Iterable[pb.Flow], width: int) -> RenderableType:
    """Returns a row for each flow."""
    rows = []
    for flow in flows:
        startable = Text("yes", style="green") if flow.startable else Text("no", style="yellow")
        rows.append((Text(clean(flow.id)), Text(clean(flow.name)), startable, Text(clean(", ".join(flow.aliases)))))
    return fitting(("ID", "NAME", "STARTABLE", "ALIASES"), rows, width, prose="NAME")


def findings_table(findings: Iterable[tuple[str, str, str]], width: int) -> RenderableType:
    """Returns a row for each finding of `startflow check`: of what, how it is in one word, and what more to say."""
    rows = [(Text(clean(subject)), _styled(result), Text(clean(detail))) for subject, result, detail in findings]
    return fitting(("WHAT", "RESULT", ""), rows, width, prose="")


def _health(health: pb.Backend.Health) -> Text:
    name = _enum_name(pb.Backend.Health.State.items(), health.state)
    return _styled("not used yet" if name == "UNSPECIFIED" else name)


def _limits(backend: pb.Backend) -> Text:
    limits = backend.limits
    parts = [f"{limits.recipients_per_dispatch:,} a request", f"params {limits.params_size:,}"]
    if limits.rate:
        period = {1: "second", 60: "minute", 3_600: "hour"}.get(
            round(_seconds(limits.rate_period)), f"{_short(_seconds(limits.rate_period))}"
        )
        parts.append(f"{limits.rate:,} per {period}, {backend.quota_left:,} left")
    return Text("\n".join(parts))


def _seconds(duration: duration_pb2.Duration) -> float:
    return float(duration.ToTimedelta().total_seconds())


def _pairs(mapping: Mapping[str, str]) -> list[str]:
    return [f"{key}={mapping[key]}" for key in sorted(mapping)]
