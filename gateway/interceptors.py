"""Who calls, and what becomes of whatever escapes an RPC: the only place where an error turns into a status.

Rules:

1. Methods take and return bytes; gRPC's own deserializer would answer UNKNOWN and show its inside.
2. What is not a `GatewayError` is a bug: INTERNAL with an incident id, which the log has too, and nothing else.
3. A cancelled call is left alone: its caller has gone.
"""

from __future__ import annotations

import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from startflow.v1 import start_flow_service_pb2 as pb

from gateway import wire
from gateway.errors import GatewayError, Reason
from gateway.model import Call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from gateway.service import Service

log = structlog.get_logger()

DEFAULT_TENANT = "default"
SERVICE = pb.DESCRIPTOR.services_by_name["StartFlowService"]


def handlers(service: Service) -> grpc.GenericRpcHandler:
    """Makes the handlers of every RPC in the proto; the method of `StartFlow` is `start_flow`."""
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in SERVICE.methods:
        function = getattr(service, _snake_case(method.name))
        if method.server_streaming:
            methods[method.name] = grpc.unary_stream_rpc_method_handler(_streaming(method.name, function))
        else:
            methods[method.name] = grpc.unary_unary_rpc_method_handler(_unary(method.name, function))
    return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)


def _unary(name: str, function: Callable[[Call, bytes], Awaitable[bytes]]) -> Callable[..., Any]:
    async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            return await function(_call(context), data)
        except Exception as error:  # noqa: BLE001 -- every one of them becomes a status, once, here
            await _end(name, error, context)

    return call


def _streaming(name: str, function: Callable[[Call, bytes], AsyncGenerator[bytes]]) -> Callable[..., Any]:
    async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            async with aclosing(function(_call(context), data)) as messages:
                async for message in messages:
                    await context.write(message)
        except Exception as error:  # noqa: BLE001 -- the same
            await _end(name, error, context)

    return call


def _call(context: grpc.aio.ServicerContext[Any, Any]) -> Call:
    return Call(tenant=DEFAULT_TENANT, seconds_left=context.time_remaining())


async def _end(name: str, error: Exception, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    """Ends a call with the status of an error."""
    if not isinstance(error, GatewayError):
        error = _bug(name, error)
    status = wire.write_status(error)
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(grpc.StatusCode[error.code], status.message, details)


def _bug(name: str, error: Exception) -> GatewayError:
    incident = uuid.uuid4().hex
    log.error("rpc_failed", method=name, incident_id=incident, exc_info=error)
    return GatewayError(
        reason=Reason.INTERNAL,
        message=f"Something is wrong with the gateway. Tell its operator the incident id {incident}.",
        metadata={"incident_id": incident},
    )


def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
