"""Cursor pages of 250 rows or less, as Django REST framework makes them.

A cursor is base64 of `p=<modified_on of the last row before the page>`, with `o=<rows to skip>` where rows share
that time, and `r=1` for the page before. A row that is modified while someone pages moves to another page.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

from gateway.sandbox.exchange import Refused

if TYPE_CHECKING:
    from gateway.sandbox.exchange import Received
    from gateway.sandbox.rapidpro.starts import Row, Starts

MAX_OFFSET = 1_000_000
INSTANT = timedelta(microseconds=1)
FIRST = datetime(1, 1, 1, tzinfo=UTC) + INSTANT
LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - INSTANT
DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A place in a list."""

    position: datetime | None = None
    offset: int = 0
    reverse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The rows of one page, in the list's order, and the cursors of its neighbours."""

    rows: list[Row]
    next: Cursor | None
    previous: Cursor | None


def parse_date(text: str) -> datetime | None:
    """Reads a date or a time; None if it is neither, which RapidPro answers with an empty list."""
    if not DATE.fullmatch(text):
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the year 1 or 9999, in another zone
        return None


def read_cursor(request: Received) -> Cursor:
    """Reads the cursor of a request. Raises Refused as RapidPro does for one that is not its own."""
    encoded = request.parameters().get("cursor", [""])[-1]
    try:
        tokens = parse_qs(b64decode(encoded).decode("ascii"), keep_blank_values=True)
        offset = min(int(tokens.get("o", ["0"])[0]), MAX_OFFSET)
        reverse = bool(int(tokens.get("r", ["0"])[0]))
        position = _position(tokens["p"][0]) if "p" in tokens else None
    except (ValueError, OverflowError):
        offset = -1
    if offset < 0:
        raise Refused(404, {"detail": "Invalid cursor"})
    return Cursor(position=position, offset=offset, reverse=reverse)


def _position(text: str) -> datetime:
    """Reads the time in a cursor, UTC if it does not say, with an instant of room on either side."""
    at = datetime.fromisoformat(text)
    at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max(at, FIRST), LAST)


def link(request: Received, cursor: Cursor | None) -> str | None:
    """Writes the absolute URL of a page: this request's, with another cursor."""
    if cursor is None:
        return None
    tokens: dict[str, str] = {}
    if cursor.offset:
        tokens["o"] = str(cursor.offset)
    if cursor.reverse:
        tokens["r"] = "1"
    if cursor.position is not None:
        tokens["p"] = str(cursor.position)
    query = request.parameters() | {"cursor": [b64encode(urlencode(tokens).encode()).decode()]}
    return f"{request.base_url}{request.path}?{urlencode(sorted(query.items()), doseq=True)}"


def read_page(
    starts: Starts,
    cursor: Cursor,
    *,
    after: datetime | None,
    before: datetime | None,
    oldest_first: bool,
    as_of: datetime,
    size: int,
) -> Page:
    """Reads one page of what was modified from `after` to `before`, as it stood at a moment."""
    ascending = oldest_first != cursor.reverse
    low, high = after, before
    if cursor.position is not None and ascending:
        low = max(filter(None, (low, cursor.position + INSTANT)))
    elif cursor.position is not None:
        high = min(filter(None, (high, cursor.position - INSTANT)))
    rows = starts.between(low, high, oldest_first=ascending, as_of=as_of)
    found = list(islice(rows, cursor.offset, cursor.offset + size + 1))
    page, beyond = found[:size], found[size].version.modified_at if len(found) > size else None
    begun = cursor.position is not None or cursor.offset > 0
    on = back = None
    if beyond is not None:
        further = Cursor(position=cursor.position, offset=cursor.offset + size)
        on = _beside(page, compare=beyond, otherwise=further, reverse=cursor.reverse)
    if begun:
        turned = Cursor(offset=size) if beyond is None else Cursor(position=beyond)
        # After rows were skipped, the first row may share its time with some of them: it is no place to turn at.
        turn = page[0].version.modified_at if page and cursor.offset else cursor.position
        back = _beside(page[::-1], compare=turn, otherwise=turned, reverse=not cursor.reverse)
    if cursor.reverse:
        return Page(rows=page[::-1], next=back, previous=on)
    return Page(rows=page, next=on, previous=back)


def _beside(page: list[Row], *, compare: datetime | None, otherwise: Cursor, reverse: bool) -> Cursor:
    """Points past the end of `page`: at its last row with a time of its own, skipping those that come after."""
    for offset, row in enumerate(reversed(page)):
        if row.version.modified_at != compare:
            return Cursor(position=row.version.modified_at, offset=offset, reverse=reverse)
    if not page:
        return Cursor(position=compare, reverse=reverse)
    return replace(otherwise, reverse=reverse)
