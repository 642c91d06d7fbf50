"""Whether time tells another tenant's start from one that never was: `python -m tests.bench.isolation`.

Every RPC that takes an id is called in pairs, by a tenant that may not see it: once with an id of another tenant's,
once with one that no start ever had, in a random order. The medians must be within a factor of 1.2, and the statuses
the same to the byte but for the id.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.doors.grpc.interceptors import SERVICE
from tests.end_to_end.processes import FAR, SEED_FLOW, SandboxProcess
from tests.fuzz.messages import METHODS
from tests.fuzz.run import Victim

if TYPE_CHECKING:
    from collections.abc import Sequence

BOUND = 1.2
ABOUT_ONE = [
    "GetFlowStart", "CancelFlowStart", "ResolveFlowStart", "ListRecipients", "ListChanges", "WatchFlowStarts",
]  # fmt: skip
STARTS = 200  # of the other tenant
WARM_UP = 100  # pairs
TIMES = 3  # that a ratio may be measured; noise does not come back, a difference does
TENANT, OTHER = ((("authorization", f"Bearer token-{name}"),) for name in ("b", "a"))


def request(name: str, start_id: str) -> bytes:
    """Asks about one start."""
    if name == "WatchFlowStarts":
        return pb.WatchFlowStartsRequest(ids=[start_id]).SerializeToString()
    asked: Any = METHODS[name](id=start_id)
    if name == "ResolveFlowStart":
        asked.give_up.SetInParent()
    return asked.SerializeToString()


async def refused(channel: grpc.aio.Channel, name: str, start_id: str) -> tuple[float, tuple[Any, ...]]:
    """Asks in vain; returns the seconds and what was said, without the id."""
    path, data = f"/{SERVICE.full_name}/{name}", request(name, start_id)
    began = time.perf_counter()
    try:
        if SERVICE.methods_by_name[name].server_streaming:
            async for _ in channel.unary_stream(path)(data, metadata=TENANT, timeout=30):
                pass
        else:
            await channel.unary_unary(path)(data, metadata=TENANT, timeout=30)
    except grpc.aio.AioRpcError as error:
        took = time.perf_counter() - began
        packed = [bytes(value) for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
        return took, (error.code().name, error.details(), [each.replace(start_id.encode(), b"ID") for each in packed])
    raise SystemExit(f"{name}: another tenant's start was shown")


async def compare(
    channel: grpc.aio.Channel, name: str, theirs: Sequence[str], pairs: int, random: Random
) -> tuple[float, float, set[str]]:
    """Returns the median seconds for another's ids and for those that never were, and all that was said."""
    took: dict[bool, list[float]] = {True: [], False: []}
    said: set[str] = set()
    for pair in range(WARM_UP + pairs):
        there = random.choice(theirs)
        never = "".join(random.sample(there, len(there)))  # of the same length and letters
        kinds = [(True, there), (False, never)]
        random.shuffle(kinds)
        for is_there, start_id in kinds:
            seconds, told = await refused(channel, name, start_id)
            said.add(repr(told))
            if pair >= WARM_UP:
                took[is_there].append(seconds)
    return median(took[True]), median(took[False]), said


async def measure(pairs: int, seed: int, folder: Path) -> bool:
    """Measures every RPC, prints what it took, and returns whether nothing can be told."""
    random, well = Random(seed), True
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(SandboxProcess(folder))
        victim = await stack.enter_async_context(Victim(folder, sandbox))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(victim.address))
        start = channel.unary_unary(f"/{SERVICE.full_name}/StartFlow")
        asked = pb.StartFlowRequest(flow=SEED_FLOW, backend="rapidpro", urns=["tel:+12065551212"])
        asked.schedule_time.FromSeconds(FAR)
        data = asked.SerializeToString()
        answers = [pb.StartFlowResponse.FromString(await start(data, metadata=OTHER)) for _ in range(STARTS)]
        theirs = [answer.flow_start.id for answer in answers]
        print(f"{pairs:,} pairs each, of another tenant's id and of one that never was")
        for name in ABOUT_ONE:
            for _ in range(TIMES):
                there, never, said = await compare(channel, name, theirs, pairs, random)
                ratio = max(there, never) / min(there, never)
                times = f"{there * 1e6:6.0f} µs and {never * 1e6:6.0f} µs: ratio {ratio:.3f}"
                print(f"  {name:18}{times}, {'same text' if len(said) == 1 else f'{len(said)} TEXTS'}", flush=True)
                if ratio <= BOUND:
                    break
            well = well and ratio <= BOUND and len(said) == 1
    return well


def main() -> int:
    """Measures; 1 if another tenant's starts can be told from what never was."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.isolation", description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="isolation-") as folder:
        well = asyncio.run(measure(options.pairs, options.seed, Path(folder)))
    print("PASSED" if well else f"FAILED: a ratio beyond {BOUND}, or other texts")
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
