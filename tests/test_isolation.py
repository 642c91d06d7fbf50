"""Tenants and scopes through a real server: what is another's is, in every answer, what never was."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc
from structlog.testing import capture_logs

from gateway import wire
from gateway.doors.grpc import interceptors
from gateway.doors.grpc.interceptors import SCOPES, SERVICE, handlers
from gateway.doors.grpc.receiving import LARGEST, LARGEST_READ, Receiving
from gateway.lanes.pacing import Quota
from gateway.service.starts import Service
from gateway.telemetry.complaints import Complaints
from gateway.tenants.clients import Client, Clients, Limits, Scope, hash_token
from gateway.watch.stream import Watch
from tests.builders import NOON, run_to, unsure
from tests.fakes import PATIENCE, Ticks
from tests.test_interceptors import details
from tests.test_service import FLOW, STUDIO_FLOW, URN, Calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock

NEVER = "06gvf2u2r5l7j5mbcd4fak4dt8"  # an id that no start ever had
ALL_SCOPES = ("start", "read", "admin")


def client(tenant: str, *scopes: str, token: str = "", **more: Any) -> Client:
    """A client whose token is `token-` and its tenant, unless told otherwise."""
    hashes = (hash_token(token or f"token-{tenant}"),)
    return Client(tenant=tenant, hashes=hashes, scopes=frozenset(map(Scope, scopes or ALL_SCOPES)), **more)


class Door:
    """A gateway on a socket, and those who call it."""

    def __init__(self, store: SqliteStore, clock: Clock, stack: AsyncExitStack) -> None:
        self.store = store
        self.clock = clock
        self.ticks = Ticks()
        self.clients = Clients([client("a"), client("b"), client("boss", *ALL_SCOPES, "operator")], clock=clock)
        self.watch = Watch(store, wire)
        self.receiving = Receiving()
        calling = Calling(store, clock)
        self.backends = calling.backends
        self.service = Service(
            store,
            self.watch,
            calling.backends,
            calling.flows,
            clock,
            clients=self.clients,
            quota=Quota(clock=self.ticks),
        )
        self._stack = stack
        self._stubs: dict[str, rpc.StartFlowServiceStub] = {}

    async def open(self) -> None:
        """Listens."""
        options = [("grpc.max_receive_message_length", LARGEST_READ)]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((handlers(self.service, self.clients, receiving=self.receiving),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._stack.push_async_callback(server.stop, None)
        self.channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        self.stub: Any = rpc.StartFlowServiceStub(self.channel)
        running = asyncio.create_task(self.watch.run())

        async def stop() -> None:
            running.cancel()
            await asyncio.wait([running])

        self._stack.push_async_callback(stop)

    async def call(self, who: str, name: str, request: Any) -> Any:
        """Calls as somebody; of a stream, returns the first message."""
        metadata = (("authorization", f"Bearer token-{who}"),)
        called = getattr(self.stub, name)(request, metadata=metadata, timeout=PATIENCE)
        if not SERVICE.methods_by_name[name].server_streaming:
            return await called
        message = await called.read()
        if message is grpc.aio.EOF:
            code, said = await called.code(), await called.details()
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), await called.trailing_metadata(), details=said)
        called.cancel()
        return message

    async def refused(self, who: str, name: str, request: Any) -> grpc.aio.AioRpcError:
        """Calls what is refused."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(who, name, request)
        return caught.value

    async def start(self, who: str, **fields: Any) -> pb.FlowStart:
        """Starts a flow."""
        request = pb.StartFlowRequest(**{"backend": "textit", "flow": FLOW, "urns": [URN], **fields})
        return (await self.call(who, "StartFlow", request)).flow_start

    def watching(self, who: str, **fields: Any) -> Any:
        """Watches as somebody."""
        metadata = (("authorization", f"Bearer token-{who}"),)
        return self.stub.WatchFlowStarts(pb.WatchFlowStartsRequest(**fields), metadata=metadata, timeout=PATIENCE)


@pytest.fixture
async def door(reopen: Callable[..., SqliteStore], clock: Clock) -> AsyncIterator[Door]:
    """A gateway of the tenants a and b, and of boss, who spans them."""
    async with AsyncExitStack() as stack:
        made = Door(reopen(), clock, stack)
        await made.open()
        yield made


def of_id(name: str, start_id: str) -> Any:
    """A request about one start."""
    if name == "WatchFlowStarts":
        return pb.WatchFlowStartsRequest(ids=[start_id])
    request = getattr(pb, f"{name}Request")(id=start_id)
    if name == "ResolveFlowStart":
        request.give_up.SetInParent()
    return request


