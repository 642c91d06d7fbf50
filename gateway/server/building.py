"""Builds every object once, in order, and stops them in reverse."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import grpc
import structlog
import uvloop
from aiohttp import web
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway import wire
from gateway.adapters.base import Misconfigured
from gateway.announcing import announce
from gateway.doors.door import Door
from gateway.doors.grpc.interceptors import SERVICE, Guarded, handlers
from gateway.doors.grpc.receiving import LARGEST_READ
from gateway.doors.grpc.reflecting import Reflection
from gateway.doors.grpc.stopping import Parting
from gateway.doors.grpc.taking import Server
from gateway.doors.http import port as http_port
from gateway.doors.http.events import HTTP_LOG, ROUTE, Pushes
from gateway.doors.http.pages import Pages
from gateway.doors.tls import TlsUnusable
from gateway.errors import Unavailable
from gateway.lanes.lanes import Lanes, make_backend
from gateway.lanes.pacing import Quota
from gateway.lanes.retention import Retention, Upkeep
from gateway.loops import Loops
from gateway.server import open_files
from gateway.server.open_files import TooFewFiles
from gateway.server.reloading import Reload
from gateway.server.signals import Signals
from gateway.server.trying_out import examples, sandbox_backends, sandbox_lines, start_sandbox
from gateway.service.starts import Service
from gateway.store.engine import StoreUnusable
from gateway.store.opening import open_store
from gateway.telemetry import logs
from gateway.telemetry.health import Health
from gateway.telemetry.metrics import Metrics
from gateway.tenants.loop_time import LoopTime, Sends
from gateway.tenants.sharing import Sharing
from gateway.watch.stream import Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.config.settings import BackendSettings, Settings
    from gateway.store.opening import OpenedStore

log = structlog.get_logger()

DRAIN_SECONDS = 5.0  # for calls that are being answered, on top of the time that a send in flight may take
STOP_SECONDS = 20.0  # for a whole stop, on top of the same: three times `DRAIN_SECONDS`, and what is left to close
WATCH_WITHIN, HEALTH_WITHIN, UPKEEP_WITHIN, FOLLOW_WITHIN = 120.0, 60.0, 600.0, 60.0  # seconds for a round of each loop
SWITCH = 0.001  # seconds that another thread may keep the interpreter from the event loop; by default it is 0.005
OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second gateway on this port is an error, not a silent half of the traffic
    ("grpc.server.max_pending_requests", 100_000),  # a storm of returning watchers waits; by default it is refused
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    ("grpc.server_max_unrequested_time_in_server", 600),  # seconds that it may wait; else 30
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),  # a client may ping every 5 s; else gRPC cuts it off
    ("grpc.max_concurrent_streams", 2_000),  # of one connection; with it gRPC defends itself against rapid resets
    ("grpc.http2.ping_on_rst_stream_percent", 100),  # whoever takes calls back waits for an answer before the next
    ("grpc.http2.bdp_probe", 0),  # else a fast network has gRPC take megabytes of messages that nobody waits for
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", LARGEST_READ),
    ("grpc.server_handshake_timeout_ms", 20_000),  # for TLS and the preface; else two minutes
    ("grpc.max_connection_idle_ms", 300_000),  # without a call; else for ever
    ("grpc.keepalive_time_ms", 60_000),  # whoever does not answer for 20 s is gone; else two hours
)
OPEN_METHODS = (
    *(f"/{HEALTH_SERVICE}/{name}" for name in ("Check", "Watch", "List")),
    *(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")),
)
"""What is answered whoever calls, and counts for no tenant."""
METHODS = (*(f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods), *OPEN_METHODS)
"""Every method that is answered; whatever else is called is UNIMPLEMENTED."""


class CannotServe(Exception):
    """The gateway cannot start. Says what to do."""


def utc_now() -> datetime:
    """Tells the time."""
    return datetime.now(UTC)


def run(settings: Settings, reread: Callable[[], Settings]) -> int:
    """Serves until SIGTERM or SIGINT, drains and returns the exit code; a second one of them ends it at once.

    On SIGHUP it takes what `reread` returns.
    """
    signals = Signals()
    logs.configure()
    logs.detach()
    sys.setswitchinterval(SWITCH)
    try:
        uvloop.run(
            _serve(settings, reread, signals)
        )  # a fifth less processor time for a start than on asyncio's own loop
    except (CannotServe, TooFewFiles, StoreUnusable) as error:
        logs.say(f"error: {error}")
        return 1
    except (Misconfigured, TlsUnusable) as error:
        logs.say(f"error: {error}")
        return 2  # as for any other wrong setting: starting it again does not help
    else:
        log.info("stopped")
    finally:
        logs.drain()
        signals.close()
    return 0


async def _serve(settings: Settings, reread: Callable[[], Settings], signals: Signals) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.loop_failed)
    stopping, reload = asyncio.Event(), Reload()
    slowest = max((each.timeout.total_seconds() for each in settings.backends.values()), default=0.0)
    signals.listen(
        stop=lambda: loop.call_soon_threadsafe(stopping.set),
        reload=lambda: loop.call_soon_threadsafe(reload.tell),
        seconds=slowest + STOP_SECONDS,
    )
    async with AsyncExitStack() as stack:
        door = Door(settings, utc_now)
        try:
            built = await _build(settings, door, stack)
        except Unavailable as error:  # the store has failed since it was opened
            raise CannotServe(error.message) from error
        built.loops.keep(stack, "reload", lambda: reload.run(door, built.watch, built.lanes, reread))
        tune_collector()
        announce("\n".join(built.lines) + "\n")
        await _either(stopping, built.store.broken)
        in_flight = sum(each.transport.in_flight for each in built.lanes.backends.values())
        at_most = slowest + STOP_SECONDS
        log.info("stopping", requests_in_flight=in_flight, at_most_seconds=at_most, second_signal="ends it at once")
        signals.bound_stop()  # that the store is lost ends it, too
        if built.store.broken.is_set():
            msg = f"The gateway cannot continue: {built.store.trouble}. Restart it; see writer_died in the log."
            raise CannotServe(msg)


async def _either(*events: asyncio.Event) -> None:
    """Waits for the first of some events."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def tune_collector() -> None:
    """Has the garbage collector leave alone what was built to stay, and look at young objects less often.

    With 10,000 watchers it would otherwise take about half of the time that a change costs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Built:
    """What runs, and the lines to print."""

    lines: list[str]
    store: OpenedStore
    watch: Watch
    lanes: Lanes
    loops: Loops


async def _build(settings: Settings, door: Door, stack: AsyncExitStack) -> _Built:
    """Starts everything, in order."""
    metrics = Metrics()
    loops = Loops(metrics.loop_failed)
    asked = [each.in_flight for each in settings.backends.values()]
    shares = open_files.share(open_files.allow(), asked, sandbox=settings.sandbox)
    loop_time = LoopTime()
    # A configuration that cannot be served is refused before the store is made, so that no empty store is left behind.
    _check_backends(settings)
    grpc_server = _grpc_server(loop_time, most=shares.grpc)
    listening = _take_grpc_port(settings, door, grpc_server)
    http = await _take_http_port(settings.http_listen, stack)
    store = open_store(
        settings.store_url or settings.store_path,
        utc_now,
        metrics.committed,
        time.monotonic,
        lease=settings.lease,
        hears=settings.store_listen,
    )
    stack.push_async_callback(store.close)
    for name, ids in store.engine.healed.items():
        log.warning("store_healed", invariant=name, count=len(ids), ids=ids[:10])
    lines = [f"Starts are recorded in {settings.store_url or settings.store_path.resolve()}"]
    configured = dict(settings.backends)
    if settings.sandbox:
        simulated = await start_sandbox(settings, stack)
        configured |= sandbox_backends(simulated)
        lines += sandbox_lines(simulated)
    lanes = Lanes(
        store,
        utc_now,
        metrics.backend,
        loops,
        Sends(loop_time),
        door.clients.are_several,
        at=listening,
        write_within=settings.write_within,
    )
    lines += await _open_lanes(lanes, configured, stack)
    loops.keep(stack, "neighbours", store.follow, within=FOLLOW_WITHIN)
    backends = lanes.backends
    watch = Watch(store, wire, most=settings.streams, longest=settings.stream_age)
    await watch.open()
    loops.keep(stack, "watch", watch.run, within=WATCH_WITHIN)
    service = Service(
        store,
        watch,
        backends,
        lanes.catalogues,
        utc_now,
        clients=door.clients,
        quota=Quota(),
        elsewhere=lanes.leases.elsewhere,
    )
    pushes = Pushes(store, backends)
    loops.keep(stack, "pushes", pushes.run)
    ours = lanes.leases.has_everything
    loops.keep(stack, "upkeep", Upkeep(store, lanes.adopt, is_ours=ours).run, within=UPKEEP_WITHIN)
    if settings.retention is not None:
        retention = Retention(store, settings.retention, utc_now, is_ours=ours)
        loops.keep(stack, "retention", retention.run, within=UPKEEP_WITHIN)
    health = Health(store, backends, SERVICE.full_name, loops=loops)
    await _serve_http(http, pushes, stack, Pages(store, watch, backends, health, metrics), most=shares.http)
    rpcs = handlers(service, door.clients, metrics, loop_time, Sharing(lambda: store.is_writing))

    async def drain() -> None:
        service.drain()
        health.drain()
        loop_time.open()
        watch.close()
        await lanes.drain()  # meanwhile whoever calls is told to come back, and replays and reads are answered

    await _serve_grpc(grpc_server, settings, door, rpcs, health, loop_time, stack, drain)
    loops.keep(stack, "health", health.run, within=HEALTH_WITHIN)
    first = f"startflow {version('startflow-gateway')}: gRPC on {listening}, HTTP on http://{http.address}"
    pasted = examples(listening) if settings.sandbox and not (settings.clients or settings.tls) else []
    lines = [first, f"Let in: {door.says}", *lines, *pasted]
    return _Built(lines=lines, store=store, watch=watch, lanes=lanes, loops=loops)


async def _open_lanes(lanes: Lanes, configured: Mapping[str, BackendSettings], stack: AsyncExitStack) -> list[str]:
    """Begins to send and to follow, and drains before it ends; says what waits for backends that there are no more."""
    stack.push_async_callback(lanes.close)
    await lanes.open(configured)
    stack.push_async_callback(lanes.drain)
    return [
        f"Not configured any more: {name}, for which {starts:,} starts wait; startflow list shows them"
        for name, starts in (await lanes.adopt()).items()
    ]


def _check_backends(settings: Settings) -> None:
    """Raises `Misconfigured` if a backend cannot be made of its settings."""
    for name, chosen in settings.backends.items():
        make_backend(name, chosen)


def _take_grpc_port(settings: Settings, door: Door, server: grpc.aio.Server) -> str:
    """Takes the address; returns it with the port that was chosen if 0 was asked for."""
    try:
        port = door.add_port(server)
    except RuntimeError as error:
        raise CannotServe(_taken("listen", "STARTFLOW_LISTEN", settings.listen)) from error
    return f"{settings.listen.rpartition(':')[0]}:{port}"


def _grpc_server(loop_time: LoopTime, *, most: int) -> Any:  # noqa: ANN401 -- gRPC's types know no methods of ours
    options = (*OPTIONS, ("grpc.max_allowed_incoming_connections", most))
    return Server(options, METHODS, loop_time, open_methods=OPEN_METHODS)


async def _serve_grpc(
    server: Any,  # noqa: ANN401 -- grpc.aio's stubs do not know this kind of server
    settings: Settings,
    door: Door,
    rpcs: grpc.GenericRpcHandler,
    health: Health,
    loop_time: LoopTime,
    stack: AsyncExitStack,
    drain: Callable[[], Awaitable[None]],
) -> None:
    """Serves gRPC, and drains before it ends."""
    parting = Parting(rpcs)
    server.add_generic_rpc_handlers((parting,))
    beside: Any = Guarded(server, None if settings.open_services else door.clients, loop_time)
    health_pb2_grpc.add_HealthServicer_to_server(health.probes, beside)
    _reflect(beside)
    health.look()
    await server.start()

    async def stop() -> None:
        await drain()
        await parting.stop(server, DRAIN_SECONDS)

    stack.push_async_callback(stop)


def _reflect(server: grpc.aio.Server) -> None:
    """Offers reflection under both names: the messages of v1 are those of v1alpha."""
    names = [SERVICE.full_name, HEALTH_SERVICE, "grpc.reflection.v1alpha.ServerReflection"]
    servicer = Reflection(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    v1: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.reflection.v1.ServerReflection", v1),))


async def _take_http_port(address: str, stack: AsyncExitStack) -> http_port.Port:
    """Takes the address, and serves nothing there yet."""
    try:
        return await http_port.Port.take(address, stack)
    except OSError as error:
        raise CannotServe(_taken("http_listen", "STARTFLOW_HTTP_LISTEN", address)) from error


async def _serve_http(
    port: http_port.Port,
    pushes: Pushes,
    stack: AsyncExitStack,
    pages: Pages | None = None,
    *,
    most: int = http_port.MOST,
) -> None:
    """Serves HTTP."""
    app = web.Application()
    if pages is not None:
        pages.add_to(app)
    app.router.add_post(ROUTE, pushes.take)
    runner = web.AppRunner(
        app, access_log=None, logger=HTTP_LOG, shutdown_timeout=DRAIN_SECONDS, keepalive_timeout=http_port.KEEP_ALIVE
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await port.serve(runner, stack, most=most)
    except OSError as error:  # another process has begun to listen here since
        raise CannotServe(_taken("http_listen", "STARTFLOW_HTTP_LISTEN", port.address)) from error


def _taken(setting: str, variable: str, address: str) -> str:
    return (
        f"Cannot listen on {address}: another process does, or the address is not this machine's."
        f" Stop that process, or set {setting} ({variable}) to another host:port."
    )
