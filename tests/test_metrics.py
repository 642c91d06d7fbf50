"""What a real gateway counts, tells of its health and logs; and what its registry can never grow to."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from startflow.v1 import start_flow_service_pb2 as pb
from structlog.testing import capture_logs

from gateway import wire
from gateway.doors.grpc.interceptors import handlers
from gateway.doors.http.pages import Pages
from gateway.lanes.pacing import Limiter
from gateway.store import access
from gateway.telemetry import logs, metrics
from gateway.telemetry.health import Health
from gateway.telemetry.metrics import Metrics
from gateway.tenants.clients import Clients
from gateway.watch.stream import Watch
from gateway.watch.waking import Watched
from tests.builders import (
    ACCOUNT,
    BACKEND,
    NOON,
    TENANT,
    accepted,
    begin,
    claim_ids,
    create,
    put_off,
    run_to,
    seen,
    singly,
    unsure,
)
from tests.builders import settle as settle_attempt
from tests.end_to_end.processes import SEED_FLOW, STUDIO_FLOW, Client, GatewayProcess, SandboxThread
from tests.fakes import PATIENCE, Script, ScriptedTransport, Ticks, backend
from tests.test_interceptors import details, failing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock

PAGE = Path(__file__).parents[1] / "docs/metrics.md"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    """Reads what was scraped."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float | None:
    """Returns one sample of ours."""
    return samples.get((f"startflow_{name}", frozenset(labels.items())))


async def get(url: str) -> tuple[int, str]:
    """Asks for a page."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def until(looks: Callable[[], Any]) -> Any:
    """Asks again until it is so, and returns what it was."""
    async with asyncio.timeout(PATIENCE * 2):
        while not (found := await looks()):  # noqa: ASYNC110 -- nothing announces it
            await asyncio.sleep(0.05)
    return found


async def health_of(address: str, name: str) -> str:
    """Asks for the health of something."""
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_what_a_real_gateway_counts(tmp_path: Path) -> None:
    """Starts on both backends, one refused by its backend, one throttled, a refused call and a watch."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(SandboxThread(tmp_path))
        gateway = await stack.enter_async_context(GatewayProcess(tmp_path, sandbox))
        client = await stack.enter_async_context(Client(gateway.address))
        await sandbox.fault(preset="throttled", backend="twilio", verb="create", times=1)
        no = {"status": 400, "body": {"detail": "no"}}
        await sandbox.fault(backend="rapidpro", verb="create", commit=False, answer=no, times=1)
        started = [
            (await client.start(flow=flow, urns=[urn], request_id=urn)).flow_start.id
            for flow, urn in ((SEED_FLOW, "tel:+12065551212"), (STUDIO_FLOW, "tel:+12065551213"))
        ]
        ended = await client.finished(*started)
        with pytest.raises(grpc.aio.AioRpcError):
            await client.stub.GetFlowStart(pb.GetFlowStartRequest(id="none"), timeout=PATIENCE)
        watching = client.watch()
        await anext(watching)
        samples = read((await get(f"{gateway.http}/metrics"))[1])
        probes = [await get(f"{gateway.http}/{page}") for page in ("healthz", "readyz", "nothing/here")]
        async with aiohttp.ClientSession() as session, session.post(f"{gateway.http}/events/twilio/twilio") as forged:
            assert forged.status == 403
        states = [await health_of(gateway.address, name) for name in ("", "backend/rapidpro", "backend/twilio")]
        later = read((await get(f"{gateway.http}/metrics"))[1])

    assert [pb.FlowStart.STATE_FAILED, pb.FlowStart.STATE_COMPLETED] == [start.state for start in ended]
    assert 2 == of(samples, "rpc_seconds_count", method="StartFlow", code="OK")
    assert 1 == of(samples, "rpc_seconds_count", method="GetFlowStart", code="NOT_FOUND")
    assert 1 == of(samples, "streams_ended_total", method="WatchFlowStarts", code="OK")
    assert 1 == of(samples, "watchers")
    assert 1 == of(samples, "backend_requests_total", backend="rapidpro", purpose="create", answer="4xx")
    assert 1 == of(samples, "backend_requests_total", backend="twilio", purpose="create", answer="429")
    assert 1 == of(samples, "backend_requests_total", backend="twilio", purpose="create", answer="2xx")
    assert 2 == of(samples, "backend_request_seconds_count", backend="twilio", purpose="create")
    assert 0 < (of(samples, "backend_requests_total", backend="twilio", purpose="read", answer="2xx") or 0)
    outcomes = {("rapidpro", "REFUSED"): 1, ("twilio", "THROTTLED"): 1, ("twilio", "ACCEPTED"): 1}
    told = {key: of(samples, "dispatch_outcomes_total", backend=key[0], outcome=key[1]) for key in outcomes}
    assert outcomes == told
    assert 0 < (of(samples, "sweeps_total", backend="twilio", result="complete") or 0)
    for name in ("rapidpro", "twilio"):
        assert 1 == of(samples, "backend_state", backend=name, state="ok")
        assert 0 == of(samples, "backend_state", backend=name, state="throttled")
        assert 0 == of(samples, "lane_dispatches", backend=name, scheduled="no")
        assert 0 == of(samples, "duplicates_total", backend=name)
    assert 1 == of(samples, "store_up")
    assert 0 < (of(samples, "commit_seconds_count") or 0)
    assert (of(samples, "commit_operations_sum") or 0) >= (of(samples, "commit_operations_count") or 0)
    assert [(200, "ok\n"), (200, "ok\n"), 404] == [*probes[:2], probes[2][0]]
    assert ["SERVING"] * 3 == states
    assert 1 == of(later, "http_requests_total", route="/metrics", code="200")
    assert 1 == of(later, "http_requests_total", route="other", code="404")
    assert 1 == of(later, "http_requests_total", route="/events", code="403")
    assert 0 < (read_process(samples) or 0)


