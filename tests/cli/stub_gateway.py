"""A gateway that answers what a test has laid out, over a real socket, and remembers what it was asked."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Self

import grpc
from google.protobuf import any_pb2, duration_pb2, timestamp_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

EPOCH = "e1"
HANG = None  # laid out in a stream: nothing more comes, and it does not end
STATE = pb.FlowStart.State


def status(
    code: grpc.StatusCode,
    message: str = "",
    *,
    reason: str = "",
    metadata: dict[str, str] | None = None,
    violations: dict[str, str] | None = None,
    retry_after: float | None = None,
) -> status_pb2.Status:
    """Builds a status with details, as the gateway sends them."""
    details: list[Message] = []
    if reason:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain="startflow.v1", metadata=metadata))
    if violations:
        pairs = [error_details_pb2.BadRequest.FieldViolation(field=k, description=v) for k, v in violations.items()]
        details.append(error_details_pb2.BadRequest(field_violations=pairs))
    if retry_after is not None:
        delay = duration_pb2.Duration(nanos=int(retry_after * 1e9) % 10**9, seconds=int(retry_after))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [any_pb2.Any() for _ in details]
    for each, detail in zip(packed, details, strict=True):
        each.Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


def flow_start(start_id: str = "s1", state: STATE.ValueType = STATE.STATE_COMPLETED, **fields: object) -> pb.FlowStart:
    """Builds a start of three recipients that was recorded at second 1,000 and changed 5 seconds later."""
    start = pb.FlowStart(
        id=start_id,
        backend="rapidpro",
        flow="f5901b62-ba76-4003-9c62-72fdacc1b7b7",
        state=state,
        recipient_count=3,
        create_time=timestamp_pb2.Timestamp(seconds=1_000),
        update_time=timestamp_pb2.Timestamp(seconds=1_005),
        revision=7,
    )
    start.MergeFrom(pb.FlowStart(**fields))
    return start


def changed(revision: int, start: pb.FlowStart) -> pb.WatchFlowStartsResponse:
    """Builds the message of a change."""
    return pb.WatchFlowStartsResponse(revision=revision, epoch=EPOCH, changed=start)


def heartbeat(revision: int) -> pb.WatchFlowStartsResponse:
    """Builds a heartbeat."""
    return pb.WatchFlowStartsResponse(revision=revision, epoch=EPOCH, heartbeat=pb.Heartbeat())


class StubGateway(pb_grpc.StartFlowServiceServicer):
    """Answers each request with the next thing laid out: a message, several of a stream, or a status."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.answers: deque[Message | status_pb2.Status] = deque()
        self.streams: deque[list[Message | status_pb2.Status | None]] = deque()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        pb_grpc.add_StartFlowServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None).wait()

    def _answer(self, request: Message, context: grpc.ServicerContext) -> Message:
        self.requests.append(request)
        answer = self.answers.popleft()
        if isinstance(answer, status_pb2.Status):
            context.abort_with_status(rpc_status.to_status(answer))
        return answer

    StartFlow = GetFlowStart = ListFlowStarts = ListBackends = ListRecipients = ListChanges = _answer
    CancelFlowStart = ResolveFlowStart = ListFlows = _answer

    def WatchFlowStarts(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:  # noqa: N802 - gRPC's
        """Streams the next stream laid out."""
        self.requests.append(request)
        for answer in self.streams.popleft():
            if answer is HANG:
                ended = Event()
                context.add_callback(ended.set)
                ended.wait()
                return
            if isinstance(answer, status_pb2.Status):
                context.abort_with_status(rpc_status.to_status(answer))
            yield answer
