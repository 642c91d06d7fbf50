"""Every metric there is. What happens is counted where it happens; what merely is, is read when somebody asks.

Rules:

1. Each server has its own registry. Nothing is counted for the process as a whole.
2. A label's value is the name of a configured backend, or of a set that is closed here or in the proto. What a caller
   has written is in none.
3. What is counted often is bound to its labels once.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from gateway.lanes.pacing import HealthState
from gateway.store.unreadable import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.lanes.backend import Backend
    from gateway.loops import Loop
    from gateway.store import Measures
    from gateway.watch.stream import Watch

RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # seconds
COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
BACKEND_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)  # operations

PURPOSES = ("create", "read")
ANSWERS = ("2xx", "3xx", "4xx", "429", "5xx", "other", "not_sent", "unanswered")
"""What a request to a backend came to: a class of status, never reached it, or may have reached it."""

OUTCOMES = ("ACCEPTED", "REFUSED", "THROTTLED", "NOT_SENT", "BLOCKED", "UNSURE")
RESULTS = ("complete", "incomplete")
ROUTES = ("/events", "/healthz", "/metrics", "/readyz", "other")
GONE = "CANCELLED"  # the code of a call whose caller did not wait for its end

Timed: TypeAlias = Callable[[str, float], None]
"""Counts the end of a call: its code, and how many seconds it took."""


class Metrics:
    """The metrics of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each would say only when this process began
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._rpc = Histogram(
            "startflow_rpc_seconds",
            "How long calls took. CANCELLED: the caller had left, or its deadline had passed.",
            ("method", "code"),
            buckets=RPC_BUCKETS,
            registry=registry,
        )
        self._streams = Counter(
            "startflow_streams_ended", "Streams that have ended.", ("method", "code"), registry=registry
        )
        self._http = Counter(
            "startflow_http_requests", "HTTP requests that were answered.", ("route", "code"), registry=registry
        )
        self._requests = Counter(
            "startflow_backend_requests",
            "Requests to a backend by what they came to. `429` is a throttle; `unanswered` may have been carried out.",
            ("backend", "purpose", "answer"),
            registry=registry,
        )
        self._request = Histogram(
            "startflow_backend_request_seconds",
            "How long requests to a backend took, answered or not.",
            ("backend", "purpose"),
            buckets=BACKEND_BUCKETS,
            registry=registry,
        )
        self._outcomes = Counter(
            "startflow_dispatch_outcomes",
            "Attempts to send a dispatch, by their outcome as `ListChanges` names it.",
            ("backend", "outcome"),
            registry=registry,
        )
        self._sweeps = Counter(
            "startflow_sweeps",
            "Sweeps of a backend. An incomplete one was not read to its end.",
            ("backend", "result"),
            registry=registry,
        )
        self._duplicates = Counter(
            "startflow_duplicates",
            "Dispatches that were found to be carried out twice (the warning `DUPLICATE_SENT`).",
            ("backend",),
            registry=registry,
        )
        self._commit = Histogram(
            "startflow_commit_seconds", "How long commits took.", buckets=COMMIT_BUCKETS, registry=registry
        )
        self._batch = Histogram(
            "startflow_commit_operations", "Operations in one commit.", buckets=SIZE_BUCKETS, registry=registry
        )
        self._loop_failures = Counter(
            "startflow_loop_failures",
            "Failures of background loops. Each is in the log (`loop_failed`); the loop restarts.",
            ("loop", "backend"),
            registry=registry,
        )
        self._define_gauges()

    def _define_gauges(self) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"startflow_{name}", text, labels, registry=self._registry)

        self._state = gauge("backend_state", "1 for the state that a backend is in, 0 for others.", "backend", "state")
        self._pause = gauge(
            "backend_pause_seconds", "How long nothing will be sent, because a backend's circuit is open.", "backend"
        )
        self._left = gauge("backend_requests_left", "Sends that the rate of an account allows now.", "backend")
        self._in_flight = gauge("backend_requests_in_flight", "Creating requests that wait for an answer.", "backend")
        self._lane = gauge(
            "lane_dispatches",
            "Dispatches that a backend has not accepted yet, including those being sent.",
            *("backend", "scheduled"),
        )
        self._oldest = gauge("oldest_pending_seconds", "How long the longest-waiting dispatch has been due.", "backend")
        self._uncertain = gauge(
            "uncertain_dispatches",
            "Dispatches that may have been carried out. Those not sought wait for `ResolveFlowStart`. Counted up to"
            " 10,000 in all.",
            *("backend", "sought"),
        )
        self._stalled = gauge(
            "stalled_dispatches",
            "Running dispatches that have not changed for `stalled_after`. Counted up to 10,000 in all.",
            "backend",
        )
        self._watchers = gauge("watchers", "Streams that are open.")
        self._behind = gauge(
            "watchers_behind", "Streams with changes left to send, because these are new or the reader is slow."
        )
        self._lag = gauge("watch_lag_revisions", "Committed revisions that watchers have not been notified of yet.")
        self._revision = gauge("revision", "The newest revision, which counts all changes so far.")
        self._store_up = gauge(
            "store_up", "1 while the store works. While it does not, metrics counted in it are missing."
        )
        self._loop_up = gauge(
            "loop_up",
            "1 while a loop in the background runs as it should, 0 when it fails repeatedly or hangs.",
            *("loop", "backend"),
        )
        self._unreadable = gauge(
            "unreadable_rows", "Rows of the store that were set aside: each is in the log (`row_set_aside`)."
        )
        self._build = gauge("build_info", "Always 1; the label is the version.", "version")
        self._build.labels(version("startflow-gateway")).set(1)

    def rpc(self, method: str) -> Timed:
        """Returns what counts the calls of a method."""
        known: dict[str, Callable[[float], None]] = {"OK": self._rpc.labels(method, "OK").observe}

        def ended(code: str, seconds: float) -> None:
            observe = known.get(code)
            if observe is None:
                observe = known[code] = self._rpc.labels(method, code).observe
            observe(seconds)

        return ended

    def stream(self, method: str) -> Timed:
        """Returns what counts the streams of a method; how long one lasts says nothing."""
        return lambda code, _seconds: self._streams.labels(method, code).inc()

    def answered(self, route: str, code: int) -> None:
        """Counts an HTTP request."""
        self._http.labels(route if route in ROUTES else "other", str(code)).inc()

    def backend(self, name: str) -> BackendMetrics:
        """Returns what counts for a backend."""
        return BackendMetrics(name, self._requests, self._request, self._outcomes, self._sweeps)

    def committed(self, seconds: float, operations: int, duplicates: Mapping[str, int]) -> None:
        """Counts a commit, and by backend the dispatches it noted as carried out twice. Any thread may call it."""
        self._commit.observe(seconds)
        self._batch.observe(operations)
        for backend, count in duplicates.items():
            self._duplicates.labels(backend).inc(count)

    def loop_failed(self, loop: Loop) -> None:
        """Counts a failure of a loop."""
        self._loop_failures.labels(loop.name, loop.backend).inc()

    def read(
        self, backends: Mapping[str, Backend], watch: Watch, measures: Measures | None, loops: Iterable[Loop] = ()
    ) -> None:
        """Takes how everything is now; `measures` is None if the store cannot tell."""
        self._loop_up.clear()
        for loop in loops:
            self._loop_up.labels(loop.name, loop.backend).set(not loop.trouble)
            self._loop_failures.labels(loop.name, loop.backend)
        self._unreadable.set(len(unreadable))
        for name, backend in backends.items():
            transport = backend.transport
            for state in HealthState:
                self._state.labels(name, state.name.lower()).set(transport.circuit.state is state)
            self._pause.labels(name).set(transport.circuit.wait_seconds())
            self._left.labels(name).set(transport.limiter.left(sends=True))
            self._in_flight.labels(name).set(transport.in_flight)
            self._duplicates.labels(name)
        self._watchers.set(watch.stream_count)
        self._behind.set(watch.behind_count)
        self._store_up.set(measures is not None)
        for counted in (self._lane, self._oldest, self._uncertain, self._stalled):
            counted.clear()
        self._revision.set(float("nan") if measures is None else measures.head)
        self._lag.set(float("nan") if measures is None else watch.lag(measures.head))
        for name in backends if measures is not None else ():
            self._read_lane(name, measures)

    def _read_lane(self, name: str, measures: Measures | None) -> None:
        assert measures is not None
        for label, of in (("no", measures.unsent), ("yes", measures.scheduled)):
            self._lane.labels(name, label).set(of.get(name, 0))
        self._oldest.labels(name).set(measures.waited.get(name, 0.0))
        for label, of in (("no", measures.resting), ("yes", measures.sought)):
            self._uncertain.labels(name, label).set(of.get(name, 0))
        self._stalled.labels(name).set(measures.stalled.get(name, 0))

    def text(self) -> bytes:
        """Writes everything as Prometheus reads it. Any thread may call it."""
        return generate_latest(self._registry)