def read_process(samples: Samples) -> float | None:
    """Returns how much memory the process had."""
    return samples.get(("process_resident_memory_bytes", frozenset()))


async def test_a_backend_that_rejects_credentials_does_not_serve(tmp_path: Path) -> None:
    """It alone: the gateway takes starts for it all the same. When they are right again it serves."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(SandboxThread(tmp_path))
        await sandbox.fault(preset="unauthorized", backend="rapidpro")
        gateway = await stack.enter_async_context(GatewayProcess(tmp_path, sandbox))

        async def is_rejected() -> bool:
            return await health_of(gateway.address, "backend/rapidpro") == "NOT_SERVING"

        await until(is_rejected)
        others = [await health_of(gateway.address, name) for name in ("", "startflow.v1.StartFlowService")]
        samples = read((await get(f"{gateway.http}/metrics"))[1])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_of(gateway.address, "backend/none")

    assert ["SERVING"] * 2 == others
    assert 1 == of(samples, "backend_state", backend="rapidpro", state="blocked")
    assert 0 < (of(samples, "backend_pause_seconds", backend="rapidpro") or 0)
    assert grpc.StatusCode.NOT_FOUND is caught.value.code()


async def nothing(_request: Any) -> Any:
    """Answers nothing."""
    raise AssertionError


class Stage:
    """The pages over a real store and a backend by script."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.ticks = Ticks()
        transport = ScriptedTransport(nothing, ticks=self.ticks, limiter=Limiter(10, 60.0, clock=self.ticks))
        self.backend = backend(transport, Script())
        self.backends = {self.backend.name: self.backend}
        self.metrics = Metrics()
        self.watch = Watch(store, wire)
        self.health = Health(store, self.backends, "service")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Serves them; returns where."""
        app = web.Application()
        Pages(self.store, self.watch, self.backends, self.health, self.metrics).add_to(app)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def status(self, name: str) -> str:
        """Tells what the health service answers."""
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(self.health.probes.status(name)))


async def test_what_waits_is_uncertain_or_stands_still(store: SqliteStore, clock: Clock) -> None:
    """By backend, as it is in the store at that moment."""
    await store.measure()
    running, uncertain, resting = [await create(store) for _ in range(3)]
    await run_to(store, running, accepted("x1"))
    for start in (uncertain, resting):
        clock.tick(1)
        (dispatch_id,) = [f"{start.asked.id}-1"]
        attempt = await begin(store, dispatch_id)
        assert attempt is not None
        await store.record(dispatch_id, attempt, unsure())
    for each in await store.sought(BACKEND, ACCOUNT):
        if each.id.startswith(resting.asked.id):
            await store.rest(each)
    await create(store, singly(3))
    await create(store, tenant="other", schedule_at=NOON + timedelta(days=2))
    clock.tick(3600)
    (first, *_) = await claim_ids(store, 1)
    await settle_attempt(store, first, put_off(clock() + timedelta(seconds=60)))
    await store.mark_stalled(BACKEND, clock())
    clock.tick(30)
    stage = Stage(store)
    async with stage.open() as url:
        samples = read((await get(f"{url}/metrics"))[1])
        async with aclosing(stage.watch.stream(Watched(tenant=TENANT, after=0))) as stream:
            await anext(stream)
            watched = read((await get(f"{url}/metrics"))[1])

    lane = [of(samples, "lane_dispatches", backend=BACKEND, scheduled=label) for label in ("no", "yes")]
    assert [3, 1] == lane
    assert 3630 == of(samples, "oldest_pending_seconds", backend=BACKEND)
    assert [1, 1] == [of(samples, "uncertain_dispatches", backend=BACKEND, sought=label) for label in ("no", "yes")]
    assert 1 == of(samples, "stalled_dispatches", backend=BACKEND)
    assert await store.head() == of(samples, "revision") == of(watched, "watch_lag_revisions")
    assert 0 == of(samples, "watch_lag_revisions")  # nobody watches


async def test_what_was_tried_in_vain_waits_since_it_was_tried(store: SqliteStore, clock: Clock) -> None:
    """That it is due again only in a while hides nothing."""
    start = await create(store)
    await run_to(store, start, put_off(clock() + timedelta(seconds=10)))
    clock.tick(15)
    await run_to(store, start, put_off(clock() + timedelta(seconds=60)))
    clock.tick(5)
    measures = await store.measure()

    assert {BACKEND: 20.0} == measures.waited


async def test_a_duplicate_counts_once(store: SqliteStore, reopen: Callable[..., SqliteStore]) -> None:  # noqa: ARG001 -- fixture
    """However often a sweep shows it."""
    counted: list[dict[str, int]] = []
    store.engine.writer._timed = lambda _seconds, _operations, duplicates: counted.append(dict(duplicates))
    start = await create(store)
    await run_to(store, start, accepted("x1"))
    again = seen("x2", correlation_key=f"{start.asked.id}-1", flow=start.asked.flow)
    for _ in range(3):
        await store.sight(BACKEND, [again], account=ACCOUNT)
    await store.close()

    assert [{BACKEND: 1}] == [each for each in counted if each]


async def test_health_follows_the_circuit(store: SqliteStore) -> None:
    """Unknown until it is asked; not serving while nothing is sent, nor before it has answered again."""
    stage = Stage(store)
    circuit, told = stage.backend.transport.circuit, []

    async def look(seconds: float = 0.0) -> None:
        stage.ticks.tick(seconds)
        stage.health.look()
        told.append(stage.status("backend/rapidpro"))

    await look()
    circuit.answered()
    await look()
    circuit.throttled(5.0)
    await look()
    await look(6)
    circuit.unreachable("refused")
    await look(100)
    circuit.answered()
    await look()

    assert ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVING", "NOT_SERVING", "SERVING"] == told
    assert ["SERVING"] * 2 == [stage.status(name) for name in ("", "service")]


async def test_the_pages_while_the_store_is_down_and_at_the_end(store: SqliteStore) -> None:
    """Probes get 503 and say why; the metrics are there, without what only the store knows."""
    stage = Stage(store)
    async with stage.open() as url:
        store.engine._can_read, store.engine._read_failed = False, "SQLITE_IOERR_READ"
        with capture_logs() as lines:
            stage.health.look()
        down = [await get(f"{url}/{page}") for page in ("healthz", "readyz")]
        overall = stage.status("")
        samples = read((await get(f"{url}/metrics"))[1])
        await store.check()
        with capture_logs() as more:
            stage.health.look()
        up = [await get(f"{url}/{page}") for page in ("healthz", "readyz")]
        stage.health.drain()
        ending = [await get(f"{url}/{page}") for page in ("healthz", "readyz")]

    why = f"the store {store.engine._path} does not work (SQLITE_IOERR_READ). {access.advice('SQLITE_IOERR')}"
    assert [(503, f"{why}\n")] * 2 == down
    assert [{"event": "not_serving", "log_level": "error", "why": why}] == lines
    assert [{"event": "serving", "log_level": "warning", "after": why}] == more
    assert "NOT_SERVING" == overall
    assert (0, None) == (of(samples, "store_up"), of(samples, "lane_dispatches", backend=BACKEND, scheduled="no"))
    assert [(200, "ok\n")] * 2 == up
    assert [(200, "ok\n"), (503, "shutting down\n")] == ending


async def test_however_many_ask_for_the_metrics_they_are_read_once(store: SqliteStore) -> None:
    """All that wait share what is read next: it is of a moment after each of them asked."""
    stage, reads = Stage(store), 0
    begun, measured = asyncio.Event(), asyncio.Event()

    async def measure() -> None:
        nonlocal reads
        reads += 1
        begun.set()
        await measured.wait()

    store.measure = measure  # type: ignore[method-assign, assignment]
    pages: Any = Pages(store, stage.watch, stage.backends, stage.health, stage.metrics)
    first = asyncio.create_task(pages._show_metrics(None))
    await begun.wait()
    others = [asyncio.create_task(pages._show_metrics(None)) for _ in range(50)]
    await asyncio.sleep(0)  # until they wait
    measured.set()
    answers = [await first, *await asyncio.gather(*others)]

    assert 2 == reads
    assert {200} == {answer.status for answer in answers}


async def test_no_caller_adds_a_series(store: SqliteStore) -> None:
    """Whatever paths, methods, codes, tenants and backends are named: the labels are from closed sets."""
    stage = Stage(store)
    for number in range(50):
        await create(store, tenant=f"t{number}", backend=f"b{number}")
    counting = stage.metrics.backend(BACKEND)
    async with stage.open() as url, aiohttp.ClientSession() as session:
        for _ in range(2):
            before = len(read((await get(f"{url}/metrics"))[1]))
            for number in range(40):
                async with session.request(f"METHOD{number}", f"{url}/events/{number}/{number}?a={number}"):
                    pass
                async with session.request(f"METHOD{number}", f"{url}/metrics"):
                    pass
                stage.metrics.answered(f"/{number}", 404)
                counting.requested(creates=True, answer=100 + 17 * number, seconds=1)
            after = len(read((await get(f"{url}/metrics"))[1]))

    assert after == before  # the second time: nothing is there that was not there the first time
    assert after < 200


def series() -> dict[str, tuple[str, str, str]]:
    """Lists what the registry can tell: type, labels and meaning by name."""
    registry = Metrics()._registry
    return {
        name: (collector._type, ", ".join(f"`{label}`" for label in collector._labelnames), collector._documentation)
        for collector in registry._collector_to_names
        if hasattr(collector, "_documentation")
        for name in [f"{collector._name}_total" if collector._type == "counter" else collector._name]
    }


def test_the_page_lists_every_metric() -> None:
    """With its type, its labels and its meaning as the registry has them, and no other."""
    row = r"^\| `(startflow_\w+)` \| (\w+) \| (.*?) \| (.*?) \| (.*?) \|$"
    rows = re.findall(row, PAGE.read_text("utf-8"), re.MULTILINE)

    assert series() == {name: (kind, labels.strip(), text) for name, kind, labels, text, _ in rows}
    assert list(series()) == [row[0] for row in rows]


def test_the_page_lists_every_label() -> None:
    """With all the values that a closed set has."""
    text = PAGE.read_text("utf-8")
    sets = (metrics.PURPOSES, metrics.ANSWERS, metrics.OUTCOMES, metrics.RESULTS, metrics.ROUTES)
    missing = [value for each in sets for value in each if f"`{value}`" not in text]

    assert [] == missing


@pytest.mark.parametrize("given", ["abc-1:2.3_4", "", "a b", "x" * 65])
async def test_an_internal_error_tells_the_request(given: str) -> None:
    """By the id that its caller gave, if that is one, or by one made here; the log has it in every line of the call."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr(logs._StandardError, "write", lambda _self, text: lines.append(text))
        logs.configure()
        try:
            info = await internal_error(given)
        finally:
            logs.structlog.reset_defaults()
            logs.logging.getLogger().removeHandler(logs._OF_OTHERS)
    entries = [json.loads(line) for line in "".join(lines).splitlines()]

    (entry,) = entries
    assert (info["incident_id"], info["request_id"]) == (entry["incident_id"], entry["request_id"])
    assert given == info["request_id"] if given.startswith("abc") else re.fullmatch("[0-9a-f]{32}", info["request_id"])
    assert "KeyError" == entry["exception"][0]["exc_type"]
    assert "+1206" not in "".join(lines)


async def internal_error(given: str) -> dict[str, str]:
    """Has a method fail whose caller gives a request id; returns what the status tells of it."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(failing(KeyError("tel:+12065551212")), Clients(clock=lambda: NOON)),))  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary("/startflow.v1.StartFlowService/StartFlow")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"", metadata=(("x-request-id", given),), timeout=PATIENCE)
    await server.stop(None)
    return dict(details(caught.value)["ErrorInfo"].metadata)


@pytest.mark.parametrize("given", ['evil"}\n{', "é", "+12065551212"])
def test_a_request_id_that_is_none_is_replaced(given: str) -> None:
    """Nothing of it is shown, and the one made stays the same."""
    made = logs.RequestId(lambda: [("other", "x"), ("x-request-id", given)])

    assert given not in str(made)