ABOUT_ONE = [
    "GetFlowStart", "CancelFlowStart", "ResolveFlowStart", "ListRecipients", "ListChanges", "WatchFlowStarts",
]  # fmt: skip
ABOUT_ALL = {"StartFlow", "ListFlowStarts", "ListBackends", "ListFlows"}


def test_every_method_is_tried() -> None:
    """One that is added to the API is added here."""
    assert {method.name for method in SERVICE.methods} == set(ABOUT_ONE) | ABOUT_ALL
    assert set(SCOPES) <= {method.name for method in SERVICE.methods}


@pytest.mark.parametrize("name", ABOUT_ONE)
async def test_another_tenants_start_is_one_that_never_was(door: Door, name: str) -> None:
    """To the byte, but for the id; also with an id that lacks only its end, and after it has moved."""
    theirs = (await door.start("a")).id
    refusals = [await door.refused("b", name, of_id(name, each)) for each in (theirs, NEVER, theirs[:-1], "")]
    texts = []
    for each, error in zip((theirs, NEVER, theirs[:-1], ""), refusals, strict=True):
        (packed,) = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
        texts.append((error.code(), error.details(), packed.replace(each.encode(), b"ID") if len(each) == 26 else None))

    assert texts[0] == texts[1]
    assert [grpc.StatusCode.NOT_FOUND] * 3 == [error.code() for error in refusals[:3]]
    assert "FLOW_START_NOT_FOUND" == details(refusals[0])["ErrorInfo"].reason
    assert theirs == (await door.call("a", "GetFlowStart", of_id("GetFlowStart", theirs))).flow_start.id


async def test_what_was_refused_has_moved_nothing(door: Door) -> None:
    """Neither a cancel nor a resolution of another's."""
    start = await door.start("a")
    await run_to(door.store, (await door.store.get("a", start.id)), unsure())  # type: ignore[arg-type]
    before = (await door.call("a", "GetFlowStart", of_id("GetFlowStart", start.id))).flow_start
    for name in ABOUT_ONE:
        await door.refused("b", name, of_id(name, start.id))

    assert before == (await door.call("a", "GetFlowStart", of_id("GetFlowStart", start.id))).flow_start


async def test_lists_hold_ones_own(door: Door) -> None:
    """Whatever the filter asks for; the operator's hold them all."""
    mine, theirs = await door.start("a", request_id="r"), await door.start("b", request_id="r")
    requests = [
        pb.ListFlowStartsRequest(),
        pb.ListFlowStartsRequest(filter=pb.FlowStartFilter(request_id="r")),
        pb.ListFlowStartsRequest(filter=pb.FlowStartFilter(backends=["textit"])),
    ]
    listed = {
        who: [[s.id for s in (await door.call(who, "ListFlowStarts", request)).flow_starts] for request in requests]
        for who in ("a", "b", "boss")
    }

    assert {"a": [[mine.id]] * 3, "b": [[theirs.id]] * 3, "boss": [[theirs.id, mine.id]] * 3} == listed


async def test_request_ids_collide_within_a_tenant_only(door: Door) -> None:
    """Also an operator's: what it starts is its own tenant's."""
    first = {who: await door.start(who, request_id="r") for who in ("a", "b", "boss")}
    again = {who: await door.start(who, request_id="r") for who in ("a", "b", "boss")}
    other = await door.refused(
        "b", "StartFlow", pb.StartFlowRequest(flow=FLOW, backend="textit", urns=["tel:+1"], request_id="r")
    )

    assert 3 == len({start.id for start in first.values()})
    assert first == again
    assert ["a", "b", "boss"] == [start.tenant for start in first.values()]
    assert first["b"].id == details(other)["ErrorInfo"].metadata["id"]


@pytest.mark.parametrize("name", ["ListFlowStarts", "ListRecipients", "ListChanges"])
async def test_a_page_token_is_ones_own(door: Door, name: str) -> None:
    """Another tenant's is as good as garbage; an operator's is no tenant's."""
    ids = {who: [(await door.start(who, urns=[URN, "tel:+12065551213"])).id for _ in range(2)] for who in ("a", "b")}
    for each in ids["a"] + ids["b"]:
        await door.call("boss", "CancelFlowStart", of_id("CancelFlowStart", each))

    def request(who: str, token: str = "") -> Any:
        about = {} if name == "ListFlowStarts" else {"id": ids["a" if who == "boss" else who][0]}
        return getattr(pb, f"{name}Request")(page_size=1, page_token=token, **about)

    tokens = {who: (await door.call(who, name, request(who))).next_page_token for who in ("a", "b", "boss")}
    assert "" not in tokens.values()
    for who, token in tokens.items():
        for whose in tokens:
            if who == whose:
                await door.call(who, name, request(who, token))
                continue
            error = await door.refused(whose, name, request(whose, token))
            assert grpc.StatusCode.INVALID_ARGUMENT == error.code()


