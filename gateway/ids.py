"""Makes the ids of starts."""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def new_id(at: datetime) -> str:
    """Makes an id: 26 of `0-9 a-v`, sorting by `at` to the millisecond, and unlike any other (80 random bits)."""
    stamp = ((at - _EPOCH) // _MILLISECOND).to_bytes(6)
    return base64.b32hexencode(stamp + os.urandom(10)).decode().rstrip("=").lower()
