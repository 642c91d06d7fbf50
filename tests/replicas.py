"""RapidPro's list of flow starts as it really is: sorted by what moves, paged by a position and an offset, lagging."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

from gateway.adapters.base import Reply
from gateway.model import CORRELATION_KEY
from tests.builders import FLOW, NOON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.adapters.base import Request

WORKSPACE = "fa6f2c37-c69e-4d8d-a596-ef17019c5886"


@dataclass
class Row:
    """A flow start: when it was created, and each move of it: its `modified_on`, and when that was committed."""

    number: int
    key: str
    created: float
    moves: list[tuple[float, float]] = field(default_factory=list)

    def modified(self, seen_at: float) -> float | None:
        """Returns the `modified_on` that was committed last by then; None if nothing was."""
        known = [(committed, begun) for begun, committed in self.moves if committed <= seen_at]
        return max(known)[1] if known else None


class Lists:
    """The list of a workspace, as replicas show it. Times are seconds after noon by the database's clock.

    `skew` is by how many seconds that clock is behind the one of the `Date` header. `before_page` is called before each
    page is read, and returns by how many seconds the replica lags that shows it.
    """

    def __init__(self, now: Callable[[], float], *, page: int, skew: float = 0.0) -> None:
        self.rows: list[Row] = []
        self.pages = 0
        self.before_page: Callable[[], float] = lambda: 0.0
        self._now = now
        self._page = page
        self.skew = skew

    def create(self, key: str = "", *, begun: float | None = None, committed: float | None = None) -> Row:
        """Creates a row: with our key, or somebody else's."""
        begun = self._now() if begun is None else begun
        row = Row(number=len(self.rows) + 1, key=key, created=begun)
        self.rows.append(row)
        self.move(row, begun=begun, committed=committed)
        return row

    def move(self, row: Row, *, begun: float | None = None, committed: float | None = None) -> None:
        """Moves a row, in a transaction that began at a moment and is committed at another."""
        begun = self._now() if begun is None else begun
        row.moves.append((begun, max(begun, self._now() if committed is None else committed)))

    async def answer(self, request: Request) -> Reply:
        """Answers as RapidPro does."""
        headers = {"x-temba-workspace": WORKSPACE}
        lag = self.before_page()
        headers["date"] = format_datetime(_moment(self._now() + self.skew), usegmt=True)
        if "workspace" in request.path:
            return Reply(status=200, headers=headers, body=json.dumps({"uuid": WORKSPACE}).encode())
        self.pages += 1
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        page, following = self._read(query, self._now() - lag)
        rows = [_written(row, modified) for row, modified in page]
        body = {"next": f"http://internal/?{following}" if following else None, "previous": None, "results": rows}
        return Reply(status=200, headers=headers, body=json.dumps(body).encode())

    def _read(self, query: dict[str, str], seen_at: float) -> tuple[list[tuple[Row, float]], str]:
        """Reads a page as Django REST framework's `CursorPagination` does, the oldest first."""
        after = _seconds(query["after"])
        listed = sorted(self._committed(seen_at), key=lambda each: (each[1], each[0].number))
        listed = [each for each in listed if each[1] >= after]
        offset, position = _cursor(query.get("cursor"))
        if position is not None:
            listed = [each for each in listed if each[1] > position]
        page, has_more = listed[offset : offset + self._page], len(listed) > offset + self._page
        if not has_more:
            return page, ""
        following = listed[offset + self._page][1]
        for tied, (_, modified) in enumerate(reversed(page)):  # back to a row that another page cannot begin with
            if modified != following:
                return page, urlencode({**query, "cursor": _packed(tied, modified)})
        return page, urlencode({**query, "cursor": _packed(offset + len(page), position)})

    def _committed(self, seen_at: float) -> Iterator[tuple[Row, float]]:
        for row in self.rows:
            if (modified := row.modified(seen_at)) is not None:
                yield row, modified


def _packed(offset: int, position: float | None) -> str:
    return b64encode(json.dumps([offset, position]).encode()).decode()


def _cursor(text: str | None) -> tuple[int, float | None]:
    if text is None:
        return 0, None
    offset, position = json.loads(b64decode(text))
    return offset, position


def _moment(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def _seconds(text: str) -> float:
    return (datetime.fromisoformat(text) - NOON).total_seconds()


def _written(row: Row, modified: float) -> dict[str, object]:
    written = {"created_on": row.created, "modified_on": modified}
    return {
        "uuid": f"00000000-0000-4000-8000-{row.number:012}",
        "flow": {"uuid": FLOW, "name": "Registration"},
        "status": "started",
        "params": {CORRELATION_KEY: row.key} if row.key else {},
        **{name: _moment(at).isoformat().replace("+00:00", "Z") for name, at in written.items()},
    }
