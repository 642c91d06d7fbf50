"""Proves that no watcher misses or repeats a change, however often the gateway dies: `python -m tests.chaos.storm`.

Thousands of watchers, in processes of their own, watch everything, by state, by label, by id and until done. The
gateway is killed, on its first storm too and in the middle of another one, and all of them come back at one moment. At
the end the `changes` table says what each of them had to get.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import grpc
from startflow.v1 import start_flow_service_pb2 as pb

from tests.chaos.record import read_record
from tests.chaos.watched import KINDS, Down, Judge, Watching, read_told
from tests.end_to_end.processes import ROOT, SEED_FLOW, STUDIO_FLOW, Called, Client, GatewayProcess, SandboxProcess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.chaos.record import Moved
    from tests.chaos.watched import Ending

SHARES = {"everything": 0.01, "states": 0.01, "labels": 0.40, "ids": 0.38}  # the others: until done
PER_LABEL = 10  # watchers of one label, about
MOVING = (pb.FlowStart.STATE_PENDING, pb.FlowStart.STATE_QUEUED, pb.FlowStart.STATE_STARTED,
          pb.FlowStart.STATE_UNCERTAIN)  # fmt: skip
CALLERS = 8
REST_WITHIN = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How hard a storm is."""

    watchers: int = 5_000
    processes: int = 2
    kills: int = 6
    starts: int = 300  # there before the watchers come; each is sent at some time during the storms
    rate: float = 12.0  # further starts a second
    calm: float = 5.0  # seconds between two storms
    seed: int = 1


