"""Looks up host names for an HTTP client, on threads that nothing else uses and nothing waits for.

The system's own `getaddrinfo` is asked, so that a name means here what it means to every other program of this machine.
It cannot be interrupted: where the name servers are silent, one call takes seconds to minutes. Therefore:

1. Each client has look-ups of its own. Those of other clients, and everything that runs in the loop's pools, go on.
2. A look-up ends for its caller after `seconds`. Its thread ends when the system answers, and is a daemon: the process
   ends without it.
3. No more than `MOST` threads of one client run at a time. Further look-ups wait for one of them, up to `seconds`.

Why not aiohttp's own: `ThreadedResolver` calls `loop.getaddrinfo`, which has one pool for the whole process (in
uvloop libuv's, where two threads look up names) and is joined at the end. `AsyncResolver` (aiodns) asks name servers
itself, and so passes over what else `nsswitch.conf` names.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

from aiohttp.abc import AbstractResolver, ResolveResult

MOST = 4  # threads
NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Lookups(AbstractResolver):
    """The look-ups of one HTTP client."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._free = asyncio.Semaphore(MOST)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Returns the addresses of a host. Raises `OSError` if it has none, `TimeoutError` if nothing answers."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(result: list[ResolveResult] | OSError) -> None:
            self._free.release()
            if found.done():  # its caller has left
                return
            if isinstance(result, OSError):
                found.set_exception(result)
            else:
                found.set_result(result)

        def look() -> None:
            result = _look(host, port, family)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, result)

        async with asyncio.timeout(self._seconds):
            await self._free.acquire()
            try:
                threading.Thread(target=look, name="lookup", daemon=True).start()
            except RuntimeError as error:  # no further thread can be had
                self._free.release()
                raise OSError(str(error)) from error
            return await found

    async def close(self) -> None:
        """Leaves what is being looked up to its threads."""


def _look(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult] | OSError:
    try:
        infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        return [
            ResolveResult(
                hostname=host,
                host=_written(address),
                port=int(address[1]),
                family=family,
                proto=proto,
                flags=NUMERIC,
            )
            for family, _, proto, _, address in infos
        ]
    except OSError as error:
        return error
    except UnicodeError as error:  # no name that DNS can have
        return OSError(str(error))


def _written(address: tuple[object, ...]) -> str:
    """Writes an address; that of a link (`fe80::1%eth0`) with its interface."""
    if len(address) == 4 and address[3]:  # noqa: PLR2004 -- IPv6: address, port, flow, interface
        return socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]  # type: ignore[arg-type]
    return str(address[0])
