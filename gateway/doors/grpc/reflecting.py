"""Reflection, in which a method is a symbol too.

`grpcurl describe` and ghz ask for methods by name. Protobuf's pool finds every other kind of symbol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc_reflection.v1alpha._async import ReflectionServicer

if TYPE_CHECKING:
    from grpc_reflection.v1alpha import reflection_pb2


class Reflection(ReflectionServicer):  # type: ignore[misc]  # it has no types
    """Answers for the methods of a service with the file of the service."""

    def _file_containing_symbol(
        self, request: reflection_pb2.ServerReflectionRequest, fully_qualified_name: str
    ) -> reflection_pb2.ServerReflectionResponse:
        pool: Any = self._pool
        service, _, method = fully_qualified_name.removeprefix(".").rpartition(".")
        try:
            known = method in pool.FindServiceByName(service).methods_by_name
        except KeyError:
            known = False
        return super()._file_containing_symbol(request, service if known else fully_qualified_name)
