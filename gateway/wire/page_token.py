"""Where the next page begins, as opaque text.

A token is URL-safe base64 of a version, a checksum and the position as JSON. The checksum covers the scope (the RPC,
the tenant, the filter, the epoch), so a token that belongs to another list is refused like garbage. It is no secret and
no signature: whoever forges one reads another page of what is their own, if it has the form of a position. The store is
asked for nothing else.
"""

from __future__ import annotations

import base64
import json
import re
from hashlib import blake2b
from typing import TypeAlias

from gateway.wire.checks import broken
from gateway.wire.status import invalid

Position: TypeAlias = int | list[int | str]
"""The place after which the next page begins."""

VERSION = b"\x01"
CHECKSUM_SIZE = 8  # bytes
LONGEST = 1024  # characters of a token; ours are far shorter
INT64 = 2**63  # where the numbers of a store end
BEFORE_ALL = -1  # the lowest number that a store counts on from

_text = re.compile(r"[0-9A-Za-z_-]{0,128}").fullmatch
"""The ids in a position. Anything else may not be text at all: JSON can write half a character."""


def write_page_token(scope: bytes | str, position: Position) -> str:
    """Writes the token of the page after `position` in the list that `scope` describes."""
    place = json.dumps(position, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(VERSION + _checksum(scope, place) + place).rstrip(b"=").decode()


def read_page_token(token: str, scope: bytes | str) -> Position | None:
    """Reads a token of the same scope. None, for an empty token, is the first page.

    Raises `InvalidRequest` for anything else.
    """
    if not token:
        return None
    position = _read(token, scope)
    if position is None:
        rule = (
            "is not from a page of this list: pass on the next_page_token of the call before, with the same fields, or "
            "leave it out to begin again."
        )
        raise invalid([broken("page_token", rule)])
    return position


def _read(token: str, scope: bytes | str) -> Position | None:
    if len(token) > LONGEST:
        return None
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    end = len(VERSION) + CHECKSUM_SIZE
    checksum, place = data[len(VERSION) : end], data[end:]
    if data[: len(VERSION)] != VERSION or checksum != _checksum(scope, place):
        return None
    return _read_place(place)


def _read_place(place: bytes) -> Position | None:
    """Reads a position. Since anyone can compute a checksum, its form is checked too."""
    try:
        position = json.loads(place)
    except (ValueError, RecursionError):
        return None
    if isinstance(position, list) and all(_is_step(step) for step in position):
        return position
    return position if type(position) is int and _is_step(position) else None


def _is_step(step: object) -> bool:
    if isinstance(step, str):
        return _text(step) is not None
    return type(step) is int and BEFORE_ALL <= step < INT64  # a bool is no number here


def _checksum(scope: bytes | str, place: bytes) -> bytes:
    named = scope.encode() if isinstance(scope, str) else scope
    digest = blake2b(len(named).to_bytes(8), digest_size=CHECKSUM_SIZE)  # so that scope and place cannot trade bytes
    digest.update(VERSION + named)
    digest.update(place)
    return digest.digest()
