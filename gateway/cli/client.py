"""A caller of the gateway: one channel, a start that is safe to repeat, a watch that outlives its connections.

Rules:

1. Only `StartFlow` is repeated, and only with the request id it had: the gateway then answers with the first start.
2. A watch resumes after the last message it handed on, so no change is lost and none comes twice. Where the gateway has
   that place no more, the watch begins anew, and says so.
3. A delay that the gateway asks for is kept; jitter only adds to it.
4. Whatever ends a call for good is a `CallFailed` with everything the status told.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from google.protobuf.message import Message

CALL_TIMEOUT = 30.0  # seconds; the gateway answers within one, or its store is in trouble
ATTEMPTS = 4  # of a start, and of a watch where nothing was ever answered: two seconds, a restart of the gateway
FIRST_PAUSE = 0.5  # seconds; doubles with each failure in a row
LONGEST_PAUSE = 10.0  # seconds between attempts, unless the gateway asks for more
LONGEST_WAIT = 60.0  # seconds that a start waits if the gateway asks for it; more is for the caller to decide
PAGE = 500  # the most that the gateway returns at once
LARGE_PAGE = 1_000  # the most that the API returns of recipients and changes at once

REPEATABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# What proxies and broken connections make of a stream. The gateway's own statuses carry a reason, these none.
BROKEN = (*REPEATABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)

OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),  # finds out that a silent watch has lost its connection
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # a watcher sends nothing else for hours
    ("grpc.initial_reconnect_backoff_ms", 200),  # the pauses are ours; the channel must not add a second each
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),  # a page of 500 starts with every label full
)

Q = TypeVar("Q", bound="Message")
A = TypeVar("A", bound="Message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a status told: the code, the sentence, and the details that a person or a retry can use."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None

    @property
    def is_unconnected(self) -> bool:
        """Whether there was no connection to the gateway: its own UNAVAILABLE carries a reason."""
        return self.code is grpc.StatusCode.UNAVAILABLE and not self.reason


@dataclass(kw_only=True)
class CallFailed(Exception):
    """A call that ended with an error, after whatever was worth repeating. `advice` says what to do next."""

    problem: Problem
    advice: str = ""


class WatchTimedOut(Exception):
    """A watch that ran for as long as it was allowed to."""


def read_problem(error: grpc.RpcError) -> Problem:
    """Reads the status of a failed call and its `google.rpc` details; details that make no sense are left out."""
    code, message = error.code(), error.details() or ""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # the details contradict the status: believe the status
        status = None
    reason, metadata, violations, retry_after = "", {}, [], None
    for detail in status.details if status else ():
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            violations += [(each.field, each.description) for each in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after = max(0.0, retry.retry_delay.ToTimedelta().total_seconds())
    return Problem(
        code=code,
        message=message,
        reason=reason,
        metadata=metadata,
        violations=tuple(violations),
        retry_after=retry_after,
    )


def resume(asked: pb.WatchFlowStartsRequest, last: pb.WatchFlowStartsResponse | None) -> pb.WatchFlowStartsRequest:
    """Returns what to ask for now so that the answers go on right after `last`.

    Revision 0 is the place before the first change. To a watch that began with a snapshot it says that nothing was
    there yet, so that one begins again: after 0 would mean every change ever recorded.
    """
    request = pb.WatchFlowStartsRequest()
    request.CopyFrom(asked)
    if last is not None and (last.revision or asked.HasField("after_revision")):
        request.after_revision, request.epoch = last.revision, last.epoch
    return request


def from_the_beginning(asked: pb.WatchFlowStartsRequest) -> pb.WatchFlowStartsRequest:
    """Returns what to ask for so that the answers begin with how the starts are now."""
    request = pb.WatchFlowStartsRequest()
    request.CopyFrom(asked)
    request.ClearField("after_revision")
    request.ClearField("epoch")
    return request


def can_resume(problem: Problem) -> bool:
    """Says whether a stream that ended like this lost its connection or was put off, rather than being refused."""
    put_off = problem.code is grpc.StatusCode.RESOURCE_EXHAUSTED and problem.retry_after is not None
    lost = problem.code is grpc.StatusCode.UNAVAILABLE or (problem.code in BROKEN and not problem.reason)
    return put_off or lost


def is_near(address: str) -> bool:
    """Says whether `host:port` is on this machine's loopback."""
    return address.startswith(("127.", "localhost:", "[::1]:"))