async def test_a_watcher_sees_its_own(door: Door) -> None:
    """In its snapshot and live; one who spans tenants sees everybody's."""
    streams = {who: door.watching(who) for who in ("a", "b", "boss")}
    seen: dict[str, list[str]] = {who: [] for who in streams}

    async def read(who: str, count: int) -> None:
        while len(seen[who]) < count:
            message = await streams[who].read()
            if message.HasField("changed"):
                seen[who].append(message.changed.tenant)

    await door.start("a")
    await door.start("b")
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(read("a", 1), read("b", 1), read("boss", 2))
        for who in ("b", "a", "b"):
            await door.start(who)
        await asyncio.gather(read("a", 2), read("b", 3), read("boss", 5))
    for stream in streams.values():
        stream.cancel()

    assert {"a": {"a"}, "b": {"b"}, "boss": {"a", "b"}} == {who: set(tenants) for who, tenants in seen.items()}


@pytest.mark.parametrize("name", ABOUT_ONE)
async def test_an_operator_reaches_every_tenants_starts(door: Door, name: str) -> None:
    """As that tenant does."""
    start = await door.start("a")
    await run_to(door.store, (await door.store.get("a", start.id)), unsure())  # type: ignore[arg-type]
    answer = await door.call("boss", name, of_id(name, start.id))

    assert not hasattr(answer, "flow_start") or "a" == answer.flow_start.tenant


@pytest.mark.parametrize(("scopes", "fails"), [(("read", "operator"), {"CancelFlowStart", "ResolveFlowStart"})])
async def test_to_span_tenants_is_not_to_do_anything(door: Door, scopes: tuple[str, ...], fails: set[str]) -> None:
    """An operator who may read reads."""
    start = await door.start("a")
    door.clients.replace([client("auditor", *scopes)], Limits())
    for name in ABOUT_ONE:
        if name in fails:
            assert (
                grpc.StatusCode.PERMISSION_DENIED == (await door.refused("auditor", name, of_id(name, start.id))).code()
            )
        else:
            await door.call("auditor", name, of_id(name, start.id))


# --- backends


async def test_a_backend_that_is_not_ones_own_is_not_there(door: Door) -> None:
    """Not in a list, not by its name, not by a flow; and the message names one's own."""
    door.clients.replace([client("a", backends=frozenset({"textit"})), client("none", backends=frozenset())], Limits())
    listed = await door.call("a", "ListBackends", pb.ListBackendsRequest())
    flows = await door.refused("a", "ListFlows", pb.ListFlowsRequest(backend="studio"))
    named = await door.refused("a", "StartFlow", pb.StartFlowRequest(flow=STUDIO_FLOW, backend="studio", urns=[URN]))
    never = await door.refused("a", "StartFlow", pb.StartFlowRequest(flow=STUDIO_FLOW, backend="nowhere", urns=[URN]))
    told = await door.refused("a", "StartFlow", pb.StartFlowRequest(flow=STUDIO_FLOW, urns=[URN]))
    inferred = (await door.call("a", "StartFlow", pb.StartFlowRequest(flow=FLOW, urns=[URN]))).flow_start
    nothing = await door.call("none", "ListBackends", pb.ListBackendsRequest())

    assert ["textit"] == [backend.name for backend in listed.backends]
    told_of = [details(each)["ErrorInfo"].metadata for each in (flows, named, never)]
    assert [{"backend": name, "backends": "textit"} for name in ("studio", "studio", "nowhere")] == told_of
    assert named.details() == never.details() == flows.details()
    assert "studio" not in (told.details() or "")
    assert "textit" == inferred.backend  # that the others have such flows does not make it ambiguous
    assert [] == list(nothing.backends)


# --- who calls


