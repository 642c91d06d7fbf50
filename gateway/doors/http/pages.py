"""What an operator reads over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for probes."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from gateway.lanes.backend import Backend
    from gateway.store import Keeping
    from gateway.telemetry.health import Health
    from gateway.telemetry.metrics import Metrics
    from gateway.watch.stream import Watch


REST = 9  # times as long as the metrics took to read: whoever asks without pause takes a tenth of the time


class Pages:
    """The pages of one server."""

    def __init__(
        self,
        store: Keeping,
        watch: Watch,
        backends: Mapping[str, Backend],
        health: Health,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._watch = watch
        self._backends = backends
        self._health = health
        self._metrics = metrics
        self._clock = clock
        self._reading = asyncio.Lock()  # one at a time, however many ask
        self._shown = b""  # the metrics, as they were last read
        self._began = self._ended = -1.0  # when that was

    def add_to(self, app: web.Application) -> None:
        """Adds the pages, and counts whatever is asked of the application."""
        app.middlewares.append(self._counted)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._show_metrics)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _say(self._health.trouble)

    async def _readyz(self, request: web.Request) -> web.Response:
        if not self._health.is_well:
            return await self._healthz(request)
        return _say("shutting down" if not self._health.is_ready else "", self._health.limping)

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        """Returns the metrics of a moment after the request came. All that wait for one share it."""
        asked = self._clock()
        async with self._reading:
            if self._began < asked:
                await asyncio.sleep(max(0.0, self._ended + REST * (self._ended - self._began) - self._clock()))
                began = self._clock()
                self._shown = await self._read_metrics()
                self._began, self._ended = began, self._clock()
        return web.Response(body=self._shown, headers={"Content-Type": self._metrics.content_type})

    async def _read_metrics(self) -> bytes:
        try:
            measures = await self._store.measure() if self._store.is_well else None
        except Unavailable:
            measures = None
        self._metrics.read(self._backends, self._watch, measures, self._health.loops)
        return await asyncio.to_thread(self._metrics.text)

    @web.middleware
    async def _counted(self, request: web.Request, handler: Any) -> web.StreamResponse:  # noqa: ANN401 -- aiohttp's
        resource = request.match_info.route.resource
        route = "other" if resource is None else "/" + resource.canonical.split("/")[1]
        status = int(HTTPStatus.INTERNAL_SERVER_ERROR)
        try:
            response: web.StreamResponse = await handler(request)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            self._metrics.answered(route, status)
        return response


def _say(trouble: str, limping: Sequence[str] = ()) -> web.Response:
    status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
    return web.Response(status=status, text="\n".join([trouble or "ok", *limping, ""]))
