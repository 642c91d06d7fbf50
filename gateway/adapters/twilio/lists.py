"""Lists of Twilio's executions: what was created in a span of time.

What they rest on:

1. A list is cut into pages by an offset: when a row is deleted between two pages, an unread one is skipped. So a list
   of several pages may leave something out. What runs can be followed by it all the same.
2. Where it has to be proved that something is not there, the span is cut until each part is one page. A list is only
   believed to be of its span if every row is.
3. Creation times are whole seconds: a part is never shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from gateway.adapters import reading
from gateway.adapters.base import Unsure
from gateway.adapters.twilio import reading as twilio_reading
from gateway.model import Cause

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.adapters.base import Exchange, Request, Trouble
    from gateway.adapters.room import Room
    from gateway.sightings import Sighting, Window

PAGE_SIZE = 1_000  # the most
SLACK = timedelta(seconds=60)  # around a window, because creation times are whole seconds of another clock
SECOND = timedelta(seconds=1)
ROWS = "executions"


@dataclass(slots=True, kw_only=True)
class Listed:
    """What the lists of one flow show, the first of which was answered at `began`.

    `trouble` is set when their end was not reached.

    `concerns_one_flow` says that the trouble need not be met with another flow. `is_gapless` says that what is looked
    for and not shown is not there.
    """

    room: Room
    sightings: dict[str, Sighting] = field(default_factory=dict)
    account: str = ""
    began: datetime | None = None
    is_gapless: bool = True
    trouble: Trouble | None = None
    concerns_one_flow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """From a moment on and before another, whole seconds both. `status` narrows it further."""

    start: datetime
    end: datetime
    status: str = ""

    @property
    def query(self) -> str:
        written = {"DateCreatedFrom": self.start, "DateCreatedTo": self.end}
        fields = {name: moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for name, moment in written.items()}
        return urlencode({**fields, **({"status": self.status} if self.status else {}), "PageSize": PAGE_SIZE})

    def halves(self) -> list[_Span]:
        middle = self.start + (self.end - self.start) // (2 * SECOND) * SECOND
        return [_Span(start=self.start, end=middle), _Span(start=middle, end=self.end)]


def executions(window: Window, ask: Callable[[str], Request], room: Room) -> Exchange[Listed]:
    """Lists what was created in a window, a minute around it included, and what is still active of what is older."""
    listed = Listed(room=room)
    oldest, newest = window.oldest - SLACK, window.newest + SLACK + SECOND
    proves_from = newest if window.proves_from is None else max(oldest, window.proves_from - SLACK)
    if oldest < proves_from:
        yield from _pages(_span(oldest, proves_from), window.flow, ask, listed)
    if window.proves_from is not None:
        yield from _slices(_span(proves_from, newest), window.flow, ask, listed)
    if window.stragglers and not listed.trouble:
        yield from _pages(_span(window.stragglers - SLACK, oldest, status="active"), window.flow, ask, listed)
    return listed


def _span(start: datetime, end: datetime, status: str = "") -> _Span:
    return _Span(start=start.replace(microsecond=0), end=end.replace(microsecond=0), status=status)


def _pages(span: _Span, flow: str, ask: Callable[[str], Request], listed: Listed) -> Exchange[None]:
    """Reads all pages of a span."""
    found = yield from _scan(span, flow, ask, listed, twilio_reading.next_page)
    listed.trouble = found.trouble


def _slices(span: _Span, flow: str, ask: Callable[[str], Request], listed: Listed) -> Exchange[None]:
    """Reads a span in parts of one page each, the oldest first."""
    parts = [span]
    for _ in range(reading.MAX_PAGES):
        if not parts or listed.trouble:
            return
        part = parts.pop()
        more: list[str | None] = []

        def stop(page: dict[str, object], more: list[str | None] = more) -> str:
            more.append(twilio_reading.next_page(page))
            return ""

        found = yield from _scan(part, flow, ask, listed, stop)
        listed.trouble = found.trouble
        if found.unread or not all(_is_in(each, part) for each in found.rows):
            listed.is_gapless = False
        if more == [None]:
            listed.trouble = reading.NO_NEXT
        if more == [""] or listed.trouble:
            continue
        if part.end - part.start > SECOND:
            parts += reversed(part.halves())
        else:
            listed.is_gapless = False
            yield from _pages(part, flow, ask, listed)
    if parts:
        listed.trouble = Unsure(reason=f"more than {reading.MAX_PAGES} parts", cause=Cause.UNREADABLE)


def _scan(
    span: _Span,
    flow: str,
    ask: Callable[[str], Request],
    listed: Listed,
    follow: Callable[[dict[str, object]], str | None],
) -> Exchange[reading.Scan[Sighting]]:
    def read(row: object) -> Sighting | None:
        listed.account = listed.account or twilio_reading.account(row)
        return twilio_reading.sighting(row, flow)

    found = yield from reading.scan(
        span.query,
        ask=ask,
        judge=twilio_reading.sift_read,
        rows=ROWS,
        read=read,
        follow=follow,
        page_size=PAGE_SIZE,
        room=listed.room,
    )
    listed.sightings.update((each.external_id, each) for each in found.rows)
    listed.began = listed.began or reading.date_of(found.headers or {})
    listed.concerns_one_flow = found.trouble is not None and twilio_reading.concerns_one_flow(found.last)
    return found


def _is_in(sighting: Sighting, span: _Span) -> bool:
    return sighting.created_at is not None and span.start <= sighting.created_at < span.end
