"""A gateway that is kept busy: calls of StartFlow without end, one who watches, one who lists; and its store's log."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.doors.grpc.interceptors import SERVICE
from tests.bench.asking import asking, call, call_all
from tests.bench.grown import RARE
from tests.bench.processes import CannotMeasure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.serving import Gateway, Spent

IN_FLIGHT = 64
LISTED = 3  # pages before a rare label is looked for
LOOK = 0.005  # seconds between looks at the log


@dataclass(kw_only=True)
class Load:
    """What went on while the log was looked at."""

    largest: int = 0  # bytes of the log
    starts: int = 0
    sent: int = 0
    changes: int = 0  # that the watcher got
    pages: int = 0
    spent: Spent | None = None


async def keep_busy(gateway: Gateway, seconds: float) -> Load:
    """Calls, watches and lists for so long, and looks at the log meanwhile."""
    load, until = Load(), time.monotonic() + seconds
    async with grpc.aio.insecure_channel(gateway.address) as channel, asyncio.TaskGroup() as group:
        beside = [
            group.create_task(_watch(channel, load)),
            group.create_task(_list(channel, load)),
            group.create_task(_look(gateway.folder / "startflow.db-wal", load)),
        ]
        load.starts = len(await call_all(channel, "StartFlow", _asked_until(until), IN_FLIGHT))
        for each in beside:
            each.cancel()
    return load


def _asked_until(until: float) -> Iterator[bytes]:
    while time.monotonic() < until:
        yield asking()


async def _watch(channel: grpc.aio.Channel, load: Load) -> None:
    """Reads every change of its tenant from now on."""
    page = pb.ListFlowStartsResponse.FromString(await call(channel, "ListFlowStarts", b""))
    asked = pb.WatchFlowStartsRequest(after_revision=page.revision).SerializeToString()
    stream: Any = channel.unary_stream(f"/{SERVICE.full_name}/WatchFlowStarts")(asked)
    while await stream.read() is not grpc.aio.EOF:
        load.changes += 1
    raise CannotMeasure("The watch has ended early.")


async def _list(channel: grpc.aio.Channel, load: Load) -> None:
    """Reads page after page, and looks for what is rare."""
    rare = pb.ListFlowStartsRequest(filter=pb.FlowStartFilter(labels=RARE)).SerializeToString()
    while True:
        token = ""
        for _ in range(LISTED):
            asked = pb.ListFlowStartsRequest(page_token=token).SerializeToString()
            token = pb.ListFlowStartsResponse.FromString(await call(channel, "ListFlowStarts", asked)).next_page_token
        await call(channel, "ListFlowStarts", rare)
        load.pages += LISTED + 1


async def _look(log: Path, load: Load) -> None:
    while True:
        load.largest = max(load.largest, log.stat().st_size)  # noqa: ASYNC240 -- it waits for no disk
        await asyncio.sleep(LOOK)
