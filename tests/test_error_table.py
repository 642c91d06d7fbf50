"""Every error that an RPC can end with, provoked through a real server: its code, its reason, its details, its size."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import status_pb2
from startflow.v1 import start_flow_service_pb2 as pb

from docs import errors as page
from gateway.adapters.base import Blocked, Flows, Unsure
from gateway.doors.grpc.interceptors import SERVICE
from gateway.doors.grpc.receiving import LARGEST
from gateway.errors import Reason
from gateway.model import Cause, Flow, Notice
from gateway.store.engine import Room
from gateway.tenants.clients import Limits
from gateway.wire.status import DOMAIN
from tests.builders import NOON, refused, run_to
from tests.fakes import PATIENCE
from tests.test_catalogue import World
from tests.test_interceptors import details
from tests.test_isolation import NEVER, client, door, next_error, of_id
from tests.test_service import FLOW, STUDIO_FLOW, URN

if TYPE_CHECKING:
    from tests.test_isolation import Door

__all__ = ["door"]
LIMIT = 4096  # bytes
Provoke = Callable[["Door"], Awaitable[grpc.aio.AioRpcError]]


@dataclass(frozen=True, slots=True)
class Row:
    """What a caller does, and what it gets. ErrorInfo comes with all of them."""

    does: str
    code: str
    reason: Reason
    provoke: Provoke
    beside: tuple[str, ...] = ()


def asking(name: str = "StartFlow", **fields: Any) -> Provoke:
    """Asks for what is refused; a start is a good one but for these fields."""
    good = {"backend": "textit", "flow": FLOW, "urns": [URN]} if name == "StartFlow" else {}
    request = getattr(pb, f"{name}Request")(**{**good, **fields})
    return lambda door: door.refused("a", name, request)


def about(name: str) -> Provoke:
    """Asks about a start that never was."""
    return lambda door: door.refused("a", name, of_id(name, NEVER))


def sending(data: bytes) -> Provoke:
    """Sends bytes that are no message."""

    async def send(door: Door) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            method = door.channel.unary_unary(f"/{SERVICE.full_name}/StartFlow")
            await method(data, metadata=(("authorization", "Bearer token-a"),), timeout=PATIENCE)
        return caught.value

    return send


async def too_slow(door: Door) -> grpc.aio.AioRpcError:
    """Calls, and sends no message."""
    door.receiving._within = 0.0
    call = door.channel.stream_unary(f"/{SERVICE.full_name}/StartFlow")(metadata=(("authorization", "Bearer token-a"),))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def reused(door: Door) -> grpc.aio.AioRpcError:
    """Uses a request id again, for something else."""
    await door.start("a", request_id="r")
    return await asking(request_id="r", labels={"other": "1"})(door)


async def ended(door: Door) -> grpc.aio.AioRpcError:
    """Cancels what has failed."""
    start = await door.start("a")
    await run_to(door.store, (await door.store.get("a", start.id)), refused())  # type: ignore[arg-type]
    return await door.refused("a", "CancelFlowStart", of_id("CancelFlowStart", start.id))


async def certain(door: Door) -> grpc.aio.AioRpcError:
    """Resolves what waits."""
    return await door.refused("a", "ResolveFlowStart", of_id("ResolveFlowStart", (await door.start("a")).id))


def known(**fields: Any) -> Provoke:
    """Calls while the clients are other ones."""

    async def call(door: Door) -> grpc.aio.AioRpcError:
        door.clients.replace([client(fields.pop("tenant", "a"), *fields.pop("scopes", ()), **fields)], Limits())
        return await asking()(door)

    return call


async def unknown(door: Door) -> grpc.aio.AioRpcError:
    """Calls without a credential."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.stub.StartFlow(pb.StartFlowRequest(), timeout=PATIENCE)
    return caught.value


async def too_fast(door: Door) -> grpc.aio.AioRpcError:
    """Makes two starts in a second that has one."""
    door.clients.replace([client("a", limits=Limits(starts_per_second=1.0))], Limits())
    await door.start("a")
    return await asking()(door)


async def too_much(door: Door) -> grpc.aio.AioRpcError:
    """Fills a backlog."""
    door.backends["textit"] = replace(door.backends["textit"], backlog=1)
    await door.start("a")
    return await asking()(door)


async def too_many(door: Door) -> grpc.aio.AioRpcError:
    """Opens a second stream."""
    door.clients.replace([client("a", limits=Limits(streams=1))], Limits())
    first = door.watching("a")
    await first.read()
    error = await door.refused("a", "WatchFlowStarts", pb.WatchFlowStartsRequest())
    first.cancel()
    return error


async def too_many_reads(door: Door) -> grpc.aio.AioRpcError:
    """Lists while a read of the tenant goes on and another one waits."""
    release = threading.Event()
    door.store.engine.rooms[Room.SCAN]._most = 1
    reads = [asyncio.create_task(door.store._scan("a", lambda _: release.wait(PATIENCE))) for _ in range(2)]
    await asyncio.sleep(0)
    error = await asking("ListFlowStarts")(door)
    release.set()
    await asyncio.gather(*reads)
    return error


