"""How a server under test is told to make changes: lines on a UNIX socket, each the name of what is to change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


AFTER, SOCKET = "after", "control"  # files in the server's folder; the second appears last


async def obey(folder: Path, change: Callable[[str], Awaitable[None]], *, after: int) -> None:
    """Makes the changes that lines ask for, one after the other, for as long as the loop runs.

    `after` is the revision after which they come.
    """

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            await change(line.decode().strip())
        writer.close()

    (folder / AFTER).write_text(str(after))
    server = await asyncio.start_unix_server(read, folder / SOCKET)
    await server.serve_forever()
