"""What an operator reads over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for probes."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from gateway.health import Health
    from gateway.metrics import Metrics
    from gateway.store import Store
    from gateway.transport import Backend
    from gateway.watch import Watch


class Pages:
    """The pages of one server."""

    def __init__(
        self, store: Store, watch: Watch, backends: Mapping[str, Backend], health: Health, metrics: Metrics
    ) -> None:
        self._store = store
        self._watch = watch
        self._backends = backends
        self._health = health
        self._metrics = metrics
        self._reading = asyncio.Lock()  # one at a time, however many ask

    def add_to(self, app: web.Application) -> None:
        """Adds the pages, and counts whatever is asked of the application."""
        app.middlewares.append(self._counted)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._show_metrics)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _say("the store does not work" if not self._health.is_well else "")

    async def _readyz(self, request: web.Request) -> web.Response:
        if not self._health.is_well:
            return await self._healthz(request)
        return _say("shutting down" if not self._health.is_ready else "")

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        async with self._reading:
            try:
                measures = await self._store.measure() if self._store.is_well else None
            except Unavailable:
                measures = None
            self._metrics.read(self._backends, self._watch, measures)
            text = await asyncio.to_thread(self._metrics.text)
        return web.Response(body=text, headers={"Content-Type": self._metrics.content_type})

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


def _say(trouble: str) -> web.Response:
    status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
    return web.Response(status=status, text=f"{trouble or 'ok'}\n")
