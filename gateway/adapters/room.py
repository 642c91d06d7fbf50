"""How much one reading of lists takes in at the most, so that no backend fills the memory, whatever it shows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TypeVar

from gateway.adapters.base import Key
from gateway.sightings import Sighting

Shown = TypeVar("Shown", Sighting | None, Key)

MAX_ROWS = 500_000  # of one sweep, whatever lists it reads: about 200 MiB
MAX_FLOWS = 20_000  # of one list of flows; far more than an account has
MAX_BYTES = 1 << 30  # of all pages of one reading
MAX_PAGE_BYTES = 1 << 24  # a page of 250 of RapidPro's largest starts is less
MAX_PARAMS = 1 << 24  # characters of the params that one sweep keeps, of what is sought
FAR_MORE = 2  # times as many rows as were asked for: such a page is not the API's


@dataclass(slots=True, kw_only=True)
class Room:
    """What one reading may still take in: rows, bytes, and characters of params. Its lists share it."""

    rows: int = field(default_factory=lambda: MAX_ROWS)
    size: int = field(default_factory=lambda: MAX_BYTES)
    params: int = field(default_factory=lambda: MAX_PARAMS)

    @classmethod
    def for_flows(cls) -> Room:
        """Returns the room for a list of flows."""
        return cls(rows=MAX_FLOWS)

    def weigh(self, body: bytes) -> str:
        """Counts a page before it is made sense of; returns what is wrong if it is too large."""
        if len(body) > MAX_PAGE_BYTES:
            return f"a page of {len(body):,} bytes, where {MAX_PAGE_BYTES:,} are the most"
        self.size -= len(body)
        return "more bytes than one reading takes" if self.size < 0 else ""

    def count(self, rows: int, page_size: int) -> str:
        """Counts the rows of a page; returns what is wrong if they are too many."""
        if rows > FAR_MORE * page_size:
            return f"a page of {rows:,} rows, where {page_size:,} are the most"
        self.rows -= rows
        return "more rows than one reading takes" if self.rows < 0 else ""

    def keep(self, shown: Shown) -> Shown:
        """Returns what was read as it is kept: without its params where there is no room for them to be compared."""
        if shown is None or shown.params is None:
            return shown
        size = len(json.dumps(shown.params))
        if size > self.params:
            return replace(shown, params=None)
        self.params -= size
        return shown
