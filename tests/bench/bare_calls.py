"""The bare server that calls are compared with: `python -m tests.bench.bare_calls`.

It runs on asyncio's own loop, keeps nothing and checks nothing. It reads every request and builds every answer with the
generated stubs, as anybody would: field for field the same messages as the gateway's.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from itertools import count
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from gateway.errors import Reason
from gateway.service.waiting import RATE
from tests.bench.population import FLOW, ID_LENGTH, TENANT
from tests.bench.serving import backend_name

ASKED = pb.StartFlowRequest(
    backend=backend_name(0),
    flow=FLOW,
    urns=["tel:+12065551212"],
    labels={"campaign": "spring"},
    request_id="0" * 36,  # as long as a UUID
)
ASKED.params.update({"first_name": "Ryan", "order": 10_482, "is_member": True, "shop": "Seattle"})
EPOCH = "0" * 32
PAGE_TOKEN = "A" * 20  # as long as the gateway's
_REVISIONS = count(10_000)


class Bare(rpc.StartFlowServiceServicer):
    """Answers at once."""

    async def StartFlow(self, request: Any, context: Any) -> pb.StartFlowResponse:  # noqa: ARG002, N802
        """Returns a start that was never recorded."""
        return pb.StartFlowResponse(flow_start=build(request, next(_REVISIONS)), backend_request_count=1)

    async def GetFlowStart(self, request: Any, context: Any) -> pb.GetFlowStartResponse:  # noqa: ARG002, N802
        """Returns the one start there is."""
        return pb.GetFlowStartResponse(flow_start=build(ASKED, next(_REVISIONS)), params=ASKED.params)

    async def ListFlowStarts(self, request: Any, context: Any) -> pb.ListFlowStartsResponse:  # noqa: ARG002, N802
        """Returns the one start as often as it is asked for."""
        page = [build(ASKED, next(_REVISIONS)) for _ in range(request.page_size)]
        return pb.ListFlowStartsResponse(
            flow_starts=page, next_page_token=PAGE_TOKEN, revision=next(_REVISIONS), epoch=EPOCH
        )


def build(asked: pb.StartFlowRequest, revision: int) -> pb.FlowStart:
    """Builds a start as the gateway returns one that has just been recorded, for a backend whose rate is spent."""
    at = time.time_ns() // 1000  # to the microsecond
    now = Timestamp(seconds=at // 10**6, nanos=at % 10**6 * 1000)
    return pb.FlowStart(
        id=f"{revision:0{ID_LENGTH}}",
        tenant=TENANT,
        backend=asked.backend,
        flow=asked.flow,
        recipient_count=len(asked.urns),
        labels=asked.labels,
        request_id=asked.request_id,
        state=pb.FlowStart.STATE_PENDING,
        progress=pb.Progress(),
        create_time=now,
        update_time=now,
        next_attempt_time=now,
        warnings=[pb.Warning(reason=Reason.WAITING, message=RATE, metadata={"backend": asked.backend})],
        revision=revision,
        completion_meaning=pb.COMPLETION_MEANING_RECIPIENTS_ENTERED,
    )


async def _serve() -> None:
    server = grpc.aio.server()
    rpc.add_StartFlowServiceServicer_to_server(Bare(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"gRPC on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def source() -> str:
    """Returns the source of what is measured."""
    return f"{inspect.getsource(Bare)}\n\n{inspect.getsource(build)}"


if __name__ == "__main__":
    asyncio.run(_serve())
