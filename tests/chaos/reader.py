"""One watcher of everything that can stop reading: `python -m tests.chaos.reader ADDRESS AFTER RESULT`.

On stdin it takes a word a line and answers each with a JSON line about the time since the one before: `pause` stops
reading, `go` reads on, `tell` does neither; `end N` answers once revision N has come, or nothing comes,
and writes down what came.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from tests.chaos.memory import resident

PAUSE = 0.05
QUIET = 10.0  # seconds without a change after which no more is expected


@dataclass(slots=True)
class Reader:
    """What one watcher read, and how late."""

    stub: rpc.StartFlowServiceAsyncStub
    after: int
    seen: list[int] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)  # since they were last told
    size: int = 0  # of all changes, encoded
    is_reading: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Reads until cancelled; whatever ends the stream is an error."""
        async for message in self.stub.WatchFlowStarts(pb.WatchFlowStartsRequest(after_revision=self.after)):
            if message.HasField("changed"):
                self.seen.append(message.revision)
                self.delays.append(time.time() - message.changed.update_time.ToMicroseconds() / 1_000_000)
                self.size += message.ByteSize()
            await self.is_reading.wait()  # gRPC asks the transport for a message only when one is asked of it
        raise EOFError

    async def come(self, revision: int, running: asyncio.Task[None]) -> None:
        """Waits until a revision has come, or nothing comes any more."""
        count, until = len(self.seen), time.monotonic() + QUIET
        while not running.done() and (not self.seen or self.seen[-1] < revision) and time.monotonic() < until:
            await asyncio.sleep(PAUSE)
            if len(self.seen) > count:
                count, until = len(self.seen), time.monotonic() + QUIET

    def tell(self) -> dict[str, float]:
        """Tells how late messages came since it was last asked, in seconds, and how much has come."""
        delays, self.delays = sorted(self.delays), []
        last = self.seen[-1] if self.seen else self.after
        told = {"changes": len(self.seen), "last": last, "size": self.size, "memory": resident()}
        if delays:
            told |= {name: delays[int((len(delays) - 1) * part)] for name, part in (("p50", 0.5), ("p99", 0.99))}
            told["max"] = delays[-1]
        return told


async def _main(address: str, after: int, result: Path) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        reader = Reader(rpc.StartFlowServiceStub(channel), after)  # type: ignore[arg-type]
        reader.is_reading.set()
        running = asyncio.create_task(reader.run())
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := (await lines.readline()).decode():
            word, _, number = line.strip().partition(" ")
            match word:
                case "pause":
                    reader.is_reading.clear()
                case "go":
                    reader.is_reading.set()
                case "end":
                    await reader.come(int(number), running)
                    result.write_text(json.dumps(reader.seen))  # noqa: ASYNC240 -- nothing else is to be done
            if running.done():
                running.result()
            print(json.dumps(reader.tell()), flush=True)
        running.cancel()
        await asyncio.wait([running])


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
