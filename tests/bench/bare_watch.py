"""The bare stream server that the gateway is compared with: `python -m tests.bench.bare_watch CORE FOLDER`.

It runs on asyncio's own loop, keeps nothing, checks nothing, and sends every watcher of what changed a message that it
builds and serialises as anybody would, with the generated stubs: field for field the same message as the gateway's.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import time
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from gateway.server.building import tune_collector
from tests.bench.control import obey
from tests.bench.population import FLOW, LABELS, TENANT, external_id, ids_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EPOCH = "0" * 32
_REVISIONS = count(10_000)


class Bare(rpc.StartFlowServiceServicer):
    """A queue for each watcher."""

    def __init__(self) -> None:
        self.watchers: dict[str, set[asyncio.Queue[Any]]] = defaultdict(set)

    async def WatchFlowStarts(self, request: Any, context: Any) -> AsyncIterator[pb.WatchFlowStartsResponse]:  # noqa: ARG002, N802
        """Sends what comes into the queue."""
        queue: asyncio.Queue[Any] = asyncio.Queue()
        keys = list(request.ids) or [request.filter.labels["campaign"]]
        for key in keys:
            self.watchers[key].add(queue)
        try:
            yield pb.WatchFlowStartsResponse(heartbeat=pb.Heartbeat())
            while True:
                yield build(*await queue.get())
        finally:
            for key in keys:
                self.watchers[key].discard(queue)


def build(start_id: str, backend: str, revision: int, at: int) -> pb.WatchFlowStartsResponse:
    """Builds the message for one watcher."""
    now = Timestamp(seconds=at // 10**9, nanos=at % 10**9)
    changed = pb.FlowStart(
        id=start_id,
        tenant=TENANT,
        backend=backend,
        flow=FLOW,
        recipient_count=1,
        labels=LABELS,
        state=pb.FlowStart.STATE_STARTED,
        progress=pb.Progress(started=1, contact_count=revision),
        external_id=external_id(start_id),
        create_time=now,
        update_time=now,
        revision=revision,
        completion_meaning=pb.COMPLETION_MEANING_RECIPIENTS_ENTERED,
    )
    return pb.WatchFlowStartsResponse(revision=revision, epoch=EPOCH, changed=changed)


async def _serve(folder: Path, *, tuned: bool) -> None:
    if tuned:
        tune_collector()
    bare = Bare()  # type: ignore[abstract]
    server = grpc.aio.server()
    rpc.add_StartFlowServiceServicer_to_server(bare, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"gRPC on 127.0.0.1:{port}", flush=True)

    async def change(what: str) -> None:
        at = time.time_ns()
        for start_id in ids_of(what):
            revision = next(_REVISIONS)
            for key in (start_id, LABELS["campaign"], ""):
                for queue in bare.watchers[key]:
                    queue.put_nowait((start_id, what, revision, at))

    await obey(folder, change, after=0)


def source() -> str:
    """Returns the source of what is measured."""
    return f"{inspect.getsource(Bare)}\n\n{inspect.getsource(build)}"


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(_serve(Path(sys.argv[2]), tuned=sys.argv[4] == "tuned"))
