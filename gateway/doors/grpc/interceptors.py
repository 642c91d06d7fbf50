"""Who calls, and what becomes of whatever escapes an RPC: the only place where an error turns into a status.

Rules:

1. Methods take and return bytes; gRPC's own deserializer would answer UNKNOWN and show its inside.
2. Nothing of a request is read before its caller is known and may do this.
3. What is not a `GatewayError` is a bug: INTERNAL with an incident id, which the log has too, and nothing else.
4. A cancelled call is left alone: its caller has gone. So has one whom gRPC cannot send anything any more.
5. A call's context keeps the error that ended it, and that error the frames it went through: none of these may keep the
   context, or every refusal is garbage that only the collector finds, and collecting much of it holds everybody up.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf.message import DecodeError
from startflow.v1 import start_flow_service_pb2 as pb

from gateway import wire
from gateway.doors.grpc.guests import Guests
from gateway.doors.grpc.receiving import Receiving
from gateway.doors.grpc.taking import answered
from gateway.errors import GatewayError, InvalidRequest, NotAllowed, Reason, Unauthenticated
from gateway.model import Call
from gateway.telemetry.complaints import Complaints
from gateway.telemetry.logs import RequestId, serving
from gateway.telemetry.metrics import GONE, Metrics
from gateway.tenants.clients import Scope
from gateway.tenants.loop_time import LoopTime
from gateway.tenants.sharing import Sharing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from gateway.service.starts import Service
    from gateway.telemetry.metrics import Timed
    from gateway.tenants.clients import Clients

log = structlog.get_logger()
complaints = Complaints()

SERVICE = pb.DESCRIPTOR.services_by_name["StartFlowService"]
SCOPES = {"StartFlow": Scope.START, "CancelFlowStart": Scope.START, "ResolveFlowStart": Scope.ADMIN}
"""What a method takes. Those that are not here change nothing: `read`."""


def handlers(
    service: Service,
    clients: Clients,
    metrics: Metrics | None = None,
    loop_time: LoopTime | None = None,
    sharing: Sharing | None = None,
    receiving: Receiving | None = None,
) -> grpc.GenericRpcHandler:
    """Makes the handlers of every RPC in the proto; the method of `StartFlow` is `start_flow`."""
    metrics = metrics or Metrics()  # that nobody reads
    receiving = receiving or Receiving()
    sharing = sharing or Sharing()
    loop_time = loop_time or LoopTime()
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in SERVICE.methods:
        function = getattr(service, _snake_case(method.name))
        if method.server_streaming:
            streaming = _streaming(method.name, function, clients, receiving, loop_time, metrics.stream(method.name))
            methods[method.name] = grpc.stream_stream_rpc_method_handler(streaming)
        else:
            unary = _unary(method.name, function, clients, receiving, sharing, loop_time, metrics.rpc(method.name))
            methods[method.name] = grpc.stream_unary_rpc_method_handler(unary)
    return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)


def _unary(
    name: str,
    function: Callable[[Call, bytes], Awaitable[bytes]],
    clients: Clients,
    receiving: Receiving,
    sharing: Sharing,
    loop_time: LoopTime,
    ended: Timed,
) -> Callable[..., Any]:
    scope = SCOPES.get(name, Scope.READ)

    async def call(messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        began, code, response, ending, shares = time.perf_counter(), GONE, b"", None, False
        serving.set(RequestId(context.invocation_metadata))
        try:
            caller = await _admitted(clients, scope, context, loop_time)
            data = await receiving.only_message(context, caller.tenant)
            if scope is Scope.READ:
                await sharing.enter(caller.tenant)
                shares = True
            async with receiving.working(data, caller.tenant):
                response = await function(caller, data)
            code = "OK"
        except Exception as error:  # noqa: BLE001 -- every one of them becomes a status, once, here
            code = _code(error)
            ending = _ending(name, error, context)
        finally:
            if shares:
                sharing.leave(caller.tenant)
            ended(code, time.perf_counter() - began)
        if ending is not None:
            del context, messages  # rule 5
            await ending
        return response

    return call


def _streaming(
    name: str,
    function: Callable[[Call, bytes], AsyncGenerator[bytes]],
    clients: Clients,
    receiving: Receiving,
    loop_time: LoopTime,
    ended: Timed,
) -> Callable[..., Any]:
    scope = SCOPES.get(name, Scope.READ)

    async def call(messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        began, code, ending = time.perf_counter(), GONE, None
        serving.set(RequestId(context.invocation_metadata))
        try:
            caller = await _admitted(clients, scope, context, loop_time, lasts=True)
            data = await receiving.only_message(context, caller.tenant)
            await _write_all(function(caller, data), context)
            code = "OK"
        except Exception as error:  # noqa: BLE001 -- the same
            code = _code(error)
            ending = _ending(name, error, context)
        finally:
            ended(code, time.perf_counter() - began)
        if ending is not None:
            del context, messages  # rule 5
            await ending

    return call


async def _write_all(messages: AsyncGenerator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Sends what a stream brings, and closes it however it ends."""
    async with aclosing(messages):
        async for message in messages:
            await _sent(context.write(message))


async def _admitted(
    clients: Clients,
    scope: Scope,
    context: grpc.aio.ServicerContext[Any, Any],
    loop_time: LoopTime,
    *,
    lasts: bool = False,
) -> Call:
    """Returns who calls, once it is their turn. Their message is read afterwards, so that what waits is small."""
    try:
        caller = _admit(clients, scope, context, lasts=lasts)
    except Unauthenticated:
        await loop_time.refuse()
        raise
    await loop_time.begin(caller.tenant)
    return caller


