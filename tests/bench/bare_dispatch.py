"""The bare loop that sending is compared with: `python -m tests.bench.bare_dispatch URL FILE`.

It posts the bodies of FILE, a line each, over and over. It keeps nothing, and looks at nothing of an answer but its
status.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_FLIGHT = 50
HEADERS = {
    "Authorization": "Token 0123456789ABCDEF",
    "Accept": "application/json",
    "Content-Type": "application/json",
}


async def post(url: str, bodies: Iterator[bytes]) -> None:
    """Posts bodies, so many at a time."""
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def one_after_another() -> None:
            for body in bodies:
                async with session.post(url, data=body) as response:
                    await response.read()
                    assert response.status == 201

        await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))


def source() -> str:
    """Returns the source of what is measured."""
    return inspect.getsource(post)


if __name__ == "__main__":
    asyncio.run(post(sys.argv[1], cycle(Path(sys.argv[2]).read_bytes().splitlines())))
