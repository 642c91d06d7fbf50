"""What speaks HTTP to the gateway's other port, or something like it."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from gateway.doors.http.events import ANSWER_WITHIN, BODY_LIMIT
from gateway.sandbox.twilio.events import signature, with_hash

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.fuzz.judge import Answers

PATIENCE = 10.0  # seconds
PATHS = ["/events/twilio/twilio", "/events/twilio/nobody", "/events/rapidpro/rapidpro", "/events/x/%ff", "/metrics"]
PATHS += ["/healthz", "/readyz", "/", "/events", "/events/twilio/twilio/more", "//healthz", "*", "/metrics/../healthz"]
METHODS = ["GET", "POST", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "X" * 300]
MAY_BE_5XX = re.compile(rb"\r\n\r\n(too many at once|the store does not take it now|not signed |the body to)")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NOISE = [
    b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\r\n\r\n", b"\0" * 500,
    PREFACE, b"GET / HTTP/1.1\r\n\0: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"POST /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
    b"GET http://[::1/ HTTP/1.1\r\n\r\n", b"GET /%zz?%ff=\xff HTTP/1.1\r\nHost: h\r\n\r\n",
]  # fmt: skip


class Listener:
    """The port, and what is sent there."""

    def __init__(self, address: str, grpc_address: str, random: Random, answers: Answers) -> None:
        self._host, _, port = address.removeprefix("http://").rpartition(":")
        self._port = int(port)
        self._grpc_port = int(grpc_address.rpartition(":")[2])
        self._random = random
        self._answers = answers

    async def run(self, next_one: Callable[[], bool]) -> None:
        """Sends as often as it is told to."""
        while next_one():
            usual = (self._request, self._request, self._request, self._noise, self._pipeline)
            await self._random.choice((*usual, self._garbage))()

    async def slow(self) -> None:
        """Signs a post, and sends its body a byte at a time: it is told within the time that there is for an answer."""
        body = b"x" * 1_000
        head = self._head("POST", "/events/twilio/twilio", body, signed=True, spoilt=0)
        began = asyncio.get_running_loop().time()
        answer = await self._send(head, *(body[at : at + 1] for at in range(100)), pause=0.2, until=b"\r\n\r\n")
        took = asyncio.get_running_loop().time() - began
        self._note("slow body", answer, must=True)
        if not answer.startswith(b"HTTP/1.1 503") or took > 2 * ANSWER_WITHIN:
            self._answers.violate(f"a slow body: {answer[:30]!r} after {took:.1f} s")

    async def _request(self) -> None:
        """Sends something that is framed as it should be, and must be answered."""
        random = self._random
        path, method, body = random.choice(PATHS), random.choice(METHODS), self._body()
        if random.random() < 0.5:
            path, method = PATHS[0], "POST"
        signed = random.random() < 0.8
        head = self._head(method, path, body, signed=signed, chunked=random.random() < 0.2)
        if b"chunked" in head:
            cuts = [body[at : at + 40_000] for at in range(0, len(body), 40_000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in cuts) + b"0\r\n\r\n"
        self._note(path, await self._send(head, body), must=True)

    async def _noise(self) -> None:
        """Sends what is not HTTP, or not whole; nobody has to answer it."""
        whole = self._random.choice(NOISE)
        if self._random.random() < 0.5:
            body = self._body()[:2_000]
            whole = self._head("POST", "/events/twilio/twilio", body, signed=True) + body
            at = self._random.randint(0, len(whole))
            whole = whole[:at] + self._random.choice((b"", b"\r\n", b"\0", b"\xff" * 9)) + whole[at + 3 :]
        self._note("noise", await self._send(whole, patience=0.2), must=False)

    async def _garbage(self) -> None:
        """Sends what is no gRPC to the port of gRPC; what it answers is its own."""
        random = self._random
        whole = random.choice((*NOISE, PREFACE, PREFACE + bytes(9) * 50, random.randbytes(3_000)))
        for _ in range(random.randint(0, 20)):  # frames of HTTP/2, or nearly
            body = random.randbytes(random.randint(0, 60))
            whole += len(body).to_bytes(3) + bytes([random.randrange(11), random.randrange(256)])
            whole += random.choice((0, 1, 1, 3, 2**31 - 1)).to_bytes(4) + body
        answer = await self._send(whole, patience=0.1, port=self._grpc_port)
        self._answers.http["(the port of gRPC)", "answered" if answer else "no answer"] += 1

    async def _pipeline(self) -> None:
        """Sends many requests before it reads an answer."""
        one = self._head("GET", self._random.choice(PATHS), b"", signed=False).replace(b"Connection: close\r\n", b"")
        last = self._head("GET", "/healthz", b"", signed=False)
        self._note("pipelined", await self._send(one * 20 + last), must=True)

    def _head(
        self, method: str, path: str, body: bytes, *, signed: bool, chunked: bool = False, spoilt: float = 0.3
    ) -> bytes:
        url = with_hash(f"http://{self._host}:{self._port}{path}", body)
        target = url.removeprefix(f"http://{self._host}:{self._port}") if signed else path
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}:{self._port}", "Connection: close"]
        lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}")
        if signed:
            wrong = self._random.choice((signature(url)[:-4], "", "é", "x" * 5_000, signature(url, "other")))
            lines.append(f"X-Twilio-Signature: {wrong if self._random.random() < spoilt else signature(url)}")
        if self._random.random() < 0.1 and not signed:
            odd = ("Expect: 100-continue", "Content-Encoding: gzip", "Upgrade: h2c", "Range: bytes=0-", "Accept: \xff")
            lines.append(self._random.choice(odd))
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _body(self) -> bytes:
        random = self._random
        data = {"execution_sid": random.choice(("FN" + "a" * 32, "", 7, None, "x" * 9_000)), "status": "ended"}
        event = {"specversion": "1.0", "type": "com.twilio.studio.flow.execution.ended", "id": "EZ1", "data": data}
        return random.choice(
            [
                b"", b"[]", b"{}", b"null", b"[null]", b"\xff", b"[" * 30_000, b"1e999", b'"\\ud800"', b"NaN",
                json.dumps([event] * random.choice((1, 3, 500))).encode(), json.dumps([{**event, "data": []}]).encode(),
                json.dumps({**event, "id": {}}).encode(), random.randbytes(500), b"x" * (BODY_LIMIT + 1),
            ]
        )  # fmt: skip

    async def _send(
        self, *parts: bytes, patience: float = PATIENCE, pause: float = 0.0, until: bytes = b"", port: int = 0
    ) -> bytes:
        """Sends, and reads to the end, or until that comes; returns what came."""
        came = b""
        reader, writer = await asyncio.open_connection(self._host, port or self._port)

        async def write() -> None:
            with suppress(OSError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause)

        writing = asyncio.create_task(write())
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(patience):
                while data := await reader.read(65_536):
                    came += data
                    if until and until in came:
                        break
        writing.cancel()
        await asyncio.wait([writing])
        writer.close()
        return came

    def _note(self, path: str, answer: bytes, *, must: bool) -> None:
        statuses = re.findall(rb"^HTTP/1\.[01] (\d{3})", answer) or [b"no answer"]
        self._answers.http[path, statuses[0].decode()] += 1
        if statuses[0].startswith(b"5") and not MAY_BE_5XX.search(answer):
            self._answers.violate(f"HTTP {path}: {answer[:200]!r}")
        if must and statuses == [b"no answer"]:
            self._answers.violate(f"HTTP {path}: no answer")