async def broken(door: Door) -> grpc.aio.AioRpcError:
    """Reads a store whose table is gone."""
    await door.store.engine.writer.submit(lambda t: t.conn.run("alter table starts rename to gone"))
    return await about("GetFlowStart")(door)


async def draining(door: Door) -> grpc.aio.AioRpcError:
    """Starts while the gateway stops."""
    door.service.drain()
    return await asking()(door)


async def end_of(stream: Any) -> grpc.aio.AioRpcError:
    """Reads on to the end of a stream of which something was read."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await stream.read() is not grpc.aio.EOF:
            pass
    return caught.value


async def closing(door: Door) -> grpc.aio.AioRpcError:
    """Watches while the gateway stops."""
    stream = door.watching("a")
    await stream.read()
    door.watch.close()
    return await end_of(stream)


async def aged(door: Door) -> grpc.aio.AioRpcError:
    """Watches for longer than one may."""
    door.watch._longest = 0.0
    return await next_error(door.watching("a"))


async def revoked(door: Door) -> grpc.aio.AioRpcError:
    """Watches until the credential is taken away."""
    stream = door.watching("a")
    await stream.read()
    door.clients.replace([client("b")], Limits())
    door.watch.look_around()
    return await end_of(stream)


def offering(name: str, shown: Flows) -> Provoke:
    """Asks for flows, or for one of them, when this is what the backend shows."""

    async def ask(door: Door) -> grpc.aio.AioRpcError:
        world = World()
        world.shown = {"": shown, FLOW: shown}
        door.service._catalogues = {**door.service._catalogues, "textit": world.catalogue}  # type: ignore[dict-item]
        fields = {"backend": "textit"} if name == "ListFlows" else {}
        return await asking(name, **fields)(door)

    return ask


def blocked(reason: Reason) -> Flows:
    """A backend that is in such a state."""
    return Flows(flows=(), trouble=Blocked(notice=Notice(reason=reason, message="Do something about it.")))


async def bug(door: Door) -> grpc.aio.AioRpcError:
    """Meets one."""
    door.service._store = None  # type: ignore[assignment]
    return await about("GetFlowStart")(door)


BAD, WAIT, WHOSE, WHAT = "BadRequest", "RetryInfo", "QuotaFailure", "ResourceInfo"
INVALID, EXHAUSTED = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
ARCHIVED = Flows(flows=(Flow(id=FLOW, name="Old", startable=False),))
LATE = Flows(flows=(), trouble=Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR))
# fmt: off
ROWS = [
    Row("bytes cut short", INVALID, Reason.VALIDATION_FAILED, sending(b"\x0a\x09x")),
    Row("text that is not UTF-8", INVALID, Reason.VALIDATION_FAILED, sending(b"\x0a\x01\xff")),
    Row("a bad field", INVALID, Reason.VALIDATION_FAILED, asking(request_id="é"), (BAD,)),
    Row("bad fields", INVALID, Reason.VALIDATION_FAILED, asking(urns=["x"] * 500, flow="\0", labels={"": ""}), (BAD,)),
    Row("a bad filter", INVALID, Reason.VALIDATION_FAILED,
        asking("ListFlowStarts", filter=pb.FlowStartFilter(flow="\0")), (BAD,)),
    Row("a bad page token", INVALID, Reason.VALIDATION_FAILED, asking("ListFlowStarts", page_token="x"), (BAD,)),
    Row("a group on Twilio", INVALID, Reason.UNSUPPORTED_BY_BACKEND,
        asking(backend="studio", flow=STUDIO_FLOW, groups=["g"]), (BAD,)),
    Row("a sender on RapidPro", INVALID, Reason.UNSUPPORTED_BY_BACKEND, asking(sender="+1"), (BAD,)),
    Row("recipients that may overlap", INVALID, Reason.RECIPIENTS_MAY_OVERLAP,
        asking(urns=[f"tel:+1206555{n:04}" for n in range(101)], groups=["g"]), (BAD,)),
    Row("an unknown backend", "NOT_FOUND", Reason.BACKEND_NOT_FOUND, asking(backend="nowhere"), (WHAT,)),
    Row("flows of an unknown one", "NOT_FOUND", Reason.BACKEND_NOT_FOUND, asking("ListFlows", backend="no"), (WHAT,)),
    Row("an unknown flow", "NOT_FOUND", Reason.FLOW_NOT_FOUND, offering("StartFlow", Flows(flows=())), (WHAT,)),
    Row("an archived flow", "NOT_FOUND", Reason.FLOW_NOT_FOUND, offering("StartFlow", ARCHIVED), (WHAT,)),
    *(Row(f"{name} of an unknown start", "NOT_FOUND", Reason.FLOW_START_NOT_FOUND, about(name), (WHAT,)) for name in (
        "GetFlowStart", "CancelFlowStart", "ResolveFlowStart", "ListRecipients", "ListChanges", "WatchFlowStarts")),
    Row("a request id again", "ALREADY_EXISTS", Reason.REQUEST_ID_REUSED, reused),
    Row("cancel what has ended", "FAILED_PRECONDITION", Reason.ALREADY_TERMINAL, ended),
    Row("resolve what is certain", "FAILED_PRECONDITION", Reason.NOT_UNCERTAIN, certain),
    Row("no credential", "UNAUTHENTICATED", Reason.CREDENTIALS_MISSING, unknown),
    Row("an unknown credential", "UNAUTHENTICATED", Reason.CREDENTIALS_INVALID, known(tenant="b")),
    Row("an expired credential", "UNAUTHENTICATED", Reason.CREDENTIALS_EXPIRED, known(expires_at=NOON)),
    Row("a credential that is taken away", "UNAUTHENTICATED", Reason.CREDENTIALS_INVALID, revoked, (WAIT,)),
    Row("another scope", "PERMISSION_DENIED", Reason.NOT_ALLOWED, known(scopes=("read",))),
    Row("too many starts", EXHAUSTED, Reason.QUOTA_EXCEEDED, too_fast, (WHOSE, WAIT)),
    Row("a full backlog", EXHAUSTED, Reason.BACKLOG_FULL, too_much, (WHOSE, WAIT)),
    Row("too many streams", EXHAUSTED, Reason.STREAM_LIMIT, too_many, (WHOSE, WAIT)),
    Row("too many reads", EXHAUSTED, Reason.READ_LIMIT, too_many_reads, (WHOSE, WAIT)),
    Row("too many bytes", EXHAUSTED, Reason.MESSAGE_TOO_LARGE, sending(b"x" * (LARGEST + 1)), (WHOSE,)),
    Row("too slow", EXHAUSTED, Reason.MESSAGE_TOO_SLOW, too_slow, (WHOSE, WAIT)),
    Row("a revision that is not there", "OUT_OF_RANGE", Reason.REVISION_NOT_AVAILABLE,
        asking("WatchFlowStarts", after_revision=10**6)),
    Row("another epoch", "OUT_OF_RANGE", Reason.REVISION_NOT_AVAILABLE,
        asking("WatchFlowStarts", after_revision=0, epoch="restored")),
    Row("a broken store", "UNAVAILABLE", Reason.STORE_UNAVAILABLE, broken, (WAIT,)),
    Row("a gateway that stops", "UNAVAILABLE", Reason.DRAINING, draining, (WAIT,)),
    Row("a stream of one that stops", "UNAVAILABLE", Reason.DRAINING, closing, (WAIT,)),
    Row("an old stream", "UNAVAILABLE", Reason.STREAM_AGED, aged, (WAIT,)),
    Row("a backend that is not well", "UNAVAILABLE", Reason.BACKEND_UNAVAILABLE, offering("ListFlows", LATE), (WAIT,)),
    *(Row(f"a backend that is {each}", "UNAVAILABLE", each, offering("ListFlows", blocked(each)), (WAIT,)) for each in (
        Reason.BACKEND_CREDENTIALS_REJECTED, Reason.BACKEND_SUSPENDED, Reason.BACKEND_MISCONFIGURED)),
    Row("a bug", "INTERNAL", Reason.INTERNAL, bug),
]
# fmt: on


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.does)
async def test_an_error_is_as_the_table_says(door: Door, row: Row) -> None:
    """Its code and reason, its details and no other ones, a sentence that says what to do, all of it small."""
    async with asyncio.timeout(PATIENCE):
        error = await row.provoke(door)
    (packed,) = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    status, told = status_pb2.Status.FromString(packed), details(error)

    assert (row.code, row.reason, DOMAIN) == (error.code().name, told["ErrorInfo"].reason, told["ErrorInfo"].domain)
    assert ["ErrorInfo", *sorted(row.beside)] == ["ErrorInfo", *sorted(set(told) - {"ErrorInfo"})]
    assert (error.code().value[0], error.details()) == (status.code, status.message)
    assert len(packed) < LIMIT
    assert (error.details() or "").rstrip(")").endswith(".")
    _judge_details(told)


def _judge_details(told: dict[str, Any]) -> None:
    """Each says something."""
    for violation in told["BadRequest"].field_violations if "BadRequest" in told else ():
        assert violation.field
        assert violation.description.endswith(".")
        assert violation.reason in set(Reason)
    if "RetryInfo" in told:
        assert told["RetryInfo"].retry_delay.ToTimedelta() > timedelta(0)
    if "QuotaFailure" in told:
        assert ["", ""] != [told["QuotaFailure"].violations[0].subject, told["QuotaFailure"].violations[0].description]
    if "ResourceInfo" in told:
        assert told["ResourceInfo"].resource_type.startswith("startflow.v1.")
        assert told["ResourceInfo"].resource_name


def test_every_status_of_the_page_is_in_the_table() -> None:
    """Each reason with each of its codes; and no other one was seen."""
    assert {(each.reason, code) for each in page.entries() for code in each.codes} == {
        (row.reason.value, row.code) for row in ROWS
    }
