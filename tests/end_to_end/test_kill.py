"""Killed at any moment, the gateway loses no start, repeats no POST, and no watcher misses a change."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import FAR, SEED_FLOW, STUDIO_FLOW, Client
from tests.lengths import size

if TYPE_CHECKING:
    from tests.end_to_end.processes import GatewayProcess, SandboxProcess

KILLS = size(5, quick=3)  # enough to hit open attempts and snapshots
MANY = 21
BALLAST = 1_000  # scheduled starts that make a snapshot several reads long
CALLERS = 6
PAUSES = (0.05, 0.5)  # seconds that a life lasts once somebody has watched


@dataclass
class Watcher:
    """A watcher that resumes from the last message it got, whatever ended the stream."""

    client: Client
    after: int | None = None
    epoch: str = ""
    broken_snapshots: list[int] = field(default_factory=list)
    snapshot_ended: int | None = None
    seen: list[int] = field(default_factory=list)
    messages: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Watches everything until cancelled."""
        while True:
            fresh = self.after is None
            request = pb.WatchFlowStartsRequest(after_revision=self.after, epoch=self.epoch)
            try:
                async for message in self.client.stub.WatchFlowStarts(request, wait_for_ready=True):
                    self._take(message)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                if fresh and self.snapshot_ended is None and self.after is not None:
                    self.broken_snapshots.append(self.after)

    def _take(self, message: pb.WatchFlowStartsResponse) -> None:
        assert self.after is None or message.revision >= self.after, "a revision went back"
        if message.WhichOneof("event") == "heartbeat" and message.revision == 0 and self.after is None:
            return  # nothing was streamed yet: resuming from here would only repeat the history
        self.after, self.epoch = message.revision, message.epoch
        if message.HasField("changed"):
            self.seen.append(message.revision)
        if message.HasField("snapshot_end"):
            self.snapshot_ended = message.revision
        self.messages.set()


@pytest.mark.parametrize("kills", [KILLS, pytest.param(MANY, marks=pytest.mark.longer)])
async def test_kills_lose_and_repeat_nothing(
    gateway: GatewayProcess, client: Client, sandbox: SandboxProcess, kills: int
) -> None:
    """SIGKILLs during sends and snapshots; the judge reads the sandbox's journal and the changes table."""
    chance = random.Random(20)
    for backend in ("rapidpro", "twilio"):
        await sandbox.fault(backend=backend, verb="create", delay=0.15)  # so that a kill finds attempts open
    await _ballast(client)
    from_the_start = Watcher(client, after=0)
    watchers = [from_the_start]
    tasks = [asyncio.create_task(from_the_start.run())]
    accepted: dict[str, str] = {}
    enough = asyncio.Event()
    callers = [asyncio.create_task(_call(client, accepted, f"caller-{n}", chance, enough)) for n in range(CALLERS)]
    async with asyncio.timeout(150):  # a watcher that gets nothing must fail the test, not hang it
        for number in range(kills):
            watchers.append(snapshot := Watcher(client))
            tasks.append(asyncio.create_task(snapshot.run()))
            await snapshot.messages.wait()
            match number % 3:  # by turns: while it reads its snapshot, while something is sent, at any time
                case 1:
                    await _sending(gateway)
                case 2:
                    await asyncio.sleep(chance.uniform(*PAUSES))
            await gateway.kill()
            await gateway.start()
        enough.set()
        await asyncio.gather(*callers)  # a call given up may be recorded all the same, and change after `head` is read
    async with asyncio.timeout(60):
        ended = {start.id: start for start in await client.finished(*accepted.values())}
        head = (await client.stub.ListFlowStarts(pb.ListFlowStartsRequest(page_size=1))).revision
        await _caught_up(watchers, head)
    await _cancel(tasks)
    assert 0 == await gateway.stop()

    created = await sandbox.journal(kind="created")
    requests = await sandbox.creates("rapidpro") + await sandbox.creates("twilio")
    creations = Counter(_created_key(entry) for entry in created)
    cut_off = _cut_off(gateway)
    broken = sum(len(watcher.broken_snapshots) for watcher in watchers)
    print(f"\n{kills} kills: {len(ended)} starts, {len(created)} created with {len(requests)} requests,"
          f" {cut_off} cut off while being sent,"
          f" {head} changes, {len(watchers)} watchers, {broken} killed in their snapshot")  # fmt: skip
    assert len(accepted) == len(set(accepted.values())), "two callers were given one start"
    assert {1} == set(creations.values()), "something was created twice"
    assert {pb.FlowStart.STATE_COMPLETED} == {start.state for start in ended.values()}
    assert set(ended) <= {key.rpartition("-")[0] for key in creations}, "something was lost"
    assert BALLAST == _scheduled(gateway), "a start that waits was lost"
    assert cut_off, "no kill hit an open attempt"
    assert broken, "no kill hit a snapshot"
    _judge_watchers(gateway, watchers, from_the_start)


