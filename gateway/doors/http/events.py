"""Takes what backends post by themselves: `POST /events/KIND/NAME` moves a start at once. Sweeping remains the truth.

Rules:

1. Nothing of a body is read before the adapter trusts its URL, and nothing in it is believed before it trusts both.
2. 2xx says that the store has it, or that it is not ours. 5xx says that it may be ours and cannot be read or recorded
   now: the backend posts it again. 4xx says that it is of no use: the backend drops it.
3. The answer comes in time whatever the caller and the store do, and what is kept here is bounded: what is forgotten
   is swept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from gateway.adapters.base import Distrusted, Listener, Push, Unsure
from gateway.errors import Unavailable
from gateway.lanes.sighting import BATCH
from gateway.loops import came_round
from gateway.model import TERMINAL
from gateway.telemetry.complaints import Complaints

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from gateway.adapters.base import Heard
    from gateway.lanes.backend import Backend
    from gateway.sightings import Sighting
    from gateway.store import Finding

Key = TypeVar("Key")
Value = TypeVar("Value")

log = structlog.get_logger()

ROUTE = "/events/{kind}/{backend}"
ANSWER_WITHIN = 4.5  # seconds, for reading and recording together; Twilio waits five
BODY_LIMIT = 1024 * 1024  # bytes; an event takes about 700
AT_ONCE = 32  # pushes whose bodies are being read or recorded
REMEMBERED = 10_000  # ids of what was told already
EARLY = 10_000  # ends of a backend that came before the dispatch was recorded; or that are not ours
EARLY_FOR = 300.0  # seconds such an end is kept: far longer than an answer to a send takes
PAUSE = 1.0  # seconds between looks whether their dispatches are there now


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether an error is worth a line: what no parser reads is the client's, and quotes what it has sent."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


HTTP_LOG = logging.getLogger("gateway.http")
HTTP_LOG.addFilter(_is_ours)


class Pushes:
    """Hears every backend that pushes."""

    def __init__(
        self,
        store: Finding,
        backends: Mapping[str, Backend],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        answer_within: float = ANSWER_WITHIN,
    ) -> None:
        self._store = store
        self._backends = backends
        self._monotonic = monotonic
        self._sleep = sleep
        self._answer_within = answer_within
        self._taking = 0
        self._told: dict[tuple[str, str], None] = {}  # backends and ids, the latest last
        self._early: dict[str, dict[str, tuple[float, Sighting]]] = {name: {} for name in backends}  # since when
        self._complaints = Complaints(monotonic)
        self._moved = asyncio.Event()
        store.listen(lambda _: self._moved.set())

    async def take(self, request: web.Request) -> web.Response:
        """Answers one push."""
        backend = self._backends.get(request.match_info["backend"])
        if backend is None or backend.kind != request.match_info["kind"] or not isinstance(backend.adapter, Listener):
            return _say(HTTPStatus.NOT_FOUND, "no backend of this kind and name receives events")
        push = Push(
            url=(backend.public_url.rstrip("/") or _origin(request)) + request.raw_path,
            headers={name.lower(): value for name, value in request.headers.items()},
        )
        if isinstance(doubt := backend.adapter.hear(push), Distrusted):
            return self._refuse(backend, doubt)
        if (request.content_length or 0) > BODY_LIMIT:
            return _too_large()
        if self._taking >= AT_ONCE:
            return _say(HTTPStatus.SERVICE_UNAVAILABLE, "too many at once")
        self._taking += 1
        try:
            return await self._take(request, backend, backend.adapter, push)
        finally:
            self._taking -= 1

    async def _take(self, request: web.Request, backend: Backend, adapter: Listener, push: Push) -> web.Response:
        until = asyncio.get_running_loop().time() + self._answer_within
        body = await _read(request, until)
        if not isinstance(body, bytes):
            return body
        heard = adapter.hear(replace(push, body=body))
        if isinstance(heard, Distrusted):
            return self._refuse(backend, heard)
        if isinstance(heard, Unsure):
            self._complain(backend, "push_unreadable", heard.reason)
            return _say(HTTPStatus.BAD_REQUEST, heard.reason)
        try:
            async with asyncio.timeout_at(until):
                await self._record(backend, heard)
        except (TimeoutError, Unavailable):
            return _say(HTTPStatus.SERVICE_UNAVAILABLE, "the store does not take it now")
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _record(self, backend: Backend, heard: tuple[Heard, ...]) -> None:
        """Records what is of our dispatches, and keeps the ends that may be of ours soon."""
        fresh = [each.sighting for each in heard if (backend.name, each.id) not in self._told]
        unknown: frozenset[str] = frozenset()
        if fresh:
            # Asked first: a dispatch that is recorded from now on is found when what is kept is looked at again.
            unknown = await self._store.unknown(backend.name, {each.external_id for each in fresh})
        await self._sight(backend, [each for each in fresh if each.external_id not in unknown])
        for each in fresh:
            if each.external_id in unknown and each.state in TERMINAL:  # a beginning is told by the answer itself
                _put(self._early[backend.name], each.external_id, (self._monotonic(), each), EARLY)
                self._moved.set()
        for told in heard:
            if told.id:
                _put(self._told, (backend.name, told.id), None, REMEMBERED)

    async def _sight(self, backend: Backend, sightings: Sequence[Sighting]) -> None:
        for first in range(0, len(sightings), BATCH):
            some = sightings[first : first + BATCH]
            await self._store.sight(backend.name, some, account=backend.account)

    async def run(self) -> None:
        """Records what came early as soon as its dispatch is there, until cancelled."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            for backend in self._backends.values():
                try:
                    await self._look_again(backend)
                except Unavailable:
                    self._moved.set()
            came_round()
            await self._sleep(PAUSE)

    async def _look_again(self, backend: Backend) -> None:
        oldest = self._monotonic() - EARLY_FOR
        early = self._early[backend.name]
        for external_id in [external_id for external_id, (since, _) in early.items() if since < oldest]:
            del early[external_id]
        if not early:
            return
        kept = dict(early)
        known = kept.keys() - await self._store.unknown(backend.name, kept.keys())
        await self._sight(backend, [kept[external_id][1] for external_id in known])
        for external_id in known:
            early.pop(external_id, None)

    def _refuse(self, backend: Backend, doubt: Distrusted) -> web.Response:
        """Refuses a push without saying why: it may be anybody's. One that may be ours can come again."""
        self._complain(backend, "push_refused", doubt.why)
        status = HTTPStatus.SERVICE_UNAVAILABLE if doubt.may_be_ours else HTTPStatus.FORBIDDEN
        return _say(status, "not signed by the backend; the log of the gateway says what is wrong")

    def _complain(self, backend: Backend, what: str, why: str) -> None:
        self._complaints.warn(what, (backend.name,), backend=backend.name, why=why)


async def _read(request: web.Request, until: float) -> bytes | web.Response:
    """Reads a whole body, or says why it is none."""
    body = bytearray()
    try:
        async with asyncio.timeout_at(until):
            async for chunk in request.content.iter_chunked(65_536):
                body += chunk
                if len(body) > BODY_LIMIT:
                    return _too_large()
    except TimeoutError:
        return _say(HTTPStatus.SERVICE_UNAVAILABLE, "the body took too long")
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
        return _say(HTTPStatus.SERVICE_UNAVAILABLE, "the body broke off")
    return bytes(body)


def _origin(request: web.Request) -> str:
    """Says where a request was sent to. `request.host` would look a missing header up in the DNS."""
    return f"{request.scheme}://{request.headers.get('Host', '')}"


def _put(kept: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Puts the newest last, and forgets the oldest."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > most:
        del kept[next(iter(kept))]


def _too_large() -> web.Response:
    return _say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {BODY_LIMIT:,} bytes")


def _say(status: HTTPStatus, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")
