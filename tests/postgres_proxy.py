"""A TCP proxy in front of PostgreSQL that breaks connections at a COMMIT, exactly where a test needs it.

It parses only as much of the protocol as that takes: the startup packet, the server process behind a connection
(`BackendKeyData`), and simple queries whose text ends in `commit`. Everything else passes through unread.

| cut      | what happens to the next COMMIT                                                                    |
|----------|----------------------------------------------------------------------------------------------------|
| `before` | it never reaches the server; the connection breaks                                                 |
| `after`  | the server carries it out; its answer never reaches the client, whose connection breaks            |
| `frozen` | the server process is stopped, gets the message, and goes on a while after the client's end broke  |
| `held`   | the server carries it out; its answer arrives late                                                 |
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.end_to_end.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

CUTS = ("before", "after", "frozen", "held")
_CHUNK = 65_536
_SECURED = (80877103, 80877104)  # SSLRequest, GSSENCRequest
_READY = b"Z\0\0\0\x05"  # ReadyForQuery; the state of the transaction follows
_OBEYED = 0.02  # seconds: a signal is not obeyed at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A connection that was cut at a COMMIT: how, when (seconds since the epoch), the COMMIT's message, at whom."""

    how: str
    at: float
    message: str
    process: int  # the server's


class Proxy:
    """Listens on a port of its own, on an event loop in a thread of its own: clients may block theirs.

    `target` is the server's port; a new one counts for new connections.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self.host, self.target, self.port = host, target, free_port()
        self.cuts: list[Cut] = []
        self.has_cut = threading.Event()  # set at each cut; clear it to wait for the next
        self.thawing = asyncio.Event()  # on the proxy's loop; another one after each thaw
        self._armed: deque[tuple[str, float, Callable[[str], bool]]] = deque()
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="postgres-proxy", daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        """Starts to listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes every connection."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self, how: str, seconds: float = 0.0, matching: Callable[[str], bool] = lambda _message: True) -> None:
        """Arms a cut for the next COMMIT whose message matches. `seconds`: how long it stays frozen or is held."""
        assert how in CUTS
        self._armed.append((how, seconds, matching))

    def disarm(self) -> None:
        """Forgets the cuts that no COMMIT has met."""
        self._armed.clear()

    def thaw(self) -> None:
        """Has processes that are frozen go on."""
        self._loop.call_soon_threadsafe(self._thaw)

    def hang_up(self) -> None:
        """Breaks every connection."""
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.host, self.port)

    async def _close(self) -> None:
        self._thaw()
        assert self._server is not None
        self._server.close()
        await self._hang_up()

    def _thaw(self) -> None:
        self.thawing.set()
        self.thawing = asyncio.Event()

    async def _hang_up(self) -> None:
        links = list(self._links)
        for link in links:
            link.close()
        if links:
            await asyncio.wait([link.running for link in links])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection(self.host, self.target)
        except OSError:
            writer.close()
            return
        running = asyncio.current_task()
        assert running is not None
        link = _Link(self, (reader, writer), server, running)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    def take(self, message: str) -> tuple[str, float] | None:
        """Takes the first armed cut, if it is for this message. On the proxy's loop."""
        if not self._armed or not self._armed[0][2](message):
            return None
        how, seconds, _ = self._armed.popleft()
        return how, seconds

    def note(self, how: str, message: str, process: int) -> None:
        """Records a cut. On the proxy's loop."""
        self.cuts.append(Cut(how=how, at=time.time(), message=message, process=process))
        self.has_cut.set()


class _Link:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        running: asyncio.Task[None],
    ) -> None:
        self._proxy, self.running = proxy, running
        (self._from_client, self._to_client), (self._from_server, self._to_server) = client, server
        self._pid = 0
        self._held: float | None = None  # seconds for which the answers that come now are held
        self._swallows = False  # the answers that come now are dropped
        self._answered = asyncio.Event()  # a swallowed COMMIT's answer is complete

    def close(self) -> None:
        for writer in (self._to_client, self._to_server):
            writer.transport.abort()

    async def run(self) -> None:
        back = asyncio.create_task(self._answer())
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._greet()
                await self._ask()
        finally:
            self.close()
            await asyncio.wait([back])

    async def _greet(self) -> None:
        """Passes the startup packet on; encryption is declined."""
        while True:
            head = await self._from_client.readexactly(8)
            size, code = struct.unpack("!ii", head)
            if code not in _SECURED:
                break
            self._to_client.write(b"N")
        self._to_server.write(head + await self._from_client.readexactly(size - 8))

    async def _ask(self) -> None:
        """Passes on what the client says, message by message."""
        said = bytearray()
        while chunk := await self._from_client.read(_CHUNK):
            said += chunk
            passed = at = 0
            while len(said) - at >= 5 and len(said) - at > (size := struct.unpack_from("!i", said, at + 1)[0]):
                if said[at] == ord("Q") and (message := _commit_in(said[at + 5 : at + size])):
                    self._to_server.write(bytes(said[passed:at]))
                    passed = at
                    if cut := self._proxy.take(message):
                        passed += 1 + size
                        if await self._cut(*cut, message, bytes(said[at:passed])):
                            return
                at += 1 + size
            self._to_server.write(bytes(said[passed:at]))
            del said[:at]
            await self._to_server.drain()

    async def _cut(self, how: str, seconds: float, message: str, raw: bytes) -> bool:
        """Cuts at a COMMIT; returns whether the connection is over."""
        match how:
            case "before":
                self._proxy.note(how, message, self._pid)
            case "after":
                self._swallows = True
                self._to_server.write(raw)
                await self._answered.wait()
                self._proxy.note(how, message, self._pid)
            case "frozen":
                await self._freeze(seconds, message, raw)
            case "held":
                self._held = seconds
                self._to_server.write(raw)
                self._proxy.note(how, message, self._pid)
                return False
        return True

    async def _freeze(self, seconds: float, message: str, raw: bytes) -> None:
        """Stops the server's process, gives it the COMMIT, and breaks the client's end; later it goes on."""
        assert self._pid
        os.kill(self._pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(_OBEYED)
            self._swallows = True
            self._to_server.write(raw)
            self._to_client.transport.abort()
            self._proxy.note("frozen", message, self._pid)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._proxy.thawing.wait(), seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGCONT)
        await self._answered.wait()

    async def _answer(self) -> None:
        """Passes on what the server says."""
        start, said = b"", b""
        try:
            while chunk := await self._from_server.read(_CHUNK):
                if not self._pid:
                    start += chunk
                    self._pid = _process_in(start)
                if self._swallows:
                    said += chunk
                    if said[-6:-1] == _READY:
                        self._answered.set()
                    continue
                if self._held is not None:
                    await asyncio.sleep(self._held)
                    self._held = None
                self._to_client.write(chunk)
                await self._to_client.drain()
        except ConnectionError:
            pass
        finally:
            self._answered.set()
            self._to_client.transport.abort()


def _commit_in(text: bytearray) -> str:
    """Returns a query if it ends in COMMIT, else nothing."""
    said = bytes(text).rstrip(b"\0; \n")
    return said.decode(errors="replace") if said[-6:].lower() == b"commit" else ""


def _process_in(start: bytes) -> int:
    """Returns the process id in what a server says at first; 0 if it has not come yet."""
    at = 0
    while len(start) - at >= 5:
        (size,) = struct.unpack_from("!i", start, at + 1)
        if start[at : at + 1] == b"K" and len(start) >= at + 9:
            return int(struct.unpack_from("!i", start, at + 5)[0])
        at += 1 + size
    return 0