async def _sending(gateway: GatewayProcess) -> None:
    """Waits until an attempt is open."""
    while not _count(gateway, "attempts where outcome is null"):  # noqa: ASYNC110 -- another process
        await asyncio.sleep(0.01)


async def _ballast(client: Client) -> None:
    schedule = {"seconds": FAR}
    for first in range(0, BALLAST, 100):
        await asyncio.gather(
            *(
                client.start(
                    flow=SEED_FLOW, urns=["tel:+12065551212"], schedule_time=schedule, request_id=f"ballast-{n}"
                )
                for n in range(first, first + 100)
            )
        )


def _scheduled(gateway: GatewayProcess) -> int:
    return _count(gateway, "starts where state = 1 and request_id like 'ballast-%'")


def _cut_off(gateway: GatewayProcess) -> int:
    return _count(gateway, "attempts where detail = 'the gateway stopped while sending'")


def _count(gateway: GatewayProcess, rows: str) -> int:
    with sqlite3.connect(f"file:{gateway.store}?mode=ro", uri=True) as conn:
        (count,) = conn.execute(f"select count(*) from {rows}").fetchone()  # noqa: S608 -- our own words
    conn.close()
    return int(count)


async def _call(
    client: Client, accepted: dict[str, str], name: str, chance: random.Random, enough: asyncio.Event
) -> None:
    """Starts one after another, each with its request id, and insists on an answer."""
    n = 0
    while not enough.is_set():
        n += 1
        request_id = f"{name}-{n}"
        flow = SEED_FLOW if chance.random() < 0.5 else STUDIO_FLOW
        number = f"tel:+1206{chance.randrange(10**7):07}"
        response = await client.start(flow=flow, urns=[number], request_id=request_id)
        accepted[request_id] = response.flow_start.id


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Ends tasks that run until cancelled; one that ended before has failed, and its failure is raised."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        assert task.cancelled(), task.exception()


async def _caught_up(watchers: list[Watcher], head: int) -> None:
    for watcher in watchers:
        while watcher.after is None or watcher.after < head:
            watcher.messages.clear()
            await watcher.messages.wait()


def _judge_watchers(gateway: GatewayProcess, watchers: list[Watcher], from_the_start: Watcher) -> None:
    with sqlite3.connect(f"file:{gateway.store}?mode=ro", uri=True) as conn:
        changes = conn.execute("select revision, start_id from changes order by revision").fetchall()
    conn.close()
    revisions = [revision for revision, _ in changes]
    assert revisions == from_the_start.seen, "the union of what a resuming watcher saw is not the changes table"
    for watcher in watchers[1:]:
        assert sorted(set(watcher.seen)) == watcher.seen, "out of order, or repeated"
        assert watcher.snapshot_ended is not None or watcher.broken_snapshots, "nothing was seen"
        begun = min([*watcher.broken_snapshots, *([watcher.snapshot_ended] if watcher.snapshot_ended else [])])
        assert [r for r in revisions if r > begun] == [r for r in watcher.seen if r > begun], "a change was missed"
        current = {start_id: revision for revision, start_id in changes if revision <= begun}
        if watcher.broken_snapshots:  # what had moved on before it was read is among the later changes
            later = {start_id for revision, start_id in changes if revision > begun}
            current = {start_id: revision for start_id, revision in current.items() if start_id not in later}
        assert [] == [start for start, revision in current.items() if revision not in watcher.seen], "not in a snapshot"


def _created_key(entry: dict[str, Any]) -> str:
    return str(entry["params"]["startflow_id"])
