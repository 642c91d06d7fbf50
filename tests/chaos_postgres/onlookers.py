"""Watchers of everything, who resume at another gateway whenever a stream ends, and what they should have got."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import grpc
from startflow.v1 import start_flow_service_pb2 as pb

from tests.chaos.driver import SOON, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.record import Moved
    from tests.end_to_end.processes import Called

COUNT = 6
PAUSE = 0.1
STREAMS_LAST = 20.0  # seconds, at the most: then it resumes at another gateway
COMES_WITHIN = 20.0  # seconds in which the last change has come, once nothing moves


@dataclass(slots=True)
class Onlooker:
    """One watcher of everything since the beginning: the revisions that it got, each with its start and state."""

    client: Called
    seen: list[tuple[int, str, int]] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    _epoch: str = ""

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            self.streams += 1
            request = pb.WatchFlowStartsRequest(after_revision=self.seen[-1][0] if self.seen else 0, epoch=self._epoch)
            try:
                async for message in self.client.stub.WatchFlowStarts(request, timeout=STREAMS_LAST):
                    self._epoch = message.epoch
                    if message.HasField("changed"):
                        self.seen.append((message.revision, message.changed.id, message.changed.state))
            except grpc.aio.AioRpcError as error:
                if error.code() not in SOON:
                    self.refusals[f"{error.code().name} {reason_of(error)}".strip()] += 1
                await asyncio.sleep(PAUSE)

    async def come(self, revision: int) -> None:
        """Waits until a revision has come, or for long enough."""
        until = time.monotonic() + COMES_WITHIN
        while (not self.seen or self.seen[-1][0] < revision) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(PAUSE)


def wrong_with(onlookers: Sequence[Onlooker], record: Sequence[Moved]) -> list[str]:
    """Lists how what they got differs from the record: missed, repeated, out of order, contradicting it, refused."""
    recorded = {each.revision: (each.start_id, each.state) for each in record}
    found: list[str] = []
    for number, onlooker in enumerate(onlookers, start=1):
        revisions = [revision for revision, _, _ in onlooker.seen]
        faults = {
            "missed": sorted(recorded.keys() - set(revisions)),
            "repeated": sorted(revision for revision, count in Counter(revisions).items() if count > 1),
            "out of order": [late for early, late in pairwise(revisions) if late < early],
            "not recorded": sorted(set(revisions) - recorded.keys()),
            "contradicted": [rev for rev, *told in onlooker.seen if recorded.get(rev, tuple(told)) != tuple(told)],
        }
        found += [
            f"watcher {number} {fault} {len(those)} of {len(recorded)} changes, such as revision {those[0]}"
            for fault, those in faults.items()
            if those
        ]
        found += [f"watcher {number} was refused {count} times: {why}" for why, count in onlooker.refusals.items()]
    return found
