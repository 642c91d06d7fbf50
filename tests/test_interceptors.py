from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from structlog.testing import capture_logs

from gateway import errors
from gateway.doors.grpc.interceptors import SERVICE, Guarded, handlers
from gateway.errors import GatewayError, InvalidRequest, Reason, Unavailable, Violation
from gateway.model import Call
from gateway.telemetry.probes import Probes
from gateway.tenants.clients import DEFAULT_TENANT, Clients
from gateway.tenants.sharing import AT_ONCE
from tests.builders import NOON
from tests.fakes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PRIVATE = "tel:+12065551212 t0ps3cret"


class Scripted:
    """A service whose every method does what a test says, with what it was given."""

    def __init__(self, behave: Callable[[str, bytes], Awaitable[bytes]]) -> None:
        self._behave = behave
        self.given: list[tuple[str, Call, bytes]] = []
        self.closed = asyncio.Event()  # set when a method was left

    def __getattr__(self, name: str) -> Any:
        async def unary(call: Call, data: bytes) -> bytes:
            self.given.append((name, call, data))
            try:
                return await self._behave(name, data)
            finally:
                self.closed.set()

        async def streaming(call: Call, data: bytes) -> AsyncIterator[bytes]:
            self.given.append((name, call, data))
            try:
                yield b"first"
                yield await self._behave(name, data)
            finally:
                self.closed.set()

        return streaming if name == "watch_flow_starts" else unary


