"""Thousands of watchers in a process of their own: `python -m tests.chaos.watchers ADDRESSES WATCHINGS RESULT`.

Each resumes at once from the last message it got, whatever ended its stream: at the next of the addresses, which are
separated by commas. On stdin it takes one JSON value a line: a
moment, and it answers once every watcher has heard from a stream opened after it; or null, and it writes the result
once nothing comes any more.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from tests.chaos.watched import Ending, Told, Watching

if TYPE_CHECKING:
    from collections.abc import Sequence

Stubs: TypeAlias = "Sequence[rpc.StartFlowServiceAsyncStub]"
"""One for each gateway."""

PER_CHANNEL = 50
QUIET = 3.0  # seconds without a change after which no more is expected: everything rests by then
PAUSE = 0.05  # between looks; an event for each of thousands of messages would cost more
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # or all channels would share one connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class Watchers:
    """Many watchers, and what all of them were shown."""

    def __init__(self, stubs: Sequence[Stubs], watchings: Sequence[Watching]) -> None:
        self.shown: dict[int, tuple[str, int]] = {}
        self.contradictions = 0
        self.streams = self.messages = 0
        self.moved_at = 0.0  # when a change or the first message of a stream came last
        self._watchers = [_Watcher(self, stubs[n // PER_CHANNEL], each, n) for n, each in enumerate(watchings)]

    async def run(self) -> None:
        """Watches until cancelled."""
        await asyncio.gather(*(watcher.run() for watcher in self._watchers))

    async def back(self, since: float) -> float:
        """Waits until all have heard from a stream that was opened after a moment; returns when the last one had."""
        while self.away or not all(watcher.is_ended or watcher.opened > since for watcher in self._watchers):  # noqa: ASYNC110
            await asyncio.sleep(PAUSE)
        return max(watcher.first_at for watcher in self._watchers)

    @property
    def away(self) -> int:
        """How many have not heard anything on their stream yet."""
        return sum(not watcher.is_ended and watcher.first_at < watcher.opened for watcher in self._watchers)

    async def result(self) -> dict[str, Any]:
        """Waits until nothing comes any more; tells what came."""
        while self.away or time.monotonic() - self.moved_at < QUIET:  # noqa: ASYNC110
            await asyncio.sleep(PAUSE)
        return {
            "told": [asdict(watcher.told()) for watcher in self._watchers],
            "shown": list(self.shown.items()),
            "contradictions": self.contradictions,
            "streams": self.streams,
            "messages": self.messages,
        }

    def show(self, start: pb.FlowStart) -> None:
        """Keeps, once for all watchers, what a change told."""
        told = (start.id, start.state)
        if self.shown.setdefault(start.revision, told) != told:
            self.contradictions += 1


class _Watcher:
    __slots__ = (
        "_after", "_all", "_endings", "_epoch", "_next", "_resumed_at", "_seen", "_snapshot_end", "_stubs",
        "_watching", "first_at", "is_ended", "opened",
    )  # fmt: skip

    def __init__(self, watchers: Watchers, stubs: Stubs, watching: Watching, first: int) -> None:
        self._all, self._stubs, self._watching, self._next = watchers, stubs, watching, first
        self._after, self._epoch = watching.after, ""
        self._seen: list[int] = []
        self._endings: list[Ending] = []
        self._snapshot_end: int | None = None
        self._resumed_at: int | None = None
        self.opened, self.first_at = time.monotonic(), 0.0
        self.is_ended = False

    async def run(self) -> None:
        while not self.is_ended:
            self.opened = time.monotonic()
            self._all.streams += 1
            if self._watching.after is None and self._snapshot_end is None and self._resumed_at is None:
                self._resumed_at = self._after
            stub = self._stubs[self._next % len(self._stubs)]
            self._next += 1
            try:
                async for message in stub.WatchFlowStarts(self._request(), wait_for_ready=True):
                    self._take(message)
            except grpc.aio.AioRpcError as error:
                self._end(error.code().name, error.details() or "", is_told=bool(error.trailing_metadata()))
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    await asyncio.sleep(1)  # it was refused: that is counted, and need not be every moment
            else:
                self.is_ended = self._watching.until_done
                if not self.is_ended:
                    self._end("OK", "", is_told=True)

    def told(self) -> Told:
        return Told(
            watching=self._watching,
            seen=tuple(self._seen),
            snapshot_end=self._snapshot_end,
            resumed_at=self._resumed_at,
            is_ended=self.is_ended,
            endings=tuple(self._endings),
        )

    def _request(self) -> pb.WatchFlowStartsRequest:
        watching = self._watching
        return pb.WatchFlowStartsRequest(
            ids=watching.ids,
            filter=pb.FlowStartFilter(labels=watching.labels, states=watching.states),  # type: ignore[arg-type]
            after_revision=self._after,
            epoch=self._epoch,
            until_done=watching.until_done,
        )

    def _take(self, message: pb.WatchFlowStartsResponse) -> None:
        if self.first_at < self.opened:
            self.first_at = self._all.moved_at = time.monotonic()
        self._all.messages += 1
        if message.revision or self._after is not None:  # before a snapshot there is nothing to resume from
            self._after, self._epoch = message.revision, message.epoch
        if message.HasField("changed"):
            self._seen.append(message.revision)
            self._all.moved_at = time.monotonic()
            self._all.show(message.changed)
        elif message.HasField("snapshot_end"):
            self._snapshot_end = message.revision

    def _end(self, code: str, details: str, *, is_told: bool) -> None:
        now = time.monotonic()
        self._endings.append(Ending(code=code, opened=self.opened, ended=now, is_told=is_told, details=details[:200]))


async def _main(addresses: Sequence[str], watchings: Path, result: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wanted = [Watching(**row) for row in json.loads(watchings.read_text())]  # noqa: ASYNC240
    channels = [
        [grpc.aio.insecure_channel(address, options=OPTIONS) for address in addresses]
        for _ in range(0, len(wanted), PER_CHANNEL)
    ]
    stubs: list[Stubs] = [[rpc.StartFlowServiceStub(each) for each in those] for those in channels]  # type: ignore[misc]
    watchers = Watchers(stubs, wanted)
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    running = asyncio.create_task(watchers.run())
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        since = json.loads(line)
        if since is None:
            result.write_text(json.dumps(await watchers.result()))  # noqa: ASYNC240
            print("null", flush=True)
            break
        print(await watchers.back(since), flush=True)
    running.cancel()
    await asyncio.wait([running])
    for channel in chain.from_iterable(channels):
        await channel.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1].split(","), Path(sys.argv[2]), Path(sys.argv[3])))
