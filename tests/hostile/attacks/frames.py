"""Speaks HTTP/2 by hand, as no client library does: frames that are held back, windows that stay shut.

Header blocks are literals without Huffman coding and without the dynamic table (RFC 7541, 6.2.2), so nothing is
shared between streams and any bytes can be sent.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
CANCEL = 0x8  # an error code of RST_STREAM
INITIAL_WINDOW_SIZE = 0x4  # a setting
CHUNK = 16_384  # bytes: the largest frame that everybody takes
STREAM_BITS = 2**31 - 1
FIRST_WINDOW = 65_535  # bytes that a connection may carry before more are granted

HEALTH = "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
OURS = "/startflow.v1.StartFlowService/"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns one frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def message(data: bytes, *, says: int | None = None, flag: int = 0) -> bytes:
    """Returns a gRPC message, which may say that it is longer than it is."""
    return struct.pack(">BI", flag, len(data) if says is None else says) + data


def header_block(path: str | bytes, extra: Iterable[tuple[str, str]] = ()) -> bytes:
    """Returns the encoded headers of a gRPC request."""
    named = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "gateway")]
    named += [("te", "trailers"), ("content-type", "application/grpc"), *extra]
    return b"".join(b"\0" + _literal(name) + _literal(value) for name, value in named)


def _literal(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    size, prefix = len(data), b""
    if size < 127:
        return bytes([size]) + data
    size -= 127
    while size >= 128:
        prefix += bytes([size % 128 + 128])
        size //= 128
    return b"\x7f" + prefix + bytes([size]) + data


class Peer:
    """One connection. It acknowledges settings and pings, and grants no stream more than `window` bytes."""

    def __init__(self, address: str, *, window: int = 0) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._window = window
        self._next = 1
        self._reading: asyncio.Task[None] | None = None
        self._credit: dict[int, int] = {}  # granted by the server beyond the first window, by stream; 0: by all
        self._initial = FIRST_WINDOW  # bytes: the first window of a stream
        self._moved = asyncio.Event()
        self._pings_acknowledged = asyncio.Event()
        self.frames: dict[tuple[int, int], int] = {}
        """How many frames came, by kind and stream."""
        self.ended: set[int] = set()
        """The streams that the server has ended."""
        self.trailers: dict[int, bytes] = {}
        """The last header block of each stream, still encoded."""
        self.closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connects and sends the preface."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, self._window)
        self._writer.write(PREFACE + frame(SETTINGS, 0, 0, settings))
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drops the connection."""
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def call(
        self, path: str | bytes, data: bytes | None = None, extra: Iterable[tuple[str, str]] = (), *, ends: bool = True
    ) -> int:
        """Begins a call and returns its stream; `data` is what follows the headers, `ends` whether no more will."""
        stream, self._next = self._next, self._next + 2
        ending = END_STREAM if ends and data is None else 0
        sent = frame(HEADERS, END_HEADERS | ending, stream, header_block(path, extra))
        if data is not None:
            sent += frame(DATA, END_STREAM if ends else 0, stream, data)
        self._writer.write(sent)
        return stream

    def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self._writer.write(data)

    def reset(self, stream: int) -> None:
        """Takes a call back."""
        self._writer.write(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4)))

    async def drain(self) -> None:
        """Waits until what was written has left."""
        await self._writer.drain()

    async def pour(self, stream: int, data: bytes) -> int:
        """Sends bytes as fast as the server grants them, until it ends the stream; returns how many it took."""
        sent = 0
        while sent < len(data) and stream not in self.ended and not self.closed.is_set():
            granted = min(self._initial + self._credit.get(stream, 0), FIRST_WINDOW + self._credit.get(0, 0), CHUNK)
            if granted <= 0:
                self._moved.clear()
                await self._moved.wait()
                continue
            part = data[sent : sent + granted]
            self._credit[stream] = self._credit.get(stream, 0) - len(part)
            self._credit[0] = self._credit.get(0, 0) - len(part)
            self._writer.write(frame(DATA, 0, stream, part))
            with suppress(ConnectionError):
                await self._writer.drain()
            sent += len(part)
        return sent

    async def until_ended(self, *streams: int) -> None:
        """Waits until the server has ended these streams, or the connection."""
        while not (self.closed.is_set() or self.ended.issuperset(streams)):
            self._moved.clear()
            await self._moved.wait()

    async def until_answered(self) -> None:
        """Waits until the server has seen everything that was sent."""
        self._pings_acknowledged.clear()
        self._writer.write(frame(PING, 0, 0, bytes(8)))
        while not (self.closed.is_set() or self._pings_acknowledged.is_set()):
            self._moved.clear()
            await self._moved.wait()

    async def until_came(self, kind: int, stream: int) -> None:
        """Waits until a frame of a kind has come on a stream, or the connection is closed."""
        while not (self.closed.is_set() or (kind, stream) in self.frames):
            self._moved.clear()
            await self._moved.wait()

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                self._take(head[3], head[4], int.from_bytes(head[5:]) & STREAM_BITS, payload)
                self._moved.set()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed.set()
            self._moved.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.frames[kind, stream] = self.frames.get((kind, stream), 0) + 1
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                setting, value = struct.unpack_from(">HI", payload, at)
                if setting == INITIAL_WINDOW_SIZE:
                    self._initial = value
            self._writer.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and flags & ACK:
            self._pings_acknowledged.set()
        elif kind == PING:
            self._writer.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            self._credit[stream] = self._credit.get(stream, 0) + int.from_bytes(payload)
        elif kind == HEADERS:
            self.trailers[stream] = payload
        if kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & END_STREAM):
            self.ended.add(stream)