class BackendMetrics:
    """What counts for one backend."""

    def __init__(self, name: str, requests: Counter, request: Histogram, outcomes: Counter, sweeps: Counter) -> None:
        self._requests = {
            (purpose, answer): requests.labels(name, purpose, answer).inc for purpose in PURPOSES for answer in ANSWERS
        }
        self._request = {purpose: request.labels(name, purpose).observe for purpose in PURPOSES}
        self._outcomes = {outcome: outcomes.labels(name, outcome).inc for outcome in OUTCOMES}
        self._sweeps = [sweeps.labels(name, result).inc for result in RESULTS]

    def requested(self, *, creates: bool, answer: int | str, seconds: float) -> None:
        """Counts a request by its status, or by why it has none."""
        purpose = PURPOSES[not creates]
        self._requests[purpose, answer if isinstance(answer, str) else _class_of(answer)]()
        self._request[purpose](seconds)

    def settled(self, outcome: str) -> None:
        """Counts an attempt."""
        self._outcomes[outcome]()

    def swept(self, *, is_complete: bool) -> None:
        """Counts a sweep."""
        self._sweeps[not is_complete]()


def _class_of(status: int) -> str:
    found = "429" if status == 429 else f"{status // 100}xx"  # noqa: PLR2004 -- Too Many Requests
    return found if found in ANSWERS else "other"