def connect(address: str, *, secure: bool = False, root: bytes | None = None) -> grpc.Channel:
    """Opens a channel to `host:port`, over TLS if it is to be secure. Nothing is sent before the first call.

    `root` is what the gateway's certificate is checked against; None: what is trusted everywhere.
    """
    options: list[tuple[str, int]] = list(OPTIONS)
    if is_near(address):
        options.append(("grpc.enable_http_proxy", 0))  # no proxy can reach this machine's loopback
    if secure:
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(root), options=options)
    return grpc.insecure_channel(address, options=options)


class Client:
    """Calls the gateway over a channel.

    `timeout` is each call's, in seconds. `say` is told what a person should know, `wait` what a watch waits for while
    it has no connection, and "" once it has one again.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
        say: Callable[[str], None],
        wait: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._stub = pb_grpc.StartFlowServiceStub(channel)
        self._timeout = timeout or CALL_TIMEOUT
        self._metadata = metadata
        self._say, self._wait, self._sleep, self._clock, self._jitter = say, wait, sleep, clock, jitter
        self._answered = False  # so there is a gateway, and it will be back

    def start(self, request: pb.StartFlowRequest) -> pb.StartFlowResponse:
        """Starts a flow once, however often it has to ask. `request` must have a request id."""
        failures = 0
        while True:
            try:
                return self._call(self._stub.StartFlow, request)
            except CallFailed as failed:
                problem, failures = failed.problem, failures + 1
                pause = self._pause(problem, failures)
                if problem.code not in REPEATABLE or failures == ATTEMPTS or pause > LONGEST_WAIT:
                    raise
            self._say(f"{_tell(problem)}; trying again in {pause:.1f} s, with the same request id")
            self._sleep(pause)

    def get(self, start_id: str) -> pb.GetFlowStartResponse:
        """Returns one start with its params."""
        return self._call(self._stub.GetFlowStart, pb.GetFlowStartRequest(id=start_id))

    def cancel(self, start_id: str) -> pb.CancelFlowStartResponse:
        """Cancels one start, and returns it as it stands then."""
        return self._call(self._stub.CancelFlowStart, pb.CancelFlowStartRequest(id=start_id))

    def resolve(self, request: pb.ResolveFlowStartRequest) -> pb.ResolveFlowStartResponse:
        """Settles what is uncertain or stalled of a start, and returns it as it stands then."""
        return self._call(self._stub.ResolveFlowStart, request)

    def list_starts(self, selection: pb.FlowStartFilter, limit: int) -> Iterator[pb.FlowStart]:
        """Yields at most `limit` starts, the most recently changed first, page by page."""
        for page in self._pages(self._stub.ListFlowStarts, pb.ListFlowStartsRequest(filter=selection), limit, PAGE):
            yield from page.flow_starts

    def list_recipients(self, start_id: str, limit: int) -> Iterator[pb.Recipient]:
        """Yields at most `limit` of what became of a start's recipients, page by page."""
        for page in self._pages(self._stub.ListRecipients, pb.ListRecipientsRequest(id=start_id), limit, LARGE_PAGE):
            yield from page.recipients

    def list_changes(self, start_id: str, limit: int) -> Iterator[pb.Change]:
        """Yields at most `limit` entries of a start's history, the oldest first, page by page."""
        for page in self._pages(self._stub.ListChanges, pb.ListChangesRequest(id=start_id), limit, LARGE_PAGE):
            yield from page.changes

    def list_flows(self, backend: str, limit: int) -> Iterator[pb.Flow]:
        """Yields at most `limit` of the flows that a backend has, page by page."""
        for page in self._pages(self._stub.ListFlows, pb.ListFlowsRequest(backend=backend), limit, LARGE_PAGE):
            yield from page.flows

    def _pages(self, method: grpc.UnaryUnaryMultiCallable[Q, A], request: Q, limit: int, largest: int) -> Iterator[A]:
        """Yields the pages of a list until they hold `limit` rows or there are no more."""
        token = ""
        while limit > 0:
            asked = type(request)(page_size=min(limit, largest), page_token=token)
            asked.MergeFrom(request)
            page = self._call(method, asked)
            yield page
            (rows,) = (field for field in page.DESCRIPTOR.fields if field.is_repeated)
            limit -= len(getattr(page, rows.name))
            token = page.next_page_token  # type: ignore[attr-defined]
            if not token:
                return

    def list_backends(self) -> list[pb.Backend]:
        """Returns the backends, by name."""
        return list(self._call(self._stub.ListBackends, pb.ListBackendsRequest()).backends)

    def watch(
        self,
        asked: pb.WatchFlowStartsRequest,
        *,
        seconds: float | None = None,
        begin_anew: Callable[[], None] = lambda: None,
    ) -> Iterator[pb.WatchFlowStartsResponse]:
        """Yields the messages of one watch, whatever number of connections that takes.

        Ends when `until_done` is fulfilled. Raises WatchTimedOut after `seconds`. Calls `begin_anew` where the gateway
        cannot go on after the last message, before the messages begin again with how the starts are.
        """
        ends_at = None if seconds is None else self._clock() + seconds
        last: pb.WatchFlowStartsResponse | None = None
        failures = 0
        while True:
            call = self._stub.WatchFlowStarts(resume(asked, last), timeout=self._left(ends_at), metadata=self._metadata)
            try:
                for message in call:
                    if failures:
                        self._wait("")
                    yield message
                    last, failures, self._answered = message, 0, True
                if asked.until_done:
                    return
                problem = Problem(code=grpc.StatusCode.UNAVAILABLE, message="the stream ended")
            except grpc.RpcError as error:
                problem = read_problem(error)
            finally:
                call.cancel()  # whoever stops listening, by Ctrl-C too, leaves no stream behind
            failures += 1
            if problem.code is grpc.StatusCode.OUT_OF_RANGE and last is not None:
                self._say(
                    f"The gateway cannot resume after revision {last.revision}. Beginning again with the current"
                    f" state of every start: changes in between may be missing or repeated. It said: {problem.message}"
                )
                asked, last = from_the_beginning(asked), None
                begin_anew()
            else:
                self._wait_to_resume(problem, failures, last, ends_at)

    def _wait_to_resume(
        self, problem: Problem, failures: int, last: pb.WatchFlowStartsResponse | None, ends_at: float | None
    ) -> None:
        """Waits before the next attempt, or raises what ends the watch."""
        if ends_at is not None and problem.code is grpc.StatusCode.DEADLINE_EXCEEDED and not problem.reason:
            raise WatchTimedOut
        if not can_resume(problem) or (not self._answered and failures == ATTEMPTS):
            raise CallFailed(problem=problem)
        pause = self._pause(problem, failures)
        where = f"resuming after revision {last.revision}" if last else "trying again"
        self._wait(f"{_tell(problem)}; {where} in {pause:.1f} s")
        left = self._left(ends_at)
        self._sleep(pause if left is None else min(pause, left))
        self._left(ends_at)

    def _left(self, ends_at: float | None) -> float | None:
        if ends_at is None:
            return None
        left = ends_at - self._clock()
        if left <= 0:
            raise WatchTimedOut
        return left

    def _pause(self, problem: Problem, failures: int) -> float:
        """Returns how long to wait: growing, jittered so that callers do not return all at once, and as asked."""
        half: float = min(FIRST_PAUSE * 2 ** min(failures - 1, 10), LONGEST_PAUSE) / 2
        return max(problem.retry_after or 0.0, half) + half * self._jitter()

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Q, A], request: Q) -> A:
        try:
            answer = method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise CallFailed(problem=read_problem(error)) from None
        self._answered = True
        return answer


def _tell(problem: Problem) -> str:
    """Returns a few words for a notice: the gateway's reason, or that it did not get to give one."""
    if problem.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    return f"the gateway answered {problem.reason}" if problem.reason else "no connection to the gateway"
