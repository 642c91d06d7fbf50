"""Pages of a list: where one begins, and how much of it a client takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway import wire
from gateway.errors import Violation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LARGEST_ANSWER = 4_000_000  # bytes; gRPC's clients take 4 MiB unless told otherwise


async def fitting(read: Callable[[int], Awaitable[bytes]], limit: int) -> bytes:
    """Reads a page of at most `limit` entries that a client takes: a smaller one if its entries are large."""
    while len(data := await read(limit)) > LARGEST_ANSWER and limit > 1:
        limit = max(1, min(limit - 1, limit * LARGEST_ANSWER // len(data)))
    return data


def read_position(token: str, scope: bytes | str, *kinds: type) -> Any:  # noqa: ANN401 -- a tuple of `kinds`, which no type can say
    """Reads where a page begins, as a tuple of these kinds; None for the first page."""
    position = wire.read_page_token(token, scope)
    if position is None:
        return None
    steps = position if isinstance(position, list) else [position]
    if [type(step) for step in steps] != list(kinds):
        raise wire.invalid([Violation(field="page_token", description="page_token is not of this list.")])
    return tuple(steps)