def _admit(clients: Clients, scope: Scope, context: grpc.aio.ServicerContext[Any, Any], *, lasts: bool) -> Call:
    """Tells who calls, once they are known and may do this. Raises what refuses the call."""
    credentials = _credentials(context.invocation_metadata())
    client = clients.admit(credentials, scope)
    return Call(
        tenant=client.tenant,
        seconds_left=context.time_remaining(),
        backends=client.backends,
        spans_tenants=client.spans_tenants,
        ended=clients.lasting(credentials, scope) if lasts else None,
    )


def _credentials(metadata: Iterable[tuple[str, str | bytes]] | None) -> Sequence[str]:
    return [str(value) for key, value in metadata or () if key == "authorization"]


class Guarded:
    """Stands in for a server where services of others are added, so that these are as careful as ours.

    What they cannot read is INVALID_ARGUMENT. With `clients`, whoever asks needs a credential. Any that is known will
    do: they show nothing of a tenant.
    """

    def __init__(self, server: grpc.aio.Server, clients: Clients | None, loop_time: LoopTime | None = None) -> None:
        self._server = server
        self._clients = clients
        self._loop_time = loop_time or LoopTime()
        self._receiving = Receiving()
        self._guests = Guests()

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds handlers behind the check."""
        self._server.add_generic_rpc_handlers(
            [_Guard(handler, self._clients, self._receiving, self._guests, self._loop_time) for handler in handlers]
        )

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Adds nothing: these would go before the check, and are the same as the generic ones."""


class _Guard(grpc.GenericRpcHandler):
    """Finds a handler for whoever has the credential that it takes; for anybody else, one that refuses."""

    def __init__(
        self,
        handler: grpc.GenericRpcHandler,
        clients: Clients | None,
        receiving: Receiving,
        guests: Guests,
        loop_time: LoopTime,
    ) -> None:
        self._handler = handler
        self._clients = clients
        self._receiving = receiving
        self._guests = guests
        self._loop_time = loop_time

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Finds it."""
        found = self._handler.service(details)
        if found is None:
            return None
        try:
            if self._clients is not None:
                self._clients.identify(_credentials(details.invocation_metadata))
        except GatewayError as error:
            return _refusing(details.method, error, self._loop_time)
        return _careful(details.method, found, self._receiving, self._guests)


def _careful(
    name: str, found: grpc.RpcMethodHandler[Any, Any], receiving: Receiving, guests: Guests
) -> grpc.RpcMethodHandler[Any, Any]:
    """Makes a handler that reads its requests by rule 1, raises nothing by rule 3, and is bounded as `Guests` says."""
    behave: Any = found.unary_unary or found.unary_stream or found.stream_unary or found.stream_stream
    read = _reader(name, found.request_deserializer)

    async def read_all(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        while (data := await receiving.message(context, "")) is not None:
            yield read(data)

    async def call(messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: ANN401 -- whatever it is
        ending = None
        try:
            if not found.response_streaming:
                return await behave(read(await receiving.only_message(context, "")), context)
            with guests.stream(context):
                request = (
                    read_all(context) if found.request_streaming else read(await receiving.only_message(context, ""))
                )
                await _write_all(behave(request, context), context)
        except grpc.aio.AbortError:  # has a status of its own
            raise
        except NotImplementedError:
            ending = _sent(context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))  # as gRPC says it
        except Exception as error:  # noqa: BLE001 -- every one of them becomes a status, as above
            ending = _ending(name, error, context)
        if ending is not None:
            del context, messages  # rule 5
            await ending
        return None

    streams, answers = grpc.stream_stream_rpc_method_handler, grpc.stream_unary_rpc_method_handler
    make: Any = streams if found.response_streaming else answers  # on the wire, one message is a stream of one
    made: grpc.RpcMethodHandler[Any, Any] = make(call, response_serializer=found.response_serializer)
    return made


def _reader(name: str, deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:  # noqa: ANN401 -- whatever the method takes
        try:
            return deserialize(data) if deserialize else data
        except (DecodeError, ValueError, RecursionError):
            pass
        raise InvalidRequest(message=f"The request cannot be read: these bytes are not what {name} takes.")

    return read


def _refusing(name: str, error: GatewayError, loop_time: LoopTime) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await loop_time.refuse()
        ending = _ending(name, error, context)
        del context, messages  # rule 5
        await ending

    return grpc.stream_stream_rpc_method_handler(refuse)  # takes whatever comes: nothing of it is read


def _code(error: Exception) -> str:
    return error.code if isinstance(error, GatewayError) else GatewayError.code


async def _ending(name: str, error: Exception, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Ends a call with the status of an error, once it is awaited."""
    answered.get()()
    if not isinstance(error, GatewayError):
        error = _bug(name, error)
    if isinstance(error, (Unauthenticated, NotAllowed)):
        host = _host(context.peer())
        complaints.warn("call_refused", (error.reason, host), method=name, reason=error.reason.value, host=host)
    status = wire.write_status(error)
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    aborting = context.abort(grpc.StatusCode[error.code], status.message, details)
    del error, context  # rule 5
    await _sent(aborting)


def _host(peer: str) -> str:
    """Returns the address of a peer as people write it: gRPC writes `ipv6:%5B::1%5D:50912`."""
    return unquote(peer).rpartition(":")[0].partition(":")[2].strip("[]")


async def _sent(sending: Awaitable[None]) -> None:
    try:
        await sending
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None  # rule 4


def _bug(name: str, error: Exception) -> GatewayError:
    incident = uuid.uuid4().hex
    log.error("rpc_failed", method=name, incident_id=incident, exc_info=error)
    return GatewayError(
        reason=Reason.INTERNAL,
        message=f"Something is wrong with the gateway. Tell its operator the incident id {incident}.",
        metadata={"incident_id": incident, "request_id": str(serving.get())},
    )


def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
