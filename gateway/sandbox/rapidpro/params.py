"""What becomes of `params` and `extra` on their way through RapidPro's database."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

MAX_EXTRA = 256  # values of `extra`, containers counted; the rest is dropped silently


class Unstorable(Exception):
    """A value that passes RapidPro's checks and then breaks its database, which makes a 500."""


def stored(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Gives JSON back as PostgreSQL's jsonb does: keys by length, then bytes; no exponents in whole numbers."""
    if isinstance(value, dict):
        keys = sorted((len(encoded(key)), encoded(key), key) for key in value)
        return {key: stored(value[key]) for _, _, key in keys}
    if isinstance(value, list):
        return [stored(item) for item in value]
    if isinstance(value, str):
        encoded(value)
    if isinstance(value, float) and "e+" in repr(value):
        return int(Decimal(repr(value)))
    return value


def encoded(text: str) -> bytes:
    """Encodes a string as the database must. NUL and lone surrogates it cannot."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise Unstorable from error
    if b"\0" in data:
        raise Unstorable
    return data


def normalised(extra: dict[str, Any]) -> dict[str, Any]:
    """Cuts `extra` down as RapidPro does: null to "", lists to objects, plain keys, 640 characters, 256 values."""
    left = MAX_EXTRA

    def cut(value: Any) -> Any:  # noqa: ANN401 - any JSON
        nonlocal left
        left -= 1
        if value is None:
            return ""
        if isinstance(value, str):
            return value[:640]
        if isinstance(value, list):
            value = {str(index): item for index, item in enumerate(value)}
        if not isinstance(value, dict):
            return value
        return {re.sub(r"[^a-zA-Z0-9_]", "_", key)[:255]: cut(item) for key, item in value.items() if left > 0}

    left += 1  # the outermost object is not counted
    cut_down: dict[str, Any] = cut(extra)
    return cut_down