@dataclass(slots=True)
class Findings:
    """What a run counted."""

    wrong: Counter[str] = field(default_factory=Counter)
    refusals: list[Ending] = field(default_factory=list)
    streams: int = 0
    messages: int = 0
    received: int = 0  # changes among the messages
    changes: int = 0
    ended: int = 0  # watchers whose starts were done
    kills: int = 0
    back: list[float] = field(default_factory=list)  # seconds from serving again until all had heard something
    bugs: list[str] = field(default_factory=list)

    @property
    def is_proof(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong.total() and not self.bugs


class _Process:
    """Some of the watchers."""

    def __init__(self, folder: Path, name: str) -> None:
        self._watchings, self.result = folder / f"{name}.json", folder / f"{name}.told.json"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, address: str, watchings: list[Watching]) -> Self:
        self._watchings.write_text(json.dumps([asdict(each) for each in watchings]))
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.watchers", address, str(self._watchings), str(self.result)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        return self

    async def ask(self, question: float | None) -> float | None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        line = await self._process.stdout.readline()
        assert line, "the watchers have ended"
        answer: float | None = json.loads(line)
        return answer

    async def stop(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


async def storm(options: Options, folder: Path, say: Callable[[str], None]) -> Findings:
    """Raises a storm and judges it."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(SandboxProcess(folder))
        gateway = await stack.enter_async_context(GatewayProcess(folder, sandbox))
        client = await stack.enter_async_context(Client(gateway.address))
        return await Storm(options, folder, [gateway], client, stack, say).run(lambda: read_record(gateway.store))


class Starting(Called, Protocol):
    """Whatever starts are asked of."""

    async def start(self, **fields: Any) -> pb.StartFlowResponse:
        """Starts a flow, and insists on an answer."""


class Storm:
    """A storm over gateways that share a store, which are killed in turn."""

    def __init__(
        self,
        options: Options,
        folder: Path,
        gateways: Sequence[GatewayProcess],
        client: Starting,
        stack: AsyncExitStack,
        say: Callable[[str], None],
        *,
        lose_store: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`lose_store` takes the store away for a moment; it happens twice."""
        self._options, self._folder, self._gateways, self._client = options, folder, gateways, client
        self._stack, self._say, self._lose_store = stack, say, lose_store
        self._chance = random.Random(options.seed)
        self._labels = max(1, round(options.watchers * SHARES["labels"] / PER_LABEL))
        self._processes: list[_Process] = []
        self._downs: list[Down] = []
        self._findings = Findings()
        self._made = 0

    async def run(self, read: Callable[[], Sequence[Moved]]) -> Findings:
        """Raises it, and judges it by the record that is read at the end."""
        options, say = self._options, self._say
        ids = await self._early()
        watchings = self._draw(ids)
        say(f"{len(ids)} starts recorded; {options.watchers:,} watchers come: {self._mixed(watchings)}")
        begun = time.monotonic()
        addresses = ",".join(gateway.address for gateway in self._gateways)
        for n in range(options.processes):
            process = _Process(self._folder, f"watchers-{n}")
            self._stack.push_async_callback(process.stop)
            self._processes.append(await process.start(addresses, watchings[n :: options.processes]))
        making = asyncio.gather(*(self._make() for _ in range(CALLERS)))
        for kill in range(options.kills):
            if kill == 0:
                await self._some_back(begun)  # they are coming for the first time
            elif kill != options.kills // 2:  # that one comes in the middle of a storm
                say(f"all are back {await self._all_back():.1f} s after it served; {self._made} starts so far")
                await asyncio.sleep(options.calm)
            if self._lose_store is not None and kill % (options.kills // 2) == 1:
                await self._lose(self._lose_store)
            await self._kill(self._gateways[kill % len(self._gateways)])
            say(f"killed {len(self._downs)} of {options.kills}: serves again after"
                f" {self._downs[-1].served - self._downs[-1].killed:.1f} s")  # fmt: skip
            if kill + 1 == options.kills // 2:
                await self._some_back(self._downs[-1].served)
        say(f"all are back {await self._all_back():.1f} s after it served; {self._made} starts so far")
        making.cancel()
        with suppress(asyncio.CancelledError):
            await making
        await self._rest()
        await asyncio.gather(*(process.ask(None) for process in self._processes))
        return self._judge(await asyncio.to_thread(read))

    async def _early(self) -> list[str]:
        """Records the starts whose ids are watched; they are sent one by one while the storms pass."""
        options, now = self._options, time.time()
        longest = options.kills * (options.calm + options.watchers / 800) + 5
        ids: list[str] = []
        for first in range(0, options.starts, 50):
            numbers = range(first, min(first + 50, options.starts))
            at = [int(now + 3 + self._chance.random() * longest) for _ in numbers]
            ids += await asyncio.gather(*(self._start(schedule_time={"seconds": moment}) for moment in at))
        return ids

    async def _start(self, **fields: object) -> str:
        self._made += 1
        chance = self._chance
        response = await self._client.start(
            flow=chance.choice((SEED_FLOW, STUDIO_FLOW)),
            urns=[f"tel:+1206{chance.randrange(10**7):07}"],
            labels={"shard": f"{chance.randrange(self._labels)}"},
            request_id=f"storm-{self._made}",
            **fields,
        )
        return response.flow_start.id

    def _draw(self, ids: list[str]) -> list[Watching]:
        """Draws what the watchers ask for; they begin with a snapshot, the first change ever, or the newest."""
        chance, count = self._chance, self._options.watchers
        watchings: list[Watching] = []
        for kind, share in SHARES.items():
            watchings += [self._watching(kind, ids) for _ in range(max(1, round(count * share)))]
        watchings += [self._watching("until_done", ids) for _ in range(count - len(watchings))]
        chance.shuffle(watchings)
        return watchings

    def _watching(self, kind: str, ids: list[str]) -> Watching:
        chance = self._chance
        after = chance.choice((None, 0, len(ids)))  # so many changes there are: they were only recorded
        match kind:
            case "everything":
                return Watching(after=after)
            case "states":
                return Watching(after=after, states=tuple(chance.sample((1, 2, 3, 4), 2)))
            case "labels":
                return Watching(after=after, labels={"shard": f"{chance.randrange(self._labels)}"})
            case _:
                some = tuple(chance.sample(ids, chance.randrange(1, 6)))
                states = (chance.randrange(1, 5),) if chance.random() < 0.2 else ()
                return Watching(after=after, ids=some, states=states, until_done=kind == "until_done")

    @staticmethod
    def _mixed(watchings: list[Watching]) -> str:
        kinds: Counter[str] = Counter()
        for each in watchings:
            by_id = "until done" if each.until_done else "by id"
            kinds[by_id if each.ids else "by label" if each.labels else "by state" if each.states else "of all"] += 1
        return ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))

    async def _make(self) -> None:
        """Makes starts, each with its request id, and insists on an answer; cancels some."""
        due = time.monotonic() + self._chance.random()
        while True:
            due = max(due + CALLERS / self._options.rate, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            start_id = await self._start()
            if self._chance.random() < 0.2:
                await self._cancel(start_id)

    async def _cancel(self, start_id: str) -> None:
        try:
            await self._client.stub.CancelFlowStart(pb.CancelFlowStartRequest(id=start_id), timeout=5)
        except grpc.aio.AioRpcError as error:
            allowed = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if error.code() not in (*allowed, grpc.StatusCode.FAILED_PRECONDITION):
                raise

    async def _kill(self, gateway: GatewayProcess) -> None:
        killed = time.monotonic()
        await gateway.kill()
        await gateway.start()
        self._downs.append(Down(killed=killed, served=time.monotonic()))

    async def _lose(self, lose_store: Callable[[], Awaitable[None]]) -> None:
        lost = time.monotonic()
        await lose_store()
        self._downs.append(Down(killed=lost, served=time.monotonic(), is_store=True))
        self._say(f"the store was lost for {self._downs[-1].served - lost:.1f} s")

    async def _some_back(self, since: float) -> None:
        """Waits as long as a storm lasts about by half."""
        await asyncio.sleep(max(0.3, since + self._options.watchers / 2_500 - time.monotonic()))

    async def _all_back(self) -> float:
        down = self._downs[-1]
        since = down.killed if len(self._gateways) == 1 else 0.0  # one of several ends only its own streams
        moments = await asyncio.gather(*(process.ask(since) for process in self._processes))
        seconds = max(0.0, *(moment for moment in moments if moment is not None)) - down.served
        self._findings.back.append(seconds)
        return seconds

    async def _rest(self) -> None:
        """Waits until everything has ended."""
        until = time.monotonic() + REST_WITHIN
        request = pb.ListFlowStartsRequest(filter=pb.FlowStartFilter(states=MOVING), page_size=1)
        while True:
            page = await self._client.stub.ListFlowStarts(request, wait_for_ready=True)
            if not page.flow_starts and not page.next_page_token:
                return
            assert time.monotonic() < until, f"still moving: {page.flow_starts}"
            await asyncio.sleep(0.3)

    def _judge(self, record: Sequence[Moved]) -> Findings:
        findings = self._findings
        judge = Judge(record, self._downs)
        for process in self._processes:
            result = json.loads(process.result.read_text())
            findings.streams += result["streams"]
            findings.messages += result["messages"]
            shown = {revision: (start_id, state) for revision, (start_id, state) in result["shown"]}
            findings.wrong["wrong"] += result["contradictions"] + judge.wrong(shown)
            for told in map(read_told, result["told"]):
                found = judge.judge(told)
                findings.wrong += found
                findings.received += len(told.seen)
                findings.ended += told.is_ended
                findings.refusals += judge.refusals(told)
                if found:
                    self._say(f"  VIOLATION {dict(found)}: {told.watching}")
        findings.changes, findings.kills = len(record), sum(not down.is_store for down in self._downs)
        findings.bugs = [line for gateway in self._gateways for line in gateway.bugs()]
        return findings


def report(findings: Findings, watchers: int, say: Callable[[str], None]) -> None:
    """Prints what was counted."""
    back = ", ".join(f"{seconds:.1f}" for seconds in findings.back)
    say(f"  watchers      {watchers:,}, {findings.ended:,} until done")
    say(f"  streams       {findings.streams:,}")
    say(f"  kills         {findings.kills}; all back after {back} s")
    say(f"  changes       {findings.changes:,}")
    say(f"  messages      {findings.messages:,}, {findings.received:,} of them changes")
    for kind in KINDS:
        say(f"  {kind:<13} {findings.wrong[kind]}")
    for (code, details), count in Counter((each.code, each.details) for each in findings.refusals).most_common(5):
        say(f"  REFUSED {count} times {code}: {details}")
    for line in findings.bugs[:5]:
        say(f"  BUG {line[:400]}")


def main() -> int:
    """Raises one storm; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.storm", description=__doc__)
    parser.add_argument("--watchers", type=int, default=5_000, metavar="N")
    parser.add_argument("--kills", type=int, default=6, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    given = parser.parse_args()
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:5.1f}] {text}", flush=True)

    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    findings = asyncio.run(storm(Options(watchers=given.watchers, kills=given.kills, seed=given.seed), folder, say))
    report(findings, given.watchers, say)
    if findings.is_proof:
        shutil.rmtree(folder)
    else:
        say(f"what the processes left behind is in {folder}")
    say("PASSED" if findings.is_proof else "FAILED")
    return int(not findings.is_proof)


if __name__ == "__main__":
    sys.exit(main())
