"""Answers gRPC's health protocol from what `Health` has found.

A watcher is an event: what has changed is read again, and nothing is written while anything is held. So a client that
does not read stops its own stream and no other one, neither a change of status nor the end of the process.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_Status = health_pb2.HealthCheckResponse
NOT_SERVING, SERVICE_UNKNOWN = int(_Status.NOT_SERVING), int(_Status.SERVICE_UNKNOWN)


class Probes(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # it has no types
    """The health service. Until a status is set, a name is unknown."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._watching: set[asyncio.Event] = set()
        self._is_draining = False

    def set(self, name: str, status: int) -> None:
        """Sets the status of a service and wakes those who watch; nothing changes it once `drain` was called."""
        if not self._is_draining and self.status(name) != status:
            self._statuses[name] = status
            self._wake()

    def drain(self) -> None:
        """Sets every status to NOT_SERVING for good."""
        self._is_draining = True
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._wake()

    def status(self, name: str) -> int:
        """Returns the status of a service."""
        return self._statuses.get(name, SERVICE_UNKNOWN)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: ANN401, N802 -- gRPC's
        """Returns the status of a service; NOT_FOUND if it is unknown."""
        status = self.status(request.service)
        if status == SERVICE_UNKNOWN:
            try:
                await context.abort(grpc.StatusCode.NOT_FOUND, "There is no service of this name.")
            except grpc.aio.InternalError:  # whoever asked has gone
                raise asyncio.CancelledError from None
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 -- gRPC's
        self,
        request: health_pb2.HealthCheckRequest,
        _context: Any,  # noqa: ANN401
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse]:
        """Streams the status of a service whenever it has changed. States in between may be left out."""
        changed, told = asyncio.Event(), -1
        self._watching.add(changed)
        try:
            while True:
                changed.clear()  # before reading, so that a change during the write is not missed
                status = self.status(request.service)
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status)
                else:
                    await changed.wait()
        finally:
            self._watching.discard(changed)

    def _wake(self) -> None:
        for changed in self._watching:
            changed.set()