@pytest.mark.parametrize("name", [method.name for method in SERVICE.methods])
@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "CREDENTIALS_MISSING"),
        ((("authorization", "token-a"),), "CREDENTIALS_MISSING"),
        ((("authorization", "Bearer token-x"),), "CREDENTIALS_INVALID"),
        ((("authorization", "Bearer token-old"),), "CREDENTIALS_EXPIRED"),
    ],
    ids=str,
)
async def test_every_method_asks_who_calls_before_it_reads(
    door: Door, name: str, metadata: tuple[tuple[str, str], ...], reason: str
) -> None:
    """Bytes that are no message are not looked at."""
    door.clients.replace([client("a"), client("old", expires_at=NOON)], Limits())
    method = f"/{SERVICE.full_name}/{name}"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if SERVICE.methods_by_name[name].server_streaming:
            async for _ in door.channel.unary_stream(method)(b"\xff", metadata=metadata, timeout=PATIENCE):
                pass
        else:
            await door.channel.unary_unary(method)(b"\xff", metadata=metadata, timeout=PATIENCE)

    assert (grpc.StatusCode.UNAUTHENTICATED, reason) == (caught.value.code(), details(caught.value)["ErrorInfo"].reason)
    assert "token-" not in repr(caught.value)


@pytest.mark.parametrize("name", [method.name for method in SERVICE.methods])
async def test_every_method_needs_its_scope(door: Door, name: str) -> None:
    """All the others do not help; it is named."""
    needed = SCOPES.get(name, Scope.READ)
    door.clients.replace([client("a", *(set(Scope) - {needed}))], Limits())
    request = of_id(name, NEVER) if name in ABOUT_ONE else getattr(pb, f"{name}Request")()
    error = await door.refused("a", name, request)
    info = details(error)["ErrorInfo"]

    assert (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED") == (error.code(), info.reason)
    assert {"scope": needed} == info.metadata


async def next_error(stream: Any) -> grpc.aio.AioRpcError:
    """Reads a stream to its end."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(PATIENCE):
            async for _ in stream:
                pass
    return caught.value


@pytest.mark.parametrize("how", ["expired", "removed", "restricted"])
async def test_a_stream_ends_with_its_credential(door: Door, how: str) -> None:
    """A reload wakes those who are silent; others go on. What was seen can be gone on from."""
    limited = client("a", expires_at=NOON + timedelta(seconds=60))
    door.clients.replace([limited, client("b")], Limits())
    lost, kept = door.watching("a", after_revision=0), door.watching("b", after_revision=0)
    lasting = asyncio.create_task(next_error(kept))
    losing = asyncio.create_task(next_error(lost))
    async with asyncio.timeout(PATIENCE):
        while 2 != sum(len(waiters) for waiters in door.watch._waiters._by_key.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    if how == "expired":
        door.clock.tick(60)
    else:
        removed = [client("b"), *([client("a", "start")] if how == "restricted" else [])]
        door.clients.replace(removed, Limits())
    door.watch.look_around()
    error = await losing

    assert {"expired": "CREDENTIALS_EXPIRED", "removed": "CREDENTIALS_INVALID", "restricted": "NOT_ALLOWED"}[
        how
    ] == details(error)["ErrorInfo"].reason
    assert details(error)["RetryInfo"].retry_delay.ToTimedelta() > timedelta(0)
    assert not lasting.done()
    kept.cancel()
    await asyncio.wait([lasting])


# --- how much


async def test_a_tenant_may_make_so_many_starts_in_a_second(door: Door) -> None:
    """Its own, whichever token it uses; a replay never counts and never fails, nor does what records nothing."""
    limits = Limits(starts_per_second=2.0)
    door.clients.replace([client("a", limits=limits), client("a", token="token-a2"), client("b")], Limits())
    first = await door.start("a", request_id="1")
    await door.start("a2")
    error = await door.refused("a", "StartFlow", pb.StartFlowRequest(flow=FLOW, backend="textit", urns=[URN]))
    for _ in range(5):
        assert first.id == (await door.start("a", request_id="1")).id
        await door.start("b")
        await door.start("a", validate_only=True)
    told = details(error)

    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") == (error.code(), told["ErrorInfo"].reason)
    assert ["tenant:a"] == [violation.subject for violation in told["QuotaFailure"].violations]
    assert timedelta(seconds=0.5) == told["RetryInfo"].retry_delay.ToTimedelta()
    door.ticks.tick(0.5)
    await door.start("a")


async def test_twins_count_once(door: Door) -> None:
    """However many come at the same time."""
    door.clients.replace([client("a", limits=Limits(starts_per_second=10.0))], Limits())
    started = await asyncio.gather(*(door.start("a", request_id="r") for _ in range(10)))
    for _ in range(9):
        await door.start("a")

    assert 1 == len({start.id for start in started})
    assert (
        "QUOTA_EXCEEDED"
        == details(await door.refused("a", "StartFlow", pb.StartFlowRequest(flow=FLOW, backend="textit", urns=[URN])))[
            "ErrorInfo"
        ].reason
    )


async def test_a_tenant_may_have_so_many_streams(door: Door) -> None:
    """Its own number, counted over all of its tokens."""
    limits = Limits(streams=2)
    door.clients.replace([client("a", limits=limits), client("a", token="token-a2"), client("b")], Limits())
    streams = [door.watching("a"), door.watching("a2"), *(door.watching("b") for _ in range(3))]
    for stream in streams:
        await stream.read()
    error = await door.refused("a2", "WatchFlowStarts", pb.WatchFlowStartsRequest())
    told = details(error)
    for stream in streams:
        stream.cancel()

    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "STREAM_LIMIT") == (error.code(), told["ErrorInfo"].reason)
    assert "2" == told["ErrorInfo"].metadata["limit"]
    assert {"QuotaFailure", "RetryInfo"} < set(told)


@pytest.mark.parametrize("name", ["StartFlow", "WatchFlowStarts"])
async def test_a_message_may_be_so_large(door: Door, name: str) -> None:
    """More is refused with what to do; to come back with the same would not help, so there is no time to."""
    largest, larger = b"\xff" * LARGEST, b"\xff" * (LARGEST + 1)
    errors = []
    for data in (largest, larger):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            metadata = (("authorization", "Bearer token-a"),)
            method = f"/{SERVICE.full_name}/{name}"
            if name == "StartFlow":
                await door.channel.unary_unary(method)(data, metadata=metadata, timeout=PATIENCE)
            else:
                await door.channel.unary_stream(method)(data, metadata=metadata, timeout=PATIENCE).read()
                raise grpc.aio.AioRpcError(grpc.StatusCode.OK, grpc.aio.Metadata(), grpc.aio.Metadata())
        errors.append(caught.value)
    told = details(errors[1])

    assert grpc.StatusCode.INVALID_ARGUMENT == errors[0].code()
    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE") == (errors[1].code(), told["ErrorInfo"].reason)
    assert "RetryInfo" not in told
    assert ["message"] == [violation.subject for violation in told["QuotaFailure"].violations]


# --- what is told elsewhere


async def test_d13_who_is_refused_is_logged_once_a_minute(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the method, the reason and the host, and never by what was shown."""
    ticks = Ticks()
    monkeypatch.setattr(interceptors, "complaints", Complaints(ticks))
    with capture_logs() as logged:
        for _ in range(20):
            await door.refused("x", "StartFlow", pb.StartFlowRequest())
        ticks.tick(61)
        await door.refused("x", "WatchFlowStarts", pb.WatchFlowStartsRequest())
    told = [(each["event"], each["method"], each["reason"], each["unlogged"]) for each in logged]

    assert [
        ("call_refused", "StartFlow", "CREDENTIALS_INVALID", 0),
        ("call_refused", "WatchFlowStarts", "CREDENTIALS_INVALID", 19),
    ] == told
    assert {"127.0.0.1"} == {each["host"] for each in logged}
    assert "token-x" not in str(logged)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:50912", "127.0.0.1"),
        ("ipv6:%5B::1%5D:50912", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::1%eth0"),
    ],
)
def test_newcomer_33_a_host_is_logged_as_people_write_it(peer: str, host: str) -> None:
    """And as other tools want it, to find or to block it."""
    assert host == interceptors._host(peer)


async def test_logs_hold_nothing_of_a_request(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the token, nor whom it was for, nor what was said: refused, recorded, or ended by a bug."""
    monkeypatch.setattr(wire, "read_start", _broken)
    monkeypatch.setattr(interceptors, "complaints", Complaints())
    with capture_logs() as logged:
        for who in ("a", "x"):
            request = pb.StartFlowRequest(flow=FLOW, backend="textit", urns=[URN], params={"name": "pr1vate"})
            await door.refused(who, "StartFlow", request)
    said = repr([{**entry, "exc_info": type(entry.get("exc_info"))} for entry in logged])

    assert ["rpc_failed", "call_refused"] == [entry["event"] for entry in logged]
    assert [] == [word for word in ("token-a", "token-x", "12065551212", "pr1vate", "Bearer") if word in said]
    assert interceptors.log is not None


def _broken(_request: Any) -> Any:
    raise RuntimeError