@asynccontextmanager
async def serving(service: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Serves it over a real socket."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(service, Clients(clock=lambda: NOON)),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


def failing(error: Exception) -> Scripted:
    """A service that fails."""

    async def behave(_name: str, _data: bytes) -> bytes:
        raise error

    return Scripted(behave)


async def call(channel: grpc.aio.Channel, name: str, data: bytes = b"asked") -> list[bytes]:
    """Calls a method with bytes; returns the messages that came."""
    async with asyncio.timeout(PATIENCE):
        path = f"/{SERVICE.full_name}/{name}"
        if SERVICE.methods_by_name[name].server_streaming:
            return [message async for message in channel.unary_stream(path)(data)]
        return [await channel.unary_unary(path)(data)]


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Reads the details of an error, by the names of their types."""
    (packed,) = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    found: dict[str, Any] = {}
    for detail in status_pb2.Status.FromString(packed).details:
        name = detail.TypeName().removeprefix("google.rpc.")
        found[name] = getattr(error_details_pb2, name).FromString(detail.value)
    return found


@pytest.mark.parametrize("name", [method.name for method in SERVICE.methods])
async def test_every_method_of_the_api_takes_and_returns_bytes(name: str) -> None:
    """Whatever they are: reading them is the service's, and so is the tenant's name handed to it."""

    async def echo(_name: str, data: bytes) -> bytes:
        return data

    service = Scripted(echo)
    async with serving(service) as channel:
        messages = await call(channel, name, b"\xff\x00")

    assert b"\xff\x00" == messages[-1]
    assert [(Call(tenant=DEFAULT_TENANT), b"\xff\x00")] == [given[1:] for given in service.given]
    assert name.lower() == service.given[0][0].replace("_", "")


FAMILY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError)]


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("name", ["StartFlow", "WatchFlowStarts"])
async def test_an_error_becomes_its_status(kind: type[GatewayError], name: str) -> None:
    """Its code, its sentence, and its reason with its metadata; a stream ends with it after what it has sent."""
    async with serving(failing(kind(message="Do as “told”.", metadata={"id": "7"}))) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, name)
    info = details(caught.value)["ErrorInfo"]

    assert (grpc.StatusCode[kind.code], "Do as “told”.") == (caught.value.code(), caught.value.details())
    assert ("startflow.v1", {"id": "7"}) == (info.domain, dict(info.metadata))
    assert info.reason in set(Reason)


async def test_an_error_carries_all_that_helps() -> None:
    """Bad fields with their paths, and when to come back."""
    wrong = InvalidRequest(message="no", violations=(Violation(field="urns[3]", description="is bad: mend it."),))
    late = Unavailable(message="later", retry_after=timedelta(seconds=1.5))
    told = []
    for error in (wrong, late):
        async with serving(failing(error)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, "StartFlow")
        told.append(details(caught.value))

    assert ["urns[3]"] == [violation.field for violation in told[0]["BadRequest"].field_violations]
    assert 1500 == told[1]["RetryInfo"].retry_delay.ToMilliseconds()


async def test_the_largest_error_reaches_its_caller() -> None:
    """Ten thousand bad fields with long texts fit into what proxies let through."""
    violations = tuple(Violation(field=f"urns[{n}]" * 50, description="é" * 5000) for n in range(10_000))
    async with serving(failing(InvalidRequest(message="x" * 100_000, violations=violations))) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "StartFlow")
    size = sum(len(key) + len(value) for key, value in caught.value.trailing_metadata() or ())

    assert grpc.StatusCode.INVALID_ARGUMENT == caught.value.code()
    assert 20 == len(details(caught.value)["BadRequest"].field_violations)
    assert size < 8192


@pytest.mark.parametrize(
    "bug",
    [RuntimeError(PRIVATE), KeyError(PRIVATE), TimeoutError(PRIVATE), ValueError(PRIVATE), StopAsyncIteration(PRIVATE)],
    ids=lambda bug: type(bug).__name__,
)
@pytest.mark.parametrize("name", ["StartFlow", "WatchFlowStarts"])
async def test_a_bug_says_nothing_but_an_incident_id(bug: Exception, name: str) -> None:
    """INTERNAL; the log has the same id, the method and the exception."""
    with capture_logs() as logged:
        async with serving(failing(bug)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, name)
    info = details(caught.value)["ErrorInfo"]
    (entry,) = logged

    assert (grpc.StatusCode.INTERNAL, "INTERNAL") == (caught.value.code(), info.reason)
    assert info.metadata["incident_id"] in (caught.value.details() or "")
    assert ("rpc_failed", name, info.metadata["incident_id"]) == (
        entry["event"],
        entry["method"],
        entry["incident_id"],
    )
    assert isinstance(entry["exc_info"], Exception)
    shown = repr(caught.value) + repr(details(caught.value))
    assert [] == [word for word in (*PRIVATE.split(), type(bug).__name__, "Traceback", ".py") if word in shown]


@pytest.mark.parametrize("name", ["StartFlow", "WatchFlowStarts"])
async def test_a_caller_that_leaves_is_no_incident(name: str) -> None:
    """The method is left, and nothing is logged."""
    reached = asyncio.Event()

    async def wait(_name: str, _data: bytes) -> bytes:
        reached.set()
        await asyncio.Event().wait()
        return b""

    service = Scripted(wait)
    with capture_logs() as logged:
        async with serving(service) as channel, asyncio.timeout(PATIENCE):
            path = f"/{SERVICE.full_name}/{name}"
            streams = SERVICE.methods_by_name[name].server_streaming
            calling = (channel.unary_stream if streams else channel.unary_unary)(path)(b"")
            if streams:
                await calling.read()
            else:
                waiting = asyncio.ensure_future(calling.code())
            await reached.wait()
            calling.cancel()
            await service.closed.wait()
            code = await calling.code() if streams else await waiting

    assert grpc.StatusCode.CANCELLED == code
    assert [] == logged


async def test_a_stream_is_left_when_its_caller_does_not_read() -> None:
    """Also if it is held up by flow control at that moment: what it held is given back."""
    service = Flooding()
    with capture_logs() as logged:
        async with serving(service) as channel, asyncio.timeout(PATIENCE):
            calling = channel.unary_stream(f"/{SERVICE.full_name}/WatchFlowStarts")(b"")
            await calling.read()
            calling.cancel()
            await service.closed.wait()

    assert [] == logged


class Flooding(Scripted):
    """A service that streams without an end."""

    def __init__(self) -> None:
        super().__init__(self._nothing)

    async def _nothing(self, _name: str, _data: bytes) -> bytes:
        return b""

    async def watch_flow_starts(self, tenant: str, data: bytes) -> AsyncIterator[bytes]:  # noqa: ARG002
        """Streams."""
        try:
            while True:
                yield b"x" * 100_000
        finally:
            self.closed.set()


async def test_a_method_that_is_not_in_the_api_is_unimplemented() -> None:
    """GRPC says so itself."""
    async with serving(failing(RuntimeError())) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{SERVICE.full_name}/StopTheWorld")(b"")

    assert grpc.StatusCode.UNIMPLEMENTED == caught.value.code()


class Gone:
    """The context of a call whose caller has gone without the server being told: gRPC fails at whatever is sent."""

    def invocation_metadata(self) -> tuple[()]:
        """Has none."""
        return ()

    def time_remaining(self) -> None:
        """Has no deadline."""

    async def read(self) -> bytes:
        """Returns a message."""
        return b""

    async def write(self, _message: bytes) -> None:
        """Fails."""
        raise grpc.aio.InternalError("Failed grpc_call_start_batch: 8")

    async def abort(self, *_status: Any) -> None:
        """Fails."""
        raise grpc.aio.InternalError("Failed grpc_call_start_batch: 8")


@pytest.mark.parametrize("name", ["WatchFlowStarts", "GetFlowStart"])
async def test_what_cannot_be_sent_is_a_cancelled_call_and_no_bug(name: str) -> None:
    """A message, or a status."""
    found = handlers(failing(InvalidRequest(message="no")), Clients(clock=lambda: NOON))
    handler = found.service(SimpleNamespace(method=f"/{SERVICE.full_name}/{name}"))
    assert handler is not None
    behave = handler.stream_stream or handler.stream_unary

    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await behave(b"", Gone())

    assert [] == logs


async def test_a_probe_that_has_gone_before_it_is_told_that_a_name_is_unknown_is_no_bug() -> None:
    """The health service ends such a call itself, which gRPC cannot send either."""
    found: list[grpc.GenericRpcHandler] = []
    beside: Any = Guarded(SimpleNamespace(add_generic_rpc_handlers=found.extend), None)  # type: ignore[arg-type]
    health_pb2_grpc.add_HealthServicer_to_server(Probes(), beside)
    details: Any = SimpleNamespace(method="/grpc.health.v1.Health/Check", invocation_metadata=())
    handler = found[0].service(details)
    assert handler is not None

    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await handler.stream_unary(b"", Gone())  # type: ignore[misc, arg-type]

    assert [] == logs


@pytest.mark.parametrize("name", ["WatchFlowStarts", "GetFlowStart"])
async def test_a_refusal_leaves_nothing_to_collect(name: str) -> None:
    """Else refusals become garbage by the thousands, and collecting that holds everybody up."""

    async def refuse(_name: str, _data: bytes) -> bytes:
        raise InvalidRequest(message="no")

    async with serving(Scripted(refuse)) as channel:
        for collected in (False, True):
            for _ in range(20):
                with suppress(grpc.aio.AioRpcError):
                    await call(channel, name)
            if not collected:
                gc.collect()
                gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
    garbage, gc.garbage[:] = list(gc.garbage), []

    frames = [each.f_code.co_qualname for each in garbage if isinstance(each, FrameType)]
    assert [] == [name for name in frames if name.startswith(("_unary", "_streaming", "_ending"))]
    assert [] == [each for each in garbage if isinstance(each, grpc.aio.AbortError)]


async def test_b5_reads_of_one_tenant_are_answered_a_few_at_a_time_and_its_starts_are_not_held_up() -> None:
    """Whoever floods a method that answers without waiting would have the event loop for itself."""
    goes_on = asyncio.Event()

    async def behave(name: str, _data: bytes) -> bytes:
        if name != "start_flow":
            await goes_on.wait()
        return b""

    service = Scripted(behave)
    async with serving(service) as channel:
        reads = [channel.unary_unary(f"/{SERVICE.full_name}/ListBackends")(b"") for _ in range(2 * AT_ONCE)]
        for _ in range(2):  # the reads have come before the second one
            await channel.unary_unary(f"/{SERVICE.full_name}/StartFlow")(b"")
        begun = [name for name, _, _ in service.given].count("list_backends")
        goes_on.set()
        await asyncio.gather(*reads)

    assert begun <= AT_ONCE
    assert 2 * AT_ONCE == [name for name, _, _ in service.given].count("list_backends")
