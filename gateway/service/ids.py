"""Makes the ids of starts."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from io import BytesIO

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_RANDOM = 10  # bytes
_DIGITS = "0123456789abcdefghijklmnopqrstuv"  # base 32 that sorts as the numbers do (RFC 4648, "extended hex")
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
_SHIFTS = range(120, -1, -10)  # of 130 bits, the last two of them empty

_drawn = BytesIO()  # random bytes: to ask the system for each id's would cost more than all else about it


def new_id(at: datetime) -> str:
    """Makes an id: 26 of `0-9 a-v`, sorting by `at` to the millisecond, and unlike any other (80 random bits)."""
    stamp = ((at - _EPOCH) // _MILLISECOND).to_bytes(6)
    number = int.from_bytes(stamp + _draw()) << 2
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def _draw() -> bytes:
    global _drawn  # noqa: PLW0603 -- used up by whoever comes, on one thread
    if len(drawn := _drawn.read(_RANDOM)) < _RANDOM:
        _drawn = BytesIO(os.urandom(_RANDOM * 1_000))
        drawn = _drawn.read(_RANDOM)
    return drawn
